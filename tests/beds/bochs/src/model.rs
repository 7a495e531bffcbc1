//! SPDX-License-Identifier: LGPL-2.1-or-later
//!
//! [`Model`]: what a function is behind its BARs. The functions are those of `tests/models/siov` and `tests/models/dsa`, as [`of`]
//! names them; another takes an `impl` here and its name there.

use device_spec::dsa::registers::Version;
use device_spec::dsa::{self, PORTALS_BAR, REGISTERS_BAR};
use dsa_model::Submission;
use hw::Width;

use crate::config::{Config, Identity};
use crate::way::Way;

/// The registers of a function.
pub(crate) trait Model: Send {
    /// Who it is, and where its interrupts are.
    fn identity(&self) -> Identity;
    /// Bytes of its BARs, powers of two.
    fn bars(&self) -> [u64; 6];
    /// Reads a BAR.
    fn read(&self, bar: usize, at: u64, width: Width) -> u64;
    /// Writes a BAR, up to 64 bytes at once.
    fn write(&mut self, bar: usize, at: u64, bytes: &[u8], way: &mut Way<'_>);
    /// Configuration space was written.
    fn configured(&mut self, way: &mut Way<'_>);
    /// As after a function-level reset.
    fn reset(&mut self);
    /// Does some of what there is to do; whether there was something.
    fn step(&mut self, way: &mut Way<'_>) -> bool;
}

/// The function of this name.
pub(crate) fn of(name: &str) -> Option<Box<dyn Model>> {
    let dsa = |version| {
        let config = dsa_model::Config::of(version);
        Box::new(Dsa { device: dsa_model::Device::new(config.clone()), config })
    };
    Some(match name {
        "siov" => Box::new(siov::Device::default()),
        "dsa" => dsa(Version::V1_0),
        "dsa-2" => dsa(Version::V2_0),
        _ => return None,
    })
}

/// What is written, in registers of up to eight bytes: offset, width, value.
fn registers(at: u64, bytes: &[u8]) -> impl Iterator<Item = (u64, Width, u64)> {
    (at..).step_by(8).zip(bytes.chunks(8)).filter_map(|(at, bytes)| {
        let mut value = [0; 8];
        value[..bytes.len()].copy_from_slice(bytes);
        Some((at, Width::try_new(bytes.len() as u64)?, u64::from_le_bytes(value)))
    })
}

impl Model for siov::Device {
    fn identity(&self) -> Identity {
        Identity {
            ids: siov::IDS,
            class: siov::CLASS,
            interrupts: siov::SLOTS as u16,
            table: siov::control::slot(0) as u32,
            pending: siov::control::PENDING_BITS as u32,
        }
    }

    fn bars(&self) -> [u64; 6] {
        [siov::BAR_BYTES, 0, 0, 0, 0, 0]
    }

    fn read(&self, _bar: usize, at: u64, width: Width) -> u64 {
        Self::read(self, at, width)
    }

    fn write(&mut self, _bar: usize, at: u64, bytes: &[u8], way: &mut Way<'_>) {
        for (at, width, value) in registers(at, bytes) {
            Self::write(self, at, width, value, way);
        }
    }

    fn configured(&mut self, way: &mut Way<'_>) {
        // Without MSI-X the slots stand for themselves.
        let held = way.config.has_msix() && way.config.masks_msix();
        self.hold(held, way);
    }

    fn reset(&mut self) {
        *self = Self::default();
    }

    fn step(&mut self, _way: &mut Way<'_>) -> bool {
        false
    }
}

/// An Intel DSA.
struct Dsa {
    config: dsa_model::Config,
    device: dsa_model::Device,
}

impl Model for Dsa {
    fn identity(&self) -> Identity {
        let layout = self.config.layout();
        Identity {
            ids: dsa::IDS,
            class: (dsa::CLASS >> 8) as u16,
            interrupts: self.config.msix,
            table: layout.msix as u32 | REGISTERS_BAR as u32,
            pending: layout.pending as u32 | REGISTERS_BAR as u32,
        }
    }

    fn bars(&self) -> [u64; 6] {
        let mut bars = [0; 6];
        bars[REGISTERS_BAR] = self.config.layout().bytes;
        bars[PORTALS_BAR] = self.config.portal_bytes();
        bars
    }

    fn read(&self, bar: usize, at: u64, width: Width) -> u64 {
        if bar == REGISTERS_BAR { self.device.read(at, width) } else { width.mask() }
    }

    fn write(&mut self, bar: usize, at: u64, bytes: &[u8], way: &mut Way<'_>) {
        if bar == REGISTERS_BAR {
            for (at, width, value) in registers(at, bytes) {
                self.device.write(at, width, value, way);
            }
        } else if let Ok(descriptor) = bytes.try_into() {
            // Bochs has MOVDIR64B and no ENQCMD. A posted write is lost without a word.
            self.device.submit(at, descriptor, Submission::Posted, way);
        }
    }

    fn configured(&mut self, way: &mut Way<'_>) {
        let config: &Config = way.config;
        let function = dsa_model::Function {
            bus_master: config.is_master(),
            pasid: config.has_pasids(),
            msix: config.has_msix(),
            msix_masked: config.masks_msix(),
            ..dsa_model::Function::default()
        };
        self.device.set_function(function, way);
    }

    fn reset(&mut self) {
        self.device.reset_function();
    }

    fn step(&mut self, way: &mut Way<'_>) -> bool {
        self.device.step(way)
    }
}
