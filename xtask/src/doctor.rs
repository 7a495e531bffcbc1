//! What this machine can run, and why not the rest: `cargo xtask doctor`, and the question that `run` asks before it starts
//! on anything.

use std::fmt::Write as _;
use std::path::Path;

use rustix::fs::statvfs;

use crate::bed::BedKind;
use crate::context::Context;
use crate::explain::{Explain as _, advise};
use crate::own::Own;
use crate::{apt, bed, roots, sysroot};

/// How a thing is had.
#[derive(Clone, Debug, PartialEq, Eq)]
enum State {
    /// The user names it, the host has it or the cache does: in words.
    There(String),
    /// It will be fetched when it is needed.
    Fetchable,
    /// What the user names will not do.
    Wrong(String),
    /// It cannot be had.
    Missing,
}

/// What a bed is made of, and what the default guest is.
const fn parts(bed: BedKind) -> &'static [Own] {
    match bed {
        BedKind::Qemu => &[Own::Qemu, Own::Ovmf],
        BedKind::Bochs => &[Own::Bochs, Own::BochsOvmf, Own::Vgabios],
    }
}
const GUEST: &[Own] = &[Own::Linux, Own::Busybox];

fn state(context: &Context, own: Own, can_fetch: bool) -> State {
    match own.path() {
        Ok(Some((path, by))) => return State::There(format!("{} ({by})", path.display())),
        Err(error) => return State::Wrong(error),
        Ok(None) => {}
    }
    let host = match own {
        Own::Qemu | Own::Bochs => bed::host_program(own),
        Own::Vgabios => bed::host_vgabios(),
        _ => None,
    };
    if let Some(path) = host {
        return State::There(format!("{}, the host's", path.display()));
    }
    match (roots::is_cached(&context.cache, own), can_fetch) {
        (true, _) => State::There("in the cache".to_owned()),
        (false, true) => State::Fetchable,
        (false, false) => State::Missing,
    }
}

/// Whether everything that a run needs is there or can be fetched: all that is missing is told at once, before anything is
/// fetched or built.
///
/// # Errors
/// What is missing, and how to name it.
pub(crate) fn require(
    context: &Context,
    bed: BedKind,
    default_guest: &[Own],
) -> Result<(), String> {
    let parts = || parts(bed).iter().chain(default_guest).copied();
    for own in parts() {
        own.path()?;
    }
    let Err(why) = apt::usable() else { return Ok(()) };
    let missing: Vec<Own> =
        parts().filter(|own| state(context, *own, false) == State::Missing).collect();
    if missing.is_empty() {
        return Ok(());
    }
    let mut list = String::new();
    for own in &missing {
        // A string takes everything.
        let _ =
            write!(list, "\n  - {}: {} FILE, or {}", own.wanted(), own.option(), own.variable());
    }
    Err(advise(
        format!(
            "this machine lacks what {} needs, and cannot fetch it from Debian: {why}",
            bed.name()
        ),
        format!("install these and name them by option or by variable{list}"),
    ))
}

/// Prints all that is known.
///
/// # Errors
/// Nothing can be run here.
pub(crate) fn print(context: &Context) -> Result<(), String> {
    let usable = apt::usable();
    match &usable {
        Ok(mirror) => say("packages", format!("can be fetched from {mirror}")),
        Err(why) => say("packages", format!("cannot be fetched: {why}")),
    }
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    say(
        "cores",
        format!("{cores}{}", if cores < 2 { "; tests take twice as long with one" } else { "" }),
    );
    say("free disk", free_disk(context.cache.root())?);
    let bare = sysroot::state(&context.root, &context.cache, usable.is_ok());
    let can_build = bare.is_ok();
    say("bare targets", bare.unwrap_or_else(|why| format!("MISSING: {why}")));
    let mut beds = Vec::new();
    for bed in BedKind::ALL {
        if tell(context, &format!("bed {}", bed.name()), parts(bed), usable.is_ok()) {
            beds.push(bed.name());
        }
    }
    say("bed kvm", kvm(context));
    let has_guest = tell(context, "Linux guest", GUEST, usable.is_ok());
    if !can_build || beds.is_empty() {
        return Err("Kerf cannot be run here".to_owned());
    }
    let guest = if has_guest { "the default guest or your own" } else { "guests of your own" };
    say("verdict", format!("cargo xtask run --on {} can run {guest}", beds.join("|")));
    Ok(())
}

fn say(what: &str, text: impl std::fmt::Display) {
    println!("{what:<14}{text}");
}

/// Prints the state of each part; whether all are there or can be had.
fn tell(context: &Context, what: &str, parts: &[Own], can_fetch: bool) -> bool {
    let mut is_well = true;
    for (index, own) in parts.iter().enumerate() {
        let state = state(context, *own, can_fetch);
        is_well &= matches!(state, State::There(_) | State::Fetchable);
        let text = match state {
            State::There(place) => place,
            State::Fetchable => "not there yet; will be fetched".to_owned(),
            State::Wrong(why) => format!("WRONG: {}", why.lines().next().unwrap_or_default()),
            State::Missing => {
                format!("MISSING: name one by {} or {}", own.option(), own.variable())
            }
        };
        say(if index == 0 { what } else { "" }, format!("{}: {text}", own.wanted()));
    }
    is_well
}

/// What nested virtualization is good for here; tried, not believed.
fn kvm(context: &Context) -> String {
    if !matches!(state(context, Own::Qemu, false), State::There(_))
        || !matches!(state(context, Own::Ovmf, false), State::There(_))
    {
        return "not tried: QEMU and its firmware are not there yet".to_owned();
    }
    match context.probe_kvm() {
        Ok(()) => "works: run --on kvm".to_owned(),
        Err(why) => format!("no: {}", why.lines().next().unwrap_or_default()),
    }
}

fn free_disk(folder: &Path) -> Result<String, String> {
    let disk = statvfs(folder).explain(|| folder.display().to_string())?;
    let bytes = disk.f_bavail.saturating_mul(disk.f_frsize);
    let enough = if bytes < 3 << 30 { "; emulators and builds take about 3 GiB" } else { "" };
    Ok(format!("{} MiB for {}{enough}", bytes >> 20, folder.display()))
}
