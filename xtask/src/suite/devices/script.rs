//! A boot that is watched and led: as the console shows one thing after the other, something is typed or done.

use std::collections::VecDeque;
use std::time::Duration;

use regex::bytes::Regex;

use crate::bed::{self, Limits, Outcome, Session, Verdict};
use crate::suite::pattern;

/// What is done with the console's text from the last match to the end of this one: gives what to type.
type Act<'a> = Box<dyn FnOnce(&str) -> Result<String, String> + 'a>;

/// What is to come, in its order.
#[derive(Default)]
pub(super) struct Script<'a>(VecDeque<(Regex, Act<'a>)>);

impl<'a> Script<'a> {
    /// Once `after` was seen, acts.
    pub(super) fn act(
        &mut self,
        after: &str,
        act: impl FnOnce(&str) -> Result<String, String> + 'a,
    ) -> Result<(), String> {
        self.0.push_back((pattern(after)?, Box::new(act)));
        Ok(())
    }

    /// Once `after` was seen, types.
    pub(super) fn typed(&mut self, after: &str, text: &str) -> Result<(), String> {
        let text = text.to_owned();
        self.act(after, move |_| Ok(text))
    }

    /// Leads a machine through it, to the machine's end.
    ///
    /// # Errors
    /// What an act complains of, or what never came.
    pub(super) fn lead(mut self, session: Session, timeout: Duration) -> Result<Outcome, String> {
        let limits = Limits { expect: None, typed: Vec::new(), timeout: Some(timeout) };
        let (mut console, mut from, mut wrong) = (Vec::new(), 0, None);
        let outcome = bed::judge(session, limits, |fresh| {
            console.extend_from_slice(fresh);
            let next = self.0.front().and_then(|(after, _)| after.find(&console[from..]));
            let Some(end) = next.map(|found| from + found.end()) else { return Some(Vec::new()) };
            let text = String::from_utf8_lossy(&console[from..end]).into_owned();
            from = end;
            match self.0.pop_front().map(|(_, act)| act(&text)) {
                Some(Err(why)) => {
                    wrong = Some(why);
                    None
                }
                Some(Ok(typed)) => Some(typed.into_bytes()),
                None => Some(Vec::new()),
            }
        });
        if let Some(why) = wrong {
            return Err(format!("{why}: {}", outcome.describe()));
        }
        match self.0.front() {
            Some((after, _)) => Err(format!("no {after}: {}", outcome.describe())),
            None => outcome.require(&Verdict::PoweredOff),
        }
    }
}
