//! One unit: its commands, its queue and its troubles.

use alloc::collections::VecDeque;

use hw::{Clock, Hpa, RegisterBus, RequesterId};
use iommu_spec::invalidation::Descriptor;
use iommu_spec::registers::{self as regs, FaultStatus, command};

use crate::Hw;
use crate::caps::{self, ANSWER_NS, COMMAND_NS, Caps};
use crate::contexts::Contexts;
use crate::error::UnitError;
use crate::queue::{Queue, Ticket};
use crate::remap::Entries;
use crate::scopes::Scopes;

/// A unit that was taken.
pub(crate) struct Unit<H: Hw> {
    pub(crate) regs: H::Regs,
    /// Where its registers are: its name.
    pub(crate) base: Hpa,
    pub(crate) scopes: Scopes,
    pub(crate) caps: Caps,
    pub(crate) scalable: bool,
    pub(crate) queue: Queue,
    pub(crate) contexts: Contexts,
    pub(crate) interrupts: Option<Entries>,
    /// Why it is out of use, if it is.
    pub(crate) lost: Option<UnitError>,
    /// Whether that was told.
    pub(crate) told: bool,
    progress_ns: u64,
}

/// What a look at a unit's errors found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Trouble {
    /// It rejected a descriptor: everything is to be invalidated.
    Rejected,
    /// This device's TLB did not answer: its entry is to be cleared.
    DeviceTimeout(RequesterId),
}

impl<H: Hw> Unit<H> {
    #[allow(clippy::too_many_arguments)]
    pub(crate) fn new(
        regs: H::Regs,
        base: Hpa,
        scopes: Scopes,
        caps: Caps,
        scalable: bool,
        tables: &mut H::Tables,
    ) -> Result<Self, UnitError> {
        // Descriptors of 256 bits are for units that know scalable mode, and only needed in it (6.5.2).
        let queue = Queue::new(tables, scalable)?;
        let contexts = Contexts::new(tables, scalable, caps.ecap.c())?;
        Ok(Self {
            regs,
            base,
            scopes,
            caps,
            scalable,
            queue,
            contexts,
            interrupts: None,
            lost: None,
            told: false,
            progress_ns: 0,
        })
    }

    /// Gives one command and waits until it is in force (11.4.4). One bit is changed at a time; what has been turned on
    /// stays, and one-shot bits that read as set are not written again.
    pub(crate) fn command(&self, clock: &H::Clock, bit: u32, on: bool) -> Result<(), UnitError> {
        command(&self.regs, clock, bit, on)
    }

    /// Makes changes of tables visible to a unit that buffers writes (6.8). Needed where nothing is invalidated, since an
    /// invalidation does it by itself.
    pub(crate) fn flush_write_buffer(&self, clock: &H::Clock) -> Result<(), UnitError> {
        if self.caps.cap.rwbf() { self.command(clock, command::WBF, true) } else { Ok(()) }
    }

    /// The unit is out of use.
    pub(crate) fn lose(&mut self, why: UnitError) {
        self.lost.get_or_insert(why);
    }

    /// Puts in as much of `descriptors` as there is room for before a wait, in order: whether all are in. A unit that is
    /// lost takes nothing. To be followed by [`Unit::seal`].
    pub(crate) fn fill(
        &mut self,
        tables: &mut H::Tables,
        clock: &H::Clock,
        descriptors: &mut VecDeque<Descriptor>,
    ) -> bool {
        if self.lost.is_some() {
            return false;
        }
        let wanted = descriptors.len() as u64 + 1;
        let room = match self.queue.room(&self.regs, wanted) {
            Ok(room) => room,
            Err(why) => {
                self.lose(why);
                return false;
            }
        };
        if !self.queue.is_busy() {
            self.progress_ns = clock.now_ns();
        }
        let fits = room.saturating_sub(1).min(descriptors.len() as u64) as usize;
        for descriptor in descriptors.drain(..fits) {
            self.queue.push(tables, descriptor);
        }
        room >= wanted
    }

    /// Puts a wait behind all that was filled in, and tells the unit.
    pub(crate) fn seal(&mut self, tables: &mut H::Tables) -> Ticket {
        let ticket = self.queue.push_wait(tables);
        self.queue.ring_doorbell(&self.regs);
        ticket
    }

    /// Invalidates and waits for it: for start-up, and for units that cache absence.
    pub(crate) fn invalidate_now(
        &mut self,
        tables: &mut H::Tables,
        clock: &H::Clock,
        descriptors: &[Descriptor],
    ) -> Result<(), UnitError> {
        let mut left = descriptors.iter().copied().collect();
        let mut ticket = None;
        let done = caps::wait(clock, ANSWER_NS, || {
            if ticket.is_none() {
                let is_whole = self.fill(tables, clock, &mut left);
                let sealed = (is_whole || self.queue.is_open()).then(|| self.seal(tables));
                ticket = sealed.filter(|_| is_whole);
            }
            self.queue.refresh(tables);
            self.lost.is_some() || ticket.is_some_and(|ticket| self.queue.has_passed(ticket))
        });
        if !done {
            self.lose(UnitError::QueueStalled);
        }
        self.lost.map_or(Ok(()), Err)
    }

    /// Everything that is cached, from the top down, with fences between the levels.
    pub(crate) fn everything(&self) -> alloc::vec::Vec<Descriptor> {
        let mut all = alloc::vec![Descriptor::context_global(), self.queue.fence()];
        if self.scalable {
            all.extend([Descriptor::pasid_global(), self.queue.fence()]);
        }
        all.push(Descriptor::iotlb_global(self.caps.drain()));
        if self.caps.ecap.ir() {
            all.push(Descriptor::interrupt_global());
        }
        all
    }

    /// Looks how far the unit has come, and at its errors if it has not.
    pub(crate) fn look(&mut self, tables: &mut H::Tables, clock: &H::Clock) -> Option<Trouble> {
        if self.lost.is_some() {
            return None;
        }
        if self.queue.refresh(tables) {
            self.progress_ns = clock.now_ns();
        }
        if !self.queue.is_busy() {
            return None;
        }
        let status = self.regs.read(regs::FSTS);
        if status.0 == [u32::MAX.into()] {
            self.lose(UnitError::Absent);
            return None;
        }
        let trouble = self.answer(tables, status);
        if clock.now_ns().saturating_sub(self.progress_ns) > ANSWER_NS {
            self.lose(UnitError::QueueStalled);
        }
        trouble
    }

    /// Clears what stopped the queue (6.5.2.10) and holds back what it may have dropped. The hold comes before the queue
    /// goes on: a later wait must not end it.
    fn answer(&mut self, tables: &mut H::Tables, status: FaultStatus) -> Option<Trouble> {
        let nothing = FaultStatus::default();
        if status.iqe() {
            if self.queue.is_held() {
                self.lose(UnitError::QueueRejected);
                return None;
            }
            self.queue.hold();
            if let Err(why) = self.queue.defuse_head(&self.regs, tables) {
                self.lose(why);
            }
            self.regs.clear(regs::FSTS, nothing.with_iqe(true));
            return Some(Trouble::Rejected);
        }
        if status.ite() {
            let silent = RequesterId(self.regs.read(regs::IQERCD).itesid());
            self.queue.hold();
            self.regs.clear(regs::FSTS, nothing.with_ite(true));
            return Some(Trouble::DeviceTimeout(silent));
        }
        if status.ice() {
            self.regs.clear(regs::FSTS, nothing.with_ice(true));
        }
        None
    }
}

/// See [`Unit::command`].
pub(crate) fn command(
    regs: &impl RegisterBus,
    clock: &impl Clock,
    bit: u32,
    on: bool,
) -> Result<(), UnitError> {
    let status = regs.read(regs::GSTS);
    if status == u32::MAX {
        return Err(UnitError::Absent);
    }
    let lasting = status & command::LASTING;
    regs.write(regs::GCMD, if on { lasting | bit } else { lasting & !bit });
    // A write-buffer flush reads as set while it is under way, all else while it is in force.
    let wanted = if bit == command::WBF || !on { 0 } else { bit };
    let done = caps::wait(clock, COMMAND_NS, || regs.read(regs::GSTS) & bit == wanted);
    if done { Ok(()) } else { Err(UnitError::Command(bit)) }
}
