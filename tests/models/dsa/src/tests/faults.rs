//! Hanging, halting, lying, and size.

use super::*;

#[test]
fn a_descriptor_that_hangs_holds_its_engine_and_what_waits_for_it() {
    let mut rig = Rig::enabled(Version::V1_0);
    let noop = told(op::NOOP).with_completion(RECORD);
    rig.device.inject(Fault::Hang { queue: 0, abortable: true }, &mut rig.machine);
    assert!(rig.post(0, noop) && rig.post(0, noop) && rig.post(1, noop));
    rig.device.run(&mut rig.machine);
    // Its group has no other engine; the other group has.
    assert_eq!(rig.record(Some(PASID), RECORD).status(), 0);
    assert_eq!(rig.record(Some(OTHER), RECORD).status(), status::SUCCESS);
    rig.begin(code::DRAIN_PASID, OTHER);
    assert!(!rig.status().active());
    rig.begin(code::DRAIN_PASID, PASID);
    rig.device.run(&mut rig.machine);
    assert!(rig.status().active());
    // A reset of the function ends that, and everything.
    rig.device.reset_function();
    assert!(!rig.status().active());
    let mut rig = Rig::enabled(Version::V1_0);
    rig.device.inject(Fault::Hang { queue: 0, abortable: true }, &mut rig.machine);
    assert!(rig.post(0, noop));
    rig.device.run(&mut rig.machine);
    assert_eq!(rig.command(code::ABORT_PASID, PASID), error::NONE);
    assert!(rig.post(0, noop));
    rig.device.run(&mut rig.machine);
    assert_eq!(rig.record(Some(PASID), RECORD).status(), status::SUCCESS);
    rig.device.inject(Fault::Hang { queue: 0, abortable: false }, &mut rig.machine);
    assert!(rig.post(0, noop));
    rig.device.run(&mut rig.machine);
    rig.begin(code::ABORT_PASID, PASID);
    rig.device.run(&mut rig.machine);
    assert!(rig.status().active());
}

#[test]
fn a_drain_waits_for_what_hangs_before_it() {
    let mut rig = Rig::new(Config::of(Version::V1_0));
    rig.configure();
    // Queue 0 has two engines.
    let group = GroupConfiguration::default().with_read_buffers_allowed(96);
    (0..4).for_each(|at| rig.group(at, group));
    rig.group(0, group.with_queues(0xf).with_engines(3));
    rig.command(code::ENABLE_DEVICE, 0);
    rig.command(code::ENABLE_QUEUE, 0);
    rig.device.inject(Fault::Hang { queue: 0, abortable: true }, &mut rig.machine);
    let record = |at: u64| RECORD + 0x20 * at;
    assert!(rig.post(0, told(op::NOOP).with_completion(record(0))));
    assert!(rig.post(0, told(op::NOOP).with_completion(record(1))));
    assert!(rig.post(0, told(op::DRAIN).with_completion(record(2))));
    rig.device.run(&mut rig.machine);
    let ends = [0, 1, 2].map(|at| rig.record(Some(PASID), record(at)).status());
    assert_eq!(ends, [0, status::SUCCESS, 0]);
}

#[test]
fn a_halted_device_does_nothing_until_it_is_reset_as_it_needs() {
    for (needs, by_command, by_function) in
        [(reset::COMMAND, true, true), (reset::FUNCTION, false, true), (reset::COLD, false, false)]
    {
        let mut rig = Rig::enabled(Version::V2_0);
        rig.write(regs::GENCTRL.offset(), 2);
        let noop = told(op::NOOP).with_completion(RECORD);
        assert!(rig.post(0, noop));
        rig.device.inject(Fault::Halt(needs), &mut rig.machine);
        assert_eq!(rig.machine.messages, [(0xfee0_0000, 0x40)]);
        assert_eq!(rig.read(regs::INTCAUSE.offset()), cause::HALT.into());
        assert_eq!(GeneralStatus([rig.read(regs::GENSTS.offset())]).reset(), needs);
        rig.device.run(&mut rig.machine);
        assert!(!rig.post(0, noop));
        assert_eq!(rig.record(Some(PASID), RECORD).status(), 0);
        assert_eq!(rig.command(code::DRAIN_ALL, 0), error::HALTED);
        let by_command = if by_command { error::NONE } else { error::HALTED };
        assert_eq!(rig.command(code::RESET_DEVICE, 0), by_command);
        rig.device.inject(Fault::Halt(needs), &mut rig.machine);
        rig.device.reset_function();
        assert_eq!(rig.state() == state::DISABLED, by_function);
    }
}

#[test]
fn configuration_space_that_changes_under_way_halts_the_device() {
    for changed in [
        Function { bus_master: false, ..ALL },
        Function { pasid: false, ..ALL },
        Function { ats: false, ..ALL },
        Function { privileged: true, ..ALL },
    ] {
        let mut rig = Rig::enabled(Version::V1_0);
        rig.device.set_function(changed, &mut rig.machine);
        assert_eq!(rig.state(), state::HALTED);
        assert_eq!(rig.error().error(), software::CONFIGURATION_SPACE);
    }
    let mut rig = Rig::enabled(Version::V1_0);
    rig.command(code::DISABLE_DEVICE, 0);
    rig.device.set_function(Function { bus_master: false, ..ALL }, &mut rig.machine);
    assert_eq!(rig.state(), state::DISABLED);
}

#[test]
fn it_lies_sticks_and_goes_as_told() {
    let mut rig = Rig::enabled(Version::V1_0);
    let lie = Fault::Lie { offset: regs::WQCAP.offset(), value: 0xff_ffff };
    rig.device.inject(lie, &mut rig.machine);
    assert_eq!(rig.read(regs::WQCAP.offset()), 0xff_ffff);
    assert_eq!(rig.device.read(regs::WQCAP.offset() + 2, Width::W1), 0xff);
    rig.device.inject(Fault::StuckCommands, &mut rig.machine);
    rig.begin(code::DRAIN_ALL, 0);
    rig.device.run(&mut rig.machine);
    assert!(rig.status().active());
    rig.device.inject(Fault::Gone, &mut rig.machine);
    assert_eq!(rig.device.read(regs::VERSION.offset(), Width::W4), 0xffff_ffff);
    assert!(!rig.post(0, told(op::NOOP)));
}

#[test]
fn the_largest_device_works_in_all_its_queues() {
    let config = Config {
        queues: 255,
        total_size: 255,
        groups: 1,
        engines: 24,
        ims: 4,
        ..Config::of(Version::V2_0)
    };
    let mut rig = Rig::new(config);
    let queue = QueueConfiguration::default()
        .with_size(1)
        .with_dedicated(true)
        .with_pasid_enable(true)
        .with_priority(1)
        .with_max_batch(1)
        .with_operations(1);
    for at in 0..255_u64 {
        rig.queue(at, queue.with_pasid(0x1000 + at as u32));
        let ims = ImsEntry::default().with_pasid_enable(true).with_pasid(0x1000 + at as u32);
        let entry = rig.device.layout().ims + 16 * at;
        rig.write(entry + 8, ims.with_data(at as u32).0[1]);
    }
    let group = GroupConfiguration([u64::MAX, u64::MAX, u64::MAX, u64::MAX >> 1, 0, 0, 0, 0]);
    rig.group(0, group.with_engines(0xff_ffff).with_read_buffers_allowed(96));
    rig.write(regs::GENCFG.offset(), 1 << 12);
    assert_eq!(rig.command(code::ENABLE_DEVICE, 0), error::NONE);
    for at in 0..255 {
        assert_eq!(rig.command(code::ENABLE_QUEUE, at), error::NONE);
        let noop = Descriptor::default().with_operation(op::NOOP).with_flags(flag::INTERRUPT);
        let portal = Portal { queue: at as u8, ims: true, limited: false };
        assert!(rig.submit(portal, Submission::Posted, noop.with_handle(at as u16)));
    }
    rig.device.run(&mut rig.machine);
    let data = rig.machine.messages.iter().map(|(_, data)| *data);
    assert!(data.eq(0..255));
    assert_eq!(
        rig.command(code::DISABLE_QUEUE, command::queues(21) | command::queues(22)),
        error::NONE
    );
    let states = [20, 21, 22, 23].map(|at| rig.queue_state(at));
    assert_eq!(states, [1, 0, 0, 1]);
}
