//! Stopping all other CPUs for good, by the one interrupt that none can hold back.

use core::sync::atomic::{AtomicU32, Ordering};

use hw::{Deadline, wait_until};

use crate::{irq, platform};

/// How long the others are waited for: an NMI takes microseconds, but an emulator may have one CPU run at a time.
const ANSWER_NS: u64 = 500_000_000;
/// No CPU's number.
const NONE: u32 = u32::MAX;

/// The CPU that stops the others.
static STOPPER: AtomicU32 = AtomicU32::new(NONE);

/// Stops all other CPUs for good: how many there are, and how many stopped in time. `None` where this CPU has done so
/// before. Where another was faster, the calling one stops here.
pub(crate) fn stop_others() -> Option<(usize, usize)> {
    let me = super::current().number;
    if STOPPER.compare_exchange(NONE, me, Ordering::AcqRel, Ordering::Acquire).is_err() {
        obey();
        return None;
    }
    let others = || super::cpus().iter().filter(|cpu| cpu.number != me);
    others().for_each(|cpu| irq::send_nmi(cpu.apic_id()));
    let clock = irq::clock();
    let all = || others().all(|cpu| cpu.is_stopped()).then_some(());
    // Whoever does not stop is told of, by the number.
    let _ = wait_until(&clock, Deadline::after_ns(&clock, ANSWER_NS), all);
    Some((others().count(), others().filter(|cpu| cpu.is_stopped()).count()))
}

/// Stops the calling CPU if another wants it to.
pub(super) fn obey() {
    let stopper = STOPPER.load(Ordering::Acquire);
    let me = super::current();
    if stopper != NONE && stopper != me.number {
        me.set_stopped();
        platform::halt_forever();
    }
}
