//! Hosting functions and what they are carved into. A [`HostingFunction`] is one PCIe function that gives out assignable
//! interfaces ([`Interface`]): queues of its own that are told apart by PASID (Scalable IOV), or virtual functions with a
//! requester ID each (SR-IOV). There is no IOMMU here and no VM: who binds a PASID to an address space, wires an interrupt
//! or maps a page is `compose`'s and the kernel's.
//!
//! Nothing that a device says is trusted: what its registers claim is checked when it is taken ([`Fault::Lies`]), what it
//! does later has a deadline, and what goes wrong is told of the interface that it concerns ([`Report`]).
//!
//! Invariant: no page that may be mapped holds an interrupt slot. A [`Page`] that is fast comes from
//! [`BarMap::fast`] alone, which refuses it.

#![cfg_attr(not(test), no_std)]
#![forbid(unsafe_code)]
#![deny(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, clippy::panic)]
#![cfg_attr(
    test,
    allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, clippy::panic)
)]

extern crate alloc;

pub mod dsa;
mod error;
mod function;
mod interface;
mod page;
pub mod sriov;

pub use error::{CarveError, Fault, Resource};
pub use function::{
    Command, Count, Handle, HostingFunction, Kind, Report, Resources, Setting, SlotMessage,
    Trouble, Version, Want,
};
pub use interface::{Binding, Interface, InterfaceId, InterfaceState, Interfaces, Mode, State};
pub use page::{BarMap, Page, PageError, PageKind};
