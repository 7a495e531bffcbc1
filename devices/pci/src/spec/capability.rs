//! Capabilities of the first 256 bytes: an ID of 8 bits, then the offset of the next one (7.5.1.1.11). Offsets below are
//! from the start of the capability.

/// Power management (7.5.2).
pub const POWER: u8 = 0x01;
/// MSI (7.7.1).
pub const MSI: u8 = 0x05;
/// Bytes that only the vendor knows; their count is the third one (7.9.4).
pub const VENDOR_SPECIFIC: u8 = 0x09;
/// PCI Express (7.5.3).
pub const EXPRESS: u8 = 0x10;
/// MSI-X (7.7.2).
pub const MSIX: u8 = 0x11;
/// Conventional PCI's advanced features (7.9.21).
pub const ADVANCED_FEATURES: u8 = 0x13;

/// Power management (7.5.2).
pub mod power {
    /// Capabilities, 16 bits.
    pub const CAPABILITIES: u16 = 2;
    /// Control and status, 16 bits (7.5.2.2).
    pub const CONTROL: u16 = 4;
    /// Bytes of the capability.
    pub const BYTES: u16 = 8;
    /// Of [`CONTROL`]: the state, D0 to D3hot.
    pub const STATE: u16 = 3;
    /// State D3hot.
    pub const D3_HOT: u16 = 3;
    /// Of [`CONTROL`]: going from D3hot to D0 resets nothing.
    pub const NO_SOFT_RESET: u16 = 1 << 3;
    /// Of [`CONTROL`]: cleared by a one.
    pub const PME_STATUS: u16 = 1 << 15;
}

/// MSI (7.7.1).
pub mod msi {
    /// Control, 16 bits (7.7.1.2).
    pub const CONTROL: u16 = 2;
    /// Lower half of the address.
    pub const ADDRESS: u16 = 4;
    /// Upper half, where [`WIDE`] says so; the registers from [`DATA`] on are then 4 further.
    pub const ADDRESS_HIGH: u16 = 8;
    /// Data, 16 bits.
    pub const DATA: u16 = 8;
    /// A mask bit for each vector, where [`MASKABLE`] says so.
    pub const MASK: u16 = 12;
    /// A pending bit for each vector, likewise.
    pub const PENDING: u16 = 16;
    /// Of [`CONTROL`].
    pub const ENABLE: u16 = 1 << 0;
    /// Of [`CONTROL`]: base-two logarithm of the vectors it can have.
    pub const CAPABLE_SHIFT: u16 = 1;
    /// Of [`CONTROL`]: base-two logarithm of the vectors it has.
    pub const ENABLED_SHIFT: u16 = 4;
    /// Width of both logarithms; above 5 is reserved.
    pub const LOG2: u16 = 7;
    /// Of [`CONTROL`]: the address has 64 bits.
    pub const WIDE: u16 = 1 << 7;
    /// Of [`CONTROL`]: vectors can be masked.
    pub const MASKABLE: u16 = 1 << 8;

    /// Bytes of the capability.
    #[must_use]
    pub const fn bytes(control: u16) -> u16 {
        let wide = if control & WIDE != 0 { 4 } else { 0 };
        if control & MASKABLE != 0 { 20 + wide } else { 10 + wide }
    }
}

/// MSI-X (7.7.2).
pub mod msix {
    /// Control, 16 bits (7.7.2.2).
    pub const CONTROL: u16 = 2;
    /// BAR (2:0) and offset in it of the table.
    pub const TABLE: u16 = 4;
    /// BAR (2:0) and offset in it of the pending bits.
    pub const PBA: u16 = 8;
    /// Bytes of the capability.
    pub const BYTES: u16 = 12;
    /// Of [`CONTROL`]: the table's entries, less one.
    pub const LAST: u16 = 0x7ff;
    /// Of [`CONTROL`]: all vectors are masked.
    pub const MASK_ALL: u16 = 1 << 14;
    /// Of [`CONTROL`].
    pub const ENABLE: u16 = 1 << 15;
    /// Of [`TABLE`] and [`PBA`]: the BAR.
    pub const BAR: u32 = 7;

    /// Bytes of a table entry.
    pub const ENTRY_BYTES: u64 = 16;
    /// In an entry: lower half of the address (7.7.2.5).
    pub const ENTRY_ADDRESS: u64 = 0;
    /// In an entry: upper half.
    pub const ENTRY_ADDRESS_HIGH: u64 = 4;
    /// In an entry: data.
    pub const ENTRY_DATA: u64 = 8;
    /// In an entry: vector control (7.7.2.8).
    pub const ENTRY_CONTROL: u64 = 12;
    /// Of an entry's vector control.
    pub const ENTRY_MASKED: u32 = 1 << 0;
}

/// PCI Express (7.5.3).
pub mod express {
    /// Capabilities, 16 bits (7.5.3.2).
    pub const CAPABILITIES: u16 = 0x02;
    /// Device capabilities (7.5.3.3).
    pub const DEVICE_CAPABILITIES: u16 = 0x04;
    /// Device control, 16 bits (7.5.3.4).
    pub const DEVICE_CONTROL: u16 = 0x08;
    /// Device status, 16 bits (7.5.3.5).
    pub const DEVICE_STATUS: u16 = 0x0a;
    /// Device capabilities 2 (7.5.3.15).
    pub const DEVICE_CAPABILITIES_2: u16 = 0x24;
    /// Device control 2, 16 bits (7.5.3.16).
    pub const DEVICE_CONTROL_2: u16 = 0x28;
    /// Bytes of the capability from version 2 on.
    pub const BYTES: u16 = 0x3c;
    /// Bytes of an endpoint's capability of version 1.
    pub const BYTES_V1: u16 = 0x14;

    /// Of [`CAPABILITIES`]: the version.
    pub const VERSION: u16 = 0xf;
    /// Of [`CAPABILITIES`]: where the type of 4 bits begins.
    pub const KIND_SHIFT: u16 = 4;
    /// Of [`DEVICE_CAPABILITIES`]: how many function-number bits may be used for phantom functions, 2 bits.
    pub const PHANTOM_SHIFT: u32 = 3;
    /// Of [`DEVICE_CAPABILITIES`]: function-level reset.
    pub const FLR: u32 = 1 << 28;
    /// Of [`DEVICE_CONTROL`]: phantom functions are in use.
    pub const PHANTOM_ENABLE: u16 = 1 << 9;
    /// Of [`DEVICE_CONTROL`]: starts a function-level reset; a bridge's has another meaning.
    pub const START_FLR: u16 = 1 << 15;
    /// Of [`DEVICE_STATUS`]: some of its requests are unanswered.
    pub const TRANSACTIONS_PENDING: u16 = 1 << 5;
    /// Of [`DEVICE_CAPABILITIES_2`]: a port that can do that of [`ARI_FORWARDING`].
    pub const CAN_FORWARD_ARI: u32 = 1 << 5;
    /// Of [`DEVICE_CONTROL_2`]: a port that takes device and function as one number of 8 bits.
    pub const ARI_FORWARDING: u16 = 1 << 5;
}

/// Conventional PCI's advanced features (7.9.21).
pub mod advanced_features {
    /// Capabilities, 8 bits.
    pub const CAPABILITIES: u16 = 3;
    /// Control, 8 bits.
    pub const CONTROL: u16 = 4;
    /// Status, 8 bits.
    pub const STATUS: u16 = 5;
    /// Bytes of the capability.
    pub const BYTES: u16 = 6;
    /// Of [`CAPABILITIES`]: transactions pending, and function-level reset: both are needed.
    pub const FLR: u8 = 3;
    /// Of [`CONTROL`].
    pub const START_FLR: u8 = 1;
    /// Of [`STATUS`].
    pub const TRANSACTIONS_PENDING: u8 = 1;
}
