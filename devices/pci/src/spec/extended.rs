//! Extended capabilities, from offset 0x100 on (7.6.3): an ID of 16 bits, a version of 4, the offset of the next one in
//! 31:20. Offsets below are from the start of the capability.

/// Where the first one is.
pub const FIRST: u16 = 0x100;

/// Of the first dword: the version.
#[must_use]
pub const fn version(header: u32) -> u8 {
    (header >> 16 & 0xf) as u8
}

/// Of the first dword: where the next one is; the lowest two bits are reserved.
#[must_use]
pub const fn next(header: u32) -> u16 {
    (header >> 20 & 0xffc) as u16
}

/// Bytes that only the vendor knows (7.9.5).
pub const VENDOR_SPECIFIC: u16 = 0x000b;
/// Access control services (7.7.11).
pub const ACS: u16 = 0x000d;
/// Alternative routing-ID interpretation (7.8.8).
pub const ARI: u16 = 0x000e;
/// Address translation services (10.5.1).
pub const ATS: u16 = 0x000f;
/// Single-root I/O virtualisation (9.3.3).
pub const SRIOV: u16 = 0x0010;
/// Page request interface (10.5.2).
pub const PRI: u16 = 0x0013;
/// BARs whose size can be set (7.8.6).
pub const RESIZABLE_BAR: u16 = 0x0015;
/// PASIDs (7.8.9).
pub const PASID: u16 = 0x001b;
/// Designated vendor-specific (7.9.6).
pub const DVSEC: u16 = 0x0023;

/// Access control services (7.7.11).
pub mod acs {
    /// Capabilities, 16 bits.
    pub const CAPABILITIES: u16 = 4;
    /// Control, 16 bits, with the same bits.
    pub const CONTROL: u16 = 6;
    /// A port checks the bus of requests from below.
    pub const SOURCE_VALIDATION: u16 = 1 << 0;
    /// A port lets no request with a translated address pass.
    pub const TRANSLATION_BLOCKING: u16 = 1 << 1;
    /// Requests to a peer go upstream instead.
    pub const REQUEST_REDIRECT: u16 = 1 << 2;
    /// So do completions.
    pub const COMPLETION_REDIRECT: u16 = 1 << 3;
    /// What comes from below goes upstream, wherever its address is.
    pub const UPSTREAM_FORWARDING: u16 = 1 << 4;
    /// Requests to a peer that its egress vector forbids are refused; a size of the vector follows in 15:8.
    pub const EGRESS_CONTROL: u16 = 1 << 5;
    /// Requests with a translated address may go to a peer all the same.
    pub const DIRECT_TRANSLATED: u16 = 1 << 6;
}

/// Alternative routing-ID interpretation (7.8.8).
pub mod ari {
    /// Capabilities, 16 bits: the next function's number in 15:8, 0 for none.
    pub const CAPABILITIES: u16 = 4;
    /// Bytes of the capability.
    pub const BYTES: u16 = 8;
}

/// Address translation services (10.5.1).
pub mod ats {
    /// Capabilities, 16 bits: invalidations it can queue in 4:0, 0 for 32.
    pub const CAPABILITIES: u16 = 4;
    /// Control, 16 bits.
    pub const CONTROL: u16 = 6;
    /// Bytes of the capability.
    pub const BYTES: u16 = 8;
    /// Of [`CAPABILITIES`].
    pub const QUEUE_DEPTH: u16 = 0x1f;
    /// Of [`CONTROL`].
    pub const ENABLE: u16 = 1 << 15;
}

/// Single-root I/O virtualisation (9.3.3).
pub mod sriov {
    /// Control, 16 bits.
    pub const CONTROL: u16 = 0x08;
    /// Virtual functions there can be, 16 bits.
    pub const TOTAL: u16 = 0x0e;
    /// Virtual functions there are once they are enabled, 16 bits.
    pub const COUNT: u16 = 0x10;
    /// From the requester ID of the physical function to the first one's, 16 bits; changes with [`COUNT`] and [`ARI`].
    pub const FIRST: u16 = 0x14;
    /// From one's requester ID to the next one's, 16 bits; likewise.
    pub const STRIDE: u16 = 0x16;
    /// Their device ID, 16 bits.
    pub const DEVICE: u16 = 0x1a;
    /// The page size that their BARs are multiples of: 4 KiB by its lowest bit, which every function supports.
    pub const PAGE_SIZE: u16 = 0x20;
    /// The first of six BARs: the address of the first virtual function's.
    pub const BAR0: u16 = 0x24;
    /// Bytes of the capability.
    pub const BYTES: u16 = 0x40;
    /// Of [`CONTROL`]: the virtual functions exist.
    pub const ENABLE: u16 = 1 << 0;
    /// Of [`CONTROL`]: their memory is decoded.
    pub const MEMORY_ENABLE: u16 = 1 << 3;
    /// Of [`CONTROL`]: the port above takes device and function as one number.
    pub const ARI: u16 = 1 << 4;
}

/// BARs whose size can be set (7.8.6).
pub mod resizable_bar {
    /// Control of the first BAR; capabilities and control of each further one follow, 8 bytes a BAR.
    pub const CONTROL: u16 = 8;
    /// Of the first control: where the count of BARs, of 3 bits, begins.
    pub const COUNT_SHIFT: u32 = 5;
}

/// PASIDs (7.8.9).
pub mod pasid {
    /// Capabilities, 16 bits: execute 1, privileged 2, bits of a PASID in 12:8.
    pub const CAPABILITIES: u16 = 4;
    /// Control, 16 bits.
    pub const CONTROL: u16 = 6;
    /// Bytes of the capability.
    pub const BYTES: u16 = 8;
    /// Of [`CONTROL`].
    pub const ENABLE: u16 = 1 << 0;
}

/// Page request interface (10.5.2).
pub mod pri {
    /// Control, 16 bits.
    pub const CONTROL: u16 = 4;
    /// Bytes of the capability.
    pub const BYTES: u16 = 16;
    /// Of [`CONTROL`].
    pub const ENABLE: u16 = 1 << 0;
}

/// Designated vendor-specific (7.9.6).
pub mod dvsec {
    /// Vendor in 15:0, revision in 19:16, bytes of the capability in 31:20.
    pub const VENDOR: u16 = 4;
    /// The vendor's ID for it, 16 bits.
    pub const ID: u16 = 8;
}
