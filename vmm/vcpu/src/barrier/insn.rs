//! The instructions behind [`super::Barrier`].
//!
//! UNSAFETY: they drop what the CPU has cached, and change no register or memory that anyone reads.

use core::arch::asm;

use hw::Msr;

/// WRMSR of a command register that a trial has shown to exist.
pub(super) fn command(msr: Msr, command: u64) {
    // SAFETY: called for IA32_PRED_CMD and IA32_FLUSH_CMD alone, with the command that was tried before.
    unsafe {
        asm!("wrmsr", in("ecx") msr.0, in("eax") command as u32, in("edx") 0, options(nostack));
    }
}

/// VERW of a selector that can be written, which overwrites the CPU's buffers where CPUID says MD_CLEAR.
pub(super) fn clear_buffers() {
    let selector: u16;
    // SAFETY: reads SS, and looks its descriptor up in the table that the CPU uses already; only flags change.
    unsafe {
        asm!("mov {:x}, ss", out(reg) selector, options(nomem, nostack));
        asm!("verw [{}]", in(reg) &selector, options(nostack));
    }
}
