//! The small guests of `tests/guests` on both beds, and what the benchmark among them measures.

use std::time::Duration;

use crate::bed::{BedKind, Machine, Verdict};
use crate::description::Description;
use crate::explain::Explain as _;
use crate::step::{Context, Step, Trial};
use crate::suite::{on_bed, require};

/// The programs of `tests/guests`.
pub(super) const NAMES: [&str; 3] = ["hello", "ticks", "cpuid_bench"];

const LIMIT: Duration = Duration::from_secs(120);
/// Enough for any of them.
const MEMORY: &str = "64M";

pub(super) fn steps() -> Vec<Step> {
    let each = |bed| {
        NAMES.map(|name| {
            on_bed(bed, format!("guest {name}"), move |context| passes(context, bed, name))
        })
    };
    BedKind::ALL.into_iter().flat_map(each).collect()
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
    let mut files = vec![("guest".to_owned(), program)];
    if let Some(initrd) = initrd {
        text += "initrd = \"initrd.img\"\n";
        files.push(("initrd.img".into(), initrd));
    }
    text += "\n[vm.test]\nexit-port = true\n";
    Description::new(text, files)
}

fn passes(context: &Context, bed: BedKind, name: &str) -> Result<(), String> {
    let description = describe(context, name, None)?;
    let artefacts = context.artefacts()?;
    let read = |path: &std::path::Path| std::fs::read(path).explain(|| path.display().to_string());
    let volume = description.volume(read(&artefacts.boot)?, read(&artefacts.kernel)?);
    let machine = Machine {
        memory_mib: description.memory_mib(),
        // What is measured is counted in instructions.
        icount: name == "cpuid_bench",
        ..Machine::default()
    };
    let trial = Trial { volume, machine, expect: None, typed: Vec::new(), timeout: LIMIT };
    let outcome = context.trial(bed, trial)?;
    judge(name, &outcome.console_text()).map_err(|why| format!("{why}: {}", outcome.describe()))?;
    let text = outcome.console_text();
    outcome.require(&Verdict::Exited(0))?;
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
}
