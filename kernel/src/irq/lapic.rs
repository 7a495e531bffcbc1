//! The local APIC, in whichever mode the firmware left it (SDM vol. 3, chapter 11).

use hw::{Clock, CpuidBus, Deadline, Hpa, MsrBus, wait_until};
use spin::Once;
use x86_spec::apic::{self, ApicBase, DeliveryMode, Icr, Lvt, Svr, lapic as reg};
use x86_spec::cpuid::{self, Leaf1Ecx};
use x86_spec::msr;

use crate::mem;
use crate::platform::{CpuId, Mmio, Msrs};

/// The local APIC of the calling CPU: all CPUs see theirs in the same place.
#[derive(Clone, Copy, Debug)]
pub(super) enum Lapic {
    /// By its page.
    Xapic(Mmio),
    /// By its MSRs.
    X2apic,
}

static LAPIC: Once<Lapic> = Once::new();

/// Ends the interrupt that is being handled.
pub(super) fn end_of_interrupt() {
    if let Some(lapic) = LAPIC.get() {
        lapic.write(reg::EOI, 0);
    }
}

impl Lapic {
    /// Turns the calling CPU's on, with its timer, LINT0 and error interrupts masked. LINT1, which is the NMI's, and the
    /// thermal and performance interrupts stay as the firmware set them.
    pub(super) fn enable() -> Self {
        let base = Msrs.read(msr::APIC_BASE).unwrap_or(apic::DEFAULT_LAPIC_BASE);
        let flags = ApicBase::from_bits_retain(base);
        if !flags.contains(ApicBase::EN)
            && Msrs.write(msr::APIC_BASE, (flags | ApicBase::EN).bits()).is_err()
        {
            log::warn!("the local APIC cannot be turned on");
        }
        let lapic = *LAPIC.call_once(|| {
            let registers = Hpa::new(base & apic::APIC_BASE_ADDRESS);
            match mem::map_mmio(registers, apic::LAPIC_BYTES) {
                Some(page) if !flags.contains(ApicBase::EXTD) => Self::Xapic(page),
                _ => Self::X2apic,
            }
        });
        for lvt in [reg::LVT_TIMER, reg::LVT_LINT0, reg::LVT_ERROR] {
            lapic.write(lvt, Lvt::MASKED | u32::from(super::SPURIOUS));
        }
        lapic.write(reg::TPR, 0);
        lapic.write(reg::SVR, Svr::APIC_ENABLED.bits() | u32::from(super::SPURIOUS));
        // What the firmware left in service would hold back everything of its priority and below.
        for _ in 0..256 {
            let in_service = (0..8).any(|n| lapic.read(reg::ISR + 0x10 * n) != 0);
            if !in_service {
                break;
            }
            lapic.write(reg::EOI, 0);
        }
        lapic
    }

    /// Its ID.
    pub(super) fn id(self) -> u32 {
        match self {
            Self::Xapic(_) => self.read(reg::ID) >> 24,
            Self::X2apic => self.read(reg::ID),
        }
    }

    /// Sends INIT to another CPU: it stops whatever it does and waits to be started. False where its ID is out of reach or
    /// the command does not go out (SDM vol. 3, 11.6.1).
    pub(super) fn send_init(self, id: u32, clock: &impl Clock) -> bool {
        /// A message between APICs takes some microseconds.
        const SEND_NS: u64 = 1_000_000;
        match self {
            Self::X2apic => {
                let command = Icr::x2apic(id, DeliveryMode::Init, 0);
                Msrs.write(apic::x2apic_msr(reg::ICR_LOW), command.0).is_ok()
            }
            Self::Xapic(_) => {
                let Ok(id) = u8::try_from(id) else { return false };
                let command = Icr::xapic(id, DeliveryMode::Init, 0).0;
                self.write(reg::ICR_HIGH, (command >> 32) as u32);
                self.write(reg::ICR_LOW, command as u32);
                let busy = Icr::DELIVERY_STATUS as u32;
                let deadline = Deadline::after_ns(clock, SEND_NS);
                let sent = || (self.read(reg::ICR_LOW) & busy == 0).then_some(());
                wait_until(clock, deadline, sent).is_ok()
            }
        }
    }

    /// Reads a register by its offset in the page.
    pub(super) fn read(self, offset: u16) -> u32 {
        match self {
            Self::Xapic(page) => page.read32(offset.into()),
            Self::X2apic => Msrs.read(apic::x2apic_msr(offset)).unwrap_or_default() as u32,
        }
    }

    /// Writes a register by its offset in the page.
    pub(super) fn write(self, offset: u16, value: u32) {
        match self {
            Self::Xapic(page) => page.write32(offset.into(), value),
            Self::X2apic => {
                if Msrs.write(apic::x2apic_msr(offset), value.into()).is_err() {
                    log::warn!("the local APIC refused {value:#x} at {offset:#x}");
                }
            }
        }
    }
}

/// Whether the timer can be told the TSC value to fire at (SDM vol. 3, 11.5.4.1).
pub(super) fn has_tsc_deadline() -> bool {
    let features = CpuId.cpuid(cpuid::FEATURES, 0).ecx;
    Leaf1Ecx::from_bits_retain(features).contains(Leaf1Ecx::TSC_DEADLINE)
}
