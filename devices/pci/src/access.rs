//! How configuration space is reached: by ports (PCI 3.0, 3.2.2.3.2) and by memory (ECAM, PCIe 7.2.2).

use hw::{Function, Port, PortBus, RegisterBus, RequesterId, Width};

use crate::spec::{
    CONFIG_ADDRESS_PORT, CONFIG_DATA_PORT, CONVENTIONAL_BYTES, config_address, ecam_offset,
};

/// Configuration space of all functions. An access has at most four bytes and lies within an aligned dword. A function
/// or a register that is not there reads all ones of the width and takes no write.
pub trait ConfigAccess {
    /// Reads, zero-extended.
    fn read(&self, function: Function, offset: u16, width: Width) -> u32;
    /// Writes the low `width` bytes of `value`.
    fn write(&self, function: Function, offset: u16, width: Width, value: u32);
}

/// Configuration space in memory, of one entry of MCFG.
#[derive(Debug)]
pub struct Ecam<R> {
    /// The segment.
    pub segment: u16,
    /// The first bus.
    pub first_bus: u8,
    /// The last bus.
    pub last_bus: u8,
    /// A window on it that begins with `first_bus`.
    pub registers: R,
}

impl<R: RegisterBus> Ecam<R> {
    fn place(&self, function: Function, offset: u16) -> Option<u64> {
        let bus = function.rid.bus();
        let there = function.segment == self.segment
            && (self.first_bus..=self.last_bus).contains(&bus)
            && offset < crate::spec::CONFIG_BYTES;
        let first = ecam_offset(RequesterId::new(self.first_bus, 0, 0), 0);
        there.then(|| ecam_offset(function.rid, offset) - first)
    }
}

impl<R: RegisterBus> ConfigAccess for Ecam<R> {
    fn read(&self, function: Function, offset: u16, width: Width) -> u32 {
        match self.place(function, offset) {
            Some(place) => self.registers.load(place, width) as u32,
            None => width.mask() as u32,
        }
    }

    fn write(&self, function: Function, offset: u16, width: Width, value: u32) {
        if let Some(place) = self.place(function, offset) {
            self.registers.store(place, width, value.into());
        }
    }
}

/// The port of CONFIG_DATA for a register, once CONFIG_ADDRESS selects it; `None` where ports do not reach.
fn select(ports: &impl PortBus, function: Function, offset: u16) -> Option<Port> {
    if function.segment != 0 || offset >= CONVENTIONAL_BYTES {
        return None;
    }
    let address = config_address(function.rid, offset);
    ports.write(Port(CONFIG_ADDRESS_PORT), Width::W4, address);
    Some(Port(CONFIG_DATA_PORT + (offset & 3)))
}

/// Reads by ports: segment 0, the first 256 bytes. Two accesses, so the caller holds a lock.
pub fn read_by_ports(ports: &impl PortBus, function: Function, offset: u16, width: Width) -> u32 {
    match select(ports, function, offset) {
        Some(data) => ports.read(data, width),
        None => width.mask() as u32,
    }
}

/// Writes by ports, likewise.
pub fn write_by_ports(
    ports: &impl PortBus,
    function: Function,
    offset: u16,
    width: Width,
    value: u32,
) {
    if let Some(data) = select(ports, function, offset) {
        ports.write(data, width, value);
    }
}

/// One function's configuration space. Offsets past its end read all ones, whatever a chain of capabilities adds up to.
#[derive(Debug)]
pub(crate) struct Config<'a, A> {
    access: &'a A,
    pub(crate) function: Function,
}

impl<A> Clone for Config<'_, A> {
    fn clone(&self) -> Self {
        *self
    }
}
impl<A> Copy for Config<'_, A> {}

impl<'a, A: ConfigAccess> Config<'a, A> {
    pub(crate) const fn new(access: &'a A, function: Function) -> Self {
        Self { access, function }
    }

    pub(crate) fn read8(self, offset: u16) -> u8 {
        self.access.read(self.function, offset, Width::W1) as u8
    }

    pub(crate) fn read16(self, offset: u16) -> u16 {
        self.access.read(self.function, offset, Width::W2) as u16
    }

    pub(crate) fn read32(self, offset: u16) -> u32 {
        self.access.read(self.function, offset, Width::W4)
    }

    pub(crate) fn write8(self, offset: u16, value: u8) {
        self.access.write(self.function, offset, Width::W1, value.into());
    }

    pub(crate) fn write16(self, offset: u16, value: u16) {
        self.access.write(self.function, offset, Width::W2, value.into());
    }

    pub(crate) fn write32(self, offset: u16, value: u32) {
        self.access.write(self.function, offset, Width::W4, value);
    }
}

#[cfg(test)]
mod tests {
    use core::cell::RefCell;

    use super::*;

    /// Answers with the place that is asked for, and takes down what is written.
    #[derive(Default)]
    struct Echo(RefCell<Vec<(u64, Width, u64)>>);

    impl RegisterBus for Echo {
        fn load(&self, offset: u64, _: Width) -> u64 {
            offset
        }
        fn store(&self, offset: u64, width: Width, value: u64) {
            self.0.borrow_mut().push((offset, width, value));
        }
    }

    impl PortBus for Echo {
        fn read(&self, port: Port, _: Width) -> u32 {
            port.0.into()
        }
        fn write(&self, port: Port, width: Width, value: u32) {
            self.0.borrow_mut().push((port.0.into(), width, value.into()));
        }
    }

    fn at(segment: u16, bus: u8) -> Function {
        Function { segment, rid: RequesterId::new(bus, 2, 3) }
    }

    #[test]
    fn ecam_begins_with_its_first_bus_and_ends_with_its_last() {
        let registers = Echo::default();
        let ecam = Ecam { segment: 1, first_bus: 0x10, last_bus: 0x1f, registers };
        assert_eq!(ecam.read(at(1, 0x10), 0xabc, Width::W4), 0x1_3abc);
        assert_eq!(ecam.read(at(1, 0x1f), 0, Width::W2), 0xf1_3000);
        for (segment, bus, offset) in [(0, 0x10, 0), (1, 0xf, 0), (1, 0x20, 0), (1, 0x10, 0x1000)] {
            assert_eq!(ecam.read(at(segment, bus), offset, Width::W2), 0xffff);
            ecam.write(at(segment, bus), offset, Width::W2, 7);
        }
        ecam.write(at(1, 0x11), 4, Width::W2, 7);
        assert_eq!(*ecam.registers.0.borrow(), [(0x11_3004, Width::W2, 7)]);
    }

    #[test]
    fn ports_reach_the_first_segment_and_256_bytes() {
        let ports = Echo::default();
        assert_eq!(read_by_ports(&ports, at(0, 0x21), 0x3e, Width::W2), 0xcfe);
        write_by_ports(&ports, at(0, 0x21), 0x3d, Width::W1, 9);
        let address = (0xcf8, Width::W4, 0x8021_133c);
        assert_eq!(*ports.0.borrow(), [address, address, (0xcfd, Width::W1, 9)]);
        assert_eq!(read_by_ports(&ports, at(1, 0), 0, Width::W4), u32::MAX);
        assert_eq!(read_by_ports(&ports, at(0, 0), 0x100, Width::W1), 0xff);
        write_by_ports(&ports, at(0, 0), 0x100, Width::W1, 0);
        assert_eq!(ports.0.borrow().len(), 3);
    }
}
