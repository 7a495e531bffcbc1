//! Acts after which a virtual machine cannot go on. If one goes on all the same, it says so.

use core::arch::asm;

use guests::{
    nowhere,
    paging::{self, bit},
    println,
};

fn survived(what: &str) {
    println!("FAIL {what} goes on");
}

pub(crate) fn triple_fault() {
    let nothing = [0_u16; 5];
    // SAFETY: meant to end the machine.
    unsafe { asm!("lidt [{}]", "ud2", in(reg) &nothing, options(nostack)) };
    survived("triple-fault");
}

/// Fetches instructions from where no memory is.
pub(crate) fn no_code() {
    // SAFETY: likewise.
    unsafe { asm!("jmp {}", in(reg) nowhere::PAGE) };
    survived("no-code");
}

/// Lets the CPU look for page tables where no memory is.
pub(crate) fn no_tables() {
    // SAFETY: likewise.
    unsafe { asm!("mov cr3, {}", in(reg) nowhere::PAGE, options(nostack)) };
    survived("no-tables");
}

/// Device memory by an instruction that Kerf does not emulate.
pub(crate) fn no_instruction() {
    paging::map(paging::FREE, nowhere::PAGE, bit::PRESENT | bit::WRITABLE);
    // SAFETY: likewise.
    unsafe { asm!("fld tbyte ptr [{}]", in(reg) paging::FREE, options(nostack)) };
    survived("no-instruction");
}

/// Halts with interrupts off, the only CPU there is.
pub(crate) fn halt() {
    // SAFETY: likewise.
    unsafe { asm!("cli", "hlt", options(nostack)) };
    survived("halt");
}

pub(crate) fn reset() {
    guests::console::drain();
    guests::cpu::out8(0xcf9, 6);
    survived("reset");
}
