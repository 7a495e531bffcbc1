//! The plugin of `tests/beds/bochs`: the models, built by cargo, behind a shim of C++, built against the headers of Bochs as
//! Debian configures them.

use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::apt::{self, Archive};
use crate::cache::Cache;
use crate::explain::{Explain as _, advise};
use crate::{artefacts, process};

/// Raised when the headers are made otherwise.
const RECIPE: &str = "trixie bochs 1";
const LIMIT: Duration = Duration::from_secs(10 * 60);

/// Builds the plugin: the shared object, in a folder of its own.
///
/// # Errors
/// The headers cannot be had, or something does not build.
pub(crate) fn build(root: &Path, cache: &Cache) -> Result<PathBuf, String> {
    let headers = cache.entry("bochs-headers", RECIPE, fetch)?;
    let models = artefacts::build_models(root)?;
    let folder = models.with_file_name("bochs");
    std::fs::create_dir_all(&folder).explain(|| folder.display().to_string())?;
    // Bochs finds its plugins by such names.
    let object = folder.join("libbx_kerf.so");
    let mut command = process::leashed("g++");
    command
        .args("-std=c++14 -O2 -w -fPIC -shared -D_FILE_OFFSET_BITS=64 -D_LARGE_FILES".split(' '));
    for part in ["", "iodev", "instrument/stubs", "usr/include"] {
        command.arg("-I").arg(headers.join(part));
    }
    command.arg(root.join("tests/beds/bochs/shim.cc")).arg(&models).arg("-o").arg(&object);
    process::run(&mut command, LIMIT, |_| {})?
        .success("the plugin of Bochs does not build")
        .map_err(|error| advise(error, "install a C++ compiler as g++"))?;
    Ok(object)
}

/// The headers of Bochs, one of which its configuration makes, and those of libltdl.
fn fetch(dir: &Path) -> Result<(), String> {
    let work = dir.join(".apt");
    let archive = Archive::open_sources(&work, "trixie", "the headers of Bochs")?;
    for tar in archive.fetch_source("bochs")? {
        // One holds Bochs in a folder, the other Debian's folder alone.
        let name = tar.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let strip =
            if name.contains(".orig.") { "--strip-components=1" } else { "--strip-components=0" };
        let mut command = process::leashed("tar");
        command.arg("-xf").arg(&tar).arg("-C").arg(dir).arg(strip);
        finish(&mut command, "cannot unpack Bochs")?;
    }
    let mut packages = archive.resolve(&["libltdl-dev"])?;
    packages.retain(|package| package.name == "libltdl-dev");
    archive.unpack(&packages, |deb| apt::extract(deb, dir, &["./usr/include/*"]))?;
    configure(dir)?;
    let mut prune = process::leashed("find");
    prune
        .arg(dir)
        .args(["-depth", "!", "-name", "*.h", "(", "-type", "f", "-o", "-empty", ")", "-delete"]);
    finish(&mut prune, "cannot tidy the headers of Bochs")
}

/// Has Bochs configured as Debian does it: classes differ with that.
fn configure(dir: &Path) -> Result<(), String> {
    let rules = dir.join("debian/rules");
    let rules = std::fs::read_to_string(&rules).explain(|| rules.display().to_string())?;
    let words = rules.lines().map(|line| line.trim().trim_end_matches('\\').trim_end());
    // What takes libraries of a desktop, and matters to no device.
    let unneeded = ["--enable-idle-hack", "--enable-debugger-gui"];
    let options = words.filter(|word| word.starts_with("--enable-") && !unneeded.contains(word));
    let mut command = process::leashed("sh");
    command.current_dir(dir).arg("./configure").args(options);
    command.args([
        "--enable-pcidev",
        "--with-nogui",
        "--disable-docbook",
        "--enable-debugger-gui=no",
    ]);
    command.env("ac_cv_lib_ltdl_lt_dlinit", "yes").env("CPPFLAGS", "-Iusr/include");
    finish(&mut command, "cannot configure Bochs")?;
    let path = dir.join("config.h");
    let text = std::fs::read_to_string(&path).explain(|| path.display().to_string())?;
    let text = text.replace("#define BX_DEBUGGER_GUI 0", "#define BX_DEBUGGER_GUI 1");
    std::fs::write(&path, text).explain(|| path.display().to_string())
}

fn finish(command: &mut std::process::Command, what: &str) -> Result<(), String> {
    process::run(command, LIMIT, |_| {})?.success(what).map(|_| ())
}
