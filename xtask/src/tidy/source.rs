//! The rules on a single file: where `unsafe` lives and what is said beside it, the head of each module, and what is not
//! to be committed at all. [`check`] is pure: a path and a text in, violations out.

use std::{path::Path, sync::LazyLock};

use proc_macro2::{Delimiter, TokenStream, TokenTree};
use regex::Regex;

use super::Violation;

/// Lines without tests at which a file is two.
const LONG: usize = 500;

/// Folders, and single files, that may hold `unsafe`.
const UNSAFE_ROOMS: &str = include_str!("unsafe_rooms.txt");

/// What no committed line may hold, in any kind of text: pattern and reason. Each is put together from pieces, so that
/// this file keeps its own rules.
static REFUSED: LazyLock<Vec<(Regex, &str)>> = LazyLock::new(|| {
    let notes = format!(
        r"\b({}|{}|{})\b",
        ["TO", "DO"].concat(),
        ["FIX", "ME"].concat(),
        ["XX", "X"].concat()
    );
    // A path that begins in somebody's own folder, at the start of a word.
    let folders = ["home", "root", "work", "Users"].join("|");
    let paths = format!(r"(?:^|[^\w./}}\])])/(?:{folders})/\w");
    // Machines that serve packages: which one is used is the business of the machine that fetches.
    let servers = [
        "deb", "ftp", "security", "snapshot", "archive", "mirrors?", "static", "index", "registry",
        "proxy",
    ];
    let hosts =
        format!(r"\b(?:{})(?:\.[a-z]{{2}})?\.[a-z0-9-]+\.(?:org|com|net|io)\b", servers.join("|"));
    [
        (notes, "an open end: finish it, or state the limit in docs/limits.md"),
        (paths, "an absolute path of one machine"),
        (hosts, "the name of a package server"),
    ]
    .map(|(pattern, why)| (Regex::new(&pattern).expect("a valid pattern"), why))
    .into()
});

/// A comment that is only a rule across the page.
static BANNER: LazyLock<Regex> = LazyLock::new(|| {
    Regex::new(r"^\s*(?://+!?|#+|/\*+|;+|\*)\s*(?:[=\-*#~_─═]\s?){4,}|^\s*/{5,}")
        .expect("a valid pattern")
});

/// The rules that `text`, the file `name`, does not keep.
pub(super) fn check(name: &str, text: &str) -> Vec<Violation> {
    if name == "Cargo.lock" || name.starts_with("LICENSE") {
        return Vec::new();
    }
    let mut found = Found { file: name, violations: Vec::new() };
    for (line, content) in (1..).zip(text.lines()) {
        for (pattern, why) in REFUSED.iter() {
            if let Some(hit) = pattern.find(content) {
                found.add(line, format!("`{}`: {why}", hit.as_str().trim()));
            }
        }
        if !name.ends_with(".md") && BANNER.is_match(content) {
            found.add(line, "a banner: it is a file boundary asking to be made");
        }
    }
    if name.ends_with(".rs") {
        check_rust(&mut found, text);
    }
    found.violations
}

/// The number of lines that are not tests, where there are too many. Bit layouts may be as long as the manual's.
pub(super) fn too_long(name: &str, text: &str) -> Option<usize> {
    let tests = name.ends_with("tests.rs") || name.starts_with("tests/");
    if !name.ends_with(".rs") || tests || name.contains("/spec/") {
        return None;
    }
    let lines = text.lines().take_while(|line| *line != "#[cfg(test)]").count();
    (lines > LONG).then_some(lines)
}

struct Found<'a> {
    file: &'a str,
    violations: Vec<Violation>,
}

impl Found<'_> {
    fn add(&mut self, line: usize, what: impl Into<String>) {
        self.violations.push(Violation { file: self.file.into(), line, what: what.into() });
    }
}

fn check_rust(found: &mut Found<'_>, text: &str) {
    if !text
        .lines()
        .find(|line| !line.trim().is_empty())
        .is_some_and(|line| line.starts_with("//!"))
    {
        found.add(1, "no `//!` at the head: say what is here, its key types, its neighbours");
    }
    let tokens: TokenStream = match text.parse() {
        Ok(tokens) => tokens,
        Err(error) => return found.add(error.span().start().line, format!("not Rust: {error}")),
    };
    let mut uses = Vec::new();
    collect_unsafe(tokens, &mut uses);
    let in_room = rooms().any(|room| is_in(found.file, room));
    if !in_room {
        for (line, _) in &uses {
            found.add(
                *line,
                "`unsafe` outside of the rooms that xtask/src/tidy/unsafe_rooms.txt names",
            );
        }
        if is_crate_root(found.file)
            && !crate_has_room(found.file)
            && !text.lines().any(|line| line.trim() == "#![forbid(unsafe_code)]")
        {
            found
                .add(1, "the crate has no room for `unsafe`: `#![forbid(unsafe_code)]` is missing");
        }
    }
    let lines: Vec<&str> = text.lines().collect();
    for (line, is_block) in uses {
        if is_block && !is_explained(&lines, line) {
            found.add(line, "an `unsafe` block without `// SAFETY:` above it");
        }
    }
}

/// The lines of every `unsafe`, and whether it opens a block or an implementation, which owe an explanation.
fn collect_unsafe(tokens: TokenStream, uses: &mut Vec<(usize, bool)>) {
    let mut tokens = tokens.into_iter().peekable();
    while let Some(token) = tokens.next() {
        match token {
            TokenTree::Group(group) => collect_unsafe(group.stream(), uses),
            TokenTree::Ident(word) if word == "unsafe" => {
                let owes = match tokens.peek() {
                    Some(TokenTree::Group(group)) => group.delimiter() == Delimiter::Brace,
                    Some(TokenTree::Ident(next)) => next == "impl",
                    _ => false,
                };
                uses.push((word.span().start().line, owes));
            }
            _ => {}
        }
    }
}

/// Whether a comment with `SAFETY:` stands directly above the statement that holds line `line` (from 1), or on the line.
fn is_explained(lines: &[&str], line: usize) -> bool {
    const MARK: &str = "SAFETY:";
    let above = lines.iter().take(line.saturating_sub(1)).rev();
    if lines.get(line - 1).is_some_and(|own| own.contains(MARK)) {
        return true;
    }
    for text in above.map(|text| text.trim()) {
        if text.starts_with("//") {
            if text.contains(MARK) {
                return true;
            }
        } else if text.is_empty() || text.ends_with([';', '}']) {
            return false;
        }
    }
    false
}

fn rooms() -> impl Iterator<Item = &'static str> {
    UNSAFE_ROOMS.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('#'))
}

fn is_in(file: &str, room: &str) -> bool {
    if room.ends_with('/') { file.starts_with(room) } else { file == room }
}

fn is_crate_root(file: &str) -> bool {
    file.ends_with("src/lib.rs") || file.ends_with("src/main.rs")
}

/// Whether some room lies in the folder of this crate's sources.
fn crate_has_room(root_file: &str) -> bool {
    let folder = Path::new(root_file).parent().unwrap_or(Path::new(""));
    rooms().any(|room| Path::new(room).starts_with(folder))
}

#[cfg(test)]
mod tests;
