//! The DMAR table (chapter 8): offsets in its structures, all little-endian.

/// Signature of the table.
pub const SIGNATURE: [u8; 4] = *b"DMAR";
/// Host address width less one, one byte (8.1).
pub const HOST_ADDRESS_WIDTH: usize = 36;
/// Flags, one byte (8.1): [`FLAG_INTR_REMAP`], [`FLAG_X2APIC_OPT_OUT`], [`FLAG_DMA_CTRL`].
pub const FLAGS: usize = 37;
/// The first structure.
pub const STRUCTURES: usize = 48;

/// The platform remaps interrupts.
pub const FLAG_INTR_REMAP: u8 = 1 << 0;
/// Firmware asks that x2APIC stay off.
pub const FLAG_X2APIC_OPT_OUT: u8 = 1 << 1;
/// Firmware asks that DMA be remapped before devices are set loose.
pub const FLAG_DMA_CTRL: u8 = 1 << 2;

/// Every structure: type (two bytes) and length (two bytes), then what [`kind`] says.
pub const STRUCTURE_HEADER_BYTES: usize = 4;

/// Types of structures (8.2).
pub mod kind {
    /// A unit (8.3).
    pub const DRHD: u16 = 0;
    /// A reserved region (8.4).
    pub const RMRR: u16 = 1;
    /// Root ports with ATS (8.5).
    pub const ATSR: u16 = 2;
    /// A unit's proximity domain (8.6).
    pub const RHSA: u16 = 3;
    /// An ACPI name for a device (8.7).
    pub const ANDD: u16 = 4;
    /// Integrated devices with a device TLB (8.8).
    pub const SATC: u16 = 5;
    /// Properties of integrated devices (8.9).
    pub const SIDP: u16 = 6;
}

/// A unit (8.3): flags at 4 (bit 0: all devices of the segment that no other unit claims), log2 of the pages of its
/// registers in bits 3:0 at 5, segment at 6, base (eight bytes) at 8, scopes from 16.
pub mod drhd {
    #![allow(missing_docs)]
    pub const FLAGS: usize = 4;
    pub const INCLUDE_PCI_ALL: u8 = 1 << 0;
    pub const SIZE: usize = 5;
    pub const SEGMENT: usize = 6;
    pub const BASE: usize = 8;
    pub const SCOPES: usize = 16;
}

/// A reserved region (8.4): segment at 6, first byte at 8, last byte at 16, scopes from 24.
pub mod rmrr {
    #![allow(missing_docs)]
    pub const SEGMENT: usize = 6;
    pub const BASE: usize = 8;
    pub const LIMIT: usize = 16;
    pub const SCOPES: usize = 24;
}

/// ATSR, SATC and SIDP (8.5, 8.8, 8.9): flags at 4 (ATSR bit 0: all ports; SATC bit 0: the device TLB is required),
/// segment at 6, scopes from 8.
pub mod listed {
    #![allow(missing_docs)]
    pub const FLAGS: usize = 4;
    pub const SEGMENT: usize = 6;
    pub const SCOPES: usize = 8;
}

/// Proximity (8.6): the unit's base at 8, its domain at 16.
pub mod rhsa {
    #![allow(missing_docs)]
    pub const BASE: usize = 8;
    pub const DOMAIN: usize = 16;
    pub const BYTES: usize = 20;
}

/// A name (8.7): the scopes' enumeration ID at 7, the name with its zero from 8.
pub mod andd {
    #![allow(missing_docs)]
    pub const DEVICE: usize = 7;
    pub const NAME: usize = 8;
}

/// A device scope (8.3.1): type, length, flags (SIDP only), a reserved byte, enumeration ID, start bus, then device and
/// function of each step down.
pub mod scope {
    /// A function.
    pub const ENDPOINT: u8 = 1;
    /// A bridge and all below it.
    pub const BRIDGE: u8 = 2;
    /// An I/O APIC, by its ID.
    pub const IO_APIC: u8 = 3;
    /// A HPET that sends messages, by its number.
    pub const HPET: u8 = 4;
    /// A device with an ACPI name.
    pub const NAMED: u8 = 5;
    /// Bytes before the path.
    pub const PATH: usize = 6;
    /// Offset of the enumeration ID.
    pub const ENUMERATION_ID: usize = 4;
    /// Offset of the start bus.
    pub const START_BUS: usize = 5;
}
