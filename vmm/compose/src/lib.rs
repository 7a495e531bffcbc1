//! Composition: a [`Request`] becomes a [`Vdev`], a virtual device made of assignable interfaces of one or several hosting
//! functions, or a [`Refusal`] that says what is missing where. A VDEV is an [`Endpoint`](vmm::pci::Endpoint) of its VM: its
//! fast pages are mapped, everything else is served here.
//!
//! This is the only room that joins `devices` with what the kernel does for them, which it reaches by [`Host`]: PASIDs that
//! lead to the VM's memory, interrupts that lead to its vectors, pages in its second stages. Only from here are interrupt
//! slots programmed: all interfaces of a function send with its requester ID, so that no interrupt entry could tell them
//! apart.
//!
//! Locks: a VDEV's before its functions'. Neither is held while waiting for anything.

#![cfg_attr(not(test), no_std)]
#![forbid(unsafe_code)]
#![deny(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, clippy::panic)]
#![cfg_attr(
    test,
    allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, clippy::panic)
)]

extern crate alloc;

mod composer;
mod endpoint;
mod host;
mod parts;
mod request;
mod shape;
mod vdev;

#[cfg(test)]
mod tests;

pub use composer::{Composer, VdevId};
pub use endpoint::VdevEndpoint;
pub use host::{Host, NoWay, Wire, WireId};
pub use request::{Placement, Refusal, Request};
pub use vdev::{Counters, Policy, Vdev};
