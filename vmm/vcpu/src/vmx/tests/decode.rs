//! Recorded exits, and what they decode to.

use hw::{Gla, Gpa, Msr, Port, Width};
use x86_spec::vmx::exit::{InterruptionType, reason};
use x86_spec::vmx::field::info;

use crate::vmx::event::Injection;
use crate::vmx::exit::{Decoded, cut_short, decode, has_instruction_length, nmi_unblocked_by_iret};
use crate::vmx::fields::{FieldsMut, TestFields};
use crate::{Access, Exit, Gpr, PortIo, SecondStageFault};

/// RAX 0x1_8000_0001, RCX 0xc000_0080, RDX 0x2_0000_0002, the others their number.
fn gpr(register: Gpr) -> u64 {
    match register {
        Gpr::Rax => 0x1_8000_0001,
        Gpr::Rcx => 0xffff_ffff_c000_0080,
        Gpr::Rdx => 0x2_0000_0002,
        other => other as u64,
    }
}

fn qualified(qualification: u64) -> TestFields {
    let mut fields = TestFields::default();
    fields.write(info::EXIT_QUALIFICATION, qualification);
    fields
}

fn decoded(reason: u16, fields: &TestFields) -> Decoded {
    decode(reason.into(), fields, gpr)
}

#[test]
fn exits_without_fields() {
    let cases = [
        (reason::CPUID, Exit::Cpuid),
        (reason::VMCALL, Exit::Hypercall),
        (reason::HLT, Exit::Halt),
        (reason::EXTERNAL_INTERRUPT, Exit::ExternalInterrupt),
        (reason::INTERRUPT_WINDOW, Exit::InterruptWindow),
        (reason::TRIPLE_FAULT, Exit::Shutdown),
        (reason::INIT, Exit::InitSignal),
        (reason::INVD, Exit::Ignore),
        (reason::WBINVD, Exit::Ignore),
        (reason::GETSEC, Exit::InvalidOpcode),
        (reason::VMXON, Exit::InvalidOpcode),
        (reason::VMCLEAR, Exit::InvalidOpcode),
        (reason::VMLAUNCH, Exit::InvalidOpcode),
        (reason::INVEPT, Exit::InvalidOpcode),
        (reason::INVVPID, Exit::InvalidOpcode),
        (reason::VMFUNC, Exit::InvalidOpcode),
        (reason::MONITOR, Exit::InvalidOpcode),
        (reason::MWAIT, Exit::InvalidOpcode),
    ];
    for (reason, exit) in cases {
        assert_eq!(decoded(reason, &TestFields::default()), Decoded::Exit(exit));
    }
    assert_eq!(decoded(reason::RDPMC, &TestFields::default()), Decoded::GeneralProtection);
    assert_eq!(decoded(reason::NMI_WINDOW, &TestFields::default()), Decoded::NmiWindow);
    let timer = decoded(reason::PREEMPTION_TIMER, &TestFields::default());
    assert_eq!(timer, Decoded::PreemptionTimer);
}

#[test]
fn register_operands_are_32_bits_wide() {
    let fields = TestFields::default();
    let value = 0x2_8000_0001;
    let msr = Msr(0xc000_0080);
    assert_eq!(decoded(reason::RDMSR, &fields), Decoded::Exit(Exit::MsrRead(msr)));
    assert_eq!(decoded(reason::WRMSR, &fields), Decoded::Exit(Exit::MsrWrite { msr, value }));
    let xsetbv = Exit::Xsetbv { index: 0xc000_0080, value };
    assert_eq!(decoded(reason::XSETBV, &fields), Decoded::Exit(xsetbv));
}

#[test]
fn port_accesses() {
    let out =
        PortIo { port: Port(0x3f8), width: Width::W1, write: true, string: false, rep: false };
    let cases = [
        (0x03f8_0000, out),
        (0x0cfc_000b, PortIo { port: Port(0xcfc), width: Width::W4, write: false, ..out }),
        (
            0x01f0_0039,
            PortIo { port: Port(0x1f0), width: Width::W2, write: false, string: true, rep: true },
        ),
        (0x03f8_0040, out),
    ];
    for (qualification, access) in cases {
        let exit = decoded(reason::IO_INSTRUCTION, &qualified(qualification));
        assert_eq!(exit, Decoded::Exit(Exit::PortIo(access)), "{qualification:#x}");
    }
}

#[test]
fn second_stage_faults() {
    let fault = |qualification| {
        let mut fields = qualified(qualification);
        fields.write(info::GUEST_PHYSICAL_ADDRESS, 0xfee0_0020);
        fields.write(info::GUEST_LINEAR_ADDRESS, 0xffff_8000_0000_0020);
        decoded(reason::EPT_VIOLATION, &fields)
    };
    let gpa = Gpa::new(0xfee0_0020);
    let gla = Some(Gla::new(0xffff_8000_0000_0020));
    let read = SecondStageFault { gpa, gla, access: Access::Read, during_walk: false };
    let cases = [
        (0x181, read),
        (0x182, SecondStageFault { access: Access::Write, ..read }),
        (0x183, SecondStageFault { access: Access::Write, ..read }),
        (0x184, SecondStageFault { access: Access::Execute, ..read }),
        (0x081, SecondStageFault { during_walk: true, ..read }),
        (0x001, SecondStageFault { gla: None, during_walk: true, ..read }),
    ];
    for (qualification, expected) in cases {
        let expected = Decoded::Exit(Exit::SecondStage(expected));
        assert_eq!(fault(qualification), expected, "{qualification:#x}");
    }
}

#[test]
fn control_register_accesses() {
    let cases = [
        (0x300, Decoded::Cr0Write(3)),
        (0x704, Decoded::Cr4Write(7)),
        (0xf08, Decoded::Exit(Exit::Cr8Write { value: 15 })),
        (0x018, Decoded::Exit(Exit::Cr8Read { register: Gpr::Rax })),
        (0x203, Decoded::Exit(Exit::Unhandled { code: 28, detail: 0x203 })),
        (0x020, Decoded::Exit(Exit::Unhandled { code: 28, detail: 0x20 })),
    ];
    for (qualification, expected) in cases {
        let got = decoded(reason::CR_ACCESS, &qualified(qualification));
        assert_eq!(got, expected, "{qualification:#x}");
    }
}

#[test]
fn nmis_and_machine_checks_are_the_hosts_and_other_exceptions_go_back() {
    let event = |info| {
        let mut fields = qualified(0x4000);
        fields.write(info::EXIT_INTERRUPTION_INFO, info);
        fields.write(info::EXIT_INSTRUCTION_LENGTH, 1);
        decoded(reason::EXCEPTION_OR_NMI, &fields)
    };
    assert_eq!(event(0x8000_0202), Decoded::Nmi);
    assert_eq!(event(0x8000_0312), Decoded::MachineCheck);
    assert_eq!(event(0x8000_0306), Decoded::Exit(Exit::Undefined));
    assert_eq!(event(0x8000_0301), Decoded::Reflect(Injection::fault(1, None), 0x4000));
    assert_eq!(event(0x8000_0b11), Decoded::Reflect(Injection::fault(17, Some(0)), 0x4000));
    let int1 = Injection {
        vector: 1,
        kind: InterruptionType::PrivilegedSoftwareException,
        error_code: None,
        length: 1,
    };
    assert_eq!(event(0x8000_0501), Decoded::Reflect(int1, 0x4000));
}

#[test]
fn a_failed_entry_is_no_exit() {
    let fields = qualified(4);
    let failed = decode(0x8000_0021, &fields, gpr);
    assert_eq!(failed, Decoded::EntryFailed(0x8000_0021, 4));
}

#[test]
fn an_unknown_reason_keeps_its_code() {
    let fields = qualified(0x77);
    for code in [reason::TASK_SWITCH, reason::RSM, 35, 63, 0x7fff] {
        let unhandled = Exit::Unhandled { code: code.into(), detail: 0x77 };
        assert_eq!(decoded(code, &fields), Decoded::Exit(unhandled));
    }
    let mut fields = TestFields::default();
    fields.write(info::GUEST_PHYSICAL_ADDRESS, 0x1234_5000);
    let misconfiguration = Exit::Unhandled { code: 49, detail: 0x1234_5000 };
    assert_eq!(decoded(reason::EPT_MISCONFIGURATION, &fields), Decoded::Exit(misconfiguration));
}

#[test]
fn an_event_cut_short_is_recovered_whole() {
    let mut fields = TestFields::default();
    fields.write(info::IDT_VECTORING_INFO, 0x8000_0b0e);
    fields.write(info::IDT_VECTORING_ERROR_CODE, 6);
    let fault = Some(Injection::fault(14, Some(6)));
    assert_eq!(cut_short(reason::EPT_VIOLATION.into(), &fields), fault);
    assert_eq!(cut_short(reason::CPUID.into(), &fields), None, "instructions cut nothing short");
    fields.write(info::IDT_VECTORING_INFO, 0x8000_0480);
    fields.write(info::EXIT_INSTRUCTION_LENGTH, 2);
    let int = Injection {
        vector: 0x80,
        kind: InterruptionType::SoftwareInterrupt,
        error_code: None,
        length: 2,
    };
    assert_eq!(cut_short(reason::EPT_VIOLATION.into(), &fields), Some(int));
    fields.write(info::IDT_VECTORING_INFO, 0x0000_0480);
    assert_eq!(cut_short(reason::EPT_VIOLATION.into(), &fields), None, "not valid");
}

#[test]
fn an_iret_that_faulted_blocks_nmis_again() {
    assert!(nmi_unblocked_by_iret(reason::EPT_VIOLATION.into(), &qualified(0x1181)));
    assert!(!nmi_unblocked_by_iret(reason::EPT_VIOLATION.into(), &qualified(0x181)));
    let mut fields = TestFields::default();
    fields.write(info::EXIT_INTERRUPTION_INFO, 0x8000_1b11);
    assert!(nmi_unblocked_by_iret(reason::EXCEPTION_OR_NMI.into(), &fields));
    fields.write(info::EXIT_INTERRUPTION_INFO, 0x8000_1b08);
    assert!(!nmi_unblocked_by_iret(reason::EXCEPTION_OR_NMI.into(), &fields), "not for #DF");
}

#[test]
fn lengths_come_with_instructions_only() {
    for known in [reason::CPUID, reason::HLT, reason::RDMSR, reason::XSETBV, reason::WBINVD] {
        assert!(has_instruction_length(known.into()), "{known}");
    }
    for unknown in [reason::EPT_VIOLATION, reason::EXTERNAL_INTERRUPT, reason::TRIPLE_FAULT] {
        assert!(!has_instruction_length(unknown.into()), "{unknown}");
    }
}
