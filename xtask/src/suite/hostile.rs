//! Hostile guests: each kind a VM of its own, all in one boot beside a neighbour that checks its memory ten times a second. Each
//! ends as it must and no other does; then the neighbour still ticks and the monitor still answers.

use std::fmt::Write as _;
use std::time::Duration;

use crate::bed::{self, BedKind, Limits, Machine, Outcome, Verdict};
use crate::cli::Instructions;
use crate::description::Description;
use crate::explain::Explain as _;
use crate::step::{Context, Step};
use crate::suite::{on_bed, require};

const NEIGHBOUR: &str = "neighbour";
const HOSTILE: &str = "hostile";
const MEMORY: &str = "8M";
const LIMIT: Duration = Duration::from_secs(420);
/// Seeds of random instructions that every test run takes.
const SEEDS: u64 = 1000;
/// Instructions of each seed at least: together a million.
const EACH: u64 = 1000;

/// How often the neighbour must have been well after all others have ended.
const TICKS_AFTER: usize = 3;
/// The key by which the terminal goes on to the next guest, after the last to the monitor.
const SWITCH_KEY: u8 = 0x1c;

/// What becomes of a kind of guest.
#[derive(Clone, Copy)]
enum End {
    /// It cannot go on, and Kerf ends it.
    Crashed,
    /// It asked for a reset.
    Reset,
    /// It got exceptions and nonsense for an answer, and checks that itself.
    Checked,
}

impl End {
    /// As Kerf names it.
    const fn verdict(self) -> &'static str {
        match self {
            Self::Crashed => "crashed",
            Self::Reset => "reset",
            Self::Checked => "exit 0",
        }
    }
}

/// A VM's name, which is also what it does, and how it ends.
const KINDS: [(&str, End); 13] = [
    ("triple-fault", End::Crashed),
    ("no-code", End::Crashed),
    ("no-tables", End::Crashed),
    ("no-instruction", End::Crashed),
    ("halt", End::Crashed),
    ("reset", End::Reset),
    ("msrs", End::Checked),
    ("ports", End::Checked),
    ("pci", End::Checked),
    ("hypercalls", End::Checked),
    ("holes", End::Checked),
    ("memory", End::Checked),
    ("random", End::Checked),
];

pub(super) fn steps() -> Vec<Step> {
    vec![hostile(BedKind::Bochs)]
}

fn hostile(bed: BedKind) -> Step {
    on_bed(bed, "hostile guests harm only themselves", move |context| {
        run(context, bed, &KINDS, 1, SEEDS, LIMIT)
    })
}

/// On QEMU, where the step fails now and then for reasons that are not found yet (docs/limits.md); and other seeds, many more.
pub(super) fn full_steps() -> Vec<Step> {
    let options = |on| Instructions { on, seeds: 10 * SEEDS, first: SEEDS + 1 };
    let random = |bed| {
        on_bed(bed, "random instructions harm no one else", move |context| {
            fuzz(context, &options(bed))
        })
    };
    [hostile(BedKind::Qemu)].into_iter().chain(BedKind::ALL.map(random)).collect()
}

/// `cargo xtask fuzz instructions`: random instructions alone, beside the neighbour.
///
/// # Errors
/// The guest or its neighbour failed, or could not be started.
pub(crate) fn fuzz(context: &Context, options: &Instructions) -> Result<(), String> {
    let limit = Duration::from_secs(60 + options.seeds);
    let kinds = KINDS.into_iter().filter(|(name, _)| *name == "random").collect::<Vec<_>>();
    run(context, options.on, &kinds, options.first, options.seeds, limit)?;
    println!("{} seeds from {} on: as it should be", options.seeds, options.first);
    Ok(())
}

fn describe(
    context: &Context,
    kinds: &[(&str, End)],
    (first, seeds): (u64, u64),
) -> Result<Description, String> {
    let program = |name| {
        let path = context.guest(name)?;
        Ok::<_, String>((
            name.to_owned(),
            std::fs::read(path).explain(|| path.display().to_string())?,
        ))
    };
    let mut text = format!(
        "version = {}\n\n[hypervisor]\nlog = \"info\"\nshare-cpus = true\nshare-smt = true\n",
        config::VERSION
    );
    let mut vm = |name: &str, kernel: &str, cmdline: &str| {
        let _ = write!(
            text,
            "\n[[vm]]\nname = \"{name}\"\nmemory = \"{MEMORY}\"\nkernel = \"{kernel}\"\ncmdline = \"{cmdline}\"\n\n[vm.test]\nexit-port = true\n"
        );
    };
    vm(NEIGHBOUR, NEIGHBOUR, "");
    for (name, _) in kinds {
        vm(name, HOSTILE, &format!("{name} {first} {seeds} {EACH}"));
    }
    Description::new(text, vec![program(NEIGHBOUR)?, program(HOSTILE)?])
}

fn run(
    context: &Context,
    bed: BedKind,
    kinds: &[(&str, End)],
    first: u64,
    seeds: u64,
    limit: Duration,
) -> Result<(), String> {
    let description = describe(context, kinds, (first, seeds))?;
    let artefacts = context.artefacts()?;
    let read = |path: &std::path::Path| std::fs::read(path).explain(|| path.display().to_string());
    let volume = description.volume(read(&artefacts.boot)?, read(&artefacts.kernel)?);
    let machine = Machine {
        memory_mib: description.memory_mib(),
        cpus: if bed == BedKind::Qemu { 2 } else { 1 },
        ..Machine::default()
    };
    let session = context.launch(bed, &volume, &machine)?;
    let mut operator = Operator { kinds, console: String::new(), next: Next::WaitForEnds };
    let limits = Limits { expect: None, typed: Vec::new(), timeout: Some(limit) };
    let outcome = bed::judge(session, limits, |fresh| Some(operator.look(fresh)));
    judge(kinds, &outcome)
}

/// Who sits at the console.
struct Operator<'a> {
    kinds: &'a [(&'a str, End)],
    console: String,
    next: Next,
}

/// What is waited for.
enum Next {
    WaitForEnds,
    /// The neighbour's ticks since the last end: what the console had by then.
    WaitForTicks(usize),
    /// The monitor's table.
    WaitForTable(usize),
    Done,
}

impl Operator<'_> {
    /// Sees what the console printed, and types.
    fn look(&mut self, fresh: &[u8]) -> Vec<u8> {
        if fresh.is_empty() {
            return Vec::new();
        }
        self.console += &String::from_utf8_lossy(fresh);
        let since = |from: usize| self.console.get(from..).unwrap_or_default();
        let (next, typed) = match self.next {
            Next::WaitForEnds
                if self.kinds.iter().all(|(name, _)| has_ended(&self.console, name)) =>
            {
                (Next::WaitForTicks(self.console.len()), Vec::new())
            }
            Next::WaitForTicks(from) if ticks(since(from)) >= TICKS_AFTER => {
                let mut keys = vec![SWITCH_KEY; self.kinds.len() + 1];
                keys.extend(b"vms\r");
                (Next::WaitForTable(self.console.len()), keys)
            }
            Next::WaitForTable(from) if is_table(since(from)) => {
                (Next::Done, b"poweroff\r".to_vec())
            }
            _ => return Vec::new(),
        };
        self.next = next;
        typed
    }
}

fn has_ended(console: &str, name: &str) -> bool {
    console.contains(&format!("kerf: {name} ended: "))
}

/// How often the neighbour was well; with the terminal its lines have no prefix.
fn ticks(console: &str) -> usize {
    console
        .lines()
        .filter(|line| line.contains("neighbour ") && line.trim_end().ends_with(" ok"))
        .count()
}

/// The monitor's list of VMs, with the neighbour running.
fn is_table(console: &str) -> bool {
    console.lines().any(|line| line.trim_start().starts_with(NEIGHBOUR) && line.contains("running"))
}

fn judge(kinds: &[(&str, End)], outcome: &Outcome) -> Result<(), String> {
    let console = outcome.console_text();
    let told = |why: String| format!("{why}: {}", outcome.describe());
    if let Some(line) = console.lines().find(|line| line.contains("FAIL ")) {
        return Err(told(format!("{} (after {})", line.trim_end(), last_seed(&console))));
    }
    for (name, end) in kinds {
        let line = format!("kerf: {name} ended: {}", end.verdict());
        require(console.lines().any(|own| own.trim_end() == line), || {
            told(format!("no line {line:?} (after {})", last_seed(&console)))
        })?;
        if matches!(end, End::Checked) {
            let says = |what: &str| console.contains(&format!("[{name}] {what}"));
            require(says("PASS ") && says(&format!("GUEST-DONE {HOSTILE}")), || {
                told(format!("{name} has not checked itself"))
            })?;
        }
    }
    require(is_in_order(&console), || told("the neighbour's ticks are not in order".into()))?;
    require(outcome.verdict == Verdict::PoweredOff, || told("the monitor has not answered".into()))
}

/// The numbers of the neighbour's ticks.
fn numbers(console: &str) -> Vec<u64> {
    let number =
        |line: &str| line.trim_end().split_once("neighbour ")?.1.strip_suffix(" ok")?.parse().ok();
    console.lines().filter_map(number).collect()
}

/// Whether the neighbour counts on. It says so itself where its memory or timer is not as it should be; what the console may
/// lack is a line that one of Kerf's own has broken in two.
fn is_in_order(console: &str) -> bool {
    let counts = numbers(console);
    let missing = |pair: &[u64]| pair[1].checked_sub(pair[0] + 1).filter(|&missing| missing <= 1);
    let missing: Option<Vec<u64>> = counts.windows(2).map(missing).collect();
    let breaks = console.lines().filter(|line| line.starts_with("kerf: ")).count() as u64;
    missing.is_some_and(|missing| missing.iter().sum::<u64>() <= breaks)
}

/// The last that the random guest said about its seeds: where to start again (`cargo xtask fuzz instructions --first`).
fn last_seed(console: &str) -> &str {
    console.lines().rfind(|line| line.contains("SEED ")).unwrap_or("no seed").trim_end()
}

#[cfg(test)]
mod tests {
    use super::*;

    const CONSOLE: &str =
        "neighbour 1 ok\r\n[random] SEED 101 after 100112 instructions\r\nneighbour 2 ok\r\n";

    #[test]
    fn the_neighbours_ticks_are_counted_and_seeds_are_told() {
        assert_eq!((ticks(CONSOLE), numbers(CONSOLE)), (2, vec![1, 2]));
        assert_eq!(last_seed(CONSOLE), "[random] SEED 101 after 100112 instructions");
    }

    #[test]
    fn a_tick_may_lack_only_where_kerf_broke_its_line() {
        let broken = "neighbour 1 ok\nneighb\nkerf: a ended: reset\nour 2 ok\nneighbour 3 ok\n";
        assert!(is_in_order(CONSOLE) && is_in_order(broken));
        assert!(!is_in_order("neighbour 1 ok\nneighbour 3 ok\n"), "lost");
        assert!(!is_in_order("neighbour 2 ok\nkerf: x\nneighbour 2 ok\n"), "twice");
        assert!(!is_in_order("neighbour 2 ok\nkerf: x\nkerf: y\nneighbour 5 ok\n"), "two lost");
    }

    #[test]
    fn the_operator_types_when_all_have_ended_and_the_neighbour_goes_on() {
        let kinds = [("halt", End::Crashed), ("msrs", End::Checked)];
        let mut operator =
            Operator { kinds: &kinds, console: String::new(), next: Next::WaitForEnds };
        assert!(operator.look(b"kerf: halt ended: crashed\r\nneighbour 1 ok\r\n").is_empty());
        assert!(operator.look(b"kerf: msrs ended: exit 0\r\n").is_empty());
        assert!(operator.look(b"neighbour 2 ok\r\nneighbour 3 ok\r\n").is_empty());
        assert_eq!(operator.look(b"neighbour 4 ok\r\n"), b"\x1c\x1c\x1cvms\r");
        assert_eq!(operator.look(b"  neighbour  running  1\r\n"), b"poweroff\r");
        assert!(operator.look(b"kerf: all guests ended: poweroff\r\n").is_empty());
    }
}
