//! The CPU's part of the hand-off: what it must have, and the jump from the firmware's address space to the kernel's.

use core::arch::{asm, x86_64::__cpuid};

use boot_info::DIRECT_MAP;

use crate::error::Error;

/// CR4.LA57: page tables of five levels (SDM 3A, 2.5).
const CR4_LA57: u64 = 1 << 12;

/// Where the kernel starts. Host physical addresses but for `entry`.
pub(crate) struct Entry {
    /// The root of the page tables.
    pub(crate) root: u64,
    /// The end of the stack.
    pub(crate) stack_top: u64,
    /// The hand-off record.
    pub(crate) record: u64,
    /// Host virtual address of the first instruction.
    pub(crate) entry: u64,
}

/// Checks that the kernel's page tables will work.
pub(crate) fn check_cpu() -> Result<(), Error> {
    // CPUID 8000_0001h EDX bit 20 (SDM 2A, CPUID; APM 3, E.4.2).
    if extended_features() & 1 << 20 == 0 {
        return Err(Error::Cpu(
            "no-execute pages (NX; perhaps switched off in the firmware setup)",
        ));
    }
    let cr4: u64;
    // SAFETY: reading CR4 has no effect; UEFI applications run at CPL 0.
    unsafe { asm!("mov {}, cr4", out(reg) cr4, options(nomem, nostack, preserves_flags)) };
    if cr4 & CR4_LA57 != 0 {
        return Err(Error::FiveLevels);
    }
    Ok(())
}

/// Whether the CPU maps 1 GiB by one entry: CPUID 8000_0001h EDX bit 26.
pub(crate) fn has_gib_pages() -> bool {
    extended_features() & 1 << 26 != 0
}

fn extended_features() -> u32 {
    if __cpuid(0x8000_0000).eax < 0x8000_0001 { 0 } else { __cpuid(0x8000_0001).edx }
}

/// The time-stamp counter.
pub(crate) fn timestamp() -> u64 {
    let (low, high): (u32, u32);
    // SAFETY: reading the counter has no effect; every 64-bit CPU has it.
    unsafe {
        asm!("rdtsc", out("eax") low, out("edx") high, options(nomem, nostack, preserves_flags));
    }
    u64::from(high) << 32 | u64::from(low)
}

/// Waits for an interrupt; the firmware's, which also serve its reset key, stay on.
pub(crate) fn halt() {
    // SAFETY: stops the CPU until an interrupt, no more.
    unsafe { asm!("hlt", options(nomem, nostack, preserves_flags)) };
}

/// Masks interrupts, changes to the kernel's page tables and stack, and jumps.
///
/// Clears in CR4 what would not survive the change: protection keys (22, 24), shadow stacks (23), process-context
/// identifiers (17); and global pages (7), which also drops the firmware's global translations (SDM 3A, 4.10.4.1). Sets
/// EFER.NXE, without which the tables are invalid, and CR0.WP, without which read-only pages are not.
///
/// # Safety
/// 1. Boot services must be over.
/// 2. The tables must map the running code at identity, stack and record in the direct map, and the kernel at `entry`.
pub(crate) unsafe fn enter(entry: &Entry) -> ! {
    const CR4_CLEAR: u64 = 1 << 7 | 1 << 17 | 1 << 22 | 1 << 23 | 1 << 24;
    // SAFETY: (1) and (2) are the caller's; all operands are in registers before the stack goes.
    unsafe {
        asm!(
            "cli",
            "cld",
            "mov rax, cr4",
            "and rax, rsi",
            "mov cr4, rax",
            "mov ecx, 0xc0000080", // EFER
            "rdmsr",
            "or eax, 0x800", // NXE
            "wrmsr",
            "mov cr3, r8",
            "mov rax, cr0",
            "or rax, 0x10000", // WP
            "mov cr0, rax",
            "mov rsp, r9",
            "xor ebp, ebp",
            "push rbp", // No return address: stack aligned as after a call.
            "jmp r10",
            // Registers that the code above leaves alone.
            in("rsi") !CR4_CLEAR,
            in("r8") entry.root,
            in("r9") DIRECT_MAP + entry.stack_top,
            in("r10") entry.entry,
            in("rdi") DIRECT_MAP + entry.record,
            options(noreturn),
        )
    }
}
