//! Debian packages without installing them: an apt of our own directories, which needs no privilege and leaves the
//! host's sources and package state alone.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use indicatif::{ProgressBar, ProgressStyle};

use crate::explain::{Explain as _, advise};
use crate::{process, program};

/// Advice for machines that cannot fetch.
pub(crate) const OWN_FILES: &str =
    "name files of your own (`cargo xtask doctor` lists what is missing, and how to name each)";
const KEYRING: &str = "/usr/share/keyrings/debian-archive-keyring.gpg";
/// What fetches single files, and checks them.
const HELPER: &str = "/usr/lib/apt/apt-helper";
/// The longest one call of apt may take; it gives up by itself on a silent server long before.
const LIMIT: Duration = Duration::from_secs(20 * 60);

/// An archive: some suites of Debian, with the lists of their packages.
pub(crate) struct Archive {
    /// The configuration file, lists and downloads lie below.
    dir: PathBuf,
    suite: String,
    what: String,
}

/// One package to fetch.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Package {
    pub(crate) name: String,
    pub(crate) version: String,
    pub(crate) bytes: u64,
}

impl Archive {
    /// Prepares apt in `dir` (made here) for `suite`, with the release below it where it is a `-backports` one, and
    /// fetches the lists. `what` names in messages what all this is for.
    ///
    /// # Errors
    /// apt is missing, no Debian mirror is known, or the network does not answer.
    pub(crate) fn open(dir: &Path, suite: &str, what: &str) -> Result<Self, String> {
        Self::open_kinds(dir, suite, what, &["deb"])
    }

    /// The same, for the sources of packages as well.
    pub(crate) fn open_sources(dir: &Path, suite: &str, what: &str) -> Result<Self, String> {
        Self::open_kinds(dir, suite, what, &["deb", "deb-src"])
    }

    fn open_kinds(dir: &Path, suite: &str, what: &str, kinds: &[&str]) -> Result<Self, String> {
        let mirror = usable().map_err(|why| {
            advise(
                format!("cannot fetch {what}: {why}"),
                format!("use a Debian machine with apt and debian-archive-keyring, or {OWN_FILES}"),
            )
        })?;
        for part in ["lists/partial", "cache/archives/partial"] {
            let path = dir.join(part);
            fs::create_dir_all(&path).explain(|| format!("cannot make {}", path.display()))?;
        }
        let base = suite.strip_suffix("-backports").unwrap_or(suite);
        let mut suites = vec![base];
        if base != suite {
            suites.push(suite);
        }
        let line = |kind: &str, suite: &str| {
            format!("{kind} [arch=amd64 signed-by={KEYRING}] {mirror} {suite} main\n")
        };
        let lines = kinds.iter().flat_map(|kind| suites.iter().map(move |suite| line(kind, suite)));
        let sources: String = lines.collect();
        write(&dir.join("sources.list"), &sources)?;
        write(&dir.join("status"), "")?;
        write(&dir.join("apt.conf"), &configuration(dir))?;
        let archive = Self { dir: dir.into(), suite: suite.into(), what: what.into() };
        archive.fetch(&["update"], "package lists")?;
        Ok(archive)
    }

    /// The packages that installing `names` into an empty system would take.
    pub(crate) fn resolve(&self, names: &[&str]) -> Result<Vec<Package>, String> {
        let mut arguments = vec!["-y", "--print-uris", "install"];
        arguments.extend(names);
        let output =
            process::run(&mut self.apt_get(&arguments), LIMIT, |_| {})?.success(format!(
                "cannot fetch {}: apt-get finds no way to install {}",
                self.what,
                names.join(" ")
            ))?;
        Ok(output.lines().filter_map(parse_uri).collect())
    }

    /// Fetches packages and hands the file of each to `unpack`.
    pub(crate) fn unpack(
        &self,
        packages: &[Package],
        mut unpack: impl FnMut(&Path) -> Result<(), String>,
    ) -> Result<(), String> {
        let megabytes =
            packages.iter().map(|package| package.bytes).sum::<u64>().div_ceil(1_000_000);
        let wanted: Vec<String> = packages
            .iter()
            .map(|package| format!("{}={}", package.name, package.version))
            .collect();
        let mut arguments = vec!["download"];
        arguments.extend(wanted.iter().map(String::as_str));
        self.fetch(&arguments, &format!("{megabytes} MB"))?;
        let files = fs::read_dir(self.downloads())
            .explain(|| format!("cannot read {}", self.downloads().display()))?;
        let mut count = 0;
        for file in files
            .flatten()
            .filter(|file| file.path().extension().is_some_and(|extension| extension == "deb"))
        {
            unpack(&file.path())?;
            count += 1;
        }
        if count != packages.len() {
            return Err(format!(
                "cannot fetch {}: {count} of {} packages arrived",
                self.what,
                packages.len()
            ));
        }
        Ok(())
    }

    /// Fetches the archives that the source of a package consists of.
    pub(crate) fn fetch_source(&self, name: &str) -> Result<Vec<PathBuf>, String> {
        let mut list = self.apt_get(&["--print-uris", "source", name]);
        let list = process::run(&mut list, LIMIT, |_| {})?
            .success(format!("cannot fetch {}: no source of {name}", self.what))?;
        // One by one: a mirror may lack the description, which is not needed.
        let files =
            list.lines().filter_map(parse_source).filter(|(_, file, _)| file.contains(".tar."));
        let fetch = |(address, file, hash): (&str, &str, &str)| {
            let path = self.downloads().join(file);
            let mut command = process::leashed(HELPER);
            command.env("APT_CONFIG", self.dir.join("apt.conf")).arg("download-file").arg(address);
            command.arg(&path).arg(hash);
            process::run(&mut command, LIMIT, |_| {})?
                .success(format!("cannot fetch {}", self.what))
                .map(|_| path)
        };
        files.map(fetch).collect()
    }

    fn downloads(&self) -> PathBuf {
        self.dir.join("cache/archives")
    }

    fn apt_get(&self, arguments: &[&str]) -> Command {
        let mut command = process::leashed("apt-get");
        command
            .env("APT_CONFIG", self.dir.join("apt.conf"))
            .env("LC_ALL", "C")
            .current_dir(self.downloads());
        command.args(["-qq", "-t", &self.suite]).args(arguments);
        command
    }

    /// Runs an `apt-get` that uses the network, showing how far it is.
    fn fetch(&self, arguments: &[&str], size: &str) -> Result<(), String> {
        let bar = progress_bar(format!("{} ({size})", self.what));
        let finished = process::run(&mut self.apt_get(arguments), LIMIT, |line| {
            if let Some(percent) = parse_progress(line) {
                bar.set_position(percent);
            }
        });
        bar.finish_and_clear();
        finished?.success(format!("cannot fetch {}", self.what)).map(|_| ()).map_err(|error| {
            // The first complaint says what is wrong, the others follow from it.
            let first = error.lines().next().unwrap_or_default();
            advise(first, format!("check the network and the mirror that apt uses and start again (nothing half-fetched is kept), or {}", OWN_FILES))
        })
    }
}

/// The mirror to fetch from, where this machine can fetch Debian's packages at all.
///
/// # Errors
/// What it lacks.
pub(crate) fn usable() -> Result<String, String> {
    let programs = ["apt-get", "dpkg-deb", "tar"];
    if let Some(program) = programs.into_iter().find(|name| program::on_path(name).is_none()) {
        return Err(format!("the program {program} is missing"));
    }
    if !Path::new(KEYRING).exists() {
        return Err(format!("{KEYRING}, by which packages are checked, is missing"));
    }
    mirror().explain(|| {
        "no Debian mirror in /etc/apt/sources.list or /etc/apt/sources.list.d, nor in KERF_DEBIAN_MIRROR"
    })
}

/// Unpacks only `members` (tar's patterns) of a package.
pub(crate) fn extract(deb: &Path, into: &Path, members: &[&str]) -> Result<(), String> {
    let mut pipe = process::leashed("sh");
    pipe.args(["-c", r#"deb=$1 into=$2; shift 2; dpkg-deb --fsys-tarfile "$deb" | tar -x -C "$into" --wildcards "$@""#, "sh"]);
    pipe.arg(deb).arg(into).args(members);
    process::run(&mut pipe, LIMIT, |_| {})?
        .success(format!("cannot unpack {}", deb.display()))
        .map(|_| ())
}

/// A bar from 0 to 100, on the terminal only; elsewhere one line says what is being fetched.
fn progress_bar(message: String) -> ProgressBar {
    let bar = ProgressBar::new(100);
    if bar.is_hidden() {
        eprintln!("fetching {message}");
    }
    if let Ok(style) =
        ProgressStyle::with_template("fetching {msg} [{bar:30}] {percent}% {elapsed}")
    {
        bar.set_style(style.progress_chars("=> "));
    }
    bar.set_message(message);
    bar.enable_steady_tick(Duration::from_millis(200));
    bar
}

fn configuration(dir: &Path) -> String {
    let dir = dir.display();
    format!(
        r#"Dir::Etc::sourcelist "{dir}/sources.list";
Dir::Etc::sourceparts "/dev/null";
Dir::Etc::preferences "/dev/null";
Dir::Etc::preferencesparts "/dev/null";
Dir::State::Lists "{dir}/lists";
Dir::State::status "{dir}/status";
Dir::Cache "{dir}/cache";
Debug::NoLocking "1";
APT::Architecture "amd64";
APT::Architectures "amd64";
APT::Sandbox::User "root";
APT::Install-Recommends "0";
APT::Update::Error-Mode "any";
APT::Status-Fd "1";
Acquire::IndexTargets::deb::DEP-11::DefaultEnabled "false";
Acquire::Languages "none";
Acquire::PDiffs "false";
Acquire::Retries "3";
Acquire::http::Timeout "20";
Acquire::https::Timeout "20";
"#
    )
}

/// The mirror of Debian: `$KERF_DEBIAN_MIRROR`, else the one that the host's own apt uses.
fn mirror() -> Option<String> {
    let set = std::env::var("KERF_DEBIAN_MIRROR").ok().filter(|mirror| !mirror.is_empty());
    let mut files = vec![PathBuf::from("/etc/apt/sources.list")];
    let parts = fs::read_dir("/etc/apt/sources.list.d").into_iter().flatten().flatten();
    files.extend(parts.map(|part| part.path()));
    files.sort();
    let mut texts = files.iter().filter_map(|file| fs::read_to_string(file).ok());
    set.or_else(|| texts.find_map(|text| find_mirror(&text)))
}

/// The first address of Debian proper in a sources file of either format (sources.list(5)).
fn find_mirror(text: &str) -> Option<String> {
    text.lines()
        .map(str::trim)
        .filter(|line| line.starts_with("deb ") || line.starts_with("URIs:"))
        .flat_map(str::split_whitespace)
        .find(|word| word.contains("://") && word.trim_end_matches('/').ends_with("/debian"))
        .map(str::to_owned)
}

/// One line of `--print-uris`: `'address' name_version_architecture.deb bytes hash`, the file name with `%xx` in it.
fn parse_uri(line: &str) -> Option<Package> {
    let mut words = line.strip_prefix('\'')?.split_whitespace();
    let file = words.nth(1)?;
    let bytes = words.next()?.parse().ok()?;
    let (name, rest) = file.split_once('_')?;
    let (version, _architecture) = rest.rsplit_once('_')?;
    Some(Package { name: name.into(), version: version.replace("%3a", ":"), bytes })
}

/// One line of `--print-uris source`: `'address' file bytes hash`, apart.
fn parse_source(line: &str) -> Option<(&str, &str, &str)> {
    let (address, rest) = line.strip_prefix('\'')?.split_once('\'')?;
    let mut words = rest.split_whitespace();
    Some((address, words.next()?, words.nth(1)?))
}

/// One line of apt's status stream: `dlstatus:item:percent:text`.
fn parse_progress(line: &str) -> Option<u64> {
    let percent = line.strip_prefix("dlstatus:")?.split(':').nth(1)?;
    percent.split('.').next()?.parse().ok()
}

fn write(path: &Path, text: &str) -> Result<(), String> {
    fs::write(path, text).explain(|| format!("cannot write {}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mirror_is_found_in_both_formats_of_sources() {
        let new = "Types: deb\n# http://a.example/archive/debian/2025\nURIs: http://m.example/debian\nSuites: bookworm\n";
        assert_eq!(find_mirror(new).as_deref(), Some("http://m.example/debian"));
        let old = "# deb http://x.example/debian stable main\ndeb http://s.example/debian-security stable main\n\
                   deb [signed-by=/k] https://m.example/debian/ stable main\n";
        assert_eq!(find_mirror(old).as_deref(), Some("https://m.example/debian/"));
        assert_eq!(find_mirror("deb http://m.example/ubuntu jammy main\n"), None);
    }

    #[test]
    fn a_package_is_read_from_its_address_line() {
        let line = "'http://m/pool/libattr1_2.5.1-4_amd64.deb' libattr1_1%3a2.5.1-4_amd64.deb 22164 MD5Sum:52fe";
        let package =
            Package { name: "libattr1".into(), version: "1:2.5.1-4".into(), bytes: 22164 };
        assert_eq!(parse_uri(line), Some(package));
        assert_eq!(parse_uri("dlstatus:1:100.0000:Retrieving file 1 of 1"), None);
    }

    #[test]
    fn a_source_is_read_from_its_address_line() {
        let line = "'http://m/pool/bochs_3.0%2bdfsg.orig.tar.xz' bochs_3.0+dfsg.orig.tar.xz 3896488 SHA256:ab";
        let address = "http://m/pool/bochs_3.0%2bdfsg.orig.tar.xz";
        assert_eq!(parse_source(line), Some((address, "bochs_3.0+dfsg.orig.tar.xz", "SHA256:ab")));
        assert_eq!(parse_source("dlstatus:1:100.0000:Retrieving file 1 of 1"), None);
    }

    #[test]
    fn progress_is_read_from_the_status_stream() {
        assert_eq!(parse_progress("dlstatus:10:98.5000:Retrieving file 10 of 10"), Some(98));
        assert_eq!(parse_progress("pmstatus:x"), None);
    }
}
