//! Stacks with a page below them that is never mapped once the kernel's own tables are in force: an overflow faults
//! there, and the double fault it becomes has a stack of its own.

use core::cell::UnsafeCell;
use core::mem::offset_of;

use hw::{Hva, PAGE_SIZE};

use crate::mem;

/// A stack of `N` bytes above its guard page.
#[repr(C, align(4096))]
pub(super) struct Guarded<const N: usize> {
    guard: [u8; PAGE_SIZE as usize],
    stack: UnsafeCell<[u8; N]>,
}

// SAFETY: nothing in Rust touches the bytes; each stack is used by the one CPU whose RSP or TSS names it.
unsafe impl<const N: usize> Sync for Guarded<N> {}

impl<const N: usize> Guarded<N> {
    const fn new() -> Self {
        Self { guard: [0; PAGE_SIZE as usize], stack: UnsafeCell::new([0; N]) }
    }

    /// What RSP starts from.
    pub(super) fn top(&'static self) -> u64 {
        self.stack.get() as u64 + N as u64
    }

    fn guard(&'static self) -> Hva {
        Hva::new(&raw const self.guard as u64)
    }
}

/// Bytes of the boot CPU's stack. An unoptimised build nests deeper.
const BOOT_BYTES: usize = if cfg!(debug_assertions) { 256 << 10 } else { 64 << 10 };
/// Bytes of a stack for one kind of exception: enough to print a report on.
const EXCEPTION_BYTES: usize = if cfg!(debug_assertions) { 32 << 10 } else { 16 << 10 };

/// Bytes of another CPU's stack.
pub(super) const CPU_BYTES: u64 = BOOT_BYTES as u64;

/// Stacks of another CPU for exceptions, in the order of their IST numbers; `None` where memory is short.
pub(super) fn exceptions() -> Option<[u64; 3]> {
    let one = || mem::stack(EXCEPTION_BYTES as u64).map(Hva::raw);
    Some([one()?, one()?, one()?])
}

/// Offset of the boot stack's top within [`BOOT`].
pub(super) const BOOT_TOP: usize = offset_of!(Guarded<BOOT_BYTES>, stack) + BOOT_BYTES;

/// The boot CPU's stack.
pub(super) static BOOT: Guarded<BOOT_BYTES> = Guarded::new();
/// The boot CPU's stacks for double faults, NMIs and machine checks, in the order of their IST numbers from 1.
pub(super) static BOOT_EXCEPTIONS: [Guarded<EXCEPTION_BYTES>; 3] = [const { Guarded::new() }; 3];

/// The pages of the kernel's image that must not be mapped.
pub(crate) fn boot_guards() -> [Hva; 4] {
    let [df, nmi, mc] = &BOOT_EXCEPTIONS;
    [BOOT.guard(), df.guard(), nmi.guard(), mc.guard()]
}
