//! What goes wrong: a request that cannot be met ([`CarveError`]), and a function that does not do what it is told
//! ([`Fault`]).

use crate::function::Version;

/// What a hosting function has only so much of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Resource {
    /// Assignable interfaces of the wanted kind.
    Interfaces,
    /// Queues.
    Queues,
    /// Entries of a queue.
    Entries,
    /// Interrupt slots.
    Slots,
    /// Namespaces of an NVMe device.
    Namespaces,
}

/// Why a function does not give out an interface. It is as it was before.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CarveError {
    /// There is too little of something.
    Missing {
        /// Of what.
        what: Resource,
        /// So much was asked for.
        wanted: u32,
        /// So much an interface could have now.
        left: u32,
    },
    /// None of something was asked for that every interface has.
    Zero(Resource),
    /// The function is of an older version than was asked for: this one.
    Version(Version),
    /// The function does not do what it is told.
    Fault(Fault),
}

impl From<Fault> for CarveError {
    fn from(fault: Fault) -> Self {
        Self::Fault(fault)
    }
}

/// Why a function does not do what it is told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// There is no such interface, or no more.
    Stale,
    /// The interface has no such slot.
    Slot,
    /// Something else that was begun with the interface is not at its end.
    Busy,
    /// Not in the state that the interface is in.
    State,
    /// Interfaces of this kind have nothing like it, or not this value.
    Unsupported,
    /// It has too little of this for what the interface is set to.
    Lacks(Resource),
    /// It did not answer in time.
    Timeout,
    /// It has halted.
    Halted,
    /// It reads all ones.
    Gone,
    /// It refused, with this code of its own.
    Refused(u32),
    /// What the register at this offset says cannot be.
    Lies(u64),
}
