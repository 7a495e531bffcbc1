//! Room for BARs: within what the bridge above passes on, or in a window that is widened or moved for it (7.5.1.3.8,
//! 7.5.1.3.9).

use alloc::vec::Vec;
use core::ops::Range;

use hw::Function;

use crate::access::{Config, ConfigAccess};
use crate::aliases::bridges_above;
use crate::bars;
use crate::function::{Bar, BarKind, FunctionInfo, HeaderKind, find};
use crate::spec::{self, class};

/// What windows are multiples of.
const GRANULE: u64 = 1 << 20;
/// Past the last address of a 32-bit BAR, and of a window that is not for prefetchable memory.
const END_32: u64 = 1 << 32;

/// What a bridge passes on of memory below 4 GiB; from 0 to 0 where that is nothing.
fn memory_window<A: ConfigAccess>(config: Config<'_, A>) -> Range<u64> {
    let value = config.read32(spec::MEMORY_WINDOW);
    window(value, 0, 0)
}

/// Likewise of prefetchable memory.
fn prefetchable_window<A: ConfigAccess>(config: Config<'_, A>) -> Range<u64> {
    let value = config.read32(spec::PREFETCHABLE_WINDOW);
    let upper = match value & 1 {
        0 => [0, 0],
        _ => [0, 4].map(|half| config.read32(spec::PREFETCHABLE_UPPER + half)),
    };
    window(value, upper[0], upper[1])
}

fn window(value: u32, first_upper: u32, last_upper: u32) -> Range<u64> {
    let address = |value: u32, upper: u32| u64::from(upper) << 32 | u64::from(value & 0xfff0) << 16;
    let (start, last) = (address(value, first_upper), address(value >> 16, last_upper));
    if value == u32::MAX || last < start { 0..0 } else { start..last.saturating_add(GRANULE) }
}

fn meet(one: &Range<u64>, other: &Range<u64>) -> bool {
    one.start < other.end && other.start < one.end
}

fn holds(outer: &Range<u64>, inner: &Range<u64>) -> bool {
    outer.start <= inner.start && inner.end <= outer.end
}

/// The lowest multiple of `align` in `within` from which on `bytes` are free of all of `taken`.
fn gap(within: &Range<u64>, bytes: u64, align: u64, taken: &[Range<u64>]) -> Option<Range<u64>> {
    // No BAR is at 0.
    let mut start = within.start.max(1).checked_next_multiple_of(align)?;
    loop {
        let wanted = start..start.checked_add(bytes)?;
        if wanted.end > within.end {
            return None;
        }
        match taken.iter().find(|taken| meet(taken, &wanted)) {
            None => return Some(wanted),
            Some(taken) => start = taken.end.checked_next_multiple_of(align)?,
        }
    }
}

/// Finds room for a BAR of this kind, `bytes` in all, for a function below `parent`. `reserved` is taken beside what
/// `functions` decode; on a root bus, room is in `holes`. A place that the BAR has already is kept where it is good.
pub(crate) fn room<A: ConfigAccess>(
    access: &A,
    functions: &[FunctionInfo],
    parent: Option<Function>,
    bar: &Bar,
    bytes: u64,
    reserved: &[Range<u64>],
    holes: &[Range<u64>],
) -> Option<Range<u64>> {
    let port = parent.and_then(|parent| find(functions, parent));
    let above: Vec<_> = port
        .into_iter()
        .flat_map(|port| core::iter::once(port).chain(bridges_above(functions, port)))
        .collect();
    let others = functions.iter().filter(|info| !above.contains(info));
    let mut taken: Vec<_> = others.flat_map(|info| decoded(access, info)).collect();
    taken.extend_from_slice(reserved);
    let mut within = match parent {
        Some(port) => {
            let config = Config::new(access, port);
            let high = bar.prefetchable && bar.kind == BarKind::Memory64;
            let high = high.then(|| prefetchable_window(config));
            high.into_iter().chain([memory_window(config)]).collect()
        }
        None => Vec::from(holes),
    };
    if bar.kind == BarKind::Memory32 {
        within.iter_mut().for_each(|window| window.end = window.end.min(END_32));
    }
    let kept = bar.base..bar.base.checked_add(bytes)?;
    let is_good = |window| holds(window, &kept) && !taken.iter().any(|taken| meet(taken, &kept));
    if bar.base != 0 && within.iter().any(is_good) {
        return Some(kept);
    }
    within.iter().find_map(|window| gap(window, bytes, bar.bytes, &taken))
}

/// What a function decodes, or a bridge passes on.
fn decoded<A: ConfigAccess>(access: &A, info: &FunctionInfo) -> Vec<Range<u64>> {
    let config = Config::new(access, info.function);
    let mut all: Vec<_> = info.memory_bars().chain(&info.rom).map(Bar::range).collect();
    if info.is_bridge() {
        all.extend([memory_window(config), prefetchable_window(config)]);
    }
    all.retain(|range| range.start != 0);
    all
}

/// Gives the memory window of a root port room for `bytes` more, in BARs of up to `align`: where it is, or elsewhere in
/// `holes` with all that is in it. `None` where that cannot be.
pub(crate) fn widen<A: ConfigAccess>(
    access: &A,
    functions: &mut [FunctionInfo],
    port: Function,
    align: u64,
    bytes: u64,
    reserved: &[Range<u64>],
    holes: &[Range<u64>],
) -> Option<()> {
    let config = Config::new(access, port);
    let is_below = |info: &FunctionInfo| info.parent == Some(port);
    if find(functions, port)?.parent.is_some()
        || functions.iter().any(|info| is_below(info) && info.header != HeaderKind::Endpoint)
    {
        return None;
    }
    let old = memory_window(config);
    let length = (old.end - old.start).checked_next_multiple_of(align)?;
    let length = length.checked_add(bytes)?.checked_next_multiple_of(GRANULE)?;
    let inside = |bar: &Bar| bar.base != 0 && holds(&old, &bar.range());
    let below = || functions.iter().filter(|info| is_below(info));
    let moved =
        || below().flat_map(|info| info.memory_bars().chain(&info.rom)).filter(|b| inside(b));
    let align = moved().map(|bar| bar.bytes).chain([align, GRANULE]).max()?;
    let others = functions.iter().filter(|info| !is_below(info) && info.function != port);
    let mut taken: Vec<_> = others.flat_map(|info| decoded(access, info)).collect();
    taken.extend(below().flat_map(|info| decoded(access, info)).filter(|own| !holds(&old, own)));
    taken.push(prefetchable_window(config));
    taken.extend_from_slice(reserved);
    let fits = |wanted: &Range<u64>| {
        holes.iter().any(|hole| holds(hole, wanted)) && !taken.iter().any(|used| meet(used, wanted))
    };
    let longer = old.start..old.start.checked_add(length)?;
    let new = if old.start != 0 && fits(&longer) {
        longer
    } else {
        // Someone may be looking at these.
        let in_use = [class::DISPLAY, class::COMMUNICATION];
        if below().any(|info| in_use.contains(&(info.class >> 16))) {
            return None;
        }
        let low = |hole: &Range<u64>| hole.start..hole.end.min(END_32);
        let find_gap = |hole: &Range<u64>| gap(&low(hole), length, align, &taken);
        // Offsets in the window stay multiples of what they were.
        holes.iter().find_map(find_gap)?
    };
    let shift = new.start.wrapping_sub(old.start);
    for info in functions.iter_mut().filter(|info| info.parent == Some(port)) {
        let config = Config::new(access, info.function);
        let bars = info.bars.iter_mut().flatten().filter(|bar| bar.kind != BarKind::Io);
        for bar in bars.chain(&mut info.rom).filter(|bar| inside(bar)) {
            bar.base = bar.base.wrapping_add(shift);
            let register =
                if bar.index == Bar::ROM { spec::ROM } else { bars::register(bar.index) };
            bars::write(config, register, bar);
        }
    }
    let last = (new.end - GRANULE) as u32;
    config.write32(spec::MEMORY_WINDOW, new.start as u32 >> 16 | last & 0xfff0_0000);
    let on = config.read16(spec::COMMAND) | spec::COMMAND_MEMORY;
    config.write16(spec::COMMAND, on);
    Some(())
}
