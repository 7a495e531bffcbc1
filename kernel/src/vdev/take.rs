//! Taking a hosting function over: into a private DMA space that holds nothing, out of reset, laid out by its driver.

use alloc::boxed::Box;
use alloc::vec::Vec;
use core::fmt;
use core::sync::atomic::{AtomicBool, Ordering};

use ::iommu::{Attach, Attachment, Route, Source};
use ::pci::{ConfigAccess, spec};
use devices::dsa::{Capabilities, Dsa, Plan, PlanError};
use devices::{Fault, HostingFunction};
use hw::Width;
use spin::Mutex;

use crate::hosting::{self, Problem};
use crate::pci::Found;
use crate::{iommu, irq};

/// Intel's DSA.
const DSA: (u16, u16) = (0x8086, 0x0b25);
/// The PASID capability's control register, and its enable bit (PCIe 6.0, 7.8.9.3).
const PASID_CONTROL: u16 = 6;
const PASID_ENABLE: u32 = 1;

/// What lets those that were taken send interrupts, and reach nothing: theirs for good.
static KEPT: Mutex<Vec<(Attachment, Route)>> = Mutex::new(Vec::new());
/// One of them has interrupted, or may have before its interrupt had a way.
static TOLD: AtomicBool = AtomicBool::new(true);

/// Why a function is not carved.
#[derive(Clone, Copy, Debug)]
pub(super) enum TakeError {
    /// It is not there.
    Absent,
    /// Its interfaces cannot be held apart: the IOMMU before it takes no PASIDs, or it sends none.
    NoPasids,
    /// As for any function of Kerf's own.
    Problem(Problem),
    /// The queues that the configuration wants are not to be had.
    Plan(PlanError),
}

impl fmt::Display for TakeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Absent => f.write_str("it is not there"),
            Self::NoPasids => f.write_str("it or the IOMMU before it does not take PASIDs"),
            Self::Problem(why) => write!(f, "{why}"),
            Self::Plan(why) => write!(f, "hosting.queues does not fit it: {why:?}"),
        }
    }
}

impl From<Problem> for TakeError {
    fn from(why: Problem) -> Self {
        Self::Problem(why)
    }
}

impl From<Fault> for TakeError {
    fn from(why: Fault) -> Self {
        Self::Problem(Problem::Fault(why))
    }
}

/// Takes a function.
pub(super) fn take(
    found: &'static Found,
    hosting: &config::Hosting,
) -> Result<Box<dyn HostingFunction>, TakeError> {
    let function = hosting.function;
    let info = ::pci::find(&found.functions, function).ok_or(TakeError::Absent)?;
    if (info.vendor, info.device) != DSA {
        return Err(Problem::NoDriver.into());
    }
    if iommu::with(|driver| driver.pasid_bits(function)).is_none_or(|bits| bits == 0) {
        return Err(TakeError::NoPasids);
    }
    let pasids = info.extended_capability(spec::extended::PASID).ok_or(TakeError::NoPasids)?;
    let registers = found.bars(info)[0].ok_or(Problem::NoDriver)?;
    ::pci::reset(&found.space, info, &irq::clock()).map_err(Problem::Reset)?;
    // Requests without a PASID reach nothing; those with one need an entry of the function's own beside theirs.
    let space = iommu::with(|driver| driver.create_space()).ok_or(Problem::Unheld)?;
    let space = space.map_err(Problem::Space)?;
    let attached = iommu::with(|driver| driver.attach(Attach::new(function, space)));
    let attachment = attached.ok_or(Problem::Unheld)?.map_err(Problem::Attach)?;
    let control = pasids.offset + PASID_CONTROL;
    found.space.write(function, control, Width::W2, PASID_ENABLE);
    let command = spec::COMMAND_MEMORY | spec::COMMAND_MASTER | spec::COMMAND_INTX_DISABLE;
    found.space.write(function, spec::COMMAND, Width::W2, command.into());
    let has = Capabilities::read(&registers, info)?;
    let plan = match hosting.queues.as_slice() {
        [] => Plan::even(&has),
        entries => Plan::of(&has, entries),
    };
    plan.check(&has).map_err(TakeError::Plan)?;
    let queues = plan.queues().count();
    let dsa = Dsa::take(info, registers, irq::clock(), has, plan)?;
    let source = Source::Function(function);
    let route = iommu::with(|driver| driver.route(source, &[irq::hosting_target()]));
    let route = route.ok_or(Problem::Unheld)?.map_err(Problem::Route)?;
    hosting::interrupt(found, info, &route).ok_or(Problem::NoDriver)?;
    KEPT.lock().push((attachment, route));
    log::info!("{function} is Kerf's own, to be carved into {queues} interfaces");
    Ok(Box::new(dsa))
}

/// An interrupt of a function of Kerf's own came.
pub(crate) fn note_interrupt() {
    TOLD.store(true, Ordering::Relaxed);
}

/// Whether one came since this was last asked.
pub(super) fn has_interrupted() -> bool {
    TOLD.swap(false, Ordering::Relaxed)
}
