//! Time that passes only when somebody waits.

use std::cell::{Cell, RefCell};
use std::rc::Rc;

use hw::Clock;

type Tick = Rc<dyn Fn()>;

/// A clock that a wait moves on, together with the hardware that hangs on it. Clones are the same clock.
#[derive(Clone, Default)]
pub struct FakeClock {
    now_ns: Rc<Cell<u64>>,
    step_ns: Rc<Cell<u64>>,
    ticked: Rc<RefCell<Vec<Tick>>>,
}

impl FakeClock {
    /// What one poll of a wait takes at least.
    const STEP_NS: u64 = 200;

    /// From now on one poll of a wait takes so long: for tests with many waits that nothing ends.
    pub fn set_step(&self, ns: u64) {
        self.step_ns.set(ns);
    }

    /// Calls `tick` with every step.
    pub fn on_tick(&self, tick: impl Fn() + 'static) {
        self.ticked.borrow_mut().push(Rc::new(tick));
    }

    /// Lets time pass without the hardware doing anything.
    pub fn advance(&self, ns: u64) {
        self.now_ns.set(self.now_ns.get() + ns);
    }
}

impl Clock for FakeClock {
    fn now_ns(&self) -> u64 {
        self.now_ns.get()
    }

    fn relax(&self) {
        self.advance(self.step_ns.get().max(Self::STEP_NS));
        let ticked = self.ticked.borrow().clone();
        ticked.iter().for_each(|tick| tick());
    }
}
