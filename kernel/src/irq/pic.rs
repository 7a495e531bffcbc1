//! The pair of 8259As: moved off the exceptions' vectors and masked (8259A datasheet, initialization command words).

use hw::{Port, PortBus, Width};

use crate::platform::Ports;

/// Masks both. Where there are none, the writes go nowhere.
pub(super) fn mask_all() {
    /// Initialize, in cascade, with a fourth command word.
    const ICW1: u8 = 0x11;
    /// 8086 mode.
    const ICW4: u8 = 0x01;
    for (command, vector, wiring) in [(0x20, super::LEGACY, 1 << 2), (0xa0, super::LEGACY + 8, 2)] {
        for (port, value) in [
            (command, ICW1),
            (command + 1, vector),
            (command + 1, wiring),
            (command + 1, ICW4),
            (command + 1, 0xff),
        ] {
            Ports.write(Port(port), Width::W1, u32::from(value));
        }
    }
}
