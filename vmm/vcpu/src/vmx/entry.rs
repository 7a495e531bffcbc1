//! Into the guest and out of it again.
//!
//! UNSAFETY: hands the CPU to the guest. An exit comes back at a label in the middle of [`run`], with RSP at the
//! [`Frame`] and every other general-purpose register the guest's. Those that a call preserves by convention stay in the
//! CPU while frequent exits are answered; they are stored only when [`run`] returns.

use alloc::boxed::Box;
use core::arch::{asm, naked_asm};
use core::mem::offset_of;
use core::ops::{Deref, DerefMut};
use core::ptr::NonNull;

use x86_spec::vmx::field::{host, info};

use crate::{Answer, Gpr};

/// What the entry code loads and stores, at offsets that it knows.
#[repr(C, align(64))]
#[derive(Debug)]
pub(super) struct Frame {
    /// By [`Gpr`] number. RSP's place is not used: the VMCS holds it.
    pub(super) gprs: [u64; 16],
    /// The stack to go back to after an exit.
    stack: u64,
    /// What handlers are called with.
    context: u64,
    /// Handlers by the low byte of the exit reason.
    handlers: [u64; 256],
    /// Where these were copied from.
    source: u64,
    /// What the VMCS holds as the host's RIP; 0 where that is not known.
    host_rip: u64,
}

impl Frame {
    const EMPTY: Self =
        Self { gprs: [0; 16], stack: 0, context: 0, handlers: [0; 256], source: 0, host_rip: 0 };

    /// The VMCS was moved: its host RSP and RIP are to be written again.
    pub(super) fn forget_host(&mut self) {
        self.host_rip = 0;
    }
}

const _: () = {
    assert!(offset_of!(Frame, gprs) == 0);
    assert!(Gpr::Rdi as usize == 7 && Gpr::R15 as usize == 15);
};

/// A frame that stays where it is, as the CPU knows it by its address.
#[derive(Debug)]
pub(super) struct OwnFrame(NonNull<Frame>);

// SAFETY: it owns its target, as a box does.
unsafe impl Send for OwnFrame {}

impl OwnFrame {
    pub(super) fn new() -> Self {
        Self(NonNull::from(Box::leak(Box::new(Frame::EMPTY))))
    }

    /// What [`run`] takes.
    pub(super) fn pointer(&mut self) -> Pointer {
        Pointer(self.0)
    }
}

/// Names the frame of a virtual CPU that is borrowed for a run.
#[derive(Clone, Copy)]
#[repr(transparent)]
pub(super) struct Pointer(NonNull<Frame>);

impl Pointer {
    /// The guest's registers.
    #[inline(always)]
    pub(super) fn gprs(&mut self) -> &mut [u64; 16] {
        // SAFETY: a pointer is made from a borrow of the virtual CPU that lasts as long as the run, and within that the only
        // references to the frame are such as this, each alive for one access.
        unsafe { &mut (*self.0.as_ptr()).gprs }
    }

    /// A register.
    #[inline(always)]
    pub(super) fn gpr(&self, register: Gpr) -> u64 {
        // SAFETY: as for `gprs`.
        unsafe { (*self.0.as_ptr()).gprs[register as usize] }
    }
}

impl Drop for OwnFrame {
    fn drop(&mut self) {
        // SAFETY: the pointer came from a box in `new` and from nowhere else.
        drop(unsafe { Box::from_raw(self.0.as_ptr()) });
    }
}

impl Deref for OwnFrame {
    type Target = Frame;

    #[inline(always)]
    fn deref(&self) -> &Frame {
        // SAFETY: allocated by `new` and freed by `drop` only; handlers, which have a reference of their own, do not come here.
        unsafe { self.0.as_ref() }
    }
}

impl DerefMut for OwnFrame {
    #[inline(always)]
    fn deref_mut(&mut self) -> &mut Frame {
        // SAFETY: as for `deref`.
        unsafe { self.0.as_mut() }
    }
}

/// Answers an exit. In the frame only RAX, RCX, RDX, RSI, RDI and R8 to R11 are the guest's at this time. Handlers do not
/// touch the virtual CPU's own way to the frame.
pub(super) type Handler<C> = extern "sysv64" fn(context: &mut C, frame: Pointer) -> Next;

/// What follows an exit: as a number, the address of the frame to enter the guest with again, or 1 or 2.
#[derive(Clone, Copy)]
#[repr(transparent)]
pub(super) struct Next(usize);

impl Next {
    pub(super) const LEAVE: Self = Self(1);
    pub(super) const PASS: Self = Self(2);

    /// Into the guest again.
    #[inline(always)]
    pub(super) fn again(frame: Pointer) -> Self {
        Self(frame.0.as_ptr().expose_provenance())
    }

    /// What an answer means.
    #[inline(always)]
    pub(super) fn of(answer: Answer, frame: Pointer) -> Self {
        match answer {
            Answer::Again => Self::again(frame),
            Answer::Leave => Self::LEAVE,
            Answer::Pass => Self::PASS,
        }
    }
}

/// A [`Handler`] that has a result in RBX, too.
#[unsafe(naked)]
pub(super) extern "sysv64" fn with_rbx<C, F>(context: &mut C, frame: Pointer) -> Next
where
    F: Handle<C>,
{
    naked_asm!(
        "push rax",
        "call {handle}",
        "pop rcx",
        "cmp rax, 2",
        "jbe 2f",
        "mov rbx, [rax + 8 * 3]",
        "2:",
        "ret",
        handle = sym call::<C, F>,
    )
}

/// A [`Handler`] as a type.
pub(super) trait Handle<C> {
    fn handle(context: &mut C, frame: Pointer) -> Next;
}

extern "sysv64" fn call<C, F: Handle<C>>(context: &mut C, frame: Pointer) -> Next {
    F::handle(context, frame)
}

/// Handlers by the low byte of the exit reason. Only reasons whose other bits are clear may have one that enters again.
pub(super) type Handlers<C> = [Handler<C>; 256];

/// Enters the guest of the current VMCS until a handler wants to leave, and says how it ended; `None` where the CPU refused
/// the entry. `launch`: by VMLAUNCH, for a VMCS that has not run since it was cleared; the next entries are by VMRESUME.
#[inline]
pub(super) fn run<C>(
    frame: Pointer,
    context: &mut C,
    handlers: &Handlers<C>,
    launch: bool,
) -> Option<Answer> {
    let ended: u64;
    // SAFETY: (1) the current VMCS is that of the virtual CPU whose frame this is; its host state is this CPU's, and
    // its guest state and second stage confine the guest to its own memory. (2) The frame is allocated, aligned and
    // referenced by no one but a handler while this runs; RSP points at it for the few instructions after an exit only, in which
    // nothing uses a stack: interrupts are off, by the contract of `Vcpu::run`, NMIs and machine checks have stacks of
    // their own, and the instructions themselves do not fault. (3) Every register that the guest may have changed is
    // declared lost or kept on the stack, which an exit finds as the entry left it. (4) Floating-point registers are the guest's throughout.
    unsafe {
        let frame = frame.0.as_ptr();
        (*frame).context = core::ptr::from_mut(context).expose_provenance() as u64;
        let source = core::ptr::from_ref(handlers).expose_provenance() as u64;
        if (*frame).source != source {
            (*frame).source = source;
            (*frame).handlers = handlers.map(|handler| handler as usize as u64);
        }
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
            host_rip = const offset_of!(Frame, host_rip),
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
    match ended {
        0 => None,
        1 => Some(Answer::Leave),
        _ => Some(Answer::Pass),
    }
}
