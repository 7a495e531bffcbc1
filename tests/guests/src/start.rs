//! Entry and end. The entry state is the 64-bit boot protocol's (Documentation/arch/x86/boot.rst): long mode, RSI holding
//! the zero page, interrupts off, no stack promised, and only the image, the zero page and the command line mapped.

use core::{
    arch::{asm, global_asm},
    sync::atomic::{AtomicU64, Ordering},
};

use crate::{console, cpu, paging, trap};

/// Ends a test guest: the written byte is its status.
const EXIT_PORT: u16 = 0xf4;

/// The mask registers of the two 8259s, where the machine has them: their vectors would look like exceptions.
const INTERRUPT_CONTROLLER_MASKS: [u16; 2] = [0x21, 0xa1];

static BOOT_PARAMS: AtomicU64 = AtomicU64::new(0);

// In one block with the entry: its own GDT (flat code at 0x10 and data at 0x18, the selectors the boot protocol uses), since
// the loader's may lie anywhere.
global_asm!(
    ".pushsection .start, \"ax\"",
    ".globl guest_entry",
    "guest_entry:",
    "cli",
    "cld",
    "lea rdi, [rip + bss]",
    "lea rcx, [rip + end]",
    "sub rcx, rdi",
    "xor eax, eax",
    "rep stosb",
    "lea rsp, [rip + guest_stack_top]",
    "lgdt [rip + 3f]",
    "mov eax, 0x18",
    "mov ds, eax",
    "mov es, eax",
    "mov ss, eax",
    "push 0x10",
    "lea rax, [rip + 2f]",
    "push rax",
    "retfq",
    "2:",
    "mov rdi, rsi",
    "call {enter}",
    "ud2",
    ".balign 8",
    "4: .quad 0, 0, 0x00af9b000000ffff, 0x00cf93000000ffff",
    "3: .word 31",
    ".quad 4b",
    ".popsection",
    ".pushsection .bss, \"aw\", @nobits",
    ".balign 16",
    ".skip 0x10000",
    "guest_stack_top:",
    ".popsection",
    enter = sym enter,
);

unsafe extern "C" {
    safe fn guest_main() -> !;
}

extern "C" fn enter(boot_params: u64) -> ! {
    BOOT_PARAMS.store(boot_params, Ordering::Relaxed);
    trap::install();
    paging::map_everything();
    for port in INTERRUPT_CONTROLLER_MASKS {
        cpu::out8(port, u8::MAX);
    }
    console::init();
    cpu::enable_vector_registers();
    guest_main()
}

/// The zero page that the loader handed over, 4096 bytes.
#[must_use]
pub fn boot_params() -> &'static [u8; 4096] {
    let gpa = BOOT_PARAMS.load(Ordering::Relaxed) as usize;
    assert!(gpa != 0, "no zero page");
    // SAFETY: the boot protocol puts a page of initialized memory at the address in RSI; it is mapped one to one, nobody
    // writes it any more, and it is not null.
    unsafe { &*core::ptr::with_exposed_provenance(gpa) }
}

/// The command line (Documentation/arch/x86/boot.rst: cmd_line_ptr).
#[must_use]
pub fn command_line() -> &'static [u8] {
    const CMD_LINE_PTR: usize = 0x228;
    let at = &boot_params()[CMD_LINE_PTR..CMD_LINE_PTR + 4];
    let gpa = at.iter().rev().fold(0, |gpa, &byte| gpa << 8 | usize::from(byte));
    if gpa == 0 {
        return b"";
    }
    // SAFETY: the boot protocol has a string there that ends in a zero, in memory that is mapped one to one and that nobody
    // writes any more.
    unsafe { core::ffi::CStr::from_ptr(core::ptr::with_exposed_provenance(gpa)) }.to_bytes()
}

/// Ends the machine with `status`, once the console has sent its last character.
pub fn exit(status: u8) -> ! {
    console::drain();
    cpu::out8(EXIT_PORT, status);
    loop {
        // SAFETY: stops this CPU for good; nothing is left to be done.
        unsafe { asm!("cli", "hlt", options(nomem, nostack)) };
    }
}
