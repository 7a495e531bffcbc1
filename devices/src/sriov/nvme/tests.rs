//! The driver on a small model of a controller with two virtual functions, sound and not.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex};

use hw::Width;

use super::*;
use crate::Resource;

const IOVA: u64 = 0x1000;
const PRIMARY: u16 = 0;

/// How the model misbehaves.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Trouble {
    #[default]
    None,
    /// It reads all ones.
    Gone,
    /// It takes commands and answers none.
    Silent,
    /// It sets its status to failed at the next command.
    Fails,
    /// It answers for another command.
    Confused,
    /// It refuses commands with this opcode and first word.
    Refuses(u8, u32),
    /// All data that it gives is all ones.
    Lies,
}

#[derive(Debug, Default)]
struct State {
    trouble: Trouble,
    memory: Vec<u8>,
    now: u64,
    cc: u32,
    status: u32,
    head: u16,
    completions: u16,
    /// Bytes, and who has it.
    namespaces: BTreeMap<u32, (u64, BTreeSet<u16>)>,
    /// Of each secondary controller: whether it is online, its queues and interrupts.
    secondary: [(bool, [u16; 2]); 2],
    /// Queues and interrupts of the primary controller: now, and after a reset.
    primary: [[u16; 2]; 2],
    commands: usize,
}

#[derive(Clone, Debug)]
struct Model(Arc<Mutex<State>>);

impl Model {
    /// Two namespaces of 16 and 8 MiB, six of each resource.
    fn new() -> Self {
        let namespaces = [(1, (16 << 20, BTreeSet::new())), (2, (8 << 20, BTreeSet::new()))];
        Self(Arc::new(Mutex::new(State {
            memory: vec![0; MEMORY_BYTES as usize],
            namespaces: namespaces.into(),
            primary: [[6, 6]; 2],
            ..State::default()
        })))
    }

    fn state(&self) -> std::sync::MutexGuard<'_, State> {
        self.0.lock().unwrap()
    }

    fn driver(&self) -> Nvme<Registers, Memory, Time> {
        let shared = Shared { memory: Memory(self.clone()), iova: IOVA };
        Nvme::new(Registers(self.clone()), shared, Time(self.clone()), 2)
    }

    /// A driver that was started, with the reset that it asked for.
    fn started() -> (Self, Nvme<Registers, Memory, Time>) {
        let model = Self::new();
        let mut driver = model.driver();
        assert_eq!(model.run(&mut driver, Job::Start), Ok(Started::ResetFirst));
        model.state().reset();
        assert_eq!(model.run(&mut driver, Job::Start), Ok(Started::Ready));
        (model, driver)
    }

    fn run(&self, driver: &mut impl Physical, job: Job) -> Result<Started, Fault> {
        driver.begin(job);
        loop {
            if let Some(done) = driver.poll() {
                return done;
            }
            self.state().now += 100_000_000;
        }
    }

    fn owners(&self, namespace: u32) -> Vec<u16> {
        self.state().namespaces[&namespace].1.iter().copied().collect()
    }
}

impl State {
    fn reset(&mut self) {
        self.primary[0] = self.primary[1];
        (self.cc, self.status) = (0, 0);
    }

    fn get(&self, at: u64, bytes: usize) -> u64 {
        let bytes = &self.memory[at as usize..][..bytes];
        bytes.iter().rev().fold(0, |value, byte| value << 8 | u64::from(*byte))
    }

    fn put(&mut self, at: u64, bytes: usize, value: u64) {
        self.memory[at as usize..][..bytes].copy_from_slice(&value.to_le_bytes()[..bytes]);
    }

    fn take_command(&mut self) {
        let at = u64::from(self.head) * 64;
        let (first, namespace) = (self.get(at, 4) as u32, self.get(at + 4, 4) as u32);
        let data = self.get(at + 24, 8).wrapping_sub(IOVA);
        let words = [self.get(at + 40, 4) as u32, self.get(at + 44, 4) as u32];
        self.head = (self.head + 1) % 8;
        self.commands += 1;
        let id = (first >> 16) as u16;
        let status = match self.trouble {
            Trouble::Silent | Trouble::Gone => return,
            Trouble::Fails => return self.status |= 2,
            Trouble::Refuses(opcode, word) if (opcode, word) == (first as u8, words[0]) => 0x11f,
            _ => self.carry_out(first as u8, namespace, data, words),
        };
        let id = if self.trouble == Trouble::Confused { id ^ 1 } else { id };
        let phase = u64::from((self.completions / 8).is_multiple_of(2));
        let at = 0x1000 + u64::from(self.completions % 8) * 16;
        self.completions += 1;
        self.put(at + 12, 4, u64::from(id) | phase << 16 | u64::from(status) << 17);
    }

    fn carry_out(&mut self, opcode: u8, namespace: u32, data: u64, words: [u32; 2]) -> u16 {
        match opcode {
            0x06 => {
                self.memory[data as usize..][..0x1000].fill(0);
                self.identify(words[0], namespace, data);
                if self.trouble == Trouble::Lies {
                    self.memory[data as usize..][..0x1000].fill(0xff);
                    // Or nothing would be begun.
                    self.put(data + 256, 2, 0xffff);
                }
                0
            }
            0x15 => self.attach(namespace, data, words[0] == 0),
            0x1c => self.virtualize(words[0], words[1]),
            _ => 1,
        }
    }

    fn identify(&mut self, what: u32, namespace: u32, data: u64) {
        match what {
            0x01 => self.put(data + 256, 2, 0x88),
            0x10 => {
                let ids: Vec<u32> = self.namespaces.keys().copied().collect();
                (0..).zip(ids).for_each(|(at, id)| self.put(data + 4 * at, 4, id.into()));
            }
            0x11 => {
                // Blocks of 4 KiB, by the second format.
                self.put(data, 8, self.namespaces[&namespace].0 >> 12);
                self.put(data + 26, 1, 1);
                self.put(data + 128 + 4, 4, 12 << 16);
            }
            0x12 => {
                let owners = self.namespaces[&namespace].1.clone();
                self.put(data, 2, owners.len() as u64);
                (1..).zip(owners).for_each(|(at, id)| self.put(data + 2 * at, 2, id.into()));
            }
            0x14 => {
                for (kind, at) in [(0, 32), (1, 64)] {
                    let assigned: u16 = self.secondary.iter().map(|one| one.1[kind]).sum();
                    self.put(data + at, 4, 6);
                    self.put(data + at + 4, 4, assigned.into());
                    self.put(data + at + 8, 2, self.primary[0][kind].into());
                    self.put(data + at + 12, 2, 3);
                }
            }
            0x15 => {
                self.put(data, 1, 2);
                for number in 0..2 {
                    self.put(data + 32 + 32 * number, 2, number + 1);
                    self.put(data + 32 + 32 * number + 8, 2, number + 1);
                }
            }
            _ => {}
        }
    }

    fn attach(&mut self, namespace: u32, data: u64, attach: bool) -> u16 {
        let ids: Vec<u16> =
            (1..=self.get(data, 2)).map(|at| self.get(data + 2 * at, 2) as u16).collect();
        let Some((_, owners)) = self.namespaces.get_mut(&namespace) else { return 0x0b };
        for id in ids {
            let changed = if attach { owners.insert(id) } else { owners.remove(&id) };
            if !changed {
                return 0x118;
            }
        }
        0
    }

    fn virtualize(&mut self, word: u32, count: u32) -> u16 {
        let (action, kind) = (word & 0xf, (word >> 8 & 7) as usize);
        if action == 1 {
            self.primary[1][kind] = count as u16;
            return 0;
        }
        let Some(one) = self.secondary.get_mut((word >> 16) as usize - 1) else { return 0x11f };
        match action {
            7 => one.0 = false,
            8 if !one.0 => one.1[kind] = count as u16,
            9 if one.1[0] >= 2 && one.1[1] >= 1 => one.0 = true,
            _ => return 0x120,
        }
        0
    }
}

#[derive(Debug)]
struct Registers(Model);
impl RegisterBus for Registers {
    fn load(&self, offset: u64, width: Width) -> u64 {
        let state = self.0.state();
        match offset {
            _ if state.trouble == Trouble::Gone => width.mask(),
            // Ten seconds, doorbells of 16 bytes.
            0 => 20 << 24 | 2 << 32,
            0x1c => u64::from(state.status | state.cc & 1),
            _ => panic!("{offset:#x} is read"),
        }
    }

    fn store(&self, offset: u64, _: Width, value: u64) {
        let mut state = self.0.state();
        match offset {
            0x14 => {
                state.cc = value as u32;
                (state.head, state.completions) = (0, 0);
            }
            0x24 => assert_eq!(value, 0x7_0007),
            0x28 => assert_eq!(value, IOVA),
            0x30 => assert_eq!(value, IOVA + 0x1000),
            0x1000 => {
                while u64::from(state.head) != value {
                    state.take_command();
                }
            }
            0x1010 => {}
            _ => panic!("{offset:#x} is written"),
        }
    }
}

#[derive(Debug)]
struct Memory(Model);
impl RegisterBus for Memory {
    fn load(&self, offset: u64, width: Width) -> u64 {
        self.0.state().get(offset, width.bytes() as usize)
    }
    fn store(&self, offset: u64, width: Width, value: u64) {
        self.0.state().put(offset, width.bytes() as usize, value);
    }
}

#[derive(Debug)]
struct Time(Model);
impl Clock for Time {
    fn now_ns(&self) -> u64 {
        self.0.state().now
    }
}

fn by_id(number: u16, id: u32) -> Job {
    Job::Give(number, Some(Namespace::Id(id)))
}

fn by_bytes(number: u16, bytes: u64) -> Job {
    Job::Give(number, Some(Namespace::Bytes(bytes)))
}

#[test]
fn each_virtual_function_has_its_share_and_a_namespace_of_its_own() {
    let (model, mut driver) = Model::started();
    assert_eq!(driver.each().queues.of, 3);
    // Both controllers have it at first, as a device may be set up.
    model.state().namespaces.get_mut(&1).unwrap().1 = [PRIMARY, 2].into();
    assert_eq!(model.run(&mut driver, by_id(0, 1)), Ok(Started::Ready));
    assert_eq!(model.run(&mut driver, by_bytes(1, 4 << 20)), Ok(Started::Ready));
    assert_eq!((model.owners(1), model.owners(2)), (vec![1], vec![2]));
    assert_eq!(model.state().secondary, [(true, [3, 3]); 2]);
}

#[test]
fn what_it_had_is_there_for_the_next() {
    let (model, mut driver) = Model::started();
    for _ in 0..20 {
        assert_eq!(model.run(&mut driver, by_id(0, 2)), Ok(Started::Ready));
        assert_eq!(model.run(&mut driver, by_id(1, 2)), Err(Fault::Lacks(Resource::Namespaces)));
        assert_eq!(model.run(&mut driver, Job::Take(0)), Ok(Started::Ready));
        assert_eq!((model.owners(1), model.owners(2)), (vec![], vec![]));
        assert_eq!(model.state().secondary[0], (false, [0, 0]));
    }
    assert_eq!(model.run(&mut driver, by_id(1, 2)), Ok(Started::Ready));
}

#[test]
fn the_smallest_namespace_that_will_do_is_chosen() {
    let (model, mut driver) = Model::started();
    let lacks = Err(Fault::Lacks(Resource::Namespaces));
    assert_eq!(model.run(&mut driver, by_bytes(0, 17 << 20)), lacks);
    assert_eq!(model.run(&mut driver, by_id(0, 3)), lacks);
    assert_eq!(model.run(&mut driver, Job::Give(0, None)), lacks);
    assert_eq!(model.run(&mut driver, by_bytes(0, 1)), Ok(Started::Ready));
    assert_eq!(model.owners(2), [1]);
    assert_eq!(model.run(&mut driver, by_bytes(1, 1)), Ok(Started::Ready));
    assert_eq!(model.owners(1), [2]);
    let lacks = Err(Fault::Lacks(Resource::Interfaces));
    assert_eq!(model.run(&mut driver, by_id(2, 1)), lacks);
}

#[test]
fn one_that_stops_answering_is_given_up_at_the_deadline_and_for_good() {
    let (model, mut driver) = Model::started();
    let before = model.state().now;
    model.state().trouble = Trouble::Silent;
    assert_eq!(model.run(&mut driver, by_id(0, 1)), Err(Fault::Timeout));
    let waited = model.state().now - before;
    assert!((5_000_000_000..6_000_000_000).contains(&waited), "{waited}");
    // What it might still answer is taken for nobody's answer.
    model.state().trouble = Trouble::None;
    assert_eq!(model.run(&mut driver, by_id(0, 1)), Err(Fault::Halted));
    model.state().reset();
    assert_eq!(model.run(&mut driver, Job::Start), Ok(Started::Ready));
    assert_eq!(model.run(&mut driver, by_id(0, 1)), Ok(Started::Ready));
}

#[test]
fn one_that_is_gone_fails_or_is_confused_is_told_so() {
    for (trouble, fault) in [
        (Trouble::Gone, Fault::Gone),
        (Trouble::Fails, Fault::Halted),
        (Trouble::Confused, Fault::Halted),
    ] {
        let (model, mut driver) = Model::started();
        model.state().trouble = trouble;
        assert_eq!(model.run(&mut driver, by_id(0, 1)), Err(fault), "{trouble:?}");
    }
    let model = Model::new();
    model.state().trouble = Trouble::Gone;
    assert_eq!(model.run(&mut model.driver(), Job::Start), Err(Fault::Gone));
}

#[test]
fn a_refusal_leaves_nothing_behind() {
    let (model, mut driver) = Model::started();
    let online = 0x9 | 1 << 16;
    model.state().trouble = Trouble::Refuses(0x1c, online);
    assert_eq!(model.run(&mut driver, by_id(0, 1)), Err(Fault::Refused(0x1c_011f)));
    assert_eq!((model.owners(1), model.state().secondary[0]), (vec![], (false, [0, 0])));
}

#[test]
fn a_namespace_stays_with_one_that_does_not_go_offline() {
    let (model, mut driver) = Model::started();
    assert_eq!(model.run(&mut driver, by_id(0, 1)), Ok(Started::Ready));
    let offline = 0x7 | 1 << 16;
    model.state().trouble = Trouble::Refuses(0x1c, offline);
    assert_eq!(model.run(&mut driver, Job::Take(0)), Err(Fault::Refused(0x1c_011f)));
    model.state().trouble = Trouble::None;
    assert_eq!(model.run(&mut driver, by_id(1, 1)), Err(Fault::Lacks(Resource::Namespaces)));
    assert_eq!(model.owners(1), [1]);
}

#[test]
fn lists_of_all_ones_come_to_an_end() {
    let (model, mut driver) = Model::started();
    model.state().trouble = Trouble::Lies;
    assert!(model.run(&mut driver, by_bytes(0, 1)).is_err());
    assert!(model.run(&mut driver, by_id(0, 1)).is_err());
    assert!(model.state().commands < 10_000);
}
