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

/// How many exits are kept; a power of two.
const KEPT: usize = 64;

/// The last exits; by parts, which makes noting one cheap.
#[derive(Clone, Debug)]
pub(crate) struct Ring {
    kinds: [ExitKind; KEPT],
    rips: [u64; KEPT],
    details: [u64; KEPT],
    /// How many were ever noted.
    count: usize,
}

impl Default for Ring {
    fn default() -> Self {
        let (kinds, rips, details) = ([ExitKind::Handled; KEPT], [0; KEPT], [0; KEPT]);
        Self { kinds, rips, details, count: 0 }
    }
}

impl Ring {
    #[inline(always)]
    pub(crate) fn note(&mut self, ExitRecord { kind, rip, detail }: ExitRecord) {
        let at = self.count & (KEPT - 1);
        self.count = self.count.wrapping_add(1);
        if let (Some(a), Some(b), Some(c)) =
            (self.kinds.get_mut(at), self.rips.get_mut(at), self.details.get_mut(at))
        {
            (*a, *b, *c) = (kind, rip, detail);
        }
    }

    /// Newest last.
    pub(crate) fn records(&self) -> impl Iterator<Item = ExitRecord> {
        let first = self.count.saturating_sub(KEPT);
        (first..self.count).filter_map(|count| {
            let at = count & (KEPT - 1);
            let (&kind, &rip) = (self.kinds.get(at)?, self.rips.get(at)?);
            Some(ExitRecord { kind, rip, detail: *self.details.get(at)? })
        })
    }
}
