//! The vocabulary of Kerf: addresses that say whose they are, access widths, and the buses over which hardware is
//! reached. Every other crate imports this one; it imports none of them.
//!
//! Hardware appears only as traits ([`PortBus`], [`MsrBus`], [`CpuidBus`], [`RegisterBus`], [`TableMemory`],
//! [`DeviceTables`], [`Clock`]). The kernel implements them on the machine, the host tests on models, and the code in
//! between cannot tell which.

#![no_std]
#![forbid(unsafe_code)]

mod addr;
mod bus;
mod clock;
mod fields;
mod ids;
mod reg;
mod table;

pub use addr::{Gla, Gpa, Hpa, Hva, Iova, PAGE_SHIFT, PAGE_SIZE, PAGE_SIZE_1G, PAGE_SIZE_2M};
pub use bus::{CpuidBus, CpuidResult, Msr, MsrBus, MsrFault, Port, PortBus, Width};
pub use clock::{Clock, Deadline, Timeout, wait_until};
pub use ids::{Function, Pasid, RequesterId};
pub use reg::{
    ClearedByOnes, ReadOnly, ReadWrite, Readable, Reg, RegisterBus, RegisterValue, Writable,
    WriteOnly,
};
pub use table::{DeviceTables, OutOfFrames, TableMemory};
