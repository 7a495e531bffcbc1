//! Portals (3.3, 9.3): four pages for each queue, in any 64-byte line of which a descriptor is written whole. Their order is
//! figure 9-2's.

use hw::PAGE_SIZE;

/// Pages of a queue.
pub const PAGES: u64 = 4;

/// A portal: a page of BAR 2.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Portal {
    /// Its queue.
    pub queue: u8,
    /// Descriptors name entries of the interrupt message storage rather than of the MSI-X table.
    pub ims: bool,
    /// A shared queue takes descriptors up to its threshold only.
    pub limited: bool,
}

impl Portal {
    /// The portal that `offset` in BAR 2 is in; `None` behind the 256th queue's.
    #[must_use]
    pub const fn at(offset: u64) -> Option<Self> {
        let page = offset / PAGE_SIZE;
        if page >= PAGES << 8 {
            return None;
        }
        Some(Self { queue: (page / PAGES) as u8, ims: page & 2 != 0, limited: page & 1 != 0 })
    }

    /// Its offset in BAR 2.
    #[must_use]
    pub const fn offset(self) -> u64 {
        (self.queue as u64 * PAGES + (self.ims as u64) * 2 + self.limited as u64) * PAGE_SIZE
    }
}
