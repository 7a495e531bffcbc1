//! [`Plan`]: how a guest's PCI is laid out: which buses there are, the windows of its host bridge, and where Kerf puts BARs
//! before the guest does.

use alloc::vec::Vec;
use core::ops::Range;

use hw::{Gpa, PAGE_SIZE_1G};

use super::endpoint::{ROM, Shape};
use crate::loader::GuestLayout;

/// Where ECAM is. Buses up to 255 find room before the I/O APIC.
pub const ECAM_BASE: Gpa = Gpa::new(0xe000_0000);
/// The window for 32-bit BARs, and for those that are not prefetchable: from the highest end of low RAM to ECAM.
pub const MEMORY32: Range<u64> = GuestLayout::LOW_MAX..ECAM_BASE.raw();
/// Devices of bus 0 that have root ports; the host bridge is device 0.
pub(super) const PORT_DEVICES: usize = 31;
/// Root ports there can be: eight functions in each device.
const PORTS_MAX: usize = 8 * PORT_DEVICES;
/// Bits of an address that four levels of second-stage tables translate (SDM vol. 3, 29.3.2).
const SECOND_STAGE_BITS: u8 = 48;
/// What bridge windows are multiples of (PCI-to-PCI Bridge Architecture 1.2, 3.2.5.8).
pub(super) const BRIDGE_GRANULE: u64 = 1 << 20;

/// A guest's PCI topology: bus 0 with the host bridge and, for each function, a root port with a bus of its own behind it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Plan {
    ports: Vec<PortPlan>,
    memory64: Range<u64>,
}

/// What is behind a root port.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct PortPlan {
    /// Addresses of the BARs and the ROM.
    pub(super) bars: [u64; ROM as usize + 1],
    /// The bridge's window below 4 GiB; empty where no BAR needs it.
    pub(super) memory: Range<u64>,
    /// Its window for 64-bit prefetchable BARs.
    pub(super) prefetchable: Range<u64>,
}

/// Why functions do not fit a guest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PlanError {
    /// More functions than a guest can have.
    Functions {
        /// How many it can have.
        most: usize,
    },
    /// BARs that must lie below 4 GiB need more than there is.
    Memory32,
    /// 64-bit BARs need more than the guest's physical addresses reach.
    Memory64,
}

impl Plan {
    /// Lays out functions of these shapes, in their order, beside RAM of `layout`. `physical_bits` is the width of
    /// addresses as CPUID gives it to the guest.
    ///
    /// # Errors
    /// [`PlanError`] where they do not fit.
    pub fn new<'a>(
        layout: &GuestLayout,
        physical_bits: u8,
        shapes: impl IntoIterator<Item = &'a Shape>,
    ) -> Result<Self, PlanError> {
        let shapes: Vec<_> = shapes.into_iter().collect();
        if shapes.len() > PORTS_MAX {
            return Err(PlanError::Functions { most: PORTS_MAX });
        }
        let ram_end = layout.high.end().raw().max(GuestLayout::HIGH_START.raw());
        let start = ram_end.next_multiple_of(PAGE_SIZE_1G);
        let memory64 = start..(1 << physical_bits.min(SECOND_STAGE_BITS)).max(start);
        let mut ports = alloc::vec![PortPlan::default(); shapes.len()];
        let is_high = |shape: &Shape, bar| shape.bar(bar).is_some_and(|bar| bar.is_high());
        for (window, high) in [(MEMORY32, false), (memory64.clone(), true)] {
            let needs =
                shapes.iter().map(|shape| Needs::new(shape, |bar| is_high(shape, bar) == high));
            let error = if high { PlanError::Memory64 } else { PlanError::Memory32 };
            let all: Vec<_> = ports.iter_mut().zip(needs).collect();
            place(all, window, high).ok_or(error)?;
        }
        Ok(Self { ports, memory64 })
    }

    /// How many buses there are, bus 0 among them.
    #[must_use]
    pub const fn buses(&self) -> u8 {
        self.ports.len() as u8 + 1
    }

    /// Bytes of ECAM: a page for each function of each bus.
    #[must_use]
    pub const fn ecam_bytes(&self) -> u64 {
        (self.buses() as u64) << 20
    }

    /// The window for 64-bit prefetchable BARs: all that there is above RAM, or empty.
    #[must_use]
    pub const fn memory64(&self) -> &Range<u64> {
        &self.memory64
    }

    /// Whether a BAR can lie there.
    pub(super) fn has(&self, start: u64, bytes: u64) -> bool {
        let is_in = |window: &Range<u64>| {
            window.start <= start && start.checked_add(bytes).is_some_and(|end| end <= window.end)
        };
        is_in(&MEMORY32) || is_in(&self.memory64)
    }

    /// Whether a function's memory may be there.
    #[inline]
    pub(crate) fn is_memory(&self, gpa: Gpa) -> bool {
        !self.ports.is_empty() && self.has(gpa.raw(), 1)
    }

    pub(super) fn port(&self, index: usize) -> Option<&PortPlan> {
        self.ports.get(index)
    }
}

/// BARs of one function that go to one window: sizes and indices, largest first.
struct Needs(Vec<(u64, u8)>);

impl Needs {
    fn new(shape: &Shape, fits: impl Fn(u8) -> bool) -> Self {
        let bars = (0..=ROM).filter(|&bar| fits(bar));
        let mut bars: Vec<_> =
            bars.filter_map(|bar| Some((shape.bar(bar)?.guest_bytes(), bar))).collect();
        bars.sort_unstable_by(|one, other| other.cmp(one));
        Self(bars)
    }

    /// What the window's start is a multiple of. 0: nothing is needed.
    fn align(&self) -> u64 {
        self.0.first().map_or(0, |&(bytes, _)| bytes.max(BRIDGE_GRANULE))
    }
}

/// Gives each port its part of `window`; those that need the roundest addresses first, so that no gaps arise.
fn place(mut ports: Vec<(&mut PortPlan, Needs)>, window: Range<u64>, high: bool) -> Option<()> {
    ports.sort_by_key(|(_, needs)| core::cmp::Reverse(needs.align()));
    let mut next = window.start;
    for (port, needs) in ports.into_iter().filter(|(_, needs)| needs.align() != 0) {
        let start = next.checked_next_multiple_of(needs.align())?;
        next = start;
        for (bytes, bar) in needs.0 {
            if let Some(slot) = port.bars.get_mut(usize::from(bar)) {
                *slot = next;
            }
            next = next.checked_add(bytes)?;
        }
        next = next.checked_next_multiple_of(BRIDGE_GRANULE)?;
        if next > window.end {
            return None;
        }
        *if high { &mut port.prefetchable } else { &mut port.memory } = start..next;
    }
    Some(())
}
