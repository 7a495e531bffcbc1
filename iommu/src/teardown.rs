//! Everything that was taken away and that the hardware may not have forgotten yet. A teardown is queued for its units as
//! far as there is room, and what it held is released when each of them has come past its wait: nothing here spins.

use alloc::collections::{BTreeMap, VecDeque};
use alloc::vec::Vec;

use hw::{Clock, DeviceTables};
use hw::{Deadline, Function, Hpa, TableMemory};
use iommu_spec::invalidation::Descriptor;

use crate::Hw;
use crate::error::Event;
use crate::iommu::Iommu;
use crate::queue::Ticket;
use crate::space::{Gathered, Place, Space, SpaceId};
use crate::unit::Trouble;

/// Something taken away that devices may still reach. Give its frames to nobody before it is [`Retired`].
///
/// The driver's own part (tables, PASIDs, domains, interrupt entries) is released in time even if this is dropped; what
/// the caller meant to free is then lost, which is told.
#[derive(Debug)]
#[must_use = "what was taken away may be used again only when this is retired"]
pub struct Pending {
    id: u64,
}

/// The hardware has said that it is done with it: the proof that frees frames.
#[derive(Debug, PartialEq, Eq)]
pub struct Retired(());

impl Pending {
    pub(crate) fn new(id: u64) -> Self {
        Self { id }
    }

    /// Lets the units go on and looks. Never waits.
    ///
    /// # Errors
    /// Itself, as long as a unit is not done; forever if [`Pending::is_lost`].
    pub fn poll<H: Hw>(self, iommu: &mut Iommu<H>) -> Result<Retired, Self> {
        iommu.close(self.id);
        iommu.work();
        if iommu.teardowns.contains_key(&self.id) {
            return Err(self);
        }
        core::mem::forget(self);
        Ok(Retired(()))
    }

    /// Polls until it is done or `deadline` passes.
    ///
    /// # Errors
    /// Itself, if a unit is not done by then.
    pub fn wait<H: Hw>(self, iommu: &mut Iommu<H>, deadline: Deadline) -> Result<Retired, Self> {
        let mut pending = self;
        loop {
            let late = deadline.has_passed(&iommu.clock);
            pending = match pending.poll(iommu) {
                Ok(retired) => return Ok(retired),
                Err(pending) if late || pending.is_lost(iommu) => return Err(pending),
                Err(pending) => pending,
            };
            iommu.clock.relax();
        }
    }

    /// Whether a unit that should say so is out of use: this will never be retired, and what it stands for never freed.
    #[must_use]
    pub fn is_lost<H: Hw>(&self, iommu: &Iommu<H>) -> bool {
        let teardown = iommu.teardowns.get(&self.id);
        teardown.is_some_and(|teardown| teardown.parts.iter().any(|part| part.is_lost(iommu)))
    }
}

impl Drop for Pending {
    fn drop(&mut self) {
        log::error!("iommu: a teardown was dropped before it was retired; its frames are lost");
    }
}

/// What one unit has to do.
#[derive(Debug)]
pub(crate) struct Part {
    pub(crate) unit: usize,
    left: VecDeque<Descriptor>,
    ticket: Option<Ticket>,
    /// It makes up for what the unit dropped.
    amends: bool,
}

impl Part {
    pub(crate) fn new(unit: usize, descriptors: impl IntoIterator<Item = Descriptor>) -> Self {
        Self { unit, left: descriptors.into_iter().collect(), ticket: None, amends: false }
    }

    fn is_done<H: Hw>(&self, iommu: &Iommu<H>) -> bool {
        let unit = iommu.units.get(self.unit);
        unit.zip(self.ticket).is_some_and(|(unit, ticket)| unit.queue.is_done(ticket))
    }

    fn is_lost<H: Hw>(&self, iommu: &Iommu<H>) -> bool {
        let lost = iommu.units.get(self.unit).is_none_or(|unit| unit.lost.is_some());
        lost && !self.is_done(iommu)
    }
}

/// What is released at the end.
#[derive(Debug)]
pub(crate) enum Release {
    /// Nothing of the driver's.
    Nothing,
    /// Page tables that came out of use.
    Tables(Vec<paging::Retired>),
    /// A run of frames.
    Run(Hpa, u64),
    /// An attachment.
    Place(Place),
    /// A space, its tables and its domain.
    Space(Space),
    /// Interrupt entries: unit, first, count.
    Interrupts(usize, u16, u16),
}

/// Something taken away.
#[derive(Debug)]
pub(crate) struct Teardown {
    pub(crate) parts: Vec<Part>,
    /// What a space still gathers; its parts are made when it is closed.
    pub(crate) gathered: Option<(SpaceId, Gathered)>,
    pub(crate) release: Release,
}

/// What a unit has not been given yet.
fn waiting(
    teardowns: &mut BTreeMap<u64, Teardown>,
    unit: usize,
) -> impl Iterator<Item = &mut Part> {
    let parts = teardowns.values_mut().flat_map(|teardown| teardown.parts.iter_mut());
    parts.filter(move |part| part.unit == unit && part.ticket.is_none())
}

impl<H: Hw> Iommu<H> {
    /// Polls all of a list at once, and takes those from it that are retired.
    pub fn poll_all<T>(&mut self, list: &mut Vec<(Pending, T)>) {
        for (pending, _) in &*list {
            self.close(pending.id);
        }
        self.work();
        for (pending, with) in
            list.extract_if(.., |(pending, _)| !self.teardowns.contains_key(&pending.id))
        {
            core::mem::forget(pending);
            drop(with);
        }
    }

    /// Begins a teardown.
    pub(crate) fn tear_down(&mut self, parts: Vec<Part>, release: Release) -> u64 {
        self.next_teardown += 1;
        let id = self.next_teardown;
        self.teardowns.insert(id, Teardown { parts, gathered: None, release });
        id
    }

    /// Adds to what a space gathers, in a teardown that it shares with all that was gathered since the last flush.
    pub(crate) fn gather(
        &mut self,
        space: SpaceId,
        iova: hw::Iova,
        bytes: u64,
        tables: Option<paging::Retired>,
    ) -> u64 {
        let open = self.spaces.get(&space).and_then(|space| space.gathering);
        let id = open.unwrap_or_else(|| self.tear_down(Vec::new(), Release::Tables(Vec::new())));
        if let Some(space) = self.spaces.get_mut(&space) {
            space.gathering = Some(id);
        }
        if let Some(teardown) = self.teardowns.get_mut(&id) {
            let (_, gathered) = teardown.gathered.get_or_insert((space, Gathered::default()));
            let retired = tables.filter(|tables| !tables.is_empty());
            gathered.add(iova, bytes, retired.is_some());
            if let Release::Tables(list) = &mut teardown.release {
                list.extend(retired);
            }
        }
        id
    }

    /// Ends the gathering of a teardown: from here on it is the units' turn.
    pub(crate) fn close(&mut self, id: u64) {
        let Some(teardown) = self.teardowns.get_mut(&id) else { return };
        let Some((space, gathered)) = teardown.gathered.take() else { return };
        let parts = self.flush_parts(space, &gathered);
        if let Some(teardown) = self.teardowns.get_mut(&id) {
            teardown.parts = parts;
        }
        if let Some(space) = self.spaces.get_mut(&space) {
            space.gathering = None;
        }
    }

    /// Lets everything go on that can: looks at the units, queues what waits for room, releases what is done. To be
    /// called now and then even if nobody polls. Never waits.
    pub fn work(&mut self) {
        for index in 0..self.units.len() {
            let Some(unit) = self.units.get_mut(index) else { continue };
            match unit.look(&mut self.tables, &self.clock) {
                Some(Trouble::Rejected) => {
                    let all = unit.everything();
                    self.events.push(Event::QueueError { registers: unit.base });
                    self.make_amends(Part::new(index, all));
                }
                Some(Trouble::DeviceTimeout(rid)) => {
                    let function = Function { segment: unit.scopes.segment, rid };
                    self.events.push(Event::DeviceTimeout(function));
                    let part = self.cut_off(index, function);
                    self.make_amends(part);
                }
                None => {}
            }
        }
        self.submit_parts();
        self.release_done();
        self.tell_losses();
    }

    fn make_amends(&mut self, part: Part) {
        self.tear_down(alloc::vec![Part { amends: true, ..part }], Release::Nothing);
    }

    /// Queues what waits, for each unit in the order in which it was taken away: a teardown relies on those before it. So
    /// where one finds no room, none behind it is tried. One wait serves all.
    pub(crate) fn submit_parts(&mut self) {
        for (index, unit) in self.units.iter_mut().enumerate() {
            let mut whole = 0;
            for part in waiting(&mut self.teardowns, index) {
                if !unit.fill(&mut self.tables, &self.clock, &mut part.left) {
                    break;
                }
                whole += 1;
            }
            if whole == 0 && !unit.queue.is_open() {
                continue;
            }
            let ticket = unit.seal(&mut self.tables);
            for part in waiting(&mut self.teardowns, index).take(whole) {
                part.ticket = Some(ticket);
                if part.amends {
                    unit.queue.release(ticket);
                }
            }
        }
    }

    fn release_done(&mut self) {
        let done: Vec<u64> = self
            .teardowns
            .iter()
            .filter(|(_, teardown)| teardown.gathered.is_none())
            .filter(|(_, teardown)| teardown.parts.iter().all(|part| part.is_done(self)))
            .map(|(id, _)| *id)
            .collect();
        for id in done {
            let Some(teardown) = self.teardowns.remove(&id) else { continue };
            match teardown.release {
                Release::Nothing => {}
                Release::Tables(tables) => {
                    for list in tables {
                        list.free(&mut self.tables);
                    }
                }
                Release::Run(run, 1) => self.tables.free(run),
                Release::Run(run, frames) => self.tables.free_run(run, frames),
                Release::Place(place) => self.release_place(place),
                Release::Space(space) => {
                    self.domains.free(space.did);
                    space.free(&mut self.tables);
                }
                Release::Interrupts(unit, first, count) => {
                    let unit = self.units.get_mut(unit);
                    if let Some(entries) = unit.and_then(|unit| unit.interrupts.as_mut()) {
                        entries.release(first, count);
                    }
                }
            }
        }
    }

    fn tell_losses(&mut self) {
        for unit in self.units.iter_mut().filter(|unit| !unit.told) {
            if let Some(why) = unit.lost {
                unit.told = true;
                self.events.push(Event::UnitLost { registers: unit.base, why });
            }
        }
    }
}
