//! Kerf's kernel: the binary that the boot application enters. It owns the machine (descriptor tables, memory, interrupts,
//! clocks, console), implements for real the traits that every other crate is written against, and runs the guests.
//!
//! [`main`] tells the order of starting.

#![no_std]
#![no_main]

extern crate alloc;

mod acpi;
mod assign;
mod console;
mod costs;
mod hosting;
mod iommu;
mod irq;
mod launch;
mod mem;
mod monitor;
mod panic;
mod pci;
mod platform;
mod power;
mod report;
mod sched;
mod stages;
mod start;
mod survey;
mod terminal;
mod vdev;
mod vm;

use alloc::vec::Vec;
use core::fmt;

use boot_info::{BootInfo, FileKind};
use config::{Config, ConfigError, LogLevel, RunMode};
use hw::PAGE_SIZE;
use log::LevelFilter;
use vcpu::Backend;
use vcpu::svm::Svm;
use vcpu::vmx::Vmx;

use crate::irq::Timer;
use crate::launch::{Life, StartError, Why};
use crate::mem::Handoff;
use crate::power::Verdict;
use crate::sched::{Desk, World};
use crate::vm::Vm;

/// Everything, in order. `start` has given this CPU a stack, descriptor tables and exception handlers.
fn main(info: Option<&BootInfo>, entry_tsc: u64) -> ! {
    console::init();
    let vendor = platform::vendor();
    let vendor = core::str::from_utf8(&vendor).unwrap_or("an unknown CPU");
    console::say(format_args!("{} on {vendor}", env!("CARGO_PKG_VERSION")));
    let info = checked(info);
    let handoff = match mem::init(&info) {
        Ok(handoff) => handoff,
        Err(why) => fail(format_args!("memory cannot be taken over: {why:x?}")),
    };
    let config = configuration(&handoff);
    log::set_max_level(level(config.hypervisor.log));
    console::select(config.hypervisor.consoles.as_deref());
    log::debug!("command line: \"{}\"", handoff.command_line);
    let frames = mem::counts();
    log::info!("{} MiB of memory, {} MiB free", frames.total >> 8, frames.free >> 8);
    panic::test_if_asked(&handoff.command_line);
    let machine = acpi::read(&info, &handoff);
    let timer = irq::init(&machine);
    let found = self::pci::init(&machine, &hosting::wanted(&config), &handoff.holes);
    self::iommu::init(&machine, config.hypervisor.iommu.mode, found);
    irq::connect(&machine);
    hosting::init(found);
    vdev::init(found, &config);
    if config.hypervisor.mode == RunMode::Survey {
        survey::tell(&machine);
        power::stop(Verdict::PowerOff)
    }
    let plan = Plan { config, handoff, entry_tsc, unix_time: info.unix_time };
    let verdict = run_guests(plan, timer);
    console::say(format_args!("all guests ended: {verdict}"));
    power::stop(verdict)
}

/// What guests are made from.
struct Plan {
    config: Config,
    handoff: Handoff,
    /// The time-stamp counter at the kernel's first instruction.
    entry_tsc: u64,
    /// Seconds since 1970 at about that time; 0 where no one knows.
    unix_time: u64,
}

/// Chooses the CPU backend, once, and runs the guests on it.
fn run_guests(plan: Plan, timer: Timer) -> Verdict {
    match (
        Vmx::probe(&platform::CpuId, &platform::Msrs),
        Svm::probe(&platform::CpuId, &platform::Msrs),
    ) {
        (Ok(()), _) => run_on::<Vmx>(plan, timer),
        (_, Ok(())) => run_on::<Svm>(plan, timer),
        (Err(vmx), Err(svm)) => fail(format_args!(
            "no virtualization: {}: {}; {}: {}",
            Vmx::NAME,
            Why(vmx),
            Svm::NAME,
            Why(svm)
        )),
    }
}

/// Brings all CPUs up, starts the guests that the machine has room for, and runs them to their end.
fn run_on<B: Backend>(plan: Plan, timer: Timer) -> Verdict
where
    B::Stage2: Send + Sync + 'static,
{
    start::bring_up(sched::enter::<B>);
    let backend = match B::enable(&platform::CpuId, &platform::Msrs, &mut mem::Pages) {
        Ok(backend) => backend,
        Err(why) => fail(format_args!("{}: {}", B::NAME, StartError::Backend(why))),
    };
    let Plan { config, handoff, entry_tsc, unix_time } = plan;
    let tsc_hz = timer.rates().tsc_hz;
    let mut places = admit(&config);
    let mut functions = Vec::new();
    for (place, chosen) in places.iter_mut().zip(assign::admit(&config)) {
        match chosen {
            Ok(chosen) => functions.push(chosen),
            Err(why) => {
                functions.push(Vec::new());
                *place = Err(why);
            }
        }
    }
    let background = config.hypervisor.background;
    let slice_us = u128::from(config.hypervisor.slice_us);
    let cpus = |index: usize| places.get(index).and_then(|cpus| cpus.as_ref().ok());
    let vms = config.vms.into_iter().zip(functions).enumerate();
    let vms = vms.map(|(index, (vm, functions))| {
        Vm::new(index, vm, cpus(index).cloned().unwrap_or_default(), functions)
    });
    let world = sched::open(World {
        vms: vms.collect(),
        files: handoff.files,
        tsc_hz,
        entry_tsc,
        unix_time,
        offers: backend.offers(),
        slice: (u128::from(tsc_hz) * slice_us / 1_000_000) as u64,
        desks: start::cpus().iter().map(|_| Desk::default()).collect(),
        create: Life::create::<B>,
    });
    for (vm, place) in world.vms.iter().zip(places) {
        match place {
            Ok(_) => world.begin(vm),
            Err(why) => vm.begin(Err(StartError::Config(why))),
        }
    }
    let mut started = world.vms.iter().filter(|vm| vm.life().is_some()).peekable();
    if started.peek().is_none() {
        fail(format_args!("no guest can be started"));
    }
    for vm in started {
        log::info!("{}: {} MiB on {}", vm.config.name, vm.config.memory_bytes >> 20, B::NAME);
    }
    let memory = monitor::memory(world);
    log::info!("{} KiB of memory are Kerf's own", (memory.own + memory.image) >> 10);
    log::debug!("{} KiB image, {} KiB heap", memory.image >> 10, mem::heap_bytes() >> 10);
    terminal::init(&world.vms, background, tsc_hz);
    let ticks = platform::rdtsc() - entry_tsc;
    console::say(format_args!("first guest entry after {ticks} ticks"));
    sched::run(world, backend, timer)
}

/// The CPUs of each VM's virtual CPUs, or why it cannot have them beside those before it.
fn admit(config: &Config) -> Vec<Result<Vec<u32>, ConfigError>> {
    let topology = |cpu: &&start::PerCpu| cpu.topology();
    let ids: Vec<_> = start::cpus().iter().map(topology).collect();
    let core = |own: &x86_spec::topology::Topology| {
        let alike = ids.iter().position(|id| (id.package, id.core) == (own.package, own.core));
        alike.unwrap_or_default() as u32
    };
    let cores: Vec<u32> = ids.iter().map(core).collect();
    let machine = config::Machine { cores: &cores, free_bytes: mem::counts().free * PAGE_SIZE };
    let mut results = Vec::new();
    let mut admitted = config.clone();
    admitted.vms.clear();
    for vm in &config.vms {
        admitted.vms.push(vm.clone());
        let result = config::admit(&admitted, &machine);
        if result.is_err()
            && let Some(refused) = admitted.vms.last_mut()
        {
            // It keeps its number, which messages are made by, and asks for nothing.
            (refused.vcpus, refused.cpus, refused.memory_bytes) = (0, None, 0);
        }
        results.push(result.map(|_| Vec::new()));
    }
    // Those that are left are placed together.
    match config::admit(&admitted, &machine) {
        Ok(placed) => {
            let cpus = placed.cpus.into_iter();
            results.into_iter().zip(cpus).map(|(result, cpus)| result.map(|_| cpus)).collect()
        }
        Err(_) => results,
    }
}

/// The configuration, or the end: Kerf runs nothing that no one asked for.
fn configuration(handoff: &Handoff) -> Config {
    let Some(file) = handoff.files.iter().find(|file| file.kind == Some(FileKind::Config)) else {
        fail(format_args!("the boot application loaded no configuration"));
    };
    let Ok(text) = core::str::from_utf8(file.bytes) else {
        fail(format_args!("{} is not UTF-8", file.name));
    };
    match config::parse(&file.name, text) {
        Ok(config) => config,
        Err(why) => fail(format_args!("{why}")),
    }
}

fn level(configured: LogLevel) -> LevelFilter {
    match configured {
        LogLevel::Error => LevelFilter::Error,
        LogLevel::Warn => LevelFilter::Warn,
        LogLevel::Info => LevelFilter::Info,
        LogLevel::Debug => LevelFilter::Debug,
        LogLevel::Trace => LevelFilter::Trace,
    }
}

/// The hand-off record, or the end: without it nothing about the machine is known.
fn checked(info: Option<&BootInfo>) -> BootInfo {
    let Some(info) = info else {
        fail(format_args!("no hand-off record: the boot application left no address in RDI"));
    };
    if let Err(why) = info.check() {
        fail(format_args!(
            "the hand-off record is not of this build ({why:x?}): boot application and kernel must match"
        ));
    }
    *info
}

/// Says why Kerf cannot start, and stops.
fn fail(why: fmt::Arguments<'_>) -> ! {
    log::error!("{why}");
    console::say(format_args!("stopped"));
    power::stop(Verdict::Panic)
}
