//! Making what a virtual machine runs in: memory, second stages, platform, its kernel loaded. All of it is one [`Life`],
//! made anew at each start and dropped at its end.

use alloc::sync::Arc;
use alloc::vec::Vec;
use core::fmt;
use core::num::NonZeroU32;

use config::{Emulated, Idle, Withheld};
use hw::{Gpa, Hpa, MsrFault};
use paging::MapError;
use spin::Mutex;
use vcpu::{Backend, EnableError, IdlePolicy, TscRatio, Unsupported, VcpuInit};
use vmm::Core;
use vmm::loader::{self, Failure, GuestLayout};
use vmm::platform::cpuid::{CpuidOptions, CpuidTable};

use crate::assign::{self, AssignError};
use crate::mem::{GuestRam, GuestRamError};
use crate::platform::{self, CpuId};
use crate::sched::World;
use crate::stages::{Stages, Views};
use crate::vdev;
use crate::vm::Vm;

/// XCR0 components that a guest may have where the CPU has them (SDM vol. 1, 13.3): x87, SSE, AVX and AVX-512. AMX is
/// left out: its state is large, and no guest here needs it.
const XCR0_OFFERED: u64 = 0b1110_0111;

/// A virtual machine from one start to its end.
#[derive(Debug)]
pub(crate) struct Life {
    /// The platform.
    pub(crate) vm: vmm::Vm,
    /// Its virtual devices: gone after what the guest sees of them.
    _vdevs: vdev::Held,
    /// RAM, which its functions' DMA may hold on to.
    pub(crate) memory: Arc<GuestRam>,
    /// Roots of its views of that, the first of which it starts with.
    pub(crate) views: Vec<Hpa>,
    /// What views after the first do not show.
    pub(crate) hidden: Option<Gpa>,
    /// Each virtual CPU's part: locked by the CPU that runs it for as long as it does.
    pub(crate) cores: Vec<Mutex<Core>>,
    /// What its virtual CPUs are made from.
    pub(crate) start: VcpuInit,
    /// The CPU walks them for as long as any virtual CPU runs.
    pub(crate) stages: Arc<dyn Stages>,
}

/// Why a guest could not be started.
#[derive(Debug)]
pub(crate) enum StartError {
    /// The configuration asks for what the machine has not.
    Config(config::ConfigError),
    /// The CPU's virtualization could not be turned on, or no frame was left for it.
    Backend(EnableError),
    /// Not enough memory.
    Ram(GuestRamError),
    /// No frame was left for second-stage tables.
    Tables(MapError),
    /// A time-stamp counter of this many kHz cannot be made of the CPU's, whose Hz follow.
    TscFrequency(u32, u64),
    /// Its functions cannot be given to it.
    Assign(AssignError),
    /// The kernel or what belongs to it cannot be loaded.
    Load(Failure),
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

impl From<AssignError> for StartError {
    fn from(why: AssignError) -> Self {
        Self::Assign(why)
    }
}

impl From<Failure> for StartError {
    fn from(why: Failure) -> Self {
        Self::Load(why)
    }
}

impl fmt::Display for StartError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Config(why) => write!(f, "{why}"),
            Self::Backend(EnableError::Unsupported(why)) => write!(f, "{}", Why(*why)),
            Self::Backend(EnableError::OutOfFrames) => f.write_str("no memory is left for its CPU"),
            Self::Backend(EnableError::Msr(MsrFault(msr))) => {
                write!(f, "the CPU refused MSR {:#x}", msr.0)
            }
            Self::Backend(EnableError::Instruction(name)) => write!(f, "{name} failed"),
            Self::Ram(GuestRamError { wanted, found }) => write!(
                f,
                "it wants {} MiB of memory in pages of 2 MiB, {} MiB are free",
                2 * wanted,
                2 * found
            ),
            Self::Tables(why) => write!(f, "its page tables cannot be made: {why:x?}"),
            Self::TscFrequency(khz, hz) => write!(
                f,
                "vm.cpuid.tsc-khz: the CPU cannot scale its time-stamp counter of {} kHz to {khz} kHz; leave the key out",
                hz / 1000
            ),
            Self::Assign(why) => write!(f, "{why}"),
            Self::Load(why) => write!(f, "vm.{}: {why}", why.key),
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

impl Life {
    /// Everything that `vm` needs to run, as after power-on.
    ///
    /// # Errors
    /// [`StartError`]; nothing is taken then.
    pub(crate) fn create<B: Backend>(world: &World, vm: &Vm) -> Result<Self, StartError>
    where
        B::Stage2: Send + Sync + 'static,
    {
        let config = &vm.config;
        let layout = GuestLayout::new(config.memory_bytes);
        let memory = Arc::new(GuestRam::new(layout)?);
        let views = Views::<B::Stage2>::new(&memory, world.offers, config)?;
        let (hidden, roots) = (views.hide(&layout)?, views.roots());
        let stages: Arc<dyn Stages> = Arc::new(views);
        let (endpoints, vdevs) = assign::assign(vm, &memory, &stages)?;
        let file = |name: &str| world.files.iter().find(|file| file.name == name);
        let bytes = |name: &str| file(name).map(|file| file.bytes);
        let (tsc_khz, tsc_ratio) = time(world, config.cpuid.tsc_khz)?;
        let cpuid = CpuidTable::new(
            &CpuId,
            &CpuidOptions {
                tsc_khz,
                apic_khz: tsc_khz,
                xcr0_allowed: XCR0_OFFERED,
                pcid: world.offers.pcid,
                speculation: world.offers.speculation,
                vcpus: config.vcpus,
                physical_bits: config.cpuid.physical_bits,
                movdir64b: config.emulate.contains(&Emulated::Movdir64b),
                mask: config.cpuid.mask.clone(),
            },
        );
        let shapes = endpoints.iter().map(|endpoint| endpoint.shape());
        let pci = vmm::pci::Plan::new(&layout, cpuid.physical_bits(), shapes)
            .map_err(AssignError::Plan)?;
        let registers = loader::load(config, &layout, &pci, &*memory, bytes)?;
        // The guest's counter starts from zero.
        let tsc_offset = tsc_ratio.scale(platform::rdtsc()).wrapping_neg();
        let start = VcpuInit {
            second_stage: roots.first().copied().unwrap_or_default(),
            address_space: address_space(vm),
            tsc_ratio,
            tsc_offset,
            xcr0_allowed: cpuid.xcr0_allowed(),
            idle: IdlePolicy::Exit,
            undefined_exits: !config.emulate.is_empty(),
            registers,
        };
        let withheld = |source| config.test.withhold.contains(&source);
        let platform = vmm::Vm::new(
            vmm::VmSpec {
                vcpus: config.vcpus,
                tsc_khz,
                tsc_offset,
                cpuid,
                unknown: config.unknown,
                views: roots.len() as u16,
                pci,
                exit_port: config.test.exit_port,
                withhold_timer: withheld(Withheld::Timer),
                withhold_serial: withheld(Withheld::Serial),
            },
            endpoints,
        );
        let cores = (0..platform.vcpus()).map(|index| Mutex::new(platform.core(index))).collect();
        Ok(Self { vm: platform, _vdevs: vdevs, memory, views: roots, hidden, cores, start, stages })
    }

    /// What a virtual CPU is made from; `alone` where no other one has its CPU.
    pub(crate) fn vcpu(&self, vm: &Vm, alone: bool) -> VcpuInit {
        let idle = match vm.config.idle {
            Idle::InGuest if alone => IdlePolicy::InGuest,
            _ => IdlePolicy::Exit,
        };
        VcpuInit { idle, ..self.start.clone() }
    }
}

/// The frequency of a guest's time-stamp counter, and what that is to the host's.
fn time(world: &World, wanted: Option<NonZeroU32>) -> Result<(u32, TscRatio), StartError> {
    let Some(khz) = wanted.map(NonZeroU32::get) else {
        let own = u32::try_from(world.tsc_hz / 1000).unwrap_or(u32::MAX).max(1);
        return Ok((own, TscRatio::ONE));
    };
    let ratio = TscRatio::new(khz, world.tsc_hz);
    let ratio = ratio.filter(|&ratio| world.offers.tsc_scaling || ratio == TscRatio::ONE);
    Ok((khz, ratio.ok_or(StartError::TscFrequency(khz, world.tsc_hz))?))
}

/// The number that tags its translations; 0 is the host's.
fn address_space(vm: &Vm) -> u16 {
    vm.index as u16 + 1
}
