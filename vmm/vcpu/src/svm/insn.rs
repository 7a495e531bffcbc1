//! The instructions of SVM outside entry, the registers that VMRUN leaves alone, and control structures in memory.
//!
//! UNSAFETY: structures are reached through the addresses that [`crate::HostPages`] gave, which no one else has; the
//! instructions move state between the CPU and such structures only.

use core::arch::asm;
use core::marker::PhantomData;
use core::ops::{Deref, DerefMut};

use hw::{Hpa, Hva, Msr, OutOfFrames, PAGE_SIZE};
use x86_spec::svm::{IOPM_BYTES, MSRPM_BYTES, Vmcb};

use crate::HostPages;

/// A structure that lives as long as its backend, in pages of its own. The CPU reads and writes it too, but only inside
/// the instructions here and in [`super::entry`], while no reference to it is alive.
#[derive(Debug)]
pub(super) struct Owned<T> {
    page: crate::HostPage,
    structure: PhantomData<T>,
}

/// What may live in zeroed pages: integers, and structures of them.
pub(super) trait Zeroed {}

macro_rules! zeroed {
    ($($structure:ty),*) => {$(
        impl Zeroed for $structure {}
        const _: () = assert!(align_of::<$structure>() <= PAGE_SIZE as usize);
    )*};
}

zeroed!(Vmcb, [u8; IOPM_BYTES], [u8; MSRPM_BYTES], [u8; PAGE_SIZE as usize]);

impl<T: Zeroed> Owned<T> {
    /// A zeroed `T`.
    pub(super) fn new(pages: &mut dyn HostPages) -> Result<Self, OutOfFrames> {
        let count = size_of::<T>().div_ceil(PAGE_SIZE as usize);
        Ok(Self { page: pages.alloc_pages(count)?, structure: PhantomData })
    }

    /// Where the CPU finds it.
    pub(super) fn hpa(&self) -> Hpa {
        self.page.hpa
    }

    /// Where Kerf finds it.
    pub(super) fn hva(&self) -> Hva {
        self.page.hva
    }

    #[inline(always)]
    fn pointer(&self) -> *mut T {
        core::ptr::with_exposed_provenance_mut(self.page.hva.raw() as usize)
    }
}

impl<T: Zeroed> Deref for Owned<T> {
    type Target = T;

    #[inline(always)]
    fn deref(&self) -> &T {
        // SAFETY: (1) `new` got enough zeroed pages at this address, which for a `Zeroed` type are a valid `T`, aligned
        // as pages are. (2) They are never given back, and this value is their only way to them.
        unsafe { &*self.pointer() }
    }
}

impl<T: Zeroed> DerefMut for Owned<T> {
    #[inline(always)]
    fn deref_mut(&mut self) -> &mut T {
        // SAFETY: as for `deref`; `&mut self` makes it the only reference.
        unsafe { &mut *self.pointer() }
    }
}

/// VMSAVE: stores the CPU's FS, GS, TR, LDTR, KernelGSbase and system-call MSRs.
pub(super) fn vmsave(into: &mut Owned<Vmcb>) {
    // SAFETY: (1) EFER.SVME is set: a `Svm` exists, which made this structure. (2) The structure is a page of its own.
    unsafe { asm!("vmsave rax", in("rax") into.hpa().raw(), options(nostack, preserves_flags)) }
}

/// WRMSR of a register that has been found to exist and whose value does not concern Kerf itself.
pub(super) fn write_guest_msr(msr: Msr, value: u64) {
    // SAFETY: called for [`super::HELD`] alone, where the CPU has them, with bits that it has. They change what RDTSCP and RDPID
    // return, and hold speculation back. Likewise TSC_RATIO, which is for guests alone.
    unsafe {
        asm!("wrmsr", in("ecx") msr.0, in("eax") value as u32, in("edx") (value >> 32) as u32,
            options(nomem, nostack, preserves_flags));
    }
}

/// Puts a guest's breakpoint addresses into DR0 to DR3. They act only together with DR7, which VMRUN switches.
pub(super) fn write_breakpoints(dr: [u64; 4]) {
    // SAFETY: #VMEXIT disables all breakpoints of the host (APM vol. 2, 15.6), so that the addresses mean nothing there.
    unsafe {
        asm!("mov dr0, {}", "mov dr1, {}", "mov dr2, {}", "mov dr3, {}", in(reg) dr[0],
            in(reg) dr[1], in(reg) dr[2], in(reg) dr[3],
            options(nomem, nostack, preserves_flags));
    }
}

/// What the guest left in DR0 to DR3.
pub(super) fn read_breakpoints() -> [u64; 4] {
    let (dr0, dr1, dr2, dr3);
    // SAFETY: reads only.
    unsafe {
        asm!("mov {}, dr0", "mov {}, dr1", "mov {}, dr2", "mov {}, dr3", out(reg) dr0,
            out(reg) dr1, out(reg) dr2, out(reg) dr3, options(nomem, nostack, preserves_flags));
    }
    [dr0, dr1, dr2, dr3]
}

/// Calls the host's machine-check handler: a machine check that was intercepted is not raised again (APM vol. 2,
/// 15.12.15), but its banks still tell of it.
pub(super) fn machine_check() {
    // SAFETY: #MC has no error code, so INT makes the same stack frame as the exception does.
    unsafe { asm!("int 18") }
}
