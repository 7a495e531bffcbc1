//! Configuration space as bits: the headers here, [`capability`] and [`extended`] beside. Section numbers are those of
//! the PCI Express base specification 6.0, where not said otherwise.

pub mod capability;
pub mod extended;

#[cfg(test)]
mod tests;

use hw::RequesterId;

/// Bytes of a conventional function's configuration space, and what CONFIG_ADDRESS reaches (7.2.1).
pub const CONVENTIONAL_BYTES: u16 = 0x100;
/// Bytes of a PCI Express function's configuration space (7.2.1).
pub const CONFIG_BYTES: u16 = 0x1000;

/// CONFIG_ADDRESS (PCI 3.0, 3.2.2.3.2).
pub const CONFIG_ADDRESS_PORT: u16 = 0xcf8;
/// CONFIG_DATA.
pub const CONFIG_DATA_PORT: u16 = 0xcfc;
/// Of CONFIG_ADDRESS: accesses to CONFIG_DATA go to configuration space.
pub const CONFIG_ADDRESS_ENABLE: u32 = 1 << 31;

/// What CONFIG_ADDRESS is to be for the dword that holds `offset` (below 0x100).
#[must_use]
pub const fn config_address(rid: RequesterId, offset: u16) -> u32 {
    CONFIG_ADDRESS_ENABLE | (rid.0 as u32) << 8 | (offset & 0xfc) as u32
}

/// Where a register lies in ECAM, from the place of bus 0 (7.2.2). MCFG gives the place of bus 0, whatever its first
/// bus (PCI firmware specification 3.2, 4.1.2).
#[must_use]
pub const fn ecam_offset(rid: RequesterId, offset: u16) -> u64 {
    (rid.0 as u64) << 12 | (offset & 0xfff) as u64
}

/// Vendor ID, 16 bits (7.5.1.1.1).
pub const VENDOR: u16 = 0x00;
/// Device ID, 16 bits.
pub const DEVICE: u16 = 0x02;
/// Command, 16 bits (7.5.1.1.3).
pub const COMMAND: u16 = 0x04;
/// Status, 16 bits (7.5.1.1.4).
pub const STATUS: u16 = 0x06;
/// Revision ID, 8 bits; class code, 24 bits, above it.
pub const REVISION: u16 = 0x08;
/// Cache line size, 8 bits.
pub const CACHE_LINE: u16 = 0x0c;
/// Header type, 8 bits (7.5.1.1.9).
pub const HEADER_TYPE: u16 = 0x0e;
/// The first of a type 0 header's six BARs (7.5.1.2.1), or of a type 1 header's two.
pub const BAR0: u16 = 0x10;
/// Secondary bus, 8 bits; type 1 (7.5.1.3.3).
pub const SECONDARY_BUS: u16 = 0x19;
/// Subordinate bus, 8 bits; type 1 (7.5.1.3.4).
pub const SUBORDINATE_BUS: u16 = 0x1a;
/// First and last MiB of the memory that a bridge passes on, 16 bits each: address bits 31:20 in 15:4; type 1
/// (7.5.1.3.8).
pub const MEMORY_WINDOW: u16 = 0x20;
/// Likewise of prefetchable memory, whose lowest bit says that the upper halves below exist (7.5.1.3.9).
pub const PREFETCHABLE_WINDOW: u16 = 0x24;
/// Upper halves of the first and of the last address of prefetchable memory (7.5.1.3.10).
pub const PREFETCHABLE_UPPER: u16 = 0x28;
/// Subsystem vendor ID, 16 bits; type 0.
pub const SUBSYSTEM_VENDOR: u16 = 0x2c;
/// Subsystem ID, 16 bits; type 0.
pub const SUBSYSTEM: u16 = 0x2e;
/// Expansion ROM base address; type 0 (7.5.1.2.4).
pub const ROM: u16 = 0x30;
/// Offset of the first capability, 8 bits (7.5.1.1.11).
pub const CAPABILITIES: u16 = 0x34;
/// Interrupt line, 8 bits.
pub const INTERRUPT_LINE: u16 = 0x3c;
/// Where a header ends and capabilities may begin.
pub const HEADER_END: u16 = 0x40;

/// What a vendor ID never is: nobody answers.
pub const NO_VENDOR: u16 = 0xffff;
/// A vendor ID that says: not ready, ask again (2.3.2).
pub const RETRY_VENDOR: u16 = 0x0001;

/// Of [`COMMAND`]: I/O space is decoded.
pub const COMMAND_IO: u16 = 1 << 0;
/// Of [`COMMAND`]: memory space is decoded.
pub const COMMAND_MEMORY: u16 = 1 << 1;
/// Of [`COMMAND`]: it may send requests, messages of interrupts included.
pub const COMMAND_MASTER: u16 = 1 << 2;
/// Of [`COMMAND`]: no INTx.
pub const COMMAND_INTX_DISABLE: u16 = 1 << 10;

/// Of [`STATUS`]: there are capabilities.
pub const STATUS_CAPABILITIES: u16 = 1 << 4;

/// Of [`HEADER_TYPE`]: the layout.
pub const HEADER_LAYOUT: u8 = 0x7f;
/// Layout of an endpoint.
pub const HEADER_ENDPOINT: u8 = 0;
/// Layout of a bridge.
pub const HEADER_BRIDGE: u8 = 1;
/// Of [`HEADER_TYPE`]: the device may have more than function 0.
pub const HEADER_MULTIFUNCTION: u8 = 1 << 7;

/// Of a BAR: it is in I/O space.
pub const BAR_IO: u32 = 1 << 0;
/// Of a memory BAR: bits of its type.
pub const BAR_TYPE: u32 = 3 << 1;
/// A memory BAR that takes the next one as its upper half.
pub const BAR_64: u32 = 2 << 1;
/// Of a memory BAR: reads have no effect, writes may be merged.
pub const BAR_PREFETCHABLE: u32 = 1 << 3;
/// Of a memory BAR: not address.
pub const BAR_MEMORY_FLAGS: u32 = 0xf;
/// Of an I/O BAR: not address.
pub const BAR_IO_FLAGS: u32 = 0x3;
/// Of [`ROM`]: it is decoded.
pub const ROM_ENABLE: u32 = 1 << 0;
/// Of [`ROM`]: not address.
pub const ROM_FLAGS: u32 = 0x7ff;

/// Class codes, of 24 bits, without their programming interface.
pub mod class {
    /// A host bridge.
    pub const HOST_BRIDGE: u32 = 0x06_00;
    /// Of a base class, 8 bits: a display.
    pub const DISPLAY: u32 = 0x03;
    /// Of a base class: serial ports among others.
    pub const COMMUNICATION: u32 = 0x07;
    /// A bridge between PCI buses.
    pub const PCI_BRIDGE: u32 = 0x06_04;
}
