//! Nested page tables of SVM (APM vol. 2, 15.25): the host's four-level format, walked as user accesses (15.25.5), so
//! every entry carries U/S. The cache bits index the host's PAT, not the guest's (15.25.8): [`super::PAT`] must be loaded.

use hw::Hpa;

use super::host::{Host, US};
use crate::{Caching, DirtyFormat, EntryFormat, Rights};

/// The second stage of SVM.
#[derive(Clone, Copy, Debug)]
pub enum Npt {}

impl EntryFormat for Npt {
    const LEVELS: u8 = 4;
    const CANONICAL: bool = false;

    fn table(table: Hpa) -> u64 {
        Host::table(table) | US
    }

    fn leaf(level: u8, page: Hpa, rights: Rights, caching: Caching) -> u64 {
        Host::leaf(level, page, rights, caching) | US
    }

    fn is_present(entry: u64) -> bool {
        Host::is_present(entry)
    }

    fn rights(entry: u64) -> Rights {
        Host::rights(entry)
    }

    fn caching(entry: u64) -> Caching {
        Host::caching(entry)
    }
}

impl DirtyFormat for Npt {
    const DIRTY: u64 = 1 << 6;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn entries_have_the_bytes_of_the_manual() {
        let page = Hpa::new(0x12_3456_7000);
        assert_eq!(Npt::table(page), 0x12_3456_7007);
        assert_eq!(Npt::leaf(1, page, Rights::RWX, Caching::WriteBack), 0x12_3456_7007);
        assert_eq!(Npt::leaf(1, page, Rights::RW, Caching::Uncacheable), 0x8000_0012_3456_701f);
        let large = Hpa::new(0x12_4000_0000);
        assert_eq!(Npt::leaf(3, large, Rights::RWX, Caching::WriteBack), 0x12_4000_0087);
    }
}
