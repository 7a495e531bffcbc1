//! The other virtual CPUs: started by INIT-SIPI-SIPI, each on a stack of its own, into one function.

use core::{
    arch::{asm, global_asm},
    sync::atomic::{AtomicU32, AtomicU64, Ordering},
};

use crate::{apic, cpu, paging, read_register, trap};

/// Where they start, in real mode.
const PAGE: usize = 0x8000;
/// What the code there finds: pointers to tables, and the boot CPU's control registers.
const MAIL: usize = 0x8f00;
/// INIT and start-up, as interrupt commands.
const INIT: u32 = 0b101 << 8 | 1 << 14;
const START_UP: u32 = 0b110 << 8 | 1 << 14;
/// Identifiers of CPUs that may be started: as many stacks are there.
const CPUS: usize = 8;
const STACK_BYTES: usize = 0x4000;

/// Times that each CPU came here.
static ARRIVED: [AtomicU32; CPUS] = [const { AtomicU32::new(0) }; CPUS];
static MAIN: AtomicU64 = AtomicU64::new(0);
/// CR0 as the CPU had it at its start.
static CR0_AT_START: AtomicU32 = AtomicU32::new(0);

#[repr(C, align(16))]
struct Stacks([[AtomicU64; STACK_BYTES / 8]; CPUS]);
static STACKS: Stacks = Stacks([const { [const { AtomicU64::new(0) }; STACK_BYTES / 8] }; CPUS]);

// Real mode with CS at the page; DS is made 0. Straight to long mode, as SDM 3A 11.8.5.4 allows.
global_asm!(
    ".pushsection .rodata.smp, \"a\"",
    ".globl guest_smp_start",
    ".globl guest_smp_end",
    ".code16",
    "guest_smp_start:",
    "cli; cld",
    "xor ax, ax; mov ds, ax",
    "mov ebp, cr0",
    "mov di, {mail}",
    "lgdt [di]",
    "mov eax, [di + 16]; mov cr4, eax",
    "mov eax, [di + 24]; mov cr3, eax",
    "mov ecx, 0xc0000080; mov eax, [di + 32]; xor edx, edx; wrmsr",
    "mov eax, [di + 40]; mov cr0, eax",
    ".byte 0x66, 0xea; .long {page} + (2f - guest_smp_start); .word 0x10",
    ".code64",
    "2:",
    "mov eax, 0x18; mov ds, eax; mov es, eax; mov ss, eax",
    "xor eax, eax; mov fs, eax; mov gs, eax; lldt ax",
    "mov rsp, [{mail} + 48]",
    "mov edi, ebp",
    "mov rax, [{mail} + 56]",
    "call rax",
    "ud2",
    "guest_smp_end:",
    ".popsection",
    mail = const MAIL,
    page = const PAGE,
);

unsafe extern "C" {
    static guest_smp_start: u8;
    static guest_smp_end: u8;
}

/// Sends INIT, twice start-up, and waits for the CPU to come to `main`, which gets its identifier; says whether it came.
pub fn start(id: u32, main: fn(u32) -> !) -> bool {
    prepare(id, main);
    let before = arrived(id);
    apic::command(id, INIT);
    cpu::listen(khz() * 2);
    for _ in 0..2 {
        apic::command(id, START_UP | PAGE as u32 >> 12);
        cpu::listen(khz() / 2);
    }
    let end = cpu::tsc() + khz() * 500;
    while cpu::tsc() < end {
        if arrived(id) != before {
            return true;
        }
        core::hint::spin_loop();
    }
    false
}

/// How often the CPU has come to its function.
#[must_use]
pub fn arrived(id: u32) -> u32 {
    ARRIVED.get(id as usize).map_or(0, |count| count.load(Ordering::Acquire))
}

/// CR0 of the CPU that came last, as it started.
#[must_use]
pub fn cr0_at_start() -> u32 {
    CR0_AT_START.load(Ordering::Relaxed)
}

/// The TSC's frequency: ticks in a millisecond.
#[must_use]
pub fn khz() -> u64 {
    cpu::cpuid(0x4000_0010, 0).eax.into()
}

fn prepare(id: u32, main: fn(u32) -> !) {
    let stack = STACKS.0.get(id as usize).map_or(0, |stack| stack.as_ptr_range().end.addr() as u64);
    MAIN.store(main as *const () as u64, Ordering::Relaxed);
    // The boot CPU's GDT, which has the code segment at 0x10 and the data segment at 0x18.
    let mut gdt = [0_u8; 10];
    // SAFETY: writes 10 bytes.
    unsafe { asm!("sgdt [{}]", in(reg) gdt.as_mut_ptr(), options(nostack)) };
    let word = |at: usize| {
        gdt.iter().skip(at).take(8).rev().fold(0, |all, byte| all << 8 | u64::from(*byte))
    };
    let mail = [
        word(0),
        word(8),
        read_register!("cr4"),
        paging::root(),
        // Long mode, which is not active yet.
        cpu::read_existing_msr(0xc000_0080) & !0x400 | 0x100,
        read_register!("cr0"),
        stack,
        arrive as *const () as u64,
    ];
    let code = &raw const guest_smp_start;
    let bytes = (&raw const guest_smp_end).addr() - code.addr();
    // SAFETY: RAM below 1 MiB that holds nothing of the program's.
    unsafe {
        core::ptr::copy_nonoverlapping(code, core::ptr::with_exposed_provenance_mut(PAGE), bytes);
        core::ptr::with_exposed_provenance_mut::<[u64; 8]>(MAIL).write_volatile(mail);
    }
}

extern "C" fn arrive(cr0: u32) -> ! {
    CR0_AT_START.store(cr0, Ordering::Relaxed);
    trap::load();
    cpu::enable_vector_registers();
    let id = cpu::cpuid(1, 0).ebx >> 24;
    if let Some(count) = ARRIVED.get(id as usize) {
        count.fetch_add(1, Ordering::Release);
    }
    // SAFETY: `prepare` is the only one to store here, and it stores a `fn(u32) -> !`.
    let main = unsafe {
        core::mem::transmute::<*const (), fn(u32) -> !>(core::ptr::with_exposed_provenance(
            MAIN.load(Ordering::Relaxed) as usize,
        ))
    };
    main(id)
}
