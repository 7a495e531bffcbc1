//! Functions and what is attached to them.

use alloc::collections::BTreeMap;
use alloc::vec::Vec;

use hw::{Function, Gpa, Hpa, Pasid, RequesterId};
use iommu_spec::context::{ContextEntry, ScalableContextEntry};
use iommu_spec::invalidation::Descriptor;
use iommu_spec::pasid::PasidEntry;

use crate::Hw;
use crate::caps::Stage;
use crate::contexts::Directory;
use crate::error::AttachError;
use crate::iommu::Iommu;
use crate::space::{Gathered, Place, SpaceId};
use crate::teardown::{Part, Pending, Release};

/// What is to be attached.
#[derive(Clone, Copy, Debug)]
pub struct Attach {
    /// The function.
    pub function: Function,
    /// Its requests with this PASID, not 0; `None` for those without any.
    pub pasid: Option<Pasid>,
    /// The space that they reach.
    pub space: SpaceId,
    /// The function keeps translations in a TLB of its own, which takes so many invalidations at once. The same for all
    /// attachments of a function.
    pub device_tlb: Option<u8>,
    /// Root of a guest's four-level first stage, whose output the space translates. Needs a unit that nests.
    pub first_stage: Option<Gpa>,
}

impl Attach {
    /// A whole function and a space, nothing else.
    #[must_use]
    pub const fn new(function: Function, space: SpaceId) -> Self {
        Self { function, pasid: None, space, device_tlb: None, first_stage: None }
    }
}

/// A function reaches a space. Not a handle to copy: whoever has it detaches it.
#[derive(Debug, PartialEq, Eq)]
#[must_use = "an attachment that is dropped can never be detached"]
pub struct Attachment {
    function: Function,
    pasid: Pasid,
    space: SpaceId,
}

impl Attachment {
    /// The function.
    #[must_use]
    pub fn function(&self) -> Function {
        self.function
    }

    /// The space.
    #[must_use]
    pub fn space(&self) -> SpaceId {
        self.space
    }
}

/// What is attached for one PASID.
#[derive(Clone, Copy, Debug)]
struct Held {
    did: u16,
    nested: bool,
    leaving: bool,
}

/// A function that something is attached to, or that is in quarantine.
#[derive(Debug)]
pub(crate) struct State {
    unit: usize,
    directory: Option<Directory>,
    held: BTreeMap<Pasid, Held>,
    device_tlb: Option<u8>,
    quarantined: bool,
    /// The last attachment is leaving.
    closing: bool,
}

/// Requests without a PASID use this one's entry.
const NO_PASID: Pasid = match Pasid::try_new(0) {
    Some(pasid) => pasid,
    None => unreachable!(),
};

impl<H: Hw> Iommu<H> {
    /// Lets a function reach a space.
    ///
    /// The entries are in force when this returns. It waits for the unit only where that buffers writes or caches absence, or
    /// where a larger PASID directory takes the place of one that may be cached.
    ///
    /// # Errors
    /// See [`AttachError`]; nothing is attached then.
    pub fn attach(&mut self, attach: Attach) -> Result<Attachment, AttachError> {
        if self.reserved.contains_key(&attach.function) {
            return Err(AttachError::Reserved(attach.function));
        }
        self.attach_any(attach)
    }

    pub(crate) fn attach_any(&mut self, attach: Attach) -> Result<Attachment, AttachError> {
        let Attach { function, space, .. } = attach;
        let unit = self.check_attach(&attach)?;
        let pasid = attach.pasid.unwrap_or(NO_PASID);
        let scalable = self.units.get(unit).is_some_and(|unit| unit.scalable);
        self.functions.entry(function).or_insert_with(|| State {
            unit,
            directory: None,
            held: BTreeMap::new(),
            device_tlb: attach.device_tlb,
            quarantined: false,
            closing: false,
        });
        let linked = match scalable {
            true => self.link_pasid(&attach, unit, pasid),
            false => self.link_context(&attach, unit).map(|()| false),
        };
        let moved = match linked {
            Ok(moved) => moved,
            Err(why) => {
                self.forget_if_empty(function);
                return Err(why);
            }
        };
        if let Some(space) = self.spaces.get_mut(&space) {
            if !space.units.contains(&unit) {
                space.units.push(unit);
            }
            let nested = attach.first_stage.is_some();
            space.attached.push(Place { function, pasid, nested });
            let held = Held { did: space.did, nested, leaving: false };
            if let Some(state) = self.functions.get_mut(&function) {
                state.held.insert(pasid, held);
            }
        }
        let attachment = Attachment { function, pasid, space };
        if let Err(why) = self.make_visible(unit, moved.then_some(function.rid)) {
            // The unit is lost: what it will do with the entry nobody knows, so it is taken out again, for good.
            self.begin_detach(attachment);
            return Err(why);
        }
        Ok(attachment)
    }

    /// The unit, if everything about the request is possible.
    fn check_attach(&self, attach: &Attach) -> Result<usize, AttachError> {
        let function = attach.function;
        let index = self.unit_of(function).ok_or(AttachError::NoUnit(function))?;
        let unit = self.units.get(index).ok_or(AttachError::NoUnit(function))?;
        if unit.lost.is_some() {
            return Err(AttachError::UnitLost(function));
        }
        self.spaces.get(&attach.space).ok_or(AttachError::NoSpace)?;
        let bits = if unit.scalable { unit.caps.pasid_bits() } else { 0 };
        let possible =
            attach.pasid.is_none_or(|pasid| pasid.raw() != 0 && pasid.raw() >> bits == 0)
                && (attach.device_tlb.is_none() || unit.caps.ecap.dt())
                && (attach.first_stage.is_none() || unit.scalable && unit.caps.ecap.nest());
        if !possible || attach.first_stage.is_some() && self.limits.stage == Stage::First {
            return Err(AttachError::Unsupported);
        }
        let Some(state) = self.functions.get(&function) else { return Ok(index) };
        if state.quarantined {
            return Err(AttachError::Quarantined(function));
        }
        match state.held.get(&attach.pasid.unwrap_or(NO_PASID)) {
            Some(held) if held.leaving => return Err(AttachError::Busy(function)),
            Some(_) => return Err(AttachError::Attached(function, attach.pasid)),
            None if state.closing => return Err(AttachError::Busy(function)),
            None => {}
        }
        if state.device_tlb != attach.device_tlb {
            return Err(AttachError::DeviceTlb);
        }
        Ok(index)
    }

    fn link_context(&mut self, attach: &Attach, unit: usize) -> Result<(), AttachError> {
        let space = self.spaces.get(&attach.space).ok_or(AttachError::NoSpace)?;
        let (root, did) = (space.root(), space.did);
        let unit = self.units.get_mut(unit).ok_or(AttachError::NoUnit(attach.function))?;
        let tlb = attach.device_tlb.is_some();
        let [low, high] = ContextEntry::second_stage(root, self.limits.levels, did, tlb).0;
        unit.contexts.prepare(&mut self.tables, attach.function.rid)?;
        unit.contexts.set(&mut self.tables, attach.function.rid, [low, high, 0, 0]);
        Ok(())
    }

    /// From the bottom up, so that nothing is reached that is not ready: the PASID's entry, then its table's, then the
    /// context. Whether the directory has moved.
    fn link_pasid(
        &mut self,
        attach: &Attach,
        unit: usize,
        pasid: Pasid,
    ) -> Result<bool, AttachError> {
        let function = attach.function;
        let space = self.spaces.get(&attach.space).ok_or(AttachError::NoSpace)?;
        let (root, did, levels) = (space.root(), space.did, self.limits.levels);
        let no_unit = AttachError::NoUnit(function);
        let unit_ref = self.units.get_mut(unit).ok_or(no_unit)?;
        let state = self.functions.get_mut(&function).ok_or(no_unit)?;
        let (caps, coherent) = (unit_ref.caps, unit_ref.caps.ecap.c());
        unit_ref.contexts.prepare(&mut self.tables, function.rid)?;
        let new = state.directory.is_none();
        if state.directory.is_none() {
            state.directory = Some(Directory::new(&mut self.tables, pasid, coherent)?);
        }
        let Some(directory) = &mut state.directory else { return Err(AttachError::OutOfFrames) };
        let old = directory.grow(&mut self.tables, pasid)?;
        let table = directory.table(&mut self.tables, pasid);
        if let Ok(table) = table {
            let entry = match (self.limits.stage, attach.first_stage) {
                (Stage::First, _) => PasidEntry::first_stage(root, did),
                (Stage::Second, None) => PasidEntry::second_stage(root, levels, did),
                (Stage::Second, Some(first)) => {
                    PasidEntry::nested(Hpa::new(first.raw()), root, levels, did)
                }
            };
            let entry = entry.with_pwsnp(caps.ecap.smpwcs()).with_pgsnp(caps.ecap.sc());
            let marks = self.limits.dirty && self.limits.stage == Stage::Second;
            directory.set(&mut self.tables, table, pasid, entry.with_ssade(marks));
        }
        if new && table.is_ok() || old.is_some() {
            let (tlb, pasids) = (attach.device_tlb.is_some(), caps.ecap.pasid());
            let entry =
                ScalableContextEntry::directory(directory.base, directory.pdts, pasids, tlb);
            unit_ref.contexts.set(&mut self.tables, function.rid, entry.0);
        }
        if let Some((run, frames)) = old {
            // One word of the entry has changed, to a directory that says the same: only then the old one goes.
            let parts = alloc::vec![Part::new(unit, [Descriptor::context(function.rid, 0)])];
            self.tear_down(parts, Release::Run(run, frames));
        }
        table?;
        Ok(old.is_some())
    }

    /// From absent to present: where nothing is cached of what is absent, only the write buffer is in the way (6.1, 6.8);
    /// and the context of a function whose directory has moved.
    fn make_visible(&mut self, unit: usize, moved: Option<RequesterId>) -> Result<(), AttachError> {
        let Some(unit) = self.units.get_mut(unit) else { return Ok(()) };
        if unit.caps.cap.cm() {
            // Absent entries are cached under domains of the unit's own choosing, so all of them go.
            let all = unit.everything();
            unit.invalidate_now(&mut self.tables, &self.clock, &all)?;
            return Ok(());
        }
        let flushed = unit.flush_write_buffer(&self.clock);
        if let Err(why) = flushed {
            unit.lose(why);
        }
        flushed?;
        if let Some(rid) = moved {
            unit.invalidate_now(&mut self.tables, &self.clock, &[Descriptor::context(rid, 0)])?;
        }
        Ok(())
    }

    /// Takes a space from a function. Requests under way are drained before it is retired.
    pub fn detach(&mut self, attachment: Attachment) -> Pending {
        Pending::new(self.begin_detach(attachment))
    }

    fn begin_detach(&mut self, attachment: Attachment) -> u64 {
        let Attachment { function, pasid, space } = attachment;
        // What was unmapped before concerns this function still, and is flushed by those that are attached.
        if let Some(gathering) = self.spaces.get(&space).and_then(|space| space.gathering) {
            self.close(gathering);
        }
        if let Some(space) = self.spaces.get_mut(&space) {
            space.attached.retain(|at| (at.function, at.pasid) != (function, pasid));
        }
        let mut parts = Vec::new();
        let mut nested = false;
        if let Some(state) = self.functions.get_mut(&function) {
            if let Some(held) = state.held.get_mut(&pasid) {
                held.leaving = true;
                nested = held.nested;
            }
            state.closing = state.held.values().all(|held| held.leaving);
            let index = state.unit;
            if let Some(descriptors) = self.unlink(function, pasid) {
                parts.push(Part::new(index, descriptors));
            }
        }
        self.tear_down(parts, Release::Place(Place { function, pasid, nested }))
    }

    /// Clears the entries of an attachment and says what is to be forgotten, from the top down.
    fn unlink(&mut self, function: Function, pasid: Pasid) -> Option<Vec<Descriptor>> {
        let state = self.functions.get_mut(&function)?;
        let unit = self.units.get_mut(state.unit)?;
        let held = state.held.get(&pasid)?;
        let (rid, did, fence) = (function.rid, held.did, unit.queue.fence());
        let mut all = Vec::new();
        if let Some(directory) = &mut state.directory {
            directory.clear(&mut self.tables, pasid);
        }
        if state.closing {
            unit.contexts.clear(&mut self.tables, rid, state.quarantined);
            let tag = if unit.scalable { 0 } else { did };
            all.extend([Descriptor::context(rid, tag), fence]);
        }
        if unit.scalable {
            all.extend([Descriptor::pasid_cache(pasid, did), fence]);
        }
        if self.limits.stage == Stage::First || held.nested {
            all.push(Descriptor::pasid_iotlb(pasid, did));
        }
        if self.limits.stage == Stage::Second {
            all.push(Descriptor::iotlb_domain(did, unit.caps.drain()));
        }
        if let Some(depth) = state.device_tlb.filter(|_| !state.quarantined) {
            // What the device asks for now is refused, so this is the last it may know.
            all.extend([fence, in_device(function, pasid, depth, 0, WHOLE)]);
        }
        Some(all)
    }

    pub(crate) fn release_place(&mut self, place: Place) {
        if let Some(state) = self.functions.get_mut(&place.function) {
            state.held.remove(&place.pasid);
        }
        self.forget_if_empty(place.function);
    }

    fn forget_if_empty(&mut self, function: Function) {
        let Some(state) = self.functions.get_mut(&function) else { return };
        if !state.held.is_empty() {
            return;
        }
        // Either the last attachment has been retired, or the first one failed before the context pointed here.
        if let Some(directory) = state.directory.take() {
            directory.free(&mut self.tables);
        }
        state.closing = false;
        if !state.quarantined {
            self.functions.remove(&function);
        }
    }

    /// Cuts a function off: none of its DMA gets through, and what it tries is not even recorded. Its attachments stay
    /// until they are detached. When this is retired, the unit has forgotten it.
    pub fn quarantine(&mut self, function: Function) -> Pending {
        let unit = self.unit_of(function);
        let parts = unit.map(|unit| self.cut_off(unit, function)).into_iter().collect();
        Pending::new(self.tear_down(parts, Release::Nothing))
    }

    pub(crate) fn cut_off(&mut self, index: usize, function: Function) -> Part {
        let state = self.functions.entry(function).or_insert_with(|| State {
            unit: index,
            directory: None,
            held: BTreeMap::new(),
            device_tlb: None,
            quarantined: true,
            closing: false,
        });
        state.quarantined = true;
        let Some(unit) = self.units.get_mut(index) else { return Part::new(index, []) };
        unit.contexts.clear(&mut self.tables, function.rid, true);
        Part::new(index, unit.everything())
    }

    /// Ends a quarantine: the function has been reset, and all it had is detached and retired.
    ///
    /// # Errors
    /// [`AttachError::Busy`] where something is still attached.
    pub fn release_quarantine(&mut self, function: Function) -> Result<(), AttachError> {
        let Some(state) = self.functions.get_mut(&function) else { return Ok(()) };
        if !state.held.is_empty() {
            return Err(AttachError::Busy(function));
        }
        state.quarantined = false;
        if let Some(unit) = self.units.get_mut(state.unit) {
            unit.contexts.clear(&mut self.tables, function.rid, false);
        }
        self.forget_if_empty(function);
        Ok(())
    }

    /// What the units have to forget of what a space gathered.
    pub(crate) fn flush_parts(&self, id: SpaceId, gathered: &Gathered) -> Vec<Part> {
        let Some(space) = self.spaces.get(&id) else { return Vec::new() };
        let parts = space.units.iter().filter_map(|&index| {
            let unit = self.units.get(index)?;
            let (cap, did, leaves) = (unit.caps.cap, space.did, gathered.leaves_only());
            let here = || {
                space.attached.iter().filter_map(|place| {
                    let state = self.functions.get(&place.function)?;
                    (state.unit == index).then_some((place, state))
                })
            };
            let mut all = Vec::new();
            // What went through a guest's first stage is not found by pages of the second (6.5.2.3).
            let by_page = self.limits.stage == Stage::First
                || cap.psi() && !space.attached.iter().any(|place| place.nested);
            let blocks = gathered.blocks(cap.mamv()).filter(|_| by_page);
            match (self.limits.stage, &blocks) {
                (Stage::Second, Some(blocks)) => all.extend(blocks.iter().map(|&(at, am)| {
                    Descriptor::iotlb_pages(did, at, am, leaves, unit.caps.drain())
                })),
                (Stage::Second, None) => {
                    all.push(Descriptor::iotlb_domain(did, unit.caps.drain()));
                }
                (Stage::First, Some(blocks)) => all.extend(here().flat_map(|(place, _)| {
                    blocks.iter().map(move |&(at, am)| {
                        Descriptor::pasid_iotlb_pages(place.pasid, did, at, am, leaves)
                    })
                })),
                (Stage::First, None) => {
                    all.extend(here().map(|(place, _)| Descriptor::pasid_iotlb(place.pasid, did)));
                }
            }
            let mut fenced = false;
            for (place, state) in here() {
                // A function in quarantine cannot use what it has cached, and may not answer.
                let depth = state.device_tlb.filter(|_| !state.quarantined);
                let Some(depth) = depth else { continue };
                // First the IOTLB, or the device could be told the old translation once more (6.5.2.5).
                if !fenced {
                    all.push(unit.queue.fence());
                    fenced = true;
                }
                let whole = [(0, WHOLE)];
                let blocks = blocks.as_deref().filter(|_| !place.nested).unwrap_or(&whole);
                all.extend(
                    blocks
                        .iter()
                        .map(|&(at, am)| in_device(place.function, place.pasid, depth, at, am)),
                );
            }
            Some(Part::new(index, all))
        });
        parts.collect()
    }
}

/// All pages there are.
const WHOLE: u8 = 52;

/// Invalidates what a device holds for a PASID, or for requests without.
fn in_device(function: Function, pasid: Pasid, depth: u8, at: u64, am: u8) -> Descriptor {
    match pasid == NO_PASID {
        true => Descriptor::device_tlb(function.rid, depth, at, am),
        false => Descriptor::pasid_device_tlb(function.rid, pasid, depth, at, am),
    }
}
