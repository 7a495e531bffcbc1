//! Faults: read from the units' records, told apart, counted (VT-d 7.2 and 7.3).

use alloc::collections::BTreeMap;
use core::fmt;

use hw::{Clock, Function, Pasid, Reg, RegisterBus, RequesterId};
use iommu_spec::fault::{FaultRecord, describe};
use iommu_spec::registers::{self as regs, FaultStatus};

use crate::Hw;
use crate::iommu::Iommu;
use crate::unit::Unit;

/// Something that a device was not let through with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fault {
    /// Who, by its own account.
    pub function: Function,
    /// For which address space.
    pub pasid: Option<Pasid>,
    /// Where: the page, or for an interrupt the entry.
    pub address: u64,
    /// The unit's reason ([`iommu_spec::fault::reason`]).
    pub reason: u8,
    /// It was to be read rather than written.
    pub read: bool,
    /// It was an interrupt.
    pub interrupt: bool,
    /// The function has had more faults in this second than it may.
    pub storm: bool,
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.function)?;
        if let Some(pasid) = self.pasid {
            write!(f, " PASID {:#x}", pasid.raw())?;
        }
        match (self.interrupt, self.read) {
            (true, _) => write!(f, " interrupt entry {:#x}", self.address)?,
            (false, true) => write!(f, " read of {:#x}", self.address)?,
            (false, false) => write!(f, " write to {:#x}", self.address)?,
        }
        write!(f, " blocked: {} ({:#04x})", describe(self.reason), self.reason)
    }
}

/// Faults of each function in the second that runs. It holds what one second brings, so it cannot grow for ever.
#[derive(Debug)]
pub(crate) struct Meter {
    limit: u32,
    since_ns: u64,
    counts: BTreeMap<Function, u32>,
}

impl Meter {
    const WINDOW_NS: u64 = 1_000_000_000;

    pub(crate) fn new(limit: u32) -> Self {
        Self { limit, since_ns: 0, counts: BTreeMap::new() }
    }

    /// Counts a fault; whether it is one too many.
    fn count(&mut self, now_ns: u64, function: Function) -> bool {
        if now_ns.saturating_sub(self.since_ns) >= Self::WINDOW_NS {
            self.since_ns = now_ns;
            self.counts.clear();
        }
        let count = self.counts.entry(function).or_default();
        *count = count.saturating_add(1);
        *count > self.limit
    }
}

impl<H: Hw> Unit<H> {
    fn record_offset(&self, index: u64) -> u64 {
        u64::from(self.caps.cap.fro()) * 16 + index * regs::FAULT_RECORD_BYTES
    }

    fn records(&self) -> u64 {
        u64::from(self.caps.cap.nfr()) + 1
    }

    /// Takes the fault out of a record.
    fn take_record(&self, index: u64) -> Option<FaultRecord> {
        let at = self.record_offset(index);
        // The upper half says whether there is a fault; while it does, the lower half is stable.
        let high = self.regs.read(Reg::<u64, hw::ReadOnly>::at(at + 8));
        let record = FaultRecord([0, high]);
        if !record.f() || high == u64::MAX {
            return None;
        }
        let low = self.regs.read(Reg::<u64, hw::ReadOnly>::at(at));
        // F is the top bit of the last doubleword, which is all that is written, so nothing else is cleared.
        self.regs.clear(Reg::<u32, hw::ClearedByOnes>::at(at + 12), 1 << 31);
        Some(FaultRecord([low, high]))
    }

    /// Takes all faults, from the oldest on, at most once around the records: a device that goes on faulting does not hold
    /// the caller here.
    pub(crate) fn drain_faults(&self, mut each: impl FnMut(FaultRecord)) {
        let status = self.regs.read(regs::FSTS);
        if !status.ppf() && !status.pfo() || status.0 == [u32::MAX.into()] {
            return;
        }
        let first = u64::from(status.fri());
        for step in 0..self.records() {
            match self.take_record((first + step) % self.records()) {
                Some(record) => each(record),
                None => break,
            }
        }
        // Cleared last: as long as it is set nothing is recorded (7.2.1).
        if status.pfo() {
            self.regs.clear(regs::FSTS, FaultStatus::default().with_pfo(true));
        }
    }

    /// Forgets what was recorded before, and errors of a queue that is off.
    pub(crate) fn clear_faults(&self) {
        for index in 0..self.records() {
            let _ = self.take_record(index);
        }
        let all =
            FaultStatus::default().with_pfo(true).with_iqe(true).with_ice(true).with_ite(true);
        self.regs.clear(regs::FSTS, all);
    }
}

impl<H: Hw> Iommu<H> {
    /// Tells every fault that the units have on record. To be called on their fault event, or now and then.
    pub fn drain_faults(&mut self, mut tell: impl FnMut(Fault)) {
        let now = self.clock.now_ns();
        for unit in self.units.iter().filter(|unit| unit.lost.is_none()) {
            let segment = unit.scopes.segment;
            unit.drain_faults(|record| {
                let function = Function { segment, rid: RequesterId(record.sid()) };
                let pasid = Pasid::try_new(record.pv()).filter(|_| record.pp());
                let interrupt = record.is_interrupt();
                let index = u64::from(record.interrupt_index());
                tell(Fault {
                    function,
                    pasid,
                    address: if interrupt { index } else { record.fi().raw() },
                    reason: record.fr(),
                    read: record.is_read(),
                    interrupt,
                    storm: self.meter.count(now, function),
                });
            });
        }
    }
}
