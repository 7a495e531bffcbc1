//! Memory, a clock and units, put together.

use std::cell::{RefCell, RefMut};
use std::rc::Rc;

use hw::{Hpa, RegisterBus, Width};

use crate::clock::FakeClock;
use crate::memory::{DeviceMemory, SplitMemory};
use crate::middleware::{Injecting, Traced};
use crate::vtd::{Profile, Request, Unit};

/// A machine for host tests.
pub struct Machine {
    /// Its memory.
    pub memory: SplitMemory,
    /// Its clock; waiting lets the units work.
    pub clock: FakeClock,
    units: Vec<Rc<RefCell<Unit<SplitMemory>>>>,
    regs: Vec<Injecting<Traced<ModelRegs>>>,
}

/// A unit's registers.
#[derive(Clone)]
pub struct ModelRegs(Rc<RefCell<Unit<SplitMemory>>>);

impl RegisterBus for ModelRegs {
    fn load(&self, offset: u64, width: Width) -> u64 {
        self.0.borrow_mut().load(offset, width)
    }

    fn store(&self, offset: u64, width: Width, value: u64) {
        self.0.borrow_mut().store(offset, width, value);
    }
}

impl Machine {
    /// A machine with these units. If any of them does not snoop, or buffers writes, memory is so for all.
    #[must_use]
    pub fn new(profiles: &[Profile]) -> Self {
        let coherent = profiles.iter().all(|profile| profile.ecap.c());
        let memory = SplitMemory::new(coherent, profiles.iter().any(|profile| profile.cap.rwbf()));
        let clock = FakeClock::default();
        let units: Vec<_> = profiles
            .iter()
            .map(|profile| Rc::new(RefCell::new(Unit::new(*profile, memory.clone()))))
            .collect();
        for unit in &units {
            let unit = Rc::clone(unit);
            clock.on_tick(move || unit.borrow_mut().tick());
        }
        let regs = units.iter().map(|unit| Injecting::new(Traced::new(ModelRegs(Rc::clone(unit)))));
        let regs = regs.collect();
        Self { memory, clock, units, regs }
    }

    /// A unit's registers, as a driver gets them.
    #[must_use]
    pub fn regs(&self, unit: usize) -> Injecting<Traced<ModelRegs>> {
        self.regs[unit].clone()
    }

    /// A unit.
    #[must_use]
    pub fn unit(&self, unit: usize) -> RefMut<'_, Unit<SplitMemory>> {
        self.units[unit].borrow_mut()
    }

    /// A device behind unit 0 reads a word.
    ///
    /// # Errors
    /// The reason of the fault.
    pub fn dma_read(&self, request: Request) -> Result<u64, u8> {
        let hpa = self.unit(0).dma(Request { write: false, ..request })?;
        Ok(self.memory.read(hpa.raw() & !7, true).unwrap_or(u64::MAX))
    }

    /// A device behind unit 0 writes a word.
    ///
    /// # Errors
    /// The reason of the fault.
    pub fn dma_write(&self, request: Request, value: u64) -> Result<Hpa, u8> {
        let hpa = self.unit(0).dma(Request { write: true, ..request })?;
        self.memory.clone().write(hpa.raw() & !7, value);
        Ok(hpa)
    }

    /// Fails unless all units were used as their manual says.
    ///
    /// # Panics
    /// With what they were not.
    pub fn assert_clean(&self) {
        for (index, unit) in self.units.iter().enumerate() {
            let violations = unit.borrow_mut().violations();
            assert!(violations.is_empty(), "unit {index}: {violations:#?}");
        }
    }
}
