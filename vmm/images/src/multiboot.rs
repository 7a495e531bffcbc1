//! Multiboot 1 kernels: the header in a file's first 8 KiB (Multiboot Specification 0.6.96, 3.1).

use core::fmt;

use crate::{
    bytes::u32_at,
    guest_elf::{self, GuestElf, Segment},
};

/// The header begins with this.
const MAGIC: u32 = 0x1bad_b002;
/// It lies whole within this many bytes of the file.
const SEARCHED: usize = 8192;
/// `flags`: modules on page boundaries; memory information: what Kerf gives in any case.
const KNOWN_FLAGS: u32 = 0b11;
/// `flags`, bits that a loader must understand.
const REQUIRED_FLAGS: u32 = 0xffff;
/// `flags`: the header's own address fields say what is loaded, not the ELF headers.
const ADDRESS_FIELDS: u32 = 1 << 16;

/// A kernel, its headers checked.
#[derive(Clone, Debug)]
pub enum Multiboot<'a> {
    /// Loaded as its ELF headers say.
    Elf(GuestElf<'a>),
    /// One segment, as the Multiboot header says, and the physical address of the entry.
    Flat(Segment, u32),
}

/// Why a file cannot be started.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Error {
    /// There is no magic number.
    NoMagic,
    /// The header at this offset does not add up to zero.
    Checksum(usize),
    /// The header at this offset is cut short by the file's end or by 8 KiB.
    Cut(usize),
    /// It demands what Kerf does not have.
    Flags(u32),
    /// The address field of this name contradicts another.
    Field(&'static str),
    /// Its ELF headers.
    Elf(guest_elf::Error),
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoMagic => {
                write!(f, "no Multiboot kernel: its first 8 KiB hold no 0x1badb002")
            }
            Self::Checksum(at) => {
                write!(f, "its Multiboot header at byte {at:#x} does not add up to zero")
            }
            Self::Cut(at) => write!(f, "its Multiboot header at byte {at:#x} is cut short"),
            Self::Flags(flags) => write!(
                f,
                "its Multiboot header demands flags {flags:#x} (4: a video mode), which Kerf does not offer"
            ),
            Self::Field(field) => {
                write!(f, "damaged: its Multiboot header's {field} contradicts the others")
            }
            Self::Elf(error) => write!(f, "{error}"),
        }
    }
}

impl core::error::Error for Error {}

impl<'a> Multiboot<'a> {
    /// Whether a header with the right sum is there.
    #[must_use]
    pub fn is_there(file: &[u8]) -> bool {
        find(file).is_ok()
    }

    /// Reads and checks the headers of a whole file.
    ///
    /// # Errors
    /// The first thing that is wrong.
    pub fn parse(file: &'a [u8]) -> Result<Self, Error> {
        let at = find(file)?;
        let field = |index: usize| {
            let offset = at + 4 * index;
            u32_at(file, offset).filter(|_| offset + 4 <= SEARCHED).ok_or(Error::Cut(at))
        };
        let flags = field(1)?;
        let unknown = flags & REQUIRED_FLAGS & !KNOWN_FLAGS;
        if unknown != 0 {
            return Err(Error::Flags(unknown));
        }
        if flags & ADDRESS_FIELDS == 0 {
            let elf = GuestElf::parse(file).map_err(Error::Elf)?;
            let low = u32::try_from(elf.entry).is_ok() && elf.holds(elf.entry);
            return if low {
                Ok(Self::Elf(elf))
            } else {
                Err(Error::Elf(guest_elf::Error::Entry(elf.entry)))
            };
        }
        let fields = [field(3)?, field(4)?, field(5)?, field(6)?, field(7)?];
        flat(file.len(), at, fields)
    }

    /// The segments to load.
    pub fn segments(&self) -> impl Iterator<Item = Segment> + '_ {
        let (elf, flat) = match self {
            Self::Elf(elf) => (Some(elf), None),
            Self::Flat(segment, _) => (None, Some(segment.clone())),
        };
        elf.into_iter().flat_map(GuestElf::segments).chain(flat)
    }

    /// The physical address of the 32-bit entry.
    #[must_use]
    pub fn entry(&self) -> u32 {
        match self {
            // Checked to be low.
            Self::Elf(elf) => elf.entry as u32,
            Self::Flat(_, entry) => *entry,
        }
    }
}

/// The offset of the first header with the right sum; else what is wrong with the first magic number.
fn find(file: &[u8]) -> Result<usize, Error> {
    let mut wrong = Error::NoMagic;
    let searched = file.get(..SEARCHED).unwrap_or(file);
    for at in (0..searched.len()).step_by(4) {
        if u32_at(searched, at) != Some(MAGIC) {
            continue;
        }
        let sum = u32_at(searched, at + 4).zip(u32_at(searched, at + 8));
        let problem = match sum {
            Some((flags, sum)) if MAGIC.wrapping_add(flags).wrapping_add(sum) == 0 => {
                return Ok(at);
            }
            Some(_) => Error::Checksum(at),
            None => Error::Cut(at),
        };
        if wrong == Error::NoMagic {
            wrong = problem;
        }
    }
    Err(wrong)
}

/// The one segment that the address fields describe: header_addr, load_addr, load_end_addr, bss_end_addr, entry_addr.
fn flat<'a>(file_bytes: usize, at: usize, fields: [u32; 5]) -> Result<Multiboot<'a>, Error> {
    let [header, load, load_end, bss_end, entry] = fields;
    // The file's bytes are in memory as they are in the file, and the header is one of them.
    let before = header.checked_sub(load).ok_or(Error::Field("load_addr"))?;
    let start = at.checked_sub(before as usize).ok_or(Error::Field("header_addr"))?;
    let end = match load_end {
        0 => file_bytes,
        end => {
            let bytes = end.checked_sub(load).ok_or(Error::Field("load_end_addr"))?;
            let end = start + bytes as usize;
            let missing = end.saturating_sub(file_bytes);
            if missing > 0 {
                return Err(Error::Elf(guest_elf::Error::Truncated(missing as u64)));
            }
            end
        }
    };
    let mut memory_bytes = (end - start) as u64;
    if bss_end != 0 {
        let bytes = bss_end.checked_sub(load).map(u64::from);
        memory_bytes =
            bytes.filter(|bytes| *bytes >= memory_bytes).ok_or(Error::Field("bss_end_addr"))?;
    }
    let segment = Segment { file: start..end, paddr: load.into(), memory_bytes };
    if segment.end() > 1 << 32 {
        return Err(Error::Field("load_addr"));
    }
    if !(segment.paddr..segment.end()).contains(&entry.into()) {
        return Err(Error::Field("entry_addr"));
    }
    Ok(Multiboot::Flat(segment, entry))
}

#[cfg(test)]
mod tests;
