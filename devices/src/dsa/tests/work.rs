//! Interfaces at work.

use super::*;
use device_spec::dsa::completion::status;

#[test]
fn a_copy_is_done_in_its_owners_space_and_interrupts_by_its_slot() {
    let mut taken = Taken::v1();
    let id = taken.owned(2, 0x41);
    taken.rig.put(2, MEMORY + PAGE_SIZE, b"kerf");
    let Handle(handle) = taken.interface(id).slots[0];
    let descriptor = copy(4).with_flags(TOLD | flag::INTERRUPT).with_handle(handle);
    assert!(taken.submit(id, descriptor));
    taken.rig.run();
    assert_eq!(taken.rig.record(2).status(), status::SUCCESS);
    assert_eq!(taken.rig.peek(2, MEMORY + 2 * PAGE_SIZE, 4), b"kerf");
    assert_eq!(taken.rig.peek(1, MEMORY + 2 * PAGE_SIZE, 4), [0; 4]);
    assert_eq!(taken.rig.messages(), [(0xfee0_1000, 0x41)]);
}

#[test]
fn anothers_handle_is_an_error_of_ones_own() {
    let mut taken = Taken::v1();
    let [own, other] = [(1, 0x41), (2, 0x42)].map(|(pasid, data)| taken.owned(pasid, data));
    let Handle(handle) = taken.interface(other).slots[0];
    let flags = TOLD | flag::INTERRUPT;
    assert!(taken.submit(own, told(op::NOOP).with_flags(flags).with_handle(handle)));
    taken.rig.run();
    assert_eq!(taken.rig.record(1).status(), status::INTERRUPT_HANDLE);
    assert_eq!(taken.rig.messages(), []);
    let what =
        Trouble::Work { error: status::INTERRUPT_HANDLE, operation: op::NOOP, address: None };
    assert_eq!(taken.dsa.attend(), [Report { interface: Some(own), what }]);
    assert_eq!(taken.dsa.attend(), []);
}

#[test]
fn the_functions_own_interrupts_are_nobodys() {
    let mut taken = Taken::v1();
    let id = taken.owned(1, 0x41);
    let descriptor = told(op::NOOP).with_flags(TOLD | flag::INTERRUPT).with_handle(0);
    // By a page that is never mapped.
    assert!(taken.rig.submit(&taken.interface(id).pages[0], descriptor));
    taken.rig.run();
    assert_eq!(taken.rig.record(1).status(), status::INTERRUPT_HANDLE);
    let permissions = taken.rig.capabilities().unwrap().tables.permissions;
    let ignored = |entry: u64| taken.rig.load(permissions + 8 * entry, Width::W4) & 1 << 2 != 0;
    assert!((0..9).all(ignored), "nor would they be without PASIDs");
}

#[test]
fn an_interface_without_a_pasid_is_not_enabled() {
    let mut taken = Taken::v1();
    let id = taken.dsa.carve(&ONE).unwrap();
    assert_eq!(taken.dsa.start(id, Command::Enable), Err(Fault::State));
    taken.dsa.bind(id, Pasid::try_new(1)).unwrap();
    taken.dsa.start(id, Command::Enable).unwrap();
    assert_eq!(taken.dsa.bind(id, None), Err(Fault::Busy));
    assert_eq!(taken.end(id), Ok(()));
    assert_eq!(taken.dsa.bind(id, None), Err(Fault::State));
    assert_eq!(taken.dsa.release(id), Err(Fault::State));
    assert_eq!(taken.dsa.poll(id), Some(Ok(())));
}

#[test]
fn a_masked_slot_keeps_its_interrupt() {
    let mut taken = Taken::v1();
    let id = taken.owned(1, 0x41);
    let message = Some(SlotMessage { address: 0xfee0_2000, data: 0x55 });
    let Handle(handle) = taken.dsa.slot(id, 0, message, true).unwrap();
    let descriptor = told(op::NOOP).with_flags(TOLD | flag::INTERRUPT).with_handle(handle);
    assert!(taken.submit(id, descriptor));
    taken.rig.run();
    assert!(taken.rig.messages().is_empty() && taken.dsa.is_pending(id, 0));
    taken.dsa.slot(id, 0, message, false).unwrap();
    assert_eq!(taken.rig.messages(), [(0xfee0_2000, 0x55)]);
    assert!(!taken.dsa.is_pending(id, 0));
    assert_eq!(taken.dsa.slot(id, 1, message, false), Err(Fault::Slot));
    let memory = Some(SlotMessage { address: 0x1000, data: 0 });
    assert_eq!(taken.dsa.slot(id, 0, memory, false), Err(Fault::Unsupported));
}

#[test]
fn a_drain_waits_for_the_work_and_holds_up_nobody() {
    let mut taken = Taken::v1();
    let (id, other) = (taken.owned(1, 0x41), taken.dsa.carve(&ONE).unwrap());
    taken.dsa.bind(other, Pasid::try_new(2)).unwrap();
    assert!(taken.submit(id, copy(4096)));
    taken.dsa.start(id, Command::Drain).unwrap();
    assert_eq!(taken.dsa.poll(id), None);
    taken.dsa.start(other, Command::Enable).unwrap();
    assert_eq!(taken.dsa.poll(other), Some(Ok(())), "the command register is free");
    assert_eq!(taken.dsa.start(id, Command::Drain), Err(Fault::Busy));
    assert_eq!(taken.end(id), Ok(()));
    assert_eq!(taken.rig.record(1).status(), status::SUCCESS);
    assert_eq!(taken.interface(id).state, State::Enabled);
    assert!(taken.submit(id, copy(1)), "it goes on");
}

#[test]
fn what_is_disabled_takes_nothing() {
    let mut taken = Taken::v1();
    let id = taken.owned(1, 0x41);
    assert!(taken.submit(id, copy(16)));
    assert_eq!(taken.command(id, Command::Disable), Ok(()));
    assert_eq!(taken.rig.record(1).status(), status::SUCCESS);
    assert_eq!(taken.interface(id).state, State::Disabled);
    assert!(!taken.submit(id, copy(16)));
    for command in [Command::Disable, Command::Drain, Command::Abort] {
        assert_eq!(taken.dsa.start(id, command), Err(Fault::State));
    }
    assert_eq!(taken.command(id, Command::Enable), Ok(()));
    assert!(taken.submit(id, copy(16)));
}

#[test]
fn settings_bind_the_owner_until_the_reset() {
    let mut taken = Taken::v1();
    let id = taken.dsa.carve(&ONE).unwrap();
    taken.dsa.bind(id, Pasid::try_new(1)).unwrap();
    let all = taken.interface(id).queue.unwrap().settings();
    let small = super::super::Settings { max_transfer: 4, max_batch: 1, ..all };
    let large = super::super::Settings { max_transfer: 32, ..all };
    assert_eq!(taken.dsa.set(id, Setting::Queue(large)), Err(Fault::Unsupported));
    taken.dsa.set(id, Setting::Queue(small)).unwrap();
    taken.command(id, Command::Enable).unwrap();
    assert!(taken.submit(id, copy(17)));
    taken.rig.run();
    assert_eq!(taken.rig.record(1).status(), status::TRANSFER_SIZE);
    taken.command(id, Command::Reset).unwrap();
    taken.command(id, Command::Enable).unwrap();
    taken.rig.put(1, RECORD, &[0; 32]);
    assert!(taken.submit(id, copy(17)));
    taken.rig.run();
    assert_eq!(taken.rig.record(1).status(), status::SUCCESS);
}

#[test]
fn a_saved_queue_goes_on_as_another() {
    let [mut from, mut to] =
        [Registers::V1_0, Registers::V2_0].map(|version| Taken::new(Config::of(version)));
    let id = from.dsa.carve(&ONE).unwrap();
    from.dsa.bind(id, Pasid::try_new(1)).unwrap();
    let all = from.interface(id).queue.unwrap().settings();
    let settings = super::super::Settings { max_transfer: 4, ..all };
    from.dsa.set(id, Setting::Queue(settings)).unwrap();
    from.command(id, Command::Enable).unwrap();
    assert!(from.submit(id, copy(4)));
    assert_eq!(from.dsa.save(id), Err(Fault::Busy), "it is not drained");
    from.command(id, Command::Drain).unwrap();
    let saved = from.dsa.save(id).unwrap();
    let other = to.dsa.carve(&ONE).unwrap();
    to.dsa.bind(other, Pasid::try_new(3)).unwrap();
    to.dsa.restore(other, &saved).unwrap();
    let InterfaceState::Dsa(state) = saved;
    assert!(state.was_enabled);
    to.command(other, Command::Enable).unwrap();
    assert!(to.submit(other, copy(17)));
    to.rig.run();
    assert_eq!(to.rig.record(3).status(), status::TRANSFER_SIZE);
}

#[test]
fn a_queue_with_less_cannot_go_on_for_another() {
    let mut large = Taken::v1();
    let id = large.dsa.carve(&ONE).unwrap();
    let saved = large.dsa.save(id).unwrap();
    let v1 = Config::of(Registers::V1_0);
    let smaller = [
        Config { total_size: 64, ..v1.clone() },
        Config { max_transfer: 30, ..v1.clone() },
        Config { max_batch: 9, ..v1.clone() },
        Config { overlapping_copy: false, ..v1 },
    ];
    for config in smaller {
        let mut taken = Taken::new(config.clone());
        let other = taken.dsa.carve(&Want { entries: 1, ..ONE }).unwrap();
        assert_eq!(taken.dsa.restore(other, &saved), Err(Fault::Unsupported), "{config:?}");
    }
}
