//! Devices that hang, halt, lie and disappear.

use super::*;
use device_spec::dsa::completion::status;
use device_spec::dsa::registers::{self as regs, reset};
use dsa_model::Fault as Injected;

#[test]
fn a_hung_descriptor_is_dropped_by_reset() {
    let mut taken = Taken::v1();
    let [id, other] = [(1, 0x41), (2, 0x42)].map(|(pasid, data)| taken.owned(pasid, data));
    let queue = id.number() as u8;
    taken.rig.inject(Injected::Hang { queue, abortable: true });
    assert!(taken.submit(id, copy(4)) && taken.submit(id, copy(8)));
    taken.rig.run();
    // The second waits for the only engine of the group.
    assert_eq!(taken.command(id, Command::Drain), Err(Fault::Timeout));
    assert_eq!(taken.interface(id).state, State::Enabled);
    taken.dsa.start(id, Command::Disable).unwrap();
    assert_eq!(taken.dsa.poll(id), None);
    taken.dsa.start(id, Command::Reset).unwrap();
    assert_eq!(taken.end(id), Ok(()), "what drops supersedes what waits");
    assert_eq!(taken.interface(id).state, State::Disabled);
    assert_eq!(taken.dsa.release(id), Ok(()));
    assert!(taken.submit(other, copy(4)));
    taken.rig.run();
    assert_eq!(taken.rig.record(2).status(), status::SUCCESS);
}

#[test]
fn a_hung_descriptor_alone_in_its_queue_does_not_hold_the_command_register() {
    let mut taken = Taken::v1();
    let id = taken.owned(1, 0x41);
    taken.rig.inject(Injected::Hang { queue: id.number() as u8, abortable: true });
    assert!(taken.submit(id, copy(4)));
    taken.rig.run();
    assert_eq!(taken.command(id, Command::Disable), Ok(()));
    assert_eq!(taken.interface(id).state, State::Disabled);
    assert_eq!(taken.command(id, Command::Enable), Ok(()));
}

#[test]
fn a_queue_that_cannot_be_stopped_is_never_given_out_again() {
    let mut taken = Taken::v1();
    let [id, other] = [(1, 0x41), (2, 0x42)].map(|(pasid, data)| taken.owned(pasid, data));
    taken.rig.inject(Injected::Hang { queue: id.number() as u8, abortable: false });
    assert!(taken.submit(id, copy(4)));
    taken.rig.run();
    assert_eq!(taken.command(id, Command::Reset), Err(Fault::Timeout));
    assert_eq!(taken.interface(id).state, State::Stuck);
    assert_eq!(taken.dsa.release(id), Err(Fault::State));
    let dead = Report { interface: None, what: Trouble::Dead(Fault::Timeout) };
    assert_eq!(taken.dsa.attend(), [dead]);
    // Without commands the others can do nothing but work.
    assert!(taken.submit(other, copy(4)));
    taken.rig.run();
    assert_eq!(taken.rig.record(2).status(), status::SUCCESS);
    assert_eq!(taken.dsa.start(other, Command::Reset), Err(Fault::Timeout));
    assert_eq!(taken.dsa.carve(&ONE), Err(CarveError::Fault(Fault::Timeout)));
}

#[test]
fn commands_that_do_not_end_have_a_deadline() {
    let mut taken = Taken::v1();
    let ids = [1, 2].map(|pasid| {
        let id = taken.dsa.carve(&ONE).unwrap();
        taken.dsa.bind(id, Pasid::try_new(pasid)).unwrap();
        id
    });
    taken.rig.inject(Injected::StuckCommands);
    ids.iter().for_each(|id| taken.dsa.start(*id, Command::Enable).unwrap());
    assert_eq!(taken.end(ids[0]), Err(Fault::Timeout));
    assert_eq!(taken.end(ids[1]), Err(Fault::Timeout));
    assert_eq!(taken.interface(ids[0]).state, State::Stuck);
    assert_eq!(taken.interface(ids[1]).state, State::Disabled, "it was never begun");
}

#[test]
fn a_halted_device_comes_back_with_slots_and_pasids() {
    let mut taken = Taken::v1();
    let id = taken.owned(2, 0x41);
    taken.dsa.start(id, Command::Abort).unwrap();
    taken.rig.inject(Injected::Halt(reset::COMMAND));
    let reports = taken.dsa.attend();
    assert_eq!(reports, [Report { interface: Some(id), what: Trouble::Halted }]);
    assert_eq!(taken.dsa.start(id, Command::Enable), Err(Fault::Halted));
    assert_eq!(taken.dsa.poll(id), Some(Err(Fault::Halted)));
    assert_eq!(taken.interface(id).state, State::Disabled);
    let mut reports = Vec::new();
    for _ in 0..4 {
        taken.rig.run();
        reports.extend(taken.dsa.attend());
    }
    assert_eq!(reports, [Report { interface: Some(id), what: Trouble::Recovered }]);
    assert_eq!(taken.command(id, Command::Enable), Ok(()));
    let Handle(handle) = taken.interface(id).slots[0];
    let descriptor = copy(4).with_flags(TOLD | flag::INTERRUPT).with_handle(handle);
    assert!(taken.submit(id, descriptor));
    taken.rig.run();
    assert_eq!(taken.rig.record(2).status(), status::SUCCESS);
    assert_eq!(taken.rig.messages(), [(0xfee0_1000, 0x41)]);
}

#[test]
fn what_only_a_function_level_reset_helps_is_told() {
    let mut taken = Taken::v1();
    let id = taken.owned(2, 0x41);
    taken.rig.inject(Injected::Halt(reset::FUNCTION));
    let halted = Report { interface: Some(id), what: Trouble::Halted };
    let dead = Report { interface: None, what: Trouble::Dead(Fault::Halted) };
    assert_eq!(taken.dsa.attend(), [halted, dead]);
    assert_eq!(taken.dsa.attend(), []);
    let (rig, time) = (taken.rig.clone(), taken.time.clone());
    let has = rig.capabilities().unwrap();
    let again = Dsa::take(&rig.info(), rig.clone(), time, has.clone(), Plan::even(&has));
    assert_eq!(again.unwrap_err(), Fault::Halted);
}

#[test]
fn a_device_that_is_gone_answers_nothing_more() {
    let mut taken = Taken::v1();
    let id = taken.owned(2, 0x41);
    taken.rig.inject(Injected::Gone);
    assert_eq!(taken.command(id, Command::Reset), Err(Fault::Gone));
    let gone = Report { interface: None, what: Trouble::Dead(Fault::Gone) };
    assert_eq!(taken.dsa.attend(), [gone]);
    assert_eq!(taken.dsa.attend(), []);
    assert_eq!(taken.rig.capabilities(), Err(Fault::Gone));
}

#[test]
fn errors_are_told_of_their_interface_and_lost_ones_are_counted() {
    let mut taken = Taken::v1();
    let [first, second] = [(1, 0x41), (2, 0x42)].map(|(pasid, data)| taken.owned(pasid, data));
    // Nowhere to tell how it ended.
    let bad = Descriptor::default().with_operation(0x3f);
    assert!(taken.submit(second, bad) && taken.submit(first, bad));
    taken.rig.run();
    let reports = taken.dsa.attend();
    assert_eq!(reports[0].interface.map(InterfaceId::number), Some(second.number()));
    assert_eq!(reports[1..], [Report { interface: None, what: Trouble::Lost }]);
}

#[test]
fn capabilities_that_cannot_be_are_refused() {
    let offsets = Rig::new(Config::of(Registers::V1_0)).load(0x60, Width::W8);
    let table = |shift: u32, unit: u64| offsets & !(0xffff << shift) | unit << shift;
    let lies = [
        (0x00, 0x0000, 0x00),
        // No queues, more queues than entries, no mode, entries of 2^20 bytes.
        (0x20, 0x0003_0000_0000_0080, 0x20),
        (0x20, 0x0003_0000_0008_0004, 0x20),
        (0x20, 0x0000_0000_0008_0080, 0x20),
        (0x20, 0x0003_0000_0f08_0080, 0x20),
        (0x30, 0x6000, 0x30),
        (0x38, 0, 0x38),
        (0x38, 0xff, 0x38),
        // Groups over the registers; queues over groups; interrupt message storage over queues; outside of the BAR.
        (0x60, table(0, 0), 0x60),
        (0x60, table(16, offsets & 0xffff), 0x60),
        (0x60, table(48, offsets >> 16 & 0xffff), 0x60),
        (0x60, table(48, 0xffff), 0x60),
    ];
    for (offset, value, blamed) in lies {
        let rig = Rig::new(Config::of(Registers::V1_0));
        rig.inject(Injected::Lie { offset, value });
        assert_eq!(rig.capabilities(), Err(Fault::Lies(blamed)), "{offset:#x} {value:#x}");
    }
}

#[test]
fn what_the_driver_needs_is_not_taken_for_granted() {
    let general = Rig::new(Config::of(Registers::V1_0)).load(0x10, Width::W8);
    for lie in [general & !(1 << 31), general & !(0x3f << 25)] {
        let rig = Rig::new(Config::of(Registers::V1_0));
        rig.inject(Injected::Lie { offset: 0x10, value: lie });
        assert_eq!(rig.capabilities(), Err(Fault::Unsupported));
    }
    let rig = Rig::new(Config::of(Registers::V1_0));
    let info = FunctionInfo { extended: Vec::new(), ..rig.info() };
    assert_eq!(Capabilities::read(&rig, &info), Err(Fault::Unsupported));
    let handles = Rig::new(Config { handles: true, ..Config::of(Registers::V1_0) });
    assert_eq!(handles.capabilities(), Err(Fault::Unsupported));
}

#[test]
fn portals_that_hold_the_msix_table_are_never_carved() {
    let (rig, time) = (Rig::new(Config::of(Registers::V1_0)), Time::default());
    let mut info = rig.info();
    let msix = info.msix.as_mut().unwrap();
    // It says that its table lies in the third page of the first queue.
    (msix.table_bar, msix.table_offset) = (2, 0x2000);
    let has = Capabilities::read(&rig, &info).unwrap();
    let plan = Plan::even(&has);
    let mut dsa = Dsa::take(&info, rig, time, has, plan).unwrap();
    let before = dsa.resources();
    let wqcap = regs::WQCAP.offset();
    let carved: Vec<_> = (0..8).map(|_| dsa.carve(&ONE)).collect();
    let lies = Err(CarveError::Fault(Fault::Lies(wqcap)));
    assert_eq!(carved.iter().filter(|carved| **carved == lies).count(), 1);
    assert_eq!(dsa.resources().interfaces.left, before.interfaces.left - 7);
}

#[test]
fn a_device_that_does_not_enable_is_not_taken() {
    let (rig, time) = (Rig::new(Config::of(Registers::V1_0)), Time::default());
    let has = rig.capabilities().unwrap();
    let info = rig.info();
    let take = |plan| Dsa::take(&info, rig.clone(), time.clone(), has.clone(), plan).unwrap_err();
    let mut plan = Plan::even(&has);
    plan.groups[0].engines = 0;
    assert_eq!(take(plan), Fault::Unsupported);
    {
        let world = &mut *rig.world();
        let function = dsa_model::Function { pasid: true, ..dsa_model::Function::default() };
        world.device.set_function(function, &mut world.machine);
    }
    let bus_master = device_spec::dsa::command::error::BUS_MASTER;
    assert_eq!(take(Plan::even(&has)), Fault::Refused(bus_master.into()));
    rig.inject(Injected::StuckCommands);
    assert_eq!(take(Plan::even(&has)), Fault::Timeout);
    assert!(time.now_ns() >= SECOND);
}
