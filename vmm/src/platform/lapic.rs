//! The local APIC: one register file behind two faces, the xAPIC page and the x2APIC MSRs.

use hw::{Gpa, Msr, Width};

use crate::platform::{GeneralProtection, InterruptMessage};

/// What else follows from a write to the local APIC.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
pub enum Effect {
    /// Nothing.
    None,
    /// A level-triggered interrupt ended: tell the I/O APIC.
    EndOfLevel {
        /// Its vector.
        vector: u8,
    },
    /// An interrupt to other CPUs, itself excluded.
    Send {
        /// What to deliver.
        message: InterruptMessage,
        /// To all others, whatever the destination says.
        broadcast: bool,
    },
}

/// Frequencies by which the timer counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TimerClock {
    /// The guest's TSC, in kHz; not 0.
    pub tsc_khz: u32,
    /// The bus clock that the count registers divide, in kHz.
    pub bus_khz: u32,
}

/// A local APIC.
#[derive(Clone, Debug)]
pub struct LocalApic {}

impl LocalApic {
    /// A local APIC as after reset, in xAPIC mode at [`x86_spec::apic::DEFAULT_LAPIC_BASE`].
    #[must_use]
    pub fn new(id: u32, bootstrap: bool, clock: TimerClock) -> Self {
        let _ = (id, bootstrap, clock);
        Self {}
    }

    /// Where its page is in guest memory; `None` in x2APIC mode and when disabled.
    #[must_use]
    pub fn page(&self) -> Option<Gpa> {
        None
    }

    /// Reads the xAPIC page.
    pub fn read(&mut self, offset: u64, width: Width, now: u64) -> u64 {
        let _ = (offset, width, now);
        u64::MAX
    }

    /// Writes the xAPIC page.
    pub fn write(&mut self, offset: u64, width: Width, value: u64, now: u64) -> Effect {
        let _ = (offset, width, value, now);
        Effect::None
    }

    /// Whether `msr` is one of the local APIC's: IA32_APIC_BASE, IA32_TSC_DEADLINE, 0x800 to 0x8ff.
    #[must_use]
    pub const fn owns_msr(msr: Msr) -> bool {
        matches!(msr.0, 0x1b | 0x6e0 | 0x800..=0x8ff)
    }

    /// RDMSR.
    ///
    /// # Errors
    /// [`GeneralProtection`] where the register does not exist in the current mode.
    pub fn read_msr(&mut self, msr: Msr, now: u64) -> Result<u64, GeneralProtection> {
        let _ = (msr, now);
        Err(GeneralProtection)
    }

    /// WRMSR.
    ///
    /// # Errors
    /// [`GeneralProtection`] where the register does not exist in the current mode or the value is not allowed in it.
    pub fn write_msr(
        &mut self,
        msr: Msr,
        value: u64,
        now: u64,
    ) -> Result<Effect, GeneralProtection> {
        let _ = (msr, value, now);
        Err(GeneralProtection)
    }

    /// Takes an interrupt if it is for this APIC; says whether it was.
    pub fn accept(&mut self, message: InterruptMessage) -> bool {
        let _ = message;
        false
    }

    /// The highest-priority vector that may be delivered now, by IRR, ISR and TPR.
    #[must_use]
    pub fn pending_vector(&self) -> Option<u8> {
        None
    }

    /// Moves `vector` from requested to in service, as its delivery does.
    pub fn acknowledge(&mut self, vector: u8) {
        let _ = vector;
    }

    /// Whether an NMI was accepted and not yet taken; takes it.
    pub fn take_nmi(&mut self) -> bool {
        false
    }

    /// CR8: bits 7:4 of the task priority.
    #[must_use]
    pub fn task_priority_class(&self) -> u8 {
        0
    }

    /// MOV to CR8.
    ///
    /// # Errors
    /// [`GeneralProtection`] for a value above 15.
    pub fn set_task_priority_class(&mut self, class: u64) -> Result<(), GeneralProtection> {
        let _ = class;
        Ok(())
    }

    /// When [`LocalApic::poll`] has something to do next, in ticks of the guest's TSC.
    #[must_use]
    pub fn deadline(&self) -> Option<u64> {
        None
    }

    /// Lets the timer fire if its moment has come.
    pub fn poll(&mut self, now: u64) {
        let _ = now;
    }
}
