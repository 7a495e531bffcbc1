//! Descriptors (chapter 8): 64 bytes, whose later words are as the operation has them.

use hw::words;

/// Bytes of a descriptor.
pub const BYTES: u64 = 64;

words! {
    /// A descriptor. Fields that an operation gives another meaning have a getter for each.
    Descriptor[8] {
        privileged, with_privileged: bool = 0[31]: "Shared queues: submitted by ring 0 (8.1.1).";
        pasid, with_pasid: u32 = 0[19:0]: "Shared queues: whose it is (8.1.1).";
        flags, with_flags: u32 = 0[55:32]: "Bits of [`flag`] (8.1.3).";
        operation, with_operation: u8 = 0[63:56]: "One of [`operation`] (8.1.2).";
        completion, with_completion: u64 = 1[63:0]: "Where the completion record goes, a multiple of 32 (8.1.4).";
        source, with_source: u64 = 2[63:0]: "Source; Batch: the list, a multiple of 64; Drain: what is read back.";
        pattern, with_pattern: u64 = 2[63:0]: "Fill: the pattern, or its lower half.";
        destination, with_destination: u64 = 3[63:0]: "Destination; Compare: the second source; Drain: what is read back.";
        compared, with_compared: u64 = 3[63:0]: "Compare Pattern: the pattern.";
        size, with_size: u32 = 4[31:0]: "Bytes; Batch: descriptors.";
        handle, with_handle: u16 = 4[47:32]: "Interrupt handle (8.1.8).";
        expected, with_expected: u8 = 5[7:0]: "Compare: the result expected, in bit 0.";
        pattern_high, with_pattern_high: u64 = 5[63:0]: "Fill: the pattern's upper half.";
        second_destination, with_second_destination: u64 = 5[63:0]: "Dualcast: the second destination.";
        seed, with_seed: u64 = 5[63:0]: "CRC: the seed.";
        seed_address, with_seed_address: u64 = 6[63:0]: "CRC: where the seed is.";
    }
}

/// Operations (table 8-2).
pub mod operation {
    /// Nothing.
    pub const NOOP: u8 = 0x00;
    /// A list of descriptors.
    pub const BATCH: u8 = 0x01;
    /// Waits for the descriptors before it in its queue.
    pub const DRAIN: u8 = 0x02;
    /// Copies.
    pub const MEMORY_MOVE: u8 = 0x03;
    /// Fills with a pattern.
    pub const FILL: u8 = 0x04;
    /// Compares two sources.
    pub const COMPARE: u8 = 0x05;
    /// Compares a source and a pattern.
    pub const COMPARE_PATTERN: u8 = 0x06;
    /// Copies to two destinations.
    pub const DUALCAST: u8 = 0x09;
    /// Computes a CRC.
    pub const CRC: u8 = 0x10;
    /// Computes a CRC and copies.
    pub const COPY_CRC: u8 = 0x11;
}

/// Flags (tables 8-3, 8-14 to 8-19).
pub mod flag {
    /// In a batch: waits for those before it, and ends the batch if one of them failed.
    pub const FENCE: u32 = 1 << 0;
    /// Waits for page faults to be resolved.
    pub const BLOCK_ON_FAULT: u32 = 1 << 1;
    /// There is somewhere for the completion record.
    pub const RECORD_VALID: u32 = 1 << 2;
    /// The completion record is written in any case.
    pub const RECORD: u32 = 1 << 3;
    /// An interrupt is raised.
    pub const INTERRUPT: u32 = 1 << 4;
    /// The third of the hints where data is placed.
    pub const CACHE_CONTROL_3: u32 = 1 << 5;
    /// The result decides about the status.
    pub const CHECK_RESULT: u32 = 1 << 7;
    /// The first of the hints where data is placed: in the cache.
    pub const CACHE_CONTROL: u32 = 1 << 8;
    /// Traffic class B for the first address.
    pub const ADDRESS1_TC: u32 = 1 << 9;
    /// Traffic class B for the second address.
    pub const ADDRESS2_TC: u32 = 1 << 10;
    /// Traffic class B for the third address.
    pub const ADDRESS3_TC: u32 = 1 << 11;
    /// Traffic class B for the completion record.
    pub const RECORD_TC: u32 = 1 << 12;
    /// Writes are seen in their order.
    pub const STRICT_ORDERING: u32 = 1 << 13;
    /// The second of the hints where data is placed: the destination is read back.
    pub const DESTINATION_READBACK: u32 = 1 << 14;
    /// Batch: a descriptor failed before it was continued.
    pub const BATCH_ERROR: u32 = 1 << 16;
    /// Drain: there is a first address to read back.
    pub const DRAIN_READBACK1: u32 = 1 << 16;
    /// Drain: there is a second address to read back.
    pub const DRAIN_READBACK2: u32 = 1 << 17;
    /// Drain: no readback of traffic class A of its own.
    pub const DRAIN_NO_TC_A: u32 = 1 << 18;
    /// Drain: no readback of traffic class B of its own.
    pub const DRAIN_NO_TC_B: u32 = 1 << 19;
    /// Fill: the pattern has 16 bytes.
    pub const FILL16: u32 = 1 << 18;
    /// CRC: the seed is read from memory.
    pub const READ_SEED: u32 = 1 << 16;
    /// CRC: seed and result are neither inverted nor reflected.
    pub const CRC_RAW: u32 = 1 << 17;
    /// CRC: bytes are not reflected.
    pub const CRC_UNREFLECTED: u32 = 1 << 18;
    /// CRC: it has 64 bits.
    pub const CRC64: u32 = 1 << 19;
}

const _: () = assert!(size_of::<Descriptor>() as u64 == BYTES);
