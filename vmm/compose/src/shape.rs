//! What a virtual DSA looks like in configuration space (appendix C of its specification): the two BARs, MSI-X, PCI Express
//! with a function-level reset. It has no PASID capability: its guest sends none.

use alloc::vec::Vec;

use device_spec::dsa::{CLASS, IDS, PORTALS_BAR, REGISTERS_BAR, portal};
use devices::dsa::VirtualRegisters;
use hw::PAGE_SIZE;
use pci::spec::capability::{self, express, msix};
use vmm::pci::{BarShape, Capability, Shape};

const EXPRESS_AT: u16 = 0x40;
const MSIX_AT: u16 = 0x80;

/// Bytes that a queue has in the BAR of the portals.
pub(crate) const QUEUE_BYTES: u64 = portal::PAGES * PAGE_SIZE;

/// The shape of a device with these registers and as many queues.
pub(crate) fn of(regs: &VirtualRegisters, queues: usize) -> Shape {
    let [vendor, device] = IDS;
    let bar = |bytes: u64| Some(BarShape { bytes, is_64bit: true, prefetchable: true });
    let mut bars = [None; 6];
    for (index, bytes) in
        [(REGISTERS_BAR, regs.bytes()), (PORTALS_BAR, queues as u64 * QUEUE_BYTES)]
    {
        if let Some(place) = bars.get_mut(index) {
            *place = bar(bytes);
        }
    }
    Shape {
        vendor,
        device,
        subsystem_vendor: vendor,
        class: CLASS,
        bars,
        capabilities: alloc::vec![express(), msix(regs)],
        ..Shape::default()
    }
}

fn express() -> Capability {
    let mut bytes: Vec<u8> = alloc::vec![0; express::BYTES.into()];
    put(&mut bytes, 0, &[capability::EXPRESS]);
    // An endpoint, of version 2.
    put(&mut bytes, express::CAPABILITIES, &2_u16.to_le_bytes());
    put(&mut bytes, express::DEVICE_CAPABILITIES, &express::FLR.to_le_bytes());
    Capability { offset: EXPRESS_AT, bytes }
}

fn msix(regs: &VirtualRegisters) -> Capability {
    let (entries, table, pending) = regs.msix();
    let mut bytes: Vec<u8> = alloc::vec![0; msix::BYTES.into()];
    let bar = REGISTERS_BAR as u32;
    put(&mut bytes, 0, &[capability::MSIX]);
    put(&mut bytes, msix::CONTROL, &(entries - 1).to_le_bytes());
    put(&mut bytes, msix::TABLE, &(table as u32 | bar).to_le_bytes());
    put(&mut bytes, msix::PBA, &(pending as u32 | bar).to_le_bytes());
    Capability { offset: MSIX_AT, bytes }
}

fn put(bytes: &mut [u8], at: u16, what: &[u8]) {
    bytes.iter_mut().skip(at.into()).zip(what).for_each(|(to, from)| *to = *from);
}
