//! [`Core`]: what one virtual CPU has for itself, and what it has to see to before each entry.
//!
//! The loop around it: [`Core::prepare_entry`], `Vcpu::run`, [`Core::handle`]. Where the preparation says [`Ready::Wait`],
//! the caller waits for a kick, a host interrupt or the deadline and prepares again.

use vcpu::{Event, Vcpu};

use crate::Host;
use crate::counters::Counters;
use crate::exit::Retries;
use crate::mailbox::Mail;
use crate::platform::lapic::{Effect, LocalApic};
use crate::platform::pvclock::PvClock;
use crate::reset;
use crate::ring::{ExitRecord, Ring};
use crate::vm::{CARETAKER, Devices, NEVER, Vm};

/// One virtual CPU's own part. It belongs to the CPU that runs it; others reach it by the [`Vm`]'s mailboxes.
#[derive(Clone, Debug)]
pub struct Core {
    pub(crate) index: u32,
    pub(crate) lapic: LocalApic,
    pub(crate) pvclock: PvClock,
    pub(crate) counters: Counters,
    pub(crate) ring: Ring,
    pub(crate) retries: Retries,
    pub(crate) tsc_offset: u64,
    withhold_timer: bool,
    /// Where PCI configuration space ends in memory.
    pub(crate) ecam_bytes: u64,
    /// How long the end of a line is waited for.
    line_ticks: u64,
    /// Nothing happened since the last preparation: an entry before `deadline` has nothing to do but its mail.
    pub(crate) settled: bool,
    pub(crate) activity: Activity,
    /// The devices may have something to do, or what was typed is to be fetched: for the caretaker.
    pub(crate) devices_due: bool,
    /// An event was given to the virtual CPU since its last entry.
    pub(crate) injected: bool,
    /// The priority class for which the interrupt window is asked, if it is; `None` where that is not known.
    pub(crate) window: Option<Option<u8>>,
    /// When something falls due.
    deadline: Option<Moment>,
    /// By when the UART's output is to be shown that began here, in the guest's TSC; [`NEVER`].
    output_due: u64,
}

/// What a virtual CPU does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum Activity {
    /// It executes.
    Running,
    /// It waits in HLT for an interrupt.
    Halted,
    /// Likewise, with interrupts off: for an NMI or INIT.
    HaltedDeeply,
    /// It waits for the start-up after INIT.
    WaitForStartup,
}

impl Activity {
    /// By its number in a saved state.
    pub(crate) fn of(number: u64) -> Option<Self> {
        let all = [Self::Running, Self::Halted, Self::HaltedDeeply, Self::WaitForStartup];
        all.into_iter().find(|&activity| activity as u64 == number)
    }

    /// Whether only an NMI, INIT or start-up ends it.
    pub(crate) const fn is_deep(self) -> bool {
        matches!(self, Self::HaltedDeeply | Self::WaitForStartup)
    }
}

/// What the virtual CPU is to do next. Deadlines are in the host's time-stamp counter: the preparation must happen again
/// then at the latest; `None` where nothing waits for time to pass.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
pub enum Ready {
    /// Enter the guest.
    Run {
        /// By when it must leave.
        deadline: Option<u64>,
    },
    /// It is halted, or waits for INIT and start-up.
    Wait {
        /// Until when.
        deadline: Option<u64>,
    },
}

/// One moment on both time-stamp counters.
#[derive(Clone, Copy, Debug)]
struct Moment {
    guest: u64,
    host: u64,
}

impl Core {
    pub(crate) fn new(index: u32, vm: &Vm) -> Self {
        let activity = if index == 0 { Activity::Running } else { Activity::WaitForStartup };
        Self {
            index,
            lapic: LocalApic::new(index, index == 0),
            pvclock: PvClock::new(vm.spec.tsc_khz),
            counters: Counters::default(),
            ring: Ring::default(),
            retries: Retries::default(),
            tsc_offset: vm.tsc_offset(),
            withhold_timer: vm.spec.withhold_timer,
            ecam_bytes: vm.spec.pci.ecam_bytes(),
            // A millisecond: no one sees it.
            line_ticks: vm.spec.tsc_khz.into(),
            settled: false,
            activity,
            devices_due: true,
            injected: false,
            window: None,
            deadline: None,
            output_due: NEVER,
        }
    }

    /// Which virtual CPU it is; also its APIC ID.
    #[must_use]
    pub const fn index(&self) -> u32 {
        self.index
    }

    /// What happened so far.
    #[must_use]
    pub const fn counters(&self) -> &Counters {
        &self.counters
    }

    /// The last exits, newest last.
    pub fn last_exits(&self) -> impl Iterator<Item = ExitRecord> {
        self.ring.records()
    }

    /// Sees to what arrived and fell due, and delivers what is to be delivered.
    pub fn prepare_entry<V: Vcpu, H: Host>(
        &mut self,
        vm: &Vm,
        vcpu: &mut V,
        host: &mut H,
    ) -> Ready {
        if self.settled && self.activity == Activity::Running && !vm.attention(self.index) {
            self.injected = false;
            let Some(at) = self.deadline else { return Ready::Run { deadline: None } };
            if self.guest_tsc(host) < at.guest {
                return Ready::Run { deadline: Some(at.host) };
            }
        }
        self.prepare_anew(vm, vcpu, host)
    }

    fn prepare_anew<V: Vcpu, H: Host>(&mut self, vm: &Vm, vcpu: &mut V, host: &mut H) -> Ready {
        let host_now = host.tsc();
        let now = host_now.wrapping_add(self.tsc_offset);
        self.read_mail(vm, vcpu);
        // Before a halt they were looked after, and what has come since is in the mail.
        let is_due = self.devices_due || vm.devices_deadline().is_some_and(|at| at <= now);
        if self.index == CARETAKER && is_due {
            self.devices_due = false;
            vm.look_after_devices(now, host);
            self.read_mail(vm, vcpu);
        }
        if self.output_due <= now {
            self.show_output(vm, host);
        }
        self.lapic.poll(self.lapic_time(now));
        self.settled = true;
        self.deliver(vcpu);
        self.injected = false;
        self.deadline = self.next_deadline(vm).map(|guest| Moment {
            guest,
            // Not by the offset: a far deadline must not wrap to a near one.
            host: host_now.saturating_add(guest.saturating_sub(now)),
        });
        let deadline = self.deadline.map(|at| at.host);
        match self.activity {
            Activity::Running => Ready::Run { deadline },
            _ => Ready::Wait { deadline },
        }
    }

    /// Takes what others sent.
    pub(crate) fn read_mail<V: Vcpu>(&mut self, vm: &Vm, vcpu: &mut V) {
        let Some(mailbox) = vm.mailbox(self.index).filter(|mailbox| mailbox.has_news()) else {
            return;
        };
        if self.activity.is_deep() && !mailbox.has_alarm() {
            return self.take_mail(mailbox.take_quiet(), vm, vcpu);
        }
        if self.activity.is_deep() {
            vm.wake();
        }
        self.take_mail(mailbox.take(), vm, vcpu);
        if self.activity.is_deep() {
            vm.sleep_deeply();
        }
    }

    /// Vectors first: an INIT drops them.
    fn take_mail<V: Vcpu>(&mut self, mail: Mail, vm: &Vm, vcpu: &mut V) {
        self.devices_due |= mail.devices();
        self.lapic.request_all(mail.edges, mail.levels);
        if mail.nmi() && self.activity != Activity::WaitForStartup {
            self.lapic.accept_nmi();
            if self.activity == Activity::HaltedDeeply {
                self.activity = Activity::Halted;
            }
        }
        if mail.init() && self.activity != Activity::WaitForStartup {
            self.init(vm, vcpu);
        }
        if let Some(vector) = mail.startup()
            && self.activity == Activity::WaitForStartup
        {
            vcpu.set_registers(&reset::started(vcpu.registers().cr0, vm.signature(), vector));
            self.activity = Activity::Running;
        }
    }

    /// INIT (SDM vol. 3, 10.1 and table 10-1).
    fn init<V: Vcpu>(&mut self, vm: &Vm, vcpu: &mut V) {
        let is_bootstrap = self.lapic.is_bootstrap();
        self.lapic.reset();
        vm.publish_address(self.index, &self.lapic);
        vcpu.set_registers(&reset::registers(vcpu.registers().cr0, vm.signature()));
        self.retries = Retries::default();
        (self.injected, self.window) = (false, None);
        self.activity = if is_bootstrap { Activity::Running } else { Activity::WaitForStartup };
    }

    /// The guest's time-stamp counter.
    pub(crate) fn guest_tsc<H: Host>(&self, host: &H) -> u64 {
        host.tsc().wrapping_add(self.tsc_offset)
    }

    /// The time at the local APIC when the TSC is at `now`: where its timer is withheld, time stands still for it.
    pub(crate) const fn lapic_time(&self, now: u64) -> u64 {
        if self.withhold_timer { 0 } else { now }
    }

    /// What a write to the local APIC brings with it.
    pub(crate) fn apply<H: Host>(&mut self, effect: Effect, vm: &Vm, host: &mut H) {
        self.settled = false;
        match effect {
            Effect::None => {}
            Effect::EndOfLevel { vector } => vm.end_of_level(vector, host),
            Effect::Readdressed => vm.publish_address(self.index, &self.lapic),
            Effect::Send { message, broadcast } => {
                vm.send(&message, Some(self.index), broadcast, host);
            }
        }
    }

    /// Injects the most urgent interrupt, or asks to be told when that is possible.
    fn deliver<V: Vcpu>(&mut self, vcpu: &mut V) {
        if self.activity.is_deep() {
            return;
        }
        vcpu.set_task_priority(self.lapic.task_priority_class());
        if self.injected {
            // A fault goes first; whatever else is due waits for the next preparation.
            self.settled = false;
        } else if self.lapic.take_nmi() {
            vcpu.inject(Event::Nmi);
            self.activity = Activity::Running;
        }
        let mut waiting = self.lapic.pending_vector();
        if let Some(vector) = waiting
            && vcpu.can_take_interrupt()
        {
            self.lapic.acknowledge(vector);
            vcpu.inject(Event::Interrupt(vector));
            self.counters.interrupts += 1;
            self.activity = Activity::Running;
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

    fn next_deadline(&self, vm: &Vm) -> Option<u64> {
        let timer = if self.withhold_timer { None } else { self.lapic.deadline() };
        let devices = if self.index == CARETAKER { vm.devices_deadline() } else { None };
        let due = timer.unwrap_or(NEVER).min(devices.unwrap_or(NEVER)).min(self.output_due);
        Some(due).filter(|&at| at != NEVER)
    }

    /// The guest has written to the UART. A line is shown as a whole: what each call costs is paid once for it, and the
    /// bytes within are answered by a shorter way.
    pub(crate) fn gather_output<H: Host>(&mut self, devices: &mut Devices, now: u64, host: &mut H) {
        if devices.uart.has_line() {
            devices.show_output(host);
            self.output_due = NEVER;
        } else if devices.uart.has_output() && self.output_due == NEVER {
            self.output_due = now.saturating_add(self.line_ticks);
            self.settled = false;
        }
    }

    /// Shows what this virtual CPU has sent of a line that has not ended. Also for the caller, when it stops entering the guest.
    pub fn show_output<H: Host>(&mut self, vm: &Vm, host: &mut H) {
        if self.output_due != NEVER {
            self.output_due = NEVER;
            vm.devices.lock().show_output(host);
        }
    }
}
