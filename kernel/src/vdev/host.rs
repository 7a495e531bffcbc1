//! [`Here`]: what composition needs of the machine for one VM.

use alloc::collections::{BTreeMap, BTreeSet};
use alloc::sync::Arc;
use alloc::vec::Vec;

use ::compose::{Host, NoWay, Wire, WireId};
use ::iommu::{Attach, Attachment, Pending, Source, Target};
use devices::{Page, SlotMessage};
use hw::{Function, Gpa, Hpa, Pasid};
use spin::Mutex;
use vmm::pci::Route;
use vmm::platform::InterruptMessage;

use crate::assign::Space;
use crate::irq::DeviceVector;
use crate::stages::Stages;
use crate::vm::Vm;
use crate::{iommu, pci, sched};

/// PASIDs of hosting functions that are in use.
static PASIDS: Mutex<BTreeSet<(Function, Pasid)>> = Mutex::new(BTreeSet::new());
/// What was taken away, and what is free once the hardware has forgotten it.
static LEAVING: Mutex<Vec<(Pending, Rest)>> = Mutex::new(Vec::new());

/// What an answer of the hardware sets free.
#[derive(Debug)]
enum Rest {
    /// A PASID, and the memory that it reached.
    Pasid(Option<(Function, Pasid)>, #[allow(dead_code)] Arc<Space>),
    /// The vector at which an interrupt may still have arrived.
    Vector(#[allow(dead_code)] DeviceVector),
}

/// The machine for one VM's virtual device.
#[derive(Debug)]
pub(super) struct Here {
    /// The VM's number, and the CPUs of its virtual CPUs.
    vm: usize,
    cpus: Vec<u32>,
    space: Arc<Space>,
    stages: Arc<dyn Stages>,
    attachments: Mutex<BTreeMap<(Function, Pasid), Attachment>>,
    wires: Mutex<Wires>,
}

#[derive(Debug, Default)]
struct Wires {
    next: u32,
    all: BTreeMap<WireId, (::iommu::Route, DeviceVector)>,
}

impl Here {
    pub(super) fn new(vm: &Vm, space: Arc<Space>, stages: Arc<dyn Stages>) -> Self {
        Self {
            vm: vm.index,
            cpus: vm.cpus.clone(),
            space,
            stages,
            attachments: Mutex::default(),
            wires: Mutex::default(),
        }
    }

    /// A vector of the CPU that a route is for.
    fn vector(&self, to: &Route) -> Result<(DeviceVector, Target), NoWay> {
        let cpu = *self.cpus.get(to.vcpu as usize).ok_or(NoWay)?;
        let vector = DeviceVector::take(cpu, self.vm, &to.message).ok_or(NoWay)?;
        let target = Target::Cpu { apic_id: vector.apic_id().ok_or(NoWay)?, vector: vector.vector };
        Ok((vector, target))
    }
}

impl Host for Here {
    fn attach(&self, function: Function) -> Result<Pasid, NoWay> {
        tidy();
        let bits = iommu::with(|driver| driver.pasid_bits(function)).unwrap_or(0);
        let mut taken = PASIDS.lock();
        let mut all = (1..1_u32 << bits.min(Pasid::BITS)).filter_map(Pasid::try_new);
        let pasid = all.find(|pasid| !taken.contains(&(function, *pasid))).ok_or(NoWay)?;
        let attach = Attach { pasid: Some(pasid), ..Attach::new(function, self.space.id()) };
        match iommu::with(|driver| driver.attach(attach)) {
            Some(Ok(attachment)) => {
                taken.insert((function, pasid));
                self.attachments.lock().insert((function, pasid), attachment);
                Ok(pasid)
            }
            why => {
                log::warn!("{function}: PASID {} is not attached: {why:x?}", pasid.raw());
                Err(NoWay)
            }
        }
    }

    fn detach(&self, function: Function, pasid: Pasid, free: bool) {
        let Some(attachment) = self.attachments.lock().remove(&(function, pasid)) else { return };
        let Some(pending) = iommu::with(|driver| driver.detach(attachment)) else { return };
        let name = free.then_some((function, pasid));
        LEAVING.lock().push((pending, Rest::Pasid(name, Arc::clone(&self.space))));
    }

    fn map(&self, gpa: Gpa, function: Function, pages: &[Page]) -> Result<(), NoWay> {
        let found = pci::found().ok_or(NoWay)?;
        let info = ::pci::find(&found.functions, function).ok_or(NoWay)?;
        let mut at = gpa;
        for page in pages {
            let base = info.bar(page.bar()).ok_or(NoWay)?.base;
            let hpa = Hpa::new(base).wrapping_add(page.offset());
            self.stages.map(at, hpa, page.bytes()).map_err(|_| NoWay)?;
            at = at.wrapping_add(page.bytes());
        }
        Ok(())
    }

    fn unmap(&self, gpa: Gpa, bytes: u64) {
        self.stages.unmap(gpa, bytes);
        if let Some(vm) = sched::world().and_then(|world| world.vms.get(self.vm)) {
            vm.order_all();
        }
    }

    fn translates_pasids(&self) -> bool {
        false
    }

    fn wire(&self, function: Function, old: Option<WireId>, to: &Route) -> Result<Wire, NoWay> {
        let mut wires = self.wires.lock();
        let (id, old) = match old.and_then(|id| Some((id, wires.all.remove(&id)?))) {
            Some((id, old)) => (id, Some(old)),
            None => {
                wires.next += 1;
                (WireId(wires.next), None)
            }
        };
        let (vector, target) = self.vector(to)?;
        let route = match old {
            // The old vector keeps its meaning until nothing can arrive there.
            Some((route, old)) => {
                let moved = iommu::with(|driver| driver.retarget(&route, 0, target));
                let pending = moved.and_then(Result::ok).ok_or(NoWay)?;
                LEAVING.lock().push((pending, Rest::Vector(old)));
                route
            }
            None => {
                let source = Source::Function(function);
                let route = iommu::with(|driver| driver.route(source, &[target]));
                route.and_then(Result::ok).ok_or(NoWay)?
            }
        };
        let message = route.message();
        let message = SlotMessage { address: message.address, data: message.data };
        wires.all.insert(id, (route, vector));
        Ok(Wire { id, message })
    }

    fn unwire(&self, id: WireId) {
        let Some((route, vector)) = self.wires.lock().all.remove(&id) else { return };
        if let Some(pending) = iommu::with(|driver| driver.unroute(route)) {
            LEAVING.lock().push((pending, Rest::Vector(vector)));
        }
    }

    fn look_after(&self) {
        super::have_looked_after();
    }

    fn deliver(&self, message: &InterruptMessage) {
        if let Some(vm) = sched::world().and_then(|world| world.vms.get(self.vm)) {
            vm.deliver(message);
        }
    }

    fn write_line(&self, function: Function, page: &Page, offset: u64, line: &[u8; 64]) {
        let Some(found) = pci::found() else { return };
        let Some(info) = ::pci::find(&found.functions, function) else { return };
        let bar = found.bars(info).get(usize::from(page.bar())).copied().flatten();
        if let Some(bar) = bar {
            bar.store_line(page.offset() + offset, line);
        }
    }
}

impl Drop for Here {
    fn drop(&mut self) {
        let all = core::mem::take(&mut *self.attachments.lock());
        for ((function, pasid), attachment) in all {
            // Whoever had it could not be stopped.
            if let Some(pending) = iommu::with(|driver| driver.detach(attachment)) {
                let rest = Rest::Pasid(None, Arc::clone(&self.space));
                LEAVING.lock().push((pending, rest));
                log::error!("{function}: PASID {} is not used again", pasid.raw());
            }
        }
        let ids: Vec<_> = self.wires.lock().all.keys().copied().collect();
        ids.into_iter().for_each(|id| self.unwire(id));
    }
}

/// Frees what the hardware has forgotten.
pub(super) fn tidy() {
    let leaving = core::mem::take(&mut *LEAVING.lock());
    for (pending, rest) in leaving {
        match iommu::with(|driver| pending.poll(driver)) {
            Some(Err(pending)) => LEAVING.lock().push((pending, rest)),
            _ => {
                if let Rest::Pasid(Some(name), _) = &rest {
                    PASIDS.lock().remove(name);
                }
            }
        }
    }
}

/// Whether the hardware has forgotten all that was taken away.
pub(super) fn is_settled() -> bool {
    tidy();
    LEAVING.lock().is_empty()
}
