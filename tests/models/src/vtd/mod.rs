//! A VT-d unit (architecture specification 4.1), as its registers, its caches and its answers.
//!
//! ```text
//! CPU  ──► load, store (registers.rs) ──► commands, tail ──► tick: queue.rs ──► forget what caches hold
//! device ──► dma (translate.rs, walk.rs), interrupt (interrupt.rs) ──► caches ──► tables in DeviceMemory
//!                └── fault.rs: records, fault event                      audit.rs: what the CPU did to live tables
//! ```
//!
//! Whatever a unit has read it keeps until it is told to forget it: context entries, PASID entries, tables on the way of
//! a walk, translations, interrupt entries. With caching mode it keeps absence as well.

mod audit;
mod fault;
mod interrupt;
mod profile;
mod queue;
mod registers;
#[cfg(test)]
mod tests;
mod translate;
mod walk;

use std::collections::{BTreeSet, HashMap, HashSet};

use hw::{Hpa, RequesterId};
use iommu_spec::fault::FaultRecord;
use iommu_spec::registers::{FaultStatus, QueueAddress, RemapTableAddress, RootTableAddress};

use crate::memory::DeviceMemory;

pub use audit::Violation;
pub use interrupt::Delivery;
pub use profile::Profile;

/// A DMA request.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Request {
    /// Who.
    pub rid: RequesterId,
    /// For which address space.
    pub pasid: Option<u32>,
    /// Where.
    pub address: u64,
    /// To write rather than to read.
    pub write: bool,
}

/// An interrupt message that the unit itself sends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Message {
    /// Address, upper half included.
    pub address: u64,
    /// Data.
    pub data: u32,
}

/// A translation as the IOTLB keeps it.
#[derive(Clone, Copy, Debug)]
struct Translation {
    did: u16,
    /// Of those that went through a first stage.
    pasid: Option<u32>,
    nested: bool,
    first: u64,
    bytes: u64,
    /// `None` where absence was cached.
    hpa: Option<u64>,
    read: bool,
    write: bool,
}

/// Domain, PASID (first stage), root, level of a table, first address that it covers.
type TableTag = (u16, Option<u32>, u64, u8, u64);

/// What caches hold.
#[derive(Debug, Default)]
struct Caches {
    context: HashMap<u16, [u64; 4]>,
    pasid: HashMap<(u16, u32), [u64; 8]>,
    iotlb: Vec<Translation>,
    /// Tables on the way, and whether the entries that led there let writes through.
    tables: HashMap<TableTag, (u64, bool)>,
    interrupts: HashMap<u16, [u64; 2]>,
    device: HashMap<(u16, Option<u32>, u64), (u64, bool)>,
}

/// A unit.
pub struct Unit<M> {
    profile: Profile,
    memory: M,
    seen: usize,
    gsts: u32,
    /// A command under way: its bits, and polls until it is in force.
    command: Option<(u32, u32)>,
    rtaddr: RootTableAddress,
    root: RootTableAddress,
    irta: RemapTableAddress,
    interrupts: RemapTableAddress,
    iqa: QueueAddress,
    head: u64,
    tail: u64,
    queue_error: u64,
    status: FaultStatus,
    records: Vec<FaultRecord>,
    next_record: usize,
    /// FECTL, FEDATA, FEADDR, FEUADDR; IECTL and PECTL masks are kept beside.
    fault_event: [u32; 4],
    other: HashMap<u64, u64>,
    caches: Caches,
    messages: Vec<Message>,
    violations: Vec<Violation>,
    /// What is reachable, as long as nothing that matters has changed.
    roles: Option<audit::Roles>,
    silent: HashSet<u16>,
    rejected: u32,
    /// Ticks that the queue rests between two steps, and those that are left of it.
    pace: u32,
    rest: u32,
    rivals: BTreeSet<Request>,
}

impl<M: DeviceMemory> Unit<M> {
    /// A unit after reset.
    #[must_use]
    pub fn new(profile: Profile, memory: M) -> Self {
        Self {
            profile,
            memory,
            seen: 0,
            gsts: 0,
            command: None,
            rtaddr: RootTableAddress::default(),
            root: RootTableAddress::default(),
            irta: RemapTableAddress::default(),
            interrupts: RemapTableAddress::default(),
            iqa: QueueAddress::default(),
            head: 0,
            tail: 0,
            queue_error: 0,
            status: FaultStatus::default(),
            records: vec![FaultRecord::default(); usize::from(profile.cap.nfr()) + 1],
            next_record: 0,
            fault_event: [1 << 31, 0, 0, 0],
            other: HashMap::new(),
            caches: Caches::default(),
            messages: Vec::new(),
            violations: Vec::new(),
            roles: None,
            silent: HashSet::new(),
            rejected: 0,
            pace: 0,
            rest: 0,
            rivals: BTreeSet::new(),
        }
    }

    /// Lets the unit do a step of what it was told.
    pub fn tick(&mut self) {
        self.observe();
        self.step_command();
        self.step_queue();
    }

    /// Whether there is nothing left for it to do.
    #[must_use]
    pub fn is_idle(&self) -> bool {
        let queue = self.has(iommu_spec::registers::command::QIE) && !self.is_stopped();
        self.command.is_none() && (!queue || self.head == self.tail)
    }

    /// Whether interrupt entries have destinations of 32 bits (EIME, 11.4.11).
    #[must_use]
    pub fn has_wide_destinations(&self) -> bool {
        self.interrupts.eime()
    }

    /// Messages that the unit has sent since this was asked last.
    pub fn messages(&mut self) -> Vec<Message> {
        std::mem::take(&mut self.messages)
    }

    /// What was done wrong so far; asked once, it is forgotten.
    pub fn violations(&mut self) -> Vec<Violation> {
        self.observe();
        std::mem::take(&mut self.violations)
    }

    /// From now on the device's own TLB does not answer invalidations.
    pub fn silence(&mut self, rid: RequesterId) {
        self.silent.insert(rid.0);
    }

    /// From now on the queue rests for so many ticks between two steps.
    pub fn slow_down(&mut self, ticks: u32) {
        self.pace = ticks;
    }

    /// The unit rejects the next `count` descriptors that are no waits, as if a bit of them had flipped.
    pub fn reject(&mut self, count: u32) {
        self.rejected = count;
    }

    /// From now on the device repeats `request` at every moment at which the unit could take it, so that whatever is
    /// forgotten too early is cached again. The unit takes invalidations that no fence orders in the worst order.
    pub fn rival(&mut self, request: Request) {
        self.rivals.insert(request);
    }

    /// The rivals rest.
    pub fn no_rivals(&mut self) {
        self.rivals.clear();
    }

    /// Translations, PASID entries and interrupt entries that are cached.
    #[must_use]
    pub fn cached(&self) -> (usize, usize, usize) {
        (self.caches.iotlb.len(), self.caches.pasid.len(), self.caches.interrupts.len())
    }

    fn violation(&mut self, violation: Violation) {
        self.violations.push(violation);
    }

    /// `count` words at `hpa`, as the unit reads tables.
    fn words<const N: usize>(&self, hpa: u64, snoop: bool) -> Option<[u64; N]> {
        let mut words = [0; N];
        for (index, word) in words.iter_mut().enumerate() {
            *word = self.memory.read(hpa + 8 * index as u64, snoop)?;
        }
        Some(words)
    }

    /// `count` words at `hpa` that are always snooped.
    fn current<const N: usize>(&self, hpa: u64) -> [u64; N] {
        std::array::from_fn(|n| self.memory.read_current(hpa + 8 * n as u64).unwrap_or_default())
    }

    fn scalable(&self) -> bool {
        self.root.ttm() == iommu_spec::registers::ttm::SCALABLE
    }

    fn has(&self, bit: u32) -> bool {
        self.gsts & bit != 0
    }
}

fn page_of(hpa: Hpa) -> u64 {
    hpa.raw() & !(hw::PAGE_SIZE - 1)
}
