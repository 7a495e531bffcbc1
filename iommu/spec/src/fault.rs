//! Fault records (11.4.7.6) and what their reason codes mean (7.1.3).

use hw::words;

words! {
    /// A fault record.
    FaultRecord[2] {
        f, with_f: bool = 1[63]: "The record holds a fault; cleared by a one.";
        t1, with_t1: bool = 1[62]: "Type of the request, bit 1: see [`FaultRecord::is_read`].";
        t2, with_t2: bool = 1[28]: "Type of the request, bit 2.";
        pp, with_pp: bool = 1[31]: "The request had a PASID.";
        exe, with_exe: bool = 1[30]: "Execute was asked for.";
        priv_, with_priv: bool = 1[29]: "Supervisor rights were asked for.";
        sid, with_sid: u16 = 1[15:0]: "Source ID.";
        fr, with_fr: u8 = 1[39:32]: "Reason.";
        pv, with_pv: u32 = 1[59:40]: "PASID.";
        at, with_at: u8 = 1[61:60]: "Address type: 0 untranslated, 1 translation request, 2 translated.";
        interrupt_index, with_interrupt_index: u16 = 0[63:48]: "Interrupts: the index of the entry.";
        fi, with_fi: Hpa = 0[63:12]: "DMA: the page.";
    }
}

impl FaultRecord {
    /// Whether it was a read; else a write, a page request or, with [`FaultRecord::t2`], an atomic operation.
    #[must_use]
    pub const fn is_read(self) -> bool {
        self.t1() && !self.t2()
    }

    /// Whether the reason is about an interrupt rather than about DMA.
    #[must_use]
    pub const fn is_interrupt(self) -> bool {
        matches!(self.fr(), 0x20..=0x2f)
    }
}

/// Reason codes that the model gives and tests name (7.1.3).
pub mod reason {
    #![allow(missing_docs)]
    pub const ROOT_ABSENT: u8 = 0x01;
    pub const CONTEXT_ABSENT: u8 = 0x02;
    pub const CONTEXT_INVALID: u8 = 0x03;
    pub const TOO_WIDE: u8 = 0x04;
    pub const WRITE: u8 = 0x05;
    pub const READ: u8 = 0x06;
    pub const PAGING_RESERVED: u8 = 0x0c;
    pub const BLOCKED: u8 = 0x0d;
    pub const REQUEST_RESERVED: u8 = 0x20;
    pub const INDEX: u8 = 0x21;
    pub const IRTE_ABSENT: u8 = 0x22;
    pub const IRTE_RESERVED: u8 = 0x24;
    pub const COMPATIBILITY: u8 = 0x25;
    pub const SOURCE: u8 = 0x26;
    pub const SCALABLE_ROOT_ABSENT: u8 = 0x39;
    pub const SCALABLE_CONTEXT_ABSENT: u8 = 0x41;
    pub const DEVICE_TLB_OFF: u8 = 0x44;
    pub const PASID_OFF: u8 = 0x45;
    pub const PASID_TOO_LARGE: u8 = 0x46;
    pub const DIRECTORY_ABSENT: u8 = 0x51;
    pub const PASID_ABSENT: u8 = 0x59;
    pub const PASID_INVALID: u8 = 0x5b;
    pub const FIRST_ABSENT: u8 = 0x71;
    pub const SECOND_RIGHTS: u8 = 0x79;
    pub const NOT_CANONICAL: u8 = 0x80;
    pub const FIRST_WRITE: u8 = 0x85;
    pub const INTERRUPT_RANGE: u8 = 0x87;
}

/// The reason in words.
#[must_use]
pub const fn describe(reason: u8) -> &'static str {
    match reason {
        0x01 | 0x39 => "the bus has no root entry",
        0x02 | 0x41 => "the function has no owner",
        0x03 | 0x43 => "invalid context entry",
        0x04 => "address too wide",
        0x05 => "no right to write there",
        0x06 => "no right to read there",
        0x07 | 0x70 | 0x73 | 0x78 => "a page table cannot be reached",
        0x08 | 0x38 => "the root table cannot be reached",
        0x09 | 0x40 => "the context table cannot be reached",
        0x0a | 0x3a => "reserved bits in a root entry",
        0x0b | 0x42 => "reserved bits in a context entry",
        0x0c | 0x72 | 0x7a => "reserved bits in a page-table entry",
        0x0d | 0x44 => "the function may not use translated requests",
        0x20 => "reserved bits in an interrupt request",
        0x21 => "interrupt index past the table",
        0x22 => "the interrupt entry has no owner",
        0x23 => "the interrupt table cannot be reached",
        0x24 => "reserved bits in an interrupt entry",
        0x25 => "interrupt in compatibility format",
        0x26 => "interrupt from a source that does not own the entry",
        0x27 | 0x28 => "a posted-interrupt descriptor cannot be used",
        0x30..=0x32 => "the unit's mode does not take such requests",
        0x45 => "the function may not use PASIDs",
        0x46 => "PASID past the directory",
        0x47 => "the function may not ask for pages",
        0x48 => "invalid PASID for requests without one",
        0x50 | 0x58 => "a PASID table cannot be reached",
        0x51 | 0x59 => "the PASID has no owner",
        0x52 | 0x5a => "reserved bits in a PASID entry",
        0x5b => "invalid PASID entry",
        0x5c | 0x5d | 0x81 | 0x82 => "no such right for this PASID",
        0x71 => "nothing is mapped there",
        0x74 | 0x83 | 0x84 => "address too wide for a stage",
        0x75..=0x77 | 0x79 | 0x85 | 0x86 => "no right to do that there",
        0x7b => "invalid second-stage root",
        0x7c | 0x90 => "accessed and dirty bits need snooped walks",
        0x80 => "address not canonical",
        0x87 => "address in the interrupt range",
        _ => "reason unknown",
    }
}

const _: () = assert!(size_of::<FaultRecord>() == 16);
