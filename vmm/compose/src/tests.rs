//! VDEVs on models of DSA, with a kernel of maps.

use alloc::boxed::Box;
use alloc::collections::{BTreeMap, BTreeSet};
use alloc::string::ToString;
use alloc::sync::Arc;
use alloc::vec::Vec;
use std::sync::{Mutex, MutexGuard};

use device_spec::dsa::command::{Command as Register, CommandStatus, code, error};
use device_spec::dsa::completion::status;
use device_spec::dsa::descriptor::{Descriptor, flag, operation as op};
use device_spec::dsa::registers::{self as regs, cause, state};
use devices::dsa::{Capabilities, Dsa, Plan};
use devices::{
    CarveError, Count, Fault, HostingFunction, Kind, Mode, Page, Resource, Resources, SlotMessage,
    Version,
};
use dsa_model::{Bus, Config, Device, Fault as Injected, Refused, Submission};
use hw::{Clock, Function, Gpa, Iova, PAGE_SIZE, Pasid, RegisterBus, RequesterId, Width};
use pci::{Bar, BarKind, Capability, FunctionInfo, HeaderKind, Reset};
use vmm::pci::{Endpoint, Route, Slot, Source};
use vmm::platform::InterruptMessage;
use x86_spec::apic::DeliveryMode;

use crate::*;

const FIRST: Function = Function { segment: 0, rid: RequesterId::new(0x6a, 1, 0) };
const SECOND: Function = Function { segment: 0, rid: RequesterId::new(0x6f, 1, 0) };
/// Where the guest's memory is, which all PASIDs reach that lead anywhere.
const MEMORY: u64 = 0x10_0000;
const RECORD: u64 = MEMORY + 0x800;
/// Where the first guest has BAR 2; others have it behind.
const PORTALS: u64 = 0x4000_0000;
const V1: Version = Version { major: 1, minor: 0 };
const ONE: Request = Request {
    kind: Kind::Dsa,
    functions: Vec::new(),
    placement: Placement::First,
    queues: 1,
    entries: 16,
    interrupts: 1,
    mode: Mode::Dedicated,
    version: V1,
};

/// The machine: devices, memory, and what the kernel would keep.
#[derive(Debug, Default)]
struct World {
    devices: BTreeMap<Function, Device>,
    memory: Memory,
    mapped: BTreeMap<u64, (Function, Page)>,
    wires: BTreeMap<u32, u8>,
    now: u64,
    next: u32,
    translates: bool,
    delivered: Vec<u8>,
    /// How often it was to look after what is under way.
    asked: usize,
    /// Of registers.
    accesses: u64,
    /// What devices do not say of their queues.
    hidden: u64,
}

#[derive(Debug, Default)]
struct Memory {
    bytes: Vec<u8>,
    pasids: BTreeSet<u32>,
    messages: Vec<(u64, u32)>,
}

impl Memory {
    fn at(&mut self, pasid: Option<Pasid>, iova: Iova, bytes: usize) -> Option<&mut [u8]> {
        let from = iova.raw().checked_sub(MEMORY)? as usize;
        let is_attached = self.pasids.contains(&pasid?.raw());
        self.bytes.get_mut(from..from + bytes).filter(|_| is_attached)
    }
}

impl Bus for Memory {
    fn read(&mut self, pasid: Option<Pasid>, iova: Iova, bytes: &mut [u8]) -> Result<(), Refused> {
        bytes.copy_from_slice(self.at(pasid, iova, bytes.len()).ok_or(Refused)?);
        Ok(())
    }

    fn write(&mut self, pasid: Option<Pasid>, iova: Iova, bytes: &[u8]) -> Result<(), Refused> {
        self.at(pasid, iova, bytes.len()).ok_or(Refused)?.copy_from_slice(bytes);
        Ok(())
    }

    fn message(&mut self, address: u64, data: u32) {
        self.messages.push((address, data));
    }
}

#[derive(Clone, Debug, Default)]
struct Machine(Arc<Mutex<World>>);

#[derive(Clone, Debug)]
struct Registers(Machine, Function);

impl RegisterBus for Registers {
    fn load(&self, offset: u64, width: Width) -> u64 {
        let world = &mut *self.0.world();
        world.accesses += 1;
        world.devices[&self.1].read(offset, width)
    }

    fn store(&self, offset: u64, width: Width, value: u64) {
        let World { devices, memory, accesses, .. } = &mut *self.0.world();
        *accesses += 1;
        devices.get_mut(&self.1).unwrap().write(offset, width, value, memory);
    }
}

impl Clock for Machine {
    fn now_ns(&self) -> u64 {
        self.world().now
    }
}

impl Host for Machine {
    fn attach(&self, _: Function) -> Result<Pasid, NoWay> {
        let world = &mut *self.world();
        world.next += 1;
        let pasid = world.next;
        world.memory.pasids.insert(pasid);
        Pasid::try_new(pasid).ok_or(NoWay)
    }

    fn detach(&self, _: Function, pasid: Pasid, free: bool) {
        assert!(free);
        self.world().memory.pasids.remove(&pasid.raw());
    }

    fn map(&self, gpa: Gpa, function: Function, pages: &[Page]) -> Result<(), NoWay> {
        for (index, page) in (0..).zip(pages) {
            let old = self.world().mapped.insert(gpa.raw() + index * PAGE_SIZE, (function, *page));
            assert!(old.is_none());
        }
        Ok(())
    }

    fn unmap(&self, gpa: Gpa, bytes: u64) {
        let range = gpa.raw()..gpa.raw() + bytes;
        self.world().mapped.retain(|at, _| !range.contains(at));
    }

    fn translates_pasids(&self) -> bool {
        self.world().translates
    }

    fn wire(&self, _: Function, old: Option<WireId>, to: &Route) -> Result<Wire, NoWay> {
        let world = &mut *self.world();
        let id = old.unwrap_or(WireId(world.next));
        world.next += 1;
        world.wires.insert(id.0, to.message.vector);
        Ok(Wire { id, message: SlotMessage { address: 0xfee0_0000, data: id.0 } })
    }

    fn unwire(&self, id: WireId) {
        assert!(self.world().wires.remove(&id.0).is_some());
    }

    fn look_after(&self) {
        self.world().asked += 1;
    }

    fn deliver(&self, message: &InterruptMessage) {
        self.world().delivered.push(message.vector);
    }

    fn write_line(&self, function: Function, page: &Page, offset: u64, line: &[u8; 64]) {
        let World { devices, memory, .. } = &mut *self.world();
        let device = devices.get_mut(&function).unwrap();
        device.submit(page.offset() + offset, line, Submission::Posted, memory);
    }
}

impl Machine {
    fn world(&self) -> MutexGuard<'_, World> {
        self.0.lock().unwrap()
    }

    fn run(&self) {
        let World { devices, memory, now, .. } = &mut *self.world();
        devices.values_mut().for_each(|device| device.run(memory));
        *now += 1_000_000;
    }

    /// Adds a device.
    fn dsa(&self, place: Function, config: Config) -> Box<dyn HostingFunction> {
        self.planned(place, config, Plan::even)
    }

    fn planned(
        &self,
        place: Function,
        config: Config,
        plan: impl FnOnce(&Capabilities) -> Plan,
    ) -> Box<dyn HostingFunction> {
        let mut device = Device::new(config.clone());
        let layout = device.layout();
        {
            let world = &mut *self.world();
            world.memory.bytes.resize(4 * PAGE_SIZE as usize, 0);
            let function = dsa_model::Function {
                bus_master: true,
                pasid: true,
                ats: true,
                ..dsa_model::Function::default()
            };
            device.set_function(function, &mut world.memory);
            let offset = regs::WQCAP.offset();
            let value = device.read(offset, Width::W8) & !world.hidden;
            device.inject(Injected::Lie { offset, value }, &mut world.memory);
            world.devices.insert(place, device);
        }
        let bar = |index, bytes| {
            let kind = BarKind::Memory64;
            Some(Bar { index, kind, prefetchable: true, base: bytes, bytes })
        };
        let info = FunctionInfo {
            function: place,
            parent: None,
            physical: None,
            vendor: 0x8086,
            device: 0x0b25,
            class: device_spec::dsa::CLASS,
            revision: 0,
            subsystem: (0, 0),
            header: HeaderKind::Endpoint,
            bars: [bar(0, layout.bytes), None, bar(2, config.portal_bytes()), None, None, None],
            rom: None,
            caps: Vec::new(),
            extended: alloc::vec![Capability {
                id: pci::spec::extended::PASID,
                version: 1,
                offset: 0x100,
                bytes: None
            }],
            msi: None,
            msix: None,
            pcie: None,
            reset: Reset::Flr,
        };
        let registers = Registers(self.clone(), place);
        let has = Capabilities::read(&registers, &info).unwrap();
        let plan = plan(&has);
        Box::new(Dsa::take(&info, registers, self.clone(), has, plan).unwrap())
    }

    /// A machine with two devices.
    fn composer(&self) -> Composer {
        let mut composer = Composer::default();
        for place in [FIRST, SECOND] {
            composer.add(self.dsa(place, Config::of(regs::Version::V1_0)));
        }
        composer
    }

    /// What the guest's CPU does at an address: whether the page is mapped, and the device took it.
    fn submit(&self, gpa: u64, descriptor: Descriptor) -> bool {
        let found = self.world().mapped.get(&(gpa & !(PAGE_SIZE - 1))).copied();
        let Some((function, page)) = found else { return false };
        let before = self.taken(function);
        self.write_line(function, &page, gpa % PAGE_SIZE, &line(descriptor));
        self.taken(function) != before
    }

    /// Everything that waits in a device's queues.
    fn taken(&self, function: Function) -> u64 {
        let world = self.world();
        let device = &world.devices[&function];
        let queues = device.layout().queues;
        (0..8).map(|queue| device.read(queues + 32 * queue + 24, Width::W2)).sum()
    }

    fn record(&self) -> u8 {
        let at = (RECORD - MEMORY) as usize;
        core::mem::take(&mut self.world().memory.bytes[at])
    }

    /// Vectors that come of the messages that devices have sent, and of software.
    fn vectors(&self) -> Vec<u8> {
        let world = &mut *self.world();
        let messages = core::mem::take(&mut world.memory.messages);
        let mut vectors = core::mem::take(&mut world.delivered);
        vectors.extend(messages.iter().map(|(_, data)| world.wires[data]));
        vectors
    }

    fn is_empty(&self) -> bool {
        let world = self.world();
        world.mapped.is_empty() && world.wires.is_empty() && world.memory.pasids.is_empty()
    }
}

fn line(descriptor: Descriptor) -> [u8; 64] {
    descriptor.0.map(u64::to_le_bytes).as_flattened().try_into().unwrap()
}

fn noop(handle: u16) -> Descriptor {
    Descriptor::default()
        .with_operation(op::NOOP)
        .with_flags(flag::RECORD_VALID | flag::RECORD | flag::INTERRUPT)
        .with_completion(RECORD)
        .with_handle(handle)
}

fn on(vector: u8) -> Slot {
    let mode = DeliveryMode::Fixed;
    let message = InterruptMessage { destination: 0, logical: false, mode, vector, level: false };
    Slot::On(Route { message, vcpu: 0 })
}

/// A guest with a VDEV, as Linux would have it.
struct Guest {
    machine: Machine,
    id: VdevId,
    endpoint: VdevEndpoint,
    portals: u64,
    handles: Vec<u16>,
}

impl Guest {
    fn new(machine: &Machine, composer: &mut Composer, request: &Request) -> Self {
        let host = Arc::new(machine.clone());
        let (id, endpoint) = composer.create(request, host).unwrap();
        let portals = PORTALS + 0x10_0000 * u64::from(id.0);
        let mut guest =
            Self { machine: machine.clone(), id, endpoint, portals, handles: Vec::new() };
        guest.endpoint.place(2, Some(Gpa::new(portals)));
        guest.endpoint.master(true);
        for index in 0..=request.queues as u16 {
            guest.endpoint.interrupt(Source::Msix(index), on(0x30 + index as u8));
        }
        guest.enable(request);
        guest
    }

    fn enable(&mut self, request: &Request) {
        let offsets = self.read(regs::OFFSETS.offset());
        let [groups, queues] = [offsets & 0xffff, offsets >> 16 & 0xffff].map(|at| at * 0x100);
        let settings = 10 << 4 | 1 | 21_u64 << 32 | 5 << 37;
        for index in 0..u64::from(request.queues) {
            self.write(queues + 32 * index, request.entries.into());
            self.write(queues + 32 * index + 8, settings);
            self.write(groups + 64 * index, 1 << index);
            self.write(groups + 64 * index + 32, 1 << index);
        }
        assert_eq!(self.command(code::ENABLE_DEVICE, 0).error(), error::NONE);
        self.handles.clear();
        for index in 0..request.queues {
            assert_eq!(self.command(code::ENABLE_QUEUE, index).error(), error::NONE);
            let handle = self.command(code::REQUEST_HANDLE, index + 1);
            self.handles.push(handle.result());
        }
    }

    fn read(&mut self, offset: u64) -> u64 {
        self.endpoint.bar_read(0, offset, Width::W8)
    }

    fn write(&mut self, offset: u64, value: u64) {
        self.endpoint.bar_write(0, offset, Width::W8, value);
    }

    /// A command, which the guest polls for.
    fn command(&mut self, code: u8, operand: u32) -> CommandStatus {
        let [raw] = Register::default().with_code(code).with_operand(operand).0;
        self.endpoint.bar_write(0, regs::CMD.offset(), Width::W4, raw);
        for _ in 0..20_000 {
            let status = CommandStatus([self.read(regs::CMDSTATUS.offset())]);
            if !status.active() {
                return status;
            }
            self.machine.run();
        }
        panic!("it does not end");
    }

    /// By a queue's first portal.
    fn submit(&self, queue: usize) -> bool {
        let at = self.portals + queue as u64 * 4 * PAGE_SIZE;
        self.machine.submit(at, noop(self.handles[queue]))
    }

    /// A descriptor from submission to interrupt: the record's status, and the vectors that came.
    fn work(&self, queue: usize) -> (u8, Vec<u8>) {
        assert!(self.submit(queue), "queue {queue} is not there");
        self.machine.run();
        (self.machine.record(), self.machine.vectors())
    }
}

fn settle(machine: &Machine, composer: &mut Composer) -> Vec<(VdevId, Result<(), Fault>)> {
    let mut ended = Vec::new();
    for _ in 0..20_000 {
        ended.extend(composer.poll());
        if composer.is_idle() {
            return ended;
        }
        machine.run();
    }
    panic!("it does not settle");
}

fn left(composer: &Composer) -> Vec<Resources> {
    composer.functions().map(|(_, _, left)| left).collect()
}

#[test]
fn a_vdev_works_without_anything_coming_here_and_gives_all_back() {
    let machine = Machine::default();
    let mut composer = machine.composer();
    let before = left(&composer);
    let guest = Guest::new(&machine, &mut composer, &ONE);
    let counters = composer.vdev(guest.id).unwrap().lock().counters().clone();
    assert_eq!(counters.registers["CMD"], [0, 3]);
    assert_eq!(counters.registers["WQCFG"], [0, 2]);
    assert_eq!(guest.work(0), (status::SUCCESS, alloc::vec![0x31]));
    assert_eq!(*composer.vdev(guest.id).unwrap().lock().counters(), counters);
    assert_ne!(left(&composer), before);
    composer.destroy(guest.id, false).unwrap();
    assert!(!guest.submit(0));
    assert_eq!(settle(&machine, &mut composer), [(guest.id, Ok(()))]);
    assert_eq!(left(&composer), before);
    assert!(machine.is_empty());
    assert_eq!(composer.destroy(guest.id, false), Err(Fault::Stale));
    assert!(composer.owners.is_empty());
}

#[test]
fn a_vdev_that_goes_takes_no_more_orders() {
    let machine = Machine::default();
    let mut composer = machine.composer();
    let before = left(&composer);
    let mut guest = Guest::new(&machine, &mut composer, &ONE);
    assert_eq!(guest.command(code::DISABLE_QUEUE, 1).error(), error::NONE);
    composer.destroy(guest.id, false).unwrap();
    let [enable] = Register::default().with_code(code::ENABLE_QUEUE).0;
    guest.endpoint.bar_write(0, regs::CMD.offset(), Width::W4, enable);
    assert_eq!(settle(&machine, &mut composer), [(guest.id, Ok(()))]);
    assert_eq!(left(&composer), before);
    assert_eq!(guest.read(regs::CMDSTATUS.offset()), u64::MAX);
}

#[test]
fn queues_of_two_functions_are_one_device() {
    let machine = Machine::default();
    let mut composer = machine.composer();
    let request = Request { queues: 2, placement: Placement::Spread, ..ONE };
    let guest = Guest::new(&machine, &mut composer, &request);
    let places: Vec<_> = {
        let vdev = composer.vdev(guest.id).unwrap().lock();
        vdev.interfaces().map(|(place, ..)| place).collect()
    };
    assert_eq!(places, [FIRST, SECOND]);
    for (queue, vector) in [(0, 0x31), (1, 0x32)] {
        assert_eq!(guest.work(queue), (status::SUCCESS, alloc::vec![vector]));
    }
}

#[test]
fn refusals_say_what_is_missing_where_and_keep_nothing() {
    let machine = Machine::default();
    let mut composer = machine.composer();
    let before = left(&composer);
    let missing = |what, wanted, left| CarveError::Missing { what, wanted, left };
    let both = |why| alloc::vec![(FIRST, why), (SECOND, why)];
    let v2 = Version { major: 2, minor: 0 };
    let cases = [
        (Request { queues: 0, ..ONE }, Refusal::Zero),
        (Request { queues: 256, ..ONE }, Refusal::TooMany),
        (Request { queues: u32::MAX, ..ONE }, Refusal::TooMany),
        (Request { kind: Kind::Nvme, ..ONE }, Refusal::Kind(Kind::Nvme)),
        (
            Request { queues: 17, ..ONE },
            Refusal::Missing { queue: 17, of: 17, why: both(missing(Resource::Interfaces, 1, 0)) },
        ),
        (
            Request { functions: alloc::vec![SECOND], entries: u32::MAX, ..ONE },
            Refusal::Missing {
                queue: 1,
                of: 1,
                why: alloc::vec![(SECOND, missing(Resource::Entries, u32::MAX, 16))],
            },
        ),
        (
            Request { version: v2, ..ONE },
            Refusal::Missing { queue: 1, of: 1, why: both(CarveError::Version(V1)) },
        ),
    ];
    let host = || Arc::new(machine.clone());
    for (request, expected) in cases {
        assert_eq!(composer.create(&request, host()).unwrap_err(), expected);
    }
    let nowhere = Function { segment: 1, ..FIRST };
    let request = Request { functions: alloc::vec![nowhere], ..ONE };
    let refusal = composer.create(&request, host()).unwrap_err();
    assert_eq!(refusal, Refusal::NoFunction(Some(nowhere)));
    assert_eq!(left(&composer), before);
    assert!(machine.is_empty());
    let request = Request { entries: 17, functions: alloc::vec![FIRST], ..ONE };
    assert_eq!(
        composer.create(&request, host()).unwrap_err().to_string(),
        "queue 1 of 1 cannot be had; 0000:6a:01.0 has 16 entries in a queue left, 17 wanted"
    );
}

#[test]
fn another_vms_vdev_comes_and_goes_in_the_midst_of_work() {
    let machine = Machine::default();
    let mut composer = machine.composer();
    let first = Guest::new(&machine, &mut composer, &ONE);
    let second = Guest::new(&machine, &mut composer, &ONE);
    assert!(first.submit(0));
    composer.destroy(second.id, false).unwrap();
    settle(&machine, &mut composer);
    machine.run();
    assert_eq!((machine.record(), machine.vectors()), (status::SUCCESS, alloc::vec![0x31]));
    // The handle that was the second one's is refused to the first.
    let foreign = noop(second.handles[0]);
    assert!(machine.submit(PORTALS, foreign));
    machine.run();
    assert_eq!((machine.record(), machine.vectors()), (status::INTERRUPT_HANDLE, Vec::new()));
}

#[test]
fn a_hung_vdev_stays_until_it_is_forced() {
    let machine = Machine::default();
    let mut composer = machine.composer();
    let before = left(&composer);
    let guest = Guest::new(&machine, &mut composer, &ONE);
    let number = {
        let vdev = composer.vdev(guest.id).unwrap().lock();
        vdev.interfaces().next().unwrap().1.number() as u8
    };
    {
        let World { devices, memory, .. } = &mut *machine.world();
        let hang = Injected::Hang { queue: number, abortable: true };
        devices.get_mut(&FIRST).unwrap().inject(hang, memory);
    }
    assert!(guest.submit(0) && guest.submit(0));
    machine.run();
    composer.destroy(guest.id, false).unwrap();
    assert_eq!(settle(&machine, &mut composer), [(guest.id, Err(Fault::Timeout))]);
    assert!(guest.submit(0), "its portal is shown again");
    composer.destroy(guest.id, true).unwrap();
    assert_eq!(settle(&machine, &mut composer), [(guest.id, Ok(()))]);
    assert_eq!(left(&composer), before);
}

#[test]
fn a_vdev_goes_with_its_vm() {
    let machine = Machine::default();
    let mut composer = machine.composer();
    let before = left(&composer);
    let guest = Guest::new(&machine, &mut composer, &ONE);
    assert!(guest.submit(0));
    drop(guest.endpoint);
    assert!(machine.world().mapped.is_empty());
    assert_eq!(settle(&machine, &mut composer), [(guest.id, Ok(()))]);
    assert_eq!(left(&composer), before);
    assert!(machine.is_empty());
}

#[test]
fn the_host_is_told_of_what_a_guest_has_begun_and_waits_for() {
    let machine = Machine::default();
    let mut composer = machine.composer();
    let mut guest = Guest::new(&machine, &mut composer, &ONE);
    settle(&machine, &mut composer);
    let before = machine.world().asked;
    assert!(guest.submit(0));
    assert!(composer.is_idle());
    assert_eq!(machine.world().asked, before, "nothing is to be done for a submission");
    let [drain] = Register::default().with_code(code::DRAIN_ALL).0;
    guest.endpoint.bar_write(0, regs::CMD.offset(), Width::W4, drain);
    assert!(!composer.is_idle());
    assert!(machine.world().asked > before);
}

#[test]
fn leaving_fast_unmaps_drains_and_holds() {
    let machine = Machine::default();
    let mut composer = machine.composer();
    let mut guest = Guest::new(&machine, &mut composer, &ONE);
    let vdev = Arc::clone(composer.vdev(guest.id).unwrap());
    assert!(guest.submit(0));
    vdev.lock().set_policy(0, Policy::Held).unwrap();
    assert!(!guest.submit(0), "nothing is mapped");
    assert_eq!(vdev.lock().set_policy(0, Policy::Fast), Err(Fault::Busy));
    assert_eq!(settle(&machine, &mut composer), []);
    assert_eq!((machine.record(), machine.vectors()), (status::SUCCESS, alloc::vec![0x31]));
    let descriptor = line(noop(guest.handles[0]));
    for _ in 0..17 {
        guest.endpoint.bar_write_line(2, 64, &descriptor);
    }
    machine.run();
    assert_eq!((machine.taken(FIRST), machine.vectors()), (0, Vec::new()));
    assert_eq!(vdev.lock().counters().lost, 1, "a queue has 16 entries");
    vdev.lock().set_policy(0, Policy::Fast).unwrap();
    assert_eq!(machine.taken(FIRST), 16, "what was held goes on");
    machine.run();
    machine.record();
    assert_eq!(machine.vectors(), [0x31; 16]);
    assert_eq!(guest.work(0), (status::SUCCESS, alloc::vec![0x31]));
    vdev.lock().set_policy(0, Policy::Mediated).unwrap();
    settle(&machine, &mut composer);
    guest.endpoint.bar_write_line(2, PAGE_SIZE, &descriptor);
    guest.endpoint.bar_write_line(2, 2 * PAGE_SIZE, &descriptor);
    assert_eq!(machine.taken(FIRST), 1, "there are two portals");
    machine.run();
    vdev.lock().set_policy(0, Policy::Hidden).unwrap();
    guest.endpoint.bar_write_line(2, 0, &descriptor);
    assert_eq!(machine.taken(FIRST), 0);
}

#[test]
fn a_queue_moves_to_another_function_and_goes_on() {
    let machine = Machine::default();
    let mut composer = machine.composer();
    let before = left(&composer);
    let mut guest = Guest::new(&machine, &mut composer, &ONE);
    let vdev = Arc::clone(composer.vdev(guest.id).unwrap());
    let busy = |to| Refusal::Missing {
        queue: 1,
        of: 1,
        why: alloc::vec![(to, CarveError::Fault(Fault::Busy))],
    };
    assert_eq!(composer.move_queue(guest.id, 0, SECOND), Err(busy(SECOND)), "it is fast");
    vdev.lock().set_policy(0, Policy::Held).unwrap();
    assert_eq!(composer.move_queue(guest.id, 0, SECOND), Err(busy(SECOND)), "it drains");
    settle(&machine, &mut composer);
    // On the way, by the handle that was.
    guest.endpoint.bar_write_line(2, 0, &line(noop(guest.handles[0])));
    let old = guest.handles[0];
    {
        // The second function has given another handle first.
        let other = Request { functions: alloc::vec![SECOND], ..ONE };
        let (_, other) = composer.create(&other, Arc::new(machine.clone())).unwrap();
        composer.move_queue(guest.id, 0, SECOND).unwrap();
        drop(other);
    }
    assert_eq!(machine.vectors(), [0x30]);
    let causes = guest.read(regs::INTCAUSE.offset()) as u32;
    assert_eq!(causes & cause::HANDLES_REVOKED, cause::HANDLES_REVOKED);
    settle(&machine, &mut composer);
    assert_eq!(left(&composer)[0], before[0], "the first function has all back");
    assert_eq!(composer.owners.len(), 1);
    vdev.lock().set_policy(0, Policy::Fast).unwrap();
    machine.run();
    assert_eq!((machine.record(), machine.vectors()), (status::SUCCESS, alloc::vec![0x31]));
    guest.handles[0] = guest.command(code::REQUEST_HANDLE, 1).result();
    assert_ne!(guest.handles[0], old);
    assert_eq!(guest.work(0), (status::SUCCESS, alloc::vec![0x31]));
    assert_eq!(machine.taken(FIRST), 0);
    composer.destroy(guest.id, false).unwrap();
    settle(&machine, &mut composer);
    assert_eq!(left(&composer), before);
    assert!(machine.is_empty());
}

#[test]
fn pages_follow_the_guests_bar_and_bus_mastering() {
    let machine = Machine::default();
    let mut composer = machine.composer();
    let request = Request { queues: 2, ..ONE };
    let mut guest = Guest::new(&machine, &mut composer, &request);
    let at = |machine: &Machine| machine.world().mapped.keys().copied().collect::<Vec<_>>();
    let pages = |base: u64| [0, 0x1000, 0x4000, 0x5000].map(|offset| base + offset);
    assert_eq!(at(&machine), pages(PORTALS));
    guest.endpoint.place(2, Some(Gpa::new(0x5000_0000)));
    assert_eq!(at(&machine), pages(0x5000_0000));
    guest.endpoint.master(false);
    assert!(at(&machine).is_empty());
    guest.endpoint.master(true);
    guest.endpoint.place(2, None);
    assert!(at(&machine).is_empty());
    guest.endpoint.place(0, Some(Gpa::new(0x5000_0000)));
    assert!(at(&machine).is_empty());
}

#[test]
fn the_guests_reset_is_its_own() {
    let machine = Machine::default();
    let mut composer = machine.composer();
    let mut guest = Guest::new(&machine, &mut composer, &ONE);
    let other = Guest::new(&machine, &mut composer, &ONE);
    // In the midst of a command.
    assert!(guest.submit(0));
    let [drain] = Register::default().with_code(code::DRAIN_ALL).0;
    guest.endpoint.bar_write(0, regs::CMD.offset(), Width::W4, drain);
    guest.endpoint.reset();
    assert!(!CommandStatus([guest.read(regs::CMDSTATUS.offset())]).active());
    settle(&machine, &mut composer);
    assert!(!guest.submit(0), "its queue is disabled");
    guest.enable(&ONE);
    machine.vectors();
    assert_eq!(guest.work(0), (status::SUCCESS, alloc::vec![0x31]));
    assert_eq!(other.work(0), (status::SUCCESS, alloc::vec![0x31]));
}

#[test]
fn a_reset_voids_what_was_ordered_before_it() {
    let machine = Machine::default();
    // Queues do not tell how full they are: the device's own commands have to wait for them.
    machine.world().hidden = 1 << 52;
    let mut composer = machine.composer();
    let mut guest = Guest::new(&machine, &mut composer, &ONE);
    assert!(guest.submit(0));
    let [drain] = Register::default().with_code(code::DRAIN_ALL).0;
    guest.endpoint.bar_write(0, regs::CMD.offset(), Width::W4, drain);
    assert!(guest.endpoint.is_ready());
    guest.endpoint.reset();
    assert!(!guest.endpoint.is_ready());
    guest.enable(&ONE);
    settle(&machine, &mut composer);
    assert!(guest.endpoint.is_ready());
    machine.record();
    machine.vectors();
    assert_eq!(guest.work(0), (status::SUCCESS, alloc::vec![0x31]));
}

#[test]
fn commands_and_errors_interrupt_by_entry_0() {
    let machine = Machine::default();
    let mut composer = machine.composer();
    let mut guest = Guest::new(&machine, &mut composer, &ONE);
    guest.write(regs::GENCTRL.offset(), 3);
    let [raw] = Register::default().with_code(code::DRAIN_ALL).with_interrupt(true).0;
    guest.endpoint.bar_write(0, regs::CMD.offset(), Width::W4, raw);
    settle(&machine, &mut composer);
    assert_eq!(machine.vectors(), [0x30]);
    // Masked, it waits.
    let Slot::On(route) = on(0x30) else { unreachable!() };
    guest.endpoint.interrupt(Source::Msix(0), Slot::Masked(route));
    let bad = noop(0).with_flags(0).with_operation(0x3f);
    assert!(machine.submit(PORTALS, bad));
    machine.run();
    let reports = composer.attend(FIRST);
    assert_eq!(reports.len(), 1);
    assert_eq!(reports[0].0, Some(guest.id));
    assert!(guest.endpoint.pending(Source::Msix(0)));
    assert_eq!(machine.vectors(), []);
    guest.endpoint.interrupt(Source::Msix(0), on(0x33));
    assert_eq!(machine.vectors(), [0x33]);
    assert!(!guest.endpoint.pending(Source::Msix(0)));
    let causes = guest.read(regs::INTCAUSE.offset()) as u32;
    assert_eq!(causes, cause::COMMAND | cause::SOFTWARE_ERROR);
}

#[test]
fn a_halt_is_seen_by_its_guests_and_survived() {
    let machine = Machine::default();
    let mut composer = machine.composer();
    let mut guest = Guest::new(&machine, &mut composer, &ONE);
    let elsewhere = Request { functions: alloc::vec![SECOND], ..ONE };
    let other = Guest::new(&machine, &mut composer, &elsewhere);
    guest.write(regs::GENCTRL.offset(), 3);
    {
        let World { devices, memory, .. } = &mut *machine.world();
        let halt = Injected::Halt(device_spec::dsa::registers::reset::COMMAND);
        devices.get_mut(&FIRST).unwrap().inject(halt, memory);
    }
    composer.attend(FIRST);
    assert_eq!(guest.read(regs::GENSTS.offset()) & 3, u64::from(state::HALTED));
    assert_eq!(machine.vectors(), [0x30]);
    for _ in 0..4 {
        machine.run();
        composer.attend(FIRST);
    }
    assert_eq!(guest.command(code::RESET_DEVICE, 0).error(), error::NONE);
    guest.enable(&ONE);
    machine.vectors();
    assert_eq!(guest.work(0), (status::SUCCESS, alloc::vec![0x31]));
    assert_eq!(other.work(0), (status::SUCCESS, alloc::vec![0x31]));
}

#[test]
fn a_function_that_is_gone_is_gone_for_its_guests_alone() {
    let machine = Machine::default();
    let mut composer = machine.composer();
    let mut guest = Guest::new(&machine, &mut composer, &ONE);
    let elsewhere = Request { functions: alloc::vec![SECOND], ..ONE };
    let other = Guest::new(&machine, &mut composer, &elsewhere);
    {
        let World { devices, memory, .. } = &mut *machine.world();
        devices.get_mut(&FIRST).unwrap().inject(Injected::Gone, memory);
    }
    composer.attend(FIRST);
    assert_eq!(guest.read(regs::GENSTS.offset()) & 3, u64::from(state::HALTED));
    assert_eq!(guest.command(code::RESET_DEVICE, 0).error(), error::HARDWARE);
    assert_eq!(other.work(0), (status::SUCCESS, alloc::vec![0x31]));
}

#[test]
fn a_shared_queue_is_shown_only_where_pasids_are_translated() {
    for translates in [false, true] {
        let machine = Machine::default();
        machine.world().translates = translates;
        let mut composer = Composer::default();
        composer.add(machine.planned(FIRST, Config::of(regs::Version::V1_0), |has| {
            let mut plan = Plan::even(has);
            let queues = plan.groups.iter_mut().flat_map(|group| &mut group.queues);
            queues.for_each(|queue| queue.mode = Mode::Shared);
            plan
        }));
        let request = Request { mode: Mode::Shared, ..ONE };
        let (_, mut endpoint) = composer.create(&request, Arc::new(machine.clone())).unwrap();
        endpoint.place(2, Some(Gpa::new(PORTALS)));
        endpoint.master(true);
        assert_eq!(machine.world().mapped.is_empty(), !translates);
    }
}

#[test]
fn what_is_left_is_counted() {
    let machine = Machine::default();
    let mut composer = machine.composer();
    let request = Request { queues: 3, interrupts: 2, ..ONE };
    let guest = Guest::new(&machine, &mut composer, &request);
    let [first, second] = left(&composer).try_into().unwrap();
    assert_eq!(first.interfaces, Count { left: 5, of: 8 });
    assert_eq!(first.slots, Count { left: 2042, of: 2048 });
    assert_eq!(second.interfaces, Count { left: 8, of: 8 });
    drop(guest);
}

#[test]
fn making_and_unmaking_one_of_4096_costs_what_the_first_did() {
    let machine = Machine::default();
    let mut composer = Composer::default();
    for index in 0..17 {
        let place = Function { segment: index, ..FIRST };
        // Larger than any real one: those have 8 queues.
        let config = Config { queues: 250, total_size: 250, ..Config::of(regs::Version::V1_0) };
        composer.add(machine.dsa(place, config));
    }
    let request = Request { entries: 1, ..ONE };
    let mut all = Vec::new();
    let mut costs = BTreeSet::new();
    for _ in 0..4096 {
        let before = machine.world().accesses;
        let (id, endpoint) = composer.create(&request, Arc::new(machine.clone())).unwrap();
        composer.destroy(id, true).unwrap();
        assert_eq!(composer.poll(), [(id, Ok(()))]);
        costs.insert(machine.world().accesses - before);
        drop(endpoint);
        all.push(composer.create(&request, Arc::new(machine.clone())).unwrap());
    }
    assert_eq!(costs.len(), 1, "{costs:?}");
    assert_eq!(composer.vdevs().count(), 4096);
}
