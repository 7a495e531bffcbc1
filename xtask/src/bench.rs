//! `cargo xtask bench`: what Kerf costs, counted in instructions on the deterministic beds.
//!
//! [`exits`] measures round trips between guest and hypervisor by the guest `cpuid_bench`, [`peer`] lets the same guest
//! run under Linux's KVM in the same bed, [`baseline`] holds what was recorded, [`rows`] the goals, [`limits`] what
//! an exit may not do at all. [`boot`] splits the boot
//! of a Linux guest into Kerf's part and the guest's by a [`plugin`] that the emulator counts with, [`io`] does so with reads
//! of a disk that is the guest's own. docs/measuring.md says what the figures mean.

pub(crate) mod baseline;
mod boot;
pub(crate) mod exits;
mod io;
mod limits;
mod peer;
mod plugin;
mod rows;

use std::path::PathBuf;

use clap::{Args, Subcommand, ValueEnum};

use crate::bed::BedKind;
use crate::context::Context;

/// What to measure.
#[derive(Subcommand)]
pub(crate) enum Bench {
    /// Instructions from guest to guest for each kind of exit.
    Exits(Exits),
    /// A Linux guest's boot to userspace: Kerf's instructions and the guest's; Kerf's size.
    Boot(Boot),
    /// A Linux guest's reads of an NVMe disk of its own, on QEMU: Kerf's instructions, the guest's, exits.
    Io(Io),
}

/// A hypervisor to compare with.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Peer {
    /// Linux 6.12's, with a minimal program of ours as its user space.
    Kvm,
}

#[derive(Args)]
pub(crate) struct Exits {
    /// The bed: qemu has SVM and nested paging, bochs has VT-x and EPT.
    #[arg(long, value_name = "BED", default_value = "qemu")]
    pub(crate) on: BedKind,
    /// Also writes the table as JSON.
    #[arg(long, value_name = "FILE")]
    pub(crate) json: Option<PathBuf>,
    /// Runs the same guest under this hypervisor, too, and prints the ratio.
    #[arg(long, value_name = "NAME")]
    pub(crate) peer: Option<Peer>,
    /// Fails where a figure is more than 3 % above the recorded one.
    #[arg(long)]
    pub(crate) check: bool,
    /// Records the figures, to be compared with later.
    #[arg(long, conflicts_with = "check")]
    pub(crate) record: bool,
}

#[derive(Args)]
pub(crate) struct Boot {
    /// The bed: qemu has SVM and nested paging, bochs has VT-x and EPT.
    #[arg(long, value_name = "BED", default_value = "qemu")]
    pub(crate) on: BedKind,
    /// How often to boot; the spread is printed.
    #[arg(long, value_name = "COUNT", default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..=100))]
    pub(crate) runs: u32,
    /// Also writes the figures as JSON.
    #[arg(long, value_name = "FILE")]
    pub(crate) json: Option<PathBuf>,
}

#[derive(Args)]
pub(crate) struct Io {
    /// How often to boot, under Kerf and without it; the spread is printed.
    #[arg(long, value_name = "COUNT", default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..=100))]
    pub(crate) runs: u32,
    /// Also writes the figures as JSON.
    #[arg(long, value_name = "FILE")]
    pub(crate) json: Option<PathBuf>,
}

/// Measures and prints.
///
/// # Errors
/// Something could not be measured, or `--check` found a regression.
pub(crate) fn run(context: &Context, what: &Bench) -> Result<(), String> {
    match what {
        Bench::Exits(options) => exits::run(context, options),
        Bench::Boot(options) => boot::run(context, options),
        Bench::Io(options) => io::run(context, options),
    }
}
