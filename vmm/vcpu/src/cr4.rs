//! CR4 as far as it is alike on both vendors: which bits a guest may have. Pure. MCE is the host's while a guest runs: its
//! machine-check handler stays reachable, and without MCE a machine check shuts the machine down. The guest sees its own.

use hw::CpuidBus;
use x86_spec::cpu::Cr4;
use x86_spec::cpuid::{self, Leaf1Ecx, Leaf1Edx, Leaf7Ebx, Leaf7Ecx};

/// An access that gets #GP(0).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct GeneralProtection;

/// Bits that a guest may change, as far as the CPU has them. Bits that bring state which Kerf does not switch (protection
/// keys, CET, user interrupts) are nobody's.
pub(crate) const GUEST_OWNED: u64 = Cr4::VME
    .union(Cr4::PVI)
    .union(Cr4::TSD)
    .union(Cr4::DE)
    .union(Cr4::PSE)
    .union(Cr4::PAE)
    .union(Cr4::PGE)
    .union(Cr4::PCE)
    .union(Cr4::OSFXSR)
    .union(Cr4::OSXMMEXCPT)
    .union(Cr4::UMIP)
    .union(Cr4::FSGSBASE)
    .union(Cr4::PCIDE)
    .union(Cr4::OSXSAVE)
    .union(Cr4::SMEP)
    .union(Cr4::SMAP)
    .bits();

/// Bits that a guest may set in its view alone.
pub(crate) const SHADOWED: u64 = Cr4::MCE.bits();

/// The bits of both that a CPU has (APM vol. 2, 3.1.3, and vol. 3, appendix E).
pub(crate) fn offered(cpu: &impl CpuidBus) -> u64 {
    let leaf = cpu.cpuid(cpuid::FEATURES, 0);
    let (ecx, edx) = (Leaf1Ecx::from_bits_retain(leaf.ecx), Leaf1Edx::from_bits_retain(leaf.edx));
    let has_leaf = cpu.cpuid(cpuid::VENDOR, 0).eax >= cpuid::EXTENDED_FEATURES;
    let leaf = if has_leaf { cpu.cpuid(cpuid::EXTENDED_FEATURES, 0) } else { Default::default() };
    let extended = (Leaf7Ebx::from_bits_retain(leaf.ebx), Leaf7Ecx::from_bits_retain(leaf.ecx));
    let bits = [
        (edx.contains(Leaf1Edx::VME), Cr4::VME | Cr4::PVI),
        (edx.contains(Leaf1Edx::TSC), Cr4::TSD),
        (edx.contains(Leaf1Edx::DE), Cr4::DE),
        (edx.contains(Leaf1Edx::PSE), Cr4::PSE),
        (edx.contains(Leaf1Edx::PAE), Cr4::PAE),
        (edx.contains(Leaf1Edx::MCE), Cr4::MCE),
        (edx.contains(Leaf1Edx::PGE), Cr4::PGE),
        (true, Cr4::PCE),
        (edx.contains(Leaf1Edx::FXSR), Cr4::OSFXSR),
        (edx.contains(Leaf1Edx::SSE), Cr4::OSXMMEXCPT),
        (ecx.contains(Leaf1Ecx::PCID), Cr4::PCIDE),
        (ecx.contains(Leaf1Ecx::XSAVE), Cr4::OSXSAVE),
        (extended.0.contains(Leaf7Ebx::FSGSBASE), Cr4::FSGSBASE),
        (extended.0.contains(Leaf7Ebx::SMEP), Cr4::SMEP),
        (extended.0.contains(Leaf7Ebx::SMAP), Cr4::SMAP),
        (extended.1.contains(Leaf7Ecx::UMIP), Cr4::UMIP),
    ];
    let has = bits.into_iter().filter(|(has, _)| *has);
    has.fold(0, |all, (_, bits)| all | bits.bits()) & (GUEST_OWNED | SHADOWED)
}
