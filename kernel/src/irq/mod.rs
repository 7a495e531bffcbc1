//! Interrupts and time: vectors and their dispatch, the local and I/O APICs, the calibrated timer.
//!
//! The kernel runs with interrupts off and opens them at two points of its loop only, so a handler here never interrupts
//! a lock's holder; it notes what came, ends the interrupt, and leaves the rest to the loop.

mod calibration;
mod counters;
mod devices;
mod ioapic;
mod lapic;
mod pic;
mod timer;

use core::sync::atomic::{AtomicU64, Ordering};

use alloc::vec::Vec;

use firmware::Machine;
use hw::Clock as _;
use spin::Once;
use x86_spec::apic::{DeliveryMode, MsiMessage};

use crate::platform::Tsc;
use crate::{console, hosting, iommu, panic, start};
use ioapic::IoApics;
use lapic::Lapic;

pub(crate) use calibrate::Rates;
pub(crate) use devices::DeviceVector;
pub(crate) use timer::Timer;

/// The local timer. Kerf's own vectors have the highest priority: a device that interrupts without end holds none back.
const TIMER: u8 = 0xf0;
/// The serial ports.
const UART: u8 = 0xf1;
/// Another CPU has news.
const KICK: u8 = 0xf2;
/// An IOMMU has recorded a fault.
const FAULT: u8 = 0xf3;
/// A function of Kerf's own has something to tell.
const HOSTING: u8 = 0xf4;
/// What the local APIC delivers when it changed its mind. Its low four bits are set, as old APICs demand.
const SPURIOUS: u8 = 0xff;
/// Where the 8259s' vectors are put, though all of their lines are masked: a spurious one still comes.
const LEGACY: u8 = 0x20;

/// The ISA interrupt of COM1.
const COM1_IRQ: u8 = 4;

/// The highest ID that an APIC in xAPIC mode has; the next one means all CPUs.
const XAPIC_IDS: u32 = 254;

/// The CPUs beside the one that booted.
struct Others {
    ids: Vec<u32>,
    parked_at_ns: u64,
}

static RATES: Once<Rates> = Once::new();
static OTHERS: Once<Others> = Once::new();
static UNEXPECTED: AtomicU64 = AtomicU64::new(0);

/// Every interrupt vector ends up here, with interrupts off.
pub(crate) fn dispatch(vector: u8) {
    match vector {
        TIMER => {
            start::current().note_timer();
            panic::tick();
        }
        UART => console::serve(),
        // That it came is all: the loop looks for what is new.
        KICK => {}
        FAULT => iommu::note_fault(),
        HOSTING => hosting::note_interrupt(),
        devices::FIRST..=devices::LAST if devices::came(vector) => {}
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

/// Brings the local APIC up and calibrates the clocks. No device interrupts before [`connect`].
pub(crate) fn init(machine: &Machine) -> Timer {
    pic::mask_all();
    let lapic = Lapic::enable(machine.cpus.iter().any(|&id| id > XAPIC_IDS));
    start::current().set_apic_id(lapic.id());
    let rates = *RATES.call_once(|| calibration::run(machine, &lapic));
    log::info!("TSC {} kHz, local APIC timer {} kHz", rates.tsc_hz / 1000, rates.apic_hz / 1000);
    park_others(machine, lapic);
    Timer::new(lapic, rates)
}

/// Has Kerf's own interrupts come, through the IOMMU where there is one, and lets the console receive.
pub(crate) fn connect(machine: &Machine) {
    let boot = start::current().apic_id();
    let mut io_apics = IoApics::init(machine);
    let lines = [Some(machine.isa(COM1_IRQ)), machine.serial.and_then(|port| port.interrupt)];
    let mut arrive = console::has_uarts();
    for (arrives, line) in arrive.iter_mut().zip(lines) {
        if *arrives && !line.is_some_and(|line| io_apics.route(line, UART, boot)) {
            log::warn!("a serial port has no interrupt: what is typed there will not be seen");
            *arrives = false;
        }
    }
    console::use_interrupts(arrive);
}

/// Whether CPUs are told apart by 32-bit IDs.
pub(crate) fn is_x2apic() -> bool {
    matches!(Lapic::current(), Some(Lapic::X2apic))
}

/// What a device writes to tell of a fault, unremapped: to the boot CPU.
pub(crate) fn fault_message() -> ::iommu::Message {
    let id = u64::from(start::current().apic_id());
    // Bits 31:8 of an ID above 255 go into the upper half (VT-d 5.1.6).
    let address = MsiMessage::ADDRESS_BASE | (id & 0xff) << 12 | id >> 8 << 40;
    ::iommu::Message { address, data: FAULT.into() }
}

/// Where functions of Kerf's own send their interrupts: to the boot CPU.
pub(crate) fn hosting_target() -> ::iommu::Target {
    ::iommu::Target::Cpu { apic_id: start::current().apic_id(), vector: HOSTING }
}

/// Brings the calling CPU's local APIC up, as [`init`] did that of the boot CPU.
pub(crate) fn join() {
    start::current().set_apic_id(Lapic::join().id());
}

/// The clock that waits are measured by.
pub(crate) fn clock() -> Tsc {
    Tsc { hz: RATES.get().map_or(calibration::ASSUMED_HZ, |rates| rates.tsc_hz) }
}

/// Takes the other CPUs out of the firmware's hands. Left alone they loop in its code, some of them without a rest.
fn park_others(machine: &Machine, lapic: Lapic) {
    let ids = machine.cpus.iter().copied().filter(|&id| id != lapic.id());
    let parked = ids.filter(|&id| {
        let parked = send_init(id);
        if !parked {
            log::warn!("the CPU with APIC ID {id:#x} could not be parked; it is left out");
        }
        parked
    });
    let ids = parked.collect();
    OTHERS.call_once(|| Others { ids, parked_at_ns: clock().now_ns() });
}

/// The CPUs that wait to be started, by APIC ID.
pub(crate) fn others() -> &'static [u32] {
    OTHERS.get().map_or(&[], |others| others.ids.as_slice())
}

/// When the last of them was parked, by [`clock`].
pub(crate) fn parked_at_ns() -> u64 {
    OTHERS.get().map_or(0, |others| others.parked_at_ns)
}

/// Stops a CPU, by APIC ID, until it is started. False where the message does not go out.
pub(crate) fn send_init(id: u32) -> bool {
    Lapic::current().is_some_and(|lapic| lapic.send(id, DeliveryMode::Init, 0))
}

/// Sends a non-maskable interrupt, by APIC ID.
pub(crate) fn send_nmi(id: u32) {
    if let Some(lapic) = Lapic::current() {
        lapic.send(id, DeliveryMode::Nmi, 0);
    }
}

/// Starts a stopped CPU in real mode at the page with the number `vector`. False where the message does not go out.
pub(crate) fn send_startup(id: u32, vector: u8) -> bool {
    Lapic::current().is_some_and(|lapic| lapic.send(id, DeliveryMode::Startup, vector))
}

/// Makes the CPU with this number leave its guest, or HLT, soon. Its own number, or one that no CPU has, does nothing.
pub(crate) fn kick(number: u32) {
    let other =
        start::cpus().get(number as usize).filter(|cpu| cpu.number != start::current().number);
    if let (Some(cpu), Some(lapic)) = (other, Lapic::current()) {
        lapic.send(cpu.apic_id(), DeliveryMode::Fixed, KICK);
    }
}
