//! [`ConfigSpace`]: the registers of one function as values and which of their bits can be written, with its capabilities
//! chained (PCIe 6.0, 7.5 and 7.6).

use alloc::vec::Vec;
use core::ops::Range;

use hw::Width;

use super::endpoint::Capability;
use crate::platform::with_part;
use ::pci::spec::{self, extended};

/// Configuration space of 4 KiB.
#[derive(Clone, Debug)]
pub(super) struct ConfigSpace {
    registers: Vec<Register>,
}

/// Four bytes.
#[derive(Clone, Copy, Debug, Default)]
struct Register {
    value: u32,
    /// Bits that the guest can write.
    writable: u32,
    /// What the register has after a reset.
    initial: u32,
}

impl ConfigSpace {
    /// All zeroes, and nothing can be written.
    pub(super) fn new() -> Self {
        Self { registers: alloc::vec![Register::default(); usize::from(spec::CONFIG_BYTES / 4)] }
    }

    /// The register that holds the byte at `offset`.
    pub(super) fn dword(&self, offset: u16) -> u32 {
        self.registers.get(usize::from(offset / 4)).map_or(0, |register| register.value)
    }

    /// Two bytes at an even offset.
    pub(super) fn word(&self, offset: u16) -> u16 {
        (self.dword(offset) >> (8 * (offset & 2))) as u16
    }

    /// Sets a register to what it has after a reset, and which of its bits can be written.
    pub(super) fn define(&mut self, offset: u16, value: u32, writable: u32) {
        if let Some(register) = self.registers.get_mut(usize::from(offset / 4)) {
            *register = Register { value, writable, initial: value };
        }
    }

    /// Likewise, but keeps bits outside `mask`.
    pub(super) fn define_part(&mut self, offset: u16, mask: u32, value: u32, writable: u32) {
        let old = self.registers.get(usize::from(offset / 4)).copied().unwrap_or_default();
        let writable = old.writable & !mask | writable & mask;
        self.define(offset, old.initial & !mask | value & mask, writable);
    }

    /// Sets bits as the hardware does, for the guest to see.
    pub(super) fn set(&mut self, offset: u16, mask: u32, value: u32) {
        if let Some(register) = self.registers.get_mut(usize::from(offset / 4)) {
            register.value = register.value & !mask | value & mask;
        }
    }

    /// A write of the guest's to some bytes of a register.
    pub(super) fn write(&mut self, offset: u16, width: Width, value: u32) {
        if let Some(register) = self.registers.get_mut(usize::from(offset / 4)) {
            let merged = with_part(register.value, offset.into(), width, value.into());
            register.value = register.value & !register.writable | merged & register.writable;
        }
    }

    /// Everything as after a reset.
    pub(super) fn reset(&mut self) {
        for register in &mut self.registers {
            register.value = register.initial;
        }
    }

    /// Sets bytes that only can be read.
    fn put(&mut self, offset: u16, bytes: &[u8]) {
        for (at, byte) in (offset..).zip(bytes) {
            let shift = 8 * (at & 3);
            self.define_part(at, 0xff << shift, u32::from(*byte) << shift, 0);
        }
    }

    /// Puts capabilities that [`fitting`] gave in, read-only, and chains them.
    pub(super) fn chain(&mut self, capabilities: &[&Capability]) {
        let mut link = spec::CAPABILITIES;
        for capability in capabilities {
            let at = capability.offset;
            self.put(at, &capability.bytes);
            self.define_part(at, 0xff00, 0, 0);
            // The first link is a byte of its own, the others follow the ID.
            let shift = if link == spec::CAPABILITIES { 0 } else { 8 };
            self.define_part(link, 0xff << shift, u32::from(at) << shift, 0);
            link = at;
        }
        if link != spec::CAPABILITIES {
            let list = u32::from(spec::STATUS_CAPABILITIES) << 16;
            self.define_part(spec::COMMAND, list, list, 0);
        }
    }

    /// Likewise extended ones. The chain starts at 0x100: without a capability there that of ID 0, which is none.
    pub(super) fn chain_extended(&mut self, capabilities: &[&Capability]) {
        const NEXT: u32 = 0xfff0_0000;
        let mut link = extended::FIRST;
        for capability in capabilities {
            let at = capability.offset;
            self.put(at, &capability.bytes);
            self.define_part(at, NEXT, 0, 0);
            if at != link {
                self.define_part(link, NEXT, u32::from(at) << 20, 0);
            }
            link = at;
        }
    }
}

/// Those capabilities that lie within a range and apart from one another, in the order of their places.
pub(super) fn fitting<'a>(
    capabilities: impl Iterator<Item = &'a Capability>,
    within: Range<u16>,
) -> Vec<&'a Capability> {
    let mut all: Vec<_> = capabilities.collect();
    all.sort_by_key(|capability| capability.offset);
    let mut free = within.start;
    all.retain(|capability| {
        let (at, bytes) = (capability.offset, capability.bytes.len());
        let end = usize::from(at) + bytes;
        let fits = at >= free && at % 4 == 0 && bytes >= 4 && end <= usize::from(within.end);
        if fits {
            free = end as u16;
        }
        fits
    });
    all
}
