//! Events in the form that VM entry takes, and what two of them make together. Pure.

use x86_spec::cpu::vector;
use x86_spec::vmx::exit::{InterruptionInfo, InterruptionType};

use crate::Event;

/// An event as the VM-entry fields take it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Injection {
    pub(super) vector: u8,
    pub(super) kind: InterruptionType,
    pub(super) error_code: Option<u32>,
    /// Of the instruction that raised it, for the kinds that have one.
    pub(super) length: u8,
}

impl Injection {
    /// #GP(0).
    pub(super) const GENERAL_PROTECTION: Self = Self::fault(vector::GP, Some(0));
    /// #DF.
    pub(super) const DOUBLE_FAULT: Self = Self::fault(vector::DF, Some(0));
    /// NMI.
    pub(super) const NMI: Self =
        Self { vector: vector::NMI, kind: InterruptionType::Nmi, error_code: None, length: 0 };

    /// A fault.
    pub(super) const fn fault(vector: u8, error_code: Option<u32>) -> Self {
        Self { vector, kind: InterruptionType::HardwareException, error_code, length: 0 }
    }

    /// A host-chosen interrupt.
    pub(super) const fn interrupt(vector: u8) -> Self {
        Self { vector, kind: InterruptionType::ExternalInterrupt, error_code: None, length: 0 }
    }

    /// What a neutral event becomes.
    pub(super) const fn from_event(event: Event) -> Self {
        match event {
            Event::Interrupt(vector) => Self::interrupt(vector),
            Event::Nmi => Self::NMI,
            Event::Exception { vector, error_code } => Self::fault(vector, error_code),
            Event::PageFault { error_code, .. } => Self::fault(vector::PF, Some(error_code)),
        }
    }

    /// The VM-entry interruption information. In real mode no error code is pushed (SDM vol. 3, 27.2.1.3).
    pub(super) const fn info(&self, protected_mode: bool) -> InterruptionInfo {
        InterruptionInfo::new(self.vector, self.kind, self.error_code.is_some() && protected_mode)
    }

    /// Its word in [`crate::Events`].
    pub(super) fn word(&self) -> u64 {
        u64::from(self.info(true).0) | u64::from(self.error_code.unwrap_or(0)) << 32
    }

    /// The reverse, of a word that has been checked.
    pub(super) fn from_word(word: u64, length: u8) -> Self {
        let info = InterruptionInfo(word as u32);
        let error_code = info.has_error_code().then_some((word >> 32) as u32);
        Self { vector: info.vector(), kind: info.kind(), error_code, length }
    }

    /// Whether the guest can hold it off, so that it must not be lost when a fault comes first.
    pub(super) const fn is_interrupt(&self) -> bool {
        matches!(self.kind, InterruptionType::ExternalInterrupt | InterruptionType::Nmi)
    }
}

/// What comes of a fault raised while another event was being delivered (SDM vol. 3, table 6-5).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Combined {
    /// The fault is delivered.
    Serial,
    /// #DF is delivered in place of both.
    DoubleFault,
    /// The guest shuts down.
    Shutdown,
}

/// Combines a fault `second` with the event `first` whose delivery raised it.
pub(super) fn combine(first: &Injection, second: &Injection) -> Combined {
    if first.kind != InterruptionType::HardwareException {
        return Combined::Serial;
    }
    match (first.vector, class(first.vector), class(second.vector)) {
        (_, _, Class::Benign) => Combined::Serial,
        (vector::DF, ..) => Combined::Shutdown,
        (_, Class::Contributory, Class::Contributory) | (_, Class::PageFault, _) => {
            Combined::DoubleFault
        }
        _ => Combined::Serial,
    }
}

#[derive(PartialEq, Eq)]
enum Class {
    Benign,
    Contributory,
    PageFault,
}

fn class(vector: u8) -> Class {
    /// Control protection.
    const CP: u8 = 21;
    match vector {
        vector::PF => Class::PageFault,
        vector::DE | vector::TS | vector::NP | vector::SS | vector::GP | CP => Class::Contributory,
        _ => Class::Benign,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn faults_combine_as_the_manual_says() {
        let fault = |vector| Injection::fault(vector, None);
        let combined = |first, second| combine(&fault(first), &fault(second));
        assert_eq!(combined(vector::GP, vector::NP), Combined::DoubleFault);
        assert_eq!(combined(vector::GP, vector::PF), Combined::Serial);
        assert_eq!(combined(vector::PF, vector::PF), Combined::DoubleFault);
        assert_eq!(combined(vector::PF, vector::GP), Combined::DoubleFault);
        assert_eq!(combined(vector::DF, vector::GP), Combined::Shutdown);
        assert_eq!(combined(vector::DF, vector::PF), Combined::Shutdown);
        assert_eq!(combined(vector::GP, vector::DB), Combined::Serial);
        assert_eq!(combined(vector::DF, vector::AC), Combined::Serial);
        assert_eq!(combine(&Injection::interrupt(0x40), &fault(vector::GP)), Combined::Serial);
    }

    #[test]
    fn entry_information_has_the_manuals_layout() {
        assert_eq!(Injection::interrupt(0x40).info(true).0, 0x8000_0040);
        assert_eq!(Injection::NMI.info(true).0, 0x8000_0202);
        assert_eq!(Injection::GENERAL_PROTECTION.info(true).0, 0x8000_0b0d);
        assert_eq!(Injection::GENERAL_PROTECTION.info(false).0, 0x8000_030d, "real mode");
    }
}
