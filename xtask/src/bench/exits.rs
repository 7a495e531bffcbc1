//! Exits: the guest `cpuid_bench` under Kerf, and beside it under a peer.

use std::time::Duration;

use serde_json::{Value, json};

use crate::bed::{BedKind, Machine, Verdict};
use crate::bench::baseline::{self, Figures};
use crate::bench::plugin::{Counter, Counts};
use crate::bench::rows::{PEERS_NOTE, ROWS, Row};
use crate::bench::{Exits, Peer, limits, peer};
use crate::cache::write_whole;
use crate::context::{Context, Trial};
use crate::description::Description;
use crate::explain::{Explain as _, advise};

/// The guest that measures.
pub(super) const GUEST: &str = "cpuid_bench";
const LIMIT: Duration = Duration::from_secs(600);

/// Measures on one bed, prints the table, compares.
pub(super) fn run(context: &Context, options: &Exits) -> Result<(), String> {
    let bed = options.on;
    let (kerf, counts) = measure(context, bed)?;
    // Where the peer fails, what was measured of Kerf is still worth printing.
    let (kvm, failed) = match options.peer.map(|Peer::Kvm| peer::measure(context, bed)) {
        Some(Ok(figures)) => (Some(figures), None),
        Some(Err(why)) => (None, Some(why)),
        None => (None, None),
    };
    print(bed, &kerf, kvm.as_ref());
    limits::print(bed, &counts);
    if let Some(path) = &options.json {
        let text = format!("{:#}\n", as_json(bed, &kerf, kvm.as_ref()));
        write_whole(path, text.as_bytes())?;
    }
    if options.record {
        let path = baseline::write(&context.root, bed, &kerf)?;
        eprintln!("recorded in {}", path.display());
    }
    if options.check {
        compare(context, bed, &kerf, &counts)?;
    }
    failed.map_or(Ok(()), Err)
}

/// Measures on one bed and compares with what is recorded.
///
/// # Errors
/// A figure has become worse, or could not be measured.
pub(crate) fn check(context: &Context, bed: BedKind) -> Result<(), String> {
    let (kerf, counts) = measure(context, bed)?;
    compare(context, bed, &kerf, &counts)
}

fn compare(
    context: &Context,
    bed: BedKind,
    measured: &Figures,
    counts: &Counts,
) -> Result<(), String> {
    let broken = limits::broken(bed, counts);
    if !broken.is_empty() {
        return Err(format!(
            "between exit and entry on {}:\n  {}",
            bed.name(),
            broken.join("\n  ")
        ));
    }
    let recorded = baseline::read(&context.root, bed)?;
    let worse = baseline::regressions(&recorded, measured);
    for gain in baseline::gains(&recorded, measured) {
        println!("     better on {}: {gain}", bed.name());
    }
    if worse.is_empty() {
        return Ok(());
    }
    let what = format!("instructions per exit on {}:\n  {}", bed.name(), worse.join("\n  "));
    Err(advise(
        what,
        format!("make it faster, or where it has to be so: {}", baseline::to_record(bed)),
    ))
}

/// What the guest measures under Kerf, alone and with another virtual CPU, and what the bed counts while it is alone.
fn measure(context: &Context, bed: BedKind) -> Result<(Figures, Counts), String> {
    let (mut figures, counts) = measure_with(context, bed, 1)?;
    figures.append(&mut measure_with(context, bed, 2)?.0);
    Ok((figures, counts))
}

fn measure_with(context: &Context, bed: BedKind, vcpus: u32) -> Result<(Figures, Counts), String> {
    context.bed(bed)?;
    let program = context.guest(GUEST)?;
    let program = std::fs::read(program).explain(|| program.display().to_string())?;
    let text = format!(
        "version = {}\n\n[hypervisor]\nshare-cpus = true\n\n[[vm]]\nname = \"bench\"\nvcpus = {vcpus}\nmemory = \"64M\"\nkernel = \"guest\"\n\n[vm.test]\nexit-port = true\n",
        config::VERSION
    );
    let description = Description::new(text, vec![("guest".into(), program)])?;
    let artefacts = context.artefacts()?;
    let read = |path: &std::path::Path| std::fs::read(path).explain(|| path.display().to_string());
    let volume = description.volume(read(&artefacts.boot)?, read(&artefacts.kernel)?);
    let memory_mib = description.memory_mib();
    let counter = Counter::build(&context.root, bed, &read(&artefacts.kernel)?)?;
    let plugin = Some(counter.plugin());
    let machine = Machine { memory_mib, icount: true, plugin, ..Machine::default() };
    let trial = Trial { volume, machine, expect: None, typed: Vec::new(), timeout: LIMIT };
    let outcome = context.trial(bed, trial)?.require(&Verdict::Exited(0))?;
    let told = |why| format!("{why}: {}", outcome.describe());
    let figures = figures(&outcome.console_text(), vcpus).map_err(told)?;
    Ok((figures, counter.take().map_err(told)?))
}

/// The figures that the guest printed; each has to be there that a guest of so many virtual CPUs measures.
pub(super) fn figures(console: &str, vcpus: u32) -> Result<Figures, String> {
    let lines = console.lines().filter_map(|line| line.trim_end().strip_prefix("BENCH "));
    let figure = |line: &str| {
        let (name, figure) = line.split_once(' ')?;
        Some((name.to_owned(), figure.parse().ok()?))
    };
    let figures: Figures = lines.filter_map(figure).collect();
    for row in ROWS.iter().filter(|row| row.vcpus == vcpus) {
        if !figures.contains_key(row.name) {
            return Err(format!("the guest has not measured {}", row.name));
        }
    }
    Ok(figures)
}

fn print(bed: BedKind, kerf: &Figures, kvm: Option<&Figures>) {
    println!("{}, from guest to guest, in instructions:", what(bed));
    let here =
        if kvm.is_some() { format!(" {:>9} {:>6}", "KVM here", "ratio") } else { String::new() };
    println!(
        "{:40} {:>6}{here} {:>5}       {:>16} {:>11} {:>12}",
        "", "Kerf", "goal", "Jailhouse", "Xen", "KVM"
    );
    let (mut goals, mut met, mut worst) = (0, 0, 0.0_f64);
    for row in &ROWS {
        let figure = kerf.get(row.name).copied().unwrap_or_default();
        let other = kvm.and_then(|kvm| kvm.get(row.name)).copied();
        let goal = row.goal_on(bed, other);
        let verdict = goal.map_or("", |goal| if figure <= goal { "pass" } else { "MISS" });
        if let Some(goal) = goal {
            goals += 1;
            met += u32::from(figure <= goal);
            worst = worst.max(figure as f64 / goal.max(1) as f64);
        }
        let here = kvm.map_or(String::new(), |_| {
            let other = other.map_or("-".into(), |n| n.to_string());
            format!(
                " {other:>9} {:>6}",
                ratio(row, kerf, kvm).map_or("-".into(), |r| format!("{r:.1}"))
            )
        });
        let goal = goal.map_or("-".into(), |goal| goal.to_string());
        println!(
            "{:40} {figure:>6}{here} {goal:>5} {verdict:5} {:>16} {:>11} {:>12}",
            row.title, row.jailhouse, row.xen, row.kvm
        );
    }
    println!("{met} of {goals} goals are met; the worst figure is {worst:.1} times its goal");
    for note in notes(bed) {
        println!("- {note}");
    }
}

fn what(bed: BedKind) -> &'static str {
    match bed {
        BedKind::Qemu => "SVM on QEMU",
        BedKind::Bochs => "VT-x on Bochs",
    }
}

fn notes(bed: BedKind) -> Vec<String> {
    let mut notes = vec![format!("{PEERS_NOTE}.")];
    if bed == BedKind::Qemu {
        notes.push("The goal here is a tenth of KVM. Stock QEMU gives no instruction's length: Kerf decodes it, and so does KVM by its emulator, which costs KVM more; with next-RIP KVM needs 1109 for CPUID.".into());
    }
    notes
}

/// How many times as much the peer needs.
fn ratio(row: &Row, kerf: &Figures, kvm: Option<&Figures>) -> Option<f64> {
    let (figure, other) = (*kerf.get(row.name)?, *kvm?.get(row.name)?);
    (figure > 0).then(|| other as f64 / figure as f64)
}

fn as_json(bed: BedKind, kerf: &Figures, kvm: Option<&Figures>) -> Value {
    let rows = ROWS.iter().map(|row| {
        let figure = kerf.get(row.name).copied();
        let other = kvm.and_then(|kvm| kvm.get(row.name)).copied();
        let goal = row.goal_on(bed, other);
        json!({
            "name": row.name,
            "title": row.title,
            "kerf": figure,
            "goal": goal,
            "met": goal.zip(figure).map(|(goal, figure)| figure <= goal),
            "kvm_here": other,
            "ratio": ratio(row, kerf, kvm),
            "quoted": { "jailhouse": row.jailhouse, "xen": row.xen, "kvm": row.kvm },
        })
    });
    json!({ "bed": bed.name(), "unit": "instructions", "rows": rows.collect::<Vec<_>>(), "notes": notes(bed) })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_row_must_have_been_measured() {
        let lines: String = ROWS.iter().map(|row| format!("BENCH {} 17\r\n", row.name)).collect();
        assert_eq!(figures(&lines, 1).unwrap()["cpuid"], 17);
        let error = figures(&lines.replace("BENCH self-ipi", "BENCH other"), 1).unwrap_err();
        assert!(error.contains("self-ipi"), "{error}");
    }

    #[test]
    fn the_goal_on_qemu_is_a_tenth_of_kvm() {
        assert_eq!(ROWS[0].goal_on(BedKind::Bochs, Some(5000)), Some(80));
        assert_eq!(ROWS[0].goal_on(BedKind::Qemu, Some(5000)), Some(500));
        assert_eq!(ROWS[0].goal_on(BedKind::Qemu, None), Some(229));
    }

    #[test]
    fn the_json_has_figure_goal_and_ratio() {
        let kerf: Figures = [("cpuid".to_owned(), 70)].into();
        let kvm: Figures = [("cpuid".to_owned(), 700)].into();
        let json = as_json(BedKind::Bochs, &kerf, Some(&kvm));
        let row = &json["rows"][0];
        assert_eq!(
            (&row["kerf"], &row["met"], &row["ratio"]),
            (&json!(70), &json!(true), &json!(10.0))
        );
    }
}
