//! Kerf's own kernel: a statically linked ELF64 executable for x86-64 (System V gABI, chapters 4 and 5).
//!
//! [`Kernel::parse`] checks all that a loader relies on: bounds, order, rights of its segments, and that each has pages
//! of its own.

use core::{fmt, ops::Range};

use crate::bytes::{array_at, u16_at, u32_at, u64_at};

const PAGE: u64 = 4096;
const HEADER_BYTES: usize = 64;
const PROGRAM_HEADER_BYTES: u16 = 56;
/// `p_type`: loaded into memory.
const PT_LOAD: u32 = 1;
/// `p_flags`.
const PF_X: u32 = 1;
const PF_W: u32 = 2;

/// An executable, checked.
#[derive(Clone, Copy, Debug)]
pub struct Kernel<'a> {
    file: &'a [u8],
    program_headers: &'a [u8],
    /// Virtual address of the first instruction.
    pub entry: u64,
}

/// A part of the executable that is loaded.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Segment {
    /// Its bytes in the file.
    pub file: Range<usize>,
    /// Virtual start.
    pub vaddr: u64,
    /// Bytes in memory: at least as many as in the file; the rest is zero.
    pub memory_bytes: u64,
    /// Whether it is stored to.
    pub write: bool,
    /// Whether it is executed.
    pub execute: bool,
}

/// Why a file cannot be loaded as a kernel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Error {
    /// It does not begin as an ELF file.
    NotElf,
    /// An ELF file, but not an executable for x86-64.
    Foreign,
    /// It ends this many bytes early.
    Truncated(u64),
    /// Nothing in it is to be loaded.
    NoSegments,
    /// The program header of this index contradicts itself or its neighbours.
    Segment(usize),
    /// The segment of this program header is both written and executed.
    WriteExecute(usize),
    /// The entry lies in no executable segment.
    Entry(u64),
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotElf => write!(f, "not an ELF file"),
            Self::Foreign => write!(f, "not a 64-bit ELF executable for x86-64"),
            Self::Truncated(missing) => write!(f, "cut short: {missing} bytes are missing"),
            Self::NoSegments => write!(f, "nothing in it is to be loaded"),
            Self::Segment(index) => write!(f, "damaged: program header {index} makes no sense"),
            Self::WriteExecute(index) => {
                write!(f, "program header {index} asks for memory both writable and executable")
            }
            Self::Entry(entry) => {
                write!(f, "damaged: its entry {entry:#x} is in no executable segment")
            }
        }
    }
}

impl core::error::Error for Error {}

impl<'a> Kernel<'a> {
    /// Reads and checks the headers of a whole file.
    ///
    /// # Errors
    /// The first thing that is wrong.
    pub fn parse(file: &'a [u8]) -> Result<Self, Error> {
        if !file.starts_with(b"\x7fELF") {
            return Err(Error::NotElf);
        }
        let short = Error::Truncated((HEADER_BYTES as u64).saturating_sub(file.len() as u64));
        let header: [u8; HEADER_BYTES] = array_at(file, 0).ok_or(short)?;
        let u16_field = |offset| u16_at(&header, offset).ok_or(short);
        // Class 64-bit, little-endian; e_type ET_EXEC, e_machine EM_X86_64.
        let class: [u8; 2] = array_at(file, 4).ok_or(short)?;
        if class != [2, 1] || u16_field(16)? != 2 || u16_field(18)? != 62 {
            return Err(Error::Foreign);
        }
        let count = u16_field(56)?;
        if count == 0 || u16_field(54)? != PROGRAM_HEADER_BYTES {
            return Err(Error::NoSegments);
        }
        let u64_field = |offset| u64_at(&header, offset).ok_or(short);
        let program_headers =
            part(file, u64_field(32)?, u64::from(count) * u64::from(PROGRAM_HEADER_BYTES))?;
        // Linkers put the section headers last: what is missing of them is missing of the file.
        let (sections, section_bytes) = (u16_field(60)?, u16_field(58)?);
        part(file, u64_field(40)?, u64::from(sections) * u64::from(section_bytes))?;
        let kernel = Self {
            file,
            program_headers: file.get(program_headers).unwrap_or_default(),
            entry: u64_field(24)?,
        };
        kernel.check()?;
        Ok(kernel)
    }

    /// The segments to load, in ascending order of address; no two share a page.
    pub fn segments(&self) -> impl Iterator<Item = Segment> + '_ {
        self.headers().filter_map(|(_, segment)| segment.ok())
    }

    /// A segment's bytes in the file; the rest of it is zero.
    #[must_use]
    pub fn bytes(&self, segment: &Segment) -> &'a [u8] {
        self.file.get(segment.file.clone()).unwrap_or_default()
    }

    /// The virtual addresses from the first segment's start to the last one's end, rounded to pages.
    #[must_use]
    pub fn pages(&self) -> Range<u64> {
        let start = self.segments().next().map_or(0, |first| first.vaddr / PAGE * PAGE);
        start..self.segments().last().map_or(start, |last| last.page_end().unwrap_or(start))
    }

    fn headers(&self) -> impl Iterator<Item = (usize, Result<Segment, Error>)> + '_ {
        self.program_headers
            .chunks_exact(usize::from(PROGRAM_HEADER_BYTES))
            .enumerate()
            .filter(|(_, header)| u32_at(header, 0) == Some(PT_LOAD))
            .map(|(index, header)| (index, self.segment(index, header)))
            // A segment without bytes is one that the linker had no use for.
            .filter(|(_, segment)| !matches!(segment, Ok(Segment { memory_bytes: 0, .. })))
    }

    fn segment(&self, index: usize, header: &[u8]) -> Result<Segment, Error> {
        let bad = Error::Segment(index);
        let u64_field = |offset| u64_at(header, offset).ok_or(bad);
        let flags = u32_at(header, 4).ok_or(bad)?;
        let file_bytes = u64_field(32)?;
        let segment = Segment {
            file: part(self.file, u64_field(8)?, file_bytes)?,
            vaddr: u64_field(16)?,
            memory_bytes: u64_field(40)?,
            write: flags & PF_W != 0,
            execute: flags & PF_X != 0,
        };
        if file_bytes > segment.memory_bytes || segment.page_end().is_none() {
            return Err(bad);
        }
        if segment.write && segment.execute {
            return Err(Error::WriteExecute(index));
        }
        Ok(segment)
    }

    fn check(&self) -> Result<(), Error> {
        let mut end = None;
        let mut entry_found = false;
        for (index, segment) in self.headers() {
            let segment = segment?;
            if end.is_some_and(|end| segment.vaddr / PAGE * PAGE < end) {
                return Err(Error::Segment(index));
            }
            end = segment.page_end();
            let offset = self.entry.checked_sub(segment.vaddr);
            entry_found |= segment.execute && offset.is_some_and(|at| at < segment.memory_bytes);
        }
        match (end, entry_found) {
            (None, _) => Err(Error::NoSegments),
            (Some(_), false) => Err(Error::Entry(self.entry)),
            (Some(_), true) => Ok(()),
        }
    }
}

impl Segment {
    /// The end of its last page, `None` where that is no address.
    #[must_use]
    pub fn page_end(&self) -> Option<u64> {
        self.vaddr.checked_add(self.memory_bytes)?.checked_next_multiple_of(PAGE)
    }
}

/// The range of a part that the file's headers promise.
fn part(file: &[u8], offset: u64, bytes: u64) -> Result<Range<usize>, Error> {
    let end = offset.saturating_add(bytes);
    let missing = end.saturating_sub(file.len() as u64);
    if bytes > 0 && missing > 0 {
        return Err(Error::Truncated(missing));
    }
    // Both fit where the part has bytes: neither is above the file's length.
    Ok(if bytes == 0 { 0..0 } else { offset as usize..end as usize })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const BASE: u64 = 0xffff_ffff_8000_0000;
    const FILE_BYTES: usize = 0x1400;

    fn put(file: &mut [u8], offset: usize, bytes: &[u8]) {
        file[offset..offset + bytes.len()].copy_from_slice(bytes);
    }

    fn header(file: &mut [u8], index: usize, fields: [u64; 5]) {
        let at = 64 + 56 * index;
        let [flags, offset, vaddr, file_bytes, memory_bytes] = fields;
        put(file, at, &1u32.to_le_bytes());
        put(file, at + 4, &(flags as u32).to_le_bytes());
        for (slot, value) in
            [(8, offset), (16, vaddr), (24, vaddr), (32, file_bytes), (40, memory_bytes)]
        {
            put(file, at + slot, &value.to_le_bytes());
        }
    }

    /// Text, then data with zeros behind, and one section header at the end.
    fn kernel() -> Vec<u8> {
        let mut file = vec![0; FILE_BYTES];
        put(&mut file, 0, b"\x7fELF\x02\x01\x01");
        put(&mut file, 16, &[2, 0, 62, 0, 1]);
        put(&mut file, 24, &(BASE + 0x10).to_le_bytes());
        put(&mut file, 32, &64u64.to_le_bytes());
        put(&mut file, 40, &(FILE_BYTES as u64 - 64).to_le_bytes());
        put(&mut file, 52, &[64, 0, 56, 0, 3, 0, 64, 0, 1, 0]);
        header(&mut file, 0, [5, 0x200, BASE, 0x800, 0x800]);
        header(&mut file, 1, [6, 0x1000, BASE + 0x2345, 0x100, 0x3000]);
        put(&mut file, 64 + 112, &7u32.to_le_bytes());
        file
    }

    fn damaged(offset: usize, bytes: &[u8]) -> Error {
        let mut file = kernel();
        put(&mut file, offset, bytes);
        Kernel::parse(&file).unwrap_err()
    }

    #[test]
    fn segments_are_read() {
        let file = kernel();
        let kernel = Kernel::parse(&file).unwrap();
        assert_eq!(kernel.entry, BASE + 0x10);
        assert_eq!(kernel.pages(), BASE..BASE + 0x6000);
        assert_eq!(
            kernel.segments().collect::<Vec<_>>(),
            [
                Segment {
                    file: 0x200..0xa00,
                    vaddr: BASE,
                    memory_bytes: 0x800,
                    write: false,
                    execute: true
                },
                Segment {
                    file: 0x1000..0x1100,
                    vaddr: BASE + 0x2345,
                    memory_bytes: 0x3000,
                    write: true,
                    execute: false
                },
            ]
        );
    }

    #[test]
    fn segments_have_their_bytes() {
        let mut file = kernel();
        file[0x1000] = 7;
        let kernel = Kernel::parse(&file).unwrap();
        let data = kernel.bytes(&kernel.segments().last().unwrap());
        assert_eq!((data.len(), data[0]), (0x100, 7));
    }

    #[test]
    fn every_cut_is_found() {
        let file = kernel();
        for bytes in 4..file.len() {
            let missing = match Kernel::parse(&file[..bytes]) {
                Err(Error::Truncated(missing)) => missing,
                other => panic!("{bytes}: {other:?}"),
            };
            assert!(missing >= 1 && missing <= (file.len() - bytes) as u64);
        }
        assert_eq!(
            Kernel::parse(&file[..FILE_BYTES - 10]).unwrap_err().to_string(),
            "cut short: 10 bytes are missing"
        );
    }

    #[test]
    fn other_files_are_told_apart() {
        assert_eq!(Kernel::parse(b"").unwrap_err(), Error::NotElf);
        assert_eq!(damaged(0, b"MZ"), Error::NotElf);
        assert_eq!(damaged(4, &[1]), Error::Foreign);
        assert_eq!(damaged(16, &[3]), Error::Foreign);
        assert_eq!(damaged(18, &[183]), Error::Foreign);
        assert_eq!(damaged(56, &[0]), Error::NoSegments);
    }

    #[test]
    fn contradicting_headers_are_refused() {
        // More bytes in the file than in memory; an end past all addresses; a page shared with the text.
        assert_eq!(damaged(64 + 56 + 40, &[0; 8]), Error::Segment(1));
        assert_eq!(damaged(64 + 56 + 40, &[0xff; 8]), Error::Segment(1));
        assert_eq!(damaged(64 + 56 + 16, &(BASE + 0x900).to_le_bytes()), Error::Segment(1));
        assert_eq!(damaged(64 + 4, &[7]), Error::WriteExecute(0));
        assert_eq!(damaged(24, &(BASE + 0x2345).to_le_bytes()), Error::Entry(BASE + 0x2345));
        assert_eq!(damaged(64 + 8, &[0xff; 8]), Error::Truncated(u64::MAX - FILE_BYTES as u64));
    }

    proptest! {
        #[test]
        fn arbitrary_bytes_never_panic(tail in prop::collection::vec(any::<u8>(), 0..512)) {
            let mut file = kernel();
            file.truncate(16);
            file.extend(tail);
            let _ = Kernel::parse(&file);
        }

        #[test]
        fn damaged_kernels_stay_in_bounds(at in 0usize..232, word: u64) {
            let mut file = kernel();
            put(&mut file, at, &word.to_le_bytes());
            if let Ok(kernel) = Kernel::parse(&file) {
                for segment in kernel.segments() {
                    prop_assert!(segment.file.end <= file.len());
                    prop_assert!(kernel.pages().contains(&segment.vaddr));
                }
            }
        }
    }
}
