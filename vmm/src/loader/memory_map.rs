//! The memory map that guests are told, and where below 1 MiB things are that loaders write.

use hw::Gpa;

use super::GuestLayout;
use crate::platform::acpi;

/// The GDT, below it the first stack.
pub(super) const GDT: Gpa = Gpa::new(0x8000);
/// Boot information: what a guest's first register points to.
pub(super) const BOOT_INFO: Gpa = Gpa::new(0x9000);
/// Where memory below 640 KiB starts that no loader writes and a kernel's segments may have: behind the longest boot
/// information and command line.
pub(super) const FREE_LOW: u64 = 0x2_0000;
/// Where memory ends that PCs have below VGA and ROM.
pub(super) const LOW_END: u64 = 0xa_0000;
/// Where memory goes on behind them.
pub(super) const HIGH_MEMORY: u64 = 0x10_0000;

/// What a range of the guest's memory is, by E820's codes (ACPI 6.5, 15).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Ram = 1,
    Reserved = 2,
}

/// A range of the map.
#[derive(Clone, Copy, Debug)]
pub(super) struct Entry {
    pub(super) start: u64,
    pub(super) end: u64,
    pub(super) kind: Kind,
}

impl Entry {
    pub(super) const fn bytes(&self) -> u64 {
        self.end - self.start
    }
}

/// The map, in ascending order.
pub(super) fn entries(layout: &GuestLayout) -> impl Iterator<Item = Entry> + Clone {
    let (low, high) = (layout.low, layout.high);
    let tables = acpi::TABLES_BASE.raw();
    [
        (0, LOW_END.min(low.end().raw()), Kind::Ram),
        (tables, tables + acpi::TABLES_BYTES, Kind::Reserved),
        (HIGH_MEMORY, low.end().raw(), Kind::Ram),
        (high.start.raw(), high.end().raw(), Kind::Ram),
    ]
    .into_iter()
    .filter(|(start, end, _)| start < end)
    .map(|(start, end, kind)| Entry { start, end, kind })
}
