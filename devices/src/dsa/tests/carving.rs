//! What is given out, and what is refused.

use super::*;
use crate::dsa::{GroupPlan, PlanError, QueuePlan};
use device_spec::dsa::queue::QueueConfiguration;

fn missing(what: Resource, wanted: u32, left: u32) -> Result<InterfaceId, CarveError> {
    Err(CarveError::Missing { what, wanted, left })
}

#[test]
fn all_is_given_out_and_comes_back() {
    let mut taken = Taken::v1();
    let before = taken.dsa.resources();
    let count = |of| Count { left: of, of };
    assert_eq!((before.interfaces, before.entries), (count(8), count(128)));
    assert_eq!((before.slots, before.version), (count(2048), V1));
    let all: Vec<_> = (0..8).map(|_| taken.dsa.carve(&ONE).unwrap()).collect();
    assert_eq!(taken.dsa.carve(&ONE), missing(Resource::Interfaces, 1, 0));
    assert_eq!(taken.dsa.resources().entries, Count { left: 0, of: 128 });
    let slots: std::collections::BTreeSet<_> =
        all.iter().flat_map(|id| taken.interface(*id).slots.clone()).collect();
    assert_eq!(slots.len(), 8, "slots of two interfaces are one");
    all.iter().for_each(|id| taken.dsa.release(*id).unwrap());
    assert_eq!(taken.dsa.resources(), before);
    assert_eq!(taken.dsa.release(all[0]), Err(Fault::Stale));
}

#[test]
fn refusals_say_what_is_missing() {
    let mut taken = Taken::v1();
    let before = taken.dsa.resources();
    let refused = [
        (Want { queues: 0, ..ONE }, Err(CarveError::Zero(Resource::Queues))),
        (Want { entries: 0, ..ONE }, Err(CarveError::Zero(Resource::Entries))),
        (Want { queues: 2, ..ONE }, missing(Resource::Queues, 2, 1)),
        (Want { queues: u32::MAX, ..ONE }, missing(Resource::Queues, u32::MAX, 1)),
        (Want { entries: 17, ..ONE }, missing(Resource::Entries, 17, 16)),
        (Want { entries: u32::MAX, ..ONE }, missing(Resource::Entries, u32::MAX, 16)),
        (Want { slots: 2049, ..ONE }, missing(Resource::Slots, 2049, 2048)),
        (Want { slots: u32::MAX, ..ONE }, missing(Resource::Slots, u32::MAX, 2048)),
        (Want { mode: Mode::Shared, ..ONE }, missing(Resource::Interfaces, 1, 0)),
        (Want { version: V2, ..ONE }, Err(CarveError::Version(V1))),
    ];
    for (want, expected) in refused {
        assert_eq!(taken.dsa.carve(&want), expected, "{want:?}");
        assert_eq!(taken.dsa.resources(), before);
    }
}

#[test]
fn the_smallest_queue_that_is_enough_is_taken() {
    let queue = |mode, entries| QueuePlan { mode, entries, priority: 1 };
    let plan = Plan {
        groups: alloc::vec![
            GroupPlan { engines: 1, queues: alloc::vec![queue(Mode::Dedicated, 64)] },
            GroupPlan {
                engines: 2,
                queues: alloc::vec![queue(Mode::Dedicated, 16), queue(Mode::Shared, 32)]
            },
        ],
    };
    let mut taken = Taken::planned(Config::of(Registers::V1_0), |_| plan);
    let any = Want { entries: 1, ..ONE };
    let wants = [any, any, Want { mode: Mode::Shared, ..any }];
    let [small, large, shared] = wants.map(|want| taken.dsa.carve(&want).unwrap());
    let entries = |id| (taken.interface(id).queue.unwrap().entries, id.number());
    assert_eq!([small, large, shared].map(entries), [(16, 1), (64, 0), (32, 2)]);
    let kinds = |id| taken.interface(id).pages.iter().map(Page::kind).collect::<Vec<_>>();
    assert_eq!(kinds(small), [PageKind::Slow, PageKind::Slow, PageKind::Fast, PageKind::Fast]);
    assert_eq!(kinds(shared)[2..], [PageKind::Translated; 2]);
}

#[test]
fn plans_that_do_not_fit_are_refused() {
    let has = Rig::new(Config::of(Registers::V1_0)).capabilities().unwrap();
    let queue = QueuePlan { mode: Mode::Dedicated, entries: 16, priority: 1 };
    let plan = |engines, queues: &[QueuePlan], groups| Plan {
        groups: alloc::vec![GroupPlan { engines, queues: queues.to_vec() }; groups],
    };
    assert_eq!(Plan::even(&has).check(&has), Ok(()));
    let wrong = [
        (plan(1, &[queue], 5), PlanError::Groups { planned: 5, has: 4 }),
        (plan(5, &[queue], 1), PlanError::Engines { planned: 5, has: 4 }),
        (plan(1, &[queue; 9], 1), PlanError::Queues { planned: 9, has: 8 }),
        (
            plan(1, &[QueuePlan { entries: 129, ..queue }], 1),
            PlanError::Entries { planned: 129, has: 128 },
        ),
        (plan(0, &[queue], 1), PlanError::Group(0)),
        (plan(1, &[], 1), PlanError::Group(0)),
        (plan(1, &[QueuePlan { entries: 0, ..queue }], 1), PlanError::Queue(0)),
        (plan(1, &[queue, QueuePlan { priority: 16, ..queue }], 1), PlanError::Queue(1)),
    ];
    for (plan, why) in wrong {
        assert_eq!(plan.check(&has), Err(why));
    }
}

#[test]
fn an_old_version_hides_what_a_new_device_has() {
    let mut taken = Taken::new(Config::of(Registers::V2_0));
    let [old, new] = [V1, V2].map(|version| {
        let id = taken.dsa.carve(&Want { version, ..ONE }).unwrap();
        taken.interface(id).queue.unwrap()
    });
    assert!(new.general.batch_continuation() && new.general.fill16());
    assert!(!old.general.batch_continuation() && !old.general.fill16());
    assert_eq!(old.operations, new.operations, "the model has no operation of 2.0 alone");
    assert_eq!(old.general.max_transfer(), 31);
}

#[test]
fn nothing_of_an_owner_is_left() {
    let mut taken = Taken::v1();
    let id = taken.owned(2, 0x41);
    taken.command(id, Command::Disable).unwrap();
    let (entry, number) = (taken.interface(id).slots[0].0, id.number());
    let tables = taken.rig.capabilities().unwrap().tables;
    let [ims, queue] = [tables.ims(entry), tables.queue(number)];
    assert_ne!(taken.rig.load(ims + 8, Width::W4), 0);
    taken.dsa.release(id).unwrap();
    let control = device_spec::dsa::interrupt::ImsEntry([0, taken.rig.load(ims + 8, Width::W8)]);
    assert_eq!((control.data(), control.pasid()), (0, 0));
    assert!(control.mask() && control.ignore());
    let config = QueueConfiguration([0, taken.rig.load(queue + 8, Width::W8), 0, 0, 0, 0, 0, 0]);
    assert!(!config.pasid_enable() && config.pasid() == 0);
}

#[test]
fn carving_touches_as_many_registers_however_many_there_are() {
    let config = Config { queues: 250, total_size: 4000, ..Config::of(Registers::V1_0) };
    let mut taken = Taken::new(config);
    let mut accesses = || {
        let before = taken.rig.world().accesses;
        let id = taken.owned(1, 0x41);
        taken.command(id, Command::Reset).unwrap();
        taken.dsa.release(id).unwrap();
        let after = taken.rig.world().accesses;
        taken.owned(1, 0x41);
        after - before
    };
    let all: Vec<_> = (0..249).map(|_| accesses()).collect();
    assert!(all.iter().all(|count| *count == all[0]), "{all:?}");
}
