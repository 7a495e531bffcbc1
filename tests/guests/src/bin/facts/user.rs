//! Privilege level 3: what a user may do runs, what it may not raises its exception, and hypercalls are not for users.

use core::{
    arch::{asm, naked_asm},
    sync::atomic::{AtomicU64, Ordering::Relaxed},
};

use guests::{
    apic, check, cpu,
    paging::{self, Page, bit},
    trap::{self, Frame, GP, PF, Trap, UD, hook},
};

const CODE_VIEW: u64 = paging::FREE + 0x40_0000;
const STACK_VIEW: u64 = CODE_VIEW + 0x1000;
const DEVICE_VIEW: u64 = CODE_VIEW + 0x2000;
static CODE: Page = Page::new();
static STACK: Page = Page::new();

/// Back to the kernel, by `INT`.
const BACK: u8 = 0x90;

/// Selectors: SYSCALL's kernel pair, SYSRET's user pair, the TSS.
const KERNEL_CODE: u64 = 0x10;
const KERNEL_DATA: u64 = 0x18;
const USER_BASE: u64 = 0x20;
const USER_DATA: u64 = 0x28 | 3;
const USER_CODE: u64 = 0x30 | 3;
const TSS_SELECTOR: u16 = 0x38;

#[repr(C, align(16))]
struct Words<const N: usize>([AtomicU64; N]);

static GDT: Words<9> = Words([const { AtomicU64::new(0) }; 9]);
/// 104 bytes: RSP0 is at offset 4; no port is free for users.
static TSS: Words<14> = Words([const { AtomicU64::new(0) }; 14]);
static KERNEL_STACK: [Page; 4] = [const { Page::new() }; 4];
/// The kernel's RSP while the user runs.
static KERNEL_RSP: AtomicU64 = AtomicU64::new(0);
/// How the user's run ended: bit 63, vector, error code; 0 for BACK.
static ENDED: AtomicU64 = AtomicU64::new(0);

/// Code that runs on its own stack and ends with `INT BACK`, or an exception. RAX at its end.
fn run_user(code: &[u8], rax: u64, rdx: u64) -> Result<u64, Trap> {
    CODE.put(0, code);
    CODE.put(code.len(), &[0xcd, BACK]);
    ENDED.store(0, Relaxed);
    let rax = enter(rax, rdx, CODE_VIEW, STACK_VIEW + 0xff0);
    match ENDED.load(Relaxed) {
        0 => Ok(rax),
        raised => Err(Trap { vector: (raised >> 32) as u8, error: raised as u32 }),
    }
}

/// RDI to RAX, RSI to RDX, entry in RDX, stack in RCX.
#[unsafe(naked)]
extern "C" fn enter(_rax: u64, _rdx: u64, _entry: u64, _stack: u64) -> u64 {
    naked_asm!(
        "push rbx; push rbp; push r12; push r13; push r14; push r15",
        "mov [rip + {kernel_rsp}], rsp",
        "push {user_data}",
        "push rcx",
        "push 2",
        "push {user_code}",
        "push rdx",
        "mov rax, rdi",
        "mov rdx, rsi",
        "mov ecx, {device}",
        "movabs rdi, {device_view}",
        "iretq",
        ".globl guest_user_left",
        "guest_user_left:",
        "pop r15; pop r14; pop r13; pop r12; pop rbp; pop rbx",
        "ret",
        kernel_rsp = sym KERNEL_RSP,
        user_data = const USER_DATA,
        user_code = const USER_CODE,
        device = const apic::APIC_BASE_MSR,
        device_view = const DEVICE_VIEW,
    )
}

unsafe extern "C" {
    static guest_user_left: u8;
}

fn leave(frame: &mut Frame) {
    if frame.vector != u64::from(BACK) {
        ENDED.store(1 << 63 | frame.vector << 32 | frame.error, Relaxed);
    }
    frame.rip = (&raw const guest_user_left).addr() as u64;
    frame.cs = KERNEL_CODE;
    frame.ss = KERNEL_DATA;
    frame.rsp = KERNEL_RSP.load(Relaxed);
    frame.rflags = 2;
}

/// A GDT with user segments and a task-state segment, whose stack exceptions of users run on.
fn prepare() {
    let tss = core::ptr::from_ref(&TSS).addr() as u64;
    let stack = KERNEL_STACK[3].gpa() + 4096;
    TSS.0[0].store(stack << 32, Relaxed);
    TSS.0[1].store(stack >> 32, Relaxed);
    // The I/O permission bitmap starts past the limit: no port is free.
    TSS.0[12].store(104 << 48, Relaxed);
    let entries = [
        0,
        0,
        0x00af_9b00_0000_ffff,
        0x00cf_9300_0000_ffff,
        0,
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
        asm!("ltr {:x}", in(reg) TSS_SELECTOR, options(nostack));
    }
    let user = bit::PRESENT | bit::WRITABLE | bit::USER;
    paging::map(CODE_VIEW, CODE.gpa(), user);
    paging::map(STACK_VIEW, STACK.gpa(), user);
    paging::map(DEVICE_VIEW, apic::IO_APIC_GPA, user | bit::UNCACHED);
    trap::open_to_users(BACK);
    for vector in [BACK, UD, GP, PF] {
        hook(vector, Some(leave));
    }
}

pub(crate) fn run() {
    prepare();
    allowed();
    refused();
    system_calls();
    for vector in [BACK, UD, GP, PF] {
        hook(vector, None);
    }
}

fn allowed() {
    let back = run_user(&[0x48, 0xff, 0xc0], 41, 0);
    check!("user-runs", back == Ok(42), "{back:x?}");
    // push rbx; cpuid; mov eax, ebx; pop rbx
    let cpuid = run_user(&[0x53, 0x31, 0xc9, 0x0f, 0xa2, 0x89, 0xd8, 0x5b], 0x4000_0000, 0);
    check!("user-cpuid", cpuid == Ok(u64::from(u32::from_le_bytes(*b"Kerf"))), "{cpuid:x?}");
    // mov eax, [rdi]: the index register of the I/O APIC.
    let _ = apic::read_io_apic(1);
    let device = run_user(&[0x8b, 0x07], 0, 0);
    check!("user-device-memory", device == Ok(1), "{device:x?}");
    // rdtsc
    let time = run_user(&[0x0f, 0x31], 0, 0);
    check!("user-rdtsc", time.is_ok(), "{time:x?}");
}

fn refused() {
    let protected = |error| Err(Trap { vector: GP, error });
    let invalid = Err(Trap { vector: UD, error: 0 });
    let hypercall: &[u8] =
        if cpu::uses_vmmcall() { &[0x0f, 0x01, 0xd9] } else { &[0x0f, 0x01, 0xc1] };
    let cases: [(&str, &[u8], Result<u64, Trap>); 11] = [
        ("hypercall", hypercall, invalid),
        ("rdmsr", &[0x0f, 0x32], protected(0)),
        ("wrmsr", &[0x0f, 0x30], protected(0)),
        ("hlt", &[0xf4], protected(0)),
        ("in", &[0xec], protected(0)),
        ("out", &[0xee], protected(0)),
        ("mov-cr8", &[0x44, 0x0f, 0x22, 0xc0], protected(0)),
        ("mov-cr0", &[0x0f, 0x20, 0xc0], protected(0)),
        ("wbinvd", &[0x0f, 0x09], protected(0)),
        ("invd", &[0x0f, 0x08], protected(0)),
        ("xsetbv", &[0x0f, 0x01, 0xd1], protected(0)),
    ];
    for (name, code, expected) in cases {
        let found = run_user(code, 0, crate::port::SCRATCH.into());
        check!(format_args!("user-{name}-refused"), found == expected, "{found:x?}");
    }
    // mov eax, [abs]: a supervisor's page; the fault says user, present.
    let found = run_user(&[0x8b, 0x04, 0x25, 0, 0, 0x20, 0], 0, 0);
    check!("user-supervisor-page", found == Err(Trap { vector: PF, error: 0b101 }), "{found:x?}");
    paging::map(DEVICE_VIEW, apic::IO_APIC_GPA, bit::PRESENT | bit::WRITABLE);
    paging::invalidate(DEVICE_VIEW);
    let found = run_user(&[0x8b, 0x07], 0, 0);
    check!("user-supervisor-device", found == Err(Trap { vector: PF, error: 0b101 }), "{found:x?}");
}

/// SYSCALL enters at LSTAR with the flags masked, SYSRET goes back.
fn system_calls() {
    const EFER: u32 = 0xc000_0080;
    let efer = cpu::read_msr(EFER).unwrap_or(0);
    // SAFETY: the entry point below is made for it.
    unsafe {
        let _ = cpu::write_msr(EFER, efer | 1);
        let _ = cpu::write_msr(0xc000_0081, USER_BASE << 48 | KERNEL_CODE << 32);
        let _ = cpu::write_msr(0xc000_0082, system_call as *const () as u64);
        let _ = cpu::write_msr(0xc000_0084, 0x4_0700);
    }
    // syscall; syscall: each adds a hundred.
    let found = run_user(&[0x0f, 0x05, 0x0f, 0x05], 5, 0);
    check!("user-syscall-sysret", found == Ok(205), "{found:x?}");
    // SAFETY: as it was.
    let _ = unsafe { cpu::write_msr(EFER, efer) };
    let found = run_user(&[0x0f, 0x05], 5, 0);
    check!(
        "user-syscall-ud-without-sce",
        found == Err(Trap { vector: UD, error: 0 }),
        "{found:x?}"
    );
}

#[unsafe(naked)]
extern "C" fn system_call() -> ! {
    // Exits at level 0 between: CPUID, with the registers that SYSRET needs put aside.
    naked_asm!(
        "mov r8, rcx; mov r9, rax; mov r10, rbx",
        "xor eax, eax; cpuid",
        "mov rbx, r10; mov rcx, r8; lea rax, [r9 + 100]",
        "sysretq",
    )
}
