//! The machine's IOMMU, which Kerf takes before any guest exists. From then on a function reaches what it was granted and
//! nothing else; [`crate::assign`] grants.
//!
//! One lock stands before the driver: it is taken when devices are given, taken away and programmed, and by the boot CPU
//! that looks after faults, never on the way of an interrupt or a guest's access to its device.

use alloc::vec::Vec;
use core::ops::Range;
use core::sync::atomic::{AtomicBool, Ordering};

use config::{IommuMode, OnFault};
use firmware::{Line, Machine};
use hw::{Function, PAGE_SIZE};
use iommu::dmar::{Dmar, UnitEntry};
use iommu::{Config, Event, Fault, Hw, Iommu, Mode, Source, Stage, Target};
use manage::{FaultUse, IommuUse};
use spin::mutex::TicketMutex;
use spin::{Mutex, Once};
use x86_spec::apic::RedirectionEntry;

use crate::mem::{self, DeviceFrames};
use crate::pci::{self, Found};
use crate::platform::{Mmio, Tsc, rdtsc};
use crate::power::Verdict;
use crate::vm::Vm;
use crate::{irq, sched, vdev};

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

/// Whoever waits for it has it next: a guest that changes interrupts all the time holds up others' by one change at most.
static DRIVER: TicketMutex<Option<Driver>> = TicketMutex::new(None);
/// What the machine says of its IOMMU.
static LISTED: Once<Dmar> = Once::new();
/// A unit has told of a fault that was not read yet.
static FAULT: AtomicBool = AtomicBool::new(false);

/// Functions that were stopped, until they have a new owner.
static STOPPED: Mutex<Vec<Function>> = Mutex::new(Vec::new());

/// What was blocked of a function for one reason.
#[derive(Clone, Copy, Debug)]
struct Blocked {
    last: Fault,
    count: u64,
}

/// The latest of it.
static BLOCKED: Mutex<Vec<Blocked>> = Mutex::new(Vec::new());
/// How many are kept: functions make their numbers up as they like.
const MOST_BLOCKED: usize = 32;

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
    let dmar = LISTED.call_once(|| iommu::dmar::read(table, |problem| log::warn!("{problem}")));
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
    let begun = rdtsc();
    match Iommu::start(DeviceFrames, irq::clock(), dmar, &bridges, config, open) {
        Ok(mut driver) => {
            tell(&mut driver);
            let counts = driver.counts();
            log::info!(
                "IOMMU: {} of {} units, translating by the {} stage after {} ticks",
                counts.units,
                dmar.units.len(),
                stage(&driver),
                rdtsc().saturating_sub(begun)
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

/// By which tables it translates.
fn stage(driver: &Driver) -> &'static str {
    match driver.stage() {
        Stage::Second => "second",
        Stage::First => "first",
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

/// The units that the machine names.
pub(crate) fn units() -> &'static [UnitEntry] {
    LISTED.get().map_or(&[], |dmar| &dmar.units)
}

/// Whether the firmware reserves memory for a function.
pub(crate) fn is_reserved(function: Function) -> bool {
    with(|driver| driver.is_reserved(function)).unwrap_or(false)
}

/// Where the units' registers are.
pub(crate) fn registers() -> impl Iterator<Item = Range<u64>> {
    units().iter().map(|unit| unit.registers.raw()..unit.registers.raw() + unit.register_bytes)
}

/// What is in use.
pub(crate) fn counts() -> Option<IommuUse> {
    let listed = units().len();
    with(|driver| {
        let counts = driver.counts();
        IommuUse {
            stage: stage(driver),
            listed,
            units: counts.units,
            spaces: counts.spaces,
            functions: counts.functions,
            interrupts: counts.interrupts,
            teardowns: counts.teardowns,
        }
    })
}

/// What was blocked.
pub(crate) fn faults() -> Vec<FaultUse> {
    let blocked = BLOCKED.lock().clone();
    let row = |Blocked { last, count }| FaultUse {
        owner: sender(&last).map(|vm| vm.config.name.clone()),
        count,
        last: alloc::format!("{last}"),
    };
    blocked.into_iter().map(row).collect()
}

/// The VM that has a function.
pub(crate) fn owner(function: Function) -> Option<&'static Vm> {
    let has = |vm: &&Vm| vm.functions.iter().any(|granted| granted.info.function == function);
    sched::world()?.vms.iter().find(has)
}

/// Whose a fault is: the VM that has the function, or an interface of it.
fn sender(fault: &Fault) -> Option<&'static Vm> {
    let of_interface = || {
        let vm = vdev::owner(fault.function, fault.pasid?)?;
        sched::world()?.vms.get(vm)
    };
    owner(fault.function).or_else(of_interface)
}

/// A function has a new owner, or none: what its old one did is forgotten.
pub(crate) fn forgive(function: Function) {
    STOPPED.lock().retain(|stopped| *stopped != function);
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
    faults.into_iter().for_each(note);
}

/// Keeps a fault, tells it unless it is one of many, and does with its function and VM as the configuration says.
fn note(fault: Fault) {
    let count = keep(fault);
    let vm = sender(&fault);
    let owner = vm.map_or("no VM", |vm| vm.config.name.as_str());
    if count.is_power_of_two() {
        log::warn!("{owner}: {fault}");
    }
    let policy = vm.map_or(OnFault::Report, |vm| vm.config.on_fault);
    if policy == OnFault::StopVm
        && let Some(vm) = vm
    {
        vm.end(Verdict::Crashed);
    }
    if !fault.storm && policy == OnFault::Report {
        return;
    }
    if vdev::has(fault.function) {
        // Others have interfaces of it, too.
        if fault.pasid.is_some_and(|pasid| vdev::cut(fault.function, pasid)) {
            log::error!("{owner}: its interface of {} is cut off after that", fault.function);
        }
    } else if !is_stopped(fault.function) {
        STOPPED.lock().push(fault.function);
        if let Some(found) = pci::found()
            && let Some(info) = ::pci::find(&found.functions, fault.function)
        {
            ::pci::quiet(&found.space, info);
        }
        log::error!("{owner}: {} is stopped after what was blocked", fault.function);
    }
}

/// How often that was blocked already.
fn keep(fault: Fault) -> u64 {
    let mut blocked = BLOCKED.lock();
    let key = |fault: &Fault| (fault.function, fault.pasid, fault.reason);
    let alike = |old: &Blocked| key(&old.last) == key(&fault);
    let count = match blocked.iter().position(alike) {
        Some(at) => blocked.remove(at).count + 1,
        None if blocked.len() == MOST_BLOCKED => {
            blocked.remove(0);
            1
        }
        None => 1,
    };
    blocked.push(Blocked { last: fault, count });
    count
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
