//! How descriptors end (3.6): by a completion record or a software error, then by an interrupt.

use device_spec::dsa::completion::{CompletionRecord, operand, status};
use device_spec::dsa::descriptor::{flag, operation as op};
use device_spec::dsa::registers::SoftwareError;

use crate::check::{Work, ended};
use crate::interrupt::Entry;
use crate::memory::Memory;
use crate::queue::Submitted;
use crate::{Bus, Device};

/// What is no failure.
const DONE: [u8; 3] = [status::SUCCESS, status::FALSE_PREDICATE, status::BATCH_FAILED];
/// What no completion record tells.
const UNTOLD: [u8; 3] = [status::RECORD_PAGE_FAULT, status::RECORD_ALIGNMENT, status::PRIVILEGE];

impl Device {
    /// Carries out a descriptor that was submitted.
    pub(crate) fn execute(&mut self, queue: usize, submitted: Submitted, bus: &mut impl Bus) {
        self.work(&Work { queue, submitted, member: None }, bus);
    }

    /// Carries out a descriptor; gives its status, or that of a record that could not be written.
    pub(crate) fn work(&mut self, work: &Work, bus: &mut impl Bus) -> u8 {
        let handle = Entry { ims: work.submitted.ims, index: work.descriptor().handle() };
        let asks = work.has(flag::INTERRUPT);
        let entry = self.interrupts.entry(handle, work.submitted.pasid).filter(|_| asks);
        let record = match self.check(work) {
            Err(record) => record,
            Ok(()) if asks && entry.is_none() => ended(status::INTERRUPT_HANDLE),
            Ok(()) if work.descriptor().operation() == op::BATCH => self.batch(work, bus),
            Ok(()) => self.perform(work, bus),
        };
        let told = self.tell(work, record, bus);
        // Of what else may be wrong, it is only the interrupt's own flag that keeps it back.
        let denied = record.status() == status::INVALID_FLAGS
            && record.invalid_flags() & flag::INTERRUPT != 0;
        if let Some(entry) = entry.filter(|_| told && !denied) {
            self.interrupts.complete(entry, self.function, bus);
        }
        if told { record.status() } else { status::RECORD_PAGE_FAULT }
    }

    /// Tells how a descriptor ended. Whether its owner was told, or need not be.
    fn tell(&mut self, work: &Work, record: CompletionRecord, bus: &mut impl Bus) -> bool {
        let status = record.status();
        let done = DONE.contains(&status);
        let error = self.error_of(work, record);
        if UNTOLD.contains(&status) {
            self.report(error, bus);
            return false;
        }
        let asks = work.has(flag::RECORD).then_some(record);
        let operation = work.descriptor().operation();
        let logged = self.logged_end(operation == op::DRAIN, operation == op::BATCH);
        if let (true, Some(logged)) = (done, logged) {
            self.log_end(work, error.with_error(logged), asks, bus);
            return false;
        }
        if !work.has(flag::RECORD_VALID) {
            if !done {
                self.report(error, bus);
            }
            return true;
        }
        if done && asks.is_none() {
            return true;
        }
        let bytes = record.0.map(u64::to_le_bytes);
        let to = work.descriptor().completion();
        let written = Memory::of(self, work, bus).write(to, bytes.as_flattened(), operand::RECORD);
        if let Err(refusal) = written {
            let fault =
                refusal.record(0, self.config.second()).with_status(status::RECORD_PAGE_FAULT);
            let error = self.error_of(work, fault);
            if self.general.event_log() {
                self.log_end(work, error, Some(record), bus);
            } else {
                self.software_error(error, bus);
            }
            return false;
        }
        if status == status::INTERRUPT_HANDLE {
            self.report(error, bus);
        }
        true
    }

    /// The software error that a descriptor is to blame for.
    fn error_of(&self, work: &Work, record: CompletionRecord) -> SoftwareError {
        let descriptor = work.descriptor();
        let second = self.config.second();
        let info = match record.status() {
            status::INVALID_FLAGS => record.invalid_flags(),
            // The handle, and that software is to see to the interrupt.
            status::INTERRUPT_HANDLE if second => {
                1 << 16 | u32::from(work.submitted.ims) << 17 | u32::from(descriptor.handle())
            }
            status::PAGE_FAULT | status::BATCH_PAGE_FAULT => u32::from(record.operand()) << 29,
            _ => 0,
        };
        SoftwareError::default()
            .with_descriptor_valid(true)
            .with_queue_valid(true)
            .with_batch(work.member.is_some())
            .with_write(record.write())
            .with_privileged(work.submitted.privileged)
            .with_info_valid(second && info != 0)
            .with_error(record.status())
            .with_queue(work.queue as u8)
            .with_operation(descriptor.operation())
            .with_pasid(work.submitted.pasid.unwrap_or(0))
            .with_batch_index(work.member.unwrap_or(0))
            .with_info(info)
            .with_address(record.fault_address())
    }
}
