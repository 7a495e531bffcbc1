//! The event log.

use device_spec::dsa::registers::{EventLogConfiguration, EventLogEntry, EventLogStatus};

use super::*;

/// Where it is, in memory that no queue's PASID reaches.
const LOG: u64 = MEMORY + 0x2000;
const SIZE: u16 = 64;

impl Rig {
    /// [`Rig::enabled`] with the log.
    fn logging() -> Self {
        let mut rig = Self::new(Config::of(Version::V2_0));
        rig.configure();
        let log = EventLogConfiguration::default().with_page(LOG / PAGE_SIZE).with_size(SIZE);
        rig.write(regs::EVLCFG.offset(), log.0[0]);
        rig.write(regs::EVLCFG.offset() + 8, log.0[1]);
        rig.write(regs::GENCFG.offset(), 3 << 12);
        rig.write(regs::GENCTRL.offset(), 1 << 2);
        assert_eq!(rig.command(code::ENABLE_DEVICE, 0), error::NONE);
        [0, 1].into_iter().for_each(|queue| {
            assert_eq!(rig.command(code::ENABLE_QUEUE, queue), error::NONE);
        });
        rig
    }

    fn log(&self) -> EventLogStatus {
        EventLogStatus([self.read(regs::EVLSTATUS.offset())])
    }

    fn logged(&mut self, at: u64) -> (SoftwareError, EventLogEntry) {
        let bytes = self.peek(None, LOG + 64 * at, 64);
        let (words, _) = bytes.as_chunks();
        let words: [u64; 8] = std::array::from_fn(|at| u64::from_le_bytes(words[at]));
        (SoftwareError([words[0], words[1], words[2], 0]), EventLogEntry(words))
    }
}

#[test]
fn errors_go_to_the_log_and_interrupt_once() {
    let mut rig = Rig::logging();
    for queue in [0, 1] {
        let quiet = Descriptor::default().with_operation(op::MEMORY_MOVE).with_size(1);
        assert!(rig.post(queue, quiet.with_source(0x5000).with_destination(MEMORY)));
        rig.device.run(&mut rig.machine);
    }
    assert!(!rig.error().valid());
    assert_eq!((rig.log().tail(), rig.log().pending()), (2, true));
    assert_eq!(rig.read(regs::INTCAUSE.offset()), cause::EVENT_LOG.into());
    assert_eq!(rig.machine.messages, [(0xfee0_0000, 0x40)]);
    for (at, pasid) in [(0, PASID), (1, OTHER)] {
        let (error, entry) = rig.logged(at);
        assert_eq!(
            (error.error(), error.pasid(), error.queue()),
            (status::PAGE_FAULT, pasid, at as u8)
        );
        assert_eq!((entry.address(), entry.operand()), (0x5000, operand::SOURCE));
    }
    // Once software has seen to it, the next one interrupts again.
    rig.write(
        regs::EVLSTATUS.offset(),
        EventLogStatus::default().with_head(2).with_pending(true).0[0],
    );
    assert_eq!((rig.log().head(), rig.log().tail(), rig.log().pending()), (2, 2, false));
    rig.begin(code::DRAIN_ALL, 0);
    assert!(rig.post(1, told(op::NOOP).with_completion(RECORD + 8)));
    rig.device.run(&mut rig.machine);
    assert_eq!(
        (rig.logged(2).0.error(), rig.machine.messages.len()),
        (status::RECORD_ALIGNMENT, 2)
    );
}

#[test]
fn a_record_that_faults_is_in_the_log_whole() {
    let mut rig = Rig::logging();
    let at = rig.device.layout().ims + 16;
    rig.write(at + 8, ImsEntry::default().with_pasid_enable(true).with_pasid(PASID).0[1]);
    let noop = told(op::NOOP).with_flags(TOLD | flag::INTERRUPT).with_handle(1);
    let portal = Portal { queue: 0, ims: true, limited: false };
    assert!(rig.submit(portal, Submission::Posted, noop.with_completion(0x5020)));
    rig.device.run(&mut rig.machine);
    let (error, entry) = rig.logged(0);
    assert_eq!(
        (error.error(), error.write(), entry.address()),
        (status::RECORD_PAGE_FAULT, true, 0x5020)
    );
    assert!(entry.record_required() && entry.interrupt_required() && entry.ims());
    assert_eq!((entry.handle(), entry.0[4] as u8), (1, status::SUCCESS));
    // What is left to software: the log's interrupt came, and the descriptor's did not.
    assert_eq!(rig.machine.messages, [(0xfee0_0000, 0x40)]);
}

#[test]
fn drains_and_batches_tell_of_records_in_the_log() {
    let mut rig = Rig::logging();
    assert_eq!(rig.run(0, told(op::DRAIN)).status(), 0);
    let (error, entry) = rig.logged(0);
    assert_eq!((error.error(), entry.record_required()), (status::DRAIN_LOGGED, true));
    let lost = told(op::NOOP).with_completion(0x5000);
    let good = told(op::NOOP).with_completion(MEMORY);
    assert_eq!(rig.batch(&[good, good]).status(), status::SUCCESS);
    assert_eq!(rig.batch(&[good, lost, lost]).status(), 0);
    let entries = [1, 2, 3].map(|at| rig.logged(at));
    let codes = entries.map(|(error, _)| error.error());
    assert_eq!(codes, [status::RECORD_PAGE_FAULT, status::RECORD_PAGE_FAULT, status::BATCH_LOGGED]);
    assert_eq!(entries.map(|(error, _)| error.batch_index())[..2], [1, 2]);
    assert_eq!(entries.map(|(_, entry)| entry.first_in_batch()), [true, false, false]);
    assert!(entries.iter().all(|(_, entry)| entry.batch_id() == entries[0].1.batch_id()));
    assert_eq!(entries[2].1.0[4] as u8, status::BATCH_FAILED);
}

#[test]
fn a_log_that_is_full_is_a_software_error() {
    let mut rig = Rig::logging();
    for _ in 0..SIZE - 1 {
        assert!(rig.post(0, told(op::NOOP).with_completion(RECORD + 8)));
        rig.device.run(&mut rig.machine);
    }
    assert!(!rig.error().valid());
    assert!(rig.post(0, told(op::NOOP).with_completion(RECORD + 8)));
    rig.device.run(&mut rig.machine);
    assert_eq!((rig.error().error(), rig.log().tail()), (software::EVENT_LOG, SIZE - 1));
}

#[test]
fn the_log_is_checked_and_is_of_version_2() {
    let log = EventLogConfiguration::default().with_page(LOG / PAGE_SIZE).with_size(SIZE);
    for (log, expected) in [
        (log, error::NONE),
        (log.with_size(63), error::EVENT_LOG),
        (log.with_page(u64::MAX >> 12), error::NONE),
        (log.with_page(u64::MAX >> 12).with_size(65), error::EVENT_LOG),
        (log.with_pasid_enable(true), error::NONE),
        (log.with_privileged(true), error::EVENT_LOG_PASID),
    ] {
        let mut rig = Rig::new(Config::of(Version::V2_0));
        rig.configure();
        rig.write(regs::EVLCFG.offset(), log.0[0]);
        rig.write(regs::EVLCFG.offset() + 8, log.0[1]);
        rig.write(regs::GENCFG.offset(), 1 << 13);
        assert_eq!(rig.command(code::ENABLE_DEVICE, 0), expected, "{log:x?}");
    }
    let mut rig = Rig::new(Config::of(Version::V1_0));
    rig.write(regs::GENCFG.offset(), 1 << 13);
    rig.write(regs::EVLCFG.offset(), u64::MAX);
    assert_eq!((rig.read(regs::GENCFG.offset()), rig.read(regs::EVLCFG.offset())), (96, 0));
}
