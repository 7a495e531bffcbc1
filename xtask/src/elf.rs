//! The kernel's ELF file without what only debuggers read: the boot volume need not hold it, nor firmware load it.
//!
//! Layouts: System V gABI, chapter 4 (file header) and chapter 5 (program header).

use std::ops::Range;

const MAGIC: &[u8; 4] = b"\x7fELF";
const PROGRAM_HEADERS: usize = 0x20;
const SECTION_HEADERS: usize = 0x28;
const PROGRAM_HEADER_BYTES: usize = 0x36;
const PROGRAM_HEADER_COUNT: usize = 0x38;
/// `e_shnum` and `e_shstrndx`.
const SECTION_COUNTS: std::ops::Range<usize> = 0x3c..0x40;

/// Cuts a 64-bit ELF file behind the last byte that a program header names. Another file stays as it is: whoever loads
/// it says what is wrong with it.
pub(crate) fn strip(mut file: Vec<u8>) -> Vec<u8> {
    if let Some(end) = end_of_segments(&file)
        && end <= file.len()
    {
        file[SECTION_HEADERS..SECTION_HEADERS + 8].fill(0);
        file[SECTION_COUNTS].fill(0);
        file.truncate(end);
    }
    file
}

/// Where a 64-bit ELF file's code is to lie in memory, and the bytes that all its segments take there.
pub(crate) fn footprint(file: &[u8]) -> Option<(Range<u64>, u64)> {
    const PT_LOAD: usize = 1;
    const EXECUTE: usize = 1;
    if !file.starts_with(MAGIC) {
        return None;
    }
    let (mut code, mut from, mut to) = (None, usize::MAX, 0);
    for number in 0..half(file, PROGRAM_HEADER_COUNT)? {
        let bytes = half(file, PROGRAM_HEADER_BYTES)?;
        let header = word(file, PROGRAM_HEADERS)?.checked_add(number.checked_mul(bytes)?)?;
        let field = |at: usize| word(file, header.checked_add(at)?);
        // Type and flags share a word.
        let kind = field(0)?;
        if kind & 0xffff_ffff != PT_LOAD {
            continue;
        }
        let (start, end) = (field(0x10)?, field(0x10)?.checked_add(field(0x28)?)?);
        (from, to) = (from.min(start), to.max(end));
        if kind >> 32 & EXECUTE != 0 {
            code = Some(start as u64..end as u64);
        }
    }
    Some((code?, (to - from) as u64))
}

fn end_of_segments(file: &[u8]) -> Option<usize> {
    if !file.starts_with(MAGIC) {
        return None;
    }
    let start = word(file, PROGRAM_HEADERS)?;
    let bytes = half(file, PROGRAM_HEADER_BYTES)?;
    let count = half(file, PROGRAM_HEADER_COUNT)?;
    let mut end = start.checked_add(bytes.checked_mul(count)?)?.max(SECTION_COUNTS.end);
    for number in 0..count {
        let header = start.checked_add(number.checked_mul(bytes)?)?;
        let (offset, size) =
            (word(file, header.checked_add(0x08)?)?, word(file, header.checked_add(0x20)?)?);
        end = end.max(offset.checked_add(size)?);
    }
    Some(end)
}

fn word(file: &[u8], at: usize) -> Option<usize> {
    let bytes = file.get(at..at.checked_add(8)?)?;
    usize::try_from(u64::from_le_bytes(bytes.try_into().ok()?)).ok()
}

fn half(file: &[u8], at: usize) -> Option<usize> {
    let bytes = file.get(at..at.checked_add(2)?)?;
    Some(u16::from_le_bytes(bytes.try_into().ok()?).into())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A file header, one program header for 16 bytes at 0x100, and 0x1000 bytes of something else behind them.
    fn file() -> Vec<u8> {
        let mut file = vec![0xaa; 0x1110];
        file[..0x78].fill(0);
        file[..4].copy_from_slice(MAGIC);
        file[PROGRAM_HEADERS] = 0x40;
        file[SECTION_HEADERS] = 0x99;
        file[PROGRAM_HEADER_BYTES] = 0x38;
        file[PROGRAM_HEADER_COUNT] = 1;
        file[SECTION_COUNTS].fill(7);
        file[0x49] = 1;
        file[0x60] = 0x10;
        file
    }

    #[test]
    fn all_behind_the_segments_is_cut_off() {
        let stripped = strip(file());
        assert_eq!(stripped.len(), 0x110);
        assert_eq!(stripped[0x40..], file()[0x40..0x110]);
        assert_eq!((stripped[SECTION_HEADERS], stripped[SECTION_COUNTS.start]), (0, 0));
    }

    #[test]
    fn a_file_that_is_cut_short_or_no_elf_stays_as_it_is() {
        for file in [vec![], b"MZ".to_vec(), file()[..0x50].to_vec(), file()[..0x105].to_vec()] {
            assert_eq!(strip(file.clone()), file);
        }
    }
}
