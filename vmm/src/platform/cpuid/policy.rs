//! Which of the host's features a guest sees, and why not the others.
//!
//! Every mask lists what is let through: instructions that work in a guest as on the host, and modes that the backend and
//! Kerf's own walk of guest page tables know. What is missing is missing for one of these reasons:
//! - **no nesting**: VMX, SVM, SMX, SKINIT;
//! - **MSRs that Kerf does not keep for a guest**: MTRR, MCE/MCA (no banks), PMU, DS, PDCM, RDT, PT, SGX, TSX, WAITPKG, CET,
//!   PKS, ENQCMD, IA32_ARCH_CAPABILITIES, TSC_ADJUST, OSVW, IBS, EST, thermal monitors;
//! - **state that is not switched**: PKU, MPX, AMX, XSAVES;
//! - **translation that Kerf's walk does not do**: LA57, LAM;
//! - **waiting that Kerf wants to see**: MONITOR, MONITORX, MWAITX;
//! - **topology**: leaf 0x1f, which tells no more than 0xb.

use alloc::vec::Vec;

use hw::{CpuidBus, CpuidResult};
use x86_spec::cpuid::{
    self as leaf, ARAT, ExtendedEcx, ExtendedEdx, INVARIANT_TSC, Leaf1Ecx, Leaf1Edx, Leaf7Ebx,
    Leaf7Ecx, Leaf7Edx, Leaf7Sub1Eax, Leaf7Sub1Edx, Vendor, Xcr0,
};

use super::topology::Topology;
use super::{AMD_CACHES, AMD_IDS, CpuidOptions};

/// The highest basic leaf of an Intel guest: it tells the TSC's frequency.
const MAX_INTEL: u32 = leaf::TSC;
/// The highest basic leaf of another guest; nothing that follows it is let through.
const MAX_OTHER: u32 = leaf::XSAVE;
/// The highest extended leaves.
const MAX_EXTENDED_INTEL: u32 = leaf::ADDRESS_WIDTHS;
const MAX_EXTENDED_OTHER: u32 = leaf::EXTENDED_21;
/// Subleaves of leaf 4 at most; a CPU that lists more is listing nonsense.
const CACHES_MAX: u32 = 16;

const LEAF_1_ECX: Leaf1Ecx = Leaf1Ecx::SSE3
    .union(Leaf1Ecx::PCLMULQDQ)
    .union(Leaf1Ecx::SSSE3)
    .union(Leaf1Ecx::FMA)
    .union(Leaf1Ecx::CMPXCHG16B)
    .union(Leaf1Ecx::PCID)
    .union(Leaf1Ecx::SSE4_1)
    .union(Leaf1Ecx::SSE4_2)
    .union(Leaf1Ecx::MOVBE)
    .union(Leaf1Ecx::POPCNT)
    .union(Leaf1Ecx::AES)
    .union(Leaf1Ecx::XSAVE)
    .union(Leaf1Ecx::AVX)
    .union(Leaf1Ecx::F16C)
    .union(Leaf1Ecx::RDRAND);
/// What Kerf provides whatever the host has.
const LEAF_1_ECX_ALWAYS: Leaf1Ecx =
    Leaf1Ecx::X2APIC.union(Leaf1Ecx::TSC_DEADLINE).union(Leaf1Ecx::HYPERVISOR);
const LEAF_1_EDX: Leaf1Edx = Leaf1Edx::FPU
    .union(Leaf1Edx::VME)
    .union(Leaf1Edx::DE)
    .union(Leaf1Edx::PSE)
    .union(Leaf1Edx::TSC)
    .union(Leaf1Edx::MSR)
    .union(Leaf1Edx::PAE)
    .union(Leaf1Edx::CX8)
    .union(Leaf1Edx::SEP)
    .union(Leaf1Edx::PGE)
    .union(Leaf1Edx::CMOV)
    .union(Leaf1Edx::PAT)
    .union(Leaf1Edx::PSE36)
    .union(Leaf1Edx::CLFSH)
    .union(Leaf1Edx::MMX)
    .union(Leaf1Edx::FXSR)
    .union(Leaf1Edx::SSE)
    .union(Leaf1Edx::SSE2)
    .union(Leaf1Edx::SS);
const LEAF_7_EBX: Leaf7Ebx = Leaf7Ebx::FSGSBASE
    .union(Leaf7Ebx::BMI1)
    .union(Leaf7Ebx::AVX2)
    .union(Leaf7Ebx::FDP_EXCPTN_ONLY)
    .union(Leaf7Ebx::SMEP)
    .union(Leaf7Ebx::BMI2)
    .union(Leaf7Ebx::ERMS)
    .union(Leaf7Ebx::INVPCID)
    .union(Leaf7Ebx::ZERO_FCS_FDS)
    .union(AVX512_EBX)
    .union(Leaf7Ebx::RDSEED)
    .union(Leaf7Ebx::ADX)
    .union(Leaf7Ebx::SMAP)
    .union(Leaf7Ebx::CLFLUSHOPT)
    .union(Leaf7Ebx::CLWB)
    .union(Leaf7Ebx::SHA);
const LEAF_7_ECX: Leaf7Ecx = Leaf7Ecx::PREFETCHWT1
    .union(AVX512_ECX)
    .union(Leaf7Ecx::UMIP)
    .union(Leaf7Ecx::GFNI)
    .union(AVX_ECX)
    .union(Leaf7Ecx::RDPID)
    .union(Leaf7Ecx::CLDEMOTE)
    .union(Leaf7Ecx::MOVDIRI)
    .union(Leaf7Ecx::MOVDIR64B);
const LEAF_7_EDX: Leaf7Edx =
    Leaf7Edx::FSRM.union(AVX512_EDX).union(Leaf7Edx::MD_CLEAR).union(Leaf7Edx::SERIALIZE);
const LEAF_7_1_EAX: Leaf7Sub1Eax = AVX_7_1_EAX
    .union(Leaf7Sub1Eax::AVX512_BF16)
    .union(Leaf7Sub1Eax::CMPCCXADD)
    .union(Leaf7Sub1Eax::FZLRM)
    .union(Leaf7Sub1Eax::FSRS)
    .union(Leaf7Sub1Eax::FSRCS);
const LEAF_7_1_EDX: Leaf7Sub1Edx = AVX_7_1_EDX.union(Leaf7Sub1Edx::PREFETCHI);
const EXTENDED_ECX: ExtendedEcx = ExtendedEcx::LAHF_SAHF
    .union(ExtendedEcx::ALT_MOV_CR8)
    .union(ExtendedEcx::ABM)
    .union(ExtendedEcx::SSE4A)
    .union(ExtendedEcx::MISALIGN_SSE)
    .union(ExtendedEcx::PREFETCHW)
    .union(AVX_EXTENDED_ECX)
    .union(ExtendedEcx::TBM);
const EXTENDED_EDX: ExtendedEdx = ExtendedEdx::SYSCALL
    .union(ExtendedEdx::NX)
    .union(ExtendedEdx::MMX_EXT)
    .union(ExtendedEdx::PAGE_1GB)
    .union(ExtendedEdx::RDTSCP)
    .union(ExtendedEdx::LM)
    .union(ExtendedEdx::_3DNOW_EXT)
    .union(ExtendedEdx::_3DNOW);

// What needs the YMM state, and what needs the ZMM state.
const AVX_1_ECX: Leaf1Ecx = Leaf1Ecx::AVX.union(Leaf1Ecx::FMA).union(Leaf1Ecx::F16C);
const AVX_ECX: Leaf7Ecx = Leaf7Ecx::VAES.union(Leaf7Ecx::VPCLMULQDQ);
const AVX_7_1_EAX: Leaf7Sub1Eax = Leaf7Sub1Eax::AVX_VNNI
    .union(Leaf7Sub1Eax::AVX_IFMA)
    .union(Leaf7Sub1Eax::SHA512)
    .union(Leaf7Sub1Eax::SM3)
    .union(Leaf7Sub1Eax::SM4);
const AVX_7_1_EDX: Leaf7Sub1Edx = Leaf7Sub1Edx::AVX_VNNI_INT8
    .union(Leaf7Sub1Edx::AVX_NE_CONVERT)
    .union(Leaf7Sub1Edx::AVX_VNNI_INT16);
const AVX_EXTENDED_ECX: ExtendedEcx = ExtendedEcx::XOP.union(ExtendedEcx::FMA4);
const AVX512_EBX: Leaf7Ebx = Leaf7Ebx::AVX512F
    .union(Leaf7Ebx::AVX512DQ)
    .union(Leaf7Ebx::AVX512_IFMA)
    .union(Leaf7Ebx::AVX512CD)
    .union(Leaf7Ebx::AVX512BW)
    .union(Leaf7Ebx::AVX512VL);
const AVX512_ECX: Leaf7Ecx = Leaf7Ecx::AVX512_VBMI
    .union(Leaf7Ecx::AVX512_VBMI2)
    .union(Leaf7Ecx::AVX512_VNNI)
    .union(Leaf7Ecx::AVX512_BITALG)
    .union(Leaf7Ecx::AVX512_VPOPCNTDQ);
const AVX512_EDX: Leaf7Edx = Leaf7Edx::AVX512_VP2INTERSECT.union(Leaf7Edx::AVX512_FP16);

/// Leaf 0x8000_0008, EBX: CLZERO (0) and XSAVE's error pointers (2).
const WIDTHS_EBX: u32 = 1 << 0 | 1 << 2;
/// Leaf 0x8000_0021, EAX: no nested data breakpoints (0), LFENCE serializes (2), a null selector clears its base (6).
const EXTENDED_21_EAX: u32 = 1 << 0 | 1 << 2 | 1 << 6;
/// Linear-address bits of four-level paging.
const LINEAR_BITS: u32 = 48;

/// Everything the masks depend on.
pub(super) struct Policy<'a> {
    pub(super) vendor: Vendor,
    pub(super) options: &'a CpuidOptions,
    pub(super) topology: Topology,
    /// XCR0 bits that the guest may set.
    pub(super) xcr0: u64,
}

impl Policy<'_> {
    fn has_state(&self, state: Xcr0) -> bool {
        Xcr0::from_bits_retain(self.xcr0).contains(state)
    }

    /// Leaves 0 and up.
    pub(super) fn basic(&self, host: &impl CpuidBus) -> Vec<CpuidResult> {
        let host_max = host.cpuid(leaf::VENDOR, 0).eax;
        let max = match self.vendor {
            Vendor::Intel => MAX_INTEL,
            _ => host_max.min(MAX_OTHER),
        };
        let answer = |number| {
            let host =
                if number <= host_max { host.cpuid(number, 0) } else { CpuidResult::default() };
            self.basic_leaf(number, max, host)
        };
        (0..=max).map(answer).collect()
    }

    fn basic_leaf(&self, number: u32, max: u32, host: CpuidResult) -> CpuidResult {
        match number {
            leaf::VENDOR => CpuidResult { eax: max, ..host },
            leaf::FEATURES => self.features(host),
            // Cache and TLB descriptors.
            2 => host,
            leaf::POWER => CpuidResult { eax: ARAT, ..CpuidResult::default() },
            leaf::EXTENDED_FEATURES => self.extended_features(host),
            leaf::TSC => self.tsc(),
            // Leaves with tables of their own, and leaves that are hidden.
            _ => CpuidResult::default(),
        }
    }

    fn features(&self, host: CpuidResult) -> CpuidResult {
        let mut ecx = Leaf1Ecx::from_bits_retain(host.ecx) & LEAF_1_ECX;
        if !self.options.pcid {
            ecx -= Leaf1Ecx::PCID;
        }
        if self.xcr0 == 0 {
            ecx -= Leaf1Ecx::XSAVE;
        }
        if !self.has_state(Xcr0::AVX) {
            ecx -= AVX_1_ECX;
        }
        let mut edx = Leaf1Edx::from_bits_retain(host.edx) & LEAF_1_EDX | Leaf1Edx::APIC;
        edx.set(Leaf1Edx::HTT, self.topology.is_multiple());
        CpuidResult {
            eax: host.eax,
            // Brand index and CLFLUSH line.
            ebx: host.ebx & 0xffff | self.topology.ids_in_leaf_1(),
            ecx: (ecx | LEAF_1_ECX_ALWAYS).bits(),
            edx: edx.bits(),
        }
    }

    fn extended_features(&self, host: CpuidResult) -> CpuidResult {
        let mut ebx = Leaf7Ebx::from_bits_retain(host.ebx) & LEAF_7_EBX;
        let mut ecx = Leaf7Ecx::from_bits_retain(host.ecx) & LEAF_7_ECX;
        let mut edx = Leaf7Edx::from_bits_retain(host.edx) & LEAF_7_EDX
            | Leaf7Edx::from_bits_retain(self.options.speculation.leaf_7_edx);
        if !self.options.pcid {
            ebx -= Leaf7Ebx::INVPCID;
        }
        ecx |= if self.options.movdir64b { Leaf7Ecx::MOVDIR64B } else { Leaf7Ecx::empty() };
        if !self.has_state(Xcr0::AVX) {
            ebx -= Leaf7Ebx::AVX2;
            ecx -= AVX_ECX;
        }
        if !self.has_state(Xcr0::HI16_ZMM) {
            ebx -= AVX512_EBX;
            ecx -= AVX512_ECX;
            edx -= AVX512_EDX;
        }
        CpuidResult { eax: host.eax.min(1), ebx: ebx.bits(), ecx: ecx.bits(), edx: edx.bits() }
    }

    /// Leaf 7, subleaf 1.
    pub(super) fn features_1(&self, host: &impl CpuidBus) -> CpuidResult {
        let max = host.cpuid(leaf::VENDOR, 0).eax;
        if max < leaf::EXTENDED_FEATURES || host.cpuid(leaf::EXTENDED_FEATURES, 0).eax < 1 {
            return CpuidResult::default();
        }
        let host = host.cpuid(leaf::EXTENDED_FEATURES, 1);
        let mut eax = Leaf7Sub1Eax::from_bits_retain(host.eax) & LEAF_7_1_EAX;
        let mut edx = Leaf7Sub1Edx::from_bits_retain(host.edx) & LEAF_7_1_EDX;
        if !self.has_state(Xcr0::AVX) {
            eax -= AVX_7_1_EAX;
            edx -= AVX_7_1_EDX;
        }
        if !self.has_state(Xcr0::HI16_ZMM) {
            eax -= Leaf7Sub1Eax::AVX512_BF16;
        }
        CpuidResult { eax: eax.bits(), edx: edx.bits(), ..CpuidResult::default() }
    }

    /// Leaf 0x15: a crystal clock as fast as the TSC, which is what the local APIC's timer counts. A TSC too fast for the
    /// field is left for the guest to measure.
    fn tsc(&self) -> CpuidResult {
        match self.options.tsc_khz.checked_mul(1000) {
            Some(hz) if self.options.apic_khz == self.options.tsc_khz => {
                CpuidResult { eax: 1, ebx: 1, ecx: hz, edx: 0 }
            }
            _ => CpuidResult::default(),
        }
    }

    /// The leaf that describes the caches; 4 also where there is none.
    pub(super) fn caches_leaf(&self, host: &impl CpuidBus) -> u32 {
        let has_amd_leaf = self.vendor != Vendor::Intel
            && host.cpuid(leaf::EXTENDED, 0).eax >= AMD_IDS
            && host.cpuid(leaf::EXTENDED_1, 0).ecx & ExtendedEcx::TOPOLOGY_EXTENSIONS.bits() != 0;
        if has_amd_leaf { AMD_CACHES } else { leaf::CACHES }
    }

    /// Its subleaves.
    pub(super) fn caches(&self, host: &impl CpuidBus) -> Vec<CpuidResult> {
        let number = self.caches_leaf(host);
        let is_intel = self.vendor == Vendor::Intel;
        if number == leaf::CACHES && (!is_intel || host.cpuid(leaf::VENDOR, 0).eax < number) {
            return Vec::new();
        }
        (0..CACHES_MAX)
            .map(|subleaf| host.cpuid(number, subleaf))
            .take_while(|cache| cache.eax & 0x1f != 0)
            .map(|cache| self.topology.cache(cache, is_intel))
            .collect()
    }

    /// Leaves 0x8000_0000 and up.
    pub(super) fn extended(&self, host: &impl CpuidBus) -> Vec<CpuidResult> {
        let host_max = host.cpuid(leaf::EXTENDED, 0).eax;
        // A CPU without extended leaves answers something that does not say "at least 0x8000_0000".
        if host_max < leaf::EXTENDED {
            return Vec::new();
        }
        let max = host_max.min(match self.vendor {
            Vendor::Intel => MAX_EXTENDED_INTEL,
            _ => MAX_EXTENDED_OTHER,
        });
        (leaf::EXTENDED..=max).map(|number| self.extended_leaf(number, max, host)).collect()
    }

    fn extended_leaf(&self, number: u32, max: u32, bus: &impl CpuidBus) -> CpuidResult {
        let host = bus.cpuid(number, 0);
        match number {
            leaf::EXTENDED => CpuidResult { eax: max, ..host },
            leaf::EXTENDED_1 => self.extended_1(host, self.caches_leaf(bus) == AMD_CACHES),
            // Brand string, caches and TLBs, and how wide the FPU is inside.
            0x8000_0002..=0x8000_0006 | 0x8000_0019 | 0x8000_001a => host,
            leaf::EXTENDED_POWER => CpuidResult { edx: INVARIANT_TSC, ..CpuidResult::default() },
            leaf::ADDRESS_WIDTHS => {
                let linear = (host.eax >> 8 & 0xff).min(LINEAR_BITS);
                let physical = host.eax & 0xff;
                let physical =
                    self.options.physical_bits.map_or(physical, |bits| physical.min(bits.into()));
                let is_intel = self.vendor == Vendor::Intel;
                CpuidResult {
                    eax: physical | linear << 8,
                    ebx: host.ebx & WIDTHS_EBX | self.options.speculation.widths_ebx,
                    ecx: if is_intel { 0 } else { self.topology.core_count() },
                    edx: 0,
                }
            }
            leaf::EXTENDED_21 => {
                CpuidResult { eax: host.eax & EXTENDED_21_EAX, ..CpuidResult::default() }
            }
            _ => CpuidResult::default(),
        }
    }

    fn extended_1(&self, host: CpuidResult, tells_topology: bool) -> CpuidResult {
        let mut ecx = ExtendedEcx::from_bits_retain(host.ecx) & EXTENDED_ECX;
        if !self.has_state(Xcr0::AVX) {
            ecx -= AVX_EXTENDED_ECX;
        }
        if self.vendor != Vendor::Intel {
            ecx.set(ExtendedEcx::CMP_LEGACY, self.topology.is_multiple());
            ecx.set(ExtendedEcx::TOPOLOGY_EXTENSIONS, tells_topology);
        }
        let mut edx = host.edx & EXTENDED_EDX.bits();
        if self.vendor != Vendor::Intel {
            // AMD repeats leaf 1 up to bit 17, and MMX and FXSR. SEP's place is SYSCALL's here.
            let repeated = (LEAF_1_EDX - Leaf1Edx::SEP).bits() & 0x0183_ffff;
            edx |= host.edx & repeated | Leaf1Edx::APIC.bits();
        }
        CpuidResult { eax: host.eax, ebx: host.ebx, ecx: ecx.bits(), edx }
    }
}
