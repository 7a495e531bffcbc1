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
mod start;

use core::fmt;

use boot_info::BootInfo;

/// Everything, in order. `start` has given this CPU stacks, descriptor tables and exception handlers.
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
    let frames = mem::counts();
    log::info!("{} MiB of memory, {} MiB free", frames.total >> 8, frames.free >> 8);
    let machine = acpi::read(&info, &handoff);
    let timer = irq::init(&machine);
    let _ = (entry_tsc, timer);
    power::stop(power::Verdict::PowerOff)
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
    console::say(format_args!("PANIC"));
    power::stop(power::Verdict::Panic)
}
