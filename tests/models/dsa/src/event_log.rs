//! The event log of version 2.0 (5.9): where software errors go if it is enabled, and completion records that fault.

use device_spec::dsa::command::error;
use device_spec::dsa::completion::{CompletionRecord, status};
use device_spec::dsa::descriptor::flag;
use device_spec::dsa::registers::{
    self as regs, EVENT_LOG_LEAST, EventLogConfiguration, EventLogEntry, EventLogStatus,
    SoftwareError, cause, error as software,
};
use hw::{Iova, PAGE_SIZE, Pasid};

use crate::check::Work;
use crate::{Bus, Device, Function};

/// Bytes of an entry.
const BYTES: u64 = size_of::<EventLogEntry>() as u64;

#[derive(Clone, Debug, Default)]
pub(crate) struct EventLog {
    pub(crate) config: EventLogConfiguration,
    pub(crate) status: EventLogStatus,
    /// The batch that is worked on, or was last.
    pub(crate) batch: u8,
    /// Records of its members are in the log.
    pub(crate) batch_logged: bool,
}

impl EventLog {
    /// As after a software reset: all but its status.
    pub(crate) fn reset(&mut self) {
        *self = Self { status: self.status, ..Self::default() };
    }

    /// Checks it when the device is enabled (5.1), and empties it.
    pub(crate) fn start(&mut self, function: Function) -> Result<(), u8> {
        let config = self.config;
        let end =
            u128::from(config.page() * PAGE_SIZE) + u128::from(u64::from(config.size()) * BYTES);
        if config.size() < EVENT_LOG_LEAST || end > 1 << 64 {
            return Err(error::EVENT_LOG);
        }
        let told = !config.privileged() || config.pasid_enable() && function.privileged;
        if config.pasid_enable() && !function.pasid || !told {
            return Err(error::EVENT_LOG_PASID);
        }
        self.status = EventLogStatus::default();
        Ok(())
    }

    /// Writes a word of its registers: `value` whole, of which `bits` are written as ones.
    pub(crate) fn set_word(&mut self, offset: u64, value: u64, bits: u64, disabled: bool) {
        const CONFIG: u64 = regs::EVLCFG.offset();
        const STATUS: u64 = regs::EVLSTATUS.offset();
        let none = EventLogConfiguration::default();
        match offset {
            CONFIG if disabled => {
                let written = EventLogConfiguration([value, 0]);
                let flags = none.with_pasid_enable(written.pasid_enable());
                self.config.0[0] =
                    flags.with_privileged(written.privileged()).with_page(written.page()).0[0];
            }
            _ if offset == CONFIG + 8 && disabled => {
                let written = EventLogConfiguration([0, value]);
                self.config.0[1] = none.with_size(written.size()).with_pasid(written.pasid()).0[1];
            }
            STATUS => {
                let taken = EventLogStatus([bits]).pending();
                let pending = self.status.pending() && !taken;
                let head = EventLogStatus([value]).head();
                self.status = self.status.with_head(head).with_pending(pending);
            }
            _ => {}
        }
    }
}

impl Device {
    /// Tells of a software error, in the log or in the register.
    pub(crate) fn report(&mut self, error: SoftwareError, bus: &mut impl Bus) {
        if self.general.event_log() {
            self.append(entry(error), bus);
        } else {
            self.software_error(error, bus);
        }
    }

    /// Logs a descriptor's end, with the record that software is to write where the descriptor says, and its interrupt.
    pub(crate) fn log_end(
        &mut self,
        work: &Work,
        error: SoftwareError,
        record: Option<CompletionRecord>,
        bus: &mut impl Bus,
    ) {
        let first = work.member.is_some() && !self.log.batch_logged;
        let asks = work.has(flag::INTERRUPT);
        let descriptor = work.descriptor();
        let mut entry = entry(error.with_info_valid(true))
            .with_interrupt_required(asks)
            .with_handle(if asks { descriptor.handle() } else { 0 })
            .with_ims(work.submitted.ims)
            .with_first_in_batch(first)
            .with_batch_id(self.log.batch)
            .with_address(descriptor.completion());
        if let Some(record) = record {
            entry = entry.with_record_required(true);
            entry.0[4..].copy_from_slice(&record.0);
        }
        self.log.batch_logged |= work.member.is_some();
        self.append(entry, bus);
    }

    fn append(&mut self, entry: EventLogEntry, bus: &mut impl Bus) {
        let EventLog { config, status, .. } = self.log;
        let next = (status.tail() + 1) % config.size().max(1);
        let at = (config.page() * PAGE_SIZE).wrapping_add(u64::from(status.tail()) * BYTES);
        let pasid = Pasid::try_new(config.pasid()).filter(|_| config.pasid_enable());
        let bytes = entry.0.map(u64::to_le_bytes);
        if next == status.head() || bus.write(pasid, Iova::new(at), bytes.as_flattened()).is_err() {
            let lost = SoftwareError::default().with_error(software::EVENT_LOG);
            return self.software_error(lost, bus);
        }
        self.log.status = status.with_tail(next);
        if self.control.event_log() && !status.pending() {
            self.log.status = self.log.status.with_pending(true);
            self.interrupt(cause::EVENT_LOG, bus);
        }
    }

    /// Whether a descriptor that ended well is told of in the log rather than in its record (5.9): a Drain always, as there
    /// are no page requests; a batch if records of its members were.
    pub(crate) fn logged_end(&self, drain: bool, batch: bool) -> Option<u8> {
        match self.general.event_log() {
            true if drain => Some(status::DRAIN_LOGGED),
            true if batch && self.log.batch_logged => Some(status::BATCH_LOGGED),
            _ => None,
        }
    }
}

/// An entry of an error; the register's own two bits are not in it.
fn entry(error: SoftwareError) -> EventLogEntry {
    let [first, second, third, _] = error.with_valid(false).with_overflow(false).0;
    EventLogEntry([first, second, third, 0, 0, 0, 0, 0])
}
