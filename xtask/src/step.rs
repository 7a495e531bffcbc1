//! What a test step is, and what it may use: the suite makes [`Step`]s, the runner in `test` carries them out.
//!
//! A system test is a [`Volume`] (what the boot disk holds), a [`Machine`] (the bed's memory and CPUs) and an
//! expectation; [`Context::trial`] boots it and says how it ended.

use std::path::PathBuf;
use std::time::Duration;

use crate::bed::{BedKind, Machine, Outcome};
use crate::volume::Volume;

/// One named step of `cargo xtask test`.
pub(crate) struct Step {
    /// What the step shows, as `--list` prints it and `--system NAME` finds it.
    pub(crate) name: String,
    /// The bed a system test runs on; `None` for a step on the host.
    pub(crate) bed: Option<BedKind>,
    /// The lane, 0 or 1: steps of one lane run one after another, the lanes side by side.
    pub(crate) lane: usize,
    /// Does it. An error is shown as it stands: what, where, what to do.
    pub(crate) run: Box<dyn FnOnce(&Context) -> Result<(), String> + Send>,
}

/// One boot of Kerf on a bed.
pub(crate) struct Trial {
    /// What the boot disk holds.
    pub(crate) volume: Volume,
    /// The emulated machine.
    pub(crate) machine: Machine,
    /// Ends the trial well as soon as the console has printed this; without it the trial lasts to the guest's end.
    pub(crate) expect: Option<regex::bytes::Regex>,
    /// Sent to the console, each once its prompt was seen.
    pub(crate) typed: Vec<Typed>,
    /// The longest it may last.
    pub(crate) timeout: Duration,
}

/// Text to type once the console has shown a prompt.
pub(crate) struct Typed {
    /// Waited for in what the console prints after the last match.
    pub(crate) after: regex::bytes::Regex,
    /// Typed then.
    pub(crate) text: String,
}

/// What every step may use. Everything is made once, by whichever step asks first.
pub(crate) struct Context {
    /// The repository's root.
    pub(crate) root: PathBuf,
}

impl Context {
    /// Boots `trial` on `bed` and waits for its end.
    ///
    /// # Errors
    /// What could not be prepared or started. How the guest ended, well or not, is the [`Outcome`]'s to say.
    pub(crate) fn trial(&self, bed: BedKind, trial: Trial) -> Result<Outcome, String> {
        let _ = (bed, trial, &self.root);
        Err("not built yet".into())
    }
}
