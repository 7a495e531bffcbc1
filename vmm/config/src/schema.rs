//! The form of `kerf.toml` as serde reads it: every value that `check` looks at keeps its place in the text.

use alloc::{string::String, vec::Vec};

use serde::Deserialize;
use toml::Spanned;

use crate::{LogLevel, TestSwitches};

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
    pub(crate) vm: Vec<VmTable>,
}

/// `[hypervisor]`.
#[derive(Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct HypervisorTable {
    pub(crate) log: LogLevel,
}

/// `[[vm]]`.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct VmTable {
    pub(crate) name: Spanned<String>,
    pub(crate) memory: Spanned<String>,
    pub(crate) kernel: Spanned<String>,
    pub(crate) initrd: Option<Spanned<String>>,
    pub(crate) cmdline: Option<Spanned<String>>,
    #[serde(default)]
    pub(crate) test: TestSwitches,
}
