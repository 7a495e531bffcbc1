//! The real-time clock and its CMOS memory: an MC146818.

use hw::{Port, Width};

use crate::platform::PortWindow;

/// Its ports: index and data.
pub const PORTS: PortWindow = PortWindow { first: Port(0x70), count: 2 };

/// A real-time clock.
#[derive(Clone, Debug, Default)]
pub struct Rtc {}

impl Rtc {
    /// A clock that shows the host's time, UTC.
    #[must_use]
    pub fn new() -> Self {
        Self {}
    }

    /// Reads a port; `unix_time` in seconds since 1970.
    pub fn read(&mut self, offset: u64, width: Width, unix_time: u64) -> u64 {
        let _ = (offset, width, unix_time);
        u64::MAX
    }

    /// Writes a port.
    pub fn write(&mut self, offset: u64, width: Width, value: u64, unix_time: u64) {
        let _ = (offset, width, value, unix_time);
    }
}
