//! CPUID: leaves and the feature bits that Kerf names (SDM vol. 2A, CPUID; APM vol. 3, appendix E).
//!
//! Bits carry the manuals' mnemonics. What a table lets through is a mask made of these, so a bit that no one has named
//! yet is not let through.

// The mnemonics are the documentation.
#![allow(missing_docs)]

use bitflags::bitflags;
use hw::CpuidResult;

/// Maximum basic leaf and vendor.
pub const VENDOR: u32 = 0;
/// Version and features.
pub const FEATURES: u32 = 1;
/// Caches, one a subleaf (Intel).
pub const CACHES: u32 = 4;
/// MONITOR/MWAIT.
pub const MONITOR: u32 = 5;
/// Thermal and power management.
pub const POWER: u32 = 6;
/// Structured extended features.
pub const EXTENDED_FEATURES: u32 = 7;
/// Topology.
pub const TOPOLOGY: u32 = 0xb;
/// Topology, with more levels.
pub const TOPOLOGY_2: u32 = 0x1f;
/// XSAVE state components.
pub const XSAVE: u32 = 0xd;
/// TSC and crystal clock.
pub const TSC: u32 = 0x15;
/// First leaf that hypervisors define: maximum hypervisor leaf and signature.
pub const HYPERVISOR: u32 = 0x4000_0000;
/// TSC and APIC clock in kHz, by the convention that VMware began.
pub const HYPERVISOR_TIMING: u32 = 0x4000_0010;
/// Where Kerf puts the signature of the paravirtual clock's interface, for guests that scan in steps of 0x100.
pub const PARAVIRTUAL: u32 = 0x4000_0100;
/// Features of that interface.
pub const PARAVIRTUAL_FEATURES: u32 = 0x4000_0101;
/// Maximum extended leaf.
pub const EXTENDED: u32 = 0x8000_0000;
/// Extended features.
pub const EXTENDED_1: u32 = 0x8000_0001;
/// Advanced power management: invariant TSC.
pub const EXTENDED_POWER: u32 = 0x8000_0007;
/// Address widths.
pub const ADDRESS_WIDTHS: u32 = 0x8000_0008;
/// SVM (AMD).
pub const SVM: u32 = 0x8000_000a;
/// Extended features 2 (AMD).
pub const EXTENDED_21: u32 = 0x8000_0021;

/// Leaf 6, EAX: the APIC timer runs in every C-state.
pub const ARAT: u32 = 1 << 2;
/// Leaf 0x8000_0007, EDX: the TSC runs at one rate in every state.
pub const INVARIANT_TSC: u32 = 1 << 8;
/// Leaf 0xd, subleaf of a component, ECX: it is aligned to 64 bytes in the compacted format.
pub const COMPONENT_ALIGNED: u32 = 1 << 1;

bitflags! {
    /// Leaf 1, ECX.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub struct Leaf1Ecx: u32 {
        const SSE3 = 1 << 0;
        const PCLMULQDQ = 1 << 1;
        const MONITOR = 1 << 3;
        const VMX = 1 << 5;
        const SMX = 1 << 6;
        const SSSE3 = 1 << 9;
        const FMA = 1 << 12;
        const CMPXCHG16B = 1 << 13;
        const PDCM = 1 << 15;
        const PCID = 1 << 17;
        const SSE4_1 = 1 << 19;
        const SSE4_2 = 1 << 20;
        const X2APIC = 1 << 21;
        const MOVBE = 1 << 22;
        const POPCNT = 1 << 23;
        const TSC_DEADLINE = 1 << 24;
        const AES = 1 << 25;
        const XSAVE = 1 << 26;
        const OSXSAVE = 1 << 27;
        const AVX = 1 << 28;
        const F16C = 1 << 29;
        const RDRAND = 1 << 30;
        const HYPERVISOR = 1 << 31;
    }

    /// Leaf 1, EDX. AMD repeats most of it in leaf 0x8000_0001.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub struct Leaf1Edx: u32 {
        const FPU = 1 << 0;
        const VME = 1 << 1;
        const DE = 1 << 2;
        const PSE = 1 << 3;
        const TSC = 1 << 4;
        const MSR = 1 << 5;
        const PAE = 1 << 6;
        const MCE = 1 << 7;
        const CX8 = 1 << 8;
        const APIC = 1 << 9;
        const SEP = 1 << 11;
        const MTRR = 1 << 12;
        const PGE = 1 << 13;
        const MCA = 1 << 14;
        const CMOV = 1 << 15;
        const PAT = 1 << 16;
        const PSE36 = 1 << 17;
        const CLFSH = 1 << 19;
        const DS = 1 << 21;
        const ACPI = 1 << 22;
        const MMX = 1 << 23;
        const FXSR = 1 << 24;
        const SSE = 1 << 25;
        const SSE2 = 1 << 26;
        const SS = 1 << 27;
        const HTT = 1 << 28;
    }

    /// Leaf 7, subleaf 0, EBX.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub struct Leaf7Ebx: u32 {
        const FSGSBASE = 1 << 0;
        const TSC_ADJUST = 1 << 1;
        const SGX = 1 << 2;
        const BMI1 = 1 << 3;
        const HLE = 1 << 4;
        const AVX2 = 1 << 5;
        const FDP_EXCPTN_ONLY = 1 << 6;
        const SMEP = 1 << 7;
        const BMI2 = 1 << 8;
        const ERMS = 1 << 9;
        const INVPCID = 1 << 10;
        const RTM = 1 << 11;
        const RDT_M = 1 << 12;
        const ZERO_FCS_FDS = 1 << 13;
        const MPX = 1 << 14;
        const RDT_A = 1 << 15;
        const AVX512F = 1 << 16;
        const AVX512DQ = 1 << 17;
        const RDSEED = 1 << 18;
        const ADX = 1 << 19;
        const SMAP = 1 << 20;
        const AVX512_IFMA = 1 << 21;
        const CLFLUSHOPT = 1 << 23;
        const CLWB = 1 << 24;
        const PT = 1 << 25;
        const AVX512CD = 1 << 28;
        const SHA = 1 << 29;
        const AVX512BW = 1 << 30;
        const AVX512VL = 1 << 31;
    }

    /// Leaf 7, subleaf 0, ECX.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub struct Leaf7Ecx: u32 {
        const PREFETCHWT1 = 1 << 0;
        const AVX512_VBMI = 1 << 1;
        const UMIP = 1 << 2;
        const PKU = 1 << 3;
        const OSPKE = 1 << 4;
        const WAITPKG = 1 << 5;
        const AVX512_VBMI2 = 1 << 6;
        const CET_SS = 1 << 7;
        const GFNI = 1 << 8;
        const VAES = 1 << 9;
        const VPCLMULQDQ = 1 << 10;
        const AVX512_VNNI = 1 << 11;
        const AVX512_BITALG = 1 << 12;
        const AVX512_VPOPCNTDQ = 1 << 14;
        const LA57 = 1 << 16;
        const RDPID = 1 << 22;
        const CLDEMOTE = 1 << 25;
        const MOVDIRI = 1 << 27;
        const MOVDIR64B = 1 << 28;
        const ENQCMD = 1 << 29;
        const PKS = 1 << 31;
    }

    /// Leaf 7, subleaf 0, EDX.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub struct Leaf7Edx: u32 {
        const FSRM = 1 << 4;
        const AVX512_VP2INTERSECT = 1 << 8;
        const MD_CLEAR = 1 << 10;
        const SERIALIZE = 1 << 14;
        const HYBRID = 1 << 15;
        const CET_IBT = 1 << 20;
        const AMX_BF16 = 1 << 22;
        const AVX512_FP16 = 1 << 23;
        const AMX_TILE = 1 << 24;
        const AMX_INT8 = 1 << 25;
        const SPEC_CTRL = 1 << 26;
        const STIBP = 1 << 27;
        const FLUSH_L1D = 1 << 28;
        const ARCH_CAPABILITIES = 1 << 29;
        const CORE_CAPABILITIES = 1 << 30;
        const SSBD = 1 << 31;
    }

    /// Leaf 7, subleaf 1, EAX.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub struct Leaf7Sub1Eax: u32 {
        const SHA512 = 1 << 0;
        const SM3 = 1 << 1;
        const SM4 = 1 << 2;
        const AVX_VNNI = 1 << 4;
        const AVX512_BF16 = 1 << 5;
        const CMPCCXADD = 1 << 7;
        const FZLRM = 1 << 10;
        const FSRS = 1 << 11;
        const FSRCS = 1 << 12;
        const AVX_IFMA = 1 << 23;
    }

    /// Leaf 7, subleaf 1, EDX.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub struct Leaf7Sub1Edx: u32 {
        const AVX_VNNI_INT8 = 1 << 4;
        const AVX_NE_CONVERT = 1 << 5;
        const AVX_VNNI_INT16 = 1 << 10;
        const PREFETCHI = 1 << 14;
    }

    /// Leaf 0xd, subleaf 1, EAX.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub struct XsaveEax: u32 {
        const XSAVEOPT = 1 << 0;
        const XSAVEC = 1 << 1;
        const XGETBV_ECX_1 = 1 << 2;
        const XSAVES = 1 << 3;
        const XFD = 1 << 4;
    }

    /// Leaf 0x8000_0001, ECX.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub struct ExtendedEcx: u32 {
        const LAHF_SAHF = 1 << 0;
        const CMP_LEGACY = 1 << 1;
        const SVM = 1 << 2;
        const ALT_MOV_CR8 = 1 << 4;
        const ABM = 1 << 5;
        const SSE4A = 1 << 6;
        const MISALIGN_SSE = 1 << 7;
        const PREFETCHW = 1 << 8;
        const XOP = 1 << 11;
        const FMA4 = 1 << 16;
        const TBM = 1 << 21;
        const TOPOLOGY_EXTENSIONS = 1 << 22;
        const MONITORX = 1 << 29;
    }

    /// Leaf 0x8000_0001, EDX: bits 0 to 17, 23 and 24 repeat leaf 1 on AMD.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub struct ExtendedEdx: u32 {
        const SYSCALL = 1 << 11;
        const NX = 1 << 20;
        const MMX_EXT = 1 << 22;
        const FFXSR = 1 << 25;
        const PAGE_1GB = 1 << 26;
        const RDTSCP = 1 << 27;
        const LM = 1 << 29;
        const _3DNOW_EXT = 1 << 30;
        const _3DNOW = 1 << 31;
    }

    /// XCR0: state components that XSAVE manages (SDM vol. 1, 13.1).
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub struct Xcr0: u64 {
        const X87 = 1 << 0;
        const SSE = 1 << 1;
        const AVX = 1 << 2;
        const OPMASK = 1 << 5;
        const ZMM_HI256 = 1 << 6;
        const HI16_ZMM = 1 << 7;
        const PKRU = 1 << 9;
    }
}

/// Who made the CPU, as far as CPUID's meaning depends on it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Vendor {
    Intel,
    Amd,
    Hygon,
    Other,
}

impl Vendor {
    /// The vendor that leaf 0 names in EBX, EDX, ECX.
    #[must_use]
    pub fn from_leaf_0(leaf: CpuidResult) -> Self {
        let mut name = [0; 12];
        for (slot, part) in name.chunks_exact_mut(4).zip([leaf.ebx, leaf.edx, leaf.ecx]) {
            slot.copy_from_slice(&part.to_le_bytes());
        }
        match &name {
            b"GenuineIntel" => Self::Intel,
            b"AuthenticAMD" => Self::Amd,
            b"HygonGenuine" => Self::Hygon,
            _ => Self::Other,
        }
    }
}
