//! The invalidation queue (6.5.2).

use hw::Hpa;
use iommu_spec::invalidation::{Descriptor, granularity, kind};
use iommu_spec::registers::{QueueError, command};

use super::{Unit, Violation};
use crate::memory::DeviceMemory;

impl<M: DeviceMemory> Unit<M> {
    fn descriptor_bytes(&self) -> u64 {
        if self.iqa.dw() { 32 } else { 16 }
    }

    fn ring_bytes(&self) -> u64 {
        hw::PAGE_SIZE << self.iqa.qs()
    }

    pub(super) fn store_tail(&mut self, value: u64) {
        let bytes = self.descriptor_bytes();
        if value >= self.ring_bytes() || !value.is_multiple_of(bytes) {
            self.violation(Violation::TailOutsideRing(value));
            return;
        }
        if self.has(command::QIE) {
            // From the tail on, up to the head, the slots were free; a tail beyond the head has overwritten it.
            let ring = self.ring_bytes();
            let (new, old) =
                ((value + ring - self.tail) % ring, (self.tail + ring - self.head) % ring);
            if new + old >= ring {
                self.violation(Violation::QueueOverrun);
            }
        }
        self.tail = value;
    }

    fn descriptor_at(&self, at: u64) -> Descriptor {
        let hpa = self.iqa.iqa().raw() + at;
        if self.iqa.dw() {
            return Descriptor(self.current(hpa));
        }
        let [low, high] = self.current(hpa);
        Descriptor([low, high, 0, 0])
    }

    fn after(&self, at: u64) -> u64 {
        (at + self.descriptor_bytes()) % self.ring_bytes()
    }

    /// Whether it waits for its errors to be cleared.
    pub(super) fn is_stopped(&self) -> bool {
        self.status.iqe() || self.status.ite()
    }

    /// Takes what the queue holds next: a wait, or all that is to be invalidated up to the next wait. The latter goes in
    /// any order, so it goes in the worst: backwards, with the rivals filling caches in between.
    pub(super) fn step_queue(&mut self) {
        if !self.has(command::QIE) || self.is_stopped() || self.head == self.tail {
            return;
        }
        self.rest = self.rest.checked_sub(1).unwrap_or(self.pace);
        if self.rest != self.pace {
            return;
        }
        let mut run = Vec::new();
        let mut at = self.head;
        while at != self.tail {
            let descriptor = self.descriptor_at(at);
            if descriptor.kind() == kind::WAIT {
                break;
            }
            run.push((at, descriptor));
            at = self.after(at);
        }
        if run.is_empty() {
            let wait = self.descriptor_at(self.head);
            if self.is_legal(&wait) {
                self.finish_wait(wait);
                self.head = self.after(self.head);
            }
            return;
        }
        for (at, descriptor) in run.iter().rev() {
            self.let_rivals_in();
            if !self.is_legal(descriptor) {
                self.head = *at;
                return;
            }
            if !self.invalidate(*descriptor) {
                // The device did not answer (6.5.2.10): the wait that was taken with it is dropped, the rest stays.
                let wait = run.last().map_or(self.head, |(at, _)| self.after(*at));
                self.head = if wait == self.tail { wait } else { self.after(wait) };
                return;
            }
        }
        self.let_rivals_in();
        self.head = at;
    }

    fn let_rivals_in(&mut self) {
        for request in self.rivals.clone() {
            let Ok(hpa) = self.quiet_dma(request) else { continue };
            if self.may_use_device_tlb(request.rid).is_ok() {
                self.fill_device_tlb(request, hpa);
            }
        }
    }

    fn finish_wait(&mut self, wait: Descriptor) {
        if wait.bit5() {
            let at = wait.status_address().raw();
            let shift = 8 * (at & 4);
            let old = self.memory.read_current(at & !7).unwrap_or_default();
            let new = old & !(0xffff_ffff << shift) | u64::from(wait.status()) << shift;
            self.memory.write(at & !7, new);
        }
        if wait.bit4() {
            self.other.insert(0x98, 1 << 32);
        }
    }

    /// Whether the descriptor may stand in the queue; else the queue stops at it.
    fn is_legal(&mut self, descriptor: &Descriptor) -> bool {
        let (cap, ecap) = (self.profile.cap, self.profile.ecap);
        let scalable = self.iqa.dw() && ecap.smts();
        let paged = descriptor.granularity() == granularity::SELECTIVE;
        let (low, high, offered) = match descriptor.kind() {
            kind::CONTEXT => (0x0003_ffff_ffff_003f, 0, descriptor.granularity() != 0),
            kind::IOTLB => {
                let pages = cap.psi() && descriptor.am() <= cap.mamv();
                let offered = descriptor.granularity() != 0 && (!paged || pages);
                (0xffff_00ff, 0xffff_ffff_ffff_f07f, offered)
            }
            kind::DEVICE_TLB => (0xfff0_ffff_001f_f00f, 0xffff_ffff_ffff_f001, ecap.dt()),
            kind::INTERRUPT_ENTRY => {
                let fits = !descriptor.bit4() || descriptor.im() <= ecap.mhmv();
                (0x0000_ffff_f800_001f, 0, ecap.ir() && fits)
            }
            kind::WAIT => (0xffff_ffff_0000_00ff, !3, true),
            kind::PASID_IOTLB => {
                let offered = scalable && descriptor.granularity() >= 2;
                (0x000f_ffff_ffff_003f, 0xffff_ffff_ffff_f07f, offered)
            }
            kind::PASID_CACHE => {
                (0x000f_ffff_ffff_003f, 0, scalable && descriptor.granularity() != 2)
            }
            kind::PASID_DEVICE_TLB => (u64::MAX, 0xffff_ffff_ffff_f801, scalable && ecap.dt()),
            _ => (0, 0, false),
        };
        let [first, second, third, fourth] = descriptor.0;
        let clear = first & !low == 0 && second & !high == 0 && third == 0 && fourth == 0;
        let flipped = self.rejected > 0 && descriptor.kind() != kind::WAIT;
        if offered && clear && !flipped {
            return true;
        }
        if flipped {
            self.rejected -= 1;
        } else {
            self.violation(Violation::BadDescriptor(descriptor.0));
        }
        self.status = self.status.with_iqe(true);
        self.queue_error = QueueError::default().with_iqei(1).0[0];
        self.raise_fault_event();
        false
    }

    /// Forgets; `false` where a device did not answer.
    fn invalidate(&mut self, descriptor: Descriptor) -> bool {
        let d = descriptor;
        if matches!(d.kind(), kind::CONTEXT | kind::IOTLB) {
            self.memory.flush_write_buffer();
        }
        match d.kind() {
            kind::CONTEXT => self.forget_contexts(d),
            kind::PASID_CACHE => {
                let granularity = d.granularity();
                self.caches.pasid.retain(|(_, pasid), entry| {
                    let same = entry[1] as u16 == d.did();
                    match granularity {
                        granularity::PASID_CACHE_GLOBAL => false,
                        granularity::PASID_CACHE_DOMAIN => !same,
                        _ => !same || *pasid != d.pasid(),
                    }
                });
            }
            kind::IOTLB => self.forget_second_stage(d),
            kind::PASID_IOTLB => self.forget_first_stage(d),
            kind::INTERRUPT_ENTRY => {
                let (first, count) = (u32::from(d.iidx()), 1u32 << d.im());
                self.caches.interrupts.retain(|&index, _| {
                    d.bit4() && !(first..first + count).contains(&u32::from(index))
                });
            }
            kind::DEVICE_TLB => return self.forget_in_device(d.sid(), None, d),
            kind::PASID_DEVICE_TLB => return self.forget_in_device(d.did(), Some(d.pasid()), d),
            _ => {}
        }
        true
    }

    fn forget_contexts(&mut self, d: Descriptor) {
        let scalable = self.scalable();
        self.caches.context.retain(|&rid, entry| match d.granularity() {
            granularity::GLOBAL => false,
            granularity::DOMAIN => (entry[1] >> 8) as u16 != d.did(),
            // In legacy mode the entry is tagged with its domain as well.
            _ => {
                let mask = !((1u16 << d.fm()) - 1);
                let present = entry[0] & 1 != 0;
                let tagged = scalable || !present || (entry[1] >> 8) as u16 == d.did();
                rid & mask != d.sid() & mask || !tagged
            }
        });
    }

    fn forget_second_stage(&mut self, d: Descriptor) {
        let selective = d.granularity() == granularity::SELECTIVE;
        let all = d.granularity() == granularity::GLOBAL;
        let keeps = |did: u16, first: u64, bytes: u64| {
            !(all || did == d.did() && (!selective || overlaps(d, first, bytes)))
        };
        // What went through a first stage alone is none of the second's; pages of the second say nothing of what went
        // through a first stage above it.
        self.caches.iotlb.retain(|t| {
            let first = t.pasid.is_some() && (selective || !t.nested);
            !all && first || keeps(t.did, t.first, t.bytes)
        });
        if !(selective && d.ih()) {
            self.caches.tables.retain(|&(did, pasid, _, level, first), _| {
                !all && pasid.is_some() || keeps(did, first, super::walk::span(level + 1))
            });
        }
    }

    fn forget_first_stage(&mut self, d: Descriptor) {
        let paged = d.granularity() == granularity::PASID_IOTLB_PAGES;
        let keeps = |did: u16, pasid: Option<u32>, first: u64, bytes: u64| {
            did != d.did() || pasid != Some(d.pasid()) || paged && !overlaps(d, first, bytes)
        };
        self.caches.iotlb.retain(|t| keeps(t.did, t.pasid, t.first, t.bytes));
        if !(paged && d.ih()) {
            self.caches.tables.retain(|&(did, pasid, _, level, first), _| {
                keeps(did, pasid, first, super::walk::span(level + 1))
            });
        }
    }

    fn forget_in_device(&mut self, sid: u16, pasid: Option<u32>, d: Descriptor) -> bool {
        if self.silent.contains(&sid) {
            self.status = self.status.with_ite(true);
            self.queue_error = QueueError::default().with_itesid(sid).0[0];
            self.raise_fault_event();
            return false;
        }
        let sized = if pasid.is_some() { d.pdev_s() } else { d.dev_s() };
        let raw = d.address().raw() | 0xfff;
        let bytes = match sized {
            false => hw::PAGE_SIZE,
            // The lowest clear bit ends the offset.
            true => 2u64.checked_shl(raw.trailing_ones()).unwrap_or(0),
        };
        let first = if bytes == 0 { 0 } else { d.address().raw() & !(bytes - 1) };
        self.caches.device.retain(|&(rid, space, page), _| {
            let inside = bytes == 0 || (first..first + bytes).contains(&page);
            rid != sid || space != pasid || !inside
        });
        true
    }
}

fn overlaps(d: Descriptor, first: u64, bytes: u64) -> bool {
    let span = hw::PAGE_SIZE << d.am();
    let start = Hpa::new(d.address().raw()).align_down(span).raw();
    first < start + span && start < first + bytes
}
