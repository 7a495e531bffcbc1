//! Intel Data Streaming Accelerator (architecture specification 341204-006, revision 3.0, which holds versions 1.0 to 3.0;
//! section numbers are its). What versions 1.0 and 2.0 have in common and what Kerf uses of 2.0 is here: inter-domain
//! operations and performance monitoring are not.
//!
//! BAR 0 holds [`registers`] and the tables that [`registers::Offsets`] leads to ([`queue`], [`group`], [`interrupt`]);
//! BAR 2 holds the [`portal`]s, through which a [`descriptor`] is submitted. It ends with a [`completion`] record.

pub mod command;
pub mod completion;
pub mod descriptor;
pub mod group;
pub mod interrupt;
pub mod portal;
pub mod queue;
pub mod registers;

#[cfg(test)]
mod tests;

/// Vendor and device ID (appendix C).
pub const IDS: [u16; 2] = [0x8086, 0x0b25];
/// Class code: a system peripheral of no other kind (appendix C).
pub const CLASS: u32 = 0x08_8000;
/// The BAR of the registers (9.1.1.1).
pub const REGISTERS_BAR: usize = 0;
/// The BAR of the portals (9.1.1.2).
pub const PORTALS_BAR: usize = 2;
/// The least that the BAR of the registers has (9.1.1.1).
pub const REGISTERS_BYTES: u64 = 0x1_0000;
