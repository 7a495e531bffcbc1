//! [`Machine`]: one virtual machine's devices, and what they have to say before each entry.
//!
//! The loop around it: [`Machine::prepare_entry`], `Vcpu::run`, [`Machine::handle`]. After [`crate::Outcome::Halt`] the
//! caller waits for a host interrupt or the deadline and prepares again until [`Machine::is_halted`] no longer holds.

use vcpu::{Event, Vcpu};

use crate::Host;
use crate::counters::Counters;
use crate::exit::Retries;
use crate::platform::cpuid::CpuidTable;
use crate::platform::gsi;
use crate::platform::ioapic::IoApic;
use crate::platform::lapic::{Effect, LocalApic};
use crate::platform::pci::HostBridge;
use crate::platform::pm::PowerManagement;
use crate::platform::pvclock::PvClock;
use crate::platform::rtc::Rtc;
use crate::platform::uart::Uart;

/// What a machine is made from.
#[derive(Clone, Debug)]
pub struct MachineSpec {
    /// The guest's TSC, in kHz; not 0.
    pub tsc_khz: u32,
    /// The guest's TSC less the host's.
    pub tsc_offset: u64,
    /// What CPUID says.
    pub cpuid: CpuidTable,
    /// Port 0xf4 ends the guest with the byte written as its status.
    pub exit_port: bool,
    /// The local APIC's timer never fires: for tests that must fail then.
    pub withhold_timer: bool,
    /// The UART's interrupts never arrive: likewise.
    pub withhold_serial: bool,
}

/// One virtual machine, of one virtual CPU.
#[derive(Clone, Debug)]
pub struct Machine {
    pub(crate) lapic: LocalApic,
    pub(crate) ioapic: IoApic,
    pub(crate) uart: Uart,
    pub(crate) rtc: Rtc,
    pub(crate) pm: PowerManagement,
    pub(crate) pvclock: PvClock,
    pub(crate) pci: HostBridge,
    pub(crate) cpuid: CpuidTable,
    pub(crate) counters: Counters,
    pub(crate) retries: Retries,
    pub(crate) tsc_offset: u64,
    pub(crate) exit_port: bool,
    withhold_timer: bool,
    withhold_serial: bool,
    /// Nothing happened since the devices were last looked after: an entry before `deadline` has nothing to do.
    pub(crate) settled: bool,
    /// The virtual CPU waits in HLT.
    pub(crate) halted: bool,
    /// An event was given to the virtual CPU since its last entry.
    pub(crate) injected: bool,
    /// The priority class for which the interrupt window is asked, if it is; `None` where that is not known.
    pub(crate) window: Option<Option<u8>>,
    /// When a device has something to do.
    deadline: Option<Moment>,
}

/// One moment on both time-stamp counters.
#[derive(Clone, Copy, Debug)]
struct Moment {
    guest: u64,
    host: u64,
}

/// The APIC ID of the one virtual CPU.
pub(crate) const APIC_ID: u32 = 0;

impl Machine {
    /// A machine as after power-on.
    #[must_use]
    pub fn new(spec: MachineSpec) -> Self {
        Self {
            lapic: LocalApic::new(APIC_ID, true),
            ioapic: IoApic::new(),
            uart: Uart::new(spec.tsc_khz),
            rtc: Rtc::new(),
            pm: PowerManagement::new(spec.tsc_khz),
            pvclock: PvClock::new(spec.tsc_khz),
            pci: HostBridge::new(),
            cpuid: spec.cpuid,
            counters: Counters::default(),
            retries: Retries::default(),
            tsc_offset: spec.tsc_offset,
            exit_port: spec.exit_port,
            withhold_timer: spec.withhold_timer,
            withhold_serial: spec.withhold_serial,
            settled: false,
            halted: false,
            injected: false,
            window: None,
            deadline: None,
        }
    }

    /// What happened so far.
    #[must_use]
    pub const fn counters(&self) -> &Counters {
        &self.counters
    }

    /// Whether the virtual CPU waits in HLT and must not be entered.
    #[must_use]
    pub const fn is_halted(&self) -> bool {
        self.halted
    }

    /// Says that something outside happened that the next entry must look after: a byte arrived at the console.
    pub const fn disturb(&mut self) {
        self.settled = false;
    }

    /// Looks after the devices and delivers what they want delivered. Returns the host's time-stamp counter at which
    /// that must happen again at the latest; `None` where no device waits for time to pass.
    pub fn prepare_entry<V: Vcpu, H: Host>(&mut self, vcpu: &mut V, host: &mut H) -> Option<u64> {
        let host_now = host.tsc();
        let now = host_now.wrapping_add(self.tsc_offset);
        if self.settled && !self.halted && self.deadline.is_none_or(|at| now < at.guest) {
            self.injected = false;
            return self.deadline.map(|at| at.host);
        }
        self.look_after_devices(now, host);
        self.settled = true;
        self.deliver(vcpu);
        self.injected = false;
        self.deadline = self.next_deadline().map(|guest| Moment {
            guest,
            // Not by the offset: a far deadline must not wrap to a near one.
            host: host_now.saturating_add(guest.saturating_sub(now)),
        });
        self.deadline.map(|at| at.host)
    }

    /// The guest's time-stamp counter.
    pub(crate) fn guest_tsc<H: Host>(&self, host: &H) -> u64 {
        host.tsc().wrapping_add(self.tsc_offset)
    }

    /// The time at the local APIC when the TSC is at `now`: where its timer is withheld, time stands still for it.
    pub(crate) const fn lapic_time(&self, now: u64) -> u64 {
        if self.withhold_timer { 0 } else { now }
    }

    /// Lets time pass for every device and carries interrupts to the local APIC.
    pub(crate) fn look_after_devices<H: Host>(&mut self, now: u64, host: &mut H) {
        self.flush_console(host);
        while self.uart.can_receive() {
            let Some(byte) = host.console_read() else { break };
            self.uart.receive(byte, now);
        }
        self.uart.poll(now);
        self.lapic.poll(self.lapic_time(now));
        self.route_interrupts();
    }

    /// Carries device lines through the I/O APIC to the local APIC.
    pub(crate) fn route_interrupts(&mut self) {
        if !self.withhold_serial {
            self.ioapic.set_pin(gsi::UART, self.uart.interrupt());
        }
        while let Some(message) = self.ioapic.take_message() {
            self.lapic.accept(message);
        }
    }

    /// What a write to the local APIC brings with it.
    pub(crate) fn apply(&mut self, effect: Effect) {
        self.settled = false;
        match effect {
            // There is no other CPU that an interrupt could be sent to.
            Effect::None | Effect::Send { .. } => {}
            Effect::EndOfLevel { vector } => self.ioapic.end_of_interrupt(vector),
        }
    }

    /// Puts what the UART sent on the console.
    pub(crate) fn flush_console<H: Host>(&mut self, host: &mut H) {
        let mut bytes = [0; 64];
        loop {
            let count = self.uart.take_output(&mut bytes);
            match bytes.get(..count) {
                Some(sent) if count > 0 => host.console_write(sent),
                _ => break,
            }
        }
    }

    /// Injects the most urgent interrupt, or asks to be told when that is possible.
    fn deliver<V: Vcpu>(&mut self, vcpu: &mut V) {
        vcpu.set_task_priority(self.lapic.task_priority_class());
        if self.injected {
            // A fault goes first; whatever else is due waits for the next preparation.
            self.settled = false;
        } else if self.lapic.take_nmi() {
            vcpu.inject(Event::Nmi);
            self.halted = false;
        }
        let mut waiting = self.lapic.pending_vector();
        if let Some(vector) = waiting
            && vcpu.can_take_interrupt()
        {
            self.lapic.acknowledge(vector);
            vcpu.inject(Event::Interrupt(vector));
            self.counters.interrupts += 1;
            self.halted = false;
            waiting = self.lapic.pending_vector();
        }
        if waiting.is_none() && vcpu.task_priority().is_some() {
            // The guest can lower its task priority without an exit.
            waiting = self.lapic.awaited_vector();
        }
        let wanted = waiting.map(|vector| vector >> 4);
        if self.window != Some(wanted) {
            vcpu.want_interrupt_window(wanted);
            self.window = Some(wanted);
        }
    }

    fn next_deadline(&self) -> Option<u64> {
        let timer = if self.withhold_timer { None } else { self.lapic.deadline() };
        match (timer, self.uart.deadline()) {
            (Some(one), Some(other)) => Some(one.min(other)),
            (one, other) => one.or(other),
        }
    }
}
