//! What exits cost: `BENCH name n`, n in ticks of the TSC (on the deterministic beds: instructions). A round trip is the
//! difference of two loops, with the instruction and without it; the instruction itself counts. The least of five runs is
//! taken, but for a wake-up and an interrupt to another CPU, which are means, and a first touch, which happens once. Where
//! there is another CPU, only that interrupt is measured: sharing a CPU changes what waiting costs.

#![no_std]
#![no_main]

use core::arch::{asm, global_asm};
use core::sync::atomic::{AtomicU64, Ordering::Relaxed};

use guests::{apic, check, cpu, nowhere, println, smp};

guests::guest!("cpuid_bench", run);

const ROUNDS: u64 = 1000;
const RUNS: usize = 5;

/// Ticks for 1000 rounds of a loop around the instructions, with the operands of `asm!`; R12 counts.
macro_rules! ticks {
    ($($instruction:literal),* $(,)? ; $($operands:tt)*) => {{
        let mut least = u64::MAX;
        for _ in 0..RUNS {
            let start = cpu::tsc();
            asm!(
                "mov r12d, {rounds}",
                "22:",
                $($instruction,)*
                "dec r12d",
                "jnz 22b",
                rounds = const ROUNDS,
                out("r12") _,
                $($operands)*
            );
            least = least.min(cpu::tsc() - start);
        }
        least
    }};
}

/// Prints what one instruction costs between those before and after it, with the operands of `asm!`.
macro_rules! round_trip {
    ($name:literal, $instruction:literal; $($operands:tt)*) => {
        round_trip!($name, [], $instruction, []; $($operands)*)
    };
    ($name:literal, [$($before:literal),*], $instruction:literal, [$($after:literal),*]; $($operands:tt)*) => {{
        let without = ticks!($($before,)* $($after),*; $($operands)*);
        let with = ticks!($($before,)* $instruction $(, $after)*; $($operands)*);
        report($name, with.saturating_sub(without), ROUNDS);
        check!($name, with > without, "{with} ticks with it, {without} without");
    }};
}

fn report(name: &str, ticks: u64, rounds: u64) {
    println!("BENCH {name} {}", (ticks + rounds / 2) / rounds);
}

fn run() {
    // The number of CPUs (SDM vol. 2, CPUID leaf 0BH).
    if cpu::cpuid(0xb, 1).ebx & 0xffff > 1 {
        return other_cpu();
    }
    registers();
    ports();
    memory();
    first_touch();
    let x2apic = apic::switch_to_x2apic();
    check!("x2apic", x2apic.is_ok(), "{x2apic:x?}");
    apic::enable();
    self_ipi();
    wake_up();
}

fn registers() {
    // SAFETY: CPUID and hypercall 0 change nothing; writing 0 to the deadline stops a timer that does not run. RBX is the
    // compiler's own: kept in R13.
    unsafe {
        round_trip!("cpuid", ["mov r13, rbx", "xor eax, eax", "xor ecx, ecx"], "cpuid", ["mov rbx, r13"];
            out("r13") _, out("rax") _, out("rcx") _, out("rdx") _);
        if cpu::hypercall(0, [0; 3]).is_err() {
            check!("hypercall", false, "raises an exception");
        } else if cpu::uses_vmmcall() {
            round_trip!("hypercall", ["xor eax, eax"], "vmmcall", []; out("rax") _);
        } else {
            round_trip!("hypercall", ["xor eax, eax"], "vmcall", []; out("rax") _);
        }
        if let Err(trap) = cpu::write_msr(apic::TSC_DEADLINE_MSR, 0) {
            check!("wrmsr", false, "raises {trap:x?}");
        } else {
            round_trip!("wrmsr", "wrmsr"; in("ecx") apic::TSC_DEADLINE_MSR, in("eax") 0, in("edx") 0);
        }
    }
}

/// KVM has no PCI in the kernel: there it is the 8259's mask that the hypervisor itself answers for.
fn ports() {
    const CONFIG_ADDRESS: u16 = 0xcf8;
    const INTERRUPT_MASK: u16 = 0x21;
    const LINE_STATUS: u16 = guests::console::uart::LINE_STATUS;
    let is_kvm = cpu::vendor(0x4000_0000) == *b"KVMKVMKVM\0\0\0";
    let port = if is_kvm { INTERRUPT_MASK } else { CONFIG_ADDRESS };
    // SAFETY: reading these changes nothing.
    unsafe {
        if is_kvm {
            round_trip!("port", "in al, dx"; in("dx") port, out("eax") _);
        } else {
            round_trip!("port", "in eax, dx"; in("dx") port, out("eax") _);
        }
        round_trip!("uart-read", "in al, dx"; in("dx") LINE_STATUS, out("eax") _);
        round_trip!("unknown-port", "in al, dx"; in("dx") nowhere::PORT, out("eax") _);
    }
}

/// The local APIC, which a hypervisor emulates by itself, and a page where a device could be.
fn memory() {
    let (id, page) = (apic::LOCAL_APIC_GPA + 0x20, nowhere::PAGE);
    // SAFETY: reading these changes nothing.
    unsafe {
        round_trip!("apic-read", "mov eax, [rdx]"; in("rdx") id, out("eax") _);
        round_trip!("device-read", "mov eax, [rdx]"; in("rdx") page, out("eax") _);
    }
}

/// Pages that nobody has touched: below the end of the smallest test guest's memory, above what its loader uses.
fn first_touch() {
    const FIRST: u64 = 24 << 20;
    // SAFETY: memory of this guest that holds nothing, 1000 pages from 24 MiB on.
    let touch = || unsafe {
        let start = cpu::tsc();
        asm!(
            "22:",
            "mov byte ptr [{gpa}], 1",
            "add {gpa}, 4096",
            "dec {left}",
            "jnz 22b",
            gpa = inout(reg) FIRST => _,
            left = inout(reg) ROUNDS => _,
            options(nostack)
        );
        cpu::tsc() - start
    };
    let (first, again) = (touch(), touch());
    report("first-touch", first.saturating_sub(again), ROUNDS);
    check!("first-touch", first > 0 && again > 0, "{first} ticks, then {again}");
}

const SELF: u8 = 0x51;
const TIMER: u8 = 0x40;
const SELF_IPI_MSR: u32 = 0x83f;

static ARRIVED: AtomicU64 = AtomicU64::new(0);
/// The TSC at the handler's first instruction.
static WOKEN: AtomicU64 = AtomicU64::new(0);

// No more than an interrupt handler must do: the general stubs would cost more than what is measured. MSR 0x80b is x2APIC's
// end of interrupt.
global_asm!(
    ".balign 16",
    "bench_self:",
    "push rax; push rcx; push rdx",
    "mov ecx, 0x80b",
    "xor eax, eax",
    "xor edx, edx",
    "wrmsr",
    "inc qword ptr [rip + {arrived}]",
    "pop rdx; pop rcx; pop rax",
    "iretq",
    ".balign 16",
    "bench_timer:",
    "push rax; push rcx; push rdx",
    "rdtsc",
    "shl rdx, 32",
    "or rax, rdx",
    "mov [rip + {woken}], rax",
    "mov ecx, 0x80b",
    "xor eax, eax",
    "xor edx, edx",
    "wrmsr",
    "inc qword ptr [rip + {arrived}]",
    "pop rdx; pop rcx; pop rax",
    "iretq",
    arrived = sym ARRIVED,
    woken = sym WOKEN,
);

unsafe extern "C" {
    static bench_self: u8;
    static bench_timer: u8;
}

/// Lets an interrupt run a handler of our own: 64-bit interrupt gate, code segment 0x10 (SDM 3A 7.14.1).
fn set_gate(vector: u8, handler: *const u8) {
    let mut pointer = [0_u16; 5];
    // SAFETY: stores limit and base, ten bytes.
    unsafe { asm!("sidt [{}]", in(reg) &mut pointer, options(nostack)) };
    let base = (1..5).rev().fold(0_u64, |base, word| base << 16 | u64::from(pointer[word]));
    let handler = handler.addr() as u64;
    let low = handler & 0xffff | 0x10 << 16 | 0x8e00 << 32 | (handler >> 16 & 0xffff) << 48;
    let gate = (base + 16 * u64::from(vector)) as usize;
    // SAFETY: the IDT in use has 256 gates of two quadwords; nobody has a use for this vector.
    unsafe {
        let gate = core::ptr::with_exposed_provenance_mut::<[u64; 2]>(gate);
        gate.write_volatile([low, handler >> 32]);
    }
}

fn self_ipi() {
    set_gate(SELF, &raw const bench_self);
    // SAFETY: the interrupt's handler keeps all registers; it returns here.
    unsafe {
        asm!("sti", options(nomem, nostack));
        round_trip!("self-ipi", "wrmsr"; in("ecx") SELF_IPI_MSR, in("eax") u32::from(SELF), in("edx") 0);
        asm!("cli", options(nomem, nostack));
    }
    let arrived = ARRIVED.swap(0, Relaxed);
    check!("self-ipi-each-arrives", arrived == RUNS as u64 * ROUNDS, "{arrived}");
}

/// From the deadline to the handler's first instruction, the CPU halted at the deadline.
fn wake_up() {
    const WAKES: u64 = 50;
    const AHEAD: u64 = 1_000_000;
    set_gate(TIMER, &raw const bench_timer);
    apic::use_tsc_deadline(TIMER);
    let (mut excess, mut early) = (0, 0);
    for wake in 1..=WAKES {
        let deadline = cpu::tsc() + AHEAD;
        let armed = apic::set_deadline(deadline);
        if armed.is_err() {
            check!("hlt-wake", false, "{armed:x?}");
            return;
        }
        while ARRIVED.load(Relaxed) < wake {
            // SAFETY: STI holds interrupts back until HLT has begun (SDM 2B, STI).
            unsafe { asm!("sti", "hlt", "cli", options(nostack)) };
        }
        let woken = WOKEN.load(Relaxed);
        early += u64::from(woken < deadline);
        excess += woken.saturating_sub(deadline);
    }
    report("hlt-wake", excess, WAKES);
    check!("hlt-wake", early == 0, "{early} of {WAKES} too early");
}

/// Goes to and fro between two CPUs.
const BALL: u8 = 0x52;

/// Waits, halted, for that many interrupts in all.
fn wait_for(count: u64) {
    while ARRIVED.load(Relaxed) < count {
        // SAFETY: as in `wake_up`.
        unsafe { asm!("sti", "hlt", "cli", options(nostack)) };
    }
}

/// From one CPU's command to the next one's, by HLT, the other's handler, and what it takes to answer: the half of there and
/// back.
fn other_cpu() {
    set_gate(BALL, &raw const bench_self);
    let x2apic = apic::switch_to_x2apic();
    check!("x2apic", x2apic.is_ok(), "{x2apic:x?}");
    apic::enable();
    let came = smp::start(1, play_back);
    check!("ipi", came, "CPU 1 has not come");
    if !came {
        return;
    }
    let start = cpu::tsc();
    for round in 1..=ROUNDS {
        apic::command(1, BALL.into());
        wait_for(2 * round);
    }
    report("ipi", cpu::tsc() - start, 2 * ROUNDS);
}

fn play_back(_id: u32) -> ! {
    apic::use_x2apic_here();
    apic::enable();
    for ball in (1..).step_by(2) {
        wait_for(ball);
        apic::command(0, BALL.into());
    }
    unreachable!()
}
