//! [`Core`](crate::Core) driven through every exit by a scripted virtual CPU.

pub(crate) mod bench;
mod exits;
mod interrupts;
mod line;
mod mmio;
mod pci;
mod port;
mod smp;
mod state;

pub(crate) use bench::Memory;
