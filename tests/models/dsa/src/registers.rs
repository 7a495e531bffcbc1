//! BAR 0 as words of eight bytes.

use device_spec::dsa::command::{Command, DEFAULT, code};
use device_spec::dsa::descriptor::operation;
use device_spec::dsa::group::{self, GroupConfiguration};
use device_spec::dsa::interrupt::{IMS_BYTES, PERMISSION_BYTES};
use device_spec::dsa::registers::{
    self as regs, EngineCapabilities, GeneralCapabilities, GeneralConfiguration, GeneralControl,
    GeneralStatus, GroupCapabilities, OPCAP_WORDS, Offsets, QueueCapabilities, TABLE_UNIT, state,
};

use crate::interrupt::MSIX_BYTES;
use crate::{Bus, Config, Device};

/// Read buffers, which all engines share.
pub(crate) const READ_BUFFERS: u8 = 96;

/// Operations that there are, a bit for each.
pub(crate) const OPERATIONS: u64 = 1 << operation::NOOP
    | 1 << operation::BATCH
    | 1 << operation::DRAIN
    | 1 << operation::MEMORY_MOVE
    | 1 << operation::FILL
    | 1 << operation::COMPARE
    | 1 << operation::COMPARE_PATTERN
    | 1 << operation::DUALCAST
    | 1 << operation::CRC
    | 1 << operation::COPY_CRC;

pub(crate) fn initial_group() -> GroupConfiguration {
    GroupConfiguration::default().with_read_buffers_allowed(READ_BUFFERS)
}

impl Config {
    pub(crate) fn general(&self) -> GeneralCapabilities {
        let second = self.second();
        GeneralCapabilities::default()
            .with_overlapping_copy(self.overlapping_copy)
            .with_cache_control(true)
            .with_command_capabilities(self.handles)
            .with_destination_readback(true)
            .with_fill16(second)
            .with_fault_info(second)
            .with_batch_continuation(second)
            .with_event_log(second.into())
            .with_event_log_overflow(second)
            .with_configuration(true)
            .with_max_transfer(self.max_transfer)
            .with_max_batch(self.max_batch)
            .with_ims_size(self.ims)
    }

    pub(crate) fn commands(&self) -> u32 {
        let handles = 1 << code::REQUEST_HANDLE | 1 << code::RELEASE_HANDLE;
        if self.handles { DEFAULT | handles } else { DEFAULT }
    }

    fn queue_capabilities(&self) -> QueueCapabilities {
        QueueCapabilities::default()
            .with_shared(true)
            .with_dedicated(true)
            .with_priority(true)
            .with_occupancy(true)
            .with_operations(self.second())
            .with_total_size(self.total_size)
            .with_queues(self.queues)
            .with_config_size(self.second().into())
    }

    fn group_capabilities(&self) -> GroupCapabilities {
        GroupCapabilities::default()
            .with_read_buffer_controls(true)
            .with_groups(self.groups)
            .with_read_buffers(READ_BUFFERS)
    }
}

/// A table, and a word's place in it.
enum Table {
    Permissions(usize),
    Groups(usize, usize),
    Queues(usize, usize),
    Msix(usize),
    Pending(usize),
    Ims(usize),
}

impl Device {
    fn table(&self, offset: u64) -> Option<Table> {
        let (layout, config) = (self.layout, &self.config);
        let within = |table: u64, bytes: u64| {
            offset.checked_sub(table).filter(|within| *within < bytes).map(|within| within as usize)
        };
        let entry = |at: usize, bytes: u64| (at / bytes as usize, at % bytes as usize / 8);
        let msix = u64::from(config.msix);
        if let Some(at) = within(layout.permissions, msix * PERMISSION_BYTES) {
            Some(Table::Permissions(at / 8))
        } else if let Some(at) = within(layout.groups, u64::from(config.groups) * group::BYTES) {
            let (group, word) = entry(at, group::BYTES);
            Some(Table::Groups(group, word))
        } else if let Some(at) =
            within(layout.queues, u64::from(config.queues) * config.queue_bytes())
        {
            let (queue, word) = entry(at, config.queue_bytes());
            Some(Table::Queues(queue, word))
        } else if let Some(at) = within(layout.msix, msix * MSIX_BYTES) {
            Some(Table::Msix(at / 8))
        } else if let Some(at) = within(layout.pending, msix.div_ceil(64) * 8) {
            Some(Table::Pending(at / 8))
        } else {
            within(layout.ims, config.ims_entries() as u64 * IMS_BYTES).map(|at| Table::Ims(at / 8))
        }
    }

    /// Reads the word at `offset`.
    pub(crate) fn word(&self, offset: u64) -> u64 {
        const OPCAP_END: u64 = regs::OPCAP.offset() + 8 * OPCAP_WORDS;
        const SWERROR_END: u64 = regs::SWERROR.offset() + 32;
        match self.table(offset) {
            Some(Table::Permissions(at)) => return self.interrupts.permission(at),
            Some(Table::Groups(at, word)) => return self.groups[at].0[word],
            Some(Table::Queues(at, word)) => return self.queues[at].word(word),
            Some(Table::Msix(word)) => return self.interrupts.msix_word(word),
            Some(Table::Pending(word)) => return self.interrupts.pending_word(word),
            Some(Table::Ims(word)) => return self.interrupts.ims_word(word),
            None => {}
        }
        let config = &self.config;
        let status = GeneralStatus::default().with_state(self.state).with_reset(self.needs);
        let offsets = self.offsets().0;
        match offset {
            _ if offset == regs::VERSION.offset() => config.version.0[0],
            _ if offset == regs::GENCAP.offset() => config.general().0[0],
            _ if offset == regs::WQCAP.offset() => config.queue_capabilities().0[0],
            _ if offset == regs::GRPCAP.offset() => config.group_capabilities().0[0],
            _ if offset == regs::ENGCAP.offset() => {
                EngineCapabilities::default().with_engines(config.engines).0[0]
            }
            _ if offset == regs::OPCAP.offset() => OPERATIONS,
            _ if (regs::OPCAP.offset()..OPCAP_END).contains(&offset) => 0,
            _ if offset == regs::OFFSETS.offset() => offsets[0],
            _ if offset == regs::OFFSETS.offset() + 8 => offsets[1],
            _ if offset == regs::GENCFG.offset() => self.general.0[0],
            _ if offset == regs::GENCTRL.offset() => self.control.0[0],
            _ if offset == regs::GENSTS.offset() => status.0[0],
            _ if offset == regs::INTCAUSE.offset() => self.causes.into(),
            _ if offset == regs::CMDSTATUS.offset() => self.status.0[0],
            _ if offset == regs::CMDCAP.offset() && config.handles => config.commands().into(),
            _ if (regs::SWERROR.offset()..SWERROR_END).contains(&offset) => {
                self.error.0[(offset - regs::SWERROR.offset()) as usize / 8]
            }
            _ if offset == regs::EVLCFG.offset() => self.log.config.0[0],
            _ if offset == regs::EVLCFG.offset() + 8 => self.log.config.0[1],
            _ if offset == regs::EVLSTATUS.offset() => self.log.status.0[0],
            _ if offset & !0xfff == regs::DUMMY_PORTAL => u64::MAX,
            _ => 0,
        }
    }

    fn offsets(&self) -> Offsets {
        let unit = |table: u64| (table / TABLE_UNIT) as u16;
        let layout = self.layout;
        Offsets::default()
            .with_groups(unit(layout.groups))
            .with_queues(unit(layout.queues))
            .with_permissions(unit(layout.permissions))
            .with_ims(unit(layout.ims))
    }

    /// Writes the bits of `mask` of the word at `offset`.
    pub(crate) fn set_word(&mut self, offset: u64, value: u64, mask: u64, bus: &mut impl Bus) {
        let bits = value & mask;
        let merged = self.word(offset) & !mask | bits;
        let disabled = self.state == state::DISABLED;
        let function = self.function;
        match self.table(offset) {
            Some(Table::Permissions(at)) => return self.interrupts.set_permission(at, merged),
            Some(Table::Groups(at, word)) if disabled => return self.set_group(at, word, merged),
            Some(Table::Queues(at, word)) => {
                return self.queues[at].set_word(word, merged, &self.config, disabled);
            }
            Some(Table::Msix(word)) => {
                return self.interrupts.set_msix_word(word, merged, function, bus);
            }
            Some(Table::Ims(word)) => return self.interrupts.set_ims_word(word, merged, bus),
            Some(Table::Groups(..) | Table::Pending(_)) => return,
            None => {}
        }
        match offset {
            _ if offset == regs::GENCFG.offset() && disabled => {
                let written = GeneralConfiguration([merged]);
                let log = written.event_log() && self.config.second();
                self.general = self
                    .general
                    .with_user_interrupts(written.user_interrupts())
                    .with_event_log(log);
            }
            _ if offset == regs::GENCTRL.offset() => {
                let written = GeneralControl([merged]);
                self.control = GeneralControl::default()
                    .with_software_error(written.software_error())
                    .with_halt(written.halt())
                    .with_event_log(written.event_log() && self.config.second());
            }
            _ if offset == regs::INTCAUSE.offset() => self.causes &= !(bits as u32),
            // Half a command is none.
            _ if offset == regs::CMD.offset() && mask & 0xffff_ffff == 0xffff_ffff => {
                self.command(Command([bits & 0xffff_ffff]), bus);
            }
            _ if offset == regs::SWERROR.offset() => self.clear_error(bits),
            _ if self.config.second() => self.log.set_word(offset, merged, bits, disabled),
            _ => {}
        }
    }

    fn set_group(&mut self, at: usize, word: usize, value: u64) {
        let group = &mut self.groups[at];
        match word {
            // Bits of what there is not are stored, and refused when the device is enabled.
            0..=4 => group.0[word] = value,
            5 => {
                let mut written = GroupConfiguration::default();
                written.0[5] = value;
                *group = group
                    .with_tc_a(written.tc_a())
                    .with_tc_b(written.tc_b())
                    .with_read_buffers_reserved(written.read_buffers_reserved())
                    .with_read_buffers_allowed(written.read_buffers_allowed());
            }
            _ => {}
        }
    }
}
