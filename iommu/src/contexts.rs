//! Root and context entries of a unit, PASID directories and tables of a function (VT-d 9.1 to 9.6). Context tables are
//! made with their first function and stay; a function's PASID tables go with its last attachment.

use alloc::vec::Vec;

use hw::{DeviceTables, Hpa, OutOfFrames, Pasid, RequesterId, TableMemory};
use iommu_spec::context::{RootEntry, ScalableContextEntry, ScalableRootEntry};
use iommu_spec::pasid::{self, DirectoryEntry, PasidEntry};
use iommu_spec::registers::{RootTableAddress, ttm};

use crate::write_back::WriteBack;

/// The tree that a unit starts from.
#[derive(Debug)]
pub(crate) struct Contexts {
    root: Hpa,
    scalable: bool,
    coherent: bool,
}

/// The PASID directory of a function and the tables it points at.
#[derive(Debug)]
pub(crate) struct Directory {
    pub(crate) base: Hpa,
    /// It has 2^(`pdts` + 7) entries.
    pub(crate) pdts: u8,
    tables: Vec<Hpa>,
    coherent: bool,
}

impl Contexts {
    pub(crate) fn new(
        tables: &mut impl DeviceTables,
        scalable: bool,
        coherent: bool,
    ) -> Result<Self, OutOfFrames> {
        let root = WriteBack::new(tables, coherent).alloc()?;
        Ok(Self { root, scalable, coherent })
    }

    /// What the root table address register is to hold.
    pub(crate) fn address(&self) -> RootTableAddress {
        let mode = if self.scalable { ttm::SCALABLE } else { ttm::LEGACY };
        RootTableAddress::default().with_rta(self.root).with_ttm(mode)
    }

    /// The context table of a function and the entry's place in it, in words.
    fn place(&self, tables: &impl DeviceTables, rid: RequesterId) -> Option<(Hpa, usize)> {
        let (word, words) = self.root_word(rid);
        let devfn = usize::from(rid.devfn());
        let index = if self.scalable { devfn & 0x7f } else { devfn };
        let entry = RootEntry([tables.load(self.root, word), 0]);
        entry.p().then(|| (entry.ctp(), index * words))
    }

    /// The word of the root table that leads to a function, and words of a context entry. Either half of a scalable root
    /// entry looks like a legacy one's lower half.
    fn root_word(&self, rid: RequesterId) -> (usize, usize) {
        let word = 2 * usize::from(rid.bus());
        match self.scalable {
            true => (word + usize::from(rid.devfn() >> 7), 4),
            false => (word, 2),
        }
    }

    /// Makes the context table of a function's bus.
    pub(crate) fn prepare(
        &mut self,
        tables: &mut impl DeviceTables,
        rid: RequesterId,
    ) -> Result<(), OutOfFrames> {
        if self.place(tables, rid).is_some() {
            return Ok(());
        }
        let mut view = WriteBack::new(tables, self.coherent);
        let table = view.alloc()?;
        let entry = ScalableRootEntry::default().with_lp(true).with_lctp(table).0;
        let [half, _] = entry;
        view.store(self.root, self.root_word(rid).0, half);
        Ok(())
    }

    /// Sets a function's entry; its first word decides. [`Contexts::prepare`] must have been there.
    pub(crate) fn set(
        &mut self,
        tables: &mut impl DeviceTables,
        rid: RequesterId,
        entry: [u64; 4],
    ) {
        let Some((table, first)) = self.place(tables, rid) else { return };
        let mut view = WriteBack::new(tables, self.coherent);
        match self.scalable {
            true => view.store_entry(table, first / 4, entry),
            false => {
                let [low, high, ..] = entry;
                view.store_entry(table, first / 2, [low, high]);
            }
        }
    }

    /// Makes a function's entry absent by its first word; with `silent`, faults are not recorded. The rest stays as it is:
    /// the unit may still be reading it.
    pub(crate) fn clear(&mut self, tables: &mut impl DeviceTables, rid: RequesterId, silent: bool) {
        let Some((table, first)) = self.place(tables, rid) else { return };
        let absent = ScalableContextEntry::default().with_fpd(silent).0;
        let [word, ..] = absent;
        WriteBack::new(tables, self.coherent).store(table, first, word);
    }
}

impl Directory {
    /// Entries of one page: enough for 15 bits of PASID.
    const PAGE_PDTS: u8 = 2;

    /// Frames of a directory.
    fn frames(pdts: u8) -> u64 {
        1 << pdts.saturating_sub(Self::PAGE_PDTS)
    }

    /// The size for PASIDs up to this one.
    fn pdts_for(pasid: Pasid) -> u8 {
        let entries = (pasid.raw() >> pasid::TABLE_SHIFT) + 1;
        let bits = entries.next_power_of_two().trailing_zeros() as u8;
        bits.saturating_sub(7).max(Self::PAGE_PDTS)
    }

    /// An empty directory with room for `pasid`.
    pub(crate) fn new(
        tables: &mut impl DeviceTables,
        pasid: Pasid,
        coherent: bool,
    ) -> Result<Self, OutOfFrames> {
        let pdts = Self::pdts_for(pasid);
        let base = WriteBack::new(tables, coherent).alloc_run(Self::frames(pdts))?;
        Ok(Self { base, pdts, tables: Vec::new(), coherent })
    }

    /// Makes room for `pasid`. If the directory must be larger, the old one is returned: it is to be freed when the unit
    /// has been pointed at the new one and has forgotten it. Both say the same, so there is no moment of neither.
    pub(crate) fn grow(
        &mut self,
        tables: &mut impl DeviceTables,
        pasid: Pasid,
    ) -> Result<Option<(Hpa, u64)>, OutOfFrames> {
        let pdts = Self::pdts_for(pasid);
        if pdts <= self.pdts {
            return Ok(None);
        }
        let mut view = WriteBack::new(tables, self.coherent);
        let base = view.alloc_run(Self::frames(pdts))?;
        for index in 0..1usize << (self.pdts + 7) {
            let entry = view.load(self.base, index);
            if entry != 0 {
                view.store(base, index, entry);
            }
        }
        let old = (self.base, Self::frames(self.pdts));
        (self.base, self.pdts) = (base, pdts);
        Ok(Some(old))
    }

    /// The table that holds `pasid`, made if need be. The directory must have room.
    pub(crate) fn table(
        &mut self,
        tables: &mut impl DeviceTables,
        pasid: Pasid,
    ) -> Result<Hpa, OutOfFrames> {
        let index = (pasid.raw() >> pasid::TABLE_SHIFT) as usize;
        let mut view = WriteBack::new(tables, self.coherent);
        let entry = DirectoryEntry([view.load(self.base, index)]);
        if entry.p() {
            return Ok(entry.smptblptr());
        }
        let table = view.alloc()?;
        let [word] = DirectoryEntry::default().with_p(true).with_smptblptr(table).0;
        view.store(self.base, index, word);
        self.tables.push(table);
        Ok(table)
    }

    /// Sets a PASID's entry.
    pub(crate) fn set(
        &self,
        tables: &mut impl DeviceTables,
        table: Hpa,
        pasid: Pasid,
        entry: PasidEntry,
    ) {
        let index = pasid.raw() as usize % (1 << pasid::TABLE_SHIFT);
        WriteBack::new(tables, self.coherent).store_entry(table, index, entry.0);
    }

    /// Makes a PASID's entry absent by its first word.
    pub(crate) fn clear(&mut self, tables: &mut impl DeviceTables, pasid: Pasid) {
        if let Ok(table) = self.table(tables, pasid) {
            let index = pasid.raw() as usize % (1 << pasid::TABLE_SHIFT);
            WriteBack::new(tables, self.coherent).store(table, index * pasid::ENTRY_WORDS, 0);
        }
    }

    /// Gives all of it back. No unit may know it any more.
    pub(crate) fn free(self, tables: &mut impl DeviceTables) {
        for table in self.tables {
            tables.free(table);
        }
        tables.free_run(self.base, Self::frames(self.pdts));
    }
}
