//! Every file format that Kerf reads, checked: bzImage, initrd, ACPI table.

#![no_std]
#![forbid(unsafe_code)]
