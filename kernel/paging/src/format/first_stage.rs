//! The first stage of VT-d (VT-d 9.7): the host's four-level format, walked as user accesses.

use hw::Hpa;

use super::host::{Host, US};
use crate::{Caching, EntryFormat, Rights};

/// Used by a walk.
const A: u64 = 1 << 5;
/// Written to.
const D: u64 = 1 << 6;

/// The first stage of an IOMMU, four levels, for guest-physical input addresses in its lower half. Accessed and dirty are
/// set from the start: a unit that does not look into caches may not write to tables (VT-d 3.6.2), and QEMU 11.1 says of
/// itself that it is one. Who reads and clears dirty bits is told of every writable page at first.
#[derive(Clone, Copy, Debug)]
pub enum FirstStage {}

impl EntryFormat for FirstStage {
    const LEVELS: u8 = 4;
    const CANONICAL: bool = true;

    fn table(table: Hpa) -> u64 {
        Host::table(table) | US | A
    }

    fn leaf(level: u8, page: Hpa, rights: Rights, caching: Caching) -> u64 {
        // Requests that ask to execute are refused by the PASID entry already.
        let rights = Rights { execute: true, ..rights };
        let dirty = if rights.write { D } else { 0 };
        Host::leaf(level, page, rights, caching) | US | A | dirty
    }

    fn is_present(entry: u64) -> bool {
        Host::is_present(entry)
    }

    fn rights(entry: u64) -> Rights {
        Rights { execute: false, ..Host::rights(entry) }
    }

    fn caching(entry: u64) -> Caching {
        Host::caching(entry)
    }
}

impl crate::DirtyFormat for FirstStage {
    const DIRTY: u64 = D;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn entries_have_the_bytes_of_linux() {
        // DMA_FL_PTE_PRESENT 0, US 2, ACCESS 5, DIRTY 6, XD 63 of Linux drivers/iommu/intel/iommu.h.
        let page = Hpa::new(0x12_3456_7000);
        assert_eq!(FirstStage::table(page), 0x12_3456_7027);
        assert_eq!(FirstStage::leaf(1, page, Rights::RW, Caching::WriteBack), 0x12_3456_7067);
        let large = Hpa::new(0x12_3460_0000);
        assert_eq!(FirstStage::leaf(2, large, Rights::R, Caching::WriteBack), 0x12_3460_00a5);
    }
}
