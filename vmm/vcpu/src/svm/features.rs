//! What a CPU offers, and the documented minimum: SVM, not switched off, with nested paging and an ASID for guests.

use hw::{CpuidBus, MsrBus};
use paging::PageSize;
use x86_spec::cpuid::ExtendedEdx;
use x86_spec::msr;
use x86_spec::svm::{CPUID_SVM, SvmFeatures, VM_CR_SVMDIS};

use super::HELD;
use crate::{Speculation, Unsupported, cr4};

/// What is used where it is offered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Features {
    /// CPUID 8000_000AH, EDX.
    pub(super) svm: SvmFeatures,
    /// ASIDs are 1 to this less one; 0 is the host's.
    pub(super) asid_count: u32,
    /// Bits of a physical address.
    pub(super) physical_bits: u8,
    /// RDTSCP or RDPID: TSC_AUX exists.
    pub(super) tsc_aux: bool,
    pub(super) speculation: Speculation,
    /// What a guest may set in CR4.
    pub(super) cr4: u64,
    /// The largest page of nested tables: what the host's own can have.
    pub(super) largest_page: PageSize,
    /// RDPRU, which tells a guest of the host's clocks unless intercepted.
    pub(super) rdpru: bool,
}

impl Features {
    /// Reads CPUID and VM_CR (APM vol. 2, 15.4).
    pub(super) fn probe(cpuid: &impl CpuidBus, msrs: &impl MsrBus) -> Result<Self, Unsupported> {
        let extended = cpuid.cpuid(0x8000_0000, 0).eax;
        if extended < 0x8000_000a {
            return Err(Unsupported::NoExtension);
        }
        let identity = cpuid.cpuid(0x8000_0001, 0);
        if identity.ecx & CPUID_SVM == 0 {
            return Err(Unsupported::NoExtension);
        }
        // A CPU without the register has no such switch.
        if msrs.read(msr::VM_CR).is_ok_and(|vm_cr| vm_cr & VM_CR_SVMDIS != 0) {
            return Err(Unsupported::LockedByFirmware("VM_CR"));
        }
        let svm = cpuid.cpuid(0x8000_000a, 0);
        let features = SvmFeatures::from_bits_retain(svm.edx);
        if !features.contains(SvmFeatures::NPT) {
            return Err(Unsupported::Missing("NP (nested paging)"));
        }
        if svm.ebx < 2 {
            return Err(Unsupported::Missing("NASID (address space identifiers)"));
        }
        let sizes = cpuid.cpuid(0x8000_0008, 0);
        let rdpid = cpuid.cpuid(0, 0).eax >= 7 && cpuid.cpuid(7, 0).ecx & (1 << 22) != 0;
        Ok(Self {
            svm: features,
            asid_count: svm.ebx,
            physical_bits: match sizes.eax as u8 {
                bits @ 32..=52 => bits,
                _ => 36,
            },
            // Found out when SVM is turned on: the registers have to be tried.
            speculation: Speculation::NONE,
            tsc_aux: rdpid || identity.edx & (1 << 27) != 0,
            cr4: cr4::offered(cpuid),
            largest_page: match ExtendedEdx::from_bits_retain(identity.edx) {
                edx if edx.contains(ExtendedEdx::PAGE_1GB) => PageSize::Size1G,
                _ => PageSize::Size2M,
            },
            rdpru: sizes.ebx & (1 << 4) != 0,
        })
    }

    /// Bits of the held registers, in their order; 0 where there is no such register.
    pub(super) fn held(&self) -> [u64; HELD.len()] {
        let tsc_aux = if self.tsc_aux { u32::MAX.into() } else { 0 };
        [tsc_aux, self.speculation.spec_ctrl, self.speculation.virt_spec_ctrl]
    }

    /// The ASID for the address space `number`, which is 1 or more. With more address spaces than ASIDs some share one;
    /// that is sound, because loading a virtual CPU flushes its ASID.
    pub(super) fn asid(&self, number: u16) -> u32 {
        let guests = self.asid_count - 1;
        1 + u32::from(number).saturating_sub(1) % guests
    }
}
