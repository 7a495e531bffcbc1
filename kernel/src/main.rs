//! Kerf's kernel: the binary that the boot application enters. It owns the machine (descriptor tables, memory, interrupts,
//! clocks, console), implements for real the traits that every other crate is written against, and runs the guests.
//!
//! [`main`] tells the order of starting.

#![no_std]
#![no_main]

extern crate alloc;

mod acpi;
mod console;
mod irq;
mod mem;
mod panic;
mod platform;
mod power;
mod report;
mod run;
mod start;

use core::fmt;

use boot_info::{BootInfo, FileKind};
use config::{Config, LogLevel};
use log::LevelFilter;
use vcpu::Backend;
use vcpu::svm::Svm;
use vcpu::vmx::Vmx;

use crate::irq::Timer;
use crate::mem::Handoff;
use crate::power::Verdict;
use crate::run::{Plan, Why};

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
    log::debug!("command line: \"{}\"", handoff.command_line);
    let frames = mem::counts();
    log::info!("{} MiB of memory, {} MiB free", frames.total >> 8, frames.free >> 8);
    let machine = acpi::read(&info, &handoff);
    let timer = irq::init(&machine);
    let Some(vm) = config.vms.first() else {
        fail(format_args!("the configuration names no VM"));
    };
    let plan = Plan { vm, files: &handoff.files, entry_tsc, unix_time: info.unix_time };
    let verdict = run_guests(&plan, timer);
    console::say(format_args!("all guests ended: {verdict}"));
    power::stop(verdict)
}

/// Chooses the CPU backend, once, and runs the guests on it.
fn run_guests(plan: &Plan<'_>, timer: Timer) -> Verdict {
    let result = match (
        Vmx::probe(&platform::CpuId, &platform::Msrs),
        Svm::probe(&platform::CpuId, &platform::Msrs),
    ) {
        (Ok(()), _) => run::run::<Vmx>(plan, timer),
        (_, Ok(())) => run::run::<Svm>(plan, timer),
        (Err(vmx), Err(svm)) => fail(format_args!(
            "no virtualization: {}: {}; {}: {}",
            Vmx::NAME,
            Why(vmx),
            Svm::NAME,
            Why(svm)
        )),
    };
    match result {
        Ok(verdict) => verdict,
        Err(why) => fail(format_args!("{} cannot start: {why}", plan.vm.name)),
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
