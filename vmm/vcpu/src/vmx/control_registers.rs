//! The guest's CR0, CR4 and EFER: which bits the host owns, and what writes to them mean. Pure.
//!
//! The guest owns every bit of CR0 but NE, NW and CD, and the bits of CR4 in [`cr4::GUEST_OWNED`]; moves that change
//! only those do not exit, and the CPU does all that goes with them: its fault checks, EFER.LMA and the IA-32e mode
//! entry control (IA32_VMX_MISC bit 5), the page-directory-pointer entries of PAE paging.
//!
//! A move that would change a bit of the host's exits. Where the new value is allowed, only the host-owned bits are
//! taken into the read shadow, and **the instruction runs again**: now it changes no bit of the host's, so that the CPU
//! carries it out with all its checks. Nothing of that needs to be emulated.

use x86_spec::cpu::{Cr0, Cr4, Efer};

use super::capabilities::Capabilities;
use crate::cr4::{self, GeneralProtection};

/// CR0 bits that the host owns. VMX operation needs NE; NW and CD would switch off the cache of the CPU.
pub(super) const CR0_HOST_OWNED: u64 = Cr0::NE.union(Cr0::NW).union(Cr0::CD).bits();

/// CR4 bits that the host owns.
pub(super) const CR4_HOST_OWNED: u64 = !cr4::GUEST_OWNED;

/// EFER bits that a guest may set; LMA follows from others.
const EFER_WRITABLE: u64 = Efer::SCE.union(Efer::LME).union(Efer::NXE).bits();

/// CR0 as the CPU has it when the guest's view is `view`.
pub(super) const fn real_cr0(view: u64, capabilities: &Capabilities) -> u64 {
    let exempt = Cr0::PE.bits() | Cr0::PG.bits();
    let must = capabilities.cr0.must & !exempt;
    (view & !CR0_HOST_OWNED | Cr0::ET.bits() | must) & capabilities.cr0.may
}

/// CR4 as the CPU has it when the guest's view is `view` and the host's own CR4 is `host`.
pub(super) const fn real_cr4(view: u64, host: u64, capabilities: &Capabilities) -> u64 {
    let mce = host & Cr4::MCE.bits();
    capabilities.cr4.adjust(view & cr4::GUEST_OWNED | mce | Cr4::VMXE.bits())
}

/// A control register as the guest reads it (SDM vol. 3, 25.6.6).
pub(super) const fn view(real: u64, shadow: u64, host_owned: u64) -> u64 {
    real & !host_owned | shadow & host_owned
}

/// The new read shadow after a MOV to CR0 of `value` that exited.
pub(super) const fn write_cr0(value: u64) -> Result<u64, GeneralProtection> {
    let not_write_through_alone = value & (Cr0::NW.bits() | Cr0::CD.bits()) == Cr0::NW.bits();
    if value >> 32 != 0 || not_write_through_alone {
        return Err(GeneralProtection);
    }
    Ok(value & CR0_HOST_OWNED)
}

/// The new read shadow after a MOV to CR4 of `value` that exited.
pub(super) const fn write_cr4(value: u64) -> Result<u64, GeneralProtection> {
    if value & CR4_HOST_OWNED & !cr4::SHADOWED != 0 {
        return Err(GeneralProtection);
    }
    Ok(value & cr4::SHADOWED)
}

/// EFER after WRMSR of `value` where it was `current` and the guest's CR0 is `cr0` (SDM vol. 3, 2.2.1 and 4.1.2).
pub(super) const fn write_efer(
    current: u64,
    cr0: u64,
    value: u64,
) -> Result<u64, GeneralProtection> {
    let active = current & Efer::LMA.bits();
    if value & !(EFER_WRITABLE | Efer::LMA.bits()) != 0 {
        return Err(GeneralProtection);
    }
    if cr0 & Cr0::PG.bits() != 0 && (value ^ current) & Efer::LME.bits() != 0 {
        return Err(GeneralProtection);
    }
    Ok(value & EFER_WRITABLE | active)
}

/// EFER with LMA as CR0 and LME make it.
pub(super) const fn settle_efer(efer: u64, cr0: u64) -> u64 {
    let writable = efer & EFER_WRITABLE;
    if writable & Efer::LME.bits() != 0 && cr0 & Cr0::PG.bits() != 0 {
        writable | Efer::LMA.bits()
    } else {
        writable
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PG: u64 = 1 << 31;
    const LME: u64 = 1 << 8;
    const LMA: u64 = 1 << 10;

    #[test]
    fn a_guest_sees_its_own_values_of_host_owned_bits() {
        assert_eq!(view(0x8000_0031, 0x6000_0000, CR0_HOST_OWNED), 0xe000_0011);
        assert_eq!(
            view(0x2640, 0x40, CR4_HOST_OWNED),
            0x640,
            "VMXE and the host's MCE stay hidden"
        );
    }

    #[test]
    fn a_move_to_cr0_changes_only_what_the_host_owns() {
        assert_eq!(write_cr0(0x8005_0033), Ok(0x20));
        assert_eq!(write_cr0(0x6000_0010), Ok(0x6000_0000));
        assert_eq!(write_cr0(0x2000_0010), Err(GeneralProtection), "NW without CD");
        assert_eq!(write_cr0(1 << 32), Err(GeneralProtection));
    }

    #[test]
    fn a_move_to_cr4_may_set_mce_but_not_vmxe() {
        assert_eq!(write_cr4(0x6f0), Ok(0x40));
        assert_eq!(write_cr4(0x6b0), Ok(0));
        for forbidden in [13, 14, 12, 22, 23, 24, 25, 40, 63] {
            assert_eq!(
                write_cr4(0x6f0 | 1 << forbidden),
                Err(GeneralProtection),
                "bit {forbidden}"
            );
        }
    }

    #[test]
    fn lma_follows_lme_and_paging() {
        assert_eq!(write_efer(0, 1, LME | 1), Ok(LME | 1), "LMA comes with paging, not with LME");
        assert_eq!(write_efer(LME | LMA, PG | 1, LME | LMA | 0x800), Ok(LME | LMA | 0x800));
        assert_eq!(write_efer(LME | LMA, PG | 1, LME), Ok(LME | LMA), "writes of LMA are ignored");
        assert_eq!(write_efer(LME | LMA, PG | 1, 0), Err(GeneralProtection));
        assert_eq!(write_efer(0, PG | 1, LME), Err(GeneralProtection));
        assert_eq!(write_efer(0, 0, 1 << 12), Err(GeneralProtection), "SVME is reserved here");
        assert_eq!(settle_efer(LME, PG | 1), LME | LMA);
        assert_eq!(settle_efer(LME | LMA, 1), LME);
    }
}
