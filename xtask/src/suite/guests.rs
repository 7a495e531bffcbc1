//! The small guests of `tests/guests` on both beds, and what the benchmark among them measures. What a guest prints is the
//! same on VT-x and on SVM: whichever bed comes second compares.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use crate::bed::{BedKind, Machine, Verdict};
use crate::description::Description;
use crate::explain::Explain as _;
use crate::step::{Context, Step, Trial};
use crate::suite::{on_bed, require};

/// The programs of `tests/guests`.
pub(super) const NAMES: [&str; 6] = ["facts", "smp", "hello", "ticks", "movdir64b", "cpuid_bench"];

/// Beginnings of lines that may differ from bed to bed: what was measured or counted. `hello` also says which vector registers
/// the CPU has.
const MAY_DIFFER: [&str; 2] = ["BENCH ", "uart interrupts: "];

/// The bed's name and the guest's lines, of each guest that has run on one bed.
static TRANSCRIPTS: Mutex<BTreeMap<String, (&'static str, Vec<String>)>> =
    Mutex::new(BTreeMap::new());

const LIMIT: Duration = Duration::from_secs(120);
/// Enough for any of them.
const MEMORY: &str = "64M";

pub(super) fn steps() -> Vec<Step> {
    let each = |bed| NAMES.map(|name| on_bed(bed, format!("guest {name}"), check(bed, name, None)));
    let mut steps: Vec<Step> = BedKind::ALL.into_iter().flat_map(each).collect();
    // What Bochs, with its one CPU, does anyway.
    let bed = BedKind::Qemu;
    steps.push(on_bed(bed, "guest smp taking turns", check(bed, "smp", Some(1))));
    // What QEMU, whose CPU lacks the instruction, does anyway.
    let bed = BedKind::Bochs;
    let machine = Machine { lacks: ",movdir64b", ..Machine::default() };
    steps.push(on_bed(bed, "guest movdir64b emulated", move |context| {
        passes(context, bed, "movdir64b", machine)
    }));
    steps
}

/// Each guest on machines of several sizes.
pub(super) fn full_steps() -> Vec<Step> {
    let bed = BedKind::Qemu;
    let each = |name| {
        [1, 2, 4].map(|cpus| {
            on_bed(bed, format!("guest {name} with {cpus} CPUs"), check(bed, name, Some(cpus)))
        })
    };
    NAMES.into_iter().filter(|name| *name != "cpuid_bench").flat_map(each).collect()
}

/// What a step of these does, on a machine with so many CPUs; by itself as many as the guest has.
fn check(
    bed: BedKind,
    name: &'static str,
    cpus: Option<u32>,
) -> impl FnOnce(&Context) -> Result<(), String> + Send + 'static {
    let own = if bed == BedKind::Qemu { vcpus(name) } else { 1 };
    let machine = Machine { cpus: cpus.unwrap_or(own), ..Machine::default() };
    move |context| passes(context, bed, name, machine)
}

/// Virtual CPUs of a guest. On Bochs, which has one CPU, two take turns on it.
fn vcpus(name: &str) -> u32 {
    if name == "smp" { 2 } else { 1 }
}

/// The machine description with one small guest.
pub(super) fn describe(
    context: &Context,
    name: &str,
    initrd: Option<Vec<u8>>,
) -> Result<Description, String> {
    let path = context.guest(name)?;
    let program = std::fs::read(path).explain(|| path.display().to_string())?;
    let mut text = format!(
        "version = {}\n\n[hypervisor]\nlog = \"info\"\n\n[[vm]]\nname = \"{name}\"\nmemory = \"{MEMORY}\"\nkernel = \"guest\"\n",
        config::VERSION
    );
    if vcpus(name) > 1 {
        text = text.replace("\n\n[[vm]]", "\nshare-cpus = true\n\n[[vm]]");
        text += &format!("vcpus = {}\n", vcpus(name));
    }
    if name == "movdir64b" {
        text += "emulate = [\"movdir64b\"]\n";
    }
    let mut files = vec![("guest".to_owned(), program)];
    if let Some(initrd) = initrd {
        text += "initrd = \"initrd.img\"\n";
        files.push(("initrd.img".into(), initrd));
    }
    text += "\n[vm.test]\nexit-port = true\n";
    if name == "facts" {
        text += "views = true\n";
    }
    Description::new(text, files)
}

fn passes(context: &Context, bed: BedKind, name: &str, machine: Machine) -> Result<(), String> {
    let description = describe(context, name, None)?;
    let artefacts = context.artefacts()?;
    let read = |path: &std::path::Path| std::fs::read(path).explain(|| path.display().to_string());
    let volume = description.volume(read(&artefacts.boot)?, read(&artefacts.kernel)?);
    let machine = Machine {
        memory_mib: description.memory_mib(),
        // What is measured is counted in instructions.
        icount: name == "cpuid_bench",
        ..machine
    };
    let trial = Trial { volume, machine, expect: None, typed: Vec::new(), timeout: LIMIT };
    let outcome = context.trial(bed, trial)?;
    judge(name, &outcome.console_text()).map_err(|why| format!("{why}: {}", outcome.describe()))?;
    let text = outcome.console_text();
    outcome.require(&Verdict::Exited(0))?;
    compare(name, bed.name(), transcript(&text))?;
    for line in text.lines().filter(|line| line.starts_with("BENCH ")) {
        println!("     {} on {}: ticks of the TSC", line.trim_end(), bed.name());
    }
    Ok(())
}

/// A guest that said nothing has not passed either.
pub(super) fn judge(name: &str, console: &str) -> Result<(), String> {
    let starting =
        |word| console.lines().map(str::trim_end).filter(move |line| line.starts_with(word));
    let failed: Vec<&str> = starting("FAIL ").collect();
    require(failed.is_empty(), || failed.join("; "))?;
    require(starting("PASS ").count() > 0, || "no check was made".into())?;
    let done = format!("GUEST-DONE {name}");
    require(console.lines().any(|line| line.trim_end() == done), || format!("no {done}"))
}

/// What the guest printed, less what may differ.
fn transcript(console: &str) -> Vec<String> {
    let lines = console.lines().map(str::trim_end);
    let own = lines.skip_while(|line| !line.contains("first guest entry")).skip(1);
    own.filter(|line| !line.starts_with("kerf: "))
        .filter(|line| !MAY_DIFFER.iter().any(|start| line.starts_with(start)))
        .map(str::to_owned)
        .collect()
}

/// Keeps the first bed's transcript, and compares the second's with it.
fn compare(name: &str, bed: &'static str, lines: Vec<String>) -> Result<(), String> {
    let mut known = TRANSCRIPTS.lock().unwrap_or_else(PoisonError::into_inner);
    let Some((other, expected)) = known.get(name) else {
        known.insert(name.to_owned(), (bed, lines));
        return Ok(());
    };
    let longest = expected.len().max(lines.len());
    let line =
        |all: &[String], index: usize| all.get(index).cloned().unwrap_or_else(|| "nothing".into());
    match (0..longest).find(|index| expected.get(*index) != lines.get(*index)) {
        None => Ok(()),
        Some(index) => Err(format!(
            "line {} of {name}'s transcript is {:?} on {bed} and {:?} on {other}",
            index + 1,
            line(&lines, index),
            line(expected, index)
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_guest_passes_only_with_checks_none_failed_and_its_last_line() {
        assert_eq!(judge("a", "kerf: up\r\nPASS one\r\nGUEST-DONE a\r\n"), Ok(()));
        assert!(judge("a", "PASS one\r\nFAIL two\r\nGUEST-DONE a\r\n").is_err());
        assert!(judge("a", "GUEST-DONE a\r\n").is_err());
        assert!(judge("a", "PASS one\r\n").is_err());
        assert!(judge("a", "PASS one\r\nGUEST-DONE ab\r\n").is_err());
    }

    #[test]
    fn transcripts_are_the_guests_own_lines_and_must_be_alike() {
        let console = "kerf: first guest entry after 9 ticks\r\nPASS a\r\nBENCH x 7\r\nGUEST-DONE t\r\nkerf: t: 9 exits\r\n";
        assert_eq!(transcript(console), ["PASS a", "GUEST-DONE t"]);
        let lines = |text: &str| text.lines().map(str::to_owned).collect::<Vec<_>>();
        assert_eq!(compare("t", "one", lines("PASS a\nPASS b")), Ok(()));
        assert_eq!(compare("t", "other", lines("PASS a\nPASS b")), Ok(()));
        assert!(compare("t", "other", lines("PASS a\nPASS c")).unwrap_err().contains("line 2"));
        assert!(compare("t", "other", lines("PASS a")).unwrap_err().contains("nothing"));
    }
}
