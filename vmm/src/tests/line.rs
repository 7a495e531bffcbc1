//! MOVDIR64B: by #UD where it is emulated, and by a second-stage fault where the CPU has it.

use config::Policy;
use proptest::prelude::*;
use vcpu::scripted::Step;
use vcpu::{Access, Event, Exit, Gpr, Vcpu};
use x86_spec::segment::Segment;

use super::bench::{Bench, CODE, RAM, spec};
use crate::pci::ECAM_BASE;
use crate::pci::tests::{Log, Scripted, Told, nvme, plan};
use crate::{Backing, Crash, Outcome, UnknownPolicy, VmSpec};

/// movdir64b rdi, [rsi]
const MOVE: [u8; 5] = [0x66, 0x0f, 0x38, 0xf8, 0x3e];
const FROM: u64 = 0x2_0003;
const TO: u64 = 0x2_1040;
const NOWHERE: u64 = 0xd000_0000;
const COMMAND: u64 = ECAM_BASE.raw() + 0x10_0004;
const UD: Event = Event::Exception { vector: 6, error_code: None };
const SS: Event = Event::Exception { vector: 12, error_code: Some(0) };
const GP: Event = Event::Exception { vector: 13, error_code: Some(0) };

fn bytes() -> [u8; 64] {
    core::array::from_fn(|index| index as u8 + 1)
}

/// A bench with a line at [`FROM`], RSI there, and RDI at `to`.
fn bench(to: u64) -> Bench {
    filled(Bench::new(), to)
}

fn filled(mut bench: Bench, to: u64) -> Bench {
    bench.memory.put(FROM, &bytes());
    bench.set(Gpr::Rsi, FROM);
    bench.set(Gpr::Rdi, to);
    bench
}

/// With a function whose first BAR decodes; where that is.
fn with_function() -> (Bench, Log, u64) {
    let shapes = [nvme()];
    let (endpoint, log) = Scripted::boxed(nvme());
    let spec = VmSpec { pci: plan(&shapes), ..spec() };
    let mut bench = Bench::with_functions(spec, std::vec![endpoint]);
    bench.set(Gpr::Rbx, COMMAND);
    bench.set(Gpr::Rax, 2);
    let _ = bench.touch(&[0x89, 0x03], COMMAND, Access::Write);
    bench.set(Gpr::Rbx, COMMAND + 0xc);
    let _ = bench.touch(&[0x8b, 0x03], COMMAND + 0xc, Access::Read);
    let base = bench.gpr(Gpr::Rax) & !0xf;
    let _ = log.take();
    (filled(bench, base), log, base)
}

/// The code raises #UD.
fn undefined(bench: &mut Bench, code: &[u8]) -> Outcome {
    bench.code(code);
    bench.step(Step::undecoded(Exit::Undefined))
}

/// What the code raises in place of its effect.
fn raised(bench: &mut Bench, code: &[u8]) -> Event {
    assert_eq!(undefined(bench, code), Outcome::Resume, "{code:02x?}");
    assert!(bench.is_past(0), "{code:02x?}");
    bench.vcpu.pending.take().expect("an event")
}

#[test]
fn ram_gets_64_bytes_and_no_more() {
    let mut bench = bench(TO);
    bench.memory.put(TO - 8, &[0xee; 80]);
    let flags = bench.vcpu.rflags();
    assert_eq!(undefined(&mut bench, &MOVE), Outcome::Resume);
    assert!(bench.is_past(5) && bench.vcpu.pending.is_none());
    assert_eq!(bench.memory.get(TO), bytes());
    assert_eq!((bench.memory.get(TO - 8), bench.memory.get(TO + 64)), ([0xee; 8], [0xee; 8]));
    assert_eq!(bench.vcpu.rflags(), flags);
    assert_eq!(bench.core.counters().exits(crate::counters::ExitKind::Undefined), 1);
}

#[test]
fn what_is_not_the_instruction_gets_its_exception() {
    for code in [
        &[0x0f, 0x0b][..],                     // ud2
        &[0xf0, 0x66, 0x0f, 0x38, 0xf8, 0x3e], // with LOCK
        &[0x0f, 0x38, 0xf8, 0x3e],             // without 66
        &[0x66, 0xf2, 0x0f, 0x38, 0xf8, 0x3e], // enqcmd
        &[0xf3, 0x0f, 0x38, 0xf8, 0x3e],       // enqcmds
        &[0x66, 0x0f, 0x38, 0xf8, 0xfe],       // a register as its source
        &[0x0f, 0x38, 0xf9, 0x3e],             // movdiri
        &[0x0f, 0x01, 0xd8],                   // vmrun
        &[0x8b, 0x06],                         // what another CPU has changed by now
    ] {
        let mut bench = bench(TO);
        assert_eq!(raised(&mut bench, code), UD, "{code:02x?}");
        assert_eq!(bench.memory.get(TO), [0; 64]);
    }
}

#[test]
fn faults_are_the_manuals() {
    let not_canonical = 1 << 63;
    let mut bench = bench(TO + 8);
    assert_eq!(raised(&mut bench, &MOVE), GP, "not aligned");
    bench.set(Gpr::Rdi, not_canonical);
    assert_eq!(raised(&mut bench, &MOVE), GP);
    bench.set(Gpr::Rdi, TO);
    bench.set(Gpr::Rsi, not_canonical);
    assert_eq!(raised(&mut bench, &MOVE), GP);
    bench.set(Gpr::Rbp, not_canonical);
    // movdir64b rdi, [rbp + 0]
    assert_eq!(raised(&mut bench, &[0x66, 0x0f, 0x38, 0xf8, 0x7d, 0]), SS);
    // Nothing is mapped from 4 GiB on, and a source may end there.
    let end = 1 << 32;
    bench.set(Gpr::Rsi, end + 8);
    let read = |address| Event::PageFault { address, error_code: 0 };
    assert_eq!(raised(&mut bench, &MOVE), read(end + 8));
    bench.set(Gpr::Rsi, end - 63);
    assert_eq!(raised(&mut bench, &MOVE), read(end));
    bench.set(Gpr::Rsi, FROM);
    bench.set(Gpr::Rdi, end);
    let write = |error_code| Event::PageFault { address: bench.gpr(Gpr::Rdi), error_code };
    let expected = write(2);
    assert_eq!(raised(&mut bench, &MOVE), expected);
    // A page that is read-only, for a user.
    bench.memory.put_u64(0x2000, 0x85);
    bench.vcpu.state.ss = Segment::flat(16, Segment::DATA | 3 << 5);
    bench.set(Gpr::Rdi, TO);
    let denied = Event::PageFault { address: TO, error_code: 7 };
    assert_eq!(raised(&mut bench, &MOVE), denied);
    assert_eq!(bench.memory.get(TO), [0; 64]);
}

#[test]
fn segments_hold_outside_of_64_bit_mode() {
    const BASE: u64 = 0x1_8000;
    // movdir64b edi, [esi]
    let mut bench = bench(TO);
    bench.enter_32_bit_mode(BASE);
    bench.set(Gpr::Rsi, 0xffff_ffff_0000_0000 | (FROM - BASE));
    bench.set(Gpr::Rdi, 0xffff_ffff_0000_0000 | TO);
    assert_eq!(undefined(&mut bench, &MOVE), Outcome::Resume);
    assert_eq!(bench.memory.get(TO), bytes(), "upper halves mean nothing, ES has no base");
    let limit = (FROM - BASE + 63) as u32;
    bench.vcpu.state.ds.limit = limit;
    assert_eq!(undefined(&mut bench, &MOVE), Outcome::Resume);
    bench.vcpu.state.ds.limit = limit - 1;
    assert_eq!(raised(&mut bench, &MOVE), GP);
    // By way of SS, which is not usable.
    bench.vcpu.state.ss = Segment { access: Segment::UNUSABLE, ..Segment::default() };
    assert_eq!(raised(&mut bench, &[0x36, 0x66, 0x0f, 0x38, 0xf8, 0x3e]), SS);
    bench.vcpu.state.ds.limit = u32::MAX;
    // Data that is read-only.
    bench.vcpu.state.es.access &= !2;
    assert_eq!(raised(&mut bench, &MOVE), GP);
    // Expand-down: from above the limit on.
    bench.vcpu.state.es.access |= 6;
    bench.vcpu.state.es.limit = TO as u32 - 1;
    assert_eq!(undefined(&mut bench, &MOVE), Outcome::Resume);
    bench.vcpu.state.es.limit = TO as u32;
    assert_eq!(raised(&mut bench, &MOVE), GP);
}

#[test]
fn real_mode_has_16_bit_registers() {
    let mut bench = bench(0);
    bench.vcpu.state.cr0 = 0;
    (bench.vcpu.state.cr4, bench.vcpu.state.efer) = (0, 0);
    let real = |selector: u16| Segment {
        selector,
        base: u64::from(selector) << 4,
        limit: 0xffff,
        access: 0x93,
    };
    bench.vcpu.state.cs = real(0x1000);
    bench.vcpu.state.ds = real(0x2000);
    bench.vcpu.state.es = real(0x2100);
    bench.memory.put(CODE, &[0x66, 0x0f, 0x38, 0xf8, 0x3c]);
    bench.vcpu.state.rip = 0;
    bench.set(Gpr::Rsi, 0xabcd_0003);
    bench.set(Gpr::Rdi, 0xabcd_0040);
    // movdir64b di, [si]
    assert_eq!(bench.step(Step::undecoded(Exit::Undefined)), Outcome::Resume);
    assert_eq!(bench.memory.get(TO), bytes());
    assert_eq!(bench.vcpu.rip(), 5);
    // Past 64 KiB.
    bench.vcpu.state.rip = 0;
    bench.set(Gpr::Rsi, 0xffc1);
    assert_eq!(bench.step(Step::undecoded(Exit::Undefined)), Outcome::Resume);
    assert_eq!(bench.vcpu.pending, Some(GP));
}

#[test]
fn a_function_gets_the_line_as_one() {
    let (mut bench, log, base) = with_function();
    bench.set(Gpr::Rdi, base + 0x1040);
    assert_eq!(undefined(&mut bench, &MOVE), Outcome::Resume);
    assert_eq!(log.take(), [Told::BarWriteLine(0, 0x1040, bytes())]);
    // Where the CPU has the instruction, the page's trap brings it here.
    assert_eq!(bench.touch(&MOVE, base + 0x1040, Access::Write), Outcome::Resume);
    assert!(bench.is_past(5));
    assert_eq!(log.take(), [Told::BarWriteLine(0, 0x1040, bytes())]);
    assert_eq!(bench.core.counters().unknown_mmio.count, 0);
}

#[test]
fn msix_gets_a_line_by_parts() {
    let (mut bench, log, base) = with_function();
    // movdir64b rdi, [rsi] over four entries, then read back.
    bench.set(Gpr::Rdi, base + 0x2000);
    assert_eq!(undefined(&mut bench, &MOVE), Outcome::Resume);
    assert!(!log.take().iter().any(|told| matches!(told, Told::BarWriteLine(..))));
    bench.set(Gpr::Rbx, base + 0x2034);
    assert_eq!(bench.touch(&[0x8b, 0x03], base + 0x2034, Access::Read), Outcome::Resume);
    assert_eq!(bench.gpr(Gpr::Rax), u64::from(u32::from_le_bytes([53, 54, 55, 56])));
}

#[test]
fn a_line_can_come_from_a_device() {
    let (mut bench, _, base) = with_function();
    bench.set(Gpr::Rsi, base + 0x1000);
    bench.set(Gpr::Rdi, TO);
    assert_eq!(bench.touch(&MOVE, base + 0x1000, Access::Read), Outcome::Resume);
    let parts = (0..8).map(|part| bench.memory.get_u64(TO + 8 * part));
    assert!(parts.eq((0..8).map(|part| 0x1000 + 8 * part)));
    // Half of it from RAM's end, half from nowhere.
    bench.memory.put(RAM - 16, &[0x11; 16]);
    bench.set(Gpr::Rsi, RAM - 16);
    assert_eq!(undefined(&mut bench, &MOVE), Outcome::Resume);
    assert_eq!(
        bench.memory.get::<64>(TO),
        core::array::from_fn(|at| if at < 16 { 0x11 } else { 0xff })
    );
}

#[test]
fn nothing_there_is_answered_by_policy() {
    for (mmio, outcome, event) in [
        (Policy::Allow, Outcome::Resume, None),
        (Policy::Fault, Outcome::Resume, Some(GP)),
        (Policy::Stop, Outcome::Crashed(Crash::UnknownMemory(hw::Gpa::new(NOWHERE))), None),
    ] {
        let unknown = UnknownPolicy { mmio, ..UnknownPolicy::default() };
        let mut bench = filled(Bench::of(VmSpec { unknown, ..spec() }), NOWHERE);
        assert_eq!(undefined(&mut bench, &MOVE), outcome);
        assert_eq!((bench.vcpu.pending, bench.is_past(5)), (event, mmio == Policy::Allow));
        assert_eq!(bench.core.counters().unknown_mmio.count, 1, "once, not by parts");
    }
    // Memory that comes meanwhile.
    let mut bench = bench(NOWHERE);
    bench.host.backing = Some(Backing::Mapped);
    assert_eq!(undefined(&mut bench, &MOVE), Outcome::Resume);
    assert!(bench.is_past(0) && bench.vcpu.pending.is_none());
}

#[test]
fn protected_memory_faults_where_the_access_was() {
    let unknown = UnknownPolicy { mmio: Policy::Fault, ..UnknownPolicy::default() };
    for (access, address, error_code) in
        [(Access::Write, NOWHERE, 3), (Access::Read, NOWHERE + 0x1000, 1)]
    {
        let mut bench = filled(Bench::of(VmSpec { unknown, ..spec() }), NOWHERE);
        bench.set(Gpr::Rsi, NOWHERE + 0x1000);
        bench.host.backing = Some(Backing::Protected);
        bench.code(&MOVE);
        let gpa = hw::Gpa::new(address);
        let fault = vcpu::SecondStageFault { gpa, gla: None, access, during_walk: false };
        let _ = bench.step(Step::undecoded(Exit::SecondStage(fault)));
        assert_eq!(bench.vcpu.pending, Some(Event::PageFault { address, error_code }));
    }
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn no_addresses_do_harm(from in any::<u64>(), to in any::<u64>(), small in any::<bool>()) {
        let mask = if small { RAM * 2 - 1 } else { u64::MAX };
        let mut bench = Bench::new();
        bench.memory.put(FROM, &bytes());
        bench.set(Gpr::Rsi, from & mask);
        bench.set(Gpr::Rdi, to & mask);
        prop_assert_eq!(undefined(&mut bench, &MOVE), Outcome::Resume);
        prop_assert_eq!(bench.is_past(5), bench.vcpu.pending.is_none());
    }
}
