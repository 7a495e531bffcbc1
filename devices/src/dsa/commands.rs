//! What is written to the device for one interface: commands, of which the device takes one at a time (3.15), and interrupt
//! entries (9.2.28).
//!
//! The command register cannot be taken back from a command that does not end: until it does, or the function is reset as a
//! whole, no queue of any owner could be enabled or disabled. So commands that wait for descriptors are not written where
//! there is another way. A queue that tells how full it is is drained by seeing it empty once ([`Step::Emptying`]): all that
//! it had has gone to engines, where it takes no longer than its size allows ([`Step::Settling`]). What is there still when
//! the queue is then reset hangs, and the reset drops it.

use alloc::collections::VecDeque;

use device_spec::dsa::command::{Command as Register, CommandStatus, code, queues};
use device_spec::dsa::interrupt::ImsEntry;
use device_spec::dsa::registers as regs;
use hw::{Clock, Deadline, Pasid, RegisterBus, Width};

use super::Settings;
use crate::error::Fault;
use crate::function::{Command, SlotMessage};
use crate::interface::InterfaceId;

/// How long a queue may take to become empty: 128 descriptors of 2 GiB at 30 GB/s. Also the longest that an engine is waited
/// for: only batches of more than 10 GB can take longer.
pub(super) const EMPTY_NS: u64 = 10_000_000_000;
/// How long the device may take for a command: what engines have at work, with much to spare.
pub(super) const COMMAND_NS: u64 = 1_000_000_000;

/// For whom the device carries out a command.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Whom {
    /// For an interface.
    Interface(InterfaceId),
    /// To get it out of the halt state: it is being reset.
    Reset,
    /// Likewise: it is being enabled.
    Enable,
}

/// The command register.
#[derive(Debug, Default)]
pub(super) struct CommandRegister {
    active: Option<(Whom, Deadline)>,
    /// Interfaces whose commands wait for it.
    pub(super) waiting: VecDeque<InterfaceId>,
}

impl CommandRegister {
    /// Whether nothing is active.
    pub(super) const fn is_free(&self) -> bool {
        self.active.is_none()
    }

    /// Writes a command; to a free register only.
    pub(super) fn write(
        &mut self,
        regs: &impl RegisterBus,
        clock: &impl Clock,
        whom: Whom,
        command: Register,
    ) {
        regs.write(regs::CMD, command);
        self.active = Some((whom, Deadline::after_ns(clock, COMMAND_NS)));
    }

    /// What became of the active command, once that is known.
    pub(super) fn poll(
        &mut self,
        regs: &impl RegisterBus,
        clock: &impl Clock,
    ) -> Option<(Whom, Result<(), Fault>)> {
        let (whom, until) = self.active?;
        let late = until.has_passed(clock);
        let status = regs.read(regs::CMDSTATUS);
        let result = match result(status) {
            Some(result) => result,
            None if late => Err(Fault::Timeout),
            None => return None,
        };
        self.active = None;
        Some((whom, result))
    }

    /// Forgets the active command: the device is halted, or does not answer any more.
    pub(super) fn abandon(&mut self) {
        *self = Self::default();
    }
}

/// How a command ended; `None` while it is active.
pub(super) fn result(status: CommandStatus) -> Option<Result<(), Fault>> {
    match status {
        _ if status.0 == [u32::MAX.into()] => Some(Err(Fault::Gone)),
        _ if status.active() => None,
        _ => match status.error() {
            0 => Some(Ok(())),
            device_spec::dsa::command::error::HALTED => Some(Err(Fault::Halted)),
            error => Some(Err(Fault::Refused(error.into()))),
        },
    }
}

/// A command to a queue, which was seen drained before or not.
pub(super) fn to_queue(command: Command, number: u16, drained: bool) -> Register {
    let number = number as u8;
    let (code, operand) = match command {
        Command::Enable => (code::ENABLE_QUEUE, number.into()),
        Command::Disable if drained => (code::RESET_QUEUE, queues(number)),
        Command::Disable => (code::DISABLE_QUEUE, queues(number)),
        Command::Drain => (code::DRAIN_QUEUE, queues(number)),
        Command::Abort => (code::ABORT_QUEUE, queues(number)),
        Command::Reset => (code::RESET_QUEUE, queues(number)),
    };
    Register::default().with_code(code).with_operand(operand)
}

/// How long engines may take for what a queue gave them, at 1 GB/s.
pub(super) fn settle_ns(settings: &Settings) -> u64 {
    let shift = u32::from(settings.max_transfer) + u32::from(settings.max_batch);
    1_u64.checked_shl(shift).unwrap_or(u64::MAX).min(EMPTY_NS)
}

/// How far an interface's command has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Step {
    /// The queue is not empty yet.
    Emptying(Deadline),
    /// It was seen empty; engines may be at work until then.
    Settling(Deadline),
    /// Another interface's is active.
    Waiting,
    /// The device carries it out.
    Active,
    /// It is over, and the interface's owner does not know yet.
    Done(Result<(), Fault>),
}

/// An interrupt slot.
#[derive(Clone, Copy, Debug)]
pub(super) struct Slot {
    /// Its entry in the interrupt message storage.
    pub(super) entry: u16,
    pub(super) message: Option<SlotMessage>,
    pub(super) masked: bool,
}

impl Slot {
    /// Writes it to its entry. Descriptors with another PASID raise nothing by it; without a PASID none do.
    pub(super) fn program(&self, regs: &impl RegisterBus, at: u64, pasid: Option<Pasid>) {
        silence(regs, at);
        let (Some(message), Some(pasid)) = (self.message, pasid) else { return };
        let entry = ImsEntry::default()
            .with_address(message.address)
            .with_data(message.data)
            .with_mask(self.masked)
            .with_pasid_enable(true)
            .with_pasid(pasid.raw());
        let [address, rest] = entry.0;
        regs.store(at, Width::W8, address);
        regs.store(at + 8, Width::W4, rest);
        regs.store(at + CONTROL, Width::W4, rest >> 32);
    }
}

/// An entry's control bits, in the upper half of its second word.
pub(super) const CONTROL: u64 = 12;

/// Has an entry send nothing. What it sent before has arrived when this returns.
pub(super) fn silence(regs: &impl RegisterBus, at: u64) {
    let [_, silent] = ImsEntry::default().with_mask(true).with_ignore(true).0;
    regs.store(at + CONTROL, Width::W4, silent >> 32);
    regs.load(at + CONTROL, Width::W4);
}
