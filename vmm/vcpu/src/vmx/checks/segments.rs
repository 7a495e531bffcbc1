//! Checks of the guest's segment registers (SDM vol. 3, 27.3.1.2).

use x86_spec::cpu::{Cr0, Rflags};
use x86_spec::segment::Segment;
use x86_spec::vmx::control::{EntryControls, Secondary};
use x86_spec::vmx::field::{SegmentRegister, control, guest};

use super::controls::secondary;
use super::{EntryCheck, ensure};
use crate::vmx::capabilities::Capabilities;
use crate::vmx::fields::Fields;

/// Selector bit: the local table.
const TI: u16 = 1 << 2;
/// Access rights of virtual-8086 mode.
const VIRTUAL: u32 = 0xf3;

const CODE_AND_DATA: [SegmentRegister; 6] = [
    SegmentRegister::Cs,
    SegmentRegister::Ss,
    SegmentRegister::Ds,
    SegmentRegister::Es,
    SegmentRegister::Fs,
    SegmentRegister::Gs,
];

/// The mode that the rules depend on.
struct Mode {
    unrestricted: bool,
    ia32e: bool,
    protected: bool,
    virtual_8086: bool,
}

pub(super) fn check(fields: &impl Fields, capabilities: &Capabilities) -> Result<(), EntryCheck> {
    let entry = EntryControls::from_bits_retain(fields.read(control::ENTRY));
    let mode = Mode {
        unrestricted: secondary(fields).contains(Secondary::UNRESTRICTED_GUEST),
        ia32e: entry.contains(EntryControls::IA32E_MODE_GUEST),
        protected: fields.read(guest::CR0) & Cr0::PE.bits() != 0,
        virtual_8086: fields.read(guest::RFLAGS) & Rflags::VM.bits() != 0,
    };
    selectors(fields)?;
    bases(fields, capabilities)?;
    if mode.virtual_8086 {
        virtual_8086(fields)?;
    } else {
        code(fields, &mode)?;
        stack(fields, &mode)?;
        data(fields, &mode)?;
    }
    task(fields, &mode)?;
    local_table(fields)
}

fn access(fields: &impl Fields, register: SegmentRegister) -> u32 {
    fields.read(register.access())
}

fn is_usable(fields: &impl Fields, register: SegmentRegister) -> bool {
    access(fields, register) & Segment::UNUSABLE == 0
}

fn kind(access: u32) -> u32 {
    access & 0xf
}

fn dpl(access: u32) -> u32 {
    access >> 5 & 3
}

fn selectors(fields: &impl Fields) -> Result<(), EntryCheck> {
    let local = |register: SegmentRegister| fields.read(register.selector()) & TI != 0;
    ensure(!local(SegmentRegister::Tr), EntryCheck::TrSelector)?;
    let ldtr = is_usable(fields, SegmentRegister::Ldtr) && local(SegmentRegister::Ldtr);
    ensure(!ldtr, EntryCheck::LdtrSelector)
}

fn bases(fields: &impl Fields, capabilities: &Capabilities) -> Result<(), EntryCheck> {
    let base = |register: SegmentRegister| fields.read(register.base());
    for register in [SegmentRegister::Tr, SegmentRegister::Fs, SegmentRegister::Gs] {
        ensure(capabilities.is_canonical(base(register)), EntryCheck::BaseCanonical)?;
    }
    let ldtr = !is_usable(fields, SegmentRegister::Ldtr)
        || capabilities.is_canonical(base(SegmentRegister::Ldtr));
    ensure(ldtr, EntryCheck::BaseCanonical)?;
    ensure(base(SegmentRegister::Cs) >> 32 == 0, EntryCheck::BaseHigh)?;
    for register in [SegmentRegister::Ss, SegmentRegister::Ds, SegmentRegister::Es] {
        let low = !is_usable(fields, register) || base(register) >> 32 == 0;
        ensure(low, EntryCheck::BaseHigh)?;
    }
    Ok(())
}

fn virtual_8086(fields: &impl Fields) -> Result<(), EntryCheck> {
    for register in CODE_AND_DATA {
        let base = u64::from(fields.read(register.selector())) << 4;
        ensure(fields.read(register.base()) == base, EntryCheck::VirtualBase)?;
        ensure(fields.read(register.limit()) == 0xffff, EntryCheck::VirtualLimit)?;
        ensure(access(fields, register) == VIRTUAL, EntryCheck::VirtualAccess)?;
    }
    Ok(())
}

fn code(fields: &impl Fields, mode: &Mode) -> Result<(), EntryCheck> {
    let cs = access(fields, SegmentRegister::Cs);
    let ss = access(fields, SegmentRegister::Ss);
    let is_type = match kind(cs) {
        9 | 11 | 13 | 15 => true,
        // An unrestricted guest may have come from real mode with a data segment in CS.
        3 => mode.unrestricted,
        _ => false,
    };
    ensure(is_type, EntryCheck::CsType)?;
    ensure(cs & 1 << 4 != 0, EntryCheck::SegmentSystem)?;
    let is_dpl = match kind(cs) {
        3 => dpl(cs) == 0,
        9 | 11 => dpl(cs) == dpl(ss),
        _ => dpl(cs) <= dpl(ss),
    };
    ensure(is_dpl, EntryCheck::CsDpl)?;
    let long_default = cs & 1 << 13 != 0 && cs & 1 << 14 != 0;
    ensure(!(mode.ia32e && long_default), EntryCheck::CsLongDefault)?;
    common(fields, SegmentRegister::Cs)
}

fn stack(fields: &impl Fields, mode: &Mode) -> Result<(), EntryCheck> {
    let cs = access(fields, SegmentRegister::Cs);
    let ss = access(fields, SegmentRegister::Ss);
    let requested = |register: SegmentRegister| u32::from(fields.read(register.selector()) & 3);
    if !mode.unrestricted {
        let same = requested(SegmentRegister::Ss) == requested(SegmentRegister::Cs)
            && dpl(ss) == requested(SegmentRegister::Ss);
        ensure(same, EntryCheck::SsDpl)?;
    }
    ensure(dpl(ss) == 0 || (kind(cs) != 3 && mode.protected), EntryCheck::SsDpl)?;
    if !is_usable(fields, SegmentRegister::Ss) {
        return Ok(());
    }
    ensure(matches!(kind(ss), 3 | 7), EntryCheck::SsType)?;
    ensure(ss & 1 << 4 != 0, EntryCheck::SegmentSystem)?;
    common(fields, SegmentRegister::Ss)
}

fn data(fields: &impl Fields, mode: &Mode) -> Result<(), EntryCheck> {
    let registers =
        [SegmentRegister::Ds, SegmentRegister::Es, SegmentRegister::Fs, SegmentRegister::Gs];
    for register in registers {
        if !is_usable(fields, register) {
            continue;
        }
        let access = access(fields, register);
        let is_code = kind(access) & 8 != 0;
        let readable = !is_code || kind(access) & 2 != 0;
        ensure(kind(access) & 1 != 0 && readable, EntryCheck::DataType)?;
        ensure(access & 1 << 4 != 0, EntryCheck::SegmentSystem)?;
        if !mode.unrestricted && kind(access) < 12 {
            let requested = u32::from(fields.read(register.selector()) & 3);
            ensure(dpl(access) >= requested, EntryCheck::DataType)?;
        }
        common(fields, register)?;
    }
    Ok(())
}

fn task(fields: &impl Fields, mode: &Mode) -> Result<(), EntryCheck> {
    let tr = access(fields, SegmentRegister::Tr);
    let busy = match kind(tr) {
        11 => true,
        3 => !mode.ia32e,
        _ => false,
    };
    let system = tr & 1 << 4 == 0;
    ensure(busy && system && is_usable(fields, SegmentRegister::Tr), EntryCheck::TrType)?;
    common(fields, SegmentRegister::Tr)
}

fn local_table(fields: &impl Fields) -> Result<(), EntryCheck> {
    if !is_usable(fields, SegmentRegister::Ldtr) {
        return Ok(());
    }
    let ldtr = access(fields, SegmentRegister::Ldtr);
    ensure(kind(ldtr) == 2 && ldtr & 1 << 4 == 0, EntryCheck::LdtrType)?;
    common(fields, SegmentRegister::Ldtr)
}

/// What all usable segments have in common.
fn common(fields: &impl Fields, register: SegmentRegister) -> Result<(), EntryCheck> {
    const RESERVED: u32 = 0xfffe_0f00;
    let access = access(fields, register);
    let limit = fields.read(register.limit());
    ensure(access & 1 << 7 != 0, EntryCheck::SegmentPresent)?;
    ensure(access & RESERVED == 0, EntryCheck::SegmentReserved)?;
    let granular = access & 1 << 15 != 0;
    let fine = limit & 0xfff == 0xfff || !granular;
    let coarse = limit >> 20 == 0 || granular;
    ensure(fine && coarse, EntryCheck::SegmentGranularity)
}
