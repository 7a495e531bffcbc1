//! Hosting functions that make virtual functions (PCIe 6.0, 9): each is one interface with a requester ID of its own. What
//! it needs from the physical function is done by a small driver of that ([`Physical`]), which is given its registers, its
//! memory and its events.

mod function;
mod igb;
mod nvme;
mod virtual_function;

use alloc::boxed::Box;
use core::fmt;

use hw::{Clock, RegisterBus};
use pci::FunctionInfo;

use crate::{Fault, Kind, Resources};
use igb::Igb;
use nvme::Nvme;

pub use function::SrIov;
pub use nvme::Namespace;
pub use virtual_function::VirtualFunction;

/// A driver of a physical function. It does one job at a time; nothing that the function answers is trusted.
pub trait Physical: fmt::Debug + Send {
    /// What it is.
    fn kind(&self) -> Kind;
    /// What each virtual function gets of queues and interrupts, once it was started.
    fn each(&self) -> Resources;
    /// Begins a job; not while there is one.
    fn begin(&mut self, job: Job);
    /// Goes on with it; `Some` at the end, once.
    fn poll(&mut self) -> Option<Result<Started, Fault>>;
    /// Its interrupt came.
    ///
    /// # Errors
    /// [`Fault`] where it is of no use any more.
    fn on_interrupt(&mut self) -> Result<(), Fault> {
        Ok(())
    }
    /// Whether it has an interrupt, the first of its MSI-X.
    fn wants_interrupt(&self) -> bool {
        false
    }
}

/// What a driver does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Job {
    /// Brings the physical function up after a reset.
    Start,
    /// Lets the virtual function with this number, from 0 on, work; on NVMe with this namespace.
    Give(u16, Option<Namespace>),
    /// Takes from a virtual function what it had.
    Take(u16),
}

/// Where a start has led to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Started {
    /// Virtual functions can be given.
    Ready,
    /// What was set takes effect at a reset; to be started once more after it.
    ResetFirst,
}

/// Memory that a driver shares with its function.
#[derive(Debug)]
pub struct Shared<M> {
    /// Its bytes, as this side sees them.
    pub memory: M,
    /// Where the function sees the first of them, a multiple of 4 KiB.
    pub iova: u64,
}

/// The driver for a physical function, over its BAR 0, that is to have `count` virtual ones; `memory` gives it so many bytes
/// if it needs any. `None` where there is no driver for it, or no memory.
pub fn driver<R, M, C>(
    info: &FunctionInfo,
    registers: R,
    memory: impl FnOnce(u64) -> Option<Shared<M>>,
    clock: C,
    count: u16,
) -> Option<Box<dyn Physical>>
where
    R: RegisterBus + fmt::Debug + Send + Sync + 'static,
    M: RegisterBus + fmt::Debug + Send + Sync + 'static,
    C: Clock + fmt::Debug + Send + Sync + 'static,
{
    match (info.vendor, info.device, info.class) {
        (_, _, nvme::CLASS) => {
            let shared = memory(nvme::MEMORY_BYTES)?;
            Some(Box::new(Nvme::new(registers, shared, clock, count)))
        }
        (igb::VENDOR, igb::DEVICE, _) => Some(Box::new(Igb::new(registers, clock))),
        _ => None,
    }
}
