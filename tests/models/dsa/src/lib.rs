//! An Intel Data Streaming Accelerator at the level of its registers (architecture specification 341204-006; section numbers
//! are its), versions 1.0 and 2.0. Whatever wraps it (a host test, a bed's emulator) lends it a [`Bus`], hands it accesses to
//! BAR 0 ([`Device::read`], [`Device::write`]) and 64-byte writes to BAR 2 ([`Device::submit`]), tells it what configuration
//! space says ([`Device::set_function`]) and lets it work ([`Device::run`]). Between two runs descriptors wait in their queues,
//! so that a test sees queues that are full, commands that are active, and aborts.
//!
//! The MSI-X table and its pending bits are the model's own, at [`Layout::msix`] and [`Layout::pending`]: a wrapper makes the
//! capability that leads there.
//!
//! What it does as hardware does: all checks of sections 5.1 to 5.4 and their error codes; what may be written when (tables
//! 9-4 and 9-7); partial completion at page faults; interrupt entries checked against the PASID of the descriptor; software
//! errors with overflow; the halt state. What it leaves out: block on fault, inter-domain operations, delta records, DIF, cache flushes and performance monitoring, none of which its capabilities show; priorities (queues take
//! turns); read buffers and traffic classes, which have no effect. A page fault on a completion record is found when it is
//! written, after the operation.
//!
//! A test makes it misbehave by [`Fault`].

#![forbid(unsafe_code)]

mod batch;
mod check;
mod command;
mod completion;
mod crc;
mod device;
mod error;
mod event_log;
mod interrupt;
mod memory;
mod operation;
mod queue;
mod registers;

#[cfg(test)]
mod tests;

pub use device::{Device, Fault};

use device_spec::dsa::{group, interrupt as entries, portal, queue as queues, registers::Version};
use hw::{Iova, PAGE_SIZE, Pasid};

/// The request was not let through.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Refused;

/// The way from the device to the machine.
pub trait Bus {
    /// Reads memory, with `pasid` on the request if there is one.
    ///
    /// # Errors
    /// [`Refused`] where nothing is there for it.
    fn read(&mut self, pasid: Option<Pasid>, iova: Iova, bytes: &mut [u8]) -> Result<(), Refused>;

    /// Writes memory, with `pasid` on the request if there is one.
    ///
    /// # Errors
    /// As for [`Self::read`].
    fn write(&mut self, pasid: Option<Pasid>, iova: Iova, bytes: &[u8]) -> Result<(), Refused>;

    /// Sends an interrupt message.
    fn message(&mut self, address: u64, data: u32);
}

/// How a descriptor is written to a portal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Submission {
    /// MOVDIR64B: a posted write, which is lost where it is not taken.
    Posted,
    /// ENQCMD or ENQCMDS: a deferrable write, which tells.
    Deferrable,
}

/// What configuration space says.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Function {
    /// Bus Master Enable.
    pub bus_master: bool,
    /// PASID Enable.
    pub pasid: bool,
    /// Privileged Mode Enable of the PASID capability.
    pub privileged: bool,
    /// Enable of the ATS capability. Without it a read that is refused is a hardware error, and a write goes unnoticed.
    pub ats: bool,
    /// MSI-X Enable.
    pub msix: bool,
    /// Function Mask of the MSI-X capability.
    pub msix_masked: bool,
}

/// A make of the device.
#[derive(Clone, Debug)]
pub struct Config {
    /// 1.0 or 2.0.
    pub version: Version,
    /// Work queues, at most 255.
    pub queues: u8,
    /// Descriptors that all of them hold.
    pub total_size: u16,
    /// Groups.
    pub groups: u8,
    /// Engines, at most 24: as many as there are read buffers for.
    pub engines: u8,
    /// Entries of the MSI-X table, at least one.
    pub msix: u16,
    /// Interrupt message storage, in 256 entries, at most 63.
    pub ims: u8,
    /// log2 of the most bytes of a transfer.
    pub max_transfer: u8,
    /// log2 of the most descriptors of a batch.
    pub max_batch: u8,
    /// Memory Move takes overlapping buffers.
    pub overlapping_copy: bool,
    /// Interrupt handles must be requested.
    pub handles: bool,
}

impl Config {
    /// As large as those in servers are.
    #[must_use]
    pub const fn of(version: Version) -> Self {
        Self {
            version,
            queues: 8,
            total_size: 128,
            groups: 4,
            engines: 4,
            msix: 9,
            ims: 8,
            max_transfer: 31,
            max_batch: 10,
            overlapping_copy: true,
            handles: false,
        }
    }

    /// Whether it has what version 2.0 added.
    const fn second(&self) -> bool {
        self.version.major() >= 2
    }

    const fn queue_bytes(&self) -> u64 {
        queues::bytes(self.second() as u8)
    }

    const fn ims_entries(&self) -> usize {
        self.ims as usize * entries::IMS_UNIT
    }

    /// Where it keeps its tables.
    #[must_use]
    pub const fn layout(&self) -> Layout {
        let permissions = PAGE_SIZE;
        let groups = behind(permissions, self.msix as u64 * entries::PERMISSION_BYTES);
        let queues = behind(groups, self.groups as u64 * group::BYTES);
        let msix = behind(queues, self.queues as u64 * self.queue_bytes());
        let pending = behind(msix, self.msix as u64 * interrupt::MSIX_BYTES);
        let end = behind(pending, PAGE_SIZE);
        // The dummy portal has a place of its own, which is the last of the first 64 KiB.
        let least = device_spec::dsa::REGISTERS_BYTES;
        let ims = if end > least { end } else { least };
        let bytes = behind(ims, self.ims_entries() as u64 * entries::IMS_BYTES);
        Layout { permissions, groups, queues, msix, pending, ims, bytes: bytes.next_power_of_two() }
    }

    /// Bytes of BAR 2.
    #[must_use]
    pub const fn portal_bytes(&self) -> u64 {
        (self.queues as u64 * portal::PAGES * PAGE_SIZE).next_power_of_two()
    }
}

/// The page behind a table.
const fn behind(table: u64, bytes: u64) -> u64 {
    table + bytes.next_multiple_of(PAGE_SIZE)
}

/// Offsets in BAR 0. Each table has pages of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Layout {
    /// MSI-X permissions.
    pub permissions: u64,
    /// Group configuration.
    pub groups: u64,
    /// Work queue configuration.
    pub queues: u64,
    /// The MSI-X table.
    pub msix: u64,
    /// Its pending bits.
    pub pending: u64,
    /// Interrupt message storage.
    pub ims: u64,
    /// Bytes of BAR 0, a power of two.
    pub bytes: u64,
}
