//! Register pages of an interface, and what of a function's BARs may become one.

use alloc::vec::Vec;
use core::ops::Range;

use hw::PAGE_SIZE;

/// What may be done with a page.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PageKind {
    /// It may be mapped into a guest: it does nothing but to this interface, and holds no interrupt slot.
    Fast,
    /// Likewise, where the CPU translates the PASIDs that guests give to ENQCMD and ENQCMDS; elsewhere ring 0 could put in
    /// anybody's.
    Translated,
    /// Its registers are reached through software only.
    Slow,
    /// It holds interrupt slots: nobody but the function's driver writes it.
    Slots,
}

/// Whole pages of a BAR that belong to one interface.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Page {
    bar: u8,
    offset: u64,
    bytes: u64,
    kind: PageKind,
}

impl Page {
    /// The BAR's index.
    #[must_use]
    pub const fn bar(&self) -> u8 {
        self.bar
    }

    /// Where in the BAR: a multiple of the page size.
    #[must_use]
    pub const fn offset(&self) -> u64 {
        self.offset
    }

    /// How long: a multiple of the page size.
    #[must_use]
    pub const fn bytes(&self) -> u64 {
        self.bytes
    }

    /// A fast page, as one into which descriptors bring their PASIDs.
    pub(crate) fn translated(self) -> Self {
        let kind = if self.kind == PageKind::Fast { PageKind::Translated } else { self.kind };
        Self { kind, ..self }
    }

    /// What may be done with it.
    #[must_use]
    pub const fn kind(&self) -> PageKind {
        self.kind
    }
}

/// Why something is no page of an interface.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PageError {
    /// It is not made of whole pages, or not within a BAR.
    Outside,
    /// It holds interrupt slots.
    HoldsSlots,
}

/// What a driver knows of a function's BARs: their sizes, and where interrupt slots are. It is complete before the first
/// page is made of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BarMap {
    bytes: [u64; 6],
    slots: Vec<(u8, Range<u64>)>,
}

impl BarMap {
    /// BARs of these sizes (0 where there is none), with interrupt slots at these places: bar, offsets.
    ///
    /// # Errors
    /// [`PageError::Outside`] where a slot is in no BAR.
    pub fn new(
        bytes: [u64; 6],
        slots: impl IntoIterator<Item = (u8, Range<u64>)>,
    ) -> Result<Self, PageError> {
        let slots: Vec<_> = slots.into_iter().filter(|(_, range)| !range.is_empty()).collect();
        let map = Self { bytes, slots };
        match map.slots.iter().all(|(bar, range)| range.end <= map.bar_bytes(*bar)) {
            true => Ok(map),
            false => Err(PageError::Outside),
        }
    }

    fn bar_bytes(&self, bar: u8) -> u64 {
        self.bytes.get(usize::from(bar)).copied().unwrap_or(0)
    }

    /// Pages that may be mapped.
    ///
    /// # Errors
    /// [`PageError`].
    pub fn fast(&self, bar: u8, offset: u64, bytes: u64) -> Result<Page, PageError> {
        let page = self.page(bar, offset, bytes, PageKind::Fast)?;
        match self.holds_slots(bar, offset, bytes) {
            true => Err(PageError::HoldsSlots),
            false => Ok(page),
        }
    }

    /// Pages that are not to be mapped: [`PageKind::Slots`] where they hold any.
    ///
    /// # Errors
    /// [`PageError::Outside`].
    pub fn slow(&self, bar: u8, offset: u64, bytes: u64) -> Result<Page, PageError> {
        let kind = match self.holds_slots(bar, offset, bytes) {
            true => PageKind::Slots,
            false => PageKind::Slow,
        };
        self.page(bar, offset, bytes, kind)
    }

    fn page(&self, bar: u8, offset: u64, bytes: u64, kind: PageKind) -> Result<Page, PageError> {
        let end = offset.checked_add(bytes).filter(|end| *end <= self.bar_bytes(bar));
        match (offset | bytes).is_multiple_of(PAGE_SIZE) && bytes != 0 && end.is_some() {
            true => Ok(Page { bar, offset, bytes, kind }),
            false => Err(PageError::Outside),
        }
    }

    fn holds_slots(&self, bar: u8, offset: u64, bytes: u64) -> bool {
        let end = offset.saturating_add(bytes);
        let meets =
            |(of, range): &(u8, Range<u64>)| *of == bar && range.start < end && offset < range.end;
        self.slots.iter().any(meets)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn map() -> BarMap {
        BarMap::new([0x10000, 0, 0x8000, 0, 0, 0], [(0, 0x2800..0x3010)]).unwrap()
    }

    #[test]
    fn no_fast_page_holds_a_slot() {
        let map = map();
        for offset in (0..0x10000).step_by(0x1000) {
            for bytes in (0x1000..=0x10000 - offset).step_by(0x1000) {
                let holds = offset < 0x3010 && 0x2800 < offset + bytes;
                let expected = if holds { Err(PageError::HoldsSlots) } else { Ok(PageKind::Fast) };
                assert_eq!(map.fast(0, offset, bytes).map(|page| page.kind()), expected);
            }
        }
        assert_eq!(map.slow(0, 0x3000, 0x1000).unwrap().kind(), PageKind::Slots);
        assert_eq!(map.fast(2, 0x2000, 0x1000).unwrap().kind(), PageKind::Fast);
    }

    #[test]
    fn pages_are_whole_and_within_their_bar() {
        let map = map();
        for (bar, offset, bytes) in [
            (2, 0x800, 0x1000),
            (2, 0, 0x800),
            (2, 0, 0),
            (2, 0x7000, 0x2000),
            (1, 0, 0x1000),
            (6, 0, 0x1000),
            (2, !0xfff, 0x1000),
        ] {
            assert_eq!(map.fast(bar, offset, bytes), Err(PageError::Outside));
        }
        assert_eq!(BarMap::new([0x1000; 6], [(0, 0xff0..0x1010)]), Err(PageError::Outside));
    }
}
