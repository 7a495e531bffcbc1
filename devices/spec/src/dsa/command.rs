//! Administrative commands (3.15, 9.2.12, 9.2.13).

use hw::words;

words! {
    /// A command (9.2.12).
    Command[1] {
        interrupt, with_interrupt: bool = 0[31]: "The first MSI-X entry is raised when it is complete.";
        operand, with_operand: u32 = 0[19:0]: "As the command has it.";
        code, with_code: u8 = 0[24:20]: "One of [`code`].";
    }
}

words! {
    /// How the last command went (9.2.13). Only [`Self::active`] means anything while it is set.
    CommandStatus[1] {
        active, with_active: bool = 0[31]: "It is not complete.";
        error, with_error: u8 = 0[7:0]: "One of [`error`].";
        result, with_result: u16 = 0[23:8]: "The handle that was asked for.";
    }
}

/// Commands (table 9-5).
pub mod code {
    /// Checks the device's configuration and enables it.
    pub const ENABLE_DEVICE: u8 = 1;
    /// Finishes all descriptors, then disables the device.
    pub const DISABLE_DEVICE: u8 = 2;
    /// Waits for all descriptors.
    pub const DRAIN_ALL: u8 = 3;
    /// Abandons or waits for all descriptors.
    pub const ABORT_ALL: u8 = 4;
    /// Aborts all descriptors, disables the device and clears its configuration.
    pub const RESET_DEVICE: u8 = 5;
    /// Checks a queue's configuration and enables it. The operand is its number.
    pub const ENABLE_QUEUE: u8 = 6;
    /// Finishes queues' descriptors, then disables them. The operand is [`super::queues`]', here and below.
    pub const DISABLE_QUEUE: u8 = 7;
    /// Waits for queues' descriptors.
    pub const DRAIN_QUEUE: u8 = 8;
    /// Abandons or waits for queues' descriptors.
    pub const ABORT_QUEUE: u8 = 9;
    /// Aborts queues' descriptors, disables them and clears their configuration, but for their sizes.
    pub const RESET_QUEUE: u8 = 10;
    /// Waits for the descriptors of a PASID, which is the operand.
    pub const DRAIN_PASID: u8 = 11;
    /// Abandons or waits for the descriptors of a PASID, which is the operand.
    pub const ABORT_PASID: u8 = 12;
    /// Gives a handle to an interrupt entry: the operand is its index, and [`super::IMS`].
    pub const REQUEST_HANDLE: u8 = 13;
    /// Takes back the handle to an interrupt entry; the operand as before.
    pub const RELEASE_HANDLE: u8 = 14;
}

/// In an operand: the entry is one of the interrupt message storage, not of the MSI-X table.
pub const IMS: u32 = 1 << 16;

/// The commands of a device that does not tell which it has, a bit for each (table 9-6).
pub const DEFAULT: u32 = 0x1ffe;

/// The operand that names queue `index` alone. Of queues whose numbers agree above the low four bits, operands may be
/// joined by OR.
#[must_use]
pub const fn queues(index: u8) -> u32 {
    1 << (index % 16) | (index as u32 / 16) << 16
}

/// Why a command failed (9.2.13, table 5-8).
pub mod error {
    /// It did not.
    pub const NONE: u8 = 0;
    /// There is no such command.
    pub const COMMAND: u8 = 0x01;
    /// There is no such queue.
    pub const QUEUE_INDEX: u8 = 0x02;
    /// The hardware failed.
    pub const HARDWARE: u8 = 0x03;
    /// Bits are set that mean nothing.
    pub const RESERVED: u8 = 0x04;
    /// The device is halted.
    pub const HALTED: u8 = 0x05;
    /// Enable Device: it is not disabled.
    pub const DEVICE_NOT_DISABLED: u8 = 0x10;
    /// Enable Device: something else is wrong with its configuration.
    pub const CONFIGURATION: u8 = 0x11;
    /// Enable Device: it may not master the bus.
    pub const BUS_MASTER: u8 = 0x12;
    /// Enable Device: page requests are not allotted rightly.
    pub const PAGE_REQUESTS: u8 = 0x13;
    /// Enable Device: the queues' sizes are too many together.
    pub const SIZES: u8 = 0x14;
    /// Enable Device: a group has queues but no engines or engines but no queues.
    pub const GROUP: u8 = 0x15;
    /// Enable Device: a queue that has a size is not in one group, or one that has none is in a group.
    pub const GROUP_QUEUES: u8 = 0x16;
    /// Enable Device: an engine is in several groups, or there is no such engine.
    pub const GROUP_ENGINES: u8 = 0x17;
    /// Enable Device: read buffers are not given out rightly.
    pub const READ_BUFFERS: u8 = 0x18;
    /// Enable Device: 2.0: the event log is wrong.
    pub const EVENT_LOG: u8 = 0x19;
    /// Enable Device: 2.0: the event log has a PASID and the function has none.
    pub const EVENT_LOG_PASID: u8 = 0x1b;
    /// Enable Queue: the device is not enabled.
    pub const DEVICE_NOT_ENABLED: u8 = 0x20;
    /// Enable Queue: it is not disabled.
    pub const QUEUE_NOT_DISABLED: u8 = 0x21;
    /// Enable Queue: it has no size.
    pub const QUEUE_SIZE: u8 = 0x22;
    /// Enable Queue: it has no priority.
    pub const PRIORITY: u8 = 0x23;
    /// Enable Queue: it cannot be shared, or not dedicated.
    pub const MODE: u8 = 0x24;
    /// Enable Queue: descriptors cannot block on faults.
    pub const BLOCK_ON_FAULT: u8 = 0x25;
    /// Enable Queue: it must have a PASID, or cannot.
    pub const PASID_ENABLE: u8 = 0x26;
    /// Enable Queue: its batches are too large, or may not have a descriptor.
    pub const BATCH_SIZE: u8 = 0x27;
    /// Enable Queue: its transfers are too large.
    pub const TRANSFER_SIZE: u8 = 0x28;
    /// Enable Queue: privilege cannot be told.
    pub const PRIVILEGE: u8 = 0x2a;
    /// Enable Queue: its occupancy interrupt is wrong.
    pub const OCCUPANCY_INTERRUPT: u8 = 0x2b;
    /// Enable Queue: address translation services cannot be turned off.
    pub const ATS: u8 = 0x2c;
    /// Enable Queue: 2.0: operations are asked for that the device does not have.
    pub const OPERATIONS: u8 = 0x2d;
    /// Enable Queue: 2.0: page requests cannot be turned off.
    pub const PRS: u8 = 0x2e;
    /// Disable Device: it is not enabled.
    pub const DISABLE_NOT_ENABLED: u8 = 0x31;
    /// Disable, Drain or Abort Queue: one of them is not enabled.
    pub const QUEUE_NOT_ENABLED: u8 = 0x32;
    /// Request or Release Interrupt Handle: there is no such entry.
    pub const ENTRY_INDEX: u8 = 0x41;
    /// Request Interrupt Handle: there are no more.
    pub const NO_HANDLE: u8 = 0x42;
}
