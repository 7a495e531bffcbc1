//! Linux's KVM as a peer: the same guest program, in the same bed, run by `tests/peer` as the only program of Debian's
//! Linux, which `tests/peer/start` starts from a disk, as both beds boot one.

use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::artefacts;
use crate::bed::{BedKind, Machine, Verdict};
use crate::bench::baseline::Figures;
use crate::bench::exits::{self, GUEST};
use crate::context::{Context, Trial};
use crate::explain::Explain as _;
use crate::initrd::{Archive, CHARACTER_DEVICE, FOLDER, PLAIN, PROGRAM};
use crate::roots;
use crate::volume::{BOOT, Volume};

const LIMIT: Duration = Duration::from_secs(1800);
const MEMORY_MIB: u64 = 768;

/// What the guest measures under KVM.
///
/// # Errors
/// Something of it cannot be fetched or built, or the guest does not come to its end.
pub(super) fn measure(context: &Context, bed: BedKind) -> Result<Figures, String> {
    let volume = volume(context)?;
    let machine = Machine { memory_mib: MEMORY_MIB, icount: true, ..Machine::default() };
    let expect =
        regex::bytes::Regex::new(r"PEER-(DONE \d+|FAILED [^\r]*)\r?\n").explain(|| "a pattern")?;
    let trial = Trial { volume, machine, expect: Some(expect), typed: Vec::new(), timeout: LIMIT };
    let outcome = context.trial(bed, trial)?.require(&Verdict::Expected)?;
    let console = outcome.console_text();
    if !console.contains("PEER-DONE 0") {
        return Err(format!("the guest has failed under KVM: {}", outcome.describe()));
    }
    exits::figures(&console, 1)
}

fn volume(context: &Context) -> Result<Volume, String> {
    let linux = roots::linux_kvm(&context.cache)?;
    let guest = read(context.guest(GUEST)?)?;
    let archive = alone(context, "peer", &linux.modules, &[("guest", &guest)])?;
    bare(context, &linux.kernel, archive)
}

/// An initial RAM disk with a program of `tests/peer` alone, the modules that it is to load in this order, and files.
pub(super) fn alone(
    context: &Context,
    program: &str,
    modules: &[PathBuf],
    files: &[(&str, &[u8])],
) -> Result<Vec<u8>, String> {
    let mut archive = Archive::default();
    for folder in ["dev", "modules"] {
        archive.add(folder, FOLDER, (0, 0), &[]);
    }
    archive.add("dev/console", CHARACTER_DEVICE, (5, 1), &[]);
    let program = artefacts::build_init(&context.root, program)?;
    archive.add("init", PROGRAM, (0, 0), &read(&program)?);
    for (name, content) in files {
        archive.add(name, PLAIN, (0, 0), content);
    }
    for (number, module) in modules.iter().enumerate() {
        let name = module.file_name().unwrap_or_default().to_string_lossy();
        archive.add(&format!("modules/{number}-{name}"), PLAIN, (0, 0), &read(module)?);
    }
    Ok(archive.finish())
}

/// A disk that starts a Linux without Kerf.
pub(super) fn bare(context: &Context, kernel: &Path, initrd: Vec<u8>) -> Result<Volume, String> {
    context.sysroot()?;
    Ok(Volume::foreign([
        (BOOT.to_owned(), read(&artefacts::build_peer_start(&context.root)?)?),
        ("vmlinuz.efi".to_owned(), read(kernel)?),
        ("initrd.img".to_owned(), initrd),
    ]))
}

pub(super) fn read(path: &Path) -> Result<Vec<u8>, String> {
    std::fs::read(path).explain(|| path.display().to_string())
}
