//! Extended page tables of VT-x (SDM vol. 3, 28.3.2), four levels.

use hw::Hpa;

use super::PS;
use crate::{Caching, DirtyFormat, EntryFormat, Rights};

/// Loads allowed.
const R: u64 = 1 << 0;
/// Stores allowed.
const W: u64 = 1 << 1;
/// Fetches allowed.
const X: u64 = 1 << 2;
/// Where a leaf keeps its memory type, three bits wide (table 28-6).
const TYPE_SHIFT: u32 = 3;

/// Memory types (SDM vol. 3, table 11-2).
const UC: u64 = 0;
const WC: u64 = 1;
const WB: u64 = 6;

/// The second stage of VT-x. "Ignore PAT" (bit 6) stays clear: a guest's own PAT may weaken write-back to
/// write-combining or uncacheable, but not turn a device page into memory (28.3.7.2).
#[derive(Clone, Copy, Debug)]
pub enum Ept {}

impl EntryFormat for Ept {
    const LEVELS: u8 = 4;
    const CANONICAL: bool = false;

    fn table(table: Hpa) -> u64 {
        table.raw() | R | W | X
    }

    fn leaf(level: u8, page: Hpa, rights: Rights, caching: Caching) -> u64 {
        let memory_type = match caching {
            Caching::WriteBack => WB,
            Caching::Uncacheable => UC,
            Caching::WriteCombining => WC,
        };
        page.raw()
            | R
            | if rights.write { W } else { 0 }
            | if rights.execute { X } else { 0 }
            | memory_type << TYPE_SHIFT
            | if level > 1 { PS } else { 0 }
    }

    fn is_present(entry: u64) -> bool {
        entry & (R | W | X) != 0
    }

    fn rights(entry: u64) -> Rights {
        Rights { read: entry & R != 0, write: entry & W != 0, execute: entry & X != 0 }
    }

    fn caching(entry: u64) -> Caching {
        match (entry >> TYPE_SHIFT) & 7 {
            WB => Caching::WriteBack,
            WC => Caching::WriteCombining,
            _ => Caching::Uncacheable,
        }
    }
}

impl DirtyFormat for Ept {
    /// Set where the EPT pointer enables it (28.3.5).
    const DIRTY: u64 = 1 << 9;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn entries_have_the_bytes_of_the_manual() {
        let page = Hpa::new(0x12_3456_7000);
        assert_eq!(Ept::table(page), 0x12_3456_7007);
        assert_eq!(Ept::leaf(1, page, Rights::RWX, Caching::WriteBack), 0x12_3456_7037);
        assert_eq!(Ept::leaf(1, page, Rights::RW, Caching::Uncacheable), 0x12_3456_7003);
        assert_eq!(Ept::leaf(1, page, Rights::R, Caching::WriteCombining), 0x12_3456_7009);
        let large = Hpa::new(0x12_3460_0000);
        assert_eq!(Ept::leaf(2, large, Rights::RX, Caching::WriteBack), 0x12_3460_00b5);
    }

    #[test]
    fn an_entry_without_rights_is_absent_whatever_else_it_holds() {
        assert!(!Ept::is_present(0xffff_ffff_ffff_fff8));
        assert!(Ept::is_present(X));
    }
}
