//! Checks of the guest state but for its segments (SDM vol. 3, 27.3.1.1 and 27.3.1.3 to 27.3.1.6).

use x86_spec::cpu::{Cr0, Cr4, Efer, Rflags, vector};
use x86_spec::segment::Segment;
use x86_spec::vmx::control::{self as bits, EntryControls, Interruptibility, PinBased, Secondary};
use x86_spec::vmx::exit::{InterruptionInfo, InterruptionType};
use x86_spec::vmx::field::{SegmentRegister, control, guest};

use super::controls::secondary;
use super::{EFER_DEFINED, EntryCheck, ensure, is_pat, segments};
use crate::vmx::capabilities::Capabilities;
use crate::vmx::fields::Fields;

/// Access rights: a 64-bit code segment.
const LONG: u32 = 1 << 13;
/// DEBUGCTL: LBR, BTF, bus-lock detection, TR to freeze-while-SMM, RTM.
const DEBUGCTL_DEFINED: u64 = 0xffc7;
const DEBUGCTL_BTF: u64 = 1 << 1;
/// Pending debug exceptions: B0 to B3, enabled breakpoint, BS, RTM.
const PENDING_DEFINED: u64 = 0xf | 1 << 12 | PENDING_STEP | 1 << 16;
const PENDING_STEP: u64 = 1 << 14;

pub(super) fn check(fields: &impl Fields, capabilities: &Capabilities) -> Result<(), EntryCheck> {
    control_registers(fields, capabilities)?;
    model_specific(fields, capabilities)?;
    efer(fields)?;
    segments::check(fields, capabilities)?;
    tables(fields, capabilities)?;
    instruction_pointer(fields, capabilities)?;
    flags(fields)?;
    activity(fields, capabilities)?;
    blocking(fields)?;
    pending_debug(fields)?;
    ensure(fields.read(guest::LINK_POINTER) == bits::NO_LINK, EntryCheck::LinkPointer)?;
    directory_pointers(fields, capabilities)
}

fn entry_controls(fields: &impl Fields) -> EntryControls {
    EntryControls::from_bits_retain(fields.read(control::ENTRY))
}

fn is_ia32e(fields: &impl Fields) -> bool {
    entry_controls(fields).contains(EntryControls::IA32E_MODE_GUEST)
}

fn event(fields: &impl Fields) -> Option<InterruptionInfo> {
    let info = InterruptionInfo(fields.read(control::ENTRY_INTERRUPTION_INFO));
    info.is_valid().then_some(info)
}

fn control_registers(fields: &impl Fields, capabilities: &Capabilities) -> Result<(), EntryCheck> {
    let cr0 = Cr0::from_bits_retain(fields.read(guest::CR0));
    let cr4 = Cr4::from_bits_retain(fields.read(guest::CR4));
    let mut exempt = (Cr0::NW | Cr0::CD).bits();
    if secondary(fields).contains(Secondary::UNRESTRICTED_GUEST) {
        exempt |= (Cr0::PE | Cr0::PG).bits();
    }
    ensure(capabilities.cr0.permits(cr0.bits(), exempt), EntryCheck::GuestCr0)?;
    let paging = cr0.contains(Cr0::PG);
    ensure(!paging || cr0.contains(Cr0::PE), EntryCheck::GuestPagingUnprotected)?;
    ensure(capabilities.cr4.permits(cr4.bits(), 0), EntryCheck::GuestCr4)?;
    if is_ia32e(fields) {
        ensure(paging && cr4.contains(Cr4::PAE), EntryCheck::GuestIa32e)?;
    } else {
        ensure(!cr4.contains(Cr4::PCIDE), EntryCheck::GuestPcid)?;
    }
    ensure(capabilities.is_physical(fields.read(guest::CR3), false), EntryCheck::GuestCr3)
}

fn model_specific(fields: &impl Fields, capabilities: &Capabilities) -> Result<(), EntryCheck> {
    let entry = entry_controls(fields);
    if entry.contains(EntryControls::LOAD_DEBUG_CONTROLS) {
        let debugctl = fields.read(guest::DEBUGCTL);
        ensure(debugctl & !DEBUGCTL_DEFINED == 0, EntryCheck::GuestDebugctl)?;
        ensure(fields.read(guest::DR7) >> 32 == 0, EntryCheck::GuestDr7)?;
    }
    let sysenter = [guest::SYSENTER_ESP, guest::SYSENTER_EIP];
    let canonical = sysenter.iter().all(|&field| capabilities.is_canonical(fields.read(field)));
    ensure(canonical, EntryCheck::GuestSysenter)?;
    if entry.contains(EntryControls::LOAD_PAT) {
        ensure(is_pat(fields.read(guest::PAT)), EntryCheck::GuestPat)?;
    }
    Ok(())
}

fn efer(fields: &impl Fields) -> Result<(), EntryCheck> {
    if !entry_controls(fields).contains(EntryControls::LOAD_EFER) {
        return Ok(());
    }
    let efer = fields.read(guest::EFER);
    let active = efer & Efer::LMA.bits() != 0;
    let enabled = efer & Efer::LME.bits() != 0;
    let paging = fields.read(guest::CR0) & Cr0::PG.bits() != 0;
    ensure(efer & !EFER_DEFINED == 0, EntryCheck::GuestEferReserved)?;
    ensure(active == is_ia32e(fields), EntryCheck::GuestEferLma)?;
    ensure(!paging || active == enabled, EntryCheck::GuestEferLme)
}

fn tables(fields: &impl Fields, capabilities: &Capabilities) -> Result<(), EntryCheck> {
    for field in [guest::GDTR_BASE, guest::IDTR_BASE] {
        ensure(capabilities.is_canonical(fields.read(field)), EntryCheck::TableBase)?;
    }
    for field in [guest::GDTR_LIMIT, guest::IDTR_LIMIT] {
        ensure(fields.read(field) >> 16 == 0, EntryCheck::TableLimit)?;
    }
    Ok(())
}

fn instruction_pointer(
    fields: &impl Fields,
    capabilities: &Capabilities,
) -> Result<(), EntryCheck> {
    let rip = fields.read(guest::RIP);
    let long = is_ia32e(fields) && fields.read(SegmentRegister::Cs.access()) & LONG != 0;
    let valid = if long {
        // Not canonical: the bits above the address width must be alike, the highest one below it may differ.
        let above = rip >> capabilities.linear_bits;
        above == 0 || above == u64::MAX >> capabilities.linear_bits
    } else {
        rip >> 32 == 0
    };
    ensure(valid, EntryCheck::Rip)
}

fn flags(fields: &impl Fields) -> Result<(), EntryCheck> {
    const RESERVED: u64 = !0x3f_ffff | 1 << 15 | 1 << 5 | 1 << 3;
    let raw = fields.read(guest::RFLAGS);
    let flags = Rflags::from_bits_retain(raw);
    ensure(raw & RESERVED == 0 && flags.contains(Rflags::ONE), EntryCheck::Rflags)?;
    let protected = fields.read(guest::CR0) & Cr0::PE.bits() != 0;
    let virtual_8086 = flags.contains(Rflags::VM);
    ensure(!virtual_8086 || (protected && !is_ia32e(fields)), EntryCheck::RflagsVm)?;
    let interrupt =
        event(fields).is_some_and(|info| info.kind() == InterruptionType::ExternalInterrupt);
    ensure(!interrupt || flags.contains(Rflags::IF), EntryCheck::RflagsIf)
}

fn activity(fields: &impl Fields, capabilities: &Capabilities) -> Result<(), EntryCheck> {
    let activity = fields.read(guest::ACTIVITY);
    // IA32_VMX_MISC, bits 8:6: support of HLT, shutdown and wait-for-SIPI (SDM vol. 3, A.6).
    let known = activity == bits::ACTIVITY_ACTIVE
        || activity <= 3 && capabilities.misc & 1 << (5 + activity) != 0;
    ensure(known, EntryCheck::Activity)?;
    let ss = fields.read(SegmentRegister::Ss.access());
    let privileged = ss & Segment::UNUSABLE != 0 || ss >> 5 & 3 == 0;
    ensure(privileged || activity != bits::ACTIVITY_HLT, EntryCheck::ActivityHlt)?;
    let blocking = Interruptibility::from_bits_retain(fields.read(guest::INTERRUPTIBILITY));
    let blocks = blocking.intersects(Interruptibility::STI | Interruptibility::MOV_SS);
    ensure(!blocks || activity == bits::ACTIVITY_ACTIVE, EntryCheck::ActivityBlocking)?;
    let Some(info) = event(fields) else { return Ok(()) };
    let hardware = info.kind() == InterruptionType::HardwareException;
    let machine_check = hardware && info.vector() == vector::MC;
    let wakes = match activity {
        bits::ACTIVITY_ACTIVE => true,
        bits::ACTIVITY_HLT => match info.kind() {
            InterruptionType::ExternalInterrupt | InterruptionType::Nmi => true,
            _ => machine_check || (hardware && info.vector() == vector::DB),
        },
        bits::ACTIVITY_SHUTDOWN => info.kind() == InterruptionType::Nmi || machine_check,
        _ => false,
    };
    ensure(wakes, EntryCheck::ActivityEvent)
}

fn blocking(fields: &impl Fields) -> Result<(), EntryCheck> {
    let raw = fields.read(guest::INTERRUPTIBILITY);
    let blocking = Interruptibility::from_bits_retain(raw);
    ensure(raw >> 5 == 0, EntryCheck::BlockingReserved)?;
    let sti = blocking.contains(Interruptibility::STI);
    let mov_ss = blocking.contains(Interruptibility::MOV_SS);
    ensure(!(sti && mov_ss), EntryCheck::BlockingBoth)?;
    let enabled = fields.read(guest::RFLAGS) & Rflags::IF.bits() != 0;
    ensure(!sti || enabled, EntryCheck::BlockingSti)?;
    ensure(!blocking.contains(Interruptibility::SMI), EntryCheck::BlockingSmi)?;
    let pin = PinBased::from_bits_retain(fields.read(control::PIN_BASED));
    let nmi = blocking.contains(Interruptibility::NMI) && pin.contains(PinBased::VIRTUAL_NMIS);
    let blocked = match event(fields).map(InterruptionInfo::kind) {
        Some(InterruptionType::ExternalInterrupt) => sti || mov_ss,
        // A CPU may let STI block NMIs too; Kerf delivers none then.
        Some(InterruptionType::Nmi) => sti || mov_ss || nmi,
        _ => false,
    };
    ensure(!blocked, EntryCheck::BlockingEvent)
}

fn pending_debug(fields: &impl Fields) -> Result<(), EntryCheck> {
    let pending = fields.read(guest::PENDING_DEBUG);
    ensure(pending & !PENDING_DEFINED == 0, EntryCheck::PendingDebug)?;
    let blocking = Interruptibility::from_bits_retain(fields.read(guest::INTERRUPTIBILITY));
    let halted = fields.read(guest::ACTIVITY) == bits::ACTIVITY_HLT;
    if !halted && !blocking.intersects(Interruptibility::STI | Interruptibility::MOV_SS) {
        return Ok(());
    }
    let stepping = fields.read(guest::RFLAGS) & Rflags::TF.bits() != 0
        && fields.read(guest::DEBUGCTL) & DEBUGCTL_BTF == 0;
    ensure(stepping == (pending & PENDING_STEP != 0), EntryCheck::PendingDebugStep)
}

fn directory_pointers(fields: &impl Fields, capabilities: &Capabilities) -> Result<(), EntryCheck> {
    /// Bits 2:1 and 8:5 of a present entry.
    const RESERVED: u64 = 0x1e6;
    let paging = fields.read(guest::CR0) & Cr0::PG.bits() != 0;
    let pae = fields.read(guest::CR4) & Cr4::PAE.bits() != 0;
    let ept = secondary(fields).contains(Secondary::ENABLE_EPT);
    if !(paging && pae && ept) || is_ia32e(fields) {
        return Ok(());
    }
    for field in [guest::PDPTE0, guest::PDPTE1, guest::PDPTE2, guest::PDPTE3] {
        let entry = fields.read(field);
        let valid = entry & RESERVED == 0 && capabilities.is_physical(entry, false);
        ensure(entry & 1 == 0 || valid, EntryCheck::Pdpte)?;
    }
    Ok(())
}
