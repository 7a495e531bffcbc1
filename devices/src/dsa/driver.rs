//! [`Dsa`]: the driver of one device.

use alloc::collections::BTreeMap;
use alloc::vec::Vec;
use core::fmt;

use device_spec::dsa::PORTALS_BAR;
use device_spec::dsa::command::{Command as Register, code};
use device_spec::dsa::interrupt::{IMS_ADDRESS, ImsEntry};
use device_spec::dsa::portal::Portal;
use device_spec::dsa::queue::QueueConfiguration;
use device_spec::dsa::registers::{self as regs, GeneralControl, state};
use hw::{Clock, Deadline, Function, PAGE_SIZE, Pasid, RegisterBus, Width, wait_until};
use pci::FunctionInfo;

use super::capabilities::Capabilities;
use super::commands::{self, COMMAND_NS, CONTROL, CommandRegister, EMPTY_NS, Slot, Step};
use super::lay_out::{Plan, QueuePlan};
use super::{Queue, QueueState, Settings};
use crate::error::{CarveError, Fault, Resource};
use crate::function::{
    Command, Count, Handle, HostingFunction, Kind, Report, Resources, Setting, SlotMessage, Want,
};
use crate::interface::{Binding, Interface, InterfaceId, InterfaceState, Interfaces, Mode, State};
use crate::page::{Page, PageError};

/// A device in Kerf's hands.
#[derive(Debug)]
pub struct Dsa<R, C> {
    function: Function,
    pub(super) regs: R,
    pub(super) clock: C,
    pub(super) has: Capabilities,
    pub(super) plan: Plan,
    /// Its queues by their numbers.
    planned: Vec<QueuePlan>,
    pub(super) carved: Interfaces<Carved>,
    /// Queues that nobody has, by mode and entries.
    free: BTreeMap<(Mode, u16), Vec<u16>>,
    /// Entries of the interrupt message storage that nobody has.
    free_slots: Vec<u16>,
    left: Resources,
    pub(super) register: CommandRegister,
    pub(super) health: Health,
    pub(super) reports: Vec<Report>,
}

/// An interface, and what its user does not see of it.
#[derive(Debug)]
pub(super) struct Carved {
    pub(super) interface: Interface,
    pub(super) queue: Queue,
    pub(super) settings: Settings,
    pub(super) slots: Vec<Slot>,
    pub(super) doing: Option<(Command, Step)>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Health {
    Works,
    /// It halted, and is being reset.
    Recovers,
    Dead(Fault),
}

impl<R: RegisterBus, C: Clock> Dsa<R, C> {
    /// Takes a device over: resets it, lays it out as planned and enables it. `regs` is its BAR 0. Bus mastering and PASIDs
    /// have been turned on in its configuration space, which is not to be changed any more (5.8.2). Waits for the device.
    ///
    /// # Errors
    /// [`Fault`]: what it says cannot be, or it did not do what it was told. [`Fault::Unsupported`] where the plan is none
    /// for it ([`Plan::check`]).
    pub fn take(
        info: &FunctionInfo,
        regs: R,
        clock: C,
        has: Capabilities,
        plan: Plan,
    ) -> Result<Self, Fault> {
        plan.check(&has).map_err(|_| Fault::Unsupported)?;
        let run = |command: u8| {
            regs.write(regs::CMD, Register::default().with_code(command));
            let deadline = Deadline::after_ns(&clock, COMMAND_NS);
            wait_until(&clock, deadline, || commands::result(regs.read(regs::CMDSTATUS)))
                .unwrap_or(Err(Fault::Timeout))
        };
        if regs.read(regs::GENSTS).state() == state::HALTED {
            return Err(Fault::Halted);
        }
        run(code::RESET_DEVICE)?;
        plan.lay_out(&regs, &has);
        run(code::ENABLE_DEVICE)?;
        let mut free: BTreeMap<_, Vec<u16>> = BTreeMap::new();
        for (number, queue) in plan.in_turns().into_iter().rev() {
            free.entry((queue.mode, queue.entries)).or_default().push(number);
        }
        let count = |of: u32| Count { left: of, of };
        let queues = count(plan.queues().count() as u32);
        let left = Resources {
            interfaces: queues,
            queues,
            entries: count(plan.queues().map(|queue| u32::from(queue.entries)).sum()),
            slots: count(has.ims_entries.into()),
            version: has.version,
        };
        let new = Self {
            function: info.function,
            carved: Interfaces::new(queues.of as u16),
            free,
            free_slots: (0..has.ims_entries).rev().collect(),
            left,
            register: CommandRegister::default(),
            health: Health::Works,
            reports: Vec::new(),
            regs,
            clock,
            has,
            planned: plan.queues().copied().collect(),
            plan,
        };
        new.listen();
        Ok(new)
    }

    /// Has its errors interrupt.
    pub(super) fn listen(&self) {
        let control = GeneralControl::default().with_software_error(true).with_halt(true);
        self.regs.write(regs::GENCTRL, control);
    }

    /// Whether it takes commands; else why not.
    const fn works(&self) -> Result<(), Fault> {
        match self.health {
            Health::Works => Ok(()),
            Health::Recovers => Err(Fault::Halted),
            Health::Dead(why) => Err(why),
        }
    }

    /// A disabled interface with nothing under way.
    fn resting(&mut self, id: InterfaceId) -> Result<&mut Carved, Fault> {
        let carved = self.carved.at_mut(id)?;
        match (carved.interface.state, carved.doing) {
            (_, Some(_)) => Err(Fault::Busy),
            (State::Disabled, None) => Ok(carved),
            _ => Err(Fault::State),
        }
    }

    /// Takes a queue of at least so many entries off those that nobody has.
    fn pick(&mut self, mode: Mode, entries: u32) -> Result<(u16, u16), CarveError> {
        let fits = u16::try_from(entries).ok();
        let class = fits.and_then(|least| self.free.range((mode, least)..=(mode, u16::MAX)).next());
        let Some((&(_, entries), _)) = class else {
            let largest = self.free.range((mode, 0)..=(mode, u16::MAX)).next_back();
            return Err(match largest {
                Some(((_, left), _)) => missing(Resource::Entries, entries, (*left).into()),
                None => missing(Resource::Interfaces, 1, 0),
            });
        };
        let numbers = self.free.get_mut(&(mode, entries));
        let number = numbers.and_then(|numbers| {
            let number = numbers.pop();
            number.map(|number| (number, numbers.is_empty()))
        });
        let (number, was_last) = number.ok_or(missing(Resource::Interfaces, 1, 0))?;
        if was_last {
            self.free.remove(&(mode, entries));
        }
        Ok((number, entries))
    }

    /// The portals of a queue.
    fn pages(&self, number: u16, mode: Mode) -> Result<Vec<Page>, PageError> {
        let bar = PORTALS_BAR as u8;
        let page = |(ims, limited)| {
            let offset = Portal { queue: number as u8, ims, limited }.offset();
            match (ims, mode) {
                (false, _) => self.has.bars.slow(bar, offset, PAGE_SIZE),
                (true, Mode::Dedicated) => self.has.bars.fast(bar, offset, PAGE_SIZE),
                (true, Mode::Shared) => {
                    self.has.bars.fast(bar, offset, PAGE_SIZE).map(Page::translated)
                }
            }
        };
        [(false, false), (false, true), (true, false), (true, true)].into_iter().map(page).collect()
    }

    /// Writes a queue's configuration (9.2.24) but for its size.
    pub(super) fn configure(&self, carved: &Carved) {
        let Carved { interface, queue, settings, .. } = carved;
        let number = interface.id.number();
        let priority = self.planned.get(usize::from(number)).map_or(1, |queue| queue.priority);
        let pasid = carved.pasid();
        let entry = QueueConfiguration::default()
            .with_size(queue.entries)
            .with_threshold(settings.threshold)
            .with_dedicated(queue.mode == Mode::Dedicated)
            .with_priority(priority)
            .with_pasid_enable(pasid.is_some())
            .with_pasid(pasid.map_or(0, Pasid::raw))
            .with_max_transfer(settings.max_transfer)
            .with_max_batch(settings.max_batch);
        let at = self.has.tables.queue(number);
        let [size, limits, ..] = entry.0;
        self.regs.store(at, Width::W8, size);
        self.regs.store(at + 8, Width::W8, limits);
        if self.has.chooses_operations() {
            for (offset, word) in (32..).step_by(8).zip(settings.operations) {
                self.regs.store(at + offset, Width::W8, word);
            }
        }
    }

    /// How many descriptors a queue holds; none that are seen where the device does not tell.
    fn occupancy(&self, number: u16) -> u16 {
        if !self.has.queues.occupancy() {
            return 0;
        }
        let at = self.has.tables.queue(number) + 24;
        QueueConfiguration([0, 0, 0, self.regs.load(at, Width::W8), 0, 0, 0, 0]).occupancy()
    }

    pub(super) fn program(&self, carved: &Carved, slot: &Slot) {
        slot.program(&self.regs, self.has.tables.ims(slot.entry), carved.pasid());
    }
}

impl Carved {
    const fn pasid(&self) -> Option<Pasid> {
        match self.interface.binding {
            Binding::Pasid(pasid) => pasid,
            Binding::Requester => None,
        }
    }
}

const fn missing(what: Resource, wanted: u32, left: u32) -> CarveError {
    CarveError::Missing { what, wanted, left }
}

impl<R, C> HostingFunction for Dsa<R, C>
where
    R: RegisterBus + fmt::Debug + Send,
    C: Clock + fmt::Debug + Send,
{
    fn function(&self) -> Function {
        self.function
    }

    fn kind(&self) -> Kind {
        Kind::Dsa
    }

    fn resources(&self) -> Resources {
        self.left
    }

    fn carve(&mut self, want: &Want) -> Result<InterfaceId, CarveError> {
        self.works()?;
        match want {
            Want { queues: 0, .. } => return Err(CarveError::Zero(Resource::Queues)),
            Want { entries: 0, .. } => return Err(CarveError::Zero(Resource::Entries)),
            Want { queues: 1, .. } => {}
            // An interface is a queue.
            _ => return Err(missing(Resource::Queues, want.queues, 1)),
        }
        if want.version > self.has.version {
            return Err(CarveError::Version(self.has.version));
        }
        let slots_left = self.left.slots.left;
        if want.slots > slots_left {
            return Err(missing(Resource::Slots, want.slots, slots_left));
        }
        let (number, entries) = self.pick(want.mode, want.entries)?;
        let pages = self.pages(number, want.mode);
        let pages = pages.map_err(|_| Fault::Lies(regs::WQCAP.offset()))?;
        let kept = self.free_slots.len().saturating_sub(want.slots as usize);
        let slots = self.free_slots.split_off(kept);
        let queue = Queue {
            mode: want.mode,
            entries,
            general: super::general_in(want.version, self.has.general),
            operations: super::operations_in(want.version, self.has.operations),
            chooses: want.version.major >= 2 && self.has.chooses_operations(),
        };
        let function = self.function;
        let id = self.carved.insert(number, |id| Carved {
            interface: Interface {
                id,
                requester: function,
                binding: Binding::Pasid(None),
                pages,
                slots: slots.iter().copied().map(Handle).collect(),
                state: State::Disabled,
                version: want.version,
                queue: Some(queue),
            },
            queue,
            settings: queue.settings(),
            slots: slots.iter().map(|&entry| Slot { entry, message: None, masked: true }).collect(),
            doing: None,
        });
        self.left.interfaces.left -= 1;
        self.left.queues.left -= 1;
        self.left.entries.left -= u32::from(entries);
        self.left.slots.left -= want.slots;
        Ok(id.ok_or(Fault::State)?)
    }

    fn release(&mut self, id: InterfaceId) -> Result<(), Fault> {
        self.resting(id)?;
        let Some(carved) = self.carved.remove(id) else { return Err(Fault::Stale) };
        for slot in &carved.slots {
            let at = self.has.tables.ims(slot.entry);
            commands::silence(&self.regs, at);
            self.regs.store(at, Width::W8, 0);
            self.regs.store(at + 8, Width::W4, 0);
            self.free_slots.push(slot.entry);
        }
        let at = self.has.tables.queue(id.number());
        self.regs.store(at + 8, Width::W8, 0);
        let Some(planned) = self.planned.get(usize::from(id.number())) else { return Ok(()) };
        self.free.entry((planned.mode, planned.entries)).or_default().push(id.number());
        self.left.interfaces.left += 1;
        self.left.queues.left += 1;
        self.left.entries.left += u32::from(planned.entries);
        self.left.slots.left += carved.slots.len() as u32;
        Ok(())
    }

    fn interface(&self, id: InterfaceId) -> Option<&Interface> {
        Some(&self.carved.at(id).ok()?.interface)
    }

    fn bind(&mut self, id: InterfaceId, pasid: Option<Pasid>) -> Result<(), Fault> {
        self.resting(id)?.interface.binding = Binding::Pasid(pasid);
        let carved = self.carved.at(id)?;
        carved.slots.iter().for_each(|slot| self.program(carved, slot));
        Ok(())
    }

    fn set(&mut self, id: InterfaceId, setting: Setting) -> Result<(), Fault> {
        let carved = self.resting(id)?;
        let Setting::Queue(settings) = setting else { return Err(Fault::Unsupported) };
        match carved.queue.can(&settings) {
            true => carved.settings = settings,
            false => return Err(Fault::Unsupported),
        }
        Ok(())
    }

    fn start(&mut self, id: InterfaceId, command: Command) -> Result<(), Fault> {
        self.works()?;
        let has_occupancy = self.has.queues.occupancy();
        let until = Deadline::after_ns(&self.clock, EMPTY_NS);
        let carved = self.carved.at_mut(id)?;
        let drops = matches!(command, Command::Abort | Command::Reset);
        match carved.doing {
            Some((_, Step::Emptying(_) | Step::Settling(_))) if drops => {}
            Some(_) => return Err(Fault::Busy),
            None => {}
        }
        let step = match (command, carved.interface.state) {
            (Command::Enable, State::Disabled) if carved.pasid().is_some() => Step::Waiting,
            (Command::Reset, State::Disabled) => {
                carved.settings = carved.queue.settings();
                Step::Done(Ok(()))
            }
            (Command::Disable | Command::Drain, State::Enabled) if has_occupancy => {
                Step::Emptying(until)
            }
            (Command::Enable, _) | (_, State::Disabled | State::Stuck) => return Err(Fault::State),
            (_, State::Enabled) => Step::Waiting,
        };
        carved.doing = Some((command, step));
        if step == Step::Waiting {
            self.register.waiting.push_back(id);
        }
        self.advance();
        Ok(())
    }

    fn poll(&mut self, id: InterfaceId) -> Option<Result<(), Fault>> {
        self.advance();
        let carved = match self.carved.at(id) {
            Ok(carved) => carved,
            Err(why) => return Some(Err(why)),
        };
        let Some((command, step)) = carved.doing else { return Some(Ok(())) };
        let settle = commands::settle_ns(&carved.settings);
        let (becomes, ended) = match step {
            Step::Emptying(until) => {
                let late = until.has_passed(&self.clock);
                match self.occupancy(id.number()) {
                    0 => (Some(Step::Settling(Deadline::after_ns(&self.clock, settle))), None),
                    _ if late => (None, Some(Err(Fault::Timeout))),
                    _ => return None,
                }
            }
            Step::Settling(until) if !until.has_passed(&self.clock) => return None,
            Step::Settling(_) if command == Command::Drain => (None, Some(Ok(()))),
            Step::Settling(_) => (Some(Step::Waiting), None),
            Step::Done(result) => (None, Some(result)),
            Step::Waiting | Step::Active => return None,
        };
        self.carved.at_mut(id).ok()?.doing = becomes.map(|step| (command, step));
        if becomes == Some(Step::Waiting) {
            self.register.waiting.push_back(id);
            self.advance();
        }
        ended
    }

    fn slot(
        &mut self,
        id: InterfaceId,
        index: u16,
        message: Option<SlotMessage>,
        masked: bool,
    ) -> Result<Handle, Fault> {
        let is_message = |message: SlotMessage| {
            message.address & !(0xf_ffff) == IMS_ADDRESS && message.address & 3 == 0
        };
        if !message.is_none_or(is_message) {
            return Err(Fault::Unsupported);
        }
        let carved = self.carved.at_mut(id)?;
        let slot = carved.slots.get_mut(usize::from(index)).ok_or(Fault::Slot)?;
        (slot.message, slot.masked) = (message, masked);
        let slot = *slot;
        let carved = self.carved.at(id)?;
        self.program(carved, &slot);
        Ok(Handle(slot.entry))
    }

    fn is_pending(&self, id: InterfaceId, index: u16) -> bool {
        let slot = self.carved.at(id).ok().and_then(|carved| carved.slots.get(usize::from(index)));
        slot.is_some_and(|slot| {
            let at = self.has.tables.ims(slot.entry) + CONTROL;
            ImsEntry([0, self.regs.load(at, Width::W4) << 32]).pending()
        })
    }

    fn save(&mut self, id: InterfaceId) -> Result<InterfaceState, Fault> {
        let carved = self.carved.at(id)?;
        let was_enabled = match (carved.interface.state, carved.doing) {
            (_, Some(_)) => return Err(Fault::Busy),
            (State::Stuck, None) => return Err(Fault::State),
            (State::Enabled, None) if self.occupancy(id.number()) != 0 => return Err(Fault::Busy),
            (state, None) => state == State::Enabled,
        };
        let Carved { queue, settings, .. } = *carved;
        Ok(InterfaceState::Dsa(QueueState { queue, settings, was_enabled }))
    }

    fn restore(&mut self, id: InterfaceId, state: &InterfaceState) -> Result<(), Fault> {
        let InterfaceState::Dsa(QueueState { queue, settings, .. }) = state;
        let carved = self.resting(id)?;
        if !carved.queue.replaces(queue) {
            return Err(Fault::Unsupported);
        }
        carved.queue = *queue;
        carved.interface.queue = Some(*queue);
        carved.settings = *settings;
        Ok(())
    }

    fn attend(&mut self) -> Vec<Report> {
        let causes = self.regs.read(regs::INTCAUSE);
        let status = self.regs.read(regs::GENSTS);
        if status.0 == [u32::MAX.into()] {
            if !matches!(self.health, Health::Dead(_)) {
                self.die(Fault::Gone);
            }
            return core::mem::take(&mut self.reports);
        }
        self.regs.clear(regs::INTCAUSE, causes);
        self.take_error();
        if status.state() == state::HALTED && self.health == Health::Works {
            self.halted(status.reset());
        }
        self.advance();
        core::mem::take(&mut self.reports)
    }
}
