//! Page tables: one walker ([`PageTable`]) and one file of bits for each format ([`format`]).
//!
//! ```text
//! input address  47      39 38      30 29      21 20      12 11        0
//!               ┌──────────┬──────────┬──────────┬──────────┬───────────┐
//!               │ level 4  │ level 3  │ level 2  │ level 1  │  offset   │
//!               └────┬─────┴────┬─────┴────┬─────┴────┬─────┴───────────┘
//!   root ► table ────┴► table ──┴► table ──┴► table ──┴► 4 KiB page
//!                          └► 1 GiB     └► 2 MiB
//! ```
//!
//! Every change comes in two steps: first all tables that it needs are made, which changes no translation and may run
//! out of frames; then the leaves are written, which cannot fail. So a refused change leaves every translation as it
//! was; at most some empty tables stay behind, and the next change in their range uses them.
//!
//! The walker flushes no translation cache: whoever unmaps or protects does that, and gives tables that are out of use
//! back only then ([`Retired`]).

#![cfg_attr(not(test), no_std)]
#![forbid(unsafe_code)]

mod dirty;
pub mod format;
mod walk;

#[cfg(test)]
mod tests;

pub use dirty::DirtyFormat;
pub use walk::{MapError, Mapping, PageTable, Retired};

use hw::{Hpa, PAGE_SIZE, PAGE_SIZE_1G, PAGE_SIZE_2M};

/// What a mapping allows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rights {
    /// Loads.
    pub read: bool,
    /// Stores.
    pub write: bool,
    /// Instruction fetches.
    pub execute: bool,
}

impl Rights {
    /// Loads only.
    pub const R: Self = Self { read: true, write: false, execute: false };
    /// Loads and stores.
    pub const RW: Self = Self { read: true, write: true, execute: false };
    /// Loads and fetches.
    pub const RX: Self = Self { read: true, write: false, execute: true };
    /// Everything: a guest's RAM.
    pub const RWX: Self = Self { read: true, write: true, execute: true };
}

/// How a mapping is cached.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Caching {
    /// Write-back: ordinary memory.
    WriteBack,
    /// Uncacheable: device registers.
    Uncacheable,
    /// Write-combining: framebuffers.
    WriteCombining,
}

/// The size of one mapping.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum PageSize {
    /// 4 KiB, mapped at level 1.
    Size4K,
    /// 2 MiB, mapped at level 2.
    Size2M,
    /// 1 GiB, mapped at level 3.
    Size1G,
}

impl PageSize {
    /// Its bytes.
    #[must_use]
    pub const fn bytes(self) -> u64 {
        match self {
            Self::Size4K => PAGE_SIZE,
            Self::Size2M => PAGE_SIZE_2M,
            Self::Size1G => PAGE_SIZE_1G,
        }
    }

    /// The level of the table whose leaves have this size.
    #[must_use]
    pub const fn level(self) -> u8 {
        match self {
            Self::Size4K => 1,
            Self::Size2M => 2,
            Self::Size1G => 3,
        }
    }

    const fn of_level(level: u8) -> Self {
        match level {
            1 => Self::Size4K,
            2 => Self::Size2M,
            _ => Self::Size1G,
        }
    }
}

/// The bits of one page-table format. Level 1 is the page table whose leaves map 4 KiB, level 2 maps 2 MiB, level 3 1 GiB.
pub trait EntryFormat {
    /// Levels from the root down: 3, 4 or 5.
    const LEVELS: u8;
    /// Whether input addresses are sign-extended from their highest translated bit (linear addresses), rather than
    /// zero-extended (guest physical addresses).
    const CANONICAL: bool;
    /// An entry that points at a lower table.
    fn table(table: Hpa) -> u64;
    /// An entry at `level` that maps memory. `rights.read` is always set: no format here can do without.
    fn leaf(level: u8, page: Hpa, rights: Rights, caching: Caching) -> u64;
    /// Whether the hardware would use the entry at all.
    fn is_present(entry: u64) -> bool;
    /// Whether a present entry at `level` maps memory rather than points at a table: in all formats by bit 7.
    fn is_leaf(level: u8, entry: u64) -> bool {
        level == 1 || entry & format::PS != 0
    }
    /// The address in a present entry: in all formats in bits 51:12, or those of them above a large page's offset.
    fn address(level: u8, entry: u64) -> Hpa {
        Hpa::new(entry & format::address_mask(if Self::is_leaf(level, entry) { level } else { 1 }))
    }
    /// The rights of a leaf.
    fn rights(entry: u64) -> Rights;
    /// How a leaf that [`EntryFormat::leaf`] made is cached.
    fn caching(entry: u64) -> Caching;
}
