//! How queues and engines are laid out while the device is disabled (3.2, 9.2.23, 9.2.24): once, when it is taken, and again
//! after it has been reset.

use alloc::vec::Vec;

use device_spec::dsa::group::{self, GroupConfiguration};
use device_spec::dsa::interrupt::{MsixPermission, PERMISSION_BYTES};
use device_spec::dsa::queue::QueueConfiguration;
use device_spec::dsa::registers as regs;
use hw::{RegisterBus, RegisterValue, Width};

use super::capabilities::Capabilities;
use crate::interface::Mode;

/// Groups of a device, in the order of their numbers. Queues and engines are numbered through all groups.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Plan {
    /// The groups.
    pub groups: Vec<GroupPlan>,
}

/// A group: its engines serve its queues.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct GroupPlan {
    /// How many engines.
    pub engines: u8,
    /// Its queues.
    pub queues: Vec<QueuePlan>,
}

/// A queue.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct QueuePlan {
    /// Who submits work.
    pub mode: Mode,
    /// Its entries.
    pub entries: u16,
    /// Its priority in the group: 1 to 15, the highest.
    pub priority: u8,
}

/// Why a plan is none for a device: of what it has too many, how many there are, and how many it may have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum PlanError {
    Groups {
        planned: usize,
        has: u8,
    },
    Engines {
        planned: usize,
        has: u8,
    },
    Queues {
        planned: usize,
        has: u8,
    },
    Entries {
        planned: usize,
        has: u16,
    },
    /// A group has queues but no engines, or engines but no queues.
    Group(usize),
    /// A queue has no entries, no priority, or is of a mode that the device does not have.
    Queue(usize),
}

impl Plan {
    /// All queues alike, in as many groups as can have an engine each.
    #[must_use]
    pub fn even(has: &Capabilities) -> Self {
        let queues = u16::from(has.queues.queues());
        let groups = queues.min(has.groups.into()).min(has.engines.into()).max(1);
        let share = |of: u16, index: u16| of / groups + u16::from(index < of % groups);
        let mode = if has.queues.dedicated() { Mode::Dedicated } else { Mode::Shared };
        let entries = has.queues.total_size().checked_div(queues).unwrap_or(0);
        let queue = QueuePlan { mode, entries, priority: 1 };
        let group = |index| GroupPlan {
            engines: share(has.engines.into(), index) as u8,
            queues: alloc::vec![queue; share(queues, index).into()],
        };
        Self { groups: (0..groups).map(group).collect() }
    }

    /// Dedicated queues of so many entries, in as many groups as can have an engine each.
    #[must_use]
    pub fn of(has: &Capabilities, entries: &[u16]) -> Self {
        let count = entries.len().min(usize::from(has.groups.min(has.engines))).max(1);
        let queue = |entries| QueuePlan { mode: Mode::Dedicated, entries, priority: 1 };
        let group = |index: usize| GroupPlan {
            engines: has.engines / count as u8,
            queues: entries.iter().skip(index).step_by(count).copied().map(queue).collect(),
        };
        Self { groups: (0..count).map(group).collect() }
    }

    /// All queues, in the order of their numbers.
    pub fn queues(&self) -> impl Iterator<Item = &QueuePlan> {
        self.groups.iter().flat_map(|group| &group.queues)
    }

    /// All queues with their numbers, groups taking turns: owners share engines only when there are none of their own left.
    pub(super) fn in_turns(&self) -> Vec<(u16, QueuePlan)> {
        let turns = self.groups.iter().flat_map(|group| 0..group.queues.len());
        let mut all: Vec<_> = turns.zip((0..).zip(self.queues().copied())).collect();
        all.sort_by_key(|(turn, (number, _))| (*turn, *number));
        all.into_iter().map(|(_, queue)| queue).collect()
    }

    /// Whether a device can be laid out like that.
    ///
    /// # Errors
    /// [`PlanError`]: the first thing that speaks against it.
    pub fn check(&self, has: &Capabilities) -> Result<(), PlanError> {
        let groups = self.groups.len();
        let engines = self.groups.iter().map(|group| usize::from(group.engines)).sum();
        let queues = self.queues().count();
        let entries = self.queues().map(|queue| usize::from(queue.entries)).sum();
        if groups > has.groups.into() {
            return Err(PlanError::Groups { planned: groups, has: has.groups });
        }
        if engines > has.engines.into() {
            return Err(PlanError::Engines { planned: engines, has: has.engines });
        }
        if queues > has.queues.queues().into() {
            return Err(PlanError::Queues { planned: queues, has: has.queues.queues() });
        }
        if entries > has.queues.total_size().into() {
            return Err(PlanError::Entries { planned: entries, has: has.queues.total_size() });
        }
        let lame = |group: &GroupPlan| (group.engines == 0) != group.queues.is_empty();
        if let Some(group) = self.groups.iter().position(lame) {
            return Err(PlanError::Group(group));
        }
        let wrong = |queue: &QueuePlan| {
            let offered = match queue.mode {
                Mode::Dedicated => has.queues.dedicated(),
                Mode::Shared => has.queues.shared(),
            };
            queue.entries == 0 || !(1..=15).contains(&queue.priority) || !offered
        };
        self.queues().position(wrong).map_or(Ok(()), |queue| Err(PlanError::Queue(queue)))
    }

    /// Writes it to a device that is disabled. No interrupt entry sends anything afterwards.
    pub(super) fn lay_out(&self, regs: &impl RegisterBus, has: &Capabilities) {
        // Descriptors of carved queues are nobody's with privilege, and may ask for interrupts all the same.
        let general = regs::GeneralConfiguration::default().with_user_interrupts(true);
        regs.write(regs::GENCFG, general);
        let ignored = MsixPermission::default().with_ignore(true);
        for entry in 0..u64::from(has.msix_entries) {
            let at = has.tables.permissions + entry * PERMISSION_BYTES;
            regs.store(at, Width::W4, ignored.raw());
        }
        for entry in 0..has.ims_entries {
            super::commands::silence(regs, has.tables.ims(entry));
        }
        for (number, queue) in (0..).zip(self.queues()) {
            let size = QueueConfiguration::default().with_size(queue.entries);
            let [size, ..] = size.0;
            regs.store(has.tables.queue(number), Width::W8, size);
        }
        let (mut first_queue, mut first_engine) = (0, 0);
        for number in 0..u64::from(has.groups) {
            let group = self.groups.get(number as usize);
            let (queues, engines) =
                group.map_or((0, 0), |group| (group.queues.len(), group.engines.into()));
            let mut words = [0; 4];
            for queue in first_queue..first_queue + queues {
                if let Some(word) = words.get_mut(queue / 64) {
                    *word |= 1 << (queue % 64);
                }
            }
            let [first, ..] = words;
            let mut entry = GroupConfiguration::default()
                .with_queues(first)
                .with_engines(bits(first_engine, engines))
                .with_tc_a(TRAFFIC_CLASS)
                .with_tc_b(TRAFFIC_CLASS)
                .with_read_buffers_allowed(has.read_buffers);
            if has.queues.queues() > 64 {
                entry.0.iter_mut().zip(words).for_each(|(to, word)| *to = word);
            }
            let at = has.tables.groups + number * group::BYTES;
            // The last two words are reserved.
            for (offset, word) in (0..).step_by(8).zip(entry.0).take(6) {
                regs.store(at + offset, Width::W8, word);
            }
            first_queue += queues;
            first_engine += engines;
        }
    }
}

/// `count` bits from `first` on.
fn bits(first: usize, count: usize) -> u64 {
    let below = |end: usize| if end >= 64 { u64::MAX } else { (1 << end) - 1 };
    below(first + count) & !below(first)
}

/// Both traffic classes: the one that Linux takes on these devices.
const TRAFFIC_CLASS: u8 = 1;
