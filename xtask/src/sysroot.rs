//! `core` and `alloc` for the bare-metal targets.
//!
//! Where the toolchain has them installed there is nothing to do. Elsewhere they are built once from the library source
//! of the same version, and the git-ignored `.cargo/bare-sysroot.toml`, which `.cargo/config.toml` includes, points
//! cargo at them; so the same plain `cargo build` line works on both kinds of machine.

use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use crate::apt::{self, Archive};
use crate::cache::{Cache, write_whole};
use crate::explain::{Explain as _, advise};
use crate::process;

/// The targets of kernel and boot application.
pub(crate) const TARGETS: [&str; 2] = ["x86_64-unknown-none", "x86_64-unknown-uefi"];
/// Where rustup's rust-src lies in a toolchain.
const COMPONENT: &str = "lib/rustlib/src/rust/library";
const OVERRIDE: &str = ".cargo/bare-sysroot.toml";
/// Names a kept copy of the library source, as a tarball with a folder `library` in it.
const TARBALL: &str = "RUST_LIBRARY_TAR";
/// Raised when what is built, or how, changes.
const RECIPE: u32 = 1;
const BUILD_LIMIT: Duration = Duration::from_secs(15 * 60);

/// The toolchain that builds this workspace.
struct Toolchain {
    sysroot: PathBuf,
    release: String,
    commit: String,
}

/// Makes the bare-metal targets usable from the workspace at `root`.
///
/// # Errors
/// The library's source cannot be had, or does not build.
pub(crate) fn prepare(root: &Path, cache: &Cache) -> Result<(), String> {
    let toolchain = Toolchain::find(root)?;
    let file = root.join(OVERRIDE);
    if TARGETS.iter().all(|target| has_core(&toolchain.sysroot, target)) {
        // An override of earlier days would hide the installed targets.
        return match fs::remove_file(&file) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                Err(format!("cannot remove {}: {error}", file.display()))
            }
            _ => Ok(()),
        };
    }
    let name = format!("sysroot-{}", toolchain.release);
    let sysroot = cache.entry(&name, &toolchain.recipe(), |dir| build(&toolchain, root, dir))?;
    let text: String = TARGETS
        .iter()
        .map(|target| {
            format!(
                "[target.{target}]\nrustflags = [{}]\n",
                quote(&format!("--sysroot={}", sysroot.display()))
            )
        })
        .collect();
    if fs::read_to_string(&file).is_ok_and(|old| old == text) {
        return Ok(());
    }
    write_whole(&file, text.as_bytes())
}

/// How the bare-metal targets are had, in words.
///
/// # Errors
/// They cannot be had, and what to do.
pub(crate) fn state(root: &Path, cache: &Cache, can_fetch: bool) -> Result<String, String> {
    let toolchain = Toolchain::find(root)?;
    let release = &toolchain.release;
    if TARGETS.iter().all(|target| has_core(&toolchain.sysroot, target)) {
        return Ok(format!("installed with Rust {release}"));
    }
    let tarball = std::env::var_os(TARBALL).filter(|name| !name.is_empty());
    if cache.has(&format!("sysroot-{release}"), &toolchain.recipe()) {
        Ok(format!("built for Rust {release}, in the cache"))
    } else if is_library(&toolchain.sysroot.join(COMPONENT)) {
        Ok(format!("will be built from the rust-src of Rust {release}"))
    } else if let Some(tarball) = tarball {
        Ok(format!("will be built for Rust {release} from {}", tarball.display()))
    } else if can_fetch {
        Ok(format!("will be built for Rust {release} from Debian's rust-src"))
    } else {
        Err(advice())
    }
}

fn advice() -> String {
    format!(
        "run `rustup target add {}` or `rustup component add rust-src`, or set {TARBALL}",
        TARGETS.join(" ")
    )
}

impl Toolchain {
    /// What a built sysroot depends on.
    fn recipe(&self) -> String {
        format!("{} {RECIPE}", self.commit)
    }

    fn find(root: &Path) -> Result<Self, String> {
        let rustc = std::env::var_os("RUSTC").unwrap_or_else(|| "rustc".into());
        let ask = |arguments: &[&str]| -> Result<String, String> {
            process::run(
                Command::new(&rustc).args(arguments).current_dir(root),
                Duration::from_secs(60),
                |_| {},
            )?
            .success(format!("{} {}", rustc.display(), arguments.join(" ")))
        };
        let version = ask(&["-vV"])?;
        let field = |name: &str| {
            let line = version.lines().find_map(|line| line.strip_prefix(name));
            line.map(|value| value.trim().to_owned())
                .explain(|| format!("rustc -vV does not say {name}"))
        };
        let sysroot = ask(&["--print", "sysroot"])?;
        Ok(Self {
            sysroot: sysroot.trim().into(),
            release: field("release:")?,
            commit: field("commit-hash:")?,
        })
    }

    /// A program of the toolchain itself, not rustup's stand-in, which would choose anew outside the workspace.
    fn program(&self, name: &str) -> OsString {
        let path = self.sysroot.join("bin").join(name);
        if path.exists() { path.into() } else { name.into() }
    }
}

fn has_core(sysroot: &Path, target: &str) -> bool {
    let libraries = fs::read_dir(sysroot.join("lib/rustlib").join(target).join("lib"));
    libraries.into_iter().flatten().flatten().any(|file| {
        let name = file.file_name();
        let name = name.to_string_lossy();
        name.starts_with("libcore-") && name.ends_with(".rlib")
    })
}

/// Builds both targets' libraries into the sysroot `dir`.
fn build(toolchain: &Toolchain, root: &Path, dir: &Path) -> Result<(), String> {
    let work = dir.join("work");
    fs::create_dir_all(work.join("package"))
        .explain(|| format!("cannot make {}", work.display()))?;
    let source = source(toolchain, root, &work)?;
    eprintln!("building core and alloc {} for {} (once)", toolchain.release, TARGETS.join(" and "));
    compile(toolchain, &source, &work)?;
    for target in TARGETS {
        let libraries = dir.join("lib/rustlib").join(target).join("lib");
        let built = work.join("target").join(target).join("release/deps");
        let copy = || -> std::io::Result<()> {
            fs::create_dir_all(&libraries)?;
            for file in fs::read_dir(&built)? {
                let path = file?.path();
                let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
                let is_wanted = ["libcore-", "liballoc-", "libcompiler_builtins-"]
                    .iter()
                    .any(|start| name.starts_with(start));
                if is_wanted && name.ends_with(".rlib") {
                    fs::copy(&path, libraries.join(&name))?;
                }
            }
            Ok(())
        };
        copy().explain(|| format!("cannot copy the libraries in {}", built.display()))?;
        if !has_core(dir, target) {
            return Err(format!("the build of core for {target} made no library"));
        }
    }
    fs::remove_dir_all(&work).explain(|| format!("cannot remove {}", work.display()))
}

fn compile(toolchain: &Toolchain, source: &Path, work: &Path) -> Result<(), String> {
    let package = work.join("package");
    let manifest = format!(
        r#"[package]
name = "bare-sysroot"
version = "0.0.0"
edition = "2024"
[workspace]
[lib]
path = "lib.rs"
[dependencies]
core = {{ path = {} }}
alloc = {{ path = {}, features = ["compiler-builtins-mem"] }}
[profile.release]
debug = 1
codegen-units = 1
panic = "abort"
"#,
        quote(&source.join("core").to_string_lossy()),
        quote(&source.join("alloc").to_string_lossy()),
    );
    write_whole(&package.join("Cargo.toml"), manifest.as_bytes())?;
    write_whole(
        &package.join("lib.rs"),
        b"#![feature(no_core)]\n#![no_core]\n#![allow(internal_features)]\n",
    )?;
    let mut cargo = process::leashed(toolchain.program("cargo"));
    cargo.current_dir(&package).args(["build", "--offline", "--release"]);
    for target in TARGETS {
        cargo.args(["--target", target]);
    }
    // Library code is unstable code: only this one build may use it. The flags are those of the library as it is
    // distributed; bitcode is embedded so that the workspace can use LTO.
    let flags = format!(
        "-Zforce-unstable-if-unmarked\x1f-Cembed-bitcode=yes\x1f--remap-path-prefix={}=/rustc/{}/library",
        source.display(),
        toolchain.commit
    );
    cargo
        .env("RUSTC_BOOTSTRAP", "1")
        .env("CARGO_ENCODED_RUSTFLAGS", flags)
        .env("CARGO_TARGET_DIR", work.join("target"))
        .env("RUSTC", toolchain.program("rustc"))
        .env("RUSTC_WRAPPER", "")
        .env_remove("CARGO_BUILD_TARGET");
    process::run(&mut cargo, BUILD_LIMIT, |_| {})?
        .success(format!(
            "cannot build core and alloc {} for the bare-metal targets",
            toolchain.release
        ))
        .map(|_| ())
}

/// The folder `library` of the Rust source of this version: the toolchain's own, a named tarball's, or Debian's.
fn source(toolchain: &Toolchain, root: &Path, work: &Path) -> Result<PathBuf, String> {
    let component = toolchain.sysroot.join(COMPONENT);
    if is_library(&component) {
        return Ok(component);
    }
    if let Some(tarball) = std::env::var_os(TARBALL).filter(|name| !name.is_empty()) {
        return unpack(&root.join(tarball), work);
    }
    package(toolchain, work)
}

fn is_library(path: &Path) -> bool {
    path.join("core/Cargo.toml").exists() && path.join("alloc/Cargo.toml").exists()
}

fn unpack(tarball: &Path, work: &Path) -> Result<PathBuf, String> {
    let wrong = |what: String| advise(what, format!("correct or unset {TARBALL}"));
    if !tarball.exists() {
        return Err(wrong(format!("{TARBALL}: no such file: {}", tarball.display())));
    }
    let mut tar = process::leashed("tar");
    tar.arg("-C").arg(work).arg("-xf").arg(tarball);
    process::run(&mut tar, BUILD_LIMIT, |_| {})?
        .success(format!("{TARBALL}: cannot unpack {}", tarball.display()))
        .map_err(wrong)?;
    let library = work.join("library");
    if is_library(&library) {
        return Ok(library);
    }
    Err(wrong(format!(
        "{TARBALL}: {} has no folder library with core and alloc in it",
        tarball.display()
    )))
}

/// Debian's package of the source, of this very version: in backports, or only in unstable yet.
fn package(toolchain: &Toolchain, work: &Path) -> Result<PathBuf, String> {
    let release = &toolchain.release;
    for suite in ["trixie-backports", "sid"] {
        let archive = Archive::open(&work.join(suite), suite, "the Rust library's source")?;
        // A mirror keeps several versions; the newest is the one that apt would take by itself.
        let Ok(packages) = archive.resolve(&[&format!("rust-src={release}+*")]) else { continue };
        let Some(found) = packages.into_iter().find(|package| package.name == "rust-src") else {
            continue;
        };
        let library = format!("./usr/src/rustc-{release}/library");
        archive.unpack(&[found], |deb| apt::extract(deb, work, &[&library]))?;
        return Ok(work.join(library));
    }
    Err(advise(
        format!(
            "the targets {} are not installed, and Debian has no rust-src {release} to build them from",
            TARGETS.join(" and ")
        ),
        advice(),
    ))
}

/// A TOML basic string.
pub(crate) fn quote(text: &str) -> String {
    let mut quoted = String::from("\"");
    for c in text.chars() {
        match c {
            '"' | '\\' => quoted.extend(['\\', c]),
            c if c.is_control() => quoted += &format!("\\u{:04x}", c as u32),
            c => quoted.push(c),
        }
    }
    quoted + "\""
}
