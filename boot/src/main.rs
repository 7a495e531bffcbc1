//! The UEFI application that loads Kerf: `\EFI\BOOT\BOOTX64.EFI` on its boot volume.
//!
//! It reads the kernel, the configuration and all that the configuration names from its own volume ([`load`]), checks
//! every file, puts the kernel's segments in place ([`kernel`]), writes the hand-off record ([`record`]), leaves the
//! boot services and enters the kernel ([`switch`]). Whatever goes wrong before that ends in one line that names the
//! file, the reason and the remedy, on every console there is ([`console`]).
//!
//! Lines begin with `kerf-boot: `; a failed start ends with the line `kerf-boot: stopped`.

// UNSAFETY: this program calls firmware, writes memory by physical address and replaces the page tables.

#![no_main]
#![no_std]

extern crate alloc;

mod console;
mod error;
mod firmware;
mod kernel;
mod load;
mod memory;
mod port;
mod record;
mod switch;
mod volume;

use core::{convert::Infallible, panic::PanicInfo};

use uefi::{Status, boot, entry};

use crate::{error::Error, volume::Volume};

#[entry]
fn main() -> Status {
    let boot_tsc = switch::timestamp();
    console::start();
    console::line(format_args!("version {}", env!("CARGO_PKG_VERSION")));
    let Err(error) = start(boot_tsc);
    console::line(format_args!("error: {error}"));
    stop()
}

/// Everything up to the kernel's first instruction.
fn start(boot_tsc: u64) -> Result<Infallible, Error> {
    // The firmware resets the machine after five minutes; a slow disk may need longer.
    let _ = boot::set_watchdog_timer(0, 0x1_0000, None);
    switch::check_cpu()?;
    let mut volume = Volume::open()?;
    let loaded = load::everything(&mut volume)?;
    drop(volume);
    let kernel = kernel::place(&loaded.kernel)?;
    record::hand_over(boot_tsc, &kernel, &loaded)
}

/// Ends a failed start. Returning would make the firmware try other disks and the network, and hide the message.
fn stop() -> ! {
    console::line(format_args!("stopped"));
    loop {
        switch::halt();
    }
}

#[panic_handler]
fn panic(info: &PanicInfo<'_>) -> ! {
    let place = info.location().map_or(("?", 0), |place| (place.file(), place.line()));
    console::line(format_args!(
        "error: {}:{}: {}; this is a fault of kerf-boot, please report it",
        place.0,
        place.1,
        info.message()
    ));
    stop()
}
