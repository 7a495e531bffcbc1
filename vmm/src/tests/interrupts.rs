//! Interrupts: timer, window, halting, level-triggered lines, and the switches that withhold them.

use hw::{Port, Width};
use vcpu::scripted::Step;
use vcpu::{Access, Event, Exit, Gpr, PortIo, Vcpu};
use x86_spec::msr;

use super::bench::{Bench, spec};
use crate::VmSpec;
use crate::platform::{gsi, uart};
use crate::{Crash, Outcome};

const TIMER_VECTOR: u64 = 0xec;
const UART_VECTOR: u64 = 0x31;

fn mmio_write(bench: &mut Bench, gpa: u64, value: u64) {
    bench.set(Gpr::Rbx, gpa);
    bench.set(Gpr::Rax, value);
    assert_eq!(bench.touch(&[0x89, 0x03], gpa, Access::Write), Outcome::Resume);
}

fn out(bench: &mut Bench, register: u16, value: u64) {
    bench.set(Gpr::Rax, value);
    let port = Port(uart::PORTS.first.0 + register);
    let access = PortIo { port, width: Width::W1, write: true, string: false, rep: false };
    assert_eq!(bench.exit(Exit::PortIo(access)), Outcome::Resume);
}

fn input(bench: &mut Bench, register: u16) -> u8 {
    let port = Port(uart::PORTS.first.0 + register);
    let access = PortIo { port, width: Width::W1, write: false, string: false, rep: false };
    assert_eq!(bench.exit(Exit::PortIo(access)), Outcome::Resume);
    bench.gpr(Gpr::Rax) as u8
}

fn enable_apic(bench: &mut Bench) {
    mmio_write(bench, 0xfee0_00f0, 0x1ff);
}

/// The timer in TSC-deadline mode, armed for `guest_tsc`.
fn arm_timer(bench: &mut Bench, guest_tsc: u64) {
    enable_apic(bench);
    mmio_write(bench, 0xfee0_0320, 2 << 17 | TIMER_VECTOR);
    let exit = Exit::MsrWrite { msr: msr::TSC_DEADLINE, value: guest_tsc };
    assert_eq!(bench.exit(exit), Outcome::Resume);
}

/// The UART's pin, level-triggered, to [`UART_VECTOR`]; its receiver's interrupt on.
fn wire_uart(bench: &mut Bench) {
    enable_apic(bench);
    let entry = 0x10 + 2 * u64::from(gsi::UART);
    for (index, value) in [(entry + 1, 0), (entry, 1 << 15 | UART_VECTOR)] {
        mmio_write(bench, 0xfec0_0000, index);
        mmio_write(bench, 0xfec0_0010, value);
    }
    out(bench, 2, 1); // FIFOs on, threshold 1
    out(bench, 4, 8); // OUT2 lets interrupts out
    out(bench, 1, 1); // received data available
}

fn end_of_interrupt(bench: &mut Bench) {
    mmio_write(bench, 0xfee0_00b0, 0);
}

/// Enters the guest until it has taken what is due; it does nothing itself.
fn idle(bench: &mut Bench) {
    assert_eq!(bench.exit(Exit::ExternalInterrupt), Outcome::Resume);
}

fn delivered(bench: &Bench, vector: u64) -> usize {
    bench.vcpu.delivered.iter().filter(|event| **event == Event::Interrupt(vector as u8)).count()
}

#[test]
fn the_timer_interrupts_at_its_deadline() {
    let mut bench = Bench::new();
    arm_timer(&mut bench, 2_000_000);
    bench.prepare();
    assert_eq!(bench.deadline, Some(2_001_000), "in the host's time");
    bench.host.tsc.set(2_000_999);
    idle(&mut bench);
    assert_eq!(delivered(&bench, TIMER_VECTOR), 0);
    bench.host.tsc.set(2_001_000);
    idle(&mut bench);
    assert_eq!(delivered(&bench, TIMER_VECTOR), 1);
    bench.prepare();
    assert_eq!(bench.deadline, None, "it fires once");
}

#[test]
fn a_deadline_at_the_end_of_time_does_not_wrap() {
    let mut bench = Bench::new();
    arm_timer(&mut bench, u64::MAX);
    bench.prepare();
    assert!(bench.deadline.is_none_or(|at| at > 1 << 62), "{:?}", bench.deadline);
}

#[test]
fn an_interrupt_waits_for_its_window() {
    let mut bench = Bench::new();
    arm_timer(&mut bench, 2_000_000);
    bench.vcpu.state.rflags &= !0x200;
    bench.host.tsc.set(3_000_000);
    idle(&mut bench);
    idle(&mut bench);
    assert_eq!(delivered(&bench, TIMER_VECTOR), 0);
    assert_eq!(bench.vcpu.window_wanted, Some(0xe));
    bench.vcpu.state.rflags |= 0x200;
    idle(&mut bench);
    assert_eq!(delivered(&bench, TIMER_VECTOR), 1);
    assert_eq!(bench.vcpu.window_wanted, None);
}

#[test]
fn a_fault_goes_before_an_interrupt() {
    let mut bench = Bench::new();
    arm_timer(&mut bench, 2_000_000);
    let _ = bench.exit(Exit::InvalidOpcode);
    bench.host.tsc.set(3_000_000);
    idle(&mut bench);
    assert!(matches!(
        bench.vcpu.delivered[..],
        [Event::Exception { .. }, Event::Interrupt(vector)] if u64::from(vector) == TIMER_VECTOR
    ));
}

#[test]
fn halt_with_pending_interrupt_resumes() {
    let mut bench = Bench::new();
    arm_timer(&mut bench, 2_000_000);
    bench.prepare();
    bench.vcpu.interrupt_shadow = true;
    bench.host.tsc.set(2_500_000);
    // sti; hlt with the timer due meanwhile
    assert_eq!(bench.exit(Exit::Halt), Outcome::Resume);
    assert!(!bench.is_halted);
    idle(&mut bench);
    assert_eq!(delivered(&bench, TIMER_VECTOR), 1);
}

#[test]
fn a_halted_guest_wakes_with_its_interrupt() {
    let mut bench = Bench::new();
    arm_timer(&mut bench, 2_000_000);
    assert_eq!(bench.exit(Exit::Halt), Outcome::Wait);
    bench.prepare();
    assert!(bench.is_halted);
    assert_eq!(bench.deadline, Some(2_001_000));
    bench.host.tsc.set(2_001_000);
    bench.prepare();
    assert!(!bench.is_halted);
    assert_eq!(bench.vcpu.pending, Some(Event::Interrupt(TIMER_VECTOR as u8)));
}

#[test]
fn a_halt_with_interrupts_off_is_for_good() {
    let mut bench = Bench::new();
    bench.vcpu.state.rflags &= !0x200;
    assert_eq!(bench.exit(Exit::Halt), Outcome::Crashed(Crash::HaltedForGood));
}

#[test]
fn typed_bytes_interrupt_and_are_read() {
    let mut bench = Bench::new();
    wire_uart(&mut bench);
    bench.type_in(b"ok");
    idle(&mut bench);
    assert_eq!(delivered(&bench, UART_VECTOR), 1);
    assert_eq!((input(&mut bench, 0), input(&mut bench, 0)), (b'o', b'k'));
}

#[test]
fn a_level_interrupt_is_delivered_again_until_the_line_falls() {
    let mut bench = Bench::new();
    wire_uart(&mut bench);
    bench.type_in(b"x");
    idle(&mut bench);
    assert_eq!(delivered(&bench, UART_VECTOR), 1);
    idle(&mut bench);
    assert_eq!(delivered(&bench, UART_VECTOR), 1, "not while it is in service");
    end_of_interrupt(&mut bench);
    idle(&mut bench);
    assert_eq!(delivered(&bench, UART_VECTOR), 2, "the line is still up");
    assert_eq!(input(&mut bench, 0), b'x');
    end_of_interrupt(&mut bench);
    idle(&mut bench);
    assert_eq!(delivered(&bench, UART_VECTOR), 2, "the line has fallen");
}

#[test]
fn a_withheld_timer_never_interrupts() {
    let mut bench = Bench::of(VmSpec { withhold_timer: true, ..spec() });
    arm_timer(&mut bench, 2_000_000);
    bench.host.tsc.set(9_000_000);
    idle(&mut bench);
    arm_timer(&mut bench, 1);
    idle(&mut bench);
    assert_eq!(bench.vcpu.delivered, []);
    assert_eq!(bench.deadline, None);
}

#[test]
fn a_withheld_uart_never_interrupts_but_works() {
    let mut bench = Bench::of(VmSpec { withhold_serial: true, ..spec() });
    wire_uart(&mut bench);
    bench.type_in(b"x");
    idle(&mut bench);
    assert_eq!(bench.vcpu.delivered, []);
    assert_eq!(input(&mut bench, 0), b'x');
}

#[test]
fn a_task_priority_holds_interrupts_back() {
    let mut bench = Bench::new();
    arm_timer(&mut bench, 2_000_000);
    assert_eq!(bench.exit(Exit::Cr8Write { value: 15 }), Outcome::Resume);
    bench.host.tsc.set(3_000_000);
    idle(&mut bench);
    assert_eq!(delivered(&bench, TIMER_VECTOR), 0);
    assert_eq!(bench.exit(Exit::Cr8Write { value: 0 }), Outcome::Resume);
    idle(&mut bench);
    assert_eq!(delivered(&bench, TIMER_VECTOR), 1);
}

#[test]
fn a_task_priority_that_the_cpu_keeps_is_taken_over() {
    let mut bench = Bench::new();
    arm_timer(&mut bench, 2_000_000);
    bench.vcpu.kept_task_priority = Some(15);
    bench.host.tsc.set(3_000_000);
    assert_eq!(bench.exit(Exit::Cpuid), Outcome::Resume);
    bench.vcpu.delivered.clear();
    assert_eq!(bench.exit(Exit::Cr8Read { register: Gpr::Rax }), Outcome::Resume);
    assert_eq!((bench.gpr(Gpr::Rax), bench.vcpu.task_priority), (15, 15));
    // What the guest writes to the register's page is the newer value, and goes to the CPU.
    mmio_write(&mut bench, 0xfee0_0080, 0x20);
    bench.prepare();
    assert_eq!(bench.vcpu.task_priority, 2);
}

#[test]
fn a_task_priority_lowered_without_an_exit_lets_the_interrupt_in() {
    let mut bench = Bench::new();
    arm_timer(&mut bench, 2_000_000);
    bench.vcpu.kept_task_priority = Some(0xe);
    idle(&mut bench);
    bench.host.tsc.set(3_000_000);
    idle(&mut bench);
    assert_eq!(delivered(&bench, TIMER_VECTOR), 0);
    assert_eq!(bench.vcpu.window_wanted, Some(0xe));
    bench.vcpu.kept_task_priority = Some(0xd);
    idle(&mut bench);
    assert_eq!(delivered(&bench, TIMER_VECTOR), 1, "the window opens by itself");
    // In service, and of the same class: lowering the task priority would not help.
    arm_timer(&mut bench, 1);
    bench.prepare();
    assert_eq!(bench.vcpu.window_wanted, None);
}

#[test]
fn a_single_step_over_halt_does_not_wait() {
    let mut bench = Bench::new();
    bench.vcpu.state.rflags |= 0x100;
    assert_eq!(bench.exit(Exit::Halt), Outcome::Resume);
    assert!(!bench.is_halted);
}

#[test]
fn a_halt_does_not_wait_while_the_virtual_cpu_has_an_event_to_deliver() {
    let mut bench = Bench::new();
    bench.code(&[0xf4]);
    bench.vcpu.pending = Some(Event::Interrupt(0x41));
    let outcome = bench.handle(Exit::Halt);
    assert_eq!(outcome, Outcome::Resume);
    assert!(!bench.is_halted);
}

#[test]
fn an_entry_with_nothing_due_does_not_look_at_the_devices() {
    let mut bench = Bench::new();
    idle(&mut bench);
    bench.prepare();
    bench.host.typed.push_back(b'x');
    assert_eq!(bench.exit(Exit::Cpuid), Outcome::Resume);
    bench.prepare();
    assert_eq!(bench.host.typed.len(), 1, "a CPUID exit asks no device");
    bench.vm.console_ready();
    bench.prepare();
    assert_eq!(bench.host.typed.len(), 0);
    let _ = bench.vcpu.push(Step::new(Exit::Halt, 1)).can_take_interrupt();
}
