//! Completion records (8.2): 32 bytes.

use hw::words;

/// Bytes of a completion record, and what its address must be a multiple of.
pub const BYTES: u64 = 32;

words! {
    /// A completion record.
    CompletionRecord[4] {
        write, with_write: bool = 0[7]: "Of a page fault: the access was a write.";
        fault_masked, with_fault_masked: bool = 0[16]: "2.0: the fault's address is not told.";
        status, with_status: u8 = 0[5:0]: "One of [`status`]; 0 it is not written yet.";
        result, with_result: u8 = 0[15:8]: "Compare: 1 they differ; Memory Move: 1 it went backwards; Batch: 1 one failed.";
        operand, with_operand: u8 = 0[19:17]: "2.0: which operand faulted, one of [`operand`].";
        bytes, with_bytes: u32 = 0[63:32]: "Bytes done before a fault or up to a difference; Batch: descriptors done.";
        fault_address, with_fault_address: u64 = 1[63:0]: "Where it faulted, perhaps without its low 12 bits.";
        invalid_flags, with_invalid_flags: u32 = 2[23:0]: "Flags that are invalid.";
        crc, with_crc: u64 = 2[63:0]: "CRC: the value.";
    }
}

/// How a descriptor ended (table 5-6).
pub mod status {
    /// All is done.
    pub const SUCCESS: u8 = 0x01;
    /// All is done, with another result than expected.
    pub const FALSE_PREDICATE: u8 = 0x02;
    /// A page fault, that it was not to wait for.
    pub const PAGE_FAULT: u8 = 0x03;
    /// A page fault that was not resolved.
    pub const PAGE_FAULT_UNRESOLVED: u8 = 0x04;
    /// Batch: one failed.
    pub const BATCH_FAILED: u8 = 0x05;
    /// Batch: a page fault on the list.
    pub const BATCH_PAGE_FAULT: u8 = 0x06;
    /// There is no such operation, or not here.
    pub const OPERATION: u8 = 0x10;
    /// Flags are reserved, or missing.
    pub const INVALID_FLAGS: u8 = 0x11;
    /// Another field is reserved.
    pub const RESERVED: u8 = 0x12;
    /// No bytes, or too many.
    pub const TRANSFER_SIZE: u8 = 0x13;
    /// Batch: too few descriptors, or too many.
    pub const DESCRIPTOR_COUNT: u8 = 0x14;
    /// Buffers overlap.
    pub const OVERLAP: u8 = 0x16;
    /// Dualcast: the destinations' low bits differ.
    pub const DUALCAST: u8 = 0x17;
    /// Batch: the list is misaligned.
    pub const LIST_ALIGNMENT: u8 = 0x18;
    /// There is no such interrupt entry, or it is another's.
    pub const INTERRUPT_HANDLE: u8 = 0x19;
    /// A page fault on the completion record.
    pub const RECORD_PAGE_FAULT: u8 = 0x1a;
    /// The completion record is misaligned.
    pub const RECORD_ALIGNMENT: u8 = 0x1b;
    /// Another address is misaligned.
    pub const ALIGNMENT: u8 = 0x1c;
    /// Privilege cannot be told.
    pub const PRIVILEGE: u8 = 0x1d;
    /// The traffic class is not enabled.
    pub const TRAFFIC_CLASS: u8 = 0x1e;
    /// Drain: a page fault on an address to read back.
    pub const READBACK_PAGE_FAULT: u8 = 0x1f;
    /// Reading failed, or the hardware.
    pub const HARDWARE: u8 = 0x20;
    /// Writing failed, or reading back.
    pub const HARDWARE_WRITE: u8 = 0x21;
    /// Translating failed.
    pub const TRANSLATION: u8 = 0x22;
    /// 2.0, in the event log only: a Drain's end, as records before it may be in the log.
    pub const DRAIN_LOGGED: u8 = 0x26;
    /// 2.0, in the event log only: a batch's end, as records of its members are in the log.
    pub const BATCH_LOGGED: u8 = 0x27;
}

/// Which operand faulted (table 8-13).
pub mod operand {
    /// The source, the first of two, or a batch's list.
    pub const SOURCE: u8 = 1;
    /// The second source, or a CRC's seed.
    pub const SECOND_SOURCE: u8 = 2;
    /// The destination, or the first of two.
    pub const DESTINATION: u8 = 3;
    /// The second destination.
    pub const SECOND_DESTINATION: u8 = 4;
    /// The completion record.
    pub const RECORD: u8 = 5;
}

const _: () = assert!(size_of::<CompletionRecord>() as u64 == BYTES);
