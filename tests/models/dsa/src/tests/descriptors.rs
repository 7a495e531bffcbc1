//! What descriptors are refused, and how that is told.

use super::*;

#[test]
fn descriptors_are_checked() {
    let mut rig = Rig::enabled(Version::V1_0);
    let good = copy(MEMORY, MEMORY + 0x1000, 16);
    for (descriptor, expected) in [
        (good, status::SUCCESS),
        (good.with_operation(7), status::OPERATION),
        (good.with_operation(0xff), status::OPERATION),
        (good.with_flags(TOLD | flag::FENCE), status::INVALID_FLAGS),
        (good.with_flags(TOLD | flag::BLOCK_ON_FAULT), status::INVALID_FLAGS),
        (good.with_flags(TOLD | flag::CHECK_RESULT), status::INVALID_FLAGS),
        (good.with_flags(TOLD | 1 << 23), status::INVALID_FLAGS),
        (good.with_flags(TOLD | flag::CACHE_CONTROL | flag::STRICT_ORDERING), status::SUCCESS),
        (good.with_size(0), status::TRANSFER_SIZE),
        (good.with_size((1 << 21) + 1), status::TRANSFER_SIZE),
        (good.with_handle(1), status::RESERVED),
        (good.with_seed_address(1), status::RESERVED),
        (told(op::NOOP), status::SUCCESS),
        (told(op::NOOP).with_source(1), status::RESERVED),
        (told(op::DRAIN), status::SUCCESS),
        (told(op::COMPARE).with_size(1).with_flags(flag::RECORD_VALID), status::INVALID_FLAGS),
        // Who submitted it is ignored: the queue is dedicated.
        (good.with_pasid(OTHER).with_privileged(true), status::SUCCESS),
    ] {
        let record = rig.run(0, descriptor);
        assert_eq!(record.status(), expected, "{descriptor:x?}");
    }
    assert!(!rig.error().valid());
}

#[test]
fn queues_take_the_operations_that_they_are_given() {
    let mut rig = Rig::enabled(Version::V2_0);
    rig.command(code::DISABLE_QUEUE, command::queues(0));
    let at = rig.queue_offset(0) + 32;
    rig.write(at, 1 << op::NOOP);
    assert_eq!(rig.command(code::ENABLE_QUEUE, 0), error::NONE);
    assert_eq!(rig.run(0, told(op::NOOP)).status(), status::SUCCESS);
    assert_eq!(rig.run(0, copy(MEMORY, MEMORY + 64, 1)).status(), status::OPERATION);
    rig.command(code::DISABLE_QUEUE, command::queues(0));
    rig.write(at, 1 << 7);
    assert_eq!(rig.command(code::ENABLE_QUEUE, 0), error::OPERATIONS);
}

#[test]
fn what_no_record_tells_is_a_software_error() {
    let mut rig = Rig::enabled(Version::V1_0);
    rig.write(regs::GENCTRL.offset(), 1);
    let quiet = Descriptor::default().with_operation(op::MEMORY_MOVE).with_size(1);
    assert!(rig.post(0, quiet.with_source(0x5000).with_destination(MEMORY)));
    rig.device.run(&mut rig.machine);
    let error = rig.error();
    assert!(error.valid() && !error.overflow() && error.descriptor_valid() && error.queue_valid());
    assert_eq!((error.error(), error.pasid(), error.queue()), (status::PAGE_FAULT, PASID, 0));
    assert_eq!((error.operation(), error.address()), (op::MEMORY_MOVE, 0x5000));
    assert_eq!(rig.machine.messages, [(0xfee0_0000, 0x40)]);
    assert_eq!(rig.read(regs::INTCAUSE.offset()), cause::SOFTWARE_ERROR.into());
    // Another is lost, but for that it was there; neither raises an interrupt until the first is cleared.
    assert!(rig.post(1, told(op::NOOP).with_completion(RECORD + 8)));
    rig.device.run(&mut rig.machine);
    assert_eq!(rig.error(), error.with_overflow(true));
    assert_eq!(rig.machine.messages.len(), 1);
    rig.write(regs::SWERROR.offset(), 2);
    assert!(rig.error().valid() && !rig.error().overflow());
    rig.write(regs::SWERROR.offset(), 1);
    rig.write(regs::INTCAUSE.offset(), 0xffff_ffff);
    assert_eq!(rig.read(regs::INTCAUSE.offset()), 0);
    assert!(rig.post(1, told(op::NOOP).with_completion(RECORD + 8)));
    rig.device.run(&mut rig.machine);
    assert_eq!((rig.error().error(), rig.error().pasid()), (status::RECORD_ALIGNMENT, OTHER));
    assert_eq!(rig.machine.messages.len(), 2);
}

#[test]
fn a_record_that_faults_is_a_software_error_and_raises_nothing() {
    let mut rig = Rig::enabled(Version::V1_0);
    let at = rig.device.layout().permissions + 8;
    rig.write(at, MsixPermission::default().with_pasid_enable(true).with_pasid(PASID).0[0]);
    let noop = told(op::NOOP).with_flags(TOLD | flag::INTERRUPT).with_handle(1);
    assert!(rig.post(0, noop.with_completion(0x5000)));
    rig.device.run(&mut rig.machine);
    let error = rig.error();
    assert_eq!(
        (error.error(), error.write(), error.address()),
        (status::RECORD_PAGE_FAULT, true, 0x5000)
    );
    assert!(rig.machine.messages.is_empty());
}

#[test]
fn portals_take_what_their_queue_does() {
    let mut rig = Rig::enabled(Version::V1_0);
    let noop = told(op::NOOP).with_completion(RECORD).with_pasid(PASID);
    let at = |queue, limited| Portal { queue, ims: false, limited };
    assert!(!rig.submit(at(0, false), Submission::Deferrable, noop));
    assert!(!rig.submit(at(2, false), Submission::Posted, noop));
    assert!(!rig.submit(at(4, false), Submission::Posted, noop));
    assert!(!rig.submit(at(200, false), Submission::Deferrable, noop));
    assert!(!rig.device.submit(0x20, &bytes(noop), Submission::Posted, &mut rig.machine));
    assert!(rig.device.submit(0xfc0, &bytes(noop), Submission::Posted, &mut rig.machine));
    // A shared queue is limited by its threshold, then by its size; nobody is told more than that.
    let accepted = |rig: &mut Rig, limited: bool| {
        (0..20).filter(|_| rig.submit(at(2, limited), Submission::Deferrable, noop)).count()
    };
    assert_eq!(accepted(&mut rig, true), 4);
    assert_eq!(accepted(&mut rig, false), 4);
    assert!(!rig.error().valid());
    // A dedicated one is not limited, and when it is full that is an error.
    assert_eq!((0..8).filter(|_| rig.submit(at(0, true), Submission::Posted, noop)).count(), 7);
    assert_eq!((rig.error().error(), rig.error().queue_valid()), (software::QUEUE_FULL, true));
    let word = rig.read(rig.queue_offset(0) + 24);
    assert_eq!(QueueConfiguration([0, 0, 0, word, 0, 0, 0, 0]).occupancy(), 8);
    rig.device.run(&mut rig.machine);
    assert_eq!(rig.record(Some(PASID), RECORD).status(), status::SUCCESS);
    assert_eq!(accepted(&mut rig, true), 4);
}

#[test]
fn a_shared_queues_descriptors_are_their_submitters() {
    let mut rig = Rig::enabled(Version::V1_0);
    let shared = Portal { queue: 2, ims: false, limited: true };
    let noop = told(op::NOOP).with_completion(RECORD);
    for pasid in [PASID, OTHER] {
        assert!(rig.submit(shared, Submission::Deferrable, noop.with_pasid(pasid)));
        rig.device.run(&mut rig.machine);
        assert_eq!(rig.record(Some(pasid), RECORD).status(), status::SUCCESS);
    }
    // Privilege cannot be told.
    let privileged = noop.with_pasid(PASID).with_privileged(true);
    assert!(rig.submit(shared, Submission::Deferrable, privileged));
    rig.device.run(&mut rig.machine);
    assert_eq!((rig.error().error(), rig.error().privileged()), (status::PRIVILEGE, true));
}
