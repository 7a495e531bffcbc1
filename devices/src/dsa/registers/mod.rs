//! [`VirtualRegisters`]: what a guest sees as BAR 0 of a DSA of its own (9.2), whose work queues are interfaces of one or of
//! several functions. A state machine and nothing else: it says what is to be done with the interfaces ([`Effect::Start`])
//! and is told how that went ([`VirtualRegisters::finish`]).
//!
//! The device has a group and an engine for each queue; how the guest puts them together it may choose, and nothing follows
//! from it. Sizes of queues are bounded by what each interface has. Its capabilities are what all interfaces have in common,
//! in the version that was promised: nothing of later ones is shown. It has no PASIDs, no address translation services and
//! no interrupt message storage: the guest asks for handles to its MSI-X entries (3.7.1) and is given the real ones, which
//! serve descriptors that are submitted by the interfaces' own pages. Entry 0 is raised by software; behind it stands each
//! queue's first slot, as Linux has them, then the second ones, and so on.

mod commands;
mod tables;

#[cfg(test)]
mod tests;

use alloc::vec::Vec;

use device_spec::dsa::command::{CommandStatus, code};
use device_spec::dsa::group::GroupConfiguration;
use device_spec::dsa::interrupt::MsixPermission;
use device_spec::dsa::queue::{self, QueueConfiguration};
use device_spec::dsa::registers::{
    self as regs, EngineCapabilities, GeneralCapabilities, GeneralConfiguration, GeneralControl,
    GeneralStatus, GroupCapabilities, OPCAP_WORDS, QueueCapabilities, SWERROR_CLEAR, SoftwareError,
    cause, reset, state,
};
use hw::Width;

use super::{OPERATION_WORDS, Queue};
use crate::function::{Command, Handle, Trouble, Version};
use crate::interface::Mode;
use commands::Doing;
pub use commands::Order;
use tables::{Place, Tables};

/// An interface that the device has as a work queue.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Part {
    /// What it is.
    pub queue: Queue,
    /// Its interrupt slots.
    pub handles: Vec<Handle>,
}

/// What follows from an access, or from something that happened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
pub enum Effect {
    /// Nothing.
    None,
    /// MSI-X entry 0 is raised.
    Interrupt,
    /// [`VirtualRegisters::orders`] are to be carried out.
    Start,
}

/// The registers.
#[derive(Debug)]
pub struct VirtualRegisters {
    version: Version,
    general: GeneralCapabilities,
    operations: [u64; OPERATION_WORDS],
    tables: Tables,
    queues: Vec<VirtualQueue>,
    groups: Vec<GroupConfiguration>,
    permissions: Vec<MsixPermission>,
    /// Whose slots the MSI-X entries from 1 on are.
    entries: Vec<Entry>,
    config: GeneralConfiguration,
    control: GeneralControl,
    state: u8,
    causes: u32,
    status: CommandStatus,
    error: SoftwareError,
    doing: Option<Doing>,
}

/// A queue, and what the guest has made of it.
#[derive(Debug)]
struct VirtualQueue {
    has: Queue,
    /// Without its state.
    config: QueueConfiguration,
    state: u8,
    /// What it is to do, and has not done yet.
    order: Option<Command>,
}

#[derive(Clone, Copy, Debug)]
struct Entry {
    queue: usize,
    slot: u16,
    handle: Option<Handle>,
}

/// The commands that there are: those of a device without PASIDs, and handles.
const COMMANDS: u32 = ((1 << (code::RESET_QUEUE + 1)) - 2)
    | (1 << code::REQUEST_HANDLE)
    | (1 << code::RELEASE_HANDLE);

impl VirtualRegisters {
    /// A device of these queues, at most 255, in a version that all of them were carved in. `None` without queues, or with
    /// too many of them or their slots.
    #[must_use]
    pub fn new(version: Version, parts: &[Part]) -> Option<Self> {
        let count = u8::try_from(parts.len()).ok()?;
        let first = parts.first()?.queue;
        let (mut general, mut operations) = (first.general, first.operations);
        for Part { queue, .. } in parts {
            let sizes = general;
            general.0.iter_mut().zip(queue.general.0).for_each(|(all, one)| *all &= one);
            general = general
                .with_max_transfer(sizes.max_transfer().min(queue.general.max_transfer()))
                .with_max_batch(sizes.max_batch().min(queue.general.max_batch()));
            operations.iter_mut().zip(queue.operations).for_each(|(all, one)| *all &= one);
        }
        let entries = entries(parts);
        let whole = version.major >= 2;
        let tables = Tables::of(count, whole, entries.len() + 1)?;
        let mut new = Self {
            version,
            general: general.with_command_capabilities(true).with_configuration(true),
            operations,
            tables,
            queues: Vec::new(),
            groups: Vec::new(),
            permissions: Vec::new(),
            entries,
            config: GeneralConfiguration::default(),
            control: GeneralControl::default(),
            state: state::DISABLED,
            causes: 0,
            status: CommandStatus::default(),
            error: SoftwareError::default(),
            doing: None,
        };
        let queue = |part: &Part| VirtualQueue {
            has: part.queue,
            config: QueueConfiguration::default(),
            state: state::DISABLED,
            order: None,
        };
        new.queues = parts.iter().map(queue).collect();
        new.reset();
        Some(new)
    }

    /// As after a function-level reset, or the command Reset Device. Orders that are not finished are forgotten: interfaces
    /// are to be reset by whoever calls this.
    pub fn reset(&mut self) {
        let (version, operations) = (self.version, self.operations);
        for queue in &mut self.queues {
            queue.config = initial(version, operations);
            (queue.state, queue.order) = (state::DISABLED, None);
        }
        self.groups = alloc::vec![GroupConfiguration::default(); self.queues.len()];
        self.permissions = alloc::vec![MsixPermission::default(); self.entries.len() + 1];
        self.config = GeneralConfiguration::default();
        self.control = GeneralControl::default();
        (self.state, self.causes) = (state::DISABLED, 0);
        self.error = SoftwareError::default();
        self.doing = None;
        self.status = CommandStatus::default();
    }

    /// Bytes of the BAR, a power of two.
    #[must_use]
    pub const fn bytes(&self) -> u64 {
        self.tables.bytes
    }

    /// Entries of the MSI-X table, and where it and its pending bits are, each with pages of its own. They are not here.
    #[must_use]
    pub fn msix(&self) -> (u16, u64, u64) {
        (self.permissions.len() as u16, self.tables.msix, self.tables.pending)
    }

    /// The queue and the slot of it that an MSI-X entry is; `None` for entry 0, and where there is none.
    #[must_use]
    pub fn entry(&self, index: u16) -> Option<(usize, u16)> {
        let entry = self.entries.get(usize::from(index.checked_sub(1)?))?;
        entry.handle.map(|_| (entry.queue, entry.slot))
    }

    /// The register at an offset, or the table, as the specification calls it.
    #[must_use]
    pub fn name(&self, offset: u64) -> &'static str {
        const OPCAP_END: u64 = regs::OPCAP.offset() + 8 * OPCAP_WORDS;
        const SWERROR_END: u64 = regs::SWERROR.offset() + 32;
        match self.tables.place(offset & !7) {
            Some(Place::Group(..)) => return "GRPCFG",
            Some(Place::Queue(..)) => return "WQCFG",
            Some(Place::Permission(_)) => return "MSIXPERM",
            None => {}
        }
        let fixed = [
            (regs::VERSION.offset(), "VERSION"),
            (regs::GENCAP.offset(), "GENCAP"),
            (regs::WQCAP.offset(), "WQCAP"),
            (regs::GRPCAP.offset(), "GRPCAP"),
            (regs::ENGCAP.offset(), "ENGCAP"),
            (regs::GENCFG.offset(), "GENCFG"),
            (regs::GENCTRL.offset(), "GENCTRL"),
            (regs::GENSTS.offset(), "GENSTS"),
            (regs::INTCAUSE.offset(), "INTCAUSE"),
            (regs::CMD.offset(), "CMD"),
            (regs::CMDSTATUS.offset(), "CMDSTATUS"),
            (regs::CMDCAP.offset(), "CMDCAP"),
        ];
        let found = fixed.iter().find(|(at, _)| *at == offset & !7).map(|(_, name)| *name);
        found.unwrap_or(match offset {
            _ if (regs::OPCAP.offset()..OPCAP_END).contains(&offset) => "OPCAP",
            _ if (regs::OFFSETS.offset()..regs::OFFSETS.offset() + 16).contains(&offset) => {
                "OFFSETS"
            }
            _ if (regs::SWERROR.offset()..SWERROR_END).contains(&offset) => "SWERROR",
            _ => "-",
        })
    }

    /// Reads; all zeros where there is nothing, and where the access is not aligned.
    #[must_use]
    pub fn read(&self, offset: u64, width: Width) -> u64 {
        let shift = 8 * (offset % 8);
        match offset.is_multiple_of(width.bytes()) {
            true => self.word(offset & !7) >> shift & width.mask(),
            false => 0,
        }
    }

    /// Writes, as far as what is there can be written now.
    pub fn write(&mut self, offset: u64, width: Width, value: u64) -> Effect {
        if !offset.is_multiple_of(width.bytes()) {
            return Effect::None;
        }
        let shift = 8 * (offset % 8);
        let mask = width.mask() << shift;
        self.set_word(offset & !7, value << shift & mask, mask)
    }

    /// Tells the guest of something that happened, to one of its queues or to all.
    pub fn report(&mut self, queue: Option<usize>, what: Trouble) -> Effect {
        match what {
            Trouble::Work { error, operation, address } => {
                let found = SoftwareError::default()
                    .with_error(error)
                    .with_operation(operation)
                    .with_descriptor_valid(true)
                    .with_address(address.map_or(0, hw::Iova::raw));
                self.record(match queue {
                    Some(queue) => found.with_queue_valid(true).with_queue(queue as u8),
                    None => found,
                })
            }
            Trouble::Lost => {
                self.error = self.error.with_overflow(true);
                Effect::None
            }
            Trouble::Halted | Trouble::Dead(_) => {
                self.state = state::HALTED;
                self.queues.iter_mut().for_each(|queue| queue.state = state::DISABLED);
                match self.control.halt() {
                    true => self.raise(cause::HALT),
                    false => Effect::None,
                }
            }
            // What the guest has to do next is to reset it, as it would without that.
            Trouble::Recovered => Effect::None,
        }
    }

    /// Gives the queue to another interface, of which the guest learns no more than that its handles are others: it asks
    /// for them again. `None` where the interface cannot stand in for the one before.
    pub fn replace(&mut self, index: usize, part: &Part) -> Option<Effect> {
        let has = self.queues.get(index)?.has;
        let own = |entry: &&Entry| entry.queue == index && entry.handle.is_some();
        let slots = self.entries.iter().filter(own).count();
        if !part.queue.replaces(&has) || part.handles.len() != slots {
            return None;
        }
        for entry in self.entries.iter_mut().filter(|entry| entry.queue == index) {
            entry.handle = part.handles.get(usize::from(entry.slot)).copied();
        }
        Some(self.raise(cause::HANDLES_REVOKED))
    }

    fn raise(&mut self, cause: u32) -> Effect {
        self.causes |= cause;
        Effect::Interrupt
    }

    /// Records an error, or that there was one more (9.2.15).
    fn record(&mut self, error: SoftwareError) -> Effect {
        if self.error.valid() {
            self.error = self.error.with_overflow(true);
            return Effect::None;
        }
        self.error = error.with_valid(true).with_overflow(self.error.overflow());
        match self.control.software_error() {
            true => self.raise(cause::SOFTWARE_ERROR),
            false => Effect::None,
        }
    }

    fn word(&self, offset: u64) -> u64 {
        const OPCAP: u64 = regs::OPCAP.offset();
        const OPCAP_END: u64 = OPCAP + 8 * OPCAP_WORDS;
        const OFFSETS: u64 = regs::OFFSETS.offset();
        const SWERROR: u64 = regs::SWERROR.offset();
        const SWERROR_END: u64 = SWERROR + 32;
        let at = |first: u64, words: &[u64]| {
            words.get(((offset - first) / 8) as usize).copied().unwrap_or(0)
        };
        let first = |words: [u64; 1]| at(offset, &words);
        match offset {
            _ if offset == regs::VERSION.offset() => {
                u64::from(self.version.major) << 8 | u64::from(self.version.minor)
            }
            _ if offset == regs::GENCAP.offset() => first(self.general.0),
            _ if offset == regs::WQCAP.offset() => first(self.queue_capabilities().0),
            _ if offset == regs::GRPCAP.offset() => {
                first(GroupCapabilities::default().with_groups(self.count()).0)
            }
            _ if offset == regs::ENGCAP.offset() => {
                first(EngineCapabilities::default().with_engines(self.count()).0)
            }
            OPCAP..OPCAP_END => at(OPCAP, &self.operations),
            _ if offset == OFFSETS => at(OFFSETS, &self.tables.offsets().0),
            _ if offset == regs::GENCFG.offset() => first(self.config.0),
            _ if offset == regs::GENCTRL.offset() => first(self.control.0),
            _ if offset == regs::GENSTS.offset() => {
                let status = GeneralStatus::default().with_state(self.state);
                first(status.with_reset(reset::COMMAND).0)
            }
            _ if offset == regs::INTCAUSE.offset() => self.causes.into(),
            _ if offset == regs::CMDSTATUS.offset() => first(self.status.0),
            _ if offset == regs::CMDCAP.offset() => COMMANDS.into(),
            SWERROR..SWERROR_END => at(SWERROR, &self.error.0),
            _ => self.table_word(offset),
        }
    }

    /// Writes the bits of `mask` in a word; `bits` has no others.
    fn set_word(&mut self, offset: u64, bits: u64, mask: u64) -> Effect {
        let merged = self.word(offset) & !mask | bits;
        let disabled = self.state == state::DISABLED;
        match offset {
            _ if offset == regs::GENCFG.offset() && disabled => {
                let written = GeneralConfiguration([merged]);
                self.config = self.config.with_user_interrupts(written.user_interrupts());
            }
            _ if offset == regs::GENCTRL.offset() => {
                let written = GeneralControl([merged]);
                self.control = GeneralControl::default()
                    .with_software_error(written.software_error())
                    .with_halt(written.halt());
            }
            _ if offset == regs::INTCAUSE.offset() => self.causes &= !(bits as u32),
            // Half a command is none.
            _ if offset == regs::CMD.offset() && mask & 0xffff_ffff == 0xffff_ffff => {
                return self.command(bits & 0xffff_ffff);
            }
            _ if offset == regs::SWERROR.offset() => {
                let [first, ..] = &mut self.error.0;
                *first &= !(bits & SWERROR_CLEAR);
            }
            _ => self.set_table_word(offset, merged, disabled),
        }
        Effect::None
    }

    fn table_word(&self, offset: u64) -> u64 {
        let found = match self.tables.place(offset) {
            Some(Place::Group(index, word)) => {
                self.groups.get(index).and_then(|group| group.0.get(word)).copied()
            }
            Some(Place::Queue(index, word)) => self
                .queues
                .get(index)
                .and_then(|queue| queue.config.with_state(queue.state).0.get(word).copied()),
            Some(Place::Permission(index)) => {
                self.permissions.get(index).map(|permission| permission.0[0])
            }
            None => None,
        };
        found.unwrap_or(0)
    }

    fn set_table_word(&mut self, offset: u64, value: u64, disabled: bool) {
        match self.tables.place(offset) {
            // Words behind the flags are reserved.
            Some(Place::Group(index, word @ 0..=5)) if disabled => {
                let group = self.groups.get_mut(index).and_then(|group| group.0.get_mut(word));
                if let Some(at) = group {
                    *at = value;
                }
            }
            Some(Place::Queue(index, word)) => {
                if let Some(queue) = self.queues.get_mut(index) {
                    queue.set_word(word, value, disabled);
                }
            }
            Some(Place::Permission(index)) => {
                let written = MsixPermission([value]);
                if let Some(permission) = self.permissions.get_mut(index) {
                    *permission = MsixPermission::default()
                        .with_ignore(written.ignore())
                        .with_pasid_enable(written.pasid_enable())
                        .with_pasid(written.pasid());
                }
            }
            Some(Place::Group(..)) | None => {}
        }
    }

    fn queue_capabilities(&self) -> QueueCapabilities {
        let has = |mode| self.queues.iter().any(|queue| queue.has.mode == mode);
        let entries: u32 = self.queues.iter().map(|queue| u32::from(queue.has.entries)).sum();
        let whole = self.version.major >= 2;
        QueueCapabilities::default()
            .with_shared(has(Mode::Shared))
            .with_dedicated(has(Mode::Dedicated))
            .with_operations(whole && self.queues.iter().all(|queue| queue.has.chooses))
            .with_total_size(u16::try_from(entries).unwrap_or(u16::MAX))
            .with_queues(self.count())
            .with_config_size(if whole { queue::WHOLE } else { 0 })
    }

    /// Queues; groups and engines, too.
    fn count(&self) -> u8 {
        self.queues.len() as u8
    }
}

impl VirtualQueue {
    /// Writes a word as far as it can be written now (table 9-7).
    fn set_word(&mut self, word: usize, value: u64, device_disabled: bool) {
        let mut written = QueueConfiguration::default();
        if let Some(at) = written.0.get_mut(word) {
            *at = value;
        }
        let (old, disabled) = (self.config, self.state == state::DISABLED);
        match word {
            0 if device_disabled => {
                self.config = old.with_size(written.size()).with_threshold(written.threshold());
            }
            0 => self.config = old.with_threshold(written.threshold()),
            1 | 4..=7 if disabled => {
                if let Some(at) = self.config.0.get_mut(word) {
                    *at = value;
                }
            }
            _ => {}
        }
    }
}

/// A queue's configuration after reset.
fn initial(version: Version, operations: [u64; OPERATION_WORDS]) -> QueueConfiguration {
    let mut config = QueueConfiguration::default();
    if version.major >= 2 {
        config.0.iter_mut().skip(4).zip(operations).for_each(|(word, all)| *word = all);
    }
    config
}

/// The slots of all parts, in the order of MSI-X entries. Each part has one at least, so that the first are the queues'.
fn entries(parts: &[Part]) -> Vec<Entry> {
    let slots = parts.iter().map(|part| part.handles.len()).max().unwrap_or(0).max(1);
    let of_slot = |slot: usize| {
        let has = move |(_, part): &(usize, &Part)| slot == 0 || slot < part.handles.len();
        parts.iter().enumerate().filter(has).map(move |(queue, part)| Entry {
            queue,
            slot: slot as u16,
            handle: part.handles.get(slot).copied(),
        })
    };
    (0..slots).flat_map(of_slot).collect()
}
