//! Administrative commands.

use super::*;

#[test]
fn the_device_is_enabled_only_as_it_is_configured_rightly() {
    let group = GroupConfiguration::default().with_read_buffers_allowed(96);
    let whole = group.with_queues(1).with_engines(1);
    for (groups, expected) in [
        (vec![whole], error::NONE),
        (vec![group.with_queues(1)], error::GROUP),
        (vec![group.with_engines(1)], error::GROUP),
        (vec![whole, group.with_queues(1).with_engines(2)], error::GROUP_QUEUES),
        (vec![whole.with_queues(3)], error::GROUP_QUEUES),
        (vec![whole.with_queues(1 | 1 << 40)], error::GROUP_QUEUES),
        (vec![whole.with_queues(0).with_engines(0)], error::GROUP_QUEUES),
        (vec![whole, group.with_queues(2).with_engines(1)], error::GROUP_ENGINES),
        (vec![whole.with_engines(1 << 4)], error::GROUP_ENGINES),
        (vec![whole.with_read_buffers_allowed(3)], error::READ_BUFFERS),
        (vec![whole.with_read_buffers_reserved(97)], error::READ_BUFFERS),
    ] {
        let mut rig = Rig::new(Config::of(Version::V1_0));
        rig.queue(0, QueueConfiguration::default().with_size(1));
        for (at, group) in groups.into_iter().enumerate() {
            rig.group(at as u64, group);
        }
        assert_eq!(rig.command(code::ENABLE_DEVICE, 0), expected);
        let state = if expected == error::NONE { state::ENABLED } else { state::DISABLED };
        assert_eq!(rig.state(), state);
    }
    let mut rig = Rig::new(Config::of(Version::V1_0));
    rig.queue(0, QueueConfiguration::default().with_size(100));
    rig.queue(1, QueueConfiguration::default().with_size(29));
    assert_eq!(rig.command(code::ENABLE_DEVICE, 0), error::SIZES);
    rig.device.set_function(Function { bus_master: false, ..ALL }, &mut rig.machine);
    assert_eq!(rig.command(code::ENABLE_DEVICE, 0), error::BUS_MASTER);
}

#[test]
fn a_queue_is_enabled_only_as_it_is_configured_rightly() {
    let good = QueueConfiguration::default()
        .with_size(8)
        .with_dedicated(true)
        .with_priority(1)
        .with_max_batch(1);
    let pasid = good.with_pasid_enable(true);
    for (config, expected) in [
        (good, error::NONE),
        (good.with_priority(0), error::PRIORITY),
        (good.with_block_on_fault(true), error::BLOCK_ON_FAULT),
        (good.with_dedicated(false), error::PASID_ENABLE),
        (good.with_max_batch(0), error::BATCH_SIZE),
        (good.with_max_batch(11), error::BATCH_SIZE),
        (pasid.with_privileged(true), error::PRIVILEGE),
        (pasid, error::NONE),
    ] {
        let mut rig = Rig::enabled(Version::V1_0);
        rig.command(code::DISABLE_QUEUE, command::queues(0));
        rig.queue(0, config);
        assert_eq!(rig.command(code::ENABLE_QUEUE, 0), expected);
    }
    let mut rig = Rig::enabled(Version::V1_0);
    assert_eq!(rig.command(code::ENABLE_QUEUE, 0), error::QUEUE_NOT_DISABLED);
    assert_eq!(rig.command(code::ENABLE_QUEUE, 7), error::QUEUE_SIZE);
    assert_eq!(rig.command(code::ENABLE_QUEUE, 8), error::QUEUE_INDEX);
    rig.command(code::DISABLE_DEVICE, 0);
    assert_eq!(rig.command(code::ENABLE_QUEUE, 0), error::DEVICE_NOT_ENABLED);
    rig.device.set_function(Function { pasid: false, ..ALL }, &mut rig.machine);
    assert_eq!(rig.command(code::ENABLE_DEVICE, 0), error::NONE);
    assert_eq!(rig.command(code::ENABLE_QUEUE, 0), error::PASID_ENABLE);
}

#[test]
fn commands_tell_what_is_wrong() {
    let mut rig = Rig::enabled(Version::V1_0);
    assert_eq!(rig.command(0, 0), error::COMMAND);
    assert_eq!(rig.command(31, 0), error::COMMAND);
    assert_eq!(rig.command(code::ENABLE_DEVICE, 0), error::DEVICE_NOT_DISABLED);
    for code in [code::DISABLE_QUEUE, code::DRAIN_QUEUE, code::ABORT_QUEUE] {
        assert_eq!(rig.command(code, command::queues(5)), error::QUEUE_NOT_ENABLED);
        assert_eq!(rig.command(code, command::queues(8)), error::QUEUE_INDEX);
    }
    rig.command(code::DISABLE_DEVICE, 0);
    assert_eq!(rig.command(code::DISABLE_DEVICE, 0), error::DISABLE_NOT_ENABLED);
    assert_eq!(rig.command(code::DRAIN_ALL, 0), error::NONE);
}

#[test]
fn draining_waits_for_descriptors_and_raises_its_interrupt() {
    let mut rig = Rig::enabled(Version::V1_0);
    let noop = told(op::NOOP).with_completion(RECORD);
    for (code, operand) in [
        (code::DRAIN_ALL, 0),
        (code::DRAIN_QUEUE, command::queues(0)),
        (code::DRAIN_PASID, PASID),
        (code::DISABLE_QUEUE, command::queues(0)),
    ] {
        rig.machine.messages.clear();
        assert!(rig.post(0, noop));
        let command = Command::default().with_code(code).with_operand(operand).with_interrupt(true);
        rig.device.write(regs::CMD.offset(), Width::W4, command.0[0], &mut rig.machine);
        assert!(rig.status().active() && rig.machine.messages.is_empty());
        rig.device.run(&mut rig.machine);
        assert!(!rig.status().active());
        assert_eq!(rig.machine.messages, [(0xfee0_0000, 0x40)]);
        assert_eq!(rig.read(regs::INTCAUSE.offset()), cause::COMMAND.into());
        assert_eq!(rig.record(Some(PASID), RECORD).status(), status::SUCCESS);
    }
    assert_eq!(rig.queue_state(0), state::DISABLED);
    // It does not wait for others.
    assert!(rig.post(1, noop));
    rig.begin(code::DRAIN_PASID, PASID);
    assert!(!rig.status().active());
    // While a command is active another is an error.
    rig.begin(code::DRAIN_ALL, 0);
    rig.begin(code::ENABLE_QUEUE, 0);
    assert_eq!(rig.error().error(), software::COMMAND_ACTIVE);
    assert_eq!(rig.queue_state(0), state::DISABLED);
}

#[test]
fn aborting_abandons_what_waits() {
    for (code, operand, left) in [
        (code::ABORT_ALL, 0, 0),
        (code::ABORT_PASID, PASID, 1),
        (code::ABORT_QUEUE, command::queues(0), 1),
    ] {
        let mut rig = Rig::enabled(Version::V1_0);
        let noop = told(op::NOOP).with_completion(RECORD);
        assert!(rig.post(0, noop) && rig.post(0, noop) && rig.post(1, noop));
        rig.begin(code, operand);
        assert!(!rig.status().active());
        rig.device.run(&mut rig.machine);
        assert_eq!(rig.record(Some(PASID), RECORD).status(), 0);
        assert_eq!(rig.record(Some(OTHER), RECORD).status(), left);
    }
}

#[test]
fn resets_clear_what_they_are_to_clear() {
    let mut rig = Rig::enabled(Version::V2_0);
    let noop = told(op::NOOP).with_completion(RECORD);
    assert!(rig.post(0, noop));
    assert_eq!(
        rig.command(code::RESET_QUEUE, command::queues(0) | command::queues(1)),
        error::NONE
    );
    assert_eq!((rig.queue_state(0), rig.queue_state(1), rig.queue_state(3)), (0, 0, 1));
    let queue = rig.queue_offset(0);
    assert_eq!((rig.read(queue), rig.read(queue + 8), rig.read(queue + 32)), (8, 0, 0x3_027f));
    assert_eq!(rig.record(Some(PASID), RECORD).status(), 0);
    // The whole device, but for the MSI-X table and errors.
    assert!(rig.post(3, Descriptor::default().with_operation(0xff)));
    rig.device.run(&mut rig.machine);
    let (ims, permissions) = (rig.device.layout().ims, rig.device.layout().permissions);
    rig.write(ims + 8, 0x41);
    rig.write(permissions, 0x0012_3008);
    assert_eq!(rig.command(code::RESET_DEVICE, 0), error::NONE);
    assert_eq!((rig.state(), rig.queue_state(3), rig.read(queue)), (0, 0, 0));
    assert_eq!((rig.read(ims + 8), rig.read(permissions)), (1 << 32, 0));
    assert_eq!((rig.read(regs::GENCFG.offset()), rig.read(regs::GENCTRL.offset())), (96, 0));
    assert_eq!(rig.read(rig.device.layout().groups + 40), 96 << 20);
    assert!(rig.error().valid());
    assert_eq!(rig.read(rig.device.layout().msix + 8), 0x40);
    rig.device.reset_function();
    assert_eq!(rig.read(rig.device.layout().msix + 8), 1 << 32);
    assert!(!rig.error().valid());
}
