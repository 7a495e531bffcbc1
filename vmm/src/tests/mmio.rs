//! Accesses to device memory.

use config::Policy;
use hw::Gpa;
use proptest::prelude::*;
use vcpu::scripted::Step;
use vcpu::{Access, Event, Exit, Gpr, SecondStageFault};
use x86_spec::cpu::Rflags;

use super::bench::{Bench, RAM, spec};
use crate::{Backing, Crash, Outcome, UnknownPolicy, VmSpec};

/// Where nothing is.
const NOWHERE: u64 = 0xd000_0000;
/// The local APIC's task priority: a register of which eight bits can be written.
const TPR: u64 = 0xfee0_0080;
/// Its spurious-interrupt vector register, which starts as 0xff.
const SVR: u64 = 0xfee0_00f0;

#[test]
fn mmio_mov_widths_follow_x86_rules() {
    let old = 0x1234_5678_9abc_def0;
    for (code, expected) in [
        (&[0x8a, 0x03][..], 0x1234_5678_9abc_deff), // mov al, [rbx]
        (&[0x8a, 0x23], 0x1234_5678_9abc_fff0),     // mov ah, [rbx]
        (&[0x66, 0x8b, 0x03], 0x1234_5678_9abc_ffff), // mov ax, [rbx]
        (&[0x8b, 0x03], 0xffff_ffff),               // mov eax, [rbx]
        (&[0x48, 0x8b, 0x03], u64::MAX),            // mov rax, [rbx]
        (&[0x0f, 0xb6, 0x03], 0xff),                // movzx eax, byte [rbx]
        (&[0x66, 0x0f, 0xb6, 0x03], 0x1234_5678_9abc_00ff), // movzx ax, byte [rbx]
        (&[0x48, 0x0f, 0xb7, 0x03], 0xffff),        // movzx rax, word [rbx]
        (&[0x0f, 0xbe, 0x03], 0xffff_ffff),         // movsx eax, byte [rbx]
        (&[0x48, 0x63, 0x03], u64::MAX),            // movsxd rax, dword [rbx]
    ] {
        let mut bench = Bench::new();
        bench.set(Gpr::Rax, old);
        bench.set(Gpr::Rbx, NOWHERE);
        assert_eq!(bench.touch(code, NOWHERE, Access::Read), Outcome::Resume, "{code:02x?}");
        assert_eq!(bench.gpr(Gpr::Rax), expected, "{code:02x?}");
        assert!(bench.is_past(code.len() as u64), "{code:02x?}");
        let counted = bench.core.counters().unknown_mmio;
        assert_eq!((counted.count, counted.last), (1, NOWHERE));
    }
}

#[test]
fn a_store_reaches_the_register_it_names() {
    let mut bench = Bench::new();
    // mov dword [0xfee00080], 0x50 by an absolute address
    let code = [0xc7, 0x04, 0x25, 0x80, 0x00, 0xe0, 0xfe, 0x50, 0, 0, 0];
    bench.set(Gpr::Rbx, TPR);
    // The displacement is sign-extended: in 64-bit mode it does not reach the local APIC.
    assert_eq!(bench.touch(&code, TPR, Access::Write), Outcome::Resume);
    assert_eq!(bench.touch(&[0xc7, 0x03, 0x60, 0, 0, 0], TPR, Access::Write), Outcome::Resume);
    assert_eq!(bench.touch(&[0x8b, 0x0b], TPR, Access::Read), Outcome::Resume);
    assert_eq!(bench.gpr(Gpr::Rcx), 0x60);
    assert_eq!(bench.core.counters().unknown_mmio.count, 0);
}

#[test]
fn arithmetic_on_a_register_sets_the_flags() {
    let mut bench = Bench::new();
    bench.set(Gpr::Rbx, TPR);
    let _ = bench.touch(&[0xc7, 0x03, 0x0f, 0, 0, 0], TPR, Access::Write);
    // or dword [rbx], 0x40
    assert_eq!(bench.touch(&[0x83, 0x0b, 0x40], TPR, Access::Write), Outcome::Resume);
    let flags = Rflags::from_bits_retain(bench.vcpu.state.rflags);
    assert!(!flags.contains(Rflags::ZF) && flags.contains(Rflags::IF));
    // cmp dword [rbx], 0x4f
    assert_eq!(bench.touch(&[0x83, 0x3b, 0x4f], TPR, Access::Read), Outcome::Resume);
    assert!(Rflags::from_bits_retain(bench.vcpu.state.rflags).contains(Rflags::ZF));
    // test [rbx], al with AL = 0xb0
    bench.set(Gpr::Rax, 0xb0);
    assert_eq!(bench.touch(&[0x85, 0x03], TPR, Access::Read), Outcome::Resume);
    assert!(Rflags::from_bits_retain(bench.vcpu.state.rflags).contains(Rflags::ZF));
    // add ecx, [rbx]
    bench.set(Gpr::Rcx, 0xffff_ffff);
    assert_eq!(bench.touch(&[0x03, 0x0b], TPR, Access::Read), Outcome::Resume);
    assert_eq!(bench.gpr(Gpr::Rcx), 0x4e);
    assert!(Rflags::from_bits_retain(bench.vcpu.state.rflags).contains(Rflags::CF));
}

#[test]
fn exchanges_leave_both_sides_changed() {
    let mut bench = Bench::new();
    bench.set(Gpr::Rbx, TPR);
    let _ = bench.touch(&[0xc7, 0x03, 0x11, 0, 0, 0], TPR, Access::Write);
    bench.set(Gpr::Rcx, 0x22);
    let _ = bench.touch(&[0x87, 0x0b], TPR, Access::Write); // xchg [rbx], ecx
    assert_eq!(bench.gpr(Gpr::Rcx), 0x11);
    let _ = bench.touch(&[0xf0, 0x0f, 0xc1, 0x0b], TPR, Access::Write); // lock xadd [rbx], ecx
    assert_eq!(bench.gpr(Gpr::Rcx), 0x22);
    bench.set(Gpr::Rax, 0x33);
    bench.set(Gpr::Rcx, 0x44);
    let _ = bench.touch(&[0x0f, 0xb1, 0x0b], TPR, Access::Write); // cmpxchg [rbx], ecx
    assert!(Rflags::from_bits_retain(bench.vcpu.state.rflags).contains(Rflags::ZF));
    let _ = bench.touch(&[0x0f, 0xb1, 0x0b], TPR, Access::Write);
    assert_eq!(bench.gpr(Gpr::Rax), 0x44);
    assert!(!Rflags::from_bits_retain(bench.vcpu.state.rflags).contains(Rflags::ZF));
}

#[test]
fn a_bit_operation_reaches_beyond_its_operand() {
    let mut bench = Bench::new();
    bench.set(Gpr::Rbx, SVR - 8);
    bench.set(Gpr::Rcx, 64 + 3);
    // bt [rbx], ecx reads the dword 8 bytes further
    assert_eq!(bench.touch(&[0x0f, 0xa3, 0x0b], SVR, Access::Read), Outcome::Resume);
    assert!(bench.is_past(3));
    assert!(Rflags::from_bits_retain(bench.vcpu.state.rflags).contains(Rflags::CF));
    bench.set(Gpr::Rbx, SVR + 4);
    bench.set(Gpr::Rcx, (-32i64 + 9) as u64);
    assert_eq!(bench.touch(&[0x0f, 0xa3, 0x0b], SVR, Access::Read), Outcome::Resume);
    assert!(bench.is_past(3));
    assert!(!Rflags::from_bits_retain(bench.vcpu.state.rflags).contains(Rflags::CF));
}

#[test]
fn string_instructions_move_between_a_device_and_memory() {
    let mut bench = Bench::new();
    bench.set(Gpr::Rsi, SVR);
    bench.set(Gpr::Rdi, 0x8000);
    // movsd from the device
    assert_eq!(bench.touch(&[0xa5], SVR, Access::Read), Outcome::Resume);
    assert_eq!(bench.memory.get::<4>(0x8000), 0xffu32.to_le_bytes());
    assert_eq!((bench.gpr(Gpr::Rsi), bench.gpr(Gpr::Rdi)), (SVR + 4, 0x8004));
    // movsd to the device
    bench.memory.put(0x9000, &0x70u32.to_le_bytes());
    bench.set(Gpr::Rsi, 0x9000);
    bench.set(Gpr::Rdi, TPR);
    assert_eq!(bench.touch(&[0xa5], TPR, Access::Write), Outcome::Resume);
    // lodsd
    bench.set(Gpr::Rsi, TPR);
    bench.set(Gpr::Rax, u64::MAX);
    assert_eq!(bench.touch(&[0xad], TPR, Access::Read), Outcome::Resume);
    assert_eq!(bench.gpr(Gpr::Rax), 0x70);
}

#[test]
fn a_repeated_store_goes_one_element_at_a_time() {
    let mut bench = Bench::new();
    bench.set(Gpr::Rdi, NOWHERE);
    bench.set(Gpr::Rcx, 2);
    let code = [0xf3, 0x48, 0xab]; // rep stosq
    assert_eq!(bench.touch(&code, NOWHERE, Access::Write), Outcome::Resume);
    assert_eq!((bench.gpr(Gpr::Rcx), bench.gpr(Gpr::Rdi)), (1, NOWHERE + 8));
    assert!(bench.is_past(0));
    assert_eq!(bench.touch(&code, NOWHERE + 8, Access::Write), Outcome::Resume);
    assert_eq!(bench.gpr(Gpr::Rcx), 0);
    assert!(bench.is_past(3));
    assert_eq!(bench.core.counters().unknown_mmio.count, 2);
}

#[test]
fn an_access_across_two_pages_goes_byte_by_byte() {
    let mut bench = Bench::new();
    bench.set(Gpr::Rbx, NOWHERE + 0xffe);
    assert_eq!(bench.touch(&[0x8b, 0x03], NOWHERE + 0xffe, Access::Read), Outcome::Resume);
    assert!(bench.is_past(2));
    assert_eq!(bench.gpr(Gpr::Rax), 0xffff_ffff);
    assert_eq!(bench.core.counters().unknown_mmio.count, 4);
    // From RAM into what follows it, found at the second page.
    bench.memory.put(RAM - 2, &[0x34, 0x12]);
    bench.set(Gpr::Rbx, RAM - 2);
    assert_eq!(bench.touch(&[0x8b, 0x03], RAM, Access::Read), Outcome::Resume);
    assert_eq!(bench.gpr(Gpr::Rax), 0xffff_1234);
    bench.set(Gpr::Rax, 0xaabb_ccdd);
    assert_eq!(bench.touch(&[0x89, 0x03], RAM, Access::Write), Outcome::Resume);
    assert_eq!(bench.memory.get::<2>(RAM - 2), [0xdd, 0xcc]);
    // Between the APIC's page and nothing.
    bench.set(Gpr::Rbx, 0xfee0_0ffd);
    assert_eq!(bench.touch(&[0x8b, 0x03], 0xfee0_1000, Access::Read), Outcome::Resume);
    assert!(bench.is_past(2));
}

#[test]
fn an_operand_across_pages_of_which_neither_faulted_is_not_emulated() {
    let mut bench = Bench::new();
    bench.set(Gpr::Rbx, NOWHERE + 0xffe);
    assert_eq!(bench.touch(&[0x8b, 0x03], TPR, Access::Read), Outcome::Resume);
    assert_eq!((bench.is_past(0), bench.core.counters().mismatches), (true, 1));
}

#[test]
fn configuration_space_is_read_through_memory() {
    let mut bench = Bench::new();
    for (gpa, value) in [(0xe000_0000, 0x0008_1b36), (0xe000_8000, 0xffff_ffff)] {
        bench.set(Gpr::Rbx, gpa);
        assert_eq!(bench.touch(&[0x8b, 0x03], gpa, Access::Read), Outcome::Resume);
        assert_eq!(bench.gpr(Gpr::Rax), value);
    }
    assert_eq!(bench.core.counters().unknown_mmio.count, 0);
}

#[test]
fn memory_that_came_meanwhile_is_tried_again() {
    let mut bench = Bench::new();
    bench.set(Gpr::Rbx, NOWHERE);
    bench.host.backing = Some(Backing::Mapped);
    for access in [Access::Read, Access::Write, Access::Execute] {
        assert_eq!(bench.touch(&[0x8b, 0x03], NOWHERE, access), Outcome::Resume);
        assert!(bench.is_past(0));
    }
    assert_eq!(bench.core.counters().mismatches, 0);
}

#[test]
fn hidden_memory_reads_all_ones_and_is_counted() {
    let mut bench = Bench::new();
    bench.set(Gpr::Rbx, NOWHERE);
    bench.host.backing = Some(Backing::Hidden);
    assert_eq!(bench.touch(&[0x8b, 0x03], NOWHERE, Access::Read), Outcome::Resume);
    assert!(bench.is_past(2));
    assert_eq!(bench.gpr(Gpr::Rax), 0xffff_ffff);
    let counters = bench.core.counters();
    assert_eq!((counters.hidden.count, counters.hidden.last), (1, NOWHERE));
    assert_eq!(counters.unknown_mmio.count, 0);
}

#[test]
fn protected_memory_faults_or_ends_the_guest_by_policy() {
    for (access, error_code) in [(Access::Read, 1), (Access::Write, 3)] {
        let mut bench = Bench::new();
        bench.set(Gpr::Rbx, NOWHERE + 4);
        bench.host.backing = Some(Backing::Protected);
        assert_eq!(bench.touch(&[0x8b, 0x03], NOWHERE + 4, access), Outcome::Resume);
        let fault = Event::PageFault { address: NOWHERE + 4, error_code };
        assert_eq!(bench.vcpu.pending, Some(fault));
        assert_eq!(bench.core.counters().protected.count, 1);
    }
    let unknown = UnknownPolicy { mmio: Policy::Stop, ..UnknownPolicy::default() };
    let mut bench = Bench::of(VmSpec { unknown, ..spec() });
    bench.host.backing = Some(Backing::Protected);
    let outcome = bench.touch(&[0x8b, 0x03], NOWHERE, Access::Read);
    assert_eq!(outcome, Outcome::Crashed(Crash::Protected(Gpa::new(NOWHERE))));
}

#[test]
fn an_access_to_nothing_faults_or_ends_the_guest_by_policy() {
    let with = |mmio| {
        let unknown = UnknownPolicy { mmio, ..UnknownPolicy::default() };
        let mut bench = Bench::of(VmSpec { unknown, ..spec() });
        bench.set(Gpr::Rbx, NOWHERE);
        let outcome = bench.touch(&[0x8b, 0x03], NOWHERE, Access::Read);
        assert_eq!(bench.core.counters().unknown_mmio.count, 1);
        assert_eq!(bench.is_past(2), mmio == Policy::Allow);
        (outcome, bench.vcpu.pending)
    };
    let fault = Event::Exception { vector: 13, error_code: Some(0) };
    assert_eq!(with(Policy::Allow), (Outcome::Resume, None));
    assert_eq!(with(Policy::Fault), (Outcome::Resume, Some(fault)));
    let crash = Crash::UnknownMemory(Gpa::new(NOWHERE));
    assert_eq!(with(Policy::Stop), (Outcome::Crashed(crash), None));
}

#[test]
fn an_operand_elsewhere_than_the_fault_is_not_emulated() {
    let mut bench = Bench::new();
    bench.set(Gpr::Rbx, TPR + 4);
    assert_eq!(bench.touch(&[0x8b, 0x03], TPR, Access::Read), Outcome::Resume);
    assert!(bench.is_past(0));
    assert_eq!(bench.core.counters().mismatches, 1);
}

#[test]
fn code_and_page_tables_outside_memory_stop_the_guest() {
    let fault = |access, during_walk| {
        Bench::new().exit(Exit::SecondStage(SecondStageFault {
            gpa: Gpa::new(RAM),
            gla: None,
            access,
            during_walk,
        }))
    };
    assert_eq!(fault(Access::Execute, false), Outcome::Crashed(Crash::NoCode(Gpa::new(RAM))));
    assert_eq!(fault(Access::Read, true), Outcome::Crashed(Crash::NoPageTable(Gpa::new(RAM))));
}

#[test]
fn segments_and_short_addresses_count_in_32_bit_mode() {
    let mut bench = Bench::new();
    bench.enter_32_bit_mode(0xfee0_0000);
    // mov dword [0x80], 0x30 by DS
    let code = [0xc7, 0x05, 0x80, 0, 0, 0, 0x30, 0, 0, 0];
    assert_eq!(bench.touch(&code, TPR, Access::Write), Outcome::Resume);
    assert!(bench.is_past(10));
    // mov al, [bx + 0x7e] by 16-bit addressing, BX = 2
    bench.set(Gpr::Rbx, 0xffff_0002);
    assert_eq!(bench.touch(&[0x67, 0x8a, 0x47, 0x7e], TPR, Access::Read), Outcome::Resume);
    assert_eq!(bench.gpr(Gpr::Rax), 0x30);
    // mov eax, [moffs] by ES, which starts at 0
    let code = [0x26, 0xa1, 0x80, 0x00, 0xe0, 0xfe];
    assert_eq!(bench.touch(&code, TPR, Access::Read), Outcome::Resume);
    assert!(bench.is_past(6));
    // inc dword [0x80]: 40 to 4f are no prefixes here, FF /0 is meant
    assert_eq!(bench.touch(&[0xff, 0x05, 0x80, 0, 0, 0], TPR, Access::Write), Outcome::Resume);
    assert_eq!(bench.core.lapic.read(0x80, hw::Width::W4, 0), 0x31);
}

#[test]
fn user_code_is_fetched_with_user_rights() {
    let mut bench = Bench::new();
    bench.vcpu.state.ss.access |= 3 << 5;
    bench.set(Gpr::Rbx, NOWHERE);
    assert_eq!(bench.touch(&[0x8b, 0x03], NOWHERE, Access::Read), Outcome::Resume);
    assert!(bench.is_past(2));
    // With the page a supervisor's, the fetch that the CPU made is no longer possible: the guest runs into that itself.
    bench.memory.put_u64(0x2000, 0x83);
    assert_eq!(bench.touch(&[0x8b, 0x03], NOWHERE, Access::Read), Outcome::Resume);
    assert!(bench.is_past(0));
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(1_000) })]

    #[test]
    fn no_instruction_at_any_address_disturbs_the_machine(
        code in prop::collection::vec(any::<u8>(), 15),
        gprs in prop::collection::vec(any::<u64>(), 16),
        gpa: u64,
        page in prop::sample::select(&[0xfee0_0000u64, 0xfec0_0000, 0xd000_0000, 0][..]),
        write: bool,
    ) {
        let mut bench = Bench::new();
        bench.vcpu.state.gprs.copy_from_slice(&gprs);
        let gpa = if page == 0 { gpa } else { page | gpa & 0xfff };
        let _ = bench.touch(&code, gpa, if write { Access::Write } else { Access::Read });
        bench.vcpu.push(Step::new(Exit::ExternalInterrupt, 0));
        bench.prepare();
    }
}
