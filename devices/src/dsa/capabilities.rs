//! What a device says that it is (9.2.1 to 9.2.7, 9.2.14), believed only as far as it makes sense.

use core::ops::Range;

use device_spec::dsa::registers::{self as regs, GeneralCapabilities, Offsets, QueueCapabilities};
use device_spec::dsa::{PORTALS_BAR, REGISTERS_BAR, command, group, interrupt, portal, queue};
use hw::{PAGE_SIZE, RegisterBus, Width};
use pci::FunctionInfo;

use super::OPERATION_WORDS;
use crate::error::Fault;
use crate::function::Version;
use crate::page::BarMap;

/// Registers at fixed places end here (9.2.20).
const FIXED_BYTES: u64 = 0x400;

/// What a device is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Capabilities {
    /// The version of the specification.
    pub version: Version,
    /// General capabilities.
    pub general: GeneralCapabilities,
    /// Those of its work queues.
    pub queues: QueueCapabilities,
    /// How many groups.
    pub groups: u8,
    /// How many read buffers the groups share.
    pub read_buffers: u8,
    /// How many engines.
    pub engines: u8,
    /// Operations, a bit each.
    pub operations: [u64; OPERATION_WORDS],
    /// Entries of the interrupt message storage.
    pub ims_entries: u16,
    /// Entries of the MSI-X table.
    pub msix_entries: u16,
    /// Where tables begin.
    pub(super) tables: Tables,
    /// Its BARs.
    pub(super) bars: BarMap,
}

/// Offsets in the BAR of the registers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Tables {
    pub(super) groups: u64,
    pub(super) queues: u64,
    pub(super) permissions: u64,
    pub(super) ims: u64,
    queue_bytes: u64,
}

impl Tables {
    pub(super) const fn queue(&self, number: u16) -> u64 {
        self.queues + number as u64 * self.queue_bytes
    }

    pub(super) const fn ims(&self, entry: u16) -> u64 {
        self.ims + entry as u64 * interrupt::IMS_BYTES
    }
}

impl Capabilities {
    /// Reads them.
    ///
    /// # Errors
    /// [`Fault::Gone`]; [`Fault::Lies`] with the register that says what cannot be; [`Fault::Unsupported`] where queues
    /// cannot be configured, the function sends no PASIDs, or it has no interrupt message storage.
    pub fn read(regs: &impl RegisterBus, info: &FunctionInfo) -> Result<Self, Fault> {
        let version = regs.read(regs::VERSION);
        if version.0 == [u32::MAX.into()] {
            return Err(Fault::Gone);
        }
        let version = Version { major: version.major(), minor: version.minor() };
        let general = regs.read(regs::GENCAP);
        let queues = regs.read(regs::WQCAP);
        let group_capabilities = regs.read(regs::GRPCAP);
        let groups = group_capabilities.groups();
        let engines = regs.read(regs::ENGCAP).engines();
        let count = queues.queues();
        let sane = [
            (regs::VERSION.offset(), version.major != 0),
            (regs::WQCAP.offset(), count != 0 && u16::from(count) <= queues.total_size()),
            (regs::WQCAP.offset(), queues.shared() || queues.dedicated()),
            (regs::WQCAP.offset(), queues.config_size() <= 7),
            (regs::GRPCAP.offset(), groups != 0),
            (regs::ENGCAP.offset(), (1..=64).contains(&engines)),
        ];
        if let Some((offset, _)) = sane.iter().find(|(_, is_sane)| !is_sane) {
            return Err(Fault::Lies(*offset));
        }
        let commands = match general.command_capabilities() {
            true => regs.read(regs::CMDCAP),
            false => command::DEFAULT,
        };
        // Commands 1 to 10 are what is driven here; a device that gives handles to its entries numbers them by itself.
        let needed = (1 << (command::code::RESET_QUEUE + 1)) - 2;
        let gives_handles = commands >> command::code::REQUEST_HANDLE & 1 != 0;
        let sends_pasids = info.extended_capability(pci::spec::extended::PASID).is_some();
        if !general.configuration()
            || !sends_pasids
            || general.ims_size() == 0
            || commands & needed != needed
            || gives_handles
        {
            return Err(Fault::Unsupported);
        }
        let ims_entries = u16::from(general.ims_size()) * interrupt::IMS_UNIT as u16;
        let msix_entries = info.msix.map_or(0, |msix| msix.entries);
        let limits = Limits { groups, queues, ims_entries, msix_entries };
        let (tables, bars) = limits.place(regs, info)?;
        let operations = core::array::from_fn(|word| {
            regs.load(regs::OPCAP.offset() + 8 * word as u64, Width::W8)
        });
        Ok(Self {
            version,
            general,
            queues,
            groups,
            read_buffers: group_capabilities.read_buffers(),
            engines,
            operations,
            ims_entries,
            msix_entries,
            tables,
            bars,
        })
    }
}

impl Capabilities {
    /// Whether operations can be chosen for a queue.
    pub(super) const fn chooses_operations(&self) -> bool {
        self.queues.operations() && self.queues.config_size() >= queue::WHOLE
    }
}

struct Limits {
    groups: u8,
    queues: QueueCapabilities,
    ims_entries: u16,
    msix_entries: u16,
}

impl Limits {
    /// Where tables are: within the BAR, and not over one another.
    fn place(
        &self,
        regs: &impl RegisterBus,
        info: &FunctionInfo,
    ) -> Result<(Tables, BarMap), Fault> {
        let at = regs::OFFSETS.offset();
        let offsets = Offsets([regs.load(at, Width::W8), regs.load(at + 8, Width::W8)]);
        let bytes = |bar: usize| info.bars.get(bar).and_then(|bar| *bar).map_or(0, |bar| bar.bytes);
        let queue_bytes = queue::bytes(self.queues.config_size());
        let queues = u64::from(self.queues.queues());
        let msix = info.msix.map(|msix| {
            let start = u64::from(msix.table_offset);
            (msix.table_bar, start..start + msix.table_bytes())
        });
        let table = |unit: u16, entries: u64, bytes: u64| {
            let start = u64::from(unit) * regs::TABLE_UNIT;
            start..start + entries * bytes
        };
        let found = [
            0..FIXED_BYTES,
            table(offsets.groups(), self.groups.into(), group::BYTES),
            table(offsets.queues(), queues, queue_bytes),
            table(offsets.permissions(), self.msix_entries.into(), interrupt::PERMISSION_BYTES),
            table(offsets.ims(), self.ims_entries.into(), interrupt::IMS_BYTES),
            msix.clone().filter(|(bar, _)| *bar == 0).map_or(0..0, |(_, range)| range),
        ];
        let [_, groups, queue_table, permissions, ims, _] = found.clone();
        let in_bar = found.iter().all(|range| range.end <= bytes(REGISTERS_BAR));
        let apart = |(index, range): (usize, &Range<u64>)| {
            found.iter().skip(index + 1).all(|other| {
                range.is_empty()
                    || other.is_empty()
                    || range.end <= other.start
                    || other.end <= range.start
            })
        };
        if !in_bar || !found.iter().enumerate().all(apart) {
            return Err(Fault::Lies(at));
        }
        if bytes(PORTALS_BAR) < queues * portal::PAGES * PAGE_SIZE {
            return Err(Fault::Lies(regs::WQCAP.offset()));
        }
        let slots = [(REGISTERS_BAR as u8, ims.clone())].into_iter().chain(msix);
        let bars = BarMap::new(core::array::from_fn(bytes), slots).map_err(|_| Fault::Lies(at))?;
        let tables = Tables {
            groups: groups.start,
            queues: queue_table.start,
            permissions: permissions.start,
            ims: ims.start,
            queue_bytes,
        };
        Ok((tables, bars))
    }
}
