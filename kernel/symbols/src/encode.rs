//! Making the table.

use alloc::string::String;
use alloc::vec::Vec;

use super::{MAGIC, Rule, hash};

/// A function.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Function {
    /// Its first address, and the one past its last.
    pub start: u64,
    /// The one past its last.
    pub end: u64,
    /// Its name.
    pub name: String,
}

/// From an address on, up to the next row's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Row {
    /// The address.
    pub start: u64,
    /// The rule; `None` where no code is, or none that is known.
    pub rule: Option<Rule>,
}

/// The longest name kept, in bytes.
const NAME_BYTES: usize = 200;

/// Makes the table of a kernel whose text, from `base`, is `text`. Functions and rows may come in any order; what lies
/// outside the 4 GiB from `base` is left out.
#[must_use]
pub fn encode(base: u64, text: &[u8], functions: &[Function], rows: &[Row]) -> Vec<u8> {
    let from_base = |address: u64| address.checked_sub(base).and_then(|at| u32::try_from(at).ok());
    let mut places: Vec<(u32, u32, &str)> = functions
        .iter()
        .filter_map(|f| Some((from_base(f.start)?, from_base(f.end)?, f.name.as_str())))
        .collect();
    places.sort_unstable();
    // Folded functions have several names; any will do.
    places.dedup_by_key(|place| place.0);
    let mut rules: Vec<(u32, u32)> = rows
        .iter()
        .filter_map(|row| {
            let rule = row.rule.and_then(Rule::encode).unwrap_or(Rule::NONE);
            Some((from_base(row.start)?, rule))
        })
        .collect();
    // Where one function ends and the next starts, the end sorts last: the start must win.
    rules.sort_unstable_by_key(|&(start, rule)| (start, rule != Rule::NONE));
    rules.reverse();
    rules.dedup_by_key(|rule| rule.0);
    rules.reverse();
    rules.dedup_by_key(|rule| rule.1);

    let mut table = MAGIC.to_vec();
    table.extend(hash(text).to_le_bytes());
    table.extend(base.to_le_bytes());
    table.extend((places.len() as u32).to_le_bytes());
    table.extend((rules.len() as u32).to_le_bytes());
    let mut names = Vec::new();
    for (start, end, name) in places {
        for word in [start, end, names.len() as u32] {
            table.extend(word.to_le_bytes());
        }
        let name = &name[..name.floor_char_boundary(NAME_BYTES)];
        names.extend((name.len() as u16).to_le_bytes());
        names.extend(name.as_bytes());
    }
    for (start, rule) in rules {
        table.extend(start.to_le_bytes());
        table.extend(rule.to_le_bytes());
    }
    table.extend(names);
    table
}
