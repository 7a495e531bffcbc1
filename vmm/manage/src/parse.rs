//! The monitor's words.

use alloc::{string::String, vec::Vec};
use core::fmt;

use crate::Request;

/// What a command takes.
#[derive(Clone, Copy)]
enum Form {
    Alone(fn() -> Request),
    OfVm(fn(String) -> Request),
    /// Alone, or with that word.
    Or(fn() -> Request, &'static str, fn() -> Request),
}

/// The commands: word, form, what it does.
const COMMANDS: [(&str, Form, &str); 18] = [
    ("help", Form::Alone(|| Request::Help), "these lines"),
    ("vms", Form::Alone(|| Request::Vms), "all virtual machines"),
    ("vm", Form::OfVm(Request::Vm), "one of them: state, exits by kind, memory"),
    ("cpus", Form::Alone(|| Request::Cpus), "CPUs, their virtual CPUs and load"),
    ("memory", Form::Alone(|| Request::Memory), "what memory is used for"),
    ("functions", Form::Alone(|| Request::Functions), "PCI functions, and who has them"),
    (
        "iommu",
        Form::Or(|| Request::Iommu, "groups", || Request::Groups),
        "what it has in use; \"iommu groups\": which functions belong together",
    ),
    ("faults", Form::Alone(|| Request::Faults), "what the IOMMU has blocked"),
    ("vdevs", Form::Alone(|| Request::Vdevs), "virtual devices, and what they are made of"),
    ("topology", Form::Alone(|| Request::Topology), "all of that as a line of JSON, to be drawn"),
    ("log", Form::Alone(|| Request::Log), "the latest of the console's output"),
    ("exits", Form::OfVm(Request::Exits), "exits of each virtual CPU, and its last ones"),
    ("pause", Form::OfVm(Request::Pause), "let a VM stand still"),
    ("resume", Form::OfVm(Request::Resume), "let it go on"),
    ("stop", Form::OfVm(Request::Stop), "end a VM and free its memory"),
    ("reset", Form::OfVm(Request::Reset), "start a VM again from its images"),
    ("reboot", Form::Alone(|| Request::Reboot), "restart the machine"),
    ("poweroff", Form::Alone(|| Request::PowerOff), "switch the machine off"),
];

/// The list of commands, as `help` shows it.
#[derive(Clone, Copy, Debug)]
pub struct HELP;

impl fmt::Display for HELP {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (word, form, what) in COMMANDS {
            let argument = if matches!(form, Form::OfVm(_)) { "NAME" } else { "" };
            writeln!(f, "{word:<9} {argument:<5} {what}")?;
        }
        Ok(())
    }
}

/// Why a line is no request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ParseError {
    /// No command has that word; the one that is meant, perhaps.
    Unknown(String, Option<&'static str>),
    /// The command wants a VM's name.
    NoName(&'static str),
    /// The line goes on where it should end.
    TooMuch(&'static str, String),
}

impl fmt::Display for ParseError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unknown(word, Some(near)) => {
                write!(f, "unknown command \"{word}\"; did you mean \"{near}\"?")
            }
            Self::Unknown(word, None) => {
                write!(f, "unknown command \"{word}\"; \"help\" lists all")
            }
            Self::NoName(command) => {
                write!(f, "\"{command}\" wants the name of a VM; \"vms\" lists them")
            }
            Self::TooMuch(command, word) => {
                write!(f, "\"{word}\" is too much after \"{command}\"")
            }
        }
    }
}

/// Reads a line; `None` where it is blank.
///
/// # Errors
/// [`ParseError`] where it is no request.
pub fn parse(line: &str) -> Result<Option<Request>, ParseError> {
    let mut words = line.split_whitespace();
    let Some(word) = words.next() else { return Ok(None) };
    let Some((word, form, _)) = COMMANDS.into_iter().find(|(known, ..)| *known == word) else {
        let known = COMMANDS.into_iter().map(|(known, ..)| known);
        return Err(ParseError::Unknown(word.into(), near(word, known)));
    };
    let request = match form {
        Form::Alone(make) => make(),
        Form::Or(make, more, other) => {
            let mut rest = words.clone();
            if rest.next() == Some(more) {
                words = rest;
                other()
            } else {
                make()
            }
        }
        Form::OfVm(make) => make(words.next().ok_or(ParseError::NoName(word))?.into()),
    };
    match words.next() {
        Some(more) => Err(ParseError::TooMuch(word, more.into())),
        None => Ok(Some(request)),
    }
}

/// The candidate that `word` was probably meant to be: at most a third of its letters are wrong, and at least one may be.
pub fn near<'a>(word: &str, candidates: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let most = (word.chars().count() / 3).max(1);
    let measured = candidates.into_iter().map(|candidate| (distance(word, candidate), candidate));
    measured.filter(|(far, _)| *far <= most).min_by_key(|(far, _)| *far).map(|(_, found)| found)
}

/// Insertions, deletions, replacements and swaps of neighbours that lead from one word to the other (optimal string
/// alignment).
fn distance(one: &str, other: &str) -> usize {
    let (one, other): (Vec<char>, Vec<char>) = (one.chars().collect(), other.chars().collect());
    let at = |row: &[usize], column: usize| row.get(column).copied().unwrap_or(usize::MAX / 2);
    let mut before: Vec<usize> = Vec::new();
    let mut above: Vec<usize> = (0..=other.len()).collect();
    for (i, a) in one.iter().enumerate() {
        let mut row = Vec::from([i + 1]);
        for (j, b) in other.iter().enumerate() {
            let replaced = at(&above, j) + usize::from(a != b);
            let mut least = replaced.min(at(&above, j + 1) + 1).min(at(&row, j) + 1);
            let is_swap =
                i > 0 && j > 0 && one.get(i - 1) == Some(b) && other.get(j - 1) == Some(a);
            if is_swap {
                least = least.min(at(&before, j - 1) + 1);
            }
            row.push(least);
        }
        before = core::mem::replace(&mut above, row);
    }
    at(&above, other.len())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_command_is_read_and_listed() {
        for (word, form, _) in COMMANDS {
            let line = match form {
                Form::Alone(_) | Form::Or(..) => word.to_owned(),
                Form::OfVm(_) => format!("  {word}\tlinux "),
            };
            assert!(matches!(parse(&line), Ok(Some(_))), "{line}");
            assert!(HELP.to_string().lines().any(|line| line.split(' ').next() == Some(word)));
        }
        assert_eq!(parse("pause a"), Ok(Some(Request::Pause("a".into()))));
        assert_eq!(parse("reset a"), Ok(Some(Request::Reset("a".into()))));
        assert_eq!(parse(" \t"), Ok(None));
        assert_eq!(parse("iommu groups"), Ok(Some(Request::Groups)));
        assert_eq!(parse("iommu all"), Err(ParseError::TooMuch("iommu", "all".into())));
    }

    #[test]
    fn a_near_miss_is_answered_with_what_was_meant() {
        for (typed, meant) in
            [("resst", "reset"), ("puase", "pause"), ("vmz", "vms"), ("mem0ry", "memory")]
        {
            assert_eq!(parse(typed), Err(ParseError::Unknown(typed.into(), Some(meant))));
        }
        assert_eq!(parse("xyzzy a"), Err(ParseError::Unknown("xyzzy".into(), None)));
    }

    #[test]
    fn a_name_too_few_or_a_word_too_many_is_refused() {
        assert_eq!(parse("vm"), Err(ParseError::NoName("vm")));
        assert_eq!(parse("cpus all"), Err(ParseError::TooMuch("cpus", "all".into())));
        assert_eq!(parse("stop a b"), Err(ParseError::TooMuch("stop", "b".into())));
    }

    #[test]
    fn distances_are_those_of_the_definition() {
        for (one, other, wanted) in
            [("", "", 0), ("a", "", 1), ("kitten", "sitting", 3), ("ab", "ba", 1), ("vm", "vms", 1)]
        {
            assert_eq!((distance(one, other), distance(other, one)), (wanted, wanted));
        }
    }
}
