//! The local APIC, in whichever mode the firmware left it (SDM vol. 3, chapter 11).

use core::sync::atomic::{Ordering, fence};

use hw::{CpuidBus, Hpa, MsrBus};
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
/// LVT entry of the pin LINT1 on the boot CPU.
static LINT1: Once<u32> = Once::new();

/// Reads of the command register until it must be idle: a message between APICs takes some microseconds, and a read is
/// an access to the bus.
const SEND_READS: u32 = 100_000;

/// Ends the interrupt that is being handled.
pub(super) fn end_of_interrupt() {
    if let Some(lapic) = LAPIC.get() {
        lapic.write(reg::EOI, 0);
    }
}

impl Lapic {
    /// Turns the calling CPU's on, with its timer, LINT0 and error interrupts masked. LINT1, which is the NMI's, and the
    /// thermal and performance interrupts stay as the firmware set them.
    ///
    /// It is used by its page, unless the firmware left it in x2APIC mode or `wide` IDs are to be reached.
    pub(super) fn enable(wide: bool) -> Self {
        let base = Msrs.read(msr::APIC_BASE).unwrap_or(apic::DEFAULT_LAPIC_BASE);
        let features = Leaf1Ecx::from_bits_retain(CpuId.cpuid(cpuid::FEATURES, 0).ecx);
        let mut wanted = ApicBase::from_bits_retain(base) | ApicBase::EN;
        if wide && features.contains(Leaf1Ecx::X2APIC) {
            wanted |= ApicBase::EXTD;
        }
        set_mode(wanted);
        let lapic = *LAPIC.call_once(|| {
            let registers = Hpa::new(base & apic::APIC_BASE_ADDRESS);
            match mem::map_mmio(registers, apic::LAPIC_BYTES) {
                Some(page) if !wanted.contains(ApicBase::EXTD) => Self::Xapic(page),
                _ => Self::X2apic,
            }
        });
        lapic.prepare();
        // As the firmware set the NMI's pin here, so it is to be on all CPUs.
        LINT1.call_once(|| lapic.read(reg::LVT_LINT1));
        lapic
    }

    /// Turns the calling CPU's on, in the mode and at the place of the boot CPU's.
    pub(super) fn join() -> Self {
        let lapic = Self::current().unwrap_or(Self::X2apic);
        let base = Msrs.read(msr::APIC_BASE).unwrap_or(apic::DEFAULT_LAPIC_BASE);
        let mut wanted = ApicBase::from_bits_retain(base) | ApicBase::EN;
        wanted.set(ApicBase::EXTD, matches!(lapic, Self::X2apic));
        if ApicBase::from_bits_retain(base).contains(ApicBase::EXTD)
            && !wanted.contains(ApicBase::EXTD)
        {
            // The way back leads over off (SDM vol. 3, figure 11-27).
            set_mode(wanted - ApicBase::EN);
        }
        set_mode(wanted);
        lapic.prepare();
        if let Some(&entry) = LINT1.get() {
            lapic.write(reg::LVT_LINT1, entry);
        }
        lapic
    }

    /// The calling CPU's, once any is on.
    pub(super) fn current() -> Option<Self> {
        LAPIC.get().copied()
    }

    /// Masks and clears what may be left in it.
    fn prepare(self) {
        let lapic = self;
        // Divide by 1 (SDM vol. 3, figure 11-10).
        lapic.write(reg::TIMER_DIVIDE, 0b1011);
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
    }

    /// Its ID.
    pub(super) fn id(self) -> u32 {
        match self {
            Self::Xapic(_) => self.read(reg::ID) >> 24,
            Self::X2apic => self.read(reg::ID),
        }
    }

    /// Sends a message to another CPU. False where its ID is out of reach, or the command does not go out (SDM vol. 3,
    /// 11.6.1).
    pub(super) fn send(self, id: u32, mode: DeliveryMode, vector: u8) -> bool {
        match self {
            Self::X2apic => {
                let command = Icr::x2apic(id, mode, vector);
                // The write orders nothing that was written before it (SDM vol. 3, 11.12.3).
                fence(Ordering::SeqCst);
                Msrs.write(apic::x2apic_msr(reg::ICR_LOW), command.0).is_ok()
            }
            Self::Xapic(_) => {
                let Ok(id) = u8::try_from(id) else { return false };
                let command = Icr::xapic(id, mode, vector).0;
                // An earlier command of this CPU may still be on its way.
                let idle = || self.read(reg::ICR_LOW) & Icr::DELIVERY_STATUS as u32 == 0;
                if !(0..SEND_READS).any(|_| idle()) {
                    return false;
                }
                fence(Ordering::SeqCst);
                self.write(reg::ICR_HIGH, (command >> 32) as u32);
                self.write(reg::ICR_LOW, command as u32);
                // Nothing comes of waiting for an interrupt to go out; the others are rare.
                mode == DeliveryMode::Fixed || (0..SEND_READS).any(|_| idle())
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

/// Sets the APIC's mode.
fn set_mode(wanted: ApicBase) {
    let present = Msrs.read(msr::APIC_BASE).unwrap_or_default();
    if present != wanted.bits() && Msrs.write(msr::APIC_BASE, wanted.bits()).is_err() {
        log::warn!("the local APIC refused the mode {:#x}", wanted.bits());
    }
}

/// Whether the timer can be told the TSC value to fire at (SDM vol. 3, 11.5.4.1).
pub(super) fn has_tsc_deadline() -> bool {
    let features = CpuId.cpuid(cpuid::FEATURES, 0).ecx;
    Leaf1Ecx::from_bits_retain(features).contains(Leaf1Ecx::TSC_DEADLINE)
}
