//! The devices of a guest's platform: interrupt controllers ([`lapic`], [`ioapic`]), [`uart`], [`rtc`], power management
//! ([`pm`]), a paravirtual clock (`pvclock`), and what describes them to the guest ([`acpi`], [`cpuid`]). PCI is
//! [another room](crate::pci).
//!
//! Every device is a state machine without surroundings. It is asked by `read(offset, width, now)` and told by
//! `write(offset, width, value, now)`, `offset` from the start of its [`PortWindow`] or page, `now` in ticks of the
//! guest's TSC. It never calls out: what follows from an access is its return value or is fetched afterwards
//! ([`uart::Uart::interrupt`], [`ioapic::IoApic::take_message`]). No access can fail or panic; what is not there reads
//! all-ones, and writes to it are dropped.

pub mod acpi;
pub mod cpuid;
pub mod ioapic;
pub mod lapic;
pub mod pm;
pub(crate) mod pvclock;
pub mod rtc;
pub mod uart;

use hw::{Port, Width};
use x86_spec::apic::{DeliveryMode, MsiMessage, RedirectionEntry};

/// Global system interrupts, which are the I/O APIC's pins.
pub mod gsi {
    /// The UART.
    pub const UART: u8 = 4;
    /// The RTC, which raises none yet.
    pub const RTC: u8 = 8;
}

/// A run of I/O ports that one device answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PortWindow {
    /// The first port.
    pub first: Port,
    /// How many.
    pub count: u16,
}

impl PortWindow {
    /// The offset of `port` within the window, or `None` outside it.
    #[must_use]
    pub const fn offset_of(self, port: Port) -> Option<u64> {
        match port.0.checked_sub(self.first.0) {
            Some(offset) if offset < self.count => Some(offset as u64),
            _ => None,
        }
    }
}

/// An access that the CPU answers with #GP(0).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct GeneralProtection;

/// An interrupt on its way to local APICs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct InterruptMessage {
    /// APIC ID, or a logical destination.
    pub destination: u32,
    /// Whether the destination is logical.
    pub logical: bool,
    /// How it is to be delivered.
    pub mode: DeliveryMode,
    /// Its vector, for the modes that have one.
    pub vector: u8,
    /// Whether it is level-triggered: its end is broadcast to the I/O APIC.
    pub level: bool,
}

impl From<RedirectionEntry> for InterruptMessage {
    fn from(entry: RedirectionEntry) -> Self {
        Self {
            destination: entry.destination().into(),
            logical: entry.is_logical(),
            mode: entry.delivery_mode(),
            vector: entry.vector(),
            level: entry.is_level(),
        }
    }
}

impl From<MsiMessage> for InterruptMessage {
    fn from(message: MsiMessage) -> Self {
        Self {
            destination: message.destination().into(),
            logical: message.is_logical(),
            mode: message.delivery_mode(),
            vector: message.vector(),
            level: message.is_level(),
        }
    }
}

/// The bytes `[offset, offset + width)` of a little-endian register of 4 bytes that starts at `offset & !3`.
pub(crate) const fn part_of_dword(register: u32, offset: u64, width: Width) -> u64 {
    let shifted = (register as u64) >> (8 * (offset & 3));
    shifted & width.mask()
}

/// `register` with the bytes `[offset, offset + width)` replaced by those of `value`.
pub(crate) const fn with_part(register: u32, offset: u64, width: Width, value: u64) -> u32 {
    let shift = 8 * (offset & 3);
    let mask = width.mask() << shift;
    ((register as u64 & !mask) | (value << shift & mask)) as u32
}
