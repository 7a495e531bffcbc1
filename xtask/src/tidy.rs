//! `cargo xtask tidy`: the house's rules that a program can check. Formatting and clippy on every target, then the
//! rules on single files ([`source`]) and on the crates' dependencies ([`arrows`]).
//!
//! All violations are printed, each as `file:line: what`, before the verdict.

mod arrows;
mod source;

use std::{
    ffi::OsStr,
    fmt, fs,
    path::{Path, PathBuf},
    process::Command,
};

/// A rule that is not kept somewhere.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Violation {
    /// Relative to the repository's root.
    file: String,
    /// From 1; 0 stands for the whole file.
    line: usize,
    what: String,
}

impl fmt::Display for Violation {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.line {
            0 => write!(formatter, "{}: {}", self.file, self.what),
            line => write!(formatter, "{}:{line}: {}", self.file, self.what),
        }
    }
}

const UEFI: &str = "--target=x86_64-unknown-uefi";
/// What has to pass besides our own rules: a name for the message, and cargo's arguments.
const CARGO_RUNS: [(&str, &[&str]); 6] = [
    ("cargo fmt", &["fmt", "--all", "--check"]),
    ("clippy, host", &["clippy", "--quiet", "--all-targets", "--", "-Dwarnings"]),
    (
        "clippy, x86_64-unknown-none",
        &[
            "clippy",
            "--quiet",
            "--package=kernel",
            "--package=guests",
            "--target=x86_64-unknown-none",
            "--",
            "-Dwarnings",
        ],
    ),
    ("clippy, bed_qemu", &["clippy", "--quiet", "--package=bed_qemu", "--", "-Dwarnings"]),
    ("clippy, boot", &["clippy", "--quiet", "--package=boot", UEFI, "--", "-Dwarnings"]),
    // By itself: its panic handler is one that boot does without.
    (
        "clippy, peer_start",
        &["clippy", "--quiet", "--package=peer_start", UEFI, "--", "-Dwarnings"],
    ),
];

/// Checks the repository at `root`, with bare-metal targets or their sysroot in place.
///
/// # Errors
/// How many rules are not kept; they have been printed. Or what could not be run.
pub(crate) fn run(root: &Path) -> Result<(), String> {
    let mut failed = Vec::new();
    let violations = own_rules(root)?;
    for violation in &violations {
        eprintln!("{violation}");
    }
    match violations.len() {
        0 => {}
        1 => failed.push("1 violation of the house's rules".to_owned()),
        count => failed.push(format!("{count} violations of the house's rules")),
    }
    for (name, arguments) in CARGO_RUNS {
        let status = cargo(root)
            .args(arguments)
            .status()
            .map_err(|error| format!("{name}: cargo does not start: {error}"))?;
        if !status.success() {
            failed.push(name.to_owned());
        }
    }
    if failed.is_empty() { Ok(()) } else { Err(format!("not tidy: {}", failed.join(", "))) }
}

/// The rules that need no compiler, sorted by place.
fn own_rules(root: &Path) -> Result<Vec<Violation>, String> {
    let mut violations = arrows::check(root)?;
    for file in files(root)? {
        let path = root.join(&file);
        // Deleted but not yet committed, or a link to elsewhere.
        let Ok(bytes) = fs::read(&path) else { continue };
        let Ok(text) = String::from_utf8(bytes) else { continue };
        let name = file.to_string_lossy();
        violations.extend(source::check(&name, &text));
        if let Some(lines) = source::too_long(&name, &text) {
            eprintln!(
                "note: {name}: {lines} lines without tests; at 500 ask which two rooms it is"
            );
        }
    }
    violations.sort();
    Ok(violations)
}

/// Every file that is, or is about to be, committed.
fn files(root: &Path) -> Result<Vec<PathBuf>, String> {
    let listed = Command::new("git")
        .args(["ls-files", "-z", "--cached", "--others", "--exclude-standard"])
        .current_dir(root)
        .output()
        .map_err(|error| {
            format!("tidy asks git which files there are, and git does not start: {error}")
        })?;
    if !listed.status.success() {
        return Err(format!("git ls-files: {}", String::from_utf8_lossy(&listed.stderr).trim()));
    }
    let names = String::from_utf8(listed.stdout)
        .map_err(|_| "git ls-files: a file's name is not UTF-8".to_owned())?;
    Ok(names.split_terminator('\0').map(PathBuf::from).collect())
}

/// The cargo that runs us, in `root`.
fn cargo(root: &Path) -> Command {
    let cargo = std::env::var_os("CARGO");
    let mut command = Command::new(cargo.as_deref().unwrap_or(OsStr::new("cargo")));
    command.current_dir(root);
    command
}
