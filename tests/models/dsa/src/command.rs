//! Administrative commands (3.15, 9.2.12): what they check, and when those that wait are complete.

use device_spec::dsa::command::{Command, CommandStatus, IMS, code, error};
use device_spec::dsa::group::GroupConfiguration;
use device_spec::dsa::registers::{
    GeneralConfiguration, GeneralControl, SoftwareError, cause, error as software, reset, state,
};

use crate::interrupt::{Entry, Interrupts};
use crate::queue::{Queue, Submitted};
use crate::registers::{OPERATIONS, READ_BUFFERS, initial_group};
use crate::{Bus, Device};

/// A command that waits for descriptors.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Pending {
    command: Command,
    /// It waits for those with smaller numbers.
    before: u64,
}

impl Pending {
    /// Whether it waits for a descriptor in queue `at`.
    fn concerns(&self, at: usize, submitted: &Submitted) -> bool {
        let operand = self.command.operand();
        submitted.number < self.before
            && match self.command.code() {
                code::DRAIN_PASID | code::ABORT_PASID => submitted.pasid == Some(operand),
                code::DISABLE_QUEUE..=code::RESET_QUEUE => names(operand, at),
                _ => true,
            }
    }
}

/// Whether an operand of [`device_spec::dsa::command::queues`] names queue `at`.
fn names(operand: u32, at: usize) -> bool {
    operand >> 16 == at as u32 / 16 && operand >> (at % 16) & 1 != 0
}

/// The queues that an operand names, of which the device may not have all.
fn named(operand: u32) -> impl Iterator<Item = usize> {
    let first = (operand >> 16) as usize * 16;
    (first..first + 16).filter(move |at| names(operand, *at))
}

impl Device {
    /// A command is written.
    pub(crate) fn command(&mut self, command: Command, bus: &mut impl Bus) {
        if self.status.active() {
            let active = SoftwareError::default().with_error(software::COMMAND_ACTIVE);
            return self.report(active, bus);
        }
        self.status = CommandStatus::default().with_active(true);
        if self.stuck {
            return;
        }
        match self.start(command) {
            Ok(Some(result)) => self.complete(command, error::NONE, result, bus),
            Ok(None) => self.pending = Some(Pending { command, before: self.taken + 1 }),
            Err(error) => self.complete(command, error, 0, bus),
        }
        self.abandon();
    }

    fn complete(&mut self, command: Command, error: u8, result: u16, bus: &mut impl Bus) {
        self.status = CommandStatus::default().with_error(error).with_result(result);
        if command.interrupt() {
            self.interrupt(cause::COMMAND, bus);
        }
    }

    /// Carries a command out, and gives its result, or begins one that waits.
    fn start(&mut self, command: Command) -> Result<Option<u16>, u8> {
        let (code, operand) = (command.code(), command.operand());
        if self.state == state::HALTED
            && (code != code::RESET_DEVICE || self.needs != reset::COMMAND)
        {
            return Err(if self.config.second() { error::HALTED } else { error::HARDWARE });
        }
        if self.config.commands() >> code & 1 == 0 {
            return Err(error::COMMAND);
        }
        let entry = Entry { ims: operand & IMS != 0, index: operand as u16 };
        match code {
            code::ENABLE_DEVICE => self.enable().map(|()| Some(0)),
            code::ENABLE_QUEUE => self.enable_queue(usize::from(operand as u8)).map(|()| Some(0)),
            code::REQUEST_HANDLE => {
                self.interrupts.request(entry).map(Some).ok_or(error::ENTRY_INDEX)
            }
            code::RELEASE_HANDLE => {
                self.interrupts.release(entry).map(|()| Some(0)).ok_or(error::ENTRY_INDEX)
            }
            code::DISABLE_DEVICE if self.state != state::ENABLED => Err(error::DISABLE_NOT_ENABLED),
            code::DISABLE_DEVICE | code::RESET_DEVICE => {
                (0..self.queues.len()).for_each(|at| self.stop(at));
                if self.state == state::ENABLED {
                    self.state = state::DRAINING;
                }
                Ok(None)
            }
            code::DISABLE_QUEUE..=code::RESET_QUEUE => {
                self.start_queues(code, operand).map(|()| None)
            }
            _ => Ok(None),
        }
    }

    fn start_queues(&mut self, code: u8, operand: u32) -> Result<(), u8> {
        for at in named(operand) {
            let queue = self.queues.get(at).ok_or(error::QUEUE_INDEX)?;
            if code != code::RESET_QUEUE && queue.state != state::ENABLED {
                return Err(error::QUEUE_NOT_ENABLED);
            }
        }
        if matches!(code, code::DISABLE_QUEUE | code::RESET_QUEUE) {
            named(operand).for_each(|at| self.stop(at));
        }
        Ok(())
    }

    /// A queue takes no more descriptors.
    fn stop(&mut self, at: usize) {
        let queue = &mut self.queues[at];
        if queue.state == state::ENABLED {
            queue.state = state::DRAINING;
        }
    }

    /// A command that aborts abandons what it concerns, but for what an engine does not let go of.
    fn abandon(&mut self) {
        let Some(pending) = self.pending else { return };
        if !matches!(
            pending.command.code(),
            code::ABORT_ALL
                | code::RESET_DEVICE
                | code::ABORT_QUEUE
                | code::RESET_QUEUE
                | code::ABORT_PASID
        ) {
            return;
        }
        for (at, queue) in self.queues.iter_mut().enumerate() {
            queue.waiting.retain(|waiting| !pending.concerns(at, waiting));
            queue.hung.retain(|hung| !hung.abortable || !pending.concerns(at, &hung.submitted));
        }
        self.ready.retain(|at| !self.queues[usize::from(*at)].waiting.is_empty());
    }

    /// Completes the command that waits, if nothing is left that it waits for.
    pub(crate) fn advance(&mut self, bus: &mut impl Bus) {
        let Some(pending) = self.pending else { return };
        let waits = |(at, queue): (usize, &Queue)| queue.all().any(|one| pending.concerns(at, one));
        if self.queues.iter().enumerate().any(waits) {
            return;
        }
        self.pending = None;
        let operand = pending.command.operand();
        match pending.command.code() {
            code::DISABLE_DEVICE => {
                self.queues.iter_mut().for_each(|queue| queue.state = state::DISABLED);
                self.state = state::DISABLED;
            }
            code::RESET_DEVICE => self.reset(),
            code::DISABLE_QUEUE => {
                named(operand).for_each(|at| self.queues[at].state = state::DISABLED);
            }
            code::RESET_QUEUE => named(operand).for_each(|at| self.queues[at].reset(&self.config)),
            _ => {}
        }
        self.complete(pending.command, error::NONE, 0, bus);
    }

    /// A software reset (3.15, table 9-3).
    fn reset(&mut self) {
        self.general = GeneralConfiguration::default().with_read_buffer_limit(READ_BUFFERS);
        self.control = GeneralControl::default();
        self.causes = 0;
        self.log.reset();
        (self.state, self.needs) = (state::DISABLED, reset::COMMAND);
        self.groups.fill(initial_group());
        self.queues.fill(Queue::new(&self.config));
        Interrupts::reset(&mut self.interrupts, &self.config);
    }

    /// Enable Device, and its checks (5.1).
    fn enable(&mut self) -> Result<(), u8> {
        if self.state != state::DISABLED {
            return Err(error::DEVICE_NOT_DISABLED);
        }
        if !self.function.bus_master {
            return Err(error::BUS_MASTER);
        }
        let sizes = self.queues.iter().map(|queue| u32::from(queue.config.size())).sum::<u32>();
        if sizes > self.config.total_size.into() {
            return Err(error::SIZES);
        }
        self.check_groups()?;
        self.check_read_buffers()?;
        if self.general.event_log() {
            self.log.start(self.function)?;
        }
        self.state = state::ENABLED;
        Ok(())
    }

    fn check_groups(&self) -> Result<(), u8> {
        let mut engines = 0;
        for group in &self.groups {
            if (group.0[..4] == [0; 4]) != (group.engines() == 0) {
                return Err(error::GROUP);
            }
            if engines & group.engines() != 0 {
                return Err(error::GROUP_ENGINES);
            }
            engines |= group.engines();
        }
        if engines >> self.config.engines != 0 {
            return Err(error::GROUP_ENGINES);
        }
        let active = |at: usize| self.queues.get(at).is_some_and(|queue| queue.config.size() != 0);
        let holders = |at: usize| {
            let holds = |group: &&GroupConfiguration| group.0[at / 64] >> (at % 64) & 1 != 0;
            self.groups.iter().filter(holds).count()
        };
        match (0..256).all(|at| holders(at) == usize::from(active(at))) {
            true => Ok(()),
            false => Err(error::GROUP_QUEUES),
        }
    }

    fn check_read_buffers(&self) -> Result<(), u8> {
        let used = || self.groups.iter().filter(|group| group.engines() != 0);
        let reserved = used().map(|group| u32::from(group.read_buffers_reserved())).sum::<u32>();
        let free = u32::from(READ_BUFFERS).checked_sub(reserved).ok_or(error::READ_BUFFERS)?;
        let right = |group: &GroupConfiguration| {
            let own = u32::from(group.read_buffers_reserved());
            let least = own.max(4 * group.engines().count_ones());
            (least..=own + free).contains(&group.read_buffers_allowed().into())
        };
        if used().all(right) { Ok(()) } else { Err(error::READ_BUFFERS) }
    }

    /// Enable WQ, and its checks (5.2).
    fn enable_queue(&mut self, at: usize) -> Result<(), u8> {
        let general = self.config.general();
        let enabled = self.state == state::ENABLED;
        let function = self.function;
        let queue = self.queues.get_mut(at).ok_or(error::QUEUE_INDEX)?;
        let config = queue.config;
        let pasid = config.pasid_enable();
        let checks = [
            (enabled, error::DEVICE_NOT_ENABLED),
            (queue.state == state::DISABLED, error::QUEUE_NOT_DISABLED),
            (config.size() != 0, error::QUEUE_SIZE),
            (config.priority() != 0, error::PRIORITY),
            (!config.block_on_fault(), error::BLOCK_ON_FAULT),
            (if pasid { function.pasid } else { config.dedicated() }, error::PASID_ENABLE),
            ((1..=general.max_batch()).contains(&config.max_batch()), error::BATCH_SIZE),
            (config.max_transfer() <= general.max_transfer(), error::TRANSFER_SIZE),
            (
                function.privileged || !(config.dedicated() && pasid && config.privileged()),
                error::PRIVILEGE,
            ),
            (config.0[4] & !OPERATIONS == 0 && config.0[5..] == [0; 3], error::OPERATIONS),
        ];
        match checks.iter().find(|(right, _)| !right) {
            Some((_, error)) => Err(*error),
            None => {
                queue.state = state::ENABLED;
                Ok(())
            }
        }
    }
}
