//! The I/O APIC: 24 pins, each with an entry of the redirection table.

use hw::Width;

use crate::platform::InterruptMessage;

/// How many pins it has.
pub const PIN_COUNT: u8 = 24;

/// An I/O APIC.
#[derive(Clone, Debug, Default)]
pub struct IoApic {}

impl IoApic {
    /// An I/O APIC as after reset: everything masked.
    #[must_use]
    pub fn new() -> Self {
        Self {}
    }

    /// Reads its page.
    pub fn read(&mut self, offset: u64, width: Width, now: u64) -> u64 {
        let _ = (offset, width, now);
        u64::MAX
    }

    /// Writes its page.
    pub fn write(&mut self, offset: u64, width: Width, value: u64, now: u64) {
        let _ = (offset, width, value, now);
    }

    /// Sets the signal at a pin: `asserted` says that its device wants an interrupt, whatever the polarity.
    pub fn set_pin(&mut self, pin: u8, asserted: bool) {
        let _ = (pin, asserted);
    }

    /// A local APIC ended the level-triggered interrupt `vector`.
    pub fn end_of_interrupt(&mut self, vector: u8) {
        let _ = vector;
    }

    /// The next interrupt to deliver to local APICs. Ask until `None` after every write, pin change and end of interrupt.
    pub fn take_message(&mut self) -> Option<InterruptMessage> {
        None
    }
}
