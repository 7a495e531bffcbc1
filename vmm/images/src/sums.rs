//! `SHA256SUMS`: check sums as coreutils' `sha256sum` writes them, one line for each file.

use core::fmt;

/// A whole list, checked. Looks names up in the text itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sums<'a> {
    text: &'a str,
}

/// A line that is not `sha256sum`'s.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Error {
    /// The file is not UTF-8 text.
    NotText,
    /// This line, counted from 1, does not hold a sum and a name.
    Line(usize),
    /// This line's name stands also in an earlier one.
    Twice(usize),
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotText => write!(f, "damaged: not a text file"),
            Self::Line(line) => write!(f, "line {line} is not one of sha256sum's: 64 digits, name"),
            Self::Twice(line) => write!(f, "line {line} names a file a second time"),
        }
    }
}

impl core::error::Error for Error {}

impl<'a> Sums<'a> {
    /// Checks every line.
    ///
    /// # Errors
    /// The first line that is wrong.
    pub fn parse(file: &'a [u8]) -> Result<Self, Error> {
        let text = core::str::from_utf8(file).map_err(|_| Error::NotText)?;
        for (index, line) in text.lines().enumerate() {
            let (_, name) = sum_and_name(line).ok_or(Error::Line(index + 1))?;
            let earlier = text.lines().take(index).filter_map(sum_and_name);
            if earlier.map(|(_, name)| name).any(|other| other == name) {
                return Err(Error::Twice(index + 1));
            }
        }
        Ok(Self { text })
    }

    /// The sum of the file with this name, if the list has one.
    #[must_use]
    pub fn lookup(&self, name: &str) -> Option<[u8; 32]> {
        self.text.lines().filter_map(sum_and_name).find(|(_, other)| *other == name).map(|(s, _)| s)
    }
}

/// 64 hexadecimal digits, a space, a space or an asterisk, and the name. Names that sha256sum writes escaped, with a
/// backslash before the digits, are none that a boot volume can hold.
fn sum_and_name(line: &str) -> Option<([u8; 32], &str)> {
    let (digits, rest) = line.split_at_checked(64)?;
    let name = rest.strip_prefix("  ").or_else(|| rest.strip_prefix(" *"))?;
    let name = name.strip_prefix("./").unwrap_or(name);
    let mut sum = [0; 32];
    for (byte, pair) in sum.iter_mut().zip(digits.as_bytes().chunks_exact(2)) {
        let [high, low] = *pair else { return None };
        *byte = (hex(high)? << 4) | hex(low)?;
    }
    (!name.is_empty()).then_some((sum, name))
}

fn hex(digit: u8) -> Option<u8> {
    char::from(digit).to_digit(16).and_then(|value| u8::try_from(value).ok())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const A: &str = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";
    const B: &str = "BA7816BF8F01CFEA414140DE5DAE2223B00361A396177A9CB410FF61F20015AD";

    #[test]
    fn names_are_looked_up() {
        let text = format!("{A}  kernel.elf\r\n{B} *./guest/my vmlinuz\n");
        let sums = Sums::parse(text.as_bytes()).unwrap();
        assert_eq!(sums.lookup("kernel.elf").unwrap()[..3], [0xe3, 0xb0, 0xc4]);
        assert_eq!(sums.lookup("guest/my vmlinuz").unwrap()[31], 0xad);
        assert_eq!(sums.lookup("kernel"), None);
        assert_eq!(Sums::parse(b"").unwrap().lookup(""), None);
    }

    #[test]
    fn wrong_lines_are_numbered() {
        let cases = [
            format!("{A} kernel.elf"),
            format!("{A}  "),
            format!("\\{A}  a\\\\b"),
            format!("SHA256 (a) = {A}"),
            format!("{}x  a", &A[1..]),
            String::new(),
        ];
        for line in cases {
            let text = format!("{A}  ok\n{line}\n");
            assert_eq!(Sums::parse(text.as_bytes()), Err(Error::Line(2)), "{line}");
        }
        assert_eq!(Sums::parse(&[0xff]), Err(Error::NotText));
    }

    #[test]
    fn a_name_stands_once() {
        let text = format!("{A}  a\n{B}  a\n");
        assert_eq!(Sums::parse(text.as_bytes()), Err(Error::Twice(2)));
    }

    proptest! {
        #[test]
        fn arbitrary_bytes_never_panic(file in prop::collection::vec(any::<u8>(), 0..300)) {
            let _ = Sums::parse(&file);
        }

        #[test]
        fn arbitrary_lines_never_panic(text in "([0-9a-fé]{60,66}[ *]{0,3}[a-z]{0,3}\n){0,3}") {
            let _ = Sums::parse(text.as_bytes()).map(|sums| sums.lookup("a"));
        }
    }
}
