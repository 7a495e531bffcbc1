//! What operations of the IOMMU cost on this machine, for [`crate::survey`].

use alloc::vec::Vec;

use ::iommu::{Attach, Pending, SpaceId};
use ::pci::HeaderKind;
use hw::{Deadline, Hpa, Iova, PAGE_SIZE};
use paging::Rights;

use crate::iommu::Driver;
use crate::platform::rdtsc;
use crate::{iommu, irq, pci};

/// Of a block of a space: ticks of the TSC, and what the unit was told.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Cost {
    pub(crate) bytes: u64,
    pub(crate) map: u64,
    pub(crate) unmap: u64,
    /// Until the unit has said that it has forgotten it.
    pub(crate) invalidate: u64,
    pub(crate) descriptors: u64,
}

const START: u64 = 64 << 30;
const LIMIT_NS: u64 = 1_000_000_000;

/// Maps a page of each size and takes it away again, in a space of a function that nobody has: it is silent, and the space
/// shows the memory to no one else. Empty where no IOMMU holds such a function.
pub(crate) fn measure() -> Vec<Cost> {
    let functions = pci::found().map_or(&[][..], |found| &found.functions);
    let endpoints = functions.iter().filter(|info| info.header == HeaderKind::Endpoint);
    let costs = iommu::with(|driver| {
        let function = endpoints.map(|info| info.function).find(|&at| driver.covers(at))?;
        let space = driver.create_space().ok()?;
        let attachment = driver.attach(Attach::new(function, space));
        let sizes = [PAGE_SIZE, 2 << 20, 1 << 30].into_iter();
        let costs = sizes.map_while(|bytes| cost(driver, space, bytes)).collect();
        let is_detached = attachment.is_ok_and(|attachment| {
            let pending = driver.detach(attachment);
            forget(driver, pending)
        });
        if is_detached && let Ok(pending) = driver.destroy_space(space) {
            forget(driver, pending);
        }
        Some(costs)
    });
    costs.flatten().unwrap_or_default()
}

fn forget(driver: &mut Driver, pending: Pending) -> bool {
    pending.wait(driver, Deadline::after_ns(&irq::clock(), LIMIT_NS)).is_ok()
}

/// With its tables there already, as a page beside it is mapped.
fn cost(driver: &mut Driver, space: SpaceId, bytes: u64) -> Option<Cost> {
    let (at, beside) = (Iova::new(START), Iova::new(START + bytes));
    driver.map(space, beside, Hpa::new(0), PAGE_SIZE, Rights::R).ok()?;
    let before = driver.descriptors();
    let start = rdtsc();
    driver.map(space, at, Hpa::new(0), bytes, Rights::R).ok()?;
    let mapped = rdtsc();
    let pending = driver.unmap(space, at, bytes).ok()?;
    let unmapped = rdtsc();
    let is_done = forget(driver, pending);
    let invalidate = rdtsc().saturating_sub(unmapped);
    let descriptors = driver.descriptors() - before;
    let pending = driver.unmap(space, beside, PAGE_SIZE).ok()?;
    let (map, unmap) = (mapped.saturating_sub(start), unmapped.saturating_sub(mapped));
    (forget(driver, pending) && is_done).then_some(Cost {
        bytes,
        map,
        unmap,
        invalidate,
        descriptors,
    })
}
