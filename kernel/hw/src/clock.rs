//! Time and bounded waits. Nothing in Kerf waits for hardware without a [`Deadline`].

/// A monotonic clock.
pub trait Clock {
    /// Nanoseconds since an arbitrary start; never goes back.
    fn now_ns(&self) -> u64;
    /// Lets the CPU breathe between two polls (PAUSE on the machine; a model advances its time here).
    fn relax(&self) {}
}

/// A moment on a [`Clock`], in its nanoseconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Deadline(pub u64);

impl Deadline {
    /// The moment `ns` nanoseconds from now.
    pub fn after_ns(clock: &impl Clock, ns: u64) -> Self {
        Self(clock.now_ns().saturating_add(ns))
    }

    /// Whether that moment has come.
    pub fn has_passed(self, clock: &impl Clock) -> bool {
        clock.now_ns() >= self.0
    }
}

/// A wait whose deadline passed before its condition held.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
pub struct Timeout;

/// Polls `poll` until it yields a value or `deadline` passes. It is polled once more after the deadline, so that a
/// caller who was held up for long does not mistake its own absence for the hardware's.
///
/// # Errors
/// [`Timeout`] where no poll yielded a value in time.
pub fn wait_until<T>(
    clock: &impl Clock,
    deadline: Deadline,
    mut poll: impl FnMut() -> Option<T>,
) -> Result<T, Timeout> {
    loop {
        let late = deadline.has_passed(clock);
        if let Some(value) = poll() {
            return Ok(value);
        }
        if late {
            return Err(Timeout);
        }
        clock.relax();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use core::cell::Cell;

    struct Steps(Cell<u64>);
    impl Clock for Steps {
        fn now_ns(&self) -> u64 {
            self.0.get()
        }
        fn relax(&self) {
            self.0.set(self.0.get() + 10);
        }
    }

    #[test]
    fn a_wait_ends_with_the_value() {
        let clock = Steps(Cell::new(0));
        let mut polls = 0;
        let deadline = Deadline::after_ns(&clock, 100);
        let got = wait_until(&clock, deadline, || {
            polls += 1;
            (polls == 3).then_some(polls)
        });
        assert_eq!(got, Ok(3));
    }

    #[test]
    fn a_wait_ends_at_its_deadline() {
        let clock = Steps(Cell::new(0));
        let deadline = Deadline::after_ns(&clock, 100);
        assert_eq!(wait_until(&clock, deadline, || None::<()>), Err(Timeout));
        assert_eq!(clock.now_ns(), 100);
    }

    #[test]
    fn a_late_caller_still_polls_once() {
        let clock = Steps(Cell::new(500));
        assert_eq!(wait_until(&clock, Deadline(1), || Some(7)), Ok(7));
    }
}
