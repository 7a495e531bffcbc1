//! What instruction counts hide: costly instructions between an exit and the next entry, counted by the bed's plugin.

use crate::bed::BedKind;
use crate::bench::plugin::Counts;

/// A kind of exit and the codes by which the beds know it: the exit reason of VT-x (SDM 3D, appendix C), the EXITCODE of SVM
/// (APM 2, appendix C).
struct Kind {
    name: &'static str,
    vmx: u64,
    svm: u64,
}

/// No policy demands anything costly of these.
const KINDS: [Kind; 3] = [
    Kind { name: "CPUID", vmx: 10, svm: 0x72 },
    Kind { name: "hypercall", vmx: 18, svm: 0x81 },
    Kind { name: "port", vmx: 30, svm: 0x7b },
];

/// At most so many of an instruction for each exit; those that a bed's plugin does not know are not counted there.
const LIMITS: [(&str, u64); 7] = [
    ("vmread", 4),
    ("vmwrite", 1),
    ("wrmsr", 0),
    ("xsetbv", 0),
    ("fpu", 0),
    ("flush", 0),
    ("lock", 0),
];

/// Exits that may do more, because something else was due: a timer, a key. What may never be
/// done is not done by those either.
const RARE_PERCENT: u64 = 1;

impl Kind {
    fn code(&self, bed: BedKind) -> u64 {
        match bed {
            BedKind::Bochs => self.vmx,
            BedKind::Qemu => self.svm,
        }
    }

    /// The words of the limits, as exits of this kind have them: name, count, limit for one; and the exits.
    fn counted<'a>(
        &self,
        bed: BedKind,
        counts: &'a Counts,
    ) -> Option<(u64, impl Iterator<Item = (&'static str, u64, u64)> + 'a)> {
        let words = counts.exits.get(&self.code(bed))?;
        let exits = *words.get("count")?;
        let each = |(name, limit)| Some((name, *words.get(name)?, limit));
        Some((exits, LIMITS.into_iter().filter_map(each)))
    }
}

/// What was executed more often than it may be.
pub(super) fn broken(bed: BedKind, counts: &Counts) -> Vec<String> {
    let mut found = Vec::new();
    for kind in &KINDS {
        let Some((exits, words)) = kind.counted(bed, counts) else {
            found.push(format!("{}: the plugin has seen no such exit", kind.name));
            continue;
        };
        for (name, count, limit) in words {
            if is_free(kind, name) {
                continue;
            }
            let rare = if begins_line(kind, name) { exits * RARE_PERCENT } else { 0 };
            if count * 100 > limit * exits * (100 + RARE_PERCENT) + rare {
                found.push(format!(
                    "{}: {name} {count} times in {exits} exits, at most {limit} each",
                    kind.name
                ));
            }
        }
    }
    found
}

/// How often an exit reads and writes the VMCS is held down for CPUID alone. A port may lead to a device, behind its VM's
/// lock.
fn is_free(kind: &Kind, word: &str) -> bool {
    match word {
        "vmread" | "vmwrite" => kind.name != "CPUID",
        "lock" => kind.name == "port",
        _ => false,
    }
}

/// The byte that begins a line on the UART sets the timer by which that is shown at the latest.
fn begins_line(kind: &Kind, word: &str) -> bool {
    kind.name == "port" && word == "wrmsr"
}

/// Prints them, on average for one exit.
pub(super) fn print(bed: BedKind, counts: &Counts) {
    println!("between exit and entry, for one exit, of how many at most (counted by the bed):");
    for kind in &KINDS {
        let Some((exits, words)) = kind.counted(bed, counts) else { continue };
        let least = counts.exits[&kind.code(bed)].get("least").copied().unwrap_or_default();
        let words: Vec<String> = words
            .map(|(name, count, limit)| {
                let limit = if is_free(kind, name) { "-".into() } else { limit.to_string() };
                format!("{name} {:.2} of {limit}", count as f64 / exits as f64)
            })
            .collect();
        println!(
            "  {:10} {exits:6} exits, {least} instructions of Kerf at least: {}",
            kind.name,
            words.join(", ")
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn counts(words: &[(&str, u64)]) -> Counts {
        let words: std::collections::BTreeMap<_, _> =
            words.iter().map(|(name, n)| ((*name).to_owned(), *n)).collect();
        let exits = KINDS.iter().map(|kind| (kind.vmx, words.clone())).collect();
        Counts { exits, ..Counts::default() }
    }

    #[test]
    fn exits_within_the_limits_pass() {
        let fine =
            counts(&[("count", 10), ("least", 70), ("vmread", 40), ("vmwrite", 10), ("wrmsr", 0)]);
        assert!(broken(BedKind::Bochs, &fine).is_empty());
    }

    #[test]
    fn one_too_many_is_told_with_its_exit() {
        let found = broken(BedKind::Bochs, &counts(&[("count", 10), ("vmread", 41), ("wrmsr", 1)]));
        assert!(found[0].starts_with("CPUID: vmread 41 times in 10 exits"), "{found:?}");
        assert!(found.iter().any(|line| line.starts_with("port: wrmsr 1 times")), "{found:?}");
        assert!(!found.iter().any(|line| line.starts_with("port: vmread")), "{found:?}");
    }

    #[test]
    fn a_plugin_that_saw_nothing_fails() {
        assert_eq!(broken(BedKind::Qemu, &Counts::default()).len(), KINDS.len());
    }
}
