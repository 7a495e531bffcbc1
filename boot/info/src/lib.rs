//! The hand-off record: everything the boot application tells the kernel, in one versioned `repr(C)` record.
//!
//! Addresses in it are host physical. The boot application enters the kernel in 64-bit mode with interrupts off,
//! `RDI` = the record's address in the direct map, and page tables that hold just:
//! - the kernel's segments at their link addresses, each with the permissions of its ELF header,
//! - all memory up to the top of the map (at least 4 GiB) at [`DIRECT_MAP`], readable, writable, not executable,
//! - the same memory at identity, for the switch itself.
//!
//! What fills the record without touching hardware is here too, where the host can test it: [`regions`] makes the
//! memory map of the firmware's descriptors, [`address_space`] the page tables.
//!
//! The kernel builds tables of its own and then gives all of kind [`MemoryKind::BootReclaimable`] back to the pool.

#![cfg_attr(not(test), no_std)]
#![forbid(unsafe_code)]

pub mod address_space;
pub mod regions;

use core::mem::{offset_of, size_of};

/// `KERFBOOT`, read as a little-endian integer.
pub const MAGIC: u64 = u64::from_le_bytes(*b"KERFBOOT");
/// Raised at every change of the layout.
pub const VERSION: u32 = 1;
/// Virtual address at which host physical address 0 is mapped, before and after the kernel's own tables are in force.
pub const DIRECT_MAP: u64 = 0xffff_8000_0000_0000;
/// Virtual address of the kernel's first byte; `kernel/link.ld` says the same.
pub const KERNEL_BASE: u64 = 0xffff_ffff_8000_0000;

/// A table somewhere in memory: its host physical address and the number of its entries.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct Table {
    /// Host physical address of entry 0.
    pub hpa: u64,
    /// Entries; bytes where the table is text.
    pub count: u64,
}

/// The record.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub struct BootInfo {
    /// [`MAGIC`].
    pub magic: u64,
    /// [`VERSION`].
    pub version: u32,
    /// Size of this record in bytes.
    pub bytes: u32,
    /// [`MemoryRegion`]s as the firmware left them at the exit of boot services: in no promised order.
    pub memory_map: Table,
    /// [`BootFile`]s, in the order they were loaded.
    pub files: Table,
    /// The command line, UTF-8, not terminated.
    pub command_line: Table,
    /// Host physical address of the ACPI RSDP, 0 where the firmware has none.
    pub rsdp: u64,
    /// The kernel image's own memory: host physical start, and bytes.
    pub kernel: Table,
    /// The screen; `hpa` is 0 where there is none.
    pub framebuffer: Framebuffer,
    /// The time-stamp counter when the boot application started.
    pub boot_tsc: u64,
    /// Seconds since 1970 by the firmware's clock when boot services ended, 0 where it has none.
    pub unix_time: u64,
}

/// One region of the memory map.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct MemoryRegion {
    /// Host physical start.
    pub hpa: u64,
    /// Number of 4 KiB pages.
    pub pages: u64,
    /// A [`MemoryKind`], raw: readers treat a value they do not know as [`MemoryKind::Reserved`].
    pub kind: u32,
    /// The firmware's own type (UEFI 2.10, 7.2.3), for messages.
    pub uefi_type: u32,
    /// The firmware's attributes (UEFI 2.10, 7.2.3).
    pub uefi_attributes: u64,
}

/// What a region of memory is to the kernel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum MemoryKind {
    /// Not memory that Kerf may use.
    Reserved = 0,
    /// Free memory, boot services' own included.
    Usable = 1,
    /// The boot application's: this record's tables, page tables, stack. Free once the kernel has left them.
    BootReclaimable = 2,
    /// The kernel image and the loaded files: in use for as long as the kernel says.
    Loaded = 3,
    /// ACPI tables: memory, to be kept.
    AcpiTables = 4,
    /// ACPI non-volatile storage: memory, to be kept.
    AcpiNvs = 5,
    /// UEFI runtime services' code or data: to be kept.
    Runtime = 6,
    /// Memory-mapped I/O.
    Mmio = 7,
    /// Memory that the firmware found faulty.
    Unusable = 8,
}

impl MemoryKind {
    /// The kind a raw value stands for; an unknown one is [`MemoryKind::Reserved`].
    #[must_use]
    pub const fn from_raw(raw: u32) -> Self {
        match raw {
            1 => Self::Usable,
            2 => Self::BootReclaimable,
            3 => Self::Loaded,
            4 => Self::AcpiTables,
            5 => Self::AcpiNvs,
            6 => Self::Runtime,
            7 => Self::Mmio,
            8 => Self::Unusable,
            _ => Self::Reserved,
        }
    }
}

/// A file loaded from the boot volume.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub struct BootFile {
    /// Host physical start, 4 KiB-aligned.
    pub hpa: u64,
    /// Length in bytes.
    pub bytes: u64,
    /// A [`FileKind`], raw.
    pub kind: u32,
    /// Bytes of `name` in use.
    pub name_bytes: u32,
    /// The name as the configuration spells it (for an ACPI table: its file name), UTF-8.
    pub name: [u8; Self::NAME_BYTES],
}

/// What a loaded file is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum FileKind {
    /// `kerf.toml`.
    Config = 1,
    /// A file that a VM's configuration names: guest kernel or initrd. The same file is loaded once.
    Guest = 2,
    /// An ACPI table: additional, or in place of one of the firmware's.
    AcpiTable = 3,
    /// What the kernel names its functions by.
    Symbols = 4,
}

/// The screen as the firmware left it (UEFI 2.10, 12.9).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct Framebuffer {
    /// Host physical start, 0 for none.
    pub hpa: u64,
    /// Length in bytes.
    pub bytes: u64,
    /// Pixels in a line.
    pub width: u32,
    /// Lines.
    pub height: u32,
    /// Pixels from one line's start to the next's.
    pub stride: u32,
    /// 0: bytes red, green, blue, reserved; 1: bytes blue, green, red, reserved.
    pub format: u32,
}

/// Why a record cannot be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum InvalidRecord {
    /// The magic number is another.
    Magic(u64),
    /// The version is another than [`VERSION`].
    Version(u32),
    /// The size is another than this build's.
    Size(u32),
}

impl BootInfo {
    /// Checks that the record was made for this build of the kernel.
    ///
    /// # Errors
    /// [`InvalidRecord`] names the field that differs.
    pub const fn check(&self) -> Result<(), InvalidRecord> {
        if self.magic != MAGIC {
            return Err(InvalidRecord::Magic(self.magic));
        }
        if self.version != VERSION {
            return Err(InvalidRecord::Version(self.version));
        }
        if self.bytes as usize != size_of::<Self>() {
            return Err(InvalidRecord::Size(self.bytes));
        }
        Ok(())
    }
}

impl BootFile {
    /// The longest name in bytes.
    pub const NAME_BYTES: usize = 232;

    /// The file's name, or `"?"` where it is not UTF-8.
    #[must_use]
    pub fn name(&self) -> &str {
        self.name
            .get(..self.name_bytes as usize)
            .and_then(|bytes| core::str::from_utf8(bytes).ok())
            .unwrap_or("?")
    }
}

const _: () = assert!(size_of::<Table>() == 16);
const _: () = assert!(size_of::<MemoryRegion>() == 32);
const _: () = assert!(size_of::<BootFile>() == 256);
const _: () = assert!(size_of::<Framebuffer>() == 32);
const _: () = assert!(offset_of!(BootInfo, memory_map) == 16);
const _: () = assert!(offset_of!(BootInfo, rsdp) == 64);
const _: () = assert!(offset_of!(BootInfo, framebuffer) == 88);
const _: () = assert!(size_of::<BootInfo>() == 136);
