//! One virtual machine: what its exits mean, the devices it sees, and how its kernel is loaded.
//!
//! [`Machine`] is a pure state machine. It takes an [`vcpu::Exit`], changes the virtual CPU, guest memory and its own
//! devices, and says what is to happen next ([`Outcome`]). It reaches the outside only through the traits it defines:
//! [`GuestMemory`] and [`Host`]. The kernel implements them on the machine, host tests on a vector and a script.

#![cfg_attr(not(test), no_std)]
#![forbid(unsafe_code)]
#![deny(clippy::expect_used, clippy::indexing_slicing, clippy::panic, clippy::unwrap_used)]

extern crate alloc;

mod host;
pub mod insn;

pub mod loader;
pub mod platform;

pub use host::{GuestMemory, Host, NoMemory};
