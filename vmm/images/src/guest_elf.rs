//! Guest kernels as ELF executables, 32- or 64-bit, placed by their physical addresses (System V gABI, chapters 4 and 5),
//! and the note by which one says that it starts as PVH guests do (Xen, xen/include/public/elfnote.h and
//! docs/misc/pvh.pandoc).

use core::{fmt, ops::Range};

use crate::bytes::{array_at, u16_at, u32_at, u64_at};

/// `p_type`: loaded into memory; notes.
const PT_LOAD: u32 = 1;
const PT_NOTE: u32 = 4;
/// `e_machine`: 80386, x86-64.
const MACHINES: [u16; 2] = [3, 62];
/// `e_type` of an executable.
const ET_EXEC: u16 = 2;
/// The note with the 32-bit entry's physical address.
const PHYS32_ENTRY: u32 = 18;
const XEN: &[u8] = b"Xen\0";
/// A protected-mode kernel without paging reaches this far.
const FOUR_GIB: u64 = 1 << 32;

/// An executable, its headers checked.
#[derive(Clone, Copy, Debug)]
pub struct GuestElf<'a> {
    file: &'a [u8],
    program_headers: &'a [u8],
    form: Form,
    /// `e_entry`.
    pub entry: u64,
}

/// A part that is loaded. Segments may be in any order, and nothing is promised of how they lie to each other.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Segment {
    /// Its bytes in the file.
    pub file: Range<usize>,
    /// Physical start. The end is at most 4 GiB.
    pub paddr: u64,
    /// Bytes in memory: at least as many as in the file; the rest is zero.
    pub memory_bytes: u64,
}

impl Segment {
    /// Physical end.
    #[must_use]
    pub fn end(&self) -> u64 {
        self.paddr.saturating_add(self.memory_bytes)
    }
}

/// Where the fields of ELF32 and ELF64 are.
#[derive(Clone, Copy, Debug)]
struct Form {
    is_64: bool,
    header_bytes: usize,
    program_header_bytes: u16,
}

const ELF32: Form = Form { is_64: false, header_bytes: 52, program_header_bytes: 32 };
const ELF64: Form = Form { is_64: true, header_bytes: 64, program_header_bytes: 56 };

impl Form {
    /// The word, as wide as an address, at one of two offsets.
    fn word(self, bytes: &[u8], at_32: usize, at_64: usize) -> Option<u64> {
        if self.is_64 { u64_at(bytes, at_64) } else { u32_at(bytes, at_32).map(u64::from) }
    }
}

/// Why a file cannot be loaded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Error {
    /// It does not begin as an ELF file.
    NotElf,
    /// An ELF file, but not an executable for x86.
    Foreign,
    /// It ends this many bytes early.
    Truncated(u64),
    /// Its program headers are of another size than the standard's.
    HeaderBytes(u16),
    /// Nothing in it is to be loaded.
    NoSegments,
    /// This segment has more bytes in the file than in memory.
    Sizes(usize),
    /// This segment reaches past 4 GiB of physical memory.
    High(usize),
    /// A note of this program header is cut short.
    Note(usize),
    /// It has no note with a PVH entry.
    NoPvhEntry,
    /// The entry lies in no segment.
    Entry(u64),
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotElf => write!(f, "not an ELF file"),
            Self::Foreign => write!(f, "an ELF file, but not an executable for x86"),
            Self::Truncated(missing) => write!(f, "cut short: {missing} bytes are missing"),
            Self::HeaderBytes(bytes) => {
                write!(f, "damaged: program headers of {bytes} bytes are not ELF's")
            }
            Self::NoSegments => write!(f, "nothing in it is to be loaded"),
            Self::Sizes(index) => write!(
                f,
                "damaged: program header {index} names more bytes in the file than in memory"
            ),
            Self::High(index) => {
                write!(f, "program header {index} wants physical memory above 4 GiB")
            }
            Self::Note(index) => {
                write!(f, "damaged: a note of program header {index} is cut short")
            }
            Self::NoPvhEntry => {
                write!(f, "an ELF file without the note XEN_ELFNOTE_PHYS32_ENTRY of a PVH kernel")
            }
            Self::Entry(entry) => write!(f, "damaged: its entry {entry:#x} is in no segment"),
        }
    }
}

impl core::error::Error for Error {}

impl<'a> GuestElf<'a> {
    /// Reads and checks the headers of a whole file.
    ///
    /// # Errors
    /// The first thing that is wrong.
    pub fn parse(file: &'a [u8]) -> Result<Self, Error> {
        if !file.starts_with(b"\x7fELF") {
            return Err(Error::NotElf);
        }
        let short = |bytes: usize| Error::Truncated(bytes.saturating_sub(file.len()) as u64);
        // Class and byte order.
        let form = match array_at(file, 4).ok_or(short(6))? {
            [1, 1] => ELF32,
            [2, 1] => ELF64,
            _ => return Err(Error::Foreign),
        };
        let short = short(form.header_bytes);
        let header = file.get(..form.header_bytes).ok_or(short)?;
        let half =
            |at_32, at_64| u16_at(header, if form.is_64 { at_64 } else { at_32 }).ok_or(short);
        if half(16, 16)? != ET_EXEC || !MACHINES.contains(&half(18, 18)?) {
            return Err(Error::Foreign);
        }
        let (bytes, count) = (half(42, 54)?, half(44, 56)?);
        if count == 0 {
            return Err(Error::NoSegments);
        }
        if bytes != form.program_header_bytes {
            return Err(Error::HeaderBytes(bytes));
        }
        let start = form.word(header, 28, 32).ok_or(short)?;
        let program_headers = part(file, start, u64::from(count) * u64::from(bytes))?;
        let entry = form.word(header, 24, 24).ok_or(short)?;
        let elf = Self {
            file,
            program_headers: file.get(program_headers).unwrap_or_default(),
            form,
            entry,
        };
        let mut found = false;
        for (index, header) in elf.headers(PT_LOAD) {
            found |= elf.segment(index, header)?.memory_bytes > 0;
        }
        if found { Ok(elf) } else { Err(Error::NoSegments) }
    }

    /// The segments to load, in the file's order.
    pub fn segments(&self) -> impl Iterator<Item = Segment> + '_ {
        self.headers(PT_LOAD)
            .filter_map(|(index, header)| self.segment(index, header).ok())
            .filter(|segment| segment.memory_bytes > 0)
    }

    /// Whether a physical address lies in a segment.
    #[must_use]
    pub fn holds(&self, paddr: u64) -> bool {
        self.segments().any(|segment| (segment.paddr..segment.end()).contains(&paddr))
    }

    /// The physical address of the PVH entry.
    ///
    /// # Errors
    /// There is no such note, or it is damaged, or names a place outside of all segments.
    pub fn pvh_entry(&self) -> Result<u32, Error> {
        for (index, header) in self.headers(PT_NOTE) {
            let field = |at_32, at_64| self.form.word(header, at_32, at_64).unwrap_or_default();
            let notes = part(self.file, field(4, 8), field(16, 32))?;
            let alignment = if field(28, 48) == 8 { 8 } else { 4 };
            let notes = self.file.get(notes).unwrap_or_default();
            if let Some(entry) = xen_entry(notes, alignment).ok_or(Error::Note(index))? {
                let low = u32::try_from(entry).ok().filter(|_| self.holds(entry));
                return low.ok_or(Error::Entry(entry));
            }
        }
        Err(Error::NoPvhEntry)
    }

    /// The program headers of a type, each with its index.
    fn headers(&self, kind: u32) -> impl Iterator<Item = (usize, &'a [u8])> + 'a {
        self.program_headers
            .chunks_exact(usize::from(self.form.program_header_bytes))
            .enumerate()
            .filter(move |(_, header)| u32_at(header, 0) == Some(kind))
    }

    fn segment(&self, index: usize, header: &[u8]) -> Result<Segment, Error> {
        let field = |at_32, at_64| self.form.word(header, at_32, at_64).unwrap_or_default();
        let file_bytes = field(16, 32);
        let segment = Segment {
            file: part(self.file, field(4, 8), file_bytes)?,
            paddr: field(12, 24),
            memory_bytes: field(20, 40),
        };
        if file_bytes > segment.memory_bytes {
            return Err(Error::Sizes(index));
        }
        if segment.end() > FOUR_GIB {
            return Err(Error::High(index));
        }
        Ok(segment)
    }
}

/// The value of the Xen entry note among these notes; the outer `None` where a note is cut short.
fn xen_entry(notes: &[u8], alignment: usize) -> Option<Option<u64>> {
    let mut rest = notes;
    while !rest.is_empty() {
        let name_bytes = u32_at(rest, 0)? as usize;
        let value_bytes = u32_at(rest, 4)? as usize;
        let kind = u32_at(rest, 8)?;
        let name = rest.get(12..)?.get(..name_bytes)?;
        let value_start = (12 + name_bytes).checked_next_multiple_of(alignment)?;
        let value = rest.get(value_start..)?.get(..value_bytes)?;
        if name == XEN && kind == PHYS32_ENTRY {
            return match value_bytes {
                4 => Some(u32_at(value, 0).map(u64::from)),
                8 => Some(u64_at(value, 0)),
                _ => None,
            };
        }
        // The last note's padding may be missing.
        let next = (value_start + value_bytes).checked_next_multiple_of(alignment)?;
        rest = rest.get(next..).unwrap_or_default();
    }
    Some(None)
}

/// The range of a part that the file's headers promise.
fn part(file: &[u8], offset: u64, bytes: u64) -> Result<Range<usize>, Error> {
    if bytes == 0 {
        return Ok(0..0);
    }
    let end = offset.saturating_add(bytes);
    match end.saturating_sub(file.len() as u64) {
        0 => Ok(offset as usize..end as usize),
        missing => Err(Error::Truncated(missing)),
    }
}

#[cfg(test)]
pub(crate) mod tests;
