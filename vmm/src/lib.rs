//! One virtual machine: what its exits mean, the devices it sees, and how its kernel is loaded.
//!
//! [`Machine`] is a pure state machine. It takes an [`vcpu::Exit`], changes the virtual CPU, guest memory and its own
//! devices, and says what is to happen next ([`Outcome`]). It reaches the outside only through the traits it defines:
//! [`GuestMemory`] and [`Host`]. The kernel implements them on the machine, host tests on a vector and a script.

#![cfg_attr(not(test), no_std)]
#![forbid(unsafe_code)]
// Tests may stop at what they did not expect; nothing else may.
#![cfg_attr(
    not(test),
    deny(clippy::expect_used, clippy::indexing_slicing, clippy::panic, clippy::unwrap_used)
)]

extern crate alloc;

mod bus;
pub mod counters;
mod crash;
mod exit;
mod host;
pub mod hypercall;
pub mod insn;
pub mod loader;
mod machine;
mod mmio;
mod msr;
pub mod platform;
mod port;
#[cfg(test)]
mod tests;
pub mod walk;

pub use crash::{Crash, InstructionBytes};
pub use exit::Outcome;
pub use host::{GuestMemory, Host, NoMemory};
pub use machine::{Machine, MachineSpec};
