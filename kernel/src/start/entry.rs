//! The first instructions.

use core::arch::naked_asm;

use boot_info::BootInfo;

use super::{percpu, stack};

/// The kernel's entry. The boot application jumps here with RDI = the hand-off record in the direct map, interrupts off,
/// and no stack that could be relied on.
///
/// The time-stamp counter is read first of all, so that what starting costs can be told.
#[unsafe(naked)]
#[unsafe(no_mangle)]
#[unsafe(link_section = ".text.entry")]
extern "sysv64" fn _start(info: *const BootInfo) -> ! {
    naked_asm!(
        "rdtsc",
        "shl rdx, 32",
        "lea rsi, [rdx + rax]",
        "cli",
        "cld",
        "lea rsp, [rip + {stack} + {top}]",
        "xor ebp, ebp",
        "call {enter}",
        "ud2",
        stack = sym stack::BOOT,
        top = const stack::BOOT_TOP,
        enter = sym enter,
    )
}

extern "sysv64" fn enter(info: *const BootInfo, entry_tsc: u64) -> ! {
    percpu::install_boot();
    // SAFETY: the hand-off contract says that RDI is the address of a record in the direct map, which stays mapped and
    // unwritten for as long as the kernel runs: the record lies in memory that is only given back once it was copied.
    // A null or misaligned pointer, from a loader that is none of ours, is caught.
    let info = if info.is_aligned() { unsafe { info.as_ref() } } else { None };
    crate::main(info, entry_tsc)
}
