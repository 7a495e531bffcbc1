//! The form of `kerf.toml` as serde reads it: every value that `check` looks at keeps its place in the text.

use alloc::{string::String, vec::Vec};

use serde::Deserialize;
use toml::Spanned;

use crate::{
    Background, Console, Cpuid, Emulated, Idle, Iommu, Loader, LogLevel, OnFault, OnReset, RunMode,
    TestSwitches, Unknown, VdevKind, VdevVersion,
};

/// The whole file.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct File {
    /// Checked before the rest is read: a file of another version has other keys.
    #[serde(rename = "version")]
    pub(crate) _version: i64,
    #[serde(default)]
    pub(crate) hypervisor: HypervisorTable,
    #[serde(default)]
    pub(crate) hosting: Vec<HostingTable>,
    #[serde(default)]
    pub(crate) vm: Vec<VmTable>,
}

/// `[[hosting]]`.
#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub(crate) struct HostingTable {
    pub(crate) function: Spanned<String>,
    #[serde(default)]
    pub(crate) queues: Vec<u16>,
}

/// `[hypervisor]`.
#[derive(Default, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "kebab-case")]
pub(crate) struct HypervisorTable {
    pub(crate) mode: RunMode,
    pub(crate) iommu: Iommu,
    pub(crate) log: LogLevel,
    pub(crate) consoles: Option<Vec<Console>>,
    pub(crate) background: Background,
    pub(crate) share_smt: bool,
    pub(crate) share_cpus: bool,
    pub(crate) slice_us: Option<Spanned<u32>>,
}

/// `[[vm]]`.
#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub(crate) struct VmTable {
    pub(crate) name: Spanned<String>,
    pub(crate) vcpus: Option<Spanned<u32>>,
    pub(crate) cpus: Option<Spanned<Vec<Spanned<u32>>>>,
    pub(crate) memory: Spanned<String>,
    #[serde(default)]
    pub(crate) loader: Loader,
    pub(crate) kernel: Spanned<String>,
    pub(crate) initrd: Option<Spanned<String>>,
    #[serde(default)]
    pub(crate) modules: Vec<Spanned<String>>,
    pub(crate) cmdline: Option<Spanned<String>>,
    #[serde(default)]
    pub(crate) device: Vec<Spanned<DeviceTable>>,
    #[serde(default)]
    pub(crate) vdev: Vec<VdevTable>,
    #[serde(default)]
    pub(crate) unknown: Unknown,
    #[serde(default)]
    pub(crate) idle: Idle,
    #[serde(default)]
    pub(crate) emulate: Vec<Emulated>,
    #[serde(default)]
    pub(crate) on_reset: OnReset,
    #[serde(default)]
    pub(crate) on_fault: OnFault,
    #[serde(default)]
    pub(crate) reserved_devices: bool,
    #[serde(default)]
    pub(crate) cpuid: Option<Spanned<Cpuid>>,
    #[serde(default)]
    pub(crate) test: TestSwitches,
}

/// `[[vm.device]]`.
#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub(crate) struct DeviceTable {
    pub(crate) function: Option<Spanned<String>>,
    pub(crate) vendor: Option<u16>,
    pub(crate) device: Option<u16>,
    pub(crate) class: Option<Spanned<u32>>,
    pub(crate) virtual_function_of: Option<Spanned<String>>,
    pub(crate) namespace: Option<u32>,
    pub(crate) namespace_bytes: Option<Spanned<String>>,
}

/// `[[vm.vdev]]`.
#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub(crate) struct VdevTable {
    pub(crate) kind: VdevKind,
    #[serde(default)]
    pub(crate) functions: Vec<Spanned<String>>,
    #[serde(default = "one")]
    pub(crate) queues: u32,
    #[serde(default = "one")]
    pub(crate) entries: u32,
    #[serde(default = "one")]
    pub(crate) interrupts: u32,
    #[serde(default)]
    pub(crate) version: VdevVersion,
    #[serde(default)]
    pub(crate) spread: bool,
}

const fn one() -> u32 {
    1
}
