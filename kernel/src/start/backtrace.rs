//! The calls that led somewhere, by name.

use spin::Once;
use symbols::{Frame, Symbols};

use super::{TrapFrame, idt};
use crate::platform;

/// Frames told at most.
const MOST_FRAMES: usize = 40;

/// The table that the boot volume brought, and the text it must be of.
static TABLE: Once<(&'static [u8], &'static [u8])> = Once::new();

/// Keeps the table and the kernel's text.
pub(crate) fn set_symbols(table: &'static [u8], text: &'static [u8]) {
    TABLE.call_once(|| (table, text));
}

/// Calls `tell` with each call that led to `trap`, the innermost first: address, function and offset in it.
pub(crate) fn backtrace(trap: &TrapFrame, mut tell: impl FnMut(u64, Option<(&str, u64)>)) {
    let mut frame = trap.frame();
    let table = TABLE
        .get()
        .and_then(|&(table, text)| Symbols::parse(table).filter(|symbols| symbols.is_of(text)));
    let Some(symbols) = table else { return tell(frame.rip, None) };
    let mut called = false;
    for _ in 0..MOST_FRAMES {
        tell(frame.rip, symbols.name(frame.rip.wrapping_sub(called.into())));
        let Some(caller) = symbols.caller(frame, called, platform::probe) else { return };
        called = caller.rip != idt::trap_return();
        // What a handler interrupted is no call.
        let next = if called { Some(caller) } else { interrupted(caller.rsp) };
        let Some(next) = next else { return };
        frame = next;
    }
}

/// The frame that the registers saved at an address are of.
fn interrupted(saved: u64) -> Option<Frame> {
    let read = |offset: usize| platform::probe(saved.wrapping_add(offset as u64));
    let [rip, rsp, rbp] = TrapFrame::FRAME;
    Some(Frame { rip: read(rip)?, rsp: read(rsp)?, rbp: read(rbp)? })
}
