//! SPDX-License-Identifier: LGPL-2.1-or-later
//!
//! Configuration space of a function, all 4 KiB of it: [`Config`], made for an [`Identity`]. Bochs keeps the BARs, and is asked
//! for nothing else.

use hw::Width;
use pci::spec::capability::{self, express, msix};
use pci::spec::extended::{self, pasid};
use pci::spec::{self, COMMAND_MASTER};
use siov::DVSEC;

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

/// What differs between functions.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Identity {
    /// Vendor and device.
    pub(crate) ids: [u16; 2],
    /// Base class and subclass.
    pub(crate) class: u16,
    /// Entries of the MSI-X table.
    pub(crate) interrupts: u16,
    /// BAR and offset of the table, and of the pending bits.
    pub(crate) table: u32,
    pub(crate) pending: u32,
}

/// The registers, and which of their bits can be written.
#[derive(Clone, Debug)]
pub(crate) struct Config {
    bytes: [u8; BYTES],
    writable: [u8; BYTES],
}

impl Config {
    /// As after reset.
    pub(crate) fn new(identity: &Identity) -> Self {
        let mut new = Self { bytes: [0; BYTES], writable: [0; BYTES] };
        new.put(spec::VENDOR, &identity.ids[0].to_le_bytes());
        new.put(spec::DEVICE, &identity.ids[1].to_le_bytes());
        new.put(spec::REVISION, &[1]);
        new.put(spec::REVISION + 2, &identity.class.to_le_bytes());
        // A list of capabilities, and its head.
        new.put(spec::STATUS, &spec::STATUS_CAPABILITIES.to_le_bytes());
        new.put(spec::CAPABILITIES, &[EXPRESS as u8]);
        let command = spec::COMMAND_MEMORY | COMMAND_MASTER | spec::COMMAND_INTX_DISABLE;
        new.allow(spec::COMMAND, &command.to_le_bytes());

        new.put(EXPRESS, &[capability::EXPRESS, MSIX as u8]);
        new.put(EXPRESS + express::CAPABILITIES, &ENDPOINT.to_le_bytes());
        new.put(EXPRESS + express::DEVICE_CAPABILITIES, &express::FLR.to_le_bytes());

        new.put(MSIX, &[capability::MSIX, 0]);
        new.put(MSIX + msix::CONTROL, &(identity.interrupts - 1).to_le_bytes());
        let both = msix::ENABLE | msix::MASK_ALL;
        new.allow(MSIX + msix::CONTROL, &both.to_le_bytes());
        new.put(MSIX + msix::TABLE, &identity.table.to_le_bytes());
        new.put(MSIX + msix::PBA, &identity.pending.to_le_bytes());

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

    /// Writes what can be written; whether the function is to be reset.
    pub(crate) fn write(&mut self, at: u16, width: Width, value: u32) -> bool {
        let new = value.to_le_bytes();
        for (at, new) in (usize::from(at)..BYTES).zip(&new[..width.bytes() as usize]) {
            let mask = self.writable[at];
            self.bytes[at] = self.bytes[at] & !mask | new & mask;
        }
        // A one-shot, which reads 0 (7.5.3.4).
        let reset = EXPRESS + express::DEVICE_CONTROL + 1;
        let byte = reset.checked_sub(at).filter(|byte| u64::from(*byte) < width.bytes());
        byte.is_some_and(|byte| new[usize::from(byte)] & (express::START_FLR >> 8) as u8 != 0)
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

    /// Whether it has MSI-X on.
    pub(crate) fn has_msix(&self) -> bool {
        self.has(MSIX + msix::CONTROL, msix::ENABLE)
    }

    /// Whether all of that is masked.
    pub(crate) fn masks_msix(&self) -> bool {
        self.has(MSIX + msix::CONTROL, msix::MASK_ALL)
    }
}
