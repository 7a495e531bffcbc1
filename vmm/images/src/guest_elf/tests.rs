//! Sound ELF files in both widths, and each way in which one is wild.

use proptest::prelude::*;

use super::*;

pub(crate) const BASE: u32 = 0x10_0000;

/// An ELF file with a text, a data segment with zeros behind, and a note with the PVH entry; addresses of `width` bytes.
pub(crate) fn elf(width: usize, note_bytes: usize) -> Vec<u8> {
    let is_64 = width == 8;
    let mut file = vec![0; 0x2000];
    let mut put = |at: usize, value: u64, bytes: usize| {
        file[at..at + bytes].copy_from_slice(&value.to_le_bytes()[..bytes]);
    };
    put(0, u64::from_le_bytes(*b"\x7fELF\x01\x01\x01\0"), 8);
    put(4, if is_64 { 2 } else { 1 }, 1);
    put(16, 2, 2);
    put(18, if is_64 { 62 } else { 3 }, 2);
    put(24, u64::from(BASE) + 0x10, width);
    let (header, size, sizes_at) = if is_64 { (64, 56, 52) } else { (52, 32, 40) };
    put(24 + width, header, width);
    put(sizes_at, header, 2);
    put(sizes_at + 2, size, 2);
    put(sizes_at + 4, 3, 2);
    let base = u64::from(BASE);
    let note = 16 + note_bytes as u64;
    let headers = [
        [1, 0x1000, base, 0x800, 0x800, 0x1000],
        [1, 0x1800, base + 0x2000, 0x100, 0x3000, 0x1000],
        [4, 0x1900, base + 0x3000, note, note, 4],
    ];
    for (index, fields) in headers.into_iter().enumerate() {
        let at = (header + size * index as u64) as usize;
        let offsets = if is_64 { [0, 8, 24, 32, 40, 48] } else { [0, 4, 12, 16, 20, 28] };
        for (number, (offset, value)) in offsets.into_iter().zip(fields).enumerate() {
            put(at + offset, value, if number == 0 { 4 } else { width });
        }
    }
    put(0x1900, 4, 4);
    put(0x1904, note_bytes as u64, 4);
    put(0x1908, 18, 4);
    put(0x190c, u32::from_le_bytes(*b"Xen\0").into(), 4);
    put(0x1910, base + 0x20, note_bytes);
    file
}

fn damaged(at: usize, bytes: &[u8]) -> Result<u32, Error> {
    let mut file = elf(8, 8);
    file[at..at + bytes.len()].copy_from_slice(bytes);
    GuestElf::parse(&file).and_then(|elf| elf.pvh_entry())
}

#[test]
fn both_widths_and_both_notes_are_read() {
    for (width, note_bytes) in [(4, 4), (8, 8), (8, 4)] {
        let file = elf(width, note_bytes);
        let elf = GuestElf::parse(&file).unwrap();
        assert_eq!((elf.entry, elf.pvh_entry()), (0x10_0010, Ok(0x10_0020)));
        let segments: Vec<_> = elf.segments().collect();
        assert_eq!(
            segments,
            [
                Segment { file: 0x1000..0x1800, paddr: 0x10_0000, memory_bytes: 0x800 },
                Segment { file: 0x1800..0x1900, paddr: 0x10_2000, memory_bytes: 0x3000 },
            ]
        );
        assert!(elf.holds(0x10_4fff) && !elf.holds(0x10_5000) && !elf.holds(0x10_0800));
    }
}

#[test]
fn other_notes_are_passed_over() {
    let mut file = elf(8, 8);
    let note = file[0x1900..0x1918].to_vec();
    file[0x1908] = 19;
    file[0x1918..0x1930].copy_from_slice(&note);
    file[64 + 112 + 32] = 48;
    file[64 + 112 + 40] = 48;
    assert_eq!(GuestElf::parse(&file).unwrap().pvh_entry(), Ok(0x10_0020));
}

#[test]
fn wild_headers_are_named() {
    assert_eq!(damaged(0, &[0]), Err(Error::NotElf));
    assert_eq!(damaged(5, &[2]), Err(Error::Foreign));
    assert_eq!(damaged(16, &[3]), Err(Error::Foreign));
    assert_eq!(damaged(18, &[183]), Err(Error::Foreign));
    assert_eq!(damaged(54, &[57]), Err(Error::HeaderBytes(57)));
    assert_eq!(damaged(56, &[0]), Err(Error::NoSegments));
    assert_eq!(damaged(32, &[0xff; 8]), Err(Error::Truncated(u64::MAX - 0x2000)));
    assert_eq!(damaged(64 + 8, &[0xff; 8]), Err(Error::Truncated(u64::MAX - 0x2000)));
    assert_eq!(damaged(64 + 40, &[0; 2]), Err(Error::Sizes(0)));
    assert_eq!(damaged(64 + 56 + 24, &[0, 0xf0, 0xff, 0xff]), Err(Error::High(1)));
    assert_eq!(damaged(64 + 56 + 24, &[0xff; 8]), Err(Error::High(1)));
    assert_eq!(damaged(0x1900, &[0xff; 4]), Err(Error::Note(2)));
    assert_eq!(damaged(0x1904, &[7]), Err(Error::Note(2)));
    assert_eq!(damaged(0x1908, &[0]), Err(Error::NoPvhEntry));
    assert_eq!(damaged(0x190c, b"GNU\0"), Err(Error::NoPvhEntry));
    assert_eq!(damaged(0x1910, &[0; 8]), Err(Error::Entry(0)));
}

proptest! {
    #[test]
    fn arbitrary_bytes_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..512)) {
        let mut file = b"\x7fELF\x02\x01".to_vec();
        file.extend(bytes);
        let _ = GuestElf::parse(&file).and_then(|elf| elf.pvh_entry());
    }

    #[test]
    fn damaged_headers_never_panic(
        wide: bool,
        at in prop_oneof![0usize..240, 0x1900usize..0x1920],
        word: u64,
        cut in 0usize..0x2100,
    ) {
        let mut file = elf(if wide { 8 } else { 4 }, 4);
        file[at..at + 8].copy_from_slice(&word.to_le_bytes());
        file.truncate(cut);
        if let Ok(elf) = GuestElf::parse(&file) {
            for segment in elf.segments() {
                prop_assert!(segment.file.end <= file.len() && segment.end() <= 1 << 32);
                prop_assert!(segment.file.len() as u64 <= segment.memory_bytes);
            }
            let _ = elf.pvh_entry();
        }
    }
}
