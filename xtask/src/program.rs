//! A program to start: one of the host's, or one of a private root, which runs with that root's own loader and
//! libraries because the host's may be of another release.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use crate::explain::Explain as _;
use crate::process;

/// A program and what it needs to find its own parts.
#[derive(Clone, Debug)]
pub(crate) struct Program {
    /// The private root it lies in.
    pub(crate) root: Option<PathBuf>,
    path: PathBuf,
    environment: Vec<(&'static str, OsString)>,
    arguments: Vec<OsString>,
}

impl Program {
    /// A program of the host.
    pub(crate) fn host(path: PathBuf) -> Self {
        Self { root: None, path, environment: Vec::new(), arguments: Vec::new() }
    }

    /// The program `name` of the private root `root`.
    ///
    /// # Errors
    /// The root has no such program.
    pub(crate) fn private(root: &Path, name: &str) -> Result<Self, String> {
        let path = ["usr/bin", "usr/sbin", "bin"]
            .iter()
            .map(|dir| root.join(dir).join(name))
            .find(|path| path.exists());
        let path = path.explain(|| format!("{} has no program {name}", root.display()))?;
        Ok(Self { root: Some(root.into()), path, environment: Vec::new(), arguments: Vec::new() })
    }

    /// Sets a variable of its environment.
    pub(crate) fn with_env(mut self, name: &'static str, value: impl Into<OsString>) -> Self {
        self.environment.push((name, value.into()));
        self
    }

    /// Adds a first argument.
    pub(crate) fn with_arg(mut self, argument: impl Into<OsString>) -> Self {
        self.arguments.push(argument.into());
        self
    }

    /// Where it lies.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// A command that starts it on a leash.
    pub(crate) fn command(&self) -> Command {
        self.preloading(None)
    }

    /// The same, with an object preloaded.
    pub(crate) fn preloading(&self, object: Option<&Path>) -> Command {
        let words = self.words(object);
        let mut command = process::leashed(&words[0]);
        command.args(&words[1..]).envs(self.environment.iter().cloned());
        command
    }

    /// A command for `starter`, on a leash, which takes the words that start this program after its own `arguments`. They
    /// put it on a leash of the starter's, and preload an object.
    pub(crate) fn command_of(
        &self,
        starter: &Path,
        arguments: &[&str],
        preload: Option<&Path>,
    ) -> Command {
        let mut command = process::leashed(starter);
        command
            .args(arguments)
            .args(["setpriv", "--pdeathsig", "KILL", "--"])
            .args(self.words(preload))
            .envs(self.environment.iter().cloned());
        command
    }

    /// The words that start it.
    fn words(&self, preload: Option<&Path>) -> Vec<OsString> {
        let mut words: Vec<OsString> = Vec::new();
        match &self.root {
            // Not in our environment, which is the leash's, too.
            None => words.extend(preload.iter().flat_map(|object| {
                let mut variable = OsString::from("LD_PRELOAD=");
                variable.push(object);
                ["env".into(), variable]
            })),
            Some(root) => {
                let library = root.join("usr/lib/x86_64-linux-gnu");
                let old = root.join("lib/x86_64-linux-gnu");
                let name = "ld-linux-x86-64.so.2";
                let loader =
                    [&library, &old].iter().map(|dir| dir.join(name)).find(|path| path.exists());
                let mut paths = OsString::new();
                for path in [&library, &old, &library.join("pulseaudio")] {
                    paths.push(path);
                    paths.push(":");
                }
                words.push(loader.unwrap_or_else(|| library.join(name)).into());
                words.extend(["--library-path".into(), paths]);
                words.extend(preload.iter().flat_map(|object| ["--preload".into(), object.into()]));
            }
        }
        words.push(self.path.clone().into());
        words.extend(self.arguments.iter().cloned());
        words
    }

    /// What it prints, on both its streams, when started with `arguments`.
    pub(crate) fn ask(&self, arguments: &[&str]) -> Result<String, String> {
        let finished =
            process::run(self.command().args(arguments), Duration::from_secs(60), |_| {})?;
        Ok(finished.stdout + &finished.stderr)
    }
}

/// The first file `name` on the host's search path.
pub(crate) fn on_path(name: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH")?;
    std::env::split_paths(&path).map(|dir| dir.join(name)).find(|file| file.is_file())
}

/// The first `major.minor` in a program's answer to `--version`.
pub(crate) fn find_version(text: &str) -> Option<(u32, u32)> {
    text.split(|c: char| !c.is_ascii_digit() && c != '.').find_map(|word| {
        let mut numbers = word.split('.');
        Some((numbers.next()?.parse().ok()?, numbers.next()?.parse().ok()?))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_version_is_found_in_what_emulators_print() {
        assert_eq!(
            find_version("QEMU emulator version 11.1.3 (Debian 1:11.1.3+ds-1~bpo13+1)"),
            Some((11, 1))
        );
        assert_eq!(find_version("      Bochs x86 Emulator 3.0\n  Built from"), Some((3, 0)));
        assert_eq!(find_version("no number here. 7"), None);
    }
}
