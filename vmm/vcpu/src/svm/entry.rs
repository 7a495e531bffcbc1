//! The world switch.
//!
//! ```text
//!   CLGI                     nothing, not even an NMI, is taken from here on
//!   STI                      with V_INTR_MASKING the host's IF decides whether a physical interrupt ends the run; GIF
//!                            still holds it back, so none is taken on the host's side of VMRUN
//!   VMLOAD guest             FS, GS, TR, LDTR, KernelGSbase, system-call MSRs
//!   VMRUN  ◄─────────────┐   switches the rest and sets GIF; #VMEXIT switches back and clears GIF
//!   a handler ── again ──┘   with GIF clear, and FS, GS and TR still the guest's
//!   VMSAVE guest
//!   VMLOAD host              GS again points at the CPU's own data, TR at its stacks for NMI and machine check
//!   CLI
//!   STGI                     a pending NMI is taken here, by the host's handler on a whole host; a pending interrupt
//!                            waits for the caller to open interrupts
//! ```
//!
//! VMLOAD of the host's state must come before STGI: an NMI taken between the two would find the guest's GS and TR.
//! The host's own state is stored once, when a virtual CPU is loaded: it does not change while Kerf runs.
//!
//! UNSAFETY: hands the CPU to the guest, with RSP at the [`Frame`]; the guest's registers come and go through that. Those
//! that a call preserves by convention stay in the CPU while frequent exits are answered; they are stored only when
//! [`run`] returns.

use core::arch::asm;
use core::mem::offset_of;

use x86_spec::svm::{ControlArea, Vmcb, exit_code};

use super::insn::Owned;
use crate::Answer;
use crate::frame::{Frame, Handlers, Next, Pointer};

/// Words of [`Frame::own`]: where the CPU finds the guest's VMCB, and the host's; where Kerf finds the guest's.
const GUEST: usize = 0;
const HOST: usize = 1;
const GUEST_HVA: usize = 2;

/// The place among the handlers of nested page faults, whose code is too large for it: a code that does not exist. To be
/// told from it by the handler.
pub(super) const NESTED_FAULT: usize = 0xff;

/// Lets a frame know its VMCBs.
pub(super) fn set_vmcbs(frame: &mut Frame, guest: &Owned<Vmcb>, host: &Owned<Vmcb>) {
    frame.own[GUEST] = guest.hpa().raw();
    frame.own[HOST] = host.hpa().raw();
    frame.own[GUEST_HVA] = guest.hva().raw();
}

/// Enters the guest until a handler wants to leave, and says how it ended.
#[inline]
pub(super) fn run<C>(frame: Pointer, context: &mut C, handlers: &Handlers<C>) -> Answer {
    let frame = frame.prepare(context, handlers);
    let ended: u64;
    // SAFETY: (1) EFER.SVME is set and VM_HSAVE_PA holds a page: a `Svm` exists, which made the VMCBs, and the caller runs
    // on its CPU. (2) The VMCB intercepts what would harm the host, and its nested page tables hold what the guest may
    // reach; both are the backend's and the caller's to see to before. (3) The host's VMCB was stored by VMSAVE on this
    // CPU when the virtual CPU was loaded. (4) Every general-purpose register is declared lost or kept on the stack, and
    // interrupts are off before and after. (5) The frame is allocated, aligned and referenced by no one but a handler
    // while this runs; RSP points at it only while nothing uses a stack: GIF is clear, and VMRUN keeps the host's RSP.
    // (6) Handlers are Kerf's own code, which uses neither FS, GS nor TR but by way of exceptions that it does not raise.
    unsafe {
        asm!(
            // These two cannot be declared.
            "push rbx",
            "push rbp",
            // For the way out; twice, as calls want the stack aligned.
            "push rax",
            "push rax",
            "mov [rax + {stack}], rsp",
            "mov rbx, [rax + 8 * 3]",
            "mov rbp, [rax + 8 * 5]",
            "mov r12, [rax + 8 * 12]",
            "mov r13, [rax + 8 * 13]",
            "mov r14, [rax + 8 * 14]",
            "mov r15, [rax + 8 * 15]",
            "clgi",
            "sti",
            "mov rcx, rax",
            "mov rax, [rcx + {guest}]",
            "vmload rax",
            "mov rax, rcx",
            "2:",
            "mov rsp, rax",
            "mov rax, [rsp + {guest}]",
            "mov rcx, [rsp + 8 * 1]",
            "mov rdx, [rsp + 8 * 2]",
            "mov rsi, [rsp + 8 * 6]",
            "mov rdi, [rsp + 8 * 7]",
            "mov r8, [rsp + 8 * 8]",
            "mov r9, [rsp + 8 * 9]",
            "mov r10, [rsp + 8 * 10]",
            "mov r11, [rsp + 8 * 11]",
            "vmrun rax",
            // RAX and RSP are the host's again: VMRUN kept them in the host save area.
            "mov [rsp + 8 * 1], rcx",
            "mov [rsp + 8 * 2], rdx",
            "mov [rsp + 8 * 6], rsi",
            "mov [rsp + 8 * 7], rdi",
            "mov [rsp + 8 * 8], r8",
            "mov [rsp + 8 * 9], r9",
            "mov [rsp + 8 * 10], r10",
            "mov [rsp + 8 * 11], r11",
            "mov rcx, [rsp + {guest_hva}]",
            "mov rdi, [rsp + {context}]",
            "mov rsi, rsp",
            "mov rsp, [rsp + {stack}]",
            "mov ecx, [rcx + {exit_code}]",
            "cmp ecx, 0xff",
            "ja 5f",
            "4:",
            "call [rsi + {handlers} + 8 * rcx]",
            "cmp rax, 2",
            "ja 2b",
            "jmp 3f",
            "5:",
            "cmp ecx, {npf}",
            "mov ecx, {nested_fault}",
            "je 4b",
            "mov eax, 2",
            "3:",
            "pop rcx",
            "pop rcx",
            "mov [rcx + 8 * 3], rbx",
            "mov [rcx + 8 * 5], rbp",
            "mov [rcx + 8 * 12], r12",
            "mov [rcx + 8 * 13], r13",
            "mov [rcx + 8 * 14], r14",
            "mov [rcx + 8 * 15], r15",
            "mov rdx, rax",
            "mov rax, [rcx + {guest}]",
            "vmsave rax",
            "mov rax, [rcx + {host}]",
            "vmload rax",
            "cli",
            "stgi",
            "pop rbp",
            "pop rbx",
            stack = const offset_of!(Frame, stack),
            context = const offset_of!(Frame, context),
            handlers = const offset_of!(Frame, handlers),
            guest = const offset_of!(Frame, own) + 8 * GUEST,
            host = const offset_of!(Frame, own) + 8 * HOST,
            guest_hva = const offset_of!(Frame, own) + 8 * GUEST_HVA,
            exit_code = const offset_of!(Vmcb, control) + offset_of!(ControlArea, exit_code),
            npf = const exit_code::NPF,
            nested_fault = const NESTED_FAULT,
            inout("rax") frame => _,
            out("rcx") _,
            out("rdx") ended,
            out("rsi") _,
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
    Next::ended(ended)
}
