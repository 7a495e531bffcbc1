//! Exceptions: one is a table look-up (a faulting instruction that was prepared for it), NMIs are counted and may stop the
//! CPU, and every other is a fault of Kerf's own or of the machine, reported with all registers.

use core::arch::asm;
use core::fmt;
use core::mem::{MaybeUninit, offset_of};

use symbols::Frame;

use super::{machine_check, stop};
use crate::{irq, panic};

/// The registers at an interrupt or exception, as [`super::idt`] pushes them.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub(crate) struct TrapFrame {
    r15: u64,
    r14: u64,
    r13: u64,
    r12: u64,
    r11: u64,
    r10: u64,
    r9: u64,
    r8: u64,
    rdi: u64,
    rsi: u64,
    rbp: u64,
    rbx: u64,
    rdx: u64,
    rcx: u64,
    rax: u64,
    vector: u64,
    error_code: u64,
    rip: u64,
    cs: u64,
    rflags: u64,
    rsp: u64,
    ss: u64,
}

/// An instruction that may fault, and where to go on if it does.
#[repr(C)]
struct Fixup {
    at: u64,
    resume: u64,
}

unsafe extern "C" {
    static __ex_table_start: Fixup;
    static __ex_table_end: Fixup;
}

/// First vector that is no exception's.
const FIRST_INTERRUPT: u64 = 32;
/// Non-maskable interrupt.
const NMI: u64 = 2;
/// General protection.
const GP: u64 = 13;
/// Page fault.
const PF: u64 = 14;
/// Machine check.
const MC: u64 = 18;

/// Where every vector ends up. Interrupts are off.
pub(super) extern "sysv64" fn dispatch(frame: &mut TrapFrame) {
    match frame.vector {
        NMI => {
            super::current().note_nmi();
            stop::obey();
        }
        MC => machine_check::handle(frame),
        vector @ FIRST_INTERRUPT..=255 => irq::dispatch(vector as u8),
        vector => {
            match fixups().iter().find(|fixup| [GP, PF].contains(&vector) && fixup.at == frame.rip)
            {
                Some(fixup) => frame.rip = fixup.resume,
                None => die(frame),
            }
        }
    }
}

/// How many NMIs the calling CPU took.
pub(crate) fn nmi_count() -> u32 {
    super::current().nmis()
}

/// Takes a lock away from whoever holds it: for a CPU that is about to stop for good, and may hold it itself.
pub(crate) fn break_lock<T>(lock: &spin::Mutex<T>) {
    // SAFETY: Kerf stops after this. What the lock guards may be seen half changed, by the last messages only; it holds
    // plain data, valid in any state.
    unsafe { lock.force_unlock() };
}

fn fixups() -> &'static [Fixup] {
    let start = &raw const __ex_table_start;
    let end = &raw const __ex_table_end;
    // SAFETY: the linker script puts the entries, and nothing else, between these two symbols, in read-only memory.
    unsafe { core::slice::from_raw_parts(start, end.offset_from_unsigned(start)) }
}

fn die(frame: &TrapFrame) -> ! {
    panic::die(format_args!("exception {} ({})", frame.vector, name(frame.vector)), frame)
}

/// The exception's name (SDM vol. 3, table 6-1).
fn name(vector: u64) -> &'static str {
    match vector {
        0 => "#DE divide error",
        1 => "#DB debug",
        3 => "#BP breakpoint",
        4 => "#OF overflow",
        5 => "#BR bound range exceeded",
        6 => "#UD invalid opcode",
        7 => "#NM device not available",
        8 => "#DF double fault",
        10 => "#TS invalid TSS",
        11 => "#NP segment not present",
        12 => "#SS stack fault",
        13 => "#GP general protection",
        14 => "#PF page fault",
        16 => "#MF x87 error",
        17 => "#AC alignment check",
        18 => "#MC machine check",
        19 => "#XM SIMD error",
        20 => "#VE virtualization",
        21 => "#CP control protection",
        _ => "reserved",
    }
}

impl TrapFrame {
    /// The caller's own registers, as nearly as they can be had.
    #[inline(always)]
    pub(crate) fn here() -> Self {
        let mut frame = MaybeUninit::<Self>::zeroed();
        // SAFETY: zero is a value of every field; each store goes to the field whose offset it has.
        unsafe {
            asm!(
                "mov [rax + {r15}], r15",
                "mov [rax + {r15} + 8], r14",
                "mov [rax + {r15} + 16], r13",
                "mov [rax + {r15} + 24], r12",
                "mov [rax + {rbp}], rbp",
                "mov [rax + {rbp} + 8], rbx",
                "mov [rax + {rsp}], rsp",
                "lea rcx, [rip]",
                "mov [rax + {rip}], rcx",
                "mov [rax + {rip} + 8], cs",
                "mov [rax + {rsp} + 8], ss",
                in("rax") frame.as_mut_ptr(),
                out("rcx") _,
                r15 = const offset_of!(Self, r15),
                rbp = const offset_of!(Self, rbp),
                rip = const offset_of!(Self, rip),
                rsp = const offset_of!(Self, rsp),
                options(nostack, preserves_flags),
            );
            frame.assume_init()
        }
    }

    /// Where RIP, RSP and RBP are in it.
    pub(super) const FRAME: [usize; 3] =
        [offset_of!(Self, rip), offset_of!(Self, rsp), offset_of!(Self, rbp)];

    /// The frame it is in.
    pub(super) fn frame(&self) -> Frame {
        Frame { rip: self.rip, rsp: self.rsp, rbp: self.rbp }
    }
}

impl fmt::Display for TrapFrame {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (cr2, cr3): (u64, u64);
        // SAFETY: reading CR2 and CR3 at privilege 0 has no effect.
        unsafe {
            asm!("mov {}, cr2", out(reg) cr2, options(nomem, nostack, preserves_flags));
            asm!("mov {}, cr3", out(reg) cr3, options(nomem, nostack, preserves_flags));
        }
        write!(f, "error code {:#x}", self.error_code)?;
        let rows: [&[(&str, u64)]; _] = [
            &[("rip", self.rip), ("cs", self.cs), ("rflags", self.rflags)],
            &[("rsp", self.rsp), ("ss", self.ss), ("rbp", self.rbp)],
            &[("rax", self.rax), ("rbx", self.rbx), ("rcx", self.rcx)],
            &[("rdx", self.rdx), ("rsi", self.rsi), ("rdi", self.rdi)],
            &[("r8", self.r8), ("r9", self.r9), ("r10", self.r10)],
            &[("r11", self.r11), ("r12", self.r12), ("r13", self.r13)],
            &[("r14", self.r14), ("r15", self.r15)],
            &[("cr2", cr2), ("cr3", cr3)],
        ];
        for row in rows {
            f.write_str("\n ")?;
            for &(name, value) in row {
                write!(f, " {name:>6} {value:#018x}")?;
            }
        }
        Ok(())
    }
}
