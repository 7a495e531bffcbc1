//! Functions of the machine that guests have to themselves: who may have which (`admit`), one in a guest's hands
//! (`function`), and what a guest sees of it (`shape`).
//!
//! What a VM's functions reach by DMA is one [`Space`], which holds its RAM at the guest's own addresses. It lives until
//! the IOMMU has said that nothing uses it any more; only then is the RAM given up.

mod admit;
mod function;
mod shape;

use alloc::boxed::Box;
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::fmt;
use core::sync::atomic::{AtomicUsize, Ordering};

use ::iommu::{AttachError, Pending, SpaceId};
use ::pci::{FunctionInfo, ResetError};
use devices::Fault;
use hw::{Deadline, Function, Iova};
use paging::Rights;
use vmm::pci::Endpoint;

use crate::hosting::Part;
use crate::mem::GuestRam;
use crate::stages::Stages;
use crate::vm::Vm;
use crate::{iommu, irq, pci, vdev};
use function::Assigned;

pub(crate) use admit::admit;

/// A function that a VM is to have.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Granted {
    pub(crate) info: &'static FunctionInfo,
    /// What it is of a function of Kerf's own, if it is a virtual one.
    part: Option<Part>,
}

/// How long a teardown may take; the driver gives a unit up before that.
const TEARDOWN_NS: u64 = 2_000_000_000;

/// Why functions could not be given to a VM that is to start.
#[derive(Debug)]
pub(crate) enum AssignError {
    /// The space that they are to reach cannot be made.
    Space(::iommu::MapError),
    /// One cannot be attached to it.
    Attach(AttachError),
    /// One does not come out of its reset.
    Reset(Function, ResetError),
    /// A virtual one is not given what it needs.
    Part(Function, Fault),
    /// A virtual one cannot be composed.
    Vdev(compose::Refusal),
    /// Their BARs do not fit the guest.
    Plan(vmm::pci::PlanError),
}

impl fmt::Display for AssignError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Space(why) => write!(f, "the memory of its devices cannot be mapped: {why:x?}"),
            Self::Attach(why) => write!(f, "a device cannot be attached: {why:x?}"),
            Self::Reset(function, why) => write!(f, "{function} cannot be reset: {why:?}"),
            Self::Part(function, why) => {
                write!(f, "{function} cannot be made to work by its physical function: {why:?}")
            }
            Self::Vdev(why) => write!(f, "a virtual device cannot be had: {why}"),
            Self::Plan(why) => write!(f, "its devices do not fit its addresses: {why:?}"),
        }
    }
}

/// What a VM's life has of the machine's devices, and what holds its virtual ones.
pub(crate) type Given = (Vec<Box<dyn Endpoint>>, vdev::Held);

/// Gives a VM's functions and virtual devices to its new life.
///
/// # Errors
/// [`AssignError`]; none is given then.
pub(crate) fn assign(
    vm: &Vm,
    ram: &Arc<GuestRam>,
    stages: &Arc<dyn Stages>,
) -> Result<Given, AssignError> {
    let has_any = !vm.functions.is_empty() || !vm.config.vdevs.is_empty();
    let Some(found) = pci::found().filter(|_| has_any) else {
        return Ok((Vec::new(), vdev::Held::default()));
    };
    let space = Arc::new(Space::new(Arc::clone(ram))?);
    let mut endpoints: Vec<Box<dyn Endpoint>> = Vec::new();
    for granted in &vm.functions {
        let assigned = Assigned::new(found, granted, vm, Arc::clone(&space), Arc::clone(stages))?;
        endpoints.push(Box::new(assigned));
    }
    let (held, vdevs) = vdev::create(vm, &space, stages).map_err(AssignError::Vdev)?;
    endpoints.extend(vdevs);
    Ok((endpoints, held))
}

/// Waits until the IOMMU has forgotten what was taken away; false where it never says so.
fn retire(pending: Pending) -> bool {
    let deadline = Deadline::after_ns(&irq::clock(), TEARDOWN_NS);
    let retired = iommu::with(|driver| pending.wait(driver, deadline).is_ok());
    retired.unwrap_or(false)
}

/// Invalidations that guests of one VM may cause before the IOMMU has answered: of a queue's 256 slots so few that other
/// VMs' find room.
const MOST_OWED: usize = 16;

/// What the functions of a VM reach by DMA: its RAM.
#[derive(Debug)]
pub(crate) struct Space {
    id: SpaceId,
    ram: Option<Arc<GuestRam>>,
    /// Invalidations that the VM's guest has caused, and that the IOMMU has not answered.
    owed: AtomicUsize,
}

impl Space {
    pub(crate) const fn id(&self) -> SpaceId {
        self.id
    }

    fn new(ram: Arc<GuestRam>) -> Result<Self, AssignError> {
        let id = iommu::with(|driver| driver.create_space());
        let id = id.unwrap_or(Err(::iommu::MapError::NoSpace)).map_err(AssignError::Space)?;
        let space = Self { id, ram: Some(ram), owed: AtomicUsize::new(0) };
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

    /// Whether the guest may cause one more invalidation, which is then owed.
    fn owe(&self) -> bool {
        let more = |owed| (owed < MOST_OWED).then_some(owed + 1);
        self.owed.fetch_update(Ordering::Relaxed, Ordering::Relaxed, more).is_ok()
    }

    /// As many have been answered.
    fn pay(&self, count: usize) {
        self.owed.fetch_sub(count, Ordering::Relaxed);
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
