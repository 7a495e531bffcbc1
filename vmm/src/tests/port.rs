//! Port accesses.

use hw::{Port, Width};
use proptest::prelude::*;
use vcpu::scripted::Step;
use vcpu::{Event, Exit, Gpr, PortIo};

use super::bench::{Bench, RAM, TSC_KHZ, spec};
use crate::counters::ExitKind;
use crate::platform::{pm, uart};
use crate::{Crash, Outcome};

const NOWHERE: Port = Port(0x80);

fn io(port: Port, width: Width, write: bool) -> Exit {
    Exit::PortIo(PortIo { port, width, write, string: false, rep: false })
}

fn string_io(port: Port, width: Width, write: bool, rep: bool) -> Exit {
    Exit::PortIo(PortIo { port, width, write, string: true, rep })
}

#[test]
fn unknown_port_reads_all_ones() {
    let mut bench = Bench::new();
    for (width, expected) in [
        (Width::W1, 0x1234_5678_9abc_deff),
        (Width::W2, 0x1234_5678_9abc_ffff),
        (Width::W4, 0xffff_ffff),
    ] {
        bench.set(Gpr::Rax, 0x1234_5678_9abc_def0);
        assert_eq!(bench.exit(io(NOWHERE, width, false)), Outcome::Resume);
        assert_eq!(bench.gpr(Gpr::Rax), expected, "{width:?}");
    }
    let _ = bench.exit(io(Port(0x81), Width::W1, true));
    let counted = bench.core.counters().unknown_ports;
    assert_eq!((counted.count, counted.last), (4, 0x81));
    assert_eq!(bench.vcpu.advanced, [2; 4]);
}

#[test]
fn the_absent_interval_timer_stands_still() {
    let mut bench = Bench::new();
    for port in 0x40..0x44 {
        bench.set(Gpr::Rax, 0x55);
        assert_eq!(bench.exit(io(Port(port), Width::W1, false)), Outcome::Resume);
        assert_eq!(bench.gpr(Gpr::Rax), 0);
    }
    assert_eq!(bench.core.counters().unknown_ports.count, 4);
}

#[test]
fn a_port_instruction_is_decoded_where_the_cpu_gives_no_length() {
    let mut bench = Bench::new();
    bench.code(&[0xe6, 0x80]); // out 0x80, al
    assert_eq!(bench.step(Step::undecoded(io(NOWHERE, Width::W1, true))), Outcome::Resume);
    assert!(bench.is_past(2));
    // The same bytes do not bear out a read, another port or another width.
    for exit in [
        io(NOWHERE, Width::W1, false),
        io(Port(0x81), Width::W1, true),
        io(NOWHERE, Width::W2, true),
    ] {
        bench.code(&[0xe6, 0x80]);
        assert_eq!(bench.step(Step::undecoded(exit)), Outcome::Resume);
        assert!(bench.is_past(0), "{exit:?}");
    }
}

#[test]
fn the_exit_port_ends_the_guest_with_its_byte() {
    let mut bench = Bench::new();
    bench.set(Gpr::Rax, 0x1_2a);
    assert_eq!(bench.exit(io(Port(0xf4), Width::W1, true)), Outcome::Exit(0x2a));

    let mut bench = Bench::of(crate::VmSpec { exit_port: false, ..spec() });
    assert_eq!(bench.exit(io(Port(0xf4), Width::W1, true)), Outcome::Resume);
    assert_eq!(bench.core.counters().unknown_ports.last, 0xf4);
}

#[test]
fn the_reset_port_resets() {
    let mut bench = Bench::new();
    bench.set(Gpr::Rax, 2);
    assert_eq!(bench.exit(io(Port(0xcf9), Width::W1, true)), Outcome::Resume);
    bench.set(Gpr::Rax, 6);
    assert_eq!(bench.exit(io(Port(0xcf9), Width::W1, true)), Outcome::Reset);
}

/// The guest sends it, byte by byte.
fn send(bench: &mut Bench, text: &[u8]) {
    for &byte in text {
        bench.set(Gpr::Rax, byte.into());
        assert_eq!(bench.exit(io(uart::PORTS.first, Width::W1, true)), Outcome::Resume);
    }
}

#[test]
fn what_the_uart_sends_reaches_the_console_by_lines() {
    let mut bench = Bench::new();
    send(&mut bench, b"hello");
    assert_eq!(bench.host.sent, b"");
    send(&mut bench, b"\n");
    assert_eq!(bench.host.sent, b"hello\n");
    send(&mut bench, &[b'x'; 300]);
    assert!(bench.host.sent.len() > 200, "a line that is too long does not wait for its end");
}

#[test]
fn a_line_without_an_end_is_shown_after_a_millisecond() {
    let mut bench = Bench::with_cpus(2);
    send(bench.on(1), b"login: ");
    bench.prepare();
    assert_eq!(bench.deadline, Some(bench.host.tsc.get() + u64::from(TSC_KHZ)));
    assert_eq!(bench.host.kicked, [], "who sent it sees to it");
    bench.host.tsc.set(bench.deadline.unwrap());
    bench.prepare();
    assert_eq!(bench.host.sent, b"login: ");
    assert_eq!(bench.deadline, None);
}

#[test]
fn a_line_without_an_end_is_shown_when_the_guest_halts_or_leaves() {
    let mut bench = Bench::new();
    send(&mut bench, b"$ ");
    assert_eq!(bench.step(Step::new(Exit::Halt, 1)), Outcome::Wait);
    assert_eq!(bench.host.sent, b"$ ");
    let mut bench = Bench::new();
    send(&mut bench, b"last words");
    bench.core.show_output(&bench.vm, &mut bench.host);
    assert_eq!(bench.host.sent, b"last words");
}

#[test]
fn line_status_and_bytes_within_a_line_are_answered_between_exit_and_entry() {
    let mut bench = Bench::new();
    let status = Port(uart::PORTS.first.0 + 5);
    send(&mut bench, b"h");
    for byte in *b"ello" {
        let read = Step::new(io(status, Width::W1, false), 1).with(Gpr::Rax, 0x1234);
        assert!(bench.quickly(read));
        assert_eq!(bench.gpr(Gpr::Rax), 0x1260);
        let write = Step::new(io(uart::PORTS.first, Width::W1, true), 1);
        assert!(bench.quickly(write.with(Gpr::Rax, byte.into())));
    }
    let end = Step::new(io(uart::PORTS.first, Width::W1, true), 1).with(Gpr::Rax, 10);
    assert!(!bench.quickly(end));
    assert_eq!(bench.host.sent, b"hello\n");
    assert_eq!(bench.core.counters().exits(ExitKind::PortRead), 4);
    assert_eq!(bench.core.counters().exits(ExitKind::PortWrite), 6);
}

proptest! {
    /// Registers of the UART, typed bytes, passing time: both ways lead to the same.
    #[test]
    fn quick_answers_are_the_same_answers(
        accesses in proptest::collection::vec(
            (0_u16..8, any::<bool>(), prop_oneof![any::<u8>(), 0_u8..8, Just(10)], 0_u64..20_000, prop::option::weighted(0.1, any::<u8>())),
            0..200,
        ),
    ) {
        let (mut quick, mut slow) = (Bench::new(), Bench::new());
        for (offset, write, value, ticks, typed) in accesses {
            // Mostly what a driver does most.
            let offset = if value & 0xc0 == 0x40 { if write { 0 } else { 5 } } else { offset };
            let exit = io(Port(uart::PORTS.first.0 + offset), Width::W1, write);
            let step = Step::new(exit, 1).with(Gpr::Rax, 0x5500 | u64::from(value));
            for bench in [&mut quick, &mut slow] {
                bench.host.tsc.set(bench.host.tsc.get() + ticks);
                if let Some(byte) = typed {
                    bench.type_in(&[byte]);
                }
            }
            quick.quickly(step.clone());
            prop_assert_eq!(slow.step(step), Outcome::Resume);
            prop_assert_eq!(quick.gpr(Gpr::Rax), slow.gpr(Gpr::Rax));
            let lines = [&quick, &slow].map(|bench| bench.vm.devices.lock().uart.interrupt());
            prop_assert_eq!(lines[0], lines[1]);
        }
        for bench in [&mut quick, &mut slow] {
            bench.core.show_output(&bench.vm, &mut bench.host);
        }
        prop_assert_eq!(&quick.host.sent, &slow.host.sent);
        let counted = |bench: &Bench| [ExitKind::PortRead, ExitKind::PortWrite].map(|kind| bench.core.counters().exits(kind));
        prop_assert_eq!(counted(&quick), counted(&slow));
    }
}

#[test]
fn outs_sends_a_string() {
    let mut bench = Bench::new();
    bench.memory.put(0x5ffc, b"across pages");
    bench.code(&[0xf3, 0x6e]); // rep outsb
    bench.set(Gpr::Rsi, 0x5ffc);
    bench.set(Gpr::Rcx, 12);
    let exit = string_io(uart::PORTS.first, Width::W1, true, true);
    assert_eq!(bench.step(Step::new(exit, 2)), Outcome::Resume);
    bench.core.show_output(&bench.vm, &mut bench.host);
    assert_eq!(bench.host.sent, b"across pages");
    assert_eq!((bench.gpr(Gpr::Rsi), bench.gpr(Gpr::Rcx)), (0x6008, 0));
    assert!(bench.is_past(2));
}

#[test]
fn ins_fills_memory_downwards_with_the_direction_flag() {
    let mut bench = Bench::new();
    bench.vcpu.state.rflags |= 1 << 10;
    bench.code(&[0x66, 0x6d]); // insw
    bench.set(Gpr::Rdi, 0x6000);
    assert_eq!(
        bench.step(Step::undecoded(string_io(NOWHERE, Width::W2, false, false))),
        Outcome::Resume
    );
    assert_eq!(bench.memory.get::<4>(0x5fff), [0, 0xff, 0xff, 0]);
    assert_eq!(bench.gpr(Gpr::Rdi), 0x5ffe);
    assert!(bench.is_past(2));
}

#[test]
fn a_long_repetition_comes_back_to_the_guest_after_a_page() {
    let mut bench = Bench::new();
    bench.code(&[0xf3, 0x6d]); // rep insd
    bench.set(Gpr::Rdi, 0x10_0000);
    bench.set(Gpr::Rcx, 1500);
    let exit = string_io(NOWHERE, Width::W4, false, true);
    assert_eq!(bench.step(Step::new(exit, 2)), Outcome::Resume);
    assert!(bench.is_past(0));
    assert_eq!((bench.gpr(Gpr::Rcx), bench.gpr(Gpr::Rdi)), (1500 - 1024, 0x10_1000));
    assert_eq!(bench.step(Step::new(exit, 2)), Outcome::Resume);
    assert!(bench.is_past(2));
    assert_eq!(bench.gpr(Gpr::Rcx), 0);
}

#[test]
fn no_repetition_touches_nothing() {
    let mut bench = Bench::new();
    bench.code(&[0xf3, 0x6c]);
    bench.set(Gpr::Rdi, 0x10_0000);
    assert_eq!(
        bench.step(Step::new(string_io(NOWHERE, Width::W1, false, true), 2)),
        Outcome::Resume
    );
    assert_eq!(bench.core.counters().unknown_ports.count, 0);
    assert!(bench.is_past(2));
}

#[test]
fn ins_to_an_absent_page_faults_before_the_port_is_read() {
    let mut bench = Bench::new();
    bench.code(&[0x6c]);
    bench.set(Gpr::Rdi, 0x1_0000_0000);
    assert_eq!(
        bench.step(Step::new(string_io(NOWHERE, Width::W1, false, false), 1)),
        Outcome::Resume
    );
    assert_eq!(
        bench.vcpu.pending,
        Some(Event::PageFault { address: 0x1_0000_0000, error_code: 2 })
    );
    assert_eq!(bench.core.counters().unknown_ports.count, 0);
    assert!(bench.is_past(0));
}

#[test]
fn string_data_outside_memory_stops_the_guest() {
    let mut bench = Bench::new();
    bench.code(&[0x6e]);
    bench.set(Gpr::Rsi, RAM);
    assert_eq!(
        bench.step(Step::new(string_io(NOWHERE, Width::W1, true, false), 1)),
        Outcome::Crashed(Crash::NoStringData(hw::Gpa::new(RAM)))
    );
}

#[test]
fn the_sleep_register_powers_off() {
    let mut bench = Bench::new();
    let port = Port(pm::PORTS.first.0 + pm::SLEEP_CONTROL as u16);
    bench.set(Gpr::Rax, u64::from(pm::SLEEP_TYPE_S5) << 2 | 1 << 5);
    assert_eq!(bench.exit(io(port, Width::W1, true)), Outcome::PowerOff);
}

#[test]
fn an_unknown_port_faults_or_ends_the_guest_by_policy() {
    for access in [io(NOWHERE, Width::W1, false), io(NOWHERE, Width::W2, true)] {
        let with = |ports| {
            let unknown = crate::UnknownPolicy { ports, ..crate::UnknownPolicy::default() };
            let mut bench = Bench::of(crate::VmSpec { unknown, ..spec() });
            let outcome = bench.exit(access);
            assert_eq!(bench.core.counters().unknown_ports.count, 1);
            (outcome, bench.vcpu.pending.is_some(), bench.vcpu.advanced.len())
        };
        assert_eq!(with(config::Policy::Allow), (Outcome::Resume, false, 1));
        assert_eq!(with(config::Policy::Fault), (Outcome::Resume, true, 0));
        let crash = Outcome::Crashed(Crash::UnknownPort(NOWHERE));
        assert_eq!(with(config::Policy::Stop), (crash, false, 0));
    }
}
