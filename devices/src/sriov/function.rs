//! [`SrIov`]: a physical function as a hosting function. Jobs of its driver come one after the other, in the order in which
//! they were begun; each interface is told the end of its own.

use alloc::boxed::Box;
use alloc::collections::VecDeque;
use alloc::vec::Vec;
use core::fmt;

use hw::{Function, Pasid, RegisterBus};

use super::{Job, Namespace, Physical, VirtualFunction};
use crate::{
    Binding, CarveError, Command, Count, Fault, Handle, HostingFunction, Interface, InterfaceId,
    InterfaceState, Interfaces, Kind, Report, Resource, Resources, Setting, SlotMessage, State,
    Trouble, Want,
};

/// What is kept of an interface.
#[derive(Debug)]
struct Held {
    interface: Interface,
    namespace: Option<Namespace>,
    /// What was begun, until its end was told.
    pending: Option<Job>,
    done: Option<Result<(), Fault>>,
}

/// A physical function with its virtual ones.
#[derive(Debug)]
pub struct SrIov<R> {
    function: Function,
    driver: Box<dyn Physical>,
    virtuals: Vec<VirtualFunction<R>>,
    held: Interfaces<Held>,
    /// Who waits for the driver; the first one's job is under way.
    queue: VecDeque<InterfaceId>,
    dead: bool,
}

impl<R: RegisterBus> SrIov<R> {
    /// A physical function whose driver was started.
    pub fn new(
        function: Function,
        driver: Box<dyn Physical>,
        virtuals: Vec<VirtualFunction<R>>,
    ) -> Self {
        let held = Interfaces::new(virtuals.len() as u16);
        Self { function, driver, virtuals, held, queue: VecDeque::new(), dead: false }
    }

    fn virtual_one(&self, id: InterfaceId) -> Result<&VirtualFunction<R>, Fault> {
        self.held.at(id)?;
        self.virtuals.get(usize::from(id.number())).ok_or(Fault::Stale)
    }

    /// An interface that has nothing under way, in this state.
    fn resting(&mut self, id: InterfaceId, state: State) -> Result<&mut Held, Fault> {
        let held = self.held.at_mut(id)?;
        match () {
            () if held.pending.is_some() || held.done.is_some() => Err(Fault::Busy),
            () if held.interface.state != state => Err(Fault::State),
            () => Ok(held),
        }
    }

    /// Has the driver begin the job of whoever is first.
    fn begin_next(&mut self) {
        let Some(held) = self.queue.front().and_then(|id| self.held.at_mut(*id).ok()) else {
            return;
        };
        if let Some(job) = held.pending {
            self.driver.begin(job);
        }
    }

    fn go_on(&mut self) {
        let Some(done) = self.driver.poll() else { return };
        let first = self.queue.pop_front();
        if let Some(held) = first.and_then(|id| self.held.at_mut(id).ok()) {
            let is_given = matches!(held.pending.take(), Some(Job::Give(..)));
            held.interface.state = match (is_given, &done) {
                (true, Ok(_)) => State::Enabled,
                (true, Err(_)) | (false, Ok(_)) => State::Disabled,
                (false, Err(_)) => State::Stuck,
            };
            held.done = Some(done.map(|_| ()));
        }
        self.begin_next();
    }
}

impl<R: RegisterBus + fmt::Debug + Send> HostingFunction for SrIov<R> {
    fn function(&self) -> Function {
        self.function
    }

    fn kind(&self) -> Kind {
        self.driver.kind()
    }

    fn resources(&self) -> Resources {
        let of = self.virtuals.len() as u32;
        let left = of - self.held.iter().count() as u32;
        let all = |each: Count| Count { left: left * each.of, of: of * each.of };
        let Resources { queues, slots, .. } = self.driver.each();
        Resources {
            interfaces: Count { left, of },
            queues: all(queues),
            slots: all(slots),
            ..Resources::default()
        }
    }

    fn carve(&mut self, want: &Want) -> Result<InterfaceId, CarveError> {
        let each = self.driver.each();
        let of = self.virtuals.len() as u16;
        let free = (0..of).find(|number| self.held.numbered(*number).is_none());
        let interfaces = u32::from(free.is_some());
        for (what, wanted, left) in [
            (Resource::Queues, want.queues, each.queues.of),
            (Resource::Slots, want.slots, each.slots.of),
            (Resource::Interfaces, 1, interfaces),
        ] {
            if wanted > left {
                return Err(CarveError::Missing { what, wanted, left });
            }
        }
        let missing = CarveError::Fault(Fault::Stale);
        let number = free.ok_or(missing)?;
        let one = self.virtuals.get(usize::from(number)).ok_or(missing)?;
        let slots = one.msix.as_ref().map_or(0, |(msix, ..)| msix.entries);
        let make = |id| Held {
            interface: Interface {
                id,
                requester: one.requester,
                binding: Binding::Requester,
                pages: one.pages.clone(),
                slots: (0..slots).map(Handle).collect(),
                state: State::Disabled,
                version: want.version,
                queue: None,
            },
            namespace: None,
            pending: None,
            done: None,
        };
        self.held.insert(number, make).ok_or(missing)
    }

    fn release(&mut self, id: InterfaceId) -> Result<(), Fault> {
        self.resting(id, State::Disabled)?;
        self.held.remove(id);
        Ok(())
    }

    fn interface(&self, id: InterfaceId) -> Option<&Interface> {
        self.held.at(id).ok().map(|held| &held.interface)
    }

    fn bind(&mut self, id: InterfaceId, _: Option<Pasid>) -> Result<(), Fault> {
        self.held.at(id)?;
        Err(Fault::Unsupported)
    }

    fn set(&mut self, id: InterfaceId, setting: Setting) -> Result<(), Fault> {
        let kind = self.driver.kind();
        let held = self.resting(id, State::Disabled)?;
        match setting {
            Setting::Namespace(namespace) if kind == Kind::Nvme => {
                held.namespace = Some(namespace);
                Ok(())
            }
            _ => Err(Fault::Unsupported),
        }
    }

    fn start(&mut self, id: InterfaceId, command: Command) -> Result<(), Fault> {
        let (job, state) = match command {
            Command::Enable => {
                let namespace = self.held.at(id)?.namespace;
                (Job::Give(id.number(), namespace), State::Disabled)
            }
            // Its queues are its owner's, who was to drain them: it loses what they still have.
            Command::Disable | Command::Reset => (Job::Take(id.number()), State::Enabled),
            Command::Drain | Command::Abort => return Err(Fault::Unsupported),
        };
        self.resting(id, state)?.pending = Some(job);
        self.queue.push_back(id);
        if self.queue.len() == 1 {
            self.begin_next();
        }
        Ok(())
    }

    fn poll(&mut self, id: InterfaceId) -> Option<Result<(), Fault>> {
        self.go_on();
        match self.held.at_mut(id) {
            Err(fault) => Some(Err(fault)),
            Ok(held) if held.pending.is_some() => None,
            Ok(held) => Some(held.done.take().unwrap_or(Ok(()))),
        }
    }

    fn slot(
        &mut self,
        id: InterfaceId,
        index: u16,
        message: Option<SlotMessage>,
        masked: bool,
    ) -> Result<Handle, Fault> {
        let (msix, table, _) = self.virtual_one(id)?.msix.as_ref().ok_or(Fault::Slot)?;
        if index >= msix.entries {
            return Err(Fault::Slot);
        }
        let SlotMessage { address, data } = message.unwrap_or(SlotMessage { address: 0, data: 0 });
        msix.set(table, index, address, data);
        msix.mask(table, index, masked || message.is_none());
        Ok(Handle(index))
    }

    fn is_pending(&self, id: InterfaceId, index: u16) -> bool {
        let msix = self.virtual_one(id).ok().and_then(|one| one.msix.as_ref());
        msix.is_some_and(|(msix, _, pending)| {
            index < msix.entries && msix.is_pending(pending, index)
        })
    }

    fn save(&mut self, id: InterfaceId) -> Result<InterfaceState, Fault> {
        self.held.at(id)?;
        Err(Fault::Unsupported)
    }

    fn restore(&mut self, id: InterfaceId, _: &InterfaceState) -> Result<(), Fault> {
        self.held.at(id)?;
        Err(Fault::Unsupported)
    }

    fn attend(&mut self) -> Vec<Report> {
        let mut reports = Vec::new();
        if let Err(fault) = self.driver.on_interrupt()
            && !core::mem::replace(&mut self.dead, true)
        {
            reports.push(Report { interface: None, what: Trouble::Dead(fault) });
        }
        self.go_on();
        reports
    }
}

#[cfg(test)]
mod tests;
