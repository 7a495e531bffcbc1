//! Second-stage views: the machine has two, the second of which does not show the last page of its RAM. There it reads as
//! ones, keeps nothing that is written, and leaves the page as it was in the first view.

use core::ptr::with_exposed_provenance_mut;

use guests::{check, cpu::hypercall};

/// Hypercalls: go on in the view that the first argument names.
const SELECT_VIEW: u64 = 1;
const NOT_THERE: u64 = u64::MAX - 1;
/// The last page of 64 MiB, and the one before it.
const HIDDEN: usize = (64 << 20) - 4096;
const SHOWN: usize = HIDDEN - 4096;
const MARK: u64 = 0x1dea_5eed_0bad_cafe;

pub(crate) fn run() {
    let select = |view| hypercall(SELECT_VIEW, [view, 0, 0]);
    // SAFETY: RAM that is mapped one to one and that nothing else uses, or, where it is hidden, a device's absence.
    let read = |at: usize| unsafe { with_exposed_provenance_mut::<u64>(at + 8).read_volatile() };
    // SAFETY: likewise.
    let write = |at: usize, value| unsafe {
        with_exposed_provenance_mut::<u64>(at + 8).write_volatile(value);
    };
    let refused = select(2);
    check!("view-that-is-not-there", refused == Ok(NOT_THERE), "{refused:x?}");
    for at in [HIDDEN, SHOWN] {
        write(at, MARK);
    }
    for round in ["first", "again"] {
        let before = [read(HIDDEN), read(SHOWN)];
        let selected = select(1);
        let seen = [read(HIDDEN), read(SHOWN)];
        write(HIDDEN, 1);
        let kept = read(HIDDEN);
        let back = select(0);
        let after = [read(HIDDEN), read(SHOWN)];
        check!(
            format_args!("view-hides-a-page-{round}"),
            [selected, back] == [Ok(0); 2] && before == [MARK; 2] && seen == [u64::MAX, MARK],
            "{selected:x?} {back:x?} {before:x?} {seen:x?}"
        );
        check!(
            format_args!("view-keeps-what-it-hides-{round}"),
            kept == u64::MAX && after == [MARK; 2],
            "{kept:x} {after:x?}"
        );
    }
}
