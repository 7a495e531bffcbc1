//! Kerf's own part: its panic, all CPUs of the machine, tables that the boot volume brings, consoles.

use std::time::Duration;

use crate::bed::{BedKind, Machine, Outcome, Serial, Verdict};
use crate::explain::Explain as _;
use crate::step::{Context, Step, Trial};
use crate::suite::{guests, on_bed, pattern, require};
use crate::volume::Volume;

const GUEST: &str = "ticks";
const LIMIT: Duration = Duration::from_secs(120);
/// CPUs of a machine that has several.
const CPUS: u32 = 4;

pub(super) fn steps() -> Vec<Step> {
    let panics = BedKind::ALL.map(|bed| {
        on_bed(bed, "a panic names its functions and stops all CPUs", move |context| {
            panic_is_told(context, bed)
        })
    });
    let qemu = [
        on_bed(BedKind::Qemu, "a CPU that does not start is left out", absent_cpu),
        on_bed(BedKind::Qemu, "CPUs with wide IDs have the others start by x2APIC", wide_ids),
        on_bed(BedKind::Qemu, "a timer that stands still is not used", still_timer),
        on_bed(BedKind::Qemu, "a table with a wrong sum is skipped", damaged_table),
        on_bed(BedKind::Qemu, "the serial port that a table names is used", named_serial),
        on_bed(BedKind::Qemu, "a machine without a serial port comes up", no_serial),
    ];
    panics.into_iter().chain(qemu).collect()
}

/// A volume with a small guest, changed by `change`.
fn volume(context: &Context, change: impl FnOnce(&mut Volume)) -> Result<Volume, String> {
    let description = guests::describe(context, GUEST, None)?;
    let artefacts = context.artefacts()?;
    let read = |path: &std::path::Path| std::fs::read(path).explain(|| path.display().to_string());
    let mut volume = description.volume(read(&artefacts.boot)?, read(&artefacts.kernel)?);
    change(&mut volume);
    volume.seal();
    Ok(volume)
}

fn boot(
    context: &Context,
    bed: BedKind,
    machine: Machine,
    volume: Volume,
) -> Result<Outcome, String> {
    context.trial(bed, Trial { volume, machine, expect: None, typed: Vec::new(), timeout: LIMIT })
}

/// The console must match all of `patterns`.
fn shows(outcome: &Outcome, patterns: &[&str]) -> Result<(), String> {
    for text in patterns {
        require(pattern(text)?.is_match(&outcome.console), || {
            format!("nothing matches {text:?}: {}", outcome.describe())
        })?;
    }
    Ok(())
}

fn panic_is_told(context: &Context, bed: BedKind) -> Result<(), String> {
    let volume = volume(context, |volume| volume.insert("cmdline", b"panic-test".to_vec()))?;
    let cpus = if bed == BedKind::Qemu { CPUS } else { 1 };
    let outcome = boot(context, bed, Machine { cpus, ..Machine::default() }, volume)?;
    let outcome = outcome.require(&Verdict::Stopped)?;
    shows(
        &outcome,
        &[
            r"error: panic-test on the command line at kernel/src/panic\.rs:\d+, on CPU \d+",
            r"rip +0x[0-9a-f]{16}",
            // From where it was noticed, by what that interrupted, back to the CPU's start.
            r"(?s)error:   at 0xffffffff8[0-9a-f]+ kernel::.*error:   at 0xffffffff8[0-9a-f]+ kernel::",
            r"error:   at 0xffffffff8[0-9a-f]+ (_start|kernel::start::bring_up::enter)\+0x",
            &format!("last exits of {GUEST}/0"),
            "kerf: PANIC",
        ],
    )?;
    match cpus {
        1 => Ok(()),
        _ => shows(&outcome, &[&format!("error: {0} of {0} other CPUs stopped", cpus - 1)]),
    }
}

/// The MADT of the boot volume takes the firmware's place, and names a CPU that is not there.
fn absent_cpu(context: &Context) -> Result<(), String> {
    let volume = volume(context, |volume| volume.insert("acpi/apic.aml", madt(&[0, 1, 77], &[])))?;
    let machine = Machine { cpus: 2, ..Machine::default() };
    let outcome = boot(context, BedKind::Qemu, machine, volume)?.require(&Verdict::Exited(0))?;
    shows(
        &outcome,
        &[
            r"ACPI table APIC from the boot volume, in place of the firmware's",
            r"warning: the CPU with APIC ID 0x4d does not start; it is left out",
            "kerf: 2 of 3 CPUs run",
        ],
    )
}

/// An ID above 254 is out of reach but in x2APIC mode, which then serves all; none has it. The CPUs that run are counted
/// twice: when they start, and when a panic stops them.
fn wide_ids(context: &Context) -> Result<(), String> {
    let volume = volume(context, |volume| {
        volume.insert("acpi/apic.aml", madt(&[0, 1, 2, 3], &[300]));
        volume.insert("cmdline", b"panic-test".to_vec());
    })?;
    let machine = Machine { cpus: CPUS, ..Machine::default() };
    let outcome = boot(context, BedKind::Qemu, machine, volume)?.require(&Verdict::Stopped)?;
    shows(
        &outcome,
        &[
            r"warning: the CPU with APIC ID 0x12c does not start; it is left out",
            "kerf: 4 of 5 CPUs run",
            "error: 3 of 3 other CPUs stopped",
        ],
    )
}

/// The FADT of the boot volume puts the ACPI timer where nothing counts.
fn still_timer(context: &Context) -> Result<(), String> {
    let volume = volume(context, |volume| {
        let mut body = vec![0; 80];
        // PM_TMR_BLK (ACPI 6.5, table 5.9): the port that POST codes go to.
        body[76 - 36] = 0x80;
        volume.insert("acpi/facp.aml", table(b"FACP", &body));
    })?;
    let outcome = boot(context, BedKind::Qemu, Machine::default(), volume)?;
    let outcome = outcome.require(&Verdict::Exited(0))?;
    shows(&outcome, &["warning: the ACPI timer stands still; it is not used"])
}

/// What is said by other outputs is the same.
fn no_serial(context: &Context) -> Result<(), String> {
    let machine = Machine { serial: Serial::None, ..Machine::default() };
    let outcome = boot(context, BedKind::Qemu, machine, volume(context, |_| {})?)?;
    require(outcome.console.is_empty(), || "there is a serial port".into())?;
    let debug = String::from_utf8_lossy(&outcome.debug);
    guests::judge(GUEST, &debug).map_err(|why| format!("{why}: {}", outcome.describe()))
}

/// A table names the second port (SPCR), and there is no first.
fn named_serial(context: &Context) -> Result<(), String> {
    let volume = volume(context, |volume| volume.insert("acpi/spcr.aml", spcr(0x2f8, 3)))?;
    let machine = Machine { serial: Serial::Second, ..Machine::default() };
    let outcome = boot(context, BedKind::Qemu, machine, volume)?.require(&Verdict::Exited(0))?;
    guests::judge(GUEST, &outcome.console_text())
        .map_err(|why| format!("{why}: {}", outcome.describe()))
}

fn damaged_table(context: &Context) -> Result<(), String> {
    let mut table = madt(&[0], &[]);
    table[9] ^= 1;
    let volume = volume(context, |volume| volume.insert("acpi/apic.aml", table))?;
    let outcome = boot(context, BedKind::Qemu, Machine::default(), volume)?;
    let outcome = outcome.require(&Verdict::Exited(0))?;
    shows(&outcome, &[r"warning: EFI/kerf/acpi/apic\.aml: damaged: [^\n]*; skipped"])
}

/// A MADT with these CPUs, those with wide IDs told as x2APICs, and QEMU's I/O APIC (ACPI 6.5, 5.2.12).
pub(super) fn madt(ids: &[u8], wide: &[u32]) -> Vec<u8> {
    let mut body = 0xfee0_0000_u32.to_le_bytes().to_vec();
    body.extend(1_u32.to_le_bytes());
    for &id in ids {
        body.extend([0, 8, id, id, 1, 0, 0, 0]);
    }
    for id in wide {
        body.extend([9, 16, 0, 0]);
        body.extend(id.to_le_bytes());
        body.extend([1, 0, 0, 0, 9, 0, 0, 0]);
    }
    body.extend([1, 12, 0, 0]);
    body.extend(0xfec0_0000_u32.to_le_bytes());
    body.extend(0_u32.to_le_bytes());
    table(b"APIC", &body)
}

/// A 16550 at an I/O port, with an ISA interrupt (Serial Port Console Redirection Table, version 1.10).
fn spcr(port: u16, irq: u8) -> Vec<u8> {
    let mut body = vec![0; 44];
    body[4..8].copy_from_slice(&[1, 8, 0, 1]);
    body[8..10].copy_from_slice(&port.to_le_bytes());
    body[16..18].copy_from_slice(&[1, irq]);
    table(b"SPCR", &body)
}

/// A table with its header (ACPI 6.5, 5.2.6).
pub(super) fn table(signature: &[u8; 4], body: &[u8]) -> Vec<u8> {
    let mut table = signature.to_vec();
    table.extend((36 + body.len() as u32).to_le_bytes());
    table.extend(b"\x02\0KERF  TESTONLY\x01\0\0\0KERF\x01\0\0\0");
    table.extend(body);
    let sum = table.iter().fold(0_u8, |sum, byte| sum.wrapping_add(*byte));
    table[9] = sum.wrapping_neg();
    table
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_tables_are_sound() {
        for table in [madt(&[0, 1, 77], &[300]), spcr(0x2f8, 3)] {
            assert!(images::acpi_table::parse(&table).is_ok());
        }
    }
}
