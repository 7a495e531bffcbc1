//! A guest's accesses to a device's page, from the exit to the device and back: the instruction is fetched through page
//! tables that the loader made, decoded, and carried out on the I/O APIC and the local APIC.

use host_tests::{BlankCpu, KERNEL, StillHost, VectorMemory, bzimage};
use hw::{Gpa, Port, Width};
use vcpu::scripted::{ScriptedVcpu, Step};
use vcpu::{Access, Exit, Gpr, PortIo, SecondStageFault, Vcpu};
use vmm::counters::ExitKind;
use vmm::loader::GuestLayout;
use vmm::loader::linux::{self, LinuxImage};
use vmm::pci::Plan;
use vmm::platform::acpi;
use vmm::platform::cpuid::{CpuidOptions, CpuidTable};
use vmm::{Core, Outcome, UnknownPolicy, Vm, VmSpec};
use x86_spec::apic::DEFAULT_IOAPIC_BASE;

const RAM: u64 = 16 << 20;
const TSC_KHZ: u32 = 1_000_000;

/// A loaded guest, and everything it needs.
struct Guest {
    vm: Vm,
    core: Core,
    vcpu: ScriptedVcpu,
    memory: VectorMemory,
    host: StillHost,
}

impl Guest {
    /// A guest whose kernel is `code`, at its first instruction.
    fn load(code: &[u8]) -> Self {
        let memory = VectorMemory::new(RAM as usize);
        let kernel = bzimage(code);
        let image = LinuxImage { kernel: &kernel, initrd: Some(b"disk"), cmdline: "console=ttyS0" };
        let layout = GuestLayout::new(RAM);
        let registers =
            linux::load(&memory, &layout, &image, &acpi::tables(1, &Plan::default())).unwrap();
        let options = CpuidOptions {
            tsc_khz: TSC_KHZ,
            apic_khz: TSC_KHZ,
            xcr0_allowed: 0,
            pcid: false,
            speculation: vcpu::Speculation::NONE,
            vcpus: 1,
            physical_bits: None,
            movdir64b: false,
            mask: Vec::new(),
        };
        let vm = Vm::new(
            VmSpec {
                vcpus: 1,
                tsc_khz: TSC_KHZ,
                tsc_offset: 0,
                cpuid: CpuidTable::new(&BlankCpu, &options),
                unknown: UnknownPolicy::default(),
                views: 1,
                pci: Plan::default(),
                exit_port: true,
                withhold_timer: false,
                withhold_serial: false,
            },
            Vec::new(),
        );
        let vcpu = ScriptedVcpu::new(registers);
        Self { core: vm.core(0), vm, vcpu, memory, host: StillHost::default() }
    }

    /// The instruction at RIP exits as `step` says.
    fn run(&mut self, step: Step) -> Outcome {
        self.vcpu.push(step);
        let _ = self.core.prepare_entry(&self.vm, &mut self.vcpu, &mut self.host);
        let exit = self.vcpu.run();
        self.core.handle(exit, &self.vm, &mut self.vcpu, &self.memory, &mut self.host)
    }

    /// Bytes of the kernel's code that lie behind RIP.
    fn progress(&self) -> u64 {
        self.vcpu.rip() - KERNEL - 0x200
    }
}

fn touch(gpa: u64, access: Access) -> Exit {
    Exit::SecondStage(SecondStageFault {
        gpa: Gpa::new(gpa),
        gla: None,
        access,
        during_walk: false,
    })
}

fn out(port: u16) -> Exit {
    let (port, width) = (Port(port), Width::W1);
    Exit::PortIo(PortIo { port, width, write: true, string: false, rep: false })
}

#[test]
fn a_write_reaches_the_device_and_reads_back() {
    let mut guest = Guest::load(&[
        0xc7, 0x03, 0x10, 0, 0, 0, // mov dword [rbx], 0x10
        0x89, 0x4b, 0x10, // mov [rbx + 0x10], ecx
        0x44, 0x8b, 0x6b, 0x10, // mov r13d, [rbx + 0x10]
    ]);
    let window = DEFAULT_IOAPIC_BASE + 0x10;
    let step = Step::undecoded(touch(DEFAULT_IOAPIC_BASE, Access::Write));
    let step = step.with(Gpr::Rbx, DEFAULT_IOAPIC_BASE).with(Gpr::Rcx, 0x1_8031);
    assert_eq!(guest.run(step), Outcome::Resume);
    assert_eq!(guest.progress(), 6);
    assert_eq!(guest.run(Step::undecoded(touch(window, Access::Write))), Outcome::Resume);
    assert_eq!(guest.progress(), 9);
    let step = Step::undecoded(touch(window, Access::Read)).with(Gpr::R13, u64::MAX);
    assert_eq!(guest.run(step), Outcome::Resume);
    assert_eq!(guest.progress(), 13);
    assert_eq!(guest.vcpu.gpr(Gpr::R13), 0x1_8031);
    let counters = guest.core.counters();
    assert_eq!((counters.exits(ExitKind::SecondStage), counters.unknown_mmio.count), (3, 0));
    assert_eq!(counters.mismatches, 0);
}

#[test]
fn a_kernel_is_entered_where_the_protocol_says_and_runs_to_its_end() {
    let mut guest = Guest::load(&[
        0x0f, 0xa2, // cpuid
        0xb0, b'\n', // mov al, 10
        0xee,  // out dx, al
        0x0f, 0x01, 0xd9, // vmmcall
        0xe6, 0xf4, // out 0xf4, al
    ]);
    assert_eq!(guest.progress(), 0);
    let params = guest.vcpu.gpr(Gpr::Rsi);
    assert_eq!(guest.memory.get::<4>(params + 0x202), *b"HdrS");
    assert_eq!(guest.run(Step::undecoded(Exit::Cpuid)), Outcome::Resume);
    let step = Step::undecoded(out(0x3f8)).at(guest.vcpu.rip() + 2).with(Gpr::Rax, b'\n'.into());
    assert_eq!(guest.run(step), Outcome::Resume);
    assert_eq!(guest.host.shown, b"\n");
    assert_eq!(guest.run(Step::undecoded(Exit::Hypercall).with(Gpr::Rax, 0)), Outcome::Resume);
    assert_eq!(guest.vcpu.gpr(Gpr::Rax), vmm::hypercall::VERSION);
    let step = Step::undecoded(out(0xf4)).with(Gpr::Rax, 42);
    assert_eq!(guest.run(step), Outcome::Exit(42));
    assert_eq!(guest.progress(), 10);
}

#[test]
fn an_instruction_that_changed_after_the_exit_is_not_emulated() {
    let mut guest = Guest::load(&[0xeb, 0xfe]); // jmp to itself
    let step = Step::undecoded(touch(DEFAULT_IOAPIC_BASE, Access::Write));
    assert_eq!(guest.run(step), Outcome::Resume);
    assert_eq!((guest.progress(), guest.core.counters().mismatches), (0, 1));
}
