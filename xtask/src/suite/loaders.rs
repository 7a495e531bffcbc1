//! The other loaders than Linux's, each with a guest that looks at what it was given, on both beds.

use std::time::Duration;

use crate::bed::{BedKind, Machine, Verdict};
use crate::description::Description;
use crate::explain::Explain as _;
use crate::step::{Context, Step, Trial};
use crate::suite::{guests, on_bed, require};

const LIMIT: Duration = Duration::from_secs(120);

/// Program, the configuration's loader, and what the guest then says. `auto` prefers PVH.
const CASES: [(&str, &str, &str); 3] = [
    ("loader_flat", "multiboot", "started by Multiboot"),
    ("loader_elf", "multiboot", "started by Multiboot"),
    ("loader_elf", "auto", "started by PVH"),
];

pub(super) fn steps() -> Vec<Step> {
    let each = |bed| {
        CASES.map(|case| {
            let (program, loader, _) = case;
            on_bed(bed, format!("loader {loader} starts {program}"), move |context| {
                starts(context, bed, case)
            })
        })
    };
    BedKind::ALL.into_iter().flat_map(each).collect()
}

fn starts(
    context: &Context,
    bed: BedKind,
    (program, loader, said): (&'static str, &str, &str),
) -> Result<(), String> {
    let description = describe(context, program, loader)?;
    let artefacts = context.artefacts()?;
    let read = |path: &std::path::Path| std::fs::read(path).explain(|| path.display().to_string());
    let volume = description.volume(read(&artefacts.boot)?, read(&artefacts.kernel)?);
    let machine = Machine { memory_mib: description.memory_mib(), ..Machine::default() };
    let trial = Trial { volume, machine, expect: None, typed: Vec::new(), timeout: LIMIT };
    let outcome = context.trial(bed, trial)?.require(&Verdict::Exited(0))?;
    let text = outcome.console_text();
    require(text.contains(said), || format!("the guest does not say {said:?}"))?;
    guests::judge(program, &text)
}

/// As tests/guests/src/bin/loaders/check.rs expects it.
pub(super) fn describe(
    context: &Context,
    program: &str,
    loader: &str,
) -> Result<Description, String> {
    let path = context.guest(program)?;
    let kernel = std::fs::read(path).explain(|| path.display().to_string())?;
    let text = format!(
        "version = {}\n\n[[vm]]\nname = \"{program}\"\nmemory = \"64M\"\nloader = \"{loader}\"\nkernel = \"guest\"\n\
         modules = [\"first\", \"second\"]\ncmdline = \"protocol test\"\n\n[vm.test]\nexit-port = true\n",
        config::VERSION
    );
    let files = [
        ("guest", kernel),
        ("first", b"the first module".to_vec()),
        ("second", b"the second".to_vec()),
    ];
    Description::new(text, files.map(|(name, bytes)| (name.to_owned(), bytes)).into())
}
