//! The I/O APICs (82093AA datasheet, 3).

use alloc::vec::Vec;

use firmware::{IoApic, Line, Machine};
use hw::Hpa;
use x86_spec::apic::{self, RedirectionEntry, ioapic as reg};

use crate::platform::Mmio;
use crate::{iommu, mem};

/// One I/O APIC.
struct Unit {
    id: u8,
    registers: Mmio,
    first_gsi: u32,
    pins: u32,
}

/// All of the machine's.
pub(super) struct IoApics(Vec<Unit>);

impl IoApics {
    /// Finds them and masks every pin. Without tables there is one where it always was.
    pub(super) fn init(machine: &Machine) -> Self {
        let conventional =
            [IoApic { id: 0, registers: Hpa::new(apic::DEFAULT_IOAPIC_BASE), first_gsi: 0 }];
        let listed = match machine.io_apics.as_slice() {
            [] => &conventional[..],
            listed => listed,
        };
        Self(listed.iter().filter_map(Unit::init).collect())
    }

    /// Has `line` delivered as `vector` to the CPU with this APIC ID; false where no pin is that line's, the ID does not
    /// fit the entry, or the IOMMU lets no interrupt of the I/O APIC through.
    pub(super) fn route(&mut self, line: Line, vector: u8, apic_id: u32) -> bool {
        let unit = self
            .0
            .iter()
            .find(|unit| line.gsi.checked_sub(unit.first_gsi).is_some_and(|pin| pin < unit.pins));
        let Some(unit) = unit else { return false };
        let entry = match iommu::route_pin(unit.id, line, vector, apic_id) {
            Some(routed) => routed,
            None => plain(line, vector, apic_id),
        };
        let Some(entry) = entry else { return false };
        unit.set(line.gsi - unit.first_gsi, entry);
        true
    }
}

/// An entry that goes straight to a CPU.
fn plain(line: Line, vector: u8, apic_id: u32) -> Option<RedirectionEntry> {
    let destination = u8::try_from(apic_id).ok()?;
    let flag = |set, bit| if set { bit } else { 0 };
    let entry = u64::from(vector)
        | flag(line.active_low, RedirectionEntry::ACTIVE_LOW)
        | flag(line.level, RedirectionEntry::LEVEL)
        | u64::from(destination) << 56;
    Some(RedirectionEntry(entry))
}

impl Unit {
    fn init(listed: &IoApic) -> Option<Self> {
        let registers = mem::map_mmio(listed.registers, apic::IOAPIC_BYTES)?;
        let mut unit = Self { id: listed.id, registers, first_gsi: listed.first_gsi, pins: 0 };
        let version = unit.read(reg::VERSION);
        if version == u32::MAX {
            log::warn!("no I/O APIC answers at {}", listed.registers);
            return None;
        }
        // No more than its eight-bit index can name, whatever it says.
        let pins = (version >> 16 & 0xff) + 1;
        unit.pins = pins.min((0x100 - u32::from(reg::REDIRECTION)) / 2);
        (0..unit.pins).for_each(|pin| unit.set(pin, RedirectionEntry::reset()));
        Some(unit)
    }

    fn read(&self, index: u8) -> u32 {
        self.registers.write32(reg::IOREGSEL, index.into());
        self.registers.read32(reg::IOWIN)
    }

    fn write(&self, index: u8, value: u32) {
        self.registers.write32(reg::IOREGSEL, index.into());
        self.registers.write32(reg::IOWIN, value);
    }

    /// Sets a pin's entry: the half that unmasks it last.
    fn set(&self, pin: u32, entry: RedirectionEntry) {
        let index = reg::REDIRECTION + 2 * pin as u8;
        self.write(index, RedirectionEntry::MASKED as u32);
        self.write(index + 1, (entry.0 >> 32) as u32);
        self.write(index, entry.0 as u32);
    }
}
