//! What descriptors do.

use super::*;

#[test]
fn copies_go_from_the_owners_memory_to_the_owners() {
    let mut rig = Rig::enabled(Version::V1_0);
    let data = pattern(0x2345);
    rig.put(Some(PASID), MEMORY + 0x1001, &data);
    let record = rig.run(0, copy(MEMORY + 0x1001, MEMORY + 0x4123, 0x2345));
    assert_eq!((record.status(), record.bytes(), record.result()), (status::SUCCESS, 0, 0));
    assert_eq!(rig.peek(Some(PASID), MEMORY + 0x4123, 0x2345), data);
    assert!(rig.peek(Some(OTHER), MEMORY, 0x7000).iter().all(|byte| *byte == 0));
    assert!(rig.peek(None, MEMORY, 0x7000).iter().all(|byte| *byte == 0));
}

#[test]
fn overlapping_copies_are_as_if_the_source_was_read_first() {
    let data = pattern(0x1800);
    for (source, destination) in [(0x1000, 0x1234), (0x1234, 0x1000), (0x1000, 0x1000)] {
        let mut rig = Rig::enabled(Version::V1_0);
        rig.put(Some(PASID), MEMORY + source, &data);
        let record = rig.run(0, copy(MEMORY + source, MEMORY + destination, 0x1800));
        assert_eq!((record.status(), record.result()), (status::SUCCESS, 0));
        assert_eq!(rig.peek(Some(PASID), MEMORY + destination, 0x1800), data);
    }
    let config = Config { overlapping_copy: false, ..Config::of(Version::V1_0) };
    let mut rig = Rig::new(config);
    rig.configure();
    rig.command(code::ENABLE_DEVICE, 0);
    rig.command(code::ENABLE_QUEUE, 0);
    let record = rig.run(0, copy(MEMORY + 0x1000, MEMORY + 0x1fff, 0x1000));
    assert_eq!(record.status(), status::OVERLAP);
    let record = rig.run(0, copy(MEMORY + 0x1000, MEMORY + 0x2000, 0x1000));
    assert_eq!(record.status(), status::SUCCESS);
}

#[test]
fn a_page_fault_completes_a_part_and_tells_where() {
    for (version, operand) in [(Version::V1_0, 0), (Version::V2_0, operand::DESTINATION)] {
        let mut rig = Rig::enabled(version);
        let end = MEMORY + PAGES * PAGE_SIZE;
        let record = rig.run(0, copy(MEMORY + 0x1000, end - 0x1800, 0x3000));
        assert_eq!(record.status(), status::PAGE_FAULT);
        assert_eq!((record.bytes(), record.fault_address()), (0x1800, end));
        assert_eq!((record.write(), record.operand()), (true, operand));
        // Reading, and before anything was done.
        let record = rig.run(0, copy(0x5123, MEMORY, 0x10));
        assert_eq!((record.status(), record.write()), (status::PAGE_FAULT, false));
        assert_eq!((record.bytes(), record.fault_address()), (0, 0x5123));
    }
}

#[test]
fn a_copy_that_goes_backwards_tells_so_when_it_faults() {
    let mut rig = Rig::enabled(Version::V1_0);
    rig.machine.read_only.insert((Some(PASID), MEMORY + 0x2000));
    let record = rig.run(0, copy(MEMORY + 0x1800, MEMORY + 0x2800, 0x1800));
    // The last page of the destination is done, the page before is refused.
    assert_eq!((record.status(), record.result(), record.bytes()), (status::PAGE_FAULT, 1, 0x1000));
}

#[test]
fn without_ats_reads_fail_and_writes_are_lost() {
    let mut rig = Rig::enabled(Version::V1_0);
    rig.command(code::DISABLE_DEVICE, 0);
    rig.device.set_function(Function { ats: false, ..ALL }, &mut rig.machine);
    rig.command(code::ENABLE_DEVICE, 0);
    rig.command(code::ENABLE_QUEUE, 0);
    assert_eq!(rig.run(0, copy(0x5000, MEMORY, 0x10)).status(), status::HARDWARE);
    let lost = copy(MEMORY, 0x5000, 0x10);
    assert_eq!(rig.run(0, lost).status(), status::SUCCESS);
    let read_back = lost.with_flags(TOLD | flag::DESTINATION_READBACK);
    assert_eq!(rig.run(0, read_back).status(), status::HARDWARE_WRITE);
}

#[test]
fn fills_repeat_their_pattern_across_pages() {
    let mut rig = Rig::enabled(Version::V2_0);
    let fill = told(op::FILL).with_pattern(0x0807_0605_0403_0201).with_destination(MEMORY + 0x1ffd);
    assert_eq!(rig.run(0, fill.with_size(11)).status(), status::SUCCESS);
    assert_eq!(rig.peek(Some(PASID), MEMORY + 0x1ffc, 13), [0, 1, 2, 3, 4, 5, 6, 7, 8, 1, 2, 3, 0]);
    let wide = fill.with_pattern_high(0x100f_0e0d_0c0b_0a09).with_flags(TOLD | flag::FILL16);
    assert_eq!(rig.run(0, wide.with_size(19)).status(), status::SUCCESS);
    let expected = (1..=16).chain(1..=3).collect::<Vec<u8>>();
    assert_eq!(rig.peek(Some(PASID), MEMORY + 0x1ffd, 19), expected);
    // 1.0 has no such flag, and the upper half is reserved without it.
    let mut rig = Rig::enabled(Version::V1_0);
    let record = rig.run(0, wide.with_size(16));
    assert_eq!((record.status(), record.invalid_flags()), (status::INVALID_FLAGS, flag::FILL16));
    let record = rig.run(0, wide.with_flags(TOLD).with_size(16));
    assert_eq!(record.status(), status::RESERVED);
}

#[test]
fn comparing_finds_the_first_difference() {
    let mut rig = Rig::enabled(Version::V1_0);
    let data = pattern(0x1800);
    rig.put(Some(PASID), MEMORY + 0x1000, &data);
    rig.put(Some(PASID), MEMORY + 0x3010, &data);
    let compare = told(op::COMPARE).with_source(MEMORY + 0x1000).with_destination(MEMORY + 0x3010);
    let compare = compare.with_size(0x1800);
    let record = rig.run(0, compare);
    assert_eq!((record.status(), record.result(), record.bytes()), (status::SUCCESS, 0, 0));
    rig.put(Some(PASID), MEMORY + 0x3010 + 0x1234, &[!data[0x1234]]);
    let record = rig.run(0, compare);
    assert_eq!((record.status(), record.result(), record.bytes()), (status::SUCCESS, 1, 0x1234));
    let checked = compare.with_flags(TOLD | flag::CHECK_RESULT);
    assert_eq!(rig.run(0, checked).status(), status::FALSE_PREDICATE);
    assert_eq!(rig.run(0, checked.with_expected(1)).status(), status::SUCCESS);
    // A difference before the fault is told rather than the fault.
    let beyond = compare.with_destination(MEMORY + 0x7000).with_size(0x1800);
    assert_eq!(rig.run(0, beyond).status(), status::SUCCESS);
}

#[test]
fn patterns_are_compared_in_their_place() {
    let mut rig = Rig::enabled(Version::V1_0);
    let compare = told(op::COMPARE_PATTERN).with_source(MEMORY + 0x1ffd).with_size(20);
    let compare = compare.with_compared(0x0807_0605_0403_0201);
    let data = (1..=8).cycle().take(20).collect::<Vec<u8>>();
    rig.put(Some(PASID), MEMORY + 0x1ffd, &data);
    assert_eq!(rig.run(0, compare).result(), 0);
    rig.put(Some(PASID), MEMORY + 0x1ffd + 17, &[9]);
    let record = rig.run(0, compare);
    assert_eq!((record.result(), record.bytes()), (1, 17));
}

#[test]
fn dualcasts_go_to_both() {
    let mut rig = Rig::enabled(Version::V1_0);
    let data = pattern(0x1234);
    rig.put(Some(PASID), MEMORY + 0x1001, &data);
    let both = copy(MEMORY + 0x1001, MEMORY + 0x3123, 0x1234).with_operation(op::DUALCAST);
    let record = rig.run(0, both.with_second_destination(MEMORY + 0x5123));
    assert_eq!(record.status(), status::SUCCESS);
    assert_eq!(rig.peek(Some(PASID), MEMORY + 0x3123, 0x1234), data);
    assert_eq!(rig.peek(Some(PASID), MEMORY + 0x5123, 0x1234), data);
    let record = rig.run(0, both.with_second_destination(MEMORY + 0x5124));
    assert_eq!(record.status(), status::DUALCAST);
    let record = rig.run(0, both.with_second_destination(MEMORY + 0x2123));
    assert_eq!(record.status(), status::OVERLAP);
}

#[test]
fn crcs_are_those_of_iscsi() {
    let mut rig = Rig::enabled(Version::V1_0);
    // RFC 3720, B.4: 32 bytes of zeros, of ones, and ascending.
    for (data, crc) in [
        ([0; 32], 0x8a91_36aa),
        ([0xff; 32], 0x62a8_ab43),
        (std::array::from_fn(|at| at as u8), 0x46dd_794e),
    ] {
        rig.put(Some(PASID), MEMORY + 0x1ff0, &data);
        let descriptor = told(op::CRC).with_source(MEMORY + 0x1ff0).with_size(32);
        assert_eq!(rig.run(0, descriptor).crc(), crc);
        // In two parts, the second with the first's value from its record.
        let first = rig.run(0, descriptor.with_size(16)).crc();
        let second = descriptor.with_source(MEMORY + 0x2000).with_size(16);
        assert_eq!(rig.run(0, second.with_seed(first)).crc(), crc);
        rig.put(Some(PASID), MEMORY + 0x100, &(first as u32).to_le_bytes());
        let read = second.with_flags(TOLD | flag::READ_SEED).with_seed_address(MEMORY + 0x100);
        assert_eq!(rig.run(0, read).crc(), crc);
        assert_eq!(rig.run(0, read.with_seed_address(MEMORY + 0x102)).status(), status::ALIGNMENT);
        let copy = descriptor.with_operation(op::COPY_CRC).with_destination(MEMORY + 0x3ff8);
        assert_eq!(rig.run(0, copy).crc(), crc);
        assert_eq!(rig.peek(Some(PASID), MEMORY + 0x3ff8, 32), data);
    }
}

#[test]
fn crcs_are_of_whole_words() {
    let mut rig = Rig::enabled(Version::V1_0);
    rig.put(Some(PASID), MEMORY + 0x1000, &[1, 2, 3, 4, 5]);
    let crc = told(op::CRC).with_source(MEMORY + 0x1000);
    let [five, eight] = [5, 8].map(|bytes| rig.run(0, crc.with_size(bytes)).crc());
    assert_eq!(five, eight);
    assert_ne!(rig.run(0, crc.with_size(4)).crc(), eight);
}

#[test]
fn batches_do_all_and_tell_how_many() {
    let mut rig = Rig::enabled(Version::V2_0);
    let data = pattern(64);
    rig.put(Some(PASID), MEMORY + 0x1000, &data);
    let member =
        |to: u64, record: u64| copy(MEMORY + 0x1000, to, 64).with_completion(MEMORY + record);
    let first = member(MEMORY + 0x2000, 0);
    let bad = member(0x5000, 0x20);
    let fenced = member(MEMORY + 0x2100, 0x40).with_flags(TOLD | flag::FENCE);
    let record = rig.batch(&[first, fenced]);
    assert_eq!((record.status(), record.bytes(), record.result()), (status::SUCCESS, 2, 0));
    assert_eq!(rig.peek(Some(PASID), MEMORY + 0x2000, 64), data);
    assert_eq!(rig.peek(Some(PASID), MEMORY + 0x2100, 64), data);
    rig.put(Some(PASID), MEMORY, &[0; 0x80]);
    let record = rig.batch(&[first, bad, fenced, first]);
    assert_eq!((record.status(), record.bytes(), record.result()), (status::BATCH_FAILED, 2, 1));
    assert_eq!(rig.record(Some(PASID), MEMORY).status(), status::SUCCESS);
    assert_eq!(rig.record(Some(PASID), MEMORY + 0x20).status(), status::PAGE_FAULT);
    assert_eq!(rig.record(Some(PASID), MEMORY + 0x40).status(), 0);
}

#[test]
fn batches_are_checked() {
    let mut rig = Rig::enabled(Version::V2_0);
    let batch = told(op::BATCH).with_source(LIST);
    for count in [0, 1, 9, u32::MAX] {
        assert_eq!(rig.run(0, batch.with_size(count)).status(), status::DESCRIPTOR_COUNT);
    }
    let misaligned = batch.with_source(LIST + 32).with_size(2);
    assert_eq!(rig.run(0, misaligned).status(), status::LIST_ALIGNMENT);
    // What a batch may not have in it, which is told in the record of each.
    for operation in [op::BATCH, op::DRAIN] {
        let member = told(operation).with_completion(MEMORY + 0x40).with_source(LIST).with_size(2);
        let noop = told(op::NOOP).with_completion(MEMORY + 0x60);
        assert_eq!(rig.batch(&[member, noop]).status(), status::BATCH_FAILED);
        assert_eq!(rig.record(Some(PASID), MEMORY + 0x40).status(), status::OPERATION);
    }
    // The list ends at the end of memory.
    let end = MEMORY + PAGES * PAGE_SIZE - 64;
    rig.put(Some(PASID), end, &[0; 64]);
    let record = rig.run(0, batch.with_source(end).with_size(2));
    assert_eq!((record.status(), record.bytes()), (status::BATCH_PAGE_FAULT, 1));
    assert_eq!((record.fault_address(), record.operand()), (end + 64, operand::SOURCE));
}

#[test]
fn a_batchs_members_have_its_owner_whatever_they_say() {
    let mut rig = Rig::enabled(Version::V1_0);
    rig.put(Some(OTHER), MEMORY + 0x1000, &[0x55; 64]);
    let member = copy(MEMORY + 0x1000, MEMORY + 0x2000, 64).with_completion(MEMORY + 0x40);
    let member = member.with_pasid(OTHER).with_privileged(true);
    let record = rig.batch(&[member, member]);
    assert_eq!(record.status(), status::SUCCESS);
    assert_eq!(rig.peek(Some(PASID), MEMORY + 0x2000, 64), [0; 64]);
    assert_eq!(rig.peek(Some(OTHER), MEMORY + 0x2000, 64), [0; 64]);
}
