//! Carving, on a driver that does what it is told, and when.

use std::sync::{Arc, Mutex};

use hw::{RequesterId, Width};
use pci::{Bar, BarKind, FunctionInfo, HeaderKind, Msix, Reset};

use super::*;
use crate::PageKind;
use crate::sriov::Started;

/// Takes jobs down, and ends them when it is let.
#[derive(Clone, Debug, Default)]
struct Script(Arc<Mutex<Played>>);

#[derive(Debug, Default)]
struct Played {
    jobs: Vec<Job>,
    end: Option<Result<Started, Fault>>,
}

impl Script {
    fn ends(&self, result: Result<Started, Fault>) {
        self.0.lock().unwrap().end = Some(result);
    }
    fn jobs(&self) -> Vec<Job> {
        self.0.lock().unwrap().jobs.clone()
    }
}

impl Physical for Script {
    fn kind(&self) -> Kind {
        Kind::Nvme
    }
    fn each(&self) -> Resources {
        let count = Count { left: 3, of: 3 };
        Resources { queues: count, slots: count, ..Resources::default() }
    }
    fn begin(&mut self, job: Job) {
        self.0.lock().unwrap().jobs.push(job);
    }
    fn poll(&mut self) -> Option<Result<Started, Fault>> {
        self.0.lock().unwrap().end.take()
    }
}

/// Words of a BAR.
#[derive(Clone, Debug, Default)]
struct Words(Arc<Mutex<std::collections::BTreeMap<u64, u64>>>, u64);

impl RegisterBus for Words {
    fn load(&self, offset: u64, _: Width) -> u64 {
        self.0.lock().unwrap().get(&(self.1 + offset)).copied().unwrap_or(0)
    }
    fn store(&self, offset: u64, _: Width, value: u64) {
        self.0.lock().unwrap().insert(self.1 + offset, value);
    }
}

fn at(devfn: u16) -> Function {
    Function { segment: 0, rid: RequesterId(0x100 | devfn) }
}

/// 16 KiB with MSI-X in their third page.
fn info(number: u16) -> FunctionInfo {
    let bar = Bar {
        index: 0,
        kind: BarKind::Memory64,
        prefetchable: true,
        base: 0xc000_0000 + u64::from(number) * 0x4000,
        bytes: 0x4000,
    };
    FunctionInfo {
        function: at(number + 1),
        parent: None,
        physical: Some(at(0)),
        vendor: 0x1b36,
        device: 0x10,
        class: 0x01_0802,
        revision: 2,
        subsystem: (0, 0),
        header: HeaderKind::Endpoint,
        bars: [Some(bar), None, None, None, None, None],
        rom: None,
        caps: Vec::new(),
        extended: Vec::new(),
        msi: None,
        msix: Some(Msix {
            offset: 0xb0,
            entries: 3,
            table_bar: 0,
            table_offset: 0x2000,
            pba_bar: 0,
            pba_offset: 0x2800,
        }),
        pcie: None,
        reset: Reset::Flr,
    }
}

fn carved() -> (Script, Vec<Words>, SrIov<Words>) {
    let (script, words) = (Script::default(), vec![Words::default(), Words::default()]);
    let virtuals = (0..2).map(|number| {
        let words = &words[usize::from(number)];
        let window = |_, offset: u32| Some(Words(words.0.clone(), offset.into()));
        VirtualFunction::new(&info(number), window).unwrap()
    });
    let this = SrIov::new(at(0), Box::new(script.clone()), virtuals.collect());
    (script, words, this)
}

const WANT: Want = Want {
    queues: 2,
    entries: 0,
    slots: 1,
    mode: crate::Mode::Dedicated,
    version: crate::Version { major: 0, minor: 0 },
};

#[test]
fn each_virtual_function_is_given_once_with_a_requester_of_its_own() {
    let (_, _, mut function) = carved();
    let ids = [0, 1].map(|_| function.carve(&WANT).unwrap());
    let requesters = ids.map(|id| function.interface(id).unwrap().requester);
    assert_eq!(requesters, [at(1), at(2)]);
    let (what, wanted, left) = (Resource::Interfaces, 1, 0);
    assert_eq!(function.carve(&WANT), Err(CarveError::Missing { what, wanted, left }));
    assert_eq!(function.resources().interfaces, Count { left: 0, of: 2 });
    assert_eq!(function.release(ids[0]), Ok(()));
    assert_eq!(function.release(ids[0]), Err(Fault::Stale));
    let again = function.carve(&WANT).unwrap();
    assert_eq!(function.interface(again).unwrap().requester, at(1));
    for (want, what, wanted, left) in [
        (Want { queues: u32::MAX, ..WANT }, Resource::Queues, u32::MAX, 3),
        (Want { slots: 4, ..WANT }, Resource::Slots, 4, 3),
    ] {
        assert_eq!(function.carve(&want), Err(CarveError::Missing { what, wanted, left }));
    }
}

#[test]
fn the_page_of_interrupts_is_never_fast() {
    let (_, _, mut function) = carved();
    let id = function.carve(&WANT).unwrap();
    let pages = &function.interface(id).unwrap().pages;
    let kinds: Vec<_> = pages.iter().map(|page| (page.offset(), page.kind())).collect();
    let (fast, slots) = (PageKind::Fast, PageKind::Slots);
    assert_eq!(kinds, [(0, fast), (0x1000, fast), (0x2000, slots), (0x3000, fast)]);
    let mut lies = info(0);
    lies.msix.as_mut().unwrap().table_offset = 0x3ff0;
    let lies = VirtualFunction::new(&lies, |_, _| Some(Words::default()));
    assert_eq!(lies.err(), Some(Fault::Lies(0xb0)));
}

#[test]
fn jobs_wait_for_one_another_and_tell_their_own_ends() {
    let (script, _, mut function) = carved();
    let [one, two] = [0, 1].map(|_| function.carve(&WANT).unwrap());
    let namespace = Namespace::Id(7);
    assert_eq!(function.set(one, Setting::Namespace(namespace)), Ok(()));
    assert_eq!(function.start(one, Command::Enable), Ok(()));
    assert_eq!(function.start(two, Command::Enable), Ok(()));
    assert_eq!(function.start(one, Command::Disable), Err(Fault::Busy));
    assert_eq!(function.release(one), Err(Fault::Busy));
    assert_eq!(script.jobs(), [Job::Give(0, Some(namespace))]);
    assert_eq!((function.poll(one), function.poll(two)), (None, None));
    script.ends(Ok(Started::Ready));
    // It is the first one's end, whoever asks.
    assert_eq!(function.poll(two), None);
    assert_eq!(script.jobs().last(), Some(&Job::Give(1, None)));
    assert_eq!(function.poll(one), Some(Ok(())));
    script.ends(Err(Fault::Timeout));
    assert_eq!(function.poll(two), Some(Err(Fault::Timeout)));
    let state = |function: &SrIov<Words>, id| function.interface(id).unwrap().state;
    assert_eq!((state(&function, one), state(&function, two)), (State::Enabled, State::Disabled));
    assert_eq!(function.set(one, Setting::Namespace(namespace)), Err(Fault::State));
    assert_eq!(function.release(one), Err(Fault::State));
    assert_eq!(function.start(one, Command::Reset), Ok(()));
    script.ends(Err(Fault::Halted));
    assert_eq!(function.poll(one), Some(Err(Fault::Halted)));
    // Nobody is given one that may still work for its former owner.
    assert_eq!((state(&function, one), function.release(one)), (State::Stuck, Err(Fault::State)));
}

#[test]
fn a_slot_is_of_its_own_table() {
    let (_, words, mut function) = carved();
    let [_, two] = [0, 1].map(|_| function.carve(&WANT).unwrap());
    let message = SlotMessage { address: 0xfee0_1000, data: 0x41 };
    assert_eq!(function.slot(two, 2, Some(message), false), Ok(Handle(2)));
    assert_eq!(function.slot(two, 3, Some(message), false), Err(Fault::Slot));
    assert!(words[0].0.lock().unwrap().is_empty());
    let table = |at: u64| words[1].load(0x2000 + 2 * 16 + at, Width::W4);
    assert_eq!([table(0), table(8), table(12)], [0xfee0_1000, 0x41, 0]);
    assert_eq!(function.slot(two, 2, None, false), Ok(Handle(2)));
    assert_eq!((table(0), table(12) & 1), (0, 1));
    words[1].store(0x2800, Width::W4, 1 << 2);
    words[1].store(0x2800, Width::W8, 1 << 2);
    assert!(function.is_pending(two, 2) && !function.is_pending(two, 1));
}
