//! Headers and capabilities.

use super::*;

/// A chain of capabilities as a guest follows it: offsets and IDs.
fn chain(bench: &mut Bench, bus: u8, devfn: u8) -> Vec<(u16, u8)> {
    let mut found = Vec::new();
    let mut at = bench.read(bus, devfn, 0x34, Width::W1) as u16;
    while at != 0 {
        assert!(found.len() < 48 && at >= 0x40 && at.is_multiple_of(4));
        found.push((at, bench.read(bus, devfn, at, Width::W1) as u8));
        at = bench.read(bus, devfn, at + 1, Width::W1) as u16;
    }
    found
}

#[test]
fn a_header_shows_the_shape_and_no_interrupt_pin() {
    let mut bench = Bench::new();
    assert_eq!(bench.get(0), 0x0010_1b36);
    assert_eq!(bench.get(4), 0x0010_0000);
    assert_eq!(bench.get(8), 0x0108_0202);
    assert_eq!(bench.get(0xc), 0);
    assert_eq!(bench.get(0x2c), 0x1100_1af4);
    assert_eq!(bench.read(1, 0, 0x3d, Width::W1), 0);
    bench.set(4, u32::MAX);
    assert_eq!(bench.get(4), 0x0010_0546, "no I/O");
}

#[test]
fn chains_are_made_anew() {
    let mut bench = Bench::new();
    let expected = [(0x40, 0x11), (0x60, 1), (0x80, 0x10), (0xc0, 5), (0xe0, 9)];
    assert_eq!(chain(&mut bench, 1, 0), expected);
    assert_eq!(chain(&mut bench, 0, 8), [(0x40, 0x10), (0x80, 5)]);
    assert_eq!((bench.get(0x100), bench.get(0x148)), (0x1480_0000, 0x0001_0003));
    assert_eq!(bench.read(0, 0, 0x34, Width::W1), 0, "the host bridge has none");
}

#[test]
fn capabilities_out_of_place_are_left_out() {
    let mut shape = nvme();
    shape.through.clear();
    let wrong = [
        capability(0x3c, &[9, 0, 0, 0]),
        capability(0x44, &[9, 0, 0, 0]),
        capability(0x7a, &[9, 0, 0, 0]),
        capability(0xfc, &[9, 0, 0, 0, 0]),
        capability(0xf8, &[9, 0]),
        // A second MSI, and an MSI-X whose table is in no BAR.
        capability(0x70, &[5, 0, 0, 0, 0, 0, 0, 0, 0, 0]),
    ];
    shape.capabilities.extend(wrong);
    shape.capabilities[2].bytes[4] = 1;
    shape.extended.push(capability(0xffc, &[1, 0, 0, 0, 0]));
    let mut bench = Bench::of(&[shape]);
    let expected = [(0x44, 9), (0x60, 1), (0x80, 0x10), (0xc0, 5), (0xe0, 9)];
    assert_eq!(chain(&mut bench, 1, 0), expected);
    assert_eq!(bench.get(0x148) >> 20, 0);
}

#[test]
fn a_first_extended_capability_keeps_its_place() {
    let mut shape = nvme();
    shape.extended.insert(0, capability(0x100, &[1, 0, 2, 0xff, 0, 0, 0, 0]));
    let mut bench = Bench::of(&[shape]);
    assert_eq!((bench.get(0x100), bench.get(0x148)), (0x1482_0001, 0x0001_0003));
}

#[test]
fn links_of_port_and_function_agree() {
    let mut bench = Bench::new();
    let port = |bench: &mut Bench, at: u16| bench.read(0, 8, 0x40 + at, Width::W4) as u32;
    assert_eq!(port(&mut bench, 0) >> 16, 0x0142, "root port with a slot");
    assert_eq!(bench.get(0x80) >> 16, 0x0002, "endpoint");
    assert_eq!(bench.get(0x90) >> 16 & 0x3ff, 0x43);
    assert_eq!(port(&mut bench, 0x10) >> 16, 0x3043, "up");
    assert_eq!(bench.get(0x8c) & 0xc0f, 3, "no power saving of the link");
    assert_eq!(port(&mut bench, 0xc), 0x0110_0043);
    assert_eq!(port(&mut bench, 0x2c), 0xe, "2.5, 5 and 8 GT/s");
    assert_eq!(port(&mut bench, 0x14) >> 19, 1, "slot 1");
    // A function within the root complex has no link.
    let mut shape = nvme();
    shape.capabilities[1].bytes[0x12..0x14].fill(0);
    let mut bench = Bench::of(&[shape]);
    assert_eq!((port(&mut bench, 0x10) >> 16, bench.get(0x90) >> 16 & 0x3ff), (0x3011, 0x11));
}

#[test]
fn bytes_passed_through_reach_the_endpoint_and_others_do_not() {
    let mut bench = Bench::new();
    // Only the second of two words is passed through.
    assert_eq!(bench.get(0xe4), 0x0504_e5e4);
    assert_eq!(bench.read(1, 0, 0xe4, Width::W2), 0xe4e4);
    assert_eq!(bench.get(0x14c), 0x4c4c_4c4c);
    bench.write(1, 0, 0xe4, Width::W2, 0x1234);
    bench.set(0x14c, 5);
    bench.set(0xe4, 0x1122_3344);
    // The header, MSI-X and the links are not.
    bench.set(0x40, 0);
    bench.set(0x148, u32::MAX);
    let word = |value| Told::ConfigWrite(0xe4, Width::W2, value);
    let expected = [
        word(0x1234),
        Told::ConfigWrite(0x14c, Width::W4, 5),
        Told::ConfigWrite(0xe4, Width::W1, 0x44),
        Told::ConfigWrite(0xe5, Width::W1, 0x33),
    ];
    assert_eq!(bench.told(), expected);
    assert_eq!(bench.get(0x148), 0x0001_0003);
}

#[test]
fn a_reset_by_the_guest_takes_everything_back_first() {
    let on = |bench: &mut Bench| {
        bench.command(6);
        bench.told();
    };
    let gone =
        [Told::Master(false), Told::Place(0, None), Told::Place(2, None), Told::Place(5, None)];
    let mut bench = Bench::new();
    let check = |bench: &mut Bench| {
        let told = bench.told();
        assert_eq!(told.last(), Some(&Told::Reset));
        assert!(gone.iter().all(|gone| told.contains(gone)), "{told:?}");
        assert_eq!((told.len(), bench.get(4) & 0xffff), (5, 0));
    };
    on(&mut bench);
    bench.write(1, 0, 0x88, Width::W2, 0xa810);
    check(&mut bench);
    assert_eq!(bench.get(0x88) & 0xffff, 0x2810, "it reads as 0");
    on(&mut bench);
    // The port's bus reset, which stays set until it is taken back.
    bench.write(0, 8, 0x3e, Width::W1, 0x40);
    check(&mut bench);
    bench.write(0, 8, 0x3e, Width::W1, 0x40);
    bench.write(0, 8, 0x3e, Width::W1, 0);
    assert_eq!(bench.told(), []);
    on(&mut bench);
    bench.pci.reset();
    check(&mut bench);
}

#[test]
fn without_the_capability_nothing_resets() {
    let mut shape = nvme();
    shape.capabilities[1].bytes[7] = 0;
    let mut bench = Bench::of(&[shape]);
    bench.write(1, 0, 0x88, Width::W2, 0x8000);
    assert_eq!(bench.told(), []);
}

#[test]
fn nothing_of_a_function_answers_before_its_reset_is_over() {
    let mut bench = Bench::new();
    *bench.logs[0].busy.lock().unwrap() = true;
    bench.write(1, 0, 0x88, Width::W2, 0xa810);
    bench.command(6);
    assert_eq!((bench.get(0), bench.read(1, 0, 4, Width::W2)), (u32::MAX, 0xffff));
    assert_eq!(bench.told(), [], "writes are dropped");
    *bench.logs[0].busy.lock().unwrap() = false;
    assert_eq!((bench.get(0) & 0xffff, bench.get(4) & 0xffff), (0x1b36, 0));
    bench.command(6);
    assert_eq!(bench.told().first(), Some(&Told::Master(true)));
}

#[test]
fn d3_stops_a_function_and_it_loses_nothing() {
    let mut bench = Bench::new();
    bench.command(6);
    bench.told();
    assert_eq!(bench.get(0x60) >> 16, 0x01c3, "no PME, D1 and D2");
    bench.write(1, 0, 0x64, Width::W2, 1);
    assert_eq!((bench.told().len(), bench.get(0x64) & 0xb), (0, 8), "D1 is not there");
    bench.write(1, 0, 0x64, Width::W2, 3);
    let told = bench.told();
    assert_eq!((told.len(), told[0]), (4, Told::Master(false)));
    bench.write(1, 0, 0x64, Width::W2, 0);
    let told = bench.told();
    assert_eq!((told.len(), told[0]), (4, Told::Master(true)));
}

#[test]
fn dma_needs_the_port_as_well() {
    let mut bench = Bench::new();
    bench.command(4);
    assert_eq!(bench.told(), [Told::Master(true)]);
    bench.write(0, 8, 4, Width::W2, 2);
    assert_eq!(bench.told(), [Told::Master(false)]);
    bench.write(0, 8, 4, Width::W2, 6);
    assert_eq!(bench.told(), [Told::Master(true)]);
    bench.command(4);
    assert_eq!(bench.told(), []);
}
