//! [`Port`]: a virtual root port, a PCI-to-PCI bridge (PCIe 6.0, 7.5.1.3) without I/O window. It never sends its MSI: nothing
//! happens at its slot yet.

use ::pci::spec::{self, capability};
use hw::Width;

use super::Effect;
use super::config::ConfigSpace;
use super::endpoint::Capability;
use super::express::{self, Link};
use super::header::COMMAND_WRITABLE;
use super::msi;
use super::plan::{BRIDGE_GRANULE, PortPlan};
use crate::platform::part_of_dword;

/// 1b36:000c, a root port that no driver has quirks for.
const IDENTITY: u32 = 0x000c_1b36;
/// A PCI-to-PCI bridge.
const CLASS: u32 = 0x0604_0000;
const EXPRESS: u16 = 0x40;
const MSI: u16 = EXPRESS + capability::express::BYTES + 4;
/// The MSI capability: one vector, 64-bit addresses.
const MSI_BYTES: [u8; 14] = [capability::MSI, 0, 0x80, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
/// Primary, secondary and subordinate bus.
const BUSES: u16 = 0x18;
/// The memory window, the prefetchable one, and the upper halves of the latter's ends.
const MEMORY: u16 = 0x20;
const PREFETCHABLE: u16 = 0x24;
const PREFETCHABLE_BASE_HIGH: u16 = 0x28;
const PREFETCHABLE_LIMIT_HIGH: u16 = 0x2c;
/// Memory windows: bits 31:20 of the base are in 15:4, those of the limit in 31:20.
const WINDOW: u32 = 0xfff0_fff0;
/// A prefetchable one has 64 bits.
const WINDOW_IS_64BIT: u32 = 0x0001_0001;
/// Bridge control, above interrupt line and pin: parity and SERR; reset of the bus behind.
const BRIDGE_CONTROL_WRITABLE: u32 = 0x0043 << 16;
const BUS_RESET: u32 = 0x40 << 16;

/// A root port.
#[derive(Debug)]
pub(super) struct Port {
    config: ConfigSpace,
}

impl Port {
    /// The port of this index as firmware leaves it: windows open, its bus numbered. `more`: its device has more functions.
    pub(super) fn new(index: u8, more: bool, plan: &PortPlan, link: Link) -> Self {
        let mut config = ConfigSpace::new();
        let number = u32::from(index) + 1;
        let header_type = u32::from(spec::HEADER_BRIDGE) << 16
            | if more { u32::from(spec::HEADER_MULTIFUNCTION) << 16 } else { 0 };
        let command = spec::COMMAND_MEMORY | spec::COMMAND_MASTER;
        let (memory, prefetchable) = (window(&plan.memory), window(&plan.prefetchable));
        let high = |address: u64| (address >> 32) as u32;
        for (offset, value, writable) in [
            (spec::VENDOR, IDENTITY, 0),
            (spec::COMMAND, command.into(), COMMAND_WRITABLE.into()),
            (spec::REVISION, CLASS, 0),
            (spec::CACHE_LINE, header_type, 0xff),
            (BUSES, number << 8 | number << 16, 0x00ff_ffff),
            (MEMORY, memory, WINDOW),
            (PREFETCHABLE, prefetchable | WINDOW_IS_64BIT, WINDOW),
            (PREFETCHABLE_BASE_HIGH, high(plan.prefetchable.start), u32::MAX),
            (PREFETCHABLE_LIMIT_HIGH, high(plan.prefetchable.end.saturating_sub(1)), u32::MAX),
            (spec::INTERRUPT_LINE, 0, BRIDGE_CONTROL_WRITABLE | 0xff),
        ] {
            config.define(offset, value, writable);
        }
        let mut express = [0; capability::express::BYTES as usize];
        express[0] = capability::EXPRESS;
        let express = Capability { offset: EXPRESS, bytes: express.into() };
        let msi = Capability { offset: MSI, bytes: MSI_BYTES.into() };
        config.chain(&[&express, &msi]);
        express::define_port(&mut config, EXPRESS, number, link);
        if let Some(registers) = msi::Registers::of(&msi) {
            registers.define(&mut config);
        }
        Self { config }
    }

    /// Reads configuration space.
    pub(super) fn read(&self, offset: u16, width: Width) -> u32 {
        part_of_dword(self.config.dword(offset), offset.into(), width) as u32
    }

    /// Writes it. To be reset is the function behind.
    pub(super) fn write(&mut self, offset: u16, width: Width, value: u32) -> Effect {
        let control = self.config.dword(spec::INTERRUPT_LINE);
        self.config.write(offset, width, value);
        if self.config.dword(spec::INTERRUPT_LINE) & !control & BUS_RESET != 0 {
            return Effect::Reset;
        }
        if offset < spec::HEADER_END { Effect::Routing } else { Effect::None }
    }

    /// As after reset.
    pub(super) fn reset(&mut self) {
        self.config.reset();
    }

    /// The bus behind it.
    pub(super) fn secondary(&self) -> u8 {
        (self.config.dword(BUSES) >> 8) as u8
    }

    /// Whether it lets DMA and interrupts from behind pass.
    pub(super) fn passes_requests(&self) -> bool {
        self.config.word(spec::COMMAND) & spec::COMMAND_MASTER != 0
    }

    /// Whether it passes accesses to these addresses on.
    pub(super) fn passes(&self, start: u64, bytes: u64) -> bool {
        let bits =
            |register: u32, high: u32| u64::from(high) << 32 | u64::from(register & 0xfff0) << 16;
        let is_in = |register: u16, highs: [u32; 2]| {
            let register = self.config.dword(register);
            let (base, limit) = (bits(register, highs[0]), bits(register >> 16, highs[1]));
            base <= start && start + (bytes - 1) <= limit | (BRIDGE_GRANULE - 1)
        };
        let highs = [PREFETCHABLE_BASE_HIGH, PREFETCHABLE_LIMIT_HIGH];
        self.config.word(spec::COMMAND) & spec::COMMAND_MEMORY != 0
            && (is_in(MEMORY, [0; 2])
                || is_in(PREFETCHABLE, highs.map(|register| self.config.dword(register))))
    }
}

/// A window's register; of an empty one, the base is above the limit.
fn window(range: &core::ops::Range<u64>) -> u32 {
    if range.is_empty() {
        return 0x0000_fff0;
    }
    let bits = |address: u64| (address >> 16) as u32 & 0xfff0;
    bits(range.start) | bits(range.end - 1) << 16
}
