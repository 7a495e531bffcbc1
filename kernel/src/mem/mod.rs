//! Memory: frames, Kerf's own address space, the heap, and the traits that other crates reach memory by.
//!
//! ```text
//! 0xffff_8000_0000_0000  direct map: all RAM but the kernel's image, RW
//! 0xffff_c000_0000_0000  window: heap, device registers, the firmware's tables; holes between them
//! 0xffff_ffff_8000_0000  the image: text RX, constants R, data RW; guard pages unmapped
//! ```
//!
//! Locks, in the order they may nest: heap, address space, frames.

mod control;
mod direct;
mod fetch;
mod frames;
mod guest;
mod heap;
mod low;
mod space;
mod tables;

pub(crate) use control::Registers as ControlRegisters;
pub(crate) use fetch::Fetch;
pub(crate) use frames::{Pool, counts};
pub(crate) use guest::{GuestRam, GuestRamError};
pub(crate) use heap::heap_bytes;
pub(crate) use low::StartPages;
pub(crate) use space::{image_bytes, join, map_mmio, map_read_only, map_screen, stack};
pub(crate) use tables::{DeviceFrames, Pages, Tables, shared};

use alloc::{string::String, vec::Vec};
use core::ops::Range;

use ::frames::Entry;
use boot_info::{BootFile, BootInfo, FileKind, MemoryKind, MemoryRegion};
use hw::{Hpa, PAGE_SIZE};

use crate::start;

/// Page-table memory ran out, or the map describes none.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum MemoryError {
    /// No usable run of memory holds the allocator's own state: bytes needed.
    NoRoomForFrames(u64),
    /// The firmware left five-level paging on.
    FiveLevels,
    /// The kernel's own page tables could not be made.
    Space(paging::MapError),
}

/// A file that the boot application loaded.
#[derive(Clone, Debug)]
pub(crate) struct LoadedFile {
    /// What it is; `None` for a kind this build does not know.
    pub(crate) kind: Option<FileKind>,
    /// Its name, as the configuration spells it.
    pub(crate) name: String,
    /// What is in it.
    pub(crate) bytes: &'static [u8],
}

/// What of the hand-off record outlives the boot application's memory.
#[derive(Debug)]
pub(crate) struct Handoff {
    /// The files.
    pub(crate) files: Vec<LoadedFile>,
    /// Kerf's command line.
    pub(crate) command_line: String,
    /// Addresses below 4 GiB, above all memory there, that nobody has: PCI's.
    pub(crate) holes: Vec<Range<u64>>,
}

/// Takes the machine's memory over: feeds the frame allocator, moves onto page tables of our own, copies what the record
/// points at, and reclaims the boot application's memory.
///
/// # Errors
/// [`MemoryError`]: nothing works without memory.
pub(crate) fn init(info: &BootInfo) -> Result<Handoff, MemoryError> {
    let map: &'static [MemoryRegion] = direct::records(info.memory_map);
    tell_problems(map);
    frames::init(map)?;
    space::init(info, map)?;
    low::init(map);
    let handoff = Handoff {
        files: direct::records(info.files).iter().map(loaded_file).collect(),
        command_line: String::from_utf8_lossy(direct::records(info.command_line)).into_owned(),
        holes: holes(map),
    };
    frames::reclaim(map);
    let symbols = handoff.files.iter().find(|file| file.kind == Some(FileKind::Symbols));
    start::set_symbols(symbols.map_or(&[], |file| file.bytes), space::text());
    Ok(handoff)
}

/// What the map leaves between memory and the chipset's own.
fn holes(map: &[MemoryRegion]) -> Vec<Range<u64>> {
    /// I/O APICs, HPETs, IOMMUs, local APICs, the firmware.
    const CHIPSET: u64 = 0xfec0_0000;
    let range = |region: &MemoryRegion| region.hpa..region.hpa + region.pages * PAGE_SIZE;
    let mut named: Vec<_> = map.iter().filter(|region| region.hpa < CHIPSET).collect();
    named.sort_unstable_by_key(|region| region.hpa);
    let is_memory = |region: &&&MemoryRegion| {
        use MemoryKind::{Mmio, Reserved};
        !matches!(MemoryKind::from_raw(region.kind), Mmio | Reserved)
    };
    let top = named.iter().filter(is_memory).map(|region| range(region).end).max();
    let mut at = top.unwrap_or(CHIPSET);
    let mut holes = Vec::new();
    for range in named.into_iter().map(range).chain(Some(CHIPSET..CHIPSET)) {
        if at < range.start {
            holes.push(at..range.start);
        }
        at = at.max(range.end);
    }
    holes
}

fn loaded_file(file: &BootFile) -> LoadedFile {
    let kind = [FileKind::Config, FileKind::Guest, FileKind::AcpiTable, FileKind::Symbols];
    LoadedFile {
        kind: kind.into_iter().find(|&kind| kind as u32 == file.kind),
        name: file.name().into(),
        bytes: direct::bytes(Hpa::new(file.hpa), file.bytes),
    }
}

/// The map as the sanitiser wants it, where `wanted` says which kinds are to be used.
fn entries(
    map: &'static [MemoryRegion],
    wanted: fn(MemoryKind) -> bool,
) -> impl Iterator<Item = Entry> + Clone {
    map.iter().map(move |region| Entry {
        start: region.hpa,
        pages: region.pages,
        usable: wanted(MemoryKind::from_raw(region.kind)),
    })
}

/// Where memory ends that Kerf can use: what the CPU can address, and what the direct map has room for. A map that names
/// more is wrong, or of a machine larger than any.
fn out_of_reach() -> Entry {
    let end = control::physical_end().min(space::DIRECT_MAP_BYTES);
    Entry { start: end, pages: u64::MAX, usable: false }
}

fn tell_problems(map: &'static [MemoryRegion]) {
    // Firmware may describe holes in memory as it likes; only what touches memory that is used is worth a line.
    ::frames::problems(entries(map, |kind| kind == MemoryKind::Usable), |index, problem| {
        let MemoryRegion { hpa, pages, uefi_type, .. } = map[index];
        log::warn!(
            "memory map entry {index} (start {hpa:#x}, {pages} pages, type {uefi_type}): {problem:?}; tolerated"
        );
    });
}
