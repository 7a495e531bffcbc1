//! Virtual devices: hosting functions that Kerf keeps (`hosting` in kerf.toml), the one [`Composer`] that makes virtual
//! devices of their interfaces, and those that VMs have ([`create`]).
//!
//! What a virtual device began goes on by itself: the boot CPU looks after it ([`look_after`]) until nothing is under way.

mod host;
mod take;

use alloc::boxed::Box;
use alloc::collections::BTreeMap;
use alloc::string::String;
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use ::compose::{Composer, Placement, Policy, Refusal, Request, Vdev, VdevEndpoint, VdevId};
use config::{Config, VdevKind, VdevVersion};
use devices::{InterfaceId, Kind, Mode, Version};
use hw::{Deadline, Function, Pasid, wait_until};
use manage::{QueueUse, VdevUse};
use spin::Mutex;
use vmm::pci::Endpoint;

use crate::assign::Space;
use crate::irq;
use crate::pci::Found;
use crate::platform::rdtsc;
use crate::sched;
use crate::stages::Stages;
use crate::vm::Vm;
use host::Here;

pub(crate) use take::note_interrupt;

static COMPOSER: Mutex<Option<Composer>> = Mutex::new(None);
/// How much hosting functions have told.
static TOLD: AtomicU64 = AtomicU64::new(0);
/// There is something to carve; without that nothing here is ever under way.
static CARVES: AtomicBool = AtomicBool::new(false);
/// The boot CPU comes to look after what is under way.
static COMES: AtomicBool = AtomicBool::new(false);
/// Whose each is: the VM's number.
static OWNERS: Mutex<BTreeMap<VdevId, usize>> = Mutex::new(BTreeMap::new());

/// How often what is under way is looked at, in TSC ticks; a microsecond has some thousands.
const PERIOD_TICKS: u64 = 1 << 20;
/// How long a VM's end waits for its virtual devices; drivers have shorter deadlines of their own.
const GOODBYE_NS: u64 = 5_000_000_000;

/// Takes the hosting functions that the configuration names, once the IOMMU is there.
pub(crate) fn init(found: &'static Found, config: &Config) {
    let mut composer = Composer::default();
    for hosting in &config.hosting {
        match take::take(found, hosting) {
            Ok(function) => {
                composer.add(function);
                CARVES.store(true, Ordering::Relaxed);
            }
            Err(why) => log::error!("{} cannot be carved: {why}", hosting.function),
        }
    }
    *COMPOSER.lock() = Some(composer);
}

/// Whether Kerf keeps a function to carve it.
pub(crate) fn has(function: Function) -> bool {
    with(|composer| composer.functions().any(|(place, ..)| place == function)).unwrap_or(false)
}

fn with<T>(act: impl FnOnce(&mut Composer) -> T) -> Option<T> {
    COMPOSER.lock().as_mut().map(act)
}

/// The virtual devices of a VM's life. Dropped, after what the guest sees of them is gone, it waits until all that they had
/// is given back.
#[derive(Debug, Default)]
pub(crate) struct Held(Vec<VdevId>);

impl Held {
    fn are_gone(&self) -> bool {
        go_on();
        with(|composer| self.0.iter().all(|id| composer.vdev(*id).is_none())).unwrap_or(true)
            && host::is_settled()
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        if self.0.is_empty() {
            return;
        }
        let clock = irq::clock();
        let deadline = Deadline::after_ns(&clock, GOODBYE_NS);
        if wait_until(&clock, deadline, || self.are_gone().then_some(())).is_err() {
            log::error!("a virtual device is not given back yet; its interfaces reach nothing");
        }
        let mut owners = OWNERS.lock();
        self.0.iter().for_each(|id| _ = owners.remove(id));
    }
}

/// Makes the virtual devices of a VM's new life.
///
/// # Errors
/// [`Refusal`]; none is made then.
pub(crate) fn create(
    vm: &Vm,
    space: &Arc<Space>,
    stages: &Arc<dyn Stages>,
) -> Result<(Held, Vec<Box<dyn Endpoint>>), Refusal> {
    let mut held = Held::default();
    let mut endpoints: Vec<Box<dyn Endpoint>> = Vec::new();
    for vdev in &vm.config.vdevs {
        let (id, endpoint) = make(vdev, vm, space, stages)?;
        held.0.push(id);
        endpoints.push(Box::new(endpoint));
        OWNERS.lock().insert(id, vm.index);
    }
    Ok((held, endpoints))
}

fn make(
    vdev: &config::Vdev,
    vm: &Vm,
    space: &Arc<Space>,
    stages: &Arc<dyn Stages>,
) -> Result<(VdevId, VdevEndpoint), Refusal> {
    let request = Request {
        kind: match vdev.kind {
            VdevKind::Dsa => Kind::Dsa,
        },
        functions: vdev.functions.clone(),
        placement: if vdev.spread { Placement::Spread } else { Placement::First },
        queues: vdev.queues,
        entries: vdev.entries,
        interrupts: vdev.interrupts,
        mode: Mode::Dedicated,
        version: match vdev.version {
            VdevVersion::V1 => Version { major: 1, minor: 0 },
            VdevVersion::V2 => Version { major: 2, minor: 0 },
        },
    };
    let host = Arc::new(Here::new(vm, Arc::clone(space), Arc::clone(stages)));
    with(|composer| composer.create(&request, host)).unwrap_or(Err(Refusal::NoFunction(None)))
}

/// Has the boot CPU come: a guest may have its CPU for itself for as long as it waits for what it has begun.
fn have_looked_after() {
    if !COMES.swap(true, Ordering::SeqCst) {
        sched::order(0);
    }
}

/// The boot CPU goes on with what is under way; when it is to come again.
pub(crate) fn look_after() -> Option<u64> {
    if !CARVES.load(Ordering::Relaxed) {
        return None;
    }
    COMES.store(true, Ordering::SeqCst);
    go_on();
    // In this order: what another CPU begins meanwhile is seen here, or has this one come again.
    COMES.store(false, Ordering::SeqCst);
    let is_idle = with(|composer| composer.is_idle()).unwrap_or(true);
    COMES.fetch_or(!is_idle, Ordering::SeqCst);
    (!is_idle).then(|| rdtsc() + PERIOD_TICKS)
}

/// Goes on with what is under way, and hears hosting functions that have interrupted.
fn go_on() {
    host::tidy();
    let mut composer = COMPOSER.lock();
    let Some(composer) = composer.as_mut() else { return };
    if take::has_interrupted() {
        let places: Vec<_> = composer.functions().map(|(place, ..)| place).collect();
        for place in places {
            for (vdev, report) in composer.attend(place) {
                // A guest can have it happen as often as it likes.
                if !TOLD.fetch_add(1, Ordering::Relaxed).wrapping_add(1).is_power_of_two() {
                    continue;
                }
                match vdev {
                    Some(VdevId(id)) => log::warn!("{place}, vdev {id}: {:x?}", report.what),
                    None => log::warn!("{place}: {:x?}", report.what),
                }
            }
        }
    }
    for (id, result) in composer.poll() {
        if let Err(why) = result {
            log::warn!("virtual device {} does not end what it has: {why:?}", id.0);
        }
    }
}

/// The VM whose requests of a function carry a PASID.
pub(crate) fn owner(function: Function, pasid: Pasid) -> Option<usize> {
    let (id, _) = with(|composer| find(composer, function, pasid))??;
    OWNERS.lock().get(&id).copied()
}

/// Lets the interface that sends this PASID take nothing any more; whether it did until now.
pub(crate) fn cut(function: Function, pasid: Pasid) -> bool {
    let cut = with(|composer| {
        let (id, queue) = find(composer, function, pasid)?;
        let mut vdev = composer.vdev(id)?.lock();
        let is_open = vdev.interfaces().nth(queue).is_some_and(|part| part.3 != Policy::Hidden);
        is_open.then(|| vdev.set_policy(queue, Policy::Hidden).ok())?
    });
    cut.flatten().is_some()
}

/// The virtual device, and which of its queues, that a PASID of a function is.
fn find(composer: &Composer, function: Function, pasid: Pasid) -> Option<(VdevId, usize)> {
    composer.vdevs().find_map(|(id, vdev)| {
        let vdev = vdev.lock();
        let mut parts = vdev.interfaces();
        let queue = parts.position(|part| (part.0, part.2) == (function, pasid))?;
        Some((id, queue))
    })
}

/// What the monitor says of a function that is carved.
pub(crate) fn about(function: Function) -> Option<String> {
    with(|composer| {
        let (_, _, left) = composer.functions().find(|(place, ..)| *place == function)?;
        let left = left.interfaces;
        Some(alloc::format!("Kerf, {} of {} interfaces left", left.left, left.of))
    })?
}

/// Virtual devices.
pub(crate) fn uses(name_of: impl Fn(usize) -> String) -> Vec<VdevUse> {
    let owners = OWNERS.lock().clone();
    let row = |(id, vdev): (VdevId, &Arc<Mutex<Vdev>>)| {
        let vdev = vdev.lock();
        let queue =
            |(function, interface, pasid, policy): (Function, InterfaceId, Pasid, Policy)| {
                QueueUse {
                    function: alloc::format!("{function}"),
                    interface: interface.number(),
                    pasid: pasid.raw(),
                    portals: alloc::format!("{policy:?}").to_ascii_lowercase(),
                }
            };
        VdevUse {
            id: id.0,
            owner: owners.get(&id).map_or(String::new(), |vm| name_of(*vm)),
            queues: vdev.interfaces().map(queue).collect(),
            registers: vdev
                .counters()
                .registers
                .iter()
                .map(|(name, count)| (*name, *count))
                .collect(),
            lines: [vdev.counters().lines, vdev.counters().lost],
        }
    };
    with(|composer| composer.vdevs().map(row).collect()).unwrap_or_default()
}
