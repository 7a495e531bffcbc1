//! The first instructions of every CPU but the one that booted: from real mode to 64-bit mode, to the stack that waits
//! there.
//!
//! The code runs in a page below 1 MiB that is not known before. So its data, which [`Trampoline`] fills in, are at fixed
//! offsets of it. Real mode is left for long mode at once: CR0.PE and CR0.PG are set together (APM vol. 2, 14.8; SDM
//! vol. 3, 10.8.5 has the steps one by one).

use core::arch::global_asm;

use hw::Hva;
use x86_spec::cpu::Cr0;

use super::PerCpu;
use crate::mem::{ControlRegisters, StartPages};

/// What LGDT takes: the limit, and the base at `GDT_BASE`.
const GDT: usize = 8;
const GDT_BASE: usize = 10;
/// Null and code.
const DESCRIPTORS: usize = 16;
const STACK: usize = 32;
const CPU: usize = 40;
const ENTER: usize = 48;
const ROOT: usize = 56;
const CR0: usize = 60;
/// Far pointer to the 64-bit code: 32-bit offset, selector.
const LONG: usize = 64;

global_asm!(
    ".pushsection .rodata.trampoline, \"a\"",
    ".balign 16",
    ".code16",
    "kerf_trampoline:",
    "jmp 16f",
    ".org kerf_trampoline + {GDT}",
    ".word 15",
    ".org kerf_trampoline + {DESCRIPTORS}",
    ".quad 0, 0x00af9b000000ffff",
    ".org kerf_trampoline + {LONG} + 4",
    ".word 0x08, 0",
    "16:",
    "cli",
    "cld",
    "mov ax, cs",
    "mov ds, ax",
    "lgdt [{GDT}]",
    "mov eax, 0x20", // CR4.PAE
    "mov cr4, eax",
    "mov eax, dword ptr [{ROOT}]",
    "mov cr3, eax",
    "mov ecx, 0xc0000080", // EFER
    "rdmsr",
    "or eax, 0x900", // LME, NXE
    "wrmsr",
    "mov eax, dword ptr [{CR0}]",
    "mov cr0, eax",
    // JMP FAR m16:32, with a 16-bit displacement.
    ".byte 0x66, 0xff, 0x2e",
    ".word {LONG}",
    ".code64",
    "kerf_trampoline_long:",
    "xor eax, eax",
    "mov ds, eax",
    "mov es, eax",
    "mov ss, eax",
    "lea rbx, [rip + kerf_trampoline]",
    // Whoever comes late finds that the stack was taken.
    "xchg rax, [rbx + {STACK}]",
    "test rax, rax",
    "jz 2f",
    "mov rsp, rax",
    "mov rdi, [rbx + {CPU}]",
    "xor ebp, ebp",
    "call [rbx + {ENTER}]",
    "2:",
    "hlt",
    "jmp 2b",
    "kerf_trampoline_end:",
    ".popsection",
    GDT = const GDT,
    DESCRIPTORS = const DESCRIPTORS,
    STACK = const STACK,
    CPU = const CPU,
    ENTER = const ENTER,
    ROOT = const ROOT,
    CR0 = const CR0,
    LONG = const LONG,
);

unsafe extern "C" {
    static kerf_trampoline: u8;
    static kerf_trampoline_long: u8;
    static kerf_trampoline_end: u8;
}

/// The code in its place.
pub(super) struct Trampoline(StartPages);

impl Trampoline {
    /// Puts it there; each CPU then calls `enter` with what [`Self::aim`] names. `None` where memory is short.
    pub(super) fn new(
        registers: &ControlRegisters,
        enter: extern "sysv64" fn(*const PerCpu) -> !,
    ) -> Option<Self> {
        let start = &raw const kerf_trampoline;
        // SAFETY: the symbols lie in this order in the code, in the image's read-only memory.
        let (code, long) = unsafe {
            let bytes = (&raw const kerf_trampoline_end).offset_from_unsigned(start);
            let long = (&raw const kerf_trampoline_long).offset_from_unsigned(start);
            (core::slice::from_raw_parts(start, bytes), long)
        };
        let mut pages = StartPages::new(code)?;
        let at = |offset| pages.address(offset).raw() as u32;
        let words = [
            (GDT_BASE, at(DESCRIPTORS)),
            (LONG, at(long)),
            (ROOT, pages.root().raw() as u32),
            // The stack is taken by a write to the page of code, which is mapped read-only.
            (CR0, (registers.cr0 - Cr0::WP).bits() as u32),
        ];
        for (offset, word) in words {
            pages.write(offset, &word.to_le_bytes())?;
        }
        pages.write(ENTER, &(enter as usize as u64).to_le_bytes())?;
        Some(Self(pages))
    }

    /// Says what the CPU that starts next is to use.
    pub(super) fn aim(&mut self, stack: Hva, cpu: *const PerCpu) -> Option<()> {
        self.0.write(CPU, &(cpu as u64).to_le_bytes())?;
        self.0.write(STACK, &stack.raw().to_le_bytes())
    }

    /// The start-up vector that leads here.
    pub(super) fn vector(&self) -> u8 {
        self.0.vector()
    }

    /// Gives the memory back. Every CPU that started has left it, and every other is held by INIT.
    pub(super) fn free(self) {
        self.0.free();
    }
}
