//! The local APIC's counting timer, HLT, and how interrupts meet instructions that exit. (The TSC-deadline timer is the
//! `ticks` guest's.)

use core::{
    arch::asm,
    sync::atomic::{AtomicU32, Ordering::Relaxed},
};

use guests::{
    apic::{self, register},
    check, cpu,
    trap::{self, hook, on_interrupt},
};

const TIMER: u8 = 0x41;
const SELF: u8 = 0x52;
const ERROR: u8 = 0x53;
const ONE_SHOT: u32 = 0;
const PERIODIC: u32 = 1 << 17;
/// Divide by 1.
const UNDIVIDED: u32 = 0b1011;
const NMI_MODE: u32 = 0b100 << 8;
const COUNT: u32 = 200_000;

static TICKS: AtomicU32 = AtomicU32::new(0);
static SENT: AtomicU32 = AtomicU32::new(0);
static ERRORS: AtomicU32 = AtomicU32::new(0);
static NMIS: AtomicU32 = AtomicU32::new(0);
/// How many had come when the handler that sent another ended.
static NMIS_INSIDE: AtomicU32 = AtomicU32::new(0);

pub(crate) fn run() {
    apic::enable();
    on_interrupt(TIMER, || _ = TICKS.fetch_add(1, Relaxed));
    on_interrupt(SELF, || _ = SENT.fetch_add(1, Relaxed));
    on_interrupt(ERROR, || _ = ERRORS.fetch_add(1, Relaxed));
    one_shot();
    periodic();
    divided();
    shadows();
    waiting_interrupt_ends_hlt();
    errors();
    nmi();
    apic::write(register::LVT_TIMER, apic::MASKED);
}

fn one_shot() {
    apic::write(register::TIMER_DIVIDE, UNDIVIDED);
    apic::write(register::LVT_TIMER, ONE_SHOT | u32::from(TIMER));
    let start = cpu::tsc();
    apic::write(register::TIMER_INITIAL, COUNT);
    let first = apic::read(register::TIMER_CURRENT);
    let second = apic::read(register::TIMER_CURRENT);
    while TICKS.load(Relaxed) == 0 {
        cpu::halt();
    }
    let passed = cpu::tsc() - start;
    check!("timer-counts-down", first <= COUNT && second <= first, "{first} {second}");
    check!("timer-one-shot-wakes-hlt", passed >= u64::from(COUNT), "after {passed}");
    cpu::listen(3 * u64::from(COUNT));
    let (ticks, left) = (TICKS.load(Relaxed), apic::read(register::TIMER_CURRENT));
    check!("timer-one-shot-fires-once", (ticks, left) == (1, 0), "{ticks} {left}");
}

fn periodic() {
    TICKS.store(0, Relaxed);
    apic::write(register::LVT_TIMER, PERIODIC | u32::from(TIMER));
    let start = cpu::tsc();
    apic::write(register::TIMER_INITIAL, COUNT);
    while TICKS.load(Relaxed) < 20 {
        cpu::halt();
    }
    let passed = cpu::tsc() - start;
    check!("timer-periodic-wakes-hlt", passed >= 19 * u64::from(COUNT), "20 after {passed}");
    apic::write(register::TIMER_INITIAL, 0);
    cpu::listen(u64::from(COUNT));
    let before = TICKS.load(Relaxed);
    cpu::listen(3 * u64::from(COUNT));
    check!(
        "timer-count-of-0-stops",
        TICKS.load(Relaxed) == before,
        "{} more",
        TICKS.load(Relaxed) - before
    );
}

fn divided() {
    /// By 16.
    const DIVIDE: u32 = 0b0011;
    TICKS.store(0, Relaxed);
    apic::write(register::TIMER_DIVIDE, DIVIDE);
    apic::write(register::LVT_TIMER, ONE_SHOT | u32::from(TIMER));
    let start = cpu::tsc();
    apic::write(register::TIMER_INITIAL, COUNT / 16);
    while TICKS.load(Relaxed) == 0 {
        cpu::halt();
    }
    let passed = cpu::tsc() - start;
    check!("timer-divides-by-16", passed >= u64::from(COUNT / 16 * 16 - 16), "after {passed}");
    apic::write(register::TIMER_DIVIDE, UNDIVIDED);
}

/// STI holds interrupts back for one instruction, also for one that exits and is emulated.
fn shadows() {
    macro_rules! interrupted_after {
        ($name:literal, [$($before:literal),*], $instruction:literal $(, $($operands:tt)*)?) => {{
            let count = SENT.load(Relaxed);
            apic::send_to_self(SELF);
            let expected: u64;
            // SAFETY: an interrupt comes right after the instruction; interrupts are off again behind it.
            unsafe {
                asm!("mov r13, rbx", "lea r14, [rip + 22f]", $($before,)* $instruction, "22:", "nop", "cli", "mov rbx, r13",
                    out("r13") _, out("r14") expected $(, $($operands)*)?);
            }
            let (at, came) = (trap::interrupted_at(), SENT.load(Relaxed) - count);
            check!($name, at == expected && came == 1, "{came} at {at:#x}, not {expected:#x}");
        }};
    }
    interrupted_after!("shadow-sti-nop", ["sti"], "nop");
    interrupted_after!("shadow-sti-cpuid", ["xor eax, eax", "sti"], "cpuid", out("rax") _, out("rcx") _, out("rdx") _);
    interrupted_after!("shadow-sti-in", ["sti"], "in al, dx", in("dx") crate::port::SCRATCH, out("al") _);
    interrupted_after!("shadow-sti-out", ["sti"], "out dx, al", in("dx") crate::port::SCRATCH, in("al") 0_u8);
    interrupted_after!("shadow-sti-rdmsr", ["sti"], "rdmsr", in("ecx") apic::APIC_BASE_MSR, out("rax") _, out("rdx") _);
    interrupted_after!("shadow-sti-mmio", ["sti"], "mov eax, [rdi]", in("rdi") crate::mmio::WINDOW, out("rax") _);
    interrupted_after!("shadow-sti-hlt", ["sti"], "hlt");
}

/// An interrupt that is already requested when HLT comes ends it at once.
fn waiting_interrupt_ends_hlt() {
    let before = SENT.load(Relaxed);
    for _ in 0..100 {
        apic::send_to_self(SELF);
        cpu::halt();
    }
    let came = SENT.load(Relaxed) - before;
    check!("hlt-ends-for-a-waiting-interrupt", came == 100, "{came} of 100");
}

/// Illegal vectors and registers (SDM 3A 12.5.3).
fn errors() {
    apic::write(register::LVT_ERROR, ERROR.into());
    apic::write(register::ERROR_STATUS, 0);
    apic::send_to_self(3);
    apic::write(register::ERROR_STATUS, 0);
    let sent = apic::read(register::ERROR_STATUS);
    check!("apic-error-send-illegal-vector", sent & 1 << 5 != 0, "{sent:#x}");
    cpu::listen(u64::from(COUNT));
    let errors = ERRORS.load(Relaxed);
    check!("apic-error-interrupt", errors == 1, "{errors}");
    apic::write(register::LVT_ERROR, apic::MASKED);
    let _ = apic::read(0x40);
    apic::write(register::ERROR_STATUS, 0);
    let illegal = apic::read(register::ERROR_STATUS);
    check!("apic-error-illegal-register", illegal & 1 << 7 != 0, "{illegal:#x}");
    apic::write(register::ERROR_STATUS, 0);
}

/// The first sends a second.
fn nested(_: &mut trap::Frame) {
    if NMIS.fetch_add(1, Relaxed) == 0 {
        apic::write(register::INTERRUPT_COMMAND_LOW, NMI_MODE);
        let _ = cpu::cpuid(0, 0);
        NMIS_INSIDE.store(NMIS.load(Relaxed), Relaxed);
    }
}

/// An NMI to oneself comes with interrupts off, and once.
fn nmi() {
    hook(trap::NMI, Some(|_| _ = NMIS.fetch_add(1, Relaxed)));
    for sent in 1..=3 {
        apic::write(register::INTERRUPT_COMMAND_HIGH, apic::id() << 24);
        apic::write(register::INTERRUPT_COMMAND_LOW, NMI_MODE);
        let _ = cpu::cpuid(0, 0);
        let came = NMIS.load(Relaxed);
        check!("nmi-to-oneself", came == sent, "{came}, not {sent}");
    }
    NMIS.store(0, Relaxed);
    hook(trap::NMI, Some(nested));
    apic::write(register::INTERRUPT_COMMAND_LOW, NMI_MODE);
    let _ = cpu::cpuid(0, 0);
    let (inside, came) = (NMIS_INSIDE.load(Relaxed), NMIS.load(Relaxed));
    check!("nmi-waits-for-iret", (inside, came) == (1, 2), "{inside} inside, {came} in all");
    hook(trap::NMI, None);
}
