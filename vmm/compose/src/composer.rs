//! [`Composer`]: the hosting functions that there are, and the VDEVs made of them. Making and unmaking one takes the same
//! time however many there are.

use alloc::boxed::Box;
use alloc::collections::BTreeMap;
use alloc::sync::Arc;
use alloc::vec::Vec;

use devices::{Fault, HostingFunction, InterfaceId, Kind, Report, Resources, Trouble};
use hw::Function;
use spin::Mutex;

use crate::endpoint::VdevEndpoint;
use crate::host::Host;
use crate::parts::{self, Part, Shared};
use crate::request::{Refusal, Request};
use crate::vdev::{Agenda, Vdev};

/// Names a VDEV; never another one after it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct VdevId(pub u32);

/// All of them.
#[derive(Debug, Default)]
pub struct Composer {
    functions: Vec<(Function, Shared)>,
    vdevs: BTreeMap<VdevId, Arc<Mutex<Vdev>>>,
    pub(crate) owners: BTreeMap<(Function, InterfaceId), VdevId>,
    agenda: Arc<Agenda>,
    next: u32,
}

impl Composer {
    /// Takes a hosting function in.
    pub fn add(&mut self, function: Box<dyn HostingFunction>) {
        self.functions.push((function.function(), Arc::new(Mutex::new(function))));
    }

    /// The functions, and what they have left.
    pub fn functions(&self) -> impl Iterator<Item = (Function, Kind, Resources)> {
        self.functions.iter().map(|(place, function)| {
            let function = function.lock();
            (*place, function.kind(), function.resources())
        })
    }

    /// Makes a VDEV, and what its VM is to hold of it.
    ///
    /// # Errors
    /// [`Refusal`]; nothing has been taken then.
    pub fn create(
        &mut self,
        request: &Request,
        host: Arc<dyn Host>,
    ) -> Result<(VdevId, VdevEndpoint), Refusal> {
        if request.kind != Kind::Dsa {
            return Err(Refusal::Kind(request.kind));
        }
        match request.queues {
            0 => return Err(Refusal::Zero),
            1..=255 => {}
            _ => return Err(Refusal::TooMany),
        }
        let from = self.candidates(request)?;
        let parts = parts::carve(&from, request, &*host)?;
        let names: Vec<_> = parts.iter().map(|part: &Part| (part.place, part.id)).collect();
        let (id, agenda) = (VdevId(self.next), Arc::clone(&self.agenda));
        let vdev = Vdev::new(id, agenda, request, parts, Arc::clone(&host));
        let vdev = vdev.map_err(|(refusal, parts)| {
            parts.into_iter().for_each(|part| part.give_back(&*host));
            refusal
        })?;
        self.next += 1;
        self.owners.extend(names.into_iter().map(|name| (name, id)));
        let vdev = Arc::new(Mutex::new(vdev));
        self.vdevs.insert(id, Arc::clone(&vdev));
        Ok((id, VdevEndpoint::new(vdev)))
    }

    /// The functions that a request may be met from.
    fn candidates(&self, request: &Request) -> Result<Vec<(Function, Shared)>, Refusal> {
        let is_kind = |(_, function): &&(Function, Shared)| function.lock().kind() == request.kind;
        let all = self.functions.iter().filter(is_kind);
        if request.functions.is_empty() {
            let all: Vec<_> = all.cloned().collect();
            return if all.is_empty() { Err(Refusal::NoFunction(None)) } else { Ok(all) };
        }
        let find = |wanted: &Function| {
            let found = all.clone().find(|(place, _)| place == wanted);
            found.cloned().ok_or(Refusal::NoFunction(Some(*wanted)))
        };
        request.functions.iter().map(find).collect()
    }

    /// A VDEV.
    #[must_use]
    pub fn vdev(&self, id: VdevId) -> Option<&Arc<Mutex<Vdev>>> {
        self.vdevs.get(&id)
    }

    /// All of them.
    pub fn vdevs(&self) -> impl Iterator<Item = (VdevId, &Arc<Mutex<Vdev>>)> {
        self.vdevs.iter().map(|(id, vdev)| (*id, vdev))
    }

    /// Has a queue of a VDEV go on as a queue of another function, or as another one of the same. Its portals have to be
    /// [held](crate::Policy::Held), and what had been submitted to be at its end; they are still held afterwards, and can be
    /// fast again once the VDEV is not busy.
    ///
    /// # Errors
    /// [`Refusal`]; nothing has changed then.
    pub fn move_queue(&mut self, id: VdevId, queue: usize, to: Function) -> Result<(), Refusal> {
        let found = self.functions.iter().find(|(place, _)| *place == to);
        let (_, function) = found.ok_or(Refusal::NoFunction(Some(to)))?;
        let vdev = self.vdevs.get(&id).ok_or(Refusal::NoVdev)?;
        let [old, new] = vdev.lock().replace(queue, to, function)?;
        self.owners.remove(&old);
        self.owners.insert(new, id);
        Ok(())
    }

    /// Begins to unmake a VDEV: it ends what it has, or with `force` drops it. [`Self::poll`] tells how that ends.
    ///
    /// # Errors
    /// [`Fault::Stale`].
    pub fn destroy(&mut self, id: VdevId, force: bool) -> Result<(), Fault> {
        self.vdevs.get(&id).ok_or(Fault::Stale)?.lock().leave(force);
        Ok(())
    }

    /// Whether nothing is under way.
    #[must_use]
    pub fn is_idle(&self) -> bool {
        self.agenda.is_empty()
    }

    /// Goes on with what is under way. Which VDEVs are gone now, and which stay, as they do not come to an end with what
    /// they have ([`Fault::Timeout`]): only force helps then.
    pub fn poll(&mut self) -> Vec<(VdevId, Result<(), Fault>)> {
        let mut ended = Vec::new();
        for id in self.agenda.take() {
            let Some(vdev) = self.vdevs.get(&id) else { continue };
            let mut locked = vdev.lock();
            locked.poll();
            let Some(result) = locked.left() else { continue };
            ended.push((id, result));
            if result.is_err() {
                continue;
            }
            for (function, interface, ..) in locked.interfaces() {
                self.owners.remove(&(function, interface));
            }
            locked.take_apart();
            drop(locked);
            self.vdevs.remove(&id);
        }
        ended
    }

    /// Looks after a function, because it interrupted or because it is time to: what has happened is told to the guests that
    /// it concerns, and here.
    pub fn attend(&mut self, function: Function) -> Vec<(Option<VdevId>, Report)> {
        let found = self.functions.iter().find(|(place, _)| *place == function);
        let reports = found.map(|(_, found)| found.lock().attend()).unwrap_or_default();
        let mut told = Vec::new();
        for report in reports {
            let name = report.interface.map(|interface| (function, interface));
            let owner = name.and_then(|name| self.owners.get(&name)).copied();
            // One that takes no more commands works on; one that is gone is gone for all.
            let concerned: Vec<_> = match report.what {
                Trouble::Dead(Fault::Gone) => {
                    self.owners.iter().filter(|((at, _), _)| *at == function).collect()
                }
                _ => name.and_then(|name| self.owners.get_key_value(&name)).into_iter().collect(),
            };
            for (name, id) in concerned {
                if let Some(vdev) = self.vdevs.get(id) {
                    vdev.lock().report(*name, report.what);
                }
            }
            told.push((owner, report));
        }
        told
    }
}
