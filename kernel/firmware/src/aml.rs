//! The one thing Kerf needs of AML, found without an interpreter: `Name (\_S5, Package () {a, b, ..})`, which every
//! compiler emits as constants (ACPI 6.5, 7.4.2 and 20.2).

use crate::bytes::u8;

const NAME_OP: u8 = 0x08;
const PACKAGE_OP: u8 = 0x12;
const ROOT: u8 = b'\\';

/// SLP_TYP of PM1a and PM1b for the state S5.
pub(crate) fn s5(aml: &[u8]) -> Option<(u8, u8)> {
    (0..aml.len()).find_map(|at| {
        let name = aml.get(at..)?.starts_with(b"_S5_");
        let named = match (u8(aml, at.checked_sub(1)?), at.checked_sub(2)) {
            (Some(NAME_OP), _) => true,
            (Some(ROOT), Some(before)) => u8(aml, before) == Some(NAME_OP),
            _ => false,
        };
        (name && named).then(|| package(aml.get(at + 4..)?)).flatten()
    })
}

/// The first two bytes of a package of constants.
fn package(aml: &[u8]) -> Option<(u8, u8)> {
    let length = aml.strip_prefix(&[PACKAGE_OP])?;
    // PkgLength: bits 7:6 of its first byte say how many bytes follow it.
    let elements = length.get(1 + usize::from(u8(length, 0)? >> 6)..)?;
    let (_count, elements) = elements.split_first()?;
    let (a, rest) = integer(elements)?;
    // Firmware may leave the second out where there is no PM1b.
    Some((a, integer(rest).map_or(0, |(b, _)| b)))
}

/// A small constant and what follows it.
fn integer(aml: &[u8]) -> Option<(u8, &[u8])> {
    let (&op, rest) = aml.split_first()?;
    match op {
        0x00 => Some((0, rest)),
        0x01 => Some((1, rest)),
        0x0a => Some((u8(rest, 0)?, rest.get(1..)?)),
        0x0b => Some((u8(rest, 0)?, rest.get(2..)?)),
        0x0c => Some((u8(rest, 0)?, rest.get(4..)?)),
        _ => None,
    }
}
