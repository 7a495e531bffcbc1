//! How a machine ended: watches a session's console for what was expected, for Kerf's last line, and for silence.

use std::fmt;
use std::sync::LazyLock;
use std::time::{Duration, Instant};

use regex::bytes::Regex;

use crate::bed::session::{Event, Session};
use crate::step::Typed;

/// Kerf's last line, or its boot application's.
static LAST_LINE: LazyLock<Regex> = LazyLock::new(|| {
    let pattern = r"(?m)^kerf(?:-boot)?: (?:all guests ended: (?<end>\w+)(?: (?<status>\d+))?|(?<kerf>stopped|PANIC))";
    Regex::new(pattern).unwrap_or_else(|_| unreachable!())
});
/// The most of the console that one match can span.
const WINDOW: usize = 1 << 16;
/// How long an emulator may take to end after Kerf's last line; the Bochs bed has no way to end by itself.
const GRACE: Duration = Duration::from_millis(500);

/// What a machine is watched for.
pub(crate) struct Limits {
    /// Ends it well.
    pub(crate) expect: Option<Regex>,
    /// Typed as the console asks for it.
    pub(crate) typed: Vec<Typed>,
    /// The longest it may last.
    pub(crate) timeout: Option<Duration>,
}

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
    /// VM entries that the emulator counted, where it was asked to.
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

/// Watches `session` to its end. Each time there is console output or nothing for a moment, `user` sees the new output
/// and gives what to type, or `None` to end the machine.
pub(crate) fn judge(
    mut session: Session,
    limits: Limits,
    mut user: impl FnMut(&[u8]) -> Option<Vec<u8>>,
) -> Outcome {
    let started = Instant::now();
    let mut watch = Watch { console: Vec::new(), debug: Vec::new(), typed_from: 0, limits };
    let verdict = loop {
        let tick = Instant::now() + Duration::from_millis(20);
        let event = session.next(tick);
        let fresh = match &event {
            Ok(Some(Event::Console(bytes))) => bytes.as_slice(),
            _ => &[],
        };
        match user(fresh) {
            None => break Verdict::Quit,
            Some(keys) if !keys.is_empty() => session.type_in(&keys),
            Some(_) => {}
        }
        let verdict = match event {
            Ok(Some(Event::Console(bytes))) => watch.console(&bytes, &mut session),
            Ok(Some(Event::Debug(bytes))) => {
                watch.debug.extend(bytes);
                None
            }
            Ok(Some(Event::Hung(line))) => Some(Verdict::Hung(line)),
            // Streams may close a little before the process is gone, or, held by another process, never.
            Err(()) => Some(ended(&mut session)),
            Ok(None) => session.status().map(|status| Verdict::EmulatorEnded(status.to_string())),
        };
        if let Some(verdict) = verdict {
            break verdict;
        }
        if let Some(limit) = watch.limits.timeout.filter(|limit| started.elapsed() >= *limit) {
            break Verdict::TimedOut(limit);
        }
    };
    let elapsed = started.elapsed();
    watch.drain(&mut session, &verdict, &mut user);
    watch.debug.extend(session.debug_file());
    let (entries, log) = (session.entries(), session.log_tail());
    Outcome { verdict, console: watch.console, debug: watch.debug, entries, elapsed, log }
}

fn ended(session: &mut Session) -> Verdict {
    let status = session.end(Instant::now() + Duration::from_secs(5));
    Verdict::EmulatorEnded(
        status.map_or_else(|| "it closed its console".into(), |status| status.to_string()),
    )
}

struct Watch {
    console: Vec<u8>,
    debug: Vec<u8>,
    typed_from: usize,
    limits: Limits,
}

impl Watch {
    fn console(&mut self, bytes: &[u8], session: &mut Session) -> Option<Verdict> {
        self.console.extend(bytes);
        let window = &self.console[self.console.len().saturating_sub(WINDOW + bytes.len())..];
        if self.limits.expect.as_ref().is_some_and(|expect| expect.is_match(window)) {
            return Some(Verdict::Expected);
        }
        if let Some(found) = LAST_LINE.captures(window) {
            return last_line(&found, window);
        }
        while let Some(next) = self.limits.typed.first() {
            let Some(found) = next.after.find(&self.console[self.typed_from..]) else { break };
            self.typed_from += found.end();
            session.type_in(self.limits.typed.remove(0).text.as_bytes());
        }
        None
    }

    /// Takes what is still on its way, for as long as an emulator that ends by itself needs.
    fn drain(
        &mut self,
        session: &mut Session,
        verdict: &Verdict,
        user: &mut impl FnMut(&[u8]) -> Option<Vec<u8>>,
    ) {
        let until = match verdict {
            Verdict::Quit | Verdict::TimedOut(_) => return,
            _ => Instant::now() + GRACE,
        };
        while let Ok(Some(event)) = session.next(until) {
            match event {
                Event::Console(bytes) => {
                    user(&bytes);
                    self.console.extend(bytes);
                }
                Event::Debug(bytes) => self.debug.extend(bytes),
                Event::Hung(_) => {}
            }
        }
    }
}

/// The verdict of Kerf's last line, once all of the line is there.
fn last_line(found: &regex::bytes::Captures<'_>, window: &[u8]) -> Option<Verdict> {
    let end = found.get(0)?.end();
    if !window[end..].contains(&b'\n') {
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
        let console = console.as_bytes();
        last_line(&LAST_LINE.captures(console)?, console)
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
