//! The PCI that a guest sees: configuration space by ports (PCI 3.0, 3.2.2.3.2) and by memory (ECAM, PCIe 6.0, 7.2.2), a
//! host bridge, and the functions given to the guest, each behind a root port of its own.
//!
//! [`Endpoint`] is what stands behind a function, [`Shape`] what a guest may see of it, [`Plan`] where everything is at first.
//! `function` and `port` are the two kinds of configuration space, made of registers (`config`) and capabilities (`express`,
//! `msi`, `msix`). What a guest writes there changes which BARs decode where, who may do DMA and where interrupts go; endpoints
//! learn of changes alone.

mod config;
mod endpoint;
mod express;
mod function;
mod header;
mod msi;
mod msix;
mod plan;
mod port;
#[cfg(test)]
pub(crate) mod tests;

use alloc::boxed::Box;
use alloc::vec::Vec;

use ::pci::spec;
use hw::{Gpa, Port as IoPort, Width};

use crate::platform::{InterruptMessage, PortWindow, part_of_dword};
use express::Link;
use function::Function;
use plan::PORT_DEVICES;
use port::Port;

pub use endpoint::{BarShape, Capability, Endpoint, ROM, Route, Shape, Slot, Source};
pub use plan::{ECAM_BASE, MEMORY32, Plan, PlanError};

/// Its ports: CONFIG_ADDRESS and CONFIG_DATA. A one-byte write to 0xcf9, which lies among them, is the reset control
/// register: [`crate::platform::pm::reset_by_port`].
pub const PORTS: PortWindow = PortWindow { first: IoPort(spec::CONFIG_ADDRESS_PORT), count: 8 };

/// Offset of CONFIG_ADDRESS: enable 31, bus 23:16, device 15:11, function 10:8, register 7:2.
const ADDRESS: u64 = 0;
/// Offset of CONFIG_DATA.
const DATA: u64 = 4;
const ENABLE: u32 = spec::CONFIG_ADDRESS_ENABLE;

/// The first dwords of the host bridge's configuration header. Identity: 1b36:0008, a host bridge that no driver has
/// quirks for; class 06 00 00.
const HOST_BRIDGE: [u32; 3] = [0x0008_1b36, 0x0000_0000, 0x0600_0000];

/// Finds the virtual CPU that takes a message.
pub type Targets<'a> = &'a dyn Fn(&InterruptMessage) -> Option<u32>;

/// What follows from a write of configuration space, the greater the more.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Effect {
    None,
    /// Which BARs decode where, or who may do DMA, may have changed.
    Routing,
    /// The function is to be reset.
    Reset,
}

/// The host bridge and all behind it. [`Vm`](crate::Vm) has one; it is public for those that play guests without one.
#[derive(Debug, Default)]
pub struct RootComplex {
    address: u32,
    plan: Plan,
    branches: Vec<Branch>,
    /// The BARs that endpoints were told to place, by address; and room for as many to come.
    placed: Vec<Placed>,
    next: Vec<Placed>,
}

/// A root port and the function behind it.
#[derive(Debug)]
struct Branch {
    port: Port,
    function: Function,
}

/// A BAR at its address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Placed {
    start: u64,
    bytes: u64,
    branch: u8,
    bar: u8,
}

/// What a function's number stands for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Found {
    HostBridge,
    Port(usize),
    Function(usize),
}

impl RootComplex {
    /// As after reset, with functions for which `plan` was made.
    pub fn new(plan: &Plan, endpoints: Vec<Box<dyn Endpoint>>) -> Self {
        let count = endpoints.len();
        let branch = |(index, endpoint): (u8, Box<dyn Endpoint>)| {
            let port = plan.port(index.into())?;
            let more =
                usize::from(index) < PORT_DEVICES && usize::from(index) + PORT_DEVICES < count;
            let link = Link::of(endpoint.shape());
            let function = Function::new(endpoint, port);
            Some(Branch { port: Port::new(index, more, port, link), function })
        };
        let most = count * (usize::from(ROM) + 1);
        Self {
            address: 0,
            plan: plan.clone(),
            branches: (0..).zip(endpoints).filter_map(branch).collect(),
            placed: Vec::with_capacity(most),
            next: Vec::with_capacity(most),
        }
    }

    /// As after reset; functions stay, and are reset.
    pub fn reset(&mut self) {
        self.address = 0;
        for branch in &mut self.branches {
            branch.port.reset();
            branch.function.clear();
        }
        self.settle();
        for branch in &mut self.branches {
            branch.function.reset_endpoint();
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

    /// Reads a port.
    pub fn read(&mut self, offset: u64, width: Width) -> u64 {
        match offset {
            // Narrower accesses are not CONFIG_ADDRESS.
            ADDRESS if width == Width::W4 => self.address.into(),
            DATA.. if self.address & ENABLE != 0 => {
                let (function, register) = self.selected(offset);
                self.read_config(function, register, width).into()
            }
            _ => width.mask(),
        }
    }

    /// Writes a port.
    pub fn write(&mut self, offset: u64, width: Width, value: u64, targets: Targets<'_>) {
        match offset {
            ADDRESS if width == Width::W4 => self.set_address(value as u32),
            DATA.. if self.address & ENABLE != 0 => {
                let (function, register) = self.selected(offset);
                self.write_config(function, register, width, value as u32, targets);
            }
            _ => {}
        }
    }

    /// The function and the byte of its space that CONFIG_ADDRESS and an offset among the ports select.
    const fn selected(&self, offset: u64) -> (u16, u16) {
        ((self.address >> 8) as u16, self.address as u16 & 0xfc | (offset & 3) as u16)
    }

    /// Reads ECAM. An access lies within a function's page.
    pub fn read_ecam(&mut self, offset: u64, width: Width) -> u64 {
        let (function, register) = ((offset >> 12) as u16, (offset & 0xfff) as u16);
        let mut read = |register, width| u64::from(self.read_config(function, register, width));
        match width {
            Width::W8 => read(register, Width::W4) | read(register + 4, Width::W4) << 32,
            _ => read(register, width),
        }
    }

    /// Writes ECAM, likewise.
    pub fn write_ecam(&mut self, offset: u64, width: Width, value: u64, targets: Targets<'_>) {
        let (function, register) = ((offset >> 12) as u16, (offset & 0xfff) as u16);
        let count = if width == Width::W8 { 2 } else { 1 };
        for (register, value) in
            [(register, value), (register + 4, value >> 32)].into_iter().take(count)
        {
            self.write_config(function, register, width.min(Width::W4), value as u32, targets);
        }
    }

    /// What a function's number (bus 15:8, device 7:3, function 2:0) stands for: on bus 0 the ports, on the others what
    /// the guest's bus numbers say.
    fn find(&self, function: u16) -> Option<Found> {
        let (bus, device, number) = ((function >> 8) as u8, function >> 3 & 0x1f, function & 7);
        match (bus, device, number) {
            (0, 0, 0) => Some(Found::HostBridge),
            (0, 0, _) => None,
            (0, ..) => {
                let index = usize::from(device) - 1 + PORT_DEVICES * usize::from(number);
                (index < self.branches.len()).then_some(Found::Port(index))
            }
            (_, 0, 0) => {
                let index = self.branches.iter().position(|branch| branch.port.secondary() == bus);
                index.map(Found::Function)
            }
            _ => None,
        }
    }

    fn read_config(&mut self, function: u16, offset: u16, width: Width) -> u32 {
        let read = match self.find(function) {
            Some(Found::HostBridge) => {
                let register = HOST_BRIDGE.get(usize::from(offset / 4)).copied().unwrap_or(0);
                Some(part_of_dword(register, offset.into(), width) as u32)
            }
            Some(Found::Port(index)) => {
                self.branches.get(index).map(|branch| branch.port.read(offset, width))
            }
            Some(Found::Function(index)) => {
                self.branches.get_mut(index).map(|branch| branch.function.read(offset, width))
            }
            None => None,
        };
        read.unwrap_or(width.mask() as u32)
    }

    fn write_config(
        &mut self,
        function: u16,
        offset: u16,
        width: Width,
        value: u32,
        targets: Targets<'_>,
    ) {
        let found = self.find(function);
        let (Some(Found::Port(index)) | Some(Found::Function(index))) = found else { return };
        let Some(branch) = self.branches.get_mut(index) else { return };
        let effect = match found {
            Some(Found::Port(_)) => branch.port.write(offset, width, value),
            _ => branch.function.write(offset, width, value, targets),
        };
        if effect == Effect::Reset {
            branch.function.clear();
        }
        if effect >= Effect::Routing {
            self.settle();
        }
        if effect == Effect::Reset
            && let Some(branch) = self.branches.get_mut(index)
        {
            branch.function.reset_endpoint();
        }
    }

    /// Tells endpoints what has changed of BARs and bus mastering. A BAR counts where its port passes it on, in a window of
    /// the host bridge; of those that overlap, the one that starts lower.
    fn settle(&mut self) {
        self.next.clear();
        for (index, branch) in (0..).zip(&mut self.branches) {
            branch.function.settle_master(branch.port.passes_requests());
            for (bar, start, bytes) in branch.function.decoded() {
                if self.plan.has(start, bytes) && branch.port.passes(start, bytes) {
                    self.next.push(Placed { start, bytes, branch: index, bar });
                }
            }
        }
        self.next.sort_unstable_by_key(|placed| placed.start);
        let mut free = 0;
        self.next.retain(|placed| {
            let fits = placed.start >= free;
            if fits {
                free = placed.start + placed.bytes;
            }
            fits
        });
        core::mem::swap(&mut self.placed, &mut self.next);
        let (old, new) = (&self.next, &self.placed);
        for gone in old.iter().filter(|old| at(new, old.start) != Some(*old)) {
            if let Some(branch) = self.branches.get_mut(usize::from(gone.branch)) {
                branch.function.place(gone.bar, None);
            }
        }
        for come in new.iter().filter(|new| at(old, new.start) != Some(*new)) {
            if let Some(branch) = self.branches.get_mut(usize::from(come.branch)) {
                branch.function.place(come.bar, Some(Gpa::new(come.start)));
            }
        }
    }

    /// Reads a BAR; `None` where there is none.
    pub fn read_memory(&mut self, gpa: Gpa, width: Width) -> Option<u64> {
        let (placed, offset) = self.placed_at(gpa)?;
        let branch = self.branches.get_mut(usize::from(placed.branch))?;
        Some(branch.function.bar_read(placed.bar, offset, width))
    }

    /// Writes a BAR; `None` where there is none.
    pub fn write_memory(
        &mut self,
        gpa: Gpa,
        width: Width,
        value: u64,
        targets: Targets<'_>,
    ) -> Option<()> {
        let (placed, offset) = self.placed_at(gpa)?;
        let branch = self.branches.get_mut(usize::from(placed.branch))?;
        branch.function.bar_write(placed.bar, offset, width, value, targets);
        Some(())
    }

    /// Writes 64 aligned bytes of a BAR at once; `None` where there is none.
    pub fn write_line(&mut self, gpa: Gpa, line: &[u8; 64], targets: Targets<'_>) -> Option<()> {
        let (placed, offset) = self.placed_at(gpa)?;
        let branch = self.branches.get_mut(usize::from(placed.branch))?;
        branch.function.bar_write_line(placed.bar, offset, line, targets);
        Some(())
    }

    /// The BAR at an address, and the offset in it.
    fn placed_at(&self, gpa: Gpa) -> Option<(Placed, u64)> {
        let past = self.placed.partition_point(|placed| placed.start <= gpa.raw());
        let placed = *self.placed.get(past.checked_sub(1)?)?;
        let offset = gpa.raw() - placed.start;
        (offset < placed.bytes).then_some((placed, offset))
    }
}

/// What starts at an address, in a list by addresses.
fn at(list: &[Placed], start: u64) -> Option<&Placed> {
    let index = list.binary_search_by_key(&start, |placed| placed.start).ok()?;
    list.get(index)
}
