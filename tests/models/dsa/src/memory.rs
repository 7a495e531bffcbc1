//! Memory as a descriptor's owner sees it, and what becomes of a request that is refused (3.13).

use device_spec::dsa::completion::{CompletionRecord, status};
use hw::{Iova, PAGE_SIZE, Pasid};

use crate::check::{Work, ended};
use crate::{Bus, Device};

/// A request that was refused, and so much of its descriptor's end.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Refusal {
    pub(crate) status: u8,
    pub(crate) write: bool,
    pub(crate) operand: u8,
    pub(crate) address: u64,
}

impl Refusal {
    /// The record of a descriptor that `bytes` of were done; operands are told by version 2.0.
    pub(crate) fn record(self, bytes: u32, second: bool) -> CompletionRecord {
        let fault = matches!(
            self.status,
            status::PAGE_FAULT | status::BATCH_PAGE_FAULT | status::RECORD_PAGE_FAULT
        );
        if !fault {
            return ended(self.status);
        }
        let operand = if second { self.operand } else { 0 };
        ended(self.status)
            .with_write(self.write)
            .with_bytes(bytes)
            .with_fault_address(self.address)
            .with_operand(operand)
    }
}

/// Memory, as a descriptor's owner sees it.
pub(crate) struct Memory<'a, B> {
    bus: &'a mut B,
    pasid: Option<Pasid>,
    /// Addresses are translated in advance, so that faults are told.
    ats: bool,
}

impl<'a, B: Bus> Memory<'a, B> {
    pub(crate) fn of(device: &Device, work: &Work, bus: &'a mut B) -> Self {
        let pasid = work.submitted.pasid.and_then(Pasid::try_new);
        Self { bus, pasid, ats: device.function.ats }
    }

    pub(crate) fn read(
        &mut self,
        address: u64,
        bytes: &mut [u8],
        operand: u8,
    ) -> Result<(), Refusal> {
        let status = if self.ats { status::PAGE_FAULT } else { status::HARDWARE };
        let refusal = Refusal { status, write: false, operand, address };
        self.bus.read(self.pasid, Iova::new(address), bytes).map_err(|_| refusal)
    }

    pub(crate) fn write(&mut self, address: u64, bytes: &[u8], operand: u8) -> Result<(), Refusal> {
        let refusal = Refusal { status: status::PAGE_FAULT, write: true, operand, address };
        match self.bus.write(self.pasid, Iova::new(address), bytes) {
            // Writes that are not translated in advance are posted: nobody tells of a fault (3.13.1).
            Err(_) if self.ats => Err(refusal),
            _ => Ok(()),
        }
    }
}

/// Bytes from an address to the end of its page.
pub(crate) fn ahead(address: u64) -> u64 {
    PAGE_SIZE - address % PAGE_SIZE
}

/// Bytes from the start of a page to an address in it, which is not its start, or to its end.
pub(crate) fn back(end: u64) -> u64 {
    end.wrapping_sub(1) % PAGE_SIZE + 1
}
