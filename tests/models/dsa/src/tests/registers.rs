//! Capabilities, tables, and what may be written when.

use super::*;

#[test]
fn capabilities_are_those_of_the_version() {
    for (version, second) in [(Version::V1_0, false), (Version::V2_0, true)] {
        let rig = Rig::new(Config::of(version));
        assert_eq!(rig.read(regs::VERSION.offset()), version.0[0]);
        let general = GeneralCapabilities([rig.read(regs::GENCAP.offset())]);
        assert_eq!((general.fill16(), general.fault_info()), (second, second));
        assert_eq!(general.batch_continuation(), second);
        let queues = QueueCapabilities([rig.read(regs::WQCAP.offset())]);
        assert_eq!((queues.queues(), queues.operations()), (8, second));
        assert_eq!(queues.config_size(), u8::from(second));
        assert_eq!(rig.read(regs::OPCAP.offset()), 0x3_027f);
    }
}

#[test]
fn tables_are_apart_and_found() {
    let largest =
        Config { queues: 255, groups: 255, msix: 2048, ims: 63, ..Config::of(Version::V2_0) };
    for config in [Config::of(Version::V1_0), largest] {
        let layout = config.layout();
        let rig = Rig::new(config);
        let offsets = regs::Offsets([rig.read(0x60), rig.read(0x68)]);
        assert_eq!(u64::from(offsets.ims()) * regs::TABLE_UNIT, layout.ims);
        assert_eq!(u64::from(offsets.queues()) * regs::TABLE_UNIT, layout.queues);
        let starts = [
            layout.permissions,
            layout.groups,
            layout.queues,
            layout.msix,
            layout.pending,
            layout.ims,
        ];
        assert!(starts.is_sorted() && starts.iter().all(|start| start.is_multiple_of(PAGE_SIZE)));
        assert!(
            layout.pending < regs::DUMMY_PORTAL
                || layout.permissions > regs::DUMMY_PORTAL
                || layout.ims > 0x1_0000
        );
        assert_eq!(rig.read(layout.ims), 0xfee0_0000);
    }
}

#[test]
fn configuration_is_fixed_while_it_is_in_force() {
    let mut rig = Rig::enabled(Version::V2_0);
    let (groups, queue) = (rig.device.layout().groups, rig.queue_offset(0));
    let before = [
        rig.read(groups),
        rig.read(queue + 8),
        rig.read(queue + 32),
        rig.read(regs::GENCFG.offset()),
    ];
    rig.write(groups, 0xff);
    rig.write(queue, 99 | 7 << 32);
    rig.write(queue + 8, u64::MAX);
    rig.write(queue + 32, 0);
    rig.write(regs::GENCFG.offset(), 0);
    let after = [
        rig.read(groups),
        rig.read(queue + 8),
        rig.read(queue + 32),
        rig.read(regs::GENCFG.offset()),
    ];
    assert_eq!(after, before);
    // Size 8 as before, threshold 7.
    assert_eq!(rig.read(queue), 8 | 7 << 32);
    // While a queue is disabled all but its size can be changed.
    rig.command(code::DISABLE_QUEUE, command::queues(0));
    rig.write(queue, 99 | 6 << 32);
    rig.write(queue + 8, before[1] | 0xff << 8);
    assert_eq!(rig.read(queue), 8 | 6 << 32);
    assert_eq!(rig.read(queue + 8), before[1] | 0xff << 8);
    // While the device is disabled its size can.
    rig.command(code::DISABLE_DEVICE, 0);
    rig.write(queue, 9);
    rig.write(groups, 3);
    assert_eq!((rig.read(queue), rig.read(groups)), (9, 3));
}

#[test]
fn accesses_of_all_widths_reach_their_bytes() {
    let mut rig = Rig::new(Config::of(Version::V1_0));
    let queue = rig.queue_offset(1);
    rig.device.write(queue + 4, Width::W2, 0x1234, &mut rig.machine);
    rig.device.write(queue + 1, Width::W1, 0x56, &mut rig.machine);
    rig.device.write(queue + 8, Width::W4, 0x1012_3451, &mut rig.machine);
    assert_eq!(rig.read(queue), 0x1234_0000_5600);
    assert_eq!(rig.device.read(queue + 1, Width::W1), 0x56);
    assert_eq!(rig.device.read(queue + 8, Width::W4), 0x1012_3451);
    // What is not aligned does nothing.
    rig.device.write(queue + 2, Width::W8, u64::MAX, &mut rig.machine);
    assert_eq!(rig.read(queue), 0x1234_0000_5600);
    assert_eq!(rig.device.read(queue + 2, Width::W4), 0);
}
