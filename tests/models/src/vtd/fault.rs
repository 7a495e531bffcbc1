//! Fault records and the fault event (7.2, 7.3).

use hw::{Hpa, RequesterId};
use iommu_spec::fault::FaultRecord;
use iommu_spec::registers::{EVENT_MASK, EVENT_PENDING, FaultStatus};

use super::{Message, Unit};
use crate::memory::DeviceMemory;

impl<M: DeviceMemory> Unit<M> {
    pub(super) fn record(
        &mut self,
        rid: RequesterId,
        pasid: Option<u32>,
        address: u64,
        reason: u8,
        read: bool,
    ) {
        let record = FaultRecord::default()
            .with_f(true)
            .with_sid(rid.0)
            .with_fr(reason)
            .with_t1(read)
            .with_pp(pasid.is_some())
            .with_pv(pasid.unwrap_or_default())
            .with_fi(Hpa::new(address));
        let record = match record.is_interrupt() {
            true => record.with_fi(Hpa::ZERO).with_interrupt_index(address as u16),
            false => record,
        };
        if self.status.pfo() {
            return;
        }
        if self.records[self.next_record].f() {
            self.status = self.status.with_pfo(true);
            return;
        }
        let first = self.records.iter().all(|record| !record.f());
        self.records[self.next_record] = record;
        self.next_record = (self.next_record + 1) % self.records.len();
        if first {
            self.raise_fault_event();
        }
    }

    pub(super) fn fault_status(&self) -> FaultStatus {
        let oldest = (0..self.records.len())
            .map(|n| (self.next_record + n) % self.records.len())
            .find(|&n| self.records[n].f());
        self.status.with_ppf(oldest.is_some()).with_fri(oldest.unwrap_or_default() as u8)
    }

    pub(super) fn clear_status(&mut self, ones: FaultStatus) {
        let cleared = ones.0[0] & 0b111_0001;
        self.status = FaultStatus([self.status.0[0] & !cleared]);
    }

    pub(super) fn raise_fault_event(&mut self) {
        if self.fault_event[0] & EVENT_MASK != 0 {
            self.fault_event[0] |= EVENT_PENDING;
            return;
        }
        let [_, data, low, high] = self.fault_event;
        self.messages.push(Message { address: u64::from(high) << 32 | u64::from(low), data });
    }

    pub(super) fn store_fault_control(&mut self, value: u32) {
        let pending = self.fault_event[0] & EVENT_PENDING != 0;
        self.fault_event[0] = value & EVENT_MASK | self.fault_event[0] & EVENT_PENDING;
        if pending && value & EVENT_MASK == 0 {
            self.fault_event[0] = 0;
            self.raise_fault_event();
        }
    }
}
