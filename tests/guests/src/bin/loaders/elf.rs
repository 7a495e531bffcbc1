//! An ELF file that is both a PVH and a Multiboot kernel.

#![no_std]
#![no_main]

mod check;

guests::guest!("loader_elf", check::run);

/// Modules page-aligned, memory information.
const FLAGS: u32 = 3;
check::entry!(FLAGS);

// XEN_ELFNOTE_PHYS32_ENTRY (Xen, elfnote.h).
core::arch::global_asm!(
    ".pushsection .pvh_note, \"a\", @note",
    ".long 4, 4, 18",
    ".asciz \"Xen\"",
    ".long start_32",
    ".popsection",
);
