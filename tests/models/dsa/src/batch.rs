//! Batches (3.8, 8.3.2): their members are carried out in their order, one after the other.

use device_spec::dsa::completion::{CompletionRecord, operand, status};
use device_spec::dsa::descriptor::{BYTES, Descriptor, flag};

use crate::check::{Work, ended};
use crate::memory::{Memory, Refusal};
use crate::queue::Submitted;
use crate::{Bus, Device};

impl Device {
    /// Carries out a batch. Its owner, and its portal's kind, are its members'.
    pub(crate) fn batch(&mut self, work: &Work, bus: &mut impl Bus) -> CompletionRecord {
        let batch = work.descriptor();
        (self.log.batch, self.log.batch_logged) = (self.log.batch.wrapping_add(1), false);
        let mut failed = work.has(flag::BATCH_ERROR);
        let mut done = 0;
        let mut refused = None;
        while done < batch.size() {
            let at = batch.source().wrapping_add(u64::from(done) * BYTES);
            let mut bytes = [0; BYTES as usize];
            if let Err(refusal) = Memory::of(self, work, bus).read(at, &mut bytes, operand::SOURCE)
            {
                refused = Some(refusal);
                break;
            }
            let submitted = Submitted { descriptor: descriptor(&bytes), ..work.submitted };
            let member = Work { submitted, member: Some(done as u16), ..*work };
            if member.has(flag::FENCE) && failed {
                break;
            }
            failed |= self.work(&member, bus) != status::SUCCESS;
            done += 1;
        }
        let second = self.config.second();
        let record = match refused {
            Some(refusal) if refusal.status == status::PAGE_FAULT => {
                Refusal { status: status::BATCH_PAGE_FAULT, ..refusal }.record(done, second)
            }
            Some(refusal) => refusal.record(done, second),
            None if failed => ended(status::BATCH_FAILED),
            None => ended(status::SUCCESS),
        };
        record.with_bytes(done).with_result((failed && second).into())
    }
}

/// A descriptor of its bytes.
pub(crate) fn descriptor(bytes: &[u8; BYTES as usize]) -> Descriptor {
    let (words, _) = bytes.as_chunks();
    Descriptor(std::array::from_fn(|at| u64::from_le_bytes(words[at])))
}
