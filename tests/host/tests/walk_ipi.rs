//! Interrupts between virtual CPUs that really run at the same time: each on a thread, woken only by its mailbox and by
//! being kicked, as the kernel does it.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Condvar, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use host_tests::{BlankCpu, VectorMemory};
use hw::Msr;
use vcpu::scripted::{ScriptedVcpu, Step};
use vcpu::{Event, Exit, Registers, Vcpu};
use vmm::pci::Plan;
use vmm::platform::cpuid::{CpuidOptions, CpuidTable};
use vmm::{Core, Host, Outcome, Ready, UnknownPolicy, Vm, VmSpec};

const TSC_KHZ: u32 = 1_000_000;
const CPUS: u32 = 3;
const ROUNDS: usize = 3_000;
const VECTOR: u8 = 0x40;
const APIC_BASE: Msr = Msr(0x1b);
const SVR: Msr = Msr(0x80f);
const EOI: Msr = Msr(0x80b);
const ICR: Msr = Msr(0x830);
/// INIT and start-up at 0x1000, to all but the sender.
const INIT_OTHERS: u64 = 3 << 18 | 1 << 14 | 5 << 8;
const START_OTHERS: u64 = 3 << 18 | 1 << 14 | 6 << 8 | 1;
/// Longer than any of these tests takes.
const PATIENCE: Duration = Duration::from_secs(30);

/// Flags by which threads are woken.
#[derive(Default)]
struct Bells {
    rung: Mutex<[bool; CPUS as usize]>,
    changed: Condvar,
}

impl Bells {
    fn ring(&self, cpu: u32) {
        self.rung.lock().unwrap()[cpu as usize] = true;
        self.changed.notify_all();
    }

    /// Waits for the bell; false where it does not ring.
    fn wait(&self, cpu: u32) -> bool {
        let rung = self.rung.lock().unwrap();
        let silent = |rung: &mut [bool; CPUS as usize]| !rung[cpu as usize];
        let (mut rung, timeout) = self.changed.wait_timeout_while(rung, PATIENCE, silent).unwrap();
        rung[cpu as usize] = false;
        !timeout.timed_out()
    }
}

struct Around<'a>(&'a Bells);

impl Host for Around<'_> {
    fn tsc(&self) -> u64 {
        1
    }

    fn unix_time(&self) -> u64 {
        0
    }

    fn console_write(&mut self, _: &[u8]) {}

    fn console_read(&mut self) -> Option<u8> {
        None
    }

    fn kick(&mut self, vcpu: u32) {
        self.0.ring(vcpu);
    }
}

/// One virtual CPU on its thread.
struct Cpu<'a> {
    core: Core,
    vm: &'a Vm,
    vcpu: ScriptedVcpu,
    memory: VectorMemory,
    host: Around<'a>,
}

impl<'a> Cpu<'a> {
    fn new(vm: &'a Vm, index: u32, bells: &'a Bells) -> Self {
        let registers = Registers { rflags: 0x202, rip: 0x1000, ..Registers::default() };
        let (core, vcpu) = (vm.core(index), ScriptedVcpu::new(registers));
        Self { core, vm, vcpu, memory: VectorMemory::new(0), host: Around(bells) }
    }

    /// Prepares and waits until the guest can be entered.
    fn enter(&mut self) {
        while let Ready::Wait { .. } =
            self.core.prepare_entry(self.vm, &mut self.vcpu, &mut self.host)
        {
            assert!(self.host.0.wait(self.core.index()), "CPU {} sleeps on", self.core.index());
        }
    }

    /// Enters the guest, which takes what is pending and leaves again.
    fn run(&mut self, exit: Exit) -> Outcome {
        self.vcpu.push(Step::new(exit, 2));
        let exit = self.vcpu.run();
        self.core.handle(exit, self.vm, &mut self.vcpu, &self.memory, &mut self.host)
    }

    fn write(&mut self, msr: Msr, value: u64) {
        self.enter();
        assert_eq!(self.run(Exit::MsrWrite { msr, value }), Outcome::Resume);
        assert!(!matches!(self.vcpu.pending, Some(Event::Exception { .. })), "{msr:?}");
    }

    fn enable_apic(&mut self) {
        self.vcpu.set_rflags(0x202);
        let bootstrap = u64::from(self.core.index() == 0) << 8;
        self.write(APIC_BASE, 0xfee0_0c00 | bootstrap);
        self.write(SVR, 0x1ff);
    }

    /// Halts until an interrupt has come, and ends that. One that comes after the preparation does not come before HLT.
    fn next_interrupt(&mut self) {
        while self.vcpu.delivered.is_empty() {
            self.enter();
            let exit = if self.vcpu.pending.is_some() { Exit::Handled } else { Exit::Halt };
            assert!(matches!(self.run(exit), Outcome::Resume | Outcome::Wait));
        }
        assert_eq!(self.vcpu.delivered.remove(0), Event::Interrupt(VECTOR));
        self.write(EOI, 0);
    }
}

fn machine() -> Vm {
    let options = CpuidOptions {
        tsc_khz: TSC_KHZ,
        apic_khz: TSC_KHZ,
        xcr0_allowed: 0,
        pcid: false,
        speculation: vcpu::Speculation::NONE,
        vcpus: CPUS,
        physical_bits: None,
        movdir64b: false,
        mask: Vec::new(),
    };
    Vm::new(
        VmSpec {
            vcpus: CPUS,
            tsc_khz: TSC_KHZ,
            tsc_offset: 0,
            cpuid: CpuidTable::new(&BlankCpu, &options),
            unknown: UnknownPolicy::default(),
            views: 1,
            pci: Plan::default(),
            exit_port: false,
            withhold_timer: false,
            withhold_serial: false,
        },
        Vec::new(),
    )
}

#[test]
fn no_interrupt_is_lost_on_its_way_round() {
    let (vm, bells) = (machine(), Bells::default());
    let (ready, started) = (AtomicUsize::new(0), Instant::now());
    thread::scope(|scope| {
        for index in 0..CPUS {
            let (vm, bells, ready) = (&vm, &bells, &ready);
            scope.spawn(move || {
                let mut cpu = Cpu::new(vm, index, bells);
                if index == 0 {
                    cpu.enable_apic();
                    cpu.write(ICR, INIT_OTHERS);
                    cpu.write(ICR, START_OTHERS);
                } else {
                    cpu.enter();
                    assert_eq!(cpu.vcpu.registers().cs.base, 0x1000);
                    cpu.enable_apic();
                }
                // An interrupt that comes before its APIC is on would be dropped, as it should.
                ready.fetch_add(1, Ordering::SeqCst);
                while ready.load(Ordering::SeqCst) < CPUS as usize {
                    assert!(started.elapsed() < PATIENCE, "not all have started");
                    thread::yield_now();
                }
                let next = u64::from((index + 1) % CPUS) << 32 | u64::from(VECTOR);
                for _ in 0..ROUNDS {
                    if index == 0 {
                        cpu.write(ICR, next);
                        cpu.next_interrupt();
                    } else {
                        cpu.next_interrupt();
                        cpu.write(ICR, next);
                    }
                }
                assert_eq!(cpu.core.counters().interrupts, ROUNDS as u64);
            });
        }
    });
}
