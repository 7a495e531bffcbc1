//! `kerf.toml`: one schema for boot, kernel, vmm and xtask.
//!
//! [`parse`] turns the file's text into a checked [`Config`], or into a [`ConfigError`] that says in one line which file,
//! which line and which key is wrong, and what would be right. `schema` holds the file's form as serde sees it, `check`
//! the rules that a form cannot express, `error` the messages.
//!
//! ```toml
//! version = 1
//!
//! [hypervisor]
//! log = "info"
//!
//! [[vm]]
//! name = "linux"
//! memory = "256M"
//! kernel = "guest/vmlinuz"
//! initrd = "guest/initrd"
//! cmdline = "console=ttyS0"
//!
//! [vm.test]
//! exit-port = true
//! withhold = ["timer"]
//! ```

#![cfg_attr(not(test), no_std)]
#![forbid(unsafe_code)]
#![deny(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, clippy::panic)]
#![cfg_attr(
    test,
    allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, clippy::panic)
)]

extern crate alloc;

mod check;
mod error;
mod schema;
#[cfg(test)]
mod tests;

use alloc::{string::String, vec::Vec};

pub use check::{MAX_CMDLINE_BYTES, MAX_PATH_BYTES, MEMORY_GRANULE, parse};
pub use error::{ConfigError, PathFault, Problem};
use serde::Deserialize;

/// The value that the key `version` must have.
pub const VERSION: i64 = 1;

/// A whole configuration, checked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    /// `[hypervisor]`.
    pub hypervisor: Hypervisor,
    /// `[[vm]]`, in the file's order; at least one.
    pub vms: Vec<Vm>,
}

/// `[hypervisor]`: Kerf itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Hypervisor {
    /// `log`: the least severe level that is printed.
    pub log: LogLevel,
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
    /// `memory`: bytes of guest RAM, a multiple of 2 MiB, written as `"256M"` or `"2G"`.
    pub memory_bytes: u64,
    /// `kernel`: path of a bzImage, relative to the configuration's own folder, `/` between its parts.
    pub kernel: String,
    /// `initrd`: path of an initial RAM disk, likewise.
    pub initrd: Option<String>,
    /// `cmdline`: the guest kernel's command line.
    pub cmdline: String,
    /// `[vm.test]`: switches for tests only.
    pub test: TestSwitches,
}

/// `[vm.test]`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "kebab-case")]
pub struct TestSwitches {
    /// `exit-port`: port 0xf4 ends the guest with the written byte as its status, and the machine with it.
    pub exit_port: bool,
    /// `withhold`: interrupts of these sources never reach the guest.
    pub withhold: Vec<Withheld>,
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
