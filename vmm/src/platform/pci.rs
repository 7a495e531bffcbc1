//! PCI configuration space: a host bridge, and nothing behind it yet.

use hw::{Port, Width};

use crate::platform::PortWindow;

/// Its ports: CONFIG_ADDRESS and CONFIG_DATA. A one-byte write to 0xcf9, which lies among them, is the reset control register: [`crate::platform::pm`].
pub const PORTS: PortWindow = PortWindow { first: Port(0xcf8), count: 8 };

/// The host bridge.
#[derive(Clone, Debug, Default)]
pub struct HostBridge {}

impl HostBridge {
    /// A host bridge as after reset.
    #[must_use]
    pub fn new() -> Self {
        Self {}
    }

    /// Reads a port.
    pub fn read(&mut self, offset: u64, width: Width, now: u64) -> u64 {
        let _ = (offset, width, now);
        u64::MAX
    }

    /// Writes a port.
    pub fn write(&mut self, offset: u64, width: Width, value: u64, now: u64) {
        let _ = (offset, width, value, now);
    }
}
