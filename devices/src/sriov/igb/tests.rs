//! The driver on a small model of the registers and of virtual functions that ask.

use std::sync::{Arc, Mutex};

use super::*;

const OWN: [u8; 6] = [0x52, 0x54, 0, 0x12, 0x34, 0x56];

/// Registers are memory but for those that are cleared by ones, and mailboxes.
#[derive(Clone, Debug)]
struct Model(Arc<Mutex<State>>);

#[derive(Debug)]
struct State {
    registers: Vec<u32>,
    gone: bool,
    deaf: bool,
    now: u64,
}

impl Model {
    fn new() -> Self {
        let state = State { registers: vec![0; 0x8000], gone: false, deaf: false, now: 0 };
        let this = Self(Arc::new(Mutex::new(state)));
        this.put(RAL, u32::from_le_bytes([OWN[0], OWN[1], OWN[2], OWN[3]]));
        this.put(RAH, u32::from(u16::from_le_bytes([OWN[4], OWN[5]])) | ADDRESS_VALID);
        this
    }

    fn started() -> (Self, Igb<Self, Self>) {
        let model = Self::new();
        let mut driver = Igb::new(model.clone(), model.clone());
        assert_eq!(run(&mut driver, Job::Start), Ok(Started::Ready));
        (model, driver)
    }

    fn state(&self) -> std::sync::MutexGuard<'_, State> {
        self.0.lock().unwrap()
    }

    fn get(&self, register: u64) -> u32 {
        self.state().registers[register as usize / 4]
    }

    fn put(&self, register: u64, value: u32) {
        self.state().registers[register as usize / 4] = value;
    }

    /// A virtual function's message, and what it gets for it.
    fn ask(&self, driver: &mut impl Physical, number: u16, words: &[u32]) -> Vec<u32> {
        let memory = VMBMEM + 64 * u64::from(number);
        for (at, word) in (0..16).zip(words.iter().chain(core::iter::repeat(&0))) {
            self.put(memory + 4 * at, *word);
        }
        self.put(P2VMAILBOX + 4 * u64::from(number), 0);
        self.put(MBVFICR, REQUEST << number);
        assert_eq!(driver.on_interrupt(), Ok(()));
        assert_eq!(self.get(MBVFICR), 0);
        assert_eq!(self.get(P2VMAILBOX + 4 * u64::from(number)), SENT);
        (0..3).map(|at| self.get(memory + 4 * at)).collect()
    }

    fn is_open(&self, number: u16) -> bool {
        let entry = RAH + 8 * (u64::from(number) + 1);
        let all =
            [self.get(VFRE) >> number & 1, self.get(VFTE) >> number & 1, self.get(entry) >> 31];
        assert!(all == [0; 3] || all == [1; 3], "{all:?}");
        all[0] != 0
    }
}

impl RegisterBus for Model {
    fn load(&self, offset: u64, width: Width) -> u64 {
        assert_eq!(width, Width::W4);
        if self.state().gone { width.mask() } else { self.get(offset).into() }
    }

    fn store(&self, offset: u64, width: Width, value: u64) {
        assert_eq!(width, Width::W4);
        let (old, value) = (self.get(offset), value as u32);
        let mailboxes = P2VMAILBOX..P2VMAILBOX + 4 * u64::from(MOST);
        /// The virtual function has the memory.
        const HELD: u32 = 1 << 2;
        self.put(
            offset,
            match offset {
                MBVFICR | VFLRE | EICR => old & !value,
                MDIC if !self.state().deaf => value | PHY_READY,
                _ if mailboxes.contains(&offset) => match value {
                    REVOKE => old & !HELD,
                    TAKEN if old & HELD != 0 => old,
                    _ => value,
                },
                _ => value,
            },
        );
    }
}

impl Clock for Model {
    fn now_ns(&self) -> u64 {
        self.state().now
    }
    fn relax(&self) {
        self.state().now += 100_000;
    }
}

fn run(driver: &mut impl Physical, job: Job) -> Result<Started, Fault> {
    driver.begin(job);
    driver.poll().unwrap()
}

const RESET: u32 = 1;
const GRANTED: u32 = 1 << 31;
const REFUSED: u32 = 1 << 30;
const CLEAR: u32 = 1 << 29;

#[test]
fn a_reset_is_answered_with_an_address_of_its_own_and_opens_its_pool() {
    let (model, mut driver) = Model::started();
    for number in [0, 7] {
        assert_eq!(run(&mut driver, Job::Give(number, None)), Ok(Started::Ready));
        assert!(!model.is_open(number));
        let answer = model.ask(&mut driver, number, &[RESET]);
        // As Linux compares it: nothing else is set.
        assert_eq!(answer[0], RESET | GRANTED);
        let mac = [answer[1].to_le_bytes(), answer[2].to_le_bytes()].concat();
        assert_eq!(mac[..6], [0x52, 0x54 ^ (number as u8 + 1), 0, 0x12, 0x34, 0x56]);
        assert!(model.is_open(number));
        assert_eq!(model.get(RAL + 8 * (u64::from(number) + 1)), answer[1]);
        let high = model.get(RAH + 8 * (u64::from(number) + 1));
        assert_eq!(high, answer[2] | ADDRESS_VALID | FIRST_POOL << number);
    }
    assert!(!model.is_open(1));
    assert_eq!(model.get(RAH), 0, "the physical function receives nothing");
}

#[test]
fn nobody_is_served_who_was_not_given_or_was_not_reset() {
    let (model, mut driver) = Model::started();
    assert_eq!(model.ask(&mut driver, 3, &[RESET])[0], RESET | REFUSED);
    assert!(!model.is_open(3));
    assert_eq!(run(&mut driver, Job::Give(3, None)), Ok(Started::Ready));
    assert_eq!(model.ask(&mut driver, 3, &[5, 1500])[0], 5 | REFUSED);
    model.ask(&mut driver, 3, &[RESET]);
    assert_eq!(run(&mut driver, Job::Take(3)), Ok(Started::Ready));
    assert!(!model.is_open(3));
    assert_eq!(model.ask(&mut driver, 3, &[RESET])[0], RESET | REFUSED);
    let lacks = Err(Fault::Lacks(Resource::Interfaces));
    assert_eq!(run(&mut driver, Job::Give(8, None)), lacks);
}

#[test]
fn requests_are_granted_within_what_is_its_own() {
    let (model, mut driver) = Model::started();
    assert_eq!(run(&mut driver, Job::Give(2, None)), Ok(Started::Ready));
    let own = model.ask(&mut driver, 2, &[RESET]);
    let granted = |request: u32| request | GRANTED | CLEAR;
    let refused = |request: u32| request | REFUSED | CLEAR;
    for (message, answer) in [
        ([2, own[1], own[2]], granted(2)),
        ([2, own[1] ^ 1, own[2]], refused(2)),
        ([5, 1522, 0], granted(5)),
        ([5, 9000, 0], refused(5)),
        // VLANs and promiscuity are not for it.
        ([4, 1, 0], refused(4)),
        ([6, 0, 0], refused(6)),
        ([0xffff, 0, 0], refused(0xffff)),
        // Bits of an answer do not come back.
        ([0xe000_0005, 9000, 0], refused(5)),
    ] {
        assert_eq!(model.ask(&mut driver, 2, &message)[0], answer, "{message:x?}");
    }
    // Two groups, by their hashes.
    let join = 3 | 2 << 16;
    assert_eq!(model.ask(&mut driver, 2, &[join, 0x0fff_0021])[0], granted(join));
    assert_eq!((model.get(MTA + 4), model.get(MTA + 4 * 0x7f)), (1 << 1, 1 << 31));
    assert_eq!(model.get(VMOLR + 8) & ACCEPT_GROUPS, ACCEPT_GROUPS);
    // As many as the count can say are no more than there is.
    assert_eq!(model.ask(&mut driver, 2, &[3 | 0xff << 16])[0], granted(3 | 0xff << 16));
}

#[test]
fn one_that_was_reset_has_to_ask_again_and_disturbs_nobody() {
    let (model, mut driver) = Model::started();
    for number in [0, 1] {
        assert_eq!(run(&mut driver, Job::Give(number, None)), Ok(Started::Ready));
        model.ask(&mut driver, number, &[RESET]);
    }
    model.put(VFLRE, 1);
    assert_eq!(driver.on_interrupt(), Ok(()));
    assert_eq!((model.is_open(0), model.is_open(1)), (false, true));
    assert_eq!(model.ask(&mut driver, 0, &[5, 1500])[0], 5 | REFUSED);
    assert_eq!(model.ask(&mut driver, 0, &[RESET])[0], RESET | GRANTED);
}

#[test]
fn one_that_keeps_its_mailbox_loses_it() {
    let (model, mut driver) = Model::started();
    assert_eq!(run(&mut driver, Job::Give(0, None)), Ok(Started::Ready));
    model.put(VMBMEM, RESET);
    model.put(P2VMAILBOX, 1 << 2);
    model.put(MBVFICR, REQUEST);
    assert_eq!(driver.on_interrupt(), Ok(()));
    assert_eq!((model.get(VMBMEM), model.is_open(0)), (RESET | GRANTED, true));
}

#[test]
fn the_link_is_told_to_those_that_may_use_it() {
    let (model, mut driver) = Model::started();
    for number in [0, 1] {
        assert_eq!(run(&mut driver, Job::Give(number, None)), Ok(Started::Ready));
    }
    model.ask(&mut driver, 1, &[RESET]);
    model.put(ICR, LINK_CHANGE);
    assert_eq!(driver.on_interrupt(), Ok(()));
    assert_eq!((model.get(VMBMEM), model.get(VMBMEM + 64)), (0, 0x100 | CLEAR));
}

#[test]
fn one_that_is_gone_or_has_no_phy_is_told_so() {
    let (model, mut driver) = Model::started();
    model.state().gone = true;
    assert_eq!(driver.on_interrupt(), Err(Fault::Gone));
    assert_eq!(run(&mut driver, Job::Start), Err(Fault::Gone));
    let model = Model::new();
    model.state().deaf = true;
    let mut driver = Igb::new(model.clone(), model.clone());
    assert_eq!(run(&mut driver, Job::Start), Err(Fault::Timeout));
    assert_eq!(model.state().now, PHY_NS);
}
