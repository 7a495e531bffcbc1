//! What cargo builds for the bare-metal targets: kernel, boot application, guests.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::thread;
use std::time::Duration;

use cargo_metadata::{Artifact, Message};

use crate::explain::Explain as _;
use crate::sysroot::TARGETS;

/// What cargo takes at most to find that nothing is to be built.
const FRESH: Duration = Duration::from_secs(2);

/// Built files.
#[derive(Clone, Debug)]
pub(crate) struct Artefacts {
    /// Kerf's kernel, an ELF file.
    pub(crate) kernel: PathBuf,
    /// The boot application, a PE file.
    pub(crate) boot: PathBuf,
}

/// Builds kernel and boot application; cargo rebuilds nothing that is fresh.
///
/// # Errors
/// Something does not build; cargo has said what.
pub(crate) fn build(root: &Path) -> Result<Artefacts, String> {
    let [bare, uefi] = TARGETS;
    Ok(Artefacts { kernel: binary(root, "kernel", bare)?, boot: binary(root, "boot", uefi)? })
}

/// Builds the test guests: the program of each by its name.
///
/// # Errors
/// One does not build; cargo has said why.
pub(crate) fn build_guests(root: &Path) -> Result<BTreeMap<String, PathBuf>, String> {
    package(root, "guests", TARGETS[0])
}

/// Builds `name` of `tests/peer`, as a program that needs nothing else of a Linux.
///
/// # Errors
/// It does not build, for one because the C library's static half is missing; cargo has said why.
pub(crate) fn build_init(root: &Path, name: &str) -> Result<PathBuf, String> {
    let programs = package(root, "peer", "x86_64-unknown-linux-gnu")?;
    programs.get(name).cloned().explain(|| format!("package peer has no program {name}"))
}

/// Builds the UEFI application that starts a Linux with a command line, `tests/peer/start`.
///
/// # Errors
/// It does not build; cargo has said why.
pub(crate) fn build_peer_start(root: &Path) -> Result<PathBuf, String> {
    binary(root, "peer_start", TARGETS[1])
}

/// Builds the device that QEMU preloads, `tests/beds/qemu`: the shared object.
///
/// # Errors
/// It does not build; cargo has said why.
pub(crate) fn build_device(root: &Path) -> Result<PathBuf, String> {
    let mut files = cargo(root, &["--package", "bed_qemu"], &[])?
        .into_iter()
        .flat_map(|artefact| artefact.filenames)
        .map(PathBuf::from);
    let is_object = |file: &PathBuf| file.extension().is_some_and(|end| end == "so");
    // Dependencies may have shared objects of their own, and come before.
    files.rfind(is_object).explain(|| "package bed_qemu has no shared object")
}

/// Builds the models for a plugin of Bochs, `tests/beds/bochs`: the static library.
///
/// # Errors
/// It does not build; cargo has said why.
pub(crate) fn build_models(root: &Path) -> Result<PathBuf, String> {
    let files = cargo(root, &["--package", "bed_bochs"], &[])?;
    let mut files = files.into_iter().flat_map(|artefact| artefact.filenames).map(PathBuf::from);
    let is_library = |file: &PathBuf| file.extension().is_some_and(|end| end == "a");
    files.rfind(is_library).explain(|| "package bed_bochs has no static library")
}

/// Builds the example `name` of a package of the host's.
///
/// # Errors
/// It does not build; cargo has said why.
pub(crate) fn build_example(root: &Path, package: &str, name: &str) -> Result<PathBuf, String> {
    let artefacts = cargo(root, &["--package", package, "--example", name], &[])?;
    programs(artefacts).remove(name).explain(|| format!("package {package} has no example {name}"))
}

/// Flags for what has to run where there is no library.
const STATIC: [(&str, &str); 1] = [(
    "CARGO_TARGET_X86_64_UNKNOWN_LINUX_GNU_RUSTFLAGS",
    "-Ctarget-feature=+crt-static -Cstrip=symbols",
)];

fn binary(root: &Path, name: &str, target: &str) -> Result<PathBuf, String> {
    package(root, name, target)?
        .remove(name)
        .explain(|| format!("package {name} has no program {name}"))
}

/// Builds a package: its programs by name.
fn package(root: &Path, name: &str, target: &str) -> Result<BTreeMap<String, PathBuf>, String> {
    let arguments = ["--package", name, "--target", target, "--release"];
    Ok(programs(cargo(root, &arguments, &STATIC)?))
}

fn programs(artefacts: Vec<Artifact>) -> BTreeMap<String, PathBuf> {
    let path =
        |artefact: Artifact| Some((artefact.target.name, artefact.executable?.into_std_path_buf()));
    artefacts.into_iter().filter_map(path).collect()
}

/// What `cargo build` says that it has, last what was asked for.
fn cargo(
    root: &Path,
    arguments: &[&str],
    environment: &[(&str, &str)],
) -> Result<Vec<Artifact>, String> {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let mut command = Command::new(cargo);
    command
        .current_dir(root)
        .args(["build", "--quiet", "--message-format=json-render-diagnostics"])
        .args(arguments)
        // Either would take the place of the sysroot's path.
        .env_remove("RUSTFLAGS")
        .env_remove("CARGO_ENCODED_RUSTFLAGS")
        .envs(environment.iter().copied())
        .stdout(Stdio::piped());
    let mut child =
        command.spawn().explain(|| format!("cannot start {:?}", command.get_program()))?;
    // Where all is fresh there is nothing to tell.
    let (done, waiting) = mpsc::channel::<()>();
    let what = arguments.get(1).copied().unwrap_or_default().to_owned();
    let told = what.clone();
    thread::spawn(move || {
        if waiting.recv_timeout(FRESH) == Err(RecvTimeoutError::Timeout) {
            eprintln!("building {told}");
        }
    });
    let output = child.stdout.take().explain(|| "cargo has no output")?;
    let mut artefacts = Vec::new();
    for message in Message::parse_stream(std::io::BufReader::new(output)) {
        if let Message::CompilerArtifact(artefact) =
            message.explain(|| "cannot read cargo's messages")?
        {
            artefacts.push(artefact);
        }
    }
    let status = child.wait().explain(|| "cannot wait for cargo")?;
    drop(done);
    if !status.success() {
        return Err(format!("package {what} does not build ({status})"));
    }
    Ok(artefacts)
}
