//! Into the guest and out of it again.
//!
//! UNSAFETY: hands the CPU to the guest. An exit comes back at a label in the middle of [`enter`], with the host's RSP
//! as it was at the entry and every other general-purpose register the guest's.

use core::arch::naked_asm;
use core::mem::offset_of;

use x86_spec::vmx::field::host;

use crate::Gpr;

/// What the entry code loads and stores, at offsets that it knows.
#[repr(C)]
#[derive(Clone, Debug, Default)]
pub(super) struct Frame {
    /// By [`Gpr`] number. RSP's place is not used: the VMCS holds it.
    pub(super) gprs: [u64; 16],
    /// What the VMCS holds as the host's RSP; 0 where that is not known. It saves a VMWRITE at most entries.
    pub(super) host_rsp: u64,
}

const _: () = {
    assert!(offset_of!(Frame, gprs) == 0);
    assert!(offset_of!(Frame, host_rsp) == 8 * 16);
    assert!(Gpr::Rdi as usize == 7 && Gpr::R15 as usize == 15);
};

/// How an entry ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Outcome {
    /// The guest ran, or the CPU found its state invalid: there is an exit reason.
    Exit,
    /// VMfailInvalid: there is no current VMCS.
    NoVmcs,
    /// VMfailValid: there is an instruction error.
    Refused,
}

/// Enters the guest of the current VMCS and returns after its exit.
#[inline]
pub(super) fn run(frame: &mut Frame, launched: bool) -> Outcome {
    // SAFETY: (1) the current VMCS is that of the virtual CPU whose frame this is; its host state is this CPU's, and
    // its guest state and second stage confine the guest to its own memory. (2) `enter` keeps every register that the
    // calling convention tells it to keep; an exit restores RSP and clears RFLAGS.IF, which is clear already, by the
    // contract of `Vcpu::run`. (3) Floating-point registers are the guest's throughout.
    match unsafe { enter(frame, u64::from(launched)) } {
        0 => Outcome::Exit,
        1 => Outcome::NoVmcs,
        _ => Outcome::Refused,
    }
}

/// RDI: the frame. RSI: 0 for VMLAUNCH, else VMRESUME. RAX: 0 after an exit, 1 after VMfailInvalid, 2 after VMfailValid.
#[unsafe(naked)]
unsafe extern "sysv64" fn enter(frame: *mut Frame, launched: u64) -> u64 {
    naked_asm!(
        "push rbp",
        "push rbx",
        "push r12",
        "push r13",
        "push r14",
        "push r15",
        "push rdi",
        // The VMCS keeps RSP and RIP of the last entry; RIP never changes.
        "cmp rsp, [rdi + {host_rsp}]",
        "je 2f",
        "mov [rdi + {host_rsp}], rsp",
        "mov eax, {field_rsp}",
        "vmwrite rax, rsp",
        "mov eax, {field_rip}",
        "lea rdx, [rip + 4f]",
        "vmwrite rax, rdx",
        "2:",
        // MOV leaves the flags of this test alone.
        "test rsi, rsi",
        "mov rax, [rdi + 8 * 0]",
        "mov rcx, [rdi + 8 * 1]",
        "mov rdx, [rdi + 8 * 2]",
        "mov rbx, [rdi + 8 * 3]",
        "mov rbp, [rdi + 8 * 5]",
        "mov rsi, [rdi + 8 * 6]",
        "mov r8, [rdi + 8 * 8]",
        "mov r9, [rdi + 8 * 9]",
        "mov r10, [rdi + 8 * 10]",
        "mov r11, [rdi + 8 * 11]",
        "mov r12, [rdi + 8 * 12]",
        "mov r13, [rdi + 8 * 13]",
        "mov r14, [rdi + 8 * 14]",
        "mov r15, [rdi + 8 * 15]",
        "mov rdi, [rdi + 8 * 7]",
        "jz 3f",
        "vmresume",
        "jmp 5f",
        "3:",
        "vmlaunch",
        "jmp 5f",
        // The exit. On the stack: the frame, then what was pushed.
        "4:",
        "push rdi",
        "mov rdi, [rsp + 8]",
        "mov [rdi + 8 * 0], rax",
        "mov [rdi + 8 * 1], rcx",
        "mov [rdi + 8 * 2], rdx",
        "mov [rdi + 8 * 3], rbx",
        "mov [rdi + 8 * 5], rbp",
        "mov [rdi + 8 * 6], rsi",
        "pop qword ptr [rdi + 8 * 7]",
        "mov [rdi + 8 * 8], r8",
        "mov [rdi + 8 * 9], r9",
        "mov [rdi + 8 * 10], r10",
        "mov [rdi + 8 * 11], r11",
        "mov [rdi + 8 * 12], r12",
        "mov [rdi + 8 * 13], r13",
        "mov [rdi + 8 * 14], r14",
        "mov [rdi + 8 * 15], r15",
        "xor eax, eax",
        "jmp 7f",
        // A refused entry fell through: CF for VMfailInvalid, ZF for VMfailValid. The frame is as it was.
        "5:",
        "mov eax, 1",
        "jc 7f",
        "mov eax, 2",
        "7:",
        "pop rdi",
        "pop r15",
        "pop r14",
        "pop r13",
        "pop r12",
        "pop rbx",
        "pop rbp",
        "ret",
        host_rsp = const offset_of!(Frame, host_rsp),
        field_rsp = const host::RSP.encoding(),
        field_rip = const host::RIP.encoding(),
    )
}
