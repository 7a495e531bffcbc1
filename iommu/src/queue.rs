//! The invalidation queue (VT-d 6.5.2). Waits write their ticket, a number that only grows, to one doubleword, so one
//! look tells how far the unit has come, whatever number of waits are under way.
//!
//! The unit may take descriptors that no fence orders in any order, even at once. A wait is done only after all that
//! stand before it; a fence lets nothing behind it begin earlier. So whoever invalidates an upper level and then a lower
//! one (context, PASID, IOTLB, device TLB) puts a fence between, or the lower one could be refilled by the old upper.
//!
//! Two errors stop a queue. A descriptor that the unit rejects (IQE) is made a harmless one, and everything is invalidated
//! in its place. A device TLB that does not answer (ITE) makes the unit drop waits that it had taken: nothing counts as
//! done until the device's entry has been cleared and that was invalidated ([`Queue::hold`]).

use hw::{DeviceTables, Hpa, RegisterBus};
use iommu_spec::invalidation::Descriptor;
use iommu_spec::registers::{self as regs, QueueAddress};

use crate::error::UnitError;

/// Number of a wait.
pub(crate) type Ticket = u64;

/// Pages of a queue, as a power of two: 256 slots of either size, so that a batch seldom finds no room.
fn pages_shift(wide: bool) -> u8 {
    u8::from(wide)
}

/// The unit has dropped waits, or may have: none counts until what makes up for them is done.
#[derive(Clone, Copy, Debug)]
struct Hold {
    /// What is still to be queued.
    owed: u32,
    /// The wait whose end ends the hold, once all is queued.
    until: Option<Ticket>,
}

/// A queue and its status page.
#[derive(Debug)]
pub(crate) struct Queue {
    ring: Hpa,
    status: Hpa,
    wide: bool,
    slots: u64,
    tail: u64,
    head: u64,
    /// The tail that the unit knows.
    told: u64,
    issued: Ticket,
    done: Ticket,
    /// All that ever was.
    pushed: u64,
    /// Something was pushed behind which no wait stands yet.
    open: bool,
    hold: Option<Hold>,
}

impl Queue {
    /// An empty queue; `wide` for descriptors of 256 bits.
    pub(crate) fn new(tables: &mut impl DeviceTables, wide: bool) -> Result<Self, UnitError> {
        let ring = tables.alloc_run(1 << pages_shift(wide))?;
        // The unit's accesses to its queue and its status writes are always snooped (11.4.3, C), so nothing of this is
        // written back.
        let status = tables.alloc()?;
        let bytes = if wide { 32 } else { 16 };
        let slots = (hw::PAGE_SIZE << pages_shift(wide)) / bytes;
        let (tail, head, told, issued, done, pushed) = (0, 0, 0, 0, 0, 0);
        let (open, hold) = (false, None);
        Ok(Self { ring, status, wide, slots, tail, head, told, issued, done, pushed, open, hold })
    }

    /// What the unit's address register is to hold.
    pub(crate) fn address(&self) -> QueueAddress {
        let qs = pages_shift(self.wide);
        QueueAddress::default().with_iqa(self.ring).with_dw(self.wide).with_qs(qs)
    }

    fn shift(&self) -> u32 {
        if self.wide { 5 } else { 4 }
    }

    /// Slots that can be filled: one stays empty, as a full ring would look like an empty one. A head outside of the ring
    /// is none.
    pub(crate) fn room(&mut self, regs: &impl RegisterBus, wanted: u64) -> Result<u64, UnitError> {
        let room = |queue: &Self| (queue.head + queue.slots - queue.tail - 1) % queue.slots;
        if room(self) < wanted {
            let head = regs.read(regs::IQH) >> self.shift();
            if head >= self.slots {
                return Err(UnitError::Absent);
            }
            self.head = head;
        }
        Ok(room(self))
    }

    /// Puts a descriptor into the next slot, which must be free. The unit is not told yet.
    pub(crate) fn push(&mut self, tables: &mut impl DeviceTables, descriptor: Descriptor) {
        self.put(tables, self.tail, descriptor);
        self.tail = (self.tail + 1) % self.slots;
        self.pushed += 1;
        self.open = true;
    }

    fn put(&self, tables: &mut impl DeviceTables, slot: u64, descriptor: Descriptor) {
        let words = if self.wide { 4 } else { 2 };
        for (offset, word) in descriptor.0.into_iter().take(words).enumerate() {
            tables.store(self.ring, slot as usize * words + offset, word);
        }
    }

    /// Puts in a wait for all that was pushed; its slot must be free.
    pub(crate) fn push_wait(&mut self, tables: &mut impl DeviceTables) -> Ticket {
        self.issued += 1;
        self.push(tables, Descriptor::wait(self.issued as u32, self.status, false));
        self.open = false;
        self.issued
    }

    /// A fence: it writes its status beside the tickets, since not every unit takes a wait that says nothing.
    pub(crate) fn fence(&self) -> Descriptor {
        Descriptor::wait(1, self.status.wrapping_add(4), true)
    }

    /// Tells the unit of what was pushed. The tail is wrapped already: it never names the slot past the ring.
    pub(crate) fn ring_doorbell(&mut self, regs: &impl RegisterBus) {
        if self.told != self.tail {
            regs.write(regs::IQT, self.tail << self.shift());
            self.told = self.tail;
        }
    }

    /// Looks how far the unit has come; whether it has come further.
    pub(crate) fn refresh(&mut self, tables: &impl DeviceTables) -> bool {
        let status = tables.load(self.status, 0) as u32;
        let ahead = status.wrapping_sub(self.done as u32);
        // Waits without a fence may end out of order: a ticket from behind changes nothing.
        let moved = ahead != 0 && u64::from(ahead) <= self.issued - self.done;
        if moved {
            self.done += u64::from(ahead);
        }
        if self.hold.is_some_and(|hold| hold.until.is_some_and(|until| self.done >= until)) {
            self.hold = None;
        }
        moved
    }

    /// How many descriptors there have been.
    pub(crate) fn pushed(&self) -> u64 {
        self.pushed
    }

    /// Whether something has no wait behind it.
    pub(crate) fn is_open(&self) -> bool {
        self.open
    }

    /// Whether anything is under way.
    pub(crate) fn is_busy(&self) -> bool {
        self.open || self.done != self.issued
    }

    /// Whether all before the ticket is done.
    pub(crate) fn is_done(&self, ticket: Ticket) -> bool {
        self.hold.is_none() && self.has_passed(ticket)
    }

    /// Whether the unit has come past the ticket, whatever it may have dropped on the way.
    pub(crate) fn has_passed(&self, ticket: Ticket) -> bool {
        self.done >= ticket
    }

    /// Whether tickets are held back.
    pub(crate) fn is_held(&self) -> bool {
        self.hold.is_some()
    }

    /// Holds back every ticket until [`Queue::release`] has been called once for this call.
    pub(crate) fn hold(&mut self) {
        let owed = self.hold.map_or(0, |hold| hold.owed) + 1;
        self.hold = Some(Hold { owed, until: None });
    }

    /// What was owed is queued; `ticket` is the wait behind it.
    pub(crate) fn release(&mut self, ticket: Ticket) {
        if let Some(hold) = &mut self.hold {
            hold.owed = hold.owed.saturating_sub(1);
            hold.until = (hold.owed == 0).then_some(ticket);
        }
    }

    /// Makes the descriptor at the head, at which the unit has stopped, one that does nothing.
    pub(crate) fn defuse_head(
        &mut self,
        regs: &impl RegisterBus,
        tables: &mut impl DeviceTables,
    ) -> Result<(), UnitError> {
        let head = regs.read(regs::IQH) >> self.shift();
        if head >= self.slots {
            return Err(UnitError::Absent);
        }
        self.put(tables, head, self.fence());
        Ok(())
    }
}
