//! One virtual machine: what its exits mean, the devices it sees, and how its kernel is loaded.
//!
//! [`Core`], one virtual CPU's part, and [`Vm`], which they share, are pure state machines. A core takes an [`vcpu::Exit`],
//! changes the virtual CPU, guest memory and devices, and says what is to happen next ([`Outcome`]). They reach the outside
//! only through the traits defined here: [`GuestMemory`] and [`Host`]. The kernel implements them on the machine, host tests
//! on a vector and a script.

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
mod cpu;
mod crash;
mod exit;
mod host;
mod hot;
pub mod hypercall;
pub mod insn;
mod line;
pub mod loader;
mod mailbox;
mod mmio;
mod msr;
pub mod pci;
pub mod platform;
mod port;
mod reset;
mod ring;
mod state;
#[cfg(test)]
mod tests;
mod vm;
pub mod walk;

pub use config::Unknown as UnknownPolicy;
pub use cpu::{Core, Ready};
pub use crash::{Crash, InstructionBytes};
pub use exit::Outcome;
pub use host::{Backing, GuestMemory, Host, NoMemory};
pub use ring::ExitRecord;
pub use state::CoreState;
pub use vm::{Vm, VmSpec};
