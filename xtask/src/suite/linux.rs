//! Debian's Linux: to its self-check, a nonce's answer and a shell that obeys; and, with interrupts withheld, not so far.

use std::fs::File;
use std::io::Read as _;
use std::time::Duration;

use sha2::{Digest as _, Sha256};

use crate::bed::{BedKind, Machine, Outcome, Verdict};
use crate::description::{Description, LinuxGuest};
use crate::explain::Explain as _;
use crate::initrd;
use crate::step::{Context, Step, Trial, Typed};
use crate::suite::{on_bed, pattern, require};

pub(super) const MEMORY: &str = "256M";
/// What a boot to the shell may take.
const BOOT_LIMIT: Duration = Duration::from_secs(600);
/// After this long a guest that has no timer is taken to hang for good: several times what it needs with one.
const SILENCE: Duration = Duration::from_secs(60);
/// No Linux boots with fewer, though Bochs only tells of the entries after EPT violations.
const LEAST_ENTRIES: u64 = 100;

pub(super) fn steps() -> Vec<Step> {
    // The switches lie above the CPU backends: one bed shows what they do.
    let bed = BedKind::Qemu;
    vec![
        linux(bed),
        on_bed(bed, "linux without timer interrupts fails", move |context| {
            fails_without_timer(context, bed)
        }),
        on_bed(bed, "linux without serial interrupts fails", move |context| {
            fails_without_serial(context, bed)
        }),
    ]
}

/// On Bochs two at once, and one with two virtual CPUs, show the rest (`several`).
pub(super) fn full_steps() -> Vec<Step> {
    vec![linux(BedKind::Bochs)]
}

fn linux(bed: BedKind) -> Step {
    on_bed(bed, "linux checks itself, answers a nonce and its shell", move |context| {
        checks_itself(context, bed)
    })
}

struct Boot<'a> {
    nonce: &'a str,
    cmdline: &'a str,
    test: &'a str,
    expect: Option<&'a str>,
    typed: Vec<Typed>,
    limit: Duration,
}

fn boot(context: &Context, bed: BedKind, boot: Boot<'_>) -> Result<Outcome, String> {
    let linux = context.linux()?;
    let description = Description::linux(&LinuxGuest {
        kernel: linux.kernel.clone(),
        initrd: Some(initrd::build(&linux.busybox, Some(boot.nonce), &[], &[])?),
        cmdline: boot.cmdline.into(),
        memory: MEMORY.into(),
        devices: &[],
        test: boot.test.into(),
    })?;
    let artefacts = context.artefacts()?;
    let read = |path: &std::path::Path| std::fs::read(path).explain(|| path.display().to_string());
    let volume = description.volume(read(&artefacts.boot)?, read(&artefacts.kernel)?);
    let machine = Machine {
        memory_mib: description.memory_mib(),
        // In real time, as `run` does it, where something is typed: QEMU 11.1 counting instructions sometimes stops for
        // good when input arrives, in the middle of the guest and without another VM exit.
        icount: boot.typed.is_empty(),
        count_entries: bed == BedKind::Qemu,
        ..Machine::default()
    };
    let expect = boot.expect.map(pattern).transpose()?;
    context.trial(bed, Trial { volume, machine, expect, typed: boot.typed, timeout: boot.limit })
}

fn checks_itself(context: &Context, bed: BedKind) -> Result<(), String> {
    let nonce = fresh_nonce()?;
    let typed = vec![
        Typed { after: pattern("guest:/# ")?, text: "echo $((6 * 7)) is the answer\n".into() },
        Typed { after: pattern("guest:/# ")?, text: "poweroff\n".into() },
    ];
    let started = Boot {
        nonce: &nonce,
        cmdline: "console=ttyS0",
        test: "",
        expect: None,
        typed,
        limit: BOOT_LIMIT,
    };
    let outcome = boot(context, bed, started)?.require(&Verdict::PoweredOff)?;
    let text = outcome.console_text();
    judge(&text, &nonce).map_err(|why| format!("{why}: {}", outcome.describe()))?;
    let entries = outcome.entries.unwrap_or_default();
    require(entries >= LEAST_ENTRIES, || format!("{} counted {entries} VM entries", bed.name()))?;
    println!("     {entries} VM entries counted by {}", bed.name());
    Ok(())
}

/// What the console of a sound guest shows.
fn judge(console: &str, nonce: &str) -> Result<(), String> {
    for check in ["cpu", "clocksource", "timer", "serial", "memory", "acpi"] {
        let line = format!("KERF-CHECK {check} ok ");
        require(console.contains(&line), || format!("no {line:?}"))?;
    }
    let digest: String = Sha256::digest(nonce).iter().map(|byte| format!("{byte:02x}")).collect();
    for line in [&format!("KERF-NONCE {digest}"), "KERF-GUEST-OK", "42 is the answer"] {
        require(console.lines().any(|own| own.trim_end() == line), || format!("no line {line:?}"))?;
    }
    Ok(())
}

/// It may hang anywhere after the kernel's first words, or fail its check: but it may not pass, and the rest must work.
fn fails_without_timer(context: &Context, bed: BedKind) -> Result<(), String> {
    let outcome = withheld(context, bed, "timer", "KERF-CHECK timer FAIL", SILENCE)?;
    let text = outcome.console_text();
    let is_right = text.contains("Linux version")
        && !text.contains("KERF-GUEST-OK")
        && matches!(outcome.verdict, Verdict::Expected | Verdict::TimedOut(_));
    require(is_right, || outcome.describe())
}

fn fails_without_serial(context: &Context, bed: BedKind) -> Result<(), String> {
    let outcome =
        withheld(context, bed, "serial", r"KERF-GUEST-FAIL [a-z ]*\bserial\b", BOOT_LIMIT)?;
    let text = outcome.console_text();
    // Everything else is as it should be, so it was the withheld interrupt.
    let is_right = text.contains("KERF-CHECK serial FAIL")
        && text.matches(" FAIL ").count() == 1
        && !text.contains("KERF-GUEST-OK");
    require(is_right, || outcome.describe())?;
    outcome.require(&Verdict::Expected).map(|_| ())
}

fn withheld(
    context: &Context,
    bed: BedKind,
    source: &str,
    expect: &str,
    limit: Duration,
) -> Result<Outcome, String> {
    let test = format!("withhold = [\"{source}\"]");
    let nonce = fresh_nonce()?;
    let started = Boot {
        nonce: &nonce,
        cmdline: "console=ttyS0 kerf.poweroff",
        test: &test,
        expect: Some(expect),
        typed: Vec::new(),
        limit,
    };
    boot(context, bed, started)
}

/// 128 random bits in hexadecimal.
pub(super) fn fresh_nonce() -> Result<String, String> {
    let mut bytes = [0; 16];
    File::open("/dev/urandom")
        .and_then(|mut file| file.read_exact(&mut bytes))
        .explain(|| "/dev/urandom")?;
    Ok(bytes.iter().map(|byte| format!("{byte:02x}")).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// As `init.sh` prints it, the nonce being `4711`.
    const CONSOLE: &str = "[    7.7] KERF-CHECK cpu ok model, 1996.218 MHz\r\n\
        [    7.7] KERF-CHECK clocksource ok tsc\r\n\
        [    8.3] KERF-CHECK timer ok 47 interrupts in 55/100 s\r\n\
        [    8.4] KERF-CHECK serial ok uart:16550A, 4 interrupts\r\n\
        [   11.7] KERF-CHECK memory ok 215776 kB, 11610 kB of it written and read back\r\n\
        [   11.7] KERF-CHECK acpi ok APIC DSDT FACP\r\n\
        KERF-NONCE de650d61f5bd166a91f8ccec3158297db18b9d50eaedca238cd29dc3a214a916\r\n\
        KERF-GUEST-OK\r\nguest:/# echo $((6 * 7)) is the answer\r\n42 is the answer\r\n";

    #[test]
    fn a_sound_console_passes() {
        assert_eq!(judge(CONSOLE, "4711"), Ok(()));
    }

    #[test]
    fn a_missing_line_or_another_nonce_fails() {
        assert!(judge(CONSOLE, "4712").unwrap_err().contains("KERF-NONCE"));
        for part in ["timer ok", "serial ok", "memory ok", "KERF-GUEST-OK", "\n42 is"] {
            assert!(judge(&CONSOLE.replace(part, ""), "4711").is_err(), "{part}");
        }
    }

    #[test]
    fn nonces_are_fresh() {
        assert_ne!(fresh_nonce().unwrap(), fresh_nonce().unwrap());
    }
}
