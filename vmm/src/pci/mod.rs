//! The PCI that a guest sees: configuration space by ports (PCI 3.0, 3.2.2.3.2) and by memory (ECAM, PCIe 6.0, 7.2.2), a
//! host bridge, and the functions given to the guest ([`Endpoint`]), each behind a root port of its own.

mod endpoint;
mod plan;

use alloc::boxed::Box;
use alloc::vec::Vec;

use hw::{Port, Width};

use crate::platform::{PortWindow, part_of_dword};

pub use endpoint::{BarShape, Capability, Endpoint, ROM, Route, Shape, Slot, Source};
pub use plan::{ECAM_BASE, MEMORY32, Plan, PlanError};

/// Its ports: CONFIG_ADDRESS and CONFIG_DATA. A one-byte write to 0xcf9, which lies among them, is the reset control
/// register: [`crate::platform::pm::reset_by_port`].
pub const PORTS: PortWindow = PortWindow { first: Port(0xcf8), count: 8 };

/// Offset of CONFIG_ADDRESS: enable 31, bus 23:16, device 15:11, function 10:8, register 7:2.
const ADDRESS: u64 = 0;
/// Offset of CONFIG_DATA.
const DATA: u64 = 4;
const ENABLE: u32 = 1 << 31;

/// The first dwords of the host bridge's configuration header. Identity: 1b36:0008, a host bridge that no driver has
/// quirks for; class 06 00 00.
const HOST_BRIDGE: [u32; 3] = [0x0008_1b36, 0x0000_0000, 0x0600_0000];

/// The host bridge.
#[derive(Debug, Default)]
pub struct HostBridge {
    address: u32,
    endpoints: Vec<Box<dyn Endpoint>>,
}

impl HostBridge {
    /// A host bridge as after reset.
    #[must_use]
    pub const fn new(endpoints: Vec<Box<dyn Endpoint>>) -> Self {
        Self { address: 0, endpoints }
    }

    /// As after reset; functions stay.
    pub(crate) fn reset(&mut self) {
        self.address = 0;
        for endpoint in &mut self.endpoints {
            endpoint.reset();
        }
    }

    /// CONFIG_ADDRESS.
    pub(crate) const fn address(&self) -> u32 {
        self.address
    }

    /// Writes CONFIG_ADDRESS.
    pub(crate) const fn set_address(&mut self, value: u32) {
        self.address = value & 0x80ff_fffc;
    }

    /// The register that CONFIG_ADDRESS selects.
    fn selected(&self) -> u32 {
        if self.address & ENABLE == 0 {
            return u32::MAX;
        }
        config(self.address >> 8 & 0xffff, self.address & 0xfc)
    }

    /// Reads ECAM. An access lies within a function's page.
    pub fn read_ecam(&mut self, offset: u64, width: Width) -> u64 {
        let dword = |offset: u64| config((offset >> 12) as u32, (offset & 0xffc) as u32);
        match width {
            Width::W8 => u64::from(dword(offset)) | u64::from(dword(offset + 4)) << 32,
            _ => part_of_dword(dword(offset), offset, width),
        }
    }

    /// Writes ECAM: likewise nothing can be written.
    pub const fn write_ecam(&mut self, _offset: u64, _width: Width, _value: u64) {}

    /// Reads a port.
    pub fn read(&mut self, offset: u64, width: Width, _now: u64) -> u64 {
        match offset {
            // Narrower accesses are not CONFIG_ADDRESS.
            ADDRESS if width == Width::W4 => self.address.into(),
            DATA.. => part_of_dword(self.selected(), offset, width),
            _ => width.mask(),
        }
    }

    /// Writes a port. The host bridge has no register that can be written.
    pub fn write(&mut self, offset: u64, width: Width, value: u64, _now: u64) {
        if offset == ADDRESS && width == Width::W4 {
            self.set_address(value as u32);
        }
    }
}

/// The register at `offset` of a function, numbered by bus 15:8, device 7:3 and function 2:0.
fn config(function: u32, offset: u32) -> u32 {
    match function {
        0 => HOST_BRIDGE.get((offset / 4) as usize).copied().unwrap_or(0),
        _ => u32::MAX,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn by_port(bridge: &mut HostBridge, address: u32) -> u32 {
        bridge.write(ADDRESS, Width::W4, address.into(), 0);
        bridge.read(DATA, Width::W4, 0) as u32
    }

    #[test]
    fn function_zero_is_a_host_bridge() {
        let mut bridge = HostBridge::default();
        assert_eq!(by_port(&mut bridge, ENABLE), 0x0008_1b36);
        assert_eq!(by_port(&mut bridge, ENABLE | 8) >> 16, 0x0600);
        assert_eq!(bridge.read(DATA + 2, Width::W2, 0), 0x0600);
        assert_eq!(by_port(&mut bridge, ENABLE | 12) >> 16 & 0xff, 0, "single-function header");
    }

    #[test]
    fn every_other_function_is_absent() {
        let mut bridge = HostBridge::default();
        for address in [1 << 8, 1 << 11, 1 << 16] {
            assert_eq!(by_port(&mut bridge, ENABLE | address), u32::MAX);
        }
        assert_eq!(by_port(&mut bridge, 0), u32::MAX, "not enabled");
    }

    #[test]
    fn ecam_shows_the_same_functions() {
        let mut bridge = HostBridge::default();
        for function in 0..=u8::MAX {
            let page = u64::from(function) << 12;
            for offset in (0..0x100).step_by(4) {
                let address = ENABLE | u32::from(function) << 8 | offset;
                let expected = by_port(&mut bridge, address).into();
                assert_eq!(bridge.read_ecam(page | u64::from(offset), Width::W4), expected);
            }
        }
        assert_eq!(bridge.read_ecam(0, Width::W8), 0x0008_1b36);
        assert_eq!(bridge.read_ecam(10, Width::W2), 0x0600);
        assert_eq!(bridge.read_ecam(0x100, Width::W4), 0, "no extended capability");
        assert_eq!(bridge.read_ecam(0x1000, Width::W8), u64::MAX);
    }

    #[test]
    fn config_address_reads_back_only_whole() {
        let mut bridge = HostBridge::default();
        bridge.write(3, Width::W1, 1, 0);
        bridge.write(ADDRESS, Width::W4, 0x8000_0000, 0);
        assert_eq!(bridge.read(ADDRESS, Width::W4, 0), 0x8000_0000);
        bridge.write(ADDRESS, Width::W2, 0x10, 0);
        assert_eq!(bridge.read(ADDRESS, Width::W4, 0), 0x8000_0000);
        assert_eq!(bridge.read(1, Width::W1, 0), 0xff);
    }

    proptest! {
        #[test]
        fn no_access_panics(accesses in proptest::collection::vec(
            (0_u64..9, 0_u32..4, any::<u64>()), 0..50)) {
            let mut bridge = HostBridge::default();
            for (offset, width, value) in accesses {
                let width = Width::try_new(1 << width).unwrap();
                bridge.write(offset, width, value, 0);
                prop_assert!(bridge.read(offset, width, 0) <= width.mask());
            }
        }
    }
}
