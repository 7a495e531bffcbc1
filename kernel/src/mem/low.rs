//! Memory in which CPUs start: below 1 MiB, where real mode reaches (SDM vol. 3, 10.4.4). None of it is in the pool.

use ::frames::runs;
use boot_info::{MemoryKind, MemoryRegion};
use hw::{Hpa, PAGE_SIZE, TableMemory as _};
use paging::format::Host;
use paging::{Caching, PageSize, PageTable, Rights};
use spin::Once;

use super::{Tables, direct, entries, space};

/// Frames from the end of the interrupt vectors and the firmware's variables to that of conventional memory.
const CONVENTIONAL: core::ops::Range<u64> = 1..0xa0;
/// Of a root, entries from here on map the upper half of the addresses.
const UPPER_HALF: core::ops::Range<usize> = 256..512;

static FOUND: Once<Option<Hpa>> = Once::new();

/// Finds two pages that the firmware's map calls free.
pub(super) fn init(map: &'static [MemoryRegion]) {
    FOUND.call_once(|| {
        let free = |kind| matches!(kind, MemoryKind::Usable | MemoryKind::BootReclaimable);
        let ends = runs(entries(map, free)).filter_map(|run| {
            let end = run.end().min(CONVENTIONAL.end);
            (end >= run.first().max(CONVENTIONAL.start) + 2).then_some(end)
        });
        // The highest: what old firmware forgets to tell lies at the bottom.
        ends.max().map(|end| Hpa::new((end - 2) * PAGE_SIZE))
    });
}

/// A page of code that a CPU starts in, and page tables to leave real mode with.
#[derive(Debug)]
pub(crate) struct StartPages {
    code: Hpa,
    tables: PageTable<Host>,
}

impl StartPages {
    /// Puts `code` in place, and maps its page at identity beside all that the kernel's own tables map. `None` where no
    /// low memory is free, or no frame for tables.
    pub(crate) fn new(code: &[u8]) -> Option<Self> {
        let at = (*FOUND.get()?)?;
        let mut pages = Self { code: at, tables: PageTable::new(&mut Tables).ok()? };
        let page = PageSize::Size4K;
        // The code writes beside itself, before protection from that is on.
        let (rights, caching) = (Rights::RWX, Caching::WriteBack);
        pages.tables.map(&mut Tables, at.raw(), at, PAGE_SIZE, rights, caching, page).ok()?;
        let kernel = space::SPACE.lock().as_ref()?.table.root();
        let (low, own) = (pages.root(), pages.tables.root());
        for index in 0..UPPER_HALF.end {
            let from = if UPPER_HALF.contains(&index) { kernel } else { own };
            Tables.store(low, index, Tables.load(from, index));
        }
        pages.write(0, code)?;
        Some(pages)
    }

    /// Where the CPU starts, by the number of the page.
    pub(crate) fn vector(&self) -> u8 {
        (self.code.raw() / PAGE_SIZE) as u8
    }

    /// The root of the tables: in reach of a CPU that is not in 64-bit mode yet.
    pub(crate) fn root(&self) -> Hpa {
        self.code.wrapping_add(PAGE_SIZE)
    }

    /// Where the byte at `offset` of the code is.
    pub(crate) fn address(&self, offset: usize) -> Hpa {
        self.code.wrapping_add(offset as u64)
    }

    /// Writes into the page of code; `None` where it ends before.
    pub(crate) fn write(&mut self, offset: usize, bytes: &[u8]) -> Option<()> {
        let end = offset.checked_add(bytes.len())?;
        if end > PAGE_SIZE as usize {
            return None;
        }
        let to = direct::address(self.address(offset)).raw() as *mut u8;
        // SAFETY: the page is memory below 1 MiB that the firmware's map calls free: it is in the direct map, not in the
        // pool, and `self` is its one owner, as `FOUND` gives it out for no other use. The range lies within it.
        unsafe { core::ptr::copy_nonoverlapping(bytes.as_ptr(), to, bytes.len()) };
        Some(())
    }

    /// Gives the tables back. No CPU is on them any more, nor will be.
    pub(crate) fn free(self) {
        self.tables.free(&mut Tables);
    }
}
