//! What the CPU does to tables while the unit uses them: entries are made and unmade by one store, and no frame is given
//! back while the unit could still reach it.

use std::collections::HashMap;

use iommu_spec::pasid::PasidEntry;
use iommu_spec::registers::command;

use super::{Unit, walk};
use crate::memory::{Change, DeviceMemory};

/// Something that the manual forbids, or that the project does.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Violation {
    /// More than one command bit was changed by one write (11.4.4.1).
    CommandsAtOnce(u32),
    /// A command was given before the last one was in force.
    CommandWhileBusy(u32),
    /// Translation or interrupt remapping was turned on before a table was set.
    NoTable,
    /// A translation mode or an interrupt mode was changed while it was in use.
    ModeChangedWhileOn,
    /// Scalable mode with descriptors of 128 bits.
    NarrowQueue,
    /// The queue was turned on with a tail other than zero.
    TailNotZero,
    /// The queue's address was written while it was on.
    QueueMovedWhileOn,
    /// A tail past the ring, or between two descriptors.
    TailOutsideRing(u64),
    /// The tail overtook the head.
    QueueOverrun,
    /// A descriptor that the unit does not take.
    BadDescriptor([u64; 4]),
    /// Register-based invalidation while the queue is on (6.5.1).
    RegisterInvalidationBesideQueue,
    /// A register was accessed misaligned, at a wrong width, or written though it is read-only.
    BadAccess {
        /// Where.
        offset: u64,
    },
    /// A present entry with reserved bits set.
    ReservedBits {
        /// Where.
        hpa: u64,
    },
    /// Words of a present entry were changed one by one.
    EditedInPlace {
        /// The word.
        hpa: u64,
    },
    /// A frame was given back that the unit can still reach, or has cached.
    FreedInUse {
        /// The frame.
        hpa: u64,
        /// How it is reached.
        by: &'static str,
    },
    /// A translation leads into the interrupt range.
    InterruptRangeMapped {
        /// From where.
        iova: u64,
    },
    /// A present interrupt entry lets any source use it.
    UncheckedSource {
        /// The entry.
        index: u16,
    },
    /// A posted entry where the unit does not post.
    UnofferedPosting {
        /// The entry.
        index: u16,
    },
    /// A domain that the unit does not have, or domain 0 in caching mode.
    BadDomain(u16),
}

/// What a reachable frame is: words of its entries, and a name.
pub(super) type Roles = HashMap<u64, (u64, &'static str)>;

impl<M: DeviceMemory> Unit<M> {
    /// Looks at what the CPU has done to memory since.
    pub(super) fn observe(&mut self) {
        let changes = self.memory.changes(&mut self.seen);
        if changes.is_empty() {
            return;
        }
        let known = self.roles.take().filter(|roles| {
            !changes.iter().any(|change| match change {
                Change::Stored { hpa, .. } => {
                    let role = roles.get(&(hpa & !0xfff)).map(|(_, name)| *name);
                    !matches!(role, None | Some("the queue" | "a mapping"))
                }
                Change::Freed { .. } => false,
            })
        });
        let roles = known.unwrap_or_else(|| self.reachable());
        for change in changes {
            match change {
                Change::Stored { hpa, line, value, paired } => {
                    let Some((words, name)) = roles.get(&(hpa & !0xfff)) else { continue };
                    let word = hpa / 8 % words;
                    let first = (hpa / 8 % 8 - word) as usize;
                    let present = line[first] & 1 != 0;
                    let changed = line[(hpa / 8 % 8) as usize] != value;
                    let pair_allowed = paired && *name == "interrupt entries";
                    if present && word != 0 && changed && !pair_allowed {
                        self.violations.push(Violation::EditedInPlace { hpa });
                    }
                }
                Change::Freed { hpa, frames } => {
                    for page in (hpa..hpa + frames * hw::PAGE_SIZE).step_by(4096) {
                        let linked = roles.get(&page).map(|(_, name)| *name);
                        if let Some(by) = linked.or_else(|| self.caches_reach(page)) {
                            self.violations.push(Violation::FreedInUse { hpa: page, by });
                        }
                    }
                }
            }
        }
        self.roles = Some(roles);
    }

    fn caches_reach(&self, page: u64) -> Option<&'static str> {
        let here = |hpa: u64| hpa & 0x000f_ffff_ffff_f000 == page;
        let caches = &self.caches;
        let context = caches.context.values().any(|entry| here(entry[0]));
        let pasid = caches.pasid.values().map(|entry| PasidEntry(*entry));
        let pasid =
            pasid.filter(|entry| entry.p()).any(|entry| here(entry.0[0]) || here(entry.0[2]));
        let tables = caches.tables.values().any(|(table, _)| here(*table));
        let pages = caches
            .iotlb
            .iter()
            .any(|t| t.hpa.is_some_and(|hpa| (hpa..hpa + t.bytes).contains(&page)));
        let device = caches.device.values().any(|(hpa, _)| here(*hpa));
        let posted = caches.interrupts.values().any(|entry| {
            let entry = iommu_spec::interrupt::Irte(*entry);
            entry.p() && entry.im() && here(entry.descriptor().raw())
        });
        [
            (context, "the context cache"),
            (pasid, "the PASID cache"),
            (tables, "a cached table"),
            (pages, "the IOTLB"),
            (device, "a device's TLB"),
            (posted, "the interrupt entry cache"),
        ]
        .into_iter()
        .find_map(|(reached, by)| reached.then_some(by))
    }

    /// Every frame that the unit would reach from its registers.
    fn reachable(&self) -> Roles {
        let mut roles = Roles::new();
        if self.has(command::QIE) {
            let first = self.iqa.iqa().raw();
            let queue = (first..first + (4096 << self.iqa.qs())).step_by(4096);
            roles.extend(queue.map(|page| (page, (1, "the queue"))));
        }
        if self.has(command::SIRTP) {
            let first = self.interrupts.irta().raw();
            let bytes = 16u64 << (self.interrupts.s() + 1);
            let table = (first..first + bytes.next_multiple_of(4096)).step_by(4096);
            roles.extend(table.map(|page| (page, (2, "interrupt entries"))));
        }
        if !self.has(command::SRTP) {
            return roles;
        }
        let root = self.root.rta().raw();
        roles.insert(root, (1, "the root table"));
        let scalable = self.scalable();
        for (half, entry) in self.memory.page(root).into_iter().enumerate() {
            if entry & 1 == 0 || !scalable && half % 2 == 1 {
                continue;
            }
            let table = entry & !0xfff;
            let words = if scalable { 4 } else { 2 };
            roles.insert(table, (words, "context entries"));
            for context in self.memory.page(table).chunks_exact(words as usize) {
                match (context[0] & 1 != 0, scalable) {
                    (true, true) => self.add_directory(&mut roles, context[0]),
                    (true, false) => {
                        let levels = (context[1] & 7) as u8 + 2;
                        self.add_tables(&mut roles, context[0] & !0xfff, levels, false);
                    }
                    (false, _) => {}
                }
            }
        }
        roles
    }

    fn add_directory(&self, roles: &mut Roles, context: u64) {
        let (first, entries) = (context & !0xfff, 128u64 << (context >> 9 & 7));
        for page in (first..first + (8 * entries).next_multiple_of(4096)).step_by(4096) {
            roles.insert(page, (1, "a PASID directory"));
            let tables = self.memory.page(page).into_iter().take(entries as usize);
            for table in tables.filter(|entry| entry & 1 != 0).map(|entry| entry & !0xfff) {
                roles.insert(table, (8, "PASID entries"));
                let page = self.memory.page(table);
                for words in page.as_chunks().0 {
                    let entry = PasidEntry(*words);
                    match (entry.p(), entry.pgtt()) {
                        (false, _) => {}
                        (true, iommu_spec::pasid::pgtt::FIRST) => {
                            self.add_tables(roles, entry.fsptptr().raw(), 4, true);
                        }
                        (true, _) => {
                            self.add_tables(roles, entry.ssptptr().raw(), entry.aw() + 2, false);
                        }
                    }
                }
            }
        }
    }

    /// Page tables, and what they map.
    fn add_tables(&self, roles: &mut Roles, table: u64, level: u8, first_stage: bool) {
        if roles.insert(table, (1, "a page table")).is_some() {
            return;
        }
        let present = if first_stage { 1 } else { 3 };
        for entry in self.memory.page(table).into_iter().filter(|entry| entry & present != 0) {
            let target = entry & 0x000f_ffff_ffff_f000;
            if level > 1 && entry & 0x80 == 0 {
                self.add_tables(roles, target, level - 1, first_stage);
            } else {
                // Of a page larger than 2 MiB only the first frames are watched.
                let pages = (walk::span(level) / 4096).min(512);
                for page in 0..pages {
                    roles.entry(target + 4096 * page).or_insert((1, "a mapping"));
                }
            }
        }
    }
}
