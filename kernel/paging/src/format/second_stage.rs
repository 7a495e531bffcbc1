//! The second stage of VT-d (VT-d 9.8): three, four or five levels of 9 bits each, as the unit can walk them.

use hw::Hpa;

use super::PS;
use crate::{Caching, EntryFormat, Rights};

/// Reads allowed.
const R: u64 = 1 << 0;
/// Writes allowed.
const W: u64 = 1 << 1;
/// Written to, where accessed and dirty bits are enabled.
const D: u64 = 1 << 9;

/// The second stage of an IOMMU. Devices fetch no instructions, and bit 2 is reserved in most units, so `execute` is
/// dropped; memory types (bits 6:3) count only where a unit offers them and are left alone.
#[derive(Clone, Copy, Debug)]
pub enum SecondStage<const LEVELS: u8> {}

impl<const LEVELS: u8> EntryFormat for SecondStage<LEVELS> {
    const LEVELS: u8 = LEVELS;
    const CANONICAL: bool = false;

    fn table(table: Hpa) -> u64 {
        table.raw() | R | W
    }

    fn leaf(level: u8, page: Hpa, rights: Rights, _caching: Caching) -> u64 {
        page.raw() | R | if rights.write { W } else { 0 } | if level > 1 { PS } else { 0 }
    }

    fn is_present(entry: u64) -> bool {
        entry & (R | W) != 0
    }

    fn rights(entry: u64) -> Rights {
        Rights { read: entry & R != 0, write: entry & W != 0, execute: false }
    }

    fn caching(_entry: u64) -> Caching {
        Caching::WriteBack
    }
}

impl<const LEVELS: u8> crate::DirtyFormat for SecondStage<LEVELS> {
    const DIRTY: u64 = D;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn entries_have_the_bytes_of_linux() {
        // DMA_PTE_READ 0, WRITE 1, LARGE_PAGE 7 of Linux drivers/iommu/intel/iommu.h.
        let page = Hpa::new(0x12_3456_7000);
        assert_eq!(SecondStage::<4>::table(page), 0x12_3456_7003);
        assert_eq!(
            SecondStage::<3>::leaf(1, page, Rights::RWX, Caching::WriteBack),
            0x12_3456_7003
        );
        let large = Hpa::new(0x12_3460_0000);
        assert_eq!(SecondStage::<4>::leaf(2, large, Rights::R, Caching::WriteBack), 0x12_3460_0081);
        assert!(!SecondStage::<4>::is_present(!3));
    }
}
