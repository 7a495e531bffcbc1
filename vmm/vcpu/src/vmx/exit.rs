//! What an exit means: raw fields in, [`Decoded`] out. Pure.
//!
//! Fields are read only where the reason calls for them; a VMREAD costs as much as many ordinary instructions. CPUID,
//! HLT, VMCALL and host interrupts need the exit reason alone.

use hw::{Gla, Gpa, Msr, Port, Width};
use x86_spec::cpu::vector;
use x86_spec::vmx::exit::{
    CrAccess, CrQualification, ENTRY_FAILURE, EptQualification, InterruptionInfo, InterruptionType,
    IoQualification, reason,
};
use x86_spec::vmx::field::info;

use super::event::Injection;
use super::fields::Fields;
use crate::{Access, Exit, Gpr, PortIo, SecondStageFault};

/// What is to be done about an exit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Decoded {
    /// For the layers above.
    Exit(Exit),
    /// MOV to CR0 of a value that changes host-owned bits.
    Cr0Write(u64),
    /// Likewise for CR4.
    Cr4Write(u64),
    /// An instruction that gets #GP(0).
    GeneralProtection,
    /// An exception that Kerf only looked at: the guest is to have it. With the exit qualification.
    Reflect(Injection, u64),
    /// A non-maskable interrupt for the host.
    Nmi,
    /// A machine check for the host.
    MachineCheck,
    /// The guest can take an NMI now.
    NmiWindow,
    /// The guest has run for a while.
    PreemptionTimer,
    /// The entry failed: the whole exit reason and the qualification.
    EntryFailed(u32, u64),
}

/// Decodes the last exit.
#[inline]
pub(super) fn decode(exit_reason: u32, fields: &impl Fields, gpr: impl Fn(Gpr) -> u64) -> Decoded {
    if exit_reason & ENTRY_FAILURE != 0 {
        return Decoded::EntryFailed(exit_reason, fields.read(info::EXIT_QUALIFICATION));
    }
    let edx_eax = || gpr(Gpr::Rdx) << 32 | gpr(Gpr::Rax) & 0xffff_ffff;
    let ecx = || gpr(Gpr::Rcx) as u32;
    Decoded::Exit(match exit_reason as u16 {
        reason::CPUID => Exit::Cpuid,
        reason::VMCALL => Exit::Hypercall,
        reason::HLT => Exit::Halt,
        reason::RDMSR => Exit::MsrRead(Msr(ecx())),
        reason::WRMSR => Exit::MsrWrite { msr: Msr(ecx()), value: edx_eax() },
        reason::IO_INSTRUCTION => {
            Exit::PortIo(port_access(IoQualification(fields.read(info::EXIT_QUALIFICATION))))
        }
        reason::EPT_VIOLATION => Exit::SecondStage(second_stage(fields)),
        reason::EXTERNAL_INTERRUPT => Exit::ExternalInterrupt,
        reason::INTERRUPT_WINDOW => Exit::InterruptWindow,
        reason::NMI_WINDOW => return Decoded::NmiWindow,
        reason::PREEMPTION_TIMER => return Decoded::PreemptionTimer,
        reason::CR_ACCESS => return cr_access(fields, gpr),
        reason::XSETBV => Exit::Xsetbv { index: ecx(), value: edx_eax() },
        reason::EXCEPTION_OR_NMI => return exception(fields),
        reason::TRIPLE_FAULT => Exit::Shutdown,
        reason::INIT => Exit::InitSignal,
        reason::INVD | reason::WBINVD => Exit::Ignore,
        reason::RDPMC => return Decoded::GeneralProtection,
        reason::GETSEC
        | reason::MWAIT
        | reason::MONITOR
        | reason::INVEPT
        | reason::INVVPID
        | reason::VMFUNC
        | reason::ENCLS
        | reason::VMCLEAR..=reason::VMXON => Exit::InvalidOpcode,
        other => unhandled(other, fields),
    })
}

/// Whether the CPU gave the length of the instruction that exited (SDM vol. 3, 28.2.5).
#[inline]
pub(super) const fn has_instruction_length(exit_reason: u32) -> bool {
    /// One bit for each basic reason.
    const REASONS: u128 = {
        let ranges = [
            (reason::TASK_SWITCH, reason::IO_INSTRUCTION),
            (reason::RDMSR, reason::WRMSR),
            (reason::MWAIT, reason::MWAIT),
            (reason::MONITOR, reason::PAUSE),
            (reason::GDTR_IDTR_ACCESS, reason::LDTR_TR_ACCESS),
            (reason::INVEPT, reason::RDTSCP),
            (reason::INVVPID, reason::XSETBV),
            (reason::RDRAND, reason::RDSEED),
            (reason::XSAVES, reason::XRSTORS),
        ];
        let mut set = 0;
        let mut index = 0;
        while index < ranges.len() {
            let (first, last) = ranges[index];
            set |= ((2 << (last - first)) - 1) << first;
            index += 1;
        }
        set
    };
    exit_reason < 128 && REASONS >> exit_reason & 1 != 0
}

/// Whether the exit is of a kind that can come in the middle of an event's delivery or of an IRET.
#[inline]
pub(super) const fn may_cut_short(exit_reason: u32) -> bool {
    const REASONS: u64 = 1 << reason::EXCEPTION_OR_NMI
        | 1 << reason::TASK_SWITCH
        | 1 << reason::APIC_ACCESS
        | 1 << reason::EPT_VIOLATION
        | 1 << reason::EPT_MISCONFIGURATION
        | 1 << reason::PML_FULL;
    exit_reason < 64 && REASONS >> exit_reason & 1 != 0
}

/// Whether the guest did not run at all.
#[inline]
pub(super) const fn is_entry_failure(exit_reason: u32) -> bool {
    exit_reason & ENTRY_FAILURE != 0
}

/// The event whose delivery the exit cut short, if it did (SDM vol. 3, 28.2.4).
pub(super) fn cut_short(exit_reason: u32, fields: &impl Fields) -> Option<Injection> {
    if !may_cut_short(exit_reason) {
        return None;
    }
    let info = InterruptionInfo(fields.read(info::IDT_VECTORING_INFO));
    if !info.is_valid() {
        return None;
    }
    let error_code = match info.has_error_code() {
        true => Some(fields.read(info::IDT_VECTORING_ERROR_CODE)),
        false => None,
    };
    let length = match info.kind().has_instruction_length() {
        true => fields.read(info::EXIT_INSTRUCTION_LENGTH) as u8,
        false => 0,
    };
    Some(Injection { vector: info.vector(), kind: info.kind(), error_code, length })
}

/// Whether the exit undid an IRET that had ended NMI blocking (SDM vol. 3, 28.2.3 and table 28-7). Meaningless where
/// the exit cut a delivery short.
pub(super) fn nmi_unblocked_by_iret(exit_reason: u32, fields: &impl Fields) -> bool {
    match exit_reason as u16 {
        reason::EXCEPTION_OR_NMI => {
            let info = InterruptionInfo(fields.read(info::EXIT_INTERRUPTION_INFO));
            info.is_valid() && info.vector() != vector::DF && info.nmi_unblocked_by_iret()
        }
        reason::EPT_VIOLATION => {
            EptQualification(fields.read(info::EXIT_QUALIFICATION)).nmi_unblocked_by_iret()
        }
        _ => false,
    }
}

/// The access that exited.
#[inline]
pub(super) fn port_access(qualification: IoQualification) -> PortIo {
    // The manual knows three codes here, for one, two and four bytes.
    let width = match qualification.bytes() {
        1 => Width::W1,
        2 => Width::W2,
        _ => Width::W4,
    };
    PortIo {
        port: Port(qualification.port()),
        width,
        write: !qualification.is_in(),
        string: qualification.is_string(),
        rep: qualification.is_rep(),
    }
}

fn second_stage(fields: &impl Fields) -> SecondStageFault {
    let qualification = EptQualification(fields.read(info::EXIT_QUALIFICATION));
    let gla = qualification
        .has_linear_address()
        .then(|| Gla::new(fields.read(info::GUEST_LINEAR_ADDRESS)));
    // A read-modify-write sets both bits; with read rights alone missing is rare, and write is what must be allowed.
    let access = if qualification.is_fetch() {
        Access::Execute
    } else if qualification.is_write() {
        Access::Write
    } else {
        Access::Read
    };
    SecondStageFault {
        gpa: Gpa::new(fields.read(info::GUEST_PHYSICAL_ADDRESS)),
        gla,
        access,
        // Without a linear address it is the load of page-directory-pointer entries by MOV CR.
        during_walk: !(gla.is_some() && qualification.is_final_access()),
    }
}

/// The access that exited, where it is a plain load or store: no fetch, no walk, and nothing cut short by it.
#[inline(always)]
pub(super) fn plain_access(fields: &impl Fields) -> Option<SecondStageFault> {
    let qualification = EptQualification(fields.read(info::EXIT_QUALIFICATION));
    let is_plain = qualification.is_final_access()
        && qualification.has_linear_address()
        && !qualification.is_fetch()
        && !qualification.nmi_unblocked_by_iret();
    if !is_plain || InterruptionInfo(fields.read(info::IDT_VECTORING_INFO)).is_valid() {
        return None;
    }
    let access = if qualification.is_write() { Access::Write } else { Access::Read };
    // Who needs the linear address can have it from the exit.
    let gpa = Gpa::new(fields.read(info::GUEST_PHYSICAL_ADDRESS));
    Some(SecondStageFault { gpa, gla: None, access, during_walk: false })
}

fn cr_access(fields: &impl Fields, gpr: impl Fn(Gpr) -> u64) -> Decoded {
    let raw = fields.read(info::EXIT_QUALIFICATION);
    let qualification = CrQualification(raw);
    let register = Gpr::from_low_bits(qualification.register());
    match (qualification.access(), qualification.number()) {
        (CrAccess::MovTo, 0) => Decoded::Cr0Write(gpr(register)),
        (CrAccess::MovTo, 4) => Decoded::Cr4Write(gpr(register)),
        (CrAccess::MovTo, 8) => Decoded::Exit(Exit::Cr8Write { value: gpr(register) }),
        (CrAccess::MovFrom, 8) => Decoded::Exit(Exit::Cr8Read { register }),
        _ => Decoded::Exit(Exit::Unhandled { code: reason::CR_ACCESS.into(), detail: raw }),
    }
}

fn exception(fields: &impl Fields) -> Decoded {
    let info = InterruptionInfo(fields.read(info::EXIT_INTERRUPTION_INFO));
    match (info.kind(), info.vector()) {
        (InterruptionType::Nmi, _) => return Decoded::Nmi,
        (InterruptionType::HardwareException, vector::MC) => return Decoded::MachineCheck,
        (InterruptionType::HardwareException, vector::UD) => {
            return Decoded::Exit(Exit::Undefined);
        }
        _ => {}
    }
    let error_code = match info.has_error_code() {
        true => Some(fields.read(info::EXIT_INTERRUPTION_ERROR_CODE)),
        false => None,
    };
    let length = match info.kind().has_instruction_length() {
        true => fields.read(info::EXIT_INSTRUCTION_LENGTH) as u8,
        false => 0,
    };
    Decoded::Reflect(
        Injection { vector: info.vector(), kind: info.kind(), error_code, length },
        fields.read(info::EXIT_QUALIFICATION),
    )
}

#[cold]
fn unhandled(code: u16, fields: &impl Fields) -> Exit {
    let detail = match code {
        reason::EPT_MISCONFIGURATION => fields.read(info::GUEST_PHYSICAL_ADDRESS),
        _ => fields.read(info::EXIT_QUALIFICATION),
    };
    Exit::Unhandled { code: code.into(), detail }
}
