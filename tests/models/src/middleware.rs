//! What may stand between a driver and registers.

use std::cell::{Cell, RefCell};
use std::rc::Rc;

use hw::{RegisterBus, Width};

/// Lets registers misbehave. Clones misbehave together.
#[derive(Clone)]
pub struct Injecting<R> {
    inner: R,
    gone: Rc<Cell<bool>>,
    stuck: Rc<RefCell<Vec<(u64, u64, u64)>>>,
    deaf: Rc<RefCell<Vec<u64>>>,
}

impl<R> Injecting<R> {
    /// Registers that behave.
    pub fn new(inner: R) -> Self {
        Self { inner, gone: Rc::default(), stuck: Rc::default(), deaf: Rc::default() }
    }

    /// What it stands before.
    pub fn inner(&self) -> &R {
        &self.inner
    }

    /// The device is gone: every read gives all ones, no write arrives.
    pub fn vanish(&self) {
        self.gone.set(true);
    }

    /// From now on the bits of `mask` in the register at `offset` read as in `value`.
    pub fn stick(&self, offset: u64, mask: u64, value: u64) {
        self.stuck.borrow_mut().push((offset, mask, value & mask));
    }

    /// From now on writes to the register at `offset` are lost.
    pub fn deafen(&self, offset: u64) {
        self.deaf.borrow_mut().push(offset);
    }

    /// Everything behaves again.
    pub fn heal(&self) {
        self.gone.set(false);
        self.stuck.borrow_mut().clear();
        self.deaf.borrow_mut().clear();
    }
}

impl<R: RegisterBus> RegisterBus for Injecting<R> {
    fn load(&self, offset: u64, width: Width) -> u64 {
        if self.gone.get() {
            return width.mask();
        }
        let value = self.inner.load(offset, width);
        let stuck = self.stuck.borrow();
        let here = stuck.iter().filter(|(at, ..)| *at == offset);
        here.fold(value, |value, (_, mask, bits)| value & !mask | bits)
    }

    fn store(&self, offset: u64, width: Width, value: u64) {
        if !self.gone.get() && !self.deaf.borrow().contains(&offset) {
            self.inner.store(offset, width, value);
        }
    }
}

/// Remembers every access: whether it was a store, the offset, the value.
#[derive(Clone)]
pub struct Traced<R> {
    inner: R,
    log: Rc<RefCell<Vec<(bool, u64, u64)>>>,
}

impl<R> Traced<R> {
    /// Registers without a past.
    pub fn new(inner: R) -> Self {
        Self { inner, log: Rc::default() }
    }

    /// What was stored, in order: offset and value.
    #[must_use]
    pub fn stores(&self) -> Vec<(u64, u64)> {
        let log = self.log.borrow();
        log.iter().filter(|(store, ..)| *store).map(|&(_, offset, value)| (offset, value)).collect()
    }

    /// Accesses so far.
    #[must_use]
    pub fn count(&self) -> usize {
        self.log.borrow().len()
    }
}

impl<R: RegisterBus> RegisterBus for Traced<R> {
    fn load(&self, offset: u64, width: Width) -> u64 {
        let value = self.inner.load(offset, width);
        self.log.borrow_mut().push((false, offset, value));
        value
    }

    fn store(&self, offset: u64, width: Width, value: u64) {
        self.log.borrow_mut().push((true, offset, value));
        self.inner.store(offset, width, value);
    }
}
