//! Page tables (SDM 3A 5.5.4): the first 4 GiB one to one in 2 MiB pages, because the loader need not map the devices; and
//! pages that a guest maps elsewhere for itself ([`map`]).

use core::{
    arch::asm,
    sync::atomic::{AtomicU64, AtomicUsize, Ordering},
};

/// Bits of an entry.
pub mod bit {
    #![allow(missing_docs)]
    pub const PRESENT: u64 = 1 << 0;
    pub const WRITABLE: u64 = 1 << 1;
    pub const USER: u64 = 1 << 2;
    pub const UNCACHED: u64 = 0b1_1000;
    pub const ACCESSED: u64 = 1 << 5;
    pub const DIRTY: u64 = 1 << 6;
    pub const NO_EXECUTE: u64 = 1 << 63;
}

/// Where [`map`] has room: all of it is free, and no other entry reaches there.
pub const FREE: u64 = 0x80_0000_0000;

const PRESENT_WRITABLE: u64 = 0b11;
const UNCACHED: u64 = 0b1_1000;
const LARGE: u64 = 1 << 7;
const LARGE_PAGE_BYTES: u64 = 2 << 20;
/// Devices only from here on.
const DEVICES: u64 = 3 << 30;

/// A page of memory: a table, or whatever a guest puts there.
#[repr(C, align(4096))]
pub struct Page([AtomicU64; 512]);

impl Page {
    /// A page of zeros.
    #[allow(clippy::new_without_default)]
    #[must_use]
    pub const fn new() -> Self {
        Self([const { AtomicU64::new(0) }; 512])
    }

    /// Its address, which is its guest physical address.
    #[must_use]
    pub fn gpa(&self) -> u64 {
        core::ptr::from_ref(self).expose_provenance() as u64
    }

    /// Its quadwords.
    #[must_use]
    pub fn words(&self) -> &[AtomicU64; 512] {
        &self.0
    }

    /// Puts bytes at an offset; those that do not fit are dropped.
    pub fn put(&self, offset: usize, bytes: &[u8]) {
        for (at, byte) in (offset..4096).zip(bytes) {
            let shift = 8 * (at % 8);
            let word = &self.0[at / 8];
            let others = word.load(Ordering::Relaxed) & !(0xff << shift);
            word.store(others | u64::from(*byte) << shift, Ordering::Relaxed);
        }
    }
}

static ROOT: Page = Page::new();
static POINTERS: Page = Page::new();
static DIRECTORIES: [Page; 4] = [const { Page::new() }; 4];

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

/// Tables for [`map`].
static SPARE: [Page; 16] = [const { Page::new() }; 16];
static SPARE_TAKEN: AtomicUsize = AtomicUsize::new(0);

/// Maps the 4 KiB at `gva`, from [`FREE`] on, to `gpa` with the bits of an entry; with none of them, to nothing. Gives the
/// entry. The translation that the CPU may remember stays: [`invalidate`].
pub fn map(gva: u64, gpa: u64, bits: u64) -> &'static AtomicU64 {
    assert!(gva >= FREE, "only the free part can be mapped");
    let mut table = &ROOT;
    for level in [39, 30, 21] {
        let entry = &table.0[(gva >> level) as usize & 511];
        if entry.load(Ordering::Relaxed) == 0 {
            let spare = &SPARE[SPARE_TAKEN.fetch_add(1, Ordering::Relaxed)];
            entry.store(spare.gpa() | PRESENT_WRITABLE | bit::USER, Ordering::Relaxed);
        }
        let next = entry.load(Ordering::Relaxed) & !0xfff;
        // SAFETY: every entry above the last level holds the address of a static table.
        table = unsafe { &*core::ptr::with_exposed_provenance(next as usize) };
    }
    let entry = &table.0[(gva >> 12) as usize & 511];
    entry.store(if bits == 0 { 0 } else { gpa | bits }, Ordering::Relaxed);
    entry
}

/// INVLPG.
pub fn invalidate(gva: u64) {
    // SAFETY: forgets a translation, which the tables still have.
    unsafe { asm!("invlpg [{}]", in(reg) gva, options(nostack)) };
}

/// CR3 of these tables.
#[must_use]
pub fn root() -> u64 {
    ROOT.gpa()
}
