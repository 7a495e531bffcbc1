//! `kerf.toml`: one schema for boot, kernel, vmm and xtask.
//!
//! [`parse`] turns the file's text into a checked [`Config`], or into a [`ConfigError`] that says in one line which file,
//! which line and which key is wrong, and what would be right. `schema` holds the file's form as serde sees it, `check`
//! the rules that a form cannot express, `error` the messages.
//!
//! ```toml
//! version = 1
//!
//! [[vm]]
//! name = "linux"
//! memory = "256M"
//! kernel = "guest/vmlinuz"
//! ```
//!
//! [`admit`] compares a configuration with the machine that is to run it, and places its vCPUs. All keys:
//! docs/configuration.md.

#![cfg_attr(not(test), no_std)]
#![forbid(unsafe_code)]
#![deny(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, clippy::panic)]
#![cfg_attr(
    test,
    allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, clippy::panic)
)]

extern crate alloc;

mod admit;
mod check;
mod error;
mod place;
mod schema;
#[cfg(test)]
mod tests;

use alloc::{string::String, vec::Vec};
use core::fmt;

pub use admit::{Machine, Placement, admit};
pub use check::{MAX_CMDLINE_BYTES, MAX_PATH_BYTES, MAX_VCPUS, MEMORY_GRANULE, parse};
pub use error::{ConfigError, PathFault, Problem};
use hw::Function;
use serde::Deserialize;

/// The value that the key `version` must have.
pub const VERSION: i64 = 1;

/// A whole configuration, checked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    /// `[hypervisor]`.
    pub hypervisor: Hypervisor,
    /// `[[hosting]]`, in the file's order.
    pub hosting: Vec<Hosting>,
    /// `[[vm]]`, in the file's order; at least one, but for a survey.
    pub vms: Vec<Vm>,
    /// What it was read from, for messages.
    source: place::Source,
}

/// `[hypervisor]`: Kerf itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Hypervisor {
    /// `mode`: whether guests are started.
    pub mode: RunMode,
    /// `[hypervisor.iommu]`.
    pub iommu: Iommu,
    /// `log`: the least severe level that is printed.
    pub log: LogLevel,
    /// `consoles`: where Kerf prints; `None` for every one that the machine has.
    pub consoles: Option<Vec<Console>>,
    /// `background`: what becomes of the output of guests that do not have the terminal.
    pub background: Background,
    /// `share-smt`: vCPUs of different VMs may run on SMT siblings at once.
    pub share_smt: bool,
    /// `share-cpus`: one CPU may be named in `cpus` of several VMs, and a VM may have more vCPUs than there are CPUs.
    pub share_cpus: bool,
    /// `slice-us`: microseconds that a vCPU runs before another one on the same CPU has its turn.
    pub slice_us: u32,
}

/// `hypervisor.mode`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum RunMode {
    /// `"run"`: guests run.
    #[default]
    Run,
    /// `"survey"`: the machine is described, and nothing started.
    Survey,
}

/// `[hypervisor.iommu]`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Iommu {
    /// `mode`: by which tables it translates.
    pub mode: IommuMode,
}

/// `hypervisor.iommu.mode`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum IommuMode {
    /// `"auto"`: as all units can.
    #[default]
    Auto,
    /// `"legacy"`: without PASIDs.
    Legacy,
    /// `"scalable-second"`: with PASIDs, by the second stage.
    ScalableSecond,
    /// `"scalable-first"`: with PASIDs, by the first stage.
    ScalableFirst,
}

/// `hypervisor.consoles`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Console {
    /// `"serial"`: a 16550, by port or where SPCR says.
    Serial,
    /// `"debug-port"`: port 0xe9 or 0x402 of an emulator.
    DebugPort,
    /// `"screen"`: text on the firmware's framebuffer.
    Screen,
}

/// `hypervisor.background`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Background {
    /// `"show"`: printed line by line, each with the VM's name in front.
    #[default]
    Show,
    /// `"keep"`: kept until the VM has the terminal.
    Keep,
}

/// `hypervisor.log`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
#[allow(missing_docs)]
pub enum LogLevel {
    Error,
    Warn,
    #[default]
    Info,
    Debug,
    Trace,
}

/// `[[vm]]`: one virtual machine.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Vm {
    /// `name`: unique; letters, digits, `-` and `_`.
    pub name: String,
    /// `vcpus`: how many virtual CPUs, 1 to [`MAX_VCPUS`].
    pub vcpus: u32,
    /// `cpus`: for each vCPU the number of the CPU that runs it; `None` where Kerf chooses.
    pub cpus: Option<Vec<u32>>,
    /// `memory`: bytes of guest RAM, a multiple of 2 MiB, written as `"256M"` or `"2G"`.
    pub memory_bytes: u64,
    /// `loader`: by which protocol the kernel is started.
    pub loader: Loader,
    /// `kernel`: path of the kernel, relative to the configuration's own folder, `/` between its parts.
    pub kernel: String,
    /// `initrd`: path of an initial RAM disk, likewise; the first module where the protocol has modules.
    pub initrd: Option<String>,
    /// `modules`: paths of modules, likewise.
    pub modules: Vec<String>,
    /// `cmdline`: the guest kernel's command line.
    pub cmdline: String,
    /// `[[vm.device]]`: the machine's functions that it has, in the file's order.
    pub devices: Vec<Device>,
    /// `[[vm.vdev]]`: virtual devices that it has, in the file's order.
    pub vdevs: Vec<Vdev>,
    /// `[vm.unknown]`: what an access to something that is not there does.
    pub unknown: Unknown,
    /// `idle`: whether waiting instructions exit.
    pub idle: Idle,
    /// `emulate`: instructions that it has even if the CPU lacks them.
    pub emulate: Vec<Emulated>,
    /// `on-reset`: what a reset by the guest does.
    pub on_reset: OnReset,
    /// `on-fault`: what a blocked access of one of its devices does.
    pub on_fault: OnFault,
    /// `reserved-devices`: it may have functions for which the firmware reserves memory, which these then do not reach.
    pub reserved_devices: bool,
    /// `[vm.cpuid]`: what the guest sees less of its CPU.
    pub cpuid: Cpuid,
    /// `[vm.test]`: switches for tests only.
    pub test: TestSwitches,
}

impl Vm {
    /// The files it names, each with its key, in the order of loading. One file may be named several times.
    pub fn files(&self) -> impl Iterator<Item = (&'static str, &str)> {
        let initrd = self.initrd.iter().map(|name| ("initrd", name.as_str()));
        let modules = self.modules.iter().map(|name| ("modules", name.as_str()));
        [("kernel", self.kernel.as_str())].into_iter().chain(initrd).chain(modules)
    }
}

/// `[[vm.device]]`: a function of the machine that the VM has to itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Device {
    /// `function`: the one at this address.
    Function(Function),
    /// The first that has all of these and that no entry before has taken.
    Like {
        /// `vendor`: its vendor ID.
        vendor: Option<u16>,
        /// `device`: its device ID.
        device: Option<u16>,
        /// `class`: its class code of 24 bits.
        class: Option<u32>,
    },
    /// A virtual function.
    Virtual {
        /// `virtual-function-of`: of the function at this address, which is Kerf's own then.
        of: Function,
        /// Its namespace, where it is an NVMe controller.
        namespace: Option<Namespace>,
    },
}

/// The namespace of a virtual NVMe controller, which nobody else has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Namespace {
    /// `namespace`: the one with this ID.
    Id(u32),
    /// `namespace-bytes`: the smallest free one of at least so many bytes.
    Bytes(u64),
}

impl fmt::Display for Device {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (vendor, device, class) = match self {
            Self::Function(function) => return write!(f, "{function}"),
            Self::Virtual { of, namespace } => {
                write!(f, "a virtual function of {of}")?;
                return match namespace {
                    None => Ok(()),
                    Some(Namespace::Id(id)) => write!(f, ", with namespace {id}"),
                    Some(Namespace::Bytes(bytes)) => {
                        write!(f, ", with a namespace of {bytes} bytes")
                    }
                };
            }
            Self::Like { vendor, device, class } => (vendor, device, class),
        };
        f.write_str("the first function")?;
        let words = [("vendor", vendor.map(u32::from)), ("device", device.map(u32::from))];
        for (word, value) in words {
            if let Some(value) = value {
                write!(f, " of {word} {value:#06x}")?;
            }
        }
        class.map_or(Ok(()), |class| write!(f, " of class {class:#08x}"))
    }
}

/// `[[hosting]]`: a function of the machine that Kerf keeps, to carve interfaces for virtual devices from it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Hosting {
    /// `function`: its address.
    pub function: Function,
    /// `queues`: how many entries each of its work queues is to have; all that it has, evenly, where this is empty.
    pub queues: Vec<u16>,
}

/// `[[vm.vdev]]`: a virtual device, composed of interfaces.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Vdev {
    /// `kind`: what the guest sees.
    pub kind: VdevKind,
    /// `functions`: of which hosting functions, in this order; of any where there are none.
    pub functions: Vec<Function>,
    /// `queues`: its work queues.
    pub queues: u32,
    /// `entries`: of each queue, at least.
    pub entries: u32,
    /// `interrupts`: of each queue.
    pub interrupts: u32,
    /// `version`: what the guest is promised.
    pub version: VdevVersion,
    /// `spread`: queues are taken from the functions in turn.
    pub spread: bool,
}

/// `vm.vdev.kind`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum VdevKind {
    /// `"dsa"`: Intel's Data Streaming Accelerator.
    Dsa,
}

/// `vm.vdev.version`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
pub enum VdevVersion {
    /// `"1.0"`.
    #[default]
    #[serde(rename = "1.0")]
    V1,
    /// `"2.0"`.
    #[serde(rename = "2.0")]
    V2,
}

/// `vm.loader`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Loader {
    /// `"auto"`: by what the kernel file is.
    #[default]
    Auto,
    /// `"linux"`: a bzImage, entered in 64-bit mode.
    Linux,
    /// `"pvh"`: an ELF file with the note `XEN_ELFNOTE_PHYS32_ENTRY`.
    Pvh,
    /// `"multiboot"`: a file with a Multiboot 1 header.
    Multiboot,
}

/// `[vm.unknown]`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Unknown {
    /// Ports that no device has; to fault is #GP.
    pub ports: Policy,
    /// Guest-physical addresses that neither RAM nor a device has; to fault is #GP.
    pub mmio: Policy,
    /// MSRs that the guest's CPU does not have; to fault is #GP.
    pub msrs: Policy,
}

impl Default for Unknown {
    fn default() -> Self {
        Self { ports: Policy::Allow, mmio: Policy::Allow, msrs: Policy::Fault }
    }
}

/// What an unknown access does; it is counted in any case.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Policy {
    /// `"allow"`: reads give all-ones (MSRs: zero), writes nothing.
    Allow,
    /// `"fault"`: the guest takes an exception.
    Fault,
    /// `"stop"`: the VM is stopped with a report.
    Stop,
}

/// `vm.idle`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Idle {
    /// `"exit"`: HLT gives the CPU to others.
    #[default]
    Exit,
    /// `"guest"`: a vCPU that is alone on its CPU runs HLT, PAUSE and MWAIT without an exit.
    #[serde(rename = "guest")]
    InGuest,
}

/// An instruction of `vm.emulate`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Emulated {
    /// `"movdir64b"`: MOVDIR64B.
    Movdir64b,
}

/// `vm.on-reset`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum OnReset {
    /// `"end"`: the VM ends.
    #[default]
    End,
    /// `"restart"`: the VM starts again from its files.
    Restart,
}

/// `vm.on-fault`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum OnFault {
    /// `"report"`: it is told; only a device that does nothing else is stopped.
    #[default]
    Report,
    /// `"stop-device"`: the device does no DMA any more until the VM starts anew.
    StopDevice,
    /// `"stop-vm"`: the VM ends.
    StopVm,
}

/// `[vm.cpuid]`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "kebab-case")]
pub struct Cpuid {
    /// `mask`: what stays of the leaves that Kerf offers.
    pub mask: Vec<CpuidMask>,
    /// `physical-bits`: the width of guest-physical addresses, at most the CPU's own.
    pub physical_bits: Option<u8>,
    /// `tsc-khz`: how fast its time-stamp counter runs, if not as the CPU's own.
    pub tsc_khz: Option<core::num::NonZeroU32>,
}

/// An entry of `vm.cpuid.mask`: only bits that are 1 here stay in the leaf's registers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CpuidMask {
    /// EAX of the leaf.
    pub leaf: u32,
    /// ECX of the leaf; `None` for all of its subleaves.
    pub subleaf: Option<u32>,
    /// Bits of EAX that stay.
    #[serde(default = "all_ones")]
    pub eax: u32,
    /// Bits of EBX that stay.
    #[serde(default = "all_ones")]
    pub ebx: u32,
    /// Bits of ECX that stay.
    #[serde(default = "all_ones")]
    pub ecx: u32,
    /// Bits of EDX that stay.
    #[serde(default = "all_ones")]
    pub edx: u32,
}

const fn all_ones() -> u32 {
    u32::MAX
}

/// `[vm.test]`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "kebab-case")]
pub struct TestSwitches {
    /// `exit-port`: port 0xf4 ends the guest with the written byte as its status, and the machine with it.
    pub exit_port: bool,
    /// `withhold`: interrupts of these sources never reach the guest.
    pub withhold: Vec<Withheld>,
    /// `save-restore`: vCPUs are saved and restored, all of them, over and over while the guest runs.
    pub save_restore: bool,
    /// `views`: the guest has a second second-stage view, to switch to by hypercall.
    pub views: bool,
}

/// An interrupt source that a test withholds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Withheld {
    /// `"timer"`: the local APIC's timer.
    Timer,
    /// `"serial"`: the UART.
    Serial,
}
