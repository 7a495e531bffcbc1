//! Debugging a guest from inside: single steps over instructions that exit and are emulated, breakpoints beside them, debug
//! registers that stay.

use core::{
    arch::asm,
    sync::atomic::{AtomicU64, AtomicUsize, Ordering::Relaxed},
};

use guests::{
    apic, attempt, check, cpu, nowhere, read_register,
    trap::{self, Frame, Trap, hook},
    write_register,
};

use crate::{
    mmio::{COUNT, WINDOW},
    port::SCRATCH,
};

const STEP: u64 = 1 << 14;
/// RFLAGS: the breakpoint at this instruction is done with.
const RESUME: u64 = 1 << 16;

/// Where each debug exception came, and DR6 then.
static SEEN: [[AtomicU64; 2]; 8] = [const { [const { AtomicU64::new(0) }; 2] }; 8];
static COUNT_SEEN: AtomicUsize = AtomicUsize::new(0);

fn on_debug(frame: &mut Frame) {
    let dr6 = read_register!("dr6");
    // SAFETY: no breakpoint is defined by DR6.
    unsafe { asm!("mov dr6, {}", in(reg) 0xffff_0ff0_u64, options(nomem, nostack)) };
    if let Some([at, why]) = SEEN.get(COUNT_SEEN.fetch_add(1, Relaxed)) {
        at.store(frame.rip, Relaxed);
        why.store(dr6, Relaxed);
    }
    frame.rflags |= RESUME;
}

/// The debug exceptions since the last call.
fn seen() -> ([(u64, u64); 8], usize) {
    let count = COUNT_SEEN.swap(0, Relaxed);
    let mut all = [(0, 0); 8];
    for (to, [at, why]) in all.iter_mut().zip(&SEEN) {
        *to = (at.swap(0, Relaxed), why.swap(0, Relaxed));
    }
    (all, count)
}

pub(crate) fn run() {
    hook(trap::DB, Some(on_debug));
    single_steps();
    breakpoints();
    registers();
    hook(trap::DB, None);
}

/// One debug exception right behind the instruction, one behind the NOP that follows.
fn single_steps() {
    macro_rules! stepped {
        ($name:literal, [$($before:literal),*], $instruction:literal $(, $($operands:tt)*)?) => {{
            let end: u64;
            // SAFETY: the trap flag is clear again behind the two instructions; the exceptions change nothing.
            unsafe {
                asm!("mov r13, rbx", "lea r14, [rip + 22f]", $($before,)*
                    "pushfq", "or dword ptr [rsp], 0x100", "popfq", $instruction, "22:", "nop",
                    "pushfq", "and dword ptr [rsp], 0xfffffeff", "popfq", "mov rbx, r13",
                    out("r13") _, out("r14") end $(, $($operands)*)?);
            }
            let (seen, count) = seen();
            let places = [seen[0].0, seen[1].0] == [end, end + 1];
            let reasons = seen[..count.min(8)].iter().all(|(_, dr6)| dr6 & STEP != 0);
            check!($name, places && reasons && count == 5, "{count} times: {seen:x?}, not at {end:#x}");
        }};
    }
    let hypercall_is_vmmcall = cpu::uses_vmmcall();
    stepped!("step-over-nop", [], "nop");
    stepped!("step-over-cpuid", ["xor eax, eax"], "cpuid", out("rax") _, out("rcx") _, out("rdx") _);
    stepped!("step-over-rdmsr", [], "rdmsr", in("ecx") apic::APIC_BASE_MSR, out("rax") _, out("rdx") _);
    stepped!("step-over-wrmsr", [], "wrmsr", in("ecx") apic::TSC_DEADLINE_MSR, in("rax") 0_u64, in("rdx") 0_u64);
    stepped!("step-over-in", [], "in al, dx", in("dx") SCRATCH, out("al") _);
    stepped!("step-over-out", [], "out dx, al", in("dx") SCRATCH, in("al") 0_u8);
    stepped!("step-over-port-nowhere", [], "in eax, dx", in("dx") nowhere::PORT, out("eax") _);
    stepped!("step-over-outsb", [], "outsb", in("dx") SCRATCH, inout("rsi") &SCRATCH => _);
    stepped!("step-over-mmio-load", [], "mov eax, [rdi]", in("rdi") WINDOW, out("eax") _);
    stepped!("step-over-mmio-store", [], "mov [rdi], eax", in("rdi") COUNT, in("eax") 0_u32);
    stepped!("step-over-mmio-or", [], "lock or dword ptr [rdi], 0", in("rdi") COUNT);
    stepped!("step-over-mov-cr8", [], "mov cr8, rax", in("rax") 0_u64);
    stepped!("step-over-mov-cr0", ["mov rax, cr0"], "mov cr0, rax", out("rax") _);
    stepped!("step-over-xsetbv", [], "xsetbv", in("ecx") 0, in("eax") 0b111_u32, in("edx") 0_u32);
    if hypercall_is_vmmcall {
        stepped!("step-over-hypercall", ["xor eax, eax"], "vmmcall", out("rax") _);
    } else {
        stepped!("step-over-hypercall", ["xor eax, eax"], "vmcall", out("rax") _);
    }
}

/// Breakpoint 0 on an instruction that follows one that exits; breakpoint 1 on data.
fn breakpoints() {
    let at: u64;
    // SAFETY: finds where the instruction is, and runs it once with the breakpoint set: DR7 is clear again at the end.
    unsafe {
        asm!("mov r13, rbx", "lea r14, [rip + 22f]", "mov dr0, r14", "mov edx, 0x402", "mov dr7, rdx",
            "xor eax, eax", "cpuid", "22:", "nop", "mov edx, 0x400", "mov dr7, rdx", "mov rbx, r13",
            out("r13") _, out("r14") at, out("rax") _, out("rcx") _, out("rdx") _);
    }
    let (found, count) = seen();
    let right = count == 1 && found[0].0 == at && found[0].1 & 0xf == 1;
    check!("breakpoint-behind-an-exit", right, "{count}: {found:x?}, not at {at:#x}");

    let cell = AtomicU64::new(0);
    let watched = core::ptr::from_ref(&cell).expose_provenance() as u64;
    // Writes of 4 bytes: R/W1 01, LEN1 11.
    const WATCH: u64 = 0x400 | 0b10 << 2 | 0b01 << 20 | 0b11 << 22;
    let at: u64;
    // SAFETY: writes `cell`.
    unsafe {
        asm!("mov r13, rbx", "lea r14, [rip + 22f]", "mov dr1, r8", "mov dr7, r9", "xor eax, eax", "cpuid",
            "mov dword ptr [r8], 7", "22:", "nop", "mov eax, 0x400", "mov dr7, rax", "mov rbx, r13",
            in("r8") watched, in("r9") WATCH, out("r13") _, out("r14") at, out("rax") _, out("rcx") _, out("rdx") _);
    }
    let (found, count) = seen();
    let right = count == 1 && found[0].0 == at && found[0].1 & 0xf == 2;
    check!("watchpoint-across-exits", right, "{count}: {found:x?}, not at {at:#x}");
}

fn registers() {
    let values = [0x1111_u64, 0x2222, 0xffff_8000_0000_3333, 0x4444];
    let found: [u64; 4];
    let (dr7, dr6): (u64, u64);
    // SAFETY: no breakpoint is enabled.
    unsafe {
        asm!("mov dr0, {}", "mov dr1, {}", "mov dr2, {}", "mov dr3, {}", in(reg) values[0], in(reg) values[1],
            in(reg) values[2], in(reg) values[3], options(nomem, nostack));
        for _ in 0..10 {
            let _ = cpu::cpuid(0, 0);
            let _ = cpu::in8(SCRATCH);
        }
        found = [
            read_register!("dr0"),
            read_register!("dr1"),
            read_register!("dr2"),
            read_register!("dr3"),
        ];
        (dr7, dr6) = (read_register!("dr7"), read_register!("dr6"));
        asm!("mov dr0, {0}", "mov dr1, {0}", "mov dr2, {0}", "mov dr3, {0}", in(reg) 0_u64, options(nomem, nostack));
    }
    check!("debug-addresses-kept-across-exits", found == values, "{found:x?}");
    check!("debug-control-as-after-reset", (dr7, dr6) == (0x400, 0xffff_0ff0), "{dr7:#x} {dr6:#x}");
    const DE: u64 = 1 << 3;
    let cr4 = read_register!("cr4");
    // SAFETY: reads registers; CR4.DE is as before at the end.
    let (alias, refused) = unsafe {
        let alias = attempt!("mov rax, dr4", out("rax") _);
        let _ = write_register!("cr4", cr4 | DE);
        let refused = attempt!("mov rax, dr4", out("rax") _);
        let _ = write_register!("cr4", cr4);
        (alias, refused)
    };
    let fault = Err(Trap { vector: trap::UD, error: 0 });
    check!("debug-dr4-is-dr6-without-de", alias.is_ok(), "{alias:x?}");
    check!("debug-dr4-ud-with-de", refused == fault, "{refused:x?}");
}
