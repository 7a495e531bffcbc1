//! DMA spaces: page tables of their own, attached to any number of functions, and what is to be invalidated of them.

use alloc::vec::Vec;

use hw::{DeviceTables, Function, Hpa, Iova, Pasid};
use paging::format::{FirstStage, SecondStage};
use paging::{Caching, Mapping, PageTable, Retired, Rights};

use crate::caps::{Limits, Stage};
use crate::error::MapError;
use crate::write_back::WriteBack;

/// Names a space. Names are not used twice.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SpaceId(pub(crate) u32);

/// A place at which a space is attached.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Place {
    pub(crate) function: Function,
    /// 0 for requests without.
    pub(crate) pasid: Pasid,
    /// A guest's first stage lies above the space.
    pub(crate) nested: bool,
}

/// The page tables, in the one format that all units walk.
#[derive(Debug)]
enum Tables {
    Three(PageTable<SecondStage<3>>),
    Four(PageTable<SecondStage<4>>),
    First(PageTable<FirstStage>),
}

macro_rules! each {
    ($tables:expr, $table:ident => $do:expr) => {
        match $tables {
            Tables::Three($table) => $do,
            Tables::Four($table) => $do,
            Tables::First($table) => $do,
        }
    };
}

/// A space.
#[derive(Debug)]
pub(crate) struct Space {
    tables: Tables,
    pub(crate) did: u16,
    /// Units whose caches may hold something of it.
    pub(crate) units: Vec<usize>,
    /// Where it is attached; what is being detached is not.
    pub(crate) attached: Vec<Place>,
    /// The teardown that gathers what was unmapped since the last flush.
    pub(crate) gathering: Option<u64>,
}

impl Space {
    pub(crate) fn new(
        mem: &mut impl DeviceTables,
        limits: &Limits,
        did: u16,
    ) -> Result<Self, hw::OutOfFrames> {
        let mut view = WriteBack::new(mem, limits.coherent);
        let tables = match (limits.stage, limits.levels) {
            (Stage::First, _) => Tables::First(PageTable::new(&mut view)?),
            (Stage::Second, 3) => Tables::Three(PageTable::new(&mut view)?),
            (Stage::Second, _) => Tables::Four(PageTable::new(&mut view)?),
        };
        Ok(Self { tables, did, units: Vec::new(), attached: Vec::new(), gathering: None })
    }

    pub(crate) fn root(&self) -> Hpa {
        each!(&self.tables, table => table.root())
    }

    pub(crate) fn map(
        &mut self,
        mem: &mut impl DeviceTables,
        limits: &Limits,
        iova: Iova,
        hpa: Hpa,
        bytes: u64,
        rights: Rights,
    ) -> Result<(), MapError> {
        check(limits, iova, bytes)?;
        let mut view = WriteBack::new(mem, limits.coherent);
        let (input, caching) = (iova.raw(), Caching::WriteBack);
        each!(&mut self.tables, table => {
            table.map(&mut view, input, hpa, bytes, rights, caching, limits.largest)
        })?;
        Ok(())
    }

    pub(crate) fn unmap(
        &mut self,
        mem: &mut impl DeviceTables,
        limits: &Limits,
        iova: Iova,
        bytes: u64,
    ) -> Result<Retired, MapError> {
        let mut view = WriteBack::new(mem, limits.coherent);
        Ok(each!(&mut self.tables, table => table.unmap(&mut view, iova.raw(), bytes))?)
    }

    pub(crate) fn protect(
        &mut self,
        mem: &mut impl DeviceTables,
        limits: &Limits,
        iova: Iova,
        bytes: u64,
        rights: Rights,
    ) -> Result<(), MapError> {
        let mut view = WriteBack::new(mem, limits.coherent);
        let input = iova.raw();
        Ok(each!(&mut self.tables, table => table.protect(&mut view, input, bytes, rights))?)
    }

    pub(crate) fn take_dirty(
        &mut self,
        mem: &mut impl DeviceTables,
        limits: &Limits,
        iova: Iova,
        bytes: u64,
        mut dirty: impl FnMut(Iova, u64),
    ) {
        let mut view = WriteBack::new(mem, limits.coherent);
        let bytes = bytes.min(limits.end.saturating_sub(iova.raw()));
        each!(&mut self.tables, table => {
            table.take_dirty(&mut view, iova.raw(), bytes, |at, bytes| dirty(Iova::new(at), bytes));
        });
    }

    pub(crate) fn translate(&self, mem: &impl DeviceTables, iova: Iova) -> Option<Mapping> {
        each!(&self.tables, table => table.translate(mem, iova.raw()))
    }

    /// Gives the tables back. No unit may know them any more.
    pub(crate) fn free(self, mem: &mut impl DeviceTables) {
        each!(self.tables, table => table.free(mem));
    }
}

/// Whether all units translate the range, and none takes it for interrupts.
fn check(limits: &Limits, iova: Iova, bytes: u64) -> Result<(), MapError> {
    let start = iova.raw();
    let end = start.checked_add(bytes).filter(|end| *end <= limits.end);
    let Some(end) = end else { return Err(MapError::TooWide(start)) };
    if start < iommu_spec::INTERRUPT_END && end > iommu_spec::INTERRUPT_START {
        return Err(MapError::InterruptRange);
    }
    Ok(())
}

/// What was unmapped since the last flush.
#[derive(Debug, Default)]
pub(crate) struct Gathered {
    /// Start and end of each range; empty with `all`.
    ranges: Vec<(u64, u64)>,
    /// There were so many that the whole domain goes.
    all: bool,
    /// Tables, not only leaves, went out of use.
    tables: bool,
}

/// Ranges beyond which a whole domain is invalidated: each costs a descriptor for every unit, and a domain costs one.
const MOST_RANGES: usize = 8;

impl Gathered {
    pub(crate) fn add(&mut self, iova: Iova, bytes: u64, tables: bool) {
        let (start, end) = (iova.raw(), iova.raw() + bytes);
        self.tables |= tables;
        if self.all || bytes == 0 {
            return;
        }
        match self.ranges.iter_mut().find(|range| start <= range.1 && range.0 <= end) {
            Some(range) => *range = (range.0.min(start), range.1.max(end)),
            None => self.ranges.push((start, end)),
        }
        if self.ranges.len() > MOST_RANGES {
            self.all = true;
            self.ranges.clear();
        }
    }

    /// Whether only leaves have changed.
    pub(crate) fn leaves_only(&self) -> bool {
        !self.tables
    }

    /// The ranges as aligned blocks of 2^n pages, n up to `mamv`: address and n. `None` where the domain is to go whole.
    pub(crate) fn blocks(&self, mamv: u8) -> Option<Vec<(u64, u8)>> {
        if self.all {
            return None;
        }
        let mut blocks = Vec::new();
        for &(start, end) in &self.ranges {
            let mut at = start;
            while at < end {
                let left = (end - at) / hw::PAGE_SIZE;
                let aligned = (at / hw::PAGE_SIZE).trailing_zeros();
                // A block that reaches past the end drops a few translations too many, once.
                let am = aligned.min(left.next_power_of_two().trailing_zeros()).min(mamv.into());
                blocks.push((at, am as u8));
                at = at.saturating_add(hw::PAGE_SIZE << am);
            }
            if blocks.len() > MOST_RANGES {
                return None;
            }
        }
        Some(blocks)
    }
}
