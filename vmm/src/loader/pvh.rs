//! PVH's boot information, `hvm_start_info` version 1 (Xen, xen/include/public/arch-x86/hvm/start_info.h).

use hw::Gpa;
use vcpu::Registers;

use super::{
    LoadError, memory_map,
    segments::{BootInfo, Module, Place},
    state,
};
use crate::GuestMemory;

const MAGIC: u32 = 0x336e_c578;
const VERSION: u32 = 1;
const START_INFO_BYTES: usize = 56;

/// Writes the boot information and gives the registers at the entry.
pub(super) fn start<M: GuestMemory>(
    place: &Place<'_, M>,
    entry: u32,
    modules: &[Module<'_>],
    cmdline: &str,
    rsdp: Gpa,
) -> Result<Registers, LoadError> {
    let mut info = BootInfo::new(START_INFO_BYTES);
    let mut list = alloc::vec::Vec::new();
    for module in modules {
        let name = info.append_text(module.name);
        for word in [module.start.raw(), module.bytes, name.into(), 0] {
            list.extend(word.to_le_bytes());
        }
    }
    let module_list = if modules.is_empty() { 0 } else { info.append(&list) };
    let command_line = info.append_text(cmdline);
    let mut map = alloc::vec::Vec::new();
    for entry in memory_map::entries(place.layout) {
        for word in [entry.start, entry.bytes(), entry.kind as u64] {
            map.extend(word.to_le_bytes());
        }
    }
    let map_list = info.append(&map);
    let words = |low: u32, high: u32| u64::from(low) | u64::from(high) << 32;
    let header = [
        words(MAGIC, VERSION),
        words(0, modules.len() as u32),
        module_list.into(),
        command_line.into(),
        rsdp.raw(),
        map_list.into(),
        memory_map::entries(place.layout).count() as u64,
    ];
    info.write(header.map(u64::to_le_bytes).as_flattened(), place.memory)?;
    state::protected_mode(place.memory, entry, 0)
}
