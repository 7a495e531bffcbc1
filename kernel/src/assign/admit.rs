//! Which function goes to which VM, found out before any is started.

use alloc::string::String;
use alloc::vec::Vec;
use core::fmt;

use ::pci::{FunctionInfo, HeaderKind};
use config::{Config, ConfigError, Device, Problem};
use hw::Function;

use super::Granted;
use crate::hosting::{self, Part};
use crate::{iommu, pci};

/// The base class of bridges.
const BRIDGE_CLASS: u32 = 0x06;

/// Why a VM cannot have a function.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Refused {
    /// No function is like that, or no other one.
    Absent(Device),
    /// It leads to others, or is the machine's own.
    Bridge(Function),
    /// No IOMMU holds it back.
    Unheld(Function),
    /// The firmware reserves memory for it.
    Reserved(Function),
    /// A BAR of it has no address, or one at which something else is.
    Bar(Function, u8),
    /// It is Kerf's own, for its virtual functions.
    Hosting(Function),
    /// It gives no virtual function; why.
    Carve(Function, String),
    /// It cannot be separated from a function of this VM; why.
    Group(Function, Function, String, String),
}

impl fmt::Display for Refused {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Absent(device) => write!(f, "{device} is not there, or another VM has it"),
            Self::Bridge(function) => write!(f, "{function} is a bridge; name a device below it"),
            Self::Unheld(function) => write!(
                f,
                "no IOMMU stands before {function}, so it could reach all memory; turn VT-d on in the firmware's setup"
            ),
            Self::Reserved(function) => write!(
                f,
                "the firmware reserves memory for {function}, which then could not use it; say reserved-devices = true if it need not"
            ),
            Self::Bar(function, bar) => write!(
                f,
                "BAR {bar} of {function} has no address of its own; let the firmware assign it one"
            ),
            Self::Hosting(function) => write!(
                f,
                "{function} is Kerf's own, for its virtual functions; name another, or `virtual-function-of`"
            ),
            Self::Carve(function, why) => {
                write!(f, "{function} has no virtual function for it: {why}")
            }
            Self::Group(function, other, owner, why) => write!(
                f,
                "{function} cannot be separated from {other}, which is VM {owner:?}'s ({why}); give both to one VM"
            ),
        }
    }
}

/// The functions of each VM, or why it cannot have them beside those before it.
pub(crate) fn admit(config: &Config) -> Vec<Result<Vec<Granted>, ConfigError>> {
    let mut taken: Vec<(Function, usize)> = Vec::new();
    let vms = config.vms.iter().enumerate();
    vms.map(|(vm, table)| {
        let before = taken.len();
        let mut parts = Vec::new();
        let choose = |device: &Device| {
            let granted = choose(device, &taken)?;
            parts.extend(granted.part);
            check(granted.info, vm, &taken, config)?;
            taken.push((granted.info.function, vm));
            Ok(granted)
        };
        let chosen: Result<_, Refused> = table.devices.iter().map(choose).collect();
        chosen.map_err(|why| {
            taken.truncate(before);
            parts.into_iter().for_each(Part::release);
            config.wrong(vm, "device", Problem::Device(alloc::format!("{why}")))
        })
    })
    .collect()
}

/// The function that is meant.
fn choose(device: &Device, taken: &[(Function, usize)]) -> Result<Granted, Refused> {
    let absent = Refused::Absent(*device);
    let found = pci::found().ok_or(absent.clone())?;
    if let Device::Virtual { of, namespace } = *device {
        let carved = hosting::carve(of, namespace);
        let (requester, part) = carved.map_err(|why| Refused::Carve(of, why))?;
        let info = ::pci::find(&found.functions, requester).ok_or(absent)?;
        return Ok(Granted { info, part: Some(part) });
    }
    let is_it = |info: &&FunctionInfo| match *device {
        Device::Function(function) => info.function == function,
        Device::Like { vendor, device, class } => {
            vendor.is_none_or(|vendor| vendor == info.vendor)
                && device.is_none_or(|device| device == info.device)
                && class.is_none_or(|class| class == info.class)
                && !hosting::has(info)
        }
        Device::Virtual { .. } => false,
    };
    let is_free = |info: &&FunctionInfo| taken.iter().all(|(other, _)| *other != info.function);
    let info = found.functions.iter().filter(is_it).find(is_free).ok_or(absent)?;
    if hosting::has(info) {
        return Err(Refused::Hosting(info.function));
    }
    Ok(Granted { info, part: None })
}

/// Whether a VM may have a function beside what others have.
fn check(
    info: &FunctionInfo,
    vm: usize,
    taken: &[(Function, usize)],
    config: &Config,
) -> Result<(), Refused> {
    let Some(found) = pci::found() else { return Ok(()) };
    let function = info.function;
    if info.header != HeaderKind::Endpoint || info.class >> 16 == BRIDGE_CLASS {
        return Err(Refused::Bridge(function));
    }
    if !iommu::with(|driver| driver.covers(function)).unwrap_or(false) {
        return Err(Refused::Unheld(function));
    }
    let allowed = config.vms.get(vm).is_some_and(|vm| vm.reserved_devices);
    if !allowed && iommu::is_reserved(function) {
        return Err(Refused::Reserved(function));
    }
    if let Some(bar) = found.misplaced(info) {
        return Err(Refused::Bar(function, bar));
    }
    let group = found.groups.iter().find(|group| group.functions.contains(&function));
    let others = group.into_iter().flat_map(|group| {
        let with =
            taken.iter().filter(|(other, owner)| *owner != vm && group.functions.contains(other));
        with.map(move |taken| (group, taken))
    });
    match others.into_iter().next() {
        None => Ok(()),
        Some((group, &(other, owner))) => {
            let owner = config.vms.get(owner).map(|vm| vm.name.clone()).unwrap_or_default();
            let why = group.ties.first().map(|tie| alloc::format!("{tie}")).unwrap_or_default();
            Err(Refused::Group(function, other, owner, why))
        }
    }
}
