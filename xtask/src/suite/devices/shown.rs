//! What `lspci -vv` says in the guests of the functions that they have.

use regex::Regex;

use crate::explain::Explain as _;
use crate::suite::require;

/// Class, vendor and device of a function, how many of it the guests have together, and what must be said of each.
type Shown = (&'static str, usize, &'static [&'static str]);

const ENDPOINT: &str = "Express (v2) Endpoint";
const FUNCTIONS: [Shown; 6] = [
    ("0600: 1b36:0008", 2, &[]),
    (
        "0604: ",
        4,
        &[
            "Control: I/O- Mem+ BusMaster+",
            "Bus: primary=00, secondary=0",
            "Express (v2) Root Port",
        ],
    ),
    (
        "0108: 1b36:0010",
        1,
        &["Mem+ BusMaster+", "[size=16K]", "MSI-X: Enable+", ENDPOINT, "driver in use: nvme"],
    ),
    ("0200: 8086:10c9", 1, &["Mem+ BusMaster+", "MSI-X: Enable+", ENDPOINT, "driver in use: igb"]),
    ("0200: 1af4:1041", 1, &["BusMaster+", "MSI-X: Enable+", "driver in use: virtio-pci"]),
    ("0100: 1af4:1042", 1, &["BusMaster+", "MSI-X: Enable+", "driver in use: virtio-pci"]),
];
/// What lspci says of what it cannot make sense of.
const NONSENSE: [&str; 6] =
    ["!!!", "access denied", "chain broken", "looped", "rev ff", "unassigned"];

/// The lines of guests' kernels: where Kerf has cut one in two by a line of its own, it is one again.
fn whole(console: &str) -> Vec<String> {
    let mut lines: Vec<String> = Vec::new();
    for line in console.lines().filter(|line| !line.starts_with("kerf: ")) {
        match lines.last_mut() {
            Some(last) if !line.starts_with('[') => last.push_str(line),
            _ => lines.push(line.to_owned()),
        }
    }
    lines
}

/// Looks for all of it in the console's text.
pub(super) fn check(console: &str) -> Result<(), String> {
    let begins = Regex::new(r"^[0-9a-f]{2}:[0-9a-f]{2}\.[0-7] ").explain(|| "functions")?;
    let mut parts: Vec<String> = Vec::new();
    let lines = whole(console);
    let lines = lines.iter().filter_map(|line| line.split_once("] lspci: "));
    // A guest's own lines are in order, whatever comes between.
    for named in [false, true] {
        let own = lines.clone().filter(|(guest, _)| guest.contains("[net]") == named);
        for (_, text) in own {
            if begins.is_match(text) {
                parts.push(String::new());
            }
            if let Some(part) = parts.last_mut() {
                *part += text;
                part.push('\n');
            }
        }
    }
    for nonsense in NONSENSE {
        let found = parts.iter().find(|part| part.contains(nonsense));
        require(found.is_none(), || format!("{nonsense:?} in {found:?}"))?;
    }
    for (name, count, words) in FUNCTIONS {
        let own: Vec<&String> = parts.iter().filter(|part| part.contains(name)).collect();
        require(own.len() == count, || format!("lspci shows {} of {name}: {parts:?}", own.len()))?;
        for (part, word) in
            own.into_iter().flat_map(|part| words.iter().map(move |word| (part, word)))
        {
            require(part.contains(word), || format!("no {word:?} in {part}"))?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_that_was_cut_is_whole_again() {
        let console =
            "[ 1.0] lspci: K\r\nkerf: a ended: poweroff\r\nernel\r\n[net] [ 2.0] lspci: x\r\n";
        assert_eq!(whole(console), ["[ 1.0] lspci: Kernel", "[net] [ 2.0] lspci: x"]);
        assert!(check(console).unwrap_err().contains("lspci shows 0"));
    }
}
