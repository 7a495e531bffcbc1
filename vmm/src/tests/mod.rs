//! [`Machine`] driven through every exit by a scripted virtual CPU.

mod bench;
mod exits;
mod interrupts;
mod mmio;
mod port;

pub(crate) use bench::Memory;
