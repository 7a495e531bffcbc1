//! Management of a running Kerf: what can be asked ([`Request`]) and what is answered ([`Response`]), typed and versioned,
//! so that the serial monitor is one front end and a control guest's channel can be another.
//!
//! The text front end: [`parse`] reads a line, [`Response`]'s `Display` writes tables, [`LineEditor`] takes keys.
//! [`Terminal`] decides whose the one serial line is. All of it is pure; the kernel carries requests out.

#![cfg_attr(not(test), no_std)]
#![forbid(unsafe_code)]
#![cfg_attr(
    not(test),
    deny(clippy::expect_used, clippy::indexing_slicing, clippy::panic, clippy::unwrap_used)
)]

extern crate alloc;

mod json;
mod line;
mod message;
mod parse;
mod tables;
mod terminal;

pub use json::list;
pub use line::{Key, LineEditor};
pub use message::{
    CpuUse, Exits, FaultUse, FunctionUse, IommuUse, LastExit, MemoryUse, QueueUse, Refusal,
    Request, Response, State, Topology, VERSION, VcpuExits, VdevUse, Versioned, VmDetail,
    VmSummary,
};
pub use parse::{HELP, ParseError, near, parse};
pub use terminal::{Background, Focus, Input, SWITCH_KEY, Terminal};
