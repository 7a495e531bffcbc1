//! The local timer: one deadline at a time.

use core::sync::atomic::{Ordering, fence};

use hw::MsrBus;
use x86_spec::apic::{Lvt, TimerMode, lapic as reg};
use x86_spec::msr;

use super::lapic::{self, Lapic};
use super::{Rates, TIMER};
use crate::platform::{Msrs, rdtsc};
use crate::start;

/// The calling CPU's timer.
#[derive(Debug)]
pub(crate) struct Timer {
    lapic: Lapic,
    rates: Rates,
    deadline_mode: bool,
    /// The TSC value at which an interrupt is due, until it has come.
    armed: Option<u64>,
}

impl Timer {
    /// The calling CPU's, once [`super::init`] has found the rates on the boot CPU and [`super::join`] was called here.
    pub(crate) fn here() -> Option<Self> {
        Some(Self::new(Lapic::current()?, *super::RATES.get()?))
    }

    pub(super) fn new(lapic: Lapic, rates: Rates) -> Self {
        let deadline_mode = lapic::has_tsc_deadline();
        let mode = if deadline_mode { TimerMode::TscDeadline } else { TimerMode::OneShot };
        lapic.write(reg::LVT_TIMER, Lvt::timer(TIMER, mode).0);
        // The mode must be in force before the first deadline is written (SDM vol. 3, 11.5.4.1).
        fence(Ordering::SeqCst);
        Self { lapic, rates, deadline_mode, armed: None }
    }

    /// How fast the CPU's clocks run.
    pub(crate) fn rates(&self) -> Rates {
        self.rates
    }

    /// Sees to it that an interrupt comes when the TSC reaches `deadline`, or earlier. A timer that is set to an earlier
    /// time already is left alone: that costs one interrupt at most, and saves the register write nearly always.
    pub(crate) fn arm(&mut self, deadline: u64) {
        if start::current().take_timer() {
            self.armed = None;
        }
        if self.armed.is_some_and(|armed| armed <= deadline) {
            return;
        }
        self.armed = Some(deadline);
        if self.deadline_mode {
            // Zero would disarm it.
            if Msrs.write(msr::TSC_DEADLINE, deadline.max(1)).is_ok() {
                return;
            }
            log::warn!("the CPU refused a TSC deadline; counting down instead");
            self.deadline_mode = false;
            self.lapic.write(reg::LVT_TIMER, Lvt::timer(TIMER, TimerMode::OneShot).0);
        }
        let ticks = u128::from(deadline.saturating_sub(rdtsc()));
        let count = ticks * u128::from(self.rates.apic_hz) / u128::from(self.rates.tsc_hz) + 1;
        self.lapic.write(reg::TIMER_INITIAL, u32::try_from(count).unwrap_or(u32::MAX));
    }
}
