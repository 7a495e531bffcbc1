//! [`Crash`]: why a guest cannot go on, for whoever reports it.

use core::fmt;

use hw::{Gpa, Msr, Port};
use vcpu::EntryFailure;

use crate::insn::MAX_BYTES;

/// Why a guest cannot go on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Crash {
    /// A fault while delivering a double fault.
    TripleFault,
    /// HLT with interrupts off, on the last virtual CPU that could end that.
    HaltedForGood,
    /// Instructions were fetched from where there is no RAM.
    NoCode(Gpa),
    /// The page tables lead to where there is no RAM.
    NoPageTable(Gpa),
    /// A string instruction's data is where there is no RAM.
    NoStringData(Gpa),
    /// An instruction that Kerf would have to emulate and does not know, time and again.
    Undecodable(InstructionBytes),
    /// An access to a port that no device has, and the machine is to stop then.
    UnknownPort(Port),
    /// Likewise, to memory that is not there.
    UnknownMemory(Gpa),
    /// Likewise, to a register that it does not have.
    UnknownMsr(Msr),
    /// An access to protected memory.
    Protected(Gpa),
    /// The CPU refused to enter.
    EntryFailed(EntryFailure),
    /// An exit that no one expected.
    Unhandled {
        /// The vendor's code.
        code: u64,
        /// The vendor's detail.
        detail: u64,
    },
}

/// An instruction, for a report.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct InstructionBytes {
    /// RIP.
    pub rip: u64,
    /// The bytes there.
    pub bytes: [u8; MAX_BYTES],
    /// How many of them could be fetched.
    pub len: u8,
}

impl fmt::Display for Crash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::TripleFault => f.write_str("triple fault"),
            Self::HaltedForGood => f.write_str("halted with interrupts off"),
            Self::NoCode(gpa) => write!(f, "ran into {gpa}, where there is no memory"),
            Self::NoPageTable(gpa) => write!(f, "page table at {gpa}, where there is no memory"),
            Self::NoStringData(gpa) => {
                write!(f, "string I/O with {gpa}, where there is no memory")
            }
            Self::Undecodable(found) => {
                write!(f, "unknown instruction at {:#x}:", found.rip)?;
                found
                    .bytes
                    .iter()
                    .take(found.len.into())
                    .try_for_each(|byte| write!(f, " {byte:02x}"))
            }
            Self::UnknownPort(port) => write!(f, "used port {:#x}, where there is nothing", port.0),
            Self::UnknownMemory(gpa) => write!(f, "used {gpa}, where there is no memory"),
            Self::UnknownMsr(msr) => write!(f, "used MSR {:#x}, which it does not have", msr.0),
            Self::Protected(gpa) => write!(f, "used protected memory at {gpa}"),
            Self::EntryFailed(EntryFailure::Rule(rule)) => write!(f, "entry refused: {rule}"),
            Self::EntryFailed(EntryFailure::Code(code)) => {
                write!(f, "entry refused with code {code:#x}")
            }
            Self::Unhandled { code, detail } => {
                write!(f, "unexpected exit {code:#x}, detail {detail:#x}")
            }
        }
    }
}
