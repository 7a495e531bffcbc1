//! The registers of a virtual CPU after INIT and start-up.

use vcpu::{Gpr, Registers};
use x86_spec::cpu::Cr0;
use x86_spec::segment::{DescriptorTable, Segment};

/// A present, accessed real-mode code segment, and a data segment likewise.
const CODE: u32 = 0x9b;
const DATA: u32 = 0x93;
const LDT: u32 = 0x82;
const BUSY_TSS: u32 = 0x8b;
/// DR7 after reset.
const DR7: u64 = 0x400;

fn real_mode(access: u32) -> Segment {
    Segment { selector: 0, base: 0, limit: 0xffff, access }
}

/// After INIT, when CR0 was `cr0` before and CPUID gives `signature` (SDM vol. 3, table 10-1). CR0.CD and CR0.NW stay.
#[must_use]
pub(crate) fn registers(cr0: u64, signature: u32) -> Registers {
    let table = DescriptorTable { base: 0, limit: 0xffff };
    let value = |gpr| if gpr == Gpr::Rdx { signature.into() } else { 0 };
    Registers {
        gprs: Gpr::ALL.map(value),
        rip: 0xfff0,
        rflags: 2,
        cr0: cr0 & (Cr0::CD | Cr0::NW).bits() | Cr0::ET.bits(),
        dr7: DR7,
        cs: Segment { selector: 0xf000, base: 0xffff_0000, ..real_mode(CODE) },
        ds: real_mode(DATA),
        es: real_mode(DATA),
        fs: real_mode(DATA),
        gs: real_mode(DATA),
        ss: real_mode(DATA),
        tr: real_mode(BUSY_TSS),
        ldtr: real_mode(LDT),
        gdtr: table,
        idtr: table,
        ..Registers::default()
    }
}

/// After the start-up that follows: real mode, at the page that `vector` numbers.
#[must_use]
pub(crate) fn started(cr0: u64, signature: u32, vector: u8) -> Registers {
    let selector = u16::from(vector) << 8;
    let base = u64::from(selector) << 4;
    let cs = Segment { selector, base, ..real_mode(CODE) };
    Registers { rip: 0, cs, ..registers(cr0, signature) }
}
