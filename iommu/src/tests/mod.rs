//! The driver on the model. Every test ends with a model that has nothing to complain of.

use hw::{Clock, Deadline, Function, Hpa, Iova, PAGE_SIZE, Pasid, RequesterId};
use models::vtd::{Profile, Request};
use models::{FakeClock, Injecting, Machine, ModelRegs, SplitMemory, Traced};
use paging::Rights;

use crate::dmar::{Dmar, UnitEntry};
use crate::{Attach, Attachment, Config, Hw, Iommu, Message, Mode, Pending, Retired, SpaceId};

mod bring_up;
mod faults;
mod interrupts;
mod lifetimes;
mod trouble;

struct ModelHw;

impl Hw for ModelHw {
    type Regs = Injecting<Traced<ModelRegs>>;
    type Tables = SplitMemory;
    type Clock = FakeClock;
}

const NIC: Function = Function { segment: 0, rid: RequesterId::new(3, 0, 0) };
const DISK: Function = Function { segment: 0, rid: RequesterId::new(4, 0x1f, 7) };
const MESSAGE: Message = Message { address: 0xfee0_1000, data: 0x4031 };

fn config() -> Config {
    Config {
        mode: Mode::Auto,
        x2apic: true,
        interrupt_bits: 9,
        fault_message: Some(MESSAGE),
        fault_limit: 3,
    }
}

/// A table that gives every device of segment n to unit n.
fn dmar(units: usize) -> Dmar {
    let units = (0..units).map(|index| UnitEntry {
        segment: index as u16,
        registers: Hpa::new(0xfed9_0000 + 0x1000 * index as u64),
        register_bytes: PAGE_SIZE,
        include_all: true,
        scopes: Vec::new(),
    });
    Dmar { host_bits: 46, units: units.collect(), ..Dmar::default() }
}

fn start_with(machine: &Machine, dmar: &Dmar, config: Config) -> Iommu<ModelHw> {
    let open = |entry: &UnitEntry| {
        Some(machine.regs((entry.registers.raw() - 0xfed9_0000) as usize / 0x1000))
    };
    let (memory, clock) = (machine.memory.clone(), machine.clock.clone());
    Iommu::start(memory, clock, dmar, &|_| None, config, open).expect("a unit that works")
}

fn start(profile: Profile, mode: Mode) -> (Machine, Iommu<ModelHw>) {
    let machine = Machine::new(&[profile]);
    let iommu = start_with(&machine, &dmar(1), Config { mode, ..config() });
    (machine, iommu)
}

/// Every kind of unit, and the mode it is used in.
fn every_kind() -> Vec<(&'static str, Profile, Mode)> {
    let kinds = Profile::every_kind().into_iter();
    let mut kinds: Vec<_> = kinds.map(|(name, profile)| (name, profile, Mode::Auto)).collect();
    kinds.push(("second, used in legacy mode", Profile::scalable_second(), Mode::Legacy));
    kinds.push(("both, used by the first", Profile::nested(), Mode::ScalableFirst));
    kinds
}

fn on_every_kind(test: impl Fn(&Machine, &mut Iommu<ModelHw>)) {
    for (name, profile, mode) in every_kind() {
        println!("{name}");
        let (machine, mut iommu) = start(profile, mode);
        test(&machine, &mut iommu);
        machine.assert_clean();
    }
}

/// On the kinds of units that have PASIDs.
fn on_scalable(test: impl Fn(&Machine, &mut Iommu<ModelHw>)) {
    for (name, profile, mode) in every_kind() {
        let (machine, mut iommu) = start(profile, mode);
        if iommu.pasid_bits(NIC) > 0 {
            println!("{name}");
            test(&machine, &mut iommu);
        }
        machine.assert_clean();
    }
}

fn pasid(raw: u32) -> Pasid {
    Pasid::try_new(raw).expect("20 bits")
}

fn read(function: Function, address: u64) -> Request {
    Request { rid: function.rid, pasid: None, address, write: false }
}

fn write(function: Function, address: u64) -> Request {
    Request { write: true, ..read(function, address) }
}

fn retire(machine: &Machine, iommu: &mut Iommu<ModelHw>, pending: Pending) -> Retired {
    let deadline = Deadline::after_ns(&machine.clock, 10_000_000);
    pending.wait(iommu, deadline).expect("a unit that answers")
}

/// A space of four pages of data at `iova`, attached.
fn granted(
    machine: &Machine,
    iommu: &mut Iommu<ModelHw>,
    function: Function,
    iova: u64,
) -> (SpaceId, Attachment, Hpa) {
    let data = machine.memory.data(4);
    let space = iommu.create_space().expect("a domain");
    iommu.map(space, Iova::new(iova), data, 4 * PAGE_SIZE, Rights::RW).expect("free");
    let attachment = iommu.attach(Attach::new(function, space)).expect("free");
    (space, attachment, data)
}

fn now(machine: &Machine) -> u64 {
    machine.clock.now_ns()
}
