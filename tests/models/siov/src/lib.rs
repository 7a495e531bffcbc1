//! A PCIe function that is made to be carved: each of its queues is an assignable interface with a register page, a PASID
//! and interrupts of its own, as Scalable IOV has it (Intel SIOV technical specification 1.0). It copies and fills memory.
//!
//! [`Device`] is the function by its registers; whatever wraps it (a bed's emulator, a host test) calls [`Device::read`] and
//! [`Device::write`] for BAR 0 and is its way to memory as an [`Upstream`]. Everything is done when the write returns.
//!
//! BAR 0 has [`BAR_BYTES`]: a control page, which belongs to whoever owns the function, then a page for each interface,
//! which may be mapped into a guest. All registers take four bytes or eight; [`control`] and [`page`] name them.
//!
//! A descriptor is 64 bytes at the start of an interface's page and is carried out when its last four bytes are written,
//! so that one MOVDIR64B submits it. Its words, of eight bytes each:
//!
//! | word | holds |
//! |---|---|
//! | 0 | operation in 7:0 ([`operation`]); flags in 15:8 ([`flag`]); interrupt slot in 31:16; bytes in 63:32 |
//! | 1 | where the completion record goes, a multiple of 16 |
//! | 2 | where to copy from, or the eight bytes to fill with |
//! | 3 | where to copy or fill to |
//! | 4–7 | reserved |
//!
//! The completion record is 16 bytes, as [`page::STATUS`] and [`page::FAULT`] are: a [`Status`] in 7:0 and the bytes that
//! were done in 63:32, then the address that a request was refused at.

#![no_std]
#![forbid(unsafe_code)]

mod device;
mod interface;

#[cfg(test)]
mod tests;

pub use device::Device;
pub use interface::Status;

use hw::{Iova, Pasid};

/// Vendor and device ID: QEMU's for what has none of its own.
pub const IDS: [u16; 2] = [0x1234, 0x51f0];
/// Class code: a base system peripheral of no other kind.
pub const CLASS: u16 = 0x0880;
/// Assignable interfaces.
pub const INTERFACES: usize = 7;
/// Interrupt slots.
pub const SLOTS: usize = 16;
/// Bytes of BAR 0.
pub const BAR_BYTES: u64 = (1 + INTERFACES as u64) * hw::PAGE_SIZE;
/// The most bytes that a descriptor may name.
pub const MOST_BYTES: u32 = 1 << 20;
/// Bytes of a descriptor.
pub const DESCRIPTOR_BYTES: u64 = 64;

/// The capability by which software knows what the function is: Intel's DVSEC for Scalable IOV (SIOV 1.0, 3.2), from the
/// dword after its extended capability header on. All of it is read-only: there is one page size.
pub const DVSEC: [u32; 5] = [
    // Vendor, and the bytes of the capability.
    0x8086 | (4 + 4 * 5) << 20,
    // Its ID; no dependency link.
    5,
    // Page sizes supported, and the one in use: 4 KiB.
    1,
    1,
    // Interrupt message storage.
    1,
];

/// Registers of the control page.
pub mod control {
    /// [`SIGNATURE_VALUE`].
    pub const SIGNATURE: u64 = 0;
    /// "SIOV".
    pub const SIGNATURE_VALUE: u32 = u32::from_le_bytes(*b"SIOV");
    /// Interfaces in 15:0, interrupt slots in 31:16.
    pub const COUNTS: u64 = 4;
    /// In an interface's PASID register: its requests are let out. Without it no descriptor is carried out.
    pub const PASID_VALID: u32 = 1 << 31;
    /// In an interface's PASID register: its requests are let out as the function's own, without a PASID. So they are where
    /// one guest has the whole function.
    pub const UNTAGGED: u32 = 1 << 30;
    /// In a slot's control register: messages are held back.
    pub const MASKED: u32 = 1 << 0;
    /// In a slot's control register, read-only: one is being held back.
    pub const PENDING: u32 = 1 << 1;
    /// In a slot's control register: only the interface with the PASID in 31:12 may use it.
    pub const CHECKED: u32 = 1 << 3;
    /// Where that PASID begins.
    pub const PASID_SHIFT: u32 = 12;

    /// Bits of the pending slots, as MSI-X has them. Read-only.
    pub const PENDING_BITS: u64 = 0xc00;

    /// The PASID register of an interface: the PASID in 19:0, and [`PASID_VALID`] or [`UNTAGGED`].
    #[must_use]
    pub const fn pasid(interface: usize) -> u64 {
        0x100 + 4 * interface as u64
    }

    /// An interrupt slot: address (eight bytes), data, control. Masked after reset. They are laid out as an MSI-X table, so that
    /// whoever knows no other interrupts takes them for one.
    #[must_use]
    pub const fn slot(slot: usize) -> u64 {
        0x800 + 16 * slot as u64
    }
}

/// Registers of an interface's page.
pub mod page {
    /// Of the last descriptor: a [`super::Status`] in 7:0, the bytes that were done in 63:32. Read-only.
    pub const STATUS: u64 = 0x40;
    /// Of the last descriptor: the address that a request was refused at. Read-only.
    pub const FAULT: u64 = 0x48;
    /// Descriptors that came to an end, well or not. Read-only.
    pub const COUNT: u64 = 0x50;

    /// Where an interface's page begins in BAR 0; its descriptors are written there.
    #[must_use]
    pub const fn at(interface: usize) -> u64 {
        (1 + interface as u64) * hw::PAGE_SIZE
    }
}

/// What a descriptor asks for.
pub mod operation {
    /// Copy memory.
    pub const COPY: u64 = 1;
    /// Fill memory with eight bytes, over and over.
    pub const FILL: u64 = 2;
}

/// What else a descriptor asks for.
pub mod flag {
    /// Write a completion record.
    pub const RECORD: u64 = 1 << 8;
    /// Interrupt at the end, by the slot that is named.
    pub const INTERRUPT: u64 = 1 << 9;
}

/// A request got no answer, or an error for one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Refused;

/// The way from the function to memory. Requests are the function's own, with a PASID or without, and stay within a page.
pub trait Upstream {
    /// Reads memory.
    ///
    /// # Errors
    /// The request was [`Refused`].
    fn read(&mut self, pasid: Option<Pasid>, iova: Iova, bytes: &mut [u8]) -> Result<(), Refused>;

    /// Writes memory.
    ///
    /// # Errors
    /// The request was [`Refused`].
    fn write(&mut self, pasid: Option<Pasid>, iova: Iova, bytes: &[u8]) -> Result<(), Refused>;

    /// Writes an interrupt message. It has no PASID.
    fn message(&mut self, address: u64, data: u32);
}
