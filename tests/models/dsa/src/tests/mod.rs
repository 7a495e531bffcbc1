//! The device on a machine of pages and messages.

mod commands;
mod descriptors;
mod event_log;
mod faults;
mod hostile;
mod interrupts;
mod operations;
mod registers;

use std::collections::{BTreeMap, BTreeSet};

use device_spec::dsa::command::{self, Command, CommandStatus, code, error};
use device_spec::dsa::completion::{CompletionRecord, operand, status};
use device_spec::dsa::descriptor::{Descriptor, flag, operation as op};
use device_spec::dsa::group::GroupConfiguration;
use device_spec::dsa::interrupt::{ImsEntry, MsixPermission};
use device_spec::dsa::portal::Portal;
use device_spec::dsa::queue::QueueConfiguration;
use device_spec::dsa::registers::{
    self as regs, GeneralCapabilities, GeneralStatus, QueueCapabilities, SoftwareError, Version,
    cause, error as software, reset, state,
};
use hw::{Iova, PAGE_SIZE, Pasid, Width};

use crate::{Bus, Config, Device, Fault, Function, Refused, Submission};

/// Memory by PASID and page, of which what is not there is refused, and the messages that came.
#[derive(Default)]
struct Machine {
    pages: BTreeMap<(Option<u32>, u64), [u8; PAGE_SIZE as usize]>,
    read_only: BTreeSet<(Option<u32>, u64)>,
    messages: Vec<(u64, u32)>,
}

impl Machine {
    fn page(
        &mut self,
        pasid: Option<Pasid>,
        iova: Iova,
        bytes: usize,
    ) -> Result<&mut [u8], Refused> {
        let (page, within) = (iova.align_down(PAGE_SIZE).raw(), iova.page_offset() as usize);
        let page = self.pages.get_mut(&(pasid.map(Pasid::raw), page)).ok_or(Refused)?;
        page.get_mut(within..within + bytes).ok_or(Refused)
    }
}

impl Bus for Machine {
    fn read(&mut self, pasid: Option<Pasid>, iova: Iova, bytes: &mut [u8]) -> Result<(), Refused> {
        let found = self.page(pasid, iova, bytes.len())?;
        bytes.copy_from_slice(found);
        Ok(())
    }

    fn write(&mut self, pasid: Option<Pasid>, iova: Iova, bytes: &[u8]) -> Result<(), Refused> {
        let page = (pasid.map(Pasid::raw), iova.align_down(PAGE_SIZE).raw());
        if self.read_only.contains(&page) {
            return Err(Refused);
        }
        self.page(pasid, iova, bytes.len())?.copy_from_slice(bytes);
        Ok(())
    }

    fn message(&mut self, address: u64, data: u32) {
        self.messages.push((address, data));
    }
}

const ALL: Function = Function {
    bus_master: true,
    pasid: true,
    privileged: false,
    ats: true,
    msix: true,
    msix_masked: false,
};
const PASID: u32 = 0x123;
const OTHER: u32 = 0x456;
/// Where each PASID has its pages, its completion records and the list of its batches.
const MEMORY: u64 = 0x10_0000;
const PAGES: u64 = 8;
const RECORD: u64 = MEMORY + 0x800;
const LIST: u64 = MEMORY + 0x7000;
/// All that is needed to be told of it.
const TOLD: u32 = flag::RECORD_VALID | flag::RECORD;

struct Rig {
    device: Device,
    machine: Machine,
}

impl Rig {
    /// A device that is disabled.
    fn new(config: Config) -> Self {
        let mut rig = Self { device: Device::new(config), machine: Machine::default() };
        rig.device.set_function(ALL, &mut rig.machine);
        for pasid in [Some(PASID), Some(OTHER), None] {
            for page in 0..PAGES {
                let page = MEMORY + page * PAGE_SIZE;
                rig.machine.pages.insert((pasid, page), [0; PAGE_SIZE as usize]);
            }
        }
        let msix = rig.device.layout().msix;
        for entry in 0..2 {
            rig.write(msix + 16 * entry, 0xfee0_0000 + (entry << 12));
            rig.write(msix + 16 * entry + 8, 0x40 + entry);
        }
        rig
    }

    /// A device whose queue 0 is dedicated to [`PASID`], 1 to [`OTHER`], 2 is shared and 3 has no PASID, with an engine each.
    fn enabled(version: Version) -> Self {
        let mut rig = Self::new(Config::of(version));
        rig.configure();
        assert_eq!(rig.command(code::ENABLE_DEVICE, 0), error::NONE);
        for queue in 0..4 {
            assert_eq!(rig.command(code::ENABLE_QUEUE, queue), error::NONE);
        }
        rig
    }

    fn configure(&mut self) {
        let common = QueueConfiguration::default()
            .with_size(8)
            .with_threshold(4)
            .with_priority(1)
            .with_max_transfer(21)
            .with_max_batch(3);
        let dedicated = common.with_dedicated(true);
        self.queue(0, dedicated.with_pasid_enable(true).with_pasid(PASID));
        self.queue(1, dedicated.with_pasid_enable(true).with_pasid(OTHER));
        self.queue(2, common.with_pasid_enable(true));
        self.queue(3, dedicated);
        for group in 0..4 {
            let one = GroupConfiguration::default().with_read_buffers_allowed(96);
            self.group(group, one.with_queues(1 << group).with_engines(1 << group));
        }
        self.write(regs::GENCFG.offset(), 1 << 12);
    }

    fn queue_offset(&self, queue: u64) -> u64 {
        self.device.layout().queues + queue * self.device.config.queue_bytes()
    }

    fn queue(&mut self, queue: u64, config: QueueConfiguration) {
        let at = self.queue_offset(queue);
        (0..4).for_each(|word| self.write(at + 8 * word, config.0[word as usize]));
    }

    fn group(&mut self, group: u64, config: GroupConfiguration) {
        let at = self.device.layout().groups + 64 * group;
        (0..8).for_each(|word| self.write(at + 8 * word, config.0[word as usize]));
    }

    fn write(&mut self, offset: u64, value: u64) {
        self.device.write(offset, Width::W8, value, &mut self.machine);
    }

    fn read(&self, offset: u64) -> u64 {
        self.device.read(offset, Width::W8)
    }

    fn state(&self) -> u8 {
        GeneralStatus([self.read(regs::GENSTS.offset())]).state()
    }

    fn queue_state(&self, queue: u64) -> u8 {
        let word = self.read(self.queue_offset(queue) + 24);
        QueueConfiguration([0, 0, 0, word, 0, 0, 0, 0]).state()
    }

    /// Writes a command.
    fn begin(&mut self, code: u8, operand: u32) {
        let command = Command::default().with_code(code).with_operand(operand);
        self.device.write(regs::CMD.offset(), Width::W4, command.0[0], &mut self.machine);
    }

    fn status(&self) -> CommandStatus {
        CommandStatus([self.read(regs::CMDSTATUS.offset())])
    }

    /// A command from its beginning to its end; its error.
    fn command(&mut self, code: u8, operand: u32) -> u8 {
        self.begin(code, operand);
        self.device.run(&mut self.machine);
        assert!(!self.status().active(), "command {code}");
        self.status().error()
    }

    fn error(&self) -> SoftwareError {
        SoftwareError(std::array::from_fn(|at| self.read(regs::SWERROR.offset() + 8 * at as u64)))
    }

    fn submit(&mut self, portal: Portal, how: Submission, descriptor: Descriptor) -> bool {
        let bytes = bytes(descriptor);
        self.device.submit(portal.offset(), &bytes, how, &mut self.machine)
    }

    /// Submits to a dedicated queue, by its first portal.
    fn post(&mut self, queue: u8, descriptor: Descriptor) -> bool {
        self.submit(Portal { queue, ims: false, limited: false }, Submission::Posted, descriptor)
    }

    /// What becomes of a descriptor in queue 0 or 1, of which the record is cleared before.
    fn run(&mut self, queue: u8, descriptor: Descriptor) -> CompletionRecord {
        let pasid = [Some(PASID), Some(OTHER), None, None][usize::from(queue)];
        self.put(pasid, RECORD, &[0; 32]);
        assert!(self.post(queue, descriptor.with_completion(RECORD)));
        self.device.run(&mut self.machine);
        self.record(pasid, RECORD)
    }

    fn record(&mut self, pasid: Option<u32>, at: u64) -> CompletionRecord {
        let bytes = self.peek(pasid, at, 32);
        let (words, _) = bytes.as_chunks();
        CompletionRecord(std::array::from_fn(|at| u64::from_le_bytes(words[at])))
    }

    fn put(&mut self, pasid: Option<u32>, at: u64, bytes: &[u8]) {
        let pasid = pasid.and_then(Pasid::try_new);
        for (offset, byte) in bytes.iter().enumerate() {
            let to = Iova::new(at + offset as u64);
            self.machine.write(pasid, to, &[*byte]).expect("memory");
        }
    }

    fn peek(&mut self, pasid: Option<u32>, at: u64, bytes: usize) -> Vec<u8> {
        let pasid = pasid.and_then(Pasid::try_new);
        let mut found = vec![0; bytes];
        for (offset, byte) in found.iter_mut().enumerate() {
            let from = Iova::new(at + offset as u64);
            self.machine.read(pasid, from, std::slice::from_mut(byte)).expect("memory");
        }
        found
    }

    fn batch(&mut self, members: &[Descriptor]) -> CompletionRecord {
        for (at, member) in members.iter().enumerate() {
            self.put(Some(PASID), LIST + 64 * at as u64, &bytes(*member));
        }
        self.run(0, told(op::BATCH).with_source(LIST).with_size(members.len() as u32))
    }
}

fn bytes(descriptor: Descriptor) -> [u8; 64] {
    let words = descriptor.0.map(u64::to_le_bytes);
    words.as_flattened().try_into().expect("64 bytes")
}

fn told(operation: u8) -> Descriptor {
    Descriptor::default().with_operation(operation).with_flags(TOLD)
}

fn copy(source: u64, destination: u64, bytes: u32) -> Descriptor {
    let copy = told(op::MEMORY_MOVE).with_source(source).with_destination(destination);
    copy.with_size(bytes)
}

fn pattern(bytes: usize) -> Vec<u8> {
    (0..bytes).map(|at| (at * 7 + at / 256) as u8).collect()
}
