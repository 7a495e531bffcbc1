//! Intel's Data Streaming Accelerator (DSA architecture specification): an interface is a work queue.

use crate::interface::Mode;

/// What a work queue has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Queue {
    /// Who submits work.
    pub mode: Mode,
    /// Its entries.
    pub entries: u16,
    /// log2 of the most bytes of a transfer.
    pub max_transfer_shift: u8,
    /// log2 of the most descriptors of a batch.
    pub max_batch_shift: u8,
    /// Operations that it does, a bit each, in the version that it was asked for in.
    pub operations: [u64; 4],
}

/// What makes another queue go on as this one: its owner's settings.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct QueueState {
    /// As it was.
    pub queue: Queue,
    /// Entries of a shared queue that not only the privileged may fill.
    pub threshold: u16,
    /// Whether it was enabled.
    pub was_enabled: bool,
}
