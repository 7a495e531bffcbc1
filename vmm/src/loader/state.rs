//! The CPU's state at a 32-bit entry: protected mode, flat segments, no paging, interrupts off. PVH (Xen,
//! docs/misc/pvh.pandoc) and Multiboot 1 (3.2) differ in what EAX and EBX say only.

use vcpu::{Gpr, Registers};
use x86_spec::{
    cpu::{Cr0, Rflags},
    segment::{DescriptorTable, Segment},
};

use super::{
    LoadError,
    memory_map::{BOOT_INFO, GDT},
};
use crate::GuestMemory;

const CS: u16 = 0x10;
const DS: u16 = 0x18;
const TR: u16 = 0x20;

/// Null, an unused entry, flat code and data segments, a 32-bit task-state segment that no one ever uses.
const DESCRIPTORS: [u64; 5] =
    [0, 0, 0x00cf_9b00_0000_ffff, 0x00cf_9300_0000_ffff, 0x0000_8b00_0000_0067];

/// Writes the GDT and gives the registers at `entry`, with [`BOOT_INFO`] in EBX.
pub(super) fn protected_mode(
    memory: &impl GuestMemory,
    entry: u32,
    eax: u32,
) -> Result<Registers, LoadError> {
    for (index, descriptor) in (0_u64..).zip(DESCRIPTORS) {
        memory.write(GDT.wrapping_add(8 * index), &descriptor.to_le_bytes())?;
    }
    let mut gprs = [0; 16];
    let starts = [
        (Gpr::Rax, eax.into()),
        (Gpr::Rbx, BOOT_INFO.raw()),
        // Not promised by either protocol.
        (Gpr::Rsp, GDT.raw()),
    ];
    for (register, value) in starts {
        if let Some(slot) = gprs.get_mut(register as usize) {
            *slot = value;
        }
    }
    let data = Segment::flat(DS, Segment::DATA);
    Ok(Registers {
        gprs,
        rip: entry.into(),
        rflags: Rflags::ONE.bits(),
        cr0: (Cr0::PE | Cr0::ET).bits(),
        dr7: 0x400,
        cs: Segment::flat(CS, Segment::CODE32),
        ds: data,
        es: data,
        fs: data,
        gs: data,
        ss: data,
        tr: Segment { selector: TR, base: 0, limit: 0x67, access: Segment::TSS64_BUSY },
        ldtr: Segment::unusable(),
        gdtr: DescriptorTable { base: GDT.raw(), limit: 8 * DESCRIPTORS.len() as u16 - 1 },
        ..Registers::default()
    })
}
