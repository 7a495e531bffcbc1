//! The counting plugins of `tests/plugins`: built by the C compiler that Rust links with, read back as words `key=value`.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::bed::{BedKind, Plugin};
use crate::explain::{Explain as _, advise};
use crate::{elf, process};

const BUILD_LIMIT: Duration = Duration::from_secs(120);

/// A plugin that was built, and where it counts to.
pub(super) struct Counter {
    folder: tempfile::TempDir,
    object: PathBuf,
    arguments: Vec<(&'static str, String)>,
}

/// What a plugin counted.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Counts {
    /// VM entries.
    pub(super) entries: u64,
    /// Kerf's instructions before the first entry, then from the first to the last.
    pub(super) before: u64,
    pub(super) kerf: u64,
    /// The guest's.
    pub(super) guest: u64,
    /// By exit code: everything that was counted, by name.
    pub(super) exits: Exits,
    /// From each mark of the guest's to the next.
    pub(super) phases: Vec<Phase>,
}

type Exits = BTreeMap<u64, BTreeMap<String, u64>>;

/// What was counted between two marks.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Phase {
    pub(super) entries: u64,
    pub(super) kerf: u64,
    pub(super) guest: u64,
    pub(super) exits: Exits,
}

impl Counter {
    /// Builds the plugin of a bed, to count in the code of `kernel`, an ELF file.
    ///
    /// # Errors
    /// There is no C compiler, or it refuses the plugin.
    pub(super) fn build(root: &Path, bed: BedKind, kernel: &[u8]) -> Result<Self, String> {
        let (code, _) = elf::footprint(kernel).explain(|| "the kernel is no ELF file with code")?;
        let folder = tempfile::tempdir().explain(|| "no temporary folder")?;
        let object = folder.path().join("count.so");
        let source = root.join("tests/plugins").join(bed.name()).join("count.c");
        let mut command = process::leashed("cc");
        command
            .args(
                "-std=gnu11 -O2 -Wall -Wextra -Werror -fPIC -shared -fvisibility=hidden -o"
                    .split(' '),
            )
            .arg(&object)
            .arg(&source)
            .arg("-ldl");
        let what = format!("{} does not build", source.display());
        process::run(&mut command, BUILD_LIMIT, |_| {})?
            .success(what)
            .map_err(|error| advise(error, "install a C compiler as cc"))?;
        let out = folder.path().join("counts");
        let arguments = match bed {
            BedKind::Qemu => vec![
                ("start", format!("{:x}", code.start)),
                ("end", format!("{:x}", code.end)),
                ("out", out.display().to_string()),
            ],
            BedKind::Bochs => vec![("KERF_COUNTS", out.display().to_string())],
        };
        Ok(Self { folder, object, arguments })
    }

    /// What the machine is to load.
    pub(super) fn plugin(&self) -> Plugin {
        Plugin { object: self.object.clone(), arguments: self.arguments.clone() }
    }

    /// What was counted in the run that ended; once.
    ///
    /// # Errors
    /// Nothing was: the emulator was ended before it could write, or took no plugin.
    pub(super) fn take(&self) -> Result<Counts, String> {
        let path = self.folder.path().join("counts");
        let text = std::fs::read_to_string(&path).explain(|| "the plugin has counted nothing")?;
        let _ = std::fs::remove_file(&path);
        parse(&text).explain(|| format!("what the plugin wrote is not to be understood:\n{text}"))
    }
}

fn parse(text: &str) -> Option<Counts> {
    let mut counts = Counts::default();
    for line in text.lines() {
        let (what, words) = line.split_once(' ')?;
        let word = |word: &str| {
            let (name, number) = word.split_once('=')?;
            Some((name.to_owned(), number.parse().ok()?))
        };
        let mut words: BTreeMap<String, u64> = words.split(' ').map(word).collect::<Option<_>>()?;
        match what {
            "exit" => _ = counts.exits.insert(words.remove("code")?, words),
            "in" => _ = counts.phases.last_mut()?.exits.insert(words.remove("code")?, words),
            "phase" => counts.phases.push(Phase {
                entries: *words.get("entries")?,
                kerf: *words.get("kerf")?,
                guest: *words.get("guest")?,
                exits: Exits::new(),
            }),
            _ => {
                counts.entries = *words.get("entries")?;
                counts.before = *words.get("before")?;
                counts.kerf = *words.get("kerf")?;
                counts.guest = *words.get("guest")?;
            }
        }
    }
    // A machine without Kerf has no entries.
    (counts.entries > 0 || !counts.phases.is_empty()).then_some(counts)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_are_read_from_the_plugins_words() {
        let counts = parse(
            "all entries=3 before=100 kerf=20 guest=4000 left_out=0\nexit code=114 count=2 least=9 kerf=20 wrmsr=1\n",
        );
        let counts = counts.unwrap();
        assert_eq!((counts.entries, counts.before, counts.kerf, counts.guest), (3, 100, 20, 4000));
        assert_eq!((counts.exits[&114]["count"], counts.exits[&114]["wrmsr"]), (2, 1));
        assert!(counts.phases.is_empty());
        assert_eq!(parse(""), None);
        assert_eq!(parse("all entries=x\n"), None);
        assert_eq!(parse("all entries=0 before=0 kerf=0 guest=9\n"), None);
    }

    #[test]
    fn exits_between_marks_belong_to_their_phase() {
        let counts = parse(
            "all entries=0 before=0 kerf=0 guest=9\nphase entries=0 kerf=0 guest=4\nphase entries=2 kerf=7 guest=3\nin code=120 count=2 kerf=7\n",
        );
        let phases = counts.unwrap().phases;
        assert_eq!((phases.len(), phases[0].exits.len(), phases[1].guest), (2, 0, 3));
        assert_eq!(phases[1].exits[&120]["kerf"], 7);
    }
}
