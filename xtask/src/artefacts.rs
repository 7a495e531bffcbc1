//! What cargo builds for the bare-metal targets: kernel, boot application, guests.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::thread;
use std::time::Duration;

use cargo_metadata::Message;

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

/// Builds the user space of a KVM machine, `tests/peer`, as a program that needs nothing else of a Linux.
///
/// # Errors
/// It does not build, for one because the C library's static half is missing; cargo has said why.
pub(crate) fn build_peer(root: &Path) -> Result<PathBuf, String> {
    binary(root, "peer", "x86_64-unknown-linux-gnu")
}

/// Builds the UEFI application that starts a Linux with a command line, `tests/peer/start`.
///
/// # Errors
/// It does not build; cargo has said why.
pub(crate) fn build_peer_start(root: &Path) -> Result<PathBuf, String> {
    binary(root, "peer_start", TARGETS[1])
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
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let mut command = Command::new(cargo);
    command
        .current_dir(root)
        .args(["build", "--quiet", "--package", name, "--target", target, "--release"])
        .arg("--message-format=json-render-diagnostics")
        // Either would take the place of the sysroot's path.
        .env_remove("RUSTFLAGS")
        .env_remove("CARGO_ENCODED_RUSTFLAGS")
        .envs(STATIC)
        .stdout(Stdio::piped());
    let mut child =
        command.spawn().explain(|| format!("cannot start {:?}", command.get_program()))?;
    // Where all is fresh there is nothing to tell.
    let (done, waiting) = mpsc::channel::<()>();
    let told = name.to_owned();
    thread::spawn(move || {
        if waiting.recv_timeout(FRESH) == Err(RecvTimeoutError::Timeout) {
            eprintln!("building {told}");
        }
    });
    let output = child.stdout.take().explain(|| "cargo has no output")?;
    let mut programs = BTreeMap::new();
    for message in Message::parse_stream(std::io::BufReader::new(output)) {
        if let Message::CompilerArtifact(artefact) =
            message.explain(|| "cannot read cargo's messages")?
            && let Some(path) = artefact.executable
        {
            programs.insert(artefact.target.name, path.into_std_path_buf());
        }
    }
    let status = child.wait().explain(|| "cannot wait for cargo")?;
    drop(done);
    if !status.success() {
        return Err(format!("package {name} does not build for {target} ({status})"));
    }
    Ok(programs)
}
