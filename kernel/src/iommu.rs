//! The machine's IOMMU, which Kerf takes before any guest exists. From then on a function reaches what it was granted and
//! nothing else; [`crate::assign`] grants.
//!
//! One lock stands before the driver: it is taken when devices are given, taken away and programmed, and by the boot CPU
//! that looks after faults, never on the way of an interrupt or a guest's access to its device.

use alloc::vec::Vec;
use core::fmt;
use core::sync::atomic::{AtomicBool, Ordering};

use config::IommuMode;
use firmware::{Line, Machine};
use hw::{Function, PAGE_SIZE};
use iommu::dmar::UnitEntry;
use iommu::{Config, Event, Hw, Iommu, Mode, Source, Stage, Target};
use spin::Mutex;
use x86_spec::apic::RedirectionEntry;

use crate::mem::{self, DeviceFrames};
use crate::pci::Found;
use crate::platform::{Mmio, Tsc};
use crate::{irq, sched};

/// The machine under the driver.
#[derive(Debug)]
pub(crate) struct Here;

impl Hw for Here {
    type Regs = Mmio;
    type Tables = DeviceFrames;
    type Clock = Tsc;
}

/// The driver on this machine.
pub(crate) type Driver = Iommu<Here>;

static DRIVER: Mutex<Option<Driver>> = Mutex::new(None);
/// A unit has told of a fault that was not read yet.
static FAULT: AtomicBool = AtomicBool::new(false);

/// Functions that were stopped, until they have a new owner.
static STOPPED: Mutex<Vec<Function>> = Mutex::new(Vec::new());

/// Faults of a function in a second beyond which it is stopped.
const FAULT_LIMIT: u32 = 100;

/// I/O APICs' pins beside the interrupts of functions.
const PINS: usize = 24;

/// Takes every unit that the machine names, for the functions that were found.
pub(crate) fn init(machine: &Machine, mode: IommuMode, found: &Found) {
    let Some(table) = machine.dmar else {
        log::info!("the machine names no IOMMU: no guest can have a device of its own");
        return;
    };
    let dmar = iommu::dmar::read(table, |problem| log::warn!("{problem}"));
    let entries = found.interrupts() + PINS * machine.io_apics.len();
    let bits = entries.next_power_of_two().trailing_zeros();
    let config = Config {
        mode: mode_of(mode),
        x2apic: irq::is_x2apic(),
        interrupt_bits: bits.clamp(8, 16) as u8,
        fault_message: Some(irq::fault_message()),
        fault_limit: FAULT_LIMIT,
    };
    let bridges = |function| found.bridge(function);
    let open = |unit: &UnitEntry| mem::map_mmio(unit.registers, unit.register_bytes.max(PAGE_SIZE));
    match Iommu::start(DeviceFrames, irq::clock(), &dmar, &bridges, config, open) {
        Ok(mut driver) => {
            tell(&mut driver);
            let counts = driver.counts();
            log::info!(
                "IOMMU: {} of {} units, {}",
                counts.units,
                dmar.units.len(),
                Described(&driver)
            );
            *DRIVER.lock() = Some(driver);
        }
        Err(why) => log::error!("the IOMMU cannot be used ({why:?}); no guest can have a device"),
    }
}

fn mode_of(configured: IommuMode) -> Mode {
    match configured {
        IommuMode::Auto => Mode::Auto,
        IommuMode::Legacy => Mode::Legacy,
        IommuMode::ScalableSecond => Mode::ScalableSecond,
        IommuMode::ScalableFirst => Mode::ScalableFirst,
    }
}

/// What the units do, in words.
struct Described<'a>(&'a Driver);

impl fmt::Display for Described<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self.0.stage() {
            Stage::Second => "translating by the second stage",
            Stage::First => "translating by the first stage",
        })
    }
}

/// Does something with the driver, where the machine has an IOMMU.
pub(crate) fn with<T>(act: impl FnOnce(&mut Driver) -> T) -> Option<T> {
    DRIVER.lock().as_mut().map(act)
}

/// What an I/O APIC's pin is to hold so that its interrupts get through the IOMMU to a CPU; `Some(None)` where they cannot.
/// `None` where no IOMMU is in between.
pub(crate) fn route_pin(
    io_apic: u8,
    line: Line,
    vector: u8,
    apic_id: u32,
) -> Option<Option<RedirectionEntry>> {
    let target = match line.level {
        true => Target::CpuLevel { apic_id, vector },
        false => Target::Cpu { apic_id, vector },
    };
    let route = with(|driver| driver.route(Source::IoApic(io_apic), &[target]))?;
    // Kerf's own pins stay routed for good.
    Some(match route {
        Ok(route) => {
            Some(RedirectionEntry(route.redirection(vector, line.level, line.active_low, false)))
        }
        Err(iommu::RouteError::Unsupported) => return None,
        Err(why) => {
            log::warn!("the IOMMU lets no interrupt of I/O APIC {io_apic} through: {why:?}");
            None
        }
    })
}

/// Whether a function was stopped, as it faulted too much.
pub(crate) fn is_stopped(function: Function) -> bool {
    STOPPED.lock().contains(&function)
}

/// A unit's fault interrupt came.
pub(crate) fn note_fault() {
    FAULT.store(true, Ordering::Relaxed);
    sched::order(0);
}

/// Tells faults, and lets teardowns go on. By the boot CPU, now and then.
pub(crate) fn look_after() {
    if !FAULT.swap(false, Ordering::Relaxed) {
        return;
    }
    let mut faults = Vec::new();
    with(|driver| {
        driver.drain_faults(|fault| faults.push(fault));
        driver.work();
        tell(driver);
    });
    for fault in faults {
        log::warn!("IOMMU: {fault}");
    }
}

fn tell(driver: &mut Driver) {
    for event in driver.take_events() {
        match event {
            Event::ScopeAbsent(offset) => {
                log::debug!("ACPI table DMAR, offset {offset:#x}: no such device");
            }
            event => log::warn!("IOMMU: {event:x?}"),
        }
    }
}
