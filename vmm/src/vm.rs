//! [`Vm`]: what the virtual CPUs of a virtual machine share. Devices are behind one lock, which no CPUID, hypercall, MSR,
//! local APIC access or IPI takes; messages go through mailboxes.

use alloc::boxed::Box;
use alloc::vec::Vec;
use core::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use config::Unknown as UnknownPolicy;
use hw::{Gpa, Width};
use spin::Mutex;
use x86_spec::apic::DeliveryMode;

use crate::Host;
use crate::cpu::Core;
use crate::line::Line;
use crate::mailbox::Mailbox;
use crate::pci::{Endpoint, Plan, RootComplex};
use crate::platform::InterruptMessage;
use crate::platform::cpuid::CpuidTable;
use crate::platform::gsi;
use crate::platform::ioapic::IoApic;
use crate::platform::lapic::LocalApic;
use crate::platform::pm::PowerManagement;
use crate::platform::rtc::Rtc;
use crate::platform::uart::Uart;

/// What a virtual machine is made from.
#[derive(Clone, Debug)]
pub struct VmSpec {
    /// How many virtual CPUs; their APIC IDs count from 0.
    pub vcpus: u32,
    /// The guest's TSC, in kHz; not 0.
    pub tsc_khz: u32,
    /// The guest's TSC less the host's.
    pub tsc_offset: u64,
    /// What CPUID says.
    pub cpuid: CpuidTable,
    /// What an access to something that is not there does.
    pub unknown: UnknownPolicy,
    /// How many second-stage views it has, at least 1.
    pub views: u16,
    /// How its PCI functions are laid out.
    pub pci: Plan,
    /// Port 0xf4 ends the guest with the byte written as its status.
    pub exit_port: bool,
    /// Local APICs' timers never fire: for tests that must fail then.
    pub withhold_timer: bool,
    /// The UART's interrupts never arrive: likewise.
    pub withhold_serial: bool,
}

/// One virtual machine. Its virtual CPUs' own parts are [`Core`]s.
#[derive(Debug)]
pub struct Vm {
    pub(crate) spec: VmSpec,
    mailboxes: Box<[Mailbox]>,
    pub(crate) devices: Mutex<Devices>,
    /// Its state is the time alone.
    pub(crate) pm: PowerManagement,
    tsc_offset: AtomicU64,
    /// When the UART has something to do, in the guest's TSC; [`NEVER`].
    uart_deadline: AtomicU64,
    /// How many virtual CPUs sleep until an NMI, INIT or start-up comes.
    deep_sleepers: AtomicU32,
}

/// No moment at all.
pub(crate) const NEVER: u64 = u64::MAX;
/// The virtual CPU that looks after devices whose time passes.
pub(crate) const CARETAKER: u32 = 0;

impl Vm {
    /// A virtual machine as after power-on, with the PCI functions for which [`VmSpec::pci`] was made.
    #[must_use]
    pub fn new(spec: VmSpec, endpoints: Vec<Box<dyn Endpoint>>) -> Self {
        let mailbox = |index| Mailbox::new(LocalApic::new(index, index == 0).address());
        Self {
            mailboxes: (0..spec.vcpus.max(1)).map(mailbox).collect(),
            devices: Mutex::new(Devices::new(&spec, RootComplex::new(&spec.pci, endpoints))),
            pm: PowerManagement::new(spec.tsc_khz),
            tsc_offset: AtomicU64::new(spec.tsc_offset),
            uart_deadline: AtomicU64::new(NEVER),
            deep_sleepers: AtomicU32::new(spec.vcpus.max(1) - 1),
            spec,
        }
    }

    /// How many virtual CPUs it has.
    #[must_use]
    pub fn vcpus(&self) -> u32 {
        self.mailboxes.len() as u32
    }

    /// The part of virtual CPU `index` as after power-on: 0 runs, the others wait for INIT and start-up.
    #[must_use]
    pub fn core(&self, index: u32) -> Core {
        Core::new(index, self)
    }

    /// The guest's TSC less the host's.
    #[must_use]
    pub fn tsc_offset(&self) -> u64 {
        self.tsc_offset.load(Ordering::Relaxed)
    }

    /// Whether something waits in that virtual CPU's mailbox. To be asked with interrupts off before an entry and before
    /// waiting: who posts there kicks afterwards.
    #[inline]
    #[must_use]
    pub fn attention(&self, index: u32) -> bool {
        self.mailboxes.get(index as usize).is_some_and(Mailbox::has_news)
    }

    /// Says that typed input waits, to the virtual CPU that will fetch it: 0, which the caller then kicks.
    pub fn console_ready(&self) {
        if let Some(mailbox) = self.mailboxes.get(CARETAKER as usize) {
            mailbox.post_devices();
        }
    }

    /// The platform as after power-on, its mailboxes empty, its PCI functions reset. Called while no virtual CPU runs;
    /// their [`Core`]s are to be made anew.
    pub fn reset(&self, tsc_offset: u64) {
        let mut devices = self.devices.lock();
        let mut pci = core::mem::take(&mut devices.pci);
        pci.reset();
        *devices = Devices::new(&self.spec, pci);
        drop(devices);
        for (index, mailbox) in (0..).zip(&self.mailboxes) {
            mailbox.reset(LocalApic::new(index, index == 0).address());
        }
        self.tsc_offset.store(tsc_offset, Ordering::Relaxed);
        self.uart_deadline.store(NEVER, Ordering::Relaxed);
        self.deep_sleepers.store(self.vcpus() - 1, Ordering::Relaxed);
    }

    pub(crate) fn mailbox(&self, index: u32) -> Option<&Mailbox> {
        self.mailboxes.get(index as usize)
    }

    /// Makes known by which addresses messages reach a virtual CPU.
    pub(crate) fn publish_address(&self, index: u32, lapic: &LocalApic) {
        if let Some(mailbox) = self.mailboxes.get(index as usize) {
            mailbox.set_address(lapic.address());
        }
    }

    /// Sends a message from outside to whom it names; `kick` gets each virtual CPU that must be told
    /// ([`Host::kick`]). Takes no lock: interrupt handlers may call it.
    pub fn deliver(&self, message: &InterruptMessage, mut kick: impl FnMut(u32)) {
        self.send_by(message, None, false, &mut kick);
    }

    /// The first virtual CPU that takes such a message now.
    pub(crate) fn target(&self, message: &InterruptMessage) -> Option<u32> {
        let mut all = (0..).zip(&self.mailboxes);
        all.find(|&(index, mailbox)| mailbox.address().takes(index, message))
            .map(|(index, _)| index)
    }

    /// Sends a message to whom it names. `sender` has already had its copy.
    pub(crate) fn send<H: Host>(
        &self,
        message: &InterruptMessage,
        sender: Option<u32>,
        broadcast: bool,
        host: &mut H,
    ) {
        self.send_by(message, sender, broadcast, &mut |index| host.kick(index));
    }

    fn send_by(
        &self,
        message: &InterruptMessage,
        sender: Option<u32>,
        broadcast: bool,
        kick: &mut impl FnMut(u32),
    ) {
        let is_one = !broadcast && !message.logical && message.destination < self.vcpus();
        if is_one {
            return self.post(message.destination, message, kick);
        }
        let named = (0..)
            .zip(&self.mailboxes)
            .filter(|&(index, mailbox)| broadcast || mailbox.address().takes(index, message));
        if message.mode == DeliveryMode::LowestPriority && !broadcast {
            return self.send_to_lowest(named.map(|(index, _)| index), message, kick);
        }
        for (index, _) in named.filter(|&(index, _)| Some(index) != sender) {
            self.post(index, message, kick);
        }
    }

    /// Sends to one of those named. Which of them has the lowest priority is for the chipset to find out (SDM vol. 3,
    /// 11.6.2.4); like current ones, this spreads by vector.
    fn send_to_lowest(
        &self,
        named: impl Iterator<Item = u32> + Clone,
        message: &InterruptMessage,
        kick: &mut impl FnMut(u32),
    ) {
        let takers = named.filter(|&index| {
            let mailbox = self.mailboxes.get(index as usize);
            mailbox.is_some_and(|mailbox| mailbox.address().is_enabled())
        });
        let count = takers.clone().count();
        let turn = usize::from(message.vector).checked_rem(count).unwrap_or(0);
        if let Some(index) = takers.clone().nth(turn) {
            self.post(index, message, kick);
        }
    }

    fn post(&self, index: u32, message: &InterruptMessage, kick: &mut impl FnMut(u32)) {
        let Some(mailbox) = self.mailboxes.get(index as usize) else { return };
        let tell = match message.mode {
            DeliveryMode::Fixed | DeliveryMode::LowestPriority => {
                mailbox.post_vector(message.vector, message.level)
            }
            DeliveryMode::Nmi => mailbox.post_nmi(),
            DeliveryMode::Init => mailbox.post_init(),
            DeliveryMode::Startup => mailbox.post_startup(message.vector),
            // Nothing raises SMI, and there is no 8259A to ask for an ExtINT vector.
            DeliveryMode::Smi | DeliveryMode::Reserved | DeliveryMode::ExtInt => false,
        };
        if tell {
            kick(index);
        }
    }

    /// Reads memory of a PCI function; `None` where there is none.
    #[inline]
    pub(crate) fn read_function(&self, gpa: Gpa, width: Width) -> Option<u64> {
        if !self.spec.pci.is_memory(gpa) {
            return None;
        }
        self.devices.lock().pci.read_memory(gpa, width)
    }

    /// Writes it; says whether there is some.
    #[inline]
    pub(crate) fn write_function(&self, gpa: Gpa, width: Width, value: u64) -> bool {
        let targets = |message: &_| self.target(message);
        self.spec.pci.is_memory(gpa)
            && self.devices.lock().pci.write_memory(gpa, width, value, &targets).is_some()
    }

    /// Likewise a line.
    pub(crate) fn write_function_line(&self, gpa: Gpa, line: &Line) -> bool {
        let targets = |message: &_| self.target(message);
        self.spec.pci.is_memory(gpa)
            && self.devices.lock().pci.write_line(gpa, line, &targets).is_some()
    }

    /// Ends a level-triggered interrupt at the I/O APIC.
    pub(crate) fn end_of_level<H: Host>(&self, vector: u8, host: &mut H) {
        let mut devices = self.devices.lock();
        devices.ioapic.end_of_interrupt(vector);
        self.route_interrupts(&mut devices, host);
    }

    /// What CPUID leaf 1 says of the CPU's model, which is in EDX after INIT.
    pub(crate) fn signature(&self) -> u32 {
        self.spec.cpuid.signature()
    }

    /// Carries device lines through the I/O APIC to the mailboxes.
    pub(crate) fn route_interrupts<H: Host>(&self, devices: &mut Devices, host: &mut H) {
        if !self.spec.withhold_serial {
            devices.ioapic.set_pin(gsi::UART, devices.uart.interrupt());
        }
        while let Some(message) = devices.ioapic.take_message() {
            self.send(&message, None, false, host);
        }
    }

    /// What follows an access to the UART by virtual CPU `index`.
    pub(crate) fn uart_touched<H: Host>(&self, index: u32, devices: &mut Devices, host: &mut H) {
        self.route_interrupts(devices, host);
        let deadline = devices.uart.deadline().unwrap_or(NEVER);
        let old = self.uart_deadline.swap(deadline, Ordering::Relaxed);
        if deadline < old
            && index != CARETAKER
            && let Some(mailbox) = self.mailboxes.get(CARETAKER as usize)
            && mailbox.post_devices()
        {
            host.kick(CARETAKER);
        }
    }

    /// Fetches what was typed, and lets time pass for the devices.
    pub(crate) fn look_after_devices<H: Host>(&self, now: u64, host: &mut H) {
        let mut devices = self.devices.lock();
        while devices.uart.can_receive() {
            let Some(byte) = host.console_read() else { break };
            devices.uart.receive(byte, now);
        }
        devices.uart.poll(now);
        devices.show_output(host);
        self.uart_touched(CARETAKER, &mut devices, host);
    }

    /// When [`Vm::look_after_devices`] is due, in the guest's TSC.
    pub(crate) fn devices_deadline(&self) -> Option<u64> {
        Some(self.uart_deadline.load(Ordering::Relaxed)).filter(|&at| at != NEVER)
    }

    /// A virtual CPU falls asleep until an NMI, INIT or start-up comes. Says whether that can come from no one any more.
    pub(crate) fn sleep_deeply(&self) -> bool {
        let sleepers = self.deep_sleepers.fetch_add(1, Ordering::SeqCst) + 1;
        sleepers >= self.vcpus() && !self.mailboxes.iter().any(Mailbox::has_alarm)
    }

    #[cfg(test)]
    pub(crate) fn deep_sleepers(&self) -> u32 {
        self.deep_sleepers.load(Ordering::SeqCst)
    }

    /// Such a sleeper has found an alarm in its mailbox. Before it takes that: else the last one awake could find neither
    /// it awake nor its alarm.
    pub(crate) fn wake(&self) {
        self.deep_sleepers.fetch_sub(1, Ordering::SeqCst);
    }
}

/// The devices that a virtual machine has once.
#[derive(Debug)]
pub(crate) struct Devices {
    pub(crate) ioapic: IoApic,
    pub(crate) uart: Uart,
    pub(crate) rtc: Rtc,
    pub(crate) pci: RootComplex,
}

impl Devices {
    fn new(spec: &VmSpec, pci: RootComplex) -> Self {
        Self { ioapic: IoApic::new(), uart: Uart::new(spec.tsc_khz), rtc: Rtc::new(), pci }
    }

    /// Puts what the UART sent on the console.
    pub(crate) fn show_output<H: Host>(&mut self, host: &mut H) {
        if self.uart.has_output() {
            host.console_write(self.uart.take_output());
        }
    }
}
