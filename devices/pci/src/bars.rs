//! Base address registers, and how much they decode: what of them can be written (7.5.1.2.1).

use crate::access::{Config, ConfigAccess};
use crate::function::{Bar, BarKind};
use crate::spec;

/// The first `count` BARs and, if it has one, the ROM. Decoding is off while they do not hold their addresses.
pub(crate) fn read<A: ConfigAccess>(
    config: Config<'_, A>,
    count: u8,
    has_rom: bool,
) -> ([Option<Bar>; 6], Option<Bar>) {
    if count == 0 {
        return ([None; 6], None);
    }
    let command = config.read16(spec::COMMAND);
    config.write16(spec::COMMAND, command & !(spec::COMMAND_IO | spec::COMMAND_MEMORY));
    let bars = read_all(config, spec::BAR0, count);
    let rom = if has_rom { read_rom(config) } else { None };
    config.write16(spec::COMMAND, command);
    (bars, rom)
}

/// The BARs from the register `first` on, which nothing decodes meanwhile.
pub(crate) fn read_all<A: ConfigAccess>(
    config: Config<'_, A>,
    first: u16,
    count: u8,
) -> [Option<Bar>; 6] {
    let mut bars = [None; 6];
    let mut index = 0;
    while index < count {
        let register = first + 4 * u16::from(index);
        let found = read_one(config, register, index, count);
        let taken = if is_wide(config, register) { 2 } else { 1 };
        if let (Some(bar), Some(place)) = (found, bars.get_mut(usize::from(index))) {
            *place = Some(bar);
        }
        index += taken;
    }
    bars
}

/// The register of a BAR.
pub(crate) const fn register(index: u8) -> u16 {
    spec::BAR0 + 4 * index as u16
}

/// Writes the address of a BAR whose register this is.
pub(crate) fn write<A: ConfigAccess>(config: Config<'_, A>, register: u16, bar: &Bar) {
    config.write32(register, bar.base as u32);
    if bar.kind == BarKind::Memory64 {
        config.write32(register + 4, (bar.base >> 32) as u32);
    }
}

fn is_wide<A: ConfigAccess>(config: Config<'_, A>, register: u16) -> bool {
    let value = config.read32(register);
    value & spec::BAR_IO == 0 && value & spec::BAR_TYPE == spec::BAR_64
}

/// What a register holds, and which of its bits can be set.
fn probe<A: ConfigAccess>(config: Config<'_, A>, register: u16, ones: u32) -> (u32, u32) {
    let value = config.read32(register);
    config.write32(register, ones);
    let mask = config.read32(register);
    config.write32(register, value);
    (value, mask)
}

fn read_one<A: ConfigAccess>(
    config: Config<'_, A>,
    register: u16,
    index: u8,
    count: u8,
) -> Option<Bar> {
    let (value, mask) = probe(config, register, u32::MAX);
    // Nobody answers any more.
    if value == u32::MAX {
        return None;
    }
    if value & spec::BAR_IO != 0 {
        let mask = u64::from(mask & !spec::BAR_IO_FLAGS);
        return bar(index, BarKind::Io, false, (value & !spec::BAR_IO_FLAGS).into(), mask);
    }
    let prefetchable = value & spec::BAR_PREFETCHABLE != 0;
    let (mut base, mut mask) =
        (u64::from(value & !spec::BAR_MEMORY_FLAGS), u64::from(mask & !spec::BAR_MEMORY_FLAGS));
    if value & spec::BAR_TYPE != spec::BAR_64 {
        return bar(index, BarKind::Memory32, prefetchable, base, mask);
    }
    if index + 1 >= count {
        return None;
    }
    let (value, high) = probe(config, register + 4, u32::MAX);
    base |= u64::from(value) << 32;
    mask |= u64::from(high) << 32;
    bar(index, BarKind::Memory64, prefetchable, base, mask)
}

fn read_rom<A: ConfigAccess>(config: Config<'_, A>) -> Option<Bar> {
    // All ones but the bit that decodes.
    let (value, mask) = probe(config, spec::ROM, !spec::ROM_ENABLE);
    if value == u32::MAX {
        return None;
    }
    let base = u64::from(value & !spec::ROM_FLAGS);
    bar(Bar::ROM, BarKind::Memory32, true, base, (mask & !spec::ROM_FLAGS).into())
}

/// A BAR whose address bits are those of `mask`. Its lowest one is its size, whatever the others say.
fn bar(index: u8, kind: BarKind, prefetchable: bool, base: u64, mask: u64) -> Option<Bar> {
    let bytes = mask & mask.wrapping_neg();
    let base = base & !bytes.saturating_sub(1);
    // What would end behind the last address is nowhere.
    let base = if base.checked_add(bytes).is_some() { base } else { 0 };
    (bytes != 0).then_some(Bar { index, kind, prefetchable, base, bytes })
}
