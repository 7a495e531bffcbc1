//! A guest that goes on until it is told to end: a numbered line ten times a second, and one for each key. With `busy` on its
//! command line it counts time away instead of halting, so that it never gives its CPU up. At `r` it resets its machine, at
//! `q` it ends.
//!
//! Other guests' tests look at it for whether anything disturbs it; the monitor's tests pause, stop and reset it.

#![no_std]
#![no_main]

use core::sync::atomic::{AtomicU32, Ordering::Relaxed};

use guests::{
    apic,
    console::{self, uart},
    cpu::{self, cpuid},
    println,
    trap::on_interrupt,
};

guests::guest!("pulse", run);

const TIMER: u8 = 0x40;
/// The chipset's reset control, which the FADT names.
const RESET_CONTROL: u16 = 0xcf9;
/// LSR: a byte was received.
const DATA_READY: u8 = 1;

static TICKS: AtomicU32 = AtomicU32::new(0);

fn run() {
    apic::enable();
    on_interrupt(TIMER, || _ = TICKS.fetch_add(1, Relaxed));
    apic::use_tsc_deadline(TIMER);
    // The frequency in kHz, as the hypervisor tells it.
    let period = u64::from(cpuid(0x4000_0010, 0).eax) * 100;
    let busy = guests::command_line().windows(4).any(|word| word == b"busy");
    println!("pulse: {}, every {period} ticks", if busy { "busy" } else { "halting" });
    let mut late = 0;
    for count in 1.. {
        let (before, deadline) = (TICKS.load(Relaxed), cpu::tsc() + period);
        let _ = apic::set_deadline(deadline);
        while busy && cpu::tsc() < deadline {
            core::hint::spin_loop();
        }
        while TICKS.load(Relaxed) == before {
            cpu::halt();
        }
        late += u32::from(cpu::tsc() > deadline + 9 * period);
        println!("pulse {count}");
        if cpu::in8(uart::LINE_STATUS) & DATA_READY != 0 {
            match cpu::in8(uart::DATA) {
                b'q' => break,
                b'r' => {
                    console::drain();
                    cpu::out8(RESET_CONTROL, 6);
                }
                key => println!("pulse got {:?}", char::from(key)),
            }
        }
    }
    guests::check!("pulse-was-told-to-end", true);
    println!("pulse: {late} late");
}
