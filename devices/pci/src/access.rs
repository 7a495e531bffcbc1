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

    pub(crate) fn write16(self, offset: u16, value: u16) {
        self.access.write(self.function, offset, Width::W2, value.into());
    }

    pub(crate) fn write32(self, offset: u16, value: u32) {
        self.access.write(self.function, offset, Width::W4, value);
    }

    /// Whether anybody answers.
    pub(crate) fn is_there(self) -> bool {
        self.read16(crate::spec::VENDOR) != crate::spec::NO_VENDOR
    }
}
