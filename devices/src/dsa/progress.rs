//! How commands go on, and what becomes of interfaces when the device fails.

use device_spec::dsa::command::{Command as Register, code};
use device_spec::dsa::registers::{self as regs, SoftwareError, reset};
use hw::{Clock, Iova, RegisterBus, Width};

use super::commands::{self, Step, Whom};
use super::driver::{Dsa, Health};
use crate::error::Fault;
use crate::function::{Command, Report, Trouble};
use crate::interface::{InterfaceId, State};

impl<R: RegisterBus, C: Clock> Dsa<R, C> {
    /// Goes on with commands as far as that needs no waiting.
    pub(super) fn advance(&mut self) {
        if let Health::Dead(_) = self.health {
            return;
        }
        match self.register.poll(&self.regs, &self.clock) {
            Some((_, Err(why @ (Fault::Timeout | Fault::Gone)))) => self.die(why),
            Some((Whom::Interface(id), result)) => self.completed(id, result),
            Some((whom, result)) => self.recover(whom, result),
            None => {}
        }
        while self.register.is_free() && self.health == Health::Works {
            let Some(id) = self.register.waiting.pop_front() else { break };
            let Ok(carved) = self.carved.at(id) else { continue };
            let Some((command, Step::Waiting)) = carved.doing else { continue };
            if command == Command::Enable {
                self.configure(carved);
            }
            let written = commands::to_queue(command, id.number(), self.has.queues.occupancy());
            self.register.write(&self.regs, &self.clock, Whom::Interface(id), written);
            if let Ok(carved) = self.carved.at_mut(id) {
                carved.doing = Some((command, Step::Active));
            }
        }
    }

    /// The device has carried out an interface's command.
    fn completed(&mut self, id: InterfaceId, result: Result<(), Fault>) {
        let Ok(carved) = self.carved.at_mut(id) else { return };
        let Some((command, _)) = carved.doing else { return };
        carved.doing = Some((command, Step::Done(result)));
        match (command, result) {
            (Command::Enable, Ok(())) => carved.interface.state = State::Enabled,
            (Command::Disable, Ok(())) => carved.interface.state = State::Disabled,
            (Command::Reset, Ok(())) => {
                carved.interface.state = State::Disabled;
                carved.settings = carved.queue.settings();
            }
            _ => {}
        }
    }

    /// A command is over that is to get the device out of its halt state.
    fn recover(&mut self, whom: Whom, result: Result<(), Fault>) {
        match (whom, result) {
            (_, Err(why)) => self.die(why),
            (Whom::Reset, Ok(())) => {
                self.plan.lay_out(&self.regs, &self.has);
                for (_, carved) in self.carved.iter() {
                    carved.slots.iter().for_each(|slot| self.program(carved, slot));
                }
                let enable = Register::default().with_code(code::ENABLE_DEVICE);
                self.register.write(&self.regs, &self.clock, Whom::Enable, enable);
            }
            (_, Ok(())) => {
                self.health = Health::Works;
                self.listen();
                self.report_all(Trouble::Recovered);
            }
        }
    }

    /// It has halted (5.8): nothing that was under way will end.
    pub(super) fn halted(&mut self, needs: u8) {
        self.end_all(Fault::Halted, |_| State::Disabled);
        self.report_all(Trouble::Halted);
        if needs != reset::COMMAND {
            return self.die(Fault::Halted);
        }
        self.health = Health::Recovers;
        let reset = Register::default().with_code(code::RESET_DEVICE);
        self.register.write(&self.regs, &self.clock, Whom::Reset, reset);
    }

    /// It takes no more commands. Queues go on with their work, but for one whose command does not end: nobody knows what
    /// it does.
    pub(super) fn die(&mut self, why: Fault) {
        self.end_all(why, |state| state);
        self.health = Health::Dead(why);
        self.reports.push(Report { interface: None, what: Trouble::Dead(why) });
    }

    /// Ends all commands.
    fn end_all(&mut self, why: Fault, becomes: impl Fn(State) -> State) {
        self.register.abandon();
        for carved in self.carved.values_mut() {
            if let Some((_, step)) = &mut carved.doing
                && !matches!(step, Step::Done(_))
            {
                if *step == Step::Active {
                    carved.interface.state = State::Stuck;
                }
                *step = Step::Done(Err(why));
            }
            carved.interface.state = becomes(carved.interface.state);
        }
    }

    fn report_all(&mut self, what: Trouble) {
        let reports = self.carved.iter().map(|(id, _)| Report { interface: Some(id), what });
        self.reports.extend(reports);
    }

    /// Takes an error off the device's register for them (9.2.15).
    pub(super) fn take_error(&mut self) {
        let at = regs::SWERROR.offset();
        let words = core::array::from_fn(|word| self.regs.load(at + 8 * word as u64, Width::W8));
        let found = SoftwareError(words);
        if !found.valid() || words == [u64::MAX; 4] {
            return;
        }
        self.regs.clear(regs::SWERROR, regs::SWERROR_CLEAR);
        let whose = || Some(self.carved.numbered(found.queue().into())?.0);
        let interface = if found.queue_valid() { whose() } else { None };
        let address = (found.address() != 0).then_some(Iova::new(found.address()));
        let what = Trouble::Work { error: found.error(), operation: found.operation(), address };
        self.reports.push(Report { interface, what });
        if found.overflow() {
            self.reports.push(Report { interface: None, what: Trouble::Lost });
        }
    }
}
