//! [`Nvme`]: the primary controller of an NVMe device, driven by its admin queue alone, to bring secondary controllers,
//! which are its virtual functions, online with queues, interrupts and a namespace each (NVMe base specification 2.0:
//! 5.17 Identify, 5.15 Namespace Attachment, 5.28 Virtualization Management, 8.26).
//!
//! Sequences of commands (`admin`) are futures without a runtime: they own the queue while they go on, and go on when they
//! are polled, so that nobody waits for the device.

mod admin;
mod queue;

use alloc::boxed::Box;
use core::fmt;
use core::future::Future;
use core::pin::Pin;
use core::task::{Context, Poll, Waker};

use hw::{Clock, RegisterBus};

use super::{Job, Physical, Shared, Started};
use crate::{Count, Fault, Kind, Resources};
use admin::Admin;

/// Class code: an NVM Express I/O controller.
pub(super) const CLASS: u32 = 0x01_08_02;
/// Bytes of memory that the driver needs.
pub(super) const MEMORY_BYTES: u64 = queue::MEMORY_BYTES;

/// A namespace that belongs to one virtual function.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Namespace {
    /// The one with this ID.
    Id(u32),
    /// The smallest free one of at least so many bytes.
    Bytes(u64),
}

/// The driver.
pub(super) struct Nvme<R, M, C> {
    count: u16,
    shares: [u16; 2],
    work: Work<R, M, C>,
}

type Sequence<R, M, C> =
    Pin<Box<dyn Future<Output = (Admin<R, M, C>, Result<Started, Fault>)> + Send>>;

/// Who has the queue.
enum Work<R, M, C> {
    /// Nobody but within a call.
    None,
    Idle(Admin<R, M, C>),
    Busy(Sequence<R, M, C>),
}

impl<R, M, C> fmt::Debug for Nvme<R, M, C> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Nvme of {} virtual functions", self.count)
    }
}

impl<R: RegisterBus, M: RegisterBus, C: Clock> Nvme<R, M, C> {
    /// For the registers of BAR 0 of a function that is to have `count` virtual ones.
    pub(super) const fn new(registers: R, shared: Shared<M>, clock: C, count: u16) -> Self {
        let work = Work::Idle(Admin::new(registers, shared, clock, count));
        Self { count, shares: [0; 2], work }
    }
}

impl<R, M, C> Physical for Nvme<R, M, C>
where
    R: RegisterBus + Send + Sync + 'static,
    M: RegisterBus + Send + Sync + 'static,
    C: Clock + Send + Sync + 'static,
{
    fn kind(&self) -> Kind {
        Kind::Nvme
    }

    fn each(&self) -> Resources {
        let [queues, slots] =
            self.shares.map(|count| Count { left: count.into(), of: count.into() });
        Resources { queues, slots, ..Resources::default() }
    }

    fn begin(&mut self, job: Job) {
        self.work = match core::mem::replace(&mut self.work, Work::None) {
            Work::Idle(mut admin) => Work::Busy(Box::pin(async move {
                let done = admin.carry_out(job).await;
                (admin, done)
            })),
            other => other,
        };
    }

    fn poll(&mut self) -> Option<Result<Started, Fault>> {
        let Work::Busy(sequence) = &mut self.work else { return None };
        let Poll::Ready((admin, done)) =
            sequence.as_mut().poll(&mut Context::from_waker(Waker::noop()))
        else {
            return None;
        };
        self.shares = admin.shares;
        self.work = Work::Idle(admin);
        Some(done)
    }
}

#[cfg(test)]
mod tests;
