//! [`Ring`]: the last exits of a virtual CPU, for whoever has to explain what it did.

use vcpu::{EntryFailure, Exit, Gpr, Vcpu};

use crate::counters::ExitKind;

/// An exit, as short as it can be told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ExitRecord {
    /// Its kind.
    pub kind: ExitKind,
    /// RIP then.
    pub rip: u64,
    /// Port, guest-physical address, MSR, leaf or number, by its kind.
    pub detail: u64,
}

impl ExitRecord {
    /// The record of an exit that `vcpu` has just taken.
    #[inline]
    pub(crate) fn of<V: Vcpu>(exit: &Exit, vcpu: &V) -> Self {
        let detail = match *exit {
            Exit::Cpuid | Exit::Hypercall => vcpu.gpr(Gpr::Rax),
            Exit::MsrRead(msr) | Exit::MsrWrite { msr, .. } => msr.0.into(),
            Exit::PortIo(access) => access.port.0.into(),
            Exit::SecondStage(fault) => fault.gpa.raw(),
            Exit::Xsetbv { value, .. } | Exit::Cr8Write { value } => value,
            Exit::EntryFailed(EntryFailure::Code(code)) | Exit::Unhandled { code, .. } => code,
            _ => 0,
        };
        Self { kind: ExitKind::of(exit), rip: vcpu.rip(), detail }
    }
}

/// How many exits are told of.
const KEPT: usize = 64;
/// How many are kept: as many as a byte can count, which needs no care at the end.
const SLOTS: usize = 256;
/// No exit was noted here yet.
const NOTHING: u64 = u64::MAX;

/// The last exits, in a form that makes noting one cheap.
#[derive(Clone, Debug)]
pub(crate) struct Ring {
    /// Where the next one goes.
    next: u8,
    rips: [u64; SLOTS],
    /// The kind in bits 7:0, above it as much of the detail as there is room for.
    details: [u64; SLOTS],
}

impl Default for Ring {
    fn default() -> Self {
        Self { next: 0, rips: [0; SLOTS], details: [NOTHING; SLOTS] }
    }
}

impl Ring {
    #[inline(always)]
    pub(crate) fn note(&mut self, ExitRecord { kind, rip, detail }: ExitRecord) {
        let at = usize::from(self.next);
        self.next = self.next.wrapping_add(1);
        if let (Some(to), Some(word)) = (self.rips.get_mut(at), self.details.get_mut(at)) {
            (*to, *word) = (rip, detail << 8 | kind as u64);
        }
    }

    /// Newest last.
    pub(crate) fn records(&self) -> impl Iterator<Item = ExitRecord> {
        let first = usize::from(self.next) + SLOTS - KEPT;
        (first..first + KEPT).filter_map(|count| {
            let at = count % SLOTS;
            let (&rip, &word) = (self.rips.get(at)?, self.details.get(at)?);
            let kind = *ExitKind::ALL.get((word & 0xff) as usize)?;
            Some(ExitRecord { kind, rip, detail: word >> 8 })
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::vec::Vec;

    #[test]
    fn the_last_64_exits_are_told_of_newest_last() {
        let mut ring = Ring::default();
        let rips = |ring: &Ring| ring.records().map(|record| record.rip).collect::<Vec<_>>();
        assert!(rips(&ring).is_empty());
        let mut note = |rip| ring.note(ExitRecord { kind: ExitKind::Cpuid, rip, detail: 0 });
        (0..1000).for_each(&mut note);
        assert_eq!(rips(&ring), (936..1000).collect::<Vec<_>>());
        let mut fresh = Ring::default();
        fresh.note(ExitRecord { kind: ExitKind::Halt, rip: 7, detail: 0 });
        assert_eq!(rips(&fresh), [7]);
    }
}
