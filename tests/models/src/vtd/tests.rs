//! What the model complains of, shown by doing it. A model that never complains proves nothing.

use hw::{DeviceTables, Hpa, RegisterBus, RequesterId, TableMemory};
use iommu_spec::context::{ContextEntry, RootEntry};
use iommu_spec::fault::reason;
use iommu_spec::interrupt::Irte;
use iommu_spec::invalidation::Descriptor;
use iommu_spec::registers::{self as regs, QueueAddress, RootTableAddress, command};

use super::*;
use crate::{Injecting, Machine, ModelRegs, SplitMemory, Traced};

const RID: RequesterId = RequesterId::new(1, 2, 3);

struct Bench {
    machine: Machine,
    regs: Injecting<Traced<ModelRegs>>,
    memory: SplitMemory,
    root: Hpa,
    context: Hpa,
    queue: Hpa,
    /// Three levels, the lowest first.
    tables: [Hpa; 3],
    data: Hpa,
}

impl Bench {
    /// A unit that translates: address 0 of one function leads to a page of data.
    fn new(profile: Profile) -> Self {
        let machine = Machine::new(&[profile]);
        let mut memory = machine.memory.clone();
        let mut frame = || memory.alloc().expect("a frame");
        let (root, context, queue) = (frame(), frame(), frame());
        let tables = [frame(), frame(), frame()];
        let data = machine.memory.data(1);
        memory.store(tables[0], 0, data.raw() | 3);
        memory.store(tables[1], 0, tables[0].raw() | 3);
        memory.store(tables[2], 0, tables[1].raw() | 3);
        let entry = ContextEntry::second_stage(tables[2], 3, 5, false);
        let at = 2 * usize::from(RID.devfn());
        memory.store(context, at + 1, entry.0[1]);
        memory.store(context, at, entry.0[0]);
        memory.store(root, 2, RootEntry::default().with_p(true).with_ctp(context).0[0]);
        let bench =
            Self { regs: machine.regs(0), machine, memory, root, context, queue, tables, data };
        bench.regs.write(regs::IQA, QueueAddress::default().with_iqa(queue));
        bench.command(command::QIE);
        bench.regs.write(regs::RTADDR, RootTableAddress::default().with_rta(root));
        bench.command(command::SRTP);
        bench.command(command::TE);
        bench.machine.assert_clean();
        bench
    }

    fn command(&self, bit: u32) {
        let on = self.regs.read(regs::GSTS) & command::LASTING;
        self.regs.write(regs::GCMD, on | bit);
        while self.regs.read(regs::GSTS) & bit == 0 {}
    }

    fn dma(&self) -> Result<Hpa, u8> {
        let request = Request { rid: RID, pasid: None, address: 8, write: true };
        self.machine.unit(0).dma(request)
    }

    fn invalidate(&mut self, slot: usize, descriptor: Descriptor) {
        self.memory.store(self.queue, 2 * slot, descriptor.0[0]);
        self.memory.store(self.queue, 2 * slot + 1, descriptor.0[1]);
        self.regs.write(regs::IQT, 16 * (slot as u64 + 1));
        while self.regs.read(regs::IQH) != 16 * (slot as u64 + 1) {}
    }

    fn complains_of(&self, wanted: &Violation) {
        let found = self.machine.unit(0).violations();
        assert!(found.contains(wanted), "{wanted:?} is not among {found:?}");
    }
}

#[test]
fn what_was_read_is_kept_until_it_is_invalidated() {
    let mut bench = Bench::new(Profile::legacy());
    let reached = bench.data.wrapping_add(8);
    assert_eq!(bench.dma(), Ok(reached));
    bench.memory.store(bench.tables[0], 0, 0);
    assert_eq!(bench.dma(), Ok(reached), "forgotten by itself");
    bench.invalidate(0, Descriptor::iotlb_pages(5, 0, 0, true, NO_DRAIN));
    assert_eq!(bench.dma(), Err(reason::WRITE));
    bench.memory.store(bench.context, 2 * usize::from(RID.devfn()), 0);
    assert_eq!(bench.dma(), Err(reason::WRITE), "the context was forgotten by itself");
    bench.invalidate(1, Descriptor::context(RID, 6));
    assert_eq!(bench.dma(), Err(reason::WRITE), "the domain is part of the tag");
    bench.invalidate(2, Descriptor::context(RID, 5));
    assert_eq!(bench.dma(), Err(reason::CONTEXT_ABSENT));
    bench.machine.assert_clean();
}

const NO_DRAIN: iommu_spec::invalidation::Drain =
    iommu_spec::invalidation::Drain { reads: false, writes: false };

#[test]
fn a_hint_that_only_leaves_changed_keeps_the_tables_above() {
    let mut bench = Bench::new(Profile::legacy());
    assert!(bench.dma().is_ok());
    let other = bench.memory.alloc().expect("a frame");
    bench.memory.store(bench.tables[1], 0, other.raw() | 3);
    bench.invalidate(0, Descriptor::iotlb_pages(5, 0, 0, true, NO_DRAIN));
    assert!(bench.dma().is_ok(), "the old table is walked still");
    bench.invalidate(1, Descriptor::iotlb_pages(5, 0, 0, false, NO_DRAIN));
    assert_eq!(bench.dma(), Err(reason::WRITE));
    bench.machine.assert_clean();
}

#[test]
fn caching_mode_keeps_what_is_absent() {
    let mut bench = Bench::new(Profile::legacy().caching());
    bench.memory.store(bench.tables[0], 0, 0);
    assert_eq!(bench.dma(), Err(reason::WRITE));
    bench.memory.store(bench.tables[0], 0, bench.data.raw() | 3);
    assert_eq!(bench.dma(), Err(reason::WRITE));
    bench.invalidate(0, Descriptor::iotlb_domain(5, NO_DRAIN));
    assert!(bench.dma().is_ok());
    bench.machine.assert_clean();
}

#[test]
fn two_commands_at_once_are_seen() {
    let bench = Bench::new(Profile::legacy());
    bench.regs.write(regs::GCMD, command::QIE | command::TE | command::SRTP | command::WBF);
    bench.complains_of(&Violation::CommandsAtOnce(command::SRTP | command::WBF));
    bench.regs.write(regs::GCMD, command::QIE);
    bench.complains_of(&Violation::CommandWhileBusy(command::QIE));
}

#[test]
fn interrupt_remapping_without_a_table_is_seen() {
    let bench = Bench::new(Profile::legacy());
    bench.command(command::IRE);
    bench.complains_of(&Violation::NoTable);
}

#[test]
fn a_tail_outside_of_the_ring_is_seen() {
    let bench = Bench::new(Profile::legacy());
    for tail in [4096, 8] {
        bench.regs.write(regs::IQT, tail);
        bench.complains_of(&Violation::TailOutsideRing(tail));
    }
}

#[test]
fn a_descriptor_with_reserved_bits_stops_the_queue() {
    let mut bench = Bench::new(Profile::legacy());
    bench.memory.store(bench.queue, 0, Descriptor::iotlb_global(NO_DRAIN).0[0] | 1 << 8);
    bench.regs.write(regs::IQT, 16);
    while !bench.regs.read(regs::FSTS).iqe() {}
    assert_eq!(bench.regs.read(regs::IQH), 0);
    bench.complains_of(&Violation::BadDescriptor([0x112, 0, 0, 0]));
}

#[test]
fn a_present_entry_edited_word_by_word_is_seen() {
    let mut bench = Bench::new(Profile::legacy());
    let at = 2 * usize::from(RID.devfn());
    bench.memory.store(bench.context, at + 1, 0x601);
    let hpa = bench.context.raw() + 8 * (at as u64 + 1);
    bench.complains_of(&Violation::EditedInPlace { hpa });
}

#[test]
fn frames_freed_while_linked_or_cached_are_seen() {
    let mut bench = Bench::new(Profile::legacy());
    assert!(bench.dma().is_ok());
    let linked = bench.machine.memory.data(1);
    bench.memory.store(bench.tables[0], 1, linked.raw() | 3);
    bench.memory.free(linked);
    bench.complains_of(&Violation::FreedInUse { hpa: linked.raw(), by: "a mapping" });
    bench.memory.store(bench.tables[0], 0, 0);
    bench.memory.free(bench.data);
    bench.complains_of(&Violation::FreedInUse { hpa: bench.data.raw(), by: "the IOTLB" });
    bench.memory.store(bench.tables[1], 0, 0);
    bench.memory.free(bench.tables[0]);
    bench.complains_of(&Violation::FreedInUse { hpa: bench.tables[0].raw(), by: "a cached table" });
    bench.memory.free(bench.root);
    bench.complains_of(&Violation::FreedInUse { hpa: bench.root.raw(), by: "the root table" });
}

#[test]
fn an_entry_that_lets_anybody_in_is_seen() {
    let mut bench = Bench::new(Profile::legacy());
    let table = bench.memory.alloc().expect("a frame");
    let entry = Irte::remapped(0x51, 1);
    bench.memory.store(table, 1, entry.0[1]);
    bench.memory.store(table, 0, entry.0[0]);
    bench.regs.write(regs::IRTA, RemapTableAddress::default().with_irta(table).with_s(7));
    bench.command(command::SIRTP);
    bench.command(command::IRE);
    let message = Message { address: 0xfee0_0010, data: 0 };
    assert!(bench.machine.unit(0).interrupt(RID, message).is_ok());
    bench.complains_of(&Violation::UncheckedSource { index: 0 });
}

#[test]
fn without_write_back_an_incoherent_unit_sees_what_was_there_before() {
    let machine = Machine::new(&[Profile::legacy().incoherent()]);
    let mut memory = machine.memory.clone();
    let frame = memory.alloc().expect("a frame");
    memory.store(frame, 0, 7);
    assert_ne!(crate::DeviceMemory::read(&memory, frame.raw(), false), Some(7));
    memory.write_back(frame, 0, 1);
    assert_eq!(crate::DeviceMemory::read(&memory, frame.raw(), false), Some(7));
}
