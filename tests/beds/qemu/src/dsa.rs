//! SPDX-License-Identifier: GPL-2.0-or-later
//!
//! The types `kerf-dsa`, `kerf-dsa-2` and `kerf-dsa-large`: the function of `tests/models/dsa` in versions 1.0 and 2.0 and with
//! as many queues as it can have.
//!
//! Hardware takes nothing but whole 64-byte writes to its portals, and this CPU has no MOVDIR64B. A rule of this bed's own
//! stands for them: eight writes of eight bytes to ascending places of one 64-byte line are a posted write of 64 bytes, and
//! it arrives with the last of them. Whatever breaks the order is lost, with what came before it in its line.
//!
//! Configuration space has a register that no device has, [`INJECT`], by which a test makes it misbehave.

use std::collections::BTreeMap;
use std::ffi::CStr;

use device_spec::dsa::registers::Version;
use device_spec::dsa::{self, PORTALS_BAR, REGISTERS_BAR};
use dsa_model::{Bus, Config, Device, Fault, Function, Refused, Submission};
use hw::{Iova, Pasid, Width};

use crate::function::Model;
use crate::port::Port;
use crate::qemu::Qemu;
use crate::siov;

/// Where the capabilities lie: MSI-X, then the extended ones.
const MSIX: u8 = 0x40;
const SIOV: u16 = 0x110;
const ATS: u16 = 0x140;
/// Bytes of the MSI-X capability, and the bits of its control register's upper byte (PCIe 6.0, 7.7.2).
const MSIX_BYTES: u8 = 12;
const MSIX_ENABLE: u8 = 1 << 7;
const MSIX_MASK: u8 = 1 << 6;
/// Misbehaviour: in 7:0 0 halts the device, 1 hangs a queue until an abort, 2 until a reset, 3 makes commands stick, 4 takes it
/// off the bus; in 15:8 the reset that a halt needs, or the queue.
const INJECT: u32 = 0xffc;

const MAKES: [(&CStr, Config); 3] = [
    (c"kerf-dsa", Config::of(Version::V1_0)),
    (c"kerf-dsa-2", Config::of(Version::V2_0)),
    (
        c"kerf-dsa-large",
        Config {
            queues: 255,
            total_size: 1024,
            groups: 24,
            engines: 24,
            ims: 63,
            ..Config::of(Version::V2_0)
        },
    ),
];

/// The device, and what the wrapper adds.
pub(crate) struct Dsa {
    device: Device,
    config: Config,
    /// The upper byte of the MSI-X control register.
    msix: u8,
    /// What came of lines that are not whole yet.
    lines: BTreeMap<u64, Vec<u8>>,
}

impl Dsa {
    /// What configuration space says.
    fn function(&self, port: Port) -> Function {
        let qemu = Qemu::get();
        // SAFETY: the device is there, and has these capabilities.
        let (privileged, ats) =
            unsafe { ((qemu.pcie_pasid_priv_enabled)(port.0), (qemu.pcie_ats_enabled)(port.0)) };
        Function {
            bus_master: port.masters(),
            pasid: port.has_pasids(),
            privileged,
            ats,
            msix: self.msix & MSIX_ENABLE != 0,
            msix_masked: self.msix & MSIX_MASK != 0,
        }
    }

    fn inject(&mut self, value: u32, mut port: Port) {
        let [kind, operand, ..] = value.to_le_bytes();
        let fault = match kind {
            0 => Fault::Halt(operand & 3),
            1 | 2 => Fault::Hang { queue: operand, abortable: kind == 1 },
            3 => Fault::StuckCommands,
            4 => Fault::Gone,
            _ => return,
        };
        self.device.inject(fault, &mut port);
    }

    /// Eight bytes of a portal's line.
    fn fill(&mut self, port: Port, at: u64, width: Width, value: u64) {
        let (start, within) = (at & !63, at as usize & 63);
        let mut line = self.lines.remove(&start).filter(|_| within != 0).unwrap_or_default();
        if width != Width::W8 || within != line.len() {
            return;
        }
        line.extend(value.to_le_bytes());
        let Ok(whole) = <[u8; 64]>::try_from(&line[..]) else {
            self.lines.insert(start, line);
            return;
        };
        let mut bus = port;
        self.device.submit(start, &whole, Submission::Posted, &mut bus);
        self.device.run(&mut bus);
    }
}

impl Model for Dsa {
    const NAMES: &'static [&'static CStr] = &[MAKES[0].0, MAKES[1].0, MAKES[2].0];
    const IDS: [u16; 2] = dsa::IDS;
    const CLASS: u16 = (dsa::CLASS >> 8) as u16;

    fn new(name: &CStr) -> Self {
        let make = MAKES.iter().find(|(make, _)| *make == name);
        let config = make.map_or(Config::of(Version::V1_0), |(_, config)| config.clone());
        Self { device: Device::new(config.clone()), config, msix: 0, lines: BTreeMap::new() }
    }

    fn bars(&self) -> Vec<(u8, u64)> {
        let registers = (REGISTERS_BAR as u8, self.config.layout().bytes);
        vec![registers, (PORTALS_BAR as u8, self.config.portal_bytes())]
    }

    fn add_capabilities(&self, port: Port) {
        siov::add_dvsec(port, SIOV);
        let qemu = Qemu::get();
        // SAFETY: the device is being made, and nothing else is there. Where there is room, adding does not fail.
        unsafe {
            (qemu.pci_add_capability)(port.0, 0x11, MSIX, MSIX_BYTES, std::ptr::null_mut());
            (qemu.pcie_ats_init)(port.0, ATS, true);
        }
    }

    fn config(&self, at: u32) -> Option<u32> {
        let layout = self.config.layout();
        match at.wrapping_sub(MSIX.into()) {
            0 => {
                let next = u32::from(crate::function::EXPRESS);
                let size = u32::from(self.config.msix - 1);
                Some(0x11 | next << 8 | size << 16 | u32::from(self.msix) << 24)
            }
            4 => Some(layout.msix as u32 | REGISTERS_BAR as u32),
            8 => Some(layout.pending as u32 | REGISTERS_BAR as u32),
            _ => siov::dvsec(SIOV, at),
        }
    }

    fn configured(&mut self, mut port: Port, at: u32, bytes: &[u8]) {
        for (at, byte) in (at..).zip(bytes) {
            if at == u32::from(MSIX) + 3 {
                self.msix = byte & (MSIX_ENABLE | MSIX_MASK);
            }
        }
        if let (INJECT, Ok(bytes)) = (at, bytes.try_into()) {
            self.inject(u32::from_le_bytes(bytes), port);
        }
        let function = self.function(port);
        self.device.set_function(function, &mut port);
    }

    fn read(&self, bar: u8, at: u64, width: Width) -> u64 {
        if usize::from(bar) == REGISTERS_BAR { self.device.read(at, width) } else { width.mask() }
    }

    fn write(&mut self, mut port: Port, bar: u8, at: u64, width: Width, value: u64) {
        if usize::from(bar) == PORTALS_BAR {
            self.fill(port, at, width, value);
        } else {
            self.device.write(at, width, value, &mut port);
            self.device.run(&mut port);
        }
    }

    fn reset(&mut self, mut port: Port) {
        self.device.reset_function();
        (self.msix, self.lines) = (0, BTreeMap::new());
        // Whatever QEMU resets next, nothing is allowed from now on.
        self.device.set_function(Function::default(), &mut port);
    }
}

impl Bus for Port {
    fn read(&mut self, pasid: Option<Pasid>, iova: Iova, bytes: &mut [u8]) -> Result<(), Refused> {
        Self::read(*self, pasid, iova, bytes).map_err(|_| Refused)
    }

    fn write(&mut self, pasid: Option<Pasid>, iova: Iova, bytes: &[u8]) -> Result<(), Refused> {
        Self::write(*self, pasid, iova, bytes).map_err(|_| Refused)
    }

    fn message(&mut self, address: u64, data: u32) {
        Self::message(*self, address, data);
    }
}
