//! A function's header (PCIe 6.0, 7.5.1.2), and which bytes of its configuration space are the endpoint's own.

use alloc::vec::Vec;

use ::pci::spec::{self, capability, extended};

use super::config::ConfigSpace;
use super::endpoint::{Capability, ROM, Shape};
use super::plan::PortPlan;

/// Command bits that can be written: memory, master, parity, SERR, INTx disable. Not I/O, of which there is none.
pub(super) const COMMAND_WRITABLE: u16 =
    spec::COMMAND_MEMORY | spec::COMMAND_MASTER | 1 << 6 | 1 << 8 | spec::COMMAND_INTX_DISABLE;

/// Where a BAR, or the ROM, has its register.
pub(super) const fn bar_register(index: u8) -> u16 {
    if index == ROM { spec::ROM } else { spec::BAR0 + 4 * index as u16 }
}

/// Defines a function's header: nothing decodes, BARs are where the plan has them.
pub(super) fn define(config: &mut ConfigSpace, shape: &Shape, plan: &PortPlan) {
    let pair = |low, high| u32::from(high) << 16 | u32::from(low);
    for (offset, value, writable) in [
        (spec::VENDOR, pair(shape.vendor, shape.device), 0),
        (spec::COMMAND, 0, COMMAND_WRITABLE.into()),
        (spec::REVISION, shape.class << 8 | u32::from(shape.revision), 0),
        (spec::CACHE_LINE, 0, 0xff),
        (spec::SUBSYSTEM_VENDOR, pair(shape.subsystem_vendor, shape.subsystem), 0),
        (spec::INTERRUPT_LINE, 0, 0xff),
    ] {
        config.define(offset, value, writable);
    }
    for (index, base) in (0..=ROM).zip(plan.bars) {
        let Some(bar) = shape.bar(index) else { continue };
        let bytes = bar.guest_bytes();
        let (register, mask) = (bar_register(index), !(bytes - 1));
        if index == ROM {
            config.define(register, base as u32, mask as u32 | spec::ROM_ENABLE);
            continue;
        }
        let flag = |is_set, flag| if is_set { flag } else { 0 };
        let flags =
            flag(bar.is_64bit, spec::BAR_64) | flag(bar.prefetchable, spec::BAR_PREFETCHABLE);
        config.define(register, base as u32 | flags, mask as u32);
        if bar.is_64bit {
            config.define(register + 4, (base >> 32) as u32, (mask >> 32) as u32);
        }
    }
}

/// The bytes that the endpoint answers: not the header, emulated capabilities, and the links between those that are shown.
pub(super) fn through(shape: &Shape, shown: &[&Capability], far: &[&Capability]) -> Vec<u32> {
    let mut bits = alloc::vec![0_u32; usize::from(spec::CONFIG_BYTES / 32)];
    let mut set = |range: core::ops::Range<u16>, on: bool| {
        for offset in range {
            if let Some(word) = bits.get_mut(usize::from(offset / 32)) {
                let bit = 1 << (offset % 32);
                *word = if on { *word | bit } else { *word & !bit };
            }
        }
    };
    for range in &shape.through {
        set(range.clone(), true);
    }
    set(0..spec::HEADER_END, false);
    for capability in shown {
        let is_emulated = matches!(
            capability.bytes.first(),
            Some(&(capability::POWER | capability::MSI | capability::MSIX | capability::EXPRESS))
        );
        let bytes = if is_emulated { capability.bytes.len() as u16 } else { 2 };
        set(capability.offset..capability.offset + bytes, false);
    }
    for capability in far {
        set(capability.offset..capability.offset + 4, false);
    }
    // Where the chain starts there is a link in any case.
    set(extended::FIRST..extended::FIRST + 4, false);
    bits
}
