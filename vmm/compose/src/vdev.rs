//! [`Vdev`]: a virtual DSA. Its registers are emulated ([`VirtualRegisters`]), their effects carried out on its interfaces;
//! its portals are mapped as long as their [`Policy`] says so.

use alloc::collections::{BTreeMap, BTreeSet};
use alloc::sync::Arc;
use alloc::vec::Vec;

use device_spec::dsa::{PORTALS_BAR, REGISTERS_BAR};
use devices::dsa::{Effect, Part as Description, VirtualRegisters};
use devices::{Command, Fault, InterfaceId, Trouble};
use hw::{Function, Gpa, PAGE_SIZE, Width};
use spin::Mutex;
use vmm::pci::{Shape, Slot};

use crate::composer::VdevId;
use crate::host::Host;
use crate::parts::{Ended, Part, Shared};
use crate::request::{Refusal, Request};
use crate::shape::{self, QUEUE_BYTES};

/// How a queue's portals are served. It can change at any time.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Policy {
    /// They are mapped: no access comes here.
    #[default]
    Fast,
    /// Lines come here and are passed on.
    Mediated,
    /// Lines come here and wait, as many as the queue has entries.
    Held,
    /// There is nothing: lines are lost.
    Hidden,
}

/// What came here of a guest's accesses.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Counters {
    /// Reads and writes of registers, by their names.
    pub registers: BTreeMap<&'static str, [u64; 2]>,
    /// Accesses to portals but for lines, which do nothing.
    pub portals: u64,
    /// Lines to portals.
    pub lines: u64,
    /// Lines that were lost.
    pub lost: u64,
    /// Interrupts that there was no way for.
    pub wireless: u64,
}

/// VDEVs that [`Composer::poll`](crate::Composer::poll) is to look at.
#[derive(Debug, Default)]
pub(crate) struct Agenda(Mutex<BTreeSet<VdevId>>);

impl Agenda {
    pub(crate) fn note(&self, id: VdevId) {
        self.0.lock().insert(id);
    }

    pub(crate) fn take(&self) -> BTreeSet<VdevId> {
        core::mem::take(&mut *self.0.lock())
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.0.lock().is_empty()
    }
}

/// A virtual device.
#[derive(Debug)]
pub struct Vdev {
    id: VdevId,
    agenda: Arc<Agenda>,
    shape: Shape,
    regs: VirtualRegisters,
    parts: Vec<Part>,
    /// Interfaces that others stand in for, on their way back.
    replaced: Vec<Part>,
    host: Arc<dyn Host>,
    /// The interrupt of MSI-X entry 0, and whether it waits.
    misc: Slot,
    misc_waits: bool,
    /// Where the guest has the portals.
    portals: Option<Gpa>,
    is_master: bool,
    is_resetting: bool,
    counters: Counters,
    /// It is to go, or why it could not.
    leaving: Option<Result<(), Fault>>,
    /// It goes whatever happens: what cannot be stopped is nobody's any more.
    drops: bool,
}

impl Vdev {
    pub(crate) fn new(
        id: VdevId,
        agenda: Arc<Agenda>,
        request: &Request,
        parts: Vec<Part>,
        host: Arc<dyn Host>,
    ) -> Result<Self, (Refusal, Vec<Part>)> {
        let describe =
            |part: &Part| Description { queue: part.queue, handles: part.handles.clone() };
        let described: Vec<_> = parts.iter().map(describe).collect();
        let Some(regs) = VirtualRegisters::new(request.version, &described) else {
            return Err((Refusal::TooMany, parts));
        };
        Ok(Self {
            id,
            agenda,
            shape: shape::of(&regs, parts.len()),
            regs,
            parts,
            replaced: Vec::new(),
            host,
            misc: Slot::Off,
            misc_waits: false,
            portals: None,
            is_master: false,
            is_resetting: false,
            counters: Counters::default(),
            leaving: None,
            drops: false,
        })
    }

    pub(crate) const fn shape(&self) -> &Shape {
        &self.shape
    }

    /// Its interfaces: function, name, the PASID of their requests, and how their portals are served.
    pub fn interfaces(&self) -> impl Iterator<Item = (Function, InterfaceId, hw::Pasid, Policy)> {
        self.parts.iter().map(|part| (part.place, part.id, part.pasid, part.policy))
    }

    /// What came here of the guest's accesses.
    #[must_use]
    pub const fn counters(&self) -> &Counters {
        &self.counters
    }

    /// Whether something is under way: [`Self::poll`] is to be called again.
    #[must_use]
    pub fn is_busy(&self) -> bool {
        !self.replaced.is_empty() || self.parts.iter().any(Part::is_busy)
    }

    /// Goes on with what is under way.
    pub fn poll(&mut self) {
        for index in 0..self.parts.len() {
            let Some(part) = self.parts.get_mut(index) else { break };
            match part.poll() {
                Ended::Order(result) => {
                    let effect = self.regs.finish(index, result);
                    self.follow(effect);
                }
                Ended::Own(Err(why)) if self.leaving == Some(Ok(())) => {
                    self.leaving = Some(Err(why));
                }
                Ended::Own(_) | Ended::Nothing => {}
            }
        }
        for mut part in core::mem::take(&mut self.replaced) {
            part.poll();
            if part.is_busy() {
                self.replaced.push(part);
            } else {
                part.give_back(&*self.host);
            }
        }
        self.carry_out();
        self.is_resetting &= self.is_busy();
        self.note();
    }

    /// Has what is under way be looked after.
    fn note(&self) {
        if self.is_busy() {
            self.agenda.note(self.id);
            self.host.look_after();
        }
    }

    /// What follows from something in the registers.
    fn follow(&mut self, effect: Effect) {
        match effect {
            Effect::None => {}
            Effect::Interrupt => self.raise(),
            Effect::Start => {
                self.carry_out();
                // Most are at their end at once.
                self.poll();
            }
        }
    }

    /// Begins what the guest has ordered and what has not begun.
    fn carry_out(&mut self) {
        if self.leaving.is_some() {
            return;
        }
        for index in 0..self.parts.len() {
            let (Some(order), Some(part)) = (self.regs.order(index), self.parts.get_mut(index))
            else {
                continue;
            };
            if let Err(why) = part.order(&order) {
                let effect = self.regs.finish(index, Err(why));
                if effect == Effect::Interrupt {
                    self.raise();
                }
            }
        }
    }

    /// Raises MSI-X entry 0.
    fn raise(&mut self) {
        match self.misc {
            Slot::On(route) if self.is_master => self.host.deliver(&route.message),
            Slot::On(_) | Slot::Masked(_) => self.misc_waits = true,
            Slot::Off => {}
        }
    }

    /// Something has happened to one of its interfaces.
    pub(crate) fn report(&mut self, id: (Function, InterfaceId), what: Trouble) {
        let is_it = |part: &Part| id == (part.place, part.id);
        let queue = self.parts.iter().position(is_it);
        let effect = self.regs.report(queue, what);
        self.follow(effect);
    }

    /// Has the portals of a queue be served in another way. Where they are mapped no more, virtual CPUs have forgotten them
    /// and the queue is being drained: what the guest had submitted is at its end when nothing [is busy](Self::is_busy).
    ///
    /// # Errors
    /// [`Fault::Busy`] where something else is under way, [`Fault::Stale`] where there is no such queue.
    pub fn set_policy(&mut self, queue: usize, policy: Policy) -> Result<(), Fault> {
        let part = self.parts.get_mut(queue).ok_or(Fault::Stale)?;
        if part.is_busy() {
            return Err(Fault::Busy);
        }
        let was = core::mem::replace(&mut part.policy, policy);
        self.show(queue);
        let Some(part) = self.parts.get_mut(queue) else { return Ok(()) };
        if was == Policy::Fast && policy != Policy::Fast {
            // One that is disabled has nothing to drain.
            part.want(Command::Drain);
            self.note();
            return Ok(());
        }
        if matches!(policy, Policy::Fast | Policy::Mediated) {
            for (offset, line) in core::mem::take(&mut part.held) {
                part.pass_on(offset, &line, &*self.host);
            }
        }
        Ok(())
    }

    /// Has another interface stand in for a queue's, which [leaving fast](Self::set_policy) has drained; the guest is told
    /// that interrupt handles are others now. Gives the names of the old one and the new one.
    pub(crate) fn replace(
        &mut self,
        queue: usize,
        place: Function,
        function: &Shared,
    ) -> Result<[(Function, InterfaceId); 2], Refusal> {
        let missing = |why: Fault| Refusal::Missing {
            queue: 1,
            of: 1,
            why: alloc::vec![(place, why.into())],
        };
        let part = self.parts.get_mut(queue).ok_or(missing(Fault::Stale))?;
        if part.policy == Policy::Fast || part.is_busy() || self.regs.order(queue).is_some() {
            return Err(missing(Fault::Busy));
        }
        let new = part.replace(place, function, &*self.host)?;
        let names = [(part.place, part.id), (new.place, new.id)];
        let described = Description { queue: new.queue, handles: new.handles.clone() };
        self.replaced.push(core::mem::replace(part, new));
        if self.regs.replace(queue, &described).is_some() {
            self.raise();
        }
        self.note();
        Ok(names)
    }

    /// Maps a queue's portals, or takes them away, as everything together says.
    fn show(&mut self, index: usize) {
        let Some(part) = self.parts.get_mut(index) else { return };
        let Some(at) = self.portals else { return };
        let at = at.wrapping_add(index as u64 * QUEUE_BYTES);
        let bytes = part.portals.len() as u64 * PAGE_SIZE;
        let may = self.is_master && part.policy == Policy::Fast && self.leaving.is_none();
        match (part.is_shown, may && bytes != 0) {
            (false, true) => {
                part.is_shown = self.host.map(at, part.place, &part.portals).is_ok();
            }
            (true, false) => {
                self.host.unmap(at, bytes);
                part.is_shown = false;
            }
            _ => {}
        }
    }

    fn show_all(&mut self) {
        (0..self.parts.len()).for_each(|index| self.show(index));
    }

    pub(crate) fn place(&mut self, bar: u8, at: Option<Gpa>) {
        if usize::from(bar) != PORTALS_BAR {
            return;
        }
        let is_master = core::mem::replace(&mut self.is_master, false);
        self.show_all();
        (self.portals, self.is_master) = (at, is_master);
        self.show_all();
    }

    pub(crate) fn master(&mut self, on: bool) {
        self.is_master = on;
        self.show_all();
        self.deliver_waiting();
    }

    fn deliver_waiting(&mut self) {
        if let (Slot::On(_), true, true) = (self.misc, self.is_master, self.misc_waits) {
            self.misc_waits = false;
            self.raise();
        }
    }

    pub(crate) fn interrupt(&mut self, index: u16, state: Slot) {
        if index == 0 {
            self.misc = state;
            self.misc_waits &= state != Slot::Off;
            return self.deliver_waiting();
        }
        let Some((queue, slot)) = self.regs.entry(index) else { return };
        if let Some(part) = self.parts.get_mut(queue) {
            let is_wired = part.interrupt(slot, state, &*self.host);
            self.counters.wireless += u64::from(!is_wired);
        }
    }

    pub(crate) fn is_pending(&self, index: u16) -> bool {
        if index == 0 {
            return self.misc_waits;
        }
        let found = self.regs.entry(index);
        let part = found.and_then(|(queue, slot)| Some((self.parts.get(queue)?, slot)));
        part.is_some_and(|(part, slot)| part.is_pending(slot))
    }

    fn count(&mut self, bar: u8, offset: u64, kind: usize) {
        if usize::from(bar) != REGISTERS_BAR {
            self.counters.portals += 1;
            return;
        }
        let counts = self.counters.registers.entry(self.regs.name(offset)).or_default();
        counts.iter_mut().skip(kind).take(1).for_each(|count| *count += 1);
    }

    pub(crate) fn read(&mut self, bar: u8, offset: u64, width: Width) -> u64 {
        self.count(bar, offset, 0);
        match usize::from(bar) {
            REGISTERS_BAR if self.parts.is_empty() => width.mask(),
            REGISTERS_BAR => {
                if self.is_busy() {
                    self.poll();
                }
                self.regs.read(offset, width)
            }
            _ => width.mask(),
        }
    }

    pub(crate) fn write(&mut self, bar: u8, offset: u64, width: Width, value: u64) {
        self.count(bar, offset, 1);
        if usize::from(bar) == REGISTERS_BAR && !self.parts.is_empty() {
            let effect = self.regs.write(offset, width, value);
            self.follow(effect);
        }
    }

    pub(crate) fn write_line(&mut self, bar: u8, offset: u64, line: &[u8; 64]) {
        self.counters.lines += 1;
        let (queue, within) = ((offset / QUEUE_BYTES) as usize, offset % QUEUE_BYTES);
        let may = usize::from(bar) == PORTALS_BAR && self.is_master && self.leaving.is_none();
        let part = self.parts.get_mut(queue).filter(|_| may);
        let took = part.is_some_and(|part| match part.policy {
            // It is not mapped for want of memory for tables.
            Policy::Fast | Policy::Mediated => part.pass_on(within, line, &*self.host),
            Policy::Held if part.held.len() < part.queue.entries.into() => {
                part.held.push((within, *line));
                true
            }
            Policy::Held | Policy::Hidden => false,
        });
        self.counters.lost += u64::from(!took);
    }

    /// Whether it is through with its reset.
    pub(crate) fn is_ready(&mut self) -> bool {
        if self.is_resetting {
            self.poll();
        }
        !self.is_resetting
    }

    /// As after a function-level reset.
    pub(crate) fn reset(&mut self) {
        self.is_resetting = true;
        self.regs.reset();
        self.misc_waits = false;
        for part in &mut self.parts {
            part.held.clear();
            part.want(Command::Reset);
        }
        self.poll();
    }

    /// Begins to go: the guest submits nothing any more, and queues end what they have, or are to `drop` it.
    pub(crate) fn leave(&mut self, drop: bool) {
        (self.leaving, self.drops) = (Some(Ok(())), drop);
        self.show_all();
        let command = if drop { Command::Reset } else { Command::Disable };
        self.parts.iter_mut().for_each(|part| part.want(command));
        self.agenda.note(self.id);
        self.host.look_after();
    }

    /// Once it has tried to go: whether it can be taken apart. If not it stays, and its portals are shown again.
    pub(crate) fn left(&mut self) -> Option<Result<(), Fault>> {
        let result = self.leaving.filter(|_| !self.is_busy())?;
        if result.is_err() && !self.drops {
            self.leaving = None;
            self.show_all();
            return Some(result);
        }
        Some(Ok(()))
    }

    /// Gives its interfaces back. What the guest still sees of it is gone.
    pub(crate) fn take_apart(&mut self) {
        for part in core::mem::take(&mut self.parts) {
            part.give_back(&*self.host);
        }
    }
}

impl Part {
    /// Passes a line on that was written at an offset in the guest's four pages; whether there is such a portal.
    fn pass_on(&self, offset: u64, line: &[u8; 64], host: &dyn Host) -> bool {
        let page = self.portals.get((offset / PAGE_SIZE) as usize);
        if let Some(page) = page {
            host.write_line(self.place, page, offset % PAGE_SIZE, line);
        }
        page.is_some()
    }
}
