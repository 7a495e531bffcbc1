//! Registers of BAR 0 at fixed places (9.2). Accesses are aligned and of one, two, four or eight bytes.

use hw::{ClearedByOnes, ReadOnly, ReadWrite, Reg, WriteOnly, on_bus, words};

use super::command::{Command, CommandStatus};

/// Version of the specification (9.2.1).
pub const VERSION: Reg<Version, ReadOnly> = Reg::at(0x00);
/// General capabilities (9.2.2).
pub const GENCAP: Reg<GeneralCapabilities, ReadOnly> = Reg::at(0x10);
/// Work queue capabilities (9.2.3).
pub const WQCAP: Reg<QueueCapabilities, ReadOnly> = Reg::at(0x20);
/// Group capabilities (9.2.4).
pub const GRPCAP: Reg<GroupCapabilities, ReadOnly> = Reg::at(0x30);
/// Engine capabilities (9.2.5).
pub const ENGCAP: Reg<EngineCapabilities, ReadOnly> = Reg::at(0x38);
/// Operations capabilities (9.2.6): a bit for each operation; three more words follow.
pub const OPCAP: Reg<u64, ReadOnly> = Reg::at(0x40);
/// Words of [`OPCAP`], and of the operations of a queue.
pub const OPCAP_WORDS: u64 = 4;
/// Where tables begin (9.2.7), of [`Offsets`]: its first word. The second follows.
pub const OFFSETS: Reg<u64, ReadOnly> = Reg::at(0x60);
/// General configuration (9.2.8).
pub const GENCFG: Reg<GeneralConfiguration, ReadWrite> = Reg::at(0x80);
/// General control (9.2.9).
pub const GENCTRL: Reg<GeneralControl, ReadWrite> = Reg::at(0x88);
/// General status (9.2.10).
pub const GENSTS: Reg<GeneralStatus, ReadOnly> = Reg::at(0x90);
/// Interrupt cause (9.2.11): bits of [`cause`].
pub const INTCAUSE: Reg<u32, ClearedByOnes> = Reg::at(0x98);
/// Command (9.2.12).
pub const CMD: Reg<Command, WriteOnly> = Reg::at(0xa0);
/// Command status (9.2.13).
pub const CMDSTATUS: Reg<CommandStatus, ReadOnly> = Reg::at(0xa8);
/// Command capabilities (9.2.14): a bit for each command. There only with [`GeneralCapabilities::command_capabilities`];
/// else the commands are [`super::command::DEFAULT`].
pub const CMDCAP: Reg<u32, ReadOnly> = Reg::at(0xb0);
/// Software error (9.2.15), of [`SoftwareError`]: its first word, in which [`SWERROR_CLEAR`] clears. Three more follow.
pub const SWERROR: Reg<u64, ClearedByOnes> = Reg::at(0xc0);
/// [`SoftwareError::valid`] and [`SoftwareError::overflow`].
pub const SWERROR_CLEAR: u64 = 3;
/// 2.0: event log configuration (9.2.16), of [`EventLogConfiguration`]: its first word. The second follows. Read-only unless
/// the device is disabled.
pub const EVLCFG: Reg<u64, ReadWrite> = Reg::at(0xe0);
/// 2.0: event log status (9.2.17).
pub const EVLSTATUS: Reg<EventLogStatus, ReadWrite> = Reg::at(0xf0);
/// A page that is like the portal of a queue that is not enabled (9.2.21).
pub const DUMMY_PORTAL: u64 = 0xf000;

words! {
    /// Version of the specification (9.2.1).
    Version[1] {
        major, with_major: u8 = 0[15:8]: "Major version.";
        minor, with_minor: u8 = 0[7:0]: "Minor version.";
    }
}

impl Version {
    /// 1.0.
    pub const V1_0: Self = Self([0x100]);
    /// 2.0.
    pub const V2_0: Self = Self([0x200]);
}

words! {
    /// General capabilities (9.2.2).
    GeneralCapabilities[1] {
        block_on_fault, with_block_on_fault: bool = 0[0]: "A descriptor can wait for a page fault to be resolved.";
        overlapping_copy, with_overlapping_copy: bool = 0[1]: "Memory Move takes overlapping buffers.";
        cache_control, with_cache_control: bool = 0[2]: "Hints to write to the cache.";
        command_capabilities, with_command_capabilities: bool = 0[4]: "There is [`CMDCAP`].";
        destination_readback, with_destination_readback: bool = 0[8]: "Hints to read the destination back.";
        drain_readback, with_drain_readback: bool = 0[9]: "A Drain takes addresses to read back.";
        fill16, with_fill16: bool = 0[10]: "2.0: patterns of 16 bytes.";
        crc64, with_crc64: bool = 0[11]: "2.0: CRCs of 64 bits.";
        fault_info, with_fault_info: bool = 0[12]: "2.0: completion records tell which operand faulted.";
        batch_continuation, with_batch_continuation: bool = 0[15]: "2.0: a batch can be continued after a fault.";
        configuration, with_configuration: bool = 0[31]: "Queues and groups can be configured.";
        event_log_overflow, with_event_log_overflow: bool = 0[32]: "2.0: events that the log has no room for are lost; else all waits.";
        event_log, with_event_log: u8 = 0[14:13]: "2.0: entries of the event log have 32 * 2^n bytes; 0 there is none.";
        max_transfer, with_max_transfer: u8 = 0[20:16]: "log2 of the most bytes of a transfer.";
        max_batch, with_max_batch: u8 = 0[24:21]: "log2 of the most descriptors of a batch.";
        ims_size, with_ims_size: u8 = 0[30:25]: "Interrupt message storage, in 256 entries.";
    }
}

words! {
    /// Work queue capabilities (9.2.3).
    QueueCapabilities[1] {
        shared, with_shared: bool = 0[48]: "Queues can be shared.";
        dedicated, with_dedicated: bool = 0[49]: "Queues can be dedicated.";
        ats, with_ats: bool = 0[50]: "Address translation services can be turned off for a queue.";
        priority, with_priority: bool = 0[51]: "Queues have priorities.";
        occupancy, with_occupancy: bool = 0[52]: "Queues tell how full they are.";
        occupancy_interrupt, with_occupancy_interrupt: bool = 0[53]: "They interrupt when they are less full than asked.";
        operations, with_operations: bool = 0[54]: "2.0: operations can be chosen for a queue.";
        prs, with_prs: bool = 0[55]: "2.0: page requests can be turned off for a queue.";
        total_size, with_total_size: u16 = 0[15:0]: "Descriptors that all queues together hold.";
        queues, with_queues: u8 = 0[23:16]: "Queues.";
        config_size, with_config_size: u8 = 0[27:24]: "A queue's configuration has 2^(n+5) bytes.";
    }
}

words! {
    /// Group capabilities (9.2.4).
    GroupCapabilities[1] {
        read_buffer_controls, with_read_buffer_controls: bool = 0[16]: "Groups can be given read buffers.";
        read_buffer_limit, with_read_buffer_limit: bool = 0[17]: "There is a global limit of read buffers.";
        progress_limit, with_progress_limit: bool = 0[18]: "2.0: descriptors in progress can be limited.";
        groups, with_groups: u8 = 0[7:0]: "Groups.";
        read_buffers, with_read_buffers: u8 = 0[15:8]: "Read buffers.";
    }
}

words! {
    /// Engine capabilities (9.2.5).
    EngineCapabilities[1] {
        engines, with_engines: u8 = 0[7:0]: "Engines.";
    }
}

words! {
    /// Where tables begin, each in [`TABLE_UNIT`] bytes (9.2.7).
    Offsets[2] {
        groups, with_groups: u16 = 0[15:0]: "Group configuration.";
        queues, with_queues: u16 = 0[31:16]: "Work queue configuration.";
        permissions, with_permissions: u16 = 0[47:32]: "MSI-X permissions.";
        ims, with_ims: u16 = 0[63:48]: "Interrupt message storage.";
        perfmon, with_perfmon: u16 = 1[15:0]: "Performance monitoring.";
    }
}

/// The unit of [`Offsets`].
pub const TABLE_UNIT: u64 = 0x100;

words! {
    /// General configuration (9.2.8). Read-only unless the device is disabled.
    GeneralConfiguration[1] {
        user_interrupts, with_user_interrupts: bool = 0[12]: "User-mode descriptors may ask for interrupts.";
        event_log, with_event_log: bool = 0[13]: "2.0: events go to the log.";
        read_buffer_limit, with_read_buffer_limit: u8 = 0[7:0]: "The global limit of read buffers.";
    }
}

words! {
    /// General control (9.2.9): what raises the interrupt of the first MSI-X entry.
    GeneralControl[1] {
        software_error, with_software_error: bool = 0[0]: "A software error that is recorded.";
        halt, with_halt: bool = 0[1]: "The halt state.";
        event_log, with_event_log: bool = 0[2]: "2.0: an event in the log.";
    }
}

words! {
    /// General status (9.2.10).
    GeneralStatus[1] {
        state, with_state: u8 = 0[1:0]: "The device's state, one of [`state`].";
        reset, with_reset: u8 = 0[3:2]: "What reset gets it out of the halt state, one of [`reset`].";
    }
}

/// States of the device (9.2.10) and, but for the last, of a queue (9.2.24).
pub mod state {
    /// Takes no descriptors, and may be configured.
    pub const DISABLED: u8 = 0;
    /// Works.
    pub const ENABLED: u8 = 1;
    /// Takes no descriptors and finishes those that it has.
    pub const DRAINING: u8 = 2;
    /// The device stopped at an error.
    pub const HALTED: u8 = 3;
}

/// Resets out of the halt state (9.2.10).
pub mod reset {
    /// The Reset Device command.
    pub const COMMAND: u8 = 0;
    /// A function-level reset.
    pub const FUNCTION: u8 = 1;
    /// A warm reset.
    pub const WARM: u8 = 2;
    /// A cold reset.
    pub const COLD: u8 = 3;
}

/// Why the first MSI-X entry was used (9.2.11).
pub mod cause {
    /// A software error.
    pub const SOFTWARE_ERROR: u32 = 1 << 0;
    /// A command is complete.
    pub const COMMAND: u32 = 1 << 1;
    /// A queue is less full than its limit.
    pub const OCCUPANCY: u32 = 1 << 2;
    /// A performance counter overflowed.
    pub const PERFMON: u32 = 1 << 3;
    /// The device halted.
    pub const HALT: u32 = 1 << 4;
    /// 2.0: an event was logged.
    pub const EVENT_LOG: u32 = 1 << 5;
    /// Interrupt handles are good no more.
    pub const HANDLES_REVOKED: u32 = 1 << 31;
}

words! {
    /// A software error (9.2.15).
    SoftwareError[4] {
        valid, with_valid: bool = 0[0]: "There is one.";
        overflow, with_overflow: bool = 0[1]: "There were more.";
        descriptor_valid, with_descriptor_valid: bool = 0[2]: "A descriptor is to blame, and it is told which.";
        queue_valid, with_queue_valid: bool = 0[3]: "It is told to which queue it was submitted.";
        batch, with_batch: bool = 0[4]: "It was in a batch.";
        write, with_write: bool = 0[5]: "Of a page fault: the access was a write.";
        privileged, with_privileged: bool = 0[6]: "The descriptor's privilege.";
        info_valid, with_info_valid: bool = 0[7]: "2.0: [`Self::info`] is told, too. (It is with [`super::completion::status::INVALID_FLAGS`] in any case.)";
        error, with_error: u8 = 0[15:8]: "A [`super::completion::status`] or one of [`error`].";
        queue, with_queue: u8 = 0[23:16]: "The queue.";
        operation, with_operation: u8 = 0[39:32]: "The descriptor's operation.";
        pasid, with_pasid: u32 = 0[59:40]: "The descriptor's PASID.";
        batch_index, with_batch_index: u16 = 1[15:0]: "Which descriptor of the batch it was.";
        info, with_info: u32 = 1[63:32]: "The flags that are invalid, the handle, or the operand.";
        address, with_address: u64 = 2[63:0]: "Of a page fault: the address, perhaps without its low 12 bits.";
    }
}

/// Software errors that are no descriptor's status (5.8.2).
pub mod error {
    /// Configuration space changed while the device was not disabled: it halted.
    pub const CONFIGURATION_SPACE: u8 = 0x51;
    /// A command was written while another was active.
    pub const COMMAND_ACTIVE: u8 = 0x52;
    /// A dedicated queue was full.
    pub const QUEUE_FULL: u8 = 0x53;
    /// 2.0: the event log could not be written.
    pub const EVENT_LOG: u8 = 0x54;
}

words! {
    /// 2.0: event log configuration (9.2.16).
    EventLogConfiguration[2] {
        pasid_enable, with_pasid_enable: bool = 0[0]: "It is written with a PASID.";
        privileged, with_privileged: bool = 0[1]: "It is written with privilege.";
        page, with_page: u64 = 0[63:12]: "Its address, in pages.";
        size, with_size: u16 = 1[15:0]: "Its entries, at least [`EVENT_LOG_LEAST`].";
        pasid, with_pasid: u32 = 1[35:16]: "The PASID.";
    }
}

/// 2.0: the least entries of the event log (9.2.16).
pub const EVENT_LOG_LEAST: u16 = 64;

words! {
    /// 2.0: event log status (9.2.17).
    EventLogStatus[1] {
        pending, with_pending: bool = 0[62]: "It interrupted; cleared by writing it as one.";
        head, with_head: u16 = 0[15:0]: "The entry that software reads next.";
        tail, with_tail: u16 = 0[47:32]: "The entry that the device writes next; read-only.";
    }
}

words! {
    /// 2.0: an entry of the event log (5.9.1): a [`SoftwareError`] whose lowest two bits are unused, then a completion record.
    EventLogEntry[8] {
        interrupt_required, with_interrupt_required: bool = 1[48]: "Software is to raise the descriptor's interrupt.";
        ims, with_ims: bool = 1[49]: "It was submitted by a portal of the interrupt message storage.";
        record_required, with_record_required: bool = 1[50]: "Software is to write the completion record.";
        first_in_batch, with_first_in_batch: bool = 1[51]: "The first entry of its batch.";
        batch_id, with_batch_id: u8 = 0[31:24]: "Which batch it, or its member, was.";
        handle, with_handle: u16 = 1[47:32]: "The descriptor's interrupt handle.";
        operand, with_operand: u8 = 1[63:61]: "Which operand faulted, one of [`super::completion::operand`].";
        address, with_address: u64 = 2[63:0]: "Where it faulted, or where the completion record goes.";
    }
}

on_bus!(
    Version: W4,
    GeneralCapabilities: W8,
    QueueCapabilities: W8,
    GroupCapabilities: W8,
    EngineCapabilities: W8,
    GeneralConfiguration: W4,
    GeneralControl: W4,
    GeneralStatus: W4,
    EventLogStatus: W8,
    Command: W4,
    CommandStatus: W4
);

const _: () = assert!(size_of::<SoftwareError>() == 32);
const _: () = assert!(size_of::<Offsets>() == 16);
const _: () = assert!(size_of::<EventLogEntry>() == 64);
