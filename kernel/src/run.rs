//! Making a guest and running it: the only loop.
//!
//! Everything here is generic over the CPU backend, which [`crate::main`] chose once.

use alloc::string::String;
use core::fmt;

use config::Withheld;
use hw::MsrFault;
use paging::{MapError, PageTable};
use vcpu::{Backend, EnableError, Exit, Unsupported, Vcpu, VcpuInit};
use vmm::loader::GuestLayout;
use vmm::loader::linux::{self, LinuxImage, LoadError};
use vmm::platform::acpi;
use vmm::platform::cpuid::{CpuidOptions, CpuidTable};
use vmm::{Core, Host, Outcome, Ready, Vm, VmSpec};

use crate::irq::Timer;
use crate::mem::{GuestRam, GuestRamError, LoadedFile, Pages, Tables};
use crate::platform::{self, CpuId, Msrs, Tsc};
use crate::power::Verdict;
use crate::{console, report};

/// XCR0 components that a guest may have where the CPU has them (SDM vol. 1, 13.3): x87, SSE, AVX and AVX-512. AMX is
/// left out: its state is large, and no guest here needs it.
const XCR0_OFFERED: u64 = 0b1110_0111;
/// Tags the one guest's translations; 0 is the host's.
const ADDRESS_SPACE: u16 = 1;

/// What a guest is made from.
pub(crate) struct Plan<'a> {
    /// Its part of the configuration.
    pub(crate) vm: &'a config::Vm,
    /// What the boot application loaded.
    pub(crate) files: &'a [LoadedFile],
    /// The time-stamp counter at the kernel's first instruction.
    pub(crate) entry_tsc: u64,
    /// Seconds since 1970 at about that time; 0 where no one knows.
    pub(crate) unix_time: u64,
}

/// Why a guest could not be started.
#[derive(Debug)]
pub(crate) enum StartError {
    /// The CPU's virtualization could not be turned on, or no frame was left for it.
    Backend(EnableError),
    /// The boot application loaded no file of this name.
    NoFile(String),
    /// Not enough memory.
    Ram(GuestRamError),
    /// No frame was left for second-stage tables.
    Tables(MapError),
    /// The kernel or its RAM disk cannot be loaded.
    Load(LoadError),
}

impl From<EnableError> for StartError {
    fn from(why: EnableError) -> Self {
        Self::Backend(why)
    }
}

impl From<GuestRamError> for StartError {
    fn from(why: GuestRamError) -> Self {
        Self::Ram(why)
    }
}

impl From<MapError> for StartError {
    fn from(why: MapError) -> Self {
        Self::Tables(why)
    }
}

impl From<LoadError> for StartError {
    fn from(why: LoadError) -> Self {
        Self::Load(why)
    }
}

impl fmt::Display for StartError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Backend(EnableError::Unsupported(why)) => write!(f, "{}", Why(*why)),
            Self::Backend(EnableError::OutOfFrames) => f.write_str("no memory is left for its CPU"),
            Self::Backend(EnableError::Msr(MsrFault(msr))) => {
                write!(f, "the CPU refused MSR {:#x}", msr.0)
            }
            Self::Backend(EnableError::Instruction(name)) => write!(f, "{name} failed"),
            Self::NoFile(name) => write!(f, "the boot application loaded no file \"{name}\""),
            Self::Ram(GuestRamError { wanted, found }) => write!(
                f,
                "it wants {} MiB of memory in pages of 2 MiB, {} MiB are free",
                2 * wanted,
                2 * found
            ),
            Self::Tables(why) => write!(f, "its page tables cannot be made: {why:x?}"),
            Self::Load(why) => write!(f, "{why}"),
        }
    }
}

/// Why a CPU cannot carry a backend, in words.
pub(crate) struct Why(pub(crate) Unsupported);

impl fmt::Display for Why {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            Unsupported::NoExtension => f.write_str("the CPU does not offer it"),
            Unsupported::LockedByFirmware(register) => {
                write!(f, "the firmware switched it off and locked {register}; look into its setup")
            }
            Unsupported::Missing(feature) => write!(f, "the CPU lacks {feature}"),
        }
    }
}

/// A guest that is ready to run.
struct Guest<B: Backend> {
    vcpu: B::Vcpu,
    vm: Vm,
    core: Core,
    memory: GuestRam,
    host: RealHost,
    timer: Timer,
    // Held for as long as they are in use: the CPU walks the one and has the other turned on.
    _second_stage: PageTable<B::Stage2>,
    _backend: B,
}

/// The machine around the guest.
struct RealHost {
    clock: Tsc,
    entry_tsc: u64,
    unix_time: u64,
}

impl Host for RealHost {
    fn tsc(&self) -> u64 {
        platform::rdtsc()
    }

    fn unix_time(&self) -> u64 {
        self.unix_time + platform::rdtsc().saturating_sub(self.entry_tsc) / self.clock.hz
    }

    fn console_write(&mut self, bytes: &[u8]) {
        console::write(bytes);
    }

    fn console_read(&mut self) -> Option<u8> {
        console::read()
    }

    fn kick(&mut self, _: u32) {
        // The one virtual CPU is the one that sends.
    }
}

/// Starts the guest and runs it to its end.
///
/// # Errors
/// [`StartError`] where it cannot be started.
pub(crate) fn run<B: Backend>(plan: &Plan<'_>, timer: Timer) -> Result<Verdict, StartError> {
    let mut guest = Guest::<B>::create(plan, timer)?;
    log::info!("{}: {} MiB on {}", plan.vm.name, plan.vm.memory_bytes >> 20, B::NAME);
    let ticks = platform::rdtsc() - plan.entry_tsc;
    console::say(format_args!("first guest entry after {ticks} ticks"));
    let outcome = guest.run_to_end();
    Ok(report::ending(&plan.vm.name, outcome, &guest.vcpu, &guest.core))
}

impl<B: Backend> Guest<B> {
    fn create(plan: &Plan<'_>, timer: Timer) -> Result<Self, StartError> {
        let vm = plan.vm;
        let image = LinuxImage {
            kernel: file(plan, &vm.kernel)?,
            initrd: vm.initrd.as_deref().map(|name| file(plan, name)).transpose()?,
            cmdline: &vm.cmdline,
        };
        let mut backend = B::enable(&CpuId, &Msrs, &mut Pages)?;
        let layout = GuestLayout::new(vm.memory_bytes);
        let memory = GuestRam::new(layout)?;
        let mut second_stage = PageTable::<B::Stage2>::new(&mut Tables).map_err(MapError::from)?;
        memory.map_into(&mut second_stage, &mut Tables)?;
        let registers = linux::load(&memory, &layout, &image, &acpi::tables(1))?;

        let rates = timer.rates();
        let tsc_khz = u32::try_from(rates.tsc_hz / 1000).unwrap_or(u32::MAX).max(1);
        let options = CpuidOptions {
            tsc_khz,
            apic_khz: tsc_khz,
            xcr0_allowed: XCR0_OFFERED,
            pcid: backend.offers_pcid(),
            vcpus: 1,
            physical_bits: vm.cpuid.physical_bits,
            mask: vm.cpuid.mask.clone(),
        };
        let cpuid = CpuidTable::new(&CpuId, &options);
        // The guest's counter starts from zero.
        let tsc_offset = platform::rdtsc().wrapping_neg();
        let init = VcpuInit {
            second_stage: second_stage.root(),
            address_space: ADDRESS_SPACE,
            tsc_offset,
            xcr0_allowed: cpuid.xcr0_allowed(),
            idle: vcpu::IdlePolicy::Exit,
            registers,
        };
        let vcpu = backend.create_vcpu(&init, &mut Pages)?;
        let withheld = |source| vm.test.withhold.contains(&source);
        let machine = Vm::new(VmSpec {
            vcpus: 1,
            tsc_khz,
            tsc_offset,
            cpuid,
            unknown: vm.unknown,
            views: 1,
            exit_port: vm.test.exit_port,
            withhold_timer: withheld(Withheld::Timer),
            withhold_serial: withheld(Withheld::Serial),
        });
        let host = RealHost {
            clock: Tsc { hz: rates.tsc_hz },
            entry_tsc: plan.entry_tsc,
            unix_time: plan.unix_time,
        };
        Ok(Self {
            vcpu,
            core: machine.core(0),
            vm: machine,
            memory,
            host,
            timer,
            _second_stage: second_stage,
            _backend: backend,
        })
    }

    /// Enters the guest until it ends.
    fn run_to_end(&mut self) -> Outcome {
        self.vcpu.load();
        let outcome = loop {
            let ready = self.core.prepare_entry(&self.vm, &mut self.vcpu, &mut self.host);
            if let Ready::Run { deadline: Some(at) } | Ready::Wait { deadline: Some(at) } = ready {
                self.timer.arm(at);
            }
            if matches!(ready, Ready::Wait { .. }) {
                // Interrupts have been off since the devices were looked after: whatever came since ends the wait at once.
                platform::wait_for_interrupt();
                continue;
            }
            let (vm, memory) = (&self.vm, &self.memory);
            let Some(exit) = self.core.run(vm, &mut self.vcpu, memory, &mut self.host) else {
                continue;
            };
            if exit == Exit::ExternalInterrupt {
                platform::interrupts_on_briefly();
            }
            let outcome = self.core.handle(exit, vm, &mut self.vcpu, memory, &mut self.host);
            match outcome {
                Outcome::Resume | Outcome::Wait => {}
                ended => break ended,
            }
        };
        self.vcpu.unload();
        outcome
    }
}

/// The loaded file of that name.
fn file<'a>(plan: &Plan<'a>, name: &str) -> Result<&'a [u8], StartError> {
    let found = plan.files.iter().find(|file| file.name == name);
    found.map(|file| file.bytes).ok_or_else(|| StartError::NoFile(name.into()))
}
