//! Interrupts: the local APIC's TSC-deadline timer out of HLT, an interrupt to oneself, and the UART through the I/O APIC.

#![no_std]
#![no_main]

use core::sync::atomic::{AtomicU32, Ordering::Relaxed};

use guests::{
    apic::{self, register},
    check,
    console::{self, uart},
    cpu::{self, cpuid},
    println,
    trap::on_interrupt,
};

guests::guest!("ticks", run);

const TIMER: u8 = 0x40;
const SELF: u8 = 0x51;
const SERIAL: u8 = 0x44;
/// The first serial port's input of the I/O APIC.
const SERIAL_INPUT: u8 = 4;
/// 0.02 ms to 2 ms on the CPUs there are.
const INTERVAL: u64 = 200_000;

const RTC_INDEX: u16 = 0x70;

/// CPUID.1:ECX.
const TSC_DEADLINE: u32 = 1 << 24;

static TICKS: AtomicU32 = AtomicU32::new(0);
static SELF_SENT: AtomicU32 = AtomicU32::new(0);

fn run() {
    timer_is_offered();
    if guests::command_line().windows(5).any(|word| word == b"clock") {
        counter_runs_as_told();
    }
    apic::enable();
    on_interrupt(TIMER, || _ = TICKS.fetch_add(1, Relaxed));
    on_interrupt(SELF, || _ = SELF_SENT.fetch_add(1, Relaxed));
    on_interrupt(SERIAL, serial_interrupt);
    let disarmed = apic::set_deadline(0);
    check!("deadline-can-be-written", disarmed.is_ok(), "{disarmed:x?}");
    if cpuid(1, 0).ecx & TSC_DEADLINE != 0 {
        deadline_wakes_hlt();
        past_deadline_fires_at_once();
        disarmed_and_masked_timers_are_silent();
    }
    sending_to_oneself_respects_priority();
    uart_interrupts_through_io_apic();
}

fn timer_is_offered() {
    let ecx = cpuid(1, 0).ecx;
    check!("cpuid-tsc-deadline", ecx & TSC_DEADLINE != 0, "{ecx:#x}");
    let eax = cpuid(6, 0).eax;
    check!("cpuid-arat", eax & 1 << 2 != 0, "{eax:#x}");
    let base = cpu::read_msr(apic::APIC_BASE_MSR);
    let enabled_at_reset = apic::LOCAL_APIC_GPA | 1 << 11;
    check!(
        "apic-base-as-after-reset",
        base.is_ok_and(|base| base & !0x100 == enabled_at_reset),
        "{base:x?}"
    );
    let version = apic::read(register::VERSION);
    check!("apic-version-integrated", (0x10..0x20).contains(&(version & 0xff)), "{version:#x}");
}

/// The time-stamp counter beside the real-time clock, which does not hang on it: one second, to a hundredth.
fn counter_runs_as_told() {
    let next_second = || {
        let second = || {
            cpu::out8(RTC_INDEX, 0);
            cpu::in8(RTC_INDEX + 1)
        };
        let now = second();
        while second() == now {}
        cpu::tsc()
    };
    let told = u64::from(cpuid(0x4000_0010, 0).eax) * 1000;
    let ticks = next_second().abs_diff(next_second());
    check!("tsc-runs-as-told", ticks.abs_diff(told) < told / 100, "{ticks}, told {told}");
    println!("tsc: {} kHz", told / 1000);
}

fn deadline_wakes_hlt() {
    apic::use_tsc_deadline(TIMER);
    let (mut early, mut woken) = (0, 0);
    for tick in 1..=100 {
        let deadline = cpu::tsc() + INTERVAL;
        let _ = apic::set_deadline(deadline);
        while TICKS.load(Relaxed) < tick {
            cpu::halt();
            woken += 1;
        }
        early += u32::from(cpu::tsc() < deadline);
    }
    check!(
        "deadline-wakes-hlt-100-times",
        TICKS.load(Relaxed) == 100,
        "{} interrupts",
        TICKS.load(Relaxed)
    );
    check!("deadline-never-early", early == 0, "{early} of 100");
    check!("hlt-waits-for-interrupts", woken <= 110, "woken {woken} times for 100 interrupts");
    let left = cpu::read_msr(apic::TSC_DEADLINE_MSR);
    check!("deadline-reads-0-after-it-fired", left == Ok(0), "{left:x?}");
}

fn past_deadline_fires_at_once() {
    let before = TICKS.load(Relaxed);
    let _ = apic::set_deadline(1);
    cpu::listen(INTERVAL);
    let count = TICKS.load(Relaxed) - before;
    check!("past-deadline-fires-once", count == 1, "{count}");
}

fn disarmed_and_masked_timers_are_silent() {
    // Taken back too late, because the machine was busy elsewhere, it has rightly fired: tried again.
    let mut count = None;
    for _ in 0..10 {
        let before = TICKS.load(Relaxed);
        let deadline = cpu::tsc() + 10 * INTERVAL;
        let _ = apic::set_deadline(deadline);
        let _ = apic::set_deadline(0);
        let in_time = cpu::tsc() < deadline;
        cpu::listen(12 * INTERVAL);
        if in_time {
            count = Some(TICKS.load(Relaxed) - before);
            break;
        }
    }
    check!("deadline-0-disarms", count == Some(0), "{count:?}");

    let before = TICKS.load(Relaxed);
    let timer = apic::read(register::LVT_TIMER);
    apic::write(register::LVT_TIMER, timer | apic::MASKED);
    let _ = apic::set_deadline(cpu::tsc() + INTERVAL);
    cpu::listen(3 * INTERVAL);
    let count = TICKS.load(Relaxed) - before;
    check!("masked-timer-is-silent", count == 0, "{count}");
    let _ = apic::set_deadline(0);
}

fn sending_to_oneself_respects_priority() {
    // Class 5 is at the threshold: held back until the priority falls (SDM 3A 12.8.3.1).
    apic::write(register::TASK_PRIORITY, 0x50);
    apic::send_to_self(SELF);
    cpu::listen(INTERVAL);
    let held = SELF_SENT.load(Relaxed);
    let word = register::REQUEST + u32::from(SELF / 32) * 16;
    let requested = apic::read(word) & 1 << (SELF % 32) != 0;
    check!(
        "task-priority-holds-back",
        held == 0 && requested,
        "{held} delivered, requested: {requested}"
    );
    apic::write(register::TASK_PRIORITY, 0);
    cpu::listen(INTERVAL);
    let count = SELF_SENT.load(Relaxed);
    check!("interrupt-to-oneself", count == 1, "{count}");
}

const TEXT: &[u8] = b"sent by interrupts: 0123456789abcdefghijklmnopqrstuvwxyz 0123456789abcdefghijklmnopqrstuvwxyz\r\n";
const FIFO_BYTES: usize = 16;

static SERIAL_INTERRUPTS: AtomicU32 = AtomicU32::new(0);
static SENT: AtomicU32 = AtomicU32::new(0);

/// Fills the FIFO again each time that the UART says it is empty (16550D, section 8.6.3: IIR reads 2).
fn serial_interrupt() {
    const TRANSMITTER_EMPTY: u8 = 0b0010;
    SERIAL_INTERRUPTS.fetch_add(1, Relaxed);
    if cpu::in8(uart::INTERRUPT_IDENTIFICATION) & 0xf != TRANSMITTER_EMPTY {
        return;
    }
    let sent = SENT.load(Relaxed) as usize;
    let next = TEXT.iter().skip(sent).take(FIFO_BYTES);
    SENT.fetch_add(next.len() as u32, Relaxed);
    next.for_each(|byte| cpu::out8(uart::DATA, *byte));
}

fn uart_interrupts_through_io_apic() {
    const TRANSMITTER_EMPTY_ENABLE: u8 = 0b10;
    console::drain();
    apic::route(SERIAL_INPUT, Some(SERIAL));
    cpu::out8(uart::INTERRUPT_ENABLE, TRANSMITTER_EMPTY_ENABLE);
    let fills = TEXT.len().div_ceil(FIFO_BYTES) as u32;
    for _ in 0..2000 {
        if SERIAL_INTERRUPTS.load(Relaxed) > fills {
            break;
        }
        cpu::listen(INTERVAL);
    }
    cpu::out8(uart::INTERRUPT_ENABLE, 0);
    apic::route(SERIAL_INPUT, None);
    console::drain();
    let (count, sent) = (SERIAL_INTERRUPTS.load(Relaxed), SENT.load(Relaxed));
    // One for each filling, one more when the last has left.
    check!(
        "uart-interrupts",
        count > fills && sent as usize == TEXT.len(),
        "{count} interrupts, {sent} bytes"
    );
    println!("uart interrupts: {count}");
}
