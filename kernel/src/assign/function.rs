//! One function in a guest's hands.

use alloc::collections::BTreeSet;
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::fmt;

use ::iommu::{Attach, AttachError, Attachment, Pending, Source as Sender, Target};
use ::pci::{ConfigAccess, FunctionInfo, Reset, ResetError, Resetting, spec};
use hw::{Clock, Function, Gpa, Hpa, PAGE_SIZE, RegisterBus, Width};
use spin::Mutex;
use vmm::pci::{Endpoint, Shape, Slot, Source};
use vmm::platform::InterruptMessage;

use super::{AssignError, Granted, Space, retire, shape};
use crate::hosting::Part;
use crate::irq::{self, DeviceVector};
use crate::pci::Found;
use crate::platform::Mmio;
use crate::stages::Stages;
use crate::vm::Vm;
use crate::{iommu, sched};

/// Functions that nobody has had since their last reset.
static CLEAN: Mutex<BTreeSet<Function>> = Mutex::new(BTreeSet::new());

/// A function in a guest's hands. Dropped, it is silent, reset, and reaches nothing; no memory that it could reach is free
/// before.
#[derive(Debug)]
pub(super) struct Assigned {
    found: &'static Found,
    info: &'static FunctionInfo,
    part: Option<Part>,
    shape: Shape,
    /// The VM's number, and the CPUs of its virtual CPUs.
    vm: usize,
    cpus: Vec<u32>,
    bars: [Option<Mmio>; 6],
    /// Where the guest has them, for those that are mapped.
    placed: [Option<Gpa>; 6],
    sender: Sender,
    wires: Vec<Option<Wire>>,
    /// Vectors that interrupts may still arrive at.
    leaving: Vec<(Pending, DeviceVector)>,
    attachments: Vec<Attachment>,
    /// The guest's reset, until it is over; for good where the function does not come back.
    resetting: Option<Resetting>,
    /// What went wrong was told: a guest can make it go wrong as often as it likes.
    told: bool,
    stages: Arc<dyn Stages>,
    space: Arc<Space>,
}

/// The way of an interrupt. Once there it stays until the end: what a guest turns on and off costs the IOMMU nothing.
#[derive(Debug)]
struct Wire {
    route: ::iommu::Route,
    vector: DeviceVector,
    /// The function knows its message.
    is_on: bool,
}

impl Assigned {
    pub(super) fn new(
        found: &'static Found,
        granted: &Granted,
        vm: &Vm,
        space: Arc<Space>,
        stages: Arc<dyn Stages>,
    ) -> Result<Self, AssignError> {
        let Granted { info, part } = *granted;
        let function = info.function;
        let reserved = iommu::with(|driver| driver.release_reserved(function)).flatten();
        if reserved.is_some_and(|pending| !retire(pending)) {
            return Err(AssignError::Attach(AttachError::Busy(function)));
        }
        let sources = info.msix.map_or(1, |msix| usize::from(msix.entries));
        let mut new = Self {
            found,
            info,
            part,
            shape: shape::of(found, info),
            vm: vm.index,
            cpus: vm.cpus.clone(),
            bars: found.bars(info),
            placed: [None; 6],
            sender: shape::sender(found, info),
            wires: (0..sources).map(|_| None).collect(),
            leaving: Vec::new(),
            attachments: Vec::new(),
            resetting: None,
            told: false,
            stages,
            space,
        };
        if info.reset == Reset::None {
            log::warn!("{function} has no reset: what one guest leaves in it the next one finds");
        } else if !CLEAN.lock().remove(&function) {
            new.reset_now().map_err(|why| AssignError::Reset(function, why))?;
        }
        if let Some(part) = part {
            part.enable().map_err(|why| AssignError::Part(function, why))?;
        }
        iommu::forgive(function);
        new.command(false);
        let aliases = ::pci::aliases(&found.functions, info, &found.space);
        let aliases = aliases.into_iter().map(|rid| Function { rid, ..function });
        for function in core::iter::once(function).chain(aliases) {
            let attach = Attach::new(function, new.space.id);
            match iommu::with(|driver| driver.attach(attach)) {
                Some(Ok(attachment)) => new.attachments.push(attachment),
                // Another function of the VM sends as this one, too.
                Some(Err(AttachError::Attached(..))) if function != info.function => {}
                Some(Err(why)) => return Err(AssignError::Attach(why)),
                None => return Err(AssignError::Attach(AttachError::NoUnit(function))),
            }
        }
        Ok(new)
    }

    /// Lets it answer, and do DMA or not.
    fn command(&self, master: bool) {
        let mut command = spec::COMMAND_MEMORY | spec::COMMAND_INTX_DISABLE;
        if master && !iommu::is_stopped(self.info.function) {
            command |= spec::COMMAND_MASTER;
        }
        let at = self.info.function;
        self.found.space.write(at, spec::COMMAND, Width::W2, command.into());
    }

    /// Tells the first thing that goes wrong.
    fn tell(&mut self, what: fmt::Arguments<'_>) {
        if !core::mem::replace(&mut self.told, true) {
            log::warn!("{}: {what}", self.info.function);
        }
    }

    /// Resets it, or waits for the end of the guest's own reset: at most 1.2 s, so never for an exit.
    fn reset_now(&mut self) -> Result<(), ResetError> {
        let (access, clock) = (&self.found.space, irq::clock());
        let mut resetting = match self.resetting.take() {
            Some(resetting) => resetting,
            None => Resetting::start(access, self.info, &clock)?,
        };
        loop {
            match resetting.poll(access, &clock) {
                Some(done) => return done,
                None => clock.relax(),
            }
        }
    }

    /// Lets go of vectors at which nothing arrives any more.
    fn tidy(&mut self) {
        let before = self.leaving.len();
        if before != 0 {
            iommu::with(|driver| driver.poll_all(&mut self.leaving));
            self.space.pay(before - self.leaving.len());
        }
    }

    /// Pages of a BAR that the guest may have: from, bytes.
    fn open_pages(&self, bar: u8) -> Vec<(u64, u64)> {
        let bytes = self.info.bar(bar).map_or(0, |bar| bar.bytes & !(PAGE_SIZE - 1));
        let mut trapped = self.shape.trapped(bar);
        trapped.sort_by_key(|range| range.start);
        let mut open = Vec::new();
        let mut at = 0;
        for range in trapped.into_iter().filter(|range| !range.is_empty()) {
            open.push((at, range.start.min(bytes).saturating_sub(at)));
            at = at.max(range.end.next_multiple_of(PAGE_SIZE));
        }
        open.push((at, bytes.saturating_sub(at)));
        open.retain(|(_, bytes)| *bytes != 0);
        open
    }

    /// A window that begins within a BAR.
    fn window(&self, bar: u8, offset: u32) -> Option<Mmio> {
        self.bars.get(usize::from(bar)).copied().flatten()?.from(offset.into())
    }

    /// Holds an interrupt back, or lets it go.
    fn mask(&self, index: u16, masked: bool) {
        let (access, function) = (&self.found.space, self.info.function);
        match (self.info.msix, self.info.msi) {
            (Some(msix), _) => {
                if let Some(table) = self.window(msix.table_bar, msix.table_offset) {
                    msix.mask(&table, index, masked);
                }
            }
            (None, Some(msi)) if msi.maskable => msi.mask(access, function, masked.into()),
            (None, Some(msi)) => msi.enable(access, function, (!masked).into()),
            (None, None) => {}
        }
    }

    /// Has an interrupt come as the guest wants it; leaves it masked. `None` where there is no way.
    fn wire(&mut self, index: u16, to: &vmm::pci::Route) -> Option<()> {
        let cpu = *self.cpus.get(to.vcpu as usize)?;
        let place = self.wires.get_mut(usize::from(index))?;
        let Some(wire) = place else {
            let vector = DeviceVector::take(cpu, self.vm, &to.message)?;
            let target = Target::Cpu { apic_id: vector.apic_id()?, vector: vector.vector };
            let route = iommu::with(|driver| driver.route(self.sender, &[target]))?.ok()?;
            *place = Some(Wire { route, vector, is_on: false });
            return self.turn_on(index);
        };
        // Where the VM has its share of the queue under way, its old CPU goes on passing the interrupt to the new one.
        if wire.vector.cpu != cpu && self.space.owe() {
            match move_to(wire, cpu, self.vm, &to.message) {
                Some(leaving) => self.leaving.push(leaving),
                None => self.space.pay(1),
            }
        }
        wire.vector.aim(self.vm, &to.message);
        self.turn_on(index)
    }

    /// Tells the function an interrupt's message, unless it knows it.
    fn turn_on(&mut self, index: u16) -> Option<()> {
        let wire = self.wires.get_mut(usize::from(index))?.as_mut()?;
        if core::mem::replace(&mut wire.is_on, true) {
            return Some(());
        }
        let message = wire.route.message();
        let (access, function) = (&self.found.space, self.info.function);
        match (self.info.msix, self.info.msi) {
            (Some(msix), _) => {
                let table = self.window(msix.table_bar, msix.table_offset)?;
                msix.set(&table, index, message.address, message.data);
                msix.enable(access, function, true, false);
            }
            (None, Some(msi)) => {
                msi.set(access, function, message.address, message.data as u16);
                msi.mask(access, function, 1);
                msi.enable(access, function, u8::from(msi.maskable));
            }
            (None, None) => return None,
        }
        Some(())
    }

    /// The guest has turned an interrupt off.
    fn turn_off(&mut self, index: u16) {
        self.mask(index, true);
        let wire = self.wires.get_mut(usize::from(index)).and_then(Option::as_mut);
        let Some(wire) = wire else { return };
        wire.is_on = false;
        if self.wires.iter().flatten().all(|wire| !wire.is_on) {
            let (access, function) = (&self.found.space, self.info.function);
            if let Some(msix) = self.info.msix {
                msix.enable(access, function, false, false);
            }
            if let Some(msi) = self.info.msi {
                msi.enable(access, function, 0);
            }
        }
    }
}

/// Has an interrupt come to another CPU: what it leaves behind. `None` where that has no vector or its unit takes nothing.
fn move_to(
    wire: &mut Wire,
    cpu: u32,
    vm: usize,
    message: &InterruptMessage,
) -> Option<(Pending, DeviceVector)> {
    let vector = DeviceVector::take(cpu, vm, message)?;
    let target = Target::Cpu { apic_id: vector.apic_id()?, vector: vector.vector };
    let pending = iommu::with(|driver| driver.retarget(&wire.route, 0, target))?.ok()?;
    Some((pending, core::mem::replace(&mut wire.vector, vector)))
}

impl Endpoint for Assigned {
    fn shape(&self) -> &Shape {
        &self.shape
    }

    fn config_read(&mut self, offset: u16, width: Width) -> u32 {
        self.found.space.read(self.info.function, offset, width)
    }

    fn config_write(&mut self, offset: u16, width: Width, value: u32) {
        self.found.space.write(self.info.function, offset, width, value);
    }

    fn place(&mut self, bar: u8, at: Option<Gpa>) {
        let Some(host) = self.info.bar(bar).copied() else { return };
        let Some(placed) = self.placed.get_mut(usize::from(bar)) else { return };
        let old = core::mem::replace(placed, at);
        if let Some(old) = old {
            self.stages.unmap(old, host.bytes.next_multiple_of(PAGE_SIZE));
            if let Some(vm) = sched::world().and_then(|world| world.vms.get(self.vm)) {
                vm.order_all();
            }
        }
        let Some(at) = at else { return };
        for (offset, bytes) in self.open_pages(bar) {
            let hpa = Hpa::new(host.base).wrapping_add(offset);
            if let Err(why) = self.stages.map(at.wrapping_add(offset), hpa, bytes) {
                // Accesses come here then.
                self.tell(format_args!("BAR {bar} is not mapped at {at}: {why:x?}"));
            }
        }
    }

    fn bar_read(&mut self, bar: u8, offset: u64, width: Width) -> u64 {
        let window = self.bars.get(usize::from(bar)).copied().flatten();
        window.map_or(width.mask(), |window| window.load(offset, width))
    }

    fn bar_write(&mut self, bar: u8, offset: u64, width: Width, value: u64) {
        if let Some(window) = self.bars.get(usize::from(bar)).copied().flatten() {
            window.store(offset, width, value);
        }
    }

    fn interrupt(&mut self, source: Source, state: Slot) {
        self.tidy();
        let index = match source {
            Source::Msi(_) => 0,
            Source::Msix(index) => index,
        };
        match state {
            Slot::Off => self.turn_off(index),
            Slot::Masked(_) => self.mask(index, true),
            Slot::On(route) => match self.wire(index, &route) {
                Some(()) => self.mask(index, false),
                None => self.tell(format_args!("there is no way for interrupt {index}")),
            },
        }
    }

    fn pending(&self, source: Source) -> bool {
        match (source, self.info.msix, self.info.msi) {
            (Source::Msix(index), Some(msix), _) => {
                let pba = self.window(msix.pba_bar, msix.pba_offset);
                pba.is_some_and(|pba| msix.is_pending(&pba, index))
            }
            (Source::Msi(_), _, Some(msi)) => {
                msi.pending(&self.found.space, self.info.function) & 1 != 0
            }
            _ => false,
        }
    }

    fn master(&mut self, on: bool) {
        self.command(on);
    }

    fn reset(&mut self) {
        if self.resetting.is_some() {
            return;
        }
        match Resetting::start(&self.found.space, self.info, &irq::clock()) {
            Ok(resetting) => self.resetting = Some(resetting),
            Err(why) => log::debug!("{}: no reset: {why:?}", self.info.function),
        }
    }

    fn is_ready(&mut self) -> bool {
        let Some(resetting) = &mut self.resetting else { return true };
        match resetting.poll(&self.found.space, &irq::clock()) {
            None => return false,
            Some(Err(why)) => {
                self.tell(format_args!("it does not come out of its reset: {why:?}"));
                return false;
            }
            Some(Ok(())) => {}
        }
        self.resetting = None;
        self.command(false);
        true
    }
}

impl Drop for Assigned {
    fn drop(&mut self) {
        let function = self.info.function;
        if self.info.reset != Reset::None {
            match self.reset_now() {
                Ok(()) => _ = CLEAN.lock().insert(function),
                Err(why) => log::warn!("{function} does not come out of its reset: {why:?}"),
            }
        } else {
            self.command(false);
            ::pci::quiet(&self.found.space, self.info);
        }
        let leaving = self.leaving.drain(..).map(|(pending, vector)| (pending, Some(vector)));
        let mut leaving: Vec<_> = leaving.collect();
        for Wire { route, vector, .. } in self.wires.drain(..).flatten() {
            leaving.extend(
                iommu::with(|driver| driver.unroute(route)).map(|pending| (pending, Some(vector))),
            );
        }
        if let Some(part) = self.part {
            part.disable();
        }
        for attachment in self.attachments.drain(..) {
            let pending = iommu::with(|driver| driver.detach(attachment));
            leaving.extend(pending.map(|pending| (pending, None)));
        }
        for (pending, vector) in leaving {
            if !retire(pending) {
                log::error!("the IOMMU has not forgotten {function}: what it could reach is lost");
                core::mem::forget((vector, Arc::clone(&self.space)));
            }
        }
    }
}
