//! What is checked before a descriptor is carried out (5.4, 5.5).

use device_spec::dsa::completion::{self, CompletionRecord, status};
use device_spec::dsa::descriptor::{Descriptor, flag, operation as op};

use crate::Device;
use crate::queue::Submitted;
use crate::registers::OPERATIONS;

/// A descriptor that is worked on.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Work {
    /// Its queue.
    pub(crate) queue: usize,
    /// The descriptor, and whose it is: of a batch's members, the batch's.
    pub(crate) submitted: Submitted,
    /// Its index in its batch.
    pub(crate) member: Option<u16>,
}

impl Work {
    pub(crate) fn descriptor(&self) -> Descriptor {
        self.submitted.descriptor
    }

    pub(crate) fn has(&self, flag: u32) -> bool {
        self.descriptor().flags() & flag != 0
    }
}

pub(crate) fn ended(status: u8) -> CompletionRecord {
    CompletionRecord::default().with_status(status)
}

fn check(right: bool, status: u8) -> Result<(), CompletionRecord> {
    if right { Ok(()) } else { Err(ended(status)) }
}

fn overlap(first: u64, second: u64, bytes: u32) -> bool {
    first.abs_diff(second) < bytes.into()
}

/// What an operation takes (tables 5-3 to 5-5): flags, flags of which it needs all, and the bytes from the 16th on that are
/// not reserved, a bit for each.
struct Takes {
    flags: u32,
    needs: u32,
    bytes: u64,
}

const PLACEMENT: u32 = flag::CACHE_CONTROL | flag::DESTINATION_READBACK | flag::STRICT_ORDERING;
const ANSWER: u32 = flag::RECORD_VALID | flag::RECORD;
const FIRST: u32 = flag::ADDRESS1_TC;
const SECOND: u32 = flag::ADDRESS2_TC;

/// Bits for the bytes of a descriptor from `first` to `last`, as [`Takes::bytes`] has them.
const fn bytes(first: u32, last: u32) -> u64 {
    u64::MAX >> (63 - (last - first)) << (first - 16)
}

/// Size and handle.
const SIZE: u64 = bytes(32, 37);
const HANDLE: u64 = bytes(36, 37);
const SOURCE: u64 = bytes(16, 23);
const DESTINATION: u64 = bytes(24, 31);

fn takes(descriptor: Descriptor, second: bool) -> Takes {
    let later = |flag: u32| if second { flag } else { 0 };
    let has = |flag: u32| descriptor.flags() & flag != 0;
    let crc = flag::READ_SEED | flag::CRC_RAW | flag::CRC_UNREFLECTED;
    // The seed's address, and its traffic class, or the seed.
    let (seed, seed_tc) =
        if has(flag::READ_SEED) { (bytes(48, 55), flag::ADDRESS3_TC) } else { (bytes(40, 43), 0) };
    let (flags, needs, bytes) = match descriptor.operation() {
        op::BATCH => (FIRST | later(flag::BATCH_ERROR), 0, SOURCE | SIZE),
        op::DRAIN => (later(flag::DRAIN_NO_TC_A | flag::DRAIN_NO_TC_B), 0, HANDLE),
        op::MEMORY_MOVE => (PLACEMENT | FIRST | SECOND, 0, SOURCE | DESTINATION | SIZE),
        op::FILL => {
            let upper = if second && has(flag::FILL16) { bytes(40, 47) } else { 0 };
            (PLACEMENT | SECOND | later(flag::FILL16), 0, SOURCE | DESTINATION | SIZE | upper)
        }
        op::COMPARE => {
            let flags = flag::CHECK_RESULT | FIRST | SECOND;
            (flags, ANSWER, SOURCE | DESTINATION | SIZE | bytes(40, 40))
        }
        op::COMPARE_PATTERN => {
            (flag::CHECK_RESULT | FIRST, ANSWER, SOURCE | DESTINATION | SIZE | bytes(40, 40))
        }
        op::DUALCAST => {
            let flags = PLACEMENT | FIRST | SECOND | flag::ADDRESS3_TC;
            (flags, 0, SOURCE | DESTINATION | SIZE | bytes(40, 47))
        }
        op::CRC => (FIRST | crc | seed_tc, ANSWER, SOURCE | SIZE | seed),
        op::COPY_CRC => {
            let flags = PLACEMENT | FIRST | SECOND | crc | seed_tc;
            (flags, ANSWER, SOURCE | DESTINATION | SIZE | seed)
        }
        _ => (0, 0, HANDLE),
    };
    Takes { flags, needs, bytes }
}

impl Device {
    /// Checks all of a descriptor but its interrupt's entry.
    pub(crate) fn check(&self, work: &Work) -> Result<(), CompletionRecord> {
        let descriptor = work.descriptor();
        let queue = self.queues[work.queue].config;
        let operation = descriptor.operation();
        let aligned = descriptor.completion().is_multiple_of(completion::BYTES);
        check(aligned || !work.has(flag::RECORD_VALID), status::RECORD_ALIGNMENT)?;
        let allowed = if self.config.second() { queue.operations() } else { OPERATIONS };
        let nested = matches!(operation, op::BATCH | op::DRAIN) && work.member.is_some();
        check(operation < 64 && allowed >> operation & 1 != 0 && !nested, status::OPERATION)?;
        self.check_flags(work)?;
        self.check_reserved(work)?;
        let told = self.function.privileged || queue.dedicated() || !work.submitted.privileged;
        check(told, status::PRIVILEGE)?;
        self.check_buffers(descriptor, queue.max_transfer(), queue.max_batch())
    }

    fn check_flags(&self, work: &Work) -> Result<(), CompletionRecord> {
        let takes = takes(work.descriptor(), self.config.second());
        let user = work.submitted.pasid.is_some() && !work.submitted.privileged;
        let mut allowed = takes.flags | flag::RECORD_VALID;
        for (condition, flags) in [
            (work.member.is_some(), flag::FENCE),
            (work.has(flag::RECORD_VALID), flag::RECORD | flag::RECORD_TC),
            (self.general.user_interrupts() || !user, flag::INTERRUPT),
        ] {
            allowed |= if condition { flags } else { 0 };
        }
        let flags = work.descriptor().flags();
        let silent = work.descriptor().operation() == op::DRAIN
            && flags & (flag::RECORD | flag::INTERRUPT) == 0;
        let missing = takes.needs & !flags | if silent { flag::RECORD } else { 0 };
        let invalid = flags & !allowed | missing;
        match invalid {
            0 => Ok(()),
            _ => Err(ended(status::INVALID_FLAGS).with_invalid_flags(invalid)),
        }
    }

    fn check_reserved(&self, work: &Work) -> Result<(), CompletionRecord> {
        let descriptor = work.descriptor();
        let mut used = takes(descriptor, self.config.second()).bytes;
        if !work.has(flag::INTERRUPT) {
            used &= !HANDLE;
        }
        let tail = descriptor.0[2..].iter().flat_map(|word| word.to_le_bytes());
        let tail = tail.enumerate().all(|(at, byte)| byte == 0 || used >> at & 1 != 0);
        // Who submitted it is ignored in dedicated queues and in batches.
        let shared = !self.queues[work.queue].config.dedicated() && work.member.is_none();
        let head = !shared || descriptor.0[0] >> 20 & 0x7ff == 0;
        let record = work.has(flag::RECORD_VALID) || descriptor.completion() == 0;
        check(tail && head && record, status::RESERVED)
    }

    fn check_buffers(
        &self,
        descriptor: Descriptor,
        max_transfer: u8,
        max_batch: u8,
    ) -> Result<(), CompletionRecord> {
        let (size, source) = (descriptor.size(), descriptor.source());
        let (first, second) = (descriptor.destination(), descriptor.second_destination());
        let operation = descriptor.operation();
        match operation {
            op::NOOP | op::DRAIN => return Ok(()),
            op::BATCH => {
                check((2..=1 << max_batch).contains(&size), status::DESCRIPTOR_COUNT)?;
                return check(source.is_multiple_of(64), status::LIST_ALIGNMENT);
            }
            _ => {}
        }
        check(size != 0 && u64::from(size) <= 1 << u64::from(max_transfer), status::TRANSFER_SIZE)?;
        let overlaps = match operation {
            op::MEMORY_MOVE => !self.config.overlapping_copy && overlap(source, first, size),
            op::COPY_CRC => overlap(source, first, size),
            op::DUALCAST => {
                check((first ^ second) & 0xfff == 0, status::DUALCAST)?;
                overlap(source, first, size)
                    || overlap(source, second, size)
                    || overlap(first, second, size)
            }
            _ => false,
        };
        check(!overlaps, status::OVERLAP)?;
        let seeded = matches!(operation, op::CRC | op::COPY_CRC)
            && descriptor.flags() & flag::READ_SEED != 0;
        check(!seeded || descriptor.seed_address().is_multiple_of(4), status::ALIGNMENT)
    }
}
