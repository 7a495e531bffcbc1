//! How a machine ended, and what it left.

use std::fmt;
use std::sync::LazyLock;
use std::time::Duration;

use regex::bytes::Regex;

/// Kerf's last line, or its boot application's.
static LAST_LINE: LazyLock<Regex> = LazyLock::new(|| {
    let pattern = r"(?m)^kerf(?:-boot)?: (?:all guests ended: (?<end>\w+)(?: (?<status>\d+))?|(?<kerf>stopped|PANIC))";
    Regex::new(pattern).unwrap_or_else(|_| unreachable!())
});
/// How a machine ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// The console showed what was expected.
    Expected,
    /// All guests powered off.
    PoweredOff,
    /// A test guest ended the machine with this status.
    Exited(u8),
    /// A guest crashed.
    Crashed,
    /// A guest asked for a reset.
    Reset,
    /// Kerf or its boot application could not go on, and said why.
    Stopped,
    /// Nothing of all that happened in time.
    TimedOut(Duration),
    /// The machine's CPU will never go on: the log's line.
    Hung(String),
    /// The emulator ended by itself, without Kerf's last line.
    EmulatorEnded(String),
    /// The user ended it.
    Quit,
}

/// How a machine ended, and what it left.
#[derive(Clone, Debug)]
pub(crate) struct Outcome {
    pub(crate) verdict: Verdict,
    /// All that the serial console printed.
    pub(crate) console: Vec<u8>,
    /// All that the debug port printed.
    pub(crate) debug: Vec<u8>,
    /// VM entries that the emulator counted: all where it was asked to, otherwise those that Bochs tells of by itself.
    pub(crate) entries: Option<u64>,
    /// From start to verdict.
    pub(crate) elapsed: Duration,
    /// The last lines of the emulator's own log.
    pub(crate) log: String,
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Expected => f.write_str("the expected text was printed"),
            Self::PoweredOff => f.write_str("all guests powered off"),
            Self::Exited(status) => write!(f, "the guest ended with status {status}"),
            Self::Crashed => f.write_str("a guest crashed"),
            Self::Reset => f.write_str("a guest asked for a reset"),
            Self::Stopped => f.write_str("Kerf could not go on"),
            Self::TimedOut(limit) => write!(f, "no end within {} s", limit.as_secs()),
            Self::Hung(line) => write!(f, "the machine hangs: {line}"),
            Self::EmulatorEnded(how) => write!(f, "the emulator ended before Kerf did ({how})"),
            Self::Quit => f.write_str("ended by the user"),
        }
    }
}

impl Outcome {
    /// The console as text.
    pub(crate) fn console_text(&self) -> String {
        String::from_utf8_lossy(&self.console).into_owned()
    }

    /// The outcome if it is `wanted`.
    ///
    /// # Errors
    /// How it ended instead, with the ends of console and log.
    pub(crate) fn require(self, wanted: &Verdict) -> Result<Self, String> {
        if self.verdict == *wanted {
            return Ok(self);
        }
        Err(self.describe())
    }

    /// The verdict with the ends of console and log.
    pub(crate) fn describe(&self) -> String {
        let mut text = format!("{} after {:.1} s", self.verdict, self.elapsed.as_secs_f64());
        let debug = String::from_utf8_lossy(&self.debug).into_owned();
        let parts = [
            ("console", self.console_text()),
            ("debug port's output", debug),
            ("emulator's log", self.log.clone()),
        ];
        for (what, part) in parts {
            let lines: Vec<&str> = part.lines().filter(|line| !line.trim().is_empty()).collect();
            if lines.is_empty() {
                text += &format!("\n  the {what} is empty");
                continue;
            }
            text += &format!("\n  end of the {what}:");
            for line in &lines[lines.len().saturating_sub(15)..] {
                text += &format!("\n    {}", line.trim_end());
            }
        }
        text
    }
}

/// The verdict of Kerf's last line, if `text` has it and all of it.
pub(crate) fn last_line(text: &[u8]) -> Option<Verdict> {
    let found = LAST_LINE.captures(text)?;
    let end = found.get(0)?.end();
    if !text[end..].contains(&b'\n') {
        return None;
    }
    if found.name("kerf").is_some() {
        return Some(Verdict::Stopped);
    }
    let status =
        found.name("status").and_then(|status| std::str::from_utf8(status.as_bytes()).ok());
    Some(match found.name("end").map(|end| end.as_bytes()) {
        Some(b"poweroff") => Verdict::PoweredOff,
        Some(b"exit") => {
            Verdict::Exited(status.and_then(|status| status.parse().ok()).unwrap_or(u8::MAX))
        }
        Some(b"reset") => Verdict::Reset,
        _ => Verdict::Crashed,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn verdict(console: &str) -> Option<Verdict> {
        last_line(console.as_bytes())
    }

    #[test]
    fn the_last_line_says_how_it_ended() {
        assert_eq!(
            verdict("login: \r\nkerf: all guests ended: poweroff\r\n"),
            Some(Verdict::PoweredOff)
        );
        assert_eq!(verdict("kerf: all guests ended: exit 17\n"), Some(Verdict::Exited(17)));
        assert_eq!(verdict("kerf: all guests ended: crashed\n"), Some(Verdict::Crashed));
        assert_eq!(verdict("kerf: all guests ended: reset\n"), Some(Verdict::Reset));
        assert_eq!(verdict("kerf: PANIC\n"), Some(Verdict::Stopped));
        assert_eq!(
            verdict("kerf-boot: error: no\r\nkerf-boot: stopped\r\n"),
            Some(Verdict::Stopped)
        );
    }

    #[test]
    fn half_a_line_or_another_is_no_verdict() {
        assert_eq!(verdict("kerf: all guests ended: exit 1"), None);
        assert_eq!(verdict("kerf-boot: starting the kernel\r\n"), None);
        assert_eq!(verdict("echo kerf: all guests ended: poweroff\r\n"), None);
    }
}
