//! The IOMMU driver. It takes every VT-d unit of the machine ([`Iommu::start`]) and from then on lets through what was
//! granted and nothing else.
//!
//! ```text
//!   Space ──attach(function, pasid)──► Attachment ──detach──► Pending ──poll, wait──► Retired
//!     │ map, unmap ─► Pending            Route (interrupt entries) ──unroute──┘
//!     ▼
//!   page tables (crate paging)    context and PASID entries (contexts.rs)   interrupt entries (remap.rs)
//!     └───────────── invalidations (teardown.rs) ──► queue.rs ──► Unit (unit.rs) ──► registers
//! ```
//!
//! - A [`SpaceId`] names a DMA space: an object of its own, attached to any number of functions and PASIDs.
//! - Whatever is taken away gives a [`Pending`]; only once the hardware has said that it has forgotten it, frames,
//!   PASIDs, domains and interrupt entries are used again, and the caller gets a [`Retired`] that says so for its own
//!   frames. Nothing here waits longer than it is told to, and the exit path need not wait at all.
//! - A unit that does not answer is taken out: its functions can be attached no more and what they held is never freed.
//!
//! The driver is generic over [`Hw`], so that the same code runs on the machine and on the model.

#![cfg_attr(not(test), no_std)]
#![forbid(unsafe_code)]
#![deny(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, clippy::panic)]
#![cfg_attr(
    test,
    allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, clippy::panic)
)]

extern crate alloc;

mod bring_up;
mod caps;
mod contexts;
pub mod dmar;
mod error;
mod fault;
mod functions;
mod iommu;
mod queue;
mod remap;
mod scopes;
mod space;
mod teardown;
mod unit;
mod write_back;

#[cfg(test)]
mod tests;

pub use bring_up::{Config, Mode};
pub use caps::Stage;
pub use error::{AttachError, Event, MapError, RouteError, StartError, UnitError};
pub use fault::Fault;
pub use functions::{Attach, Attachment};
pub use iommu::{Counts, Iommu};
pub use remap::{Message, Route, Source, Target};
pub use space::SpaceId;
pub use teardown::{Pending, Retired};

use hw::{Clock, DeviceTables, RegisterBus};

/// What a driver stands on.
pub trait Hw {
    /// A unit's registers.
    type Regs: RegisterBus;
    /// Memory for tables.
    type Tables: DeviceTables;
    /// Time.
    type Clock: Clock;
}
