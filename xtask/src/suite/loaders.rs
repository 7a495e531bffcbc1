//! The other loaders than Linux's: three VMs on one machine, each with a guest that looks at what it was given.

use std::path::Path;
use std::time::Duration;

use crate::bed::{BedKind, Machine, Verdict};
use crate::description::Description;
use crate::explain::Explain as _;
use crate::step::{Context, Step, Trial};
use crate::suite::{on_bed, require};

const LIMIT: Duration = Duration::from_secs(180);

/// VM, program, the configuration's loader, and what the guest then says. `auto` prefers PVH.
const VMS: [(&str, &str, &str, &str); 3] = [
    ("flat", "loader_flat", "multiboot", "started by Multiboot"),
    ("elf", "loader_elf", "multiboot", "started by Multiboot"),
    ("pvh", "loader_elf", "auto", "started by PVH"),
];

pub(super) fn steps() -> Vec<Step> {
    let each = |bed| {
        on_bed(bed, "Multiboot and PVH kernels find what they were given", move |context| {
            start(context, bed)
        })
    };
    BedKind::ALL.into_iter().map(each).collect()
}

fn start(context: &Context, bed: BedKind) -> Result<(), String> {
    let description = describe(context)?;
    let artefacts = context.artefacts()?;
    let volume = description.volume(read(&artefacts.boot)?, read(&artefacts.kernel)?);
    let machine = Machine { memory_mib: description.memory_mib(), ..Machine::default() };
    let trial = Trial { volume, machine, expect: None, typed: Vec::new(), timeout: LIMIT };
    let outcome = context.trial(bed, trial)?.require(&Verdict::Exited(0))?;
    let console = outcome.console_text();
    for (vm, program, _, said) in VMS {
        let text = printed_by(vm, &console);
        let lacks = |what: &str| format!("{vm} does not say {what:?}: {}", outcome.describe());
        let done = format!("GUEST-DONE {program}");
        for what in [said, "PASS ", &done] {
            require(text.contains(what), || lacks(what))?;
        }
        require(!text.contains("FAIL "), || format!("{vm}: {}", outcome.describe()))?;
    }
    Ok(())
}

/// What a VM has printed, without ends of lines: the first one has the terminal, where others' whole lines, with their names
/// in front, may cut its own in two.
fn printed_by(vm: &str, console: &str) -> String {
    let mark = format!("[{vm}] ");
    let is_first = vm == VMS[0].0;
    let is_own = |line: &&str| is_first && !line.starts_with("kerf: ") && !line.starts_with('[');
    let line = |line| str::strip_prefix(line, &*mark).or(Some(line).filter(is_own));
    console.lines().map(str::trim_end).filter_map(line).collect()
}

/// As tests/guests/src/bin/loaders/check.rs expects it.
fn describe(context: &Context) -> Result<Description, String> {
    let mut text = format!("version = {}\n", config::VERSION);
    let mut files = vec![
        ("first".to_owned(), b"the first module".to_vec()),
        ("second".to_owned(), b"the second".to_vec()),
    ];
    for (vm, program, loader, _) in VMS {
        text += &format!(
            "\n[[vm]]\nname = \"{vm}\"\nmemory = \"64M\"\nloader = \"{loader}\"\nkernel = \"{program}\"\n\
             modules = [\"first\", \"second\"]\ncmdline = \"protocol test\"\ntest.exit-port = true\n"
        );
        files.push((program.to_owned(), read(context.guest(program)?)?));
    }
    Description::new(text, files)
}

fn read(path: &Path) -> Result<Vec<u8>, String> {
    std::fs::read(path).explain(|| path.display().to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_vms_lines_are_told_apart() {
        let console = "PASS a\nGUEST-DO\n[elf] PASS b\nkerf: up\nNE x\n[pvh] FAIL c\n";
        assert_eq!(printed_by("elf", console), "PASS b");
        assert_eq!(printed_by("pvh", console), "FAIL c");
        assert_eq!(printed_by("flat", console), "PASS aGUEST-DONE x");
    }
}
