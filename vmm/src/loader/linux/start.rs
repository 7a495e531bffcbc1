//! The CPU's state at Linux's 64-bit entry: long mode, flat segments, the first 4 GiB mapped to themselves.

use alloc::vec::Vec;

use hw::{Gpa, PAGE_SIZE, PAGE_SIZE_2M};
use images::bzimage;
use vcpu::{Gpr, Registers};
use x86_spec::{
    cpu::{Cr0, Cr4, Efer, Rflags},
    segment::{DescriptorTable, Segment},
};

use super::{BOOT_PARAMS, PAGE_TABLES};
use crate::loader::memory_map::GDT;

/// Identity-mapped at entry.
const MAPPED_GIB: u64 = 4;

/// Selectors that the protocol prescribes.
const BOOT_CS: u16 = 0x10;
const BOOT_DS: u16 = 0x18;
const BOOT_TR: u16 = 0x20;

/// Null, an unused entry, the flat code and data segments, and a task-state segment that no one ever uses, two entries
/// wide.
pub(super) fn gdt() -> Vec<u8> {
    let entries: [u64; 6] =
        [0, 0, 0x00af_9b00_0000_ffff, 0x00cf_9300_0000_ffff, 0x0000_8b00_0000_0067, 0];
    entries.iter().flat_map(|entry| entry.to_le_bytes()).collect()
}

/// Page tables that map the first [`MAPPED_GIB`] to themselves by 2 MiB pages.
pub(super) fn identity_page_tables() -> Vec<u8> {
    const PRESENT_WRITABLE: u64 = 3;
    const LARGE: u64 = 1 << 7;
    let table_at = |index: u64| (PAGE_TABLES.raw() + index * PAGE_SIZE) | PRESENT_WRITABLE;
    let mut bytes = Vec::with_capacity(((2 + MAPPED_GIB) * PAGE_SIZE) as usize);
    bytes.extend(table_at(1).to_le_bytes());
    bytes.resize(PAGE_SIZE as usize, 0);
    bytes.extend((0..MAPPED_GIB).flat_map(|directory| table_at(2 + directory).to_le_bytes()));
    bytes.resize(2 * PAGE_SIZE as usize, 0);
    bytes.extend(
        (0..MAPPED_GIB * 512)
            .flat_map(|page| ((page * PAGE_SIZE_2M) | LARGE | PRESENT_WRITABLE).to_le_bytes()),
    );
    bytes
}

/// The state at the 64-bit entry: long mode, flat segments, interrupts off, RSI = the boot parameters.
pub(super) fn registers(kernel: Gpa) -> Registers {
    let data = Segment::flat(BOOT_DS, Segment::DATA);
    let mut gprs = [0; 16];
    let starts = [(Gpr::Rsi, BOOT_PARAMS), (Gpr::Rsp, GDT)];
    for (register, gpa) in starts {
        if let Some(slot) = gprs.get_mut(register as usize) {
            *slot = gpa.raw();
        }
    }
    Registers {
        gprs,
        rip: kernel.raw() + bzimage::ENTRY_64,
        rflags: Rflags::ONE.bits(),
        cr0: (Cr0::PE | Cr0::ET | Cr0::NE | Cr0::PG).bits(),
        cr3: PAGE_TABLES.raw(),
        cr4: Cr4::PAE.bits(),
        efer: (Efer::LME | Efer::LMA).bits(),
        dr7: 0x400,
        cs: Segment::flat(BOOT_CS, Segment::CODE64),
        ds: data,
        es: data,
        fs: data,
        gs: data,
        ss: data,
        tr: Segment { selector: BOOT_TR, base: 0, limit: 0x67, access: Segment::TSS64_BUSY },
        ldtr: Segment::unusable(),
        gdtr: DescriptorTable { base: GDT.raw(), limit: 6 * 8 - 1 },
        ..Registers::default()
    }
}
