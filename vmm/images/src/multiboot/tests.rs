//! Headers in an ELF file and in a flat one, and each way in which one is wrong.

use proptest::prelude::*;

use super::*;
use crate::guest::{Error as GuestError, GuestKernel, Protocol};
use crate::guest_elf::tests::{BASE, elf};

const AT: usize = 0x40;

/// A header with these flags and, behind its sum, these fields.
fn put_header(file: &mut [u8], at: usize, flags: u32, fields: &[u32]) {
    let words = [MAGIC, flags, 0_u32.wrapping_sub(MAGIC.wrapping_add(flags))];
    for (index, word) in words.iter().chain(fields).enumerate() {
        file[at + 4 * index..][..4].copy_from_slice(&word.to_le_bytes());
    }
}

/// A flat file of 0x1000 bytes, loaded at 1 MiB, with 0x1000 bytes of zeros behind.
fn flat_file(fields: [u32; 5]) -> Vec<u8> {
    let mut file = vec![0x90; 0x1000];
    put_header(&mut file, AT, ADDRESS_FIELDS | 3, &fields);
    file
}

const FIELDS: [u32; 5] = [BASE + AT as u32, BASE, BASE + 0x1000, BASE + 0x2000, BASE + 0x80];

fn with_field(index: usize, value: u32) -> Result<Multiboot<'static>, Error> {
    let mut fields = FIELDS;
    fields[index] = value;
    match Multiboot::parse(&flat_file(fields))? {
        Multiboot::Flat(segment, entry) => Ok(Multiboot::Flat(segment, entry)),
        Multiboot::Elf(_) => panic!("flat"),
    }
}

#[test]
fn an_elf_file_is_loaded_by_its_own_headers() {
    let mut file = elf(4, 4);
    put_header(&mut file, 0x1000, 3, &[]);
    let kernel = Multiboot::parse(&file).unwrap();
    assert_eq!(kernel.entry(), BASE + 0x10);
    assert_eq!(kernel.segments().count(), 2);
    // An entry that no segment holds.
    file[24] = 0xff;
    file[25] = 0xff;
    let entry = guest_elf::Error::Entry(0x10_ffff);
    assert_eq!(Multiboot::parse(&file).unwrap_err(), Error::Elf(entry));
}

#[test]
fn a_flat_file_is_loaded_by_the_headers_addresses() {
    let file = flat_file(FIELDS);
    let kernel = Multiboot::parse(&file).unwrap();
    let segment = Segment { file: 0..0x1000, paddr: BASE.into(), memory_bytes: 0x2000 };
    assert_eq!(kernel.segments().collect::<Vec<_>>(), [segment]);
    assert_eq!(kernel.entry(), BASE + 0x80);
    // To the file's end, without zeros.
    let file = flat_file([BASE + AT as u32, BASE, 0, 0, BASE]);
    let segment = Segment { file: 0..0x1000, paddr: BASE.into(), memory_bytes: 0x1000 };
    assert_eq!(Multiboot::parse(&file).unwrap().segments().collect::<Vec<_>>(), [segment]);
}

#[test]
fn a_wrong_header_is_named() {
    assert_eq!(Multiboot::parse(&[0; 9000]).unwrap_err(), Error::NoMagic);
    let mut file = flat_file(FIELDS);
    file[AT + 8] ^= 1;
    assert_eq!(Multiboot::parse(&file).unwrap_err(), Error::Checksum(AT));
    // A sound one behind a damaged one counts.
    put_header(&mut file, 0x100, ADDRESS_FIELDS, &[BASE + 0x100, BASE, 0, 0, BASE]);
    assert!(Multiboot::parse(&file).is_ok());
    // Behind 8 KiB, across them, and at an odd place.
    let mut file = vec![0; 0x3000];
    put_header(&mut file, 0x2000, 3, &[]);
    assert_eq!(Multiboot::parse(&file).unwrap_err(), Error::NoMagic);
    put_header(&mut file, 0x1ff8, 3, &[]);
    assert_eq!(Multiboot::parse(&file).unwrap_err(), Error::Cut(0x1ff8));
    let mut file = vec![0; 0x3000];
    put_header(&mut file, 0x102, 3, &[]);
    assert_eq!(Multiboot::parse(&file).unwrap_err(), Error::NoMagic);
    put_header(&mut file, 0, 4, &[]);
    assert_eq!(Multiboot::parse(&file).unwrap_err(), Error::Flags(4));
    put_header(&mut file, 0, 3, &[]);
    assert_eq!(Multiboot::parse(&file).unwrap_err(), Error::Elf(guest_elf::Error::NotElf));
}

#[test]
fn contradicting_addresses_are_named() {
    for (index, value, field) in [
        (0, BASE - 1, "load_addr"),
        (0, BASE + 0x41, "header_addr"),
        (2, BASE - 1, "load_end_addr"),
        (3, BASE + 0xfff, "bss_end_addr"),
        (3, BASE - 1, "bss_end_addr"),
        (4, BASE - 1, "entry_addr"),
        (4, BASE + 0x2000, "entry_addr"),
    ] {
        assert_eq!(with_field(index, value).unwrap_err(), Error::Field(field), "{value:#x}");
    }
    let short = guest_elf::Error::Truncated(1);
    assert_eq!(with_field(2, BASE + 0x1001).unwrap_err(), Error::Elf(short));
}

#[test]
fn a_file_is_started_as_what_it_is() {
    let kind = |file: &[u8]| match GuestKernel::parse(file, None) {
        Ok(GuestKernel::Linux(_)) => Ok(Protocol::Linux),
        Ok(GuestKernel::Pvh(..)) => Ok(Protocol::Pvh),
        Ok(GuestKernel::Multiboot(_)) => Ok(Protocol::Multiboot),
        Err(error) => Err(error),
    };
    let mut file = elf(8, 8);
    put_header(&mut file, 0x1000, 3, &[]);
    assert_eq!(kind(&file), Ok(Protocol::Pvh), "both");
    file[0x1908] = 0;
    assert_eq!(kind(&file), Ok(Protocol::Multiboot));
    file[0x1000] = 0;
    assert_eq!(kind(&file), Err(GuestError::PlainElf));
    assert_eq!(kind(&flat_file(FIELDS)), Ok(Protocol::Multiboot));
    assert!(matches!(kind(&[0; 9000]), Err(GuestError::Linux(_))));
    let missing = GuestKernel::parse(&file, Some(Protocol::Multiboot)).unwrap_err();
    assert_eq!(missing, GuestError::Multiboot(Error::NoMagic));
}

proptest! {
    #[test]
    fn damaged_headers_never_panic(at in 0usize..0x70, word: u32, cut in 0usize..0x1100, fields: [u32; 5]) {
        let mut file = flat_file(if at < 0x20 { fields } else { FIELDS });
        file[at..at + 4].copy_from_slice(&word.to_le_bytes());
        file.truncate(cut);
        if let Ok(kernel) = Multiboot::parse(&file) {
            for segment in kernel.segments() {
                prop_assert!(segment.file.end <= file.len() && segment.end() <= 1 << 32);
                prop_assert!(segment.file.len() as u64 <= segment.memory_bytes);
            }
        }
    }
}
