//! Four-level paging of the host (SDM vol. 3, 4.5; APM vol. 2, 5.3), for supervisor pages only.

use hw::Hpa;

use super::PS;
use crate::{Caching, EntryFormat, Rights};

/// Present.
const P: u64 = 1 << 0;
/// Writable.
const RW: u64 = 1 << 1;
/// Accessible at CPL 3.
pub(super) const US: u64 = 1 << 2;
/// Page-level write-through: bit 0 of the PAT index.
const PWT: u64 = 1 << 3;
/// Page-level cache disable: bit 1 of the PAT index.
const PCD: u64 = 1 << 4;
/// No execute; needs EFER.NXE.
const NX: u64 = 1 << 63;

/// What IA32_PAT must hold for [`Caching`] to mean what it says: the power-on value with write-combining in place of
/// write-through as entry 1 (SDM vol. 3, 11.12.4). Entries, from 0: WB, WC, UC-, UC, WB, WT, UC-, UC.
pub const PAT: u64 = 0x0007_0406_0007_0106;

/// The cache bits of a leaf.
const fn cache_bits(caching: Caching) -> u64 {
    match caching {
        Caching::WriteBack => 0,
        Caching::WriteCombining => PWT,
        Caching::Uncacheable => PCD | PWT,
    }
}

/// The reverse of [`cache_bits`].
const fn caching(entry: u64) -> Caching {
    match entry & (PCD | PWT) {
        0 => Caching::WriteBack,
        PWT => Caching::WriteCombining,
        _ => Caching::Uncacheable,
    }
}

/// Kerf's own address space.
#[derive(Clone, Copy, Debug)]
pub enum Host {}

impl EntryFormat for Host {
    const LEVELS: u8 = 4;
    const CANONICAL: bool = true;

    fn table(table: Hpa) -> u64 {
        // Rights combine by AND down the walk, so tables allow everything and leaves decide.
        table.raw() | P | RW
    }

    fn leaf(level: u8, page: Hpa, rights: Rights, caching: Caching) -> u64 {
        page.raw()
            | P
            | if rights.write { RW } else { 0 }
            | if rights.execute { 0 } else { NX }
            | if level > 1 { PS } else { 0 }
            | cache_bits(caching)
    }

    fn is_present(entry: u64) -> bool {
        entry & P != 0
    }

    fn rights(entry: u64) -> Rights {
        Rights { read: true, write: entry & RW != 0, execute: entry & NX == 0 }
    }

    fn caching(entry: u64) -> Caching {
        caching(entry)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn entries_have_the_bytes_of_the_manual() {
        let page = Hpa::new(0x12_3456_7000);
        assert_eq!(Host::table(page), 0x12_3456_7003);
        assert_eq!(Host::leaf(1, page, Rights::RX, Caching::WriteBack), 0x12_3456_7001);
        assert_eq!(Host::leaf(1, page, Rights::RW, Caching::WriteBack), 0x8000_0012_3456_7003);
        assert_eq!(Host::leaf(1, page, Rights::R, Caching::WriteCombining), 0x8000_0012_3456_7009);
        let large = Hpa::new(0x12_3460_0000);
        assert_eq!(Host::leaf(2, large, Rights::RW, Caching::Uncacheable), 0x8000_0012_3460_009b);
    }

    #[test]
    fn flags_in_the_offset_of_a_large_page_are_no_address() {
        // PAT (bit 12), accessed and dirty (bits 5, 6), global (bit 8).
        assert_eq!(Host::address(2, 0x4020_11e3), Hpa::new(0x4020_0000));
    }

    #[test]
    fn the_pat_holds_what_the_cache_bits_select() {
        let entry = |caching| {
            let bits = cache_bits(caching);
            let index = (bits & PWT != 0) as u32 + 2 * (bits & PCD != 0) as u32;
            (PAT >> (8 * index)) & 0xff
        };
        assert_eq!(entry(Caching::WriteBack), 6);
        assert_eq!(entry(Caching::WriteCombining), 1);
        assert_eq!(entry(Caching::Uncacheable), 0);
    }
}
