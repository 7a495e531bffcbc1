//! Machine checks (SDM vol. 3, chapter 16): told, and the end.

use core::fmt;

use hw::{Msr, MsrBus};
use x86_spec::mce::{self, Bank};
use x86_spec::msr;

use super::TrapFrame;
use crate::panic;
use crate::platform::Msrs;

/// The exception: the machine has found that it cannot be relied on.
pub(super) fn handle(frame: &TrapFrame) -> ! {
    panic::die(format_args!("the hardware failed: {Told}"), frame)
}

/// Has the calling CPU tell of all errors; those that it holds since before are told and cleared.
pub(super) fn enable() {
    for bank in banks() {
        log::warn!("CPU {} has an error of before, {bank}", super::current().number);
    }
    // What the CPU does not have, or does not take, is left alone.
    let all = |msr, value| {
        let _ = Msrs.write(msr, value);
    };
    if capabilities() & mce::CAP_CONTROL != 0 {
        all(msr::MCG_CTL, u64::MAX);
    }
    for bank in 0..count() {
        all(mce::status(bank), 0);
        all(mce::control(bank), u64::MAX);
    }
}

/// The machine check in words: all banks.
struct Told;

impl fmt::Display for Told {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "machine check, status {:#x}", Msrs.read(msr::MCG_STATUS).unwrap_or_default())?;
        banks().try_for_each(|bank| write!(f, "; {bank}"))
    }
}

/// The banks that hold an error.
fn banks() -> impl Iterator<Item = Bank> {
    let read = |msr: Msr| Msrs.read(msr).ok();
    (0..count()).filter_map(move |number| Bank::read(number, read))
}

fn count() -> u8 {
    (capabilities() & mce::CAP_BANKS) as u8
}

fn capabilities() -> u64 {
    Msrs.read(msr::MCG_CAP).unwrap_or_default()
}
