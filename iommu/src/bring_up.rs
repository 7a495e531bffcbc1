//! Taking the units over, in whatever state firmware has left them (VT-d 6.2, 11.4.4).
//!
//! ```text
//! each unit   hold back events ► let its old queue run dry, turn it off ► forget old faults
//!             ► our queue ► our root table (nothing in it), invalidate everything
//!             ► our interrupt table, invalidate, remapping on: before x2APIC, and compatibility format stays blocked
//! then        reserved regions mapped ► each unit: translation on ► protected regions off ► fault event on
//! ```
//!
//! A unit that was translating goes on translating: it is given the new root while on, and what it has cached of the old
//! one is invalidated. Only where it must change its mode is translation off for a moment, which is told.

use alloc::vec::Vec;

use hw::{Function, Hpa, Iova, RegisterBus};
use iommu_spec::invalidation::Descriptor;
use iommu_spec::registers::{self as regs, EVENT_MASK, PMEN_EPM, PMEN_PRS, command};
use paging::Rights;

use crate::Hw;
use crate::caps::{self, COMMAND_NS, Caps, Limits};
use crate::dmar::{Dmar, ReservedRegion, UnitEntry};
use crate::error::{Event, MapError, StartError, UnitError};
use crate::functions::Attach;
use crate::iommu::Iommu;
use crate::remap::{Entries, Message};
use crate::scopes::{self, Bridges, Scopes};
use crate::unit::Unit;

/// How to translate.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Mode {
    /// With PASIDs where all units have them, by the second stage where all units have that.
    #[default]
    Auto,
    /// Legacy mode.
    Legacy,
    /// Scalable mode, second stage.
    ScalableSecond,
    /// Scalable mode, first stage.
    ScalableFirst,
}

/// What the machine wants of its units.
#[derive(Clone, Copy, Debug)]
pub struct Config {
    /// How to translate.
    pub mode: Mode,
    /// Interrupts go to 32-bit APIC IDs: the CPUs are, or will be, in x2APIC mode.
    pub x2apic: bool,
    /// log2 of the interrupt entries of each unit, 8 to 16.
    pub interrupt_bits: u8,
    /// What a unit writes when it has recorded a fault; `None` to poll. It is not remapped itself.
    pub fault_message: Option<Message>,
    /// Faults of one function in a second beyond which they are a storm.
    pub fault_limit: u32,
}

impl<H: Hw> Iommu<H> {
    /// Takes every unit that `dmar` names. `bridges` reads the buses below a bridge, `open` reaches a unit's registers.
    ///
    /// When this returns, every unit that is not told lost translates, remaps interrupts, and lets nothing through but the
    /// reserved regions of firmware. Ask [`Iommu::take_events`] what was found on the way, and [`Iommu::x2apic_allowed`]
    /// before turning x2APIC on.
    ///
    /// # Errors
    /// [`StartError`] where no unit could be taken.
    pub fn start(
        tables: H::Tables,
        clock: H::Clock,
        dmar: &Dmar,
        bridges: Bridges<'_>,
        config: Config,
        open: impl FnMut(&UnitEntry) -> Option<H::Regs>,
    ) -> Result<Self, StartError> {
        let mut events = Vec::new();
        let found = probe(dmar, open, &mut events);
        let (stage, usable) = agree(config.mode, found, &mut events);
        let all: Vec<(Caps, bool)> =
            usable.iter().map(|(_, _, caps, scalable)| (*caps, *scalable)).collect();
        let limits = Limits::of(stage, &all).ok_or(StartError::NoUnits)?;
        let mut tables = tables;
        let mut units = Vec::new();
        for (entry, regs, caps, scalable) in usable {
            let absent = |offset| events.push(Event::ScopeAbsent(offset));
            let scopes = Scopes::new(entry, bridges, absent);
            let unit = Unit::new(regs, entry.registers, scopes, caps, scalable, &mut tables);
            units.push(unit.map_err(|_| StartError::OutOfFrames)?);
        }
        let mut iommu = Self::of(tables, clock, units, limits, config.fault_limit);
        iommu.events = events;
        let eime = config.x2apic && iommu.x2apic_allowed();
        iommu.for_each_unit(|unit, tables, clock, events| {
            unit.take_over(tables, clock, events)?;
            if !unit.caps.ecap.ir() {
                events.push(Event::NoInterruptRemapping { registers: unit.base });
                return Ok(());
            }
            unit.remap_interrupts(tables, clock, config.interrupt_bits, eime)
        });
        for region in &dmar.reserved {
            iommu.map_reserved(region, bridges);
        }
        iommu.for_each_unit(|unit, _, clock, _| unit.enable(clock, config.fault_message));
        iommu.work();
        Ok(iommu)
    }

    /// Whether every unit can send to 32-bit APIC IDs.
    #[must_use]
    pub fn x2apic_allowed(&self) -> bool {
        self.units.iter().all(|unit| unit.caps.ecap.ir() && unit.caps.ecap.eim())
    }

    fn for_each_unit(
        &mut self,
        mut act: impl FnMut(
            &mut Unit<H>,
            &mut H::Tables,
            &H::Clock,
            &mut Vec<Event>,
        ) -> Result<(), UnitError>,
    ) {
        for unit in self.units.iter_mut().filter(|unit| unit.lost.is_none()) {
            if let Err(why) = act(unit, &mut self.tables, &self.clock, &mut self.events) {
                unit.lose(why);
            }
        }
    }

    /// Lets the devices of a reserved region reach it, and nothing else.
    fn map_reserved(&mut self, region: &ReservedRegion, bridges: Bridges<'_>) {
        for scope in &region.scopes {
            let Some(function) = scopes::endpoint(scope, region.segment, bridges) else {
                self.events.push(Event::ScopeAbsent(scope.offset));
                continue;
            };
            if self.try_map_reserved(region, function).is_err() {
                self.events.push(Event::ReservedRegion(region.offset, function));
            }
        }
    }

    fn try_map_reserved(
        &mut self,
        region: &ReservedRegion,
        function: Function,
    ) -> Result<(), MapError> {
        let known = self.reserved.get(&function).map(|attachment| attachment.space());
        let space = match known {
            Some(space) => space,
            None => self.create_space()?,
        };
        if known.is_none() {
            match self.attach_any(Attach::new(function, space)) {
                Ok(attachment) => drop(self.reserved.insert(function, attachment)),
                Err(_) => {
                    core::mem::forget(self.destroy_space(space)?);
                    return Err(MapError::NoSpace);
                }
            }
        }
        let end = region.start.raw() + region.bytes;
        let mut at = region.start.raw();
        while at < end {
            let (iova, bytes) = (Iova::new(at), end - at);
            match self.map(space, iova, Hpa::new(at), bytes, Rights::RW) {
                // Regions overlap: what is mapped already leads to the same place.
                Err(MapError::Paging(paging::MapError::Mapped(taken))) => {
                    self.map(space, iova, Hpa::new(at), taken - at, Rights::RW)?;
                    let page = self.translate(space, Iova::new(taken)).map(|found| found.page);
                    let page = page.map_or(hw::PAGE_SIZE, paging::PageSize::bytes);
                    at = (taken & !(page - 1)) + page;
                }
                other => return other,
            }
        }
        Ok(())
    }
}

/// A unit's entry, registers, capabilities, and whether it goes to scalable mode.
type Found<'a, R> = (&'a UnitEntry, R, Caps, bool);

/// The units that answer.
fn probe<'a, R: RegisterBus>(
    dmar: &'a Dmar,
    mut open: impl FnMut(&UnitEntry) -> Option<R>,
    events: &mut Vec<Event>,
) -> Vec<Found<'a, R>> {
    let mut found = Vec::new();
    for entry in &dmar.units {
        let regs = open(entry).ok_or(UnitError::Absent);
        match regs.and_then(|regs| Ok((Caps::probe(&regs)?, regs))) {
            Ok((caps, regs)) => found.push((entry, regs, caps, false)),
            Err(why) => events.push(Event::UnitLost { registers: entry.registers, why }),
        }
    }
    found
}

/// The stage that they all translate by, and those that can.
fn agree<'a, R>(
    mode: Mode,
    found: Vec<Found<'a, R>>,
    events: &mut Vec<Event>,
) -> (caps::Stage, Vec<Found<'a, R>>) {
    let all: Vec<Caps> = found.iter().map(|(_, _, caps, _)| *caps).collect();
    let stage = Limits::choose(mode, &all);
    let usable = found.into_iter().filter_map(|(entry, regs, caps, _)| {
        match Limits::scalable(mode, stage, &caps) {
            Ok(scalable) => Some((entry, regs, caps, scalable)),
            Err(why) => {
                events.push(Event::UnitLost { registers: entry.registers, why });
                None
            }
        }
    });
    (stage, usable.collect())
}

impl<H: Hw> Unit<H> {
    /// From firmware's queue and root table to ours.
    fn take_over(
        &mut self,
        tables: &mut H::Tables,
        clock: &H::Clock,
        events: &mut Vec<Event>,
    ) -> Result<(), UnitError> {
        self.regs.write(regs::FECTL, EVENT_MASK);
        self.regs.write(regs::IECTL, EVENT_MASK);
        if self.caps.ecap.prs() {
            self.regs.write(regs::PECTL, EVENT_MASK);
        }
        let status = self.regs.read(regs::GSTS);
        if status == u32::MAX {
            return Err(UnitError::Absent);
        }
        if status & command::QIE != 0 {
            // What it has still to do it does first; if it is stuck, it is turned off all the same.
            let drained = || self.regs.read(regs::IQH) == self.regs.read(regs::IQT);
            let _ = caps::wait(clock, COMMAND_NS, drained);
            self.command(clock, command::QIE, false)?;
        }
        self.clear_faults();
        self.regs.write(regs::IQT, 0);
        self.regs.write(regs::IQA, self.queue.address());
        self.command(clock, command::QIE, true)?;

        let root = self.contexts.address();
        let other_mode = self.regs.read(regs::RTADDR).ttm() != root.ttm();
        if status & command::TE != 0 && other_mode {
            events.push(Event::TranslationGap { registers: self.base });
            self.command(clock, command::TE, false)?;
        }
        self.flush_write_buffer(clock)?;
        self.regs.write(regs::RTADDR, root);
        self.command(clock, command::SRTP, true)?;
        let all = self.everything();
        self.invalidate_now(tables, clock, &all)
    }

    /// Interrupt remapping with an empty table. If firmware had it on in the same mode, the table is changed while it is.
    fn remap_interrupts(
        &mut self,
        tables: &mut H::Tables,
        clock: &H::Clock,
        bits: u8,
        eime: bool,
    ) -> Result<(), UnitError> {
        let entries = Entries::new(tables, bits, eime, self.caps.ecap.c())?;
        let status = self.regs.read(regs::GSTS);
        let other_mode = self.regs.read(regs::IRTA).eime() != eime;
        if status & command::IRE != 0 && other_mode {
            self.command(clock, command::IRE, false)?;
        }
        self.flush_write_buffer(clock)?;
        self.regs.write(regs::IRTA, entries.address());
        self.interrupts = Some(entries);
        self.command(clock, command::SIRTP, true)?;
        self.invalidate_now(tables, clock, &[Descriptor::interrupt_global()])?;
        // Messages in compatibility format would name any CPU and vector, whoever sends them.
        if self.regs.read(regs::GSTS) & command::CFI != 0 {
            self.command(clock, command::CFI, false)?;
        }
        if self.regs.read(regs::GSTS) & command::IRE == 0 {
            self.command(clock, command::IRE, true)?;
        }
        Ok(())
    }

    /// Translation; only then the protected regions that held devices back so far are given up, and faults are told.
    fn enable(&mut self, clock: &H::Clock, message: Option<Message>) -> Result<(), UnitError> {
        if self.regs.read(regs::GSTS) & command::TE == 0 {
            self.command(clock, command::TE, true)?;
        }
        if self.caps.cap.plmr() || self.caps.cap.phmr() {
            let asked = self.regs.read(regs::PMEN);
            self.regs.write(regs::PMEN, asked & !PMEN_EPM);
            let off = || self.regs.read(regs::PMEN) & PMEN_PRS == 0;
            if !caps::wait(clock, COMMAND_NS, off) {
                return Err(UnitError::Command(PMEN_EPM));
            }
        }
        if let Some(Message { address, data }) = message {
            self.regs.write(regs::FEDATA, data);
            self.regs.write(regs::FEADDR, address as u32);
            // Some units have no upper half, and none is needed below 256 CPUs.
            let upper = (address >> 32) as u32;
            if upper != 0 {
                self.regs.write(regs::FEUADDR, upper);
            }
            self.regs.write(regs::FECTL, 0);
        }
        Ok(())
    }
}
