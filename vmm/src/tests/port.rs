//! Port accesses.

use hw::{Port, Width};
use vcpu::scripted::Step;
use vcpu::{Event, Exit, Gpr, PortIo};

use super::bench::{Bench, RAM, spec};
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

#[test]
fn what_the_uart_sends_reaches_the_console() {
    let mut bench = Bench::new();
    for byte in *b"hello" {
        bench.set(Gpr::Rax, byte.into());
        assert_eq!(bench.exit(io(uart::PORTS.first, Width::W1, true)), Outcome::Resume);
    }
    assert_eq!(bench.host.sent, b"hello");
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
