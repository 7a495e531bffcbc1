//! Carries management requests out: the monitor's lines come by the terminal, and a control guest's channel can come
//! beside it, as both are [`manage::Request`]s.
//!
//! It runs on the boot CPU, between turns. What it has to know of a virtual CPU elsewhere it reads while that one's
//! machine stands still for a moment, so no exit ever takes a lock for the monitor's sake.

use alloc::format;
use alloc::string::{String, ToString};
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use ::pci::{FunctionInfo, Group, Reset};
use hw::PAGE_SIZE;
use manage::{
    CpuUse, Exits, FunctionUse, LastExit, MemoryUse, Refusal, Request, Response, State, Topology,
    VcpuExits, VdevUse, Versioned, VmDetail, VmSummary,
};
use vmm::Core;

use crate::launch::Life;
use crate::platform::rdtsc;
use crate::power::{self, Verdict};
use crate::sched::World;
use crate::vm::Vm;
use crate::{console, hosting, iommu, mem, pci, report, start, terminal, vdev};

/// Someone gave the monitor a command: Kerf stays, for more of them, when all guests have ended.
static USED: AtomicBool = AtomicBool::new(false);
/// That they have was told.
static TOLD: AtomicBool = AtomicBool::new(false);
/// Parts of a second for which a machine's CPUs are waited for.
const PATIENCE: u64 = 2;

/// Answers a line. `duties` lets the calling CPU do what others wait for.
pub(crate) fn answer(world: &World, line: &str, duties: &mut dyn FnMut()) {
    let text = match manage::parse(line) {
        Ok(None) => String::new(),
        Err(why) => format!("{why}\n"),
        Ok(Some(request)) => {
            USED.store(true, Ordering::Relaxed);
            carry_out(world, Versioned::new(request), duties).to_string()
        }
    };
    terminal::answer(&text);
}

/// How all guests ended, once they have and nobody uses the monitor.
pub(crate) fn all_ended(world: &World) -> Option<Verdict> {
    let verdicts = world.vms.iter().map(Vm::verdict);
    let worst = verdicts.reduce(|one, other| Some(one?.worse(other?)))??;
    if !USED.load(Ordering::Relaxed) && !terminal::is_monitors() {
        return Some(worst);
    }
    if !TOLD.swap(true, Ordering::Relaxed) {
        console::say(format_args!("no guest runs any more; the monitor stays until poweroff"));
        terminal::answer("");
    }
    None
}

/// Carries a request out.
fn carry_out(world: &World, request: Versioned<Request>, duties: &mut dyn FnMut()) -> Response {
    let done = request.checked().and_then(|request| match request {
        Request::Help => Ok(Response::Help),
        Request::Vms => Ok(Response::Vms(summaries(world))),
        Request::Vm(name) => Ok(detail(world, find(world, &name)?)),
        Request::Cpus => Ok(Response::Cpus(cpus(world))),
        Request::Memory => Ok(Response::Memory(memory(world))),
        Request::Functions => Ok(Response::Functions(functions())),
        Request::Vdevs => Ok(Response::Vdevs(vdevs(world))),
        Request::Topology => Ok(Response::Topology(Topology {
            functions: functions(),
            vms: summaries(world),
            vdevs: vdevs(world),
        })),
        Request::Iommu => Ok(Response::Iommu(iommu::counts())),
        Request::Groups => Ok(Response::Groups(groups())),
        Request::Faults => Ok(Response::Faults(iommu::faults())),
        Request::Log => Ok(Response::Log(console::history())),
        Request::Exits(name) => Ok(exits(world, find(world, &name)?)),
        Request::Pause(name) => pause(find(world, &name)?, true),
        Request::Resume(name) => pause(find(world, &name)?, false),
        Request::Stop(name) => stop(world, find(world, &name)?, duties),
        Request::Reset(name) => reset(world, find(world, &name)?, duties),
        Request::Reboot => power::reboot(),
        Request::PowerOff => {
            console::say(format_args!("all guests ended: {}", Verdict::PowerOff));
            power::stop(Verdict::PowerOff)
        }
    });
    done.unwrap_or_else(Response::Refused)
}

fn find<'a>(world: &'a World, name: &str) -> Result<&'a Vm, Refusal> {
    world.vms.iter().find(|vm| vm.config.name == name).ok_or_else(|| {
        let names = world.vms.iter().map(|vm| vm.config.name.as_str());
        Refusal::NoVm(name.into(), manage::near(name, names).map(String::from))
    })
}

/// Reads from each virtual CPU's core while none of them runs.
fn look<T>(world: &World, vm: &Vm, mut read: impl FnMut(&Core) -> T) -> Vec<T> {
    let Some(life) = vm.life() else { return Vec::new() };
    let hold = vm.hold();
    let seen = cores(world, &life, &mut read);
    drop(hold);
    seen
}

fn cores<T>(world: &World, life: &Arc<Life>, read: &mut impl FnMut(&Core) -> T) -> Vec<T> {
    let deadline = rdtsc().saturating_add(world.tsc_hz / PATIENCE);
    let looked_at = life.cores.iter().map_while(|core| {
        loop {
            if let Some(core) = core.try_lock() {
                return Some(read(&core));
            }
            if rdtsc() > deadline {
                return None;
            }
            core::hint::spin_loop();
        }
    });
    looked_at.collect()
}

fn summaries(world: &World) -> Vec<VmSummary> {
    world.vms.iter().map(|vm| summary(world, vm)).collect()
}

fn vdevs(world: &World) -> Vec<VdevUse> {
    vdev::uses(|vm| world.vms.get(vm).map_or(String::new(), |vm| vm.config.name.clone()))
}

fn summary(world: &World, vm: &Vm) -> VmSummary {
    let exits = look(world, vm, |core| core.counters().total()).iter().sum();
    summary_with(vm, exits)
}

fn summary_with(vm: &Vm, exits: u64) -> VmSummary {
    VmSummary {
        name: vm.config.name.clone(),
        state: vm.state(),
        cpus: vm.cpus.clone(),
        memory_bytes: memory_of(vm),
        exits,
    }
}

fn memory_of(vm: &Vm) -> u64 {
    if vm.life().is_some() { vm.config.memory_bytes } else { 0 }
}

fn detail(world: &World, vm: &Vm) -> Response {
    let written = vm.life().and_then(|life| life.stages.take_written());
    let mut counters = Vec::new();
    let mut exits = 0;
    // Looking makes the virtual CPUs leave, and forget that pages were dirty.
    for (total, more) in
        look(world, vm, |core| (core.counters().total(), report::counters(core.counters())))
    {
        exits += total;
        report::add(&mut counters, &more);
    }
    Response::Vm(VmDetail { summary: summary_with(vm, exits), written, counters })
}

fn exits(world: &World, vm: &Vm) -> Response {
    let vcpus = look(world, vm, |core| {
        let last = core.last_exits().map(|record| LastExit {
            kind: record.kind.name(),
            rip: record.rip,
            detail: record.detail,
        });
        VcpuExits { counters: report::counters(core.counters()), last: last.collect() }
    });
    Response::Exits(Exits { name: vm.config.name.clone(), vcpus })
}

/// Each CPU's load since it was asked for last.
fn cpus(world: &World) -> Vec<CpuUse> {
    /// When that was.
    static ASKED: AtomicU64 = AtomicU64::new(0);
    let now = rdtsc();
    let before = ASKED.swap(now, Ordering::Relaxed).max(world.entry_tsc);
    let passed = now.saturating_sub(before).max(1);
    let vcpus = |number: u32| {
        world.vms.iter().flat_map(move |vm| {
            let cpus = (0_u32..).zip(&vm.cpus).filter(move |&(_, &cpu)| cpu == number);
            cpus.map(|(index, _)| (vm.config.name.clone(), index))
        })
    };
    let running = start::cpus().iter().zip(&world.desks);
    let row = |(cpu, desk): (&&start::PerCpu, &crate::sched::Desk)| {
        let idle = desk.take_idle_ticks().min(passed);
        let topology = cpu.topology();
        CpuUse {
            number: cpu.number,
            apic_id: cpu.apic_id(),
            place: [topology.package, topology.core, topology.smt],
            load_permille: ((passed - idle) * 1000 / passed) as u32,
            vcpus: vcpus(cpu.number).collect(),
        }
    };
    running.map(row).collect()
}

/// The machine's functions.
pub(crate) fn functions() -> Vec<FunctionUse> {
    let row = |info: &FunctionInfo| FunctionUse {
        address: info.function.to_string(),
        ids: [info.vendor, info.device],
        class: info.class,
        bars: info.memory_bars().map(|bar| (bar.index, bar.base, bar.bytes)).collect(),
        interrupts: [
            info.msi.map_or(0, |msi| msi.vectors.into()),
            info.msix.map_or(0, |msix| msix.entries),
        ],
        reset: match info.reset {
            Reset::Flr => "FLR",
            Reset::AfFlr => "AF",
            Reset::Pm => "PM",
            Reset::None => "-",
        },
        physical: info.physical.map(|function| function.to_string()),
        owner: match iommu::owner(info.function) {
            Some(vm) => Some(vm.config.name.clone()),
            None => hosting::about(info.function).or_else(|| vdev::about(info.function)),
        },
    };
    pci::found().map_or(Vec::new(), |found| found.functions.iter().map(row).collect())
}

/// Which of them belong together, and why.
pub(crate) fn groups() -> Vec<String> {
    let found = pci::found();
    found.map_or(Vec::new(), |found| found.groups.iter().map(Group::to_string).collect())
}

/// What memory is used for.
pub(crate) fn memory(world: &World) -> MemoryUse {
    let counts = mem::counts();
    let (total, free) = (counts.total * PAGE_SIZE, counts.free * PAGE_SIZE);
    let guests: Vec<_> = world
        .vms
        .iter()
        .map(|vm| (vm.config.name.clone(), memory_of(vm)))
        .filter(|(_, bytes)| *bytes != 0)
        .collect();
    let used = total - free;
    let own = used - guests.iter().map(|(_, bytes)| bytes).sum::<u64>().min(used);
    MemoryUse { total, free, guests, own, image: mem::image_bytes() }
}

fn done(vm: &Vm) -> Response {
    Response::Done(vm.config.name.clone(), vm.state())
}

fn refused(vm: &Vm) -> Refusal {
    Refusal::State(vm.config.name.clone(), vm.state())
}

fn pause(vm: &Vm, paused: bool) -> Result<Response, Refusal> {
    if vm.set_paused(paused) { Ok(done(vm)) } else { Err(refused(vm)) }
}

fn stop(world: &World, vm: &Vm, duties: &mut dyn FnMut()) -> Result<Response, Refusal> {
    if !vm.end(Verdict::Stopped) {
        return Err(refused(vm));
    }
    let deadline = rdtsc().saturating_add(world.tsc_hz / PATIENCE);
    while vm.verdict().is_none() {
        if rdtsc() > deadline {
            let why = "its CPUs do not leave it in time; it is stopping";
            return Err(Refusal::Failed(vm.config.name.clone(), why.into()));
        }
        duties();
        core::hint::spin_loop();
    }
    Ok(done(vm))
}

fn reset(world: &World, vm: &Vm, duties: &mut dyn FnMut()) -> Result<Response, Refusal> {
    if vm.cpus.is_empty() {
        return Err(refused(vm));
    }
    match vm.state() {
        State::Running | State::Paused => _ = stop(world, vm, duties)?,
        State::Stopping => return Err(refused(vm)),
        State::Ended(_) | State::Failed(_) => {}
    }
    TOLD.store(false, Ordering::Relaxed);
    world.begin(vm);
    match vm.state() {
        State::Failed(why) => Err(Refusal::Failed(vm.config.name.clone(), why)),
        _ => Ok(done(vm)),
    }
}
