//! What Kerf speaks by, away from the machine: the 16550 ([`Uart`]), text on a framebuffer ([`Screen`]), and bytes kept in
//! memory ([`Ring`]). The kernel lends them registers and pixels; the tests lend them broken ones.
//!
//! Nothing here waits without an end: a device that is absent, stuck or gone loses characters and hangs nothing.

#![cfg_attr(not(test), no_std)]
#![forbid(unsafe_code)]

extern crate alloc;

mod ring;
mod screen;
#[cfg(test)]
mod tests;
mod uart;

pub use ring::Ring;
pub use screen::{Pixels, Screen};
pub use uart::{Lost, Registers, Setup, Uart};
