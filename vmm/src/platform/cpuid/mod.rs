//! What CPUID tells the guest: a table made once from the host's answers, and the few bits that depend on the moment.
//!
//! A feature is shown where the host has it and [`policy`] lets it through; what only Kerf emulates (x2APIC, TSC deadline)
//! is shown always. [`xsave`] keeps leaf 0xd true to the state components the guest may have, [`topology`] says where its CPUs
//! sit. What the configuration masks is hidden last.

mod policy;
mod topology;
mod xsave;

#[cfg(test)]
mod tests;

use alloc::vec::Vec;

use config::CpuidMask;
use hw::{CpuidBus, CpuidResult};
use vcpu::Speculation;
use x86_spec::{
    cpu::Cr4,
    cpuid::{self as leaf, Leaf1Ecx, Vendor},
};

use topology::Topology;
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
    /// Registers that hold speculation back.
    pub speculation: Speculation,
    /// How many CPUs the guest has, whose APIC IDs count from 0.
    pub vcpus: u32,
    /// Bits of a guest-physical address, where fewer than the host's.
    pub physical_bits: Option<u8>,
    /// Whether MOVDIR64B is offered even if the host lacks it.
    pub movdir64b: bool,
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
    /// Leaves from 0 on once more, and which of them have one answer for ever.
    constants: [CpuidResult; CONSTANTS],
    is_constant: u32,
    /// Leaves 0 and up that have no subleaves, and subleaf 0 of those that do. Nothing is left to mask.
    basic: Vec<CpuidResult>,
    /// Leaves 0x8000_0000 and up.
    extended: Vec<CpuidResult>,
    /// Subleaves of `caches_leaf`: 4, or AMD's 0x8000_001d.
    caches: Vec<CpuidResult>,
    caches_leaf: u32,
    /// Leaf 7, subleaf 1.
    features_1: CpuidResult,
    xsave: XsaveStates,
    topology: Topology,
    mask: Vec<CpuidMask>,
    tsc_khz: u32,
    apic_khz: u32,
}

/// Which leaves [`CpuidTable::constant`] may answer.
const CONSTANTS: usize = 32;

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
/// AMD's leaves of caches and of IDs.
const AMD_CACHES: u32 = 0x8000_001d;
const AMD_IDS: u32 = 0x8000_001e;
/// Basic leaves whose answer is not in the table alone.
const SPECIAL: u32 = 1 << leaf::FEATURES
    | 1 << leaf::CACHES
    | 1 << leaf::EXTENDED_FEATURES
    | 1 << leaf::TOPOLOGY
    | 1 << leaf::XSAVE;

impl CpuidTable {
    /// Makes the table.
    #[must_use]
    pub fn new(host: &impl CpuidBus, options: &CpuidOptions) -> Self {
        let vendor = Vendor::from_leaf_0(host.cpuid(leaf::VENDOR, 0));
        let xsave = XsaveStates::new(host, options.xcr0_allowed);
        let topology = Topology::new(options.vcpus);
        let policy = policy::Policy { vendor, options, topology, xcr0: xsave.allowed() };
        let mut basic = policy.basic(host);
        for (number, answer) in (0..).zip(&mut basic) {
            hide(&options.mask, number, 0, answer);
        }
        let mut constants = [CpuidResult::default(); CONSTANTS];
        constants.iter_mut().zip(&basic).for_each(|(to, from)| *to = *from);
        Self {
            constants,
            // What the table does not have reads 0, which is constant as well.
            is_constant: !SPECIAL,
            basic,
            extended: policy.extended(host),
            caches: policy.caches(host),
            caches_leaf: policy.caches_leaf(host),
            features_1: policy.features_1(host),
            xsave,
            topology,
            mask: options.mask.clone(),
            tsc_khz: options.tsc_khz,
            apic_khz: options.apic_khz,
        }
    }

    /// XCR0 bits that the guest may set; 0 where it has no XSAVE.
    #[must_use]
    pub const fn xcr0_allowed(&self) -> u64 {
        self.xsave.allowed()
    }

    /// Bits of a guest-physical address, as the guest is told.
    #[must_use]
    pub fn physical_bits(&self) -> u8 {
        self.cpuid(leaf::ADDRESS_WIDTHS, 0, &CpuidState::default()).eax as u8
    }

    /// EAX of leaf 1: family, model and stepping.
    #[must_use]
    pub fn signature(&self) -> u32 {
        self.basic(leaf::FEATURES).eax
    }

    /// CPUID of a basic leaf whose answer never changes; `None` for others.
    #[inline(always)]
    #[must_use]
    pub fn constant(&self, leaf: u32) -> Option<&CpuidResult> {
        let answer = self.constants.get(leaf as usize)?;
        if self.is_constant >> leaf & 1 != 0 { Some(answer) } else { None }
    }

    /// CPUID. A leaf that the table does not have reads 0.
    #[must_use]
    pub fn cpuid(&self, leaf: u32, subleaf: u32, state: &CpuidState) -> CpuidResult {
        let mut answer = self.unmasked(leaf, subleaf, state);
        hide(&self.mask, leaf, subleaf, &mut answer);
        answer
    }

    fn unmasked(&self, leaf: u32, subleaf: u32, state: &CpuidState) -> CpuidResult {
        match leaf {
            leaf::FEATURES => self.features(state),
            _ if leaf == self.caches_leaf => {
                self.caches.get(subleaf as usize).copied().unwrap_or_default()
            }
            AMD_IDS if self.caches_leaf == AMD_CACHES => self.topology.ids(state.apic_id),
            leaf::EXTENDED_FEATURES => match subleaf {
                0 => self.basic(leaf),
                1 => self.features_1,
                _ => CpuidResult::default(),
            },
            leaf::TOPOLOGY if self.has(leaf) => self.topology.levels(subleaf, state.apic_id),
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

/// Hides what `mask` does not let through.
fn hide(mask: &[CpuidMask], leaf: u32, subleaf: u32, answer: &mut CpuidResult) {
    let is_meant = |entry: &&CpuidMask| {
        entry.leaf == leaf && entry.subleaf.is_none_or(|meant| meant == subleaf)
    };
    for entry in mask.iter().filter(is_meant) {
        answer.eax &= entry.eax;
        answer.ebx &= entry.ebx;
        answer.ecx &= entry.ecx;
        answer.edx &= entry.edx;
    }
}
