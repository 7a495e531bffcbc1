//! The kernel module of `tests/guests/linux_dma`, built against Debian's headers of exactly the kernel that guests run.
//!
//! Kbuild runs from the cache, where nothing is installed: it is told the place of its makefile, which Debian's own names by
//! an absolute path, and its programs find the one library that is not everybody's beside them.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::apt::Archive;
use crate::cache::Cache;
use crate::explain::{Explain as _, advise};
use crate::{process, program, roots};

/// Raised when headers are unpacked, or the module is built, in another way.
const RECIPE: u32 = 1;
const LIMIT: Duration = Duration::from_secs(5 * 60);
const NAME: &str = "kerf_copy";
const LIBRARIES: &str = "usr/lib/x86_64-linux-gnu";

/// Builds the module: it lies in the cache, by its content.
///
/// # Errors
/// A compiler is missing, the headers cannot be had, or it does not build.
pub(crate) fn build(root: &Path, cache: &Cache) -> Result<PathBuf, String> {
    let release = roots::linux_release(cache)?;
    let headers = headers(cache, &release)?;
    let folder = root.join("tests/guests/linux_dma");
    let mut recipe = format!("{release} {RECIPE}");
    let mut sources = Vec::new();
    for name in ["Makefile".to_owned(), format!("{NAME}.c")] {
        let path = folder.join(&name);
        let text = fs::read_to_string(&path).explain(|| path.display().to_string())?;
        recipe = recipe + "\n" + &text;
        sources.push((name, text));
    }
    let entry = cache.entry("linux-dma", &recipe, |dir| {
        for (name, text) in &sources {
            let path = dir.join(name);
            fs::write(&path, text).explain(|| format!("cannot write {}", path.display()))?;
        }
        make(&headers, &release, dir)
    })?;
    Ok(entry.join(format!("{NAME}.ko")))
}

fn make(headers: &Path, release: &str, dir: &Path) -> Result<(), String> {
    let what = format!("the module {NAME} for the guest's Linux does not build");
    for name in ["gcc", "make", "ld"] {
        program::on_path(name).explain(|| {
            advise(
                format!("{what}: the program {name} is missing"),
                "install gcc, make and binutils",
            )
        })?;
    }
    let source = headers.join("usr/src");
    let mut command = process::leashed("make");
    command.arg("-C").arg(source.join(format!("linux-headers-{release}")));
    command.arg("-f").arg(source.join(common(release)).join("Makefile"));
    command.arg(format!("M={}", dir.display())).args(["CC=gcc", "KCFLAGS=-g0", "modules"]);
    command.env("LD_LIBRARY_PATH", headers.join(LIBRARIES)).env("LC_ALL", "C");
    process::run(&mut command, LIMIT, |_| {})?.success(what).map(|_| ())
}

/// The root of the headers of `release`, such as `6.12.95+deb12-amd64`, and of the programs by which modules are built.
fn headers(cache: &Cache, release: &str) -> Result<PathBuf, String> {
    let what = "the headers of the guest's Linux";
    let members = members(release);
    let members: Vec<&str> = members.iter().map(String::as_str).collect();
    let recipe = format!("{release} {RECIPE} {}", members.join(" "));
    cache.entry("linux-headers", &recipe, |dir| {
        let work = dir.join(".apt");
        let archive = Archive::open(&work, roots::LINUX_SUITE, what)?;
        let mut packages =
            archive.resolve(&[&format!("linux-headers-{release}")]).map_err(|error| {
                let advice = "remove linux-6.12-drivers from the cache (KERF_CACHE) where the archive has a newer kernel by now";
                advise(error, advice)
            })?;
        let wanted = ["linux-headers-", "linux-kbuild-", "libelf1"];
        packages.retain(|package| wanted.iter().any(|name| package.name.starts_with(name)));
        archive.unpack(&packages, |deb| roots::extract_present(deb, dir, &members))?;
        fs::remove_dir_all(&work).explain(|| format!("cannot remove {}", work.display()))
    })
}

/// What is taken of the packages. Not the kernel's type information, without which none is made for the module.
fn members(release: &str) -> Vec<String> {
    let common = common(release);
    let version = release.trim_end_matches("-amd64");
    let parts = [".kernelvariables", "Module.symvers", "arch/*", "include/*", "scripts", "tools"];
    let common_parts = ["Makefile", "arch/x86/*", "include/*", "scripts", "tools"];
    let own = parts.iter().map(|part| format!("./usr/src/linux-headers-{release}/{part}"));
    let shared = common_parts.iter().map(|part| format!("./usr/src/{common}/{part}"));
    let programs =
        [format!("./usr/lib/linux-kbuild-{version}/*"), format!("./{LIBRARIES}/libelf*")];
    own.chain(shared).chain(programs).collect()
}

/// The folder of what all flavours of a release share.
fn common(release: &str) -> String {
    format!("linux-headers-{}-common", release.trim_end_matches("-amd64"))
}
