//! Which functions a unit answers for: device scopes of DMAR, followed through the bridges that are there.

use alloc::vec::Vec;

use hw::{Function, RequesterId};
use iommu_spec::dmar::scope;

use crate::dmar::{Scope, UnitEntry};

/// What a unit answers for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Scopes {
    pub(crate) segment: u16,
    /// Everything in the segment that no other unit names.
    pub(crate) all: bool,
    functions: Vec<RequesterId>,
    /// First and last bus below a bridge.
    buses: Vec<(u8, u8)>,
    /// I/O APICs and HPETs by their number, and what they send as.
    senders: Vec<(u8, u8, RequesterId)>,
}

/// Buses below a bridge: secondary and subordinate, as its configuration space says. `None` where there is no bridge.
pub(crate) type Bridges<'a> = &'a dyn Fn(Function) -> Option<(u8, u8)>;

/// The function at the end of a path; `None` where a bridge on the way is not there.
pub(crate) fn resolve(scope: &Scope, segment: u16, bridges: Bridges<'_>) -> Option<RequesterId> {
    let (last, way) = scope.path.split_last()?;
    let mut bus = scope.start_bus;
    for (device, function) in way {
        let rid = RequesterId::new(bus, *device, *function);
        (bus, _) = bridges(Function { segment, rid })?;
    }
    Some(RequesterId::new(bus, last.0, last.1))
}

/// The functions that a scope of a reserved region names.
pub(crate) fn endpoint(scope: &Scope, segment: u16, bridges: Bridges<'_>) -> Option<Function> {
    let rid = resolve(scope, segment, bridges)?;
    Some(Function { segment, rid })
}

impl Scopes {
    /// Follows a unit's scopes; those that lead nowhere are told by their offset.
    pub(crate) fn new(
        unit: &UnitEntry,
        bridges: Bridges<'_>,
        mut absent: impl FnMut(usize),
    ) -> Self {
        let segment = unit.segment;
        let mut scopes = Self { segment, all: unit.include_all, ..Self::default() };
        for scope in &unit.scopes {
            let Some(rid) = resolve(scope, segment, bridges) else {
                absent(scope.offset);
                continue;
            };
            match scope.kind {
                scope::BRIDGE => {
                    scopes.functions.push(rid);
                    match bridges(Function { segment, rid }) {
                        Some(below) => scopes.buses.push(below),
                        None => absent(scope.offset),
                    }
                }
                scope::IO_APIC | scope::HPET => {
                    scopes.senders.push((scope.kind, scope.id, rid));
                    scopes.functions.push(rid);
                }
                _ => scopes.functions.push(rid),
            }
        }
        scopes
    }

    /// Whether a scope names the function; [`Scopes::all`] does not count.
    pub(crate) fn names(&self, function: Function) -> bool {
        let bus = function.rid.bus();
        function.segment == self.segment
            && (self.functions.contains(&function.rid)
                || self.buses.iter().any(|(first, last)| (*first..=*last).contains(&bus)))
    }

    /// What an I/O APIC or a HPET sends as.
    pub(crate) fn sender(&self, kind: u8, id: u8) -> Option<RequesterId> {
        let mut senders = self.senders.iter();
        senders.find(|(k, i, _)| (*k, *i) == (kind, id)).map(|(.., rid)| *rid)
    }
}
