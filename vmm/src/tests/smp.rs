//! Several virtual CPUs of one machine: start-up, interrupts between them, and devices that interrupt any of them.

use hw::{Msr, Port, Width};
use proptest::prelude::*;
use vcpu::{Access, Event, Exit, Gpr, PortIo, Vcpu};
use x86_spec::msr;

use super::bench::Bench;
use crate::platform::gsi;
use crate::{Crash, Outcome};

const VECTOR: u8 = 0x55;
const ICR: Msr = Msr(0x830);
const EOI: Msr = Msr(0x80b);
const ASSERT: u64 = 1 << 14;
const LEVEL: u64 = 1 << 15;
const LOGICAL: u64 = 1 << 11;
const LOWEST: u64 = 1 << 8;
const NMI: u64 = 4 << 8;
const INIT: u64 = 5 << 8;
const STARTUP: u64 = 6 << 8;
const ALL: u64 = 2 << 18;
const OTHERS: u64 = 3 << 18;

impl Bench {
    fn wrmsr(&mut self, msr: Msr, value: u64) {
        assert_eq!(self.exit(Exit::MsrWrite { msr, value }), Outcome::Resume);
        assert_eq!(self.vcpu.pending, None, "{msr:?} refused {value:#x}");
    }

    fn store(&mut self, gpa: u64, value: u64) {
        self.set(Gpr::Rbx, gpa);
        self.set(Gpr::Rax, value);
        assert_eq!(self.touch(&[0x89, 0x03], gpa, Access::Write), Outcome::Resume);
    }

    /// Sends by the xAPIC's command register.
    fn send(&mut self, destination: u64, command: u64) {
        self.store(0xfee0_0310, destination << 24);
        self.store(0xfee0_0300, command);
    }

    fn enable_x2apic(&mut self) {
        let base = 0xfee0_0000 | 3 << 10 | u64::from(self.core.index() == 0) << 8;
        self.wrmsr(msr::APIC_BASE, base);
        self.wrmsr(Msr(0x80f), 0x1ff);
    }

    /// A machine whose virtual CPUs all run, with interrupts on and enabled local APICs.
    fn running(count: u32) -> Self {
        let mut bench = Self::with_cpus(count);
        bench.send(0, INIT | ASSERT | OTHERS);
        bench.send(0, STARTUP | ASSERT | OTHERS | 0x10);
        let state = bench.vcpu.state.clone();
        for index in 0..count as usize {
            bench.on(index).prepare();
            assert!(!bench.is_halted);
            bench.vcpu.state = state.clone();
            bench.store(0xfee0_00f0, 0x1ff);
        }
        bench.on(0).host.kicked.clear();
        bench
    }

    /// What virtual CPU `index` gets delivered when it next runs.
    fn delivered_to(&mut self, index: usize) -> Vec<Event> {
        let _ = self.on(index).exit(Exit::Handled);
        core::mem::take(&mut self.vcpu.delivered)
    }

    /// Who gets [`VECTOR`], by bits.
    fn receivers(&mut self, count: usize) -> u32 {
        let kicked = core::mem::take(&mut self.host.kicked);
        let sender = self.current_index();
        (0..count).fold(0, |set, index| {
            let delivered = self.delivered_to(index);
            if delivered.is_empty() {
                return set;
            }
            assert_eq!(delivered, [Event::Interrupt(VECTOR)]);
            assert!(index == sender || kicked.contains(&(index as u32)), "{index} was not told");
            self.store(0xfee0_00b0, 0);
            if self.core.lapic.page().is_none() {
                self.wrmsr(EOI, 0);
            }
            set | 1 << index
        })
    }

    fn current_index(&self) -> usize {
        self.core.index() as usize
    }
}

#[test]
fn a_second_cpu_waits_for_init_and_startup() {
    let mut bench = Bench::with_cpus(2);
    bench.on(1).prepare();
    assert!(bench.is_halted);
    assert!(!bench.vm.attention(1));
    bench.on(0).send(1, STARTUP | ASSERT | 0x9a);
    assert_eq!(bench.host.kicked, [1]);
    assert!(bench.vm.attention(1));
    bench.on(1).prepare();
    assert!(!bench.vm.attention(1));
    assert!(!bench.is_halted, "it waited for a start-up alone");
    let state = bench.vcpu.registers();
    assert_eq!((state.cs.selector, state.cs.base, state.rip), (0x9a00, 0x9_a000, 0));
    assert_eq!((state.cr0 & 1, state.rflags, state.gprs[2]), (0, 2, 0x000c_06a0));
    bench.on(0).send(1, STARTUP | ASSERT | 0x10);
    bench.on(1).prepare();
    assert_eq!(bench.vcpu.rip(), 0, "a running CPU ignores it");
    assert_eq!(bench.vcpu.registers().cs.base, 0x9_a000);
}

#[test]
fn init_resets_and_its_deassertion_does_nothing() {
    let mut bench = Bench::running(2);
    bench.on(1).enable_x2apic();
    bench.on(0).send(1, INIT | LEVEL);
    bench.on(1).prepare();
    assert!(!bench.is_halted);
    bench.on(0).send(1, INIT | LEVEL | ASSERT);
    bench.on(1).prepare();
    assert!(bench.is_halted);
    assert_eq!(bench.vcpu.rip(), 0xfff0);
    assert_eq!(bench.vcpu.registers().cs.base, 0xffff_0000);
    assert_eq!(bench.core.lapic.page(), None, "the mode stays");
    // Reset, the APIC takes no vector, and waiting for its start-up the CPU takes no NMI.
    bench.on(0).send(1, u64::from(VECTOR));
    bench.send(1, NMI);
    bench.on(1).prepare();
    assert!(bench.is_halted);
    bench.on(0).send(1, STARTUP | 1);
    assert_eq!(bench.delivered_to(1), []);
    assert_eq!(bench.vcpu.registers().cs.base, 0x1000);
}

#[test]
fn init_and_startup_sent_in_one_go_start_a_running_cpu_anew() {
    let mut bench = Bench::running(2);
    bench.send(1, STARTUP | 0x20);
    bench.send(1, INIT);
    bench.send(1, STARTUP | 0x30);
    bench.send(1, STARTUP | 0x40);
    assert_eq!(bench.host.kicked, [1], "told once");
    bench.on(1).prepare();
    assert!(!bench.is_halted);
    assert_eq!(bench.vcpu.registers().cs.base, 0x3_0000);
}

#[test]
fn physical_and_shorthand_ipis_reach_whom_they_name() {
    let mut bench = Bench::running(3);
    let vector = u64::from(VECTOR);
    for (destination, command, receivers) in [
        (1, vector, 0b010),
        (0, vector, 0b001),
        (2, vector, 0b100),
        (7, vector, 0),
        (0xff, vector, 0b111),
        (0, vector | ALL, 0b111),
        (0, vector | OTHERS, 0b110),
        (5, vector | 1 << 18, 0b001),
    ] {
        bench.on(0).send(destination, command);
        assert_eq!(bench.receivers(3), receivers, "{destination:#x} {command:#x}");
    }
}

#[test]
fn each_vector_sent_arrives_once() {
    let mut bench = Bench::running(2);
    for vector in 16_u8..=255 {
        bench.on(0).send(1, vector.into());
    }
    let mut arrived = Vec::new();
    while let [Event::Interrupt(vector)] = bench.delivered_to(1)[..] {
        arrived.push(vector);
        bench.store(0xfee0_00b0, 0);
    }
    assert!(arrived.iter().copied().eq((16..=255).rev()), "{arrived:?}");
}

#[test]
fn logical_ipis_follow_flat_and_cluster_models() {
    let mut bench = Bench::running(3);
    let vector = u64::from(VECTOR) | LOGICAL;
    for index in 0..3 {
        bench.on(index).store(0xfee0_00d0, 1 << (24 + index));
    }
    for (destination, receivers) in [(0b101, 0b101), (0b010, 0b010), (0xff, 0b111), (8, 0)] {
        bench.on(1).send(destination, vector);
        assert_eq!(bench.receivers(3), receivers, "flat {destination:#x}");
    }
    for (index, id) in [(0, 0x11), (1, 0x12), (2, 0x21)] {
        bench.on(index).store(0xfee0_00e0, 0x0fff_ffff);
        bench.store(0xfee0_00d0, id << 24);
    }
    for (destination, receivers) in [(0x13, 0b011), (0x21, 0b100), (0x12, 0b010), (0xff, 0b111)] {
        bench.on(0).send(destination, vector);
        assert_eq!(bench.receivers(3), receivers, "cluster {destination:#x}");
    }
}

#[test]
fn x2apic_destinations_are_ids_and_clusters() {
    let mut bench = Bench::running(3);
    (0..3).for_each(|index| bench.on(index).enable_x2apic());
    let vector = u64::from(VECTOR);
    for (destination, command, receivers) in [
        (2, vector, 0b100),
        (9, vector, 0),
        (u64::from(u32::MAX), vector, 0b111),
        (0b110, vector | LOGICAL, 0b110),
        (1 << 16 | 0b110, vector | LOGICAL, 0),
        (0, vector | OTHERS, 0b101),
    ] {
        bench.on(1).wrmsr(ICR, destination << 32 | command);
        assert_eq!(bench.receivers(3), receivers, "{destination:#x} {command:#x}");
    }
    bench.on(2).wrmsr(Msr(0x83f), vector);
    assert_eq!(bench.receivers(3), 0b100, "self-IPI");
}

#[test]
fn lowest_priority_goes_to_one_that_can_take_it() {
    let mut bench = Bench::running(3);
    for index in 0..3 {
        bench.on(index).store(0xfee0_00d0, 1 << (24 + index));
    }
    bench.on(1).store(0xfee0_00f0, 0xff);
    for vector in 0x50..0x58 {
        bench.on(0).send(0xff, LOGICAL | LOWEST | vector);
        let taken: Vec<_> = (0..3).flat_map(|index| bench.delivered_to(index)).collect();
        assert_eq!(taken, [Event::Interrupt(vector as u8)]);
        for index in [0, 2] {
            bench.on(index).store(0xfee0_00b0, 0);
        }
    }
}

#[test]
fn an_nmi_ends_a_halt_with_interrupts_off() {
    let mut bench = Bench::running(2);
    bench.on(1).vcpu.state.rflags &= !0x200;
    assert_eq!(bench.exit(Exit::Halt), Outcome::Wait);
    bench.on(0).send(1, u64::from(VECTOR));
    bench.on(1).prepare();
    assert!(bench.is_halted, "an interrupt does not");
    bench.on(0).send(1, NMI);
    bench.on(1).prepare();
    assert!(!bench.is_halted);
    assert_eq!(bench.delivered_to(1), [Event::Nmi]);
}

#[test]
fn the_last_cpu_to_halt_with_interrupts_off_has_halted_for_good() {
    let mut bench = Bench::running(3);
    for index in [2, 0] {
        bench.on(index).vcpu.state.rflags &= !0x200;
        assert_eq!(bench.exit(Exit::Halt), Outcome::Wait);
        bench.prepare();
        assert!(bench.is_halted);
    }
    bench.on(1).vcpu.state.rflags &= !0x200;
    bench.send(2, NMI);
    assert_eq!(bench.exit(Exit::Halt), Outcome::Wait, "an NMI is on its way");
    assert_eq!(bench.delivered_to(2), [Event::Nmi]);
    assert_eq!(bench.exit(Exit::Halt), Outcome::Crashed(Crash::HaltedForGood));
}

#[test]
fn one_cpu_alone_halts_for_good_while_the_others_never_started() {
    let mut bench = Bench::with_cpus(4);
    bench.vcpu.state.rflags &= !0x200;
    assert_eq!(bench.exit(Exit::Halt), Outcome::Crashed(Crash::HaltedForGood));
}

#[test]
fn an_interrupt_wakes_a_halted_cpu() {
    let mut bench = Bench::running(2);
    assert_eq!(bench.on(1).exit(Exit::Halt), Outcome::Wait);
    bench.prepare();
    assert!(bench.is_halted);
    bench.on(0).send(1, u64::from(VECTOR));
    // Sent while it was about to halt, it keeps it awake.
    bench.send(0, u64::from(VECTOR));
    bench.on(1).prepare();
    assert!(!bench.is_halted);
    assert_eq!(bench.vcpu.pending, Some(Event::Interrupt(VECTOR)));
    let _ = bench.delivered_to(1);
    bench.store(0xfee0_00b0, 0);
    bench.on(0).send(1, u64::from(VECTOR));
    assert_eq!(bench.on(1).handle(Exit::Halt), Outcome::Resume);
}

fn uart_port(register: u16, write: bool) -> Exit {
    let port = Port(0x3f8 + register);
    Exit::PortIo(PortIo { port, width: Width::W1, write, string: false, rep: false })
}

fn out(bench: &mut Bench, register: u16, value: u64) {
    bench.set(Gpr::Rax, value);
    assert_eq!(bench.exit(uart_port(register, true)), Outcome::Resume);
}

/// The UART's pin, level-triggered, to virtual CPU 1.
fn wire_uart_to_1(bench: &mut Bench) {
    let entry = 0x10 + 2 * u64::from(gsi::UART);
    for (index, value) in [(entry + 1, 1 << 24), (entry, LEVEL | u64::from(VECTOR))] {
        bench.store(0xfec0_0000, index);
        bench.store(0xfec0_0010, value);
    }
    out(bench, 1, 1);
}

#[test]
fn a_level_interrupt_is_ended_by_the_cpu_that_took_it() {
    let mut bench = Bench::running(2);
    wire_uart_to_1(&mut bench);
    bench.type_in(b"x");
    assert_eq!(bench.delivered_to(0), []);
    assert_eq!(bench.host.kicked, [1]);
    assert_eq!(bench.delivered_to(1), [Event::Interrupt(VECTOR)]);
    assert_eq!(bench.delivered_to(1), [], "still in service");
    bench.store(0xfee0_00b0, 0);
    assert_eq!(bench.delivered_to(1), [Event::Interrupt(VECTOR)], "the line is still up");
    assert_eq!(bench.exit(uart_port(0, false)), Outcome::Resume);
    assert_eq!(bench.gpr(Gpr::Rax) as u8, b'x');
    bench.store(0xfee0_00b0, 0);
    assert_eq!(bench.delivered_to(1), []);
}

#[test]
fn the_caretaker_learns_of_a_deadline_that_another_sets() {
    let mut bench = Bench::running(2);
    bench.on(0).prepare();
    assert_eq!(bench.deadline, None);
    out(&mut bench, 2, 0xc1); // FIFOs on, threshold 14
    out(&mut bench, 4, 0x10); // loopback
    out(bench.on(1), 1, 1);
    bench.host.kicked.clear();
    out(&mut bench, 0, 0x41);
    assert_eq!(bench.host.kicked, [0]);
    bench.on(0).prepare();
    assert!(bench.deadline.is_some());
    bench.on(1).prepare();
    assert_eq!(bench.deadline, None);
}

#[test]
fn a_reset_empties_the_mailboxes() {
    let mut bench = Bench::running(2);
    bench.send(1, u64::from(VECTOR));
    bench.vm.reset(7);
    assert!(!bench.vm.attention(1));
    assert_eq!(bench.vm.tsc_offset(), 7);
    let mut core = bench.vm.core(1);
    let ready = core.prepare_entry(&bench.vm, &mut bench.vcpu, &mut bench.host);
    assert!(matches!(ready, crate::Ready::Wait { .. }));
}

proptest! {
    #[test]
    fn whatever_cpus_send_each_other_sleepers_are_counted(
        actions in proptest::collection::vec((0_usize..3, 0_u8..8, any::<u64>()), 0..60),
    ) {
        let mut bench = Bench::running(3);
        for (cpu, action, value) in actions {
            let is_awake = {
                bench.on(cpu).prepare();
                !bench.is_halted
            };
            if !is_awake {
                continue;
            }
            let modes = [0, LOWEST, NMI, INIT, STARTUP, NMI, STARTUP, INIT | LEVEL];
            let command = value & 0xc_c8ff | modes[(value >> 8 & 7) as usize];
            let _ = match action {
                0 => {
                    bench.vcpu.state.rflags = 2 | value & 0x200;
                    bench.exit(Exit::Halt)
                }
                1 => bench.exit(Exit::MsrWrite { msr: ICR, value: value >> 32 << 32 | command }),
                2 => bench.exit(Exit::MsrWrite { msr: ICR, value: value >> 62 << 32 | command }),
                3 => bench.exit(Exit::MsrWrite { msr: EOI, value: 0 }),
                4 => bench.exit(Exit::MsrWrite {
                    msr: msr::APIC_BASE,
                    value: 0xfee0_0000 | value & 0xc00 | u64::from(cpu == 0) << 8,
                }),
                5 => bench.exit(Exit::MsrWrite { msr: Msr(0x80f), value: 0x1ff }),
                6 => bench.exit(uart_port((value & 7) as u16, value & 8 != 0)),
                _ => bench.exit(Exit::Handled),
            };
            let asleep = (0..3).filter(|&cpu| bench.on(cpu).core.activity.is_deep()).count();
            prop_assert_eq!(bench.vm.deep_sleepers(), asleep as u32);
        }
    }
}
