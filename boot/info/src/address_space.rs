//! The page tables in which the kernel is entered (SDM 3A, 4.5.4; APM 2, 5.3): pure, over memory set aside by the caller.
//!
//! Identity and direct map share every table below the root; the direct map's root entries forbid execution, which
//! holds for all that is below them.

use crate::{DIRECT_MAP, KERNEL_BASE};

/// One table.
pub type TablePage = [u64; 512];

const PRESENT: u64 = 1;
const WRITABLE: u64 = 1 << 1;
const LARGE: u64 = 1 << 7;
const NO_EXECUTE: u64 = 1 << 63;
const ADDRESS: u64 = 0x000f_ffff_ffff_f000;

const PAGE: u64 = 4 << 10;
const TWO_MIB: u64 = 2 << 20;
const GIB: u64 = 1 << 30;
const DIRECT_MAP_SLOT: usize = slot(DIRECT_MAP, 4);
/// The direct map may grow to the root's last entry, which is the kernel's.
const DIRECT_MAP_LIMIT: u64 = ((slot(KERNEL_BASE, 4) - DIRECT_MAP_SLOT) as u64) << 39;

/// Pages of the kernel's with the same rights, at their link address. Readable always.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Segment {
    /// Host virtual start, page-aligned.
    pub hva: u64,
    /// Host physical start, page-aligned.
    pub hpa: u64,
    /// Number of 4 KiB pages.
    pub pages: u64,
    /// Whether it may be stored to.
    pub write: bool,
    /// Whether it may be executed.
    pub execute: bool,
}

/// The tables set aside do not suffice: the caller asked for fewer than [`table_count`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OutOfTables;

/// How much of host physical memory is mapped when memory ends at `memory_top`: at least 4 GiB, whole GiB.
#[must_use]
pub const fn mapped_bytes(memory_top: u64) -> u64 {
    if memory_top >= DIRECT_MAP_LIMIT {
        return DIRECT_MAP_LIMIT;
    }
    if memory_top <= 4 * GIB { 4 * GIB } else { memory_top.next_multiple_of(GIB) }
}

/// How many tables [`build`] needs at most.
#[must_use]
pub fn table_count(mapped_bytes: u64, gib_pages: bool, segments: &[Segment]) -> usize {
    let gibs = mapped_bytes.div_ceil(GIB);
    let direct = gibs.div_ceil(512) + if gib_pages { 0 } else { gibs };
    // A segment may begin and end amid a table's range.
    let kernel: u64 = segments
        .iter()
        .map(|segment| 4 + segment.pages.div_ceil(512) + segment.pages.div_ceil(512 * 512))
        .sum();
    usize::try_from(1 + direct + 1 + kernel).unwrap_or(usize::MAX)
}

/// Fills `tables`, whose first lies at `tables_hpa`, and returns the root's host physical address.
///
/// # Errors
/// [`OutOfTables`] where there are fewer than [`table_count`].
pub fn build(
    tables: &mut [TablePage],
    tables_hpa: u64,
    mapped_bytes: u64,
    gib_pages: bool,
    segments: &[Segment],
) -> Result<u64, OutOfTables> {
    let mut builder = Builder { tables, tables_hpa, used: 0 };
    let root = builder.table()?;
    let (step, level) = if gib_pages { (GIB, 3) } else { (TWO_MIB, 2) };
    let mut hpa = 0;
    while hpa < mapped_bytes {
        builder.map(root, hpa, level, hpa | PRESENT | WRITABLE | LARGE)?;
        hpa += step;
    }
    builder.alias_identity(root);
    for segment in segments {
        let rights = PRESENT
            | if segment.write { WRITABLE } else { 0 }
            | if segment.execute { 0 } else { NO_EXECUTE };
        for page in 0..segment.pages {
            let offset = page * PAGE;
            builder.map(root, segment.hva + offset, 1, (segment.hpa + offset) | rights)?;
        }
    }
    Ok(builder.hpa(root))
}

struct Builder<'a> {
    tables: &'a mut [TablePage],
    tables_hpa: u64,
    used: usize,
}

impl Builder<'_> {
    fn table(&mut self) -> Result<usize, OutOfTables> {
        let index = self.used;
        self.tables.get_mut(index).ok_or(OutOfTables)?.fill(0);
        self.used += 1;
        Ok(index)
    }

    const fn hpa(&self, table: usize) -> u64 {
        self.tables_hpa + table as u64 * PAGE
    }

    /// Writes `entry` for `hva` at `leaf_level`, with the tables above it where they are missing.
    fn map(
        &mut self,
        root: usize,
        hva: u64,
        leaf_level: u8,
        entry: u64,
    ) -> Result<(), OutOfTables> {
        let mut table = root;
        let mut level = 4;
        while level > leaf_level {
            let upper = self.tables[table][slot(hva, level)];
            table = if upper & PRESENT == 0 {
                let lower = self.table()?;
                self.tables[table][slot(hva, level)] = self.hpa(lower) | PRESENT | WRITABLE;
                lower
            } else {
                ((upper & ADDRESS) - self.tables_hpa) as usize / PAGE as usize
            };
            level -= 1;
        }
        self.tables[table][slot(hva, leaf_level)] = entry;
        Ok(())
    }

    /// Lets the direct map's root entries point at the identity's tables.
    fn alias_identity(&mut self, root: usize) {
        let (identity, upper) = self.tables[root].split_at_mut(DIRECT_MAP_SLOT);
        for (low, high) in identity.iter().zip(upper).filter(|(low, _)| **low != 0) {
            *high = low | NO_EXECUTE;
        }
    }
}

/// The index of `hva` in a table of this level (SDM 3A, figure 4-8).
const fn slot(hva: u64, level: u8) -> usize {
    (hva >> (12 + 9 * (level - 1)) & 0x1ff) as usize
}

#[cfg(test)]
mod tests {
    use super::*;

    const TABLES_HPA: u64 = 0x1234_5000;
    const TEXT: Segment =
        Segment { hva: KERNEL_BASE, hpa: 0x70_0000, pages: 513, write: false, execute: true };
    const DATA: Segment = Segment {
        hva: KERNEL_BASE + 0x40_0000,
        hpa: 0x90_1000,
        pages: 3,
        write: true,
        execute: false,
    };

    #[derive(Debug, PartialEq)]
    struct Found {
        hpa: u64,
        write: bool,
        execute: bool,
    }

    /// What the hardware would find, walked anew from the manual.
    fn walk(tables: &[TablePage], root: u64, hva: u64) -> Option<Found> {
        let (mut table, mut write, mut execute) = (root, true, true);
        for level in (1..=4).rev() {
            let shift = 12 + 9 * (level - 1);
            let page = &tables[((table - TABLES_HPA) / 4096) as usize];
            let entry = page[(hva >> shift) as usize & 511];
            if entry & 1 == 0 {
                return None;
            }
            write &= entry & 2 != 0;
            execute &= entry >> 63 == 0;
            let address = entry & 0x000f_ffff_ffff_f000;
            if level == 1 || entry & 0x80 != 0 {
                let offset = hva & ((1 << shift) - 1);
                assert_eq!(address & ((1 << shift) - 1), 0, "unaligned leaf");
                return Some(Found { hpa: address + offset, write, execute });
            }
            table = address;
        }
        None
    }

    fn tables(mapped: u64, gib_pages: bool) -> (Vec<TablePage>, u64) {
        let segments = [TEXT, DATA];
        // Dirty memory, as firmware hands it out.
        let mut tables = vec![[u64::MAX; 512]; table_count(mapped, gib_pages, &segments)];
        let root = build(&mut tables, TABLES_HPA, mapped, gib_pages, &segments).unwrap();
        (tables, root)
    }

    #[test]
    fn memory_is_mapped_twice_and_nowhere_else() {
        for gib_pages in [false, true] {
            let mapped = mapped_bytes(600 * GIB + 5);
            let (tables, root) = tables(mapped, gib_pages);
            for hpa in [0, 0x1000, 0xb_8123, GIB - 1, 4 * GIB, 513 * GIB + 7, mapped - 1] {
                let identity = walk(&tables, root, hpa).unwrap();
                assert_eq!(identity, Found { hpa, write: true, execute: true });
                let direct = walk(&tables, root, DIRECT_MAP + hpa).unwrap();
                assert_eq!(direct, Found { hpa, write: true, execute: false });
            }
            assert_eq!(walk(&tables, root, mapped), None);
            assert_eq!(walk(&tables, root, DIRECT_MAP + mapped), None);
        }
    }

    #[test]
    fn kernel_pages_have_their_segments_rights() {
        let (tables, root) = tables(4 * GIB, false);
        for segment in [TEXT, DATA] {
            for offset in [0, (segment.pages - 1) * PAGE + 0xfff] {
                assert_eq!(
                    walk(&tables, root, segment.hva + offset),
                    Some(Found {
                        hpa: segment.hpa + offset,
                        write: segment.write,
                        execute: segment.execute
                    })
                );
            }
            assert_eq!(walk(&tables, root, segment.hva + segment.pages * PAGE), None);
        }
        assert_eq!(walk(&tables, root, KERNEL_BASE - 1), None);
    }

    #[test]
    fn four_gib_are_mapped_at_least_and_the_kernels_slot_never() {
        assert_eq!(mapped_bytes(0), 4 * GIB);
        assert_eq!(mapped_bytes(4 * GIB + 1), 5 * GIB);
        assert_eq!(mapped_bytes(u64::MAX), DIRECT_MAP_LIMIT);
        const { assert!(DIRECT_MAP + (DIRECT_MAP_LIMIT - 1) < KERNEL_BASE) };
    }

    #[test]
    fn too_few_tables_are_an_error() {
        let mut tables = [[0; 512]; 3];
        assert_eq!(build(&mut tables, TABLES_HPA, 4 * GIB, false, &[]), Err(OutOfTables));
    }
}
