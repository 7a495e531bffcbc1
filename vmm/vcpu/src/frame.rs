//! What the two backends' entry code has in common: the [`Frame`] with the guest's registers, and the [`Handler`]s that are
//! called between an exit and the next entry.
//!
//! UNSAFETY: the entry code, in assembly, reaches a frame by its address. Everyone else does by [`OwnFrame`] or, while the
//! guest runs, by [`Pointer`].

use alloc::boxed::Box;
use core::arch::naked_asm;
use core::mem::offset_of;
use core::ops::{Deref, DerefMut};
use core::ptr::NonNull;

use crate::{Answer, Gpr};

/// What the entry code loads and stores, at offsets that it knows.
#[repr(C, align(64))]
#[derive(Debug)]
pub(crate) struct Frame {
    /// By [`Gpr`] number. Those that the backend's control structure holds have no use for their places.
    pub(crate) gprs: [u64; 16],
    /// The stack to go back to after an exit.
    pub(crate) stack: u64,
    /// What handlers are called with.
    pub(crate) context: u64,
    /// For the backend's own entry code.
    pub(crate) own: [u64; 3],
    /// Handlers by the low byte of the exit reason or code.
    pub(crate) handlers: [u64; 256],
    /// Where these were copied from.
    source: u64,
}

impl Frame {
    const EMPTY: Self =
        Self { gprs: [0; 16], stack: 0, context: 0, own: [0; 3], handlers: [0; 256], source: 0 };
}

const _: () = {
    assert!(offset_of!(Frame, gprs) == 0);
    assert!(Gpr::Rdi as usize == 7 && Gpr::R15 as usize == 15);
};

/// A frame that stays where it is, as the CPU knows it by its address.
#[derive(Debug)]
pub(crate) struct OwnFrame(NonNull<Frame>);

// SAFETY: it owns its target, as a box does.
unsafe impl Send for OwnFrame {}

impl OwnFrame {
    pub(crate) fn new() -> Self {
        Self(NonNull::from(Box::leak(Box::new(Frame::EMPTY))))
    }

    /// What the entry code takes.
    pub(crate) fn pointer(&mut self) -> Pointer {
        Pointer(self.0)
    }
}

/// Names the frame of a virtual CPU that is borrowed for a run.
#[derive(Clone, Copy)]
#[repr(transparent)]
pub(crate) struct Pointer(NonNull<Frame>);

impl Pointer {
    /// Where the frame is, after it was made ready for a run.
    pub(crate) fn prepare<C>(self, context: &mut C, handlers: &Handlers<C>) -> *mut Frame {
        let frame = self.0.as_ptr();
        // SAFETY: as for `gprs`.
        let frame_ref = unsafe { &mut *frame };
        frame_ref.context = core::ptr::from_mut(context).expose_provenance() as u64;
        let source = core::ptr::from_ref(handlers).expose_provenance() as u64;
        if frame_ref.source != source {
            frame_ref.source = source;
            frame_ref.handlers = handlers.map(|handler| handler as usize as u64);
        }
        frame
    }

    /// The guest's registers.
    #[inline(always)]
    pub(crate) fn gprs(&mut self) -> &mut [u64; 16] {
        // SAFETY: a pointer is made from a borrow of the virtual CPU that lasts as long as the run, and within that the only
        // references to the frame are such as this, each alive for one access.
        unsafe { &mut (*self.0.as_ptr()).gprs }
    }

    /// A register.
    #[inline(always)]
    pub(crate) fn gpr(&self, register: Gpr) -> u64 {
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
pub(crate) type Handler<C> = extern "sysv64" fn(context: &mut C, frame: Pointer) -> Next;

/// What follows an exit: as a number, the address of the frame to enter the guest with again, or 1 or 2.
#[derive(Clone, Copy)]
#[repr(transparent)]
pub(crate) struct Next(usize);

impl Next {
    pub(crate) const LEAVE: Self = Self(1);
    pub(crate) const PASS: Self = Self(2);

    /// Into the guest again.
    #[inline(always)]
    pub(crate) fn again(frame: Pointer) -> Self {
        Self(frame.0.as_ptr().expose_provenance())
    }

    /// What an answer means.
    #[inline(always)]
    pub(crate) fn of(answer: Answer, frame: Pointer) -> Self {
        match answer {
            Answer::Again => Self::again(frame),
            Answer::Leave => Self::LEAVE,
            Answer::Pass => Self::PASS,
        }
    }

    /// What the number means at the end of a run.
    pub(crate) const fn ended(number: u64) -> Answer {
        match number {
            1 => Answer::Leave,
            _ => Answer::Pass,
        }
    }
}

/// A [`Handler`] that has a result in RBX, too.
#[unsafe(naked)]
pub(crate) extern "sysv64" fn with_rbx<C, F>(context: &mut C, frame: Pointer) -> Next
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

/// A [`Handler`] that finds and leaves all of the guest's registers in the frame.
#[unsafe(naked)]
pub(crate) extern "sysv64" fn with_all<C, F>(context: &mut C, frame: Pointer) -> Next
where
    F: Handle<C>,
{
    naked_asm!(
        "mov [rsi + 8 * 3], rbx",
        "mov [rsi + 8 * 5], rbp",
        "mov [rsi + 8 * 12], r12",
        "mov [rsi + 8 * 13], r13",
        "mov [rsi + 8 * 14], r14",
        "mov [rsi + 8 * 15], r15",
        "push rsi",
        "call {handle}",
        "pop rsi",
        "mov rbx, [rsi + 8 * 3]",
        "mov rbp, [rsi + 8 * 5]",
        "mov r12, [rsi + 8 * 12]",
        "mov r13, [rsi + 8 * 13]",
        "mov r14, [rsi + 8 * 14]",
        "mov r15, [rsi + 8 * 15]",
        "ret",
        handle = sym call::<C, F>,
    )
}

/// A [`Handler`] as a type.
pub(crate) trait Handle<C> {
    fn handle(context: &mut C, frame: Pointer) -> Next;
}

extern "sysv64" fn call<C, F: Handle<C>>(context: &mut C, frame: Pointer) -> Next {
    F::handle(context, frame)
}

/// Handlers by the low byte of the exit reason. Only those whose other bits are clear may
/// have one that enters again.
pub(crate) type Handlers<C> = [Handler<C>; 256];
