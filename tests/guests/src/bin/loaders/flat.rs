//! A Multiboot kernel that is no ELF file: its header's address fields say what is loaded.

#![no_std]
#![no_main]

mod check;

guests::guest!("loader_flat", check::run);

/// Modules page-aligned, memory information, address fields.
const FLAGS: u32 = 0x1_0003;
check::entry!(FLAGS);
