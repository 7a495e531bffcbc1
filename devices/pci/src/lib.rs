//! PCI as found on the machine, over any [`ConfigAccess`]: what there is ([`enumerate`]), silence at hand-over
//! ([`quiet`]), which functions cannot be told apart or kept apart ([`groups`]), a function's interrupts ([`Msi`],
//! [`Msix`]), its reset ([`reset`]) and its virtual functions ([`Sriov`]). [`spec`] is the layout, shared with what
//! guests are shown.
//!
//! Nothing that configuration space says is trusted: a function that is gone reads all ones, chains of capabilities may
//! be endless, bridges may lie about their buses.

#![cfg_attr(not(test), no_std)]
#![forbid(unsafe_code)]
#![deny(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, clippy::panic)]
#![cfg_attr(
    test,
    allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, clippy::panic)
)]

extern crate alloc;

mod access;
mod aliases;
mod bars;
mod capabilities;
mod enumerate;
mod function;
mod groups;
mod interrupts;
mod read;
mod reset;
pub mod spec;
mod sriov;
mod windows;

#[cfg(test)]
mod model;

pub use access::{ConfigAccess, Ecam, read_by_ports, write_by_ports};
pub use aliases::{Sender, aliases, sender};
pub use enumerate::{enumerate, quiet};
pub use function::{
    Bar, BarKind, Capability, FunctionInfo, HeaderKind, Msi, Msix, PcieKind, Reset, buses_below,
    find,
};
pub use groups::{Group, Reason, Tie, groups, isolate};
pub use reset::{ResetError, Resetting, reset};
pub use sriov::{Sriov, SriovError};
