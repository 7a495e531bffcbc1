//! Additional ACPI tables: the system description table header (ACPI 6.5, 5.2.6) around whatever body.

use core::fmt;

use crate::bytes::{array_at, u32_at};

/// Bytes of the header.
pub const HEADER_BYTES: usize = 36;

/// What the header says, checked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AcpiTable {
    /// `Signature`, such as `SSDT`: letters and digits.
    pub signature: [u8; 4],
    /// `Revision`.
    pub revision: u8,
    /// `OEM Table ID`, as it is.
    pub oem_table_id: [u8; 8],
}

/// Why a file is not an ACPI table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Error {
    /// Shorter than a header: how many bytes it has.
    NoHeader(usize),
    /// The signature is not of letters and digits.
    Signature([u8; 4]),
    /// The header's length is less than the header's own.
    Length(u32),
    /// The file ends this many bytes before the table does.
    Truncated(usize),
    /// The file goes on for this many bytes behind the table.
    Trailing(usize),
    /// The sum of all bytes, which has to be 0.
    Checksum(u8),
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoHeader(bytes) => {
                write!(f, "{bytes} bytes are too few for an ACPI table: cut short, or another file")
            }
            Self::Signature(signature) => {
                write!(f, "not an ACPI table: it begins with {}", signature.escape_ascii())
            }
            Self::Length(bytes) => {
                write!(f, "damaged: its header gives {bytes} bytes as its length")
            }
            Self::Truncated(missing) => write!(f, "cut short: {missing} bytes are missing"),
            Self::Trailing(bytes) => write!(f, "damaged: {bytes} bytes follow the table's end"),
            Self::Checksum(sum) => {
                write!(f, "damaged: its bytes add up to {sum:#04x}, not to 0 as ACPI demands")
            }
        }
    }
}

impl core::error::Error for Error {}

/// Reads and checks the header of a whole file.
///
/// # Errors
/// The first thing that is wrong.
pub fn parse(file: &[u8]) -> Result<AcpiTable, Error> {
    let short = Error::NoHeader(file.len());
    if file.len() < HEADER_BYTES {
        return Err(short);
    }
    let signature: [u8; 4] = array_at(file, 0).ok_or(short)?;
    if !signature.iter().all(|byte| byte.is_ascii_uppercase() || byte.is_ascii_digit()) {
        return Err(Error::Signature(signature));
    }
    let length = u32_at(file, 4).ok_or(short)?;
    let bytes = length as usize;
    if bytes < HEADER_BYTES {
        return Err(Error::Length(length));
    }
    if bytes > file.len() {
        return Err(Error::Truncated(bytes - file.len()));
    }
    if bytes < file.len() {
        return Err(Error::Trailing(file.len() - bytes));
    }
    let sum = file.iter().fold(0u8, |sum, &byte| sum.wrapping_add(byte));
    if sum != 0 {
        return Err(Error::Checksum(sum));
    }
    let [revision] = array_at(file, 8).ok_or(short)?;
    Ok(AcpiTable { signature, revision, oem_table_id: array_at(file, 16).ok_or(short)? })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn table() -> Vec<u8> {
        let mut file = b"SSDT\x28\0\0\0\x02\0OEMIDxTABLE_ID\x01\0\0\0INTL\0\0\0\x20body".to_vec();
        let sum = file.iter().fold(0u8, |sum, &byte| sum.wrapping_add(byte));
        file[9] = sum.wrapping_neg();
        file
    }

    #[test]
    fn a_sound_table_is_read() {
        assert_eq!(
            parse(&table()),
            Ok(AcpiTable { signature: *b"SSDT", revision: 2, oem_table_id: *b"TABLE_ID" })
        );
    }

    #[test]
    fn length_is_compared_with_the_file() {
        let mut file = table();
        assert_eq!(parse(&file[..37]), Err(Error::Truncated(3)));
        assert_eq!(parse(&file[..35]), Err(Error::NoHeader(35)));
        file.push(0);
        assert_eq!(parse(&file), Err(Error::Trailing(1)));
        file[4] = 35;
        assert_eq!(parse(&file), Err(Error::Length(35)));
    }

    #[test]
    fn any_changed_byte_is_found() {
        for at in 0..table().len() {
            let mut file = table();
            file[at] ^= 0x10;
            assert!(parse(&file).is_err(), "byte {at}");
        }
        let mut file = table();
        file[38] += 3;
        let words = "damaged: its bytes add up to 0x03, not to 0 as ACPI demands";
        assert_eq!(parse(&file).unwrap_err().to_string(), words);
    }

    #[test]
    fn other_files_are_refused_printably() {
        let error = parse(&[0x7f; 64]).unwrap_err();
        assert_eq!(error.to_string(), r"not an ACPI table: it begins with \x7f\x7f\x7f\x7f");
    }

    proptest! {
        #[test]
        fn arbitrary_bytes_never_panic(file in prop::collection::vec(any::<u8>(), 0..128)) {
            let _ = parse(&file);
        }
    }
}
