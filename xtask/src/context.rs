//! What commands and test steps share: each thing is found, fetched or built once, by whoever asks first.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;
use std::time::Duration;

use crate::artefacts::{self, Artefacts};
use crate::bed::{self, Bed, BedKind, Limits, Machine, Outcome};
use crate::cache::Cache;
use crate::explain::Explain as _;
use crate::roots::{self, Linux};
use crate::step::Typed;
use crate::volume::Volume;
use crate::{image, sysroot};

type Once<T> = OnceLock<Result<T, String>>;

/// What every step may use. Everything is made once, by whichever step asks first; the others wait for it.
pub(crate) struct Context {
    /// The repository's root.
    pub(crate) root: PathBuf,
    /// Fetched and built things.
    pub(crate) cache: Cache,
    sysroot: Once<()>,
    artefacts: Once<Artefacts>,
    guests: Once<BTreeMap<String, PathBuf>>,
    linux: Once<Linux>,
    kvm: Once<()>,
    beds: [Once<Box<dyn Bed>>; 2],
    models: [Once<PathBuf>; 2],
}

/// One boot of Kerf on a bed.
pub(crate) struct Trial {
    /// What the boot disk holds.
    pub(crate) volume: Volume,
    /// The emulated machine.
    pub(crate) machine: Machine,
    /// Ends the trial well as soon as the console has printed this; without it the trial lasts to the guests' end.
    pub(crate) expect: Option<regex::bytes::Regex>,
    /// Sent to the console, each once its prompt was seen.
    pub(crate) typed: Vec<Typed>,
    /// The longest it may last.
    pub(crate) timeout: Duration,
}

impl Context {
    /// The context of the workspace that this program was built from.
    ///
    /// # Errors
    /// There is no cache.
    pub(crate) fn new() -> Result<Self, String> {
        let manifest = std::env::var_os("CARGO_MANIFEST_DIR").map(PathBuf::from);
        let manifest = manifest.unwrap_or_else(|| env!("CARGO_MANIFEST_DIR").into());
        let root = manifest.parent().explain(|| "xtask lies in no workspace")?.to_path_buf();
        Ok(Self {
            root,
            cache: Cache::open()?,
            sysroot: OnceLock::new(),
            artefacts: OnceLock::new(),
            guests: OnceLock::new(),
            linux: OnceLock::new(),
            kvm: OnceLock::new(),
            beds: [OnceLock::new(), OnceLock::new()],
            models: [OnceLock::new(), OnceLock::new()],
        })
    }

    /// Makes the bare-metal targets usable; everything that calls cargo for them asks for this first.
    pub(crate) fn sysroot(&self) -> Result<(), String> {
        once(&self.sysroot, || sysroot::prepare(&self.root, &self.cache)).copied()
    }

    /// Kernel and boot application, built.
    pub(crate) fn artefacts(&self) -> Result<&Artefacts, String> {
        once(&self.artefacts, || {
            self.sysroot()?;
            artefacts::build(&self.root)
        })
    }

    /// The program of the test guest `name`, built.
    pub(crate) fn guest(&self, name: &str) -> Result<&Path, String> {
        let guests = once(&self.guests, || {
            self.sysroot()?;
            artefacts::build_guests(&self.root)
        })?;
        guests
            .get(name)
            .map(PathBuf::as_path)
            .explain(|| format!("tests/guests has no program {name}"))
    }

    /// Debian's Linux and busybox.
    pub(crate) fn linux(&self) -> Result<&Linux, String> {
        once(&self.linux, || roots::linux(&self.cache))
    }

    /// `lspci` for a guest: what goes where in its root, and where it lies.
    pub(crate) fn lspci(&self) -> Result<Vec<(String, PathBuf)>, String> {
        roots::lspci(&self.cache)
    }

    /// The emulator of a bed.
    pub(crate) fn bed(&self, kind: BedKind) -> Result<&dyn Bed, String> {
        once(&self.beds[kind as usize], || bed::prepare(kind, &self.cache)).map(|bed| &**bed)
    }

    /// The shared object that has our own devices for a bed, built.
    pub(crate) fn models(&self, kind: BedKind) -> Result<&Path, String> {
        let build = || match kind {
            BedKind::Qemu => artefacts::build_device(&self.root),
            BedKind::Bochs => bed::build_bochs_plugin(&self.root, &self.cache),
        };
        once(&self.models[kind as usize], build).map(PathBuf::as_path)
    }

    /// Whether QEMU can run Kerf on this host's own CPU.
    ///
    /// # Errors
    /// Why not.
    pub(crate) fn probe_kvm(&self) -> Result<(), String> {
        once(&self.kvm, || bed::probe_kvm(&self.cache)).copied()
    }

    /// Starts a machine from a boot volume.
    pub(crate) fn launch(
        &self,
        kind: BedKind,
        volume: &Volume,
        machine: &Machine,
    ) -> Result<bed::Session, String> {
        let bed = self.bed(kind)?;
        let scratch = self.cache.scratch()?;
        let path = scratch.path().join("disk.img");
        image::write_superfloppy(volume, &path)?;
        bed.launch(&path, machine, scratch)
    }

    /// Starts a machine from a disk image, which stays as it is.
    pub(crate) fn launch_image(
        &self,
        kind: BedKind,
        image: &Path,
        machine: &Machine,
    ) -> Result<bed::Session, String> {
        self.bed(kind)?.launch(image, machine, self.cache.scratch()?)
    }

    /// Boots `trial` on a bed and waits for its end.
    ///
    /// # Errors
    /// What could not be prepared or started. How the guest ended, well or not, is the [`Outcome`]'s to say.
    pub(crate) fn trial(&self, kind: BedKind, trial: Trial) -> Result<Outcome, String> {
        let session = self.launch(kind, &trial.volume, &trial.machine)?;
        let limits =
            Limits { expect: trial.expect, typed: trial.typed, timeout: Some(trial.timeout) };
        Ok(bed::judge(session, limits, |_| Some(Vec::new())))
    }
}

fn once<T>(cell: &Once<T>, make: impl FnOnce() -> Result<T, String>) -> Result<&T, String> {
    cell.get_or_init(make).as_ref().map_err(Clone::clone)
}
