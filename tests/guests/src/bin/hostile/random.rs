//! Random instructions. Each seed fills two pages with bytes and has so many instructions of them executed at
//! privilege level 3, where they can only hurt through the CPU: the trap flag brings every one back here, a fault is followed
//! by a fresh start elsewhere. Then, at level 0, whole accesses to device memory, put together at random.

use core::{
    arch::{asm, naked_asm},
    sync::atomic::{AtomicU32, AtomicU64, Ordering::Relaxed},
};

use guests::{
    apic, check, cpu, nowhere,
    paging::{self, Page, bit},
    println,
    trap::{self, Frame, hook, on_interrupt},
};

use crate::Numbers;

const CODE_VIEW: u64 = paging::FREE + 0x60_0000;
const DATA_VIEW: u64 = CODE_VIEW + 0x4000;
static CODE: [Page; 2] = [const { Page::new() }; 2];
static DATA: [Page; 3] = [const { Page::new() }; 3];

/// Instructions of each seed at least.
static EACH: AtomicU32 = AtomicU32::new(1000);
/// Device accesses of each seed.
const ACCESSES: u32 = 20;
const TIMER: u8 = 0x44;

const USER_DATA: u64 = 0x28 | 3;
const USER_CODE: u64 = 0x30 | 3;
const TRAP_FLAG: u64 = 1 << 8;

#[repr(C, align(16))]
struct Words<const N: usize>([AtomicU64; N]);
static GDT: Words<9> = Words([const { AtomicU64::new(0) }; 9]);
static TSS: Words<14> = Words([const { AtomicU64::new(0) }; 14]);
static STACK: [Page; 4] = [const { Page::new() }; 4];
static KERNEL_RSP: AtomicU64 = AtomicU64::new(0);

static STATE: AtomicU64 = AtomicU64::new(0);
static RETIRED: AtomicU32 = AtomicU32::new(0);
static FAULTS: [AtomicU32; 32] = [const { AtomicU32::new(0) }; 32];

/// Numbers that outlive a fault.
fn next() -> u64 {
    let mut numbers = Numbers(STATE.load(Relaxed));
    let value = numbers.next();
    STATE.store(numbers.0, Relaxed);
    value
}

fn prepare() {
    let tss = core::ptr::from_ref(&TSS).addr() as u64;
    let stack = STACK[3].gpa() + 4096;
    TSS.0[0].store(stack << 32, Relaxed);
    TSS.0[1].store(stack >> 32, Relaxed);
    TSS.0[12].store(104 << 48, Relaxed);
    let entries = [
        0,
        0,
        0x00af_9b00_0000_ffff,
        0x00cf_9300_0000_ffff,
        0x00cf_fb00_0000_ffff,
        0x00cf_f300_0000_ffff,
        0x00af_fb00_0000_ffff,
        103 | (tss & 0xff_ffff) << 16 | 0x89 << 40 | (tss >> 24 & 0xff) << 56,
        tss >> 32,
    ];
    for (to, entry) in GDT.0.iter().zip(entries) {
        to.store(entry, Relaxed);
    }
    let pointer = [(size_of_val(&GDT) as u64 - 1) << 48, core::ptr::from_ref(&GDT).addr() as u64];
    // SAFETY: a filled, static GDT with the same kernel segments, and a TSS.
    unsafe {
        asm!("lgdt [{}]", in(reg) pointer.as_ptr().byte_add(6), options(readonly, nostack));
        asm!("ltr {:x}", in(reg) 0x38_u16, options(nostack));
    }
    let user = bit::PRESENT | bit::WRITABLE | bit::USER;
    for (view, page) in
        (CODE_VIEW..).step_by(4096).zip(&CODE).chain((DATA_VIEW..).step_by(4096).zip(&DATA))
    {
        paging::map(view, page.gpa(), user);
    }
    // Without AVX: QEMU 11.1 itself aborts at some of its instructions (`gen_pinsr: Assertion`).
    // SAFETY: nobody uses vector registers here.
    unsafe { asm!("xsetbv", in("ecx") 0, in("eax") 0b11, in("edx") 0, options(nomem, nostack)) };
    apic::enable();
    for vector in 0..32 {
        if ![2, 8, 18].contains(&vector) {
            hook(vector, Some(on_event));
        }
    }
    on_interrupt(TIMER, || {});
    hook(TIMER, Some(on_timer));
    apic::use_tsc_deadline(TIMER);
}

/// Runs seeds, each logged before it starts.
pub(crate) fn run(first: u64, seeds: u64, each: u64) {
    EACH.store(each as u32, Relaxed);
    prepare();
    let mut total = 0;
    let mut accesses = 0;
    for seed in first..first + seeds {
        if (seed - first).is_multiple_of(100) {
            println!("SEED {seed} after {total} instructions");
        }
        STATE.store(Numbers::new(seed).0, Relaxed);
        for word in CODE.iter().chain(&DATA).flat_map(Page::words) {
            word.store(next(), Relaxed);
        }
        RETIRED.store(0, Relaxed);
        enter();
        total += u64::from(RETIRED.load(Relaxed));
        accesses += at_devices();
    }
    for vector in 0..32 {
        hook(vector, None);
    }
    let kinds = FAULTS.iter().filter(|count| count.load(Relaxed) > 0).count();
    println!("SEED {} was the last", first + seeds - 1);
    check!("random-instructions", total >= each * seeds, "{total}");
    check!("random-faults-of-many-kinds", kinds >= 4, "{kinds}");
    check!("random-device-accesses", accesses >= ACCESSES / 2 * seeds as u32, "{accesses}");
}

/// Goes to the first place, and comes back when the seed's instructions are done.
fn enter() {
    let mut frame =
        Frame { gprs: [0; 15], vector: 0, error: 0, rip: 0, cs: 0, rflags: 0, rsp: 0, ss: 0 };
    anew(&mut frame);
    leave_for(&frame);
}

/// Pushes what IRETQ takes, and loads all registers from the frame.
#[unsafe(naked)]
extern "C" fn leave_for(_frame: &Frame) {
    naked_asm!(
        "push rbx; push rbp; push r12; push r13; push r14; push r15",
        "mov [rip + {kernel_rsp}], rsp",
        "push [rdi + 0xa8]; push [rdi + 0xa0]; push [rdi + 0x98]; push [rdi + 0x90]; push [rdi + 0x88]",
        "mov r15, [rdi]; mov r14, [rdi + 8]; mov r13, [rdi + 16]; mov r12, [rdi + 24]; mov r11, [rdi + 32]",
        "mov r10, [rdi + 40]; mov r9, [rdi + 48]; mov r8, [rdi + 56]; mov rbp, [rdi + 64]",
        "mov rsi, [rdi + 80]; mov rdx, [rdi + 88]; mov rcx, [rdi + 96]; mov rbx, [rdi + 104]; mov rax, [rdi + 112]",
        "mov rdi, [rdi + 72]",
        "iretq",
        ".globl guest_random_done",
        "guest_random_done:",
        "mov eax, 0x18; mov ds, eax; mov es, eax; xor eax, eax; mov fs, eax; mov gs, eax; lldt ax",
        "pop r15; pop r14; pop r13; pop r12; pop rbp; pop rbx",
        "ret",
        kernel_rsp = sym KERNEL_RSP,
    )
}

unsafe extern "C" {
    static guest_random_done: u8;
}

/// Another place, other registers: numbers, small numbers, and addresses of the data.
fn anew(frame: &mut Frame) {
    for register in &mut frame.gprs {
        let value = next();
        *register = match value >> 60 {
            0..4 => value,
            4..7 => value & 0xffff,
            _ => DATA_VIEW + 0x800 + (value & 0x17ff),
        };
    }
    frame.rip = CODE_VIEW + next() % 0x1ff0;
    frame.cs = USER_CODE;
    frame.ss = USER_DATA;
    frame.rsp = DATA_VIEW + 0x1000 + (next() & 0xff8);
    let flags = next();
    frame.rflags = 0x202 | flags & 0x4_08d5;
    if flags >> 60 == 0 {
        // Without the trap flag: a timer brings it back.
        let _ = apic::set_deadline(cpu::tsc() + 3000);
    } else {
        frame.rflags |= TRAP_FLAG;
    }
}

fn on_event(frame: &mut Frame) {
    if frame.cs & 3 == 0 {
        println!(
            "FAIL random exception {} error {:#x} at {:#x} in the kernel",
            frame.vector, frame.error, frame.rip
        );
        guests::exit(1);
    }
    if frame.vector == u64::from(trap::DB) {
        let retired = RETIRED.fetch_add(1, Relaxed) + 1;
        if retired >= EACH.load(Relaxed) {
            return done(frame);
        }
        // It may have taken the flag away from itself.
        if frame.rflags & TRAP_FLAG != 0 && !retired.is_multiple_of(64) {
            return;
        }
    } else {
        FAULTS[frame.vector as usize & 31].fetch_add(1, Relaxed);
    }
    anew(frame);
}

fn on_timer(frame: &mut Frame) {
    apic::write(apic::register::END_OF_INTERRUPT, 0);
    if frame.cs & 3 != 0 {
        anew(frame);
    }
}

fn done(frame: &mut Frame) {
    frame.rip = (&raw const guest_random_done).addr() as u64;
    frame.cs = 0x10;
    frame.ss = 0x18;
    frame.rsp = KERNEL_RSP.load(Relaxed);
    frame.rflags = 2;
}

/// An opcode that Kerf emulates on device memory, with prefixes, registers, addressing and immediates at random. How many
/// were carried out.
fn at_devices() -> u32 {
    const OPCODES: [&[u8]; 24] = [
        &[0x88],
        &[0x89],
        &[0x8a],
        &[0x8b],
        &[0x00],
        &[0x01],
        &[0x02],
        &[0x03],
        &[0x08],
        &[0x21],
        &[0x29],
        &[0x31],
        &[0x39],
        &[0x84],
        &[0x85],
        &[0x86],
        &[0x87],
        &[0x0f, 0xb6],
        &[0x0f, 0xb7],
        &[0x0f, 0xbe],
        &[0x0f, 0xbf],
        &[0x0f, 0xb1],
        &[0x0f, 0xc1],
        &[0x63],
    ];
    const PREFIXES: [u8; 8] = [0x66, 0x66, 0x2e, 0x3e, 0x64, 0x26, 0x36, 0xf2];
    let devices =
        [nowhere::PAGE + 0x100, nowhere::PAGE + 0x7f8, apic::IO_APIC_GPA + 0x10, apic::IO_APIC_GPA];
    let mut carried_out = 0;
    for _ in 0..ACCESSES {
        let mut code = [0x90_u8; 16];
        let mut at = 0;
        let mut push = |byte: u8| {
            code[at] = byte;
            at += 1;
        };
        let choice = next();
        for prefix in 0..choice & 3 {
            push(PREFIXES[(choice >> (8 + 3 * prefix)) as usize & 7]);
        }
        if choice >> 40 & 1 != 0 {
            // REX.W and REX.R, not the base's.
            push(0x40 | (choice >> 41) as u8 & 0b1100);
        }
        OPCODES[(choice >> 44) as usize % OPCODES.len()].iter().for_each(|byte| push(*byte));
        // The register is not RSP (the stack) nor RDI (the address); the address is [rdi + disp8].
        let register = [0, 1, 2, 3, 6][(choice >> 52) as usize % 5];
        push(0x40 | register << 3 | 0b111);
        push((choice >> 56) as u8 & 0x1c);
        push(0xc3);
        DATA[0].put(0, &code);
        let view = DATA[0].gpa();
        let device = devices[next() as usize & 3];
        let [rax, rcx, rdx] = [next(), next(), next()];
        // SAFETY: one instruction on device memory and a RET; the registers it may change are given away, RBX is put back. The frame lies one to one in memory, where it can be executed.
        unsafe {
            asm!("mov r13, rbx", "call r12", "mov rbx, r13",
                in("r12") view, in("rdi") device, inout("rax") rax => _, inout("rcx") rcx => _, inout("rdx") rdx => _,
                out("rsi") _, out("r8") _, out("r9") _, out("r10") _, out("r11") _, out("r13") _, out("r14") _, out("r15") _);
        }
        carried_out += 1;
    }
    carried_out
}
