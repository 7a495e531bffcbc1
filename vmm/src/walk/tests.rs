//! Walks of hand-made tables.

use super::*;
use crate::tests::Memory;
use proptest::prelude::*;
use x86_spec::segment::Segment;

const ROOT: u64 = 0x1000;
const RAM: usize = 0x10_0000;

fn context(cr0: Cr0, cr4: Cr4, efer: Efer) -> CpuContext {
    CpuContext {
        cr0: cr0.bits(),
        cr3: ROOT,
        cr4: cr4.bits(),
        efer: efer.bits(),
        cs: Segment::flat(8, Segment::CODE64),
        ..CpuContext::default()
    }
}

fn long(levels: u32) -> CpuContext {
    let cr4 = if levels == 5 { Cr4::PAE | Cr4::LA57 } else { Cr4::PAE };
    context(Cr0::PE | Cr0::PG | Cr0::WP, cr4, Efer::LMA | Efer::NXE)
}

/// Tables that map `address` to `page` through `levels` levels of 512 entries, with a leaf at `leaf_level`; every entry
/// has the bits `rights`. The addresses of the entries, root first.
fn map(
    memory: &Memory,
    levels: u32,
    leaf_level: u32,
    address: u64,
    page: u64,
    rights: u64,
) -> Vec<u64> {
    let mut entries = Vec::new();
    let mut table = ROOT;
    for level in (leaf_level..=levels).rev() {
        let at = table + 8 * (address >> (12 + 9 * (level - 1)) & 511);
        let next = table + 0x1000;
        let value = match level {
            _ if level == leaf_level && level > 1 => page | rights | 0x80,
            _ if level == leaf_level => page | rights,
            3 if levels == 3 => next | 1,
            _ => next | rights,
        };
        memory.put_u64(at, value);
        entries.push(at);
        table = next;
    }
    entries
}

const ADDRESS: u64 = 0x0000_7123_4567_89ab;

#[test]
fn without_paging_linear_is_physical() {
    let memory = Memory::new(RAM);
    let context = context(Cr0::PE, Cr4::empty(), Efer::empty());
    let found = translate(&context, &memory, 0xffff_fff0, Access::Write);
    assert_eq!(found, Ok(Gpa::new(0xffff_fff0)));
}

#[test]
fn every_page_size_of_every_long_mode_is_walked() {
    for levels in [4, 5] {
        for (leaf_level, offset_bits) in [(1, 12), (2, 21), (3, 30)] {
            let memory = Memory::new(RAM);
            let page = 0x12_c000_0000;
            map(&memory, levels, leaf_level, ADDRESS, page, 7);
            let found = translate(&long(levels), &memory, ADDRESS, Access::Read);
            let offset = ADDRESS & ((1 << offset_bits) - 1);
            assert_eq!(found, Ok(Gpa::new(page | offset)), "{levels} levels, leaf {leaf_level}");
        }
    }
}

#[test]
fn pae_walks_three_levels() {
    let context = context(Cr0::PE | Cr0::PG, Cr4::PAE, Efer::NXE);
    for (leaf_level, offset_bits) in [(1, 12), (2, 21)] {
        let memory = Memory::new(RAM);
        map(&memory, 3, leaf_level, 0xc123_4567, 0x9_0000_0000, 7);
        let found = translate(&context, &memory, 0xc123_4567, Access::Write);
        let offset = 0xc123_4567 & ((1 << offset_bits) - 1);
        assert_eq!(found, Ok(Gpa::new(0x9_0000_0000 | offset)), "leaf {leaf_level}");
    }
}

#[test]
fn the_32_bit_mode_walks_two_levels_of_1024() {
    let memory = Memory::new(RAM);
    let context = context(Cr0::PE | Cr0::PG, Cr4::PSE, Efer::empty());
    let address = 0xc040_3123u64;
    memory.put(ROOT + 4 * (address >> 22), &0x2007u32.to_le_bytes());
    memory.put(0x2000 + 4 * (address >> 12 & 1023), &0xfec0_0007u32.to_le_bytes());
    let found = translate(&context, &memory, address, Access::Write);
    assert_eq!(found, Ok(Gpa::new(0xfec0_0123)));
    // A page of 4 MiB with bits 39:32 in 20:13 (PSE-36).
    memory.put(ROOT + 4 * (address >> 22), &(0xb040_0087u32 | 0x5a << 13).to_le_bytes());
    let found = translate(&context, &memory, address, Access::Read);
    assert_eq!(found, Ok(Gpa::new(0x5a_b040_0000 | address & 0x3f_ffff)));
    // Without CR4.PSE the same entry points at a table.
    let small = CpuContext { cr4: 0, ..context };
    assert!(matches!(
        translate(&small, &memory, address, Access::Read),
        Err(WalkError::NoMemory(_))
    ));
}

#[test]
fn an_absent_entry_faults_at_every_level() {
    for absent in 0..4 {
        let memory = Memory::new(RAM);
        let entries = map(&memory, 4, 1, ADDRESS, 0x5000, 7);
        memory.put_u64(entries[absent], 0);
        assert_eq!(
            translate(&long(4), &memory, ADDRESS, Access::Write),
            Err(WalkError::PageFault { address: ADDRESS, error_code: 2 })
        );
    }
}

#[test]
fn rights_are_checked_as_the_cpu_does() {
    const W: u64 = 2;
    const U: u64 = 4;
    const NX: u64 = 1 << 63;
    let supervisor = long(4);
    let user = CpuContext { cpl: 3, ..supervisor };
    let no_wp = CpuContext { cr0: supervisor.cr0 & !Cr0::WP.bits(), ..supervisor };
    let smep = CpuContext { cr4: supervisor.cr4 | Cr4::SMEP.bits(), ..supervisor };
    let smap = CpuContext { cr4: supervisor.cr4 | Cr4::SMAP.bits(), ..supervisor };
    let smap_off = CpuContext { rflags: Rflags::AC.bits(), ..smap };
    for (context, rights, access, refused) in [
        (supervisor, 0, Access::Read, None),
        (supervisor, 0, Access::Execute, None),
        (supervisor, 0, Access::Write, Some(0b0_0011)),
        (no_wp, 0, Access::Write, None),
        (supervisor, W, Access::Write, None),
        (supervisor, NX, Access::Execute, Some(0b1_0001)),
        (supervisor, NX | W, Access::Write, None),
        (user, 0, Access::Read, Some(0b0_0101)),
        (user, U, Access::Read, None),
        (user, U, Access::Write, Some(0b0_0111)),
        (user, U | W, Access::Write, None),
        (user, U | NX, Access::Execute, Some(0b1_0101)),
        (smep, U, Access::Execute, Some(0b1_0001)),
        (smep, 0, Access::Execute, None),
        (smap, U, Access::Read, Some(0b0_0001)),
        (smap, U | W, Access::Write, Some(0b0_0011)),
        (smap_off, U | W, Access::Write, None),
    ] {
        let memory = Memory::new(RAM);
        map(&memory, 4, 1, ADDRESS, 0x5000, 1 | rights);
        let expected = match refused {
            None => Ok(Gpa::new(0x59ab)),
            Some(error_code) => Err(WalkError::PageFault { address: ADDRESS, error_code }),
        };
        let found = translate(&context, &memory, ADDRESS, access);
        assert_eq!(found, expected, "{rights:#x} {access:?} CPL {}", context.cpl);
    }
}

#[test]
fn one_entry_without_a_right_takes_it_away() {
    for level in 0..4 {
        let memory = Memory::new(RAM);
        let entries = map(&memory, 4, 1, ADDRESS, 0x5000, 7);
        let at = entries[level];
        memory.put_u64(at, memory.get_u64(at) & !2);
        assert!(translate(&long(4), &memory, ADDRESS, Access::Write).is_err());
        assert!(translate(&long(4), &memory, ADDRESS, Access::Read).is_ok());
    }
}

#[test]
fn accessed_and_dirty_are_set_as_the_cpu_does() {
    let memory = Memory::new(RAM);
    let entries = map(&memory, 4, 1, ADDRESS, 0x5000, 7);
    let flags = |memory: &Memory| -> Vec<u64> {
        entries.iter().map(|at| memory.get_u64(*at) & 0x60).collect()
    };
    translate(&long(4), &memory, ADDRESS, Access::Read).unwrap();
    assert_eq!(flags(&memory), [0x20, 0x20, 0x20, 0x20]);
    translate(&long(4), &memory, ADDRESS, Access::Write).unwrap();
    assert_eq!(flags(&memory), [0x20, 0x20, 0x20, 0x60]);
}

#[test]
fn reserved_bits_fault() {
    let memory = Memory::new(RAM);
    let entries = map(&memory, 4, 1, ADDRESS, 0x5000, 7);
    let no_nx = CpuContext { efer: Efer::LMA.bits(), ..long(4) };
    memory.put_u64(entries[3], 0x5007 | 1 << 63);
    assert_eq!(
        translate(&no_nx, &memory, ADDRESS, Access::Read),
        Err(WalkError::PageFault { address: ADDRESS, error_code: 0b1001 })
    );
    memory.put_u64(entries[0], memory.get_u64(entries[0]) | 0x80);
    assert_eq!(
        translate(&long(4), &memory, ADDRESS, Access::Read),
        Err(WalkError::PageFault { address: ADDRESS, error_code: 0b1001 })
    );
}

#[test]
fn an_address_that_is_not_canonical_is_refused() {
    let memory = Memory::new(RAM);
    map(&memory, 5, 1, ADDRESS, 0x5000, 7);
    let address = 0x0000_8000_0000_0000;
    let found = translate(&long(4), &memory, address, Access::Read);
    assert_eq!(found, Err(WalkError::NotCanonical));
    let found = translate(&long(5), &memory, address, Access::Read);
    assert!(matches!(found, Err(WalkError::PageFault { .. })));
    let found = translate(&long(5), &memory, 1 << 56, Access::Read);
    assert_eq!(found, Err(WalkError::NotCanonical));
}

#[test]
fn tables_outside_memory_are_an_error() {
    let memory = Memory::new(RAM);
    let entries = map(&memory, 4, 1, ADDRESS, 0x5000, 7);
    memory.put_u64(entries[1], 0x00ff_f000_0000 | 7);
    let found = translate(&long(4), &memory, ADDRESS, Access::Read);
    assert!(matches!(found, Err(WalkError::NoMemory(gpa)) if gpa.raw() > 0x00ff_0000_0000));
}

#[test]
fn a_fetch_goes_on_into_the_next_page_if_that_is_there() {
    let memory = Memory::new(RAM);
    let address = 0x40_0ff8u64;
    let entries = map(&memory, 4, 1, address, 0x8000, 7);
    memory.put(0x8ff8, &[1, 2, 3, 4, 5, 6, 7, 8]);
    memory.put(0x3_0000, &[9, 10, 11, 12, 13, 14, 15]);
    let context = CpuContext { rip: address, ..long(4) };
    let mut bytes = [0; MAX_BYTES];
    assert_eq!(fetch(&context, &memory, &mut bytes), Ok(8));
    memory.put_u64(entries[3] + 8, 0x3_0000 | 7);
    assert_eq!(fetch(&context, &memory, &mut bytes), Ok(15));
    assert_eq!(bytes, core::array::from_fn(|i| i as u8 + 1));
}

#[test]
fn reads_and_writes_cross_pages_and_write_all_or_nothing() {
    let memory = Memory::new(RAM);
    let address = 0x40_0ffdu64;
    let entries = map(&memory, 4, 1, address, 0x8000, 7);
    let context = long(4);
    assert!(write(&context, &memory, address, &[1, 2, 3, 4]).is_err());
    assert_eq!(memory.get::<3>(0x8ffd), [0; 3]);
    memory.put_u64(entries[3] + 8, 0x3_0000 | 7);
    assert_eq!(write(&context, &memory, address, &[1, 2, 3, 4]), Ok(()));
    assert_eq!((memory.get::<3>(0x8ffd), memory.get::<1>(0x3_0000)), ([1, 2, 3], [4]));
    let mut back = [0; 4];
    assert_eq!(read(&context, &memory, address, &mut back), Ok(()));
    assert_eq!(back, [1, 2, 3, 4]);
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(2_000) })]

    #[test]
    fn no_tables_disturb_a_walk(
        words in prop::collection::vec(any::<u64>(), 64),
        cr0: u64, cr3: u64, cr4: u64, efer: u64, address: u64, cpl in 0u8..4,
        near: bool,
    ) {
        let memory = Memory::new(0x4000);
        for (index, word) in words.iter().enumerate() {
            let word = if near { word & 0x3fff } else { *word };
            memory.put_u64(index as u64 * 0x100, word);
        }
        let cr3 = if near { cr3 & 0x3000 } else { cr3 };
        let context = CpuContext { cr0, cr3, cr4, efer, cpl, ..CpuContext::default() };
        for access in [Access::Read, Access::Write, Access::Execute] {
            let _ = translate(&context, &memory, address, access);
        }
        let mut bytes = [0; MAX_BYTES];
        let _ = fetch(&context, &memory, &mut bytes);
        let _ = read(&context, &memory, address, &mut bytes);
        let _ = write(&context, &memory, address, &bytes);
    }
}

#[test]
fn code_is_found_where_the_whole_walk_finds_it() {
    const RIP: u64 = 0x7123_4000_5008;
    for (leaf_level, page) in [(1, 0x8000), (2, 0), (3, 0)] {
        let memory = Memory::new(RAM);
        let entries = map(&memory, 4, leaf_level, RIP, page, 0x27);
        let context = CpuContext { rip: RIP, ..long(4) };
        let gpa = translate(&context, &memory, RIP, Access::Execute).unwrap();
        memory.put_u64(gpa.raw(), 0x1234);
        let code = Code64 { rip: RIP, cr3: ROOT | 0x18 };
        assert_eq!(code_word(code, &memory), Some(0x1234), "level {leaf_level}");
        let path = code_path(code, &memory).unwrap();
        assert_eq!(path.page, gpa.align_down(PAGE_SIZE));
        let expected = (0..4).map(|at| *entries.get(at).unwrap_or(entries.last().unwrap()));
        let expected = expected.map(|at| (Gpa::new(at), memory.get_u64(at)));
        assert!(path.entries.into_iter().eq(expected), "level {leaf_level}");
        for at in entries {
            let entry = memory.get_u64(at);
            memory.put_u64(at, entry & !1);
            assert_eq!(code_word(code, &memory), None, "absent at {at:#x}");
            memory.put_u64(at, entry);
        }
        let end = Code64 { rip: RIP + 0xff1, ..code };
        assert_eq!(code_word(end, &memory), None, "the next page begins among the bytes");
    }
}
