//! Which device answers an address: port space and guest physical memory.

use config::Policy;
use hw::{Gpa, PAGE_SIZE, Port, Width};
use vcpu::{Access, SecondStageFault};
use x86_spec::apic;

use crate::cpu::Core;
use crate::crash::Crash;
use crate::exit::{Outcome, Outside, Refused, unknown};
use crate::line::{self, Line};
use crate::pci;
use crate::platform::pm::PowerRequest;
use crate::platform::{PortWindow, pm, rtc, uart};
use crate::vm::Vm;
use crate::{Backing, Host};

/// Ends a test's guest.
const EXIT_PORT: Port = Port(0xf4);
/// The interval timer's ports, of which the guest has none. They read 0, as a timer that stands still: before it has read
/// the ACPI tables Linux waits for the counter to move on from all-ones, 50,000 times over, and gives up on 0 at once.
const ABSENT_TIMER: PortWindow = PortWindow { first: Port(0x40), count: 4 };

impl Core {
    /// Reads a port: a device's answer, or all-ones.
    pub(crate) fn port_read<M, H: Host>(
        &mut self,
        port: Port,
        width: Width,
        outside: &mut Outside<'_, M, H>,
    ) -> Result<u64, Refused> {
        let Some((device, offset)) = PortDevice::of(port) else {
            self.unknown_port(port, outside.vm)?;
            let stands_still = ABSENT_TIMER.offset_of(port).is_some();
            return Ok(if stands_still { 0 } else { width.mask() });
        };
        let now = self.guest_tsc(outside.host);
        let (vm, host) = (outside.vm, &mut *outside.host);
        let devices = || vm.devices.lock();
        let value = match device {
            PortDevice::Uart => {
                let devices = &mut *devices();
                let value = devices.uart.read(offset, width, now);
                vm.uart_touched(self.index, devices, host);
                value
            }
            PortDevice::Power => vm.pm.read(offset, width, now),
            PortDevice::Rtc => devices().rtc.read(offset, width, host.unix_time()),
            PortDevice::Pci => devices().pci.read(offset, width),
        };
        Ok(value & width.mask())
    }

    /// Writes a port. What is not there drops it; a few end the guest.
    pub(crate) fn port_write<M, H: Host>(
        &mut self,
        port: Port,
        width: Width,
        value: u64,
        outside: &mut Outside<'_, M, H>,
    ) -> Result<Outcome, Refused> {
        if let Some(request) = pm::reset_by_port(port, width, value) {
            return Ok(request.into());
        }
        if port == EXIT_PORT && outside.vm.spec.exit_port {
            return Ok(Outcome::Exit(value as u8));
        }
        let Some((device, offset)) = PortDevice::of(port) else {
            self.unknown_port(port, outside.vm)?;
            return Ok(Outcome::Resume);
        };
        let now = self.guest_tsc(outside.host);
        let (vm, host) = (outside.vm, &mut *outside.host);
        let devices = || vm.devices.lock();
        match device {
            PortDevice::Uart => {
                let devices = &mut *devices();
                devices.uart.write(offset, width, value, now);
                self.gather_output(devices, now, host);
                vm.uart_touched(self.index, devices, host);
            }
            PortDevice::Power => {
                let request = vm.pm.write(offset, width, value, now);
                return Ok(request.map_or(Outcome::Resume, Outcome::from));
            }
            PortDevice::Rtc => devices().rtc.write(offset, width, value, host.unix_time()),
            PortDevice::Pci => {
                devices().pci.write(offset, width, value, &|message| vm.target(message));
            }
        }
        Ok(Outcome::Resume)
    }

    fn unknown_port(&mut self, port: Port, vm: &Vm) -> Result<(), Refused> {
        self.counters.unknown_ports.note(port.0.into());
        unknown(vm.spec.unknown.ports, Crash::UnknownPort(port))
    }

    /// Reads device memory: a device's answer, or all-ones.
    pub(crate) fn mmio_read<M, H: Host>(
        &mut self,
        gpa: Gpa,
        width: Width,
        outside: &mut Outside<'_, M, H>,
    ) -> Result<u64, Refused> {
        let offset = gpa.page_offset();
        let now = self.guest_tsc(outside.host);
        let value = match self.page(gpa) {
            Some(Page::LocalApic) => self.lapic.read(offset, width, self.lapic_time(now)),
            Some(Page::IoApic) => outside.vm.devices.lock().ioapic.read(offset, width, now),
            Some(Page::Ecam(offset)) => outside.vm.devices.lock().pci.read_ecam(offset, width),
            None => match outside.vm.read_function(gpa, width) {
                Some(value) => value,
                None => {
                    self.no_device(gpa, Access::Read, outside)?;
                    u64::MAX
                }
            },
        };
        Ok(value & width.mask())
    }

    /// Writes device memory; what is not there drops it.
    pub(crate) fn mmio_write<M, H: Host>(
        &mut self,
        gpa: Gpa,
        width: Width,
        value: u64,
        outside: &mut Outside<'_, M, H>,
    ) -> Result<(), Refused> {
        let now = self.guest_tsc(outside.host);
        let (offset, value) = (gpa.page_offset(), value & width.mask());
        match self.page(gpa) {
            Some(Page::LocalApic) => {
                let effect = self.lapic.write(offset, width, value, self.lapic_time(now));
                self.apply(effect, outside.vm, outside.host);
            }
            Some(Page::IoApic) => {
                let devices = &mut *outside.vm.devices.lock();
                devices.ioapic.write(offset, width, value, now);
                outside.vm.route_interrupts(devices, outside.host);
            }
            Some(Page::Ecam(offset)) => {
                let vm = outside.vm;
                let targets = |message: &_| vm.target(message);
                vm.devices.lock().pci.write_ecam(offset, width, value, &targets);
            }
            None if outside.vm.write_function(gpa, width, value) => {}
            None => self.no_device(gpa, Access::Write, outside)?,
        }
        Ok(())
    }

    /// Writes a line to device memory: to a PCI function as one, to the platform's registers by parts.
    pub(crate) fn mmio_write_line<M, H: Host>(
        &mut self,
        gpa: Gpa,
        line: &Line,
        outside: &mut Outside<'_, M, H>,
    ) -> Result<(), Refused> {
        if self.has_device(gpa) {
            let mut parts = line::parts(line);
            return parts.try_for_each(|(offset, part)| {
                self.mmio_write(gpa.wrapping_add(offset), Width::W8, part, outside)
            });
        }
        match outside.vm.write_function_line(gpa, line) {
            true => Ok(()),
            false => self.no_device(gpa, Access::Write, outside),
        }
    }

    /// An access that neither RAM nor a device answers; `Ok` where it reads all-ones or is dropped.
    fn no_device<M, H: Host>(
        &mut self,
        gpa: Gpa,
        access: Access,
        outside: &mut Outside<'_, M, H>,
    ) -> Result<(), Refused> {
        let fault = SecondStageFault { gpa, gla: None, access, during_walk: false };
        match outside.host.fault(&fault) {
            Backing::Device => {
                self.counters.unknown_mmio.note(gpa.raw());
                unknown(outside.vm.spec.unknown.mmio, Crash::UnknownMemory(gpa))
            }
            Backing::Mapped => Err(Refused::Again),
            Backing::Hidden => {
                self.counters.hidden.note(gpa.raw());
                Ok(())
            }
            Backing::Protected => {
                self.counters.protected.note(gpa.raw());
                match outside.vm.spec.unknown.mmio {
                    Policy::Stop => Err(Refused::Stop(Crash::Protected(gpa))),
                    // Found within an instruction: which of its addresses led here is not known.
                    Policy::Allow | Policy::Fault => Err(Refused::Fault),
                }
            }
        }
    }

    /// Whether a device has the page of `gpa`.
    #[inline]
    pub(crate) fn has_device(&self, gpa: Gpa) -> bool {
        self.page(gpa).is_some()
    }

    /// The device that has the page of `gpa`.
    fn page(&self, gpa: Gpa) -> Option<Page> {
        let page = gpa.align_down(PAGE_SIZE);
        if self.lapic.page() == Some(page) {
            Some(Page::LocalApic)
        } else if page == Gpa::new(apic::DEFAULT_IOAPIC_BASE) {
            Some(Page::IoApic)
        } else {
            let offset = gpa.raw().checked_sub(pci::ECAM_BASE.raw())?;
            (offset < self.ecam_bytes).then_some(Page::Ecam(offset))
        }
    }
}

/// A device with ports.
#[derive(Clone, Copy)]
enum PortDevice {
    Uart,
    Power,
    Rtc,
    Pci,
}

impl PortDevice {
    /// The device that answers `port`, and the offset within its window.
    fn of(port: Port) -> Option<(Self, u64)> {
        let found = |device, window: PortWindow| window.offset_of(port).map(|at| (device, at));
        found(Self::Uart, uart::PORTS)
            .or_else(|| found(Self::Power, pm::PORTS))
            .or_else(|| found(Self::Rtc, rtc::PORTS))
            .or_else(|| found(Self::Pci, pci::PORTS))
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
    /// At this offset of PCI configuration space.
    Ecam(u64),
}
