//! SPDX-License-Identifier: LGPL-2.1-or-later
//!
//! Configuration space of the function, all 4 KiB of it; [`Config`] holds it. Bochs keeps the BARs, and what it knows by itself
//! does not matter: it is asked for nothing else.

use hw::Width;
use pci::spec::capability::{self, express, msix};
use pci::spec::extended::{self, pasid};
use pci::spec::{self, COMMAND_MASTER};
use siov::{CLASS, DVSEC, IDS, SLOTS, control};

/// Bytes of a function's configuration space (PCIe 6.0, 7.2.2).
pub(crate) const BYTES: usize = 4096;

/// Where the capabilities lie.
const EXPRESS: u16 = 0x40;
const MSIX: u16 = 0x80;
const PASID: u16 = 0x100;
const SIOV: u16 = 0x110;

/// An endpoint that is part of the root complex, version 2 (7.5.3.2).
const ENDPOINT: u16 = 9 << 4 | 2;
/// PASIDs of 20 bits.
const PASID_BITS: u16 = 20 << 8;

/// The registers, and which of their bits can be written.
#[derive(Clone, Debug)]
pub(crate) struct Config {
    bytes: [u8; BYTES],
    writable: [u8; BYTES],
}

/// What follows from a write.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Effect {
    /// The function is to be reset.
    Reset,
    /// Its interrupts may be held back now, or no longer.
    Interrupts,
}

impl Default for Config {
    /// As after reset.
    fn default() -> Self {
        let mut new = Self { bytes: [0; BYTES], writable: [0; BYTES] };
        new.put(spec::VENDOR, &IDS[0].to_le_bytes());
        new.put(spec::DEVICE, &IDS[1].to_le_bytes());
        new.put(spec::REVISION, &[1]);
        new.put(spec::REVISION + 2, &CLASS.to_le_bytes());
        // A list of capabilities, and its head.
        new.put(spec::STATUS, &spec::STATUS_CAPABILITIES.to_le_bytes());
        new.put(spec::CAPABILITIES, &[EXPRESS as u8]);
        let command = spec::COMMAND_MEMORY | COMMAND_MASTER | spec::COMMAND_INTX_DISABLE;
        new.allow(spec::COMMAND, &command.to_le_bytes());

        new.put(EXPRESS, &[capability::EXPRESS, MSIX as u8]);
        new.put(EXPRESS + express::CAPABILITIES, &ENDPOINT.to_le_bytes());
        new.put(EXPRESS + express::DEVICE_CAPABILITIES, &express::FLR.to_le_bytes());

        new.put(MSIX, &[capability::MSIX, 0]);
        new.put(MSIX + msix::CONTROL, &(SLOTS as u16 - 1).to_le_bytes());
        let both = msix::ENABLE | msix::MASK_ALL;
        new.allow(MSIX + msix::CONTROL, &both.to_le_bytes());
        // Both in BAR 0.
        new.put(MSIX + msix::TABLE, &(control::slot(0) as u32).to_le_bytes());
        new.put(MSIX + msix::PBA, &(control::PENDING_BITS as u32).to_le_bytes());

        let header = |id: u16, next: u16| u32::from(id) | 1 << 16 | u32::from(next) << 20;
        new.put(PASID, &header(extended::PASID, SIOV).to_le_bytes());
        new.put(PASID + pasid::CAPABILITIES, &PASID_BITS.to_le_bytes());
        new.allow(PASID + pasid::CONTROL, &pasid::ENABLE.to_le_bytes());

        new.put(SIOV, &header(extended::DVSEC, 0).to_le_bytes());
        for (at, dword) in (SIOV + 4..).step_by(4).zip(DVSEC) {
            new.put(at, &dword.to_le_bytes());
        }
        new
    }
}

impl Config {
    fn put(&mut self, at: u16, bytes: &[u8]) {
        self.bytes[usize::from(at)..][..bytes.len()].copy_from_slice(bytes);
    }

    fn allow(&mut self, at: u16, bits: &[u8]) {
        self.writable[usize::from(at)..][..bits.len()].copy_from_slice(bits);
    }

    /// Reads; what lies outside is 0.
    pub(crate) fn read(&self, at: u16, width: Width) -> u32 {
        let byte = |n: usize| self.bytes.get(usize::from(at) + n).copied().unwrap_or_default();
        (0..width.bytes() as usize).map(|n| u32::from(byte(n)) << (8 * n)).sum()
    }

    /// Writes what can be written.
    pub(crate) fn write(&mut self, at: u16, width: Width, value: u32) -> Option<Effect> {
        let new = value.to_le_bytes();
        for (at, new) in (usize::from(at)..BYTES).zip(&new[..width.bytes() as usize]) {
            let mask = self.writable[at];
            self.bytes[at] = self.bytes[at] & !mask | new & mask;
        }
        let within = |register: u16| (at..at + width.bytes() as u16).contains(&register);
        // A one-shot, which reads 0 (7.5.3.4).
        let reset = EXPRESS + express::DEVICE_CONTROL + 1;
        if within(reset) && new[usize::from(reset - at)] & (express::START_FLR >> 8) as u8 != 0 {
            return Some(Effect::Reset);
        }
        within(MSIX + msix::CONTROL + 1).then_some(Effect::Interrupts)
    }

    fn has(&self, at: u16, bit: u16) -> bool {
        self.read(at, Width::W2) & u32::from(bit) != 0
    }

    /// Whether it may send requests: DMA, and interrupts, which are writes.
    pub(crate) fn is_master(&self) -> bool {
        self.has(spec::COMMAND, COMMAND_MASTER)
    }

    /// Whether its requests may have PASIDs.
    pub(crate) fn has_pasids(&self) -> bool {
        self.has(PASID + pasid::CONTROL, pasid::ENABLE)
    }

    /// Whether all of its interrupts are held back. Without MSI-X the slots stand for themselves.
    pub(crate) fn holds_interrupts(&self) -> bool {
        self.has(MSIX + msix::CONTROL, msix::ENABLE)
            && self.has(MSIX + msix::CONTROL, msix::MASK_ALL)
    }
}
