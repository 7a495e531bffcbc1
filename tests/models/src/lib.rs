//! Models of hardware at the level of its registers and its tables in memory. They are written from the manuals, share
//! nothing with the drivers but the layouts, and are stricter than hardware: what a manual forbids is recorded as a
//! violation even where it would pass unnoticed.
//!
//! - [`vtd::Unit`]: a VT-d unit. It reads tables from the device's view of memory, keeps what it has read until it is
//!   told to forget it, and answers the DMA and the interrupts that a test sends.
//! - [`SplitMemory`]: memory with a CPU's view and a device's view, and a log of what was stored and freed.
//! - [`Injecting`], [`Traced`]: middleware between a driver and registers.
//! - [`Machine`]: all of it put together for a host test.

#![forbid(unsafe_code)]

mod clock;
mod machine;
mod memory;
mod middleware;
pub mod vtd;

pub use clock::FakeClock;
pub use machine::{Machine, ModelRegs};
pub use memory::{Change, DeviceMemory, SplitMemory};
pub use middleware::{Injecting, Traced};
