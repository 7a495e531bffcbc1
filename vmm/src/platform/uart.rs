//! The serial port: a 16550A.

use hw::{Port, Width};

use crate::platform::PortWindow;

/// Its ports: COM1.
pub const PORTS: PortWindow = PortWindow { first: Port(0x3f8), count: 8 };

/// A 16550A.
#[derive(Clone, Debug)]
pub struct Uart {}

impl Uart {
    /// A UART as after reset, for a guest whose TSC runs at `tsc_khz`.
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
    pub fn write(&mut self, offset: u64, width: Width, value: u64, now: u64) {
        let _ = (offset, width, value, now);
    }

    /// Whether its interrupt line is asserted.
    #[must_use]
    pub fn interrupt(&self) -> bool {
        false
    }

    /// Takes bytes that the guest sent and no one took yet: how many of `into` were filled. Must be asked after every
    /// write at offset 0 or at the latest when [`Uart::output_is_full`].
    pub fn take_output(&mut self, into: &mut [u8]) -> usize {
        let _ = into;
        0
    }

    /// Bytes that were sent and not yet taken.
    #[must_use]
    pub fn output_len(&self) -> usize {
        0
    }

    /// Whether the receiver has room for another byte.
    #[must_use]
    pub fn can_receive(&self) -> bool {
        true
    }

    /// A byte arrives on the line.
    pub fn receive(&mut self, byte: u8, now: u64) {
        let _ = (byte, now);
    }

    /// When [`Uart::poll`] has something to do next, in ticks of the guest's TSC.
    #[must_use]
    pub fn deadline(&self) -> Option<u64> {
        None
    }

    /// Lets the receiver's time-out pass if its moment has come.
    pub fn poll(&mut self, now: u64) {
        let _ = now;
    }
}
