//! [`Msix`]: the MSI-X capability with its table and pending bits (PCIe 6.0, 7.7.2), which lie in BARs.

use alloc::boxed::Box;
use alloc::vec::Vec;
use core::ops::Range;

use ::pci::spec::capability::MSIX;
use ::pci::spec::capability::msix as spec;
use hw::{PAGE_SIZE, Width};
use x86_spec::apic::MsiMessage;

use super::Targets;
use super::config::ConfigSpace;
use super::endpoint::{Endpoint, Shape, Slot, Source};
use super::msi::{pending_bits, tell};
use crate::platform::{part_of_dword, with_part};

/// Message control, in the upper half of the first register: on; all masked.
const ENABLE: u32 = (spec::ENABLE as u32) << 16;
const MASK_ALL: u32 = (spec::MASK_ALL as u32) << 16;

/// Where MSI-X's parts are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Layout {
    /// The capability.
    pub(super) at: u16,
    entries: u16,
    table: Part,
    pending: Part,
}

/// A run of bytes in a BAR.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Part {
    bar: u8,
    range: Range<u64>,
}

impl Layout {
    /// What a shape's capability says; `None` where there is none, or it names what is not in a BAR.
    pub(super) fn of(shape: &Shape) -> Option<Self> {
        let capability = shape.capability(MSIX)?;
        let dword = |at: usize| {
            let bytes = capability.bytes.get(at..at + 4)?;
            Some(u32::from_le_bytes(bytes.try_into().ok()?))
        };
        let entries = ((dword(0)? >> 16) as u16 & spec::LAST) + 1;
        let part = |at: u16, bytes: u64| {
            let (bar, start) =
                ((dword(at.into())? & spec::BAR) as u8, u64::from(dword(at.into())? & !spec::BAR));
            let end = start + bytes;
            let fits = shape.bar(bar).filter(|_| bar < 6)?.guest_bytes() >= end;
            fits.then_some(Part { bar, range: start..end })
        };
        let table = part(spec::TABLE, u64::from(entries) * spec::ENTRY_BYTES)?;
        let pending = part(spec::PBA, u64::from(entries.div_ceil(64)) * 8)?;
        Some(Self { at: capability.offset, entries, table, pending })
    }

    /// Their pages in a BAR.
    pub(super) fn trapped(&self, bar: u8) -> [Range<u64>; 2] {
        [&self.table, &self.pending].map(|part| match &part.range {
            range if part.bar == bar => {
                let start = range.start / PAGE_SIZE * PAGE_SIZE;
                start..range.end.next_multiple_of(PAGE_SIZE)
            }
            _ => 0..0,
        })
    }
}

/// A function's MSI-X.
#[derive(Debug)]
pub(super) struct Msix {
    layout: Layout,
    entries: Vec<Entry>,
}

/// An entry of the table: address, its upper half, data and vector control; and what was told of it.
#[derive(Clone, Debug)]
struct Entry {
    words: [u32; 4],
    told: Slot,
}

impl Msix {
    /// Takes over a capability that has been put into `config`.
    pub(super) fn new(layout: Layout, config: &mut ConfigSpace) -> Self {
        let writable = ENABLE | MASK_ALL;
        config.define_part(layout.at, writable, 0, writable);
        let entry = Entry { words: [0, 0, 0, spec::ENTRY_MASKED], told: Slot::Off };
        Self { entries: alloc::vec![entry; layout.entries.into()], layout }
    }

    /// Whether it is on, which rules MSI out.
    pub(super) fn is_on(&self, config: &ConfigSpace) -> bool {
        config.dword(self.layout.at) & ENABLE != 0
    }

    /// Whether the register is message control.
    pub(super) const fn covers(&self, offset: u16) -> bool {
        offset & !3 == self.layout.at
    }

    /// Whether the table or the pending bits are there.
    pub(super) fn has(&self, bar: u8, at: u64) -> bool {
        [&self.layout.table, &self.layout.pending].iter().any(|part| part.offset(bar, at).is_some())
    }

    /// Reads the table or pending bits.
    pub(super) fn read(&self, bar: u8, at: u64, width: Width, endpoint: &dyn Endpoint) -> u64 {
        let dword = |at: u64| match self.find(bar, at) {
            Some((entry, word)) => self
                .entries
                .get(entry)
                .and_then(|entry| entry.words.get(word))
                .copied()
                .unwrap_or(0),
            None => self.layout.pending.offset(bar, at).map_or(0, |at| {
                let first = (at / 4 * 32) as u16;
                let told = self.entries.iter().skip(first.into()).map(|entry| &entry.told);
                pending_bits((first..).map(Source::Msix).zip(told).take(32), endpoint)
            }),
        };
        match width {
            Width::W8 => u64::from(dword(at)) | u64::from(dword(at + 4)) << 32,
            _ => part_of_dword(dword(at), at, width),
        }
    }

    /// Writes the table: the entry written. Pending bits cannot be.
    pub(super) fn write(&mut self, bar: u8, at: u64, width: Width, value: u64) -> Option<usize> {
        let (index, word) = self.find(bar, at)?;
        let entry = self.entries.get_mut(index)?;
        let halves =
            if width == Width::W8 { [Some(value), Some(value >> 32)] } else { [Some(value), None] };
        for (slot, half) in entry.words.iter_mut().skip(word).zip(halves.into_iter().flatten()) {
            *slot = with_part(*slot, at, width.min(Width::W4), half);
        }
        // An address is a multiple of 4, and of vector control there is only the mask.
        let [low, .., control] = &mut entry.words;
        *low &= !3;
        *control &= spec::ENTRY_MASKED;
        Some(index)
    }

    /// The entry and the word of it at an offset.
    fn find(&self, bar: u8, at: u64) -> Option<(usize, usize)> {
        let at = self.layout.table.offset(bar, at)?;
        Some(((at / spec::ENTRY_BYTES) as usize, (at % spec::ENTRY_BYTES / 4) as usize))
    }

    /// Every entry as after reset. To be followed by [`Msix::update`].
    pub(super) fn reset(&mut self) {
        for entry in &mut self.entries {
            entry.words = [0, 0, 0, spec::ENTRY_MASKED];
        }
    }

    /// Tells the endpoint what has changed, at one entry or at all. `allowed`: the function can send them at all.
    pub(super) fn update(
        &mut self,
        index: Option<usize>,
        config: &ConfigSpace,
        allowed: bool,
        endpoint: &mut Box<dyn Endpoint>,
        targets: Targets<'_>,
    ) {
        let control = config.dword(self.layout.at);
        let is_on = allowed && control & ENABLE != 0;
        let (skip, count) = index.map_or((0, usize::MAX), |index| (index, 1));
        let all = (0_u16..).zip(&mut self.entries);
        for (index, Entry { words: [low, high, data, own], told }) in all.skip(skip).take(count) {
            let address = u64::from(*high) << 32 | u64::from(*low);
            let message = is_on.then_some(MsiMessage { address, data: *data });
            let masked = control & MASK_ALL != 0 || *own & spec::ENTRY_MASKED != 0;
            tell(told, message, masked, Source::Msix(index), endpoint, targets);
        }
    }
}

impl Part {
    /// The offset within it.
    fn offset(&self, bar: u8, at: u64) -> Option<u64> {
        (bar == self.bar && self.range.contains(&at)).then(|| at - self.range.start)
    }
}
