//! What an IOMMU lets through, by its own tables in the machine's memory (VT-d 3.4, 5.1, 9): the second reader of what
//! Kerf's driver wrote. It knows the layout, which both have from `iommu_spec`, and nothing else of Kerf.

use std::collections::BTreeMap;

use hw::Hpa;
use iommu_spec::context::{
    ContextEntry, RootEntry, ScalableContextEntry, ScalableRootEntry, translation_type,
};
use iommu_spec::interrupt::{Irte, svt};
use iommu_spec::pasid::{DirectoryEntry, ENTRY_WORDS, PasidEntry, TABLE_SHIFT, pgtt};
use iommu_spec::registers::{
    GSTS, IRTA, RTADDR, RemapTableAddress, RootTableAddress, command, ttm,
};

use crate::bed::Probe;

/// Words of a page.
const WORDS: usize = 512;

/// A way that a function has: where its requests, with this PASID or without one, lead.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Way {
    /// Bus, device and function.
    pub(crate) requester: u16,
    /// 0 also for those without one.
    pub(crate) pasid: u32,
    /// Its domain.
    pub(crate) domain: u16,
    /// The root of its page tables.
    pub(crate) root: u64,
}

/// A piece of memory that page tables lead to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Leaf {
    pub(crate) iova: u64,
    pub(crate) hpa: u64,
    pub(crate) bytes: u64,
}

/// All that a unit lets through.
#[derive(Clone, Debug, Default)]
pub(crate) struct Tables {
    pub(crate) ways: Vec<Way>,
    /// Functions with a present context entry, be there a way or not.
    pub(crate) functions: Vec<u16>,
    /// What each root leads to.
    pub(crate) leaves: BTreeMap<u64, Vec<Leaf>>,
    /// Present interrupt entries, by their number.
    pub(crate) interrupts: Vec<(usize, Irte)>,
}

/// A unit that is being read.
struct Walk<'a> {
    probe: &'a mut Probe,
    tables: Tables,
}

/// Reads the tables of the unit whose registers are at `unit`.
///
/// # Errors
/// It translates nothing, or by what nobody should translate by.
pub(crate) fn read(probe: &mut Probe, unit: u64) -> Result<Tables, String> {
    let status = probe.read32(unit + GSTS.offset())?;
    let wanted = command::TE | command::IRE | command::QIE;
    if status & wanted != wanted {
        return Err(format!("the unit's status is {status:#x}"));
    }
    let root = RootTableAddress([probe.read64(unit + RTADDR.offset())?]);
    let remap = RemapTableAddress([probe.read64(unit + IRTA.offset())?]);
    let mut walk = Walk { probe, tables: Tables::default() };
    match root.ttm() {
        ttm::LEGACY => walk.legacy(root.rta())?,
        ttm::SCALABLE => walk.scalable(root.rta())?,
        other => return Err(format!("the unit translates in mode {other}")),
    }
    walk.interrupts(remap)?;
    Ok(walk.tables)
}

impl Walk<'_> {
    fn page(&mut self, at: Hpa) -> Result<Vec<u64>, String> {
        self.probe.words(at.raw(), WORDS)
    }

    fn legacy(&mut self, root: Hpa) -> Result<(), String> {
        for (bus, words) in (0..).zip(self.page(root)?.as_chunks::<2>().0) {
            let root = RootEntry(*words);
            if !root.p() {
                continue;
            }
            for (devfn, words) in (0..).zip(self.page(root.ctp())?.as_chunks::<2>().0) {
                let entry = ContextEntry(*words);
                if !entry.p() {
                    continue;
                }
                if entry.tt() == translation_type::PASS_THROUGH {
                    return Err(format!("{bus:02x}:{devfn:02x} is passed through"));
                }
                let requester = bus << 8 | devfn;
                self.tables.functions.push(requester);
                let (root, levels) = (entry.ssptptr(), entry.aw() + 2);
                self.way(Way { requester, pasid: 0, domain: entry.did(), root: root.raw() });
                self.stage(root, levels, false)?;
            }
        }
        Ok(())
    }

    fn scalable(&mut self, root: Hpa) -> Result<(), String> {
        for (bus, words) in (0_u16..).zip(self.page(root)?.as_chunks::<2>().0) {
            let root = ScalableRootEntry(*words);
            let halves = [(root.lp(), root.lctp(), 0), (root.up(), root.uctp(), 0x80)];
            for (_, table, first) in halves.into_iter().filter(|(is_present, ..)| *is_present) {
                for (devfn, words) in (first..).zip(self.page(table)?.as_chunks::<4>().0) {
                    let entry = ScalableContextEntry(*words);
                    if entry.p() {
                        self.tables.functions.push(bus << 8 | devfn);
                        self.directory(bus << 8 | devfn, entry)?;
                    }
                }
            }
        }
        Ok(())
    }

    fn directory(&mut self, requester: u16, entry: ScalableContextEntry) -> Result<(), String> {
        let directory = self.probe.words(entry.pasiddirptr().raw(), 1 << (entry.pdts() + 7))?;
        for (high, word) in (0_u32..).zip(directory) {
            let entry = DirectoryEntry([word]);
            if !entry.p() {
                continue;
            }
            for (low, words) in
                (0_u32..).zip(self.page(entry.smptblptr())?.as_chunks::<ENTRY_WORDS>().0)
            {
                let (entry, pasid) = (PasidEntry(*words), high << TABLE_SHIFT | low);
                if !entry.p() {
                    continue;
                }
                let (root, levels, is_first) = match entry.pgtt() {
                    pgtt::FIRST => (entry.fsptptr(), 4 + entry.fspm(), true),
                    pgtt::SECOND => (entry.ssptptr(), entry.aw() + 2, false),
                    other => return Err(format!("{requester:04x}, PASID {pasid}: type {other}")),
                };
                self.way(Way { requester, pasid, domain: entry.did(), root: root.raw() });
                self.stage(root, levels, is_first)?;
            }
        }
        Ok(())
    }

    fn way(&mut self, way: Way) {
        self.tables.ways.push(way);
    }

    /// Page tables, once for each root.
    fn stage(&mut self, root: Hpa, levels: u8, is_first: bool) -> Result<(), String> {
        if self.tables.leaves.contains_key(&root.raw()) {
            return Ok(());
        }
        let mut leaves = Vec::new();
        self.level(root, levels, is_first, 0, &mut leaves)?;
        self.tables.leaves.insert(root.raw(), leaves);
        Ok(())
    }

    /// The second stage's entries are present with either right, the first's by bit 0 (9.7, 9.8).
    fn level(
        &mut self,
        table: Hpa,
        level: u8,
        is_first: bool,
        base: u64,
        leaves: &mut Vec<Leaf>,
    ) -> Result<(), String> {
        const LARGE: u64 = 1 << 7;
        const ADDRESS: u64 = 0x000f_ffff_ffff_f000;
        let present = if is_first { 0b1 } else { 0b11 };
        let shift = 12 + 9 * (u32::from(level) - 1);
        for (index, entry) in (0_u64..).zip(self.page(table)?) {
            let iova = base | index << shift;
            if entry & present == 0 {
                continue;
            }
            let next = entry & ADDRESS;
            if level == 1 || entry & LARGE != 0 {
                leaves.push(Leaf { iova, hpa: next & !((1 << shift) - 1), bytes: 1 << shift });
            } else {
                self.level(Hpa::new(next), level - 1, is_first, iova, leaves)?;
            }
        }
        Ok(())
    }

    fn interrupts(&mut self, table: RemapTableAddress) -> Result<(), String> {
        let words = self.probe.words(table.irta().raw(), 2 << (table.s() + 1))?;
        for (index, words) in words.as_chunks::<2>().0.iter().enumerate() {
            let entry = Irte(*words);
            if entry.p() && entry.svt() == svt::NONE {
                return Err(format!("interrupt entry {index} is anyone's"));
            }
            if entry.p() {
                self.tables.interrupts.push((index, entry));
            }
        }
        Ok(())
    }
}
