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

use boot_info::BootInfo;

/// Everything, in order. `start` has given this CPU stacks, descriptor tables and exception handlers.
fn main(info: Option<&BootInfo>, entry_tsc: u64) -> ! {
    console::init();
    let vendor = platform::vendor();
    let vendor = core::str::from_utf8(&vendor).unwrap_or("an unknown CPU");
    console::say(format_args!("{} on {vendor}", env!("CARGO_PKG_VERSION")));
    let info = checked(info);
    let _ = (info, entry_tsc);
    power::stop(power::Verdict::PowerOff)
}

/// The hand-off record, or the end: without it nothing about the machine is known.
fn checked(info: Option<&BootInfo>) -> &BootInfo {
    let Some(info) = info else {
        log::error!("no hand-off record: the boot application passed no address in RDI");
        power::stop(power::Verdict::Panic)
    };
    if let Err(why) = info.check() {
        log::error!(
            "the hand-off record is not for this build: {why:x?}; boot application and kernel must match"
        );
        power::stop(power::Verdict::Panic)
    }
    info
}
