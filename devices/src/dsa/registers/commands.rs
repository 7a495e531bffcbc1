//! The guest's commands (3.15, 9.2.12): what they check, as a device would, and what they mean for the interfaces.

use device_spec::dsa::command::{Command as Register, CommandStatus, IMS, code, error};
use device_spec::dsa::group::GroupConfiguration;
use device_spec::dsa::registers::{SoftwareError, cause, error as software, state};

use super::{COMMANDS, Effect, VirtualQueue, VirtualRegisters, initial};
use crate::dsa::Settings;
use crate::error::Fault;
use crate::function::Command;
use crate::interface::Mode;

/// A command that waits for interfaces.
#[derive(Clone, Copy, Debug)]
pub(super) struct Doing {
    command: Register,
    /// The first thing that went wrong.
    error: u8,
}

/// What is to be done with the interface of a queue.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Order {
    /// The queue.
    pub queue: usize,
    /// The command to start.
    pub command: Command,
    /// To be set before that.
    pub settings: Option<Settings>,
}

impl VirtualRegisters {
    /// What is to be done with the interface of a queue: it is ended by [`Self::finish`].
    #[must_use]
    pub fn order(&self, queue: usize) -> Option<Order> {
        let found = self.queues.get(queue)?;
        let command = found.order?;
        let settings = (command == Command::Enable).then(|| found.settings());
        Some(Order { queue, command, settings })
    }

    /// All that is to be done.
    pub fn orders(&self) -> impl Iterator<Item = Order> {
        (0..self.queues.len()).filter_map(|queue| self.order(queue))
    }

    /// How an order went.
    pub fn finish(&mut self, index: usize, result: Result<(), Fault>) -> Effect {
        let Some(queue) = self.queues.get_mut(index) else { return Effect::None };
        let Some(command) = queue.order.take() else { return Effect::None };
        match (command, result) {
            (Command::Enable, Ok(())) => queue.state = state::ENABLED,
            // It did not become empty, and goes on.
            (Command::Disable, Err(_)) => queue.state = state::ENABLED,
            (Command::Disable | Command::Reset, _) => queue.state = state::DISABLED,
            (Command::Enable, Err(_)) | (Command::Drain | Command::Abort, _) => {}
        }
        let Some(doing) = &mut self.doing else { return Effect::None };
        if let (Err(why), error::NONE) = (result, doing.error) {
            doing.error = match why {
                Fault::Refused(code) => code as u8,
                _ => error::HARDWARE,
            };
        }
        self.end_if_done()
    }

    /// A command is written.
    pub(super) fn command(&mut self, raw: u64) -> Effect {
        if self.doing.is_some() {
            let active = SoftwareError::default().with_error(software::COMMAND_ACTIVE);
            return self.record(active);
        }
        let command = Register([raw]);
        match self.begin(command) {
            Ok(None) => {
                self.doing = Some(Doing { command, error: error::NONE });
                self.status = CommandStatus::default().with_active(true);
                match self.end_if_done() {
                    Effect::None if self.doing.is_some() => Effect::Start,
                    effect => effect,
                }
            }
            Ok(Some(result)) => self.complete(command, error::NONE, result),
            Err(error) => self.complete(command, error, 0),
        }
    }

    /// Ends the command that waits, once it waits for nothing any more.
    fn end_if_done(&mut self) -> Effect {
        let Some(Doing { command, error: found }) = self.doing else { return Effect::None };
        if self.queues.iter().any(|queue| queue.order.is_some()) {
            return Effect::None;
        }
        self.doing = None;
        match command.code() {
            code::RESET_DEVICE => self.reset(),
            code::DISABLE_DEVICE if self.state == state::DRAINING => {
                self.state = if found == error::NONE { state::DISABLED } else { state::ENABLED };
            }
            code::RESET_QUEUE => {
                let (version, operations) = (self.version, self.operations);
                for queue in named(&mut self.queues, command.operand()) {
                    let size = queue.config.size();
                    queue.config = initial(version, operations).with_size(size);
                }
            }
            _ => {}
        }
        self.complete(command, found, 0)
    }

    fn complete(&mut self, command: Register, error: u8, result: u16) -> Effect {
        self.status = CommandStatus::default().with_error(error).with_result(result);
        match command.interrupt() {
            true => self.raise(cause::COMMAND),
            false => Effect::None,
        }
    }

    /// Carries a command out and gives its result, or gives orders.
    fn begin(&mut self, command: Register) -> Result<Option<u16>, u8> {
        let (code, operand) = (command.code(), command.operand());
        if COMMANDS >> code & 1 == 0 {
            return Err(error::COMMAND);
        }
        if self.state == state::HALTED && code != code::RESET_DEVICE {
            return Err(if self.version.major >= 2 { error::HALTED } else { error::HARDWARE });
        }
        match code {
            code::ENABLE_DEVICE => {
                self.check_device()?;
                self.state = state::ENABLED;
                Ok(Some(0))
            }
            code::ENABLE_QUEUE => self.enable_queue(operand).map(|()| None),
            code::REQUEST_HANDLE => self.handle(operand).map(Some),
            code::RELEASE_HANDLE => self.handle(operand).map(|_| Some(0)),
            code::DISABLE_DEVICE if self.state != state::ENABLED => Err(error::DISABLE_NOT_ENABLED),
            code::DISABLE_DEVICE => {
                self.state = state::DRAINING;
                Ok(self.order_enabled(Command::Disable))
            }
            code::DRAIN_ALL => Ok(self.order_enabled(Command::Drain)),
            code::ABORT_ALL => Ok(self.order_enabled(Command::Abort)),
            code::RESET_DEVICE => {
                self.queues.iter_mut().for_each(|queue| queue.take(Command::Reset));
                Ok(None)
            }
            code::DISABLE_QUEUE => self.order_named(operand, Command::Disable),
            code::DRAIN_QUEUE => self.order_named(operand, Command::Drain),
            code::ABORT_QUEUE => self.order_named(operand, Command::Abort),
            _ => self.order_named(operand, Command::Reset),
        }
    }

    fn order_enabled(&mut self, command: Command) -> Option<u16> {
        let enabled = self.queues.iter_mut().filter(|queue| queue.state == state::ENABLED);
        enabled.for_each(|queue| queue.take(command));
        None
    }

    fn order_named(&mut self, operand: u32, command: Command) -> Result<Option<u16>, u8> {
        let wanted = (operand & 0xffff).count_ones() as usize;
        if named(&mut self.queues, operand).count() != wanted {
            return Err(error::QUEUE_INDEX);
        }
        let is_on = |queue: &mut VirtualQueue| queue.state == state::ENABLED;
        if command != Command::Reset && !named(&mut self.queues, operand).all(is_on) {
            return Err(error::QUEUE_NOT_ENABLED);
        }
        named(&mut self.queues, operand).for_each(|queue| queue.take(command));
        Ok(None)
    }

    /// Request, or Release Interrupt Handle. A handle is the guest's as long as the slot is.
    fn handle(&self, operand: u32) -> Result<u16, u8> {
        let index = usize::from(operand as u16);
        if operand & IMS != 0 {
            return Err(error::ENTRY_INDEX);
        }
        let entry = index.checked_sub(1).and_then(|index| self.entries.get(index));
        let handle = entry.ok_or(error::ENTRY_INDEX)?.handle;
        handle.map(|handle| handle.0).ok_or(error::NO_HANDLE)
    }

    /// Enable Device (5.1).
    fn check_device(&self) -> Result<(), u8> {
        if self.state != state::DISABLED {
            return Err(error::DEVICE_NOT_DISABLED);
        }
        // A queue's entries are its interface's and cannot be lent to another one.
        if self.queues.iter().any(|queue| queue.config.size() > queue.has.entries) {
            return Err(error::SIZES);
        }
        let members = |group: &GroupConfiguration| {
            let [first, second, third, fourth, ..] = group.0;
            [first, second, third, fourth]
        };
        let mut engines = 0;
        for group in &self.groups {
            if (members(group) == [0; 4]) != (group.engines() == 0) {
                return Err(error::GROUP);
            }
            if engines & group.engines() != 0 {
                return Err(error::GROUP_ENGINES);
            }
            engines |= group.engines();
        }
        if self.queues.len() < 64 && engines >> self.queues.len() != 0 {
            return Err(error::GROUP_ENGINES);
        }
        let holders = |index: usize| {
            let holds = |group: &&GroupConfiguration| {
                let word = members(group).get(index / 64).copied().unwrap_or(0);
                word >> (index % 64) & 1 != 0
            };
            self.groups.iter().filter(holds).count()
        };
        let is_used =
            |index: usize| self.queues.get(index).is_some_and(|queue| queue.config.size() != 0);
        match (0..256).all(|index| holders(index) == usize::from(is_used(index))) {
            true => Ok(()),
            false => Err(error::GROUP_QUEUES),
        }
    }

    /// Enable Queue (5.2).
    fn enable_queue(&mut self, operand: u32) -> Result<(), u8> {
        let (general, operations) = (self.general, self.operations);
        let (is_enabled, chooses) =
            (self.state == state::ENABLED, self.queue_capabilities().operations());
        let queue = self.queues.get_mut(operand as usize).ok_or(error::QUEUE_INDEX)?;
        let config = queue.config;
        let is_dedicated = queue.has.mode == Mode::Dedicated;
        let mut pairs = queue.settings().operations.into_iter().zip(operations);
        let checks = [
            (is_enabled, error::DEVICE_NOT_ENABLED),
            (queue.state == state::DISABLED, error::QUEUE_NOT_DISABLED),
            (config.size() != 0, error::QUEUE_SIZE),
            (config.dedicated() == is_dedicated, error::MODE),
            (!config.block_on_fault(), error::BLOCK_ON_FAULT),
            (!config.pasid_enable(), error::PASID_ENABLE),
            (config.max_batch() <= general.max_batch(), error::BATCH_SIZE),
            (config.max_transfer() <= general.max_transfer(), error::TRANSFER_SIZE),
            (!config.ats_disable(), error::ATS),
            (!config.prs_disable(), error::PRS),
            (!chooses || pairs.all(|(asked, has)| asked & !has == 0), error::OPERATIONS),
        ];
        match checks.iter().find(|(right, _)| !right) {
            Some((_, error)) => Err(*error),
            None => {
                queue.take(Command::Enable);
                Ok(())
            }
        }
    }
}

impl VirtualQueue {
    /// Has something to do.
    fn take(&mut self, command: Command) {
        self.order = Some(command);
        if matches!(command, Command::Disable | Command::Reset) && self.state == state::ENABLED {
            self.state = state::DRAINING;
        }
    }

    /// What the guest has set.
    fn settings(&self) -> Settings {
        let config = self.config;
        let all = self.has.settings();
        let [.., first, second, third, fourth] = config.0;
        Settings {
            max_transfer: config.max_transfer(),
            max_batch: config.max_batch(),
            threshold: config.threshold().min(all.threshold),
            operations: if self.has.chooses {
                [first, second, third, fourth]
            } else {
                all.operations
            },
        }
    }
}

/// The queues that an operand of [`device_spec::dsa::command::queues`] names, of those that there are.
fn named(queues: &mut [VirtualQueue], operand: u32) -> impl Iterator<Item = &mut VirtualQueue> {
    let first = (operand >> 16) as usize * 16;
    let is_named = move |(bit, _): &(u32, &mut VirtualQueue)| operand >> bit & 1 != 0;
    (0..16).zip(queues.iter_mut().skip(first)).filter(is_named).map(|(_, queue)| queue)
}
