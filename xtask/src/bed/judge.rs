//! Watches a session to its end: for what was expected, for Kerf's last line, for silence.

use std::time::{Duration, Instant};

use regex::bytes::Regex;

use crate::bed::session::{Event, Session};
use crate::bed::verdict::{Outcome, Verdict, last_line};
use crate::step::Typed;

/// The most of the console that one match can span.
const WINDOW: usize = 1 << 16;
/// How long an emulator may take to end after Kerf's last line; the Bochs bed has no way to end by itself.
const GRACE: Duration = Duration::from_millis(500);

/// How often the user is asked, at least.
const TICK: Duration = Duration::from_millis(20);
/// How often the console is looked at, at most: its bytes come one by one.
const LOOK: Duration = Duration::from_millis(50);

/// What a machine is watched for.
pub(crate) struct Limits {
    /// Ends it well.
    pub(crate) expect: Option<Regex>,
    /// Typed as the console asks for it.
    pub(crate) typed: Vec<Typed>,
    /// The longest it may last.
    pub(crate) timeout: Option<Duration>,
}

/// Watches `session` to its end. Each time there is console output or nothing for a moment, `user` sees the new output
/// and gives what to type, or `None` to end the machine.
pub(crate) fn judge(
    session: Session,
    limits: Limits,
    user: impl FnMut(&[u8]) -> Option<Vec<u8>>,
) -> Outcome {
    let started = Instant::now();
    let mut watch = Watch {
        session,
        user,
        limits,
        console: Vec::new(),
        debug: Vec::new(),
        looked_at: 0,
        looked: started,
        typed_from: 0,
    };
    let verdict = loop {
        if let Some(verdict) = watch.step() {
            break verdict;
        }
        if let Some(limit) = watch.limits.timeout.filter(|limit| started.elapsed() >= *limit) {
            break watch.look().unwrap_or(Verdict::TimedOut(limit));
        }
    };
    let elapsed = started.elapsed();
    if !matches!(verdict, Verdict::Quit | Verdict::TimedOut(_)) {
        watch.drain();
    }
    watch.debug.extend(watch.session.debug_file());
    let (entries, log) = (watch.session.entries(), watch.session.log_tail());
    Outcome { verdict, console: watch.console, debug: watch.debug, entries, elapsed, log }
}

struct Watch<U> {
    session: Session,
    user: U,
    limits: Limits,
    console: Vec<u8>,
    debug: Vec<u8>,
    /// Bytes of the console at the last look, and its time.
    looked_at: usize,
    looked: Instant,
    /// Where in the console the next prompt is looked for.
    typed_from: usize,
}

impl<U: FnMut(&[u8]) -> Option<Vec<u8>>> Watch<U> {
    /// Takes one event or a moment's silence.
    fn step(&mut self) -> Option<Verdict> {
        let event = self.session.next(Instant::now() + TICK);
        let is_silent = !matches!(event, Ok(Some(_)));
        let has_ended = match event {
            Ok(Some(Event::Hung(line))) => return Some(Verdict::Hung(line)),
            Ok(Some(event)) => {
                if !self.take(event) {
                    return Some(Verdict::Quit);
                }
                false
            }
            Ok(None) => {
                if !self.show(&[]) {
                    return Some(Verdict::Quit);
                }
                self.session.status().is_some()
            }
            Err(()) => true,
        };
        if has_ended {
            self.drain();
            return self.look().or_else(|| Some(self.ended()));
        }
        if is_silent || self.looked.elapsed() >= LOOK { self.look() } else { None }
    }

    /// Takes an event; false once the user ends the machine.
    fn take(&mut self, event: Event) -> bool {
        match event {
            Event::Console(bytes) => {
                let goes_on = self.show(&bytes);
                self.console.extend(bytes);
                return goes_on;
            }
            Event::Debug(bytes) => self.debug.extend(bytes),
            Event::Hung(_) => {}
        }
        true
    }

    fn show(&mut self, fresh: &[u8]) -> bool {
        let Some(keys) = (self.user)(fresh) else { return false };
        if !keys.is_empty() {
            self.session.type_in(keys);
        }
        true
    }

    /// Looks at what the console has printed since the last look, and as much before as a match may span.
    fn look(&mut self) -> Option<Verdict> {
        self.looked = Instant::now();
        let window = &self.console[self.looked_at.saturating_sub(WINDOW)..];
        if std::mem::replace(&mut self.looked_at, self.console.len()) == self.console.len() {
            return None;
        }
        if self.limits.expect.as_ref().is_some_and(|expect| expect.is_match(window)) {
            return Some(Verdict::Expected);
        }
        while let Some(next) = self.limits.typed.first() {
            let Some(found) = next.after.find(&self.console[self.typed_from..]) else { break };
            self.typed_from += found.end();
            self.session.type_in(self.limits.typed.remove(0).text.into_bytes());
        }
        last_line(window)
    }

    /// Takes what is still on its way, for as long as an emulator that ends by itself needs.
    fn drain(&mut self) {
        let until = Instant::now() + GRACE;
        while let Ok(Some(event)) = self.session.next(until) {
            self.take(event);
        }
    }

    fn ended(&mut self) -> Verdict {
        let status = self.session.end(Instant::now() + Duration::from_secs(5));
        Verdict::EmulatorEnded(
            status.map_or_else(|| "it closed its console".into(), |status| status.to_string()),
        )
    }
}
