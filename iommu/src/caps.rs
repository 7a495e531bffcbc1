//! What a unit can do, and what all of them can do together.

use hw::{Clock, RegisterBus};
use iommu_spec::invalidation::Drain;
use iommu_spec::registers::{self as regs, Cap, Ecap};
use paging::PageSize;

use crate::bring_up::Mode;
use crate::error::UnitError;

/// Which page tables translate.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stage {
    /// The second stage: legacy mode, or scalable.
    Second,
    /// The first stage: scalable mode only.
    First,
}

/// Capabilities of one unit.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Caps {
    pub(crate) cap: Cap,
    pub(crate) ecap: Ecap,
}

impl Caps {
    /// Reads them.
    pub(crate) fn probe(regs: &impl RegisterBus) -> Result<Self, UnitError> {
        let version = regs.read(regs::VER);
        let caps = Self { cap: regs.read(regs::CAP), ecap: regs.read(regs::ECAP) };
        // A unit that is not there, or whose power is off, reads all ones; some emulators read zero.
        if version == u32::MAX || caps.cap.0 == [u64::MAX] || version & 0xff == 0 {
            return Err(UnitError::Absent);
        }
        // The reserved code for the number of domains is taken for nonsense, as is a unit without a queue.
        if !caps.ecap.qi() || caps.cap.nd() == 7 {
            return Err(UnitError::Unsupported);
        }
        Ok(caps)
    }

    pub(crate) fn scalable_second(&self) -> bool {
        self.ecap.smts() && self.ecap.ssts() && self.has_second()
    }

    pub(crate) fn scalable_first(&self) -> bool {
        self.ecap.smts() && self.ecap.fsts()
    }

    pub(crate) fn has_second(&self) -> bool {
        self.cap.sagaw() & 0b0110 != 0
    }

    pub(crate) fn pasid_bits(&self) -> u32 {
        if self.ecap.smts() && self.ecap.pasid() { u32::from(self.ecap.pss()) + 1 } else { 0 }
    }

    /// Bits of a domain ID.
    pub(crate) fn domain_bits(&self) -> u32 {
        4 + 2 * u32::from(self.cap.nd())
    }

    pub(crate) fn drain(&self) -> Drain {
        Drain { reads: self.cap.drd(), writes: self.cap.dwd() }
    }
}

/// What holds for every unit, so that a space may be attached anywhere.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Limits {
    pub(crate) stage: Stage,
    /// Levels of the second stage.
    pub(crate) levels: u8,
    /// First address that is not translated.
    pub(crate) end: u64,
    pub(crate) largest: PageSize,
    /// Page walks look into caches.
    pub(crate) coherent: bool,
    pub(crate) domains: u32,
    pub(crate) dirty: bool,
}

impl Limits {
    /// The stage that most is gained with, for the units that answered. PASIDs count more than the stage.
    pub(crate) fn choose(mode: Mode, units: &[Caps]) -> Stage {
        let every = |can: fn(&Caps) -> bool| units.iter().all(can);
        match mode {
            Mode::ScalableFirst => Stage::First,
            Mode::Legacy | Mode::ScalableSecond => Stage::Second,
            Mode::Auto if every(Caps::scalable_second) => Stage::Second,
            Mode::Auto if every(Caps::scalable_first) => Stage::First,
            Mode::Auto => Stage::Second,
        }
    }

    /// Whether a unit works at that stage, and then whether in scalable mode.
    pub(crate) fn scalable(mode: Mode, stage: Stage, caps: &Caps) -> Result<bool, UnitError> {
        let (can, scalable) = match (stage, mode) {
            (Stage::First, _) => (caps.scalable_first(), true),
            (Stage::Second, Mode::Legacy) => (caps.has_second(), false),
            (Stage::Second, Mode::ScalableSecond) => (caps.scalable_second(), true),
            (Stage::Second, _) => (caps.has_second(), caps.scalable_second()),
        };
        if can { Ok(scalable) } else { Err(UnitError::Unsupported) }
    }

    /// For units that all work at `stage`, each in scalable mode or not. `None` where they have no width in common.
    pub(crate) fn of(stage: Stage, units: &[(Caps, bool)]) -> Option<Self> {
        let sagaw = units.iter().fold(0b0110, |all, (caps, _)| all & caps.cap.sagaw());
        let levels = match stage {
            Stage::First => 4,
            Stage::Second => [4, 3].into_iter().find(|levels| sagaw >> (levels - 2) & 1 != 0)?,
        };
        let mgaw = units.iter().map(|(caps, _)| u32::from(caps.cap.mgaw()) + 1).min()?;
        let bits = match stage {
            // Addresses of the first stage are canonical, of which the lower half is used.
            Stage::First => 47,
            Stage::Second => (12 + 9 * u32::from(levels)).min(mgaw),
        };
        let sslps = units.iter().fold(3, |all, (caps, _)| all & caps.cap.sslps());
        let giant = units.iter().all(|(caps, _)| caps.cap.fs1gp());
        let largest = match (stage, sslps, giant) {
            (Stage::First, _, true) | (Stage::Second, 3, _) => PageSize::Size1G,
            (Stage::First, ..) | (Stage::Second, 1, _) => PageSize::Size2M,
            _ => PageSize::Size4K,
        };
        let coherent = |(caps, scalable): &(Caps, bool)| match scalable {
            true => caps.ecap.smpwcs(),
            false => caps.ecap.c(),
        };
        let marks = |(caps, scalable): &(Caps, bool)| {
            *scalable && caps.ecap.smpwcs() && (stage == Stage::First || caps.ecap.ssads())
        };
        Some(Self {
            stage,
            levels,
            end: 1 << bits,
            largest,
            coherent: units.iter().all(coherent),
            domains: 1 << units.iter().map(|(caps, _)| caps.domain_bits().min(16)).min()?,
            dirty: units.iter().all(marks),
        })
    }
}

/// What a command or a drained queue may take. Hardware needs microseconds; this is for those that never will.
pub(crate) const COMMAND_NS: u64 = 50_000_000;
/// What an invalidation may take before its unit is given up. A device's TLB has its own, shorter time-out.
pub(crate) const ANSWER_NS: u64 = 1_000_000_000;

/// Polls until `done`, at most for `ns`.
pub(crate) fn wait(clock: &impl Clock, ns: u64, mut done: impl FnMut() -> bool) -> bool {
    let deadline = hw::Deadline::after_ns(clock, ns);
    hw::wait_until(clock, deadline, || done().then_some(())).is_ok()
}
