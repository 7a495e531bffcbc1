//! Sizing, moving and decoding.

use super::*;

/// Where the plan puts a BAR of the only function.
fn planned(bar: usize) -> u64 {
    plan(&[nvme()]).port(0).unwrap().bars[bar]
}

/// A BAR's size as Linux finds it: all ones into each half, with decoding off.
fn size(bench: &mut Bench, offset: u16, is_64bit: bool) -> u64 {
    let mut probe = |offset, ones: u32| {
        let old = bench.get(offset);
        bench.set(offset, ones);
        let mask = bench.get(offset);
        bench.set(offset, old);
        mask
    };
    let low = u64::from(probe(offset, u32::MAX) & !0xf);
    let high = if is_64bit { probe(offset + 4, u32::MAX) } else { u32::MAX };
    (u64::from(high) << 32 | low).wrapping_neg()
}

#[test]
fn a_guest_finds_sizes_and_kinds() {
    let mut bench = Bench::new();
    assert_eq!(size(&mut bench, 0x10, true), 0x4000);
    assert_eq!(size(&mut bench, 0x18, true), 1 << 28);
    assert_eq!(size(&mut bench, 0x24, false), 0x1000, "never less than a page");
    assert_eq!(size(&mut bench, 0x20, false) as u32, 0, "not there");
    assert_eq!([0x10, 0x18, 0x24].map(|at| bench.get(at) & 0xf), [4, 0xc, 0]);
    bench.set(0x30, 0xffff_f800);
    assert_eq!(bench.get(0x30), 0xffff_f000, "the ROM");
    assert_eq!(bench.told(), [], "nothing decoded meanwhile");
}

#[test]
fn bars_start_where_the_plan_says() {
    let mut bench = Bench::new();
    let place = |bar: usize| Told::Place(bar as u8, Some(planned(bar)));
    bench.command(2);
    let mut told = bench.told();
    told.sort_by_key(|told| if let Told::Place(bar, _) = told { *bar } else { 0xff });
    assert_eq!(told, [place(0), place(2), place(5)]);
    let rom = bench.get(0x30);
    bench.set(0x30, rom | 1);
    assert_eq!(bench.told(), [place(6)]);
    bench.command(0);
    assert_eq!(bench.told().len(), 4);
}

#[test]
fn a_bar_moves_within_its_ports_windows_only() {
    let mut bench = Bench::new();
    bench.command(2);
    bench.told();
    let (base, bytes) = (planned(0), 0x4000);
    // Within the window, which is a MiB.
    let other = base + (1 << 20) - bytes;
    bench.set(0x10, other as u32);
    assert_eq!(bench.told(), [Told::Place(0, None), Told::Place(0, Some(other))]);
    // The other half first takes it out, and then back.
    bench.set(0x14, 1);
    assert_eq!(bench.told(), [Told::Place(0, None)]);
    bench.set(0x14, 0);
    assert_eq!(bench.told(), [Told::Place(0, Some(other))]);
    for outside in [0, 0xfee0_0000, 0xfec0_0000, 0xe000_0000, base + (1 << 20), 0x1000_0000] {
        bench.set(0x10, outside as u32);
        let _ = bench.told();
        assert!(!bench.pci.placed.iter().any(|placed| placed.bar == 0), "{outside:x}");
    }
    // With a wider window of the port it can go further, but not out of the host bridge's.
    bench.write(0, 8, 0x20, Width::W4, 0xffe0_0000);
    bench.set(0x10, 0xd000_0000);
    assert_eq!(bench.told(), [Told::Place(0, Some(0xd000_0000))]);
    bench.set(0x10, 0x8000_0000);
    assert_eq!(bench.told(), [Told::Place(0, None)]);
}

#[test]
fn a_ports_window_and_decoding_cut_bars_off() {
    let mut bench = Bench::new();
    bench.command(2);
    bench.told();
    bench.write(0, 8, 4, Width::W2, 4);
    assert_eq!(bench.told().len(), 3);
    bench.write(0, 8, 4, Width::W2, 6);
    assert_eq!(bench.told().len(), 3);
    // The prefetchable window ends below the BAR.
    bench.write(0, 8, 0x2c, Width::W4, 0);
    assert_eq!(bench.told(), [Told::Place(2, None)]);
}

#[test]
fn of_bars_that_overlap_one_is_there() {
    let mut bench = Bench::new();
    bench.command(2);
    bench.told();
    let base = planned(0);
    bench.set(0x24, base as u32 + 0x1000);
    assert_eq!(bench.told(), [Told::Place(5, None)]);
    bench.set(0x24, base as u32 + 0x4000);
    assert_eq!(bench.told(), [Told::Place(5, Some(base + 0x4000))]);
}

#[test]
fn accesses_find_the_bar_at_their_address() {
    let mut bench = Bench::new();
    let gpa = |bar, offset| Gpa::new(planned(bar) + offset);
    let read = |bench: &mut Bench, gpa| bench.pci.read_memory(gpa, Width::W4);
    assert_eq!(read(&mut bench, gpa(0, 0)), None, "decoding is off");
    bench.command(2);
    bench.told();
    assert_eq!(read(&mut bench, gpa(0, 0x1004)), Some(0x1004));
    assert_eq!(read(&mut bench, gpa(5, 0x84)), Some(5 << 56 | 0x84));
    assert_eq!(read(&mut bench, gpa(2, (1 << 28) - 4)), Some(2 << 56 | ((1 << 28) - 4)));
    assert_eq!(read(&mut bench, gpa(2, 1 << 28)), None);
    let written = bench.pci.write_memory(gpa(0, 8), Width::W8, 7, &|_| None);
    assert_eq!((written, bench.told()), (Some(()), std::vec![Told::BarWrite(0, 8, Width::W8, 7)]));
}

#[test]
fn pages_with_table_or_pending_bits_are_trapped() {
    let shape = nvme();
    assert_eq!(shape.trapped(0), [0x2000..0x3000, 0x3000..0x4000]);
    assert!(shape.trapped(2).iter().all(core::ops::Range::is_empty));
}
