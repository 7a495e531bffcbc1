//! All units of the machine together, and the spaces that they translate by.

use alloc::collections::BTreeMap;
use alloc::vec::Vec;

use hw::{Function, Hpa, Iova};
use iommu_spec::invalidation::Descriptor;
use paging::{Mapping, Rights};

use crate::Hw;
use crate::caps::{Limits, Stage};
use crate::error::{Event, MapError};
use crate::fault::Meter;
use crate::functions::{Attachment, State};
use crate::space::{Space, SpaceId};
use crate::teardown::{Part, Pending, Release, Teardown};
use crate::unit::Unit;

/// The machine's IOMMU.
pub struct Iommu<H: Hw> {
    pub(crate) tables: H::Tables,
    pub(crate) clock: H::Clock,
    pub(crate) units: Vec<Unit<H>>,
    pub(crate) limits: Limits,
    pub(crate) spaces: BTreeMap<SpaceId, Space>,
    next_space: u32,
    pub(crate) domains: Domains,
    pub(crate) functions: BTreeMap<Function, State>,
    pub(crate) teardowns: BTreeMap<u64, Teardown>,
    pub(crate) next_teardown: u64,
    /// Functions for which firmware reserves memory, as long as nobody has taken them over.
    pub(crate) reserved: BTreeMap<Function, Attachment>,
    pub(crate) events: Vec<Event>,
    pub(crate) meter: Meter,
}

/// Domain IDs. 0 is never used: units in caching mode keep what is absent under it (VT-d 6.1).
#[derive(Debug)]
pub(crate) struct Domains {
    next: u32,
    end: u32,
    free: Vec<u16>,
}

impl Domains {
    pub(crate) fn new(end: u32) -> Self {
        Self { next: 1, end, free: Vec::new() }
    }

    fn alloc(&mut self) -> Option<u16> {
        self.free.pop().or_else(|| {
            let did = u16::try_from(self.next).ok().filter(|_| self.next < self.end)?;
            self.next += 1;
            Some(did)
        })
    }

    pub(crate) fn free(&mut self, did: u16) {
        self.free.push(did);
    }
}

/// What is in use: the same before and after something that gave everything back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Counts {
    /// Units that work.
    pub units: usize,
    /// Spaces.
    pub spaces: usize,
    /// Functions with attachments, or in quarantine.
    pub functions: usize,
    /// Interrupt entries.
    pub interrupts: usize,
    /// Teardowns that are not retired.
    pub teardowns: usize,
}

impl<H: Hw> Iommu<H> {
    pub(crate) fn of(
        tables: H::Tables,
        clock: H::Clock,
        units: Vec<Unit<H>>,
        limits: Limits,
        fault_limit: u32,
    ) -> Self {
        Self {
            tables,
            clock,
            units,
            limits,
            spaces: BTreeMap::new(),
            next_space: 0,
            domains: Domains::new(limits.domains),
            functions: BTreeMap::new(),
            teardowns: BTreeMap::new(),
            next_teardown: 0,
            reserved: BTreeMap::new(),
            events: Vec::new(),
            meter: Meter::new(fault_limit),
        }
    }

    /// The unit that answers for a function: the one that names it, else the one that takes what is left of its segment
    /// (VT-d 8.3).
    pub(crate) fn unit_of(&self, function: Function) -> Option<usize> {
        let named = self.units.iter().position(|unit| unit.scopes.names(function));
        named.or_else(|| {
            let rest = |unit: &Unit<H>| unit.scopes.all && unit.scopes.segment == function.segment;
            self.units.iter().position(rest)
        })
    }

    /// Whether a working unit holds the function back.
    #[must_use]
    pub fn covers(&self, function: Function) -> bool {
        let unit = self.unit_of(function).and_then(|index| self.units.get(index));
        unit.is_some_and(|unit| unit.lost.is_none())
    }

    /// Bits of a PASID that the function's unit takes; 0 where it takes none.
    #[must_use]
    pub fn pasid_bits(&self, function: Function) -> u32 {
        let unit = self.unit_of(function).and_then(|index| self.units.get(index));
        unit.filter(|unit| unit.scalable).map_or(0, |unit| unit.caps.pasid_bits())
    }

    /// Which tables translate.
    #[must_use]
    pub fn stage(&self) -> Stage {
        self.limits.stage
    }

    /// First I/O virtual address that no unit translates.
    #[must_use]
    pub fn iova_end(&self) -> Iova {
        Iova::new(self.limits.end)
    }

    /// What is in use.
    #[must_use]
    pub fn counts(&self) -> Counts {
        let entries = self.units.iter().filter_map(|unit| unit.interrupts.as_ref());
        Counts {
            units: self.units.iter().filter(|unit| unit.lost.is_none()).count(),
            spaces: self.spaces.len(),
            functions: self.functions.len(),
            interrupts: entries.map(|entries| entries.used()).sum(),
            teardowns: self.teardowns.len(),
        }
    }

    /// How many descriptors all units together have been given.
    #[must_use]
    pub fn descriptors(&self) -> u64 {
        self.units.iter().map(|unit| unit.queue.pushed()).sum()
    }

    /// What has happened since this was asked last.
    pub fn take_events(&mut self) -> Vec<Event> {
        core::mem::take(&mut self.events)
    }

    /// A space that holds nothing.
    ///
    /// # Errors
    /// [`MapError::OutOfDomains`], or that no frame is left.
    pub fn create_space(&mut self) -> Result<SpaceId, MapError> {
        let did = self.domains.alloc().ok_or(MapError::OutOfDomains)?;
        let space = match Space::new(&mut self.tables, &self.limits, did) {
            Ok(space) => space,
            Err(why) => {
                self.domains.free(did);
                return Err(why.into());
            }
        };
        let id = SpaceId(self.next_space);
        self.next_space += 1;
        self.spaces.insert(id, space);
        Ok(id)
    }

    /// Gives up a space that is attached nowhere. Its tables and its domain are used again when this is retired, which is
    /// after everything that was detached from it.
    ///
    /// # Errors
    /// [`MapError::Attached`] or [`MapError::NoSpace`].
    pub fn destroy_space(&mut self, id: SpaceId) -> Result<Pending, MapError> {
        let space = self.spaces.get(&id).ok_or(MapError::NoSpace)?;
        if !space.attached.is_empty() {
            return Err(MapError::Attached);
        }
        // What is still gathered would be flushed by nobody once the space is gone.
        if let Some(gathering) = space.gathering {
            self.close(gathering);
        }
        let space = self.spaces.remove(&id).ok_or(MapError::NoSpace)?;
        // No cache holds anything of it once that is done, so a wait behind it is all that is needed.
        let parts = space.units.iter().map(|&index| Part::new(index, [])).collect();
        Ok(Pending::new(self.tear_down(parts, Release::Space(space))))
    }

    /// Lets a space reach `[hpa, hpa + bytes)` at `iova`. Device registers may be mapped as well as memory.
    ///
    /// # Errors
    /// See [`MapError`]; nothing is mapped then.
    pub fn map(
        &mut self,
        id: SpaceId,
        iova: Iova,
        hpa: Hpa,
        bytes: u64,
        rights: Rights,
    ) -> Result<(), MapError> {
        let space = self.spaces.get_mut(&id).ok_or(MapError::NoSpace)?;
        space.map(&mut self.tables, &self.limits, iova, hpa, bytes, rights)?;
        let did = space.did;
        for index in space.units.clone() {
            let Some(unit) = self.units.get_mut(index).filter(|unit| unit.lost.is_none()) else {
                continue;
            };
            if unit.caps.cap.cm() {
                // Absence was cached, of leaves and of the tables above them.
                let mut all = alloc::vec![Descriptor::iotlb_domain(did, unit.caps.drain())];
                if self.limits.stage == Stage::First {
                    all = unit.everything();
                }
                unit.invalidate_now(&mut self.tables, &self.clock, &all)?;
            } else if let Err(why) = unit.flush_write_buffer(&self.clock) {
                unit.lose(why);
                return Err(why.into());
            }
        }
        Ok(())
    }

    /// Takes `[iova, iova + bytes)` from a space; holes are left alone. Invalidations are gathered, and go out together
    /// when any of a space's pending unmaps is polled.
    ///
    /// # Errors
    /// See [`MapError`]; nothing is unmapped then.
    pub fn unmap(&mut self, id: SpaceId, iova: Iova, bytes: u64) -> Result<Pending, MapError> {
        let space = self.spaces.get_mut(&id).ok_or(MapError::NoSpace)?;
        let retired = space.unmap(&mut self.tables, &self.limits, iova, bytes)?;
        Ok(Pending::new(self.gather(id, iova, bytes, Some(retired))))
    }

    /// Changes what a space may do with `[iova, iova + bytes)`. Taking rights away binds once this is retired.
    ///
    /// # Errors
    /// See [`MapError`]; nothing is changed then.
    pub fn protect(
        &mut self,
        id: SpaceId,
        iova: Iova,
        bytes: u64,
        rights: Rights,
    ) -> Result<Pending, MapError> {
        let space = self.spaces.get_mut(&id).ok_or(MapError::NoSpace)?;
        space.protect(&mut self.tables, &self.limits, iova, bytes, rights)?;
        Ok(Pending::new(self.gather(id, iova, bytes, None)))
    }

    /// Tells which pages of `[iova, iova + bytes)` devices may have written to since this was asked last, or since they were
    /// mapped: first address and bytes of each. Writes are told anew only once this is retired.
    ///
    /// # Errors
    /// [`MapError::NoDirtyBits`] where some unit does not keep them.
    pub fn take_dirty(
        &mut self,
        id: SpaceId,
        iova: Iova,
        bytes: u64,
        dirty: impl FnMut(Iova, u64),
    ) -> Result<Pending, MapError> {
        if !self.limits.dirty {
            return Err(MapError::NoDirtyBits);
        }
        let space = self.spaces.get_mut(&id).ok_or(MapError::NoSpace)?;
        space.take_dirty(&mut self.tables, &self.limits, iova, bytes, dirty);
        Ok(Pending::new(self.gather(id, iova, bytes, None)))
    }

    /// Where `iova` leads in a space.
    #[must_use]
    pub fn translate(&self, id: SpaceId, iova: Iova) -> Option<Mapping> {
        self.spaces.get(&id)?.translate(&self.tables, iova)
    }

    /// Whether firmware reserves memory for a function that nobody has taken over yet.
    #[must_use]
    pub fn is_reserved(&self, function: Function) -> bool {
        self.reserved.contains_key(&function)
    }

    /// Takes a function over for which firmware reserves memory. What it still does there faults from now on, unless the
    /// new owner maps it.
    pub fn release_reserved(&mut self, function: Function) -> Option<Pending> {
        let attachment = self.reserved.remove(&function)?;
        let space = attachment.space();
        let pending = self.detach(attachment);
        // The space was this function's alone; the driver releases it by itself, after the attachment.
        if let Ok(destroyed) = self.destroy_space(space) {
            core::mem::forget(destroyed);
        }
        Some(pending)
    }
}
