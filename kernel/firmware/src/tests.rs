//! Tables of a small machine, good and bad.

use std::collections::BTreeMap;

use hw::{Hpa, Port};
use proptest::prelude::*;

use crate::{
    Ecam, IoApic, Line, Machine, PhysicalMemory, PmTimer, PowerOff, Problem, SerialPort,
    SerialRegisters, Trouble, read,
};

/// Memory that holds a few tables, each with nothing behind it.
#[derive(Default)]
struct Memory(BTreeMap<u64, &'static [u8]>);

impl Memory {
    fn put(&mut self, at: u64, bytes: Vec<u8>) {
        self.0.insert(at, bytes.leak());
    }
}

impl PhysicalMemory for Memory {
    fn bytes(&self, at: Hpa, bytes: u64) -> Option<&'static [u8]> {
        let (start, table) = self.0.range(..=at.raw()).next_back()?;
        table.get((at.raw() - start) as usize..)?.get(..bytes as usize)
    }
}

fn seal(mut table: Vec<u8>, checksum_at: usize) -> Vec<u8> {
    table[checksum_at] = 0;
    let sum = table.iter().fold(0u8, |sum, &byte| sum.wrapping_add(byte));
    table[checksum_at] = sum.wrapping_neg();
    table
}

fn table(signature: &[u8; 4], body: &[u8]) -> Vec<u8> {
    let mut table = vec![0; 36];
    table[..4].copy_from_slice(signature);
    table[4..8].copy_from_slice(&(36 + body.len() as u32).to_le_bytes());
    table.extend_from_slice(body);
    seal(table, 9)
}

fn rsdp(rsdt: u32, xsdt: u64) -> Vec<u8> {
    let mut rsdp = vec![0; 36];
    rsdp[..8].copy_from_slice(b"RSD PTR ");
    rsdp[15] = 2;
    rsdp[16..20].copy_from_slice(&rsdt.to_le_bytes());
    rsdp[20] = 36;
    rsdp[24..32].copy_from_slice(&xsdt.to_le_bytes());
    let first = seal(rsdp[..20].to_vec(), 8);
    rsdp[..20].copy_from_slice(&first);
    seal(rsdp, 32)
}

fn madt_body() -> Vec<u8> {
    let mut body = vec![0, 0, 0xe0, 0xfe, 1, 0, 0, 0];
    body.extend([0, 8, 0, 0, 1, 0, 0, 0]); // CPU 0, on
    body.extend([0, 8, 1, 7, 0, 0, 0, 0]); // CPU 7, off
    body.extend([1, 12, 3, 0, 0, 0, 0xc0, 0xfe, 0, 0, 0, 0]); // I/O APIC 3
    body.extend([2, 10, 0, 4, 20, 0, 0, 0, 0x0f, 0]); // IRQ 4 is GSI 20, low, level
    body.extend([9, 16, 0, 0, 0, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0]); // x2APIC 0x100, on
    body
}

fn fadt() -> Vec<u8> {
    let mut body = vec![0; 276 - 36];
    let mut set = |at: usize, value: u32| {
        body[at - 36..at - 32].copy_from_slice(&value.to_le_bytes());
    };
    set(40, 0x9000); // DSDT
    set(64, 0x604); // PM1a control
    set(76, 0x608); // PM timer
    set(112, 1 << 8);
    table(b"FACP", &body)
}

fn dsdt() -> Vec<u8> {
    let name = b"\x08_S5_\x12\x0a\x04\x0a\x05\x00\x00\x00";
    table(b"DSDT", &[b"\x10\x20garbage _S5_", &name[..]].concat())
}

fn hpet() -> Vec<u8> {
    let mut body = vec![0; 20];
    body[8..16].copy_from_slice(&0xfed0_0000u64.to_le_bytes());
    table(b"HPET", &body)
}

fn small_machine() -> Memory {
    let mut memory = Memory::default();
    let entries: Vec<u8> =
        [0x3000u64, 0, 0x4000, 0x5000].iter().flat_map(|e| e.to_le_bytes()).collect();
    memory.put(0x1000, rsdp(0, 0x2000));
    memory.put(0x2000, table(b"XSDT", &entries));
    memory.put(0x3000, table(b"APIC", &madt_body()));
    memory.put(0x4000, fadt());
    memory.put(0x5000, hpet());
    memory.put(0x9000, dsdt());
    memory
}

fn read_all(memory: &Memory) -> (Machine, Vec<Problem>) {
    read_with(memory, &[])
}

fn read_with(memory: &Memory, files: &[&'static [u8]]) -> (Machine, Vec<Problem>) {
    let mut problems = Vec::new();
    let machine = read(memory, Some(Hpa::new(0x1000)), files, |problem| problems.push(problem));
    (machine, problems)
}

#[test]
fn a_good_machine_is_read_without_complaint() {
    let (machine, problems) = read_all(&small_machine());
    assert_eq!(problems, []);
    assert_eq!(machine.cpus, [0, 0x100]);
    let io_apic = IoApic { id: 3, registers: Hpa::new(0xfec0_0000), first_gsi: 0 };
    assert_eq!(machine.io_apics, [io_apic]);
    assert_eq!(machine.isa(4), Line { gsi: 20, active_low: true, level: true });
    assert_eq!(machine.isa(3), Line { gsi: 3, active_low: false, level: false });
    assert_eq!(machine.pm_timer, Some(PmTimer { port: Port(0x608), bits: 32 }));
    assert_eq!(machine.hpet, Some(Hpa::new(0xfed0_0000)));
    let value = 1 << 13 | 5 << 10;
    assert_eq!(machine.power_off, Some(PowerOff { a: (Port(0x604), value), b: None }));
}

#[test]
fn no_rsdp_leaves_the_conventions() {
    let machine = read(&Memory::default(), None, &[], |problem| panic!("{problem}"));
    assert_eq!(machine, Machine::default());
    assert_eq!(machine.isa(4), Line { gsi: 4, active_low: false, level: false });
}

#[test]
fn a_missing_table_is_told_and_the_others_are_used() {
    let mut memory = small_machine();
    memory.0.remove(&0x3000);
    // What the address now shows is the end of the table before it, which is not reachable.
    let (machine, problems) = read_all(&memory);
    assert_eq!(problems.len(), 1);
    assert_eq!(problems[0].trouble, Trouble::Unreachable);
    assert!(machine.cpus.is_empty() && machine.hpet.is_some());
}

#[test]
fn an_entry_without_length_ends_the_table() {
    let mut body = madt_body();
    body[8 + 8 + 1] = 0;
    let mut memory = small_machine();
    memory.put(0x3000, table(b"APIC", &body));
    let (machine, problems) = read_all(&memory);
    assert_eq!(problems[0].trouble, Trouble::Entry(36 + 16));
    assert_eq!(machine.cpus, [0]);
}

#[test]
fn the_id_of_all_cpus_is_no_cpus() {
    let mut memory = small_machine();
    let mut body = madt_body();
    body.extend([0, 8, 2, 0xff, 1, 0, 0, 0]);
    body.extend([9, 16, 0, 0, 0xff, 0xff, 0xff, 0xff, 1, 0, 0, 0, 0, 0, 0, 0]);
    memory.put(0x3000, table(b"APIC", &body));
    let (machine, problems) = read_all(&memory);
    assert_eq!(machine.cpus, [0, 0x100]);
    assert_eq!(problems, []);
}

#[test]
fn a_wrong_checksum_is_told_and_the_table_used() {
    let mut bad = table(b"APIC", &madt_body());
    bad[9] ^= 1;
    let mut memory = small_machine();
    memory.put(0x3000, bad);
    let (machine, problems) = read_all(&memory);
    assert_eq!(problems[0].trouble, Trouble::Checksum);
    assert_eq!(machine.cpus, [0, 0x100]);
}

#[test]
fn a_table_of_absurd_length_is_skipped() {
    let mut bad = table(b"APIC", &madt_body());
    bad[4..8].copy_from_slice(&u32::MAX.to_le_bytes());
    let mut memory = small_machine();
    memory.put(0x3000, bad);
    let (machine, problems) = read_all(&memory);
    assert_eq!(problems[0].trouble, Trouble::Length(u32::MAX.into()));
    assert!(machine.cpus.is_empty());
}

#[test]
fn a_table_from_the_boot_volume_takes_the_firmwares_place() {
    let mut body = madt_body();
    body[8 + 3] = 9;
    let file: &'static [u8] = table(b"APIC", &body).leak();
    let (machine, problems) = read_with(&small_machine(), &[file]);
    assert_eq!(problems, []);
    assert_eq!(machine.cpus, [9, 0x100]);
}

fn spcr(kind: u8, address: [u8; 12], interrupt: [u8; 6]) -> Vec<u8> {
    let mut body = vec![0; 80 - 36];
    body[0] = kind;
    body[4..16].copy_from_slice(&address);
    body[16..22].copy_from_slice(&interrupt);
    table(b"SPCR", &body)
}

fn serial(table: Vec<u8>) -> (Option<SerialPort>, Vec<Problem>) {
    let (machine, problems) = read_with(&small_machine(), &[table.leak()]);
    (machine.serial, problems)
}

#[test]
fn a_serial_port_in_memory_has_stride_and_access_of_its_address() {
    // 32 bits wide, accessed by double words, at 0xfe03_4000; GSI 19.
    let table = spcr(0x12, [0, 32, 0, 3, 0, 0x40, 0x03, 0xfe, 0, 0, 0, 0], [2, 0, 19, 0, 0, 0]);
    let port = SerialPort {
        registers: SerialRegisters::Memory(Hpa::new(0xfe03_4000)),
        stride: 4,
        access: 4,
        interrupt: Some(Line { gsi: 19, active_low: false, level: false }),
    };
    assert_eq!(serial(table), (Some(port), vec![]));
}

#[test]
fn a_serial_port_in_io_space_follows_the_madts_override() {
    let table = spcr(0, [1, 8, 0, 0, 0xf8, 2, 0, 0, 0, 0, 0, 0], [1, 4, 0, 0, 0, 0]);
    let port = SerialPort {
        registers: SerialRegisters::Port(Port(0x2f8)),
        stride: 1,
        access: 1,
        interrupt: Some(Line { gsi: 20, active_low: true, level: true }),
    };
    assert_eq!(serial(table), (Some(port), vec![]));
}

#[test]
fn a_serial_port_of_another_kind_or_nowhere_is_none() {
    let here = [1, 8, 0, 0, 0xf8, 2, 0, 0, 0, 0, 0, 0];
    assert_eq!(serial(spcr(3, here, [0; 6])), (None, vec![]));
    let (port, problems) = serial(spcr(0, [0; 12], [0; 6]));
    assert_eq!((port, problems.len()), (None, 1));
}

fn ssdt(oem_table_id: &[u8; 8], body: u8) -> Vec<u8> {
    let mut ssdt = table(b"SSDT", &[body]);
    ssdt[16..24].copy_from_slice(oem_table_id);
    seal(ssdt, 9)
}

/// The machine with two SSDTs more, `one` and `two`.
fn with_ssdts() -> Memory {
    let mut memory = small_machine();
    let entries: Vec<u8> =
        [0x3000u64, 0xa000, 0xb000].iter().flat_map(|e| e.to_le_bytes()).collect();
    memory.put(0x2000, table(b"XSDT", &entries));
    memory.put(0xa000, ssdt(b"one     ", 1));
    memory.put(0xb000, ssdt(b"two     ", 2));
    memory
}

fn contents(memory: &Memory, files: &[&'static [u8]]) -> Vec<(String, u8)> {
    let (tables, _) = crate::tables::all(memory, Some(Hpa::new(0x1000)), files, &mut |_| ());
    let last = |bytes: &[u8]| *bytes.last().unwrap();
    tables.iter().map(|t| (t.signature.to_string(), last(t.bytes))).collect()
}

#[test]
fn an_ssdt_takes_the_place_of_the_one_with_its_id_only() {
    let last = *madt_body().last().unwrap();
    let file: &'static [u8] = ssdt(b"two     ", 7).leak();
    let all = [("SSDT".into(), 7), ("APIC".into(), last), ("SSDT".into(), 1)];
    assert_eq!(contents(&with_ssdts(), &[file]), all);
    let (machine, _) = read_with(&with_ssdts(), &[file]);
    assert_eq!(machine.brought.iter().map(|b| b.replaces).collect::<Vec<_>>(), [true]);
}

#[test]
fn an_ssdt_with_a_new_id_is_added() {
    let file: &'static [u8] = ssdt(b"three   ", 7).leak();
    assert_eq!(contents(&with_ssdts(), &[file]).len(), 4);
    let (machine, _) = read_with(&with_ssdts(), &[file]);
    assert_eq!(machine.brought[0].to_string(), "ACPI table SSDT from the boot volume, added");
}

#[test]
fn an_id_decides_where_the_firmware_has_several_of_any_signature() {
    let mut memory = with_ssdts();
    let oem = |id: &[u8; 8], body| {
        let mut oem = table(b"OEM1", &[body]);
        oem[16..24].copy_from_slice(id);
        seal(oem, 9)
    };
    memory.put(0xa000, oem(b"one     ", 1));
    memory.put(0xb000, oem(b"two     ", 2));
    let file: &'static [u8] = oem(b"one     ", 9).leak();
    let found = contents(&memory, &[file]);
    let found: Vec<u8> = found.into_iter().filter(|(s, _)| s == "OEM1").map(|(_, b)| b).collect();
    assert_eq!(found, [9, 2]);
}

#[test]
fn a_table_file_with_a_wrong_checksum_is_told_and_skipped() {
    let mut bad = table(b"APIC", &[0; 8]);
    bad[9] ^= 1;
    let (machine, problems) = read_with(&small_machine(), &[bad.leak()]);
    assert_eq!((problems.len(), problems[0].trouble), (1, Trouble::Checksum));
    assert!(problems[0].to_string().ends_with("skipped"));
    assert_eq!((machine.cpus, machine.brought), (vec![0, 0x100], vec![]));
}

#[test]
fn a_table_file_cut_short_is_told() {
    let file: &'static [u8] = &table(b"APIC", &madt_body()).leak()[..50];
    let (machine, problems) = read_with(&small_machine(), &[file]);
    assert!(matches!(problems[0].trouble, Trouble::Length(_)) && problems[0].at.is_none());
    assert_eq!(machine.cpus, [0, 0x100]);
}

#[test]
fn the_rsdt_serves_where_the_xsdt_does_not() {
    let mut memory = small_machine();
    memory.put(0x1000, rsdp(0x6000, 0x2000));
    memory.put(0x2000, table(b"OEM1", &[]));
    memory.put(0x6000, table(b"RSDT", &0x3000u32.to_le_bytes()));
    let (machine, problems) = read_all(&memory);
    assert!(matches!(problems[0].trouble, Trouble::Signature(_)));
    assert_eq!(machine.cpus, [0, 0x100]);
}

proptest! {
    #[test]
    fn no_damage_is_too_much(hits in prop::collection::vec((0usize..6, any::<prop::sample::Index>(), any::<u8>()), 0..40)) {
        let mut memory = small_machine();
        for (which, place, value) in hits {
            let at = [0x1000, 0x2000, 0x3000, 0x4000, 0x5000, 0x9000][which];
            let mut bytes = memory.0[&at].to_vec();
            let place = place.index(bytes.len());
            bytes[place] = value;
            memory.put(at, bytes);
        }
        let _ = read_all(&memory);
    }
}

#[test]
fn mcfg_and_dmar_are_found_and_a_window_out_of_place_is_told() {
    let mut body = vec![0; 8];
    for (base, segment, buses) in [(0xe000_0000u64, 0u16, [0, 255]), (0xf000_0001, 1, [0, 1])] {
        body.extend(base.to_le_bytes());
        body.extend(segment.to_le_bytes());
        body.extend(buses);
        body.extend([0; 4]);
    }
    let dmar: &[u8] = table(b"DMAR", &[47, 1]).leak();
    let (machine, problems) = read_with(&small_machine(), &[table(b"MCFG", &body).leak(), dmar]);
    let window = Ecam { base: Hpa::new(0xe000_0000), segment: 0, buses: (0, 255) };
    assert_eq!(machine.ecam, [window]);
    assert_eq!(problems.len(), 1);
    assert_eq!(machine.dmar, Some(dmar));
}
