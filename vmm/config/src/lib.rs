//! `kerf.toml`: one schema for boot, kernel, vmm and xtask.

#![no_std]
#![forbid(unsafe_code)]

extern crate alloc;

use alloc::{string::String, vec::Vec};

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
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum LogLevel {
    Error,
    Warn,
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
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TestSwitches {
    /// `exit-port`: port 0xf4 ends the guest with the written byte as its status, and the machine with it.
    pub exit_port: bool,
    /// `withhold`: interrupts of these sources never reach the guest.
    pub withhold: Vec<Withheld>,
}

/// An interrupt source that a test withholds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Withheld {
    /// `"timer"`: the local APIC's timer.
    Timer,
    /// `"serial"`: the UART.
    Serial,
}
