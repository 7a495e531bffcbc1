//! Every file format that Kerf reads, checked before a byte of it is used.
//!
//! Each module takes a file's bytes as an allegation and returns what is in it, or an error whose display is one line
//! that says what is wrong with the file; the caller adds its name. Nothing here allocates, and no input panics.
//!
//! - [`guest`]: a guest's kernel of any kind: [`bzimage`] for Linux, [`guest_elf`] for PVH, [`multiboot`],
//! - [`initrd`]: Linux's initial RAM disks,
//! - [`elf`]: Kerf's own kernel,
//! - [`acpi_table`]: additional ACPI tables,
//! - [`sums`]: the check sums of a boot volume.

#![cfg_attr(not(test), no_std)]
#![forbid(unsafe_code)]
#![deny(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, clippy::panic)]
#![cfg_attr(
    test,
    allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, clippy::panic)
)]

pub mod acpi_table;
pub mod bzimage;
pub mod elf;
pub mod guest;
pub mod guest_elf;
pub mod initrd;
pub mod multiboot;
pub mod sums;

mod bytes;
