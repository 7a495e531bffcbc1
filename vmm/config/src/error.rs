//! What can be wrong with a configuration, and how it is told: always one line, always with what would be right.

use alloc::string::String;
use core::fmt;

use hw::Function;

use crate::{
    MAX_CMDLINE_BYTES, MAX_PATH_BYTES, MAX_VCPUS, VERSION,
    check::{PHYSICAL_BITS, SLICES_US},
};

/// What is wrong, and where.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConfigError {
    /// The file, as the caller of [`crate::parse`] named it.
    pub file: String,
    /// Line, from 1.
    pub line: usize,
    /// Column in characters, from 1.
    pub column: usize,
    /// Path of the key, such as `vm.memory`; empty where the trouble is with no single key.
    pub key: String,
    /// What is wrong there.
    pub problem: Problem,
}

/// What is wrong. Displayed, each says what would be right.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Problem {
    /// The text is not TOML.
    Syntax(String),
    /// TOML, but not the schema's: an unknown, missing or twice given key, a value of another type. With the reader's
    /// words, and the known key that the unknown one resembles.
    Schema(String, Option<&'static str>),
    /// There is no `version`.
    NoVersion,
    /// `version` is another.
    Version(i64),
    /// There is no `[[vm]]`.
    NoVm,
    /// `[vm]` was written for `[[vm]]`.
    VmNotList,
    /// Two VMs have this name.
    DuplicateName(String),
    /// Not a name.
    Name(String),
    /// Not a number of bytes.
    Size(String),
    /// Not a multiple of 2 MiB, or zero.
    Memory(String),
    /// No number of vCPUs.
    Vcpus(u32),
    /// So many pins for so many vCPUs.
    PinCount(usize, u32),
    /// Two vCPUs of the VM are pinned to this CPU.
    PinTwice(u32),
    /// This CPU is also named by the VM of this name.
    PinShared(u32, String),
    /// Not the length of a time slice.
    Slice(u32),
    /// Not a width of guest-physical addresses.
    PhysicalBits(u8),
    /// Modules for Linux.
    LinuxModules,
    /// Neither where the device is nor what it is like, or both.
    DeviceForm,
    /// Not the address of a function.
    Function(String),
    /// A class code has 24 bits.
    Class(u32),
    /// A function cannot be given to the VM. In the kernel's words.
    Device(String),
    /// The function is also in this VM.
    FunctionTaken(Function, String),
    /// The machine has not so much memory.
    TooMuchMemory {
        /// Bytes that the VM wants.
        wanted: u64,
        /// Bytes that are left for it.
        left: u64,
        /// Bytes that the machine has for all VMs.
        total: u64,
    },
    /// The VM has more vCPUs than the machine has CPUs.
    TooManyVcpus {
        /// vCPUs of the VM.
        vcpus: u32,
        /// CPUs of the machine.
        cpus: usize,
    },
    /// A vCPU is pinned to a CPU that the machine does not have.
    NoCpu {
        /// The CPU's number.
        cpu: u32,
        /// CPUs of the machine.
        cpus: usize,
    },
    /// A vCPU is pinned to an SMT sibling of a CPU that runs another VM.
    Siblings {
        /// The CPU's number.
        cpu: u32,
        /// Its sibling.
        sibling: u32,
        /// The VM of the sibling.
        other: String,
    },
    /// Every core belongs to other VMs.
    NoCore,
    /// A file that the VM names, or a value, does not do for its loader. In the loader's words.
    Load(String),
    /// Not a path below the configuration's folder.
    Path(String, PathFault),
    /// The command line has this many bytes.
    CmdlineLength(usize),
    /// The command line holds this control character.
    CmdlineCharacter(char),
}

/// What is wrong with a path.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PathFault {
    /// It is empty.
    Empty,
    /// It starts at the root.
    Absolute,
    /// It has a part `..`.
    Parent,
    /// It has an empty part or a part `.`.
    Part,
    /// It has a backslash.
    Backslash,
    /// It has a character that FAT does not allow.
    Character(char),
    /// It is longer than [`MAX_PATH_BYTES`].
    Length(usize),
}

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}: ", self.file, self.line)?;
        if matches!(self.problem, Problem::Syntax(_)) {
            write!(f, "column {}: ", self.column)?;
        }
        if !self.key.is_empty() {
            write!(f, "{}: ", self.key)?;
        }
        write!(f, "{}", self.problem)
    }
}

impl core::error::Error for ConfigError {}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Syntax(words) => write!(f, "not TOML: {words}"),
            Self::Schema(words, None) => write!(f, "{words}"),
            Self::Schema(words, Some(near)) => write!(f, "{words}; did you mean `{near}`?"),
            Self::NoVersion => write!(f, "there is no version; write `version = {VERSION}` first"),
            Self::Version(other) => {
                write!(f, "version {other} is not known to this build; write `version = {VERSION}`")
            }
            Self::NoVm => {
                write!(f, "there is no VM; add a section [[vm]] with name, memory, kernel")
            }
            Self::VmNotList => write!(f, "VMs are a list; write [[vm]] with two brackets"),
            Self::DuplicateName(name) => {
                write!(f, "{name:?} is also another VM's name; give each VM a name of its own")
            }
            Self::Name(name) => {
                write!(
                    f,
                    "{name:?} is not a name; write letters, digits, `-` and `_`, at least one"
                )
            }
            Self::Size(text) => write!(f, "{text:?} is not a size; write for example \"256M\""),
            Self::Memory(text) => {
                write!(f, "{text:?} is not a multiple of 2M above zero; write for example \"256M\"")
            }
            Self::Vcpus(count) => {
                write!(f, "{count} is not a number of vCPUs; write 1 to {MAX_VCPUS}")
            }
            Self::PinCount(pins, vcpus) => write!(
                f,
                "{pins} CPUs for {vcpus} vCPUs; write one CPU for each, or leave the key out"
            ),
            Self::PinTwice(cpu) => {
                write!(f, "CPU {cpu} is there twice; give each vCPU of a VM a CPU of its own")
            }
            Self::PinShared(cpu, other) => write!(
                f,
                "CPU {cpu} is also VM {other:?}'s; choose another, or write `share-cpus = true` in [hypervisor] to let \
                 them take turns"
            ),
            Self::Slice(us) => write!(
                f,
                "{us} is not the length of a time slice; write {} to {} microseconds",
                SLICES_US.start(),
                SLICES_US.end()
            ),
            Self::PhysicalBits(bits) => write!(
                f,
                "{bits} is not a width of addresses; write {} to {}",
                PHYSICAL_BITS.start(),
                PHYSICAL_BITS.end()
            ),
            Self::LinuxModules => {
                write!(f, "Linux takes no modules; write `initrd`, or another `loader`")
            }
            Self::DeviceForm => write!(
                f,
                "a device is named by `function`, by `vendor` (with `device`, if need be) or `class`, or by \
                 `virtual-function-of` (with `namespace` or `namespace-bytes` for NVMe); write one of these"
            ),
            Self::Function(text) => {
                write!(f, "{text:?} is not a PCI function; write for example \"0000:01:00.0\"")
            }
            Self::Class(class) => {
                write!(f, "{class:#x} is not a class code of 24 bits; write for example 0x010802")
            }
            Self::FunctionTaken(function, other) => {
                write!(f, "{function} is VM {other:?}'s already; name a function once")
            }
            Self::TooMuchMemory { wanted, left, total } => write!(
                f,
                "{} MiB are more than the {} MiB left of the machine's {}; write less, here or in another VM",
                wanted >> 20,
                left >> 20,
                total >> 20
            ),
            Self::TooManyVcpus { vcpus, cpus } => write!(
                f,
                "{vcpus} vCPUs, but the machine has {}; write at most {cpus}, or `share-cpus = true` in [hypervisor] to \
                 let them take turns",
                Cpus(*cpus)
            ),
            Self::NoCpu { cpu, cpus } => write!(
                f,
                "there is no CPU {cpu}, the machine has {}; write numbers up to {}",
                Cpus(*cpus),
                cpus.saturating_sub(1)
            ),
            Self::Siblings { cpu, sibling, other } => write!(
                f,
                "CPU {cpu} shares a core with CPU {sibling}, which is VM {other:?}'s; choose a CPU of another core, or \
                 write `share-smt = true` in [hypervisor]"
            ),
            Self::NoCore => write!(
                f,
                "every core is in use by another VM's pinned vCPUs; free a core there, or write `share-smt = true` in \
                 [hypervisor]"
            ),
            Self::Load(words) | Self::Device(words) => write!(f, "{words}"),
            Self::Path(path, fault) => write!(
                f,
                "{path:?} {fault}; write a path below this file's folder, for example \"guest/vmlinuz\""
            ),
            Self::CmdlineLength(bytes) => {
                write!(f, "{bytes} bytes are too long; write at most {MAX_CMDLINE_BYTES}")
            }
            Self::CmdlineCharacter(character) => {
                write!(f, "holds the control character {character:?}; write one line of text")
            }
        }
    }
}

/// A number of CPUs in words.
struct Cpus(usize);

impl fmt::Display for Cpus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} CPU{}", self.0, if self.0 == 1 { "" } else { "s" })
    }
}

impl fmt::Display for PathFault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Empty => write!(f, "is empty"),
            Self::Absolute => write!(f, "starts at the root"),
            Self::Parent => write!(f, "leaves the folder by `..`"),
            Self::Part => write!(f, "has an empty part or a part `.`"),
            Self::Backslash => write!(f, "has a backslash where `/` belongs"),
            Self::Character(character) => {
                write!(f, "has {character:?}, which no file name may hold")
            }
            Self::Length(bytes) => {
                write!(f, "has {bytes} bytes where at most {MAX_PATH_BYTES} are allowed")
            }
        }
    }
}
