//! The device: its state, how descriptors come in and are dispatched, and how it is made to misbehave.

use std::collections::{BTreeMap, VecDeque};

use device_spec::dsa::command::CommandStatus;
use device_spec::dsa::descriptor::{BYTES, operation};
use device_spec::dsa::group::GroupConfiguration;
use device_spec::dsa::portal::Portal;
use device_spec::dsa::registers::{
    GeneralConfiguration, GeneralControl, SoftwareError, cause, error, reset, state,
};
use hw::Width;

use crate::batch;
use crate::command::Pending;
use crate::event_log::EventLog;
use crate::interrupt::Interrupts;
use crate::queue::{Hung, Queue, Submitted};
use crate::registers::{READ_BUFFERS, initial_group};
use crate::{Bus, Config, Function, Layout, Submission};

/// How the device misbehaves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// It halts, until a reset of the kind ([`reset`]).
    Halt(u8),
    /// A queue's next descriptor never ends: its engine is lost to its group. An abort ends it only if it is `abortable`;
    /// else it takes a function-level reset.
    Hang {
        /// The queue.
        queue: u8,
        /// Whether an abort ends it.
        abortable: bool,
    },
    /// No command that is written from now on ends.
    StuckCommands,
    /// The eight bytes at an offset in BAR 0, a multiple of eight, read so.
    Lie {
        /// The offset.
        offset: u64,
        /// What is read.
        value: u64,
    },
    /// It is gone from the bus: reads are all ones, writes are lost, and nothing is done.
    Gone,
    /// Handles that were given are good no more.
    RevokeHandles,
}

/// The device.
#[derive(Clone, Debug)]
pub struct Device {
    pub(crate) config: Config,
    pub(crate) layout: Layout,
    pub(crate) function: Function,
    pub(crate) general: GeneralConfiguration,
    pub(crate) control: GeneralControl,
    pub(crate) causes: u32,
    pub(crate) status: CommandStatus,
    pub(crate) error: SoftwareError,
    pub(crate) log: EventLog,
    pub(crate) state: u8,
    /// What gets it out of the halt state.
    pub(crate) needs: u8,
    pub(crate) groups: Vec<GroupConfiguration>,
    pub(crate) queues: Vec<Queue>,
    pub(crate) interrupts: Interrupts,
    pub(crate) pending: Option<Pending>,
    /// Queues with descriptors that wait, in the order of their turns.
    pub(crate) ready: VecDeque<u8>,
    /// Descriptors that were taken.
    pub(crate) taken: u64,
    pub(crate) stuck: bool,
    lies: BTreeMap<u64, u64>,
    gone: bool,
}

impl Device {
    /// As after power-on.
    #[must_use]
    pub fn new(config: Config) -> Self {
        Self {
            layout: config.layout(),
            function: Function::default(),
            general: GeneralConfiguration::default().with_read_buffer_limit(READ_BUFFERS),
            control: GeneralControl::default(),
            causes: 0,
            status: CommandStatus::default(),
            error: SoftwareError::default(),
            log: EventLog::default(),
            state: state::DISABLED,
            needs: reset::COMMAND,
            groups: vec![initial_group(); usize::from(config.groups)],
            queues: vec![Queue::new(&config); usize::from(config.queues)],
            interrupts: Interrupts::new(&config),
            pending: None,
            ready: VecDeque::new(),
            taken: 0,
            stuck: false,
            lies: BTreeMap::new(),
            gone: false,
            config,
        }
    }

    /// Where its tables are.
    #[must_use]
    pub const fn layout(&self) -> Layout {
        self.layout
    }

    /// A function-level reset: as after power-on, unless it is halted and that is not enough. Configuration space is reset
    /// by the wrapper, which tells of it next.
    pub fn reset_function(&mut self) {
        if self.state == state::HALTED && self.needs > reset::FUNCTION {
            return;
        }
        let (lies, gone, taken) = (std::mem::take(&mut self.lies), self.gone, self.taken);
        *self = Self { lies, gone, taken, ..Self::new(self.config.clone()) };
    }

    /// Configuration space says something else. What may not change while the device is not disabled halts it (5.7).
    pub fn set_function(&mut self, function: Function, bus: &mut impl Bus) {
        let old = std::mem::replace(&mut self.function, function);
        let fixed = |function: Function| Function { msix: false, msix_masked: false, ..function };
        let live = [state::ENABLED, state::DRAINING].contains(&self.state);
        if live && fixed(old) != fixed(function) {
            let error = SoftwareError::default().with_error(error::CONFIGURATION_SPACE);
            self.software_error(error, bus);
            self.halt(reset::COMMAND, bus);
        }
        self.interrupts.deliver_all(function, bus);
    }

    /// Makes it misbehave.
    pub fn inject(&mut self, fault: Fault, bus: &mut impl Bus) {
        match fault {
            Fault::Halt(needs) => self.halt(needs, bus),
            Fault::Hang { queue, abortable } => {
                if let Some(queue) = self.queues.get_mut(usize::from(queue)) {
                    queue.hang = Some(abortable);
                }
            }
            Fault::StuckCommands => self.stuck = true,
            Fault::Lie { offset, value } => {
                self.lies.insert(offset, value);
            }
            Fault::Gone => self.gone = true,
            Fault::RevokeHandles => {
                if self.interrupts.revoke() {
                    self.interrupt(cause::HANDLES_REVOKED, bus);
                }
            }
        }
    }

    fn halt(&mut self, needs: u8, bus: &mut impl Bus) {
        (self.state, self.needs) = (state::HALTED, needs);
        if self.control.halt() {
            self.interrupt(cause::HALT, bus);
        }
    }

    /// Raises the first MSI-X entry, for a cause.
    pub(crate) fn interrupt(&mut self, cause: u32, bus: &mut impl Bus) {
        self.causes |= cause;
        self.interrupts.raise(0, self.function, bus);
    }

    /// Reads BAR 0. Accesses that are not aligned read 0.
    #[must_use]
    pub fn read(&self, offset: u64, width: Width) -> u64 {
        if self.gone {
            return width.mask();
        }
        let (word, within) = (offset & !7, offset & 7);
        if !within.is_multiple_of(width.bytes()) {
            return 0;
        }
        let value = self.lies.get(&word).copied().unwrap_or_else(|| self.word(word));
        value >> (8 * within) & width.mask()
    }

    /// Writes BAR 0, and does what follows from it but for work on descriptors. Accesses that are not aligned are lost.
    pub fn write(&mut self, offset: u64, width: Width, value: u64, bus: &mut impl Bus) {
        let within = offset & 7;
        if self.gone || !within.is_multiple_of(width.bytes()) {
            return;
        }
        let mask = width.mask() << (8 * within);
        self.set_word(offset & !7, value << (8 * within), mask, bus);
        self.advance(bus);
    }

    /// Takes 64 bytes that are written at `offset` in BAR 2 (5.3); whether it did, which only a deferrable write is told.
    pub fn submit(
        &mut self,
        offset: u64,
        bytes: &[u8; BYTES as usize],
        submission: Submission,
        bus: &mut impl Bus,
    ) -> bool {
        let Some(portal) = Portal::at(offset).filter(|_| offset.is_multiple_of(BYTES)) else {
            return false;
        };
        let index = usize::from(portal.queue);
        let works = self.state == state::ENABLED && !self.gone;
        let Some(queue) = self.queues.get_mut(index).filter(|queue| {
            works && queue.state == state::ENABLED && (!portal.ims || self.config.ims > 0)
        }) else {
            return false;
        };
        let dedicated = queue.config.dedicated();
        if dedicated != (submission == Submission::Posted) {
            return false;
        }
        if !queue.has_room(portal.limited) {
            if dedicated {
                let full = SoftwareError::default().with_error(error::QUEUE_FULL);
                let full = full.with_queue_valid(true).with_queue(portal.queue);
                self.software_error(full, bus);
            }
            return false;
        }
        let descriptor = batch::descriptor(bytes);
        self.taken += 1;
        let config = queue.config;
        let (pasid, privileged) = if dedicated {
            (config.pasid(), config.privileged())
        } else {
            (descriptor.pasid(), descriptor.privileged())
        };
        let pasid = config.pasid_enable().then_some(pasid);
        let number = self.taken;
        if queue.waiting.is_empty() {
            self.ready.push_back(portal.queue);
        }
        queue.waiting.push_back(Submitted {
            descriptor,
            pasid,
            privileged,
            ims: portal.ims,
            number,
        });
        true
    }

    /// Works on all descriptors that can be worked on, a queue's after one another and queues in turns, and ends the command
    /// that waits for them.
    pub fn run(&mut self, bus: &mut impl Bus) {
        let mut stalled = 0;
        while stalled < self.ready.len() && self.works() {
            let Some(index) = self.ready.pop_front() else { break };
            let at = usize::from(index);
            if self.dispatch(at, bus) {
                stalled = 0;
            } else {
                stalled += 1;
            }
            if !self.queues[at].waiting.is_empty() {
                self.ready.push_back(index);
            }
        }
        self.advance(bus);
    }

    /// Works on the next descriptor of whose turn it is. Whether there was one.
    pub fn step(&mut self, bus: &mut impl Bus) -> bool {
        let turns = self.ready.len();
        for _ in 0..turns {
            let Some(index) = self.ready.pop_front().filter(|_| self.works()) else { break };
            let worked = self.dispatch(usize::from(index), bus);
            if !self.queues[usize::from(index)].waiting.is_empty() {
                self.ready.push_back(index);
            }
            if worked {
                self.advance(bus);
                return true;
            }
        }
        false
    }

    fn works(&self) -> bool {
        !self.gone && [state::ENABLED, state::DRAINING].contains(&self.state)
    }

    /// Gives a queue's next descriptor to an engine, if one is free for it.
    fn dispatch(&mut self, at: usize, bus: &mut impl Bus) -> bool {
        let queue = &self.queues[at];
        let Some(next) = queue.waiting.front().copied() else { return false };
        // A Drain waits for all in a dedicated queue and for its owner's in a shared one, where all else is in order.
        let waits = |hung: &Hung| queue.config.dedicated() || hung.submitted.pasid == next.pasid;
        let drains = next.descriptor.operation() == operation::DRAIN;
        if drains && queue.hung.iter().any(waits) || !self.has_engine(at) {
            return false;
        }
        let queue = &mut self.queues[at];
        queue.waiting.pop_front();
        match queue.hang.take() {
            Some(abortable) => queue.hung.push(Hung { submitted: next, abortable }),
            None => self.execute(at, next, bus),
        }
        true
    }

    /// Whether a queue's group has an engine that does not hang.
    fn has_engine(&self, at: usize) -> bool {
        let member = |group: &GroupConfiguration, at: usize| group.0[at / 64] >> (at % 64) & 1 != 0;
        let Some(group) = self.groups.iter().find(|group| member(group, at)) else { return false };
        let hung = self.queues.iter().enumerate().filter(|(_, queue)| !queue.hung.is_empty());
        let hung = hung.filter(|(at, _)| member(group, *at)).map(|(_, queue)| queue.hung.len());
        hung.sum::<usize>() < group.engines().count_ones() as usize
    }
}
