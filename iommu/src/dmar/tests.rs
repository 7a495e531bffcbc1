//! Tables good and bad.

use hw::Hpa;
use proptest::prelude::*;

use super::*;

/// A table of these structures.
fn table(structures: &[Vec<u8>]) -> Vec<u8> {
    let mut table = b"DMAR".to_vec();
    table.resize(48, 0);
    table[36] = 45;
    table[37] = 1;
    table.extend(structures.iter().flatten());
    let length = table.len() as u32;
    table[4..8].copy_from_slice(&length.to_le_bytes());
    table
}

fn structure(kind: u16, body: &[u8]) -> Vec<u8> {
    let length = 4 + body.len() as u16;
    [&kind.to_le_bytes()[..], &length.to_le_bytes(), body].concat()
}

fn drhd(flags: u8, segment: u16, base: u64, scopes: &[u8]) -> Vec<u8> {
    let head = [flags, 0, segment as u8, (segment >> 8) as u8];
    structure(0, &[&head[..], &base.to_le_bytes(), scopes].concat())
}

fn rmrr(base: u64, limit: u64) -> Vec<u8> {
    let scope = [1, 8, 0, 0, 0, 0, 0x1d, 0];
    structure(1, &[&[0, 0, 0, 0][..], &base.to_le_bytes(), &limit.to_le_bytes(), &scope].concat())
}

fn read_all(table: &[u8]) -> (Dmar, Vec<Problem>) {
    let mut problems = Vec::new();
    let dmar = read(table, |problem| problems.push(problem));
    (dmar, problems)
}

#[test]
fn qemus_table_reads_as_qemu_means_it() {
    // QEMU 11.1, hw/i386/acpi-build.c build_dmar_q35: one unit at fed90000h for everything, the I/O APIC's scope with the
    // bus ffh and path 00.0 of Q35_PSEUDO_BUS_PLATFORM, no reserved regions; ATSR with all ports where device-iotlb is on.
    let scopes = [3, 8, 0, 0, 0, 0xff, 0, 0];
    let bytes = table(&[drhd(1, 0, 0xfed9_0000, &scopes), structure(2, &[1, 0, 0, 0])]);
    let (dmar, problems) = read_all(&bytes);
    assert!(problems.is_empty(), "{problems:?}");
    assert_eq!((dmar.host_bits, dmar.flags), (46, 1));
    let scope = Scope { offset: 64, kind: 3, id: 0, start_bus: 0xff, path: vec![(0, 0)] };
    let unit = UnitEntry {
        segment: 0,
        registers: Hpa::new(0xfed9_0000),
        register_bytes: 4096,
        include_all: true,
        scopes: vec![scope],
    };
    assert_eq!(dmar.units, [unit]);
    assert_eq!(dmar.ats_ports, [Listed { segment: 0, flag: true, scopes: vec![] }]);
}

#[test]
fn every_structure_is_read() {
    // Offsets of struct acpi_dmar_* in Linux include/acpi/actbl1.h.
    let rhsa =
        structure(3, &[&[0; 4][..], &0xfed9_0000u64.to_le_bytes(), &7u32.to_le_bytes()].concat());
    let andd = structure(4, b"\0\0\0\x05\\_SB.I2C\0");
    let listed = [1, 0, 2, 0, 1, 8, 0, 0, 0, 6, 1, 2];
    let bytes = table(&[
        rmrr(0x7000_0000, 0x7000_1fff),
        rhsa,
        andd,
        structure(5, &listed),
        structure(6, &listed),
    ]);
    let (dmar, problems) = read_all(&bytes);
    assert!(problems.is_empty(), "{problems:?}");
    let region = dmar.reserved.first().expect("one");
    assert_eq!((region.start, region.bytes), (Hpa::new(0x7000_0000), 0x2000));
    assert_eq!(dmar.proximity, [(Hpa::new(0xfed9_0000), 7)]);
    assert_eq!(dmar.names, [(5, b"\\_SB.I2C".to_vec())]);
    let listed = dmar.integrated.first().expect("one");
    assert_eq!((listed.segment, listed.flag), (2, true));
    assert_eq!(
        listed.scopes.first().map(|scope| (scope.start_bus, scope.path.clone())),
        Some((6, vec![(1, 2)]))
    );
    assert_eq!(dmar.properties.len(), 1);
}

#[test]
fn mistakes_are_told_by_offset_and_the_rest_is_used() {
    let unknown = structure(77, &[0; 4]);
    let good = drhd(0, 1, 0xfed9_2000, &[]);
    let bytes = table(&[
        drhd(1, 0, 0xfed9_0000, &[]),
        drhd(1, 0, 0xfed9_1000, &[]),
        drhd(0, 0, 0xfed9_0000, &[]),
        drhd(0, 0, 0xfed9_0123, &[]),
        drhd(0, 0, 0, &[]),
        unknown,
        rmrr(0x8000, 0x7fff),
        rmrr(0x7000, 0x8fff),
        rmrr(0x8000, 0x9fff),
        structure(0, &[0; 3]),
        good,
    ]);
    let (dmar, problems) = read_all(&bytes);
    let told: Vec<_> = problems.iter().map(|problem| (problem.offset, problem.trouble)).collect();
    assert_eq!(
        told,
        [
            (64, Trouble::SecondIncludeAll(0)),
            (80, Trouble::SameUnit(Hpa::new(0xfed9_0000))),
            (96, Trouble::Address(0xfed9_0123)),
            (112, Trouble::Address(0)),
            (128, Trouble::Kind(77)),
            (136, Trouble::Address(0x7fff)),
            (200, Trouble::Overlap),
            (232, Trouble::Short),
        ]
    );
    let registers: Vec<_> = dmar.units.iter().map(|unit| unit.registers.raw()).collect();
    assert_eq!(registers, [0xfed9_0000, 0xfed9_1000, 0xfed9_2000]);
    assert_eq!(dmar.units.iter().filter(|unit| unit.include_all).count(), 1);
    assert_eq!(dmar.reserved.len(), 2);
}

#[test]
fn structures_without_end_end_the_reading() {
    for length in [0u16, 3, 0xffff] {
        let mut bytes = table(&[drhd(1, 0, 0xfed9_0000, &[]), drhd(0, 1, 0xfed9_1000, &[])]);
        bytes[66..68].copy_from_slice(&length.to_le_bytes());
        let (dmar, problems) = read_all(&bytes);
        assert_eq!(dmar.units.len(), 1);
        let told = Problem { offset: 64, trouble: Trouble::Length(length.into()) };
        assert_eq!(problems, [told]);
    }
    let bytes = table(&[drhd(1, 0, 0xfed9_0000, &[1, 0, 0, 0, 0, 0, 1, 0])]);
    let (dmar, problems) = read_all(&bytes);
    assert_eq!(dmar.units.len(), 1);
    assert_eq!(problems, [Problem { offset: 64, trouble: Trouble::Length(0) }]);
    assert_eq!(
        problems[0].to_string(),
        "ACPI table DMAR, offset 0x40: a length of 0 bytes makes no sense; the rest is not read"
    );
}

#[test]
fn a_table_cut_anywhere_gives_what_is_before_the_cut() {
    let scopes = [3, 8, 0, 0, 0, 0xff, 0, 0];
    let bytes = table(&[
        drhd(1, 0, 0xfed9_0000, &scopes),
        rmrr(0x7000, 0x7fff),
        drhd(0, 1, 0xfed9_1000, &[]),
    ]);
    let (whole, _) = read_all(&bytes);
    for cut in 0..bytes.len() {
        let (dmar, problems) = read_all(&bytes[..cut]);
        assert!(dmar.units.len() <= whole.units.len());
        let between = [48, 72, 104].contains(&cut);
        assert_eq!(problems.is_empty(), between || (38..48).contains(&cut), "cut at {cut}");
    }
}

proptest! {
    #[test]
    fn arbitrary_bytes_are_read(bytes in prop::collection::vec(any::<u8>(), 0..400)) {
        let (dmar, _) = read_all(&bytes);
        prop_assert!(dmar.reserved.iter().all(|region| region.bytes % 4096 == 0));
    }

    #[test]
    fn arbitrary_bytes_in_a_table_are_read(
        structures in prop::collection::vec((0..8u16, prop::collection::vec(any::<u8>(), 0..40)), 0..12),
        at in 0..400usize,
        value in any::<u8>(),
    ) {
        let structures: Vec<_> = structures.iter().map(|(kind, body)| structure(*kind, body)).collect();
        let mut bytes = table(&structures);
        if let Some(byte) = bytes.get_mut(at) {
            *byte = value;
        }
        let (dmar, _) = read_all(&bytes);
        for unit in &dmar.units {
            prop_assert!(unit.registers.raw() % 4096 == 0 && unit.registers.raw() != 0);
            prop_assert!(unit.scopes.iter().all(|scope| !scope.path.is_empty()));
        }
    }
}
