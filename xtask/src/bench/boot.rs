//! A Linux guest's boot to userspace: how much of it is Kerf's, and how large Kerf is.

use std::path::Path;
use std::sync::LazyLock;
use std::time::Duration;

use regex::{Captures, Regex};
use serde_json::json;

use crate::bed::{BedKind, Machine, Outcome, Verdict};
use crate::bench::Boot;
use crate::bench::plugin::{Counter, Counts};
use crate::cache::write_whole;
use crate::context::{Context, Trial};
use crate::description::{Description, LinuxGuest};
use crate::elf;
use crate::explain::Explain as _;
use crate::initrd::{Archive, CHARACTER_DEVICE, FOLDER, PROGRAM};
use crate::step::Typed;

const LIMIT: Duration = Duration::from_secs(1200);
const MEMORY: &str = "512M";
const MEMORY_BYTES: u64 = 512 << 20;
/// All that userspace does: be there, and power off.
const INIT: &[u8] = b"#!/bin/busybox sh\necho KERF-USERSPACE\n/bin/busybox poweroff -f\n";

/// Of the guest's instructions, Kerf's at most.
const KERF_PERCENT: f64 = 1.0;
const IMAGE_BYTES: u64 = 1 << 20;
/// Kerf's own memory at most.
const OWN_BYTES: u64 = (8 << 20) + MEMORY_BYTES / 1000;

static FIRST_ENTRY: LazyLock<Regex> =
    LazyLock::new(|| pattern(r"first guest entry after (\d+) ticks"));
/// The monitor's rows of Kerf's memory: all that is neither free nor a guest's, and its image, which lies elsewhere.
static OWN_MEMORY: LazyLock<Regex> =
    LazyLock::new(|| pattern(r"Kerf's (?:own|image, apart) +(\d+) (B|KiB|MiB)"));

fn pattern(text: &str) -> Regex {
    Regex::new(text).unwrap_or_else(|_| unreachable!())
}

/// One boot's figures.
struct Figures {
    counts: Counts,
    first_entry: Option<u64>,
}

/// Boots as often as asked, prints.
pub(super) fn run(context: &Context, options: &Boot) -> Result<(), String> {
    let bed = options.on;
    context.bed(bed)?;
    let kernel = read(&context.artefacts()?.kernel)?;
    let counter = Counter::build(&context.root, bed, &kernel)?;
    let mut all = Vec::new();
    for number in 1..=options.runs {
        let figures = boot(context, bed, &counter)?;
        let (kerf, guest) = (figures.counts.kerf, figures.counts.guest);
        println!(
            "run {number} on {}: {} instructions of the guest, {} of Kerf ({:.3} %), {} VM entries",
            bed.name(),
            guest,
            kerf,
            percent(kerf, guest),
            figures.counts.entries
        );
        all.push(figures);
    }
    let image = elf::strip(kernel.clone()).len() as u64;
    let in_memory = elf::footprint(&kernel).map_or(0, |(_, bytes)| bytes);
    let own_bytes = own_memory(context, bed)?;
    print(&all, image, in_memory, own_bytes);
    if let Some(path) = &options.json {
        let runs = all.iter().map(|figures| {
            json!({
                "guest": figures.counts.guest,
                "kerf": figures.counts.kerf,
                "kerf_before_first_entry": figures.counts.before,
                "entries": figures.counts.entries,
                "ticks_to_first_entry": figures.first_entry,
            })
        });
        let runs: Vec<_> = runs.collect();
        let json = json!({ "bed": bed.name(), "runs": runs, "image_bytes": image, "image_bytes_in_memory": in_memory, "own_bytes": own_bytes });
        write_whole(path, format!("{json:#}\n").as_bytes())?;
    }
    Ok(())
}

fn boot(context: &Context, bed: BedKind, counter: &Counter) -> Result<Figures, String> {
    let machine = Machine { icount: true, plugin: Some(counter.plugin()), ..Machine::default() };
    let outcome = start(context, bed, machine, None, Vec::new())?.require(&Verdict::PoweredOff)?;
    let console = outcome.console_text();
    if !console.contains("KERF-USERSPACE") {
        return Err(format!("the guest has not come to userspace: {}", outcome.describe()));
    }
    let counts = counter.take().map_err(|why| format!("{why}: {}", outcome.describe()))?;
    let first_entry = FIRST_ENTRY.captures(&console).and_then(|found| found[1].parse().ok());
    Ok(Figures { counts, first_entry })
}

/// What the monitor says while the same guest runs; in real time, since something is typed.
fn own_memory(context: &Context, bed: BedKind) -> Result<u64, String> {
    let bytes = |text: &str| regex::bytes::Regex::new(text).explain(|| "a pattern");
    let typed = vec![
        Typed { after: bytes("first guest entry")?, text: "\x1c".into() },
        Typed { after: bytes("kerf> ")?, text: "memory\n".into() },
    ];
    let expect = Some(bytes(r"Kerf's image, apart.*\n")?);
    let outcome =
        start(context, bed, Machine::default(), expect, typed)?.require(&Verdict::Expected)?;
    let console = outcome.console_text();
    let rows: Vec<u64> =
        OWN_MEMORY.captures_iter(&console).filter_map(|found| in_bytes(&found)).collect();
    if rows.len() != 2 {
        return Err(format!("the monitor does not tell of Kerf's memory: {}", outcome.describe()));
    }
    Ok(rows.iter().sum())
}

fn in_bytes(row: &Captures<'_>) -> Option<u64> {
    let number: u64 = row[1].parse().ok()?;
    Some(match &row[2] {
        "B" => number,
        "KiB" => number << 10,
        _ => number << 20,
    })
}

fn start(
    context: &Context,
    bed: BedKind,
    machine: Machine,
    expect: Option<regex::bytes::Regex>,
    typed: Vec<Typed>,
) -> Result<Outcome, String> {
    let linux = context.linux()?;
    let mut archive = Archive::default();
    for folder in ["dev", "bin"] {
        archive.add(folder, FOLDER, (0, 0), &[]);
    }
    archive.add("dev/console", CHARACTER_DEVICE, (5, 1), &[]);
    archive.add("bin/busybox", PROGRAM, (0, 0), &read(&linux.busybox)?);
    archive.add("init", PROGRAM, (0, 0), INIT);
    let description = Description::linux(&LinuxGuest {
        kernel: linux.kernel.clone(),
        initrd: Some(archive.finish()),
        cmdline: "console=ttyS0 nokaslr norandmaps".into(),
        memory: MEMORY.into(),
        devices: &[],
        test: String::new(),
    })?;
    let artefacts = context.artefacts()?;
    let volume = description.volume(read(&artefacts.boot)?, read(&artefacts.kernel)?);
    let machine = Machine { memory_mib: description.memory_mib(), ..machine };
    context.trial(bed, Trial { volume, machine, expect, typed, timeout: LIMIT })
}

fn print(all: &[Figures], image: u64, in_memory: u64, own: u64) {
    let shares: Vec<f64> =
        all.iter().map(|figures| percent(figures.counts.kerf, figures.counts.guest)).collect();
    let guests: Vec<f64> = all.iter().map(|figures| figures.counts.guest as f64).collect();
    let worst = shares.iter().copied().fold(0.0, f64::max);
    println!(
        "Kerf's share: {worst:.3} % of the guest's instructions at most, goal {KERF_PERCENT} %: {}",
        verdict(worst <= KERF_PERCENT)
    );
    println!(
        "spread over {} runs: share {:.2} %, the guest's instructions {:.2} %",
        all.len(),
        spread(&shares),
        spread(&guests)
    );
    let Some(last) = all.last() else { return };
    match last.first_entry {
        Some(ticks) => println!(
            "from the kernel's entry to the guest's first instruction: {ticks} instructions"
        ),
        None => println!("from the kernel's entry to the guest's first instruction: not told"),
    }
    println!(
        "kernel image: {image} bytes ({in_memory} in memory), goal {IMAGE_BYTES}: {}",
        verdict(image <= IMAGE_BYTES)
    );
    println!(
        "Kerf's own memory with one guest of 512 MiB: {} KiB, goal {}: {}",
        own >> 10,
        OWN_BYTES >> 10,
        verdict(own <= OWN_BYTES)
    );
    exits(&last.counts);
}

/// What each kind of exit cost Kerf in the last run, the frequent ones first.
fn exits(counts: &Counts) {
    let mut kinds: Vec<_> = counts.exits.iter().collect();
    kinds.sort_by_key(|(_, words)| std::cmp::Reverse(words.get("count").copied()));
    println!("exits of the last run, by the CPU's code:");
    for (code, words) in kinds.iter().take(12) {
        let rest: Vec<String> =
            words.iter().map(|(name, number)| format!("{name} {number}")).collect();
        println!("  {code:#6x}: {}", rest.join(", "));
    }
}

pub(super) fn percent(part: u64, whole: u64) -> f64 {
    100.0 * part as f64 / whole.max(1) as f64
}

/// Between the least and the greatest, in percent of the least.
pub(super) fn spread(figures: &[f64]) -> f64 {
    let least = figures.iter().copied().fold(f64::INFINITY, f64::min);
    let greatest = figures.iter().copied().fold(0.0, f64::max);
    if least > 0.0 { 100.0 * (greatest - least) / least } else { 0.0 }
}

pub(super) fn verdict(is_met: bool) -> &'static str {
    if is_met { "pass" } else { "MISS" }
}

fn read(path: &Path) -> Result<Vec<u8>, String> {
    std::fs::read(path).explain(|| path.display().to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_spread_is_of_the_least() {
        assert_eq!(spread(&[100.0, 103.0, 101.0]), 3.0);
        assert_eq!(spread(&[7.0]), 0.0);
    }
}
