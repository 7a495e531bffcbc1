//! The DSDT's part about PCI: the host bridge with its windows, and ECAM.

use alloc::vec::Vec;
use core::ops::Range;

use acpi_tables::{
    Aml,
    aml::{
        AddressSpace, AddressSpaceCacheable, And, Arg, CreateDWordField, Device, EISAName, Else,
        Equal, IO, If, Local, Memory32Fixed, Method, Name, NotEqual, ONE, Or, Path,
        ResourceTemplate, Return, Store, Uuid, ZERO,
    },
};

use crate::pci;

/// What `_OSC` may hand over (PCI Firmware Specification 3.3, 4.5.1): native hot-plug, PME, AER and the PCI Express
/// capability. Not SHPC, LTR and DPC.
const HANDED_OVER: u8 = 0x1d;

/// Describes the host bridge and ECAM.
pub(super) fn describe(scope: &mut Vec<u8>, pci: &pci::Plan) {
    host_bridge(scope, pci);
    ecam(scope, pci);
}

/// A PCI Express host bridge: its own ports, and the buses and memory that are for what is behind it. There is no I/O
/// space.
fn host_bridge(scope: &mut Vec<u8>, pci: &pci::Plan) {
    let first = pci::PORTS.first.0;
    let config = IO::new(first, first, 1, pci::PORTS.count as u8);
    let buses = AddressSpace::new_bus_number(0_u16, u16::from(pci.buses()) - 1);
    let [low, high] = [&pci::MEMORY32, pci.memory64()].map(window);
    let mut resources: Vec<&dyn Aml> = alloc::vec![&buses, &config];
    resources.extend([&low, &high].into_iter().flatten().map(|window| window as &dyn Aml));
    let resources = ResourceTemplate::new(resources);
    let (hid, cid) = (EISAName::new("PNP0A08"), EISAName::new("PNP0A03"));
    let hid = Name::new("_HID".into(), &hid);
    let cid = Name::new("_CID".into(), &cid);
    let uid = Name::new("_UID".into(), &ZERO);
    let bbn = Name::new("_BBN".into(), &ZERO);
    let crs = Name::new("_CRS".into(), &resources);
    let children: [&dyn Aml; 6] = [&hid, &cid, &uid, &bbn, &crs, &ControlMethod];
    Device::new("PCI0".into(), children.into()).to_aml_bytes(scope);
}

/// A QWordMemory descriptor, unless the window is empty.
fn window(range: &Range<u64>) -> Option<AddressSpace<u64>> {
    let cacheable = AddressSpaceCacheable::NotCacheable;
    let last = range.end.checked_sub(1).filter(|last| range.contains(last))?;
    Some(AddressSpace::new_memory(cacheable, true, range.start, last, None))
}

/// `_OSC`, which has no state of its own: of what the guest asks for it hands over what there is.
struct ControlMethod;

impl Aml for ControlMethod {
    fn to_aml_bytes(&self, sink: &mut dyn acpi_tables::AmlSink) {
        let (status, control) = (Path::new("CDW1"), Path::new("CDW3"));
        let (uuid, revision, buffer, local) = (Arg(0), Arg(1), Arg(3), Local(0));
        let uuid_of_pci = Uuid::new("33DB4D5B-1FF7-401C-9657-7441C03DD766");
        // In the status: UUID unknown, revision unknown, some of what was asked for is not handed over.
        let [no_uuid, no_revision, less] =
            [&4_u8, &8_u8, &0x10_u8].map(|bit| Or::new(&status, &status, bit));
        let status_field = CreateDWordField::new(&status, &buffer, &ZERO);
        let control_field = CreateDWordField::new(&control, &buffer, &8_u8);
        let handed_over = And::new(&local, &control, &HANDED_OVER);
        let (is_less, is_unknown) =
            (NotEqual::new(&local, &control), NotEqual::new(&revision, &ONE));
        let (is_less, is_unknown) = (
            If::new(&is_less, [&less as _].into()),
            If::new(&is_unknown, [&no_revision as _].into()),
        );
        let answer = Store::new(&control, &local);
        let is_pci = Equal::new(&uuid, &uuid_of_pci);
        let body: [&dyn Aml; 5] = [&control_field, &handed_over, &is_unknown, &is_less, &answer];
        let is_pci = If::new(&is_pci, body.into());
        let other = Else::new([&no_uuid as _].into());
        let give_back = Return::new(&buffer);
        let body: [&dyn Aml; 4] = [&status_field, &is_pci, &other, &give_back];
        Method::new("_OSC".into(), 4, true, body.into()).to_aml_bytes(sink);
    }
}

/// Reserves ECAM as a motherboard resource, as which operating systems look for it before they use it (PCI Firmware
/// Specification 3.3, 4.1.2).
fn ecam(scope: &mut Vec<u8>, pci: &pci::Plan) {
    let memory = Memory32Fixed::new(true, pci::ECAM_BASE.raw() as u32, pci.ecam_bytes() as u32);
    let resources = ResourceTemplate::new(alloc::vec![&memory]);
    let hid = EISAName::new("PNP0C02");
    let hid = Name::new("_HID".into(), &hid);
    let uid = Name::new("_UID".into(), &ZERO);
    let crs = Name::new("_CRS".into(), &resources);
    Device::new("ECAM".into(), alloc::vec![&hid, &uid, &crs]).to_aml_bytes(scope);
}
