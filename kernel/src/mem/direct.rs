//! The direct map: physical memory by its address, before and after the kernel's own tables are in force.

use core::arch::asm;

use boot_info::{BootFile, DIRECT_MAP, MemoryRegion, Table};
use hw::{Hpa, Hva, PAGE_SIZE};

/// Where the direct map has the byte at `hpa`.
pub(super) const fn address(hpa: Hpa) -> Hva {
    Hva::new(DIRECT_MAP.wrapping_add(hpa.raw()))
}

/// Records that are plain bytes: every bit pattern is one.
///
/// # Safety
/// The implementer is `repr(C)` of integers, without padding that is read.
pub(super) unsafe trait Plain {}
// SAFETY: integers and arrays of them.
unsafe impl Plain for MemoryRegion {}
// SAFETY: integers and arrays of them.
unsafe impl Plain for BootFile {}
// SAFETY: an integer.
unsafe impl Plain for u8 {}

/// The records of a table that the boot application left. Valid until its memory is reclaimed.
pub(super) fn records<T: Plain>(table: Table) -> &'static [T] {
    if table.hpa == 0 || table.count == 0 {
        return &[];
    }
    let first = address(Hpa::new(table.hpa)).raw() as *const T;
    assert!(first.is_aligned(), "the boot application left a misaligned table");
    // SAFETY: (1) the record's magic, version and size were checked, so its tables are the boot application's: in memory,
    // mapped, initialized. (2) Nothing writes to them, and `super::init` uses none after it has reclaimed that memory.
    // (3) Any bits are a valid `T`.
    unsafe { core::slice::from_raw_parts(first, table.count as usize) }
}

/// The bytes of a loaded file.
pub(super) fn bytes(hpa: Hpa, bytes: u64) -> &'static [u8] {
    if bytes == 0 {
        return &[];
    }
    // SAFETY: the boot application put files into memory of kind `Loaded`, which stays mapped and is never allocated or
    // written.
    unsafe { core::slice::from_raw_parts(address(hpa).raw() as *const u8, bytes as usize) }
}

/// Zeroes frames.
///
/// # Safety
/// The frames are in the direct map and the caller's alone.
pub(super) unsafe fn zero(start: Hpa, frames: u64) {
    // By words: emulators, and CPUs without fast strings, take a step for each element.
    // SAFETY: mapped and the caller's, it says; the direction flag is clear by the ABI.
    unsafe {
        asm!(
            "rep stosq",
            inout("rdi") address(start).raw() => _,
            inout("rcx") frames * PAGE_SIZE / 8 => _,
            in("rax") 0u64,
            options(nostack, preserves_flags),
        );
    }
}

/// Words of memory for good.
///
/// # Safety
/// The range is in the direct map, and from now on this slice's alone.
pub(super) unsafe fn words(start: Hpa, count: usize) -> &'static mut [u64] {
    // SAFETY: page-aligned, mapped and unshared, says the caller; any bits are valid words.
    unsafe { core::slice::from_raw_parts_mut(address(start).raw() as *mut u64, count) }
}
