//! The beds: emulators that run Kerf without special hardware, behind one interface.
//!
//! A [`Bed`] is an emulator that was found and is of a version that will do; it starts a disk image as a [`Session`],
//! which `judge` watches to an [`Outcome`].

mod bochs;
mod bochs_plugin;
mod judge;
mod kvm;
mod probe;
mod qemu;
mod session;
mod verdict;

use std::path::{Path, PathBuf};

pub(crate) use bochs::host_vgabios;
pub(crate) use bochs_plugin::build as build_bochs_plugin;
pub(crate) use judge::{Limits, judge};
pub(crate) use probe::Probe;
pub(crate) use qemu::program as qemu_program;
pub(crate) use session::Session;
pub(crate) use verdict::{Outcome, Verdict};

use crate::cache::{Cache, Scratch};
use crate::own::Own;

/// Which emulator.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, clap::ValueEnum)]
pub(crate) enum BedKind {
    /// AMD SVM with nested paging, on QEMU.
    Qemu,
    /// Intel VT-x with EPT, on Bochs.
    Bochs,
}

impl BedKind {
    /// Every bed.
    pub(crate) const ALL: [Self; 2] = [Self::Qemu, Self::Bochs];

    /// As the command line spells it.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Qemu => "qemu",
            Self::Bochs => "bochs",
        }
    }
}

/// A machine's serial port.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Serial {
    /// The first of a PC.
    First,
    /// The second, with no first.
    Second,
    /// None.
    None,
}

/// What tables an IOMMU translates by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Iommu {
    /// There is none.
    None,
    /// Without PASIDs.
    Legacy,
    /// With PASIDs, second stage.
    SecondStage,
    /// With PASIDs, first stage.
    FirstStage,
}

/// A device on PCI Express. Disks are raw images, networks the emulator's own.
#[derive(Clone, Debug)]
pub(crate) enum Device {
    Nvme(PathBuf),
    /// With two virtual functions, and a namespace for each disk that nobody has at first.
    NvmeShared(Vec<PathBuf>),
    Igb,
    /// One device of two functions, which cannot be held apart.
    Pair,
    /// A DMA engine, which whoever reaches its registers can make write.
    Edu,
    VirtioBlk(PathBuf),
    VirtioNet,
    /// A model of our own, `siov`, `dsa` or `dsa-2`, which a shared object brings: on Bochs with the IOMMU, a model too.
    Model(&'static str, PathBuf),
}

/// The emulated machine.
#[derive(Clone, Debug)]
pub(crate) struct Machine {
    /// Memory in MiB.
    pub(crate) memory_mib: u64,
    /// CPUs.
    pub(crate) cpus: u32,
    /// Time is counted in instructions, so that a run repeats exactly. Bochs with one CPU always does that.
    pub(crate) icount: bool,
    /// The bed counts VM entries by itself, for tests that do not take Kerf's word. Bochs takes half as long again then;
    /// without it counts those after EPT violations.
    pub(crate) count_entries: bool,
    /// Its serial port. On Bochs it is always the first.
    pub(crate) serial: Serial,
    /// QEMU takes the host's own virtualization, nested, instead of emulating a CPU.
    pub(crate) kvm: bool,
    /// Its IOMMU. On Bochs there is none but what [`Device::Model`] brings.
    pub(crate) iommu: Iommu,
    /// Devices, each behind a root port. On Bochs there is nothing but [`Device::Model`], on bus 0.
    pub(crate) devices: Vec<Device>,
    /// Its memory, registers among it, can be reached from outside: [`Session::probe`]. Only on QEMU.
    pub(crate) probe: bool,
    /// CPU features that Bochs hides besides those that it always does, a comma before each.
    pub(crate) lacks: &'static str,
    /// What is loaded into the emulator to count.
    pub(crate) plugin: Option<Plugin>,
}

/// A shared object that is loaded into the emulator, and its arguments. QEMU's are plugins for TCG; Bochs' are preloaded,
/// with the arguments as variables of the environment.
#[derive(Clone, Debug)]
pub(crate) struct Plugin {
    pub(crate) object: PathBuf,
    pub(crate) arguments: Vec<(&'static str, String)>,
}

impl Machine {
    /// The models among its devices, and the shared object that has each.
    fn models(&self) -> impl Iterator<Item = (&'static str, &Path)> {
        self.devices.iter().filter_map(|device| match device {
            Device::Model(name, object) => Some((*name, object.as_path())),
            _ => None,
        })
    }
}

impl Default for Machine {
    fn default() -> Self {
        Self {
            memory_mib: 1024,
            cpus: 1,
            icount: false,
            count_entries: false,
            serial: Serial::First,
            kvm: false,
            iommu: Iommu::Legacy,
            devices: Vec::new(),
            probe: false,
            lacks: "",
            plugin: None,
        }
    }
}

/// An emulator that is ready to start machines.
pub(crate) trait Bed: Send + Sync {
    /// Starts a machine that boots from the disk image `image`, which stays as it is.
    ///
    /// # Errors
    /// The emulator does not start.
    fn launch(&self, image: &Path, machine: &Machine, scratch: Scratch) -> Result<Session, String>;
}

/// Whether QEMU can run Kerf on this host's own CPU.
///
/// # Errors
/// Why not.
pub(crate) fn probe_kvm(cache: &Cache) -> Result<(), String> {
    kvm::probe(&qemu::Qemu::prepare(cache)?, [cache.scratch()?, cache.scratch()?])
}

/// The host's own emulator of a version that will do.
pub(crate) fn host_program(own: Own) -> Option<PathBuf> {
    let program = match own {
        Own::Qemu => qemu::host(),
        Own::Bochs => bochs::host(),
        _ => None,
    };
    program.map(|program| program.path().to_path_buf())
}

/// Finds the emulator of a bed, or fetches it.
///
/// # Errors
/// It cannot be had, or is of a version that will not do: what, where, what to do.
pub(crate) fn prepare(kind: BedKind, cache: &Cache) -> Result<Box<dyn Bed>, String> {
    Ok(match kind {
        BedKind::Qemu => Box::new(qemu::Qemu::prepare(cache)?),
        BedKind::Bochs => Box::new(bochs::Bochs::prepare(cache)?),
    })
}
