//! The driver on the model of the device.

mod carving;
mod trouble;
mod work;

use alloc::collections::BTreeMap;
use alloc::sync::Arc;
use alloc::vec::Vec;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard};

use device_spec::dsa::completion::{self, CompletionRecord};
use device_spec::dsa::descriptor::{Descriptor, flag, operation as op};
use device_spec::dsa::registers::Version as Registers;
use dsa_model::{Bus, Config, Device, Refused, Submission};
use hw::{Clock, Function, Iova, PAGE_SIZE, Pasid, RegisterBus, RequesterId, Width};
use pci::{Bar, BarKind, Capability, FunctionInfo, HeaderKind, Msix, PcieKind, Reset};

use super::{Capabilities, Dsa, Plan};
use crate::*;

/// Memory by PASID and page, and the messages that came.
#[derive(Debug, Default)]
pub(super) struct Machine {
    pages: BTreeMap<(Option<u32>, u64), [u8; PAGE_SIZE as usize]>,
    messages: Vec<(u64, u32)>,
}

impl Machine {
    fn at(&mut self, pasid: Option<Pasid>, iova: Iova, bytes: usize) -> Option<&mut [u8]> {
        let (page, within) = (iova.align_down(PAGE_SIZE).raw(), iova.page_offset() as usize);
        let page = self.pages.get_mut(&(pasid.map(Pasid::raw), page))?;
        page.get_mut(within..within + bytes)
    }
}

impl Bus for Machine {
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

#[derive(Debug)]
pub(super) struct World {
    device: Device,
    machine: Machine,
    accesses: u64,
}

/// The device's BAR 0, and all else of the world around it.
#[derive(Clone, Debug)]
pub(super) struct Rig(Arc<Mutex<World>>);

impl RegisterBus for Rig {
    fn load(&self, offset: u64, width: Width) -> u64 {
        let mut world = self.world();
        world.accesses += 1;
        world.device.read(offset, width)
    }

    fn store(&self, offset: u64, width: Width, value: u64) {
        let world = &mut *self.world();
        world.accesses += 1;
        world.device.write(offset, width, value, &mut world.machine);
    }
}

#[derive(Clone, Debug, Default)]
pub(super) struct Time(Arc<AtomicU64>);

impl Time {
    fn pass(&self, ns: u64) {
        self.0.fetch_add(ns, Ordering::Relaxed);
    }
}

impl Clock for Time {
    fn now_ns(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
    fn relax(&self) {
        self.pass(1_000_000);
    }
}

const PLACE: Function = Function { segment: 0, rid: RequesterId::new(0x6a, 1, 0) };
const SECOND: u64 = 1_000_000_000;
/// Where each PASID has its memory.
const MEMORY: u64 = 0x10_0000;
pub(super) const RECORD: u64 = MEMORY + 0x800;
const TOLD: u32 = flag::RECORD_VALID | flag::RECORD;
pub(super) const V1: Version = Version { major: 1, minor: 0 };
pub(super) const V2: Version = Version { major: 2, minor: 0 };
const ONE: Want = Want { queues: 1, entries: 16, slots: 1, mode: Mode::Dedicated, version: V1 };

impl Rig {
    fn new(config: Config) -> Self {
        let mut world =
            World { device: Device::new(config), machine: Machine::default(), accesses: 0 };
        let function = dsa_model::Function {
            bus_master: true,
            pasid: true,
            ats: true,
            ..dsa_model::Function::default()
        };
        world.device.set_function(function, &mut world.machine);
        for pasid in 1..=4 {
            for page in 0..4 {
                let at = MEMORY + page * PAGE_SIZE;
                world.machine.pages.insert((Some(pasid), at), [0; PAGE_SIZE as usize]);
            }
        }
        Self(Arc::new(Mutex::new(world)))
    }

    fn world(&self) -> MutexGuard<'_, World> {
        self.0.lock().unwrap()
    }

    fn inject(&self, fault: dsa_model::Fault) {
        let world = &mut *self.world();
        world.device.inject(fault, &mut world.machine);
    }

    pub(super) fn run(&self) {
        let world = &mut *self.world();
        world.device.run(&mut world.machine);
    }

    /// Submits to a page, as an owner does by whom it is mapped.
    fn submit(&self, page: &Page, descriptor: Descriptor) -> bool {
        let world = &mut *self.world();
        let words = descriptor.0.map(u64::to_le_bytes);
        let bytes = words.as_flattened().try_into().unwrap();
        world.device.submit(page.offset(), &bytes, Submission::Posted, &mut world.machine)
    }

    pub(super) fn put(&self, pasid: u32, at: u64, bytes: &[u8]) {
        self.world().machine.write(Pasid::try_new(pasid), Iova::new(at), bytes).unwrap();
    }

    fn peek(&self, pasid: u32, at: u64, bytes: usize) -> Vec<u8> {
        let mut found = alloc::vec![0; bytes];
        self.world().machine.read(Pasid::try_new(pasid), Iova::new(at), &mut found).unwrap();
        found
    }

    pub(super) fn record(&self, pasid: u32) -> CompletionRecord {
        let bytes = self.peek(pasid, RECORD, completion::BYTES as usize);
        let (words, _) = bytes.as_chunks();
        CompletionRecord(core::array::from_fn(|at| u64::from_le_bytes(words[at])))
    }

    pub(super) fn messages(&self) -> Vec<(u64, u32)> {
        core::mem::take(&mut self.world().machine.messages)
    }

    /// What enumeration would have found.
    fn info(&self) -> FunctionInfo {
        let layout = self.world().device.layout();
        let bar = |index, bytes| {
            Some(Bar { index, kind: BarKind::Memory64, prefetchable: true, base: bytes, bytes })
        };
        let none = None;
        FunctionInfo {
            function: PLACE,
            parent: None,
            physical: None,
            vendor: 0x8086,
            device: 0x0b25,
            class: device_spec::dsa::CLASS,
            revision: 0,
            subsystem: (0, 0),
            header: HeaderKind::Endpoint,
            bars: [bar(0, layout.bytes), none, bar(2, 256 * 4 * PAGE_SIZE), none, none, none],
            rom: None,
            caps: Vec::new(),
            extended: alloc::vec![Capability {
                id: pci::spec::extended::PASID,
                version: 1,
                offset: 0x100,
                bytes: Some(8)
            }],
            msi: None,
            msix: Some(Msix {
                offset: 0x40,
                entries: 9,
                table_bar: 0,
                table_offset: layout.msix as u32,
                pba_bar: 0,
                pba_offset: layout.pending as u32,
            }),
            pcie: Some(PcieKind::RootComplexEndpoint),
            reset: Reset::Flr,
        }
    }

    fn capabilities(&self) -> Result<Capabilities, Fault> {
        Capabilities::read(self, &self.info())
    }
}

/// A device that is taken, and the world around it.
pub(super) struct Taken {
    pub(super) dsa: Dsa<Rig, Time>,
    pub(super) rig: Rig,
    time: Time,
}

impl Taken {
    pub(super) fn new(config: Config) -> Self {
        Self::planned(config, Plan::even)
    }

    fn planned(config: Config, plan: impl FnOnce(&Capabilities) -> Plan) -> Self {
        let (rig, time) = (Rig::new(config), Time::default());
        let has = rig.capabilities().unwrap();
        let plan = plan(&has);
        plan.check(&has).unwrap();
        let dsa = Dsa::take(&rig.info(), rig.clone(), time.clone(), has, plan).unwrap();
        Self { dsa, rig, time }
    }

    fn v1() -> Self {
        Self::new(Config::of(Registers::V1_0))
    }

    /// Begins a command and waits for its end; the device works meanwhile.
    pub(super) fn command(&mut self, id: InterfaceId, command: Command) -> Result<(), Fault> {
        self.dsa.start(id, command)?;
        self.end(id)
    }

    fn end(&mut self, id: InterfaceId) -> Result<(), Fault> {
        for _ in 0..100_000 {
            self.rig.run();
            if let Some(result) = self.dsa.poll(id) {
                return result;
            }
            self.time.pass(SECOND / 1000);
        }
        panic!("it does not end")
    }

    /// An interface of a PASID that works; its slot sends `data`.
    fn owned(&mut self, pasid: u32, data: u32) -> InterfaceId {
        let id = self.dsa.carve(&ONE).unwrap();
        self.dsa.bind(id, Pasid::try_new(pasid)).unwrap();
        let message = SlotMessage { address: 0xfee0_1000, data };
        self.dsa.slot(id, 0, Some(message), false).unwrap();
        self.command(id, Command::Enable).unwrap();
        id
    }

    fn interface(&self, id: InterfaceId) -> &Interface {
        self.dsa.interface(id).unwrap()
    }

    /// By its unlimited page for handles of the interrupt message storage.
    pub(super) fn submit(&self, id: InterfaceId, descriptor: Descriptor) -> bool {
        self.rig.submit(&self.interface(id).pages[2], descriptor)
    }
}

fn told(operation: u8) -> Descriptor {
    Descriptor::default().with_operation(operation).with_flags(TOLD).with_completion(RECORD)
}

pub(super) fn copy(bytes: u32) -> Descriptor {
    let (from, to) = (MEMORY + PAGE_SIZE, MEMORY + 2 * PAGE_SIZE);
    told(op::MEMORY_MOVE).with_source(from).with_destination(to).with_size(bytes)
}
