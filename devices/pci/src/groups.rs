//! Isolation groups: functions that could reach one another without the IOMMU in between, or that the IOMMU cannot tell
//! apart. A group belongs to one owner.
//!
//! Two rules make them, after access control has been turned on wherever it is offered ([`isolate`]; 6.12):
//! - functions of one device are together unless all of them control access between them;
//! - whatever is below a bridge that does not send everything up to the IOMMU, and send it under the name of who sent
//!   it, is together with that bridge, however well the ports below it behave.

use alloc::vec::Vec;
use core::fmt;

use hw::{Function, RequesterId};

use crate::access::{Config, ConfigAccess};
use crate::aliases::{aliases, bridges_above, phantoms, renames};
use crate::function::{FunctionInfo, PcieKind, find};
use crate::spec::extended::{self, acs};

/// Functions of one owner.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Group {
    /// Who is in it, bridges included, in the order of their numbers.
    pub functions: Vec<Function>,
    /// What holds it together.
    pub ties: Vec<Tie>,
    /// Functions, and what their requests may arrive as besides: [`aliases`].
    pub aliases: Vec<(Function, RequesterId)>,
}

/// Two functions that cannot be separated.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Tie {
    /// One.
    pub one: Function,
    /// The other, which is to blame.
    pub other: Function,
    /// Why.
    pub reason: Reason,
}

/// Why two functions cannot be separated.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reason {
    /// Both belong to a device, and the other does not control access between its functions.
    Device,
    /// It is below the other, a port that does not send all requests upstream.
    Port,
    /// It is behind the other, a bridge to or from conventional PCI, which sends under its own name.
    Bridge,
    /// The other sends under its number: phantom functions.
    Phantom,
}

impl fmt::Display for Tie {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { one, other, reason } = self;
        match reason {
            Reason::Device => {
                write!(f, "{one} and {other}: one device, and {other} has no access control (ACS)")
            }
            Reason::Port => {
                write!(f, "{one} is below {other}, a port without access control (ACS)")
            }
            Reason::Bridge => {
                write!(f, "{one} is behind {other}, a conventional PCI bridge that sends for it")
            }
            Reason::Phantom => write!(f, "{other} sends as {one}: phantom functions"),
        }
    }
}

impl fmt::Display for Group {
    /// A line of functions, then one for each tie and alias.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, function) in self.functions.iter().enumerate() {
            write!(f, "{}{function}", if index == 0 { "" } else { ", " })?;
        }
        for tie in &self.ties {
            write!(f, "\n  {tie}")?;
        }
        for (function, rid) in &self.aliases {
            write!(f, "\n  {function} may send as {rid}")?;
        }
        Ok(())
    }
}

/// What a port has to control for its neighbours to be out of reach.
const ISOLATION: u16 = acs::SOURCE_VALIDATION
    | acs::REQUEST_REDIRECT
    | acs::COMPLETION_REDIRECT
    | acs::UPSTREAM_FORWARDING;
/// What makes exceptions from it.
const EXCEPTIONS: u16 = acs::EGRESS_CONTROL | acs::DIRECT_TRANSLATED;

/// Turns on all access control that a function or a bridge offers. To be done for all of them before [`groups`].
pub fn isolate(access: &impl ConfigAccess, info: &FunctionInfo) {
    if let Some(found) = info.extended_capability(extended::ACS) {
        let config = Config::new(access, info.function);
        let offered = config.read16(found.offset + acs::CAPABILITIES) & ISOLATION;
        let control = config.read16(found.offset + acs::CONTROL) & !EXCEPTIONS;
        config.write16(found.offset + acs::CONTROL, control | offered);
    }
}

/// Whether what a function has to control is on: all that it offers, which has to be `needed` at least.
fn controls(info: &FunctionInfo, needed: u16, access: &impl ConfigAccess) -> bool {
    info.extended_capability(extended::ACS).is_some_and(|found| {
        let config = Config::new(access, info.function);
        let offered = config.read16(found.offset + acs::CAPABILITIES) & ISOLATION;
        let control = config.read16(found.offset + acs::CONTROL);
        let needed = offered | needed;
        control & needed == needed && control & EXCEPTIONS == 0
    })
}

/// Whether a function keeps those beside it in its device out of its reach, and a bridge those below it.
fn keeps_apart(info: &FunctionInfo, access: &impl ConfigAccess) -> bool {
    use PcieKind::{DownstreamPort, Endpoint, LegacyEndpoint, RootComplexEndpoint, RootPort};
    match info.pcie {
        // Which redirections there have to be in a root complex, its ports alone know; that none lies about who it is,
        // every port can see to.
        Some(RootPort) => controls(info, acs::SOURCE_VALIDATION, access),
        Some(DownstreamPort) => controls(info, ISOLATION, access),
        Some(PcieKind::UpstreamPort | Endpoint | LegacyEndpoint | RootComplexEndpoint) => {
            controls(info, 0, access)
        }
        _ => false,
    }
}

/// Every function in its group, in the order of their first ones.
#[must_use]
pub fn groups(functions: &[FunctionInfo], access: &impl ConfigAccess) -> Vec<Group> {
    let sends_as = functions
        .iter()
        .flat_map(|info| {
            let aliases = aliases(functions, info, access);
            aliases.into_iter().map(|rid| (info.function, rid))
        })
        .collect::<Vec<_>>();
    let mut ties = device_ties(functions, access);
    ties.extend(functions.iter().filter_map(|info| bridge_tie(functions, info, access)));
    ties.extend(functions.iter().flat_map(|info| {
        let other = info.function;
        let ones = phantoms(info, access).into_iter().map(move |rid| Function { rid, ..other });
        let there = ones.filter(|one| find(functions, *one).is_some());
        there.map(move |one| Tie { one, other, reason: Reason::Phantom })
    }));
    let mut groups = joined(functions, &ties);
    for group in &mut groups {
        let has = |function| group.functions.contains(function);
        group.ties = ties.iter().filter(|tie| has(&tie.one)).copied().collect();
        group.aliases = sends_as.iter().filter(|(function, _)| has(function)).copied().collect();
    }
    groups
}

/// Whether two functions are of one device: below a port that forwards ARI, all are.
fn is_beside(
    functions: &[FunctionInfo],
    one: &FunctionInfo,
    other: &FunctionInfo,
    access: &impl ConfigAccess,
) -> bool {
    let (a, b) = (one.function, other.function);
    let same_bus = (a.segment, a.rid.bus()) == (b.segment, b.rid.bus());
    let parent = || one.parent.and_then(|parent| find(functions, parent));
    a != b
        && same_bus
        && (a.rid.device() == b.rid.device()
            || parent().is_some_and(|port| port.forwards_ari(access)))
}

/// Whether two are a physical function and its virtual ones, and `info` offers no access control: it would have to if it
/// could reach the others (6.12.1.2).
fn is_apart_by_nature(info: &FunctionInfo, other: &FunctionInfo) -> bool {
    let physical = |info: &FunctionInfo| info.physical.unwrap_or(info.function);
    physical(info) == physical(other) && info.extended_capability(extended::ACS).is_none()
}

fn device_ties(functions: &[FunctionInfo], access: &impl ConfigAccess) -> Vec<Tie> {
    let mut ties = Vec::new();
    for info in functions.iter().filter(|info| !keeps_apart(info, access)) {
        // The first to blame ties all of its device.
        if ties.iter().any(|tie: &Tie| tie.one == info.function) {
            continue;
        }
        let beside = functions.iter().filter(|other| {
            is_beside(functions, info, other, access) && !is_apart_by_nature(info, other)
        });
        let other = info.function;
        ties.extend(beside.map(|one| Tie { one: one.function, other, reason: Reason::Device }));
    }
    ties
}

/// The tie to the highest bridge that keeps nothing apart below it.
fn bridge_tie(
    functions: &[FunctionInfo],
    info: &FunctionInfo,
    access: &impl ConfigAccess,
) -> Option<Tie> {
    let lets_mix = |bridge: &&FunctionInfo| {
        // An upstream port alone in its device has no peer.
        let is_alone =
            || !functions.iter().any(|other| is_beside(functions, bridge, other, access));
        let is_plain = bridge.pcie == Some(PcieKind::UpstreamPort) && is_alone();
        !is_plain && !keeps_apart(bridge, access)
    };
    let bridge = bridges_above(functions, info).filter(lets_mix).last()?;
    let reason = if renames(bridge) { Reason::Bridge } else { Reason::Port };
    Some(Tie { one: info.function, other: bridge.function, reason })
}

/// Groups by their functions: those that a chain of ties joins.
fn joined(functions: &[FunctionInfo], ties: &[Tie]) -> Vec<Group> {
    let mut groups = functions
        .iter()
        .map(|info| Group {
            functions: [info.function].into(),
            ties: Vec::new(),
            aliases: Vec::new(),
        })
        .collect::<Vec<_>>();
    for tie in ties {
        let place = |function| groups.iter().position(|group| group.functions.contains(function));
        let (Some(a), Some(b)) = (place(&tie.one), place(&tie.other)) else { continue };
        if a != b {
            let last = groups.remove(a.max(b));
            if let Some(first) = groups.get_mut(a.min(b)) {
                first.functions.extend(last.functions);
                first.functions.sort_unstable();
            }
        }
    }
    groups
}

#[cfg(test)]
mod tests;
