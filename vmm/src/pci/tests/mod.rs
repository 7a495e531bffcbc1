//! PCI as a guest meets it, with a scripted endpoint behind.

mod bars;
mod config_space;
mod interrupts;
mod scripted;
mod topology;

use std::vec::Vec;

use super::*;
use crate::loader::GuestLayout;

use scripted::capability;
pub(crate) use scripted::{Log, Scripted, Told, nvme};

/// A guest with 4 GiB of RAM and these functions.
pub(crate) fn plan(shapes: &[Shape]) -> Plan {
    Plan::new(&GuestLayout::new(4 << 30), 40, shapes).expect("it fits")
}

/// A root complex with functions, and what those were told.
struct Bench {
    pci: RootComplex,
    logs: Vec<Log>,
}

impl Bench {
    fn of(shapes: &[Shape]) -> Self {
        let (endpoints, logs) = shapes.iter().cloned().map(Scripted::boxed).unzip();
        Self { pci: RootComplex::new(&plan(shapes), endpoints), logs }
    }

    /// One like an NVMe controller.
    fn new() -> Self {
        Self::of(&[nvme()])
    }

    /// What the only function was told since the last time.
    fn told(&self) -> Vec<Told> {
        self.logs[0].take()
    }

    fn read(&mut self, bus: u8, devfn: u8, offset: u16, width: Width) -> u64 {
        self.pci.read_ecam(ecam(bus, devfn, offset), width)
    }

    fn write(&mut self, bus: u8, devfn: u8, offset: u16, width: Width, value: u64) {
        self.pci.write_ecam(ecam(bus, devfn, offset), width, value, &|_| Some(1));
    }

    /// A register of the only function.
    fn get(&mut self, offset: u16) -> u32 {
        self.read(1, 0, offset, Width::W4) as u32
    }

    fn set(&mut self, offset: u16, value: u32) {
        self.write(1, 0, offset, Width::W4, value.into());
    }

    /// The function's command register.
    fn command(&mut self, value: u16) {
        self.write(1, 0, spec::COMMAND, Width::W2, value.into());
    }
}

fn ecam(bus: u8, devfn: u8, offset: u16) -> u64 {
    u64::from(bus) << 20 | u64::from(devfn) << 12 | u64::from(offset)
}
