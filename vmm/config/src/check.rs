//! From text to a checked [`Config`].

use alloc::{
    borrow::ToOwned,
    string::{String, ToString},
    vec::Vec,
};
use core::ops::Range;

use toml::{
    Spanned,
    de::{DeTable, DeValue},
};

use crate::{
    Config, ConfigError, Hypervisor, PathFault, Problem, VERSION, Vm,
    schema::{File, VmTable},
};

/// Guest memory is mapped in pages of this many bytes.
pub const MEMORY_GRANULE: u64 = 2 << 20;
/// A guest's command line may have this many bytes: Linux on x86 keeps 2,048 with the terminating zero.
pub const MAX_CMDLINE_BYTES: usize = 2047;
/// A path may have this many bytes: what the hand-off record of the boot application holds.
pub const MAX_PATH_BYTES: usize = 232;

/// Reads and checks the text of a configuration; `file_name` is how messages call it.
///
/// # Errors
/// The first thing that is wrong.
pub fn parse(file_name: &str, text: &str) -> Result<Config, ConfigError> {
    let place = Place { file_name, text };
    let document = DeTable::parse(text).map_err(|error| {
        place.error(error.span().unwrap_or(0..0), "", Problem::Syntax(one_line(error.message())))
    })?;
    let document = document.get_ref();
    check_version(&place, document)?;
    if let Some((key, value)) = document.get_key_value("vm")
        && value.get_ref().is_table()
    {
        return Err(place.error(key.span(), "vm", Problem::VmNotList));
    }
    let file: File = toml::from_str(text).map_err(|error| {
        let span = error.span().unwrap_or(0..0);
        let (key, is_key) = path_at(document, span.start);
        let near = if is_key { key.rsplit('.').next().and_then(nearest_key) } else { None };
        let words = one_line(error.message()).replace(" field `", " key `");
        place.error(span, &key, Problem::Schema(words, near))
    })?;
    let vms = check_vms(&place, document, file.vm)?;
    Ok(Config { hypervisor: Hypervisor { log: file.hypervisor.log }, vms })
}

/// The text, to turn offsets into lines.
struct Place<'a> {
    file_name: &'a str,
    text: &'a str,
}

impl Place<'_> {
    fn error(&self, span: Range<usize>, key: &str, problem: Problem) -> ConfigError {
        let before = self.text.get(..span.start).unwrap_or(self.text);
        let line_start = before.rfind('\n').map_or(0, |newline| newline + 1);
        ConfigError {
            file: self.file_name.to_owned(),
            line: before.matches('\n').count() + 1,
            column: before.get(line_start..).map_or(0, |line| line.chars().count()) + 1,
            key: key.to_owned(),
            problem,
        }
    }
}

fn check_version(place: &Place<'_>, document: &DeTable<'_>) -> Result<(), ConfigError> {
    let Some(value) = document.get("version") else {
        return Err(place.error(0..0, "version", Problem::NoVersion));
    };
    // A value of another type is left to the schema, which says so.
    let number = value
        .get_ref()
        .as_integer()
        .and_then(|integer| i64::from_str_radix(integer.as_str(), integer.radix()).ok());
    match number {
        Some(VERSION) | None => Ok(()),
        Some(other) => Err(place.error(value.span(), "version", Problem::Version(other))),
    }
}

fn check_vms(
    place: &Place<'_>,
    document: &DeTable<'_>,
    tables: Vec<VmTable>,
) -> Result<Vec<Vm>, ConfigError> {
    let count = tables.len();
    let mut vms: Vec<Vm> = Vec::with_capacity(count);
    for table in tables {
        let name_span = table.name.span();
        let vm = check_vm(place, table)?;
        if vms.iter().any(|earlier| earlier.name == vm.name) {
            return Err(place.error(name_span, "vm.name", Problem::DuplicateName(vm.name)));
        }
        vms.push(vm);
    }
    match count {
        1 => Ok(vms),
        0 => Err(place.error(0..0, "vm", Problem::NoVm)),
        _ => {
            let second = document
                .get("vm")
                .and_then(|list| list.get_ref().as_array()?.get(1).map(Spanned::span));
            Err(place.error(second.unwrap_or(0..0), "vm", Problem::SeveralVms(count)))
        }
    }
}

fn check_vm(place: &Place<'_>, table: VmTable) -> Result<Vm, ConfigError> {
    let checked = |value: Spanned<String>, key, check: fn(&str) -> Option<Problem>| {
        let span = value.span();
        let value = value.into_inner();
        check(&value).map_or(Ok(value), |problem| Err(place.error(span, key, problem)))
    };
    let memory_span = table.memory.span();
    Ok(Vm {
        name: checked(table.name, "vm.name", name_problem)?,
        memory_bytes: memory_bytes(table.memory.get_ref())
            .map_err(|problem| place.error(memory_span, "vm.memory", problem))?,
        kernel: checked(table.kernel, "vm.kernel", path_problem)?,
        initrd: table.initrd.map(|path| checked(path, "vm.initrd", path_problem)).transpose()?,
        cmdline: table
            .cmdline
            .map(|line| checked(line, "vm.cmdline", cmdline_problem))
            .transpose()?
            .unwrap_or_default(),
        test: table.test,
    })
}

fn name_problem(name: &str) -> Option<Problem> {
    let good = |c: char| c.is_ascii_alphanumeric() || c == '-' || c == '_';
    (name.is_empty() || !name.chars().all(good)).then(|| Problem::Name(name.to_owned()))
}

/// Bytes of a size such as `256M`: a number, then K, M, G, T or nothing.
fn memory_bytes(text: &str) -> Result<u64, Problem> {
    let digits = text.trim_end_matches(|c: char| !c.is_ascii_digit());
    let shift = match text.strip_prefix(digits) {
        Some("") => 0,
        Some("K") => 10,
        Some("M") => 20,
        Some("G") => 30,
        Some("T") => 40,
        _ => return Err(Problem::Size(text.to_owned())),
    };
    let bytes = Some(digits)
        .filter(|digits| digits.bytes().all(|byte| byte.is_ascii_digit()))
        .and_then(|digits| digits.parse::<u64>().ok())
        .and_then(|number| number.checked_mul(1 << shift))
        .ok_or_else(|| Problem::Size(text.to_owned()))?;
    if bytes == 0 || !bytes.is_multiple_of(MEMORY_GRANULE) {
        return Err(Problem::Memory(text.to_owned()));
    }
    Ok(bytes)
}

fn path_problem(path: &str) -> Option<Problem> {
    let forbidden =
        |c: char| c.is_control() || matches!(c, ':' | '*' | '?' | '"' | '<' | '>' | '|');
    let fault = if path.is_empty() {
        PathFault::Empty
    } else if path.contains('\\') {
        PathFault::Backslash
    } else if path.starts_with('/') {
        PathFault::Absolute
    } else if path.split('/').any(|part| part == "..") {
        PathFault::Parent
    } else if path.split('/').any(|part| part.is_empty() || part == ".") {
        PathFault::Part
    } else if let Some(character) = path.chars().find(|&c| forbidden(c)) {
        PathFault::Character(character)
    } else if path.len() > MAX_PATH_BYTES {
        PathFault::Length(path.len())
    } else {
        return None;
    };
    Some(Problem::Path(path.to_owned(), fault))
}

fn cmdline_problem(line: &str) -> Option<Problem> {
    if line.len() > MAX_CMDLINE_BYTES {
        return Some(Problem::CmdlineLength(line.len()));
    }
    line.chars().find(|c| c.is_control()).map(Problem::CmdlineCharacter)
}

/// The dotted path of the innermost key whose name or value covers the offset, and whether it is the name.
fn path_at(table: &DeTable<'_>, offset: usize) -> (String, bool) {
    let mut path = String::new();
    let is_key = extend_path(table, offset, &mut path);
    (path, is_key.unwrap_or(false))
}

fn extend_path(table: &DeTable<'_>, offset: usize, path: &mut String) -> Option<bool> {
    for (key, value) in table.iter() {
        let length = path.len();
        if !path.is_empty() {
            path.push('.');
        }
        path.push_str(key.get_ref());
        // Inner keys first: the span of a section is its header only, so what it holds lies outside.
        let inner = match value.get_ref() {
            DeValue::Table(inner) => extend_path(inner, offset, path),
            DeValue::Array(list) => list.iter().find_map(|item| {
                let within = item.get_ref().as_table().and_then(|t| extend_path(t, offset, path));
                within.or_else(|| item.span().contains(&offset).then_some(false))
            }),
            _ => None,
        };
        let here = || {
            let at_key = key.span().contains(&offset);
            (at_key || value.span().contains(&offset)).then_some(at_key)
        };
        if let Some(found) = inner.or_else(here) {
            return Some(found);
        }
        path.truncate(length);
    }
    None
}

/// The schema's key that is at most two edits away.
fn nearest_key(key: &str) -> Option<&'static str> {
    const KEYS: [&str; 12] = [
        "version",
        "hypervisor",
        "vm",
        "log",
        "name",
        "memory",
        "kernel",
        "initrd",
        "cmdline",
        "test",
        "exit-port",
        "withhold",
    ];
    KEYS.into_iter()
        .map(|known| (edits(key, known), known))
        .filter(|&(distance, known)| distance > 0 && distance <= known.len().min(6) / 3)
        .min()
        .map(|(_, known)| known)
}

/// Edit distance of two words (insertions, deletions, replacements).
fn edits(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.chars().collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, x) in a.chars().enumerate() {
        let mut next = Vec::with_capacity(row.len());
        next.push(i + 1);
        for ((pair, y), left) in row.windows(2).zip(&b).zip(0..) {
            let [diagonal, above] = *pair else { continue };
            let beside = next.get(left).copied().unwrap_or(usize::MAX - 1);
            next.push((diagonal + usize::from(x != *y)).min(above + 1).min(beside + 1));
        }
        row = next;
    }
    row.last().copied().unwrap_or(0)
}

/// The TOML reader's words in one line.
fn one_line(words: &str) -> String {
    words.lines().map(str::trim).collect::<Vec<_>>().join(", ").to_string()
}
