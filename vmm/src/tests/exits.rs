//! Exits that are answered by registers alone.

use hw::{Gpa, Msr, Port, Width};
use vcpu::scripted::Step;
use vcpu::{Access, EntryFailure, Event, Exit, Gpr, PortIo, SecondStageFault};
use x86_spec::cpu::{Cr4, vector};
use x86_spec::msr;

use super::bench::{Bench, CODE, spec};
use crate::counters::ExitKind;
use crate::hypercall;
use crate::platform::cpuid::CpuidState;
use crate::{Crash, Outcome};

const GP: Event = Event::Exception { vector: vector::GP, error_code: Some(0) };
const UD: Event = Event::Exception { vector: vector::UD, error_code: None };

fn every_exit() -> Vec<Exit> {
    let port = |write, string, rep| {
        Exit::PortIo(PortIo { port: Port(0x80), width: Width::W1, write, string, rep })
    };
    let touch = |access, during_walk| {
        Exit::SecondStage(SecondStageFault {
            gpa: Gpa::new(0xfee0_0020),
            gla: None,
            access,
            during_walk,
        })
    };
    vec![
        Exit::Cpuid,
        Exit::Hypercall,
        Exit::Halt,
        Exit::MsrRead(msr::EFER),
        Exit::MsrWrite { msr: msr::EFER, value: 0 },
        port(false, false, false),
        port(true, false, false),
        port(false, true, true),
        port(true, true, false),
        touch(Access::Read, false),
        touch(Access::Write, false),
        touch(Access::Execute, false),
        touch(Access::Read, true),
        Exit::Xsetbv { index: 0, value: 1 },
        Exit::Cr8Read { register: Gpr::Rbx },
        Exit::Cr8Write { value: 2 },
        Exit::Cr4,
        Exit::InvalidOpcode,
        Exit::Undefined,
        Exit::Ignore,
        Exit::Handled,
        Exit::ExternalInterrupt,
        Exit::Nmi,
        Exit::InterruptWindow,
        Exit::Shutdown,
        Exit::InitSignal,
        Exit::EntryFailed(EntryFailure::Code(7)),
        Exit::Unhandled { code: 99, detail: 1 },
    ]
}

#[test]
fn every_exit_is_answered_and_counted() {
    for exit in every_exit() {
        for step in [Step::new(exit, 3), Step::undecoded(exit)] {
            let mut bench = Bench::new();
            let _ = bench.step(step);
            assert!(bench.core.counters().exits(ExitKind::of(&exit)) >= 1, "{exit:?}");
        }
    }
}

#[test]
fn dead_guests_are_reported() {
    let crash = |exit| Bench::new().exit(exit);
    assert_eq!(crash(Exit::Shutdown), Outcome::Crashed(Crash::TripleFault));
    let why = EntryFailure::Rule("CR0.PE");
    assert_eq!(crash(Exit::EntryFailed(why)), Outcome::Crashed(Crash::EntryFailed(why)));
    assert_eq!(
        crash(Exit::Unhandled { code: 1, detail: 2 }),
        Outcome::Crashed(Crash::Unhandled { code: 1, detail: 2 })
    );
}

#[test]
fn cpuid_answers_by_the_policy() {
    let mut bench = Bench::new();
    for leaf in [0u32, 1, 7, 0xd, 0x4000_0000, 0x8000_0000] {
        bench.set(Gpr::Rax, 0xdead_0000_0000_0000 | u64::from(leaf));
        bench.set(Gpr::Rcx, 0);
        assert_eq!(bench.exit(Exit::Cpuid), Outcome::Resume);
        let state = CpuidState { cr4: bench.vcpu.state.cr4, xcr0: 1, apic_id: 0 };
        let expected = spec().cpuid.cpuid(leaf, 0, &state);
        let got = [Gpr::Rax, Gpr::Rbx, Gpr::Rcx, Gpr::Rdx].map(|gpr| bench.gpr(gpr));
        let expected = [expected.eax, expected.ebx, expected.ecx, expected.edx].map(u64::from);
        assert_eq!(got, expected, "leaf {leaf:#x}");
    }
}

#[test]
fn a_length_that_the_cpu_does_not_give_is_decoded() {
    let mut bench = Bench::new();
    bench.code(&[0x66, 0x48, 0x0f, 0xa2]);
    assert_eq!(bench.step(Step::undecoded(Exit::Cpuid)), Outcome::Resume);
    assert!(bench.is_past(4));
    bench.code(&[0xf4]);
    bench.vcpu.state.rflags = 0x202;
    assert_eq!(bench.step(Step::undecoded(Exit::Halt)), Outcome::Wait);
    assert!(bench.is_past(1));
}

#[test]
fn bytes_that_the_cpu_gives_are_preferred_to_memory() {
    let mut bench = Bench::new();
    bench.code(&[0x90; 4]);
    assert_eq!(bench.step(Step::undecoded(Exit::Cpuid).with_bytes(&[0x0f, 0xa2])), Outcome::Resume);
    assert!(bench.is_past(2));
}

#[test]
fn a_changed_instruction_is_run_again_and_one_that_stays_so_is_reported() {
    let mut bench = Bench::new();
    bench.code(&[0x90, 0xc3]);
    for attempt in 1..8 {
        assert_eq!(bench.step(Step::undecoded(Exit::Cpuid)), Outcome::Resume);
        assert!(bench.is_past(0));
        assert_eq!(bench.core.counters().mismatches, attempt);
    }
    let Outcome::Crashed(Crash::Undecodable(found)) = bench.step(Step::undecoded(Exit::Cpuid))
    else {
        panic!("the eighth time is too many")
    };
    assert_eq!((found.rip, &found.bytes[..2], found.len), (CODE, &[0x90, 0xc3][..], 15));
}

#[test]
fn retries_at_different_places_do_not_add_up() {
    let mut bench = Bench::new();
    for round in 0..20 {
        bench.vcpu.state.rip = CODE + round % 2;
        assert_eq!(bench.step(Step::undecoded(Exit::Cpuid)), Outcome::Resume);
    }
}

#[test]
fn hypercalls_return_in_rax() {
    let mut bench = Bench::new();
    bench.set(Gpr::Rax, hypercall::number::VERSION);
    assert_eq!(bench.exit(Exit::Hypercall), Outcome::Resume);
    assert_eq!(bench.gpr(Gpr::Rax), hypercall::VERSION);
    assert_ne!(hypercall::VERSION, 0);

    bench.set(Gpr::Rax, 12_345);
    assert_eq!(bench.exit(Exit::Hypercall), Outcome::Resume);
    assert_eq!(bench.gpr(Gpr::Rax), u64::MAX);
    let unknown = bench.core.counters().unknown_hypercalls;
    assert_eq!((unknown.count, unknown.last), (1, 12_345));
}

#[test]
fn a_hypercall_from_user_mode_is_undefined() {
    let mut bench = Bench::new();
    bench.vcpu.state.ss.access |= 3 << 5;
    bench.set(Gpr::Rax, 0);
    assert_eq!(bench.exit(Exit::Hypercall), Outcome::Resume);
    assert_eq!(bench.vcpu.pending, Some(UD));
    assert_eq!((bench.gpr(Gpr::Rax), bench.vcpu.advanced.len()), (0, 0));
}

#[test]
fn unknown_msr_faults() {
    let mut bench = Bench::new();
    let unknown = Msr(0x1234_5678);
    assert_eq!(bench.exit(Exit::MsrRead(unknown)), Outcome::Resume);
    assert_eq!(bench.vcpu.pending, Some(GP));
    assert_eq!(bench.exit(Exit::MsrWrite { msr: unknown, value: 1 }), Outcome::Resume);
    assert_eq!(bench.vcpu.pending, Some(GP));
    assert!(bench.vcpu.advanced.is_empty());
    let counted = bench.core.counters().unknown_msrs;
    assert_eq!((counted.count, counted.last), (2, 0x1234_5678));
}

#[test]
fn msrs_of_the_backend_are_read_and_written_there() {
    let mut bench = Bench::new();
    let value = 0x1234_5678_9abc_def0;
    assert_eq!(bench.exit(Exit::MsrWrite { msr: msr::LSTAR, value }), Outcome::Resume);
    assert_eq!(bench.vcpu.msr_writes, [(msr::LSTAR, value)]);
    bench.set(Gpr::Rax, u64::MAX);
    bench.set(Gpr::Rdx, u64::MAX);
    assert_eq!(bench.exit(Exit::MsrRead(msr::LSTAR)), Outcome::Resume);
    assert_eq!((bench.gpr(Gpr::Rax), bench.gpr(Gpr::Rdx)), (0x9abc_def0, 0x1234_5678));
}

#[test]
fn the_tsc_read_by_rdmsr_is_the_guests() {
    let mut bench = Bench::new();
    bench.host.tsc.set(0x1_0000_0000 + 1_005);
    assert_eq!(bench.exit(Exit::MsrRead(msr::TSC)), Outcome::Resume);
    assert_eq!((bench.gpr(Gpr::Rax), bench.gpr(Gpr::Rdx)), (5, 1));
}

#[test]
fn fixed_msrs_read_the_same_whatever_is_written() {
    let mut bench = Bench::new();
    for register in [msr::BIOS_SIGN_ID, msr::MISC_ENABLE, msr::MCG_STATUS, msr::MTRR_DEF_TYPE] {
        let _ = bench.exit(Exit::MsrRead(register));
        let before = bench.gpr(Gpr::Rax);
        assert_eq!(bench.exit(Exit::MsrWrite { msr: register, value: 0x5a5a }), Outcome::Resume);
        let _ = bench.exit(Exit::MsrRead(register));
        assert_eq!(bench.gpr(Gpr::Rax), before);
    }
    assert_eq!(bench.vcpu.pending, None);
    let _ = bench.exit(Exit::MsrWrite { msr: msr::FEATURE_CONTROL, value: 5 });
    assert_eq!(bench.vcpu.pending, Some(GP));
}

#[test]
fn xsetbv_takes_what_the_cpu_would() {
    for (index, value, allowed) in [
        (0, 0b001, true),
        (0, 0b011, true),
        (0, 0b111, true),
        (0, 0b000, false),
        (0, 0b010, false),
        (0, 0b101, false),
        (0, 0b1_1111, false),
        (0, 1 << 63 | 1, false),
        (1, 1, false),
    ] {
        let mut bench = Bench::new();
        bench.vcpu.state.cr4 |= Cr4::OSXSAVE.bits();
        let before = vcpu::Vcpu::xcr0(&bench.vcpu);
        assert_eq!(bench.exit(Exit::Xsetbv { index, value }), Outcome::Resume);
        let (pending, expected) = if allowed { (None, value) } else { (Some(GP), before) };
        assert_eq!(bench.vcpu.pending, pending, "{index} {value:#b}");
        assert_eq!(vcpu::Vcpu::xcr0(&bench.vcpu), expected, "{index} {value:#b}");
    }
}

#[test]
fn xsetbv_is_undefined_without_osxsave() {
    let mut bench = Bench::new();
    let before = vcpu::Vcpu::xcr0(&bench.vcpu);
    assert_eq!(bench.exit(Exit::Xsetbv { index: 0, value: 0b111 }), Outcome::Resume);
    assert_eq!((bench.vcpu.pending, vcpu::Vcpu::xcr0(&bench.vcpu)), (Some(UD), before));
}

#[test]
fn cr8_is_the_task_priority() {
    let mut bench = Bench::new();
    bench.code(&[0x41, 0x0f, 0x22, 0xc1]); // mov cr8 needs REX.R: this is mov cr0, r9
    assert_eq!(bench.step(Step::undecoded(Exit::Cr8Write { value: 5 })), Outcome::Resume);
    assert!(bench.is_past(0), "another register's move is not taken for CR8's");
    bench.code(&[0x44, 0x0f, 0x22, 0xc0]); // mov cr8, rax
    assert_eq!(bench.step(Step::undecoded(Exit::Cr8Write { value: 5 })), Outcome::Resume);
    assert!(bench.is_past(4));
    assert_eq!(bench.step(Step::new(Exit::Cr8Read { register: Gpr::R9 }, 4)), Outcome::Resume);
    assert_eq!((bench.gpr(Gpr::R9), bench.vcpu.task_priority), (5, 5));
    assert_eq!(bench.exit(Exit::Cr8Write { value: 16 }), Outcome::Resume);
    assert_eq!(bench.vcpu.pending, Some(GP));
}

#[test]
fn cr4_is_read_and_written_by_decoding() {
    let mut bench = Bench::new();
    bench.code(&[0x41, 0x0f, 0x20, 0xe1]); // mov r9, cr4
    assert_eq!(bench.step(Step::undecoded(Exit::Cr4)), Outcome::Resume);
    assert!(bench.is_past(4));
    assert_eq!(bench.gpr(Gpr::R9), Cr4::PAE.bits());
    bench.code(&[0x0f, 0x22, 0xe3]); // mov cr4, rbx
    bench.set(Gpr::Rbx, 0x6b0);
    assert_eq!(bench.step(Step::undecoded(Exit::Cr4)), Outcome::Resume);
    assert!(bench.is_past(3));
    assert_eq!(bench.vcpu.state.cr4, 0x6b0);
    bench.code(&[0x0f, 0x22, 0xe3]);
    bench.set(Gpr::Rbx, 1 << 40);
    assert_eq!(bench.step(Step::undecoded(Exit::Cr4)), Outcome::Resume);
    assert!(bench.is_past(0));
    assert_eq!((bench.vcpu.pending, bench.vcpu.state.cr4), (Some(GP), 0x6b0));
}

#[test]
fn a_move_to_another_control_register_is_not_taken_for_cr4s() {
    let mut bench = Bench::new();
    bench.code(&[0x0f, 0x22, 0xc3]); // mov cr0, rbx
    assert_eq!(bench.step(Step::undecoded(Exit::Cr4)), Outcome::Resume);
    assert!(bench.is_past(0));
    assert_eq!(bench.vcpu.state.cr4, Cr4::PAE.bits());
}

#[test]
fn cr4_has_32_bits_outside_64_bit_code() {
    let mut bench = Bench::new();
    bench.enter_32_bit_mode(0);
    bench.code(&[0x0f, 0x22, 0xe3]);
    bench.set(Gpr::Rbx, 1 << 40 | 0x10);
    assert_eq!(bench.step(Step::undecoded(Exit::Cr4)), Outcome::Resume);
    assert_eq!((bench.vcpu.pending, bench.vcpu.state.cr4), (None, 0x10));
}

#[test]
fn what_kerf_does_not_offer_is_undefined() {
    let mut bench = Bench::new();
    assert_eq!(bench.exit(Exit::InvalidOpcode), Outcome::Resume);
    assert_eq!(bench.vcpu.pending, Some(UD));
    assert_eq!(bench.core.counters().faults, 1);
}

#[test]
fn what_does_nothing_is_skipped() {
    let mut bench = Bench::new();
    bench.code(&[0x0f, 0x09]);
    assert_eq!(bench.step(Step::undecoded(Exit::Ignore)), Outcome::Resume);
    assert!(bench.is_past(2));
}

#[test]
fn a_user_may_not_flush_the_caches() {
    let mut bench = Bench::new();
    bench.vcpu.state.ss.access |= 3 << 5;
    assert_eq!(bench.exit(Exit::Ignore), Outcome::Resume);
    assert_eq!(bench.vcpu.pending, Some(GP));
    assert!(bench.is_past(0));
}

#[test]
fn an_unknown_msr_reads_zero_or_ends_the_guest_by_policy() {
    for exit in [Exit::MsrRead(Msr(0x1234)), Exit::MsrWrite { msr: Msr(0x1234), value: 1 }] {
        let with = |msrs| {
            let unknown = crate::UnknownPolicy { msrs, ..crate::UnknownPolicy::default() };
            let mut bench = Bench::of(crate::VmSpec { unknown, ..spec() });
            bench.set(Gpr::Rax, 5);
            let outcome = bench.exit(exit);
            assert_eq!(bench.core.counters().unknown_msrs.count, 1);
            (outcome, bench.vcpu.pending, bench.gpr(Gpr::Rax))
        };
        let is_read = matches!(exit, Exit::MsrRead(_));
        assert_eq!(
            with(config::Policy::Allow),
            (Outcome::Resume, None, if is_read { 0 } else { 5 })
        );
        assert_eq!(with(config::Policy::Fault), (Outcome::Resume, Some(GP), 5));
        let crash = Outcome::Crashed(Crash::UnknownMsr(Msr(0x1234)));
        assert_eq!(with(config::Policy::Stop), (crash, None, 5));
    }
}

#[test]
fn a_register_that_exists_faults_at_a_wrong_value_whatever_the_policy() {
    let unknown = crate::UnknownPolicy { msrs: config::Policy::Stop, ..Default::default() };
    for (msr, value) in [(Msr(0x3a), 5), (msr::APIC_BASE, u64::MAX), (Msr(0x830), 0)] {
        let mut bench = Bench::of(crate::VmSpec { unknown, ..spec() });
        assert_eq!(bench.exit(Exit::MsrWrite { msr, value }), Outcome::Resume);
        assert_eq!(bench.vcpu.pending, Some(GP), "{msr:?}");
    }
}

#[test]
fn a_view_is_selected_where_there_are_several() {
    let call = |views, view| {
        let mut bench = Bench::of(crate::VmSpec { views, ..spec() });
        bench.set(Gpr::Rax, hypercall::number::SELECT_VIEW);
        bench.set(Gpr::Rdi, view);
        let outcome = bench.exit(Exit::Hypercall);
        assert_eq!(bench.vcpu.advanced, [2]);
        (outcome, bench.gpr(Gpr::Rax))
    };
    assert_eq!(call(2, 1), (Outcome::SelectView(1), 0));
    assert_eq!(call(2, 2), (Outcome::Resume, hypercall::NOT_THERE));
    assert_eq!(call(2, 0x1_0000), (Outcome::Resume, hypercall::NOT_THERE));
    assert_eq!(call(1, 0), (Outcome::Resume, hypercall::UNKNOWN));
}

#[test]
fn the_last_exits_are_kept_newest_last() {
    let mut bench = Bench::new();
    assert_eq!(bench.core.last_exits().count(), 0);
    for leaf in 0..70 {
        bench.set(Gpr::Rax, leaf);
        let _ = bench.step(Step::new(Exit::Cpuid, 2).at(0x1000 + leaf));
    }
    let _ = bench.exit(Exit::MsrRead(msr::EFER));
    let kept: Vec<_> = bench.core.last_exits().collect();
    assert_eq!(kept.len(), 64);
    assert_eq!((kept[0].kind, kept[0].rip, kept[0].detail), (ExitKind::Cpuid, 0x1007, 7));
    assert_eq!((kept[63].kind, kept[63].detail), (ExitKind::MsrRead, 0xc000_0080));
}
