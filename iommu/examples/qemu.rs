//! The driver against QEMU's VT-d, which is not ours: `cargo run -p iommu --example qemu -- qemu-system-x86_64`. The
//! arguments are the command that starts QEMU 11.1; it runs without a CPU, driven over its test protocol. A device of its
//! own (`edu`) issues DMA and interrupts at address 0:4.0. Ends with `PASS` or a panic.

use std::cell::{Cell, RefCell};
use std::io::{BufRead, BufReader, Write};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::rc::Rc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Instant;

use hw::{
    Clock, Deadline, DeviceTables, Function, Hpa, Iova, OutOfFrames, PAGE_SIZE, RegisterBus,
    RequesterId, TableMemory, Width,
};
use iommu::dmar::{Dmar, UnitEntry};
use iommu::{Attach, Config, Hw, Iommu, Mode, Pending, Source, Stage, Target};
use iommu_spec::fault::reason;
use paging::Rights;

const EDU: Function = Function { segment: 0, rid: RequesterId::new(0, 4, 0) };
const OTHER: Function = Function { segment: 0, rid: RequesterId::new(0, 5, 0) };
const UNIT: Hpa = Hpa::new(0xfed9_0000);
/// Where the device's registers are put, and where its buffer is in its own address space.
const BAR: u64 = 0xe000_0000;
const BUFFER: u64 = 0x4_0000;
/// Memory that nobody is granted.
const CANARY: u64 = 0x800_0000;
const IOVA: u64 = 0x4000_0000;

/// A running QEMU; clones are the same.
#[derive(Clone)]
struct Qemu(Rc<RefCell<Process>>);

struct Process {
    child: Child,
    to: ChildStdin,
    from: BufReader<ChildStdout>,
}

/// The QEMU that runs, for a panic to end: panics abort, so nothing is dropped.
static RUNNING: AtomicU32 = AtomicU32::new(0);

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Qemu {
    fn start(command: &[String], unit: &str) -> Self {
        let (program, arguments) = command.split_first().expect("the command that starts QEMU");
        let mut child = Command::new(program)
            .args(arguments)
            .args(["-machine", "q35,kernel-irqchip=split,accel=qtest", "-m", "512M", "-nodefaults"])
            .args(["-display", "none", "-qtest", "stdio", "-qtest-log", "none", "-device", unit])
            .args(["-device", "edu,addr=04.0,dma_mask=0xffffffffff"])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("a QEMU that starts");
        RUNNING.store(child.id(), Ordering::Relaxed);
        let to = child.stdin.take().expect("piped");
        let from = BufReader::new(child.stdout.take().expect("piped"));
        Self(Rc::new(RefCell::new(Process { child, to, from })))
    }

    /// One command and its answer.
    fn ask(&self, command: &str) -> u64 {
        let mut process = self.0.borrow_mut();
        writeln!(process.to, "{command}").expect("QEMU listens");
        loop {
            let mut line = String::new();
            let read = process.from.read_line(&mut line).expect("QEMU speaks");
            assert!(read > 0, "QEMU ended at `{command}`");
            if let Some(answer) = line.strip_prefix("OK") {
                let hex = answer.trim().trim_start_matches("0x");
                return u64::from_str_radix(hex, 16).unwrap_or_default();
            }
            assert!(line.starts_with("IRQ"), "`{command}` gave {line}");
        }
    }

    fn read(&self, at: u64, width: char) -> u64 {
        self.ask(&format!("read{width} {at:#x}"))
    }

    fn write(&self, at: u64, width: char, value: u64) {
        self.ask(&format!("write{width} {at:#x} {value:#x}"));
    }

    /// Writes the device's configuration space.
    fn configure(&self, offset: u32, value: u32) {
        let address = 1u32 << 31 | u32::from(EDU.rid.0) << 8 | offset;
        self.ask(&format!("outl 0xcf8 {address:#x}"));
        self.ask(&format!("outl 0xcfc {value:#x}"));
    }

    /// The device copies a word from `from` to `to`, one of which is its own buffer.
    fn copy(&self, from: u64, to: u64) {
        for (register, value) in [(0x80, from), (0x88, to), (0x90, 8)] {
            self.write(BAR + register, 'q', value);
        }
        self.write(BAR + 0x98, 'q', if to == BUFFER { 1 } else { 3 });
        self.ask("clock_step 200000000");
        assert_eq!(self.read(BAR + 0x98, 'q') & 1, 0, "the copy goes on");
    }

    /// The device raises its interrupt once.
    fn interrupt(&self) {
        self.write(BAR + 0x60, 'l', 1);
        self.write(BAR + 0x64, 'l', 1);
    }
}

struct Regs(Qemu, Hpa);

impl RegisterBus for Regs {
    fn load(&self, offset: u64, width: Width) -> u64 {
        self.0.read(self.1.raw() + offset, if width == Width::W8 { 'q' } else { 'l' })
    }
    fn store(&self, offset: u64, width: Width, value: u64) {
        self.0.write(self.1.raw() + offset, if width == Width::W8 { 'q' } else { 'l' }, value);
    }
}

/// Frames of QEMU's memory from 16 MiB up: the next one, and how many are in use.
#[derive(Clone)]
struct Memory(Qemu, Rc<Cell<u64>>, Rc<Cell<u64>>);

impl TableMemory for Memory {
    fn alloc(&mut self) -> Result<Hpa, OutOfFrames> {
        self.alloc_run(1)
    }
    fn free(&mut self, table: Hpa) {
        self.free_run(table, 1);
    }
    fn load(&self, table: Hpa, index: usize) -> u64 {
        self.0.read(table.raw() + 8 * index as u64, 'q')
    }
    fn store(&mut self, table: Hpa, index: usize, entry: u64) {
        self.0.write(table.raw() + 8 * index as u64, 'q', entry);
    }
}

impl DeviceTables for Memory {
    fn alloc_run(&mut self, frames: u64) -> Result<Hpa, OutOfFrames> {
        let run = self.1.get().next_multiple_of(frames * PAGE_SIZE);
        self.1.set(run + frames * PAGE_SIZE);
        self.2.set(self.2.get() + frames);
        self.0.ask(&format!("memset {run:#x} {:#x} 0x0", frames * PAGE_SIZE));
        Ok(Hpa::new(run))
    }
    fn free_run(&mut self, run: Hpa, frames: u64) {
        self.2.set(self.2.get() - frames);
        self.0.ask(&format!("memset {:#x} {:#x} 0xff", run.raw(), frames * PAGE_SIZE));
    }
    fn store_pair(&mut self, table: Hpa, index: usize, pair: [u64; 2]) {
        // Nothing runs beside the test, so nobody sees the moment between.
        let [low, high] = pair;
        self.store(table, index + 1, high);
        self.store(table, index, low);
    }
    fn write_back(&mut self, _table: Hpa, _index: usize, _count: usize) {}
}

struct WallClock(Instant);

impl Clock for WallClock {
    fn now_ns(&self) -> u64 {
        self.0.elapsed().as_nanos() as u64
    }
}

struct OnQemu;

impl Hw for OnQemu {
    type Regs = Regs;
    type Tables = Memory;
    type Clock = WallClock;
}

struct Bench {
    qemu: Qemu,
    memory: Memory,
    iommu: Iommu<OnQemu>,
    /// What the device's buffer holds.
    held: u64,
    begun: Instant,
}

impl Bench {
    fn new(command: &[String], options: &str, mode: Mode) -> Self {
        let qemu = Qemu::start(command, &format!("intel-iommu,intremap=on,eim=on{options}"));
        // Registers, then memory space and bus mastering.
        qemu.configure(0x10, BAR as u32);
        qemu.configure(0x04, 6);
        let memory = Memory(qemu.clone(), Rc::new(Cell::new(0x100_0000)), Rc::default());
        let unit = UnitEntry {
            segment: 0,
            registers: UNIT,
            register_bytes: PAGE_SIZE,
            include_all: true,
            scopes: Vec::new(),
        };
        let dmar = Dmar { host_bits: 46, units: vec![unit], ..Dmar::default() };
        let config = Config {
            mode,
            x2apic: true,
            interrupt_bits: 8,
            fault_message: None,
            fault_limit: u32::MAX,
        };
        let begun = Instant::now();
        let clock = WallClock(begun);
        let open = |unit: &UnitEntry| Some(Regs(qemu.clone(), unit.registers));
        let iommu = Iommu::start(memory.clone(), clock, &dmar, &|_| None, config, open);
        let mut iommu = iommu.expect("a unit that works");
        assert_eq!(iommu.take_events(), []);
        Self { qemu, memory, iommu, held: 0, begun }
    }

    fn retire(&mut self, pending: Pending) {
        // The driver gives a unit up before that.
        let deadline = Deadline(self.begun.elapsed().as_nanos() as u64 + 10_000_000_000);
        pending.wait(&mut self.iommu, deadline).expect("a unit that answers");
    }

    /// The device reads a word that nothing else holds from `iova`, which leads to `hpa`.
    fn fill(&mut self, iova: u64, hpa: u64) {
        self.held = self.held.wrapping_add(0x0101_0101_0101_0101);
        self.qemu.write(hpa, 'q', self.held);
        self.qemu.copy(iova, BUFFER);
    }

    /// The device writes to `iova` what it has read last: the fault's reason, or `None` where it got through to `hpa`.
    fn write(&mut self, iova: u64, hpa: u64) -> Option<u8> {
        self.qemu.write(hpa, 'q', !self.held);
        self.qemu.copy(BUFFER, iova);
        let found = self.qemu.read(hpa, 'q');
        let through = found == self.held;
        assert!(through || found == !self.held, "something else was written: {found:#x}");
        let mut faults = Vec::new();
        self.iommu.drain_faults(|fault| faults.push(fault));
        assert_eq!(through, faults.is_empty(), "{faults:?}");
        assert!(faults.iter().all(|fault| fault.function == EDU && !fault.read));
        faults.first().map(|fault| fault.reason)
    }

    fn dma(&mut self) {
        let rights = match self.iommu.stage() {
            Stage::Second => reason::WRITE,
            Stage::First => reason::FIRST_WRITE,
        };
        let absent = match self.iommu.stage() {
            Stage::Second => reason::WRITE,
            Stage::First => reason::FIRST_ABSENT,
        };
        assert_eq!(self.write(CANARY, CANARY), Some(reason::ROOT_ABSENT), "denied by default");
        let mut in_use = None;
        for _ in 0..3 {
            let data = self.memory.alloc_run(1024).expect("frames");
            let space = self.iommu.create_space().expect("a domain");
            self.iommu.map(space, Iova::new(IOVA), data, 4 << 20, Rights::RW).expect("free");
            let attachment = self.iommu.attach(Attach::new(EDU, space)).expect("free");
            self.fill(IOVA + 0x1008, data.raw() + 0x1008);
            for offset in [0, 0x5008, 0x20_0010, 0x3f_fff8] {
                assert_eq!(self.write(IOVA + offset, data.raw() + offset), None);
            }
            let page = Iova::new(IOVA + 0x5000);
            let pending = self.iommu.unmap(space, page, PAGE_SIZE).expect("mapped");
            self.retire(pending);
            assert_eq!(self.write(IOVA + 0x5010, data.raw() + 0x5010), Some(absent));
            assert_eq!(self.write(IOVA + 0x6010, data.raw() + 0x6010), None);
            let page = Iova::new(IOVA + 0x6000);
            let pending = self.iommu.protect(space, page, PAGE_SIZE, Rights::R).expect("mapped");
            self.retire(pending);
            assert_eq!(self.write(IOVA + 0x6018, data.raw() + 0x6018), Some(rights));
            let pending = self.iommu.detach(attachment);
            self.retire(pending);
            let denied = self.write(IOVA + 0x8010, data.raw() + 0x8010);
            assert_eq!(denied, Some(reason::CONTEXT_ABSENT));
            let pending = self.iommu.destroy_space(space).expect("attached nowhere");
            self.retire(pending);
            self.memory.free_run(data, 1024);
            // The context table of the bus stays with the first round.
            let now = Some(self.memory.2.get());
            assert!(in_use.is_none() || in_use == now, "frames are lost: {in_use:?}, {now:?}");
            in_use = now;
        }
    }

    /// The device interrupts: the fault's reason, if there was one.
    fn interrupt(&mut self) -> Option<u8> {
        self.qemu.interrupt();
        let mut faults = Vec::new();
        self.iommu.drain_faults(|fault| faults.push(fault));
        assert!(faults.iter().all(|fault| fault.function == EDU && fault.interrupt));
        faults.first().map(|fault| fault.reason)
    }

    fn interrupts(&mut self) {
        let target = |vector| Target::Cpu { apic_id: 0, vector };
        let route = self.iommu.route(Source::Function(EDU), &[target(0x51)]).expect("entries");
        // The device's MSI capability: address, upper address, data, then on.
        let message = route.message();
        let words = [(0x44, message.address as u32), (0x48, 0), (0x4c, message.data)];
        for (offset, value) in words.into_iter().chain([(0x40, 0x0081_0005)]) {
            self.qemu.configure(offset, value);
        }
        assert_eq!(self.interrupt(), None);
        let pending = self.iommu.retarget(&route, 0, target(0x61)).expect("an entry");
        self.retire(pending);
        assert_eq!(self.interrupt(), None);
        let pending = self.iommu.unroute(route);
        self.retire(pending);
        assert_eq!(self.interrupt(), Some(reason::IRTE_ABSENT));
        let other = self.iommu.route(Source::Function(OTHER), &[target(0x71)]).expect("entries");
        assert_eq!(other.message(), message, "the entry is used again");
        assert_eq!(self.interrupt(), Some(reason::SOURCE));
        let pending = self.iommu.unroute(other);
        self.retire(pending);
    }
}

fn main() {
    let report = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| {
        let _ = Command::new("kill").arg(RUNNING.load(Ordering::Relaxed).to_string()).status();
        report(panic);
    }));
    let command: Vec<String> = std::env::args().skip(1).collect();
    let scalable = ",scalable-mode=on,pasid-bits=20";
    for (options, mode) in [
        (String::new(), Mode::Auto),
        (",aw-bits=39".into(), Mode::Auto),
        (scalable.into(), Mode::Auto),
        (scalable.into(), Mode::Legacy),
        (format!("{scalable},fsts=on"), Mode::Auto),
        (format!("{scalable},caching-mode=on"), Mode::Auto),
    ] {
        println!("intel-iommu{options}, {mode:?}");
        let mut bench = Bench::new(&command, &options, mode);
        bench.dma();
        bench.interrupts();
        assert_eq!(bench.iommu.take_events(), []);
    }
    println!("PASS");
}
