//! The time-stamp counter as a clock.

use core::arch::x86_64::_rdtsc;

use hw::Clock;

/// The time-stamp counter.
pub(crate) fn rdtsc() -> u64 {
    // SAFETY: every 64-bit CPU has it, and CR4.TSD concerns only user mode.
    unsafe { _rdtsc() }
}

/// A clock that counts the time-stamp counter's ticks, once calibrated.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Tsc {
    /// Ticks in a second.
    pub(crate) hz: u64,
}

impl Clock for Tsc {
    fn now_ns(&self) -> u64 {
        (u128::from(rdtsc()) * 1_000_000_000 / u128::from(self.hz)) as u64
    }

    fn relax(&self) {
        core::hint::spin_loop();
    }
}
