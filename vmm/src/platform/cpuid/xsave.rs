//! Leaf 0xd: the XSAVE state components the guest may have, and how large its save areas are (SDM vol. 1, 13.4).

use hw::{CpuidBus, CpuidResult};
use x86_spec::cpuid::{self as leaf, COMPONENT_ALIGNED, Leaf1Ecx, Xcr0, XsaveEax};

/// Bytes of the legacy region and the header.
const HEADER_END: u32 = 512 + 64;
/// The first component outside the legacy region.
const FIRST_EXTENDED: u32 = 2;
/// One past the last component that a guest can have.
const COMPONENT_END: usize = 8;
/// What a guest can have: no PKRU, whose access rights Kerf's own walk of guest page tables does not judge; no MPX; no
/// AMX, whose state is large and switched on by MSR (IA32_XFD).
const KNOWN: Xcr0 = Xcr0::X87
    .union(Xcr0::SSE)
    .union(Xcr0::AVX)
    .union(Xcr0::OPMASK)
    .union(Xcr0::ZMM_HI256)
    .union(Xcr0::HI16_ZMM);
const AVX512: Xcr0 = Xcr0::OPMASK.union(Xcr0::ZMM_HI256).union(Xcr0::HI16_ZMM);
/// XSAVE instructions a guest can have. No XSAVES: supervisor states (IA32_XSS) are not switched; and no IA32_XFD.
const INSTRUCTIONS: XsaveEax =
    XsaveEax::XSAVEOPT.union(XsaveEax::XSAVEC).union(XsaveEax::XGETBV_ECX_1);

/// The state components of one guest.
#[derive(Clone, Debug)]
pub(super) struct XsaveStates {
    allowed: Xcr0,
    instructions: u32,
    /// By the component's number: size, offset and flags as the host gives them; 0 where not allowed.
    components: [CpuidResult; COMPONENT_END],
}

/// `bits` without those that need another that is missing (SDM vol. 1, 13.3): XCR0 would refuse them.
fn consistent(bits: Xcr0) -> Xcr0 {
    let mut bits = bits & KNOWN;
    if !bits.contains(Xcr0::X87 | Xcr0::SSE) {
        return Xcr0::empty();
    }
    if !bits.contains(Xcr0::AVX | AVX512) {
        bits -= AVX512;
    }
    bits
}

impl XsaveStates {
    pub(super) fn new(host: &impl CpuidBus, wanted: u64) -> Self {
        let max = host.cpuid(leaf::VENDOR, 0).eax;
        let features = Leaf1Ecx::from_bits_retain(host.cpuid(leaf::FEATURES, 0).ecx);
        let mut states = Self {
            allowed: Xcr0::empty(),
            instructions: 0,
            components: [CpuidResult::default(); COMPONENT_END],
        };
        if max < leaf::XSAVE || !features.contains(Leaf1Ecx::XSAVE) {
            return states;
        }
        let offered = host.cpuid(leaf::XSAVE, 0);
        let offered = u64::from(offered.edx) << 32 | u64::from(offered.eax);
        states.allowed = consistent(Xcr0::from_bits_retain(offered & wanted));
        if states.allowed.is_empty() {
            return states;
        }
        states.instructions = host.cpuid(leaf::XSAVE, 1).eax & INSTRUCTIONS.bits();
        for (number, slot) in (0..).zip(&mut states.components).skip(FIRST_EXTENDED as usize) {
            if states.allowed.bits() >> number & 1 != 0 {
                let host = host.cpuid(leaf::XSAVE, number);
                *slot = CpuidResult { ecx: host.ecx & COMPONENT_ALIGNED, edx: 0, ..host };
            }
        }
        states
    }

    /// XCR0 bits that the guest may set.
    pub(super) const fn allowed(&self) -> u64 {
        self.allowed.bits()
    }

    /// The components of `xcr0` outside the legacy region.
    fn extended(&self, xcr0: u64) -> impl Iterator<Item = &CpuidResult> {
        let bits = (0..).map(move |number| xcr0 >> number & 1 != 0);
        self.components.iter().zip(bits).filter(|(_, wanted)| *wanted).map(|(state, _)| state)
    }

    /// Bytes of the standard format for the components of `xcr0`.
    fn standard_bytes(&self, xcr0: u64) -> u32 {
        let end = |state: &CpuidResult| state.ebx.saturating_add(state.eax);
        self.extended(xcr0).map(end).max().unwrap_or(0).max(HEADER_END)
    }

    /// Bytes of the compacted format for the components of `xcr0`.
    fn compacted_bytes(&self, xcr0: u64) -> u32 {
        self.extended(xcr0).fold(HEADER_END, |end, state| {
            let aligned = state.ecx & COMPONENT_ALIGNED != 0;
            let start = if aligned { end.next_multiple_of(64) } else { end };
            start.saturating_add(state.eax)
        })
    }

    /// Leaf 0xd.
    pub(super) fn answer(&self, subleaf: u32, xcr0: u64) -> CpuidResult {
        let allowed = self.allowed.bits();
        let xcr0 = xcr0 & allowed;
        match subleaf {
            _ if self.allowed.is_empty() => CpuidResult::default(),
            0 => CpuidResult {
                eax: allowed as u32,
                ebx: self.standard_bytes(xcr0),
                ecx: self.standard_bytes(allowed),
                edx: (allowed >> 32) as u32,
            },
            1 => {
                let compacts = self.instructions & XsaveEax::XSAVEC.bits() != 0;
                let ebx = if compacts { self.compacted_bytes(xcr0) } else { 0 };
                CpuidResult { eax: self.instructions, ebx, ecx: 0, edx: 0 }
            }
            _ => self.components.get(subleaf as usize).copied().unwrap_or_default(),
        }
    }
}
