//! The guest's FPU, SSE, AVX and later register state, kept while another virtual CPU has the CPU.
//!
//! Kerf itself is built without floating point, so the registers hold the loaded guest's values through every exit and
//! nothing is saved or restored there, XCR0 included. [`Fpu::load`] and [`Fpu::unload`] run only when the virtual CPU on
//! a CPU changes. `unload` wipes the registers, so that no guest finds another's values.
//!
//! [`FpuSupport`] is read from CPUID once, when a backend is enabled; each virtual CPU owns one [`Fpu`].

mod insn;

use alloc::vec::Vec;

use hw::{CpuidBus, Hva, OutOfFrames, PAGE_SIZE};

use crate::{HostPages, StateError};

/// Bytes of the legacy region and the XSAVE header (SDM vol. 1, 13.4.1 and 13.4.2): what an area has at the least.
const LEGACY_AND_HEADER_BYTES: u32 = 576;
/// XCR0 after reset: the x87 state alone. Kerf leaves it so when no guest is loaded.
const XCR0_RESET: u64 = 1;
/// x87 and SSE: what every 64-bit CPU has, with XSAVE or without.
const LEGACY_STATE: u64 = 0b11;

/// What the CPU offers for saving state.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct FpuSupport {
    xsave: bool,
    /// XCR0 bits the CPU allows.
    supported: u64,
    /// By XCR0 bit: where the component ends in the standard format.
    ends: [u32; 64],
}

impl FpuSupport {
    /// Reads CPUID leaves 1 and 0DH (SDM vol. 1, 13.2 and 13.4.3).
    pub(crate) fn probe(cpuid: &impl CpuidBus) -> Self {
        let mut support = Self { xsave: false, supported: LEGACY_STATE, ends: [0; 64] };
        support.xsave = cpuid.cpuid(1, 0).ecx & (1 << 26) != 0 && cpuid.cpuid(0, 0).eax >= 0xd;
        if !support.xsave {
            return support;
        }
        let main = cpuid.cpuid(0xd, 0);
        support.supported = u64::from(main.edx) << 32 | u64::from(main.eax) | LEGACY_STATE;
        for bit in 2..63u32 {
            if support.supported & (1 << bit) != 0 {
                let component = cpuid.cpuid(0xd, bit);
                support.ends[bit as usize] = component.ebx.saturating_add(component.eax);
            }
        }
        support
    }

    /// Bytes of an area that holds the components of `mask`.
    fn area_bytes(&self, mask: u64) -> u32 {
        (0..64)
            .filter(|bit| mask & (1 << bit) != 0)
            .map(|bit| self.ends[bit])
            .fold(LEGACY_AND_HEADER_BYTES, u32::max)
    }

    /// Makes the calling CPU able to save and load state: CR0.EM and TS clear, CR4.OSFXSR, OSXMMEXCPT and, where there
    /// is XSAVE, OSXSAVE set. To be called before a backend records the host's CR0 and CR4.
    pub(crate) fn prepare_cpu(&self) {
        insn::prepare_cpu(self.xsave);
    }
}

/// One virtual CPU's state.
#[derive(Debug)]
pub(crate) struct Fpu {
    xsave: bool,
    /// The components that belong to the guest: what XCR0 may ever hold, and x87 and SSE always.
    mask: u64,
    area: Hva,
    /// Bytes of the area that components take.
    area_bytes: u32,
    xcr0: u64,
    loaded: bool,
}

/// Index of MXCSR's word in an area, and of the header's (SDM vol. 1, 13.4).
const MXCSR_WORD: usize = 3;
const HEADER_WORD: usize = 64;
/// MXCSR bits that a write accepts on every CPU with SSE2 (SDM vol. 1, 11.6.6).
const MXCSR_KNOWN: u32 = 0xffff;

impl Fpu {
    /// The initial state, for a guest that may set `xcr0_allowed` in XCR0 (0: no XSAVE).
    pub(crate) fn new(
        support: &FpuSupport,
        xcr0_allowed: u64,
        pages: &mut dyn HostPages,
    ) -> Result<Self, OutOfFrames> {
        let mask = xcr0_allowed & support.supported | LEGACY_STATE;
        let area_bytes = support.area_bytes(mask);
        let page = pages.alloc_pages(u64::from(area_bytes).div_ceil(PAGE_SIZE) as usize)?;
        insn::write_initial(page.hva);
        let (xsave, xcr0) = (support.xsave, XCR0_RESET);
        Ok(Self { xsave, mask, area: page.hva, area_bytes, xcr0, loaded: false })
    }

    /// The guest's XCR0.
    pub(crate) fn xcr0(&self) -> u64 {
        self.xcr0
    }

    /// Sets the guest's XCR0 to a value that has been checked. Bits the area has no room for are dropped.
    pub(crate) fn set_xcr0(&mut self, value: u64) {
        self.xcr0 = value & self.mask | XCR0_RESET;
        if self.loaded && self.xsave {
            insn::xsetbv(self.xcr0);
        }
    }

    /// The state as XSAVE stores it.
    pub(crate) fn image(&self) -> Vec<u64> {
        if self.loaded {
            self.store();
        }
        let mut image = alloc::vec![0; self.area_bytes.div_ceil(8) as usize];
        insn::read_area(self.area, &mut image);
        image
    }

    /// Puts an image and XCR0 in place of the present state. An image that is shorter than the area lacks components that
    /// were never used.
    pub(crate) fn restore(&mut self, image: &[u64], xcr0: u64) -> Result<(), StateError> {
        let too_long = image.len() > self.area_bytes.div_ceil(8) as usize;
        let [present, compacted, reserved @ ..] = match image.get(HEADER_WORD..HEADER_WORD + 8) {
            Some(header) => *header.first_chunk::<8>().unwrap_or(&[u64::MAX; 8]),
            None => return Err(StateError::Components),
        };
        // XRSTOR raises #GP for these (SDM vol. 1, 13.8.1).
        if too_long || present & !self.mask != 0 || xcr0 & !self.mask != 0 {
            return Err(StateError::Components);
        }
        if compacted != 0 || reserved != [0; 6] || image[MXCSR_WORD] as u32 & !MXCSR_KNOWN != 0 {
            return Err(StateError::Value("XSAVE image"));
        }
        let loaded = self.loaded;
        self.unload();
        insn::write_area(self.area, image);
        self.set_xcr0(xcr0);
        if loaded {
            self.load();
        }
        Ok(())
    }

    /// Stores the registers in the area; the guest's state stays in them.
    fn store(&self) {
        if self.xsave {
            insn::xsetbv(self.mask);
            insn::xsave(self.area, self.mask);
            insn::xsetbv(self.xcr0);
        } else {
            insn::fxsave(self.area);
        }
    }

    /// Puts the guest's state into the registers.
    pub(crate) fn load(&mut self) {
        if self.loaded {
            return;
        }
        if self.xsave {
            // The area is loaded whole, with components that the guest has switched off in its XCR0 for now: they keep
            // their values until it switches them on again.
            insn::xsetbv(self.mask);
            insn::xrstor(self.area, self.mask);
            insn::xsetbv(self.xcr0);
        } else {
            insn::fxrstor(self.area);
        }
        self.loaded = true;
    }

    /// Takes the guest's state out of the registers and leaves them in the initial state.
    pub(crate) fn unload(&mut self) {
        if !self.loaded {
            return;
        }
        self.store();
        if self.xsave {
            insn::xsetbv(self.mask);
            insn::xrstor_initial(self.mask);
            insn::xsetbv(XCR0_RESET);
        } else {
            insn::fxrstor_initial();
        }
        self.loaded = false;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use hw::CpuidResult;

    /// A CPU with x87, SSE, AVX (at 576, 256 bytes) and PKRU (at 2688, 8 bytes).
    struct Avx {
        xsave: bool,
    }

    impl CpuidBus for Avx {
        fn cpuid(&self, leaf: u32, subleaf: u32) -> CpuidResult {
            let (eax, ebx, ecx) = match (leaf, subleaf) {
                (0, _) => (0x16, 0, 0),
                (1, _) => (0, 0, u32::from(self.xsave) << 26),
                (0xd, 0) => (0x207, 2696, 2696),
                (0xd, 2) => (256, 576, 0),
                (0xd, 9) => (8, 2688, 0),
                _ => (0, 0, 0),
            };
            CpuidResult { eax, ebx, ecx, edx: 0 }
        }
    }

    #[test]
    fn an_area_has_room_for_the_allowed_components_only() {
        let support = FpuSupport::probe(&Avx { xsave: true });
        assert_eq!(support.supported, 0x207);
        assert_eq!(support.area_bytes(0b011), 576);
        assert_eq!(support.area_bytes(0b111), 832);
        assert_eq!(support.area_bytes(0x207), 2696);
    }

    #[test]
    fn without_xsave_there_is_the_legacy_region() {
        let support = FpuSupport::probe(&Avx { xsave: false });
        assert_eq!(support.supported, 0b11);
        assert_eq!(support.area_bytes(support.supported), 576);
    }

    struct OnePage(Box<[u64; 512]>);
    impl HostPages for OnePage {
        fn alloc_pages(&mut self, count: usize) -> Result<crate::HostPage, OutOfFrames> {
            assert_eq!(count, 1);
            let hva = self.0.as_ptr().expose_provenance() as u64;
            Ok(crate::HostPage { hpa: hw::Hpa::new(hva), hva: Hva::new(hva) })
        }
    }

    #[test]
    fn a_guest_never_gets_a_component_without_room() {
        let mut pages = OnePage(Box::new([0; 512]));
        let support = FpuSupport::probe(&Avx { xsave: true });
        let mut fpu = Fpu::new(&support, 0b111, &mut pages).unwrap();
        assert_eq!(fpu.xcr0(), 1, "XCR0 starts as after reset");
        fpu.set_xcr0(0x207);
        assert_eq!(fpu.xcr0(), 0b111);
    }

    #[test]
    fn an_image_comes_back_and_a_bad_one_is_refused() {
        let mut pages = OnePage(Box::new([0; 512]));
        let support = FpuSupport::probe(&Avx { xsave: true });
        let mut fpu = Fpu::new(&support, 0b111, &mut pages).unwrap();
        let mut image = fpu.image();
        assert_eq!(image.len(), 832 / 8);
        image[HEADER_WORD] = 0b111;
        image[72] = 0x1234;
        assert_eq!(fpu.restore(&image, 0b111), Ok(()));
        assert_eq!((fpu.image(), fpu.xcr0()), (image.clone(), 0b111));
        let refused = |fpu: &mut Fpu, at: usize, value| {
            let mut bad = image.clone();
            bad[at] = value;
            fpu.restore(&bad, 1).is_err()
        };
        assert!(refused(&mut fpu, HEADER_WORD, 1 << 9), "a component without room");
        assert!(refused(&mut fpu, HEADER_WORD + 1, 1 << 63), "the compacted form");
        assert!(refused(&mut fpu, HEADER_WORD + 7, 1));
        assert!(refused(&mut fpu, MXCSR_WORD, 0x1_0000));
        assert_eq!(fpu.restore(&image[..71], 1), Err(StateError::Components));
        assert_eq!(fpu.restore(&[&image[..], &[0]].concat(), 1), Err(StateError::Components));
        assert_eq!(fpu.restore(&image, 0x207), Err(StateError::Components));
        assert_eq!(fpu.image(), image, "a refusal changes nothing");
    }

    #[test]
    fn the_initial_state_masks_every_floating_point_exception() {
        let mut pages = OnePage(Box::new([0; 512]));
        let support = FpuSupport::probe(&Avx { xsave: false });
        Fpu::new(&support, 0, &mut pages).unwrap();
        let area = &pages.0;
        assert_eq!(area[0] & 0xffff, 0x37f, "x87 control word");
        assert_eq!(area[3] & 0xffff_ffff, 0x1f80, "MXCSR");
        assert_eq!(area[64], 0, "XSTATE_BV: every component in its initial state");
    }
}
