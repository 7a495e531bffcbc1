//! As whom a function's requests arrive at the IOMMU: as itself, and where a bridge puts its own name on them, as that
//! one (PCI Express to PCI bridge specification 1.0, 2.3; VT-d 3.4.1); with phantom functions, as its own further
//! functions (7.5.3.3).

use alloc::vec::Vec;

use hw::{Function, RequesterId};

use crate::access::{Config, ConfigAccess};
use crate::function::{FunctionInfo, PcieKind, find};
use crate::spec::capability::{self, express};

/// Who an interrupt entry has to let in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sender {
    /// A function: itself, or a bridge that sends for it.
    Function(Function),
    /// Whoever is behind a bridge.
    Buses {
        /// The bridge.
        bridge: Function,
        /// Its secondary bus.
        first: u8,
        /// Its subordinate bus.
        last: u8,
    },
}

/// The bridges above a function, from the lowest on. Each is on a lower bus than the one before.
pub(crate) fn bridges_above<'a>(
    functions: &'a [FunctionInfo],
    info: &FunctionInfo,
) -> impl Iterator<Item = &'a FunctionInfo> {
    let above = |info: &FunctionInfo| find(functions, info.parent?);
    core::iter::successors(above(info), move |bridge| above(bridge))
}

/// Whether a bridge has conventional PCI on either side, so that requests lose who sent them.
pub(crate) const fn renames(bridge: &FunctionInfo) -> bool {
    use PcieKind::{DownstreamPort, RootPort, UpstreamPort};
    !matches!(bridge.pcie, Some(RootPort | UpstreamPort | DownstreamPort))
}

/// The requester IDs besides its own under which a function's requests may arrive. All are to be attached with it; they
/// belong to nobody outside of its group.
#[must_use]
pub fn aliases(
    functions: &[FunctionInfo],
    info: &FunctionInfo,
    access: &impl ConfigAccess,
) -> Vec<RequesterId> {
    let mut found = phantoms(info, access);
    for bridge in bridges_above(functions, info).filter(|bridge| renames(bridge)) {
        // Which of the two depends on the bridge; both lead through it.
        found.push(bridge.function.rid);
        found.extend(bridge.buses().map(|(secondary, _)| RequesterId::new(secondary, 0, 0)));
    }
    found.retain(|rid| *rid != info.function.rid);
    found.sort_unstable();
    found.dedup();
    found
}

/// Who sends the interrupts of a function.
#[must_use]
pub fn sender(functions: &[FunctionInfo], info: &FunctionInfo) -> Sender {
    match bridges_above(functions, info).filter(|bridge| renames(bridge)).last() {
        None => Sender::Function(info.function),
        Some(bridge) => match (bridge.pcie, bridge.buses()) {
            (Some(PcieKind::PcieToPci), Some((first, last))) => {
                Sender::Buses { bridge: bridge.function, first, last }
            }
            _ => Sender::Function(bridge.function),
        },
    }
}

/// The function numbers that a function uses without being there: the highest bits of its number are free for it.
pub(crate) fn phantoms(info: &FunctionInfo, access: &impl ConfigAccess) -> Vec<RequesterId> {
    let Some(found) = info.capability(capability::EXPRESS) else { return Vec::new() };
    let config = Config::new(access, info.function);
    let enabled = config.read16(found.offset + express::DEVICE_CONTROL) & express::PHANTOM_ENABLE;
    let offered = config.read32(found.offset + express::DEVICE_CAPABILITIES);
    let bits = offered >> express::PHANTOM_SHIFT & 3;
    let step = 8 >> bits;
    let first = info.function.rid.function();
    if enabled == 0 || bits == 0 || first >= step {
        return Vec::new();
    }
    let (bus, device) = (info.function.rid.bus(), info.function.rid.device());
    let numbers = (first..8).step_by(usize::from(step)).skip(1);
    numbers.map(|function| RequesterId::new(bus, device, function)).collect()
}
