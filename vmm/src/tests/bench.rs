//! A machine on a bench: a scripted virtual CPU in 64-bit mode with identity page tables, a vector as its memory, and a
//! host that only counts.

use core::cell::{Cell, RefCell};
use std::boxed::Box;
use std::collections::VecDeque;
use std::vec::Vec;

use hw::{CpuidBus, CpuidResult, Gla, Gpa};
use vcpu::scripted::{ScriptedVcpu, Step};
use vcpu::{Access, Exit, Gpr, Registers, SecondStageFault, Vcpu};
use x86_spec::cpu::{Cr0, Cr4, Efer};
use x86_spec::segment::Segment;

use crate::pci::{Endpoint, Plan};
use crate::platform::cpuid::{CpuidOptions, CpuidTable};
use crate::{
    Backing, Core, GuestMemory, Host, NoMemory, Outcome, Ready, UnknownPolicy, Vm, VmSpec,
};

/// Guest memory from address 0 on.
pub(crate) struct Memory(RefCell<Vec<u8>>);

impl Memory {
    pub(crate) fn new(bytes: usize) -> Self {
        Self(RefCell::new(std::vec![0; bytes]))
    }

    pub(crate) fn put(&self, gpa: u64, bytes: &[u8]) {
        self.write(Gpa::new(gpa), bytes).expect("inside the memory");
    }

    pub(crate) fn get<const N: usize>(&self, gpa: u64) -> [u8; N] {
        let mut bytes = [0; N];
        self.read(Gpa::new(gpa), &mut bytes).expect("inside the memory");
        bytes
    }

    pub(crate) fn put_u64(&self, gpa: u64, value: u64) {
        self.put(gpa, &value.to_le_bytes());
    }

    pub(crate) fn get_u64(&self, gpa: u64) -> u64 {
        u64::from_le_bytes(self.get(gpa))
    }
}

impl GuestMemory for Memory {
    fn read(&self, gpa: Gpa, into: &mut [u8]) -> Result<(), NoMemory> {
        let bytes = self.0.borrow();
        let start = usize::try_from(gpa.raw()).map_err(|_| NoMemory(gpa))?;
        let end = start.checked_add(into.len()).ok_or(NoMemory(gpa))?;
        into.copy_from_slice(bytes.get(start..end).ok_or(NoMemory(gpa))?);
        Ok(())
    }

    fn write(&self, gpa: Gpa, from: &[u8]) -> Result<(), NoMemory> {
        let mut bytes = self.0.borrow_mut();
        let start = usize::try_from(gpa.raw()).map_err(|_| NoMemory(gpa))?;
        let end = start.checked_add(from.len()).ok_or(NoMemory(gpa))?;
        bytes.get_mut(start..end).ok_or(NoMemory(gpa))?.copy_from_slice(from);
        Ok(())
    }
}

/// A host whose time stands still until a test moves it.
#[derive(Default)]
pub(crate) struct BenchHost {
    pub(crate) tsc: Cell<u64>,
    pub(crate) sent: Vec<u8>,
    pub(crate) typed: VecDeque<u8>,
    /// Who was kicked, in order.
    pub(crate) kicked: Vec<u32>,
    pub(crate) backing: Option<Backing>,
}

impl Host for BenchHost {
    fn tsc(&self) -> u64 {
        self.tsc.get()
    }

    fn unix_time(&self) -> u64 {
        1_700_000_000
    }

    fn console_write(&mut self, bytes: &[u8]) {
        self.sent.extend_from_slice(bytes);
    }

    fn console_read(&mut self) -> Option<u8> {
        self.typed.pop_front()
    }

    fn kick(&mut self, vcpu: u32) {
        self.kicked.push(vcpu);
    }

    fn fault(&mut self, _: &SecondStageFault) -> Backing {
        self.backing.unwrap_or(Backing::Device)
    }
}

/// A host CPU with x87, SSE and AVX state and little else.
pub(crate) struct BenchCpu;

impl CpuidBus for BenchCpu {
    fn cpuid(&self, leaf: u32, subleaf: u32) -> CpuidResult {
        let result = |eax, ebx, ecx, edx| CpuidResult { eax, ebx, ecx, edx };
        match (leaf, subleaf) {
            (0, _) => result(
                0xd,
                u32::from_le_bytes(*b"Genu"),
                u32::from_le_bytes(*b"ntel"),
                u32::from_le_bytes(*b"ineI"),
            ),
            (1, _) => result(0x000c_06a0, 0, 1 << 26 | 1 << 28 | 1 << 31 | 1, 0x0789_fbff),
            (7, 0) => result(0, 0, 0, 0),
            (0xd, 0) => result(7, 832, 832, 0),
            (0xd, 2) => result(256, 576, 0, 0),
            (0x8000_0000, _) => result(0x8000_0008, 0, 0, 0),
            (0x8000_0001, _) => result(0, 0, 1, 1 << 29 | 1 << 20 | 1 << 11),
            (0x8000_0008, _) => result(0x3028, 0, 0, 0),
            _ => result(0, 0, 0, 0),
        }
    }
}

/// Everything around one virtual CPU.
pub(crate) struct Bench {
    pub(crate) vm: Vm,
    pub(crate) core: Core,
    pub(crate) vcpu: ScriptedVcpu,
    pub(crate) memory: Memory,
    pub(crate) host: BenchHost,
    /// Slots of all virtual CPUs; the current one's is unused.
    others: Vec<(Core, ScriptedVcpu)>,
    current: usize,
    /// What the last preparation answered.
    pub(crate) deadline: Option<u64>,
    pub(crate) is_halted: bool,
}

/// The guest's TSC and the host's, in kHz.
pub(crate) const TSC_KHZ: u32 = 1_000_000;
/// Where [`Bench::code`] puts code.
pub(crate) const CODE: u64 = 0x1_0000;
/// Bytes of RAM.
pub(crate) const RAM: u64 = 0x20_0000;

pub(crate) fn spec() -> VmSpec {
    let options = CpuidOptions {
        tsc_khz: TSC_KHZ,
        apic_khz: TSC_KHZ,
        xcr0_allowed: 7,
        pcid: false,
        speculation: vcpu::Speculation::NONE,
        vcpus: 1,
        physical_bits: None,
        movdir64b: false,
        mask: Vec::new(),
    };
    VmSpec {
        vcpus: 1,
        tsc_khz: TSC_KHZ,
        tsc_offset: 0u64.wrapping_sub(1_000),
        cpuid: CpuidTable::new(&BenchCpu, &options),
        unknown: UnknownPolicy::default(),
        views: 1,
        pci: Plan::default(),
        exit_port: true,
        withhold_timer: false,
        withhold_serial: false,
    }
}

impl Bench {
    pub(crate) fn new() -> Self {
        Self::of(spec())
    }

    /// The same for a machine of several virtual CPUs; of them [`Bench::on`] chooses one.
    pub(crate) fn with_cpus(count: u32) -> Self {
        let mut bench = Self::of(VmSpec { vcpus: count, ..spec() });
        let other = |index| (bench.vm.core(index), ScriptedVcpu::new(bench.vcpu.state.clone()));
        bench.others = (0..count).map(other).collect();
        bench
    }

    /// Goes on with virtual CPU `index`.
    pub(crate) fn on(&mut self, index: usize) -> &mut Self {
        for index in [self.current, index] {
            core::mem::swap(&mut self.core, &mut self.others[index].0);
            core::mem::swap(&mut self.vcpu, &mut self.others[index].1);
        }
        self.current = index;
        self
    }

    pub(crate) fn of(spec: VmSpec) -> Self {
        Self::with_functions(spec, Vec::new())
    }

    /// With PCI functions for which the machine was planned.
    pub(crate) fn with_functions(spec: VmSpec, endpoints: Vec<Box<dyn Endpoint>>) -> Self {
        let memory = Memory::new(RAM as usize);
        // One table of each upper level maps the first 4 GiB to themselves by pages of 1 GiB.
        memory.put_u64(0x1000, 0x2000 | 7);
        for gib in 0..4 {
            memory.put_u64(0x2000 + 8 * gib, gib << 30 | 0x87);
        }
        let registers = Registers {
            rip: CODE,
            rflags: 0x202,
            cr0: (Cr0::PE | Cr0::PG | Cr0::WP).bits(),
            cr3: 0x1000,
            cr4: Cr4::PAE.bits(),
            efer: (Efer::LME | Efer::LMA).bits(),
            cs: Segment::flat(8, Segment::CODE64),
            ss: Segment::flat(16, Segment::DATA),
            ..Registers::default()
        };
        let host = BenchHost::default();
        host.tsc.set(1_000_000);
        let vm = Vm::new(spec, endpoints);
        Self {
            core: vm.core(0),
            vm,
            vcpu: ScriptedVcpu::new(registers),
            memory,
            host,
            others: Vec::new(),
            current: 0,
            deadline: None,
            is_halted: false,
        }
    }

    /// The guest is in 32-bit protected mode without paging, with a data segment that starts at `base`.
    pub(crate) fn enter_32_bit_mode(&mut self, base: u64) {
        let state = &mut self.vcpu.state;
        (state.cr0, state.cr4, state.efer) = (Cr0::PE.bits(), 0, 0);
        state.cs = Segment::flat(8, Segment::CODE32);
        state.ds = Segment { base, ..Segment::flat(16, Segment::DATA) };
        state.es = Segment::flat(24, Segment::DATA);
    }

    /// The guest comes to this code.
    pub(crate) fn code(&mut self, bytes: &[u8]) {
        self.memory.put(CODE, bytes);
        self.vcpu.state.rip = CODE;
    }

    /// Enters the guest, which leaves as `step` says, and answers that.
    pub(crate) fn step(&mut self, step: Step) -> Outcome {
        self.vcpu.push(step);
        loop {
            self.prepare();
            let exit = self.vcpu.run();
            let outcome = self.handle(exit);
            if exit != Exit::InterruptWindow {
                return outcome;
            }
        }
    }

    /// Someone types.
    pub(crate) fn type_in(&mut self, bytes: &[u8]) {
        self.host.typed.extend(bytes);
        self.vm.console_ready();
    }

    /// Answers an exit.
    pub(crate) fn handle(&mut self, exit: Exit) -> Outcome {
        let outcome =
            self.core.handle(exit, &self.vm, &mut self.vcpu, &self.memory, &mut self.host);
        self.is_halted |= outcome == Outcome::Wait;
        outcome
    }

    /// Likewise, by the way of frequent exits; says whether those answered it.
    pub(crate) fn quickly(&mut self, step: Step) -> bool {
        self.prepare();
        self.vcpu.push(step);
        let exit = self.core.run(&self.vm, &mut self.vcpu, &self.memory, &mut self.host);
        // With nothing more to play, the virtual CPU shuts down.
        match exit {
            Some(Exit::Shutdown) => true,
            Some(exit) => self.handle(exit) != Outcome::Resume,
            None => true,
        }
    }

    /// An exit by an instruction whose length the CPU gives.
    pub(crate) fn exit(&mut self, exit: Exit) -> Outcome {
        self.step(Step::new(exit, 2))
    }

    /// Prepares an entry and asserts nothing.
    pub(crate) fn prepare(&mut self) {
        let ready = self.core.prepare_entry(&self.vm, &mut self.vcpu, &mut self.host);
        (self.is_halted, self.deadline) = match ready {
            Ready::Run { deadline } => (false, deadline),
            Ready::Wait { deadline } => (true, deadline),
        };
    }

    /// The guest runs `code`, which touches device memory at `gpa`.
    pub(crate) fn touch(&mut self, code: &[u8], gpa: u64, access: Access) -> Outcome {
        self.code(code);
        let fault = SecondStageFault {
            gpa: Gpa::new(gpa),
            gla: Some(Gla::new(gpa)),
            access,
            during_walk: false,
        };
        self.step(Step::undecoded(Exit::SecondStage(fault)))
    }

    pub(crate) fn gpr(&self, gpr: Gpr) -> u64 {
        self.vcpu.gpr(gpr)
    }

    pub(crate) fn set(&mut self, gpr: Gpr, value: u64) {
        self.vcpu.set_gpr(gpr, value);
    }

    /// RIP stands behind an instruction of `len` bytes that [`Bench::code`] put.
    pub(crate) fn is_past(&self, len: u64) -> bool {
        self.vcpu.rip() == CODE + len
    }
}
