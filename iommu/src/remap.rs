//! Interrupt entries (VT-d chapter 5). Every present entry says who may use it.

use alloc::vec::Vec;

use hw::{DeviceTables, Function, Hpa, OutOfFrames, TableMemory};
use iommu_spec::dmar::scope;
use iommu_spec::interrupt::{Irte, MessageAddress, RedirectionEntry};
use iommu_spec::invalidation::Descriptor;
use iommu_spec::registers::RemapTableAddress;

use crate::Hw;
use crate::error::RouteError;
use crate::iommu::Iommu;
use crate::teardown::{Part, Pending, Release};
use crate::unit::Unit;
use crate::write_back::WriteBack;

/// Who sends an interrupt.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Source {
    /// A function.
    Function(Function),
    /// Functions behind a bridge that puts one of its buses' IDs on what they send: first and last bus.
    Buses {
        /// The bridge.
        bridge: Function,
        /// Its secondary bus.
        first: u8,
        /// Its subordinate bus.
        last: u8,
    },
    /// An I/O APIC, by its ID.
    IoApic(u8),
    /// A HPET, by its number.
    Hpet(u8),
}

/// Where an interrupt goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Target {
    /// To a CPU, edge-triggered.
    Cpu {
        /// Its APIC ID.
        apic_id: u32,
        /// The vector.
        vector: u8,
    },
    /// To a CPU, level-triggered: pins of an I/O APIC.
    CpuLevel {
        /// Its APIC ID.
        apic_id: u32,
        /// The vector.
        vector: u8,
    },
    /// Into a posted-interrupt descriptor, which a CPU merges into a guest's virtual APIC.
    Posted {
        /// The descriptor, 64-byte-aligned.
        descriptor: Hpa,
        /// The guest's vector.
        vector: u8,
        /// Notify even where the descriptor suppresses it.
        urgent: bool,
    },
}

/// A message that a device is to write.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Message {
    /// Where.
    pub address: u64,
    /// What. A device with several vectors adds their number.
    pub data: u32,
}

/// Interrupt entries in a row, and the source that may use them. Not a handle to copy: whoever has it unroutes it.
#[derive(Debug, PartialEq, Eq)]
#[must_use = "a route that is dropped can never be taken back"]
pub struct Route {
    unit: usize,
    first: u16,
    count: u16,
    source: Source,
}

impl Route {
    /// What the device is to be programmed with.
    #[must_use]
    pub fn message(&self) -> Message {
        let [address] = MessageAddress::remappable(self.first, self.count > 1).0;
        Message { address, data: 0 }
    }

    /// What an I/O APIC's pin is to be programmed with; `vector` as in the target, by which it finds its EOI.
    #[must_use]
    pub fn redirection(&self, vector: u8, level: bool, active_low: bool, masked: bool) -> u64 {
        let entry = RedirectionEntry::default()
            .with_format(true)
            .with_handle_low(self.first)
            .with_handle_high(self.first >> 15 != 0)
            .with_vector(vector)
            .with_level(level)
            .with_active_low(active_low)
            .with_masked(masked);
        let [entry] = entry.0;
        entry
    }
}

/// The table of a unit.
#[derive(Debug)]
pub(crate) struct Entries {
    table: Hpa,
    bits: u8,
    eime: bool,
    coherent: bool,
    /// One bit for each entry.
    taken: Vec<u64>,
}

impl Entries {
    /// Bits of an index that a table register can name (11.4.10).
    const MOST_BITS: u8 = 16;

    /// A table of 2^`bits` absent entries.
    pub(crate) fn new(
        tables: &mut impl DeviceTables,
        bits: u8,
        eime: bool,
        coherent: bool,
    ) -> Result<Self, OutOfFrames> {
        // A frame holds 2^8 of them.
        let bits = bits.clamp(8, Self::MOST_BITS);
        let table = WriteBack::new(tables, coherent).alloc_run(1 << (bits - 8))?;
        let taken = alloc::vec![0; 1 << (bits - 6)];
        Ok(Self { table, bits, eime, coherent, taken })
    }

    /// What the unit's table register is to hold.
    pub(crate) fn address(&self) -> RemapTableAddress {
        RemapTableAddress::default()
            .with_irta(self.table)
            .with_eime(self.eime)
            .with_s(self.bits - 1)
    }

    pub(crate) fn used(&self) -> usize {
        self.taken.iter().map(|word| word.count_ones() as usize).sum()
    }

    /// `count` (a power of two) entries in a row, aligned to their number, so that one invalidation names them.
    fn take(&mut self, count: u16) -> Option<u16> {
        let end = 1u32 << self.bits;
        let first = (0..end).step_by(count.into()).find(|first| {
            (*first..first + u32::from(count)).all(|index| self.bit(index).is_some_and(|bit| !bit))
        })?;
        for index in first..first + u32::from(count) {
            self.set(index, true);
        }
        u16::try_from(first).ok()
    }

    fn bit(&self, index: u32) -> Option<bool> {
        self.taken.get(index as usize / 64).map(|word| word >> (index % 64) & 1 != 0)
    }

    fn set(&mut self, index: u32, taken: bool) {
        if let Some(word) = self.taken.get_mut(index as usize / 64) {
            *word = *word & !(1 << (index % 64)) | u64::from(taken) << (index % 64);
        }
    }

    pub(crate) fn release(&mut self, first: u16, count: u16) {
        for index in u32::from(first)..u32::from(first) + u32::from(count) {
            self.set(index, false);
        }
    }

    /// Sets an absent entry, the half with the present bit last.
    fn make(&self, tables: &mut impl DeviceTables, index: u16, entry: Irte) {
        WriteBack::new(tables, self.coherent).store_entry(self.table, index.into(), entry.0);
    }

    /// Changes a present entry at once: an interrupt that arrives now finds the old one or the new one.
    fn change(&self, tables: &mut impl DeviceTables, index: u16, entry: Irte) {
        let mut view = WriteBack::new(tables, self.coherent);
        view.store_pair(self.table, 2 * usize::from(index), entry.0);
    }

    fn clear(&self, tables: &mut impl DeviceTables, index: u16) {
        WriteBack::new(tables, self.coherent).store(self.table, 2 * usize::from(index), 0);
    }
}

impl<H: Hw> Unit<H> {
    /// The entry for a target, not yet for a source.
    fn entry(&self, entries: &Entries, target: Target) -> Result<Irte, RouteError> {
        let cpu = |apic_id: u32, vector| match (entries.eime, u8::try_from(apic_id)) {
            (true, _) => Ok(Irte::remapped(vector, apic_id)),
            // Eight bits of ID, in the second byte (9.9).
            (false, Ok(id)) => Ok(Irte::remapped(vector, u32::from(id) << 8)),
            (false, Err(_)) => Err(RouteError::Unsupported),
        };
        match target {
            Target::Cpu { apic_id, vector } => cpu(apic_id, vector),
            Target::CpuLevel { apic_id, vector } => cpu(apic_id, vector).map(|e| e.with_tm(true)),
            Target::Posted { descriptor, vector, urgent } => {
                let possible = self.caps.cap.pi() && descriptor.is_aligned(64);
                let entry = Irte::posted(vector, descriptor, urgent);
                possible.then_some(entry).ok_or(RouteError::Unsupported)
            }
        }
    }
}

impl<H: Hw> Iommu<H> {
    /// The unit of a source, and its check.
    fn sender(&self, source: Source) -> Option<(usize, impl Fn(Irte) -> Irte + use<H>)> {
        let by_number = |kind, id| {
            let mut units = self.units.iter().enumerate();
            units.find_map(|(index, unit)| Some((index, unit.scopes.sender(kind, id)?)))
        };
        let (unit, rid) = match source {
            Source::Function(function) => (self.unit_of(function)?, function.rid),
            Source::Buses { bridge, .. } => (self.unit_of(bridge)?, bridge.rid),
            Source::IoApic(id) => by_number(scope::IO_APIC, id)?,
            Source::Hpet(id) => by_number(scope::HPET, id)?,
        };
        Some((unit, move |entry: Irte| match source {
            Source::Buses { first, last, .. } => entry.from_buses(first, last),
            _ => entry.from_function(rid),
        }))
    }

    /// Makes interrupt entries for a source, one for each target; in a row, for a device with several vectors and one
    /// message (up to 32). In force when this returns.
    ///
    /// # Errors
    /// See [`RouteError`]; nothing is routed then.
    pub fn route(&mut self, source: Source, targets: &[Target]) -> Result<Route, RouteError> {
        let (index, check) = self.sender(source).ok_or(RouteError::NoUnit)?;
        let unit = self.units.get_mut(index).ok_or(RouteError::NoUnit)?;
        if unit.lost.is_some() {
            return Err(RouteError::UnitLost);
        }
        let Some(entries) = &unit.interrupts else { return Err(RouteError::Unsupported) };
        let made: Result<Vec<Irte>, RouteError> =
            targets.iter().map(|target| unit.entry(entries, *target).map(&check)).collect();
        let made = made?;
        let count = u16::try_from(targets.len().max(1).next_power_of_two()).unwrap_or(u16::MAX);
        // The index mask of one invalidation must reach over all of them.
        if count.trailing_zeros() > u32::from(unit.caps.ecap.mhmv()) {
            return Err(RouteError::OutOfEntries);
        }
        let Some(entries) = &mut unit.interrupts else { return Err(RouteError::Unsupported) };
        let first = entries.take(count).ok_or(RouteError::OutOfEntries)?;
        for (number, entry) in (0..).zip(made) {
            entries.make(&mut self.tables, first + number, entry);
        }
        let route = Route { unit: index, first, count, source };
        // Of invalidations, those of interrupt entries do not flush the write buffer.
        let mut visible = unit.flush_write_buffer(&self.clock);
        if unit.caps.cap.cm() {
            let all = [Descriptor::interrupt_entries(first, count.trailing_zeros() as u8)];
            let seen = unit.invalidate_now(&mut self.tables, &self.clock, &all);
            visible = visible.and(seen);
        }
        if let Err(why) = visible {
            unit.lose(why);
            core::mem::forget(self.unroute(route));
            return Err(why.into());
        }
        Ok(route)
    }

    /// Sends interrupt `number` of a route elsewhere. Interrupts are not lost on the way; they may still arrive at the
    /// old target until this is retired.
    ///
    /// # Errors
    /// See [`RouteError`]; nothing has changed then.
    pub fn retarget(
        &mut self,
        route: &Route,
        number: u16,
        target: Target,
    ) -> Result<Pending, RouteError> {
        let (_, check) = self.sender(route.source).ok_or(RouteError::NoUnit)?;
        let unit = self.units.get_mut(route.unit).ok_or(RouteError::NoUnit)?;
        let Some(entries) = unit.interrupts.as_ref().filter(|_| number < route.count) else {
            return Err(RouteError::OutOfEntries);
        };
        let entry = check(unit.entry(entries, target)?);
        entries.change(&mut self.tables, route.first + number, entry);
        let id = self.forget_entries(route.unit, route.first + number, 0, Release::Nothing);
        Ok(Pending::new(id))
    }

    /// Takes interrupt entries from a source.
    pub fn unroute(&mut self, route: Route) -> Pending {
        let Route { unit, first, count, .. } = route;
        if let Some(entries) = self.units.get(unit).and_then(|unit| unit.interrupts.as_ref()) {
            for index in first..first.saturating_add(count) {
                entries.clear(&mut self.tables, index);
            }
        }
        let release = Release::Interrupts(unit, first, count);
        Pending::new(self.forget_entries(unit, first, count.trailing_zeros() as u8, release))
    }

    fn forget_entries(&mut self, index: usize, first: u16, im: u8, release: Release) -> u64 {
        if let Some(unit) = self.units.get_mut(index)
            && let Err(why) = unit.flush_write_buffer(&self.clock)
        {
            unit.lose(why);
        }
        let parts = alloc::vec![Part::new(index, [Descriptor::interrupt_entries(first, im)])];
        self.tear_down(parts, release)
    }
}
