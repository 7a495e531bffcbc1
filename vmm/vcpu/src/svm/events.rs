//! What waits for a virtual CPU: the event that the next VMRUN delivers (EVENTINJ), what was overtaken by it, and the
//! virtual interrupt by which the CPU says that the guest could take one.

use x86_spec::cpu::Rflags;
use x86_spec::svm::{
    Clean, ControlArea, EventWord, INTERRUPT_SHADOW, Intercept3, VirtualInterrupt,
};

use super::SvmVcpu;
use super::nmi::Nmis;
use crate::Events;

/// Events and the window, apart from EVENTINJ itself.
#[derive(Debug)]
pub(super) struct Waiting {
    /// An interrupt that a fault overtook. The local APIC takes it for delivered, so it must not be lost.
    held: EventWord,
    /// An NMI: overtaken likewise, or not to be delivered yet.
    nmi: bool,
    /// Which is to be seen from this.
    pub(super) nmis: Nmis,
    /// The priority class for which the caller wants to be told.
    window: Option<u8>,
    /// The CPU takes a virtual interrupt whose priority is V_TPR itself, which the manual excludes (APM vol. 2, 15.21.4).
    /// QEMU's does. Found out when it happens.
    takes_equal_priority: bool,
}

impl Waiting {
    pub(super) const fn new() -> Self {
        Self {
            held: EventWord::NONE,
            nmi: false,
            nmis: Nmis::Open,
            window: None,
            takes_equal_priority: false,
        }
    }

    /// Whether the next entry has nothing to see to here.
    #[inline]
    pub(super) const fn is_empty(&self) -> bool {
        !self.nmi && !self.held.is_valid()
    }

    /// Whether an interrupt waits that must go before any other.
    pub(super) const fn holds_interrupt(&self) -> bool {
        self.held.is_valid()
    }

    /// The part of the virtual-interrupt word that asks for the window.
    fn window_bits(&self) -> VirtualInterrupt {
        match self.window {
            // Accepted already: the task priority has no say any more.
            _ if self.holds_interrupt() => {
                VirtualInterrupt::IRQ | VirtualInterrupt::PRIORITY | VirtualInterrupt::IGNORE_TPR
            }
            Some(class) => {
                let priority = class.saturating_sub(self.takes_equal_priority.into());
                let bits =
                    u32::from(priority) << VirtualInterrupt::PRIORITY.bits().trailing_zeros();
                VirtualInterrupt::IRQ | VirtualInterrupt::from_bits_retain(bits)
            }
            None => VirtualInterrupt::empty(),
        }
    }
}

impl SvmVcpu {
    /// Makes `event` the next to be delivered, or whichever of it and what is there already goes first: a fault. An
    /// interrupt or NMI then waits; another fault would happen again.
    pub(super) fn put(&mut self, event: EventWord) {
        if event.kind() == EventWord::NMI {
            if self.blocks_nmis() {
                self.waiting.nmi = true;
                return;
            }
            self.set_nmis(Nmis::Blocked);
        }
        let due = EventWord(self.vmcb.control.event_injection);
        let goes_first = !due.is_valid() || event.kind() == EventWord::EXCEPTION;
        let (first, later) = if goes_first { (event, due) } else { (due, event) };
        self.vmcb.control.event_injection = first.0;
        if !later.is_valid() {
            return;
        }
        match later.kind() {
            EventWord::NMI => {
                self.waiting.nmi = true;
                self.set_nmis(Nmis::Open);
            }
            EventWord::INTERRUPT => {
                self.waiting.held = later;
                self.update_window();
            }
            _ => {}
        }
    }

    /// Delivers what was overtaken, as soon as the guest can take it.
    #[cold]
    pub(super) fn put_overtaken(&mut self) {
        if EventWord(self.vmcb.control.event_injection).is_valid() {
            return;
        }
        if self.waiting.nmi && !self.blocks_nmis() {
            let nmi = x86_spec::cpu::vector::NMI;
            self.waiting.nmi = false;
            self.vmcb.control.event_injection = EventWord::new(EventWord::NMI, nmi, None).0;
            self.set_nmis(Nmis::Blocked);
        } else if self.is_interruptible() {
            let held = core::mem::replace(&mut self.waiting.held, EventWord::NONE);
            self.vmcb.control.event_injection = held.0;
            self.update_window();
        }
        if self.waiting.nmi {
            self.step_iret();
        }
    }

    /// Whether neither RFLAGS.IF nor an interrupt shadow holds interrupts off.
    pub(super) fn is_interruptible(&self) -> bool {
        self.vmcb.save.rflags & Rflags::IF.bits() != 0
            && self.vmcb.control.interrupt_shadow & INTERRUPT_SHADOW == 0
    }

    /// Asks for the window, or takes that back.
    pub(super) fn set_window(&mut self, class: Option<u8>) {
        self.waiting.window = class;
        self.update_window();
    }

    /// What waits, in neutral form.
    pub(super) fn events(&self) -> Events {
        Events {
            first: self.vmcb.control.event_injection,
            overtaken: self.waiting.held.0,
            nmi: self.waiting.nmi,
            // One that is still to be delivered blocks none.
            nmi_blocked: self.blocks_nmis() && !is_nmi(self.vmcb.control.event_injection),
            sti_shadow: self.vmcb.control.interrupt_shadow & INTERRUPT_SHADOW != 0,
            // EVENTINJ takes up a delivery again without another word.
            ..Events::default()
        }
    }

    /// The reverse, of events that have been checked. The CPU tells neither shadow from the other.
    pub(super) fn set_events(&mut self, events: &Events) {
        let control = &mut self.vmcb.control;
        control.event_injection = super::vcpu::redelivery(EventWord(events.first)).0;
        control.interrupt_shadow = u64::from(events.sti_shadow || events.mov_ss_shadow);
        self.waiting.held = EventWord(events.overtaken);
        self.waiting.nmi = events.nmi;
        let blocked = events.nmi_blocked || is_nmi(events.first);
        self.set_nmis(if blocked { Nmis::Blocked } else { Nmis::Open });
        self.update_window();
    }

    /// The virtual interrupt came: whether it is the caller's window.
    pub(super) fn is_callers_window(&mut self) -> bool {
        if self.waiting.holds_interrupt() {
            return false;
        }
        let word = self.vmcb.control.virtual_interrupt;
        let task_priority = (word & super::vcpu::V_TPR) as u8;
        let too_early = self.waiting.window.is_some_and(|class| class <= task_priority);
        if too_early {
            self.waiting.takes_equal_priority = true;
            self.update_window();
        }
        !too_early
    }

    /// After #VMEXIT: what was lent and the guest has not taken is due again.
    #[inline]
    pub(super) fn take_back(&mut self) {
        // The CPU takes the bit away with the interrupt; the window's ends in an exit.
        if self.vmcb.control.virtual_interrupt & VirtualInterrupt::IRQ.bits() != 0 {
            self.take_lent();
        }
    }

    fn take_lent(&mut self) {
        let control = &mut self.vmcb.control;
        if control.intercept3 & Intercept3::VINTR.bits() != 0 {
            return;
        }
        let vector = control.virtual_interrupt_vector as u8;
        control.virtual_interrupt &= !LENT.bits();
        control.clean &= !Clean::TPR.bits();
        self.put(EventWord::new(EventWord::INTERRUPT, vector, None));
    }

    /// The window is a virtual interrupt: the CPU exits where the guest would take it.
    fn update_window(&mut self) {
        let mask =
            VirtualInterrupt::IRQ | VirtualInterrupt::PRIORITY | VirtualInterrupt::IGNORE_TPR;
        let old = self.vmcb.control.virtual_interrupt;
        let new = old & !mask.bits() | self.waiting.window_bits().bits();
        if new != old {
            let control = &mut self.vmcb.control;
            control.virtual_interrupt = new;
            control.intercept3 &= !Intercept3::VINTR.bits();
            if new & VirtualInterrupt::IRQ.bits() != 0 {
                control.intercept3 |= Intercept3::VINTR.bits();
            }
            self.changed(Clean::TPR | Clean::INTERCEPTS);
        }
    }
}

/// Has the next VMRUN deliver an interrupt that the guest can take at once: as a virtual one (APM vol. 2, 15.21.4), unless
/// that is needed for the window. QEMU 11.1 forgets that it has delivered an interrupt of EVENTINJ, and delivers it once more
/// where it turns to another CPU before anything else happens.
#[inline]
pub(super) fn lend(control: &mut ControlArea, interrupt: EventWord) {
    if control.virtual_interrupt & VirtualInterrupt::IRQ.bits() != 0 {
        control.event_injection = interrupt.0;
        return;
    }
    control.virtual_interrupt |= LENT.bits();
    control.virtual_interrupt_vector = interrupt.vector().into();
    control.clean &= !Clean::TPR.bits();
}

/// The same of the interrupt that is in EVENTINJ.
pub(super) fn lend_due(control: &mut ControlArea) {
    let due = EventWord(control.event_injection);
    control.event_injection = EventWord::NONE.0;
    lend(control, due);
}

/// A virtual interrupt that nothing but RFLAGS.IF and a shadow holds off, and that does not exit.
const LENT: VirtualInterrupt =
    VirtualInterrupt::IRQ.union(VirtualInterrupt::PRIORITY).union(VirtualInterrupt::IGNORE_TPR);

/// Whether an event word is an NMI's.
const fn is_nmi(event: u64) -> bool {
    EventWord(event).is_valid() && EventWord(event).kind() == EventWord::NMI
}
