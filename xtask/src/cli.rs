//! The command line.

use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::{Args, Parser, Subcommand};

use crate::bed::BedKind;
use crate::bench::Bench;
use crate::meaning::Bounds;
use crate::own::Files;

/// Builds, runs and tests Kerf.
#[derive(Parser)]
#[command(name = "cargo xtask", bin_name = "cargo xtask")]
pub(crate) struct Cli {
    #[command(subcommand)]
    pub(crate) command: Command,
    #[command(flatten)]
    pub(crate) files: Files,
}

#[derive(Subcommand)]
pub(crate) enum Command {
    /// Boots Kerf on an emulated machine and hands over its serial console.
    Run(Run),
    /// Runs all tests: tidy, host tests, system tests on both beds.
    Test(Test),
    /// Plays random scripts on parts of Kerf, or random instructions on a bed, and looks for what fails.
    Fuzz(Fuzz),
    /// Writes the image of a bootable disk: a GPT with an EFI system partition, to write on a USB stick.
    Image(Image),
    /// Checks a configuration and the files it names, and prints what they will mean.
    Config(Config),
    /// Draws what is composed of what: functions, interfaces, devices, VMs.
    Topology(Topology),
    /// Says what this machine can run, and why not the rest.
    Doctor,
    /// Measures what Kerf costs, in instructions.
    #[command(subcommand)]
    Bench(Bench),
    /// Checks the sources against the rules of the house.
    Tidy,
    /// Makes the bare-metal targets usable, so that plain cargo commands build Kerf.
    Sysroot,
}

/// A configuration and, as far as it is known, the machine that is to run it.
#[derive(Args)]
pub(crate) struct Config {
    /// The configuration.
    #[arg(value_name = "FILE", default_value = "kerf.toml")]
    pub(crate) file: PathBuf,
    /// CPUs of the machine, each a core of its own.
    #[arg(long, value_name = "COUNT", value_parser = clap::value_parser!(u32).range(1..))]
    smp: Option<u32>,
    /// Memory that the machine has for guests, in MiB.
    #[arg(long, value_name = "MIB")]
    memory: Option<u32>,
}

impl Config {
    /// What is known of the machine.
    pub(crate) fn bounds(&self) -> Bounds {
        Bounds { cpus: self.smp, memory_bytes: self.memory.map(|mib| u64::from(mib) << 20) }
    }
}

/// What to draw, and where.
#[derive(Args)]
pub(crate) struct Topology {
    /// A configuration (FILE.toml), or what the console of a running machine printed after the monitor's `topology`.
    #[arg(value_name = "FILE", default_value = "kerf.toml")]
    pub(crate) file: PathBuf,
    /// The SVG file to write [default: standard output].
    #[arg(long, value_name = "FILE")]
    pub(crate) out: Option<PathBuf>,
}

/// What guests the machine has.
#[derive(Args)]
pub(crate) struct Guests {
    /// A configuration; the files it names lie beside it. Without it: one Linux guest, as the next options say.
    #[arg(long, value_name = "FILE", conflicts_with_all = ["kernel", "initrd", "cmdline", "memory"])]
    pub(crate) config: Option<PathBuf>,
    /// The guest's kernel, a bzImage [default: Debian's Linux 6.12].
    #[arg(long, value_name = "FILE")]
    pub(crate) kernel: Option<PathBuf>,
    /// The guest's initial RAM disk [default: busybox with a self-test].
    #[arg(long, value_name = "FILE")]
    pub(crate) initrd: Option<PathBuf>,
    /// The guest kernel's command line [default: console=ttyS0].
    #[arg(long, value_name = "TEXT")]
    pub(crate) cmdline: Option<String>,
    /// The guest's memory [default: 256M].
    #[arg(long, value_name = "SIZE")]
    pub(crate) memory: Option<String>,
}

/// Where to run; tests and benchmarks choose among the emulated beds only.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
#[allow(missing_docs)]
pub(crate) enum Place {
    Qemu,
    Bochs,
    Kvm,
    Auto,
}

#[derive(Args)]
pub(crate) struct Run {
    /// The bed: qemu has SVM and nested paging, bochs has VT-x and EPT, kvm is QEMU on this machine's own CPU, auto is kvm
    /// where that works, else qemu.
    #[arg(long, value_name = "BED", default_value = "qemu")]
    pub(crate) on: Place,
    #[command(flatten)]
    pub(crate) guests: Guests,
    /// CPUs of the bed [default: as many as the guests need].
    #[arg(long, value_name = "COUNT", value_parser = clap::value_parser!(u32).range(1..=64))]
    pub(crate) smp: Option<u32>,
    /// Only prints the console; without it the terminal is the console.
    #[arg(long)]
    pub(crate) headless: bool,
    /// Ends the run well as soon as the console has printed this.
    #[arg(long, value_name = "REGEX")]
    pub(crate) expect: Option<regex::bytes::Regex>,
    /// Ends the run badly after so many seconds [default: 600 with --headless, else never].
    #[arg(long, value_name = "SECONDS")]
    timeout: Option<u64>,
    /// Also writes the console into a file.
    #[arg(long, value_name = "FILE")]
    pub(crate) serial: Option<PathBuf>,
    /// Counts time in instructions, so that runs repeat exactly (bochs always does).
    #[arg(long)]
    pub(crate) icount: bool,
    /// Has the emulator count VM entries, and prints the count.
    #[arg(long)]
    pub(crate) count_entries: bool,
}

impl Run {
    /// The longest the run may last.
    pub(crate) fn timeout(&self) -> Option<Duration> {
        self.timeout.or(self.headless.then_some(600)).map(Duration::from_secs)
    }
}

#[derive(Args)]
pub(crate) struct Image {
    /// The file to write [default: kerf.img].
    #[arg(value_name = "FILE", conflicts_with = "out")]
    file: Option<PathBuf>,
    /// The file to write, likewise.
    #[arg(long, value_name = "FILE")]
    out: Option<PathBuf>,
    #[command(flatten)]
    pub(crate) guests: Guests,
}

impl Image {
    /// The file to write.
    pub(crate) fn file(&self) -> &Path {
        self.out.as_deref().or(self.file.as_deref()).unwrap_or(Path::new("kerf.img"))
    }
}

/// Which tests.
#[derive(Args)]
pub(crate) struct Test {
    /// Only what needs no emulator.
    #[arg(long, conflicts_with_all = ["system", "on"])]
    pub(crate) host: bool,
    /// Only system tests; with a name, those whose names contain it.
    #[arg(long, value_name = "NAME", num_args = 0..=1, default_missing_value = "")]
    pub(crate) system: Option<String>,
    /// Only system tests on this bed.
    #[arg(long, value_name = "BED")]
    pub(crate) on: Option<BedKind>,
    /// In place of the tests: plants faults of one line in a copy of the sources, each of which a test must catch.
    #[arg(long, conflicts_with_all = ["host", "system", "on", "full"])]
    pub(crate) mutants: bool,
    /// Also the long ones: every small guest on 1, 2 and 4 CPUs, ten times as many random instructions.
    #[arg(long)]
    pub(crate) full: bool,
    /// Prints the names of the steps and runs none.
    #[arg(long)]
    pub(crate) list: bool,
}

/// What to play, and how long.
#[derive(Args)]
pub(crate) struct Fuzz {
    /// The target [default: all but instructions].
    #[arg(value_name = "TARGET")]
    pub(crate) target: Option<FuzzTarget>,
    /// How long each target is played; instructions go by seeds.
    #[arg(long, value_name = "COUNT", default_value_t = 1)]
    pub(crate) minutes: u64,
    /// Makes the kept corpus (tests/fuzz/corpus) anew of what was found, as small as reaches the same code.
    #[arg(long)]
    pub(crate) keep: bool,
    /// In place of that: plants faults in a copy of the sources, each of which the target must find within ten minutes.
    #[arg(long, conflicts_with_all = ["keep", "minutes"])]
    pub(crate) planted: bool,
    #[command(flatten)]
    pub(crate) instructions: Instructions,
}

/// What plays scripts. All but instructions need a nightly toolchain, and no emulator.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
#[value(rename_all = "snake_case")]
pub(crate) enum FuzzTarget {
    /// The bytes of a DMAR table.
    Dmar,
    /// The same, and model units that are taken over by them.
    BringUp,
    /// A guest's configuration space and BARs, in front of functions that say anything.
    ConfigSpace,
    /// MSI-X and MSI of a function, beside a table.
    Msix,
    /// The IOMMU driver on a model, beside a plain map.
    Iommu,
    /// A guest that executes random instructions on a bed, beside one that must not notice.
    Instructions,
}

impl FuzzTarget {
    /// As it is written.
    pub(crate) fn name(self) -> String {
        clap::ValueEnum::to_possible_value(&self)
            .map_or_else(String::new, |value| value.get_name().into())
    }
}

/// Random instructions.
#[derive(Args)]
pub(crate) struct Instructions {
    /// Instructions: the bed.
    #[arg(long, value_name = "BED", default_value = "qemu", requires = "target")]
    pub(crate) on: BedKind,
    /// Instructions: how many seeds, each of a thousand instructions at least.
    #[arg(long, value_name = "COUNT", default_value_t = 10_000, requires = "target")]
    pub(crate) seeds: u64,
    /// Instructions: the first seed; a run that failed names the last it began.
    #[arg(long, value_name = "SEED", default_value_t = 1, requires = "target")]
    pub(crate) first: u64,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tests_and_benchmarks_run_on_emulated_cpus_only() {
        let parsed = |words: &str| Cli::try_parse_from(words.split(' ')).is_ok();
        assert!(parsed("xtask run --on auto") && parsed("xtask run --on kvm"));
        for place in ["auto", "kvm"] {
            assert!(!parsed(&format!("xtask test --on {place}")));
            assert!(!parsed(&format!("xtask bench exits --on {place}")));
        }
        assert!(parsed("xtask test --on bochs") && parsed("xtask bench exits --on bochs"));
    }

    #[test]
    fn targets_are_named_and_a_bed_is_for_instructions() {
        let parsed = |words: &str| Cli::try_parse_from(words.split(' ')).is_ok();
        assert!(parsed("xtask fuzz") && parsed("xtask fuzz bring_up --minutes 3 --keep"));
        assert!(parsed("xtask fuzz instructions --on bochs") && !parsed("xtask fuzz --on bochs"));
        assert!(parsed("xtask fuzz iommu --planted") && !parsed("xtask fuzz nothing"));
        assert_eq!(FuzzTarget::BringUp.name(), "bring_up");
    }

    #[test]
    fn files_of_ones_own_may_stand_anywhere() {
        assert!(Cli::try_parse_from(["xtask", "--qemu", "q", "run"]).is_ok());
        assert!(Cli::try_parse_from(["xtask", "test", "--vgabios", "v"]).is_ok());
    }
}
