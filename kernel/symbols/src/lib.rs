//! Names of the kernel's functions, and how to get from one frame of its stack to the next: the table that stands beside
//! the kernel on the boot volume, made from the very file that is loaded ([`encode`]) and read when the kernel panics
//! ([`Symbols`]).
//!
//! The kernel keeps no frame pointers, which would cost instructions on every exit of a guest. What a debugger knows of
//! each address (DWARF 5, 6.4) is boiled down to the two questions that matter: where the caller's frame begins, and
//! where its RBP was saved.
//!
//! ```text
//! header    magic, hash of the kernel's text, its base: 8 bytes each; functions, rows: 4 bytes each
//! functions start, end, offset of the name in the names: 4 bytes each, sorted
//! rows      start, rule: 4 bytes each, sorted
//! names     length, 2 bytes; UTF-8
//! ```
//! All integers are little-endian; starts and ends count from the base.

#![cfg_attr(not(test), no_std)]
#![forbid(unsafe_code)]

extern crate alloc;

mod encode;
#[cfg(test)]
mod tests;

pub use encode::{Function, Row, encode};

/// Begins the table.
const MAGIC: &[u8; 8] = b"KERFSYM1";
const HEADER_BYTES: usize = 32;
const FUNCTION_BYTES: usize = 12;
const ROW_BYTES: usize = 8;

/// The table, as far as it is one.
#[derive(Clone, Copy, Debug)]
pub struct Symbols<'a> {
    text_hash: u64,
    base: u64,
    functions: &'a [u8],
    rows: &'a [u8],
    names: &'a [u8],
}

/// A frame of the stack, by the registers that find the next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Frame {
    /// The instruction, or the one after the call.
    pub rip: u64,
    /// The stack pointer there.
    pub rsp: u64,
    /// RBP there.
    pub rbp: u64,
}

/// Where the caller's frame begins, and where its RBP is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rule {
    /// The frame begins at RBP plus the offset, rather than at RSP plus it.
    pub from_rbp: bool,
    /// Bytes to where the frame begins, which is behind the return address.
    pub offset: u32,
    /// RBP was saved so many bytes before that; 0 where it still is in the register.
    pub rbp_below: u32,
}

impl Rule {
    const FROM_RBP: u32 = 1 << 16;
    const RBP_SHIFT: u32 = 17;
    /// No rule.
    const NONE: u32 = u32::MAX;

    /// As it is stored; `None` where it is none that a compiler would make.
    fn encode(self) -> Option<u32> {
        let words = |bytes: u32, limit: u32| {
            (bytes.is_multiple_of(8) && bytes / 8 < limit).then_some(bytes / 8)
        };
        let from = if self.from_rbp { Self::FROM_RBP } else { 0 };
        let below = words(self.rbp_below, 1 << 14)?;
        Some(words(self.offset, 1 << 16)? | from | below << Self::RBP_SHIFT)
    }

    fn decode(raw: u32) -> Option<Self> {
        (raw != Self::NONE).then_some(Self {
            from_rbp: raw & Self::FROM_RBP != 0,
            offset: (raw & 0xffff) * 8,
            rbp_below: (raw >> Self::RBP_SHIFT) * 8,
        })
    }
}

impl<'a> Symbols<'a> {
    /// Reads a table; `None` where it is none.
    #[must_use]
    pub fn parse(bytes: &'a [u8]) -> Option<Self> {
        let (header, rest) = bytes.split_at_checked(HEADER_BYTES)?;
        if !header.starts_with(MAGIC) {
            return None;
        }
        let count = |at| word(header, at).map(|count| count as usize);
        let functions = count(24)?.checked_mul(FUNCTION_BYTES)?;
        let rows = count(28)?.checked_mul(ROW_BYTES)?;
        let (functions, rest) = rest.split_at_checked(functions)?;
        let (rows, names) = rest.split_at_checked(rows)?;
        Some(Self { text_hash: long(header, 8)?, base: long(header, 16)?, functions, rows, names })
    }

    /// Whether it was made for a kernel with this text.
    #[must_use]
    pub fn is_of(&self, text: &[u8]) -> bool {
        self.text_hash == hash(text)
    }

    /// The function that an address is in, and the offset from its start.
    #[must_use]
    pub fn name(&self, address: u64) -> Option<(&'a str, u64)> {
        let at = u32::try_from(address.checked_sub(self.base)?).ok()?;
        let entry = last_from(self.functions, FUNCTION_BYTES, at)?;
        let (start, end, name) = (word(entry, 0)?, word(entry, 4)?, word(entry, 8)? as usize);
        let name = self.names.get(name..)?;
        let (length, name) = name.split_first_chunk()?;
        let name = name.get(..u16::from_le_bytes(*length).into())?;
        let name = core::str::from_utf8(name).ok()?;
        (at < end).then_some((name, (at - start).into()))
    }

    /// The frame of the caller. `called` says that the frame's RIP is a return address, so that the call before it
    /// counts; `read` reads a word of the stack. `None` at the end, or where the table does not know.
    #[must_use]
    pub fn caller(
        &self,
        frame: Frame,
        called: bool,
        read: impl Fn(u64) -> Option<u64>,
    ) -> Option<Frame> {
        let address = frame.rip.checked_sub(self.base)?.checked_sub(called.into())?;
        let row = last_from(self.rows, ROW_BYTES, u32::try_from(address).ok()?)?;
        let rule = Rule::decode(word(row, 4)?)?;
        let from = if rule.from_rbp { frame.rbp } else { frame.rsp };
        let begin = from.checked_add(rule.offset.into())?;
        // A stack grows down: whatever does not lead up leads nowhere.
        if begin <= frame.rsp {
            return None;
        }
        let rbp = match rule.rbp_below {
            0 => frame.rbp,
            below => read(begin.checked_sub(below.into())?)?,
        };
        Some(Frame { rip: read(begin.checked_sub(8)?)?, rsp: begin, rbp })
    }
}

/// The last entry that starts at `at` or before.
fn last_from(entries: &[u8], bytes: usize, at: u32) -> Option<&[u8]> {
    let entry = |index: usize| entries.get(index * bytes..(index + 1) * bytes);
    let (mut low, mut high) = (0, entries.len() / bytes);
    while low < high {
        let middle = low + (high - low) / 2;
        if word(entry(middle)?, 0)? <= at {
            low = middle + 1;
        } else {
            high = middle;
        }
    }
    entry(low.checked_sub(1)?)
}

fn word(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_le_bytes(*bytes.get(at..)?.first_chunk()?))
}

fn long(bytes: &[u8], at: usize) -> Option<u64> {
    Some(u64::from_le_bytes(*bytes.get(at..)?.first_chunk()?))
}

/// FNV-1a.
fn hash(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0xcbf2_9ce4_8422_2325, |hash, &byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
    })
}
