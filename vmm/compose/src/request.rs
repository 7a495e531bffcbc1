//! What is asked for, and why it cannot be had.

use alloc::vec::Vec;
use core::fmt;

use devices::{CarveError, Kind, Mode, Resource, Version};
use hw::Function;

/// A VDEV that is asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Request {
    /// The kind of hosting functions.
    pub kind: Kind,
    /// Which of them to take from, in this order; any where there are none.
    pub functions: Vec<Function>,
    /// How queues are divided among them.
    pub placement: Placement,
    /// Queues.
    pub queues: u32,
    /// The least entries of each queue.
    pub entries: u32,
    /// Interrupts of each queue.
    pub interrupts: u32,
    /// Who submits work.
    pub mode: Mode,
    /// The version that the guest is to see.
    pub version: Version,
}

/// How queues are divided among functions.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Placement {
    /// From the first function that has one left.
    #[default]
    First,
    /// From each in turn.
    Spread,
}

/// Why there is no such VDEV. Nothing of it was kept.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// No queue was asked for.
    Zero,
    /// More queues or interrupts than a device of this kind shows.
    TooMany,
    /// Devices of this kind are not composed here.
    Kind(Kind),
    /// There is no function of the kind, or not this one.
    NoFunction(Option<Function>),
    /// No function has what a queue needs.
    Missing {
        /// Which queue, from 1 on.
        queue: u32,
        /// Of how many.
        of: u32,
        /// What speaks against each function.
        why: Vec<(Function, CarveError)>,
    },
    /// There is no such VDEV.
    NoVdev,
    /// The kernel has no PASID, or no address space, for a function's requests.
    NoPasid(Function),
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Zero => write!(f, "a virtual device needs at least one queue"),
            Self::TooMany => write!(f, "no device shows so many queues or interrupts"),
            Self::Kind(kind) => write!(f, "{kind:?} functions are not composed from queues"),
            Self::NoFunction(None) => write!(f, "there is no such hosting function"),
            Self::NoFunction(Some(function)) => {
                write!(f, "{function} is no hosting function of this kind")
            }
            Self::Missing { queue, of, why } => {
                write!(f, "queue {queue} of {of} cannot be had")?;
                why.iter().try_for_each(|(function, why)| {
                    write!(f, "; {function} ")?;
                    tell(f, why)
                })
            }
            Self::NoVdev => write!(f, "there is no such virtual device"),
            Self::NoPasid(function) => write!(f, "no PASID is left for {function}"),
        }
    }
}

fn tell(f: &mut fmt::Formatter<'_>, why: &CarveError) -> fmt::Result {
    let name = |what| match what {
        Resource::Interfaces => "interfaces",
        Resource::Queues => "queues",
        Resource::Entries => "entries in a queue",
        Resource::Slots => "interrupts",
        Resource::Namespaces => "namespaces",
    };
    match *why {
        CarveError::Missing { what, wanted, left } => {
            write!(f, "has {left} {} left, {wanted} wanted", name(what))
        }
        CarveError::Zero(what) => write!(f, "gives nothing without {}", name(what)),
        CarveError::Version(version) => write!(f, "is of version {version}"),
        CarveError::Fault(fault) => write!(f, "does not work: {fault:?}"),
    }
}
