//! Power management: the ACPI PM timer, sleep control of the hardware-reduced model, and reset.

use hw::{Port, Width};

use crate::platform::PortWindow;

/// Its ports: see the offsets in this module.
pub const PORTS: PortWindow = PortWindow { first: Port(0x600), count: 16 };

/// What the guest asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PowerRequest {
    /// Sleep state S5.
    PowerOff,
    /// Reset of the whole machine.
    Reset,
}

/// The power-management block.
#[derive(Clone, Debug)]
pub struct PowerManagement {}

impl PowerManagement {
    /// The block for a guest whose TSC runs at `tsc_khz`.
    #[must_use]
    pub fn new(tsc_khz: u32) -> Self {
        let _ = tsc_khz;
        Self {}
    }

    /// Reads a register.
    pub fn read(&mut self, offset: u64, width: Width, now: u64) -> u64 {
        let _ = (offset, width, now);
        u64::MAX
    }

    /// Writes a register.
    pub fn write(
        &mut self,
        offset: u64,
        width: Width,
        value: u64,
        now: u64,
    ) -> Option<PowerRequest> {
        let _ = (offset, width, value, now);
        None
    }
}
