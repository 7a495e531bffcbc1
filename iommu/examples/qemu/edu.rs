//! QEMU's `edu`, a device that copies words to and from its own buffer, at address 0:4.0.

use hw::{DeviceTables, Function, Iova, PAGE_SIZE, RequesterId};
use iommu::{Attach, Source, Stage, Target};
use iommu_spec::fault::reason;
use paging::Rights;

use crate::machine::Machine;

pub(crate) const DEVICES: [&str; 1] = ["edu,addr=04.0,dma_mask=0xffffffffff"];

const EDU: Function = Function { segment: 0, rid: RequesterId::new(0, 4, 0) };
const OTHER: Function = Function { segment: 0, rid: RequesterId::new(0, 5, 0) };
/// Where the device's registers are put, and where its buffer is in its own address space.
const BAR: u64 = 0xe000_0000;
const BUFFER: u64 = 0x4_0000;
/// Memory that nobody is granted.
const CANARY: u64 = 0x800_0000;
const IOVA: u64 = 0x4000_0000;

struct Bench {
    machine: Machine,
    /// What the device's buffer holds.
    held: u64,
}

pub(crate) fn check(machine: Machine) {
    // Registers, then memory space and bus mastering.
    machine.qemu.configure(EDU, 0x10, BAR as u32);
    machine.qemu.configure(EDU, 0x04, 6);
    let mut bench = Bench { machine, held: 0 };
    bench.dma();
    bench.interrupts();
    assert_eq!(bench.machine.iommu.take_events(), []);
}

impl Bench {
    /// The device copies a word from `from` to `to`, one of which is its own buffer.
    fn copy(&self, from: u64, to: u64) {
        let qemu = &self.machine.qemu;
        for (register, value) in [(0x80, from), (0x88, to), (0x90, 8)] {
            qemu.write(BAR + register, 'q', value);
        }
        qemu.write(BAR + 0x98, 'q', if to == BUFFER { 1 } else { 3 });
        qemu.ask("clock_step 200000000");
        assert_eq!(qemu.read(BAR + 0x98, 'q') & 1, 0, "the copy goes on");
    }

    /// The device reads a word that nothing else holds from `iova`, which leads to `hpa`.
    fn fill(&mut self, iova: u64, hpa: u64) {
        self.held = self.held.wrapping_add(0x0101_0101_0101_0101);
        self.machine.qemu.write(hpa, 'q', self.held);
        self.copy(iova, BUFFER);
    }

    /// The device writes to `iova` what it has read last: the fault's reason, or `None` where it got through to `hpa`.
    fn write(&mut self, iova: u64, hpa: u64) -> Option<u8> {
        self.machine.qemu.write(hpa, 'q', !self.held);
        self.copy(BUFFER, iova);
        let found = self.machine.qemu.read(hpa, 'q');
        let through = found == self.held;
        assert!(through || found == !self.held, "something else was written: {found:#x}");
        let faults = self.machine.faults();
        assert_eq!(through, faults.is_empty(), "{faults:?}");
        assert!(faults.iter().all(|fault| fault.function == EDU && !fault.read));
        faults.first().map(|fault| fault.reason)
    }

    fn dma(&mut self) {
        let rights = match self.machine.iommu.stage() {
            Stage::Second => reason::WRITE,
            Stage::First => reason::FIRST_WRITE,
        };
        let absent = match self.machine.iommu.stage() {
            Stage::Second => reason::WRITE,
            Stage::First => reason::FIRST_ABSENT,
        };
        assert_eq!(self.write(CANARY, CANARY), Some(reason::ROOT_ABSENT), "denied by default");
        let mut in_use = None;
        for _ in 0..3 {
            let data = self.machine.memory.alloc_run(1024).expect("frames");
            let space = self.machine.iommu.create_space().expect("a domain");
            self.machine
                .iommu
                .map(space, Iova::new(IOVA), data, 4 << 20, Rights::RW)
                .expect("free");
            let attachment = self.machine.iommu.attach(Attach::new(EDU, space)).expect("free");
            self.fill(IOVA + 0x1008, data.raw() + 0x1008);
            for offset in [0, 0x5008, 0x20_0010, 0x3f_fff8] {
                assert_eq!(self.write(IOVA + offset, data.raw() + offset), None);
            }
            let page = Iova::new(IOVA + 0x5000);
            let pending = self.machine.iommu.unmap(space, page, PAGE_SIZE).expect("mapped");
            self.machine.retire(pending);
            assert_eq!(self.write(IOVA + 0x5010, data.raw() + 0x5010), Some(absent));
            assert_eq!(self.write(IOVA + 0x6010, data.raw() + 0x6010), None);
            let page = Iova::new(IOVA + 0x6000);
            let pending =
                self.machine.iommu.protect(space, page, PAGE_SIZE, Rights::R).expect("mapped");
            self.machine.retire(pending);
            assert_eq!(self.write(IOVA + 0x6018, data.raw() + 0x6018), Some(rights));
            let pending = self.machine.iommu.detach(attachment);
            self.machine.retire(pending);
            let denied = self.write(IOVA + 0x8010, data.raw() + 0x8010);
            assert_eq!(denied, Some(reason::CONTEXT_ABSENT));
            let pending = self.machine.iommu.destroy_space(space).expect("attached nowhere");
            self.machine.retire(pending);
            self.machine.memory.free_run(data, 1024);
            // The context table of the bus stays with the first round.
            let now = Some(self.machine.frames());
            assert!(in_use.is_none() || in_use == now, "frames are lost: {in_use:?}, {now:?}");
            in_use = now;
        }
    }

    /// The device interrupts: the fault's reason, if there was one.
    fn interrupt(&mut self) -> Option<u8> {
        self.machine.qemu.write(BAR + 0x60, 'l', 1);
        self.machine.qemu.write(BAR + 0x64, 'l', 1);
        let faults = self.machine.faults();
        assert!(faults.iter().all(|fault| fault.function == EDU && fault.interrupt));
        faults.first().map(|fault| fault.reason)
    }

    fn interrupts(&mut self) {
        let target = |vector| Target::Cpu { apic_id: 0, vector };
        let route =
            self.machine.iommu.route(Source::Function(EDU), &[target(0x51)]).expect("entries");
        // The device's MSI capability: address, upper address, data, then on.
        let message = route.message();
        let words = [(0x44, message.address as u32), (0x48, 0), (0x4c, message.data)];
        for (offset, value) in words.into_iter().chain([(0x40, 0x0081_0005)]) {
            self.machine.qemu.configure(EDU, offset, value);
        }
        assert_eq!(self.interrupt(), None);
        let pending = self.machine.iommu.retarget(&route, 0, target(0x61)).expect("an entry");
        self.machine.retire(pending);
        assert_eq!(self.interrupt(), None);
        let pending = self.machine.iommu.unroute(route);
        self.machine.retire(pending);
        assert_eq!(self.interrupt(), Some(reason::IRTE_ABSENT));
        let other =
            self.machine.iommu.route(Source::Function(OTHER), &[target(0x71)]).expect("entries");
        assert_eq!(other.message(), message, "the entry is used again");
        assert_eq!(self.interrupt(), Some(reason::SOURCE));
        assert_eq!(self.machine.qemu.vectors(), [0x51, 0x61].into());
        let pending = self.machine.iommu.unroute(other);
        self.machine.retire(pending);
    }
}
