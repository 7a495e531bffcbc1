//! What ACPI tables say about the machine: interrupt controllers, timers, the way to power off (ACPI 6.5, chapter 5).
//!
//! The tables are allegations. Firmware gets them wrong, a disk brings its own, and some machines have none; so every
//! access is checked, whatever is wrong is reported ([`Problem`]) and the rest is used. [`read`] always gives a
//! [`Machine`], at worst the PC's conventions.

#![cfg_attr(not(test), no_std)]
#![forbid(unsafe_code)]
#![deny(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, clippy::panic)]
#![cfg_attr(
    test,
    allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, clippy::panic)
)]

extern crate alloc;

mod aml;
mod bytes;
mod machine;
mod tables;
#[cfg(test)]
mod tests;

pub use machine::{
    Ecam, IoApic, Line, Machine, PmTimer, PowerOff, SerialPort, SerialRegisters, read,
};
pub use tables::{Brought, PhysicalMemory, Problem, Signature, Trouble};
