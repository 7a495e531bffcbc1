//! The firmware's ACPI tables on this machine: where they are read, and what is done with them: powering off and resetting.

use alloc::vec::Vec;

use boot_info::{BootInfo, FileKind};
use firmware::{Machine, PhysicalMemory, PowerOff};
use hw::{Hpa, Port, PortBus, Width};
use spin::Once;

use crate::console;
use crate::mem::{self, Handoff};
use crate::platform::Ports;

static POWER_OFF: Once<PowerOff> = Once::new();
static RESET: Once<(Port, u8)> = Once::new();

/// Physical memory, mapped where a table is.
struct Mapped;

impl PhysicalMemory for Mapped {
    fn bytes(&self, at: Hpa, bytes: u64) -> Option<&'static [u8]> {
        mem::map_read_only(at, bytes)
    }
}

/// Reads the firmware's tables and those that the boot volume brought, and tells what is wrong with them. The console then
/// has what they name.
pub(crate) fn read(info: &BootInfo, handoff: &Handoff) -> Machine {
    let files = handoff.files.iter().filter(|file| file.kind == Some(FileKind::AcpiTable));
    let files: Vec<&'static [u8]> = files.map(|file| file.bytes).collect();
    let rsdp = (info.rsdp != 0).then(|| Hpa::new(info.rsdp));
    if rsdp.is_none() && files.is_empty() {
        log::warn!("the firmware has no ACPI tables; a PC's conventions are assumed");
    }
    let machine = firmware::read(&Mapped, rsdp, &files, |problem| log::warn!("{problem}"));
    machine.brought.iter().for_each(|table| log::info!("{table}"));
    console::extend(&info.framebuffer, machine.serial);
    if let Some(power_off) = machine.power_off {
        POWER_OFF.call_once(|| power_off);
    }
    if let Some(reset) = machine.reset {
        RESET.call_once(|| reset);
    }
    machine
}

/// Resets the machine, where its tables say how by a port. Comes back where they do not.
pub(crate) fn reset() {
    if let Some(&(port, value)) = RESET.get() {
        Ports.write(port, Width::W1, value.into());
    }
}

/// Powers the machine off, where its tables said how. Comes back where they did not, or the machine takes its time.
pub(crate) fn power_off() {
    if let Some(power_off) = POWER_OFF.get() {
        for (port, value) in core::iter::once(power_off.a).chain(power_off.b) {
            Ports.write(port, Width::W2, value.into());
        }
    }
}
