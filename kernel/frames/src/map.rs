//! A memory map made sane.
//!
//! There is no heap yet when this runs, and a map may have any number of entries, so [`Runs`] sorts nothing: each run
//! is found by scanning the map again. That is quadratic in the number of entries, and a map of 2,000 entries still
//! takes a few milliseconds.

use hw::{Hpa, PAGE_SHIFT, PAGE_SIZE};

/// The first frame number past what physical addresses can reach (SDM vol. 3, 4.1.4: at most 52 bits).
const FRAME_LIMIT: u64 = 1 << (52 - PAGE_SHIFT);

/// One entry of a memory map, as the firmware gave it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Entry {
    /// Host physical start in bytes.
    pub start: u64,
    /// Number of 4 KiB pages.
    pub pages: u64,
    /// Whether the memory may be used. Where entries overlap, one that says no wins.
    pub usable: bool,
}

/// Frames in a row: a range of memory in units of 4 KiB, never empty.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Run {
    first: u64,
    end: u64,
}

impl Run {
    /// The frames with numbers from `first` up to, not including, `end`; `None` where there are none, or where they lie
    /// beyond what physical addresses reach.
    #[must_use]
    pub const fn try_new(first: u64, end: u64) -> Option<Self> {
        if first < end && end <= FRAME_LIMIT { Some(Self { first, end }) } else { None }
    }

    /// The number of the first frame.
    #[must_use]
    pub const fn first(self) -> u64 {
        self.first
    }

    /// The number past the last frame.
    #[must_use]
    pub const fn end(self) -> u64 {
        self.end
    }

    /// How many frames.
    #[must_use]
    pub const fn frames(self) -> u64 {
        self.end - self.first
    }

    /// The address of the first byte.
    #[must_use]
    pub const fn start(self) -> Hpa {
        Hpa::new(self.first << PAGE_SHIFT)
    }

    /// The length in bytes.
    #[must_use]
    pub const fn bytes(self) -> u64 {
        self.frames() << PAGE_SHIFT
    }
}

/// Something wrong with one entry of a memory map. The map is used all the same.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Problem {
    /// It has no page; it is dropped.
    Empty,
    /// It starts inside a page: a usable one is shrunk to whole pages, another grown.
    Unaligned,
    /// It reaches past the end of the physical address space; it is cut there.
    Wraps,
    /// It overlaps an earlier entry, the one with this index; what either says is not usable is not used.
    Overlaps(usize),
}

impl Entry {
    /// The frames of the entry, cut to what addresses reach: first, and past the last.
    fn frames(self) -> (u64, u64) {
        let whole = self.start >> PAGE_SHIFT;
        let partial = u64::from(self.start & (PAGE_SIZE - 1) != 0);
        let end = whole.saturating_add(self.pages);
        let (first, end) = if self.usable {
            (whole + partial, end)
        } else if self.pages == 0 {
            (whole, whole)
        } else {
            (whole, end.saturating_add(partial))
        };
        (first, end.min(FRAME_LIMIT))
    }

    fn overlaps(self, other: Self) -> bool {
        let (a, b) = (self.frames(), other.frames());
        a.0 < b.1 && b.0 < a.1 && a.0 < a.1 && b.0 < b.1
    }
}

/// Tells `report` each problem of the map, with the index of its entry; each entry's kind of problem just once.
pub fn problems(
    entries: impl Iterator<Item = Entry> + Clone,
    mut report: impl FnMut(usize, Problem),
) {
    for (index, entry) in entries.clone().enumerate() {
        if entry.pages == 0 {
            report(index, Problem::Empty);
            continue;
        }
        if entry.start & (PAGE_SIZE - 1) != 0 {
            report(index, Problem::Unaligned);
        }
        if (entry.start >> PAGE_SHIFT).saturating_add(entry.pages) > FRAME_LIMIT {
            report(index, Problem::Wraps);
        }
        if let Some(earlier) = entries.clone().take(index).position(|other| other.overlaps(entry)) {
            report(index, Problem::Overlaps(earlier));
        }
    }
}

/// The usable memory of the map: disjoint, sorted, neighbours merged.
pub fn runs<E: Iterator<Item = Entry> + Clone>(entries: E) -> Runs<E> {
    Runs { entries, at: 0 }
}

/// Iterator over the usable runs of a memory map; see [`runs`].
#[derive(Clone, Debug)]
pub struct Runs<E> {
    entries: E,
    /// No frame below this one is left to tell of.
    at: u64,
}

impl<E: Iterator<Item = Entry> + Clone> Runs<E> {
    fn with(&self, usable: bool) -> impl Iterator<Item = (u64, u64)> {
        let entries = self.entries.clone();
        entries.filter(move |e| e.usable == usable).map(Entry::frames).filter(|(a, b)| a < b)
    }

    /// The first usable frame at or above `self.at` that nothing forbids.
    fn next_first(&self) -> Option<u64> {
        let mut at = self.at;
        loop {
            let first = self.with(true).filter(|r| r.1 > at).map(|r| r.0.max(at)).min()?;
            let forbidden = self.with(false).filter(|r| r.0 <= first && first < r.1);
            match forbidden.map(|r| r.1).max() {
                Some(end) => at = end,
                None => return Some(first),
            }
        }
    }
}

impl<E: Iterator<Item = Entry> + Clone> Iterator for Runs<E> {
    type Item = Run;

    fn next(&mut self) -> Option<Run> {
        let first = self.next_first()?;
        let limit = self.with(false).map(|r| r.0).filter(|&s| s > first).min();
        let limit = limit.unwrap_or(FRAME_LIMIT);
        let mut end = first;
        // One pass carries the end through any chain that is sorted; others need a pass more.
        loop {
            let before = end;
            for (s, e) in self.with(true) {
                if s <= end && e > end {
                    end = e;
                }
            }
            if end == before || end >= limit {
                break;
            }
        }
        let run = Run::try_new(first, end.min(limit))?;
        self.at = run.end;
        Some(run)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn usable(start: u64, pages: u64) -> Entry {
        Entry { start, pages, usable: true }
    }

    fn reserved(start: u64, pages: u64) -> Entry {
        Entry { start, pages, usable: false }
    }

    fn found(map: &[Entry]) -> Vec<(u64, u64)> {
        runs(map.iter().copied()).map(|r| (r.first(), r.end())).collect()
    }

    fn complaints(map: &[Entry]) -> Vec<(usize, Problem)> {
        let mut list = Vec::new();
        problems(map.iter().copied(), |index, problem| list.push((index, problem)));
        list
    }

    #[test]
    fn unsorted_neighbours_are_merged() {
        assert_eq!(found(&[usable(0x3000, 2), usable(0x1000, 2)]), [(1, 5)]);
    }

    #[test]
    fn what_is_not_usable_wins_an_overlap() {
        let map = [usable(0, 10), reserved(0x4000, 2)];
        assert_eq!(found(&map), [(0, 4), (6, 10)]);
        assert_eq!(complaints(&map), [(1, Problem::Overlaps(0))]);
    }

    #[test]
    fn empty_entries_are_dropped_and_told() {
        let map = [usable(0x5000, 0), reserved(0x1000, 0), usable(0, 4)];
        assert_eq!(found(&map), [(0, 4)]);
        assert_eq!(complaints(&map), [(0, Problem::Empty), (1, Problem::Empty)]);
    }

    #[test]
    fn wrapping_entries_are_cut() {
        let map = [usable(0x1000, u64::MAX), reserved(u64::MAX - 0xfff, 5)];
        assert_eq!(found(&map), [(1, FRAME_LIMIT)]);
        assert_eq!(complaints(&map), [(0, Problem::Wraps), (1, Problem::Wraps)]);
    }

    #[test]
    fn partial_pages_are_never_used() {
        assert_eq!(found(&[usable(0x1800, 3)]), [(2, 4)]);
        assert_eq!(found(&[usable(0, 8), reserved(0x1800, 1)]), [(0, 1), (3, 8)]);
    }

    #[test]
    fn an_empty_map_has_no_runs() {
        assert_eq!(found(&[]), []);
    }

    fn entry() -> impl Strategy<Value = Entry> {
        (0u64..96, 0u64..24, any::<bool>()).prop_map(|(frame, pages, usable)| Entry {
            start: frame << PAGE_SHIFT,
            pages,
            usable,
        })
    }

    proptest! {
        #[test]
        fn runs_are_the_frames_that_are_usable_and_not_forbidden(map in prop::collection::vec(entry(), 0..24)) {
            let covers = |e: &Entry, f: u64| e.start >> PAGE_SHIFT <= f && f < (e.start >> PAGE_SHIFT) + e.pages;
            let want: Vec<u64> = (0..160)
                .filter(|&f| map.iter().any(|e| e.usable && covers(e, f)))
                .filter(|&f| !map.iter().any(|e| !e.usable && covers(e, f)))
                .collect();
            let got = found(&map);
            let frames: Vec<u64> = got.iter().flat_map(|&(a, b)| a..b).collect();
            prop_assert_eq!(frames, want);
            prop_assert!(got.windows(2).all(|w| w[0].1 < w[1].0), "sorted, disjoint and merged");
        }

        #[test]
        fn no_map_is_too_strange(raw in prop::collection::vec((any::<u64>(), any::<u64>(), any::<bool>()), 0..12)) {
            let map: Vec<Entry> =
                raw.iter().map(|&(start, pages, usable)| Entry { start, pages, usable }).collect();
            let got = found(&map);
            prop_assert!(got.windows(2).all(|w| w[0].1 < w[1].0));
            let _ = complaints(&map);
        }
    }
}
