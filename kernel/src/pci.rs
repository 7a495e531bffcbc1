//! PCI as this machine has it: the way to configuration space, the functions that were found in it, and who has them.

use alloc::vec::Vec;

use ::pci::{ConfigAccess, Ecam, FunctionInfo, Group};
use firmware::Machine;
use hw::{Function, Width};
use spin::{Mutex, Once};

use crate::mem;
use crate::platform::{Mmio, Ports};

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
}

static FOUND: Once<Found> = Once::new();

impl ConfigSpace {
    fn new(machine: &Machine) -> Self {
        const BUS_BYTES: u64 = 1 << 20;
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

/// Finds all functions and takes from those that are no bridges what they could still do by themselves.
pub(crate) fn init(machine: &Machine) -> &'static Found {
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
    let groups = ::pci::groups(&functions, &space);
    log::debug!("{} PCI functions in {} groups", functions.len(), groups.len());
    FOUND.call_once(|| Found { space, functions, groups })
}

impl Found {
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
