//! Multiboot 1's boot information (Multiboot Specification 0.6.96, 3.3).

use alloc::vec::Vec;

use vcpu::Registers;

use super::{
    LoadError,
    memory_map::{self, HIGH_MEMORY, LOW_END},
    segments::{BootInfo, Module, Place},
    state,
};
use crate::GuestMemory;

/// In EAX: a Multiboot loader started the kernel.
const LOADED: u32 = 0x2bad_b002;
const INFO_BYTES: usize = 88;
const NAME: &str = "Kerf";

/// `flags`: what of the boot information is there.
mod flag {
    pub(super) const MEMORY: u32 = 1 << 0;
    pub(super) const COMMAND_LINE: u32 = 1 << 2;
    pub(super) const MODULES: u32 = 1 << 3;
    pub(super) const MEMORY_MAP: u32 = 1 << 6;
    pub(super) const LOADER_NAME: u32 = 1 << 9;
}

/// Writes the boot information and gives the registers at the entry.
pub(super) fn start<M: GuestMemory>(
    place: &Place<'_, M>,
    entry: u32,
    modules: &[Module<'_>],
    cmdline: &str,
) -> Result<Registers, LoadError> {
    let mut info = BootInfo::new(INFO_BYTES);
    let mut list = Vec::new();
    for module in modules {
        // Modules lie below 3 GiB.
        let start = module.start.raw() as u32;
        let name = info.append_text(module.name);
        for word in [start, start + module.bytes as u32, name, 0] {
            list.extend(word.to_le_bytes());
        }
    }
    let module_list = info.append(&list);
    let map = memory_map(place);
    let map_list = info.append(&map);
    let command_line = info.append_text(cmdline);
    let name = info.append_text(NAME);
    let low_end = place.layout.low.end().raw();
    let kib = |bytes: u64| (bytes >> 10) as u32;
    let flags = flag::MEMORY | flag::COMMAND_LINE | flag::MODULES | flag::MEMORY_MAP;
    let mut header = [0_u32; INFO_BYTES / 4];
    let fields = [
        (0, flags | flag::LOADER_NAME),
        (4, kib(LOW_END.min(low_end))),
        (8, kib(low_end.saturating_sub(HIGH_MEMORY))),
        (16, command_line),
        (20, modules.len() as u32),
        (24, module_list),
        (44, map.len() as u32),
        (48, map_list),
        (64, name),
    ];
    for (offset, value) in fields {
        if let Some(slot) = header.get_mut(offset / 4) {
            *slot = value;
        }
    }
    info.write(header.map(u32::to_le_bytes).as_flattened(), place.memory)?;
    state::protected_mode(place.memory, entry, LOADED)
}

/// Entries of 20 bytes, each behind the word that says so.
fn memory_map<M>(place: &Place<'_, M>) -> Vec<u8> {
    let mut map = Vec::new();
    for entry in memory_map::entries(place.layout) {
        map.extend(20_u32.to_le_bytes());
        map.extend(entry.start.to_le_bytes());
        map.extend(entry.bytes().to_le_bytes());
        map.extend((entry.kind as u32).to_le_bytes());
    }
    map
}
