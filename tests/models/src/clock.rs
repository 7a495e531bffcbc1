//! Time that passes only when somebody waits.

use std::cell::{Cell, RefCell};
use std::rc::Rc;

use hw::Clock;

type Tick = Rc<dyn Fn()>;

/// A clock that a wait moves on, together with the hardware that hangs on it. Clones are the same clock.
#[derive(Clone, Default)]
pub struct FakeClock {
    now_ns: Rc<Cell<u64>>,
    ticked: Rc<RefCell<Vec<Tick>>>,
}

impl FakeClock {
    /// What one poll of a wait takes.
    const STEP_NS: u64 = 200;

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
        self.advance(Self::STEP_NS);
        let ticked = self.ticked.borrow().clone();
        ticked.iter().for_each(|tick| tick());
    }
}
