//! The cache: everything that is fetched or built outside the target directory, each entry made under another name
//! and renamed when it is complete, so that what has its final name is whole.

use std::fs::{self, File, TryLockError};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::thread::sleep;
use std::time::{Duration, Instant};

use crate::debris::Debris;
use crate::explain::{Explain as _, advise};

/// The longest that another xtask's work on the same entry is waited for.
const LOCK_PATIENCE: Duration = Duration::from_secs(30 * 60);
/// Inside an entry: the recipe it was made by.
const STAMP: &str = ".done";

/// The cache directory: `$KERF_CACHE`, else `kerf` in the user's own cache directory.
#[derive(Clone, Debug)]
pub(crate) struct Cache {
    root: PathBuf,
}

impl Cache {
    /// Finds the directory and makes it.
    ///
    /// # Errors
    /// No home, or the directory cannot be made.
    pub(crate) fn open() -> Result<Self, String> {
        let set = |name: &str| {
            std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from)
        };
        let root = set("KERF_CACHE")
            .or_else(|| set("XDG_CACHE_HOME").map(|cache| cache.join("kerf")))
            .or_else(|| set("HOME").map(|home| home.join(".cache/kerf")))
            .explain(|| {
                advise(
                    "there is no HOME to keep fetched files under",
                    "set KERF_CACHE to a directory",
                )
            })?;
        Self::at(&root)
    }

    /// The cache in the directory `root`, which is made.
    pub(crate) fn at(root: &Path) -> Result<Self, String> {
        fs::create_dir_all(root).explain(|| {
            advise(
                format!("cannot make the cache {}", root.display()),
                "set KERF_CACHE to another directory",
            )
        })?;
        let root = root.canonicalize().explain(|| format!("cache {}", root.display()))?;
        Ok(Self { root })
    }

    /// The cache's own directory.
    pub(crate) fn root(&self) -> &Path {
        &self.root
    }

    /// Whether the entry `name` is there, made by the recipe `want`.
    pub(crate) fn has(&self, name: &str, want: &str) -> bool {
        is_made(&self.root.join(name), want)
    }

    /// The entry `name`, made by the recipe `want`: as it lies, or made afresh by `make` in a directory of its own.
    ///
    /// # Errors
    /// What `make` reports; nothing is left of the attempt.
    pub(crate) fn entry(
        &self,
        name: &str,
        want: &str,
        make: impl FnOnce(&Path) -> Result<(), String>,
    ) -> Result<PathBuf, String> {
        let entry = self.root.join(name);
        if is_made(&entry, want) {
            return Ok(entry);
        }
        let _lock = self.lock(name)?;
        if is_made(&entry, want) {
            return Ok(entry);
        }
        let half = self.root.join(format!(".half-{name}"));
        let old = self.root.join(format!(".old-{name}"));
        // The lock is ours: whatever has these names was left by an xtask that was killed.
        remove(&half)?;
        remove(&old)?;
        let _debris = Debris::new(&half);
        fs::create_dir_all(&half).explain(|| format!("cannot make {}", half.display()))?;
        let made = make(&half).and_then(|()| {
            fs::write(half.join(STAMP), want)
                .explain(|| format!("cannot write {}", half.join(STAMP).display()))
        });
        if let Err(error) = made {
            remove(&half)?;
            return Err(error);
        }
        if entry.exists() {
            rename(&entry, &old)?;
        }
        rename(&half, &entry)?;
        remove(&old)?;
        Ok(entry)
    }

    /// A directory for one emulator's files, gone when the value is dropped; those of killed xtasks go now.
    pub(crate) fn scratch(&self) -> Result<Scratch, String> {
        let parent = self.root.join("runs");
        fs::create_dir_all(&parent).explain(|| format!("cannot make {}", parent.display()))?;
        let _lock = self.lock("runs")?;
        sweep(&parent);
        let dir = tempfile::Builder::new()
            .prefix("run-")
            .tempdir_in(&parent)
            .explain(|| format!("cannot make a directory in {}", parent.display()))?;
        let path = dir.path().join("lock");
        let lock = File::create(&path).explain(|| format!("cannot make {}", path.display()))?;
        lock.lock().explain(|| format!("cannot lock {}", path.display()))?;
        let debris = Debris::new(dir.path());
        Ok(Scratch { dir, _debris: debris, _lock: lock })
    }

    fn lock(&self, name: &str) -> Result<File, String> {
        let path = self.root.join(format!(".lock-{name}"));
        let file = File::create(&path).explain(|| format!("cannot make {}", path.display()))?;
        let deadline = Instant::now() + LOCK_PATIENCE;
        let mut told = false;
        loop {
            match file.try_lock() {
                Ok(()) => return Ok(file),
                Err(TryLockError::Error(error)) => {
                    return Err(format!("cannot lock {}: {error}", path.display()));
                }
                Err(TryLockError::WouldBlock) if Instant::now() >= deadline => {
                    return Err(advise(
                        format!(
                            "another cargo xtask has held {} for {} minutes",
                            path.display(),
                            LOCK_PATIENCE.as_secs() / 60
                        ),
                        "end it, then try again",
                    ));
                }
                Err(TryLockError::WouldBlock) => {
                    if !told {
                        eprintln!("waiting for another cargo xtask to finish {name}");
                        told = true;
                    }
                    sleep(Duration::from_millis(100));
                }
            }
        }
    }
}

/// A directory that goes with the value; its lock tells other xtasks that it is in use.
#[derive(Debug)]
pub(crate) struct Scratch {
    dir: tempfile::TempDir,
    _debris: Debris,
    _lock: File,
}

impl Scratch {
    pub(crate) fn path(&self) -> &Path {
        self.dir.path()
    }
}

/// Writes a file whole or not at all: under another name first, then renamed.
pub(crate) fn write_whole(path: &Path, bytes: &[u8]) -> Result<(), String> {
    let parent =
        path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let write = || -> std::io::Result<()> {
        fs::create_dir_all(parent)?;
        // What every new file gets; the umask takes from it. A temporary file would be its owner's alone.
        let mode = fs::Permissions::from_mode(0o666);
        let mut file = tempfile::Builder::new().permissions(mode).tempfile_in(parent)?;
        std::io::Write::write_all(&mut file, bytes)?;
        file.persist(path)?;
        Ok(())
    };
    write().explain(|| format!("cannot write {}", path.display()))
}

fn is_made(entry: &Path, want: &str) -> bool {
    fs::read_to_string(entry.join(STAMP)).is_ok_and(|stamp| stamp == want)
}

fn remove(path: &Path) -> Result<(), String> {
    match fs::remove_dir_all(path) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(format!("cannot remove {}: {error}", path.display()))
        }
        _ => Ok(()),
    }
}

fn rename(from: &Path, to: &Path) -> Result<(), String> {
    fs::rename(from, to).explain(|| format!("cannot rename {} to {}", from.display(), to.display()))
}

/// Removes the run directories whose owner is no more: those whose lock is free.
fn sweep(parent: &Path) {
    let Ok(entries) = fs::read_dir(parent) else { return };
    for entry in entries.flatten() {
        let is_in_use =
            File::open(entry.path().join("lock")).is_ok_and(|lock| lock.try_lock().is_err());
        if !is_in_use {
            let _ = fs::remove_dir_all(entry.path());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cache() -> (tempfile::TempDir, Cache) {
        let dir = tempfile::tempdir().unwrap();
        let cache = Cache::at(dir.path()).unwrap();
        (dir, cache)
    }

    #[test]
    fn an_entry_is_made_once_per_recipe() {
        let (_dir, cache) = cache();
        let mut made = 0;
        for want in ["1", "1", "2"] {
            let path = cache
                .entry("thing", want, |dir| {
                    made += 1;
                    fs::write(dir.join("file"), want).map_err(|error| error.to_string())
                })
                .unwrap();
            assert_eq!(fs::read_to_string(path.join("file")).unwrap(), want);
        }
        assert_eq!(made, 2);
    }

    #[test]
    fn a_failed_entry_leaves_nothing_and_keeps_the_old_one() {
        let (dir, cache) = cache();
        cache
            .entry("thing", "1", |dir| {
                fs::write(dir.join("file"), "old").map_err(|error| error.to_string())
            })
            .unwrap();
        let error = cache.entry("thing", "2", |dir| {
            fs::write(dir.join("file"), "half").unwrap();
            Err("no network".into())
        });
        assert_eq!(error, Err("no network".into()));
        assert_eq!(fs::read_to_string(dir.path().join("thing/file")).unwrap(), "old");
        assert!(!dir.path().join(".half-thing").exists());
    }

    #[test]
    fn a_run_directory_goes_with_its_owner_and_an_orphan_at_the_next_run() {
        let (dir, cache) = cache();
        let orphan = dir.path().join("runs/run-orphan");
        fs::create_dir_all(&orphan).unwrap();
        fs::write(orphan.join("lock"), "").unwrap();
        let first = cache.scratch().unwrap();
        let second = cache.scratch().unwrap();
        assert!(!orphan.exists());
        assert!(first.path().exists() && second.path().exists());
        let path = first.path().to_path_buf();
        drop(first);
        assert!(!path.exists() && second.path().exists());
    }
}
