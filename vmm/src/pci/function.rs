//! [`Function`]: configuration space and BARs of a function given to the guest, in front of its [`Endpoint`].

use alloc::boxed::Box;
use alloc::vec::Vec;

use ::pci::spec::capability::express::DEVICE_CONTROL;
use ::pci::spec::capability::{self, power};
use ::pci::spec::{self, extended};
use hw::{Gpa, Width};

use super::config::{ConfigSpace, fitting};
use super::endpoint::{Capability, Endpoint, ROM};
use super::express::{self, Link};
use super::header::{self, bar_register};
use super::msi::{self, Msi};
use super::msix::{self, Msix};
use super::plan::PortPlan;
use super::{Effect, Targets};
use crate::line::parts;
use crate::platform::{part_of_dword, with_part};

const STATE: u32 = power::STATE as u32;
const D3_HOT: u32 = power::D3_HOT as u32;
const NO_SOFT_RESET: u32 = power::NO_SOFT_RESET as u32;
/// Power management capabilities: PME, D2, D1.
const POWER_NOT_OFFERED: u32 = 0xfe00_0000;

/// A function given to the guest.
#[derive(Debug)]
pub(super) struct Function {
    endpoint: Box<dyn Endpoint>,
    config: ConfigSpace,
    /// Bytes that the endpoint itself answers, a bit each.
    through: Vec<u32>,
    power: Option<u16>,
    express: Option<u16>,
    msi: Option<Msi>,
    msix: Option<Msix>,
    is_master: bool,
}

impl Function {
    /// A function as after reset, its BARs where the plan has them.
    pub(super) fn new(endpoint: Box<dyn Endpoint>, plan: &PortPlan) -> Self {
        let (shape, mut config) = (endpoint.shape(), ConfigSpace::new());
        header::define(&mut config, shape, plan);
        let msi = shape.capability(capability::MSI).and_then(msi::Registers::of);
        let msix = msix::Layout::of(shape);
        // One that is emulated is shown once, and only where it is what it says.
        let is_sound = |capability: &&Capability| {
            let Some(id) = capability.bytes.first() else { return false };
            let is_long_enough = match *id {
                capability::MSI => msi.is_some(),
                capability::MSIX => msix.is_some(),
                capability::POWER | capability::EXPRESS => capability.bytes.len() >= 8,
                _ => return true,
            };
            let first = shape.capability(*id).map(|first| first.offset);
            is_long_enough && first == Some(capability.offset)
        };
        let shown = shape.capabilities.iter().filter(is_sound);
        let shown = fitting(shown, spec::HEADER_END..spec::CONVENTIONAL_BYTES);
        let far = fitting(shape.extended.iter(), extended::FIRST..spec::CONFIG_BYTES);
        config.chain(&shown);
        config.chain_extended(&far);
        let find = |id| shown.iter().find(|shown| shown.bytes.first() == Some(&id));
        let place = |id| find(id).map(|shown| shown.offset);
        let (power, express) = (place(capability::POWER), place(capability::EXPRESS));
        if let Some(at) = power {
            config.define_part(at, POWER_NOT_OFFERED, 0, 0);
            // It only seems to sleep, so it loses nothing by it.
            config.define(at + power::CONTROL, NO_SOFT_RESET, STATE);
        }
        if let Some(capability) = find(capability::EXPRESS) {
            let bytes = capability.bytes.len() as u16;
            express::define_function(&mut config, capability.offset, bytes, Link::of(shape));
        }
        Self {
            power,
            express,
            msi: msi
                .filter(|_| find(capability::MSI).is_some())
                .map(|at| Msi::new(at, &mut config)),
            msix: msix
                .filter(|_| find(capability::MSIX).is_some())
                .map(|at| Msix::new(at, &mut config)),
            through: header::through(shape, &shown, &far),
            is_master: false,
            config,
            endpoint,
        }
    }

    /// Reads configuration space.
    pub(super) fn read(&mut self, offset: u16, width: Width) -> u32 {
        if !self.endpoint.is_ready() {
            // What becomes of an access that is to be tried again later (2.3.1).
            return width.mask() as u32;
        }
        match self.answers(offset, width) {
            Answers::Own => {
                let pending =
                    self.msi.as_ref().and_then(|msi| msi.pending(offset, &*self.endpoint));
                let register = pending.unwrap_or_else(|| self.config.dword(offset));
                part_of_dword(register, offset.into(), width) as u32
            }
            Answers::Endpoint => {
                (u64::from(self.endpoint.config_read(offset, width)) & width.mask()) as u32
            }
            Answers::Both => bytes_of(offset, width)
                .fold(0, |value, (at, shift)| value | self.read(at, Width::W1) << shift),
        }
    }

    /// Writes configuration space.
    pub(super) fn write(
        &mut self,
        offset: u16,
        width: Width,
        value: u32,
        targets: Targets<'_>,
    ) -> Effect {
        if !self.endpoint.is_ready() {
            return Effect::None;
        }
        match self.answers(offset, width) {
            Answers::Own => self.write_own(offset, width, value, targets),
            Answers::Endpoint => {
                self.endpoint.config_write(offset, width, value);
                Effect::None
            }
            Answers::Both => bytes_of(offset, width).fold(Effect::None, |effect, (at, shift)| {
                effect.max(self.write(at, Width::W1, value >> shift & 0xff, targets))
            }),
        }
    }

    fn write_own(&mut self, offset: u16, width: Width, value: u32, targets: Targets<'_>) -> Effect {
        let (register, was_asleep) = (offset & !3, self.is_asleep());
        let asks = |at: u16| {
            let value = with_part(0, offset.into(), width, value.into());
            register == at + DEVICE_CONTROL && express::asks_for_reset(&self.config, at, value)
        };
        if self.express.is_some_and(asks) {
            return Effect::Reset;
        }
        self.config.write(offset, width, value);
        let Some(at) = self.power.filter(|at| register == at + power::CONTROL) else {
            let covers = self.msi.as_ref().is_some_and(|msi| msi.covers(offset))
                || self.msix.as_ref().is_some_and(|msix| msix.covers(offset));
            if covers {
                self.update_interrupts(targets);
            }
            let is_header = offset < spec::HEADER_END;
            return if is_header { Effect::Routing } else { Effect::None };
        };
        let power = self.config.dword(at + power::CONTROL);
        if !matches!(power & STATE, 0 | D3_HOT) {
            // A state that is not offered: nothing happens.
            let old = if was_asleep { D3_HOT } else { 0 };
            self.config.set(at + power::CONTROL, STATE, old);
        }
        if was_asleep == self.is_asleep() {
            return Effect::None;
        }
        self.update_interrupts(targets);
        Effect::Routing
    }

    /// Takes everything back to what it is after reset, but for the endpoint itself: first the caller is to see to BARs
    /// and bus mastering, then comes [`Function::reset_endpoint`].
    pub(super) fn clear(&mut self) {
        self.config.reset();
        if let Some(msix) = &mut self.msix {
            msix.reset();
        }
        self.update_interrupts(&|_| None);
    }

    /// Resets the endpoint.
    pub(super) fn reset_endpoint(&mut self) {
        self.endpoint.reset();
    }

    /// Bus mastering, if the port above lets it.
    pub(super) fn settle_master(&mut self, allowed: bool) {
        let command = self.config.word(spec::COMMAND);
        let is_master = allowed && !self.is_asleep() && command & spec::COMMAND_MASTER != 0;
        if is_master != self.is_master {
            self.is_master = is_master;
            self.endpoint.master(is_master);
        }
    }

    /// The BARs that decode: index, address and bytes.
    pub(super) fn decoded(&self) -> impl Iterator<Item = (u8, u64, u64)> {
        let command = self.config.word(spec::COMMAND);
        let is_on = command & spec::COMMAND_MEMORY != 0 && !self.is_asleep();
        (0..=ROM).filter(move |_| is_on).filter_map(|index| {
            let bar = self.endpoint.shape().bar(index)?;
            let register = bar_register(index);
            let low = self.config.dword(register);
            if index == ROM && low & spec::ROM_ENABLE == 0 {
                return None;
            }
            let high = if bar.is_64bit { self.config.dword(register + 4) } else { 0 };
            let base = u64::from(high) << 32 | u64::from(low);
            let bytes = bar.guest_bytes();
            Some((index, base & !(bytes - 1), bytes))
        })
    }

    pub(super) fn place(&mut self, bar: u8, at: Option<Gpa>) {
        self.endpoint.place(bar, at);
    }

    /// Reads a BAR where it is not mapped.
    pub(super) fn bar_read(&mut self, bar: u8, at: u64, width: Width) -> u64 {
        match &self.msix {
            Some(msix) if msix.has(bar, at) => msix.read(bar, at, width, &*self.endpoint),
            _ => self.endpoint.bar_read(bar, at, width),
        }
    }

    /// Writes a BAR where it is not mapped.
    pub(super) fn bar_write(
        &mut self,
        bar: u8,
        at: u64,
        width: Width,
        value: u64,
        targets: Targets<'_>,
    ) {
        let allowed = !self.is_asleep();
        match &mut self.msix {
            Some(msix) if msix.has(bar, at) => {
                if let Some(entry) = msix.write(bar, at, width, value) {
                    msix.update(Some(entry), &self.config, allowed, &mut self.endpoint, targets);
                }
            }
            _ => self.endpoint.bar_write(bar, at, width, value),
        }
    }

    /// Writes 64 aligned bytes of one: what has anything of MSI-X by parts.
    pub(super) fn bar_write_line(
        &mut self,
        bar: u8,
        at: u64,
        line: &[u8; 64],
        targets: Targets<'_>,
    ) {
        let has_msix = |msix: &Msix| (0..64).step_by(8).any(|part| msix.has(bar, at + part));
        if !self.msix.as_ref().is_some_and(has_msix) {
            return self.endpoint.bar_write_line(bar, at, line);
        }
        for (offset, part) in parts(line) {
            self.bar_write(bar, at + offset, Width::W8, part, targets);
        }
    }

    fn update_interrupts(&mut self, targets: Targets<'_>) {
        let (allowed, config) = (!self.is_asleep(), &self.config);
        let is_on = self.msix.as_ref().is_some_and(|msix| msix.is_on(config));
        if let Some(msi) = &mut self.msi {
            msi.update(config, allowed && !is_on, &mut self.endpoint, targets);
        }
        if let Some(msix) = &mut self.msix {
            msix.update(None, config, allowed, &mut self.endpoint, targets);
        }
    }

    /// In D3hot it decodes nothing but configuration space, and sends nothing.
    fn is_asleep(&self) -> bool {
        self.power.is_some_and(|at| self.config.dword(at + power::CONTROL) & STATE == D3_HOT)
    }

    /// Who answers for these bytes.
    fn answers(&self, offset: u16, width: Width) -> Answers {
        let bits =
            self.through.get(usize::from(offset / 32)).map_or(0, |bits| bits >> (offset % 32));
        let all = (1 << width.bytes()) - 1;
        match bits & all {
            0 => Answers::Own,
            bits if bits == all && u64::from(offset) % width.bytes() == 0 => Answers::Endpoint,
            _ => Answers::Both,
        }
    }
}

/// Who answers for a part of configuration space.
enum Answers {
    Own,
    Endpoint,
    Both,
}

/// The bytes of an access that lie in one register, with how far their values are shifted.
fn bytes_of(offset: u16, width: Width) -> impl Iterator<Item = (u16, u16)> {
    let count = (width.bytes() as u16).min(4 - offset % 4);
    (0..count).map(move |index| (offset + index, 8 * index))
}
