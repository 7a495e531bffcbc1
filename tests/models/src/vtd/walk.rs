//! Page walks: second stage (9.8), first stage (9.7), and one through the other (3.8). Tables on the way are cached.

use iommu_spec::fault::reason;

use super::translate::Space;
use super::{Unit, Violation};
use crate::memory::DeviceMemory;

/// A page and the address in it.
#[derive(Clone, Copy)]
pub(super) struct Page {
    pub(super) hpa: u64,
    pub(super) bytes: u64,
    pub(super) read: bool,
    pub(super) write: bool,
}

/// Bytes that one entry at `level` covers.
pub(super) const fn span(level: u8) -> u64 {
    4096 << (9 * (level as u32 - 1))
}

const ADDRESS: u64 = 0x000f_ffff_ffff_f000;

impl<M: DeviceMemory> Unit<M> {
    pub(super) fn walk(&mut self, space: Space, address: u64, write: bool) -> Result<Page, u8> {
        match (space.first, space.second) {
            (Some(root), _) => self.walk_first(space, root, address, write),
            (None, Some(_)) => self.walk_second(space, address, write),
            (None, None) => Err(reason::PASID_INVALID),
        }
    }

    /// Where to begin: at the lowest table that is cached, or at the root.
    fn begin(
        &self,
        space: Space,
        tag: Option<u32>,
        root: u64,
        levels: u8,
        address: u64,
    ) -> (u64, u8, bool) {
        let cached = (1..levels).find_map(|level| {
            let key = (space.did, tag, root, level, address & !(span(level + 1) - 1));
            let (table, write) = self.caches.tables.get(&key)?;
            Some((*table, level, *write))
        });
        cached.unwrap_or((root, levels, true))
    }

    fn walk_second(&mut self, space: Space, address: u64, write: bool) -> Result<Page, u8> {
        let (root, levels) = space.second.expect("a second stage");
        let scalable = self.scalable();
        let absent = match (scalable, write) {
            (true, _) => reason::SECOND_RIGHTS,
            (false, true) => reason::WRITE,
            (false, false) => reason::READ,
        };
        let reserved = if scalable { 0x7a } else { reason::PAGING_RESERVED };
        let width = 12 + 9 * u32::from(levels);
        if address >> width.min(u32::from(self.profile.cap.mgaw()) + 1) != 0 {
            return Err(if scalable { 0x84 } else { reason::TOO_WIDE });
        }
        let (mut table, mut level, mut right) = self.begin(space, None, root, levels, address);
        loop {
            let at = table + 8 * (address / span(level) % 512);
            let entry = self.memory.read(at, space.snoop).ok_or(if scalable { 0x78 } else { 7 })?;
            if entry & 3 == 0 {
                return Err(absent);
            }
            right &= entry & 2 != 0;
            let leaf = level == 1 || entry & 0x80 != 0;
            let large = leaf && level > 1;
            let offered = level <= 3 && self.profile.cap.sslps() >> (level.max(2) - 2) & 1 != 0;
            let snoop_bit = entry >> 11 & 1 != 0 && !self.profile.ecap.sc();
            if large && !offered || snoop_bit || entry & 4 != 0 {
                self.violation(Violation::ReservedBits { hpa: at });
                return Err(reserved);
            }
            if leaf {
                let page = entry & ADDRESS;
                if page & (span(level) - 1) != 0 {
                    self.violation(Violation::ReservedBits { hpa: at });
                    return Err(reserved);
                }
                if space.dirty {
                    self.mark(at, entry, 1 << 8 | if write && right { 1 << 9 } else { 0 });
                }
                let hpa = page | address & (span(level) - 1);
                return Ok(Page { hpa, bytes: span(level), read: entry & 1 != 0, write: right });
            }
            table = entry & ADDRESS;
            level -= 1;
            let key = (space.did, None, root, level, address & !(span(level + 1) - 1));
            self.caches.tables.insert(key, (table, right));
        }
    }

    fn walk_first(
        &mut self,
        space: Space,
        root: u64,
        address: u64,
        write: bool,
    ) -> Result<Page, u8> {
        let high = address as i64 >> 47;
        if high != 0 && high != -1 {
            return Err(reason::NOT_CANONICAL);
        }
        let (mut table, mut level, mut right) = self.begin(space, space.pasid, root, 4, address);
        loop {
            let table_hpa = self.through_second(space, table, false)?.hpa;
            let at = table_hpa + 8 * (address / span(level) % 512);
            let entry = self.memory.read(at, space.snoop).ok_or(0x70)?;
            if entry & 1 == 0 {
                return Err(reason::FIRST_ABSENT);
            }
            if entry & 4 == 0 {
                return Err(0x81);
            }
            right &= entry & 2 != 0;
            let leaf = level == 1 || entry & 0x80 != 0;
            if leaf && (level == 4 || level == 3 && !self.profile.cap.fs1gp()) {
                self.violation(Violation::ReservedBits { hpa: at });
                return Err(0x72);
            }
            let wanted = 1 << 5 | if leaf && write && right { 1 << 6 } else { 0 };
            if entry & wanted != wanted && !space.snoop {
                return Err(0x90);
            }
            self.mark(at, entry, wanted);
            if leaf {
                let gpa = entry & ADDRESS & !(span(level) - 1) | address & (span(level) - 1);
                let host = self.through_second(space, gpa, write && right)?;
                let bytes = span(level).min(host.bytes);
                return Ok(Page { hpa: host.hpa, bytes, read: true, write: right && host.write });
            }
            table = entry & ADDRESS;
            level -= 1;
            let key = (space.did, space.pasid, root, level, address & !(span(level + 1) - 1));
            self.caches.tables.insert(key, (table, right));
        }
    }

    fn through_second(&mut self, space: Space, gpa: u64, write: bool) -> Result<Page, u8> {
        match space.second {
            Some(_) => self.walk_second(space, gpa, write),
            None => Ok(Page { hpa: gpa, bytes: span(3), read: true, write: true }),
        }
    }

    fn mark(&mut self, at: u64, entry: u64, bits: u64) {
        if entry & bits != bits {
            self.memory.write(at, entry | bits);
        }
    }
}
