//! Interrupt requests (5.1, 5.2).

use hw::RequesterId;
use iommu_spec::INTERRUPT_START;
use iommu_spec::fault::reason;
use iommu_spec::interrupt::{Irte, MessageAddress, PostedDescriptor, svt};
use iommu_spec::registers::command;

use super::{Message, Unit, Violation};
use crate::memory::DeviceMemory;

/// What became of an interrupt request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Delivery {
    /// It passed as it was.
    Compatible(Message),
    /// A CPU gets it.
    Remapped {
        /// Vector.
        vector: u8,
        /// Destination, as the entry has it.
        destination: u32,
    },
    /// It is in a descriptor; with a notification of this vector and destination, if one was due.
    Posted(Option<(u8, u32)>),
}

impl<M: DeviceMemory> Unit<M> {
    /// A device writes a message into the interrupt range.
    ///
    /// # Errors
    /// The reason of the fault.
    pub fn interrupt(&mut self, rid: RequesterId, message: Message) -> Result<Delivery, u8> {
        self.observe();
        assert_eq!(message.address & 0xfff0_0000, INTERRUPT_START, "a message");
        if !self.has(command::IRE) {
            return Ok(Delivery::Compatible(message));
        }
        let address = MessageAddress([message.address]);
        if !address.format() {
            if self.has(command::CFI) && !self.interrupts.eime() {
                return Ok(Delivery::Compatible(message));
            }
            return self.refuse(rid, 0, reason::COMPATIBILITY);
        }
        let sub = if address.shv() { message.data & 0xffff } else { 0 };
        let index = u32::from(address.handle()) + sub;
        if index >> (self.interrupts.s() + 1) != 0 {
            return self.refuse(rid, index as u16, reason::INDEX);
        }
        let index = index as u16;
        let entry = self.interrupt_entry(index);
        if !entry.p() {
            return match entry.fpd() {
                true => Err(reason::IRTE_ABSENT),
                false => self.refuse(rid, index, reason::IRTE_ABSENT),
            };
        }
        let allowed = match entry.svt() {
            svt::NONE => {
                self.violation(Violation::UncheckedSource { index });
                true
            }
            svt::SOURCE => {
                let mask = [!0u16, !0b100, !0b110, !0b111][usize::from(entry.sq())];
                entry.sid() & mask == rid.0 & mask
            }
            svt::BUS => {
                let (first, last) = (entry.sid() >> 8, entry.sid() & 0xff);
                (first..=last).contains(&u16::from(rid.bus()))
            }
            _ => return self.refuse(rid, index, reason::IRTE_RESERVED),
        };
        if !allowed {
            return self.refuse(rid, index, reason::SOURCE);
        }
        if entry.im() { self.post(rid, index, entry) } else { Ok(Self::remap(entry)) }
    }

    fn remap(entry: Irte) -> Delivery {
        Delivery::Remapped { vector: entry.v(), destination: entry.dst() }
    }

    fn post(&mut self, rid: RequesterId, index: u16, entry: Irte) -> Result<Delivery, u8> {
        if !self.profile.cap.pi() {
            self.violation(Violation::UnofferedPosting { index });
            return self.refuse(rid, index, reason::IRTE_RESERVED);
        }
        let at = entry.descriptor().raw();
        if self.memory.read_current(at).is_none() {
            return self.refuse(rid, index, 0x27);
        }
        let words: [u64; 8] = self.current(at);
        let (word, bit) = (usize::from(entry.v()) / 64, entry.v() % 64);
        let descriptor = PostedDescriptor(words);
        self.memory.write(at + 8 * word as u64, words[word] | 1 << bit);
        let due = !descriptor.on() && (!descriptor.sn() || entry.urg());
        if due {
            self.memory.write(at + 32, descriptor.with_on(true).0[4]);
        }
        Ok(Delivery::Posted(due.then_some((descriptor.nv(), descriptor.ndst()))))
    }

    fn interrupt_entry(&mut self, index: u16) -> Irte {
        if let Some(entry) = self.caches.interrupts.get(&index) {
            return Irte(*entry);
        }
        let at = self.interrupts.irta().raw() + 16 * u64::from(index);
        let entry = self.words(at, self.profile.ecap.c()).unwrap_or_default();
        if entry[0] & 1 != 0 || self.profile.cap.cm() {
            self.caches.interrupts.insert(index, entry);
        }
        Irte(entry)
    }

    fn refuse(&mut self, rid: RequesterId, index: u16, reason: u8) -> Result<Delivery, u8> {
        self.record(rid, None, index.into(), reason, false);
        Err(reason)
    }
}
