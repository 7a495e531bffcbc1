//! The local APIC: one register file behind two faces, the xAPIC page and the x2APIC MSRs (SDM vol. 3, chapter 11).
//!
//! [`LocalApic`] answers register accesses, takes interrupts ([`LocalApic::accept`]) and says which vector may be
//! delivered ([`LocalApic::pending_vector`]). Its neighbours are the [I/O APIC](crate::platform::ioapic), which hears of
//! the end of level-triggered interrupts through [`Effect`], and other local APICs, which get what [`Effect::Send`]
//! carries.

mod messages;
mod registers;
mod state;
mod timer;
mod vectors;

#[cfg(test)]
mod tests;

use hw::{Gpa, Msr};
use vcpu::Answer;
use x86_spec::{
    apic::{APIC_BASE_ADDRESS, ApicBase, DEFAULT_LAPIC_BASE, Esr, Icr, Lvt, Svr, TimerMode},
    msr,
};

use crate::platform::{GeneralProtection, InterruptMessage};
pub(crate) use messages::Address;
use messages::x2apic_logical_id;
pub(crate) use state::WORDS as STATE_WORDS;
use timer::Timer;
pub(crate) use vectors::VectorSet;

/// What else follows from a write to the local APIC.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
pub enum Effect {
    /// Nothing.
    None,
    /// By what addresses messages reach it may have changed.
    Readdressed,
    /// A level-triggered interrupt ended: tell the I/O APIC.
    EndOfLevel {
        /// Its vector.
        vector: u8,
    },
    /// An interrupt for other CPUs; the sender has already had its own copy.
    Send {
        /// What to deliver.
        message: InterruptMessage,
        /// To all others, whatever the destination says.
        broadcast: bool,
    },
}

/// The mode that IA32_APIC_BASE selects.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Mode {
    Disabled,
    Xapic,
    X2apic,
}

/// The local vector table: the entries of an APIC whose version register says six.
#[derive(Clone, Copy, Debug)]
struct LocalVectors {
    timer: Lvt,
    thermal: Lvt,
    pmc: Lvt,
    lint0: Lvt,
    lint1: Lvt,
    error: Lvt,
}

impl LocalVectors {
    const MASKED: Self = {
        let masked = Lvt(Lvt::MASKED);
        Self {
            timer: masked,
            thermal: masked,
            pmc: masked,
            lint0: masked,
            lint1: masked,
            error: masked,
        }
    };

    fn mask_all(&mut self) {
        for entry in [
            &mut self.timer,
            &mut self.thermal,
            &mut self.pmc,
            &mut self.lint0,
            &mut self.lint1,
            &mut self.error,
        ] {
            entry.0 |= Lvt::MASKED;
        }
    }
}

/// A local APIC.
#[derive(Clone, Debug)]
pub struct LocalApic {
    id: u32,
    base: ApicBase,
    tpr: u8,
    ldr: u32,
    dfr: u32,
    svr: Svr,
    isr: VectorSet,
    tmr: VectorSet,
    irr: VectorSet,
    /// What a read of the ESR shows.
    esr: Esr,
    /// Errors since the ESR was last written.
    errors: Esr,
    icr: Icr,
    lvt: LocalVectors,
    timer: Timer,
    nmi: bool,
}

impl LocalApic {
    /// A local APIC as after reset, in xAPIC mode at [`DEFAULT_LAPIC_BASE`].
    #[must_use]
    pub fn new(id: u32, bootstrap: bool) -> Self {
        let mut base = ApicBase::from_bits_retain(DEFAULT_LAPIC_BASE) | ApicBase::EN;
        base.set(ApicBase::BSP, bootstrap);
        Self {
            id,
            base,
            tpr: 0,
            ldr: 0,
            dfr: u32::MAX,
            svr: Svr::from_bits_retain(0xff),
            isr: VectorSet::default(),
            tmr: VectorSet::default(),
            irr: VectorSet::default(),
            esr: Esr::default(),
            errors: Esr::default(),
            icr: Icr::default(),
            lvt: LocalVectors::MASKED,
            timer: Timer::default(),
            nmi: false,
        }
    }

    /// INIT: everything but identity and IA32_APIC_BASE is as after reset (SDM vol. 3, 11.4.7.3).
    pub fn reset(&mut self) {
        *self = Self { base: self.base, ..Self::new(self.id, false) };
    }

    /// Its APIC ID.
    #[must_use]
    pub const fn id(&self) -> u32 {
        self.id
    }

    const fn mode(&self) -> Mode {
        if !self.base.contains(ApicBase::EN) {
            Mode::Disabled
        } else if self.base.contains(ApicBase::EXTD) {
            Mode::X2apic
        } else {
            Mode::Xapic
        }
    }

    fn is_enabled(&self) -> bool {
        self.svr.contains(Svr::APIC_ENABLED) && self.mode() != Mode::Disabled
    }

    /// Where its page is in guest memory; `None` in x2APIC mode and when disabled.
    #[must_use]
    pub fn page(&self) -> Option<Gpa> {
        (self.mode() == Mode::Xapic).then(|| Gpa::new(self.base.bits() & APIC_BASE_ADDRESS))
    }

    /// Whether `msr` is one of the local APIC's: IA32_APIC_BASE, IA32_TSC_DEADLINE, 0x800 to 0x8ff.
    #[must_use]
    pub fn owns_msr(msr: Msr) -> bool {
        let x2apic = msr::X2APIC_BASE..=msr::X2APIC_LAST;
        msr == msr::APIC_BASE || msr == msr::TSC_DEADLINE || x2apic.contains(&msr)
    }

    /// RDMSR.
    ///
    /// # Errors
    /// [`GeneralProtection`] where the register does not exist in the current mode.
    pub fn read_msr(&mut self, msr: Msr, now: u64) -> Result<u64, GeneralProtection> {
        match msr {
            msr::APIC_BASE => Ok(self.base.bits()),
            msr::TSC_DEADLINE => Ok(self.tsc_deadline(now)),
            _ if self.mode() == Mode::X2apic => self.read_x2apic(msr, now),
            _ => Err(GeneralProtection),
        }
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
        match msr {
            msr::TSC_DEADLINE => {
                if self.lvt.timer.timer_mode() == TimerMode::TscDeadline {
                    self.timer.set_deadline(value);
                    self.poll(now);
                }
                Ok(Effect::None)
            }
            msr::APIC_BASE => self.set_base(ApicBase::from_bits_retain(value)),
            _ if self.mode() == Mode::X2apic => self.write_x2apic(msr, value, now),
            _ => Err(GeneralProtection),
        }
    }

    fn tsc_deadline(&mut self, now: u64) -> u64 {
        self.poll(now);
        match self.lvt.timer.timer_mode() {
            TimerMode::TscDeadline => self.timer.fires_at().unwrap_or(0),
            _ => 0,
        }
    }

    /// The transitions of SDM vol. 3, figure 11-27: x2APIC mode is entered from xAPIC mode only and left only by
    /// switching off; off goes to xAPIC only.
    fn set_base(&mut self, new: ApicBase) -> Result<Effect, GeneralProtection> {
        let known = ApicBase::from_bits_retain(APIC_BASE_ADDRESS)
            | ApicBase::BSP
            | ApicBase::EN
            | ApicBase::EXTD;
        let bootstrap = self.base & ApicBase::BSP;
        let old = self.mode();
        let new_mode = match (new.contains(ApicBase::EN), new.contains(ApicBase::EXTD)) {
            (false, true) => return Err(GeneralProtection),
            (false, false) => Mode::Disabled,
            (true, false) => Mode::Xapic,
            (true, true) => Mode::X2apic,
        };
        let illegal =
            matches!((old, new_mode), (Mode::X2apic, Mode::Xapic) | (Mode::Disabled, Mode::X2apic));
        if illegal || new.bits() & !known.bits() != 0 {
            return Err(GeneralProtection);
        }
        if new_mode == Mode::Disabled && old != Mode::Disabled {
            self.reset();
        }
        self.base = (new - ApicBase::BSP) | bootstrap;
        if new_mode == Mode::X2apic && old != Mode::X2apic {
            // The destination is in other bits now; what xAPIC mode left there would be misread.
            self.icr = Icr(self.icr.0 & 0xffff_ffff);
        }
        Ok(Effect::Readdressed)
    }

    const fn logical_id(&self) -> u32 {
        match self.mode() {
            Mode::X2apic => x2apic_logical_id(self.id),
            _ => self.ldr,
        }
    }

    /// Takes an NMI that another sent.
    pub(crate) const fn accept_nmi(&mut self) {
        self.nmi = true;
    }

    /// Whether this is the bootstrap processor's.
    pub(crate) const fn is_bootstrap(&self) -> bool {
        self.base.contains(ApicBase::BSP)
    }

    fn request(&mut self, vector: u8, level: bool) {
        if !self.is_enabled() {
            return;
        }
        if vector < 16 {
            self.report(Esr::RECEIVE_ILLEGAL_VECTOR);
            return;
        }
        self.irr.insert(vector);
        if level {
            self.tmr.insert(vector);
        } else {
            self.tmr.remove(vector);
        }
    }

    /// Records an error, and raises the error interrupt where it is unmasked and its own vector is legal.
    fn report(&mut self, error: Esr) {
        self.errors |= error;
        let entry = self.lvt.error;
        if !entry.is_masked() && entry.vector() >= 16 {
            self.irr.insert(entry.vector());
            self.tmr.remove(entry.vector());
        }
    }

    /// PPR (SDM vol. 3, 11.8.3.1).
    fn processor_priority(&self) -> u8 {
        let in_service = self.isr.highest().unwrap_or(0);
        if self.tpr >> 4 >= in_service >> 4 { self.tpr } else { in_service & 0xf0 }
    }

    /// The highest-priority vector that may be delivered now, by IRR, ISR and TPR.
    #[must_use]
    pub fn pending_vector(&self) -> Option<u8> {
        let vector = self.irr.highest()?;
        (vector >> 4 > self.processor_priority() >> 4).then_some(vector)
    }

    /// The highest-priority vector that nothing but the task priority may hold back.
    #[must_use]
    pub fn awaited_vector(&self) -> Option<u8> {
        let in_service = self.isr.highest().unwrap_or(0);
        self.irr.highest().filter(|vector| vector >> 4 > in_service >> 4)
    }

    /// Moves `vector` from requested to in service, as its delivery does.
    pub fn acknowledge(&mut self, vector: u8) {
        if self.irr.remove(vector) {
            self.isr.insert(vector);
        }
    }

    /// A write of 0 to IA32_TSC_DEADLINE.
    #[inline(always)]
    pub(crate) fn stop_deadline(&mut self) {
        if self.lvt.timer.timer_mode() == TimerMode::TscDeadline {
            self.timer.set_deadline(0);
        }
    }

    /// A write to x2APIC's end-of-interrupt register, where no one else is to hear of it; says whether something is left
    /// to deliver.
    #[inline(always)]
    pub(crate) fn end_edge(&mut self) -> Answer {
        if self.mode() != Mode::X2apic {
            return Answer::Pass;
        }
        if let Some(vector) = self.isr.highest() {
            if self.tmr.contains(vector) {
                return Answer::Pass;
            }
            self.isr.remove(vector);
        }
        if self.irr.is_empty() { Answer::Again } else { Answer::Leave }
    }

    /// Whether a write to x2APIC's self-IPI register is taken.
    #[inline(always)]
    pub(crate) fn takes_self_ipi(&self) -> bool {
        self.mode() == Mode::X2apic && self.svr.contains(Svr::APIC_ENABLED)
    }

    /// Whether an interrupt of this vector would be delivered at once: no other is in service or requested, and the task
    /// priority is lower.
    #[inline(always)]
    pub(crate) fn is_alone(&self, vector: u8, task_priority: u8) -> bool {
        self.isr.is_empty() && self.irr.is_empty() && !self.nmi && vector >> 4 > task_priority
    }

    /// An edge-triggered interrupt is requested.
    pub(crate) fn request_edge(&mut self, vector: u8) {
        self.irr.insert(vector);
        self.tmr.remove(vector);
    }

    /// An edge-triggered interrupt is requested and delivered.
    #[inline(always)]
    pub(crate) fn deliver_edge(&mut self, vector: u8) {
        self.isr.insert(vector);
        self.tmr.remove(vector);
    }

    fn end_of_interrupt(&mut self) -> Effect {
        let Some(vector) = self.isr.highest() else { return Effect::None };
        self.isr.remove(vector);
        if self.tmr.contains(vector) { Effect::EndOfLevel { vector } } else { Effect::None }
    }

    /// Whether an NMI was accepted and not yet taken; takes it.
    pub fn take_nmi(&mut self) -> bool {
        core::mem::take(&mut self.nmi)
    }

    /// CR8: bits 7:4 of the task priority.
    #[must_use]
    pub const fn task_priority_class(&self) -> u8 {
        self.tpr >> 4
    }

    /// MOV to CR8.
    ///
    /// # Errors
    /// [`GeneralProtection`] for a value above 15.
    pub fn set_task_priority_class(&mut self, class: u64) -> Result<(), GeneralProtection> {
        let class = u8::try_from(class).map_err(|_| GeneralProtection)?;
        if class > 15 {
            return Err(GeneralProtection);
        }
        self.tpr = class << 4;
        Ok(())
    }

    /// When [`LocalApic::poll`] has something to do next, in ticks of the guest's TSC.
    #[must_use]
    pub fn deadline(&self) -> Option<u64> {
        if self.lvt.timer.is_masked() { None } else { self.timer.fires_at() }
    }

    /// Lets the timer fire if its moment has come.
    pub fn poll(&mut self, now: u64) {
        let entry = self.lvt.timer;
        if self.timer.expire(now, entry.timer_mode()) && !entry.is_masked() {
            self.request(entry.vector(), false);
        }
    }
}
