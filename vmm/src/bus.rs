//! Which device answers an address: port space and guest physical memory.

use hw::{Gpa, PAGE_SIZE, Port, Width};
use x86_spec::apic;

use crate::Host;
use crate::exit::Outcome;
use crate::machine::Machine;
use crate::platform::pm::PowerRequest;
use crate::platform::{PortWindow, pci, pm, rtc, uart};

/// Ends a test's guest.
const EXIT_PORT: Port = Port(0xf4);
/// The interval timer's ports, of which the guest has none. They read 0, as a timer that stands still: before it has read
/// the ACPI tables Linux waits for the counter to move on from all-ones, 50,000 times over, and gives up on 0 at once.
const ABSENT_TIMER: PortWindow = PortWindow { first: Port(0x40), count: 4 };

impl Machine {
    /// Reads a port: a device's answer, or all-ones.
    pub(crate) fn port_read<H: Host>(&mut self, port: Port, width: Width, host: &mut H) -> u64 {
        let now = self.guest_tsc(host);
        let value = if let Some(offset) = uart::PORTS.offset_of(port) {
            self.settled = false;
            self.uart.read(offset, width, now)
        } else if let Some(offset) = pm::PORTS.offset_of(port) {
            self.pm.read(offset, width, now)
        } else if let Some(offset) = rtc::PORTS.offset_of(port) {
            self.rtc.read(offset, width, host.unix_time())
        } else if let Some(offset) = pci::PORTS.offset_of(port) {
            self.pci.read(offset, width, now)
        } else {
            self.counters.unknown_ports.note(port.0.into());
            if ABSENT_TIMER.offset_of(port).is_some() { 0 } else { u64::MAX }
        };
        value & width.mask()
    }

    /// Writes a port. What is not there drops it; a few end the guest.
    pub(crate) fn port_write<H: Host>(
        &mut self,
        port: Port,
        width: Width,
        value: u64,
        host: &mut H,
    ) -> Outcome {
        let now = self.guest_tsc(host);
        if let Some(offset) = uart::PORTS.offset_of(port) {
            self.settled = false;
            self.uart.write(offset, width, value, now);
            if self.uart.output_len() > 0 {
                self.flush_console(host);
            }
        } else if let Some(offset) = pm::PORTS.offset_of(port) {
            if let Some(request) = self.pm.write(offset, width, value, now) {
                return request.into();
            }
        } else if let Some(offset) = rtc::PORTS.offset_of(port) {
            self.rtc.write(offset, width, value, host.unix_time());
        } else if let Some(request) = pm::reset_by_port(port, width, value) {
            return request.into();
        } else if let Some(offset) = pci::PORTS.offset_of(port) {
            self.pci.write(offset, width, value, now);
        } else if port == EXIT_PORT && self.exit_port {
            return Outcome::Exit(value as u8);
        } else {
            self.counters.unknown_ports.note(port.0.into());
        }
        Outcome::Resume
    }

    /// Reads device memory: a device's answer, or all-ones.
    pub(crate) fn mmio_read<H: Host>(&mut self, gpa: Gpa, width: Width, host: &H) -> u64 {
        let now = self.guest_tsc(host);
        let offset = gpa.page_offset();
        let value = match self.page(gpa) {
            Some(Page::LocalApic) => self.lapic.read(offset, width, self.lapic_time(now)),
            Some(Page::IoApic) => self.ioapic.read(offset, width, now),
            None => {
                self.counters.unknown_mmio.note(gpa.raw());
                u64::MAX
            }
        };
        value & width.mask()
    }

    /// Writes device memory; what is not there drops it.
    pub(crate) fn mmio_write<H: Host>(&mut self, gpa: Gpa, width: Width, value: u64, host: &H) {
        let now = self.guest_tsc(host);
        let (offset, value) = (gpa.page_offset(), value & width.mask());
        match self.page(gpa) {
            Some(Page::LocalApic) => {
                let effect = self.lapic.write(offset, width, value, self.lapic_time(now));
                self.apply(effect);
            }
            Some(Page::IoApic) => {
                self.settled = false;
                self.ioapic.write(offset, width, value, now);
            }
            None => self.counters.unknown_mmio.note(gpa.raw()),
        }
    }

    /// The device that has the page of `gpa`.
    fn page(&self, gpa: Gpa) -> Option<Page> {
        let page = gpa.align_down(PAGE_SIZE);
        if self.lapic.page() == Some(page) {
            Some(Page::LocalApic)
        } else if page == Gpa::new(apic::DEFAULT_IOAPIC_BASE) {
            Some(Page::IoApic)
        } else {
            None
        }
    }
}

impl From<PowerRequest> for Outcome {
    fn from(request: PowerRequest) -> Self {
        match request {
            PowerRequest::PowerOff => Self::PowerOff,
            PowerRequest::Reset => Self::Reset,
        }
    }
}

/// A page of device memory.
#[derive(Clone, Copy)]
enum Page {
    LocalApic,
    IoApic,
}
