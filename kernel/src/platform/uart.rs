//! A 16550's registers, wherever they are.

use consoles::Registers;
use hw::{Port, PortBus, RegisterBus, Width};

use super::{Mmio, Ports};

/// The first serial port of a PC.
pub(crate) const COM1: UartRegisters = UartRegisters::Ports(Port(0x3f8));

/// The registers.
#[derive(Clone, Copy, Debug)]
pub(crate) enum UartRegisters {
    /// Ports from this one on.
    Ports(Port),
    /// Memory: bytes from one register to the next, and the width of an access.
    Memory(Mmio, u8, Width),
}

impl Registers for UartRegisters {
    fn read(&self, register: u8) -> u8 {
        match *self {
            Self::Ports(Port(first)) => {
                Ports.read(Port(first.wrapping_add(register.into())), Width::W1) as u8
            }
            Self::Memory(block, stride, width) => {
                block.load(u64::from(register) * u64::from(stride), width) as u8
            }
        }
    }

    fn write(&self, register: u8, value: u8) {
        match *self {
            Self::Ports(Port(first)) => {
                let port = Port(first.wrapping_add(register.into()));
                Ports.write(port, Width::W1, value.into());
            }
            Self::Memory(block, stride, width) => {
                block.store(u64::from(register) * u64::from(stride), width, value.into());
            }
        }
    }
}
