//! What a test step is, and what it may use: the suite makes [`Step`]s, the runner in `test` carries them out.
//!
//! A system test is a [`Trial`]: a boot volume (`volume` or `description` make one), the bed's memory and CPUs, and an
//! expectation; [`Context::trial`] boots it and says how it ended.

pub(crate) use crate::context::{Context, Trial};

use crate::bed::BedKind;

/// What a step does.
pub(crate) type Action = Box<dyn FnOnce(&Context) -> Result<(), String> + Send>;

/// One named step of `cargo xtask test`.
pub(crate) struct Step {
    /// What the step shows, as `--list` prints it and `--system NAME` finds it.
    pub(crate) name: String,
    /// The bed a system test runs on; `None` for a step on the host.
    pub(crate) bed: Option<BedKind>,
    /// The lane, 0 or 1: steps of one lane run one after another, the lanes side by side.
    pub(crate) lane: usize,
    /// Does it. An error is shown as it stands: what, where, what to do.
    pub(crate) run: Action,
}

/// Text to type once the console has shown a prompt.
pub(crate) struct Typed {
    /// Waited for in what the console prints after the last match.
    pub(crate) after: regex::bytes::Regex,
    /// Typed then.
    pub(crate) text: String,
}
