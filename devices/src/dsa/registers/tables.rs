//! Where the tables of a virtual device are in its BAR 0.

use device_spec::dsa::registers::{DUMMY_PORTAL, Offsets, TABLE_UNIT};
use device_spec::dsa::{REGISTERS_BYTES, group, interrupt, queue};
use hw::PAGE_SIZE;

/// Registers at fixed places end here.
const FIXED_BYTES: u64 = 0x400;
/// The most entries that an MSI-X table has (PCIe 6.0, 7.7.2.2), and their bytes.
const MSIX_ENTRIES: usize = 2048;
const MSIX_BYTES: u64 = 16;

/// Offsets of tables.
#[derive(Clone, Copy, Debug)]
pub(super) struct Tables {
    groups: u64,
    queues: u64,
    permissions: u64,
    pub(super) msix: u64,
    pub(super) pending: u64,
    pub(super) bytes: u64,
    queue_bytes: u64,
    /// Queues, and as many groups.
    count: u64,
    entries: u64,
}

/// A word in one of them: the entry's index, and the word's in the entry.
pub(super) enum Place {
    Group(usize, usize),
    Queue(usize, usize),
    Permission(usize),
}

impl Tables {
    /// For as many queues and MSI-X entries; `whole`: a queue's configuration has both halves. `None` where there are too
    /// many entries.
    pub(super) fn of(count: u8, whole: bool, entries: usize) -> Option<Self> {
        if entries > MSIX_ENTRIES {
            return None;
        }
        let (count, entries) = (u64::from(count), entries as u64);
        let queue_bytes = queue::bytes(if whole { queue::WHOLE } else { 0 });
        let behind = |start: u64, count: u64, bytes: u64, unit: u64| {
            (start + count * bytes).next_multiple_of(unit)
        };
        let groups = FIXED_BYTES;
        let queues = behind(groups, count, group::BYTES, TABLE_UNIT);
        let permissions = behind(queues, count, queue_bytes, TABLE_UNIT);
        let end = behind(permissions, entries, interrupt::PERMISSION_BYTES, PAGE_SIZE);
        let pages = behind(0, entries, MSIX_BYTES, PAGE_SIZE);
        // The last page of the first 64 KiB has a meaning of its own.
        let msix = if end + pages < DUMMY_PORTAL { end } else { REGISTERS_BYTES };
        let pending = msix + pages;
        let bytes = (pending + PAGE_SIZE).next_power_of_two().max(REGISTERS_BYTES);
        Some(Self {
            groups,
            queues,
            permissions,
            msix,
            pending,
            bytes,
            queue_bytes,
            count,
            entries,
        })
    }

    pub(super) fn offsets(&self) -> Offsets {
        let unit = |table: u64| (table / TABLE_UNIT) as u16;
        Offsets::default()
            .with_groups(unit(self.groups))
            .with_queues(unit(self.queues))
            .with_permissions(unit(self.permissions))
    }

    /// The word at an offset, a multiple of eight.
    pub(super) fn place(&self, offset: u64) -> Option<Place> {
        let within = |start: u64, count: u64, bytes: u64| {
            let at = offset.checked_sub(start).filter(|at| *at < count * bytes)?;
            Some(((at / bytes) as usize, (at % bytes / 8) as usize))
        };
        let group = || within(self.groups, self.count, group::BYTES);
        let queue = || within(self.queues, self.count, self.queue_bytes);
        let permission = || within(self.permissions, self.entries, interrupt::PERMISSION_BYTES);
        group()
            .map(|(index, word)| Place::Group(index, word))
            .or_else(|| queue().map(|(index, word)| Place::Queue(index, word)))
            .or_else(|| permission().map(|(index, _)| Place::Permission(index)))
    }
}
