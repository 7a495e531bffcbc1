//! Configuration of a group (9.2.23): a table of entries of [`BYTES`] each. Read-only unless the device is disabled.

use hw::words;

/// Bytes from one group's configuration to the next.
pub const BYTES: u64 = 64;

words! {
    /// A group's configuration.
    GroupConfiguration[8] {
        global_limit, with_global_limit: bool = 5[7]: "The global limit of read buffers holds for it.";
        queues, with_queues: u64 = 0[63:0]: "Its queues, a bit for each; three more words follow.";
        engines, with_engines: u64 = 4[63:0]: "Its engines, a bit for each.";
        tc_a, with_tc_a: u8 = 5[2:0]: "Traffic class A.";
        tc_b, with_tc_b: u8 = 5[5:3]: "Traffic class B.";
        read_buffers_reserved, with_read_buffers_reserved: u8 = 5[15:8]: "Read buffers for it alone.";
        read_buffers_allowed, with_read_buffers_allowed: u8 = 5[27:20]: "Read buffers that it may use.";
    }
}

const _: () = assert!(size_of::<GroupConfiguration>() as u64 == BYTES);
