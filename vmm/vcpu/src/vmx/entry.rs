//! Into the guest and out of it again.
//!
//! UNSAFETY: hands the CPU to the guest. An exit comes back at a label in the middle of [`run`], with RSP at the
//! [`Frame`] and every other general-purpose register the guest's. Those that a call preserves by convention stay in the
//! CPU while frequent exits are answered; they are stored only when [`run`] returns.

use core::arch::asm;
use core::mem::offset_of;

use x86_spec::vmx::field::{host, info};

use crate::Answer;
use crate::frame::{Frame, Handlers, Next, Pointer};

/// The word of [`Frame::own`] for what the VMCS holds as the host's RIP; 0 where that is not known.
const HOST_RIP: usize = 0;

/// The VMCS was moved: its host RSP and RIP are to be written again.
pub(super) fn forget_host(frame: &mut Frame) {
    frame.own[HOST_RIP] = 0;
}

/// Enters the guest of the current VMCS until a handler wants to leave, and says how it ended; `None` where the CPU refused
/// the entry. `launch`: by VMLAUNCH, for a VMCS that has not run since it was cleared; the next entries are by VMRESUME.
#[inline]
pub(super) fn run<C>(
    frame: Pointer,
    context: &mut C,
    handlers: &Handlers<C>,
    launch: bool,
) -> Option<Answer> {
    let frame = frame.prepare(context, handlers);
    let ended: u64;
    // SAFETY: (1) the current VMCS is that of the virtual CPU whose frame this is; its host state is this CPU's, and
    // its guest state and second stage confine the guest to its own memory. (2) The frame is allocated, aligned and
    // referenced by no one but a handler while this runs; RSP points at it for the few instructions after an exit only, in which
    // nothing uses a stack: interrupts are off, by the contract of `Vcpu::run`, NMIs and machine checks have stacks of
    // their own, and the instructions themselves do not fault. (3) Every register that the guest may have changed is
    // declared lost or kept on the stack, which an exit finds as the entry left it. (4) Floating-point registers are the guest's throughout.
    unsafe {
        asm!(
            // These two cannot be declared.
            "push rbx",
            "push rbp",
            // For the way out; twice, as calls want the stack aligned.
            "push rax",
            "push rax",
            "mov [rax + {stack}], rsp",
            "lea rdx, [rip + 4f]",
            "cmp rdx, [rax + {host_rip}]",
            "je 2f",
            "mov [rax + {host_rip}], rdx",
            "mov ecx, {field_rip}",
            "vmwrite rcx, rdx",
            "mov ecx, {field_rsp}",
            "vmwrite rcx, rax",
            "2:",
            "mov rbx, [rax + 8 * 3]",
            "mov rbp, [rax + 8 * 5]",
            "mov r12, [rax + 8 * 12]",
            "mov r13, [rax + 8 * 13]",
            "mov r14, [rax + 8 * 14]",
            "mov r15, [rax + 8 * 15]",
            "test esi, esi",
            "jnz 6f",
            "3:",
            "mov rcx, [rax + 8 * 1]",
            "mov rdx, [rax + 8 * 2]",
            "mov rsi, [rax + 8 * 6]",
            "mov rdi, [rax + 8 * 7]",
            "mov r8, [rax + 8 * 8]",
            "mov r9, [rax + 8 * 9]",
            "mov r10, [rax + 8 * 10]",
            "mov r11, [rax + 8 * 11]",
            "mov rax, [rax + 8 * 0]",
            "vmresume",
            "jmp 7f",
            "6:",
            "mov rcx, [rax + 8 * 1]",
            "mov rdx, [rax + 8 * 2]",
            "mov rsi, [rax + 8 * 6]",
            "mov rdi, [rax + 8 * 7]",
            "mov r8, [rax + 8 * 8]",
            "mov r9, [rax + 8 * 9]",
            "mov r10, [rax + 8 * 10]",
            "mov r11, [rax + 8 * 11]",
            "mov rax, [rax + 8 * 0]",
            "vmlaunch",
            // A refused entry falls through; the frame is as it was.
            "7:",
            "xor eax, eax",
            "add rsp, 16",
            "jmp 8f",
            // The exit.
            "4:",
            "mov [rsp + 8 * 0], rax",
            "mov [rsp + 8 * 1], rcx",
            "mov [rsp + 8 * 2], rdx",
            "mov [rsp + 8 * 6], rsi",
            "mov [rsp + 8 * 7], rdi",
            "mov [rsp + 8 * 8], r8",
            "mov [rsp + 8 * 9], r9",
            "mov [rsp + 8 * 10], r10",
            "mov [rsp + 8 * 11], r11",
            "mov ecx, {field_reason}",
            "vmread rcx, rcx",
            "movzx ecx, cl",
            "mov rdi, [rsp + {context}]",
            "mov rsi, rsp",
            "mov rsp, [rsp + {stack}]",
            "call [rsi + {handlers} + 8 * rcx]",
            "cmp rax, 2",
            "ja 3b",
            "pop rcx",
            "pop rcx",
            "mov [rcx + 8 * 3], rbx",
            "mov [rcx + 8 * 5], rbp",
            "mov [rcx + 8 * 12], r12",
            "mov [rcx + 8 * 13], r13",
            "mov [rcx + 8 * 14], r14",
            "mov [rcx + 8 * 15], r15",
            "8:",
            "pop rbp",
            "pop rbx",
            stack = const offset_of!(Frame, stack),
            context = const offset_of!(Frame, context),
            handlers = const offset_of!(Frame, handlers),
            host_rip = const offset_of!(Frame, own) + 8 * HOST_RIP,
            field_rsp = const host::RSP.encoding(),
            field_rip = const host::RIP.encoding(),
            field_reason = const info::EXIT_REASON.encoding(),
            inout("rax") frame => ended,
            inout("rsi") u64::from(launch) => _,
            out("rcx") _,
            out("rdx") _,
            out("rdi") _,
            out("r8") _,
            out("r9") _,
            out("r10") _,
            out("r11") _,
            out("r12") _,
            out("r13") _,
            out("r14") _,
            out("r15") _,
        );
    }
    if ended == 0 { None } else { Some(Next::ended(ended)) }
}
