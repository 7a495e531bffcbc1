//! SPDX-License-Identifier: LGPL-2.1-or-later
//!
//! [`Machine`]: the unit, and the functions whose requests go through it.

use hw::{RequesterId, Width};
use models::vtd::{Profile, Unit};

use crate::Bochs;
use crate::config::Config;
use crate::model::Model;
use crate::way::{Counts, Ram, Way, compatible};

/// What the plugin adds to Bochs' machine.
pub(crate) struct Machine {
    bochs: Bochs,
    pub(crate) unit: Unit<Ram>,
    functions: Vec<Function>,
    counts: Counts,
}

/// A function on bus 0.
struct Function {
    rid: RequesterId,
    config: Config,
    model: Box<dyn Model>,
}

/// The unit of this name.
pub(crate) fn profile(name: &str) -> Option<Profile> {
    Some(match name {
        "legacy" => Profile::legacy(),
        "second" => Profile::scalable_second(),
        "first" => Profile::scalable_first(),
        "nested" => Profile::nested(),
        _ => return None,
    })
}

impl Machine {
    pub(crate) fn new(bochs: Bochs, profile: Profile) -> Self {
        let unit = Unit::new(profile, Ram(bochs));
        Self { bochs, unit, functions: Vec::new(), counts: Counts::default() }
    }

    /// Adds a function; its number among them.
    pub(crate) fn add(&mut self, model: Box<dyn Model>, devfn: u8) -> usize {
        let rid = RequesterId::new(0, devfn >> 3, devfn & 7);
        self.functions.push(Function { rid, config: Config::new(&model.identity()), model });
        self.functions.len() - 1
    }

    /// Carries out what the unit has to say.
    pub(crate) fn settle(&mut self) {
        for message in self.unit.messages() {
            self.counts.events += 1;
            compatible(&self.bochs, message);
        }
        for violation in self.unit.violations() {
            self.counts.violations += 1;
            self.bochs.say(&format!("violation: {violation:x?}"));
        }
    }

    /// Lets everything do a step; whether there is more to do.
    pub(crate) fn tick(&mut self) -> bool {
        self.unit.tick();
        let count = self.functions.len();
        let worked = (0..count).filter(|&index| self.with(index, |model, way| model.step(way)));
        worked.count() != 0 || !self.unit.is_idle()
    }

    /// Bytes of a BAR.
    pub(crate) fn bar_bytes(&self, index: usize, bar: usize) -> u64 {
        self.functions[index].model.bars()[bar]
    }

    pub(crate) fn config_read(&self, index: usize, offset: u16, width: Width) -> u32 {
        self.functions[index].config.read(offset, width)
    }

    pub(crate) fn config_write(&mut self, index: usize, offset: u16, width: Width, value: u32) {
        let Function { config, model, .. } = &mut self.functions[index];
        if config.write(offset, width, value) {
            model.reset();
            *config = Config::new(&model.identity());
        }
        self.with(index, |model, way| model.configured(way));
    }

    pub(crate) fn bar_read(&self, index: usize, bar: usize, offset: u64, to: &mut [u8]) {
        for (at, bytes) in (offset..).step_by(8).zip(to.chunks_mut(8)) {
            let width = Width::try_new(bytes.len() as u64);
            let read = |width| self.functions[index].model.read(bar, at, width);
            let value = width.map_or(u64::MAX, read).to_le_bytes();
            bytes.copy_from_slice(&value[..bytes.len()]);
        }
    }

    pub(crate) fn bar_write(&mut self, index: usize, bar: usize, offset: u64, from: &[u8]) {
        self.with(index, |model, way| model.write(bar, offset, from, way));
    }

    fn with<T>(&mut self, index: usize, act: impl FnOnce(&mut dyn Model, &mut Way<'_>) -> T) -> T {
        let Self { bochs, unit, functions, counts } = self;
        let Function { rid, config, model } = &mut functions[index];
        act(&mut **model, &mut Way { bochs, unit, rid: *rid, config, counts })
    }

    /// One line, which says it all.
    pub(crate) fn report(&mut self) {
        self.settle();
        let Counts { requests, blocked, remapped, compatible, refused, events, violations } =
            self.counts;
        self.bochs.say(&format!(
            "{violations} violations; {requests} requests, {blocked} blocked; {remapped} interrupts remapped, \
             {compatible} as they were, {refused} refused; {events} events"
        ));
    }
}
