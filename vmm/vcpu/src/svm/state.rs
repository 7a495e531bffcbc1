//! The guest's state in the VMCB: neutral registers in and out, and the MSRs that it holds. Pure.

use hw::{Msr, MsrFault};
use x86_spec::cpu::{Cr0, Cr4, Efer, Rflags};
use x86_spec::msr;
use x86_spec::segment::{DescriptorTable, Segment};
use x86_spec::svm::{StateSaveArea, VmcbSegment};

use crate::{Code64, CpuContext, GeneralProtection, Gpr, Registers};

/// DR6 after reset.
const DR6_RESET: u64 = 0xffff_0ff0;
/// IA32_PAT after reset.
pub(super) const PAT_RESET: u64 = 0x0007_0406_0007_0406;
/// EFER bits that a guest may write. LMA is accepted and ignored, as Linux writes back what it has read; SVME is Kerf's.
const EFER_WRITABLE: Efer = Efer::SCE.union(Efer::LME).union(Efer::LMA).union(Efer::NXE);
/// P in [`VmcbSegment::attributes`], where [`Segment`] has it too.
const PRESENT: u16 = 1 << 7;

/// Packs the access rights: bits 15:12 move down to 11:8, and what is unusable is not present.
pub(super) fn pack(segment: &Segment) -> VmcbSegment {
    let access = segment.access;
    let usable = access & Segment::UNUSABLE == 0;
    let attributes = (access & 0xff | (access >> 4) & 0xf00) as u16;
    VmcbSegment {
        selector: segment.selector,
        attributes: if usable { attributes } else { attributes & !PRESENT },
        limit: segment.limit,
        base: segment.base,
    }
}

/// The reverse of [`pack`].
pub(super) fn unpack(segment: &VmcbSegment) -> Segment {
    let attributes = u32::from(segment.attributes);
    let unusable = if segment.attributes & PRESENT == 0 { Segment::UNUSABLE } else { 0 };
    Segment {
        selector: segment.selector,
        base: segment.base,
        limit: segment.limit,
        access: attributes & 0xff | (attributes & 0xf00) << 4 | unusable,
    }
}

fn pack_table(table: DescriptorTable) -> VmcbSegment {
    VmcbSegment { base: table.base, limit: u32::from(table.limit), ..VmcbSegment::default() }
}

fn unpack_table(table: &VmcbSegment) -> DescriptorTable {
    DescriptorTable { base: table.base, limit: table.limit as u16 }
}

/// Puts everything but the general-purpose registers that VMRUN leaves alone, and CR4.
pub(super) fn set_registers(save: &mut StateSaveArea, registers: &Registers) {
    save.es = pack(&registers.es);
    save.cs = pack(&registers.cs);
    save.ss = pack(&registers.ss);
    save.ds = pack(&registers.ds);
    save.fs = pack(&registers.fs);
    save.gs = pack(&registers.gs);
    save.tr = pack(&registers.tr);
    save.ldtr = pack(&registers.ldtr);
    save.gdtr = pack_table(registers.gdtr);
    save.idtr = pack_table(registers.idtr);
    save.cpl = privilege(registers);
    save.efer = registers.efer | Efer::SVME.bits();
    (save.cr0, save.cr2) = (registers.cr0, registers.cr2);
    save.cr3 = registers.cr3;
    (save.dr6, save.dr7) = (DR6_RESET, registers.dr7);
    save.rflags = registers.rflags | Rflags::ONE.bits();
    save.rip = registers.rip;
    save.rax = registers.gprs[Gpr::Rax as usize];
    save.rsp = registers.gprs[Gpr::Rsp as usize];
}

/// The reverse of [`set_registers`]; `gprs` has the rest.
pub(super) fn registers(save: &StateSaveArea, gprs: &[u64; 16]) -> Registers {
    let mut gprs = *gprs;
    gprs[Gpr::Rax as usize] = save.rax;
    gprs[Gpr::Rsp as usize] = save.rsp;
    Registers {
        gprs,
        rip: save.rip,
        rflags: save.rflags,
        cr0: save.cr0,
        cr2: save.cr2,
        cr3: save.cr3,
        cr4: save.cr4,
        efer: save.efer & !Efer::SVME.bits(),
        dr7: save.dr7,
        cs: unpack(&save.cs),
        ds: unpack(&save.ds),
        es: unpack(&save.es),
        fs: unpack(&save.fs),
        gs: unpack(&save.gs),
        ss: unpack(&save.ss),
        tr: unpack(&save.tr),
        ldtr: unpack(&save.ldtr),
        gdtr: unpack_table(&save.gdtr),
        idtr: unpack_table(&save.idtr),
    }
}

/// What decoding needs.
pub(super) fn context(save: &StateSaveArea) -> CpuContext {
    CpuContext {
        rip: save.rip,
        rflags: save.rflags,
        cr0: save.cr0,
        cr3: save.cr3,
        cr4: save.cr4,
        efer: save.efer & !Efer::SVME.bits(),
        cs: unpack(&save.cs),
        ss: unpack(&save.ss),
        ds: unpack(&save.ds),
        es: unpack(&save.es),
        fs_base: save.fs.base,
        gs_base: save.gs.base,
        cpl: save.cpl,
    }
}

/// What fetching 64-bit code needs.
#[inline]
pub(super) fn code64(save: &StateSaveArea) -> Option<Code64> {
    let four_levels = save.cr4 & Cr4::LA57.bits() == 0;
    (is_long_code(save) && four_levels).then_some(Code64 { rip: save.rip, cr3: save.cr3 })
}

/// Whether the guest runs 64-bit code.
#[inline]
fn is_long_code(save: &StateSaveArea) -> bool {
    const LONG: u16 = 1 << 9;
    save.efer & Efer::LMA.bits() != 0 && save.cs.attributes & LONG != 0
}

/// The VMCB has the privilege level apart from the segments (APM vol. 2, 15.5.1): 0 in real mode, 3 in virtual-8086
/// mode, else the stack segment's.
fn privilege(registers: &Registers) -> u8 {
    if registers.cr0 & Cr0::PE.bits() == 0 {
        0
    } else if registers.rflags & Rflags::VM.bits() != 0 {
        3
    } else {
        (registers.ss.access >> 5) as u8 & 3
    }
}

/// Moves RIP on by `len`. Outside 64-bit code EIP wraps at 32 bits.
#[inline]
pub(super) fn advance(save: &mut StateSaveArea, len: u8) {
    let next = save.rip.wrapping_add(u64::from(len));
    save.rip = if is_long_code(save) { next } else { next & 0xffff_ffff };
}

/// The MSR of the guest that the VMCB holds.
pub(super) fn read_msr(save: &StateSaveArea, msr: Msr) -> Result<u64, MsrFault> {
    Ok(match msr {
        msr::EFER => save.efer & !Efer::SVME.bits(),
        msr::PAT => save.g_pat,
        msr::FS_BASE => save.fs.base,
        msr::GS_BASE => save.gs.base,
        msr::KERNEL_GS_BASE => save.kernel_gs_base,
        msr::STAR => save.star,
        msr::LSTAR => save.lstar,
        msr::CSTAR => save.cstar,
        msr::SFMASK => save.sfmask,
        msr::SYSENTER_CS => save.sysenter_cs,
        msr::SYSENTER_ESP => save.sysenter_esp,
        msr::SYSENTER_EIP => save.sysenter_eip,
        _ => return Err(MsrFault(msr)),
    })
}

/// Sets an MSR that the VMCB holds, by the rules of WRMSR.
pub(super) fn write_msr(save: &mut StateSaveArea, msr: Msr, value: u64) -> Result<(), MsrFault> {
    let address_bits = if save.cr4 & Cr4::LA57.bits() != 0 { 57 } else { 48 };
    let canonical = {
        let unused = 64 - address_bits;
        ((value << unused) as i64 >> unused) as u64 == value
    };
    let field = match msr {
        msr::EFER => return write_efer(save, value),
        msr::PAT if is_pat(value) => &mut save.g_pat,
        msr::STAR => &mut save.star,
        msr::SFMASK => &mut save.sfmask,
        msr::SYSENTER_CS => &mut save.sysenter_cs,
        _ if !canonical => return Err(MsrFault(msr)),
        msr::FS_BASE => &mut save.fs.base,
        msr::GS_BASE => &mut save.gs.base,
        msr::KERNEL_GS_BASE => &mut save.kernel_gs_base,
        msr::LSTAR => &mut save.lstar,
        msr::CSTAR => &mut save.cstar,
        msr::SYSENTER_ESP => &mut save.sysenter_esp,
        msr::SYSENTER_EIP => &mut save.sysenter_eip,
        _ => return Err(MsrFault(msr)),
    };
    *field = value;
    Ok(())
}

/// APM vol. 2, 3.1.7: reserved bits fault, and LME cannot change while paging is on. LMA stays the CPU's, which sets it
/// with CR0.PG; SVME stays set, unseen.
fn write_efer(save: &mut StateSaveArea, value: u64) -> Result<(), MsrFault> {
    let old = save.efer;
    let paging = save.cr0 & Cr0::PG.bits() != 0;
    let changes_lme = (old ^ value) & Efer::LME.bits() != 0;
    if value & !EFER_WRITABLE.bits() != 0 || (paging && changes_lme) {
        return Err(MsrFault(msr::EFER));
    }
    let kept = (Efer::LMA | Efer::SVME).bits();
    save.efer = value & !kept | old & kept;
    Ok(())
}

/// Keeps EFER.LME out of the VMCB while it means nothing: without paging and without PAE. Going back to the host from
/// there, QEMU 11.1 takes the host's CR0.PG for a guest's that turns paging on without PAE, and leaves the host without
/// paging. A CPU has no use for the bit in that state either.
pub(super) const fn hold_lme(save: &mut StateSaveArea, held: &mut u64) {
    if save.cr0 & Cr0::PG.bits() != 0 {
        return;
    }
    let lme = (save.efer | *held) & Efer::LME.bits();
    *held = if save.cr4 & Cr4::PAE.bits() == 0 { lme } else { 0 };
    save.efer = save.efer & !Efer::LME.bits() | lme & !*held;
}

/// What MOV to CR4 of `value` checks where `offered` bits exist (APM vol. 2, 3.1.3 and 5.5.1).
pub(super) const fn check_cr4(
    save: &StateSaveArea,
    value: u64,
    offered: u64,
) -> Result<(), GeneralProtection> {
    let long = save.efer & Efer::LMA.bits() != 0;
    let sets_pcide = value & !save.cr4 & Cr4::PCIDE.bits() != 0;
    let refused = value & !offered != 0
        || long && value & Cr4::PAE.bits() == 0
        || sets_pcide && (!long || save.cr3 & 0xfff != 0);
    if refused { Err(GeneralProtection) } else { Ok(()) }
}

/// Whether every entry of a PAT names a memory type (APM vol. 2, 7.8.1).
pub(super) fn is_pat(value: u64) -> bool {
    value.to_le_bytes().iter().all(|entry| matches!(entry, 0 | 1 | 4..=7))
}
