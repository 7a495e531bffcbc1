//! Enumeration on machines of all kinds, sound and lying.

use super::*;
use crate::function::{Bar, BarKind, Msi, Msix, Reset, buses_below, find};
use crate::model::{Device, Machine, at};
use hw::Width;
use proptest::prelude::*;

fn places(found: &[FunctionInfo]) -> Vec<Function> {
    found.iter().map(|info| info.function).collect()
}

fn one(device: Device) -> (Machine, FunctionInfo) {
    let machine = Machine::new([(at(0, 3, 0), device)]);
    let mut found = enumerate(&machine, 0, 0..=0);
    assert_eq!(found.len(), 1);
    (machine, found.remove(0))
}

#[test]
fn functions_are_found_below_bridges_and_on_peer_buses() {
    let machine = Machine::new([
        (at(0, 0, 0), Device::endpoint(0x8086, 0x29c0)),
        (at(0, 1, 0), Device::bridge(1, 3).express(4, 0)),
        (at(1, 0, 0), Device::bridge(2, 3).express(5, 0)),
        (at(2, 4, 0), Device::bridge(3, 3).express(6, 0)),
        (at(3, 0, 0), Device::endpoint(0x8086, 0x10c9)),
        (at(9, 7, 0), Device::endpoint(0x1af4, 0x1041)),
    ]);
    let found = enumerate(&machine, 0, 0..=255);
    let parents = found.iter().map(|info| (info.function, info.parent)).collect::<Vec<_>>();
    assert_eq!(
        parents,
        [
            (at(0, 0, 0), None),
            (at(0, 1, 0), None),
            (at(1, 0, 0), Some(at(0, 1, 0))),
            (at(2, 4, 0), Some(at(1, 0, 0))),
            (at(3, 0, 0), Some(at(2, 4, 0))),
            (at(9, 7, 0), None),
        ]
    );
    assert_eq!(find(&found, at(3, 0, 0)).map(|info| info.device), Some(0x10c9));
    assert_eq!(buses_below(&found, at(0, 1, 0)), Some((1, 3)));
    assert_eq!(buses_below(&found, at(0, 0, 0)), None);
}

#[test]
fn only_a_device_with_the_bit_has_further_functions() {
    let device = Device::endpoint(0x8086, 1);
    let machine = Machine::new([
        (at(0, 1, 0), device.clone().multifunction()),
        (at(0, 1, 5), device.clone()),
        (at(0, 2, 0), device.clone()),
        (at(0, 2, 1), device.clone()),
        (at(0, 3, 1), device),
    ]);
    let found = enumerate(&machine, 0, 0..=0);
    assert_eq!(places(&found), [at(0, 1, 0), at(0, 1, 5), at(0, 2, 0)]);
}

#[test]
fn a_link_has_one_device() {
    let echo = Device::endpoint(0x10ec, 0x8168).express(0, 0);
    let port = Device::bridge(1, 1).express(4, 0);
    let echoes = (0..32).map(|device| (at(1, device, 0), echo.clone()));
    let machine = Machine::new([(at(0, 1, 0), port)].into_iter().chain(echoes));
    assert_eq!(places(&enumerate(&machine, 0, 0..=255)), [at(0, 1, 0), at(1, 0, 0)]);
}

#[test]
fn ari_functions_are_followed_while_their_numbers_grow() {
    let mut port = Device::bridge(1, 1).express(4, 0);
    port.put(0x40 + express::DEVICE_CONTROL_2, Width::W2, express::ARI_FORWARDING.into());
    let function = |next: u32| {
        let mut device = Device::endpoint(0x8086, 1).express(0, 0).extended(extended::ARI, 0x100);
        device.put(0x104, Width::W2, next << 8);
        device
    };
    let number = |devfn: u8| at(1, devfn >> 3, devfn & 7);
    let machine = Machine::new([
        (at(0, 1, 0), port),
        (number(0), function(9)),
        (number(9), function(0x80)),
        (number(0x80), function(9)),
    ]);
    let found = enumerate(&machine, 0, 0..=255);
    assert_eq!(places(&found)[1..], [number(0), number(9), number(0x80)]);
}

#[test]
fn bridges_that_lie_about_their_buses_lead_nowhere_twice() {
    let machine = Machine::new([
        (at(0, 1, 0), Device::bridge(0, 5)),
        (at(0, 2, 0), Device::bridge(2, 1)),
        (at(0, 3, 0), Device::bridge(1, 1)),
        (at(0, 4, 0), Device::bridge(1, 1)),
        (at(1, 0, 0), Device::bridge(1, 1)),
    ]);
    let found = enumerate(&machine, 0, 0..=255);
    assert_eq!(found.len(), 5);
    assert_eq!(buses_below(&found, at(0, 1, 0)), None);
    assert_eq!(buses_below(&found, at(0, 2, 0)), None);
    assert_eq!(buses_below(&found, at(1, 0, 0)), None);
}

#[test]
fn a_bridge_leads_to_no_bus_outside_the_range() {
    let machine = Machine::new([
        (at(0, 1, 0), Device::bridge(4, 4)),
        (at(4, 0, 0), Device::endpoint(0x8086, 1)),
    ]);
    assert_eq!(enumerate(&machine, 0, 0..=3).len(), 1);
}

#[test]
fn nobody_is_found_where_nobody_answers() {
    let machine = Machine::new([
        (at(0, 1, 0), Device::endpoint(0, 0)),
        (at(0, 2, 0), Device { busy_reads: u32::MAX, ..Device::endpoint(0x8086, 1) }),
    ]);
    assert_eq!(enumerate(&machine, 0, 0..=255), []);
}

#[test]
fn bars_are_sized_with_decoding_off_and_left_as_they_were() {
    let mut device = Device::endpoint(0x8086, 1)
        .bar64(0, 0x12_3400_0000, 0x40_0000)
        .register(0x18, 0xe001, 0xffe0)
        .register(0x1c, 0xfebf_f000, 0xffff_f000)
        .register(spec::ROM, 0xfec0_0001, 0xffff_0001);
    device.put(spec::COMMAND, Width::W2, 0x0107);
    device.hook = Some(std::rc::Rc::new(|device: &mut Device, offset, _| {
        let decodes = device.peek(spec::COMMAND, Width::W2) & 3 != 0;
        assert!(!decodes || offset == spec::COMMAND, "{offset:#x} written while decoding");
        false
    }));
    let before = device.bytes.clone();
    let (machine, info) = one(device);
    assert_eq!(machine.devices.borrow()[&info.function].bytes, before);
    let bar = |index, kind, base, bytes| {
        let prefetchable = matches!(kind, BarKind::Memory64) || index == Bar::ROM;
        Some(Bar { index, kind, prefetchable, base, bytes })
    };
    assert_eq!(info.bars[0], bar(0, BarKind::Memory64, 0x12_3400_0000, 0x40_0000));
    assert_eq!(info.bars[1], None);
    assert_eq!(info.bars[2], bar(2, BarKind::Io, 0xe000, 0x20));
    assert_eq!(info.bars[3], bar(3, BarKind::Memory32, 0xfebf_f000, 0x1000));
    assert_eq!(info.bars[4..], [None, None]);
    assert_eq!(info.rom, bar(Bar::ROM, BarKind::Memory32, 0xfec0_0000, 0x1_0000));
}

#[test]
fn bars_beyond_4_gib_and_at_the_end_of_all_addresses_are_sound() {
    let (_, info) =
        one(Device::endpoint(0x8086, 1).bar64(0, 0, 1 << 40).bar64(2, !0xf_ffff, 1 << 20));
    assert_eq!(info.bar(0).map(|bar| bar.bytes), Some(1 << 40));
    assert_eq!(info.bar(2).map(|bar| (bar.base, bar.bytes)), Some((0, 1 << 20)));
    let half = Device::endpoint(0x8086, 1).register(0x24, spec::BAR_64, 0xffff_f000);
    assert_eq!(one(half).1.bars, [None; 6], "no upper half");
}

#[test]
fn a_host_bridge_goes_on_decoding() {
    let mut bridge = Device::endpoint(0x8086, 0x29c0).bar64(0, 0x8000_0000, 0x1000_0000);
    bridge.put(spec::REVISION, Width::W4, spec::class::HOST_BRIDGE << 16);
    let (machine, info) = one(bridge);
    assert_eq!((info.bars, info.class), ([None; 6], 0x06_00_00));
    assert!(machine.writes.borrow().is_empty());
}

#[test]
fn capabilities_are_read_once_each_and_only_where_they_fit() {
    let mut device = Device::endpoint(0x8086, 1)
        .bar64(0, 0, 0x4000)
        .express(0, express::FLR)
        .capability(capability::MSI, 0x80)
        .capability(capability::MSIX, 0xa0)
        .capability(capability::POWER, 0xfc)
        .capability(0x5a, 0xb0)
        .extended(extended::ATS, 0x100)
        .extended(extended::SRIOV, 0xfe0)
        .extended(extended::DVSEC, 0x120);
    device.put(0xb1, Width::W1, 0x40);
    device.put(0x82, Width::W2, 0x018a);
    device.put(0xa2, Width::W2, 0x0040);
    device.put(0xa4, Width::W4, 0x0000_2000);
    device.put(0xa8, Width::W4, 0x0000_3000);
    device.put(0x120, Width::W4, 0x1000_0023);
    device.put(0x124, Width::W4, 0x0180_8086);
    let (_, info) = one(device);
    let kept = |list: &[crate::Capability]| {
        list.iter().map(|found| (found.id, found.offset, found.bytes)).collect::<Vec<_>>()
    };
    assert_eq!(
        kept(&info.caps),
        [(0x10, 0x40, Some(0x3c)), (5, 0x80, Some(24)), (0x11, 0xa0, Some(12)), (0x5a, 0xb0, None)]
    );
    assert_eq!(kept(&info.extended), [(0xf, 0x100, Some(8)), (0x23, 0x120, Some(0x18))]);
    assert_eq!(info.msi, Some(Msi { offset: 0x80, vectors: 32, wide: true, maskable: true }));
    let msix = Msix {
        offset: 0xa0,
        entries: 65,
        table_bar: 0,
        table_offset: 0x2000,
        pba_bar: 0,
        pba_offset: 0x3000,
    };
    assert_eq!(info.msix, Some(msix));
    assert_eq!((msix.table_bytes(), msix.pba_bytes()), (0x410, 16));
    assert_eq!((info.pcie, info.reset), (Some(PcieKind::Endpoint), Reset::Flr));
}

#[test]
fn an_msix_table_outside_its_bar_is_none() {
    for (table, pba) in [(0x1000, 0), (0xff8, 0), (0, 0x1000), (1, 0), (7, 0), (0, 2)] {
        let mut device = Device::endpoint(0x8086, 1)
            .register(0x10, 0xfe00_0000, 0xffff_f000)
            .register(0x18, 1, 0xffff_fff0)
            .capability(capability::MSIX, 0x40);
        device.put(0x44, Width::W4, table);
        device.put(0x48, Width::W4, pba);
        assert_eq!(one(device).1.msix, None, "{table:#x} {pba:#x}");
    }
}

#[test]
fn the_reset_is_the_best_there_is() {
    let power = |control| {
        let mut device = Device::endpoint(0x8086, 1).capability(capability::POWER, 0x80);
        device.put(0x84, Width::W2, control);
        device
    };
    let advanced = |bits| {
        let mut device = power(0).capability(capability::ADVANCED_FEATURES, 0x90);
        device.put(0x93, Width::W1, bits);
        device
    };
    assert_eq!(one(Device::endpoint(0x8086, 1)).1.reset, Reset::None);
    assert_eq!(one(power(8)).1.reset, Reset::None);
    assert_eq!(one(power(0)).1.reset, Reset::Pm);
    assert_eq!(one(advanced(2)).1.reset, Reset::Pm);
    assert_eq!(one(advanced(3)).1.reset, Reset::AfFlr);
    assert_eq!(one(advanced(3).express(0, express::FLR)).1.reset, Reset::Flr);
    assert_eq!(one(Device::bridge(1, 1).express(4, express::FLR)).1.reset, Reset::None);
}

#[test]
fn a_quiet_function_can_no_longer_act() {
    let mut device = Device::endpoint(0x8086, 1)
        .express(0, 1 << 3)
        .extended(extended::SRIOV, 0x100)
        .extended(extended::ATS, 0x140)
        .extended(extended::PRI, 0x150);
    device.put(spec::COMMAND, Width::W2, 0x0107);
    for (offset, on) in [(0x48, 0x2b00), (0x108, 0x19), (0x146, 0x8005), (0x154, 1)] {
        device.put(offset, Width::W2, on);
        device.allow(offset, Width::W2, 0xffff);
    }
    let (machine, info) = one(device);
    quiet(&machine, &info);
    let word = |offset| machine.peek(info.function, offset, Width::W2);
    assert_eq!(word(spec::COMMAND), 0x0503);
    assert_eq!([word(0x48), word(0x108), word(0x146), word(0x154)], [0x2900, 0x10, 5, 0]);
}

#[test]
fn bridges_are_left_alone() {
    let machine = Machine::new([(at(0, 1, 0), Device::bridge(1, 1))]);
    let found = enumerate(&machine, 0, 0..=0);
    machine.writes.borrow_mut().clear();
    quiet(&machine, &found[0]);
    assert!(machine.writes.borrow().is_empty());
}

/// Numbers that are anything, small ones and all ones among them.
fn words(mut seed: u64) -> Vec<u8> {
    let mut next = || {
        seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        let word = (seed >> 32) as u32;
        match word & 7 {
            0 => 0,
            1 => u32::MAX,
            2 => word >> 19,
            _ => word,
        }
    };
    (0..0x400).flat_map(|_| next().to_le_bytes()).collect()
}

/// Registers that are anything and of which anything can be written, chains at likely places.
pub(crate) fn garbage() -> impl Strategy<Value = Machine> {
    let places = (0_u8..4, 0_u8..4, 0_u8..2, any::<[u8; 4]>());
    let device = (places, any::<u64>()).prop_map(|((bus, device, function, head), seed)| {
        let mut made = Device::endpoint(0x8086, 1);
        (made.bytes, made.writable) = (words(seed), words(!seed));
        made.put(spec::VENDOR, Width::W2, 0x8086);
        made.put(spec::STATUS, Width::W2, 0x10);
        made.put(spec::HEADER_TYPE, Width::W1, (head[0] & 0x81).into());
        made.put(spec::SECONDARY_BUS, Width::W1, (head[1] & 7).into());
        made.put(spec::CAPABILITIES, Width::W1, head[2].into());
        made.put(u16::from(head[2] & 0xfc), Width::W1, (head[3] & 0x1f).into());
        (at(bus, device, function), made)
    });
    proptest::collection::vec(device, 1..6).prop_map(Machine::new)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]
    #[test]
    fn whatever_registers_say_enumeration_ends_and_is_sound(machine in garbage()) {
        let found = enumerate(&machine, 0, 0..=7);
        prop_assert!(machine.accesses.get() < 8 * 32 * 8 + 6 * 8000);
        for info in &found {
            quiet(&machine, info);
            let parent_bus = info.parent.map(|parent| parent.rid.bus());
            prop_assert!(parent_bus.is_none_or(|bus| bus < info.function.rid.bus()));
            for bar in info.bars.iter().flatten().chain(&info.rom) {
                prop_assert!(bar.bytes.is_power_of_two() && bar.base % bar.bytes == 0);
                prop_assert!(bar.base.checked_add(bar.bytes).is_some());
            }
            if let Some(msix) = info.msix {
                let end = u64::from(msix.table_offset) + msix.table_bytes();
                prop_assert!(info.bar(msix.table_bar).is_some_and(|bar| end <= bar.bytes));
            }
            for found in &info.caps {
                prop_assert!(found.offset >= 0x40 && found.offset + found.bytes.unwrap_or(0) <= 0x100);
            }
            for found in &info.extended {
                prop_assert!(found.offset >= 0x100 && found.offset + found.bytes.unwrap_or(0) <= 0x1000);
            }
        }
    }
}
