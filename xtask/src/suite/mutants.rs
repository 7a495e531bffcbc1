//! `cargo xtask test --mutants`: faults of one line, planted one after the other in a copy of the sources. For each the test that
//! is named beside it must turn red, and say its own name. A survivor fails; so does a fault whose line is no longer there.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use crate::bed::BedKind;
use crate::explain::Explain as _;
use crate::step::{Context, Step};
use crate::suite::iommu::PASIDS;
use crate::suite::require;
use crate::{fuzz, process};

/// A copy that is built from nothing takes a while.
const LIMIT: Duration = Duration::from_secs(15 * 60);
/// Never copied: what tools leave behind.
const LEFT_OUT: [&str; 2] = ["target", ".git"];

/// What must turn red.
#[derive(Clone, Copy)]
enum Catcher {
    /// A test of a crate on the host.
    Host { package: &'static str, test: &'static str },
    /// A step of this suite.
    System { step: &'static str, bed: BedKind },
    /// The fuzzer: [`find_planted`].
    Fuzz,
}

struct Mutant {
    /// The fault.
    name: &'static str,
    file: &'static str,
    /// Stands in the file once.
    from: &'static str,
    to: &'static str,
    catcher: Catcher,
}

const fn host(package: &'static str, test: &'static str) -> Catcher {
    Catcher::Host { package, test }
}

const MUTANTS: [Mutant; 14] = [
    Mutant {
        name: "EPT: stores and fetches swapped",
        file: "kernel/paging/src/format/ept.rs",
        from: "| if rights.write { W } else { 0 }",
        to: "| if rights.write { X } else { 0 }",
        catcher: host("paging", "entries_have_the_bytes_of_the_manual"),
    },
    Mutant {
        name: "SVM: no flush when another view is taken",
        file: "vmm/vcpu/src/svm/vcpu.rs",
        from: "tlb_control::FLUSH_ASID } else { tlb_control::FLUSH_ALL }",
        to: "tlb_control::FLUSH_ASID } else { tlb_control::NOTHING }",
        catcher: host("vcpu", "a_view_is_taken_with_a_flush"),
    },
    Mutant {
        name: "interrupt window never asked for",
        file: "vmm/src/cpu.rs",
        from: "            vcpu.want_interrupt_window(wanted);\n",
        to: "",
        catcher: host("vmm", "an_interrupt_waits_for_its_window"),
    },
    Mutant {
        name: "local APIC: an equal priority preempts",
        file: "vmm/src/platform/lapic/mod.rs",
        from: "(vector >> 4 > self.processor_priority() >> 4)",
        to: "(vector >> 4 >= self.processor_priority() >> 4)",
        catcher: host("vmm", "the_task_priority_holds_interrupts_back"),
    },
    Mutant {
        name: "CPUID: another interface's signature",
        file: "vmm/src/platform/cpuid/mod.rs",
        from: "leaf::HYPERVISOR => SIGNATURE,",
        to: "leaf::HYPERVISOR => PARAVIRTUAL,",
        catcher: host("vmm", "the_signature_and_the_clocks_are_published"),
    },
    Mutant {
        name: "MOVSX from a device without the sign",
        file: "vmm/src/mmio.rs",
        from: "register.write(vcpu, sign_extend(old, width));",
        to: "register.write(vcpu, old);",
        catcher: host("vmm", "mmio_mov_widths_follow_x86_rules"),
    },
    Mutant {
        name: "IPI: its vector lost on the way",
        file: "vmm/src/mailbox.rs",
        from: "word.fetch_or(1 << (vector & 63), Ordering::Relaxed);",
        to: "word.fetch_and(!(1 << (vector & 63)), Ordering::Relaxed);",
        catcher: host("vmm", "physical_and_shorthand_ipis_reach_whom_they_name"),
    },
    Mutant {
        name: "ring of exits: the last slots never used",
        file: "vmm/src/ring.rs",
        from: "self.next = self.next.wrapping_add(1);",
        to: "self.next = (self.next + 1) % 200;",
        catcher: host("vmm", "the_last_64_exits_are_told_of_newest_last"),
    },
    Mutant {
        name: "an instruction that changed is not tried again",
        file: "vmm/src/exit.rs",
        from: "if self.retries.count < Retries::LIMIT {",
        to: "if self.retries.count < 1 {",
        catcher: host(
            "vmm",
            "a_changed_instruction_is_run_again_and_one_that_stays_so_is_reported",
        ),
    },
    Mutant {
        name: "UART: the interrupt of an empty transmitter is not given",
        file: "vmm/src/platform/uart/mod.rs",
        from: "} else if enabled(IER_TRANSMITTER) && self.transmitter_due {",
        to: "} else if enabled(IER_TRANSMITTER) && self.transmitter_due && self.overrun {",
        catcher: host("vmm", "enabling_the_transmitter_interrupt_raises_it_and_iir_clears_it"),
    },
    Mutant {
        name: "vector registers not switched",
        file: "vmm/vcpu/src/fpu.rs",
        from: "            insn::xrstor(self.area, self.mask);\n",
        to: "",
        catcher: Catcher::System { step: "guest smp taking turns", bed: BedKind::Qemu },
    },
    Mutant {
        name: "SVM: no flush of translations at all",
        file: "vmm/vcpu/src/svm/vcpu.rs",
        from: "        self.vmcb.control.tlb_control =\n            if by_asid {",
        to: "        let _ =\n            if by_asid {",
        catcher: Catcher::System {
            step: "hostile guests harm only themselves",
            bed: BedKind::Qemu,
        },
    },
    Mutant {
        name: "IOMMU: a PASID's translations kept when it is taken away",
        file: "iommu/src/functions.rs",
        from: "if self.limits.stage == Stage::First || held.nested {",
        to: "if self.limits.stage == Stage::First && held.nested {",
        catcher: Catcher::System { step: PASIDS, bed: BedKind::Qemu },
    },
    Mutant {
        name: "IOMMU: interrupt entries for any source",
        file: "iommu/spec/src/interrupt.rs",
        from: "self.with_svt(svt::SOURCE)",
        to: "self.with_svt(0)",
        catcher: Catcher::System { step: PASIDS, bed: BedKind::Qemu },
    },
];

/// Faults of the IOMMU driver that the fuzzer's target `iommu` finds from nothing.
const PLANTED: [Mutant; 3] = [
    Mutant {
        name: "IOTLB: what was unmapped first is not flushed",
        file: "iommu/src/functions.rs",
        from: "(Stage::Second, Some(blocks)) => all.extend(blocks.iter().map(",
        to: "(Stage::Second, Some(blocks)) => all.extend(blocks.iter().skip(1).map(",
        catcher: Catcher::Fuzz,
    },
    Mutant {
        name: "frames are freed once the flush is queued, not done",
        file: "iommu/src/teardown.rs",
        from: "teardown.parts.iter().all(|part| part.is_done(self))",
        to: "teardown.parts.iter().all(|part| part.ticket.is_some())",
        catcher: Catcher::Fuzz,
    },
    Mutant {
        name: "interrupt entries do not check their source (SVT=0)",
        file: "iommu/src/remap.rs",
        from: "_ => entry.from_function(rid),",
        to: "_ => entry.with_sid(rid.0),",
        catcher: Catcher::Fuzz,
    },
];

/// `cargo xtask fuzz --planted`: one fault after the other, each of which the fuzzer must find from an empty corpus.
///
/// # Errors
/// One was not found, or could not be tried.
pub(crate) fn find_planted(context: &Context, limit: Duration) -> Result<(), String> {
    for mutant in &PLANTED {
        let tree = context.cache.root().join("mutants/fuzz-tree");
        copy(&context.root, &tree)?;
        plant(&tree, mutant)?;
        let program = fuzz::build(&tree, &context.cache)?;
        let corpus = context.cache.scratch()?;
        let played = fuzz::play(&program, "iommu", limit, &context.cache, &[corpus.path()])?;
        println!("{}: {}", mutant.name, played.told());
        require(played.has_crashed(), || format!("not found: {}", mutant.name))?;
        println!("{}", played.said());
    }
    Ok(())
}

/// One step for each.
pub(crate) fn steps() -> Vec<Step> {
    let step = |mutant: Mutant| Step {
        name: format!("{} is caught", mutant.name),
        bed: None,
        // One after the other: they share the copy.
        lane: 0,
        run: Box::new(move |context| is_caught(context, &mutant)),
    };
    MUTANTS.into_iter().map(step).collect()
}

fn is_caught(context: &Context, mutant: &Mutant) -> Result<(), String> {
    let tree = context.cache.root().join("mutants/tree");
    copy(&context.root, &tree)?;
    if let Catcher::Host { package, test } = mutant.catcher {
        // Without the fault it is green: so it is the fault that turns it red.
        let (is_well, shown) = host_test(&tree, package, test)?;
        require(is_well && shown.contains(&format!("{test} ... ok")), || {
            format!("{test} of {package} does not pass without the fault:\n{}", end_of(&shown))
        })?;
    }
    plant(&tree, mutant)?;
    let (test, is_red, shown) = match mutant.catcher {
        Catcher::Host { package, test } => {
            let (is_well, shown) = host_test(&tree, package, test)?;
            (test, !is_well && shown.contains(&format!("{test} ... FAILED")), shown)
        }
        Catcher::System { step, bed } => {
            let arguments =
                ["run", "-q", "-p", "xtask", "--", "test", "--system", step, "--on", bed.name()];
            let (_, shown) = cargo(&tree, &arguments)?;
            let is_red = shown.lines().any(|line| line.starts_with("FAIL ") && line.contains(step));
            (step, is_red, shown)
        }
        Catcher::Fuzz => return find_planted(context, LIMIT),
    };
    require(is_red, || format!("survives {test}:\n{}", end_of(&shown)))?;
    println!("     caught by {test}");
    Ok(())
}

/// Puts the fault into the copy.
fn plant(tree: &Path, mutant: &Mutant) -> Result<(), String> {
    let path = tree.join(mutant.file);
    let text = fs::read_to_string(&path).explain(|| path.display().to_string())?;
    fs::write(&path, faulty(&text, mutant)?).explain(|| path.display().to_string())
}

fn faulty(text: &str, mutant: &Mutant) -> Result<String, String> {
    let count = text.matches(mutant.from).count();
    require(count == 1, || {
        format!(
            "{} has {:?} {count} times, not once; tell mutants.rs of the change",
            mutant.file, mutant.from
        )
    })?;
    Ok(text.replacen(mutant.from, mutant.to, 1))
}

fn host_test(tree: &Path, package: &str, test: &str) -> Result<(bool, String), String> {
    cargo(tree, &["test", "-q", "-p", package, "--lib", test, "--", "--format", "pretty"])
}

/// Runs cargo in the copy, which has a target folder of its own; gives whether it went well, and all it said.
fn cargo(tree: &Path, arguments: &[&str]) -> Result<(bool, String), String> {
    let mut command = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    command.current_dir(tree).args(arguments);
    command.env("CARGO_TARGET_DIR", tree.with_file_name("target")).env_remove("CARGO_MANIFEST_DIR");
    let finished = process::run(&mut command, LIMIT, |_| {})?;
    Ok((finished.status.success(), format!("{}{}", finished.stdout, finished.stderr)))
}

/// Makes `to` hold what `from` holds. Files that are alike keep their time, so that cargo builds nothing twice.
fn copy(from: &Path, to: &Path) -> Result<(), String> {
    let told = |path: &Path| path.display().to_string();
    fs::create_dir_all(to).explain(|| told(to))?;
    let mut names = Vec::new();
    for entry in fs::read_dir(from).explain(|| told(from))? {
        let entry = entry.explain(|| told(from))?;
        let (name, path) = (entry.file_name(), entry.path());
        let kind = entry.file_type().explain(|| told(&path))?;
        if LEFT_OUT.iter().any(|left| name == *left) || kind.is_symlink() {
            continue;
        }
        let target = to.join(&name);
        names.push(name);
        if kind.is_dir() {
            copy(&path, &target)?;
            continue;
        }
        let bytes = fs::read(&path).explain(|| told(&path))?;
        if fs::read(&target).ok().as_ref() != Some(&bytes) {
            fs::write(&target, bytes).explain(|| told(&target))?;
        }
    }
    // What is gone goes.
    for entry in fs::read_dir(to).explain(|| told(to))? {
        let entry = entry.explain(|| told(to))?;
        if !names.contains(&entry.file_name()) {
            let path: PathBuf = entry.path();
            let gone =
                if path.is_dir() { fs::remove_dir_all(&path) } else { fs::remove_file(&path) };
            gone.explain(|| told(&path))?;
        }
    }
    Ok(())
}

fn end_of(text: &str) -> String {
    let lines: Vec<&str> = text.lines().collect();
    lines[lines.len().saturating_sub(25)..].join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    /// So that whoever changes a line learns at once that a fault was planted there.
    #[test]
    fn every_fault_has_its_line_and_its_test() {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
        for mutant in MUTANTS.into_iter().chain(PLANTED) {
            let text = fs::read_to_string(root.join(mutant.file)).unwrap();
            assert_ne!(faulty(&text, &mutant).unwrap(), text, "{}", mutant.name);
        }
    }

    #[test]
    fn a_copy_is_alike_and_forgets_what_is_gone() {
        let (from, to) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        fs::create_dir_all(from.path().join("a/target")).unwrap();
        fs::write(from.path().join("a/b"), "1").unwrap();
        fs::write(from.path().join("a/target/c"), "2").unwrap();
        fs::write(to.path().join("old"), "3").unwrap();
        copy(from.path(), to.path()).unwrap();
        assert_eq!(fs::read(to.path().join("a/b")).unwrap(), b"1");
        assert!(!to.path().join("a/target").exists() && !to.path().join("old").exists());
    }
}
