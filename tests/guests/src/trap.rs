//! Exceptions and interrupts. An exception inside an instruction that a guest tries ([`attempt!`](crate::attempt)) comes
//! back as a [`Trap`]; any other ends the guest. An interrupt runs the function given to [`on_interrupt`]; one given to
//! [`hook`] comes before either and may change where the guest goes on.

use core::{
    arch::{asm, global_asm},
    sync::atomic::{AtomicPtr, AtomicU64, Ordering},
};

use crate::{apic, exit, println};

/// An exception that an attempted instruction raised.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Trap {
    /// Its vector, below 32.
    pub vector: u8,
    /// Its error code, 0 where it has none.
    pub error: u32,
}

/// Debug exception.
pub const DB: u8 = 1;
/// Non-maskable interrupt.
pub const NMI: u8 = 2;
/// Invalid opcode.
pub const UD: u8 = 6;
/// Device not available.
pub const NM: u8 = 7;
/// General protection.
pub const GP: u8 = 13;
/// Page fault.
pub const PF: u8 = 14;

/// What the stubs push, lowest address first: the CPU goes on from what stands here afterwards.
#[allow(missing_docs)]
#[derive(Debug)]
#[repr(C)]
pub struct Frame {
    /// R15 to RAX.
    pub gprs: [u64; 15],
    pub vector: u64,
    pub error: u64,
    pub rip: u64,
    pub cs: u64,
    pub rflags: u64,
    pub rsp: u64,
    pub ss: u64,
}

/// Where the attempted instruction ends, 0 while none is.
#[doc(hidden)]
pub static RESUME: AtomicU64 = AtomicU64::new(0);
/// The exception it raised: bit 63, vector in 47:32, error code in 31:0.
static RAISED: AtomicU64 = AtomicU64::new(0);
static HANDLERS: [AtomicPtr<()>; 256] = [const { AtomicPtr::new(core::ptr::null_mut()) }; 256];
static HOOKS: [AtomicPtr<()>; 256] = [const { AtomicPtr::new(core::ptr::null_mut()) }; 256];
/// Where the last interrupt came.
static INTERRUPTED: AtomicU64 = AtomicU64::new(0);

// One stub of 16 bytes for each vector: it makes all frames alike by pushing a 0 where the CPU pushes no error code (SDM 3A
// table 7-1), then the vector. Frame and pushed registers are 22 quadwords, so the stack is aligned as the ABI wants it.
global_asm!(
    ".balign 16",
    "guest_trap_stubs:",
    ".set vector, 0",
    ".rept 256",
    ".balign 16",
    ".if (vector != 8) && ((vector < 10) || (vector > 14)) && (vector != 17) && (vector != 21) && (vector != 29) && (vector != 30)",
    "push 0",
    ".endif",
    "push vector",
    "jmp 2f",
    ".set vector, vector + 1",
    ".endr",
    "2:",
    "push rax; push rbx; push rcx; push rdx; push rsi; push rdi; push rbp",
    "push r8; push r9; push r10; push r11; push r12; push r13; push r14; push r15",
    "cld",
    "mov rdi, rsp",
    "call {dispatch}",
    "pop r15; pop r14; pop r13; pop r12; pop r11; pop r10; pop r9; pop r8",
    "pop rbp; pop rdi; pop rsi; pop rdx; pop rcx; pop rbx; pop rax",
    "add rsp, 16",
    "iretq",
    dispatch = sym dispatch,
);

unsafe extern "C" {
    static guest_trap_stubs: [[u8; 16]; 256];
}

#[repr(C, align(16))]
struct Idt([[AtomicU64; 2]; 256]);

static IDT: Idt = Idt([const { [const { AtomicU64::new(0) }; 2] }; 256]);

/// Fills and loads the IDT: 64-bit interrupt gates for code segment 0x10 (SDM 3A 7.14.1).
pub(crate) fn install() {
    let stubs = (&raw const guest_trap_stubs).addr() as u64;
    for (stub, gate) in (stubs..).step_by(16).zip(&IDT.0) {
        let low = stub & 0xffff | 0x10 << 16 | 0x8e00 << 32 | (stub >> 16 & 0xffff) << 48;
        gate[0].store(low, Ordering::Relaxed);
        gate[1].store(stub >> 32, Ordering::Relaxed);
    }
    load();
}

/// Lets the vector be raised by `INT n` at any privilege level.
pub fn open_to_users(vector: u8) {
    IDT.0[usize::from(vector)][0].fetch_or(3 << 45, Ordering::Relaxed);
}

/// Loads the IDT, which every CPU may share.
pub fn load() {
    let base = core::ptr::from_ref(&IDT).addr() as u64;
    let limit = size_of::<Idt>() as u64 - 1;
    let pointer = [limit << 48, base];
    // SAFETY: the last two bytes of the first word and the second word are limit and base of a filled, static IDT.
    unsafe { asm!("lidt [{}]", in(reg) pointer.as_ptr().byte_add(6), options(readonly, nostack)) };
}

extern "C" fn dispatch(frame: &mut Frame) {
    let hook = HOOKS[frame.vector as usize & 0xff].load(Ordering::Relaxed);
    if !hook.is_null() {
        // SAFETY: `hook` is the only one to store here, and it stores a `fn(&mut Frame)`.
        let hook = unsafe { core::mem::transmute::<*mut (), fn(&mut Frame)>(hook) };
        return hook(frame);
    }
    if frame.vector >= 32 {
        INTERRUPTED.store(frame.rip, Ordering::Relaxed);
        let handler = HANDLERS[frame.vector as usize & 0xff].load(Ordering::Relaxed);
        if handler.is_null() {
            println!("FAIL interrupt {:#x} without a handler", frame.vector);
            exit(1);
        }
        // SAFETY: `on_interrupt` is the only one to store here, and it stores a `fn()`.
        let handler = unsafe { core::mem::transmute::<*mut (), fn()>(handler) };
        handler();
        if frame.vector != u64::from(apic::SPURIOUS_VECTOR) {
            apic::end_of_interrupt();
        }
        return;
    }
    let resume = RESUME.swap(0, Ordering::Relaxed);
    if resume == 0 {
        println!(
            "FAIL trap vector {} error {:#x} rip {:#x} rsp {:#x} rflags {:#x} cs {:#x} ss {:#x} gprs {:x?}",
            frame.vector,
            frame.error,
            frame.rip,
            frame.rsp,
            frame.rflags,
            frame.cs,
            frame.ss,
            frame.gprs
        );
        exit(1);
    }
    RAISED.store(1 << 63 | frame.vector << 32 | frame.error & 0xffff_ffff, Ordering::Relaxed);
    frame.rip = resume;
}

/// Ends an attempt: the exception it raised, if any. [`attempt!`](crate::attempt) calls it.
///
/// # Errors
/// [`Trap`], the exception.
pub fn outcome() -> Result<(), Trap> {
    RESUME.store(0, Ordering::Relaxed);
    match RAISED.swap(0, Ordering::Relaxed) {
        0 => Ok(()),
        raised => Err(Trap { vector: (raised >> 32) as u8, error: raised as u32 }),
    }
}

/// One instruction that may raise an exception, with the operands of `asm!`; it uses R11. Gives
/// `Result<(), Trap>`; after a trap, output operands hold what they held before.
#[macro_export]
macro_rules! attempt {
    ($instruction:expr $(, $($operands:tt)*)?) => {{
        ::core::arch::asm!(
            "lea r11, [rip + 22f]",
            "mov [rip + {resume}], r11",
            $instruction,
            "22:",
            resume = sym $crate::trap::RESUME,
            out("r11") _,
            $($($operands)*)?
        );
        $crate::trap::outcome()
    }};
}

/// Calls `handler`, with interrupts off, whenever `vector` arrives; then ends the interrupt at the local APIC.
pub fn on_interrupt(vector: u8, handler: fn()) {
    assert!(vector >= 32, "vectors below 32 are exceptions");
    HANDLERS[usize::from(vector)].store(handler as *mut (), Ordering::Relaxed);
}

/// Calls `handler` with the stack frame whenever `vector` arrives, an exception or an interrupt, in place of all else; with
/// `None`, no longer.
pub fn hook(vector: u8, handler: Option<fn(&mut Frame)>) {
    let handler = handler.map_or(core::ptr::null_mut(), |handler| handler as *mut ());
    HOOKS[usize::from(vector)].store(handler, Ordering::Relaxed);
}

/// The instruction before which the last interrupt came.
#[must_use]
pub fn interrupted_at() -> u64 {
    INTERRUPTED.load(Ordering::Relaxed)
}
