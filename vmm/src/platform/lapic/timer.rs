//! The local APIC's timer (SDM vol. 3, 11.5.4). Its input clock is the guest's TSC: the count registers count TSC ticks
//! divided by the divide configuration. CPUID leaf 0x15 says so to the guest (crystal clock = TSC).

use x86_spec::apic::{TimerMode, timer_divisor};

/// Count registers, deadline and the moment the timer fires next.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Timer {
    /// Initial count as written.
    initial: u32,
    /// Divide configuration as written.
    divide: u32,
    /// When it fires, in TSC ticks; `None` when stopped. In TSC-deadline mode this is IA32_TSC_DEADLINE.
    fires_at: Option<u64>,
}

impl Timer {
    /// A timer in a state that was saved.
    pub(super) const fn restored(initial: u32, divide: u32, fires_at: Option<u64>) -> Self {
        Self { initial, divide, fires_at }
    }

    pub(super) const fn initial(&self) -> u32 {
        self.initial
    }

    pub(super) const fn divide(&self) -> u32 {
        self.divide
    }

    pub(super) const fn fires_at(&self) -> Option<u64> {
        self.fires_at
    }

    fn divisor(&self) -> u64 {
        timer_divisor(self.divide).into()
    }

    /// Ticks of one whole count.
    fn period(&self) -> u64 {
        u64::from(self.initial) * self.divisor()
    }

    /// Starts a count, or stops with `initial` = 0.
    pub(super) fn start(&mut self, initial: u32, now: u64) {
        self.initial = initial;
        self.fires_at = (initial != 0).then(|| now.saturating_add(self.period()));
    }

    /// The count that is left.
    pub(super) fn current(&self, now: u64) -> u32 {
        let left = self.fires_at.map_or(0, |at| at.saturating_sub(now));
        u32::try_from(left.div_ceil(self.divisor())).unwrap_or(u32::MAX)
    }

    /// Changes the divisor; a running count goes on from where it is.
    pub(super) fn set_divide(&mut self, divide: u32, now: u64, mode: TimerMode) {
        let left = self.current(now);
        self.divide = divide & 0b1011;
        if mode != TimerMode::TscDeadline && self.fires_at.is_some() {
            self.fires_at = Some(now.saturating_add(u64::from(left) * self.divisor()));
        }
    }

    /// Sets or, with 0, takes back the TSC deadline.
    pub(super) fn set_deadline(&mut self, deadline: u64) {
        self.fires_at = (deadline != 0).then_some(deadline);
    }

    /// Stops, as a change from or to TSC-deadline mode does.
    pub(super) fn disarm(&mut self) {
        self.initial = 0;
        self.fires_at = None;
    }

    /// Whether the moment has come; a periodic timer starts again, skipping periods no one waited for.
    pub(super) fn expire(&mut self, now: u64, mode: TimerMode) -> bool {
        let Some(at) = self.fires_at.filter(|&at| at <= now) else { return false };
        let period = self.period();
        self.fires_at = match mode {
            TimerMode::Periodic if period != 0 => {
                let missed = (now - at) / period;
                Some(at.saturating_add((missed + 1).saturating_mul(period)))
            }
            _ => None,
        };
        true
    }
}
