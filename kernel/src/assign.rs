//! Functions of the machine that guests have to themselves: who may have which ([`admit`]), and one in a guest's hands
//! ([`Assigned`]).
//!
//! What a VM's functions reach by DMA is one [`Space`], which holds its RAM at the guest's own addresses. It lives until
//! the IOMMU has said that nothing uses it any more; only then is the RAM given up.

use alloc::boxed::Box;
use alloc::string::String;
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::fmt;

use ::iommu::{Attach, AttachError, Attachment, Pending, Source as Sender, SpaceId, Target};
use ::pci::spec::{self, capability, extended};
use ::pci::{BarKind, ConfigAccess, FunctionInfo, HeaderKind, Reset, ResetError, Resetting};
use config::{Config, ConfigError, Device, Problem};
use hw::{Clock, Deadline, Function, Gpa, Hpa, Iova, PAGE_SIZE, RegisterBus, Width};
use paging::Rights;
use vmm::pci::{BarShape, Capability, Endpoint, Shape, Slot, Source};

use crate::irq::{self, DeviceVector};
use crate::mem::GuestRam;
use crate::pci::{self, Found};
use crate::platform::Mmio;
use crate::stages::Stages;
use crate::vm::Vm;
use crate::{iommu, sched};

/// How long a teardown may take; the driver gives a unit up before that.
const TEARDOWN_NS: u64 = 2_000_000_000;

/// Why a VM cannot have a function.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Refused {
    /// No function is like that, or no other one.
    Absent(Device),
    /// It leads to others, or is the machine's own.
    Bridge(Function),
    /// No IOMMU holds it back.
    Unheld(Function),
    /// A BAR of it has no address, or one at which something else is.
    Bar(Function, u8),
    /// It cannot be separated from a function of this VM; why.
    Group(Function, Function, String, String),
}

impl fmt::Display for Refused {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Absent(device) => write!(f, "{device} is not there, or another VM has it"),
            Self::Bridge(function) => write!(f, "{function} is a bridge; name a device below it"),
            Self::Unheld(function) => write!(
                f,
                "no IOMMU stands before {function}, so it could reach all memory; turn VT-d on in the firmware's setup"
            ),
            Self::Bar(function, bar) => write!(
                f,
                "BAR {bar} of {function} has no address of its own; let the firmware assign it one"
            ),
            Self::Group(function, other, owner, why) => write!(
                f,
                "{function} cannot be separated from {other}, which is VM {owner:?}'s ({why}); give both to one VM"
            ),
        }
    }
}

/// The functions of each VM, or why it cannot have them beside those before it.
pub(crate) fn admit(config: &Config) -> Vec<Result<Vec<&'static FunctionInfo>, ConfigError>> {
    let mut taken: Vec<(Function, usize)> = Vec::new();
    let vms = config.vms.iter().enumerate();
    vms.map(|(vm, table)| {
        let before = taken.len();
        let choose = |device: &Device| {
            let info = choose(device, vm, &taken, config)?;
            taken.push((info.function, vm));
            Ok(info)
        };
        let chosen: Result<_, Refused> = table.devices.iter().map(choose).collect();
        chosen.map_err(|why| {
            taken.truncate(before);
            config.wrong(vm, "device", Problem::Device(alloc::format!("{why}")))
        })
    })
    .collect()
}

fn choose(
    device: &Device,
    vm: usize,
    taken: &[(Function, usize)],
    config: &Config,
) -> Result<&'static FunctionInfo, Refused> {
    let absent = Refused::Absent(*device);
    let found = pci::found().ok_or(absent.clone())?;
    let is_it = |info: &&FunctionInfo| match *device {
        Device::Function(function) => info.function == function,
        Device::Like { vendor, device, class } => {
            vendor.is_none_or(|vendor| vendor == info.vendor)
                && device.is_none_or(|device| device == info.device)
                && class.is_none_or(|class| class == info.class)
        }
    };
    let is_free = |info: &&FunctionInfo| taken.iter().all(|(other, _)| *other != info.function);
    let info = found.functions.iter().filter(is_it).find(is_free).ok_or(absent)?;
    let function = info.function;
    if info.header != HeaderKind::Endpoint || info.class >> 16 == 0x06 {
        return Err(Refused::Bridge(function));
    }
    if !iommu::with(|driver| driver.covers(function)).unwrap_or(false) {
        return Err(Refused::Unheld(function));
    }
    if let Some(bar) = found.misplaced(info) {
        return Err(Refused::Bar(function, bar));
    }
    let group = found.groups.iter().find(|group| group.functions.contains(&function));
    let others = group.into_iter().flat_map(|group| {
        let with =
            taken.iter().filter(|(other, owner)| *owner != vm && group.functions.contains(other));
        with.map(move |taken| (group, taken))
    });
    match others.into_iter().next() {
        None => Ok(info),
        Some((group, &(other, owner))) => {
            let owner = config.vms.get(owner).map(|vm| vm.name.clone()).unwrap_or_default();
            let why = group.ties.first().map(|tie| alloc::format!("{tie}")).unwrap_or_default();
            Err(Refused::Group(function, other, owner, why))
        }
    }
}

/// Why functions could not be given to a VM that is to start.
#[derive(Debug)]
pub(crate) enum AssignError {
    /// The space that they are to reach cannot be made.
    Space(::iommu::MapError),
    /// One cannot be attached to it.
    Attach(AttachError),
    /// One does not come out of its reset.
    Reset(Function, ResetError),
    /// Their BARs do not fit the guest.
    Plan(vmm::pci::PlanError),
}

impl fmt::Display for AssignError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Space(why) => write!(f, "the memory of its devices cannot be mapped: {why:x?}"),
            Self::Attach(why) => write!(f, "a device cannot be attached: {why:x?}"),
            Self::Reset(function, why) => write!(f, "{function} cannot be reset: {why:?}"),
            Self::Plan(why) => write!(f, "its devices do not fit its addresses: {why:?}"),
        }
    }
}

/// Gives a VM's functions to its new life.
///
/// # Errors
/// [`AssignError`]; none is given then.
pub(crate) fn assign(
    vm: &Vm,
    ram: &Arc<GuestRam>,
    stages: &Arc<dyn Stages>,
) -> Result<Vec<Box<dyn Endpoint>>, AssignError> {
    let Some(found) = pci::found().filter(|_| !vm.functions.is_empty()) else {
        return Ok(Vec::new());
    };
    let space = Arc::new(Space::new(Arc::clone(ram))?);
    let mut endpoints: Vec<Box<dyn Endpoint>> = Vec::new();
    for info in &vm.functions {
        let assigned = Assigned::new(found, info, vm, Arc::clone(&space), Arc::clone(stages))?;
        endpoints.push(Box::new(assigned));
    }
    Ok(endpoints)
}

/// Waits until the IOMMU has forgotten what was taken away; false where it never says so.
fn retire(pending: Pending) -> bool {
    let deadline = Deadline::after_ns(&irq::clock(), TEARDOWN_NS);
    let retired = iommu::with(|driver| pending.wait(driver, deadline).is_ok());
    retired.unwrap_or(false)
}

/// What the functions of a VM reach by DMA: its RAM.
#[derive(Debug)]
struct Space {
    id: SpaceId,
    ram: Option<Arc<GuestRam>>,
}

impl Space {
    fn new(ram: Arc<GuestRam>) -> Result<Self, AssignError> {
        let id = iommu::with(|driver| driver.create_space());
        let id = id.unwrap_or(Err(::iommu::MapError::NoSpace)).map_err(AssignError::Space)?;
        let space = Self { id, ram: Some(ram) };
        let mapped = space.ram.as_deref().map_or(Ok(()), |ram| {
            iommu::with(|driver| {
                ram.pieces().try_for_each(|(gpa, hpa, bytes)| {
                    driver.map(id, Iova::new(gpa.raw()), hpa, bytes, Rights::RW)
                })
            })
            .unwrap_or(Ok(()))
        });
        mapped.map_err(AssignError::Space)?;
        Ok(space)
    }
}

impl Drop for Space {
    fn drop(&mut self) {
        let destroyed = iommu::with(|driver| driver.destroy_space(self.id).ok()).flatten();
        if !destroyed.is_some_and(retire) {
            log::error!("the IOMMU may still lead to a VM's memory; it is not used again");
            core::mem::forget(self.ram.take());
        }
    }
}

/// A function in a guest's hands. Dropped, it is silent, reset, and reaches nothing; no memory that it could reach is free
/// before.
#[derive(Debug)]
struct Assigned {
    found: &'static Found,
    info: &'static FunctionInfo,
    shape: Shape,
    /// The VM's number, and the CPUs of its virtual CPUs.
    vm: usize,
    cpus: Vec<u32>,
    bars: [Option<Mmio>; 6],
    /// Where the guest has them, for those that are mapped.
    placed: [Option<Gpa>; 6],
    sender: Sender,
    wires: Vec<Option<Wire>>,
    /// What was taken away lately, and the vectors that interrupts may still arrive at.
    leaving: Vec<(Pending, Option<DeviceVector>)>,
    attachments: Vec<Attachment>,
    resetting: Option<Resetting>,
    /// What went wrong was told: a guest can make it go wrong as often as it likes.
    told: bool,
    stages: Arc<dyn Stages>,
    space: Arc<Space>,
}

/// The way of an interrupt.
#[derive(Debug)]
struct Wire {
    route: ::iommu::Route,
    vector: DeviceVector,
}

impl Assigned {
    fn new(
        found: &'static Found,
        info: &'static FunctionInfo,
        vm: &Vm,
        space: Arc<Space>,
        stages: Arc<dyn Stages>,
    ) -> Result<Self, AssignError> {
        let function = info.function;
        let reserved = iommu::with(|driver| driver.release_reserved(function)).flatten();
        if reserved.is_some_and(|pending| !retire(pending)) {
            return Err(AssignError::Attach(AttachError::Busy(function)));
        }
        let sources = info.msix.map_or(1, |msix| usize::from(msix.entries));
        let mut new = Self {
            found,
            info,
            shape: shape(found, info),
            vm: vm.index,
            cpus: vm.cpus.clone(),
            bars: found.bars(info),
            placed: [None; 6],
            sender: sender(found, info),
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
        } else {
            let reset = ::pci::reset(&found.space, info, &irq::clock());
            reset.map_err(|why| AssignError::Reset(function, why))?;
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

    /// Waits for a reset that the guest did not wait for long enough.
    fn finish_reset(&mut self) {
        let Some(mut resetting) = self.resetting.take() else { return };
        let clock = irq::clock();
        let done = loop {
            match resetting.poll(&self.found.space, &clock) {
                Some(done) => break done,
                None => clock.relax(),
            }
        };
        if let Err(why) = done {
            self.tell(format_args!("it does not come out of its reset: {why:?}"));
        }
        self.command(false);
    }

    /// Lets go of vectors at which nothing arrives any more.
    fn tidy(&mut self) {
        for (pending, vector) in core::mem::take(&mut self.leaving) {
            match iommu::with(|driver| pending.poll(driver)) {
                Some(Err(pending)) => self.leaving.push((pending, vector)),
                _ => drop(vector),
            }
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
        if let Some(wire) = place.as_ref().filter(|wire| wire.vector.cpu == cpu) {
            wire.vector.aim(self.vm, &to.message);
            return Some(());
        }
        let vector = DeviceVector::take(cpu, self.vm, &to.message)?;
        let target = Target::Cpu { apic_id: vector.apic_id()?, vector: vector.vector };
        if let Some(wire) = place {
            let pending = iommu::with(|driver| driver.retarget(&wire.route, 0, target))?.ok()?;
            let old = core::mem::replace(&mut wire.vector, vector);
            self.leaving.push((pending, Some(old)));
            return Some(());
        }
        let route = iommu::with(|driver| driver.route(self.sender, &[target]))?.ok()?;
        let message = route.message();
        *place = Some(Wire { route, vector });
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

    /// Takes an interrupt from the function.
    fn unwire(&mut self, index: u16) {
        self.mask(index, true);
        let place = self.wires.get_mut(usize::from(index));
        let Some(Wire { route, vector }) = place.and_then(Option::take) else { return };
        if let Some(pending) = iommu::with(|driver| driver.unroute(route)) {
            self.leaving.push((pending, Some(vector)));
        }
        if self.wires.iter().all(Option::is_none) {
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
        self.finish_reset();
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
        self.finish_reset();
        let window = self.bars.get(usize::from(bar)).copied().flatten();
        window.map_or(width.mask(), |window| window.load(offset, width))
    }

    fn bar_write(&mut self, bar: u8, offset: u64, width: Width, value: u64) {
        self.finish_reset();
        if let Some(window) = self.bars.get(usize::from(bar)).copied().flatten() {
            window.store(offset, width, value);
        }
    }

    fn interrupt(&mut self, source: Source, state: Slot) {
        self.finish_reset();
        self.tidy();
        let index = match source {
            Source::Msi(_) => 0,
            Source::Msix(index) => index,
        };
        match state {
            Slot::Off => self.unwire(index),
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
        self.finish_reset();
        self.command(on);
    }

    fn reset(&mut self) {
        self.finish_reset();
        // The guest gives it the time that it needs.
        match Resetting::start(&self.found.space, self.info, &irq::clock()) {
            Ok(resetting) => self.resetting = Some(resetting),
            Err(why) => log::debug!("{}: no reset: {why:?}", self.info.function),
        }
    }
}

impl Drop for Assigned {
    fn drop(&mut self) {
        let function = self.info.function;
        self.finish_reset();
        self.command(false);
        for index in 0..self.wires.len() {
            self.unwire(index as u16);
        }
        if self.info.reset != Reset::None
            && let Err(why) = ::pci::reset(&self.found.space, self.info, &irq::clock())
        {
            log::warn!("{function} does not come out of its reset: {why:?}");
        }
        for attachment in self.attachments.drain(..) {
            if let Some(pending) = iommu::with(|driver| driver.detach(attachment)) {
                self.leaving.push((pending, None));
            }
        }
        for (pending, vector) in self.leaving.drain(..) {
            if !retire(pending) {
                log::error!("the IOMMU has not forgotten {function}: what it could reach is lost");
                core::mem::forget((vector, Arc::clone(&self.space)));
            }
        }
    }
}

/// Who sends a function's interrupts.
fn sender(found: &Found, info: &FunctionInfo) -> Sender {
    match ::pci::sender(&found.functions, info) {
        ::pci::Sender::Function(function) => Sender::Function(function),
        ::pci::Sender::Buses { bridge, first, last } => Sender::Buses { bridge, first, last },
    }
}

/// What a guest may see of a function.
fn shape(found: &Found, info: &FunctionInfo) -> Shape {
    let bytes = |from: u16, count: u16| {
        let read = |at| found.space.read(info.function, at, Width::W1) as u8;
        (from..from.saturating_add(count)).map(read).collect::<Vec<u8>>()
    };
    let capability = |found: &::pci::Capability| {
        Some(Capability { offset: found.offset, bytes: bytes(found.offset, found.bytes?) })
    };
    // What concerns the function alone, and does nothing of itself.
    let shown = [
        capability::POWER,
        capability::MSI,
        capability::VENDOR_SPECIFIC,
        capability::EXPRESS,
        capability::MSIX,
    ];
    let is_shown = |found: &&::pci::Capability| shown.iter().any(|id| u16::from(*id) == found.id);
    let mut capabilities: Vec<Capability> =
        info.caps.iter().filter(is_shown).filter_map(capability).collect();
    // One vector, as that is all that one entry is made for.
    if let Some(msi) = info.msi
        && let Some(shown) = capabilities.iter_mut().find(|shown| shown.offset == msi.offset)
        && let Some(control) = shown.bytes.get_mut(usize::from(capability::msi::CONTROL))
    {
        *control &= !((capability::msi::LOG2 << capability::msi::CAPABLE_SHIFT) as u8);
    }
    // One kind of interrupts is enough.
    if let Some(msi) = info.msi.filter(|_| info.msix.is_some()) {
        capabilities.retain(|shown| shown.offset != msi.offset);
    }
    let is_shown = |found: &&::pci::Capability| {
        [extended::VENDOR_SPECIFIC, extended::DVSEC].contains(&found.id)
    };
    let bar = |bar: &::pci::Bar| BarShape {
        bytes: bar.bytes,
        is_64bit: bar.kind == BarKind::Memory64,
        prefetchable: bar.prefetchable,
    };
    Shape {
        vendor: info.vendor,
        device: info.device,
        subsystem_vendor: info.subsystem.0,
        subsystem: info.subsystem.1,
        class: info.class,
        revision: info.revision,
        bars: info.bars.map(|found| found.as_ref().filter(|bar| bar.kind != BarKind::Io).map(bar)),
        rom_bytes: 0,
        capabilities,
        extended: info.extended.iter().filter(is_shown).filter_map(capability).collect(),
        through: Vec::new(),
    }
}
