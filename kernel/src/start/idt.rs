//! Interrupt descriptor table (SDM vol. 3, 6.10 and 6.14) and the stubs its gates lead to.
//!
//! Each stub pushes what the CPU did not (an error code of 0, where the exception has none) and its vector, so that one
//! piece of assembly saves the registers for all of them and calls [`super::exception::dispatch`]. The CPU aligns the
//! stack to 16 bytes before it pushes its five words; with the stub's two and fifteen registers, the call is aligned.

use core::arch::{asm, global_asm, naked_asm};
use core::cell::UnsafeCell;
use core::mem::size_of;

use super::{exception, gdt};

/// Bytes from one stub to the next.
const STUB_BYTES: u64 = 16;

// The mask has the vectors that push an error code: 8, 10 to 14, 17, 21, 29 and 30 (SDM vol. 3, table 6-1; APM vol. 2,
// table 8-1).
global_asm!(
    ".pushsection .text.vectors, \"ax\"",
    ".balign 16",
    "kerf_vector_stubs:",
    ".set vector, 0",
    ".rept 256",
    ".balign 16",
    ".if vector >= 32",
    "push 0",
    ".elseif ((0x60227d00 >> vector) & 1) == 0",
    "push 0",
    ".endif",
    "push vector",
    "jmp {common}",
    ".set vector, vector + 1",
    ".endr",
    ".popsection",
    common = sym common,
);

unsafe extern "C" {
    /// The first stub.
    static kerf_vector_stubs: u8;
    /// What follows the call of the handler.
    static kerf_trap_return: u8;
}

/// Saves the registers as [`super::TrapFrame`] has them, and hands them to Rust.
#[unsafe(naked)]
extern "sysv64" fn common() {
    naked_asm!(
        "push rax",
        "push rcx",
        "push rdx",
        "push rbx",
        "push rbp",
        "push rsi",
        "push rdi",
        "push r8",
        "push r9",
        "push r10",
        "push r11",
        "push r12",
        "push r13",
        "push r14",
        "push r15",
        "cld",
        "mov rdi, rsp",
        "call {dispatch}",
        ".globl kerf_trap_return",
        "kerf_trap_return:",
        "pop r15",
        "pop r14",
        "pop r13",
        "pop r12",
        "pop r11",
        "pop r10",
        "pop r9",
        "pop r8",
        "pop rdi",
        "pop rsi",
        "pop rbp",
        "pop rbx",
        "pop rdx",
        "pop rcx",
        "pop rax",
        "add rsp, 16",
        "iretq",
        dispatch = sym exception::dispatch,
    )
}

/// Where every handler returns to, with RSP at a [`super::TrapFrame`].
pub(super) fn trap_return() -> u64 {
    &raw const kerf_trap_return as u64
}

/// The table: 256 gates of two words.
#[repr(C, align(16))]
struct Idt(UnsafeCell<[[u64; 2]; 256]>);

// SAFETY: written only by `fill`, before the first CPU loads it.
unsafe impl Sync for Idt {}

static IDT: Idt = Idt(UnsafeCell::new([[0; 2]; 256]));

/// Makes the table. Once, on the boot CPU, before [`load`].
///
/// # Safety
/// No CPU has loaded the table, and no other runs this.
pub(super) unsafe fn fill() {
    // SAFETY: no one else uses the table now, says the caller.
    let gates = unsafe { &mut *IDT.0.get() };
    let stubs = &raw const kerf_vector_stubs as u64;
    for (gate, vector) in gates.iter_mut().zip(0u64..) {
        *gate = interrupt_gate(stubs + vector * STUB_BYTES, ist(vector));
    }
}

/// Loads the table on the calling CPU.
pub(super) fn load() {
    let pointer =
        gdt::TablePointer { limit: size_of::<Idt>() as u16 - 1, base: IDT.0.get() as u64 };
    // SAFETY: the table is static and its gates lead to code that answers every vector.
    unsafe { asm!("lidt [{}]", in(reg) &raw const pointer, options(readonly, nostack)) };
}

/// The stack of a vector: double faults, NMIs and machine checks may come while the current one is bad.
const fn ist(vector: u64) -> u64 {
    match vector {
        8 => 1,
        2 => 2,
        18 => 3,
        _ => 0,
    }
}

/// A present 64-bit interrupt gate of privilege 0: interrupts stay off in the handler.
const fn interrupt_gate(target: u64, ist: u64) -> [u64; 2] {
    let low = target & 0xffff
        | (gdt::CODE as u64) << 16
        | ist << 32
        | 0x8e << 40
        | (target >> 16 & 0xffff) << 48;
    [low, target >> 32]
}
