//! Configuration of a work queue (9.2.24): a table of entries of [`bytes`] each.

use hw::words;

/// Bytes from one queue's configuration to the next, by [`super::registers::QueueCapabilities::config_size`].
#[must_use]
pub const fn bytes(config_size: u8) -> u64 {
    32 << config_size
}

/// [`super::registers::QueueCapabilities::config_size`] of a table that holds [`QueueConfiguration`] whole. In the smaller
/// one its first half is all there is.
pub const WHOLE: u8 = 1;

words! {
    /// A queue's configuration. What may change when is table 9-7: the size only while the device is disabled; threshold,
    /// occupancy limit and its interrupt at any time; all else while the queue is disabled.
    QueueConfiguration[8] {
        dedicated, with_dedicated: bool = 1[0]: "Dedicated rather than shared.";
        block_on_fault, with_block_on_fault: bool = 1[1]: "Descriptors may block on faults.";
        ats_disable, with_ats_disable: bool = 1[2]: "No address translation services.";
        prs_disable, with_prs_disable: bool = 1[3]: "2.0: no page requests.";
        pasid_enable, with_pasid_enable: bool = 1[28]: "Requests have a PASID.";
        privileged, with_privileged: bool = 1[29]: "Privilege of a dedicated queue's descriptors.";
        occupancy_ims, with_occupancy_ims: bool = 2[16]: "The occupancy's handle is one of the interrupt message storage.";
        occupancy_interrupt, with_occupancy_interrupt: bool = 2[48]: "The occupancy interrupts.";
        occupancy_interrupted, with_occupancy_interrupted: bool = 3[16]: "It has; cleared by writing it as one.";
        mode_support, with_mode_support: bool = 3[29]: "Of a device that cannot be configured: the mode can.";
        size, with_size: u16 = 0[15:0]: "Descriptors that it holds; 0 it is not used.";
        threshold, with_threshold: u16 = 0[47:32]: "Shared: how many of them through limited portals.";
        priority, with_priority: u8 = 1[7:4]: "Priority in its group; not 0.";
        pasid, with_pasid: u32 = 1[27:8]: "PASID of a dedicated queue's descriptors.";
        max_transfer, with_max_transfer: u8 = 1[36:32]: "log2 of the most bytes of a transfer.";
        max_batch, with_max_batch: u8 = 1[40:37]: "log2 of the most descriptors of a batch.";
        occupancy_handle, with_occupancy_handle: u16 = 2[15:0]: "Interrupt handle of the occupancy.";
        occupancy_limit, with_occupancy_limit: u16 = 2[47:32]: "It interrupts at this or less.";
        occupancy, with_occupancy: u16 = 3[15:0]: "Descriptors that it holds now; read-only.";
        state, with_state: u8 = 3[31:30]: "One of [`super::registers::state`]; read-only.";
        operations, with_operations: u64 = 4[63:0]: "2.0: operations that it takes, a bit for each; three more words follow.";
    }
}

const _: () = assert!(size_of::<QueueConfiguration>() as u64 == bytes(WHOLE));
