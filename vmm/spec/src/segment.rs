//! Segment registers in the one form both vendors' control structures can be made from.

/// A segment register, hidden part included.
///
/// `access` is laid out as in the VMCS (SDM vol. 3, table 25-2): bits 3:0 type, 4 S, 6:5 DPL, 7 P, 12 AVL, 13 L, 14 D/B,
/// 15 G, 16 unusable. The VMCB packs the same bits into twelve (APM vol. 2, 15.5.1).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Segment {
    /// The visible selector.
    pub selector: u16,
    /// Base, 64 bits wide for FS, GS, TR and LDTR.
    pub base: u64,
    /// Limit in bytes, granularity already applied.
    pub limit: u32,
    /// Access rights, VMCS layout.
    pub access: u32,
}

impl Segment {
    /// Bit 16 of `access`: nothing is loaded.
    pub const UNUSABLE: u32 = 1 << 16;
    /// A present, accessed 64-bit code segment of privilege 0.
    pub const CODE64: u32 = 0xa09b;
    /// A present, accessed, 32-bit, 4 KiB-granular code segment of privilege 0.
    pub const CODE32: u32 = 0xc09b;
    /// A present, accessed, writable, 4 KiB-granular data segment of privilege 0.
    pub const DATA: u32 = 0xc093;
    /// A busy 64-bit task-state segment.
    pub const TSS64_BUSY: u32 = 0x8b;

    /// A segment register with nothing loaded.
    #[must_use]
    pub const fn unusable() -> Self {
        Self { selector: 0, base: 0, limit: 0, access: Self::UNUSABLE }
    }

    /// A flat segment of 4 GiB.
    #[must_use]
    pub const fn flat(selector: u16, access: u32) -> Self {
        Self { selector, base: 0, limit: 0xffff_ffff, access }
    }
}

/// GDTR or IDTR.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct DescriptorTable {
    /// Linear base.
    pub base: u64,
    /// Limit in bytes, one less than the size.
    pub limit: u16,
}
