//! The register page: loads, stores and the global command.

use hw::{RegisterValue, Width};
use iommu_spec::registers::{
    self as regs, FaultStatus, QueueAddress, RemapTableAddress, RootTableAddress, command,
};

use super::{Unit, Violation};
use crate::memory::DeviceMemory;

const VERSION: u64 = 0x40;

impl<M: DeviceMemory> Unit<M> {
    /// The CPU reads a register.
    pub fn load(&mut self, offset: u64, width: Width) -> u64 {
        self.tick();
        let whole = self.load_whole(offset & !7);
        if !offset.is_multiple_of(width.bytes()) {
            self.violation(Violation::BadAccess { offset });
        }
        whole >> (8 * (offset & 7)) & width.mask()
    }

    /// The eight bytes at `offset`.
    fn load_whole(&self, offset: u64) -> u64 {
        let pair = |low: u32, high: u32| u64::from(high) << 32 | u64::from(low);
        match offset {
            0x00 => VERSION,
            0x08 => self.profile.cap.raw(),
            0x10 => self.profile.ecap.raw(),
            0x18 => pair(0, self.gsts),
            0x20 => self.rtaddr.raw(),
            0x30 => pair(0, self.fault_status().raw() as u32),
            0x38 => pair(self.fault_event[0], self.fault_event[1]),
            0x40 => pair(self.fault_event[2], self.fault_event[3]),
            0x80 => self.head,
            0x88 => self.tail,
            0x90 => self.iqa.raw(),
            0xb0 => self.queue_error,
            0xb8 => self.irta.raw(),
            _ => match self.record_at(offset) {
                Some((record, word)) => self.records[record].0[word],
                None => self.other.get(&offset).copied().unwrap_or_default(),
            },
        }
    }

    /// The CPU writes a register.
    pub fn store(&mut self, offset: u64, width: Width, value: u64) {
        self.observe();
        let aligned = offset.is_multiple_of(width.bytes());
        match (offset, width) {
            (0x18, Width::W4) => self.start_command(value as u32),
            (0x20, Width::W8) => self.rtaddr = RootTableAddress([value]),
            (0x28, Width::W8) => self.store_context_command(value),
            (0x34, Width::W4) => self.clear_status(FaultStatus([value])),
            (0x38, Width::W4) => self.store_fault_control(value as u32),
            (0x3c | 0x40 | 0x44, Width::W4) => {
                self.fault_event[(offset - 0x38) as usize / 4] = value as u32;
            }
            (0x64, Width::W4) => {
                // The status follows at once; the region binds as long as the request stands.
                let status = value as u32 >> 31;
                let kept = self.other.get(&0x60).copied().unwrap_or_default() & 0xffff_ffff;
                self.other.insert(0x60, kept | (value & 0x8000_0000 | u64::from(status)) << 32);
            }
            (0x88, Width::W8) => self.store_tail(value),
            (0x90, Width::W8) => {
                if self.has(command::QIE) {
                    self.violation(Violation::QueueMovedWhileOn);
                }
                self.iqa = QueueAddress([value]);
                self.roles = None;
                self.head = 0;
            }
            (0xb8, Width::W8) => self.irta = RemapTableAddress([value]),
            (0x08 | 0x10 | 0x1c | 0x80 | 0xb0, _) => {
                self.violation(Violation::BadAccess { offset })
            }
            _ if aligned => match self.record_at(offset & !7) {
                Some((record, word)) => {
                    let bits = value << (8 * (offset & 7));
                    if word == 1 && bits >> 63 != 0 {
                        self.records[record] = self.records[record].with_f(false);
                    }
                }
                None => self.store_other(offset, width, value),
            },
            _ => self.violation(Violation::BadAccess { offset }),
        }
    }

    fn store_other(&mut self, offset: u64, width: Width, value: u64) {
        let shift = 8 * (offset & 7);
        let old = self.other.get(&(offset & !7)).copied().unwrap_or_default();
        let mask = width.mask() << shift;
        self.other.insert(offset & !7, old & !mask | (value << shift) & mask);
    }

    fn store_context_command(&mut self, value: u64) {
        if self.has(command::QIE) {
            self.violation(Violation::RegisterInvalidationBesideQueue);
        }
        self.caches.context.clear();
        self.other.insert(0x28, value & !(1 << 63));
    }

    /// Whether DMA to `hpa` is held off by a protected region.
    pub(super) fn is_protected(&self, hpa: u64) -> bool {
        let at = |offset: u64| self.other.get(&offset).copied().unwrap_or_default();
        if at(0x60) >> 32 & 1 == 0 {
            return false;
        }
        let low = (at(0x68) as u32, (at(0x68) >> 32) as u32);
        let high = (at(0x70), at(0x78));
        (u64::from(low.0)..=u64::from(low.1)).contains(&hpa) || (high.0..=high.1).contains(&hpa)
    }

    /// A write to GCMD (11.4.4.1): exactly one bit may differ from what is in force, counting one-shots as clear.
    fn start_command(&mut self, value: u32) {
        let changed = (self.gsts & command::LASTING) ^ value & !command::ONE_SHOT;
        let asked = changed | value & command::ONE_SHOT;
        if asked.count_ones() > 1 {
            self.violation(Violation::CommandsAtOnce(asked));
        }
        if self.command.is_some() {
            self.violation(Violation::CommandWhileBusy(value));
        }
        self.check_command(asked, value);
        if asked & command::SRTP != 0 {
            self.gsts &= !command::SRTP;
        }
        if asked & command::SIRTP != 0 {
            self.gsts &= !command::SIRTP;
        }
        if asked & command::WBF != 0 {
            self.gsts |= command::WBF;
        }
        self.command = Some((value, self.profile.latency));
    }

    fn check_command(&mut self, asked: u32, value: u32) {
        if asked & command::SRTP != 0
            && self.has(command::TE)
            && self.rtaddr.ttm() != self.root.ttm()
        {
            self.violation(Violation::ModeChangedWhileOn);
        }
        if asked & command::SIRTP != 0
            && self.has(command::IRE)
            && self.irta.eime() != self.interrupts.eime()
        {
            self.violation(Violation::ModeChangedWhileOn);
        }
        if asked & value & command::TE != 0 {
            if !self.has(command::SRTP) {
                self.violation(Violation::NoTable);
            }
            if self.scalable() && self.has(command::QIE) && !self.iqa.dw() {
                self.violation(Violation::NarrowQueue);
            }
        }
        if asked & value & command::IRE != 0 && !self.has(command::SIRTP) {
            self.violation(Violation::NoTable);
        }
        if asked & value & command::QIE != 0 && self.tail != 0 {
            self.violation(Violation::TailNotZero);
        }
    }

    pub(super) fn step_command(&mut self) {
        let Some((value, left)) = self.command else { return };
        if left > 0 {
            self.command = Some((value, left - 1));
            return;
        }
        self.command = None;
        self.roles = None;
        let queue_starts = value & command::QIE != 0 && !self.has(command::QIE);
        let lasting = value & command::LASTING;
        let pointers = command::SRTP | command::SIRTP;
        self.gsts = lasting | self.gsts & pointers | value & pointers;
        if value & command::SRTP != 0 {
            self.root = self.rtaddr;
            if self.profile.cap.esrtps() {
                let interrupts = std::mem::take(&mut self.caches.interrupts);
                self.caches = super::Caches { interrupts, ..super::Caches::default() };
            }
        }
        if value & command::SIRTP != 0 {
            self.interrupts = self.irta;
        }
        if value & command::WBF != 0 {
            self.memory.flush_write_buffer();
        }
        if queue_starts {
            self.head = 0;
        }
    }

    /// Leaves the unit as some firmware does: everything on, with tables and a queue of its own in `frames` (four, in a
    /// row, zeroed), a fault on record and protected regions over all memory.
    pub fn dirty_hand_over(&mut self, frames: hw::Hpa, eime: bool) {
        let page = |n: u64| frames.wrapping_add(n * hw::PAGE_SIZE);
        self.root = RootTableAddress::default().with_rta(page(0));
        self.rtaddr = self.root;
        self.interrupts = RemapTableAddress::default().with_irta(page(1)).with_s(7).with_eime(eime);
        self.irta = self.interrupts;
        self.iqa = QueueAddress::default().with_iqa(page(2));
        self.head = 0x40;
        self.tail = 0x40;
        self.gsts = command::TE | command::SRTP | command::IRE | command::SIRTP | command::QIE;
        self.other.insert(0x60, 0x8000_0001 << 32);
        self.other.insert(0x68, 0xffff_ffff_0000_0000);
        self.other.insert(0x78, u64::MAX);
        self.fault_event[0] = 0;
        self.record(
            hw::RequesterId(8),
            None,
            0x1000,
            iommu_spec::fault::reason::CONTEXT_ABSENT,
            true,
        );
    }

    pub(super) fn record_at(&self, offset: u64) -> Option<(usize, usize)> {
        let first = u64::from(self.profile.cap.fro()) * 16;
        let record = offset.checked_sub(first)? / regs::FAULT_RECORD_BYTES;
        let word = (offset - first) / 8 % 2;
        (record < self.records.len() as u64).then_some((record as usize, word as usize))
    }
}
