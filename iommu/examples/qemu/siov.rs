//! Two functions of `tests/models/siov`, at addresses 0:4.0 and 0:5.0: DMA with PASIDs, and interrupts by slots.

use hw::{Function, Iova, PAGE_SIZE, RequesterId};
use iommu::{Fault, Message, Source, Stage, Target};
use iommu_spec::fault::reason;
use siov::{Status, control, flag, operation, page};

use crate::machine::Machine;
use crate::spaces::{FRAMES, IOVA, PASID_CONTROL, config, pasid};

pub(crate) const DEVICES: [&str; 2] = ["kerf-siov,addr=04.0", "kerf-siov,addr=05.0"];

const OWN: Function = Function { segment: 0, rid: RequesterId::new(0, 4, 0) };
const OTHER: Function = Function { segment: 0, rid: RequesterId::new(0, 5, 0) };
/// Of a new frame: nobody writes it.
const UNTOUCHED: u64 = 0;

/// Where a function's registers are put.
fn bar(function: Function) -> u64 {
    0xe000_0000 + u64::from(function.rid.0) * 0x1_0000
}

/// PASIDs of interfaces 0 to 3: neighbours in a table, one of the next table, and one that the directory grows for.
const PASIDS: [u32; 4] = [5, 6, 0x45, 0xf_ffff];

struct Bench {
    machine: Machine,
    /// The last pattern that was written.
    pattern: u64,
    /// The last vector that was used, each once.
    vector: u8,
}

pub(crate) fn check(machine: Machine) {
    for function in [OWN, OTHER] {
        // Registers, then memory space and bus mastering.
        machine.qemu.configure(function, 0x10, bar(function) as u32);
        machine.qemu.configure(function, 0x04, 6);
        let signature = machine.qemu.read(bar(function) + control::SIGNATURE, 'l');
        assert_eq!(signature, control::SIGNATURE_VALUE.into(), "not such a device");
        machine.qemu.write(config(function) + PASID_CONTROL, 'w', 1);
    }
    let mut bench = Bench { machine, pattern: 0, vector: 0x50 };
    bench.denied_by_default();
    let before = bench.counts();
    let mut frames = None;
    for _ in 0..2 {
        bench.dma();
        bench.interrupts();
        assert_eq!(bench.counts(), before, "something is lost");
        // The context table of the bus stays with the first round.
        let now = bench.machine.frames();
        assert!(frames.is_none_or(|frames| frames == now), "frames are lost: {frames:?}, {now}");
        frames = Some(now);
    }
    bench.sends_nothing_without_leave();
    assert_eq!(bench.machine.iommu.take_events(), []);
}

impl Bench {
    fn counts(&self) -> iommu::Counts {
        self.machine.iommu.counts()
    }

    fn set_pasid(&self, function: Function, interface: usize, pasid: u32) {
        let at = bar(function) + control::pasid(interface);
        self.machine.qemu.write(at, 'l', (control::PASID_VALID | pasid).into());
    }

    /// An interface carries a descriptor out: its status, and the address that was refused.
    fn submit(&self, function: Function, interface: usize, words: [u64; 4]) -> (u8, u64) {
        let qemu = &self.machine.qemu;
        let at = bar(function) + page::at(interface);
        let count = qemu.read(at + page::COUNT, 'l');
        for (number, word) in (0..).zip(words.into_iter().chain([0; 4])) {
            qemu.write(at + 8 * number, 'q', word);
        }
        assert_eq!(qemu.read(at + page::COUNT, 'l'), count + 1, "it was not carried out");
        (qemu.read(at + page::STATUS, 'q') as u8, qemu.read(at + page::FAULT, 'q'))
    }

    /// An interface writes a new pattern to an address.
    fn fill(&mut self, function: Function, interface: usize, iova: u64) -> (u8, u64) {
        self.pattern = self.pattern.wrapping_add(0x0101_0101_0101_0101);
        self.submit(function, interface, [operation::FILL | 8 << 32, 0, self.pattern, iova])
    }

    /// It does, and reaches `hpa`.
    fn reaches(&mut self, interface: usize, iova: u64, hpa: u64) {
        let end = self.fill(OWN, interface, iova);
        let faults = self.machine.faults();
        assert_eq!((end, &faults[..]), ((Status::Done as u8, 0), &[][..]), "interface {interface}");
        assert_eq!(self.machine.qemu.read(hpa, 'q'), self.pattern, "it went elsewhere");
    }

    /// It tries and is held back, and the unit says who it was, for which PASID, where and why. QEMU tells of the PASID
    /// once it has found its entry, and of an absent one that its type is wrong.
    fn blocked(&mut self, who: Function, interface: usize, raw: Option<u32>, iova: u64, why: u8) {
        let refused = (Status::WriteRefused as u8, iova);
        assert_eq!(self.fill(who, interface, iova), refused, "interface {interface} gets through");
        let faults = self.machine.faults();
        let [fault] = faults[..] else { panic!("not one fault: {faults:?}") };
        let page = iova & !(PAGE_SIZE - 1);
        let told = (fault.function, fault.pasid, fault.address, fault.read, fault.interrupt);
        assert_eq!(told, (who, raw.map(pasid), page, false, false), "{fault}");
        assert_eq!(fault.reason, why, "{fault}");
    }

    fn denied_by_default(&mut self) {
        for function in [OWN, OTHER] {
            assert_eq!(self.fill(function, 0, IOVA).0, Status::Disabled as u8);
            self.set_pasid(function, 0, PASIDS[0]);
            self.blocked(function, 0, None, IOVA, reason::ROOT_ABSENT);
        }
    }

    fn dma(&mut self) {
        let unmapped = match self.machine.iommu.stage() {
            Stage::Second => reason::WRITE,
            Stage::First => reason::FIRST_ABSENT,
        };
        for (interface, raw) in PASIDS.into_iter().enumerate() {
            self.set_pasid(OWN, interface, raw);
        }
        let without = self.machine.grant(OWN, None);
        let granted = PASIDS.map(|raw| self.machine.grant(OWN, Some(raw)));
        // The same address is other memory for each, and for each what it has written itself.
        for offset in [0x18, 0x1ff8, 0x3000] {
            for (interface, own) in granted.iter().enumerate() {
                for (_, later) in granted.iter().enumerate().skip(interface) {
                    assert_eq!(self.machine.qemu.read(later.data.raw() + offset, 'q'), UNTOUCHED);
                }
                self.reaches(interface, IOVA + offset, own.data.raw() + offset);
            }
        }
        self.copies_with_a_record(granted[1].data.raw());

        // What is not granted: an address, a PASID in a table and in none, a function.
        self.blocked(OWN, 0, Some(PASIDS[0]), IOVA + FRAMES * PAGE_SIZE, unmapped);
        self.set_pasid(OWN, 4, 7);
        self.blocked(OWN, 4, None, IOVA + 8, reason::PASID_INVALID);
        self.set_pasid(OWN, 4, 0x87);
        self.blocked(OWN, 4, None, IOVA + 8, reason::DIRECTORY_ABSENT);
        self.blocked(OTHER, 0, None, IOVA, reason::CONTEXT_ABSENT);

        // What is taken away, a page and a PASID, each used just before.
        let [first, second, third, fourth] = granted;
        let at = IOVA + PAGE_SIZE + 0xff8;
        let pending = self.machine.iommu.unmap(first.space, Iova::new(IOVA + PAGE_SIZE), PAGE_SIZE);
        self.machine.retire(pending.expect("mapped"));
        self.blocked(OWN, 0, Some(PASIDS[0]), at, unmapped);
        let second = self.machine.revoke(second);
        self.blocked(OWN, 1, None, at, reason::PASID_INVALID);
        // Neighbours keep what they have, and a PASID that is granted anew has what it is granted then.
        self.reaches(0, IOVA, first.data.raw());
        self.reaches(3, IOVA, fourth.data.raw());
        let anew = self.machine.grant(OWN, Some(PASIDS[1]));
        self.reaches(1, at, anew.data.raw() + at - IOVA);
        self.machine.free(second);
        self.machine.take_back([first, third, fourth, anew, without]);
        self.blocked(OWN, 0, None, IOVA, reason::CONTEXT_ABSENT);
    }

    /// Interface 1 copies from one page to another.
    fn copies_with_a_record(&mut self, data: u64) {
        let (from, to, record) = (0xff0, 0x2ff4, 0x3800);
        for word in (0..32).step_by(8) {
            self.machine.qemu.write(data + from + word, 'q', 0x1111 * (word + 1));
        }
        let head = operation::COPY | flag::RECORD | 32 << 32;
        let words = [head, IOVA + record, IOVA + from, IOVA + to];
        assert_eq!(self.submit(OWN, 1, words), (Status::Done as u8, 0));
        for word in (0..32).step_by(8) {
            assert_eq!(self.machine.qemu.read(data + to + word, 'q'), 0x1111 * (word + 1));
        }
        assert_eq!(self.machine.qemu.read(data + record, 'q'), 32 << 32 | Status::Done as u64);
    }

    /// Slot 3 of a function sends a message, for the interface with PASID `raw` only.
    fn set_slot(&self, function: Function, message: Message, raw: u32) {
        let at = bar(function) + control::slot(3);
        self.machine.qemu.write(at, 'q', message.address);
        self.machine.qemu.write(at + 8, 'l', message.data.into());
        let own = control::CHECKED | raw << control::PASID_SHIFT;
        self.machine.qemu.write(at + 12, 'l', own.into());
    }

    /// An interface interrupts at the end of a descriptor: its status, the vectors that came, and the faults.
    fn interrupt(&mut self, function: Function, interface: usize) -> (u8, Vec<u8>, Vec<Fault>) {
        let before = self.machine.qemu.vectors();
        let head = operation::FILL | flag::INTERRUPT | 3 << 16 | 8 << 32;
        let (status, _) = self.submit(function, interface, [head, 0, 1, IOVA]);
        let now = self.machine.qemu.vectors();
        (status, (&now - &before).into_iter().collect(), self.machine.faults())
    }

    /// Interface 0 interrupts, the unit drops that, and says whose it was and which entry it named.
    fn dropped(&mut self, function: Function, message: Message, why: u8) {
        let (status, vectors, faults) = self.interrupt(function, 0);
        assert_eq!((status, vectors), (Status::Done as u8, vec![]));
        let [fault] = faults[..] else { panic!("not one fault: {faults:?}") };
        let told = (fault.function, fault.interrupt, fault.address, fault.reason);
        assert_eq!(told, (function, true, message.address >> 5 & 0x7fff, why), "{fault}");
    }

    fn next_target(&mut self) -> (u8, Target) {
        self.vector += 1;
        (self.vector, Target::Cpu { apic_id: 0, vector: self.vector })
    }

    fn interrupts(&mut self) {
        let both = [(OWN, 0), (OWN, 1), (OTHER, 0)];
        let mut granted = vec![self.machine.grant(OWN, None), self.machine.grant(OTHER, None)];
        for (function, interface) in both {
            granted.push(self.machine.grant(function, Some(PASIDS[interface])));
        }
        let done = Status::Done as u8;
        let (vector, target) = self.next_target();
        let route = self.machine.iommu.route(Source::Function(OWN), &[target]).expect("entries");
        let message = route.message();
        self.set_slot(OWN, message, PASIDS[0]);
        assert_eq!(self.interrupt(OWN, 0), (done, vec![vector], vec![]));
        let (vector, target) = self.next_target();
        let pending = self.machine.iommu.retarget(&route, 0, target).expect("an entry");
        self.machine.retire(pending);
        assert_eq!(self.interrupt(OWN, 0), (done, vec![vector], vec![]));
        // The slot is not its neighbour's, which the function itself sees to.
        let refused = (Status::SlotRefused as u8, vec![], vec![]);
        assert_eq!(self.interrupt(OWN, 1), refused);
        // The entry is not another function's, whose message the unit drops.
        let (_, target) = self.next_target();
        let pending = self.machine.iommu.retarget(&route, 0, target).expect("an entry");
        self.machine.retire(pending);
        self.set_slot(OTHER, message, PASIDS[0]);
        self.dropped(OTHER, message, reason::SOURCE);
        // Nor is it anybody's once it is taken away, or this one's when another gets it.
        let pending = self.machine.iommu.unroute(route);
        self.machine.retire(pending);
        self.dropped(OWN, message, reason::IRTE_ABSENT);
        let route = self.machine.iommu.route(Source::Function(OTHER), &[target]).expect("entries");
        assert_eq!(route.message(), message, "the entry is used again");
        self.dropped(OWN, message, reason::SOURCE);
        let pending = self.machine.iommu.unroute(route);
        self.machine.retire(pending);
        self.machine.take_back(granted);
    }

    /// With bus mastering off, with PASIDs off and after a reset the function does not even try.
    fn sends_nothing_without_leave(&mut self) {
        let config = config(OWN);
        let granted = [self.machine.grant(OWN, None), self.machine.grant(OWN, Some(PASIDS[0]))];
        for (register, width, off, on) in [(0x04, 'l', 2, 6), (PASID_CONTROL, 'w', 0, 1)] {
            self.machine.qemu.write(config + register, width, off);
            assert_eq!(self.fill(OWN, 0, IOVA), (Status::WriteRefused as u8, IOVA));
            assert_eq!(self.machine.faults(), []);
            self.machine.qemu.write(config + register, width, on);
            self.reaches(0, IOVA, granted[1].data.raw());
        }
        // A function-level reset, by the device control register.
        self.machine.qemu.write(config + 0x88, 'w', 1 << 15);
        self.machine.qemu.configure(OWN, 0x10, bar(OWN) as u32);
        self.machine.qemu.configure(OWN, 0x04, 6);
        assert_eq!(self.fill(OWN, 0, IOVA), (Status::Disabled as u8, 0));
        self.machine.take_back(granted);
    }
}
