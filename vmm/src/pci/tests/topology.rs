//! Who answers at which number, and where the plan puts BARs.

use super::*;

fn by_port(pci: &mut RootComplex, address: u32) -> u32 {
    pci.write(ADDRESS, Width::W4, address.into(), &|_| None);
    pci.read(DATA, Width::W4) as u32
}

#[test]
fn function_zero_is_a_host_bridge() {
    let mut pci = RootComplex::default();
    assert_eq!(by_port(&mut pci, ENABLE), 0x0008_1b36);
    assert_eq!(by_port(&mut pci, ENABLE | 8) >> 16, 0x0600);
    assert_eq!(pci.read(DATA + 2, Width::W2), 0x0600);
    assert_eq!(by_port(&mut pci, ENABLE | 12) >> 16 & 0xff, 0, "single-function header");
}

#[test]
fn without_functions_all_else_is_absent() {
    let mut pci = RootComplex::default();
    for address in [1 << 8, 1 << 11, 1 << 16] {
        assert_eq!(by_port(&mut pci, ENABLE | address), u32::MAX);
    }
    assert_eq!(by_port(&mut pci, 0), u32::MAX, "not enabled");
}

#[test]
fn ecam_shows_what_the_ports_show() {
    let mut bench = Bench::new();
    for function in 0..=0x1ff_u16 {
        for offset in (0..0x100_u16).step_by(4) {
            let address = ENABLE | u32::from(function) << 8 | u32::from(offset);
            let expected = by_port(&mut bench.pci, address);
            let [devfn, bus] = function.to_le_bytes();
            assert_eq!(bench.read(bus, devfn, offset, Width::W4), u64::from(expected));
        }
    }
    assert_eq!(bench.read(0, 0, 10, Width::W2), 0x0600);
    assert_eq!(bench.read(0, 0, 0x100, Width::W4), 0, "no extended capability");
    assert_eq!(bench.read(1, 8, 0, Width::W8), u64::MAX);
    assert_eq!(bench.read(1, 0, 0, Width::W8), 0x0010_0000_0010_1b36);
}

#[test]
fn config_address_reads_back_only_whole() {
    let mut pci = RootComplex::default();
    let mut write = |offset, width, value| pci.write(offset, width, value, &|_| None);
    write(3, Width::W1, 1);
    write(ADDRESS, Width::W4, 0x8000_0000);
    write(ADDRESS, Width::W2, 0x10);
    assert_eq!(pci.read(ADDRESS, Width::W4), 0x8000_0000);
    assert_eq!(pci.read(1, Width::W1), 0xff);
}

/// Functions found by a scan that believes header types and bus numbers: bus and devfn.
fn scan(bench: &mut Bench, bus: u8) -> Vec<(u8, u8)> {
    let mut found = Vec::new();
    for device in 0..32 {
        let single = bench.read(bus, device << 3, 0xe, Width::W1) & 0x80 == 0;
        for function in 0..if single { 1 } else { 8 } {
            let devfn = device << 3 | function;
            if bench.read(bus, devfn, 0, Width::W4) == 0xffff_ffff {
                continue;
            }
            found.push((bus, devfn));
            if bench.read(bus, devfn, 0xe, Width::W1) & 0x7f == 1 {
                let secondary = bench.read(bus, devfn, 0x19, Width::W1) as u8;
                assert!(
                    secondary > bus && bench.read(bus, devfn, 0x1a, Width::W1) as u8 == secondary
                );
                found.extend(scan(bench, secondary));
            }
        }
    }
    found
}

#[test]
fn each_function_is_alone_behind_a_port() {
    let mut bench = Bench::of(&[nvme(), nvme()]);
    assert_eq!(scan(&mut bench, 0), [(0, 0), (0, 8), (1, 0), (0, 16), (2, 0)]);
}

#[test]
fn more_functions_than_devices_share_ports_devices() {
    let mut bench = Bench::of(&std::vec![Shape::default(); 248]);
    let found = scan(&mut bench, 0);
    assert_eq!(found.len(), 1 + 2 * 248);
    assert!((1..=248).all(|bus| found.contains(&(bus, 0))));
    let shapes = std::vec![Shape::default(); 249];
    let refused = Plan::new(&GuestLayout::new(1 << 30), 40, &shapes);
    assert_eq!(refused, Err(PlanError::Functions { most: 248 }));
}

#[test]
fn a_bus_is_where_the_guest_says() {
    let mut bench = Bench::of(&[nvme(), nvme()]);
    bench.write(0, 8, 0x18, Width::W4, 0x0007_0700);
    assert_eq!(bench.read(1, 0, 0, Width::W4), 0xffff_ffff);
    assert_eq!(bench.read(7, 0, 0, Width::W4), 0x0010_1b36);
    assert_eq!(bench.read(2, 0, 0, Width::W4), 0x0010_1b36);
    // No bus 0 but the first.
    bench.write(0, 16, 0x18, Width::W4, 0);
    assert_eq!(bench.read(0, 0, 0, Width::W4), 0x0008_1b36);
    bench.pci.reset();
    assert_eq!(bench.read(1, 0, 0, Width::W4), 0x0010_1b36);
}

#[test]
fn the_plan_puts_bars_into_disjoint_bridge_windows() {
    let bar = |bytes, is_64bit, prefetchable| Some(BarShape { bytes, is_64bit, prefetchable });
    let mut big = nvme();
    big.bars = [
        bar(1 << 34, true, true),
        None,
        bar(1 << 20, true, true),
        None,
        bar(1 << 27, false, true),
        None,
    ];
    let shapes = [nvme(), big, nvme(), Shape::default()];
    let plan = plan(&shapes);
    assert_eq!((plan.buses(), plan.ecam_bytes()), (5, 5 << 20));
    assert_eq!(plan.memory64(), &((5 << 30)..(1 << 40)), "above 4 GiB and the rest of RAM");
    let mut windows = Vec::new();
    for (index, shape) in shapes.iter().enumerate() {
        let port = plan.port(index).unwrap();
        for window in [&port.memory, &port.prefetchable] {
            assert!(window.is_empty() || plan.has(window.start, window.end - window.start));
            assert_eq!((window.start % BRIDGE, window.end % BRIDGE), (0, 0));
            windows.push(window.clone());
        }
        let mut bars = Vec::new();
        for (index, base) in (0..).zip(port.bars) {
            let Some(bar) = shape.bar(index) else { continue };
            let bytes = bar.guest_bytes();
            let window = if bar.is_high() { &port.prefetchable } else { &port.memory };
            assert_eq!(base % bytes, 0);
            assert!(window.start <= base && base + bytes <= window.end, "{base:x} in {window:x?}");
            bars.push(base..base + bytes);
        }
        assert_disjoint(bars);
    }
    assert_disjoint(windows);
}

const BRIDGE: u64 = 1 << 20;

fn assert_disjoint(mut ranges: Vec<core::ops::Range<u64>>) {
    ranges.retain(|range| !range.is_empty());
    ranges.sort_by_key(|range| range.start);
    assert!(ranges.windows(2).all(|pair| pair[0].end <= pair[1].start), "{ranges:x?}");
}

#[test]
fn bars_that_do_not_fit_are_refused() {
    let of = |bar, bits| {
        let mut shape = Shape::default();
        shape.bars[0] = Some(bar);
        Plan::new(&GuestLayout::new(4 << 30), bits, &[shape]).err()
    };
    let bar = |bytes, high| BarShape { bytes, is_64bit: true, prefetchable: high };
    assert_eq!(of(bar(1 << 29, false), 40), None);
    assert_eq!(of(bar(1 << 30, false), 40), Some(PlanError::Memory32));
    assert_eq!(of(bar(1 << 35, true), 40), None);
    assert_eq!(of(bar(1 << 36, true), 36), Some(PlanError::Memory64));
    assert_eq!(of(bar(1 << 47, true), 52), None);
    assert_eq!(of(bar(1 << 48, true), 52), Some(PlanError::Memory64));
    assert_eq!(of(bar(u64::MAX, true), 52), Some(PlanError::Memory64));
    assert_eq!(of(bar(0x1000, true), 32), Some(PlanError::Memory64));
}
