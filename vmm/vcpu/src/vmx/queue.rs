//! Events on their way into a guest: what an exit cut short, faults from above, and interrupts that have to wait. Pure.

use x86_spec::vmx::exit::InterruptionType;

use super::event::{Combined, Injection, combine};
use crate::Events;

/// Events that wait for an entry, in the order in which they go in: a fault or an event that an exit cut short, then an
/// NMI, then an interrupt that a fault overtook.
#[derive(Clone, Debug)]
pub(super) struct Queue {
    /// Which of these there are.
    due: u8,
    pending: Injection,
    held: Injection,
}

/// What the next entry is to deliver.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Next {
    /// Nothing, or nothing that the guest can take now.
    Nothing,
    /// This.
    Deliver(Injection),
    /// There is no entry: the guest is dead.
    Shutdown,
}

impl Queue {
    /// `pending` is to be delivered.
    const EVENT: u8 = 1 << 0;
    /// `pending` is an event whose delivery an exit cut short.
    const RECOVERED: u8 = 1 << 1;
    /// An NMI waits for the guest to be able to take it.
    const NMI: u8 = 1 << 2;
    /// So does `held`.
    const HELD: u8 = 1 << 3;
    /// A triple fault.
    const SHUTDOWN: u8 = 1 << 4;

    pub(super) const fn new() -> Self {
        Self { due: 0, pending: Injection::NMI, held: Injection::NMI }
    }

    /// What waits, in neutral form; the rest of [`Events`] is not the queue's.
    pub(super) fn to_events(&self) -> Events {
        let is = |bit| self.due & bit != 0;
        Events {
            first: if is(Self::EVENT) { self.pending.word() } else { 0 },
            first_len: if is(Self::EVENT) { self.pending.length } else { 0 },
            cut_short: is(Self::RECOVERED),
            overtaken: if is(Self::HELD) { self.held.word() } else { 0 },
            nmi: is(Self::NMI),
            shutdown: is(Self::SHUTDOWN),
            ..Events::default()
        }
    }

    /// The reverse, of events that have been checked.
    pub(super) fn from_events(events: &Events) -> Self {
        let mut queue = Self::new();
        if events.first != 0 {
            queue.pending = Injection::from_word(events.first, events.first_len);
            queue.due |= Self::EVENT;
            if events.cut_short {
                queue.due |= Self::RECOVERED;
            }
        }
        if events.overtaken != 0 {
            queue.held = Injection::from_word(events.overtaken, 0);
            queue.due |= Self::HELD;
        }
        for (bit, set) in [(Self::NMI, events.nmi), (Self::SHUTDOWN, events.shutdown)] {
            if set {
                queue.due |= bit;
            }
        }
        queue
    }

    /// Whether nothing waits.
    #[inline]
    pub(super) const fn is_empty(&self) -> bool {
        self.due == 0
    }

    /// Whether what waits keeps interrupts from being accepted.
    pub(super) const fn blocks_interrupts(&self) -> bool {
        self.due & (Self::EVENT | Self::HELD | Self::SHUTDOWN) != 0
    }

    /// Whether an interrupt waits for the guest to be able to take it.
    pub(super) const fn needs_interrupt_window(&self) -> bool {
        self.due & Self::HELD != 0
    }

    /// Whether an NMI does.
    pub(super) const fn needs_nmi_window(&self) -> bool {
        self.due & Self::NMI != 0
    }

    /// Queues an event that an exit cut short.
    pub(super) const fn recover(&mut self, event: Injection) {
        self.pending = event;
        self.due |= Self::EVENT | Self::RECOVERED;
    }

    /// Queues an event given from above.
    pub(super) fn inject(&mut self, event: Injection) {
        match event.kind {
            InterruptionType::Nmi => self.hold(event),
            InterruptionType::ExternalInterrupt if self.due & Self::EVENT != 0 => self.hold(event),
            InterruptionType::ExternalInterrupt => {
                self.pending = event;
                self.due |= Self::EVENT;
            }
            _ => self.raise(event),
        }
    }

    /// Queues a fault: it comes before what is queued, or becomes #DF with it.
    pub(super) fn raise(&mut self, fault: Injection) {
        let first = self.pending;
        let queued = self.due & Self::EVENT != 0;
        let combined = match self.due & Self::RECOVERED {
            0 => Combined::Serial,
            _ => combine(&first, &fault),
        };
        self.pending = fault;
        self.due = self.due & !Self::RECOVERED | Self::EVENT;
        match combined {
            Combined::Serial if queued && first.is_interrupt() => self.hold(first),
            Combined::Serial => {}
            Combined::DoubleFault => self.pending = Injection::DOUBLE_FAULT,
            Combined::Shutdown => self.due |= Self::SHUTDOWN,
        }
    }

    /// Keeps an interrupt until the guest can take it.
    fn hold(&mut self, event: Injection) {
        if event.kind == InterruptionType::Nmi {
            self.due |= Self::NMI;
        } else {
            self.held = event;
            self.due |= Self::HELD;
        }
    }

    /// Takes what the next entry is to deliver. The closures say what the guest's state allows; they are asked only where
    /// it matters.
    pub(super) fn next(
        &mut self,
        takes_nmi: impl FnOnce() -> bool,
        takes_interrupt: impl FnOnce() -> bool,
    ) -> Next {
        if self.due & Self::SHUTDOWN != 0 {
            return Next::Shutdown;
        }
        if self.due & Self::EVENT != 0 {
            self.due &= !(Self::EVENT | Self::RECOVERED);
            return Next::Deliver(self.pending);
        }
        if self.due & Self::NMI != 0 && takes_nmi() {
            self.due &= !Self::NMI;
            return Next::Deliver(Injection::NMI);
        }
        if self.due & Self::HELD != 0 && takes_interrupt() {
            self.due &= !Self::HELD;
            return Next::Deliver(self.held);
        }
        Next::Nothing
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use x86_spec::cpu::vector;

    fn take(queue: &mut Queue, nmi: bool, interrupt: bool) -> Next {
        queue.next(|| nmi, || interrupt)
    }

    #[test]
    fn an_event_cut_short_is_delivered_again() {
        let mut queue = Queue::new();
        queue.recover(Injection::interrupt(0x40));
        assert!(queue.blocks_interrupts());
        let again = take(&mut queue, false, false);
        assert_eq!(again, Next::Deliver(Injection::interrupt(0x40)));
        assert!(queue.is_empty());
    }

    #[test]
    fn an_interrupt_overtaken_by_a_fault_is_not_lost() {
        let mut queue = Queue::new();
        queue.recover(Injection::interrupt(0x40));
        queue.raise(Injection::GENERAL_PROTECTION);
        assert_eq!(take(&mut queue, true, true), Next::Deliver(Injection::GENERAL_PROTECTION));
        assert!(queue.needs_interrupt_window() && queue.blocks_interrupts());
        assert_eq!(take(&mut queue, true, false), Next::Nothing);
        let held = take(&mut queue, true, true);
        assert_eq!(held, Next::Deliver(Injection::interrupt(0x40)));
        assert!(queue.is_empty());
    }

    #[test]
    fn what_waits_comes_back_from_neutral_form() {
        let mut queue = Queue::new();
        queue.recover(Injection::interrupt(0x40));
        queue.raise(Injection::GENERAL_PROTECTION);
        queue.inject(Injection::NMI);
        let events = queue.to_events();
        assert_eq!((events.first, events.overtaken, events.nmi), (0x8000_0b0d, 0x8000_0040, true));
        let mut back = Queue::from_events(&events);
        assert_eq!(back.to_events(), events);
        for expected in [Injection::GENERAL_PROTECTION, Injection::NMI, Injection::interrupt(0x40)]
        {
            assert_eq!(take(&mut back, true, true), Next::Deliver(expected));
        }
        assert!(back.is_empty());
    }

    #[test]
    fn an_nmi_waits_until_the_guest_can_take_it() {
        let mut queue = Queue::new();
        queue.inject(Injection::NMI);
        assert!(!queue.blocks_interrupts());
        assert_eq!(take(&mut queue, false, true), Next::Nothing);
        assert!(queue.needs_nmi_window());
        assert_eq!(take(&mut queue, true, true), Next::Deliver(Injection::NMI));
        assert!(queue.is_empty());
    }

    #[test]
    fn a_fault_while_a_fault_is_delivered_is_a_double_fault() {
        let mut queue = Queue::new();
        queue.recover(Injection::fault(vector::PF, Some(2)));
        queue.raise(Injection::GENERAL_PROTECTION);
        assert_eq!(take(&mut queue, true, true), Next::Deliver(Injection::DOUBLE_FAULT));
        queue.recover(Injection::DOUBLE_FAULT);
        queue.raise(Injection::GENERAL_PROTECTION);
        assert_eq!(take(&mut queue, true, true), Next::Shutdown);
        assert_eq!(take(&mut queue, true, true), Next::Shutdown, "for good");
    }

    #[test]
    fn a_fault_replaces_one_that_was_given_but_never_delivered() {
        let mut queue = Queue::new();
        queue.inject(Injection::GENERAL_PROTECTION);
        queue.inject(Injection::fault(vector::UD, None));
        let only = take(&mut queue, true, true);
        assert_eq!(only, Next::Deliver(Injection::fault(vector::UD, None)));
        assert!(queue.is_empty());
    }
}
