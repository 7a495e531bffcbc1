//! Filling a VMCS: controls, host state, and the guest's registers both ways. Pure.

use hw::Hpa;
use x86_spec::cpu::{Efer, Rflags, vector};
use x86_spec::segment::{DescriptorTable, Segment};
use x86_spec::vmx::control::{self as bits, EntryControls, Interruptibility};
use x86_spec::vmx::exit::InterruptionInfo;
use x86_spec::vmx::field::{SegmentRegister, control, guest, host};

use super::capabilities::Capabilities;
use super::control_registers::{self, CR0_HOST_OWNED, CR4_HOST_OWNED};
use super::controls::Controls;
use super::fields::{Fields, FieldsMut};
use crate::{CpuContext, Gpr, Registers, TscRatio};

/// Exceptions that exit. #MC is the host's. #DB and #AC go back to the guest at once: a guest that makes their delivery
/// raise them again would otherwise keep the CPU in its microcode for ever, with no interrupt able to end it.
pub(super) const EXCEPTIONS: u32 = 1 << vector::MC | 1 << vector::DB | 1 << vector::AC;

/// PAT after reset (SDM vol. 3, 12.12.4).
const PAT_RESET: u64 = 0x0007_0406_0007_0406;
/// What the preemption timer counts down from, where it is used: a few milliseconds of the guest's time.
pub(super) const PREEMPTION_COUNT: u32 = 1 << 18;
/// DR7's bit that is always one.
const DR7_ONE: u64 = 1 << 10;
/// Type of an LDT descriptor.
const LDT: u32 = 0x82;
const TSS_LIMIT: u32 = 0x67;

/// What a virtual CPU's VMCS points at, and its choices.
pub(super) struct Environment {
    pub(super) ept_pointer: u64,
    pub(super) address_space: u16,
    pub(super) tsc_ratio: TscRatio,
    pub(super) tsc_offset: u64,
    pub(super) msr_bitmap: Hpa,
    pub(super) undefined_exits: bool,
}

/// The host's state, as the CPU is to find it after an exit. RSP and RIP are the entry code's.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct HostState {
    pub(super) cr0: u64,
    pub(super) cr3: u64,
    pub(super) cr4: u64,
    pub(super) pat: u64,
    pub(super) efer: u64,
    pub(super) es: u16,
    pub(super) cs: u16,
    pub(super) ss: u16,
    pub(super) ds: u16,
    pub(super) fs: u16,
    pub(super) gs: u16,
    pub(super) tr: u16,
    pub(super) fs_base: u64,
    pub(super) gs_base: u64,
    pub(super) tr_base: u64,
    pub(super) gdtr_base: u64,
    pub(super) idtr_base: u64,
    pub(super) sysenter_cs: u32,
    pub(super) sysenter_esp: u64,
    pub(super) sysenter_eip: u64,
}

/// Writes everything but the host state and the guest's registers.
pub(super) fn write_controls(
    vmcs: &mut impl FieldsMut,
    controls: &Controls,
    environment: &Environment,
) {
    vmcs.write(control::PIN_BASED, controls.pin_based.bits());
    vmcs.write(control::PRIMARY, controls.primary.bits());
    vmcs.write(control::SECONDARY, controls.secondary.bits());
    vmcs.write(control::EXIT, controls.exit.bits());
    vmcs.write(control::ENTRY, controls.entry.bits());
    let undefined = u32::from(environment.undefined_exits) << vector::UD;
    vmcs.write(control::EXCEPTION_BITMAP, EXCEPTIONS | undefined);
    vmcs.write(control::PAGE_FAULT_MASK, 0);
    vmcs.write(control::PAGE_FAULT_MATCH, 0);
    vmcs.write(control::CR3_TARGET_COUNT, 0);
    vmcs.write(control::EXIT_MSR_STORE_COUNT, 0);
    vmcs.write(control::EXIT_MSR_LOAD_COUNT, 0);
    vmcs.write(control::ENTRY_MSR_LOAD_COUNT, 0);
    vmcs.write(control::ENTRY_INTERRUPTION_INFO, InterruptionInfo::NONE.0);
    vmcs.write(control::CR0_MASK, CR0_HOST_OWNED);
    vmcs.write(control::CR4_MASK, CR4_HOST_OWNED);
    vmcs.write(control::MSR_BITMAP, environment.msr_bitmap.raw());
    vmcs.write(control::TSC_OFFSET, environment.tsc_offset);
    if controls.secondary.contains(bits::Secondary::USE_TSC_SCALING) {
        vmcs.write(control::TSC_MULTIPLIER, environment.tsc_ratio.raw() << 16);
    }
    vmcs.write(control::EPT_POINTER, environment.ept_pointer);
    if controls.pin_based.contains(bits::PinBased::PREEMPTION_TIMER) {
        vmcs.write(guest::PREEMPTION_TIMER, PREEMPTION_COUNT);
    }
    if controls.secondary.contains(bits::Secondary::ENABLE_VPID) {
        vmcs.write(control::VPID, environment.address_space);
    }
    vmcs.write(guest::LINK_POINTER, bits::NO_LINK);
    vmcs.write(guest::PAT, PAT_RESET);
    vmcs.write(guest::DEBUGCTL, 0);
    vmcs.write(guest::SYSENTER_CS, 0);
    vmcs.write(guest::SYSENTER_ESP, 0);
    vmcs.write(guest::SYSENTER_EIP, 0);
    for entry in [guest::PDPTE0, guest::PDPTE1, guest::PDPTE2, guest::PDPTE3] {
        vmcs.write(entry, 0);
    }
}

/// Writes the host state.
pub(super) fn write_host(vmcs: &mut impl FieldsMut, state: &HostState) {
    vmcs.write(host::CR0, state.cr0);
    vmcs.write(host::CR3, state.cr3);
    vmcs.write(host::CR4, state.cr4);
    vmcs.write(host::PAT, state.pat);
    vmcs.write(host::EFER, state.efer);
    // Selectors of the host must have neither a requested privilege level nor the local table (SDM vol. 3, 27.2.3); the
    // data segments' are not needed in 64-bit mode, and FS and GS have their bases of their own.
    vmcs.write(host::ES, state.es & !7);
    vmcs.write(host::CS, state.cs & !7);
    vmcs.write(host::SS, state.ss & !7);
    vmcs.write(host::DS, state.ds & !7);
    vmcs.write(host::FS, state.fs & !7);
    vmcs.write(host::GS, state.gs & !7);
    vmcs.write(host::TR, state.tr & !7);
    vmcs.write(host::FS_BASE, state.fs_base);
    vmcs.write(host::GS_BASE, state.gs_base);
    vmcs.write(host::TR_BASE, state.tr_base);
    vmcs.write(host::GDTR_BASE, state.gdtr_base);
    vmcs.write(host::IDTR_BASE, state.idtr_base);
    vmcs.write(host::SYSENTER_CS, state.sysenter_cs);
    vmcs.write(host::SYSENTER_ESP, state.sysenter_esp);
    vmcs.write(host::SYSENTER_EIP, state.sysenter_eip);
}

/// Writes the guest's registers, less the general-purpose ones other than RSP, and CR2. Pending events and blocking
/// end.
pub(super) fn write_registers(
    vmcs: &mut impl FieldsMut,
    capabilities: &Capabilities,
    host_cr4: u64,
    registers: &Registers,
) {
    let efer = control_registers::settle_efer(registers.efer, registers.cr0);
    let mut entry = EntryControls::from_bits_retain(vmcs.read(control::ENTRY));
    entry.set(EntryControls::IA32E_MODE_GUEST, efer & Efer::LMA.bits() != 0);
    vmcs.write(control::ENTRY, entry.bits());
    vmcs.write(guest::EFER, efer);
    vmcs.write(guest::CR0, control_registers::real_cr0(registers.cr0, capabilities));
    vmcs.write(control::CR0_SHADOW, registers.cr0 & CR0_HOST_OWNED);
    vmcs.write(guest::CR4, control_registers::real_cr4(registers.cr4, host_cr4, capabilities));
    vmcs.write(control::CR4_SHADOW, registers.cr4 & CR4_HOST_OWNED);
    vmcs.write(guest::CR3, registers.cr3);
    vmcs.write(guest::RIP, registers.rip);
    vmcs.write(guest::RSP, registers.gprs[Gpr::Rsp as usize]);
    vmcs.write(guest::RFLAGS, registers.rflags | Rflags::ONE.bits());
    vmcs.write(guest::DR7, registers.dr7 & 0xffff_ffff | DR7_ONE);
    for (register, segment) in [
        (SegmentRegister::Es, &registers.es),
        (SegmentRegister::Ss, &registers.ss),
        (SegmentRegister::Ds, &registers.ds),
        (SegmentRegister::Fs, &registers.fs),
        (SegmentRegister::Gs, &registers.gs),
        (SegmentRegister::Cs, &registers.cs),
        (SegmentRegister::Ldtr, &registers.ldtr),
        (SegmentRegister::Tr, &registers.tr),
    ] {
        write_segment(vmcs, register, &settle_segment(register, segment));
    }
    vmcs.write(guest::GDTR_BASE, registers.gdtr.base);
    vmcs.write(guest::GDTR_LIMIT, registers.gdtr.limit.into());
    vmcs.write(guest::IDTR_BASE, registers.idtr.base);
    vmcs.write(guest::IDTR_LIMIT, registers.idtr.limit.into());
    vmcs.write(guest::INTERRUPTIBILITY, Interruptibility::empty().bits());
    vmcs.write(guest::ACTIVITY, bits::ACTIVITY_ACTIVE);
    vmcs.write(guest::PENDING_DEBUG, 0);
}

/// The guest's registers, less the general-purpose ones other than RSP, and CR2: those are left zero.
pub(super) fn read_registers(vmcs: &impl Fields) -> Registers {
    let mut gprs = [0; 16];
    gprs[Gpr::Rsp as usize] = vmcs.read(guest::RSP);
    Registers {
        gprs,
        rip: vmcs.read(guest::RIP),
        rflags: vmcs.read(guest::RFLAGS),
        cr0: cr0(vmcs),
        cr2: 0,
        cr3: vmcs.read(guest::CR3),
        cr4: cr4(vmcs),
        efer: vmcs.read(guest::EFER),
        dr7: vmcs.read(guest::DR7),
        cs: read_segment(vmcs, SegmentRegister::Cs),
        ds: read_segment(vmcs, SegmentRegister::Ds),
        es: read_segment(vmcs, SegmentRegister::Es),
        fs: read_segment(vmcs, SegmentRegister::Fs),
        gs: read_segment(vmcs, SegmentRegister::Gs),
        ss: read_segment(vmcs, SegmentRegister::Ss),
        tr: read_segment(vmcs, SegmentRegister::Tr),
        ldtr: read_segment(vmcs, SegmentRegister::Ldtr),
        gdtr: DescriptorTable {
            base: vmcs.read(guest::GDTR_BASE),
            limit: vmcs.read(guest::GDTR_LIMIT) as u16,
        },
        idtr: DescriptorTable {
            base: vmcs.read(guest::IDTR_BASE),
            limit: vmcs.read(guest::IDTR_LIMIT) as u16,
        },
    }
}

/// What [`crate::Vcpu::context`] gives.
pub(super) fn read_context(vmcs: &impl Fields) -> CpuContext {
    CpuContext {
        rip: vmcs.read(guest::RIP),
        rflags: vmcs.read(guest::RFLAGS),
        cr0: cr0(vmcs),
        cr3: vmcs.read(guest::CR3),
        cr4: cr4(vmcs),
        efer: vmcs.read(guest::EFER),
        cs: read_segment(vmcs, SegmentRegister::Cs),
        ss: read_segment(vmcs, SegmentRegister::Ss),
        ds: read_segment(vmcs, SegmentRegister::Ds),
        es: read_segment(vmcs, SegmentRegister::Es),
        fs_base: vmcs.read(SegmentRegister::Fs.base()),
        gs_base: vmcs.read(SegmentRegister::Gs.base()),
        cpl: read_cpl(vmcs),
    }
}

/// The privilege level: that of SS's descriptor, in every mode (SDM vol. 3, 25.4.1).
pub(super) fn read_cpl(vmcs: &impl Fields) -> u8 {
    (vmcs.read(SegmentRegister::Ss.access()) >> 5 & 3) as u8
}

fn cr0(vmcs: &impl Fields) -> u64 {
    control_registers::view(vmcs.read(guest::CR0), vmcs.read(control::CR0_SHADOW), CR0_HOST_OWNED)
}

fn cr4(vmcs: &impl Fields) -> u64 {
    control_registers::view(vmcs.read(guest::CR4), vmcs.read(control::CR4_SHADOW), CR4_HOST_OWNED)
}

fn write_segment(vmcs: &mut impl FieldsMut, register: SegmentRegister, segment: &Segment) {
    vmcs.write(register.selector(), segment.selector);
    vmcs.write(register.base(), segment.base);
    vmcs.write(register.limit(), segment.limit);
    vmcs.write(register.access(), segment.access);
}

fn read_segment(vmcs: &impl Fields, register: SegmentRegister) -> Segment {
    Segment {
        selector: vmcs.read(register.selector()),
        base: vmcs.read(register.base()),
        limit: vmcs.read(register.limit()),
        access: vmcs.read(register.access()),
    }
}

/// A segment as VM entry accepts it (SDM vol. 3, 27.3.1.2). What the neutral form leaves open is settled: a register
/// that was given no access rights is unusable, TR is always a busy task-state segment, code and data are accessed, and
/// granularity follows the limit where the two contradict each other.
fn settle_segment(register: SegmentRegister, segment: &Segment) -> Segment {
    const ACCESSED: u32 = 1;
    const PRESENT: u32 = 1 << 7;
    const GRANULAR: u32 = 1 << 15;
    let mut settled = *segment;
    let usable = segment.access & Segment::UNUSABLE == 0 && segment.access & PRESENT != 0;
    match register {
        SegmentRegister::Tr if !usable => {
            settled.access = Segment::TSS64_BUSY;
            settled.limit = settled.limit.max(TSS_LIMIT);
        }
        SegmentRegister::Tr => settled.access |= 0b11,
        _ if !usable => {
            settled.access = Segment::UNUSABLE;
            return settled;
        }
        SegmentRegister::Ldtr => settled.access = segment.access & !0x1f | LDT & 0x1f,
        _ => settled.access |= ACCESSED,
    }
    if settled.limit & 0xfff != 0xfff {
        settled.access &= !GRANULAR;
    } else if settled.limit >> 20 != 0 {
        settled.access |= GRANULAR;
    }
    settled
}
