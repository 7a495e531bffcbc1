//! Errors of this tool: one sentence a user can act on, with its cause behind it.

use std::fmt::Display;

/// Puts in front of an error what was being done, and where.
pub(crate) trait Explain<T> {
    /// `Err("what: cause")`.
    fn explain<W: Display>(self, what: impl FnOnce() -> W) -> Result<T, String>;
}

impl<T, E: Display> Explain<T> for Result<T, E> {
    fn explain<W: Display>(self, what: impl FnOnce() -> W) -> Result<T, String> {
        self.map_err(|cause| format!("{}: {cause}", what()))
    }
}

impl<T> Explain<T> for Option<T> {
    fn explain<W: Display>(self, what: impl FnOnce() -> W) -> Result<T, String> {
        self.ok_or_else(|| what().to_string())
    }
}

/// What is wrong, and what to do about it on a line of its own.
pub(crate) fn advise(what: impl Display, advice: impl Display) -> String {
    format!("{what}\n  to do: {advice}")
}
