//! One-to-one page tables of the first 4 GiB in 2 MiB pages (SDM 3A 5.5.4): the loader need not map the devices.

use core::{
    arch::asm,
    sync::atomic::{AtomicU64, Ordering},
};

const PRESENT_WRITABLE: u64 = 0b11;
const UNCACHED: u64 = 0b1_1000;
const LARGE: u64 = 1 << 7;
const LARGE_PAGE_BYTES: u64 = 2 << 20;
/// Devices only from here on.
const DEVICES: u64 = 3 << 30;

#[repr(C, align(4096))]
struct Table([AtomicU64; 512]);

impl Table {
    const fn new() -> Self {
        Self([const { AtomicU64::new(0) }; 512])
    }

    fn gpa(&self) -> u64 {
        core::ptr::from_ref(self).addr() as u64
    }
}

static ROOT: Table = Table::new();
static POINTERS: Table = Table::new();
static DIRECTORIES: [Table; 4] = [const { Table::new() }; 4];

/// Builds the tables and switches to them.
pub(crate) fn map_everything() {
    ROOT.0[0].store(POINTERS.gpa() | PRESENT_WRITABLE, Ordering::Relaxed);
    let pages = DIRECTORIES.iter().flat_map(|directory| &directory.0);
    for (directory, pointer) in DIRECTORIES.iter().zip(&POINTERS.0) {
        pointer.store(directory.gpa() | PRESENT_WRITABLE, Ordering::Relaxed);
    }
    for (gpa, page) in (0..).step_by(LARGE_PAGE_BYTES as usize).zip(pages) {
        let caching = if gpa >= DEVICES { UNCACHED } else { 0 };
        page.store(gpa | LARGE | PRESENT_WRITABLE | caching, Ordering::Relaxed);
    }
    // SAFETY: the tables map the code, stack and statics in use to where they already are, and stay as they are.
    unsafe { asm!("mov cr3, {}", in(reg) ROOT.gpa(), options(nostack)) };
}
