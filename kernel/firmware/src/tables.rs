//! From the RSDP to the tables (ACPI 6.5, 5.2.5 to 5.2.8).

use alloc::vec::Vec;
use core::fmt;

use hw::Hpa;

use crate::bytes;

/// Bytes of the header that all tables share.
pub(crate) const HEADER_BYTES: usize = 36;
/// A table longer than this is taken for garbage: the longest in the field are DSDTs of about 1 MiB.
const LONGEST: u64 = 16 << 20;

/// Where tables lie.
pub trait PhysicalMemory {
    /// The `bytes` from `at`; `None` where they cannot be reached.
    fn bytes(&self, at: Hpa, bytes: u64) -> Option<&'static [u8]>;
}

/// A table's signature.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Signature(pub [u8; 4]);

impl fmt::Debug for Signature {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl fmt::Display for Signature {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0.escape_ascii())
    }
}

/// Something wrong with a table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Problem {
    /// Which table.
    pub table: Signature,
    /// Where it lies; `None` for one that a disk brought.
    pub at: Option<Hpa>,
    /// What is wrong.
    pub trouble: Trouble,
}

/// What is wrong with a table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Trouble {
    /// It lies where no table can be: no memory, or memory that the map calls free. It is skipped.
    Unreachable,
    /// It has another signature than what points at it promises. It is skipped.
    Signature(Signature),
    /// Its length, in bytes, is too short for its header or longer than any table is. It is skipped.
    Length(u64),
    /// Its bytes do not sum up to zero. The firmware's is used all the same, a file's is skipped.
    Checksum,
    /// The entry at this offset is cut short or says that it has no bytes. What comes after it is not read.
    Entry(usize),
    /// The field at this offset makes no sense. It is not used.
    Field(usize),
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ACPI table {}", self.table)?;
        match self.at {
            Some(at) => write!(f, " at {at}: ")?,
            None => f.write_str(" from the boot volume: ")?,
        }
        match self.trouble {
            Trouble::Unreachable => f.write_str("no table can be there; skipped"),
            Trouble::Signature(found) => write!(f, "its signature is {found}; skipped"),
            Trouble::Length(bytes) => {
                write!(f, "a length of {bytes} bytes makes no sense; skipped")
            }
            Trouble::Checksum if self.at.is_none() => f.write_str("wrong checksum; skipped"),
            Trouble::Checksum => f.write_str("wrong checksum; used all the same"),
            Trouble::Entry(offset) => {
                write!(f, "the entry at offset {offset:#x} is malformed; the rest is not read")
            }
            Trouble::Field(offset) => {
                write!(f, "the field at offset {offset:#x} makes no sense; not used")
            }
        }
    }
}

/// A table that could be read.
#[derive(Clone, Copy)]
pub(crate) struct Table {
    pub(crate) signature: Signature,
    pub(crate) at: Option<Hpa>,
    pub(crate) bytes: &'static [u8],
}

impl Table {
    pub(crate) fn problem(&self, trouble: Trouble) -> Problem {
        Problem { table: self.signature, at: self.at, trouble }
    }

    /// A table that a disk brought, if it is one.
    fn from_file(bytes: &'static [u8], report: &mut impl FnMut(Problem)) -> Option<Self> {
        let signature = Signature(bytes::array(bytes, 0).unwrap_or([b'?'; 4]));
        let length = bytes::u32(bytes, 4).unwrap_or_default() as usize;
        let table = Self { signature, at: None, bytes: bytes.get(..length).unwrap_or(bytes) };
        if length < HEADER_BYTES || length > bytes.len() {
            report(table.problem(Trouble::Length(length as u64)));
            return None;
        }
        if !bytes::sums_to_zero(table.bytes) {
            report(table.problem(Trouble::Checksum));
            return None;
        }
        Some(table)
    }

    /// The OEM's name of the table, which tells apart those of one signature.
    fn oem_table_id(&self) -> [u8; 8] {
        bytes::array(self.bytes, 16).unwrap_or_default()
    }

    /// The table at `at`, whatever its signature.
    pub(crate) fn at(
        memory: &impl PhysicalMemory,
        at: Hpa,
        report: &mut impl FnMut(Problem),
    ) -> Option<Self> {
        let header = memory.bytes(at, HEADER_BYTES as u64).unwrap_or_default();
        let signature = Signature(bytes::array(header, 0).unwrap_or([b'?'; 4]));
        let mut table = Self { signature, at: Some(at), bytes: header };
        let Some(length) = bytes::u32(header, 4).map(u64::from) else {
            report(table.problem(Trouble::Unreachable));
            return None;
        };
        if length < HEADER_BYTES as u64 || length > LONGEST {
            report(table.problem(Trouble::Length(length)));
            return None;
        }
        let Some(bytes) = memory.bytes(at, length) else {
            report(table.problem(Trouble::Unreachable));
            return None;
        };
        table.bytes = bytes;
        if !bytes::sums_to_zero(bytes) {
            report(table.problem(Trouble::Checksum));
        }
        Some(table)
    }
}

/// A table that the boot volume brought and that is used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Brought {
    /// Its signature.
    pub signature: Signature,
    /// It took the place of one of the firmware's, rather than being added to them.
    pub replaces: bool,
}

impl fmt::Display for Brought {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ACPI table {} from the boot volume, ", self.signature)?;
        f.write_str(if self.replaces { "in place of the firmware's" } else { "added" })
    }
}

/// Tables of which a machine has several, told apart by their OEM table IDs (ACPI 6.5, table 5.5).
const SEVERAL: [Signature; 3] = [Signature(*b"SSDT"), Signature(*b"PSDT"), Signature(*b"UEFI")];

/// All tables that count: those from files, and those of the firmware's that none of them takes the place of.
pub(crate) fn all(
    memory: &impl PhysicalMemory,
    rsdp: Option<Hpa>,
    files: &[&'static [u8]],
    report: &mut impl FnMut(Problem),
) -> (Vec<Table>, Vec<Brought>) {
    let mut tables: Vec<Table> =
        files.iter().filter_map(|file| Table::from_file(file, report)).collect();
    let note = |table: &Table| Brought { signature: table.signature, replaces: false };
    let mut brought: Vec<Brought> = tables.iter().map(note).collect();
    let firmware = firmware(memory, rsdp, report);
    for table in &firmware {
        let same = |other: &Table| other.signature == table.signature;
        let one_of_several =
            SEVERAL.contains(&table.signature) || firmware.iter().filter(|t| same(t)).count() > 1;
        // Only files are in the front, as many as there are notes.
        let place = brought.iter_mut().zip(&tables).find(|(_, file)| {
            same(file) && (!one_of_several || file.oem_table_id() == table.oem_table_id())
        });
        match place {
            Some((note, _)) => note.replaces = true,
            None => tables.push(*table),
        }
    }
    (tables, brought)
}

/// The firmware's tables.
fn firmware(
    memory: &impl PhysicalMemory,
    rsdp: Option<Hpa>,
    report: &mut impl FnMut(Problem),
) -> Vec<Table> {
    let mut tables = Vec::new();
    let Some((root, width)) = rsdp.and_then(|at| root(memory, at, report)) else { return tables };
    let entries = root.bytes.get(HEADER_BYTES..).unwrap_or_default();
    if entries.len() % width != 0 {
        let whole = entries.len() / width * width;
        report(root.problem(Trouble::Entry(HEADER_BYTES + whole)));
    }
    for entry in entries.chunks_exact(width) {
        let at = match width {
            8 => bytes::u64(entry, 0),
            _ => bytes::u32(entry, 0).map(u64::from),
        };
        // Null entries are common and harmless.
        let at = at.filter(|&raw| raw != 0).map(Hpa::new);
        tables.extend(at.and_then(|at| Table::at(memory, at, report)));
    }
    tables
}

/// The table of tables, and the bytes of each of its entries: the XSDT where there is one, else the RSDT.
fn root(
    memory: &impl PhysicalMemory,
    at: Hpa,
    report: &mut impl FnMut(Problem),
) -> Option<(Table, usize)> {
    const FIRST_VERSION_BYTES: u64 = 20;
    const BYTES: u64 = 36;
    let mut tell = |trouble| {
        report(Problem { table: Signature(*b"RSDP"), at: Some(at), trouble });
    };
    let Some(rsdp) = memory.bytes(at, FIRST_VERSION_BYTES) else {
        tell(Trouble::Unreachable);
        return None;
    };
    if !rsdp.starts_with(b"RSD PTR ") {
        tell(Trouble::Signature(Signature(bytes::array(rsdp, 0)?)));
        return None;
    }
    if !bytes::sums_to_zero(rsdp) {
        tell(Trouble::Checksum);
    }
    let extended = if bytes::u8(rsdp, 15)? >= 2 { memory.bytes(at, BYTES) } else { None };
    if extended.is_some_and(|bytes| !bytes::sums_to_zero(bytes)) {
        tell(Trouble::Checksum);
    }
    let xsdt = extended.and_then(|rsdp| bytes::address(rsdp, 24));
    let rsdt = bytes::u32(rsdp, 16).filter(|&raw| raw != 0).map(|raw| Hpa::new(raw.into()));
    let candidates = [(xsdt, *b"XSDT", 8), (rsdt, *b"RSDT", 4)];
    for (at, signature, width) in candidates {
        let Some(table) = at.and_then(|at| Table::at(memory, at, report)) else { continue };
        if table.signature == Signature(signature) {
            return Some((table, width));
        }
        let wanted = Table { signature: Signature(signature), ..table };
        report(wanted.problem(Trouble::Signature(table.signature)));
    }
    None
}
