//! The guest's PCI functions: configuration space by memory (PCIe 6.0, 7.2.2), where Kerf's guests have it.

use core::ptr;

const ECAM: u64 = 0xe000_0000;
const COMMAND: u16 = 4;
/// Memory decoding and bus mastering.
const MEMORY_AND_MASTER: u32 = 0b110;
const CLASS: u16 = 8;
pub(crate) const BARS: u16 = 0x10;
const SECONDARY_BUS: u16 = 0x18;
const CAPABILITIES: u16 = 0x34;
const MSIX: u32 = 0x11;
const EXPRESS: u32 = 0x10;

/// A function behind a root port, which is the device before it on bus 0.
#[derive(Clone, Copy)]
pub(crate) struct Function {
    pub(crate) config: Registers,
    pub(crate) port: Registers,
}

/// Registers somewhere in memory; what is there answers for itself.
#[derive(Clone, Copy)]
pub(crate) struct Registers(pub(crate) u64);

impl Registers {
    pub(crate) fn read(self, offset: u64) -> u32 {
        // SAFETY: device memory, mapped one to one and uncached; no Rust object is there.
        unsafe { ptr::read_volatile(ptr::with_exposed_provenance((self.0 + offset) as usize)) }
    }

    pub(crate) fn write(self, offset: u64, value: u32) {
        // SAFETY: as for reading.
        unsafe {
            ptr::write_volatile(
                ptr::with_exposed_provenance_mut((self.0 + offset) as usize),
                value,
            );
        }
    }
}

fn config(bus: u8, device: u8) -> Registers {
    Registers(ECAM | u64::from(bus) << 20 | u64::from(device) << 15)
}

/// The first function with this class code, turned on.
pub(crate) fn find(class: u32) -> Option<Function> {
    (1..32).find_map(|device| {
        let port = config(0, device);
        let bus = (port.read(0) != u32::MAX).then(|| port.read(SECONDARY_BUS.into()) >> 8)?;
        let function = Function { config: config(bus as u8, 0), port };
        (function.config.read(CLASS.into()) >> 8 == class).then(|| {
            function.turn_on();
            function
        })
    })
}

impl Function {
    /// Lets it answer and do DMA.
    pub(crate) fn turn_on(self) {
        for registers in [self.port, self.config] {
            registers.write(COMMAND.into(), MEMORY_AND_MASTER);
        }
    }

    /// A memory BAR's address, 32 bits of it.
    pub(crate) fn bar(self, index: u16) -> Registers {
        Registers(u64::from(self.config.read((BARS + 4 * index).into()) & !0xf))
    }

    fn capability(self, id: u32) -> Option<u64> {
        let mut at = u64::from(self.config.read(CAPABILITIES.into()) & 0xfc);
        for _ in 0..48 {
            if at == 0 {
                break;
            }
            let header = self.config.read(at);
            if header & 0xff == id {
                return Some(at);
            }
            at = u64::from(header >> 8 & 0xfc);
        }
        None
    }

    /// Turns MSI-X on (7.7.2) and gives its table: address, data and mask of each entry.
    pub(crate) fn msix(self) -> Option<Registers> {
        let at = self.capability(MSIX)?;
        self.config.write(at, self.config.read(at) | 1 << 31);
        let table = self.config.read(at + 4);
        let bar = self.bar(table as u16 & 7);
        Some(Registers(bar.0 + u64::from(table & !7)))
    }

    /// Resets it alone (6.6.2).
    pub(crate) fn reset(self) {
        if let Some(at) = self.capability(EXPRESS) {
            self.config.write(at + 8, self.config.read(at + 8) | 1 << 15);
        }
    }
}
