//! What the guest and the IOMMU know of a function.

use alloc::vec::Vec;

use ::iommu::Source as Sender;
use ::pci::spec::{capability, extended};
use ::pci::{BarKind, ConfigAccess, FunctionInfo};
use hw::Width;
use vmm::pci::{BarShape, Capability, Shape};

use crate::pci::Found;

/// Who sends a function's interrupts.
pub(super) fn sender(found: &Found, info: &FunctionInfo) -> Sender {
    match ::pci::sender(&found.functions, info) {
        ::pci::Sender::Function(function) => Sender::Function(function),
        ::pci::Sender::Buses { bridge, first, last } => Sender::Buses { bridge, first, last },
    }
}

/// What a guest may see of a function.
pub(super) fn of(found: &Found, info: &FunctionInfo) -> Shape {
    let bytes = |from: u16, count: u16| {
        let read = |at| found.space.read(info.function, at, Width::W1) as u8;
        (from..from.saturating_add(count)).map(read).collect::<Vec<u8>>()
    };
    let capability = |found: &::pci::Capability| {
        Some(Capability { offset: found.offset, bytes: bytes(found.offset, found.bytes?) })
    };
    // What concerns the function alone, and does nothing of itself.
    let shown = [
        capability::POWER,
        capability::MSI,
        capability::VENDOR_SPECIFIC,
        capability::EXPRESS,
        capability::MSIX,
    ];
    let is_shown = |found: &&::pci::Capability| shown.iter().any(|id| u16::from(*id) == found.id);
    let mut capabilities: Vec<Capability> =
        info.caps.iter().filter(is_shown).filter_map(capability).collect();
    // One vector, as that is all that one entry is made for.
    if let Some(msi) = info.msi
        && let Some(shown) = capabilities.iter_mut().find(|shown| shown.offset == msi.offset)
        && let Some(control) = shown.bytes.get_mut(usize::from(capability::msi::CONTROL))
    {
        *control &= !((capability::msi::LOG2 << capability::msi::CAPABLE_SHIFT) as u8);
    }
    // One kind of interrupts is enough.
    if let Some(msi) = info.msi.filter(|_| info.msix.is_some()) {
        capabilities.retain(|shown| shown.offset != msi.offset);
    }
    let is_shown = |found: &&::pci::Capability| {
        [extended::VENDOR_SPECIFIC, extended::DVSEC].contains(&found.id)
    };
    let bar = |bar: &::pci::Bar| BarShape {
        bytes: bar.bytes,
        is_64bit: bar.kind == BarKind::Memory64,
        prefetchable: bar.prefetchable,
    };
    Shape {
        vendor: info.vendor,
        device: info.device,
        subsystem_vendor: info.subsystem.0,
        subsystem: info.subsystem.1,
        class: info.class,
        revision: info.revision,
        bars: info.bars.map(|found| found.as_ref().filter(|bar| bar.kind != BarKind::Io).map(bar)),
        rom_bytes: 0,
        capabilities,
        extended: info.extended.iter().filter(is_shown).filter_map(capability).collect(),
        through: Vec::new(),
    }
}
