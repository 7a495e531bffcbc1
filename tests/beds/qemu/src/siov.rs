//! SPDX-License-Identifier: GPL-2.0-or-later
//!
//! The type `kerf-siov`: the function of `tests/models/siov`.

use std::ffi::CStr;

use hw::{Iova, Pasid, Width};
use siov::{BAR_BYTES, DVSEC, Device, Refused, Upstream};

use crate::function::Model;
use crate::port::Port;
use crate::qemu::Qemu;

/// Where the DVSEC lies.
const SIOV: u16 = 0x110;

impl Model for Device {
    const NAMES: &'static [&'static CStr] = &[c"kerf-siov"];
    const IDS: [u16; 2] = siov::IDS;
    const CLASS: u16 = siov::CLASS;

    fn new(_name: &CStr) -> Self {
        Self::default()
    }

    fn bars(&self) -> Vec<(u8, u64)> {
        vec![(0, BAR_BYTES)]
    }

    fn add_capabilities(&self, port: Port) {
        add_dvsec(port, SIOV);
    }

    fn config(&self, at: u32) -> Option<u32> {
        dvsec(SIOV, at)
    }

    fn configured(&mut self, _port: Port, _at: u32, _bytes: &[u8]) {}

    fn read(&self, _bar: u8, at: u64, width: Width) -> u64 {
        Self::read(self, at, width)
    }

    fn write(&mut self, mut port: Port, _bar: u8, at: u64, width: Width, value: u64) {
        Self::write(self, at, width, value, &mut port);
    }

    fn reset(&mut self, _port: Port) {
        *self = Self::default();
    }
}

/// Adds the capability by which a function says that it can be carved.
pub(crate) fn add_dvsec(port: Port, at: u16) {
    let bytes = 4 + size_of_val(&DVSEC) as u16;
    // SAFETY: the device is being made, and nothing else is there.
    unsafe { (Qemu::get().pcie_add_capability)(port.0, 0x23, 1, at, bytes) };
}

/// A dword of that capability behind its header.
pub(crate) fn dvsec(start: u16, at: u32) -> Option<u32> {
    let at = at.checked_sub(u32::from(start) + 4)?;
    DVSEC.get(at as usize / 4).copied()
}

impl Upstream for Port {
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
