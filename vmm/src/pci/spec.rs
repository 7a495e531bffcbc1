//! Registers of configuration space, by their offsets.

/// Bytes of configuration space.
pub(super) const CONFIG_BYTES: usize = 0x1000;
/// Where capabilities may start.
pub(super) const FIRST_CAPABILITY: u16 = 0x40;
/// Where extended ones start.
pub(super) const EXTENDED: u16 = 0x100;
/// Command register: memory decoding.
pub(super) const COMMAND_MEMORY: u16 = 1 << 1;
/// Bus mastering.
pub(super) const COMMAND_MASTER: u16 = 1 << 2;
/// Command bits that can be written: memory, master, parity, SERR, INTx disable. Not I/O, of which there is none.
pub(super) const COMMAND_WRITABLE: u16 =
    COMMAND_MEMORY | COMMAND_MASTER | 1 << 6 | 1 << 8 | 1 << 10;
/// Status register: there is a list of capabilities.
pub(super) const STATUS_CAPABILITIES: u16 = 1 << 4;

/// The header (PCIe 6.0, 7.5.1.1 and, of bridges, 7.5.1.3).
pub(super) mod header {
    pub(in crate::pci) const ID: u16 = 0;
    pub(in crate::pci) const COMMAND: u16 = 4;
    pub(in crate::pci) const CLASS: u16 = 8;
    pub(in crate::pci) const CACHE_LINE: u16 = 0xc;
    pub(in crate::pci) const BAR: u16 = 0x10;
    pub(in crate::pci) const SUBSYSTEM: u16 = 0x2c;
    pub(in crate::pci) const ROM: u16 = 0x30;
    pub(in crate::pci) const CAPABILITIES: u16 = 0x34;
    pub(in crate::pci) const INTERRUPT: u16 = 0x3c;
    pub(in crate::pci) const BUSES: u16 = 0x18;
    pub(in crate::pci) const MEMORY: u16 = 0x20;
    pub(in crate::pci) const PREFETCHABLE: u16 = 0x24;
    pub(in crate::pci) const PREFETCHABLE_BASE_HIGH: u16 = 0x28;
    pub(in crate::pci) const PREFETCHABLE_LIMIT_HIGH: u16 = 0x2c;
    /// Header type: a bridge's.
    pub(in crate::pci) const TYPE_BRIDGE: u32 = 1 << 16;
    /// Header type: more functions.
    pub(in crate::pci) const TYPE_MULTIFUNCTION: u32 = 0x80 << 16;
}

/// IDs of capabilities.
pub(super) mod id {
    pub(in crate::pci) const POWER: u8 = 1;
    pub(in crate::pci) const MSI: u8 = 5;
    pub(in crate::pci) const EXPRESS: u8 = 0x10;
    pub(in crate::pci) const MSIX: u8 = 0x11;
}
