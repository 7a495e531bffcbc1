//! The walker against two references: a model that knows ranges only, and a walk over the raw entries, written from the
//! manuals apart from the formats.

use std::collections::{BTreeMap, HashMap};

use hw::{Hpa, OutOfFrames, TableMemory};
use proptest::prelude::*;

use crate::format::{Ept, Host, Npt};
use crate::{Caching, EntryFormat, MapError, PageSize, PageTable, Rights};

const K4: u64 = 4 << 10;
const M2: u64 = 2 << 20;
const G1: u64 = 1 << 30;

/// Frames in a hash map, at addresses that are neither in a row nor small.
#[derive(Default)]
struct Frames {
    tables: HashMap<u64, Box<[u64; 512]>>,
    made: u64,
    left: Option<u64>,
}

impl TableMemory for Frames {
    fn alloc(&mut self) -> Result<Hpa, OutOfFrames> {
        if let Some(left) = &mut self.left {
            *left = left.checked_sub(1).ok_or(OutOfFrames)?;
        }
        self.made += 1;
        let hpa = 0xa_0000_0000 + self.made * 0x7000;
        self.tables.insert(hpa, Box::new([0; 512]));
        Ok(Hpa::new(hpa))
    }
    fn free(&mut self, table: Hpa) {
        assert!(self.tables.remove(&table.raw()).is_some(), "freed twice: {table}");
    }
    fn load(&self, table: Hpa, index: usize) -> u64 {
        self.tables[&table.raw()][index]
    }
    fn store(&mut self, table: Hpa, index: usize, entry: u64) {
        self.tables.get_mut(&table.raw()).expect("a table in use")[index] = entry;
    }
}

/// What a reference says of one address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Seen {
    hpa: u64,
    write: bool,
    execute: bool,
    caching: Caching,
}

/// A format, and how its entries read by the manuals.
trait Raw: EntryFormat {
    fn raw(entry: u64) -> Option<(bool, bool)>;
    fn raw_caching(entry: u64) -> Caching;
}

fn raw_x86_caching(entry: u64) -> Caching {
    match entry & 0x18 {
        0x00 => Caching::WriteBack,
        0x08 => Caching::WriteCombining,
        0x18 => Caching::Uncacheable,
        other => panic!("cache bits {other:#x}"),
    }
}

impl Raw for Host {
    fn raw(entry: u64) -> Option<(bool, bool)> {
        assert_eq!(entry & 4, 0, "a user page in the host's tables");
        (entry & 1 == 1).then_some((entry & 2 != 0, entry >> 63 == 0))
    }
    fn raw_caching(entry: u64) -> Caching {
        raw_x86_caching(entry)
    }
}

impl Raw for Npt {
    fn raw(entry: u64) -> Option<(bool, bool)> {
        assert!(entry & 1 == 0 || entry & 4 != 0, "a supervisor page in nested tables");
        (entry & 1 == 1).then_some((entry & 2 != 0, entry >> 63 == 0))
    }
    fn raw_caching(entry: u64) -> Caching {
        raw_x86_caching(entry)
    }
}

impl Raw for Ept {
    fn raw(entry: u64) -> Option<(bool, bool)> {
        assert!(entry & 7 == 0 || entry & 1 == 1, "an entry without read");
        (entry & 7 != 0).then_some((entry & 2 != 0, entry & 4 != 0))
    }
    fn raw_caching(entry: u64) -> Caching {
        assert_eq!(entry & 0x40, 0, "ignore PAT");
        match (entry >> 3) & 7 {
            0 => Caching::Uncacheable,
            1 => Caching::WriteCombining,
            6 => Caching::WriteBack,
            other => panic!("memory type {other}"),
        }
    }
}

fn raw_walk<F: Raw>(mem: &Frames, root: Hpa, input: u64) -> Option<Seen> {
    let (mut table, mut write, mut execute) = (root.raw(), true, true);
    for shift in [39, 30, 21, 12] {
        let entry = mem.tables[&table][(input >> shift & 0x1ff) as usize];
        let (w, x) = F::raw(entry)?;
        (write, execute) = (write && w, execute && x);
        let address = entry & 0x000f_ffff_ffff_f000;
        if shift == 12 || (shift < 39 && entry & 0x80 != 0) {
            let offset = (1 << shift) - 1;
            assert_eq!(address & offset, 0, "a large page off its boundary");
            let hpa = address | input & offset;
            return Some(Seen { hpa, write, execute, caching: F::raw_caching(entry) });
        }
        assert_eq!(entry & 0x80, 0);
        table = address;
    }
    unreachable!("level 1 maps pages only")
}

/// Ranges by their start: length and what the first byte translates to.
#[derive(Clone, Default)]
struct Model(BTreeMap<u64, (u64, Seen)>);

impl Model {
    fn at(&self, input: u64) -> Option<Seen> {
        let (start, (bytes, seen)) = self.0.range(..=input).next_back()?;
        let offset = input - start;
        (offset < *bytes).then_some(Seen { hpa: seen.hpa + offset, ..*seen })
    }
    fn split(&mut self, at: u64) {
        let Some(seen) = self.at(at) else { return };
        let (&start, &(bytes, first)) = self.0.range(..=at).next_back().expect("it holds `at`");
        if start < at {
            self.0.insert(start, (at - start, first));
            self.0.insert(at, (start + bytes - at, seen));
        }
    }
    fn first_mapped(&self, input: u64, bytes: u64) -> Option<u64> {
        match self.at(input) {
            Some(_) if bytes > 0 => Some(input),
            _ => self.0.range(input..input + bytes).next().map(|(start, _)| *start),
        }
    }
    fn first_hole(&self, input: u64, bytes: u64) -> Option<u64> {
        let mut at = input;
        while at < input + bytes {
            let Some(_) = self.at(at) else { return Some(at) };
            let (start, (bytes, _)) = self.0.range(..=at).next_back().expect("it holds `at`");
            at = start + bytes;
        }
        None
    }
    fn cut(&mut self, input: u64, bytes: u64) -> Vec<(u64, (u64, Seen))> {
        self.split(input);
        self.split(input + bytes);
        let starts: Vec<u64> =
            self.0.range(input..input + bytes).map(|(start, _)| *start).collect();
        starts.into_iter().map(|start| (start, self.0.remove(&start).expect("listed"))).collect()
    }
}

#[derive(Clone, Debug)]
enum Op {
    Map { input: u64, output: u64, bytes: u64, rights: Rights, caching: Caching, max: PageSize },
    Unmap { input: u64, bytes: u64 },
    Protect { input: u64, bytes: u64, rights: Rights },
}

/// Inputs in 4 GiB, mostly next to a boundary of a page size, so that ranges meet, nest and cross.
fn input() -> impl Strategy<Value = u64> {
    (0..4u64, prop_oneof![Just(0), Just(1), 0..512u64], prop_oneof![Just(0), Just(511), 0..512u64])
        .prop_map(|(g, m, k)| g * G1 + m * M2 + k * K4)
}

fn bytes() -> impl Strategy<Value = u64> {
    prop_oneof![
        (0..600u64).prop_map(|n| n * K4),
        (1..4u64).prop_map(|n| n * M2),
        (1..520u64).prop_map(|n| n * M2 + K4),
        (1..3u64).prop_map(|n| n * G1),
    ]
}

fn rights() -> impl Strategy<Value = Rights> {
    (any::<bool>(), any::<bool>()).prop_map(|(write, execute)| Rights {
        read: true,
        write,
        execute,
    })
}

fn op() -> impl Strategy<Value = Op> {
    let caching = prop_oneof![
        Just(Caching::WriteBack),
        Just(Caching::Uncacheable),
        Just(Caching::WriteCombining)
    ];
    let max = prop_oneof![Just(PageSize::Size4K), Just(PageSize::Size2M), Just(PageSize::Size1G)];
    prop_oneof![
        3 => (input(), input(), bytes(), rights(), caching, max, any::<bool>()).prop_map(
            |(input, output, bytes, rights, caching, max, same_offset)| {
                let output = if same_offset { input } else { output };
                // A gigabyte in 4 KiB pages proves nothing more than 6 MiB of them.
                let small = max == PageSize::Size4K || (input ^ output) % M2 != 0;
                let bytes = if small { bytes.min(3 * M2) } else { bytes };
                Op::Map { input, output: (1 << 40) + output, bytes, rights, caching, max }
            }
        ),
        2 => (input(), bytes()).prop_map(|(input, bytes)| Op::Unmap { input, bytes }),
        1 => (input(), bytes(), rights())
            .prop_map(|(input, bytes, rights)| Op::Protect { input, bytes, rights }),
    ]
}

/// Input addresses of the model begin here: one root entry for guest physical spaces, the upper half for linear ones.
fn base<F: Raw>() -> u64 {
    if F::CANONICAL { 0xffff_8000_0000_0000 } else { 0 }
}

fn compare<F: Raw>(mem: &Frames, table: &PageTable<F>, model: &Model, more: &[u64]) {
    let edges = model.0.iter().flat_map(|(start, (bytes, _))| {
        [*start, start + bytes - 1, start + bytes, start.wrapping_sub(1), start + bytes / 2]
    });
    for input in edges.chain(more.iter().copied()).filter(|input| *input < 8 * G1) {
        let want = model.at(input);
        let at = base::<F>() + input;
        assert_eq!(raw_walk::<F>(mem, table.root(), at), want, "raw walk of {at:#x}");
        let got = table.translate(mem, at).map(|found| Seen {
            hpa: found.hpa.raw(),
            write: found.rights.write,
            execute: found.rights.execute,
            caching: found.caching,
        });
        assert_eq!(got, want, "translation of {at:#x}");
    }
}

fn apply<F: Raw>(
    mem: &mut Frames,
    table: &mut PageTable<F>,
    model: &mut Model,
    op: &Op,
) -> Result<(), MapError> {
    let base = base::<F>();
    match *op {
        Op::Map { input, output, bytes, rights, caching, max } => {
            let want = model.first_mapped(input, bytes);
            let hpa = Hpa::new(output);
            let got = table.map(mem, base + input, hpa, bytes, rights, caching, max);
            match want {
                Some(at) => assert_eq!(got, Err(MapError::Mapped(base + at))),
                None => got?,
            }
            if want.is_none() && bytes > 0 {
                let seen =
                    Seen { hpa: output, write: rights.write, execute: rights.execute, caching };
                model.0.insert(input, (bytes, seen));
            }
        }
        Op::Unmap { input, bytes } => {
            table.unmap(mem, base + input, bytes)?.free(mem);
            model.cut(input, bytes);
        }
        Op::Protect { input, bytes, rights } => {
            let want = model.first_hole(input, bytes);
            let got = table.protect(mem, base + input, bytes, rights);
            match want {
                Some(at) => assert_eq!(got, Err(MapError::NotMapped(base + at))),
                None => {
                    got?;
                    for (start, (bytes, seen)) in model.cut(input, bytes) {
                        let (write, execute) = (rights.write, rights.execute);
                        model.0.insert(start, (bytes, Seen { write, execute, ..seen }));
                    }
                }
            }
        }
    }
    Ok(())
}

fn agrees_with_the_references<F: Raw>(ops: &[Op], points: &[u64]) {
    let mut mem = Frames::default();
    let mut table = PageTable::<F>::new(&mut mem).expect("a frame");
    let mut model = Model::default();
    for op in ops {
        apply(&mut mem, &mut table, &mut model, op).expect("frames without end");
        compare(&mem, &table, &model, points);
    }
    table.unmap(&mut mem, base::<F>(), 8 * G1).expect("no split is needed").free(&mut mem);
    assert_eq!(mem.tables.len(), 1, "an emptied tree keeps its root only");
    table.free(&mut mem);
    assert!(mem.tables.is_empty());
}

/// The same with a few frames only: what runs out of them has changed nothing.
fn running_out_changes_nothing<F: Raw>(ops: &[Op], points: &[u64], frames: u64) {
    let mut mem = Frames { left: Some(frames), ..Frames::default() };
    let mut table = PageTable::<F>::new(&mut mem).expect("the first frame");
    let mut model = Model::default();
    for op in ops {
        if let Err(why) = apply(&mut mem, &mut table, &mut model, op) {
            assert_eq!(why, MapError::OutOfFrames);
        }
        compare(&mem, &table, &model, points);
    }
    table.free(&mut mem);
    assert!(mem.tables.is_empty(), "every frame is in the tree or was given back");
}

macro_rules! properties {
    ($($name:ident: $format:ty;)*) => {$(
        mod $name {
            use super::*;
            proptest! {
                #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]
                #[test]
                fn agrees_with_the_references(
                    ops in prop::collection::vec(op(), 1..16),
                    points in prop::collection::vec(0..6 * G1, 16),
                ) {
                    super::agrees_with_the_references::<$format>(&ops, &points);
                }
                #[test]
                fn running_out_changes_nothing(
                    ops in prop::collection::vec(op(), 1..16),
                    points in prop::collection::vec(0..6 * G1, 16),
                    frames in 1..24u64,
                ) {
                    super::running_out_changes_nothing::<$format>(&ops, &points, frames);
                }
            }
        }
    )*};
}

properties! {
    host: Host;
    ept: Ept;
    npt: Npt;
}

fn ept_map(
    table: &mut PageTable<Ept>,
    mem: &mut Frames,
    input: u64,
    output: u64,
    bytes: u64,
) -> Result<(), MapError> {
    let (hpa, max) = (Hpa::new(output), PageSize::Size1G);
    table.map(mem, input, hpa, bytes, Rights::RWX, Caching::WriteBack, max)
}

fn page_at(table: &PageTable<Ept>, mem: &Frames, input: u64) -> Option<PageSize> {
    table.translate(mem, input).map(|found| found.page)
}

#[test]
fn the_largest_page_that_fits_is_used() {
    let mut mem = Frames::default();
    let mut table = PageTable::new(&mut mem).expect("a frame");
    let start = G1 - M2 - K4;
    ept_map(&mut table, &mut mem, start, start, K4 + M2 + G1 + M2 + K4).expect("free");
    for (input, page) in [
        (start, PageSize::Size4K),
        (G1 - M2, PageSize::Size2M),
        (G1, PageSize::Size1G),
        (2 * G1, PageSize::Size2M),
        (2 * G1 + M2, PageSize::Size4K),
    ] {
        assert_eq!(page_at(&table, &mem, input), Some(page), "at {input:#x}");
    }
    // Root, one level-3 table, two level-2 tables, two level-1 tables.
    assert_eq!(mem.tables.len(), 6);
}

#[test]
fn an_output_off_the_boundary_takes_smaller_pages() {
    let mut mem = Frames::default();
    let mut table = PageTable::new(&mut mem).expect("a frame");
    ept_map(&mut table, &mut mem, G1, G1 + M2, G1).expect("free");
    ept_map(&mut table, &mut mem, 4 * M2, K4, M2).expect("free");
    assert_eq!(page_at(&table, &mem, G1), Some(PageSize::Size2M));
    assert_eq!(page_at(&table, &mem, 4 * M2), Some(PageSize::Size4K));
}

#[test]
fn unmapping_part_of_a_large_page_splits_it_no_further_than_needed() {
    let mut mem = Frames::default();
    let mut table = PageTable::new(&mut mem).expect("a frame");
    ept_map(&mut table, &mut mem, 0, 0, G1).expect("free");
    table.unmap(&mut mem, 5 * M2 + K4, K4).expect("frames").free(&mut mem);
    assert_eq!(page_at(&table, &mem, 4 * M2), Some(PageSize::Size2M));
    assert_eq!(page_at(&table, &mem, 5 * M2), Some(PageSize::Size4K));
    assert_eq!(page_at(&table, &mem, 5 * M2 + K4), None);
    assert_eq!(page_at(&table, &mem, 6 * M2), Some(PageSize::Size2M));
}

#[test]
fn a_retired_table_stays_allocated_and_absent_until_it_is_freed() {
    let mut mem = Frames::default();
    let mut table = PageTable::new(&mut mem).expect("a frame");
    ept_map(&mut table, &mut mem, 0, 0, K4).expect("free");
    let before: Vec<u64> = mem.tables.keys().copied().collect();
    let retired = table.unmap(&mut mem, 0, K4).expect("mapped");
    assert!(!retired.is_empty());
    assert!(before.iter().all(|hpa| mem.tables.contains_key(hpa)));
    for table in mem.tables.values() {
        assert!(table.iter().all(|entry| !Ept::is_present(*entry) && entry & 1 == 0));
    }
    retired.free(&mut mem);
    assert_eq!(mem.tables.len(), 1);
}

#[test]
fn what_the_format_cannot_express_is_refused_by_name() {
    let mut mem = Frames::default();
    let mut table = PageTable::<Ept>::new(&mut mem).expect("a frame");
    let end = 1 << 48;
    assert_eq!(ept_map(&mut table, &mut mem, 0x800, 0, K4), Err(MapError::Misaligned(0x800)));
    assert_eq!(ept_map(&mut table, &mut mem, 0, 0x10, K4), Err(MapError::Misaligned(0x10)));
    assert_eq!(ept_map(&mut table, &mut mem, 0, 0, 0x20), Err(MapError::Misaligned(0x20)));
    assert_eq!(ept_map(&mut table, &mut mem, end, 0, K4), Err(MapError::OutOfRange(end)));
    let last = end - K4;
    assert_eq!(ept_map(&mut table, &mut mem, last, 0, 2 * K4), Err(MapError::OutOfRange(last)));
    let far = 1 << 52;
    assert_eq!(ept_map(&mut table, &mut mem, 0, far, K4), Err(MapError::OutOfRange(far)));
    assert_eq!(ept_map(&mut table, &mut mem, last, 0, K4), Ok(()));
    let none = Rights { read: false, write: true, execute: false };
    assert_eq!(table.protect(&mut mem, last, K4, none), Err(MapError::NoRead));
    assert_eq!(table.translate(&mem, end), None);
}

#[test]
fn linear_addresses_are_canonical_up_to_the_very_last_page() {
    let mut mem = Frames::default();
    let mut table = PageTable::<Host>::new(&mut mem).expect("a frame");
    let mut map = |input: u64, bytes| {
        let (rights, caching, max) = (Rights::RW, Caching::WriteBack, PageSize::Size4K);
        table.map(&mut mem, input, Hpa::new(0x1000), bytes, rights, caching, max)
    };
    let low_end = 0x0000_8000_0000_0000;
    let top = 0xffff_ffff_ffff_f000;
    assert_eq!(map(low_end, K4), Err(MapError::OutOfRange(low_end)));
    assert_eq!(map(low_end - K4, 2 * K4), Err(MapError::OutOfRange(low_end - K4)));
    assert_eq!(map(low_end - K4, K4), Ok(()));
    assert_eq!(map(top, K4), Ok(()));
    assert_eq!(map(top, 2 * K4), Err(MapError::OutOfRange(top)));
    assert_eq!(map(0x7fff_0000_0000_0000, K4), Err(MapError::OutOfRange(0x7fff_0000_0000_0000)));
    let found = table.translate(&mem, top + 0x123).expect("mapped");
    assert_eq!(found.hpa, Hpa::new(0x1123));
    table.unmap(&mut mem, top, K4).expect("mapped").free(&mut mem);
    assert_eq!(table.translate(&mem, top), None);
}

#[test]
fn a_second_mapping_names_the_first_address_in_its_way() {
    let mut mem = Frames::default();
    let mut table = PageTable::new(&mut mem).expect("a frame");
    ept_map(&mut table, &mut mem, 3 * M2 + K4, 0, K4).expect("free");
    let in_the_way = Err(MapError::Mapped(3 * M2 + K4));
    assert_eq!(ept_map(&mut table, &mut mem, 0, 0, G1), in_the_way);
    assert_eq!(page_at(&table, &mem, 0), None);
}
