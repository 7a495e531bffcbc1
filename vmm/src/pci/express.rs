//! The PCI Express capability (PCIe 6.0, 7.5.3) of functions and of the root ports above them. Nothing that a guest writes
//! here reaches hardware but the request for a function-level reset.

use super::config::ConfigSpace;
use super::endpoint::Shape;
use ::pci::spec::capability;
use ::pci::spec::capability::express::{DEVICE_CAPABILITIES, DEVICE_CONTROL, FLR, START_FLR};

/// What device control has after reset: relaxed ordering, no snoop, requests of 512 bytes.
const DEVICE_CONTROL_RESET: u32 = 0x2810;
/// Error reports, relaxed ordering, sizes, extended tags, no snoop.
const DEVICE_CONTROL_WRITABLE: u32 = 0x79ff;
/// Read completion boundary, common clock, extended synch.
const LINK_CONTROL_WRITABLE: u32 = 0xc8;

/// A register: its offset, what is kept of the hardware's, and what can be written.
struct Rule(u16, u32, u32);

/// What a function shows. Not: phantom functions, power saving of the link, and all that would need a say of the real
/// root port's.
const FUNCTION: [Rule; 14] = [
    Rule(DEVICE_CAPABILITIES, 0x1ffc_8fe7, 0),
    Rule(DEVICE_CONTROL, 0, DEVICE_CONTROL_WRITABLE),
    Rule(0x0c, !0x000c_0c00, 0),
    Rule(0x10, 0x13ff_0000, LINK_CONTROL_WRITABLE),
    Rule(0x14, 0, 0),
    Rule(0x18, 0, 0),
    Rule(0x1c, 0, 0),
    Rule(0x20, 0, 0),
    Rule(0x24, 0x1f, 0),
    Rule(0x28, 0, 0x1f),
    Rule(0x2c, 0xfe, 0),
    Rule(0x30, 0xf, 0xf),
    Rule(0x34, 0, 0),
    Rule(0x38, 0, 0),
];

/// Turns the hardware's capability of `bytes` bytes at `at` into a function's below a root port.
pub(super) fn define_function(config: &mut ConfigSpace, at: u16, bytes: u16, link: Link) {
    // An endpoint, whatever it is on the machine; its version stays.
    config.define_part(at, 0xfff0_0000, 0, 0);
    for Rule(offset, kept, writable) in FUNCTION.into_iter().filter(|rule| rule.0 + 4 <= bytes) {
        config.define(at + offset, config.dword(at + offset) & kept, writable);
    }
    config.define_part(at + DEVICE_CONTROL, 0xffff, DEVICE_CONTROL_RESET, DEVICE_CONTROL_WRITABLE);
    if bytes >= 0x14 {
        config.define_part(at + 0xc, 0x3ff, link.speed_and_width(), 0);
        config.define_part(at + 0x10, 0x3ff << 16, link.speed_and_width() << 16, 0);
    }
}

/// Whether this value, written to device control, resets the function.
pub(super) fn asks_for_reset(config: &ConfigSpace, at: u16, value: u32) -> bool {
    value & u32::from(START_FLR) != 0 && config.dword(at + DEVICE_CAPABILITIES) & FLR != 0
}

/// Puts a root port's registers at `at`, after whose first two bytes. Its slot, of number `slot`, is occupied, the link up.
pub(super) fn define_port(config: &mut ConfigSpace, at: u16, slot: u32, link: Link) {
    /// Version 2, root port, slot implemented.
    const CAPABILITIES: u32 = 0x0142 << 16;
    /// The device reports errors by their roles.
    const ROLE_BASED: u32 = 1 << 15;
    /// Link capabilities: it reports whether it is up; its port number is in bits 31:24.
    const ACTIVE_REPORTED: u32 = 1 << 20;
    /// Link status: up, on the slot's clock.
    const ACTIVE: u32 = 0x3000 << 16;
    /// Slot capabilities: commands complete at once; the slot's number is in bits 31:19.
    const NO_COMMAND_COMPLETED: u32 = 1 << 18;
    /// Slot status: occupied.
    const PRESENT: u32 = 1 << 6 << 16;
    let speeds = (2 << link.speed) - 2;
    config.define_part(at, 0xffff_0000, CAPABILITIES, 0);
    for (offset, value, writable) in [
        (DEVICE_CAPABILITIES, ROLE_BASED, 0),
        (DEVICE_CONTROL, DEVICE_CONTROL_RESET, DEVICE_CONTROL_WRITABLE),
        (0x0c, ACTIVE_REPORTED | slot << 24 | link.speed_and_width(), 0),
        (0x10, ACTIVE | link.speed_and_width() << 16, LINK_CONTROL_WRITABLE),
        (0x14, NO_COMMAND_COMPLETED | slot << 19, 0),
        (0x18, PRESENT, 0),
        // Root control: which errors and PMEs it tells of.
        (0x1c, 0, 0x0f),
        (0x2c, speeds, 0),
        (0x30, link.speed, 0xf),
    ] {
        config.define(at + offset, value, writable);
    }
}

/// A link's speed, by its number, and its lanes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Link {
    speed: u32,
    lanes: u32,
}

impl Link {
    /// The link of a function; one within the root complex, or none of PCI Express, has one of its own kind.
    pub(super) fn of(shape: &Shape) -> Self {
        let express = shape.capability(capability::EXPRESS);
        let status = match express.and_then(|found| found.bytes.get(0x12..0x14)) {
            Some(&[low, high]) => u32::from(low) | u32::from(high) << 8,
            _ => 0,
        };
        match (status & 0xf, status >> 4 & 0x3f) {
            (0, _) | (_, 0) => Self { speed: 1, lanes: 1 },
            // The vector of speeds has seven bits.
            (speed, lanes) => Self { speed: speed.min(7), lanes },
        }
    }

    const fn speed_and_width(self) -> u32 {
        self.speed | self.lanes << 4
    }
}
