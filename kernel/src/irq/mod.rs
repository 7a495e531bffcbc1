//! Interrupts and time: vectors and their dispatch, the local and I/O APICs, the calibrated timer.
//!
//! The kernel runs with interrupts off and opens them at two points of its loop only, so a handler here never interrupts
//! a lock's holder; it notes what came, ends the interrupt, and leaves the rest to the loop.

mod calibrate;
mod counters;
mod ioapic;
mod lapic;
mod pic;
mod timer;

use core::sync::atomic::{AtomicU64, Ordering};

use firmware::Machine;

use crate::platform::Tsc;
use crate::{console, start};
use ioapic::IoApics;
use lapic::Lapic;

pub(crate) use calibrate::Rates;
pub(crate) use timer::Timer;

/// The local timer.
const TIMER: u8 = 0x40;
/// COM1.
const UART: u8 = 0x41;
/// What the local APIC delivers when it changed its mind. Its low four bits are set, as old APICs demand.
const SPURIOUS: u8 = 0xff;
/// Where the 8259s' vectors are put, though all of their lines are masked: a spurious one still comes.
const LEGACY: u8 = 0x20;

/// The ISA interrupt of COM1.
const COM1_IRQ: u8 = 4;

static UNEXPECTED: AtomicU64 = AtomicU64::new(0);

/// Every interrupt vector ends up here, with interrupts off.
pub(crate) fn dispatch(vector: u8) {
    match vector {
        TIMER => start::current().note_timer(),
        UART => console::receive(),
        // Neither has an in-service bit, so neither is ended.
        SPURIOUS | LEGACY..0x30 => return,
        _ => {
            UNEXPECTED.fetch_add(1, Ordering::Relaxed);
        }
    }
    lapic::end_of_interrupt();
}

/// How many interrupts came that no one asked for.
pub(crate) fn unexpected_count() -> u64 {
    UNEXPECTED.load(Ordering::Relaxed)
}

/// Brings the interrupt controllers of the machine up, calibrates the clocks, and lets the console receive.
pub(crate) fn init(machine: &Machine) -> Timer {
    pic::mask_all();
    let lapic = Lapic::enable();
    start::current().set_apic_id(lapic.id());
    let rates = calibrate::run(machine, &lapic);
    log::info!("TSC {} kHz, local APIC timer {} kHz", rates.tsc_hz / 1000, rates.apic_hz / 1000);
    park_others(machine, lapic, Tsc { hz: rates.tsc_hz });
    let mut io_apics = IoApics::init(machine);
    if console::has_uart() {
        let line = machine.isa(COM1_IRQ);
        if io_apics.route(line, UART, lapic.id()) {
            console::enable_receive();
        } else {
            log::warn!("no I/O APIC has interrupt {}: nothing typed will be seen", line.gsi);
        }
    }
    Timer::new(lapic, rates)
}

/// Takes the other CPUs out of the firmware's hands. Left alone they loop in its code, some of them without a rest.
fn park_others(machine: &Machine, lapic: Lapic, clock: Tsc) {
    let others = machine.cpus.iter().filter(|&&id| id != lapic.id());
    for &id in others {
        if !lapic.send_init(id, &clock) {
            log::warn!("the CPU with APIC ID {id:#x} could not be parked");
        }
    }
}
