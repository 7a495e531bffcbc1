//! A QEMU without a CPU and the driver that has its VT-d unit: registers, memory and clock over the test protocol.

use std::cell::{Cell, RefCell};
use std::collections::BTreeSet;
use std::io::{BufRead, BufReader, Write};
use std::os::linux::net::SocketAddrExt as _;
use std::os::unix::net::{SocketAddr, UnixListener, UnixStream};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::rc::Rc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Instant;

use hw::{
    Clock, Deadline, DeviceTables, Function, Hpa, OutOfFrames, PAGE_SIZE, RegisterBus, RequesterId,
    TableMemory, Width,
};
use iommu::dmar::{Dmar, UnitEntry};
use iommu::{Config, Fault, Hw, Iommu, Mode, Pending};

const UNIT: Hpa = Hpa::new(0xfed9_0000);
/// Where extended configuration space is put.
pub(crate) const ECAM: u64 = 0xb000_0000;

/// A running QEMU; clones are the same.
#[derive(Clone)]
pub(crate) struct Qemu(Rc<RefCell<Process>>);

struct Process {
    child: Child,
    to: ChildStdin,
    from: BufReader<ChildStdout>,
    monitor: Option<BufReader<UnixStream>>,
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
    fn start(command: &[String], devices: &[&str], unit: &str) -> Self {
        let (program, arguments) = command.split_first().expect("the command that starts QEMU");
        let monitor = format!("kerf-monitor-{}", std::process::id());
        let address = SocketAddr::from_abstract_name(&monitor).expect("a short name");
        let listener = UnixListener::bind_addr(&address).expect("a socket");
        let mut child = Command::new(program)
            .args(arguments)
            .args(["-machine", "q35,kernel-irqchip=split,accel=qtest", "-m", "512M", "-nodefaults"])
            .args(["-display", "none", "-qtest", "stdio", "-qtest-log", "none", "-device", unit])
            .args(devices.iter().flat_map(|device| ["-device", device]))
            .args(["-monitor", "chardev:monitor", "-chardev"])
            .arg(format!("socket,id=monitor,path={monitor},abstract=on"))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("a QEMU that starts");
        RUNNING.store(child.id(), Ordering::Relaxed);
        let to = child.stdin.take().expect("piped");
        let from = BufReader::new(child.stdout.take().expect("piped"));
        let qemu = Self(Rc::new(RefCell::new(Process { child, to, from, monitor: None })));
        // Once it answers it has connected, or it has ended and says so.
        qemu.ask("clock_step 1");
        let (stream, _) = listener.accept().expect("QEMU's monitor");
        qemu.0.borrow_mut().monitor = Some(BufReader::new(stream));
        qemu
    }

    /// One command and its answer.
    pub(crate) fn ask(&self, command: &str) -> u64 {
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

    /// Reads memory or a device's registers; `width` is the protocol's letter.
    pub(crate) fn read(&self, at: u64, width: char) -> u64 {
        self.ask(&format!("read{width} {at:#x}"))
    }

    /// Writes memory or a device's registers.
    pub(crate) fn write(&self, at: u64, width: char, value: u64) {
        self.ask(&format!("write{width} {at:#x} {value:#x}"));
    }

    /// Writes a function's configuration space.
    pub(crate) fn configure(&self, function: Function, offset: u32, value: u32) {
        let address = 1u32 << 31 | u32::from(function.rid.0) << 8 | offset;
        self.ask(&format!("outl 0xcf8 {address:#x}"));
        self.ask(&format!("outl 0xcfc {value:#x}"));
    }

    /// The vectors that wait in the CPU's local APIC. None ever leaves it: there is nobody to take it.
    pub(crate) fn vectors(&self) -> BTreeSet<u8> {
        let mut process = self.0.borrow_mut();
        let monitor = process.monitor.as_mut().expect("a monitor");
        writeln!(monitor.get_mut(), "info lapic").expect("QEMU listens");
        loop {
            let mut line = String::new();
            assert!(monitor.read_line(&mut line).expect("QEMU speaks") > 0, "QEMU ended");
            if let Some(waiting) = line.strip_prefix("IRR") {
                return waiting.split_whitespace().filter_map(|word| word.parse().ok()).collect();
            }
        }
    }
}

pub(crate) struct Regs(Qemu, Hpa);

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
pub(crate) struct Memory(Qemu, Rc<Cell<u64>>, Rc<Cell<u64>>);

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

pub(crate) struct WallClock(Instant);

impl Clock for WallClock {
    fn now_ns(&self) -> u64 {
        self.0.elapsed().as_nanos() as u64
    }
}

pub(crate) struct OnQemu;

impl Hw for OnQemu {
    type Regs = Regs;
    type Tables = Memory;
    type Clock = WallClock;
}

/// The driver, and the machine whose unit it has.
pub(crate) struct Machine {
    pub(crate) qemu: Qemu,
    pub(crate) memory: Memory,
    pub(crate) iommu: Iommu<OnQemu>,
    begun: Instant,
}

impl Machine {
    pub(crate) fn new(command: &[String], devices: &[&str], options: &str, mode: Mode) -> Self {
        let unit = format!("intel-iommu,intremap=on,eim=on{options}");
        let qemu = Qemu::start(command, devices, &unit);
        // The host bridge's PCIEXBAR.
        let bridge = Function { segment: 0, rid: RequesterId::new(0, 0, 0) };
        qemu.configure(bridge, 0x60, ECAM as u32 | 1);
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
        Self { qemu, memory, iommu, begun }
    }

    /// Waits until what was taken away is forgotten.
    pub(crate) fn retire(&mut self, pending: Pending) {
        // The driver gives a unit up before that.
        let deadline = Deadline(self.begun.elapsed().as_nanos() as u64 + 10_000_000_000);
        pending.wait(&mut self.iommu, deadline).expect("a unit that answers");
    }

    /// The faults since this was asked last.
    pub(crate) fn faults(&mut self) -> Vec<Fault> {
        let mut faults = Vec::new();
        self.iommu.drain_faults(|fault| faults.push(fault));
        faults
    }

    /// Frames that the driver and the test have.
    pub(crate) fn frames(&self) -> u64 {
        self.memory.2.get()
    }
}

/// Ends QEMU where this program panics.
pub(crate) fn end_with_panics() {
    let report = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| {
        let _ = Command::new("kill").arg(RUNNING.load(Ordering::Relaxed).to_string()).status();
        report(panic);
    }));
}
