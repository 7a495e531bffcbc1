//! Resetting one function (6.6.2), and putting back what makes it reachable. It comes out as [`crate::quiet`] leaves one:
//! in its place, and silent.

use alloc::vec::Vec;

use hw::{Clock, Deadline, Function, Width};

use crate::access::{Config, ConfigAccess};
use crate::bars;
use crate::function::{BarKind, FunctionInfo, HeaderKind, Reset};
use crate::spec::capability::{self, advanced_features, express, power};
use crate::spec::extended::{self, acs, resizable_bar};
use crate::spec::{self, COMMAND_INTX_DISABLE, COMMAND_MASTER};

/// How long requests of the function may stay unanswered: twice what most time out after (7.5.3.16). Those that still
/// are do not keep it from being reset, which takes as long again.
const DRAIN_NS: u64 = 100_000_000;
/// How long a function may take for its reset (6.6.2).
const FLR_NS: u64 = 100_000_000;
/// How long it may take from D0 to D3hot, or back (5.3.1.4; PCI power management 1.2, 5.6.1).
const POWER_NS: u64 = 10_000_000;
/// How long after a reset it may answer that it is not ready (6.6.1).
const READY_NS: u64 = 1_000_000_000;

/// Why a function is not reset.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ResetError {
    /// It has no way to.
    None,
    /// Nobody answers.
    Gone,
    /// It does not come back.
    NotReady,
}

/// What is waited for.
#[derive(Clone, Copy, Debug)]
enum State {
    /// For answers to its requests, no longer than this.
    Draining(Deadline),
    /// For it to have gone to sleep.
    Sleeping(Deadline),
    /// For the time that it may take.
    Settling(Deadline),
    /// For its identity, no longer than this.
    Returning(Deadline),
}

/// A reset under way.
#[derive(Debug)]
#[must_use = "a function is neither reset nor reachable before the reset is polled to its end"]
pub struct Resetting {
    function: Function,
    kind: Reset,
    /// The capability by which it is reset.
    offset: u16,
    /// A register that tells that it is back, and what it then holds.
    identity: (u16, u32),
    saved: Vec<(u16, Width, u32)>,
    state: State,
}

/// Resets a function and waits for it: at most 1.2 s.
///
/// # Errors
/// [`ResetError`]; where it began, the function is left silent.
pub fn reset(
    access: &impl ConfigAccess,
    info: &FunctionInfo,
    clock: &impl Clock,
) -> Result<(), ResetError> {
    let mut resetting = Resetting::start(access, info, clock)?;
    loop {
        if let Some(done) = resetting.poll(access, clock) {
            return done;
        }
        clock.relax();
    }
}

impl Resetting {
    /// Silences a function and begins to reset it.
    ///
    /// # Errors
    /// [`ResetError::None`] and [`ResetError::Gone`].
    pub fn start(
        access: &impl ConfigAccess,
        info: &FunctionInfo,
        clock: &impl Clock,
    ) -> Result<Self, ResetError> {
        let config = Config::new(access, info.function);
        let by = match info.reset {
            Reset::Flr => capability::EXPRESS,
            Reset::AfFlr => capability::ADVANCED_FEATURES,
            Reset::Pm => capability::POWER,
            Reset::None => return Err(ResetError::None),
        };
        let offset = info.capability(by).ok_or(ResetError::None)?.offset;
        let identity = match info.physical {
            None => (spec::VENDOR, u32::from(info.device) << 16 | u32::from(info.vendor)),
            Some(_) => (spec::REVISION, info.class << 8 | u32::from(info.revision)),
        };
        let is_there = config.read32(identity.0) != u32::MAX;
        if !is_there || info.header != HeaderKind::Endpoint {
            return Err(ResetError::Gone);
        }
        let saved = save(config, info);
        config.write16(spec::COMMAND, COMMAND_INTX_DISABLE);
        Ok(Self {
            function: info.function,
            kind: info.reset,
            offset,
            identity,
            saved,
            state: State::Draining(Deadline::after_ns(clock, DRAIN_NS)),
        })
    }

    /// Goes on as far as it can without waiting; `Some` at the end.
    pub fn poll(
        &mut self,
        access: &impl ConfigAccess,
        clock: &impl Clock,
    ) -> Option<Result<(), ResetError>> {
        let config = Config::new(access, self.function);
        let after = |ns| Deadline::after_ns(clock, ns);
        match self.state {
            State::Draining(until) if !self.is_busy(config) || until.has_passed(clock) => {
                self.state = match self.kind {
                    Reset::Pm => State::Sleeping(after(POWER_NS)),
                    _ => State::Settling(after(FLR_NS)),
                };
                self.strike(config);
            }
            State::Sleeping(until) if until.has_passed(clock) => {
                self.state = State::Settling(after(POWER_NS));
                self.set_power(config, 0);
            }
            State::Settling(until) if until.has_passed(clock) => {
                self.state = State::Returning(after(READY_NS));
            }
            State::Returning(until) => {
                let late = until.has_passed(clock);
                if config.read32(self.identity.0) == self.identity.1 {
                    for (offset, width, value) in &self.saved {
                        access.write(self.function, *offset, *width, *value);
                    }
                    return Some(Ok(()));
                }
                return late.then_some(Err(ResetError::NotReady));
            }
            _ => {}
        }
        None
    }

    /// Whether some of its requests are unanswered.
    fn is_busy<A: ConfigAccess>(&self, config: Config<'_, A>) -> bool {
        match self.kind {
            Reset::Flr => {
                let status = config.read16(self.offset + express::DEVICE_STATUS);
                status & express::TRANSACTIONS_PENDING != 0
            }
            Reset::AfFlr => {
                let status = config.read8(self.offset + advanced_features::STATUS);
                status & advanced_features::TRANSACTIONS_PENDING != 0
            }
            _ => false,
        }
    }

    fn strike<A: ConfigAccess>(&self, config: Config<'_, A>) {
        match self.kind {
            Reset::Flr => {
                let control = config.read16(self.offset + express::DEVICE_CONTROL);
                config.write16(self.offset + express::DEVICE_CONTROL, control | express::START_FLR);
            }
            Reset::AfFlr => {
                let control = self.offset + advanced_features::CONTROL;
                config.write8(control, advanced_features::START_FLR);
            }
            _ => self.set_power(config, power::D3_HOT),
        }
    }

    fn set_power<A: ConfigAccess>(&self, config: Config<'_, A>, state: u16) {
        let control = config.read16(self.offset + power::CONTROL);
        let kept = control & !(power::STATE | power::PME_STATUS);
        config.write16(self.offset + power::CONTROL, kept | state);
    }
}

/// What a reset clears of what the machine set: sizes of BARs before their addresses, decoding last. What the function's
/// owner set, its interrupts among it, is not kept.
fn save<A: ConfigAccess>(config: Config<'_, A>, info: &FunctionInfo) -> Vec<(u16, Width, u32)> {
    let mut saved = Vec::new();
    let mut keep = |offset, but: u16| {
        saved.push((offset, Width::W2, (config.read16(offset) & !but).into()));
    };
    if let Some(found) = info.capability(capability::EXPRESS) {
        let but = express::START_FLR | express::PHANTOM_ENABLE;
        keep(found.offset + express::DEVICE_CONTROL, but);
        if found.bytes == Some(express::BYTES) {
            keep(found.offset + express::DEVICE_CONTROL_2, 0);
        }
    }
    if let Some(found) = info.extended_capability(extended::ACS) {
        keep(found.offset + acs::CONTROL, 0);
    }
    keep(spec::CACHE_LINE, 0);
    if let Some(found) = info.extended_capability(extended::RESIZABLE_BAR) {
        for index in 0..found.bytes.unwrap_or(0) / 8 {
            let offset = found.offset + resizable_bar::CONTROL + 8 * index;
            saved.push((offset, Width::W4, config.read32(offset)));
        }
    }
    saved.push((spec::INTERRUPT_LINE, Width::W1, config.read8(spec::INTERRUPT_LINE).into()));
    // As they were found, whatever its owner has made of them since.
    for bar in info.bars.iter().flatten() {
        let register = bars::register(bar.index);
        saved.push((register, Width::W4, bar.base as u32));
        if bar.kind == BarKind::Memory64 {
            saved.push((register + 4, Width::W4, (bar.base >> 32) as u32));
        }
    }
    saved.extend(info.rom.map(|rom| (spec::ROM, Width::W4, rom.base as u32)));
    let command = config.read16(spec::COMMAND) & !COMMAND_MASTER | COMMAND_INTX_DISABLE;
    saved.push((spec::COMMAND, Width::W2, command.into()));
    saved
}

#[cfg(test)]
mod tests;
