//! Dirty bits: which pages the hardware has written to, read and cleared.

use hw::{Hpa, PAGE_SIZE, TableMemory};

use crate::{EntryFormat, PageTable};

/// A format whose leaves tell that they were written to.
pub trait DirtyFormat: EntryFormat {
    /// That bit.
    const DIRTY: u64;
}

impl<F: DirtyFormat> PageTable<F> {
    /// Clears the dirty bit of every page of `[input, input + bytes)` that has it, and calls `dirty` with the page's
    /// first input address and its length. Writes that come before the caller has flushed the translations may go
    /// untold, as the hardware remembers that the bit was set.
    ///
    /// A bit that the hardware sets at the same moment is not lost: only entries with the bit set are written, and of
    /// those the hardware sets no bit that matters.
    pub fn take_dirty(
        &mut self,
        mem: &mut impl TableMemory,
        input: u64,
        bytes: u64,
        mut dirty: impl FnMut(u64, u64),
    ) {
        let end = input.saturating_add(bytes);
        let mut at = input;
        while at < end {
            let (table, index, level, entry) = find::<F>(mem, self.root(), at);
            let span = PAGE_SIZE << (9 * (u32::from(level) - 1));
            let first = at & !(span - 1);
            if F::is_present(entry) && entry & F::DIRTY != 0 {
                mem.store(table, index, entry & !F::DIRTY);
                dirty(first, span);
            }
            let Some(next) = first.checked_add(span) else { return };
            at = next;
        }
    }
}

/// Table, index, level and value of the leaf or absent entry for `input`.
fn find<F: EntryFormat>(mem: &impl TableMemory, root: Hpa, input: u64) -> (Hpa, usize, u8, u64) {
    let (mut table, mut level) = (root, F::LEVELS);
    loop {
        let index = (input >> (12 + 9 * (u32::from(level) - 1))) as usize % 512;
        let entry = mem.load(table, index);
        if !F::is_present(entry) || F::is_leaf(level, entry) {
            return (table, index, level, entry);
        }
        table = F::address(level, entry);
        level -= 1;
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use hw::OutOfFrames;

    use super::*;
    use crate::format::{Ept, FirstStage, Npt, SecondStage};
    use crate::{Caching, PageSize, Rights};

    #[derive(Default)]
    struct Frames(HashMap<u64, [u64; 512]>);

    impl TableMemory for Frames {
        fn alloc(&mut self) -> Result<Hpa, OutOfFrames> {
            let hpa = 0x10_0000 + self.0.len() as u64 * PAGE_SIZE;
            self.0.insert(hpa, [0; 512]);
            Ok(Hpa::new(hpa))
        }
        fn free(&mut self, table: Hpa) {
            self.0.remove(&table.raw());
        }
        fn load(&self, table: Hpa, index: usize) -> u64 {
            self.0[&table.raw()][index]
        }
        fn store(&mut self, table: Hpa, index: usize, entry: u64) {
            self.0.get_mut(&table.raw()).expect("a table")[index] = entry;
        }
    }

    fn each_dirty_page_is_told_once<F: DirtyFormat>(base: u64) {
        const M2: u64 = 2 << 20;
        let mut mem = Frames::default();
        let mut table = PageTable::<F>::new(&mut mem).expect("a frame");
        let (rights, caching, max) = (Rights::RW, Caching::WriteBack, PageSize::Size2M);
        let bytes = 2 * M2 + 3 * PAGE_SIZE;
        table.map(&mut mem, base, Hpa::ZERO, bytes, rights, caching, max).expect("free");
        table.take_dirty(&mut mem, base, bytes, |_, _| {});
        for written in [M2, 2 * M2 + PAGE_SIZE] {
            let (table, index, _, entry) = find::<F>(&mem, table.root(), base + written);
            mem.store(table, index, entry | F::DIRTY);
        }
        let mut told = Vec::new();
        table.take_dirty(&mut mem, base, 8 * M2, |at, bytes| told.push((at - base, bytes)));
        assert_eq!(told, [(M2, M2), (2 * M2 + PAGE_SIZE, PAGE_SIZE)]);
        table.take_dirty(&mut mem, base, 8 * M2, |at, _| panic!("{at:#x} told twice"));
        assert_eq!(table.translate(&mem, base + M2 + 5).map(|found| found.hpa.raw()), Some(M2 + 5));
    }

    #[test]
    fn dirty_bits_are_read_and_cleared_in_both_stages() {
        each_dirty_page_is_told_once::<SecondStage<3>>(1 << 38);
        each_dirty_page_is_told_once::<SecondStage<4>>(1 << 47);
        each_dirty_page_is_told_once::<FirstStage>(1 << 46);
        each_dirty_page_is_told_once::<Ept>(1 << 46);
        each_dirty_page_is_told_once::<Npt>(1 << 46);
    }

    #[test]
    fn three_levels_reach_39_bits_and_no_further() {
        let mut mem = Frames::default();
        let mut table = PageTable::<SecondStage<3>>::new(&mut mem).expect("a frame");
        let mut map = |input| {
            let (rights, caching, max) = (Rights::RW, Caching::WriteBack, PageSize::Size1G);
            table.map(&mut mem, input, Hpa::ZERO, PAGE_SIZE, rights, caching, max)
        };
        assert_eq!(map(1 << 39), Err(crate::MapError::OutOfRange(1 << 39)));
        assert_eq!(map((1 << 39) - PAGE_SIZE), Ok(()));
    }
}
