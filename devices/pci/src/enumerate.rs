//! Finding all functions of a segment, and silencing them.

use alloc::vec::Vec;
use core::ops::RangeInclusive;

use hw::{Function, RequesterId};

use crate::access::{Config, ConfigAccess};
use crate::function::{FunctionInfo, HeaderKind, PcieKind};
use crate::spec::capability::{self, express};
use crate::spec::{self, extended};

/// A bus to be looked at.
struct Bus {
    number: u8,
    parent: Option<Function>,
    /// A link ends at one device: there is only device 0 below its port.
    is_link: bool,
    ari: bool,
}

/// Every function that answers on these buses, in the order of its number: below bridges, and on buses that no bridge
/// leads to, as further host bridges have them. BARs are sized; nothing else is left changed.
pub fn enumerate(
    access: &impl ConfigAccess,
    segment: u16,
    buses: RangeInclusive<u8>,
) -> Vec<FunctionInfo> {
    let mut found = Vec::new();
    let mut seen = [false; 256];
    let mut waiting = Vec::new();
    for root in buses.clone() {
        waiting.push(Bus { number: root, parent: None, is_link: false, ari: false });
        while let Some(bus) = waiting.pop() {
            let Some(seen) = seen.get_mut(usize::from(bus.number)) else { continue };
            if core::mem::replace(seen, true) {
                continue;
            }
            let first = found.len();
            scan(access, segment, &bus, &mut found);
            let bridges = found.iter().skip(first).filter_map(|info| below(access, info));
            waiting.extend(bridges.filter(|bus| buses.contains(&bus.number)));
        }
    }
    found.sort_unstable_by_key(|info| info.function);
    found
}

/// The bus below a bridge. It has a greater number than the bridge's, so that no bridge is its own descendant.
fn below(access: &impl ConfigAccess, bridge: &FunctionInfo) -> Option<Bus> {
    let (secondary, _) = bridge.buses()?;
    let is_link = matches!(bridge.pcie, Some(PcieKind::RootPort | PcieKind::DownstreamPort));
    let ari = bridge.forwards_ari(access);
    Some(Bus { number: secondary, parent: Some(bridge.function), is_link, ari })
}

fn scan(access: &impl ConfigAccess, segment: u16, bus: &Bus, found: &mut Vec<FunctionInfo>) {
    let devices = if bus.is_link { 1 } else { 32 };
    let read = |devfn: u8| {
        let rid = RequesterId(u16::from(bus.number) << 8 | u16::from(devfn));
        let config = Config::new(access, Function { segment, rid });
        // 0 is no vendor, and a function that still asks for time after the firmware is none to rely on.
        let absent = [0, spec::RETRY_VENDOR, spec::NO_VENDOR];
        let there = !absent.contains(&config.read16(spec::VENDOR));
        there.then(|| FunctionInfo::read(config, bus.parent))
    };
    for device in 0..devices {
        let Some(first) = read(device << 3) else { continue };
        let header = Config::new(access, first.function).read8(spec::HEADER_TYPE);
        let mut next = first.next_by_ari(access);
        found.push(first);
        if bus.ari {
            while let Some(info) = next.and_then(read) {
                next = info.next_by_ari(access);
                found.push(info);
            }
        } else if header & spec::HEADER_MULTIFUNCTION != 0 {
            found.extend((1..8).filter_map(|function| read(device << 3 | function)));
        }
    }
}

/// Takes from a function, at hand-over and before the IOMMU is there, all by which it could still act: bus mastering and
/// with it every message, INTx, virtual functions, translations and requester IDs of its own. Bridges are left alone.
pub fn quiet(access: &impl ConfigAccess, info: &FunctionInfo) {
    if info.header != HeaderKind::Endpoint {
        return;
    }
    let config = Config::new(access, info.function);
    let clear = |offset: u16, bits: u16| {
        let value = config.read16(offset);
        if value & bits != 0 {
            config.write16(offset, value & !bits);
        }
    };
    let command = config.read16(spec::COMMAND);
    let quiet = command & !spec::COMMAND_MASTER | spec::COMMAND_INTX_DISABLE;
    config.write16(spec::COMMAND, quiet);
    let extended = |id| info.extended_capability(id).map(|found| found.offset);
    if let Some(at) = extended(extended::SRIOV) {
        use extended::sriov::{CONTROL, ENABLE, MEMORY_ENABLE};
        clear(at + CONTROL, ENABLE | MEMORY_ENABLE);
    }
    if let Some(at) = extended(extended::PRI) {
        clear(at + extended::pri::CONTROL, extended::pri::ENABLE);
    }
    if let Some(at) = extended(extended::ATS) {
        clear(at + extended::ats::CONTROL, extended::ats::ENABLE);
    }
    if let Some(found) = info.capability(capability::EXPRESS) {
        clear(found.offset + express::DEVICE_CONTROL, express::PHANTOM_ENABLE);
    }
}

#[cfg(test)]
pub(crate) mod tests;
