//! Initial RAM disks, as Linux's `init/initramfs.c` takes them: cpio archives, plain or compressed, one after another.
//!
//! Plain archives are walked to their trailer, so that a file cut short is found; a compressed one is only recognised.

use core::fmt;

use crate::bytes::array_at;

/// How an archive is packed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum Format {
    /// Plain cpio, `newc` or `crc`.
    Cpio,
    Gzip,
    Bzip2,
    Lzma,
    Xz,
    Lzo,
    Lz4,
    Zstd,
}

/// The first bytes of each format (Linux, `lib/decompress.c`).
const MAGICS: [(&[u8], Format); 10] = [
    (b"070701", Format::Cpio),
    (b"070702", Format::Cpio),
    (&[0x1f, 0x8b], Format::Gzip),
    (&[0x1f, 0x9e], Format::Gzip),
    (b"BZh", Format::Bzip2),
    (&[0x5d, 0x00, 0x00], Format::Lzma),
    (&[0xfd, b'7', b'z', b'X', b'Z', 0x00], Format::Xz),
    (&[0x89, b'L', b'Z', b'O'], Format::Lzo),
    (&[0x02, 0x21, 0x4c, 0x18], Format::Lz4),
    (&[0x28, 0xb5, 0x2f, 0xfd], Format::Zstd),
];

/// The frame format that `lz4` writes unless told otherwise: Linux unpacks only the legacy one.
const LZ4_FRAME: &[u8] = &[0x04, 0x22, 0x4d, 0x18];
/// Bytes of a `newc` header: the magic and 13 fields of eight hexadecimal digits.
const HEADER_BYTES: usize = 110;
const TRAILER: &[u8] = b"TRAILER!!!\0";

/// What a RAM disk holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Initrd {
    /// The number of plain archives that were walked.
    pub plain_archives: usize,
    /// How the rest is packed; `None` where plain archives are all.
    pub compressed: Option<Format>,
}

/// Why a file cannot be a RAM disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Error {
    /// It has no bytes.
    Empty,
    /// No known format at this offset.
    Unknown(usize),
    /// LZ4's frame format at this offset.
    Lz4Frame(usize),
    /// A plain archive ends without its trailer: where the entry begins that the file's end cuts, and how many bytes
    /// are missing at least.
    Truncated {
        /// Offset of the entry.
        entry: usize,
        /// Bytes that the file lacks at least.
        missing: usize,
    },
    /// The entry at this offset of a plain archive is not one.
    Entry(usize),
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Empty => write!(f, "empty: a cpio archive is needed, plain or compressed"),
            Self::Unknown(0) => write!(f, "not an initial RAM disk: neither cpio nor compressed"),
            Self::Unknown(offset) => {
                write!(f, "damaged: neither cpio nor compressed data at byte {offset}")
            }
            Self::Lz4Frame(_) => {
                write!(f, "packed as an LZ4 frame, which Linux does not unpack: use lz4 -l")
            }
            Self::Truncated { entry, missing } => write!(
                f,
                "cut short: at least {missing} bytes of the cpio entry at byte {entry} are missing"
            ),
            Self::Entry(offset) => write!(f, "damaged: no cpio entry at byte {offset}"),
        }
    }
}

impl core::error::Error for Error {}

/// Recognises a RAM disk and walks its plain archives.
///
/// # Errors
/// The first thing that is wrong.
pub fn parse(file: &[u8]) -> Result<Initrd, Error> {
    let mut plain_archives = 0;
    let mut offset = 0;
    loop {
        let rest = file.get(offset..).unwrap_or_default();
        // Zeros pad archives to whatever their maker liked.
        let Some(zeros) = rest.iter().position(|&byte| byte != 0) else {
            let found = Initrd { plain_archives, compressed: None };
            return if plain_archives == 0 { Err(Error::Empty) } else { Ok(found) };
        };
        offset += zeros;
        let start = rest.get(zeros..).unwrap_or_default();
        let format = MAGICS.iter().find(|(magic, _)| start.starts_with(magic));
        match format {
            Some((_, Format::Cpio)) => {
                offset = archive_end(file, offset)?;
                plain_archives += 1;
            }
            Some(&(_, format)) => return Ok(Initrd { plain_archives, compressed: Some(format) }),
            None if start.starts_with(LZ4_FRAME) => return Err(Error::Lz4Frame(offset)),
            None => return Err(Error::Unknown(offset)),
        }
    }
}

/// The offset behind the trailer of the plain archive that starts here. Offsets are aligned from its start.
fn archive_end(file: &[u8], start: usize) -> Result<usize, Error> {
    let archive = file.get(start..).unwrap_or_default();
    let mut entry = 0;
    loop {
        let header = archive.get(entry..).unwrap_or_default();
        let truncated = |end: usize| Error::Truncated {
            entry: start + entry,
            missing: end.saturating_sub(archive.len()),
        };
        let magic: [u8; 6] = match array_at(header, 0) {
            Some(magic) if &magic == b"070701" || &magic == b"070702" => magic,
            Some(_) => return Err(Error::Entry(start + entry)),
            None => return Err(truncated(entry + HEADER_BYTES)),
        };
        if header.len() < HEADER_BYTES {
            return Err(truncated(entry + HEADER_BYTES));
        }
        // Fields 6 and 11: the sizes of the file and of its name with the terminating zero.
        let sizes = hex_at(header, magic.len() + 6 * 8).zip(hex_at(header, magic.len() + 11 * 8));
        let (file_bytes, name_bytes) = sizes.ok_or(Error::Entry(start + entry))?;
        let name_end = entry + HEADER_BYTES + name_bytes;
        let name =
            archive.get(entry + HEADER_BYTES..name_end).ok_or_else(|| truncated(name_end))?;
        if name == TRAILER {
            return Ok(start + name_end);
        }
        let data_end = name_end.next_multiple_of(4) + file_bytes;
        if data_end > archive.len() {
            return Err(truncated(data_end));
        }
        entry = data_end.next_multiple_of(4);
    }
}

fn hex_at(header: &[u8], offset: usize) -> Option<usize> {
    let digits: [u8; 8] = array_at(header, offset)?;
    digits.iter().try_fold(0usize, |value, &digit| {
        Some(value << 4 | char::from(digit).to_digit(16)? as usize)
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn entry(magic: &str, name: &str, data: &[u8]) -> Vec<u8> {
        let mut bytes = magic.as_bytes().to_vec();
        let mut fields = [0; 13];
        fields[6] = data.len();
        fields[11] = name.len() + 1;
        bytes.extend(fields.iter().flat_map(|field| format!("{field:08x}").into_bytes()));
        bytes.extend(name.bytes().chain([0]));
        bytes.resize(bytes.len().next_multiple_of(4), 0);
        bytes.extend(data);
        bytes.resize(bytes.len().next_multiple_of(4), 0);
        bytes
    }

    fn archive() -> Vec<u8> {
        let mut bytes = entry("070701", "init", b"#!/bin/sh\n");
        bytes.extend(entry("070702", "etc/motd", &[b'x'; 301]));
        bytes.extend(entry("070701", "TRAILER!!!", b""));
        bytes
    }

    #[test]
    fn a_plain_archive_is_walked_to_its_trailer() {
        let plain = Initrd { plain_archives: 1, compressed: None };
        assert_eq!(parse(&archive()), Ok(plain));
        let mut padded = archive();
        padded.resize(4096, 0);
        assert_eq!(parse(&padded), Ok(plain));
    }

    #[test]
    fn archives_may_follow_one_another() {
        let mut file = archive();
        file.resize(2048, 0);
        file.extend(archive());
        assert_eq!(parse(&file), Ok(Initrd { plain_archives: 2, compressed: None }));
        file.extend([0x28, 0xb5, 0x2f, 0xfd, 9, 9]);
        let packed = Initrd { plain_archives: 2, compressed: Some(Format::Zstd) };
        assert_eq!(parse(&file), Ok(packed));
    }

    #[test]
    fn compressed_formats_are_told_apart() {
        for (magic, format) in MAGICS.iter().filter(|(_, format)| *format != Format::Cpio) {
            let mut file = magic.to_vec();
            file.extend([1; 64]);
            assert_eq!(parse(&file).unwrap().compressed, Some(*format));
        }
    }

    #[test]
    fn every_cut_of_a_plain_archive_is_found() {
        let file = archive();
        let end = parse(&file).map(|_| archive_end(&file, 0).unwrap()).unwrap();
        for bytes in 6..end {
            let error = parse(&file[..bytes]).unwrap_err();
            assert!(matches!(error, Error::Truncated { missing: 1.., .. }), "{bytes}: {error:?}");
        }
        let second = entry("070701", "init", b"#!/bin/sh\n").len();
        assert_eq!(
            parse(&file[..second + 200]).unwrap_err().to_string(),
            format!("cut short: at least 221 bytes of the cpio entry at byte {second} are missing")
        );
    }

    #[test]
    fn damage_is_located() {
        let mut file = archive();
        file[14] = b'z';
        assert!(parse(&file).is_ok(), "a field that is not looked at");
        file[6 + 6 * 8] = b'z';
        assert_eq!(parse(&file), Err(Error::Entry(0)));
        let mut file = archive();
        let second = entry("070701", "init", b"#!/bin/sh\n").len();
        file[second] = b'9';
        assert_eq!(parse(&file), Err(Error::Entry(second)));
    }

    #[test]
    fn other_files_are_refused() {
        assert_eq!(parse(b""), Err(Error::Empty));
        assert_eq!(parse(&[0; 512]), Err(Error::Empty));
        assert_eq!(parse(b"\x7fELF\x02\x01"), Err(Error::Unknown(0)));
        assert_eq!(parse(&[0x04, 0x22, 0x4d, 0x18, 9]), Err(Error::Lz4Frame(0)));
        let mut file = archive();
        file.extend(*b"junk");
        assert!(matches!(parse(&file), Err(Error::Unknown(offset)) if offset + 4 == file.len()));
    }

    proptest! {
        #[test]
        fn arbitrary_bytes_never_panic(file in prop::collection::vec(any::<u8>(), 0..512)) {
            let _ = parse(&file);
        }

        #[test]
        fn damaged_archives_never_panic(at in 0usize..600, byte: u8, cut in 0usize..700) {
            let mut file = archive();
            if let Some(there) = file.get_mut(at) {
                *there = byte;
            }
            file.truncate(cut);
            let _ = parse(&file);
        }
    }
}
