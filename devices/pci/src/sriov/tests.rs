//! Virtual functions on machines that have room for them, that have none, and that lie.

use hw::Width;

use super::*;
use crate::enumerate::enumerate;
use crate::function::Reset;
use crate::groups::groups;
use crate::model::{Device, Machine, at};
use crate::reset::{ResetError, reset};
use crate::spec;

const CAPABILITY: u16 = 0x160;
const HOLES: [Range<u64>; 2] = [0xc000_0000..0xf800_0000, 0xf900_0000..0xfec0_0000];
/// Configuration space, of which every function says that it is nowhere.
const ECAM: Range<u64> = 0xe000_0000..0xf000_0000;

/// A root port to buses 1 to 3 that passes on memory from this MiB on.
fn port(first: u32, past: u32) -> Device {
    let window = first << 4 | (past - 1) << 20;
    let port = Device::bridge(1, 3).express(4, 0).acs();
    let port = port.register(spec::MEMORY_WINDOW, window, 0xfff0_fff0);
    let mut port = port.register(spec::PREFETCHABLE_WINDOW, 0x0000_fff0, 0);
    port.put(0x40 + express::DEVICE_CAPABILITIES_2, Width::W4, express::CAN_FORWARD_ARI);
    port
}

/// A physical function of up to 8 virtual ones, each with 16 KiB and 64 KiB.
fn physical(first: u16, stride: u16) -> Device {
    let this = Device::endpoint(0x8086, 0x10c9).express(0, express::FLR);
    let this = this.bar64(0, 0xc010_0000, 0x4000).bar64(2, 0xc010_4000, 0x1000);
    let mut this = this.extended(extended::ARI, 0x100).extended(extended::SRIOV, CAPABILITY);
    for (offset, value) in
        [(sriov::TOTAL, 8), (sriov::FIRST, first), (sriov::STRIDE, stride), (sriov::DEVICE, 0x10ca)]
    {
        this.put(CAPABILITY + offset, Width::W2, value.into());
    }
    this.allow(CAPABILITY + sriov::CONTROL, Width::W2, 0x19);
    this.allow(CAPABILITY + sriov::COUNT, Width::W2, 0xffff);
    let bar = |index: u16| CAPABILITY + sriov::BAR0 + 4 * index;
    let flags = spec::BAR_64 | spec::BAR_PREFETCHABLE;
    let this = this.register(bar(0), flags, !0x3fff).register(bar(1), 0, u32::MAX);
    this.register(bar(3), flags, !0xffff).register(bar(4), 0, u32::MAX)
}

fn virtual_one() -> Device {
    let mut this = Device::endpoint(spec::NO_VENDOR, 0xffff).express(0, express::FLR);
    this.put(spec::REVISION, Width::W4, 0x0200_0001);
    this
}

fn machine(port: Device, physical: Device) -> (Machine, Vec<FunctionInfo>) {
    let other = Device::endpoint(0x1af4, 1).bar64(0, 0xc020_0000, 0x10_0000);
    let machine =
        Machine::new([(at(0, 1, 0), port), (at(0, 2, 0), other), (at(1, 0, 0), physical)]);
    let found = enumerate(&machine, 0, 0..=255);
    assert_eq!(found.len(), 3);
    (machine, found)
}

/// Prepares and enables `count`, which answer at these numbers.
fn made(
    machine: &Machine,
    found: &mut [FunctionInfo],
    count: u16,
    answer: &[Function],
) -> Result<Vec<FunctionInfo>, SriovError> {
    let prepared = Sriov::prepare(machine, found, at(1, 0, 0), count, &[ECAM], &HOLES)?;
    prepared.enable(machine, machine);
    let answer = answer.iter().map(|&function| (function, virtual_one()));
    machine.devices.borrow_mut().extend(answer);
    prepared.functions(machine, found)
}

fn bases(found: &[FunctionInfo]) -> Vec<[u64; 2]> {
    found.iter().map(|info| [0, 3].map(|bar| info.bar(bar).unwrap().base)).collect()
}

#[test]
fn they_have_numbers_by_offset_and_stride_over_several_buses() {
    let (machine, mut found) = machine(port(0xc01, 0xc02), physical(0x80, 0xc0));
    let numbers = [at(1, 0x10, 0), at(2, 0x08, 0), at(3, 0, 0)];
    let made = made(&machine, &mut found, 3, &numbers).unwrap();
    assert_eq!(made.iter().map(|info| info.function).collect::<Vec<_>>(), numbers);
    for info in &made {
        assert_eq!((info.vendor, info.device, info.class), (0x8086, 0x10ca, 0x02_0000));
        assert_eq!((info.physical, info.parent), (Some(at(1, 0, 0)), Some(at(0, 1, 0))));
        assert_eq!(info.reset, Reset::Flr);
    }
    let control = machine.peek(at(1, 0, 0), CAPABILITY + sriov::CONTROL, Width::W2) as u16;
    assert_eq!(control, sriov::ENABLE | sriov::MEMORY_ENABLE | sriov::ARI);
    assert_eq!(machine.peek(at(1, 0, 0), CAPABILITY + sriov::COUNT, Width::W2), 3);
    assert!(machine.now.get() >= READY_NS);
}

#[test]
fn their_bars_lie_where_the_port_has_room() {
    let (machine, mut found) = machine(port(0xc01, 0xc02), physical(0x80, 2));
    let numbers = [at(1, 0x10, 0), at(1, 0x10, 2)];
    let made = made(&machine, &mut found, 2, &numbers).unwrap();
    // Behind the physical function's own, which end at 0xc010_5000.
    assert_eq!(bases(&made), [[0xc010_8000, 0xc011_0000], [0xc010_c000, 0xc012_0000]]);
    let bar = machine.peek(at(1, 0, 0), CAPABILITY + sriov::BAR0, Width::W4);
    assert_eq!(bar & !0xf, 0xc010_8000);
    assert_eq!(machine.peek(at(0, 1, 0), spec::MEMORY_WINDOW, Width::W4), 0xc010_c010);
}

#[test]
fn a_good_place_is_kept_and_a_bad_one_is_not() {
    for (base, expected) in [(0xc018_0000_u32, 0xc018_0000_u64), (0xc010_4000, 0xc010_8000)] {
        let mut physical = physical(0x80, 2);
        let flags = spec::BAR_64 | spec::BAR_PREFETCHABLE;
        physical.put(CAPABILITY + sriov::BAR0, Width::W4, base | flags);
        let (machine, mut found) = machine(port(0xc01, 0xc02), physical);
        let made = made(&machine, &mut found, 1, &[at(1, 0x10, 0)]).unwrap();
        assert_eq!(bases(&made)[0][0], expected);
    }
}

#[test]
fn a_window_without_room_is_moved_with_all_that_is_in_it() {
    let mut full = physical(0x80, 2);
    // 8 times 256 KiB.
    full = full.register(CAPABILITY + sriov::BAR0 + 12, spec::BAR_64, !0x3_ffff);
    let (machine, mut found) = machine(port(0xc01, 0xc02), full);
    let numbers: Vec<_> = (0..8).map(|n| at(1, 0x10 + n / 4, 2 * (n % 4))).collect();
    let made = made(&machine, &mut found, 8, &numbers).unwrap();
    // Behind it is another function, so it is now behind that one.
    let window = machine.peek(at(0, 1, 0), spec::MEMORY_WINDOW, Width::W4);
    assert_eq!(window, 0xc060_c030);
    let own = found.iter().find(|info| info.function == at(1, 0, 0)).unwrap();
    assert_eq!([0, 2].map(|bar| own.bar(bar).unwrap().base), [0xc030_0000, 0xc030_4000]);
    assert_eq!(machine.peek(at(1, 0, 0), spec::BAR0, Width::W4) & !0xf, 0xc030_0000);
    assert_eq!(bases(&made)[7], [0xc030_8000 + 7 * 0x4000, 0xc034_0000 + 7 * 0x4_0000]);
}

#[test]
fn a_window_is_made_where_there_was_none_but_never_over_others() {
    let (machine, mut found) = machine(port(0xfff, 0x1), physical(0x80, 2));
    found[2].bars = [None; 6];
    let made = made(&machine, &mut found, 1, &[at(1, 0x10, 0)]).unwrap();
    assert_eq!(bases(&made), [[0xc000_0000, 0xc001_0000]]);
    // Windows that lead to a display stay.
    found[2].class = 0x03_0000;
    let prepare = |found: &mut [FunctionInfo], holes: &[Range<u64>]| {
        Sriov::prepare(&machine, found, at(1, 0, 0), 1, &[ECAM], holes)
    };
    assert!(prepare(&mut found, &HOLES).is_ok());
    machine.write(at(0, 1, 0), spec::MEMORY_WINDOW, Width::W4, 0xfff0);
    assert_eq!(prepare(&mut found, &HOLES), Err(SriovError::Room(0)));
    found[2].class = 0x02_0000;
    assert_eq!(prepare(&mut found, &[ECAM]), Err(SriovError::Room(0)));
}

#[test]
fn lies_about_how_many_and_where_are_refused() {
    let numbers = [at(1, 0x10, 0)];
    let attempt = |device: Device, count| {
        let (machine, mut found) = machine(port(0xc01, 0xc02), device);
        made(&machine, &mut found, count, &numbers).unwrap_err()
    };
    let with = |register, value| {
        let mut device = physical(0x80, 2);
        device.put(CAPABILITY + register, Width::W2, value);
        device
    };
    assert_eq!(attempt(physical(0x80, 2), 9), SriovError::Count { most: 8 });
    assert_eq!(attempt(physical(0x80, 2), 0), SriovError::Count { most: 8 });
    assert_eq!(attempt(with(sriov::TOTAL, 0xffff), 1), SriovError::Count { most: 0 });
    // Onto itself, past the last number, and onto a bus that the port does not lead to.
    for (first, stride, count) in [(0, 1, 1), (0x80, 0, 2), (0xff00, 1, 1), (0x300, 1, 1)] {
        assert_eq!(attempt(physical(first, stride), count), SriovError::Numbers);
    }
    let huge = physical(0x80, 2).register(CAPABILITY + sriov::BAR0 + 4, 0, 0x8000_0000);
    let huge = huge.register(CAPABILITY + sriov::BAR0, spec::BAR_64, 0);
    assert_eq!(attempt(huge, 8), SriovError::Room(0));
    assert_eq!(attempt(physical(0x80, 2), 2), SriovError::Absent(at(1, 0x10, 2)));
    let plain = Device::endpoint(0x8086, 1).express(0, 0);
    assert_eq!(attempt(plain, 1), SriovError::None);
}

#[test]
fn a_function_that_is_gone_has_none() {
    let (machine, mut found) = machine(port(0xc01, 0xc02), physical(0x80, 2));
    machine.devices.borrow_mut().remove(&at(1, 0, 0));
    let gone = made(&machine, &mut found, 1, &[]);
    assert_eq!(gone, Err(SriovError::Count { most: 0 }));
}

#[test]
fn they_are_apart_from_one_another_unless_they_offer_to_reach_each_other() {
    let numbers = [at(1, 0x10, 0), at(1, 0x10, 2)];
    for acs in [false, true] {
        let (machine, mut found) = machine(port(0xc01, 0xc02), physical(0x80, 2));
        found.iter().for_each(|info| crate::isolate(&machine, info));
        let mut made = made(&machine, &mut found, 2, &numbers).unwrap();
        if acs {
            // An offer of access control that nobody took.
            let mut devices = machine.devices.borrow_mut();
            *devices.get_mut(&numbers[0]).unwrap() = virtual_one().acs();
            drop(devices);
            let capability =
                crate::Capability { id: extended::ACS, version: 1, offset: 0x100, bytes: Some(8) };
            made[0].extended.push(capability);
        }
        found.extend(made);
        let groups = groups(&found, &machine);
        assert_eq!(groups.len(), if acs { 3 } else { 5 });
    }
}

#[test]
fn a_reset_is_over_when_the_class_is_back() {
    let (machine, mut found) = machine(port(0xc01, 0xc02), physical(0x80, 2));
    let made = made(&machine, &mut found, 1, &[at(1, 0x10, 0)]).unwrap();
    assert_eq!(reset(&machine, &made[0], &machine), Ok(()));
    machine.devices.borrow_mut().remove(&at(1, 0x10, 0));
    assert_eq!(reset(&machine, &made[0], &machine), Err(ResetError::Gone));
}
