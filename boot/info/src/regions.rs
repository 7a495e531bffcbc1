//! From the firmware's memory descriptors to the record's [`MemoryRegion`]s (UEFI 2.10, 7.2.3).
//!
//! The firmware knows the kernel and the files only as loader data; here they are cut out of it, so that memory in use
//! is never reported as reclaimable.

use crate::{MemoryKind, MemoryRegion};

const PAGE: u64 = 4096;
/// EFI_MEMORY_SP: memory set aside for a specific purpose.
const SPECIFIC_PURPOSE: u64 = 1 << 18;
/// EFI_MEMORY_RUNTIME: runtime services use it, whatever its type says.
const RUNTIME: u64 = 1 << 63;

/// What a descriptor's memory is to the kernel.
#[must_use]
pub const fn kind(uefi_type: u32, attributes: u64) -> MemoryKind {
    let kind = match uefi_type {
        // EfiLoaderCode, EfiLoaderData: the boot application and all that it allocated.
        1 | 2 => MemoryKind::BootReclaimable,
        // EfiBootServicesCode, EfiBootServicesData, EfiConventionalMemory.
        3 | 4 | 7 => MemoryKind::Usable,
        5 | 6 => MemoryKind::Runtime,
        8 => MemoryKind::Unusable,
        9 => MemoryKind::AcpiTables,
        10 => MemoryKind::AcpiNvs,
        11 | 12 => MemoryKind::Mmio,
        // Reserved, PAL code, persistent, unaccepted, and whatever later editions add.
        _ => MemoryKind::Reserved,
    };
    match kind {
        MemoryKind::BootReclaimable | MemoryKind::Usable if attributes & RUNTIME != 0 => {
            MemoryKind::Runtime
        }
        MemoryKind::Usable if attributes & SPECIFIC_PURPOSE != 0 => MemoryKind::Reserved,
        _ => kind,
    }
}

/// Whole pages that hold the kernel or a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Loaded {
    /// Host physical start, page-aligned.
    pub hpa: u64,
    /// Number of 4 KiB pages.
    pub pages: u64,
}

/// The list of regions was too short.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Full;

/// Writes regions into memory that was set aside before their number was known.
#[derive(Debug)]
pub struct Writer<'a> {
    regions: &'a mut [MemoryRegion],
    used: usize,
}

impl<'a> Writer<'a> {
    /// An empty list.
    #[must_use]
    pub const fn new(regions: &'a mut [MemoryRegion]) -> Self {
        Self { regions, used: 0 }
    }

    /// Appends one descriptor, cut where `loaded` lies in it. `loaded` must be sorted by address.
    ///
    /// # Errors
    /// [`Full`] where the list has no more room.
    pub fn push(&mut self, region: MemoryRegion, loaded: &[Loaded]) -> Result<(), Full> {
        let end = end(region.hpa, region.pages);
        let mut start = region.hpa;
        for file in loaded {
            let file_start = file.hpa.max(start);
            let file_end = self::end(file.hpa, file.pages).min(end);
            if file_start >= file_end {
                continue;
            }
            self.piece(region, start, file_start, region.kind)?;
            self.piece(region, file_start, file_end, MemoryKind::Loaded as u32)?;
            start = file_end;
        }
        // What is left, and a region of no pages as the firmware gave it.
        if start < end || region.pages == 0 {
            self.append(MemoryRegion { hpa: start, pages: (end - start) / PAGE, ..region })?;
        }
        Ok(())
    }

    /// The number of regions written.
    #[must_use]
    pub const fn count(&self) -> usize {
        self.used
    }

    fn piece(&mut self, of: MemoryRegion, start: u64, end: u64, kind: u32) -> Result<(), Full> {
        if start == end {
            return Ok(());
        }
        self.append(MemoryRegion { hpa: start, pages: (end - start) / PAGE, kind, ..of })
    }

    fn append(&mut self, region: MemoryRegion) -> Result<(), Full> {
        *self.regions.get_mut(self.used).ok_or(Full)? = region;
        self.used += 1;
        Ok(())
    }
}

/// The end of the highest region that is memory, 0 where none is. Reserved and memory-mapped ranges do not count: some
/// lie terabytes above all memory.
#[must_use]
pub fn memory_top(regions: impl Iterator<Item = MemoryRegion>) -> u64 {
    regions
        .filter(|region| {
            !matches!(MemoryKind::from_raw(region.kind), MemoryKind::Reserved | MemoryKind::Mmio)
        })
        .map(|region| end(region.hpa, region.pages))
        .max()
        .unwrap_or(0)
}

const fn end(hpa: u64, pages: u64) -> u64 {
    hpa.saturating_add(pages.saturating_mul(PAGE))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const DATA: u32 = MemoryKind::BootReclaimable as u32;
    const LOADED: u32 = MemoryKind::Loaded as u32;

    fn region(hpa: u64, pages: u64) -> MemoryRegion {
        MemoryRegion { hpa, pages, kind: DATA, uefi_type: 2, uefi_attributes: 0xf }
    }

    fn cut(regions: &[MemoryRegion], loaded: &[Loaded]) -> Vec<MemoryRegion> {
        let mut list = vec![MemoryRegion::default(); 64];
        let mut writer = Writer::new(&mut list);
        for region in regions {
            writer.push(*region, loaded).unwrap();
        }
        let count = writer.count();
        list.truncate(count);
        list
    }

    fn shape(regions: &[MemoryRegion]) -> Vec<(u64, u64, u32)> {
        regions.iter().map(|region| (region.hpa, region.pages, region.kind)).collect()
    }

    #[test]
    fn loaded_files_are_cut_out_of_loader_data() {
        let loaded = [Loaded { hpa: 0x3000, pages: 2 }, Loaded { hpa: 0x5000, pages: 1 }];
        let list = cut(&[region(0x1000, 9)], &loaded);
        assert_eq!(
            shape(&list),
            [(0x1000, 2, DATA), (0x3000, 2, LOADED), (0x5000, 1, LOADED), (0x6000, 4, DATA)]
        );
        assert!(list.iter().all(|piece| piece.uefi_type == 2 && piece.uefi_attributes == 0xf));
    }

    #[test]
    fn a_file_over_two_descriptors_is_loaded_in_both() {
        let list =
            cut(&[region(0x1000, 2), region(0x3000, 2)], &[Loaded { hpa: 0x2000, pages: 2 }]);
        assert_eq!(
            shape(&list),
            [(0x1000, 1, DATA), (0x2000, 1, LOADED), (0x3000, 1, LOADED), (0x4000, 1, DATA)]
        );
    }

    #[test]
    fn empty_and_wrapping_descriptors_survive() {
        assert_eq!(shape(&cut(&[region(0x1000, 0)], &[])), [(0x1000, 0, DATA)]);
        let list = cut(&[region(0x1000, u64::MAX)], &[Loaded { hpa: 0x1000, pages: 1 }]);
        assert_eq!(shape(&list)[0], (0x1000, 1, LOADED));
        assert_eq!(memory_top([region(0x1000, u64::MAX)].into_iter()), u64::MAX);
    }

    #[test]
    fn a_short_list_is_an_error() {
        let mut list = [MemoryRegion::default(); 1];
        let mut writer = Writer::new(&mut list);
        assert_eq!(writer.push(region(0, 1), &[]), Ok(()));
        assert_eq!(writer.push(region(0x1000, 1), &[]), Err(Full));
    }

    #[test]
    fn kinds_follow_type_and_attributes() {
        assert_eq!(kind(2, 0xf), MemoryKind::BootReclaimable);
        assert_eq!(kind(4, 0xf), MemoryKind::Usable);
        assert_eq!(kind(7, 0xf), MemoryKind::Usable);
        assert_eq!(kind(4, RUNTIME), MemoryKind::Runtime);
        assert_eq!(kind(7, SPECIFIC_PURPOSE), MemoryKind::Reserved);
        assert_eq!(kind(11, RUNTIME), MemoryKind::Mmio);
        for strange in [0, 13, 14, 15, 16, 0x8000_0000, u32::MAX] {
            assert_eq!(kind(strange, 0xf), MemoryKind::Reserved);
        }
    }

    #[test]
    fn reserved_and_mmio_do_not_raise_the_top() {
        let mut far = region(0xfd_0000_0000, 0x300_0000);
        far.kind = MemoryKind::Reserved as u32;
        assert_eq!(memory_top([region(0x10_0000, 1), far].into_iter()), 0x10_1000);
        assert_eq!(memory_top(core::iter::empty()), 0);
    }

    proptest! {
        /// Every page keeps its descriptor, and is loaded just where a file is.
        #[test]
        fn every_page_is_reported_once(
            start in 0u64..8, pages in 1u64..40, files in prop::collection::vec((0u64..6, 1u64..6), 0..8),
        ) {
            let mut at = 0;
            let loaded: Vec<Loaded> = files
                .iter()
                .map(|&(gap, pages)| {
                    let file = Loaded { hpa: (at + gap) * PAGE, pages };
                    at += gap + pages;
                    file
                })
                .collect();
            let list = cut(&[region(start * PAGE, pages)], &loaded);
            let mut next = start * PAGE;
            for piece in &list {
                prop_assert_eq!(piece.hpa, next);
                prop_assert!(piece.pages > 0);
                next = end(piece.hpa, piece.pages);
                for page in (piece.hpa..next).step_by(4096) {
                    let within = loaded.iter().any(|f| (f.hpa..end(f.hpa, f.pages)).contains(&page));
                    prop_assert_eq!(within, piece.kind == LOADED);
                }
            }
            prop_assert_eq!(next, (start + pages) * PAGE);
        }
    }
}
