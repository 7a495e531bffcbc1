//! Intel's Data Streaming Accelerator: an interface is a work queue with its four portals. Section numbers are those of
//! [`device_spec::dsa`].
//!
//! [`Dsa`] drives a function. Sizes of queues, groups and engines can change only while the whole device is disabled: they
//! are laid out once, by a [`Plan`], and interfaces are picked from that. `registers` is what a guest sees that is
//! given some of them.
//!
//! An interface's pages are its portals in the order of their offsets: MSI-X unlimited and limited, IMS unlimited and
//! limited. Only the last two are ever fast: descriptors that come in by the first two could name the function's own MSI-X
//! entries.

mod capabilities;
mod commands;
mod driver;
mod lay_out;
mod progress;
mod registers;

#[cfg(test)]
mod tests;

pub use capabilities::Capabilities;
pub use driver::Dsa;
pub use lay_out::{GroupPlan, Plan, PlanError, QueuePlan};
pub use registers::{Effect, Order, Part, VirtualRegisters};

use device_spec::dsa::registers::GeneralCapabilities;

use crate::function::Version;
use crate::interface::Mode;

/// Words of a set of operations.
pub(crate) const OPERATION_WORDS: usize = device_spec::dsa::registers::OPCAP_WORDS as usize;

/// What a work queue has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Queue {
    /// Who submits work.
    pub mode: Mode,
    /// Its entries.
    pub entries: u16,
    /// What holds for its descriptors, in the version that it was asked for in: sizes and options.
    pub general: GeneralCapabilities,
    /// Operations that it does, likewise: a bit each.
    pub operations: [u64; OPERATION_WORDS],
    /// Its owner can choose among them.
    pub chooses: bool,
}

/// What its owner has set.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Settings {
    /// log2 of the most bytes of a transfer.
    pub max_transfer: u8,
    /// log2 of the most descriptors of a batch.
    pub max_batch: u8,
    /// Entries of a shared queue that limited portals may fill.
    pub threshold: u16,
    /// Operations that it is to do.
    pub operations: [u64; OPERATION_WORDS],
}

impl Queue {
    /// Everything that it can do.
    #[must_use]
    pub const fn settings(&self) -> Settings {
        Settings {
            max_transfer: self.general.max_transfer(),
            max_batch: self.general.max_batch(),
            threshold: self.entries,
            operations: self.operations,
        }
    }

    /// Whether it can stand in for another one: whoever was promised that finds it all.
    fn replaces(&self, other: &Self) -> bool {
        let flags = |of: &Self| of.general.with_max_transfer(0).with_max_batch(0).0;
        let ([own], [others]) = (flags(self), flags(other));
        self.mode == other.mode
            && self.entries >= other.entries
            && self.chooses >= other.chooses
            && others & !own == 0
            && self.can(&other.settings())
    }

    /// Whether it can do all that.
    fn can(&self, settings: &Settings) -> bool {
        let mut pairs = settings.operations.iter().zip(&self.operations);
        settings.max_transfer <= self.general.max_transfer()
            && settings.max_batch <= self.general.max_batch()
            && settings.threshold <= self.entries
            && pairs.all(|(asked, has)| asked & !has == 0)
    }
}

/// What makes another queue go on as this one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct QueueState {
    /// As it was carved.
    pub queue: Queue,
    /// What its owner has set.
    pub settings: Settings,
    /// Whether it was enabled.
    pub was_enabled: bool,
}

/// Operations of version 1.0 (table 8-2): what later ones added has other numbers.
const OPERATIONS_1_0: [u64; OPERATION_WORDS] = [0x0000_0001_003f_03ff, 0, 0, 0];

/// What of a device's general capabilities holds for its queues in `version`. Descriptors of a carved queue do not wait for
/// page faults, which nobody resolves, nor has it a share of the event log; storage for interrupts is nobody's own.
const fn general_in(version: Version, found: GeneralCapabilities) -> GeneralCapabilities {
    let found = found.with_block_on_fault(false).with_event_log(0).with_ims_size(0);
    if version.major >= 2 {
        return found;
    }
    found.with_fill16(false).with_crc64(false).with_fault_info(false).with_batch_continuation(false)
}

/// Likewise of its operations.
fn operations_in(version: Version, found: [u64; OPERATION_WORDS]) -> [u64; OPERATION_WORDS] {
    let mut known = found;
    if version.major < 2 {
        known.iter_mut().zip(OPERATIONS_1_0).for_each(|(word, old)| *word &= old);
    }
    known
}
