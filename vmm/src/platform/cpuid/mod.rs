//! What CPUID tells the guest: a table made once from the host's answers, and the few bits that depend on the moment.
//!
//! A feature is shown where the host has it and [`policy`] lets it through; what only Kerf emulates (x2APIC, TSC deadline)
//! is shown always. [`xsave`] keeps leaf 0xd true to the state components the guest may have. The topology is one CPU.

mod policy;
mod xsave;

#[cfg(test)]
mod tests;

use alloc::vec::Vec;

use config::CpuidMask;
use hw::{CpuidBus, CpuidResult};
use x86_spec::{
    cpu::Cr4,
    cpuid::{self as leaf, Leaf1Ecx, Vendor},
};

use xsave::XsaveStates;

/// What the table depends on besides the host's CPUID.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CpuidOptions {
    /// The guest's TSC, in kHz.
    pub tsc_khz: u32,
    /// The clock that the local APIC's timer divides, in kHz. [`LocalApic`](crate::platform::lapic::LocalApic) counts TSC
    /// ticks, so for it this is `tsc_khz`.
    pub apic_khz: u32,
    /// XCR0 bits the guest may have, where the host has them; 0 hides XSAVE.
    pub xcr0_allowed: u64,
    /// Whether the backend handles INVPCID and process-context identifiers.
    pub pcid: bool,
    /// How many CPUs the guest has, whose APIC IDs count from 0.
    pub vcpus: u32,
    /// Bits of a guest-physical address, where fewer than the host's.
    pub physical_bits: Option<u8>,
    /// Bits that are hidden.
    pub mask: Vec<CpuidMask>,
}

/// What the answer depends on at run time.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CpuidState {
    /// CR4.
    pub cr4: u64,
    /// XCR0.
    pub xcr0: u64,
    /// The CPU's APIC ID.
    pub apic_id: u32,
}

/// The guest's CPUID.
#[derive(Clone, Debug)]
pub struct CpuidTable {
    /// Leaves 0 and up that have no subleaves, and subleaf 0 of those that do.
    basic: Vec<CpuidResult>,
    /// Leaves 0x8000_0000 and up.
    extended: Vec<CpuidResult>,
    /// Subleaves of leaf 4.
    caches: Vec<CpuidResult>,
    /// Leaf 7, subleaf 1.
    features_1: CpuidResult,
    xsave: XsaveStates,
    tsc_khz: u32,
    apic_khz: u32,
}

/// `KerfKerfKerf` in EBX, ECX, EDX, and the highest hypervisor leaf.
const SIGNATURE: CpuidResult = {
    let kerf = u32::from_le_bytes(*b"Kerf");
    CpuidResult { eax: leaf::HYPERVISOR_TIMING, ebx: kerf, ecx: kerf, edx: kerf }
};
/// `KVMKVMKVM` and the highest leaf of that interface (Linux, Documentation/virt/kvm/x86/cpuid.rst).
const PARAVIRTUAL: CpuidResult = CpuidResult {
    eax: leaf::PARAVIRTUAL_FEATURES,
    ebx: u32::from_le_bytes(*b"KVMK"),
    ecx: u32::from_le_bytes(*b"VMKV"),
    edx: u32::from_le_bytes(*b"M\0\0\0"),
};
/// Its features that Kerf has: KVM_FEATURE_CLOCKSOURCE2 (3) and KVM_FEATURE_CLOCKSOURCE_STABLE_BIT (24).
const PARAVIRTUAL_FEATURES: u32 = 1 << 3 | 1 << 24;
/// Level types of leaf 0xb (SDM vol. 2A, table 3-8).
const LEVEL_SMT: u32 = 1 << 8;
const LEVEL_CORE: u32 = 2 << 8;

impl CpuidTable {
    /// Makes the table.
    #[must_use]
    pub fn new(host: &impl CpuidBus, options: &CpuidOptions) -> Self {
        let vendor = Vendor::from_leaf_0(host.cpuid(leaf::VENDOR, 0));
        let xsave = XsaveStates::new(host, options.xcr0_allowed);
        let policy = policy::Policy { vendor, options, xcr0: xsave.allowed() };
        Self {
            basic: policy.basic(host),
            extended: policy.extended(host),
            caches: policy.caches(host),
            features_1: policy.features_1(host),
            xsave,
            tsc_khz: options.tsc_khz,
            apic_khz: options.apic_khz,
        }
    }

    /// XCR0 bits that the guest may set; 0 where it has no XSAVE.
    #[must_use]
    pub const fn xcr0_allowed(&self) -> u64 {
        self.xsave.allowed()
    }

    /// EAX of leaf 1: family, model and stepping.
    #[must_use]
    pub fn signature(&self) -> u32 {
        self.basic(leaf::FEATURES).eax
    }

    /// CPUID. A leaf that the table does not have reads 0.
    #[must_use]
    pub fn cpuid(&self, leaf: u32, subleaf: u32, state: &CpuidState) -> CpuidResult {
        match leaf {
            leaf::FEATURES => self.features(state),
            leaf::CACHES => self.caches.get(subleaf as usize).copied().unwrap_or_default(),
            leaf::EXTENDED_FEATURES => match subleaf {
                0 => self.basic(leaf),
                1 => self.features_1,
                _ => CpuidResult::default(),
            },
            leaf::TOPOLOGY if self.has(leaf) => topology(subleaf, state.apic_id),
            leaf::XSAVE if self.has(leaf) => self.xsave.answer(subleaf, state.xcr0),
            leaf::HYPERVISOR => SIGNATURE,
            leaf::HYPERVISOR_TIMING => {
                CpuidResult { eax: self.tsc_khz, ebx: self.apic_khz, ..CpuidResult::default() }
            }
            leaf::PARAVIRTUAL => PARAVIRTUAL,
            leaf::PARAVIRTUAL_FEATURES => {
                CpuidResult { eax: PARAVIRTUAL_FEATURES, ..CpuidResult::default() }
            }
            leaf::EXTENDED.. => {
                let index = (leaf - leaf::EXTENDED) as usize;
                self.extended.get(index).copied().unwrap_or_default()
            }
            _ => self.basic(leaf),
        }
    }

    fn has(&self, leaf: u32) -> bool {
        (leaf as usize) < self.basic.len()
    }

    fn basic(&self, leaf: u32) -> CpuidResult {
        self.basic.get(leaf as usize).copied().unwrap_or_default()
    }

    fn features(&self, state: &CpuidState) -> CpuidResult {
        let mut answer = self.basic(leaf::FEATURES);
        answer.ebx |= state.apic_id << 24;
        if state.cr4 & Cr4::OSXSAVE.bits() != 0 {
            answer.ecx |= Leaf1Ecx::OSXSAVE.bits();
        }
        answer
    }
}

/// Leaf 0xb: one thread in one core in one package.
const fn topology(subleaf: u32, apic_id: u32) -> CpuidResult {
    let (threads, level) = match subleaf {
        0 => (1, LEVEL_SMT),
        1 => (1, LEVEL_CORE),
        _ => (0, 0),
    };
    CpuidResult { eax: 0, ebx: threads, ecx: level | subleaf & 0xff, edx: apic_id }
}
