//! A Linux guest's reads of an NVMe disk of its own, behind QEMU's IOMMU: how much of them is Kerf's, and what the same Linux
//! needs for them without Kerf. And what the driver of the IOMMU needs for its mappings and to start, as Kerf itself tells.

use std::fs::File;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::sync::LazyLock;
use std::time::Duration;

use regex::Regex;
use serde_json::{Value, json};

use crate::bed::{BedKind, Device, Iommu, Machine, Verdict};
use crate::bench::Io;
use crate::bench::boot::{spread, verdict};
use crate::bench::peer::{alone, bare, read};
use crate::bench::plugin::{Counter, Phase};
use crate::cache::write_whole;
use crate::context::{Context, Trial};
use crate::description::{Description, LinuxGuest};
use crate::explain::Explain as _;
use crate::volume::Volume;

const LIMIT: Duration = Duration::from_secs(1200);
/// As `tests/peer/start` gives them to a Linux without Kerf.
const OPTIONS: &str = "console=ttyS0 quiet nokaslr norandmaps";
const MEMORY_MIB: u64 = 512;
const BLOCKS: u64 = 4096;
/// As `tests/peer`'s reader has them.
const READS: f64 = 1000.0;
/// At once, in the phases between its marks; what comes between those is none.
const DEPTHS: [(usize, u32); 2] = [(0, 1), (2, 32)];

/// Kerf's instructions and exits of a read by itself, at most.
const KERF: f64 = 400.0;
const EXITS: f64 = 3.0;

static STARTED: LazyLock<Regex> =
    LazyLock::new(|| pattern(r"translating by the (\w+) stage after (\d+) ticks"));
/// Of `kernel/src/survey.rs`.
static MAPPING: LazyLock<Regex> = LazyLock::new(|| {
    pattern(
        r"a mapping of (\d+) KiB: made in (\d+) ticks, taken away in (\d+), forgotten after (\d+) more and (\d+) descriptors",
    )
});
static SURVEY: LazyLock<regex::bytes::Regex> = LazyLock::new(|| {
    regex::bytes::Regex::new(r"survey \{[^\n]*\n").unwrap_or_else(|_| unreachable!())
});

fn pattern(text: &str) -> Regex {
    Regex::new(text).unwrap_or_else(|_| unreachable!())
}

/// One boot under Kerf and one without it.
struct Run {
    kerf: Vec<Phase>,
    bare: Vec<Phase>,
}

pub(super) fn run(context: &Context, options: &Io) -> Result<(), String> {
    let tables = [Iommu::Legacy, Iommu::SecondStage, Iommu::FirstStage];
    let driver = tables.map(|iommu| driver(context, iommu));
    let driver = driver.into_iter().collect::<Result<Vec<Value>, _>>()?;
    let bench = Bench::new(context)?;
    let mut runs = Vec::new();
    for number in 1..=options.runs {
        let run = bench.run()?;
        for (phase, depth) in DEPTHS {
            let (kerf, bare) = (&run.kerf[phase], &run.bare[phase]);
            println!(
                "run {number}, {depth} at once: {:.1} instructions of Kerf a read, {:.0} of the guest in {:.2} exits; without Kerf {:.0}",
                kerf.kerf as f64 / READS,
                kerf.guest as f64 / READS,
                kerf.entries as f64 / READS,
                bare.guest as f64 / READS
            );
        }
        runs.push(run);
    }
    let depths: Vec<Value> = DEPTHS.iter().map(|depth| depth_of(&runs, *depth)).collect();
    if let Some(path) = &options.json {
        let json = json!({ "bed": BedKind::Qemu.name(), "reads": READS, "bytes": 4096, "depths": depths, "driver": driver });
        write_whole(path, format!("{json:#}\n").as_bytes())?;
    }
    Ok(())
}

/// What the driver's work costs on a machine that Kerf surveys: prints it, gives it as JSON.
fn driver(context: &Context, iommu: Iommu) -> Result<Value, String> {
    let text = format!(
        "version = {}\n\n[hypervisor]\nmode = \"survey\"\n\n[[vm]]\nname = \"none\"\nmemory = \"64M\"\nkernel = \"guest\"\n",
        config::VERSION
    );
    let guest = read(context.guest("hello")?)?;
    let description = Description::new(text, vec![("guest".into(), guest)])?;
    let artefacts = context.artefacts()?;
    let volume = description.volume(read(&artefacts.boot)?, read(&artefacts.kernel)?);
    let machine = Machine { icount: true, iommu, devices: vec![Device::Igb], ..Machine::default() };
    let expect = Some(SURVEY.clone());
    let trial = Trial { volume, machine, expect, typed: Vec::new(), timeout: LIMIT };
    let outcome = context.trial(BedKind::Qemu, trial)?.require(&Verdict::Expected)?;
    let console = outcome.console_text();
    let started = STARTED.captures(&console);
    let started = started.explain(|| format!("no IOMMU: {}", outcome.describe()))?;
    println!("{iommu:?}: started in {} instructions, by the {} stage", &started[2], &started[1]);
    let mut rows = Vec::new();
    for row in MAPPING.captures_iter(&console) {
        let number = |at: usize| row[at].parse::<u64>().unwrap_or_default();
        let [kib, map, unmap, invalidate, descriptors] = [1, 2, 3, 4, 5].map(number);
        println!(
            "  {kib} KiB: map {map}, unmap {unmap}, invalidate and wait {invalidate} instructions, {descriptors} descriptors"
        );
        rows.push(json!({
            "bytes": kib << 10, "map": map, "unmap": unmap, "invalidate": invalidate, "descriptors": descriptors,
        }));
    }
    match rows.len() {
        3 => Ok(json!({
            "tables": format!("{iommu:?}"), "start": started[2].parse::<u64>().ok(), "mappings": rows,
        })),
        _ => Err(format!("mappings were not measured: {}", outcome.describe())),
    }
}

/// What all runs measured of a depth: prints it, gives it as JSON.
fn depth_of(runs: &[Run], (phase, depth): (usize, u32)) -> Value {
    let each = |figure: &dyn Fn(&Run) -> f64| runs.iter().map(figure).collect::<Vec<_>>();
    let kerf = each(&|run| run.kerf[phase].kerf as f64 / READS);
    let guest = each(&|run| run.kerf[phase].guest as f64 / READS);
    let exits = each(&|run| run.kerf[phase].entries as f64 / READS);
    let bare = each(&|run| run.bare[phase].guest as f64 / READS);
    let ratio = (mean(&kerf) + mean(&guest)) / mean(&bare);
    println!("4 KiB reads past the page cache, {depth} at once, {} runs, each read:", runs.len());
    for (what, figures, goal) in [("Kerf's instructions", &kerf, KERF), ("exits", &exits, EXITS)] {
        let goal = match depth {
            1 => format!(", goal {goal}: {}", verdict(mean(figures) <= goal)),
            _ => String::new(),
        };
        println!("  {what}: {:.2}, spread {:.2} %{goal}", mean(figures), spread(figures));
    }
    println!("  the guest's instructions: {:.0}, spread {:.2} %", mean(&guest), spread(&guest));
    println!(
        "  without Kerf: {:.0}, spread {:.2} %; with it {ratio:.3} times as many",
        mean(&bare),
        spread(&bare)
    );
    let kinds = runs.last().map_or_else(Vec::new, |run| kinds(&run.kerf[phase]));
    for (name, count, instructions) in &kinds {
        println!(
            "  exits in {READS} reads of the last run: {name} {count}, {instructions} instructions of Kerf"
        );
    }
    let kinds = kinds
        .into_iter()
        .map(|(name, count, kerf)| json!({ "exit": name, "count": count, "kerf": kerf }));
    json!({
        "depth": depth, "kerf": kerf, "guest": guest, "exits": exits, "bare": bare, "ratio": ratio,
        "met": mean(&kerf) <= KERF && mean(&exits) <= EXITS,
        "exits_of_last_run": kinds.collect::<Vec<_>>(),
    })
}

fn mean(figures: &[f64]) -> f64 {
    figures.iter().sum::<f64>() / figures.len().max(1) as f64
}

/// Exits by their names: how many, and Kerf's instructions; the frequent ones first.
fn kinds(phase: &Phase) -> Vec<(String, u64, u64)> {
    let word = |words: &std::collections::BTreeMap<String, u64>, word| {
        words.get(word).copied().unwrap_or_default()
    };
    let mut kinds: Vec<_> = phase
        .exits
        .iter()
        .map(|(code, words)| (name(*code), word(words, "count"), word(words, "kerf")))
        .filter(|(_, count, _)| *count > 0)
        .collect();
    kinds.sort_by_key(|(_, count, _)| std::cmp::Reverse(*count));
    kinds
}

/// EXITCODE in words (APM 2, appendix C).
fn name(code: u64) -> String {
    match code {
        0x60 => "interrupt".into(),
        0x64 => "interrupt window".into(),
        0x78 => "HLT".into(),
        0x7b => "port".into(),
        0x7c => "MSR".into(),
        0x400 => "nested page fault".into(),
        _ => format!("{code:#x}"),
    }
}

/// Both machines.
struct Bench<'a> {
    context: &'a Context,
    counter: Counter,
    kerf: (Volume, u64),
    bare: Volume,
    _scratch: crate::cache::Scratch,
    disk: PathBuf,
}

impl<'a> Bench<'a> {
    fn new(context: &'a Context) -> Result<Self, String> {
        context.bed(BedKind::Qemu)?;
        let artefacts = context.artefacts()?;
        let kernel = read(&artefacts.kernel)?;
        let linux = context.linux()?;
        let is_nvme = |path: &&PathBuf| path.components().any(|part| part.as_os_str() == "nvme");
        let modules: Vec<PathBuf> = linux.drivers.iter().filter(is_nvme).cloned().collect();
        if modules.is_empty() {
            return Err("a Linux of your own has no drivers here".into());
        }
        let initrd = alone(context, "reader", &modules, &[])?;
        let description = Description::linux(&LinuxGuest {
            kernel: linux.kernel.clone(),
            initrd: Some(initrd.clone()),
            cmdline: OPTIONS.into(),
            memory: format!("{MEMORY_MIB}M"),
            devices: &["class = 0x010802"],
            test: String::new(),
        })?;
        let scratch = context.cache.scratch()?;
        let disk = scratch.path().join("numbers.img");
        numbered(&disk).explain(|| disk.display().to_string())?;
        Ok(Self {
            context,
            counter: Counter::build(&context.root, BedKind::Qemu, &kernel)?,
            kerf: (description.volume(read(&artefacts.boot)?, kernel), description.memory_mib()),
            bare: bare(context, &linux.kernel, initrd)?,
            _scratch: scratch,
            disk,
        })
    }

    fn run(&self) -> Result<Run, String> {
        let (volume, memory_mib) = &self.kerf;
        Ok(Run {
            kerf: self.phases(volume, *memory_mib)?,
            bare: self.phases(&self.bare, MEMORY_MIB)?,
        })
    }

    fn phases(&self, volume: &Volume, memory_mib: u64) -> Result<Vec<Phase>, String> {
        let machine = Machine {
            memory_mib,
            icount: true,
            devices: vec![Device::Nvme(self.disk.clone())],
            plugin: Some(self.counter.plugin()),
            ..Machine::default()
        };
        let expect = None;
        let trial =
            Trial { volume: volume.clone(), machine, expect, typed: Vec::new(), timeout: LIMIT };
        let outcome = self.context.trial(BedKind::Qemu, trial)?;
        // Without Kerf the emulator ends by itself.
        let is_over = matches!(outcome.verdict, Verdict::PoweredOff | Verdict::EmulatorEnded(_));
        if !is_over || !outcome.console_text().contains("READER-DONE") {
            return Err(format!("the disk has not been read: {}", outcome.describe()));
        }
        let phases = self.counter.take()?.phases;
        match DEPTHS.iter().all(|(phase, _)| *phase < phases.len()) {
            true => Ok(phases),
            false => {
                Err(format!("only {} phases were marked: {}", phases.len(), outcome.describe()))
            }
        }
    }
}

/// A disk each block of which begins with its number.
fn numbered(path: &Path) -> std::io::Result<()> {
    let mut file = File::create(path)?;
    let mut block = [0; 4096];
    for number in 0..BLOCKS {
        block[..8].copy_from_slice(&number.to_le_bytes());
        file.write_all(&block)?;
    }
    Ok(())
}
