//! Whatever ends xtask ends the emulator: after SIGKILL, after a time-out, none is left.

use std::ffi::OsString;
use std::fs;
use std::process::{Child, Command, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

use crate::bed::BedKind;
use crate::explain::Explain as _;
use crate::process;
use crate::step::{Context, Step};
use crate::suite::{on_bed, require};

/// In the environment of an xtask under test, and so of all that it starts.
const MARK: &str = "KERF_TEST_MARK";
/// The promise: this long after xtask, no emulator is left.
const PROMISE: Duration = Duration::from_secs(5);
/// Until the emulator runs. Everything is built and fetched before.
const START_LIMIT: Duration = Duration::from_secs(120);

pub(super) fn steps() -> Vec<Step> {
    let killed = |bed| {
        on_bed(bed, "no emulator survives SIGKILL of xtask", move |context| {
            dies_with_xtask(context, bed)
        })
    };
    let late = |bed| {
        on_bed(bed, "a silent guest is a failure and leaves no emulator", move |context| {
            times_out(context, bed)
        })
    };
    BedKind::ALL.map(killed).into_iter().chain([late(BedKind::Qemu)]).collect()
}

fn dies_with_xtask(context: &Context, bed: BedKind) -> Result<(), String> {
    let mark = prepare(context, bed)?;
    let mut xtask = start(bed, &mark, 600)?;
    let seen = until(Instant::now() + START_LIMIT, || has_emulator(&marked(&mark), bed));
    // SIGKILL, whether or not it has started one.
    xtask.kill().and_then(|()| xtask.wait()).explain(|| "cannot kill xtask")?;
    require(seen, || {
        format!("xtask started no {} within {} s", bed.name(), START_LIMIT.as_secs())
    })?;
    none_left(&mark)
}

fn times_out(context: &Context, bed: BedKind) -> Result<(), String> {
    let mark = prepare(context, bed)?;
    let mut xtask = start(bed, &mark, 5)?;
    let status = process::wait(&mut xtask, Instant::now() + START_LIMIT)?;
    require(!status.success(), || "xtask reported success".into())?;
    none_left(&mark)
}

/// Has everything built and fetched, so that xtask's start is the emulator's; gives a mark that no other process has.
fn prepare(context: &Context, bed: BedKind) -> Result<OsString, String> {
    context.bed(bed)?;
    context.artefacts()?;
    context.linux()?;
    let scratch = tempfile::NamedTempFile::new().explain(|| "no temporary file")?;
    Ok(scratch.path().into())
}

fn start(bed: BedKind, mark: &OsString, seconds: u32) -> Result<Child, String> {
    let this = std::env::current_exe().explain(|| "cannot find this program")?;
    Command::new(this)
        .args(["run", "--headless", "--on", bed.name(), "--expect", "never printed"])
        .args(["--timeout", &seconds.to_string()])
        .env(MARK, mark)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .explain(|| "cannot start xtask")
}

fn none_left(mark: &OsString) -> Result<(), String> {
    if until(Instant::now() + PROMISE, || marked(mark).is_empty()) {
        return Ok(());
    }
    Err(format!(
        "{} s after xtask's end these are left: {}",
        PROMISE.as_secs(),
        marked(mark).join("; ")
    ))
}

fn until(deadline: Instant, holds: impl Fn() -> bool) -> bool {
    loop {
        if holds() {
            return true;
        }
        if Instant::now() >= deadline {
            return false;
        }
        sleep(Duration::from_millis(100));
    }
}

/// Whether a command line is the emulator's own, not that of the programs that put it on its leash.
fn has_emulator(command_lines: &[String], bed: BedKind) -> bool {
    let option = match bed {
        BedKind::Qemu => "-nodefaults",
        BedKind::Bochs => "bochsrc",
    };
    command_lines.iter().any(|line| {
        line.contains(option) && !line.starts_with("setpriv") && !line.starts_with("sh ")
    })
}

/// The command lines of all processes with the mark in their environment. Those that have ended have none.
fn marked(mark: &OsString) -> Vec<String> {
    let mark = format!("{MARK}={}", mark.to_string_lossy());
    let Ok(processes) = fs::read_dir("/proc") else { return Vec::new() };
    processes
        .flatten()
        .filter_map(|process| {
            let environment = fs::read(process.path().join("environ")).ok()?;
            environment
                .split(|byte| *byte == 0)
                .any(|entry| entry == mark.as_bytes())
                .then_some(())?;
            let line = fs::read(process.path().join("cmdline")).ok()?;
            Some(String::from_utf8_lossy(&line).replace('\0', " ").trim().to_owned())
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_marked_process_is_found_and_gone_when_it_ends() {
        let mark = OsString::from(format!("test-{}", std::process::id()));
        let mut child = Command::new("sleep").arg("60").env(MARK, &mark).spawn().unwrap();
        assert!(until(Instant::now() + PROMISE, || marked(&mark) == ["sleep 60"]));
        child.kill().unwrap();
        child.wait().unwrap();
        assert!(none_left(&mark).is_ok());
    }

    #[test]
    fn the_leash_is_no_emulator() {
        let lines =
            ["setpriv --pdeathsig KILL -- sh -c x 1 q -nodefaults", "sh -c x 1 q -nodefaults"]
                .map(str::to_owned);
        assert!(!has_emulator(&lines, BedKind::Qemu));
        assert!(has_emulator(&["ld.so qemu-system-x86_64 -nodefaults".to_owned()], BedKind::Qemu));
    }
}
