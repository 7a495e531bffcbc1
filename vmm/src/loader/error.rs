//! Why a guest does not load.

use alloc::string::String;
use core::fmt;

use images::{bzimage, guest, initrd};

use crate::NoMemory;

/// What does not load, and by which key of the configuration.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure {
    /// The key of the VM whose value is to be changed, such as `memory`.
    pub key: &'static str,
    /// The file's name as the configuration spells it, where the trouble is with one.
    pub file: Option<String>,
    /// What is wrong.
    pub why: LoadError,
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.file {
            Some(name) => write!(f, "{name}: {}", self.why),
            None => write!(f, "{}", self.why),
        }
    }
}

impl core::error::Error for Failure {}

/// Why a kernel, or what belongs to it, cannot be loaded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LoadError {
    /// A file was not loaded by the boot application.
    NoFile,
    /// The kernel file is not what it should be.
    Kernel(guest::Error),
    /// The RAM disk is not what it should be.
    Initrd(initrd::Error),
    /// The kernel needs more memory than there is below 3 GiB.
    KernelTooBig {
        /// Bytes of memory below 3 GiB that it needs, with what lies below it.
        needed: u64,
        /// Bytes there are.
        available: u64,
    },
    /// A segment of the kernel does not lie in RAM, or where boot information has to be.
    Segment {
        /// Its first address.
        start: u64,
        /// The first address past it.
        end: u64,
        /// Where low RAM ends.
        ram_end: u64,
    },
    /// Two segments of the kernel overlap.
    Overlap {
        /// The lower one's first address.
        first: u64,
        /// The higher one's.
        second: u64,
    },
    /// A RAM disk or module does not fit above the kernel.
    FileTooBig {
        /// Its length in bytes.
        bytes: u64,
        /// Bytes of room for it.
        room: u64,
    },
    /// Boot information, the names of modules above all, does not fit below 640 KiB.
    BootInfoTooBig,
    /// The command line is longer than the kernel takes.
    CommandLineTooLong {
        /// Its length in bytes.
        bytes: usize,
        /// The longest that the kernel takes.
        most: usize,
    },
    /// Linux takes no modules.
    Modules,
    /// The ACPI tables are larger than the place for them: too many CPUs.
    AcpiTooBig,
    /// The layout names RAM that the guest's memory does not have.
    NoMemory(NoMemory),
}

impl LoadError {
    /// The key by whose value a guest does not load, but for RAM disks and modules that are not found or sound.
    pub(super) const fn key(&self) -> &'static str {
        match self {
            Self::NoFile | Self::Kernel(_) | Self::Segment { .. } | Self::Overlap { .. } => {
                "kernel"
            }
            Self::Initrd(_) => "initrd",
            Self::CommandLineTooLong { .. } => "cmdline",
            Self::Modules | Self::BootInfoTooBig => "modules",
            Self::AcpiTooBig => "vcpus",
            // Files are as large as they are; the guest can have more memory.
            Self::KernelTooBig { .. } | Self::FileTooBig { .. } | Self::NoMemory(_) => "memory",
        }
    }
}

impl fmt::Display for LoadError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoFile => write!(f, "the boot application did not load it"),
            Self::Kernel(error) => write!(f, "{error}"),
            Self::Initrd(error) => write!(f, "{error}"),
            Self::KernelTooBig { needed, available } => write!(
                f,
                "it needs {} MiB of memory, the guest has {} MiB below 3 GiB",
                needed.div_ceil(1 << 20),
                available >> 20
            ),
            Self::Segment { start, end, ram_end } => write!(
                f,
                "its segment {start:#x}-{:#x} does not lie in free RAM, which is {:#x}-{:#x} and {:#x}-{:#x}",
                end - 1,
                super::memory_map::FREE_LOW,
                super::memory_map::LOW_END - 1,
                super::memory_map::HIGH_MEMORY,
                ram_end.saturating_sub(1)
            ),
            Self::Overlap { first, second } => {
                write!(f, "damaged: its segments at {first:#x} and {second:#x} overlap")
            }
            Self::FileTooBig { bytes, room } => write!(
                f,
                "its {} MiB do not fit into the {} MiB of memory above the kernel",
                bytes.div_ceil(1 << 20),
                room >> 20
            ),
            Self::BootInfoTooBig => {
                write!(f, "the boot information of so many modules has no room")
            }
            Self::CommandLineTooLong { bytes, most } => {
                write!(f, "a command line of {bytes} bytes, but this kernel takes at most {most}")
            }
            Self::Modules => write!(f, "Linux takes no modules; name an initrd"),
            Self::AcpiTooBig => write!(f, "the ACPI tables do not fit below 1 MiB: too many CPUs"),
            Self::NoMemory(NoMemory(gpa)) => write!(f, "the guest has no memory at {gpa}"),
        }
    }
}

impl core::error::Error for LoadError {}

impl From<bzimage::Error> for LoadError {
    fn from(error: bzimage::Error) -> Self {
        Self::Kernel(guest::Error::Linux(error))
    }
}

impl From<guest::Error> for LoadError {
    fn from(error: guest::Error) -> Self {
        Self::Kernel(error)
    }
}

impl From<NoMemory> for LoadError {
    fn from(error: NoMemory) -> Self {
        Self::NoMemory(error)
    }
}
