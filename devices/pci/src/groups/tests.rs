//! What belongs together, on machines as they are built.

use hw::Width;
use proptest::prelude::*;

use super::*;
use crate::aliases::{Sender, sender};
use crate::enumerate::{enumerate, quiet};
use crate::model::{Device, Machine, at};
use crate::spec::capability::express;

const ROOT_PORT: u16 = 4;
const UPSTREAM: u16 = 5;
const DOWNSTREAM: u16 = 6;
const TO_PCI: u16 = 7;
const INTEGRATED: u16 = 9;

fn nic() -> Device {
    Device::endpoint(0x8086, 0x10c9).express(0, 0)
}

fn port(kind: u16, secondary: u8, subordinate: u8) -> Device {
    Device::bridge(secondary, subordinate).express(kind, 0)
}

fn machine(devices: impl IntoIterator<Item = (Function, Device)>) -> (Machine, Vec<FunctionInfo>) {
    let machine = Machine::new(devices);
    let found = enumerate(&machine, 0, 0..=255);
    found.iter().for_each(|info| isolate(&machine, info));
    (machine, found)
}

fn grouped(devices: impl IntoIterator<Item = (Function, Device)>) -> Vec<Group> {
    let (machine, found) = machine(devices);
    groups(&found, &machine)
}

fn members(groups: &[Group]) -> Vec<&[Function]> {
    groups.iter().map(|group| &*group.functions).collect()
}

#[test]
fn functions_behind_ports_with_access_control_are_alone() {
    let groups = grouped([
        (at(0, 0, 0), Device::endpoint(0x8086, 0x29c0)),
        (at(0, 1, 0), port(ROOT_PORT, 1, 1).acs()),
        (at(0, 2, 0), port(ROOT_PORT, 2, 2).acs()),
        (at(1, 0, 0), nic()),
        (at(2, 0, 0), nic()),
    ]);
    assert_eq!(groups.len(), 5);
    assert!(groups.iter().all(|group| group.ties.is_empty() && group.aliases.is_empty()));
}

#[test]
fn a_port_without_access_control_is_one_with_all_below() {
    let groups = grouped([
        (at(0, 1, 0), port(ROOT_PORT, 1, 1)),
        (at(1, 0, 0), nic().acs()),
        (at(0, 2, 0), port(ROOT_PORT, 2, 2).acs()),
    ]);
    assert_eq!(members(&groups), [&[at(0, 1, 0), at(1, 0, 0)][..], &[at(0, 2, 0)]]);
    let tie = Tie { one: at(1, 0, 0), other: at(0, 1, 0), reason: Reason::Port };
    assert_eq!(groups[0].ties, [tie]);
    let said = "0000:00:01.0, 0000:01:00.0\n  0000:01:00.0 is below 0000:00:01.0, a port without \
                access control (ACS)";
    assert_eq!(groups[0].to_string(), said);
}

#[test]
fn access_control_counts_only_where_it_is_on() {
    let (machine, found) =
        machine([(at(0, 1, 0), port(ROOT_PORT, 1, 1).acs()), (at(1, 0, 0), nic())]);
    assert_eq!(groups(&found, &machine).len(), 2);
    let control = |value| {
        ConfigAccess::write(&machine, at(0, 1, 0), 0x106, Width::W2, value);
        groups(&found, &machine).len()
    };
    assert_eq!([control(0), control(0x1e), control(0x17), control(0x1d)], [1, 1, 1, 2]);
}

#[test]
fn exceptions_from_access_control_are_taken_back() {
    let mut exempt = port(ROOT_PORT, 1, 1).acs();
    exempt.put(0x104, Width::W2, 0x007f);
    exempt.allow(0x106, Width::W2, 0x007f);
    exempt.put(0x106, Width::W2, 0x0060);
    let (machine, found) = machine([(at(0, 1, 0), exempt), (at(1, 0, 0), nic())]);
    assert_eq!(machine.peek(at(0, 1, 0), 0x106, Width::W2), 0x1d);
    assert_eq!(groups(&found, &machine).len(), 2);
    for exception in [0x3d, 0x5d] {
        ConfigAccess::write(&machine, at(0, 1, 0), 0x106, Width::W2, exception);
        assert_eq!(groups(&found, &machine).len(), 1, "{exception:#x}");
    }
}

/// A switch with two ports, each with a function.
fn switch(root: Device, first: Device, second: Device) -> [(Function, Device); 6] {
    [
        (at(0, 1, 0), root),
        (at(1, 0, 0), port(UPSTREAM, 2, 4)),
        (at(2, 0, 0), first),
        (at(2, 1, 0), second),
        (at(3, 0, 0), nic()),
        (at(4, 0, 0), nic()),
    ]
}

#[test]
fn a_switch_separates_if_all_its_ports_and_the_root_do() {
    let root = || port(ROOT_PORT, 1, 4);
    let (first, second) = (|| port(DOWNSTREAM, 3, 3), || port(DOWNSTREAM, 4, 4));
    assert_eq!(grouped(switch(root().acs(), first().acs(), second().acs())).len(), 6);
    let one = grouped(switch(root().acs(), first(), second().acs()));
    assert!(members(&one).contains(&&[at(2, 0, 0), at(3, 0, 0)][..]));
    assert_eq!(one.len(), 5);
    assert_eq!(grouped(switch(root(), first().acs(), second().acs())).len(), 1);
}

#[test]
fn a_switch_port_has_to_offer_all_of_it() {
    let mut partial = port(DOWNSTREAM, 3, 3).acs();
    partial.put(0x104, Width::W2, 0x0009);
    let groups =
        grouped(switch(port(ROOT_PORT, 1, 4).acs(), partial, port(DOWNSTREAM, 4, 4).acs()));
    assert!(members(&groups).contains(&&[at(2, 0, 0), at(3, 0, 0)][..]));
}

#[test]
fn functions_of_a_device_are_together_unless_all_control_access() {
    let function = |device: Device| device.multifunction();
    let integrated = || Device::endpoint(0x8086, 1).express(INTEGRATED, 0);
    let groups = grouped([
        (at(0, 3, 0), function(integrated().acs())),
        (at(0, 3, 1), function(integrated().acs())),
        (at(0, 4, 0), function(integrated().acs())),
        (at(0, 4, 1), function(integrated())),
        (at(0, 4, 2), function(integrated())),
        (at(0, 5, 0), Device::endpoint(0x8086, 1)),
    ]);
    let together = [at(0, 4, 0), at(0, 4, 1), at(0, 4, 2)];
    assert_eq!(members(&groups), [&[at(0, 3, 0)][..], &[at(0, 3, 1)], &together, &[at(0, 5, 0)]]);
    let why = groups[2].ties.iter().map(|tie| (tie.one, tie.other, tie.reason)).collect::<Vec<_>>();
    let blamed = at(0, 4, 1);
    let expected = [at(0, 4, 0), at(0, 4, 2)].map(|one| (one, blamed, Reason::Device));
    assert_eq!(why, expected);
}

#[test]
fn ports_of_one_device_without_access_control_join_what_is_below() {
    let groups = grouped([
        (at(0, 28, 0), port(ROOT_PORT, 1, 1).multifunction()),
        (at(0, 28, 1), port(ROOT_PORT, 2, 2).multifunction()),
        (at(1, 0, 0), nic()),
        (at(2, 0, 0), nic()),
    ]);
    assert_eq!(groups.len(), 1);
}

#[test]
fn conventional_functions_send_as_their_bridge() {
    let (machine, found) = machine([
        (at(0, 1, 0), port(ROOT_PORT, 1, 3).acs()),
        (at(1, 0, 0), port(TO_PCI, 2, 3)),
        (at(2, 5, 0), Device::endpoint(0x8086, 0x100e)),
        (at(2, 6, 0), Device::bridge(3, 3)),
        (at(3, 0, 0), Device::endpoint(0x1af4, 0x1000)),
    ]);
    let groups = groups(&found, &machine);
    let behind = [at(1, 0, 0), at(2, 5, 0), at(2, 6, 0), at(3, 0, 0)];
    assert_eq!(members(&groups), [&[at(0, 1, 0)][..], &behind]);
    assert!(groups[1].ties.iter().all(|tie| tie.other == at(1, 0, 0)));
    let of = |function| find(&found, function).unwrap();
    let rids = |list: &[Function]| list.iter().map(|it| it.rid).collect::<Vec<_>>();
    let list = aliases(&found, of(at(2, 5, 0)), &machine);
    assert_eq!(list, rids(&[at(1, 0, 0), at(2, 0, 0)]));
    let list = aliases(&found, of(at(3, 0, 0)), &machine);
    assert_eq!(list, rids(&[at(1, 0, 0), at(2, 0, 0), at(2, 6, 0)]));
    let buses = Sender::Buses { bridge: at(1, 0, 0), first: 2, last: 3 };
    assert_eq!(sender(&found, of(at(3, 0, 0))), buses);
    assert_eq!(sender(&found, of(at(1, 0, 0))), Sender::Function(at(1, 0, 0)));
    let text = groups[1].to_string();
    assert!(text.contains("0000:02:05.0 is behind 0000:01:00.0"), "{text}");
    assert!(text.contains("0000:02:05.0 may send as 02:00.0"), "{text}");
}

#[test]
fn behind_a_conventional_bridge_on_a_root_bus_the_bridge_sends() {
    let (_, found) =
        machine([(at(0, 30, 0), Device::bridge(1, 1)), (at(1, 3, 0), Device::endpoint(0x8086, 1))]);
    assert_eq!(sender(&found, &found[1]), Sender::Function(at(0, 30, 0)));
}

#[test]
fn phantom_functions_send_as_others_until_they_are_off() {
    let mut device = Device::endpoint(0x8086, 1).express(0, 2 << express::PHANTOM_SHIFT).acs();
    device.put(0x48, Width::W2, express::PHANTOM_ENABLE.into());
    let other = nic().acs().multifunction();
    let (machine, found) = machine([
        (at(0, 1, 0), port(ROOT_PORT, 1, 1).acs()),
        (at(1, 0, 0), device.multifunction()),
        (at(1, 0, 1), other.clone()),
        (at(1, 0, 2), other),
    ]);
    let made = groups(&found, &machine);
    assert_eq!(members(&made), [&[at(0, 1, 0)][..], &[at(1, 0, 0), at(1, 0, 2)], &[at(1, 0, 1)]]);
    assert_eq!(made[1].ties[0].reason, Reason::Phantom);
    let phantoms = [2, 4, 6].map(|function| (at(1, 0, 0), RequesterId::new(1, 0, function)));
    assert_eq!(made[1].aliases, phantoms);
    found.iter().for_each(|info| quiet(&machine, info));
    assert_eq!(groups(&found, &machine).len(), 4);
}

#[test]
fn below_a_port_with_ari_a_bus_is_one_device() {
    let mut root = port(ROOT_PORT, 1, 1).acs();
    root.put(0x68, Width::W2, express::ARI_FORWARDING.into());
    let mut first = nic().extended(extended::ARI, 0x100);
    first.put(0x104, Width::W2, 0x0900);
    let groups = grouped([(at(0, 1, 0), root), (at(1, 0, 0), first), (at(1, 1, 1), nic())]);
    assert_eq!(members(&groups)[1], [at(1, 0, 0), at(1, 1, 1)]);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]
    #[test]
    fn whatever_registers_say_each_function_is_in_one_group(
        machine in crate::enumerate::tests::garbage(),
    ) {
        let found = enumerate(&machine, 0, 0..=7);
        found.iter().for_each(|info| isolate(&machine, info));
        let groups = groups(&found, &machine);
        let mut all = groups.iter().flat_map(|group| &group.functions).collect::<Vec<_>>();
        all.sort_unstable();
        prop_assert_eq!(all, found.iter().map(|info| &info.function).collect::<Vec<_>>());
        for group in &groups {
            prop_assert!(group.ties.len() + 1 >= group.functions.len());
            prop_assert!(!group.to_string().is_empty());
        }
    }
}
