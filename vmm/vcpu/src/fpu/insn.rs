//! The instructions behind [`super::Fpu`]: XSAVE, XRSTOR, XSETBV and their elders.
//!
//! UNSAFETY: each is an instruction on an area that its caller owns. The areas come from
//! [`HostPages`](crate::HostPages) and are as long as CPUID says that the components need.

use core::arch::asm;

use hw::Hva;
use x86_spec::cpu::{Cr0, Cr4};

/// The legacy region and header of the state after reset (SDM vol. 1, 13.6): XSTATE_BV is 0, which makes XRSTOR
/// initialize every component; MXCSR is loaded all the same, and FXRSTOR loads the control word too.
#[repr(C, align(64))]
struct Initial([u32; 144]);

static INITIAL: Initial = {
    let mut words = [0; 144];
    words[0] = 0x37f;
    words[6] = 0x1f80;
    Initial(words)
};

const _: () = assert!(size_of::<Initial>() == super::LEGACY_AND_HEADER_BYTES as usize);

/// Writes the initial state at `area`.
pub(super) fn write_initial(area: Hva) {
    let area = core::ptr::with_exposed_provenance_mut::<Initial>(area.raw() as usize);
    // SAFETY: the caller got at least a zeroed page at this address from `HostPages` and has given no one else a
    // reference to it; a page is longer and more aligned than `Initial`.
    unsafe { area.write(Initial(INITIAL.0)) }
}

/// Copies the first words of `area`.
pub(super) fn read_area(area: Hva, into: &mut [u64]) {
    let words = core::ptr::with_exposed_provenance::<u64>(area.raw() as usize);
    for (index, word) in into.iter_mut().enumerate() {
        // SAFETY: the caller asks for no more words than the area has; no Rust reference to it exists.
        *word = unsafe { words.add(index).read_volatile() };
    }
}

/// Replaces the first words of `area`.
pub(super) fn write_area(area: Hva, from: &[u64]) {
    let words = core::ptr::with_exposed_provenance_mut::<u64>(area.raw() as usize);
    for (index, &word) in from.iter().enumerate() {
        // SAFETY: as for reading.
        unsafe { words.add(index).write_volatile(word) }
    }
}

/// See [`super::FpuSupport::prepare_cpu`].
pub(super) fn prepare_cpu(xsave: bool) {
    let mut wanted = Cr4::OSFXSR | Cr4::OSXMMEXCPT;
    if xsave {
        wanted |= Cr4::OSXSAVE;
    }
    let clear = !(Cr0::EM | Cr0::TS).bits();
    // SAFETY: (1) these bits gate floating-point instructions only, which Kerf's own code has none of. (2) CR4.OSXSAVE
    // is set only where CPUID offers XSAVE, and the other two exist on every 64-bit CPU.
    unsafe {
        asm!(
            "mov {t}, cr0",
            "and {t}, {clear}",
            "mov cr0, {t}",
            "mov {t}, cr4",
            "or {t}, {set}",
            "mov cr4, {t}",
            t = out(reg) _,
            clear = in(reg) clear,
            set = in(reg) wanted.bits(),
            options(nostack),
        );
    }
}

/// XSETBV of XCR0.
pub(super) fn xsetbv(value: u64) {
    // SAFETY: CR4.OSXSAVE is set by `prepare_cpu`; every value given here is a subset of what CPUID allows, with x87.
    unsafe {
        asm!("xsetbv", in("ecx") 0, in("eax") value as u32, in("edx") (value >> 32) as u32,
            options(nostack));
    }
}

/// XSAVE64 of the components of `mask`.
pub(super) fn xsave(area: Hva, mask: u64) {
    // SAFETY: the area has room for the components of `mask`, is 64-byte aligned as pages are, and no Rust reference to
    // it exists.
    unsafe {
        asm!("xsave64 [{}]", in(reg) area.raw(), in("eax") mask as u32,
            in("edx") (mask >> 32) as u32, options(nostack));
    }
}

/// XRSTOR64 of the components of `mask`.
pub(super) fn xrstor(area: Hva, mask: u64) {
    // SAFETY: (1) the area was written by `write_initial` or `xsave` only, so that its header and MXCSR are valid. (2)
    // Kerf's own code uses none of the registers loaded.
    unsafe {
        asm!("xrstor64 [{}]", in(reg) area.raw(), in("eax") mask as u32,
            in("edx") (mask >> 32) as u32, options(nostack));
    }
}

/// XRSTOR64 that puts the components of `mask` in their initial state.
pub(super) fn xrstor_initial(mask: u64) {
    // SAFETY: with XSTATE_BV 0 only the legacy region and the header are read, which `INITIAL` has.
    unsafe {
        asm!("xrstor64 [{}]", in(reg) &raw const INITIAL, in("eax") mask as u32,
            in("edx") (mask >> 32) as u32, options(nostack));
    }
}

/// FXSAVE64.
pub(super) fn fxsave(area: Hva) {
    // SAFETY: the area is a page, of which this writes 512 bytes; no Rust reference to it exists.
    unsafe { asm!("fxsave64 [{}]", in(reg) area.raw(), options(nostack)) }
}

/// FXRSTOR64.
pub(super) fn fxrstor(area: Hva) {
    // SAFETY: the area was written by `write_initial` or `fxsave`; Kerf's own code uses none of the registers loaded.
    unsafe { asm!("fxrstor64 [{}]", in(reg) area.raw(), options(nostack)) }
}

/// FXRSTOR64 of the initial state.
pub(super) fn fxrstor_initial() {
    // SAFETY: as for `fxrstor`.
    unsafe { asm!("fxrstor64 [{}]", in(reg) &raw const INITIAL, options(nostack)) }
}
