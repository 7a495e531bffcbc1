//! Boot volumes that must not start: each ends in one line that names the file and what is wrong with it.

use std::path::Path;
use std::time::Duration;

use crate::bed::{BedKind, Machine, Verdict};
use crate::explain::Explain as _;
use crate::initrd;
use crate::step::{Context, Step, Trial};
use crate::suite::{guests, on_bed, pattern, require};
use crate::volume::{CONFIG, KERNEL, SUMS, Volume};

/// Firmware included; nothing of a guest ever runs.
const LIMIT: Duration = Duration::from_secs(90);

/// What is done to a sound volume, and what the boot application then says after `EFI/kerf/`.
struct Case {
    name: &'static str,
    harm: fn(&mut Volume) -> Option<()>,
    /// A pattern.
    told: &'static str,
}

const CASES: [Case; 13] = [
    Case {
        name: "no kernel",
        harm: |volume| volume.remove(KERNEL).map(drop),
        told: r"kernel\.elf: no such file",
    },
    Case {
        name: "a damaged kernel",
        harm: |volume| flip(volume, KERNEL),
        told: r"kernel\.elf: damaged",
    },
    Case {
        name: "a kernel that is no program",
        harm: |volume| replace(volume, KERNEL, b"#!/bin/sh\n"),
        told: r"kernel\.elf: \S.*; copy it",
    },
    Case {
        name: "no configuration",
        harm: |volume| volume.remove(CONFIG).map(drop),
        told: r"kerf\.toml: no such file",
    },
    Case {
        name: "a damaged configuration",
        harm: |volume| flip(volume, CONFIG),
        told: r"kerf\.toml: damaged",
    },
    Case {
        name: "a configuration with an unknown key",
        harm: |volume| {
            let text = String::from_utf8(volume.file_mut(CONFIG)?.clone()).ok()?;
            replace(volume, CONFIG, text.replace("\nmemory = ", "\nmemmory = ").as_bytes())
        },
        told: r"kerf\.toml:8: .*memmory",
    },
    Case {
        name: "no guest kernel",
        harm: |volume| volume.remove("guest").map(drop),
        told: "guest: no such file",
    },
    Case {
        name: "a damaged guest kernel",
        harm: |volume| flip(volume, "guest"),
        told: "guest: damaged",
    },
    Case {
        name: "a guest kernel cut short",
        harm: |volume| {
            let file = volume.file_mut("guest")?;
            file.truncate(file.len() - 1000);
            volume.seal();
            Some(())
        },
        told: r"guest: cut short: 1000 of \d+ bytes are missing",
    },
    Case {
        name: "no initrd",
        harm: |volume| volume.remove("initrd.img").map(drop),
        told: r"initrd\.img: no such file",
    },
    Case {
        name: "a damaged initrd",
        harm: |volume| flip(volume, "initrd.img"),
        told: r"initrd\.img: damaged",
    },
    Case {
        name: "an initrd that is no archive",
        harm: |volume| replace(volume, "initrd.img", &[b'x'; 512]),
        told: r"initrd\.img: not an initial RAM disk",
    },
    Case {
        name: "sums that are no sums",
        harm: |volume| volume.file_mut(SUMS).map(|file| file.splice(..4, *b"oops").for_each(drop)),
        told: r"SHA256SUMS: line 1 ",
    },
];

pub(super) fn steps() -> Vec<Step> {
    let bed = BedKind::Qemu;
    let refused = |case: Case| {
        on_bed(bed, format!("boot refuses {}", case.name), move |context| {
            is_refused(context, bed, &case)
        })
    };
    CASES.into_iter().map(refused).collect()
}

fn is_refused(context: &Context, bed: BedKind, case: &Case) -> Result<(), String> {
    let mut volume = sound(context)?;
    (case.harm)(&mut volume).explain(|| "the volume has no such file to harm")?;
    // The one line, its remedy, and the end; a guest that starts after all shows as another verdict.
    let expect = pattern(&format!(
        r"kerf-boot: error: EFI/kerf/{}[^\n]*\n(?s:.*)kerf-boot: stopped",
        case.told
    ))?;
    let trial = Trial {
        volume,
        machine: Machine::default(),
        expect: Some(expect),
        typed: Vec::new(),
        timeout: LIMIT,
    };
    let outcome = context.trial(bed, trial)?.require(&Verdict::Expected)?;
    let text = outcome.console_text();
    require(text.matches("kerf-boot: error: ").count() == 1, || outcome.describe())
}

/// A volume that would start: a small guest, with an initrd so that there is one to harm.
fn sound(context: &Context) -> Result<Volume, String> {
    let initrd = initrd::build(&context.linux()?.busybox, None)?;
    let description = guests::describe(context, "hello", Some(initrd))?;
    let artefacts = context.artefacts()?;
    let read = |path: &Path| std::fs::read(path).explain(|| path.display().to_string());
    Ok(description.volume(read(&artefacts.boot)?, read(&artefacts.kernel)?))
}

/// Changes one bit in the middle and not the sum.
fn flip(volume: &mut Volume, path: &str) -> Option<()> {
    let file = volume.file_mut(path)?;
    let middle = file.len() / 2;
    file.get_mut(middle).map(|byte| *byte ^= 1)
}

/// Other contents, and their sum.
fn replace(volume: &mut Volume, path: &str, bytes: &[u8]) -> Option<()> {
    volume.insert(path, bytes.to_vec());
    volume.seal();
    Some(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_case_harms_its_file_and_has_a_valid_pattern() {
        let text = "version = 1\n\n[hypervisor]\nlog = \"info\"\n\n[[vm]]\nname = \"a\"\nmemory = \"64M\"\nkernel = \"guest\"\n";
        for case in CASES {
            let mut volume = Volume::new(vec![1; 64], vec![2; 64], text);
            volume.insert("guest", vec![3; 2000]);
            volume.insert("initrd.img", vec![4; 64]);
            volume.seal();
            let files = |volume: &Volume| -> Vec<(String, Vec<u8>)> {
                volume.files().map(|(path, bytes)| (path.to_owned(), bytes.to_vec())).collect()
            };
            let before = files(&volume);
            assert!((case.harm)(&mut volume).is_some(), "{}", case.name);
            assert_ne!(files(&volume), before, "{}", case.name);
            pattern(case.told).unwrap();
        }
    }
}
