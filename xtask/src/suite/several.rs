//! Several virtual machines at once: small guests that tick on beside each other, the monitor that pauses, stops and resets
//! them meanwhile, and Linux in pairs and with two virtual CPUs.

use std::time::Duration;

use regex::Regex;
use sha2::{Digest as _, Sha256};

use crate::bed::{BedKind, Machine, Outcome, Verdict};
use crate::description::Description;
use crate::explain::Explain as _;
use crate::initrd;
use crate::step::{Context, Step, Trial, Typed};
use crate::suite::{kernel, linux, on_bed, pattern, require};

const GUESTS_LIMIT: Duration = Duration::from_secs(240);
const LINUX_LIMIT: Duration = Duration::from_secs(1200);
/// Ctrl-\.
const SWITCH: &str = "\x1c";

pub(super) fn steps() -> Vec<Step> {
    let both = |name: &str, run: fn(&Context, BedKind) -> Result<(), String>| {
        BedKind::ALL.map(|bed| on_bed(bed, name, move |context| run(context, bed))).into_iter()
    };
    both("two guests on one CPU, both under the monitor", |context, bed| monitored(context, bed, 1))
        .chain(both("two guests on two CPUs, both under the monitor", |context, bed| {
            monitored(context, bed, 2)
        }))
        .chain(both("one VM of two that cannot start is told of", refused))
        .chain(both("a time-stamp counter of another frequency", scaled))
        .chain(both("two linux guests at once", two_linux))
        .chain([
            on_bed(BedKind::Bochs, "linux with two virtual CPUs on one CPU", |context| {
                smp_linux(context, BedKind::Bochs)
            }),
            on_bed(BedKind::Qemu, "a guest whose virtual CPU is saved and restored", |context| {
                saved(context, BedKind::Qemu)
            }),
            on_bed(BedKind::Bochs, "a guest whose virtual CPU is saved and restored", |context| {
                saved(context, BedKind::Bochs)
            }),
        ])
        .collect()
}

/// A configuration of small guests that tick on; `a` halts between its ticks, `b` counts the time away.
/// `a` begins anew when it resets itself. It waits in the guest where it has its CPU alone.
fn pulses(context: &Context, memory: &str, pins: [u32; 2]) -> Result<Description, String> {
    let path = context.guest("pulse")?;
    let program = std::fs::read(path).explain(|| path.display().to_string())?;
    // The two CPUs of Bochs share a core.
    let mut text = format!(
        "version = {}\n\n[hypervisor]\nshare-cpus = true\nshare-smt = true\n",
        config::VERSION
    );
    let idles = "idle = \"guest\"\non-reset = \"restart\"\n";
    for (name, memory, cmdline, pin, more) in
        [("a", memory, "", pins[0], idles), ("b", "64M", "busy", pins[1], "")]
    {
        text += &format!(
            "\n[[vm]]\nname = \"{name}\"\nmemory = \"{memory}\"\nkernel = \"pulse\"\ncmdline = \"{cmdline}\"\ncpus = [{pin}]\n{more}\n[vm.test]\nexit-port = true\n"
        );
    }
    Description::new(text, vec![("pulse".to_owned(), program)])
}

fn trial(
    context: &Context,
    bed: BedKind,
    description: &Description,
    cpus: u32,
    typed: Vec<Typed>,
    timeout: Duration,
) -> Result<Outcome, String> {
    let artefacts = context.artefacts()?;
    let read = |path: &std::path::Path| std::fs::read(path).explain(|| path.display().to_string());
    let mut volume = description.volume(read(&artefacts.boot)?, read(&artefacts.kernel)?);
    if bed == BedKind::Bochs && cpus > 1 {
        // Bochs hands no tables over that would name them.
        volume.insert("acpi/apic.aml", kernel::madt(&(0..cpus as u8).collect::<Vec<_>>(), &[]));
        volume.seal();
    }
    let memory_mib = match description.memory_mib() {
        small @ ..=1024 => small,
        // So that a whole GiB is free in one piece.
        large => large.max(4096),
    };
    let machine = Machine { memory_mib, cpus, ..Machine::default() };
    context.trial(bed, Trial { volume, machine, expect: None, typed, timeout })
}

/// What is typed, each once the pattern before it was seen.
fn script(lines: &[(&str, &str)]) -> Result<Vec<Typed>, String> {
    lines
        .iter()
        .map(|(after, text)| Ok(Typed { after: pattern(after)?, text: (*text).into() }))
        .collect()
}

/// Every command, while the guests tick.
fn monitored(context: &Context, bed: BedKind, cpus: u32) -> Result<(), String> {
    let memory = if has_large_page(bed, cpus) { "1G" } else { "64M" };
    let description = pulses(context, memory, [0, cpus - 1])?;
    let keys = &*format!("{SWITCH}{SWITCH}");
    // QEMU is told not to come up again; on Bochs the firmware does not find the ACPI timer a second time.
    let reboots = bed == BedKind::Qemu && cpus > 1;
    let lines = vec![
        // Both run before anything is typed.
        (r"(?s)\npulse 4\r.*\[b\] pulse 4\r|\[b\] pulse 4\r.*\npulse 4\r", keys),
        ("help helps", "vms\n"),
        ("(?s)running.*running", "cpus\n"),
        ("APIC ID(?s).*b/0", "vm a\n"),
        ("a: running", "memory\n"),
        ("Kerf's own", "exits b\n"),
        ("b/0:(?s).*port-write", "resst a\n"),
        (r#"did you mean "reset"\?"#, "vm c\n"),
        ("there is no VM", "pause a\n"),
        // Five ticks of the other one: a would have made as many.
        ("a is paused(?s)(?:.*\\[b\\] pulse){5}", "resume a\n"),
        (r"a is running(?s)(?:.*\[a\] pulse){3}", "vm a\n"),
        ("a: running(?s).*kerf> ", "stop b\n"),
        (r"b is stopped(?s)(?:.*\[a\] pulse){5}", "reset b\n"),
        (r"b is running(?s).*\[b\] pulse 3\r", "log\n"),
        ("(?s)b is running.*kerf> ", SWITCH),
        ("the terminal is a's", "x"),
        ("pulse got 'x'", "r"),
        ("a ended: reset(?s).*\npulse 2\r", "q"),
        ("a ended: exit 0", SWITCH),
        ("the terminal is b's", SWITCH),
        ("the terminal is the monitor's", if reboots { "reboot\n" } else { "poweroff\n" }),
    ];
    let outcome = trial(context, bed, &description, cpus, script(&lines)?, GUESTS_LIMIT)?;
    let text = outcome.console_text();
    judge_monitored(&text, bed, cpus).map_err(|why| format!("{why}: {}", outcome.describe()))?;
    if !reboots {
        return outcome.require(&Verdict::PoweredOff).map(|_| ());
    }
    let is_reset = text.contains("kerf: rebooting");
    let is_reset = is_reset && matches!(outcome.verdict, Verdict::EmulatorEnded(_));
    require(is_reset, || format!("not reset: {}", outcome.describe()))
}

/// There a machine is large enough for `a` to have a whole GiB in one page.
fn has_large_page(bed: BedKind, cpus: u32) -> bool {
    bed == BedKind::Qemu && cpus > 1
}

/// Paused and stopped guests were silent, the other one was not, and nothing came twice or out of order.
fn judge_monitored(console: &str, bed: BedKind, cpus: u32) -> Result<(), String> {
    let between = |from: &str, to: &str| {
        let start = console.find(from).ok_or_else(|| format!("no {from:?}"))?;
        let rest = &console[start..];
        let end = rest.find(to).ok_or_else(|| format!("no {to:?} after {from:?}"))?;
        Ok::<&str, String>(&rest[..end])
    };
    let paused = between("a is paused", "a is running")?;
    require(!paused.contains("[a] pulse"), || format!("a paused guest ticks: {paused}"))?;
    let stopped = between("b is stopped", "b is running")?;
    require(!stopped.contains("[b] pulse"), || format!("a stopped guest ticks: {stopped}"))?;
    let restarted = between("b is running", "log")?;
    require(restarted.contains("[b] pulse 1\r"), || "a reset guest does not start anew".into())?;
    let before = &console[..console.find("b is stopped").unwrap_or(console.len())];
    for name in ["a", "b"] {
        // The first one has the terminal for a while.
        let own = Regex::new(&format!(r"(?m)^(?:[^\n\[]*\x1b\[K)*\[{name}\] pulse (\d+)\r"))
            .map_err(|error| error.to_string())?;
        let counts: Vec<u32> =
            own.captures_iter(before).filter_map(|found| found[1].parse().ok()).collect();
        let in_order = counts.windows(2).all(|pair| pair[1] == pair[0] + 1);
        require(in_order && counts.len() > 1, || format!("{name} ticked {counts:?}"))?;
    }
    let shown = between("a: running", "kerf> ")?;
    let exits = shown.lines().any(|line| line.trim_start().starts_with("halt "));
    require(exits == (cpus == 1), || format!("who waits, guest or Kerf? {shown}"))?;
    let page = if has_large_page(bed, cpus) { "1024 MiB" } else { r"[1-9]\d* KiB" };
    let written = pattern(&format!("written {page} since last asked"))?;
    let count = written.find_iter(before.as_bytes()).count();
    require(count == 2, || format!("written memory was told {count} times: {shown}"))?;
    require(console.contains("PASS pulse-was-told-to-end"), || "a did not end well".into())
}

/// A VM that asks for a CPU that is not there, and one that asks for too much memory: the third runs.
fn refused(context: &Context, bed: BedKind) -> Result<(), String> {
    let path = context.guest("hello")?;
    let program = std::fs::read(path).explain(|| path.display().to_string())?;
    let vm = |name: &str, memory: &str, more: &str| {
        format!(
            "\n[[vm]]\nname = \"{name}\"\nmemory = \"{memory}\"\nkernel = \"hello\"\n{more}\n[vm.test]\nexit-port = true\n"
        )
    };
    let text = format!(
        "version = {}\n{}{}{}",
        config::VERSION,
        vm("far", "64M", "cpus = [7]\n"),
        vm("big", "512G", ""),
        vm("good", "64M", "")
    );
    let description = Description::new(text, vec![("hello".to_owned(), program)])?;
    let artefacts = context.artefacts()?;
    let read = |path: &std::path::Path| std::fs::read(path).explain(|| path.display().to_string());
    let volume = description.volume(read(&artefacts.boot)?, read(&artefacts.kernel)?);
    let machine = Machine { memory_mib: 512, ..Machine::default() };
    let typed = Vec::new();
    let trial = Trial { volume, machine, expect: None, typed, timeout: GUESTS_LIMIT };
    let outcome = context.trial(bed, trial)?;
    let text = outcome.console_text();
    for part in [
        "error: far cannot start: kerf.toml:7: vm.cpus",
        "error: big cannot start: kerf.toml:",
        "vm.memory",
        "\nGUEST-DONE hello",
        "good ended: exit 0",
        "all guests ended: not started",
    ] {
        require(text.contains(part), || format!("no {part:?}: {}", outcome.describe()))?;
    }
    Ok(())
}

/// A configuration of Linux guests that check themselves and power off.
fn linuxes(
    context: &Context,
    names: &[&str],
    vcpus: u32,
    nonce: &str,
) -> Result<Description, String> {
    let linux = context.linux()?;
    let kernel = std::fs::read(&linux.kernel).explain(|| linux.kernel.display().to_string())?;
    let disk = initrd::build(&linux.busybox, Some(nonce), &[], &[])?;
    let mut text = format!("version = {}\n\n[hypervisor]\nshare-cpus = true\n", config::VERSION);
    for name in names {
        text += &format!(
            "\n[[vm]]\nname = \"{name}\"\nmemory = \"{}\"\nvcpus = {vcpus}\nkernel = \"vmlinuz\"\ninitrd = \"initrd.img\"\ncmdline = \"console=ttyS0 kerf.poweroff\"\n",
            linux::MEMORY
        );
    }
    Description::new(text, vec![("vmlinuz".to_owned(), kernel), ("initrd.img".to_owned(), disk)])
}

/// Two virtual CPUs each on QEMU, one each on Bochs, where both have one CPU.
fn two_linux(context: &Context, bed: BedKind) -> Result<(), String> {
    let (vcpus, cpus) = match bed {
        BedKind::Qemu => (2, 4),
        BedKind::Bochs => (1, 1),
    };
    boot_linux(context, bed, &["one", "two"], vcpus, cpus)
}

/// Both virtual CPUs take turns on one CPU.
fn smp_linux(context: &Context, bed: BedKind) -> Result<(), String> {
    boot_linux(context, bed, &["linux"], 2, 1)
}

fn boot_linux(
    context: &Context,
    bed: BedKind,
    names: &[&str],
    vcpus: u32,
    cpus: u32,
) -> Result<(), String> {
    let nonce = linux::fresh_nonce()?;
    let description = linuxes(context, names, vcpus, &nonce)?;
    let outcome = trial(context, bed, &description, cpus, Vec::new(), LINUX_LIMIT)?;
    let text = outcome.console_text();
    let judged = judge_linux(&text, names, vcpus, &nonce);
    judged.map_err(|why| format!("{why}: {}", outcome.describe()))?;
    outcome.require(&Verdict::PoweredOff).map(|_| ())
}

/// Every guest found all in order; the first one's lines are as it printed them, the others' have their names before them.
fn judge_linux(console: &str, names: &[&str], vcpus: u32, nonce: &str) -> Result<(), String> {
    let digest: String = Sha256::digest(nonce).iter().map(|byte| format!("{byte:02x}")).collect();
    for (index, name) in names.iter().enumerate() {
        let prefix = if index == 0 { String::new() } else { format!("[{name}] ") };
        for line in [&format!("KERF-NONCE {digest}"), "KERF-GUEST-OK"] {
            let line = format!("{prefix}{line}");
            let found = console.lines().any(|own| own.trim_end() == line);
            require(found, || format!("no line {line:?}"))?;
        }
        let cpus = if vcpus == 1 { "1 CPU".into() } else { format!("{vcpus} CPUs") };
        let up = format!("smp: Brought up 1 node, {cpus}");
        let own = |line: &&str| line.starts_with(&prefix) && (index > 0 || !line.starts_with("[t"));
        let found = console.lines().filter(own).any(|line| line.contains(&up));
        require(found, || format!("{name} did not bring {cpus} up"))?;
        require(console.contains(&format!("{name} ended: poweroff")), || {
            format!("{name} did not power off")
        })?;
    }
    Ok(())
}

/// A guest's time-stamp counter runs two and a half times as fast as Bochs' own of 100 MHz; QEMU's CPU cannot scale it.
fn scaled(context: &Context, bed: BedKind) -> Result<(), String> {
    let path = context.guest("ticks")?;
    let program = std::fs::read(path).explain(|| path.display().to_string())?;
    let text = format!(
        "version = {}\n\n[[vm]]\nname = \"ticks\"\nmemory = \"64M\"\nkernel = \"guest\"\ncmdline = \"clock\"\n\n[vm.cpuid]\ntsc-khz = 250000\n\n[vm.test]\nexit-port = true\n",
        config::VERSION
    );
    let description = Description::new(text, vec![("guest".to_owned(), program)])?;
    let outcome = trial(context, bed, &description, 1, Vec::new(), GUESTS_LIMIT)?;
    let text = outcome.console_text();
    let told = |why: String| format!("{why}: {}", outcome.describe());
    if bed == BedKind::Qemu {
        let refused = "ticks cannot start: vm.cpuid.tsc-khz: the CPU cannot scale";
        return require(text.contains(refused), || told(format!("no {refused:?}")));
    }
    super::guests::judge("ticks", &text).map_err(told)?;
    require(text.contains("PASS tsc-runs-as-told\r\ntsc: 250000 kHz"), || told("no clock".into()))?;
    outcome.require(&Verdict::Exited(0)).map(|_| ())
}

/// At the end of each slice all of a virtual CPU goes to another one: the guest must not notice.
fn saved(context: &Context, bed: BedKind) -> Result<(), String> {
    let path = context.guest("ticks")?;
    let program = std::fs::read(path).explain(|| path.display().to_string())?;
    let text = format!(
        "version = {}\n\n[hypervisor]\nslice-us = 100\n\n[[vm]]\nname = \"ticks\"\nmemory = \"64M\"\nkernel = \"guest\"\n\n[vm.test]\nexit-port = true\nsave-restore = true\n",
        config::VERSION
    );
    let description = Description::new(text, vec![("guest".to_owned(), program)])?;
    let outcome = trial(context, bed, &description, 1, Vec::new(), GUESTS_LIMIT)?;
    let text = outcome.console_text();
    super::guests::judge("ticks", &text).map_err(|why| format!("{why}: {}", outcome.describe()))?;
    outcome.require(&Verdict::Exited(0)).map(|_| ())
}
