//! Lives beside hostile guests: ten times a second it looks whether its memory still holds what it put there, and whether its
//! timer still comes in time. It goes on until it is stopped.

#![no_std]
#![no_main]

use core::sync::atomic::{AtomicU32, AtomicU64, Ordering::Relaxed};

use guests::{apic, cpu, println, trap::on_interrupt};

guests::guest!("neighbour", run);

const TIMER: u8 = 0x40;
/// Above the program, below the end of the memory it is given.
const FROM: u64 = 0x40_0000;
const TO: u64 = 0x78_0000;
/// What no other memory holds: hostile guests look for it.
const CANARY: u64 = 0x6b65_7266_c0a1_b1e5;

static TICKS: AtomicU32 = AtomicU32::new(0);

fn cells() -> impl Iterator<Item = (u64, &'static AtomicU64)> {
    (FROM..TO).step_by(64).map(|gpa| {
        // SAFETY: RAM that nothing else uses, mapped one to one.
        (gpa, unsafe { &*core::ptr::with_exposed_provenance(gpa as usize) })
    })
}

fn run() {
    apic::enable();
    on_interrupt(TIMER, || _ = TICKS.fetch_add(1, Relaxed));
    apic::use_tsc_deadline(TIMER);
    for (gpa, cell) in cells() {
        cell.store(CANARY ^ gpa, Relaxed);
    }
    let period = u64::from(cpu::cpuid(0x4000_0010, 0).eax) * 100;
    for count in 1.. {
        let before = TICKS.load(Relaxed);
        let _ = apic::set_deadline(cpu::tsc() + period);
        while TICKS.load(Relaxed) == before {
            cpu::halt();
        }
        match cells().find(|(gpa, cell)| cell.load(Relaxed) != CANARY ^ gpa) {
            None => println!("neighbour {count} ok"),
            Some((gpa, cell)) => {
                println!("FAIL neighbour-memory {gpa:#x} holds {:#x}", cell.load(Relaxed))
            }
        }
    }
}
