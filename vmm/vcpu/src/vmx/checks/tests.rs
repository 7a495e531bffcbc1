//! A valid VMCS passes; each rule, broken alone, is named.

use x86_spec::vmx::Field;
use x86_spec::vmx::field::{SegmentRegister, control, guest, host};

use super::EntryCheck::{self, *};
use super::check;
use crate::vmx::capabilities::Capabilities;
use crate::vmx::fields::{Fields, FieldsMut, TestFields};
use crate::vmx::tests::{DescribedCpu, filled, long_mode, real_mode};

const CS: SegmentRegister = SegmentRegister::Cs;
const SS: SegmentRegister = SegmentRegister::Ss;
const DS: SegmentRegister = SegmentRegister::Ds;
const FS: SegmentRegister = SegmentRegister::Fs;
const TR: SegmentRegister = SegmentRegister::Tr;
const LDTR: SegmentRegister = SegmentRegister::Ldtr;
/// An address past every physical one, and not canonical.
const WILD: u64 = 1 << 60;
/// Valid events.
const INTERRUPT: u32 = 0x8000_0040;
const NMI: u32 = 0x8000_0202;
const SOFTWARE: u32 = 0x8000_0480;

type Break = fn(&mut TestFields);

/// Sets bits of a field.
fn set<F: Field>(vmcs: &mut TestFields, field: F, bits: u64) {
    let value = vmcs.raw(field.encoding()) | bits;
    vmcs.set_raw(field.encoding(), value);
}

/// Clears bits of a field.
fn clear<F: Field>(vmcs: &mut TestFields, field: F, bits: u64) {
    let value = vmcs.raw(field.encoding()) & !bits;
    vmcs.set_raw(field.encoding(), value);
}

/// Out of IA-32e mode, into 32-bit protected mode without paging.
fn leave_long_mode(vmcs: &mut TestFields) {
    clear(vmcs, control::ENTRY, 1 << 9);
    vmcs.write(guest::EFER, 0);
    clear(vmcs, guest::CR0, 1 << 31);
    vmcs.write(CS.access(), 0xc09b);
}

fn virtual_8086(vmcs: &mut TestFields) {
    leave_long_mode(vmcs);
    set(vmcs, guest::RFLAGS, 1 << 17);
    for register in SegmentRegister::ALL.into_iter().take(6) {
        vmcs.write(register.selector(), 0x100);
        vmcs.write(register.base(), 0x1000);
        vmcs.write(register.limit(), 0xffff);
        vmcs.write(register.access(), 0xf3);
    }
}

fn restrict(vmcs: &mut TestFields) {
    clear(vmcs, control::SECONDARY, 1 << 7);
}

const CONTROLS: &[(EntryCheck, Break)] = &[
    (PinBased, |v| clear(v, control::PIN_BASED, 1 << 1)),
    (Primary, |v| clear(v, control::PRIMARY, 1 << 1)),
    (Secondary, |v| set(v, control::SECONDARY, 1 << 31)),
    (Cr3TargetCount, |v| v.write(control::CR3_TARGET_COUNT, 5)),
    (MsrBitmap, |v| set(v, control::MSR_BITMAP, 8)),
    (MsrBitmap, |v| v.write(control::MSR_BITMAP, WILD)),
    (TprShadow, |v| {
        set(v, control::PRIMARY, 1 << 21);
        v.write(control::VIRTUAL_APIC_ADDRESS, 0x10);
    }),
    (TprThreshold, |v| {
        set(v, control::PRIMARY, 1 << 21);
        v.write(control::TPR_THRESHOLD, 0x10);
    }),
    (ApicNeedsTprShadow, |v| set(v, control::SECONDARY, 1 << 8)),
    (VirtualNmis, |v| clear(v, control::PIN_BASED, 1 << 3)),
    (NmiWindow, |v| {
        clear(v, control::PIN_BASED, 1 << 5);
        set(v, control::PRIMARY, 1 << 22);
    }),
    (ApicAccess, |v| {
        set(v, control::SECONDARY, 1 << 0);
        v.write(control::APIC_ACCESS_ADDRESS, 1);
    }),
    (X2apicAndApicAccesses, |v| {
        set(v, control::PRIMARY, 1 << 21);
        set(v, control::SECONDARY, 1 << 0 | 1 << 4);
    }),
    (InterruptDelivery, |v| {
        set(v, control::PRIMARY, 1 << 21);
        set(v, control::SECONDARY, 1 << 9);
        clear(v, control::PIN_BASED, 1 << 0);
    }),
    (PostedInterrupts, |v| set(v, control::PIN_BASED, 1 << 7)),
    (Vpid, |v| v.write(control::VPID, 0)),
    (EptPointer, |v| set(v, control::EPT_POINTER, 1)),
    (EptPointer, |v| clear(v, control::EPT_POINTER, 1 << 3)),
    (EptPointer, |v| set(v, control::EPT_POINTER, 1 << 8)),
    (EptPointer, |v| set(v, control::EPT_POINTER, WILD)),
    (UnrestrictedGuest, |v| clear(v, control::SECONDARY, 1 << 1)),
    (ExitControls, |v| clear(v, control::EXIT, 1 << 0)),
    (SavePreemptionTimer, |v| {
        clear(v, control::PIN_BASED, 1 << 6);
        set(v, control::EXIT, 1 << 22);
    }),
    (ExitMsrStore, |v| {
        v.write(control::EXIT_MSR_STORE_COUNT, 1);
        v.write(control::EXIT_MSR_STORE_ADDRESS, 8);
    }),
    (ExitMsrLoad, |v| {
        v.write(control::EXIT_MSR_LOAD_COUNT, 1);
        v.write(control::EXIT_MSR_LOAD_ADDRESS, WILD);
    }),
    (EntryControls, |v| clear(v, control::ENTRY, 1 << 0)),
    (EntryMsrLoad, |v| {
        v.write(control::ENTRY_MSR_LOAD_COUNT, 1);
        v.write(control::ENTRY_MSR_LOAD_ADDRESS, 8);
    }),
    (EntrySmm, |v| set(v, control::ENTRY, 1 << 10)),
];

const EVENTS: &[(EntryCheck, Break)] = &[
    (EventReserved, |v| v.write(control::ENTRY_INTERRUPTION_INFO, NMI | 1 << 12)),
    (EventType, |v| v.write(control::ENTRY_INTERRUPTION_INFO, 0x8000_0102)),
    (EventVector, |v| v.write(control::ENTRY_INTERRUPTION_INFO, NMI + 1)),
    (EventVector, |v| v.write(control::ENTRY_INTERRUPTION_INFO, 0x8000_0320)),
    (EventErrorCode, |v| v.write(control::ENTRY_INTERRUPTION_INFO, NMI | 1 << 11)),
    (EventErrorCode, |v| {
        *v = filled(&capabilities(), &real_mode());
        v.write(control::ENTRY_INTERRUPTION_INFO, 0x8000_0b0d);
    }),
    (EventErrorCodeBits, |v| {
        v.write(control::ENTRY_INTERRUPTION_INFO, 0x8000_0b0d);
        v.write(control::ENTRY_EXCEPTION_ERROR_CODE, 1 << 16);
    }),
    (EventLength, |v| {
        v.write(control::ENTRY_INTERRUPTION_INFO, SOFTWARE);
        v.write(control::ENTRY_INSTRUCTION_LENGTH, 16);
    }),
    (RflagsIf, |v| v.write(control::ENTRY_INTERRUPTION_INFO, INTERRUPT)),
    (ActivityEvent, |v| {
        v.write(guest::ACTIVITY, 1);
        v.write(control::ENTRY_INTERRUPTION_INFO, 0x8000_0b0d);
    }),
    (ActivityEvent, |v| {
        v.write(guest::ACTIVITY, 3);
        v.write(control::ENTRY_INTERRUPTION_INFO, NMI);
    }),
    (BlockingEvent, |v| {
        set(v, guest::RFLAGS, 1 << 9);
        v.write(guest::INTERRUPTIBILITY, 1);
        v.write(control::ENTRY_INTERRUPTION_INFO, INTERRUPT);
    }),
    (BlockingEvent, |v| {
        v.write(guest::INTERRUPTIBILITY, 1 << 3);
        v.write(control::ENTRY_INTERRUPTION_INFO, NMI);
    }),
];

const HOST: &[(EntryCheck, Break)] = &[
    (HostCr0, |v| clear(v, host::CR0, 1 << 5)),
    (HostCr4, |v| clear(v, host::CR4, 1 << 13)),
    (HostCr3, |v| set(v, host::CR3, WILD)),
    (HostSysenter, |v| v.write(host::SYSENTER_EIP, WILD)),
    (HostPat, |v| v.write(host::PAT, 2)),
    (HostEfer, |v| clear(v, host::EFER, 1 << 10)),
    (HostEfer, |v| set(v, host::EFER, 1 << 12)),
    (HostSelectors, |v| v.write(host::DS, 3)),
    (HostCs, |v| v.write(host::CS, 0)),
    (HostTr, |v| v.write(host::TR, 0)),
    (HostBases, |v| v.write(host::GS_BASE, WILD)),
    (HostAddressSpace, |v| {
        clear(v, control::EXIT, 1 << 9);
        v.write(host::EFER, 0);
    }),
    (HostPae, |v| clear(v, host::CR4, 1 << 5)),
    (HostRip, |v| v.write(host::RIP, WILD)),
];

const REGISTERS: &[(EntryCheck, Break)] = &[
    (GuestCr0, |v| clear(v, guest::CR0, 1 << 5)),
    (GuestCr0, |v| {
        restrict(v);
        leave_long_mode(v);
    }),
    (GuestPagingUnprotected, |v| clear(v, guest::CR0, 1)),
    (GuestCr4, |v| clear(v, guest::CR4, 1 << 13)),
    (GuestDebugctl, |v| v.write(guest::DEBUGCTL, 1 << 4)),
    (GuestIa32e, |v| clear(v, guest::CR4, 1 << 5)),
    (GuestPcid, |v| {
        leave_long_mode(v);
        set(v, guest::CR4, 1 << 17);
    }),
    (GuestCr3, |v| set(v, guest::CR3, WILD)),
    (GuestDr7, |v| set(v, guest::DR7, 1 << 32)),
    (GuestSysenter, |v| v.write(guest::SYSENTER_ESP, WILD)),
    (GuestPat, |v| v.write(guest::PAT, 3 << 8)),
    (GuestEferReserved, |v| set(v, guest::EFER, 1 << 12)),
    (GuestEferLma, |v| clear(v, guest::EFER, 1 << 10)),
    (GuestEferLme, |v| clear(v, guest::EFER, 1 << 8)),
    (TableBase, |v| v.write(guest::GDTR_BASE, WILD)),
    (TableLimit, |v| v.write(guest::IDTR_LIMIT, 0x1_0000)),
    (Rip, |v| v.write(guest::RIP, WILD)),
    (Rip, |v| {
        leave_long_mode(v);
        v.write(guest::RIP, 1 << 32);
    }),
    (Rflags, |v| clear(v, guest::RFLAGS, 2)),
    (Rflags, |v| set(v, guest::RFLAGS, 1 << 15)),
    (RflagsVm, |v| {
        virtual_8086(v);
        clear(v, guest::CR0, 1);
    }),
    (Activity, |v| v.write(guest::ACTIVITY, 4)),
    (ActivityHlt, |v| {
        v.write(CS.access(), 0xa0fb);
        v.write(SS.access(), 0xc0f3);
        v.write(guest::ACTIVITY, 1);
    }),
    (ActivityBlocking, |v| {
        v.write(guest::ACTIVITY, 1);
        v.write(guest::INTERRUPTIBILITY, 2);
    }),
    (BlockingReserved, |v| v.write(guest::INTERRUPTIBILITY, 1 << 5)),
    (BlockingBoth, |v| {
        set(v, guest::RFLAGS, 1 << 9);
        v.write(guest::INTERRUPTIBILITY, 3);
    }),
    (BlockingSti, |v| v.write(guest::INTERRUPTIBILITY, 1)),
    (BlockingSmi, |v| v.write(guest::INTERRUPTIBILITY, 1 << 2)),
    (PendingDebug, |v| v.write(guest::PENDING_DEBUG, 1 << 13)),
    (PendingDebugStep, |v| {
        v.write(guest::INTERRUPTIBILITY, 2);
        set(v, guest::RFLAGS, 1 << 8);
    }),
    (PendingDebugStep, |v| {
        v.write(guest::INTERRUPTIBILITY, 2);
        v.write(guest::PENDING_DEBUG, 1 << 14);
    }),
    (LinkPointer, |v| v.write(guest::LINK_POINTER, 0)),
    (Pdpte, |v| {
        leave_long_mode(v);
        set(v, guest::CR0, 1 << 31);
        v.write(guest::PDPTE2, 0x1003);
    }),
];

const SEGMENTS: &[(EntryCheck, Break)] = &[
    (TrSelector, |v| v.write(TR.selector(), 4)),
    (LdtrSelector, |v| {
        v.write(LDTR.selector(), 4);
        v.write(LDTR.access(), 0x82);
    }),
    (VirtualBase, |v| {
        virtual_8086(v);
        v.write(DS.base(), 0);
    }),
    (VirtualLimit, |v| {
        virtual_8086(v);
        v.write(CS.limit(), 0xfffff);
    }),
    (VirtualAccess, |v| {
        virtual_8086(v);
        v.write(SS.access(), 0x93);
    }),
    (BaseCanonical, |v| v.write(FS.base(), WILD)),
    (BaseHigh, |v| v.write(CS.base(), 1 << 32)),
    (BaseHigh, |v| v.write(SS.base(), 1 << 32)),
    (CsType, |v| v.write(CS.access(), 0xa098)),
    (CsType, |v| {
        restrict(v);
        v.write(CS.access(), 0xc093);
    }),
    (SsType, |v| v.write(SS.access(), 0xc09b)),
    (DataType, |v| v.write(DS.access(), 0xc092)),
    (DataType, |v| v.write(DS.access(), 0xc099)),
    (SegmentSystem, |v| clear(v, CS.access(), 1 << 4)),
    (CsDpl, |v| v.write(CS.access(), 0xa0fb)),
    (SsDpl, |v| {
        restrict(v);
        v.write(SS.selector(), 3);
    }),
    (SegmentPresent, |v| clear(v, DS.access(), 1 << 7)),
    (SegmentReserved, |v| set(v, TR.access(), 1 << 8)),
    (CsLongDefault, |v| set(v, CS.access(), 1 << 14)),
    (SegmentGranularity, |v| v.write(SS.limit(), 0xffff_fff0)),
    (SegmentGranularity, |v| clear(v, CS.access(), 1 << 15)),
    (TrType, |v| v.write(TR.access(), 0x89)),
    (TrType, |v| v.write(TR.access(), 0x83)),
    (TrType, |v| set(v, TR.access(), 1 << 16)),
    (LdtrType, |v| v.write(LDTR.access(), 0x83)),
];

fn capabilities() -> Capabilities {
    let mut cpu = DescribedCpu::recorded();
    // So that the rule about error codes is in force, which the recorded CPU has dropped; and room to break controls.
    cpu.msrs.insert(0x480, 0x00d8_1000_0000_0004);
    cpu.msrs.insert(0x48b, 0x7fff_ffff_0000_0000);
    cpu.msrs.insert(0x490, 0x0058_ffff_0000_11fb);
    cpu.capabilities()
}

fn breaks() -> impl Iterator<Item = &'static (EntryCheck, Break)> {
    [CONTROLS, EVENTS, HOST, REGISTERS, SEGMENTS].into_iter().flatten()
}

#[test]
fn a_broken_rule_is_named() {
    let capabilities = capabilities();
    for (index, (rule, plant)) in breaks().enumerate() {
        let mut vmcs = filled(&capabilities, &long_mode());
        assert_eq!(check(&vmcs, &capabilities), Ok(()));
        plant(&mut vmcs);
        assert_eq!(check(&vmcs, &capabilities), Err(*rule), "break {index}: {}", rule.rule());
    }
}

#[test]
fn every_rule_has_been_broken() {
    for rule in EntryCheck::ALL {
        assert!(breaks().any(|(broken, _)| broken == rule), "{rule:?} is never broken");
    }
}

#[test]
fn other_modes_are_valid() {
    let capabilities = capabilities();
    for enter in [leave_long_mode as Break, virtual_8086] {
        let mut vmcs = filled(&capabilities, &long_mode());
        enter(&mut vmcs);
        assert_eq!(check(&vmcs, &capabilities), Ok(()));
    }
    for event in [NMI, 0x8000_0b0d, 0x8000_0306] {
        let mut vmcs = filled(&capabilities, &long_mode());
        vmcs.write(control::ENTRY_INTERRUPTION_INFO, event);
        assert_eq!(check(&vmcs, &capabilities), Ok(()), "{event:#x}");
    }
}

#[test]
fn every_rule_cites_its_section() {
    for rule in EntryCheck::ALL {
        assert!(rule.rule().starts_with("27."), "{rule:?}");
    }
}
