//! [`Part`]: one interface of a VDEV, from being carved to being given back.

use alloc::boxed::Box;
use alloc::sync::Arc;
use alloc::vec::Vec;

use device_spec::dsa::descriptor::{Descriptor, flag};
use devices::dsa::Order;
use devices::{
    Command, Fault, Handle, HostingFunction, InterfaceId, InterfaceState, Page, PageKind, Setting,
    Version, Want, dsa,
};
use hw::{Function, Pasid};
use spin::Mutex;
use vmm::pci::Slot;

use crate::host::{Host, WireId};
use crate::request::{Placement, Refusal, Request};
use crate::vdev::Policy;

/// A hosting function of all who have interfaces of it.
pub(crate) type Shared = Arc<Mutex<Box<dyn HostingFunction>>>;

/// An interface in a VDEV.
#[derive(Debug)]
pub(crate) struct Part {
    function: Shared,
    /// Where the function is.
    pub(crate) place: Function,
    pub(crate) id: InterfaceId,
    pub(crate) pasid: Pasid,
    /// What of it may be mapped: its portals for handles of the interrupt message storage.
    pub(crate) portals: Vec<Page>,
    pub(crate) queue: dsa::Queue,
    pub(crate) handles: Vec<Handle>,
    pub(crate) policy: Policy,
    /// Its portals are mapped.
    pub(crate) is_shown: bool,
    /// Lines that came while it was held.
    pub(crate) held: Vec<(u64, [u8; 64])>,
    version: Version,
    /// What the guest wants of each slot, and what comes of it.
    wires: Vec<(Slot, Option<WireId>)>,
    doing: Doing,
    /// What is to begin when that is at its end.
    wants: Option<Command>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Doing {
    Nothing,
    /// What the guest has ordered.
    Order,
    /// What the VDEV wants: a drain, a reset, its end.
    Own,
}

/// What was at its end when a part was looked at.
pub(crate) enum Ended {
    Nothing,
    Order(Result<(), Fault>),
    Own(Result<(), Fault>),
}

/// Takes interfaces as they are asked for, all or none.
pub(crate) fn carve(
    functions: &[(Function, Shared)],
    request: &Request,
    host: &dyn Host,
) -> Result<Vec<Part>, Refusal> {
    let want = Want {
        queues: 1,
        entries: request.entries,
        slots: request.interrupts,
        mode: request.mode,
        version: request.version,
    };
    let mut parts: Vec<Part> = Vec::new();
    for queue in 0..request.queues {
        let first = match request.placement {
            Placement::First => 0,
            Placement::Spread => queue as usize % functions.len().max(1),
        };
        let (before, from) = functions.split_at_checked(first).unwrap_or((functions, &[]));
        let mut why = Vec::new();
        let mut found = None;
        for (place, function) in from.iter().chain(before) {
            match function.lock().carve(&want) {
                Ok(id) => {
                    found = Some((*place, function, id));
                    break;
                }
                Err(error) => why.push((*place, error)),
            }
        }
        let part = match found {
            Some((place, function, id)) => Part::new(place, function, id, host),
            None => Err(Refusal::Missing { queue: queue + 1, of: request.queues, why }),
        };
        match part {
            Ok(part) => parts.push(part),
            Err(refusal) => {
                parts.into_iter().for_each(|part| part.give_back(host));
                return Err(refusal);
            }
        }
    }
    Ok(parts)
}

impl Part {
    fn new(
        place: Function,
        function: &Shared,
        id: InterfaceId,
        host: &dyn Host,
    ) -> Result<Self, Refusal> {
        let mut device = function.lock();
        let pasid = host.attach(place);
        let bound = pasid.map(|pasid| device.bind(id, Some(pasid)));
        let interface = device.interface(id).and_then(|found| Some((found, found.queue?)));
        let (Ok(pasid), Ok(Ok(())), Some((interface, queue))) = (pasid, bound, interface) else {
            // A fresh interface is disabled, so it can be given back.
            let _ = device.release(id);
            if let Ok(pasid) = pasid {
                host.detach(place, pasid, true);
            }
            return Err(Refusal::NoPasid(place));
        };
        let may_show = |page: &&Page| match page.kind() {
            PageKind::Fast => true,
            PageKind::Translated => host.translates_pasids(),
            PageKind::Slow | PageKind::Slots => false,
        };
        Ok(Self {
            function: Arc::clone(function),
            place,
            id,
            pasid,
            portals: interface.pages.iter().filter(may_show).copied().collect(),
            queue,
            handles: interface.slots.clone(),
            policy: Policy::Fast,
            is_shown: false,
            held: Vec::new(),
            version: interface.version,
            wires: interface.slots.iter().map(|_| (Slot::Off, None)).collect(),
            doing: Doing::Nothing,
            wants: None,
        })
    }

    /// Whether something is under way.
    pub(crate) fn is_busy(&self) -> bool {
        self.doing != Doing::Nothing || self.wants.is_some()
    }

    /// Begins what the guest has ordered; later, where something else is under way.
    pub(crate) fn order(&mut self, order: &Order) -> Result<(), Fault> {
        if self.is_busy() {
            return Ok(());
        }
        let mut device = self.function.lock();
        if let Some(settings) = order.settings {
            device.set(self.id, Setting::Queue(settings))?;
        }
        device.start(self.id, order.command)?;
        self.doing = Doing::Order;
        Ok(())
    }

    /// Begins something of the VDEV's own.
    pub(crate) fn start(&mut self, command: Command) -> Result<(), Fault> {
        self.function.lock().start(self.id, command)?;
        self.doing = Doing::Own;
        Ok(())
    }

    /// Begins something of the VDEV's own as soon as that can be. What cannot be begun has no need to.
    pub(crate) fn want(&mut self, command: Command) {
        self.wants = (self.start(command) == Err(Fault::Busy)).then_some(command);
    }

    /// Goes on with what is under way.
    pub(crate) fn poll(&mut self) -> Ended {
        if self.doing == Doing::Nothing {
            return Ended::Nothing;
        }
        let polled = self.function.lock().poll(self.id);
        let Some(result) = polled else { return Ended::Nothing };
        let was = core::mem::replace(&mut self.doing, Doing::Nothing);
        if let Some(wanted) = self.wants.take() {
            self.want(wanted);
            // What was ordered before a reset is void.
            if wanted == Command::Reset {
                return Ended::Nothing;
            }
        }
        match was {
            Doing::Order => Ended::Order(result),
            _ => Ended::Own(result),
        }
    }

    /// Has a slot send what the guest wants. Whether there is a way.
    pub(crate) fn interrupt(&mut self, slot: u16, state: Slot, host: &dyn Host) -> bool {
        let Some((wanted, wire)) = self.wires.get_mut(usize::from(slot)) else { return false };
        *wanted = state;
        let (route, masked) = match state {
            Slot::Off => (None, true),
            Slot::Masked(route) => (Some(route), true),
            Slot::On(route) => (Some(route), false),
        };
        let made = route.map(|route| host.wire(self.place, *wire, &route));
        let old = if made.is_none() { *wire } else { None };
        let made = made.and_then(Result::ok);
        *wire = made.map(|made| made.id);
        let message = made.map(|made| made.message);
        let set = self.function.lock().slot(self.id, slot, message, masked);
        // What is silent can be forgotten.
        if let Some(old) = old {
            host.unwire(old);
        }
        set.is_ok() && (made.is_some() || state == Slot::Off)
    }

    pub(crate) fn is_pending(&self, slot: u16) -> bool {
        self.function.lock().is_pending(self.id, slot)
    }

    /// Another interface that goes on as this one, which is drained and has nothing under way. This one is being reset then,
    /// and can be given back when that is done.
    ///
    /// # Errors
    /// [`Refusal`] where there is none; this one is as it was.
    pub(crate) fn replace(
        &mut self,
        place: Function,
        function: &Shared,
        host: &dyn Host,
    ) -> Result<Self, Refusal> {
        let want = Want {
            queues: 1,
            entries: self.queue.entries.into(),
            slots: self.handles.len() as u32,
            mode: self.queue.mode,
            version: self.version,
        };
        let missing = |why| Refusal::Missing { queue: 1, of: 1, why: alloc::vec![(place, why)] };
        let saved = self.function.lock().save(self.id).map_err(|why| missing(why.into()))?;
        let InterfaceState::Dsa(state) = saved;
        let id = function.lock().carve(&want).map_err(missing)?;
        let mut new = Self::new(place, function, id, host)?;
        let restored = new.function.lock().restore(new.id, &saved);
        if let Err(why) = restored {
            new.give_back(host);
            return Err(missing(why.into()));
        }
        // It is the queue that the guest was promised, whatever more it has.
        (new.queue, new.policy) = (state.queue, self.policy);
        let names: Vec<_> = self.handles.iter().zip(&new.handles).map(|(a, b)| (*a, *b)).collect();
        new.held = core::mem::take(&mut self.held);
        new.held.iter_mut().for_each(|(_, line)| rename(line, &names));
        for (slot, (state, _)) in (0..).zip(&self.wires) {
            new.interrupt(slot, *state, host);
        }
        if state.was_enabled {
            new.want(Command::Enable);
        }
        self.want(Command::Reset);
        Ok(new)
    }

    /// Gives a disabled interface back: first nothing comes of it any more, then it is another's.
    pub(crate) fn give_back(mut self, host: &dyn Host) {
        for slot in 0..self.wires.len() as u16 {
            self.interrupt(slot, Slot::Off, host);
        }
        // One that is stuck keeps its queue and its PASID, and nobody has them again.
        let released = self.function.lock().release(self.id);
        host.detach(self.place, self.pasid, released.is_ok());
    }
}

/// Has a descriptor in a line name an interrupt slot by its new handle.
fn rename(line: &mut [u8; 64], names: &[(Handle, Handle)]) {
    let (words, _) = line.as_chunks_mut::<8>();
    let mut descriptor = Descriptor::default();
    let pairs = descriptor.0.iter_mut().zip(words.iter());
    pairs.for_each(|(word, bytes)| *word = u64::from_le_bytes(*bytes));
    let new = names.iter().find(|(old, _)| old.0 == descriptor.handle());
    if let Some((_, new)) = new.filter(|_| descriptor.flags() & flag::INTERRUPT != 0) {
        let renamed = descriptor.with_handle(new.0).0.map(u64::to_le_bytes);
        words.copy_from_slice(&renamed);
    }
}
