//! PCI as this machine has it: the way to configuration space, the functions that were found in it, and who has them.

use alloc::collections::BTreeMap;
use alloc::vec::Vec;
use core::ops::Range;

use ::pci::{Bar, BarKind, ConfigAccess, Ecam, FunctionInfo, Group, Sriov, SriovError};
use firmware::Machine;
use hw::{Function, Hpa, Width};
use spin::{Mutex, Once};

use crate::platform::{Mmio, Ports};
use crate::{iommu, irq, mem};

/// Configuration space: in memory where MCFG says so, else by two ports, of which one holds the address of one access.
#[derive(Debug)]
pub(crate) struct ConfigSpace {
    windows: Vec<Ecam<Mmio>>,
    ports: Mutex<()>,
}

/// What was found.
#[derive(Debug)]
pub(crate) struct Found {
    pub(crate) space: ConfigSpace,
    /// All functions, in the order of their numbers.
    pub(crate) functions: Vec<FunctionInfo>,
    /// Those that cannot be held apart.
    pub(crate) groups: Vec<Group>,
    /// Functions that make virtual ones, for Kerf alone to drive.
    pub(crate) sriov: Vec<Sriov>,
    /// Where configuration space is.
    reserved: Vec<Range<u64>>,
    mapped: Mutex<BTreeMap<Function, [Option<Mmio>; 6]>>,
}

/// Configuration space of a bus, in memory.
const BUS_BYTES: u64 = 1 << 20;

static FOUND: Once<Found> = Once::new();

impl ConfigSpace {
    fn new(machine: &Machine) -> Self {
        let window = |ecam: &firmware::Ecam| {
            let (first_bus, last_bus) = ecam.buses;
            let base = ecam.base.checked_add(u64::from(first_bus) * BUS_BYTES)?;
            let bytes = (u64::from(last_bus - first_bus) + 1) * BUS_BYTES;
            let registers = mem::map_mmio(base, bytes);
            if registers.is_none() {
                log::warn!("PCI configuration space cannot be at {base}, as MCFG says");
            }
            Some(Ecam { segment: ecam.segment, first_bus, last_bus, registers: registers? })
        };
        Self { windows: machine.ecam.iter().filter_map(window).collect(), ports: Mutex::new(()) }
    }

    fn window(&self, function: Function) -> Option<&Ecam<Mmio>> {
        let bus = function.rid.bus();
        self.windows.iter().find(|window| {
            window.segment == function.segment
                && (window.first_bus..=window.last_bus).contains(&bus)
        })
    }
}

impl ConfigAccess for ConfigSpace {
    fn read(&self, function: Function, offset: u16, width: Width) -> u32 {
        if let Some(window) = self.window(function) {
            return window.read(function, offset, width);
        }
        let _one_at_a_time = self.ports.lock();
        ::pci::read_by_ports(&Ports, function, offset, width)
    }

    fn write(&self, function: Function, offset: u16, width: Width, value: u32) {
        if let Some(window) = self.window(function) {
            return window.write(function, offset, width, value);
        }
        let _one_at_a_time = self.ports.lock();
        ::pci::write_by_ports(&Ports, function, offset, width, value);
    }
}

/// Finds all functions and takes from those that are no bridges what they could still do by themselves; those of `physical`
/// then have so many virtual functions. PCI alone is in `holes`.
pub(crate) fn init(
    machine: &Machine,
    physical: &BTreeMap<Function, u16>,
    holes: &[Range<u64>],
) -> &'static Found {
    let space = ConfigSpace::new(machine);
    let mut functions = Vec::new();
    if !space.windows.iter().any(|window| window.segment == 0) {
        functions = ::pci::enumerate(&space, 0, 0..=u8::MAX);
    }
    for window in &space.windows {
        let buses = window.first_bus..=window.last_bus;
        functions.extend(::pci::enumerate(&space, window.segment, buses));
    }
    for info in &functions {
        ::pci::isolate(&space, info);
        ::pci::quiet(&space, info);
    }
    let bytes = |ecam: &firmware::Ecam| (u64::from(ecam.buses.1) + 1) * BUS_BYTES;
    let windows = machine.ecam.iter();
    let reserved: Vec<Range<u64>> =
        windows.map(|ecam| ecam.base.raw()..ecam.base.raw() + bytes(ecam)).collect();
    let mut sriov = Vec::new();
    for (&function, &count) in physical {
        match make_virtual(&space, &mut functions, function, count, &reserved, holes) {
            Ok(made) => sriov.push(made),
            Err(why) => {
                log::error!("{function} has no {count} virtual functions: {why:?}");
            }
        }
    }
    let groups = ::pci::groups(&functions, &space);
    log::debug!("{} PCI functions in {} groups", functions.len(), groups.len());
    let mapped = Mutex::default();
    FOUND.call_once(|| Found { space, functions, groups, sriov, reserved, mapped })
}

/// Has a function make virtual ones, which are added to `functions`.
fn make_virtual(
    space: &ConfigSpace,
    functions: &mut Vec<FunctionInfo>,
    physical: Function,
    count: u16,
    reserved: &[Range<u64>],
    holes: &[Range<u64>],
) -> Result<Sriov, SriovError> {
    let sriov = Sriov::prepare(space, functions, physical, count, reserved, holes)?;
    sriov.enable(space, &irq::clock());
    let made = sriov.functions(space, functions)?;
    made.iter().for_each(|info| ::pci::isolate(space, info));
    functions.extend(made);
    functions.sort_unstable_by_key(|info| info.function);
    Ok(sriov)
}

/// What [`init`] has found.
pub(crate) fn found() -> Option<&'static Found> {
    FOUND.get()
}

impl Found {
    /// A BAR of a function that has no address, or one at which another function or the chipset may be.
    pub(crate) fn misplaced(&self, info: &FunctionInfo) -> Option<u8> {
        /// I/O APICs, HPETs, IOMMUs, local APICs, the firmware.
        const CHIPSET: Range<u64> = 0xfec0_0000..0x1_0000_0000;
        let others = self.functions.iter().filter(|other| other.function != info.function);
        let bars = others.flat_map(FunctionInfo::memory_bars);
        let mut taken: Vec<_> = bars.map(Bar::range).collect();
        taken.push(CHIPSET);
        taken.extend(self.reserved.iter().cloned().chain(iommu::registers()));
        let is_wrong = |bar: &&Bar| {
            let end = bar.base.checked_add(bar.bytes);
            bar.base == 0
                || end.is_none_or(|end| {
                    taken.iter().any(|taken| bar.base < taken.end && taken.start < end)
                })
        };
        info.memory_bars().find(is_wrong).map(|bar| bar.index).or_else(|| {
            // Memory is not to be had either.
            let bars = self.bars(info);
            let missing = |bar: &&Bar| bars.get(usize::from(bar.index)).is_none_or(Option::is_none);
            info.memory_bars().find(missing).map(|bar| bar.index)
        })
    }

    /// Its memory BARs, mapped for good when they are first asked for.
    pub(crate) fn bars(&self, info: &FunctionInfo) -> [Option<Mmio>; 6] {
        *self.mapped.lock().entry(info.function).or_insert_with(|| {
            info.bars.map(|bar| {
                let bar = bar.filter(|bar| bar.kind != BarKind::Io && bar.base != 0)?;
                mem::map_mmio(Hpa::new(bar.base), bar.bytes)
            })
        })
    }

    /// The buses below a bridge.
    pub(crate) fn bridge(&self, function: Function) -> Option<(u8, u8)> {
        ::pci::buses_below(&self.functions, function)
    }

    /// How many interrupts all of them can have.
    pub(crate) fn interrupts(&self) -> usize {
        let of = |info: &FunctionInfo| {
            let msi = info.msi.map_or(0, |msi| usize::from(msi.vectors));
            info.msix.map_or(msi, |msix| msi.max(msix.entries.into()))
        };
        self.functions.iter().map(of).sum()
    }
}
