//! Two functions of `tests/models/dsa`, of versions 1.0 and 2.0, at addresses 0:4.0 and 0:5.0: descriptors through portals,
//! their DMA with the PASIDs of their queues, and their interrupts.

use device_spec::dsa::command::{Command, CommandStatus, code};
use device_spec::dsa::completion::{BYTES, CompletionRecord, status};
use device_spec::dsa::descriptor::{Descriptor, flag, operation};
use device_spec::dsa::group::{self, GroupConfiguration};
use device_spec::dsa::interrupt::{IMS_BYTES, ImsEntry, MsixPermission, PERMISSION_BYTES};
use device_spec::dsa::portal::Portal;
use device_spec::dsa::queue::{self, QueueConfiguration};
use device_spec::dsa::registers::{
    self as regs, GeneralConfiguration, Offsets, QueueCapabilities, TABLE_UNIT,
};
use hw::{Function, PAGE_SIZE, RequesterId};
use iommu::{Message, Source, Stage, Target};
use iommu_spec::fault::reason;

use crate::machine::Machine;
use crate::spaces::{FRAMES, Granted, IOVA, PASID_CONTROL, config};

pub(crate) const DEVICES: [&str; 2] = ["kerf-dsa,addr=04.0", "kerf-dsa-2,addr=05.0"];

const FUNCTIONS: [(Function, u64); 2] = [
    (Function { segment: 0, rid: RequesterId::new(0, 4, 0) }, 0x100),
    (Function { segment: 0, rid: RequesterId::new(0, 5, 0) }, 0x200),
];
/// The MSI-X capability, and the ATS capability's control register.
const MSIX: u64 = 0x40;
const ATS_CONTROL: u64 = 0x146;
/// PASIDs of queues 0 and 1.
const PASIDS: [u32; 2] = [5, 0x45];
/// Where in a space's memory completion records go.
const RECORD: u64 = 0x3800;
/// The interrupt entry that is used.
const ENTRY: u64 = 3;

/// A device, and where its tables are.
struct Bench<'a> {
    machine: &'a mut Machine,
    function: Function,
    registers: u64,
    portals: u64,
    offsets: Offsets,
    /// Bytes of a queue's configuration.
    queue_bytes: u64,
    /// The last vector that was used, each once.
    vector: u8,
}

pub(crate) fn check(mut machine: Machine) {
    let before = machine.iommu.counts();
    for (number, (function, version)) in (0..).zip(FUNCTIONS) {
        let mut bench = Bench::new(&mut machine, function, 0x50 + 0x10 * number);
        assert_eq!(bench.read(regs::VERSION.offset(), 'l'), version, "not such a device");
        bench.enable();
        bench.dma();
        bench.interrupts();
        assert_eq!(machine.iommu.counts(), before, "something is lost");
    }
    assert_eq!(machine.iommu.take_events(), []);
}

impl<'a> Bench<'a> {
    fn new(machine: &'a mut Machine, function: Function, vector: u8) -> Self {
        let registers = 0xc000_0000 + u64::from(function.rid.0) * 0x10_0000;
        let portals = registers + 0x8_0000;
        let qemu = &machine.qemu;
        // Both BARs, then memory space and bus mastering, PASIDs, ATS and MSI-X.
        for (bar, at) in [(0x10, registers), (0x18, portals)] {
            qemu.configure(function, bar, at as u32);
            qemu.configure(function, bar + 4, 0);
        }
        qemu.configure(function, 0x04, 6);
        for (register, value) in [(PASID_CONTROL, 1), (ATS_CONTROL, 1 << 15), (MSIX + 2, 1 << 15)] {
            qemu.write(config(function) + register, 'w', value);
        }
        let [low, high] = [0, 8].map(|at| qemu.read(registers + regs::OFFSETS.offset() + at, 'q'));
        let queues = QueueCapabilities([qemu.read(registers + regs::WQCAP.offset(), 'q')]);
        Self {
            machine,
            function,
            registers,
            portals,
            offsets: Offsets([low, high]),
            queue_bytes: queue::bytes(queues.config_size()),
            vector,
        }
    }

    fn read(&self, offset: u64, width: char) -> u64 {
        self.machine.qemu.read(self.registers + offset, width)
    }

    fn write(&self, offset: u64, width: char, value: u64) {
        self.machine.qemu.write(self.registers + offset, width, value);
    }

    fn table(&self, offset: u16) -> u64 {
        u64::from(offset) * TABLE_UNIT
    }

    fn command(&self, code: u8, operand: u32) {
        let command = Command::default().with_code(code).with_operand(operand);
        self.write(regs::CMD.offset(), 'l', command.0[0]);
        let status = CommandStatus([self.read(regs::CMDSTATUS.offset(), 'l')]);
        assert_eq!((status.active(), status.error()), (false, 0), "command {code}");
    }

    /// Two dedicated queues, each with a group, an engine and a PASID of its own.
    fn enable(&self) {
        let general = GeneralConfiguration::default().with_user_interrupts(true);
        self.write(regs::GENCFG.offset(), 'l', general.0[0]);
        for (number, pasid) in (0..).zip(PASIDS) {
            let group = GroupConfiguration::default()
                .with_queues(1 << number)
                .with_engines(1 << number)
                .with_read_buffers_allowed(8);
            let at = self.table(self.offsets.groups()) + number * group::BYTES;
            for (word, value) in (0..).zip(group.0) {
                self.write(at + 8 * word, 'q', value);
            }
            let queue = QueueConfiguration::default()
                .with_size(8)
                .with_dedicated(true)
                .with_pasid_enable(true)
                .with_pasid(pasid)
                .with_priority(1)
                .with_max_transfer(16)
                .with_max_batch(4);
            let at = self.table(self.offsets.queues()) + number * self.queue_bytes;
            for (word, value) in (0..2).zip(queue.0) {
                self.write(at + 8 * word, 'q', value);
            }
        }
        self.command(code::ENABLE_DEVICE, 0);
        (0..2).for_each(|queue| self.command(code::ENABLE_QUEUE, queue));
    }

    /// A queue carries a descriptor out, whose record is in the memory `data` that its PASID reaches.
    fn submit(&self, portal: Portal, descriptor: Descriptor, data: u64) -> CompletionRecord {
        let flags = descriptor.flags() | flag::RECORD_VALID | flag::RECORD;
        let descriptor = descriptor.with_flags(flags).with_completion(IOVA + RECORD);
        self.machine.qemu.write(data + RECORD, 'q', 0);
        for (word, value) in (0..).zip(descriptor.0) {
            self.machine.qemu.write(self.portals + portal.offset() + 8 * word, 'q', value);
        }
        let words = std::array::from_fn(|word| data + RECORD + 8 * word as u64);
        assert_eq!(size_of_val(&words) as u64, BYTES);
        CompletionRecord(words.map(|at| self.machine.qemu.read(at, 'q')))
    }

    fn dma(&mut self) {
        let portal = |queue| Portal { queue, ims: false, limited: true };
        let without = self.machine.grant(self.function, None);
        let granted = PASIDS.map(|raw| self.machine.grant(self.function, Some(raw)));
        let data = |granted: &Granted| granted.data.raw();
        let (from, to) = (0xff0, 0x1ff4);
        for (queue, own) in granted.iter().enumerate() {
            for word in (0..32).step_by(8) {
                let value = 0x1111 * (word + 1) + queue as u64;
                self.machine.qemu.write(data(own) + from + word, 'q', value);
            }
        }
        let copy = Descriptor::default()
            .with_operation(operation::MEMORY_MOVE)
            .with_source(IOVA + from)
            .with_destination(IOVA + to)
            .with_size(32);
        // The same descriptor is other memory for each queue.
        for (queue, own) in granted.iter().enumerate() {
            let record = self.submit(portal(queue as u8), copy, data(own));
            assert_eq!((record.status(), self.machine.faults()), (status::SUCCESS, vec![]));
            for word in (0..32).step_by(8) {
                let found = self.machine.qemu.read(data(own) + to + word, 'q');
                assert_eq!(found, 0x1111 * (word + 1) + queue as u64);
            }
        }
        self.faults(copy, data(&granted[0]));
        // Half a descriptor is none, and the next one is whole.
        self.machine.qemu.write(self.portals + 8, 'q', 1);
        let record = self.submit(portal(1), copy, data(&granted[1]));
        assert_eq!(record.status(), status::SUCCESS);
        self.machine.take_back(granted);
        self.machine.take_back([without]);
    }

    /// Queue 0 is told where memory ends, and the unit tells of it, too.
    fn faults(&mut self, copy: Descriptor, data: u64) {
        let unmapped = match self.machine.iommu.stage() {
            Stage::Second => reason::WRITE,
            Stage::First => reason::FIRST_ABSENT,
        };
        let end = IOVA + FRAMES * PAGE_SIZE;
        let portal = Portal { queue: 0, ims: true, limited: false };
        let record = self.submit(portal, copy.with_destination(end - 8), data);
        assert_eq!((record.status(), record.write()), (status::PAGE_FAULT, true));
        assert_eq!((record.bytes(), record.fault_address()), (8, end));
        let faults = self.machine.faults();
        let [fault] = faults[..] else { panic!("not one fault: {faults:?}") };
        let told = (fault.function, fault.pasid.map(hw::Pasid::raw), fault.address, fault.reason);
        assert_eq!(told, (self.function, Some(PASIDS[0]), end, unmapped), "{fault}");
    }

    /// Entry 3 of both tables, for the first PASID.
    fn set_entries(&self, message: Message) {
        let ims = ImsEntry::default().with_data(message.data);
        let ims = ims.with_pasid_enable(true).with_pasid(PASIDS[0]);
        let at = self.table(self.offsets.ims()) + ENTRY * IMS_BYTES;
        self.write(at, 'q', message.address);
        self.write(at + 8, 'q', ims.0[1]);
        let permission = MsixPermission::default().with_pasid_enable(true).with_pasid(PASIDS[0]);
        let at = self.table(self.offsets.permissions()) + ENTRY * PERMISSION_BYTES;
        self.write(at, 'l', permission.0[0]);
        // The table is where the capability says.
        let at = self.machine.qemu.read(config(self.function) + MSIX + 4, 'l') + 16 * ENTRY;
        self.write(at, 'q', message.address);
        self.write(at + 8, 'q', message.data.into());
    }

    fn interrupts(&mut self) {
        let mut granted = vec![self.machine.grant(self.function, None)];
        granted.extend(PASIDS.map(|raw| self.machine.grant(self.function, Some(raw))));
        let data = [1, 2].map(|at: usize| granted[at].data.raw());
        let noop = Descriptor::default().with_operation(operation::NOOP);
        let noop = noop.with_flags(flag::INTERRUPT).with_handle(ENTRY as u16);
        for ims in [false, true] {
            self.vector += 1;
            let target = Target::Cpu { apic_id: 0, vector: self.vector };
            let source = Source::Function(self.function);
            let route = self.machine.iommu.route(source, &[target]).expect("entries");
            self.set_entries(route.message());
            // The entry is its owner's, and not its neighbour's.
            for (queue, expected) in [(1, status::INTERRUPT_HANDLE), (0, status::SUCCESS)] {
                let before = self.machine.qemu.vectors();
                let portal = Portal { queue, ims, limited: false };
                let record = self.submit(portal, noop, data[usize::from(queue)]);
                assert_eq!(record.status(), expected);
                let now = self.machine.qemu.vectors();
                let came = (&now - &before).into_iter().collect::<Vec<_>>();
                let due = if queue == 0 { vec![self.vector] } else { vec![] };
                assert_eq!((came, self.machine.faults()), (due, vec![]));
            }
            let pending = self.machine.iommu.unroute(route);
            self.machine.retire(pending);
        }
        self.machine.take_back(granted);
    }
}
