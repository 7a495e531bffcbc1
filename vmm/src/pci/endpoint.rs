//! [`Endpoint`]: a PCI function given to a guest, as this crate needs it from whoever drives the real one; and its [`Shape`].

use alloc::vec::Vec;
use core::fmt;
use core::ops::Range;

use hw::{Gpa, PAGE_SIZE, Width};

use super::msix;
use crate::line::parts;
use crate::platform::InterruptMessage;

/// A function of a VM. All calls but [`Endpoint::shape`] follow from what the guest does, and come with the lock of the VM's
/// devices held: none may wait for another virtual CPU, nor call into the [`Vm`](crate::Vm) what takes that lock.
///
/// A new one is as [`Endpoint::reset`] leaves it: no BAR placed, no bus mastering, every interrupt [`Slot::Off`].
pub trait Endpoint: Send + fmt::Debug {
    /// What the guest may see; the same at every call.
    fn shape(&self) -> &Shape;
    /// Reads configuration space within [`Shape::through`]; four bytes at most.
    fn config_read(&mut self, offset: u16, width: Width) -> u32;
    /// Writes configuration space within [`Shape::through`]; four bytes at most.
    fn config_write(&mut self, offset: u16, width: Width, value: u32);
    /// The BAR, or [`ROM`], is at this address for the guest, or nowhere. To be mapped are all pages but those of
    /// [`Shape::trapped`], and those that would show more than the BAR. Addresses are multiples of the size, lie in the
    /// windows of the [`Plan`](super::Plan) and never overlap other BARs' of the VM. Where it was before, if anywhere, it
    /// leaves.
    fn place(&mut self, bar: u8, at: Option<Gpa>);
    /// An access that came here, be it that the page is not mapped or that an instruction was emulated, and that does not
    /// concern MSI-X's table and pending bits. It lies in the BAR as the guest sees it.
    fn bar_read(&mut self, bar: u8, offset: u64, width: Width) -> u64;
    /// Likewise a write.
    fn bar_write(&mut self, bar: u8, offset: u64, width: Width, value: u64);
    /// Likewise a write of 64 aligned bytes at once (MOVDIR64B). By itself it is eight writes in order of their addresses,
    /// as which registers see it that know no other.
    fn bar_write_line(&mut self, bar: u8, offset: u64, line: &[u8; 64]) {
        for (at, part) in parts(line) {
            self.bar_write(bar, offset + at, Width::W8, part);
        }
    }
    /// The guest changed an interrupt.
    fn interrupt(&mut self, source: Source, state: Slot);
    /// Whether an interrupt waits for its mask to go.
    fn pending(&self, source: Source) -> bool;
    /// Whether the guest lets the function do DMA, interrupts included.
    fn master(&mut self, on: bool);
    /// The guest asked for a function-level reset, or it is itself reset. BARs, interrupts and bus mastering have been
    /// taken back before by the calls above.
    fn reset(&mut self);
    /// Whether it is through with its reset. Until then the guest reads all ones from its configuration space, which takes
    /// no writes, so nothing else is asked of the endpoint.
    fn is_ready(&mut self) -> bool;
}

/// The expansion ROM's index among BARs.
pub const ROM: u8 = 6;

/// What a guest sees of a function. The header and the four capabilities that are known by their IDs are emulated: power
/// management, MSI, MSI-X and PCI Express. Any other is read-only but for what [`Shape::through`] says.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Shape {
    /// Vendor ID.
    pub vendor: u16,
    /// Device ID.
    pub device: u16,
    /// Subsystem vendor ID.
    pub subsystem_vendor: u16,
    /// Subsystem ID.
    pub subsystem: u16,
    /// Base class, subclass and interface, 24 bits.
    pub class: u32,
    /// Revision ID.
    pub revision: u8,
    /// Memory BARs; the one after a 64-bit one is part of it. I/O BARs are not shown.
    pub bars: [Option<BarShape>; 6],
    /// Bytes of the expansion ROM; 0 where there is none.
    pub rom_bytes: u64,
    /// Capabilities to show, in any order.
    pub capabilities: Vec<Capability>,
    /// Extended capabilities to show, in any order.
    pub extended: Vec<Capability>,
    /// Bytes of configuration space that [`Endpoint::config_read`] and [`Endpoint::config_write`] answer. Where they meet
    /// emulated registers they count for nothing.
    pub through: Vec<Range<u16>>,
}

impl Shape {
    /// The first capability with this ID.
    pub(super) fn capability(&self, id: u8) -> Option<&Capability> {
        self.capabilities.iter().find(|capability| capability.bytes.first() == Some(&id))
    }

    /// A BAR, or the ROM.
    pub(super) fn bar(&self, index: u8) -> Option<BarShape> {
        match index {
            ROM => (self.rom_bytes != 0).then_some(BarShape {
                bytes: self.rom_bytes,
                is_64bit: false,
                prefetchable: false,
            }),
            _ => {
                let index = usize::from(index);
                let bar = self.bars.get(index).copied().flatten()?;
                // A 64-bit one takes the next one's register.
                (!bar.is_64bit || index + 1 < self.bars.len()).then_some(bar)
            }
        }
    }

    /// The pages of a BAR that are never mapped, as they hold MSI-X's table or pending bits: offsets, of which the first
    /// two are multiples of the page size. A range may be empty, or reach past the BAR.
    #[must_use]
    pub fn trapped(&self, bar: u8) -> [Range<u64>; 2] {
        msix::Layout::of(self).map_or([0..0, 0..0], |layout| layout.trapped(bar))
    }
}

/// A memory BAR.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BarShape {
    /// Its size. Guests see the next power of two, and a page at least.
    pub bytes: u64,
    /// Whether it has 64 bits.
    pub is_64bit: bool,
    /// Whether it is prefetchable.
    pub prefetchable: bool,
}

impl BarShape {
    /// Its size for the guest.
    pub(super) fn guest_bytes(self) -> u64 {
        self.bytes.max(PAGE_SIZE).checked_next_power_of_two().unwrap_or(1 << 63)
    }

    /// Whether it may lie above 4 GiB behind a bridge, whose window there is for prefetchable memory.
    pub(super) const fn is_high(self) -> bool {
        self.is_64bit && self.prefetchable
    }
}

/// A capability at its place in configuration space.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Capability {
    /// Where it starts: a multiple of 4 from 0x40 or, extended ones, from 0x100 on.
    pub offset: u16,
    /// All of its bytes as the function has them. The link to the next is made anew.
    pub bytes: Vec<u8>,
}

/// One of a function's interrupts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Source {
    /// A vector of MSI.
    Msi(u8),
    /// An entry of MSI-X's table.
    Msix(u16),
}

/// What the guest wants of an interrupt.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Slot {
    /// Nothing yet, or no more.
    #[default]
    Off,
    /// To be held back, as a pending bit: [`Endpoint::pending`].
    Masked(Route),
    /// To be sent.
    On(Route),
}

/// Where an interrupt goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Route {
    /// What to give to [`Vm::deliver`](crate::Vm::deliver) when it comes.
    pub message: InterruptMessage,
    /// The first virtual CPU that took such a message when the guest wrote it: near to which the real one is best sent.
    pub vcpu: u32,
}
