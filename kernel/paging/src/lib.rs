//! Page tables: one walker, and one file of bits for each format.

#![cfg_attr(not(test), no_std)]
#![forbid(unsafe_code)]

use hw::Hpa;

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

/// The bits of one page-table format. Level 1 is the page table whose leaves map 4 KiB, level 2 maps 2 MiB, level 3 1 GiB.
pub trait EntryFormat {
    /// Levels from the root down: 4 or 5.
    const LEVELS: u8;
    /// An entry that points at a lower table.
    fn table(table: Hpa) -> u64;
    /// An entry at `level` that maps memory.
    fn leaf(level: u8, page: Hpa, rights: Rights, caching: Caching) -> u64;
    /// Whether the hardware would use the entry at all.
    fn is_present(entry: u64) -> bool;
    /// Whether a present entry at `level` maps memory rather than points at a table.
    fn is_leaf(level: u8, entry: u64) -> bool;
    /// The address in a present entry.
    fn address(level: u8, entry: u64) -> Hpa;
    /// The rights of a leaf.
    fn rights(entry: u64) -> Rights;
}
