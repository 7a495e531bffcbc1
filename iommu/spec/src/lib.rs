//! VT-d as bits (Intel Virtualization Technology for Directed I/O, architecture specification 4.1, order number D51397;
//! section numbers below are its): registers, the tables in memory, invalidation descriptors, fault records, and the
//! DMAR table of ACPI. Layout only, shared by the driver and the model; since both would agree on a mistake here, each
//! structure is pinned by bytes from a second source (`tests`).
//!
//! Every structure is its words, so a value that the manual does not define is representable and survives.

#![no_std]
#![forbid(unsafe_code)]

pub mod context;
pub mod dmar;
pub mod fault;
pub mod interrupt;
pub mod invalidation;
pub mod pasid;
pub mod registers;

#[cfg(test)]
mod tests;

/// First address of the interrupt range: writes from here to [`INTERRUPT_END`] are interrupt requests and never
/// translated (3.14).
pub const INTERRUPT_START: u64 = 0xfee0_0000;
/// First address behind the interrupt range.
pub const INTERRUPT_END: u64 = 0xfef0_0000;
