//! A PCI function as code in the guest meets it: by ports, ECAM, and the pages of its BARs that are not mapped.

use hw::{Port, Width};
use vcpu::{Access, Event, Exit, Gpr, PortIo};

use super::bench::{Bench, spec};
use crate::pci::tests::{Log, Scripted, Told, nvme, plan};
use crate::pci::{ECAM_BASE, Slot, Source};
use crate::platform::InterruptMessage;
use crate::{Outcome, VmSpec};

/// Command register of the function behind the first root port.
const COMMAND: u64 = ECAM_BASE.raw() + 0x10_0004;
const VECTOR: u8 = 0x41;

/// A machine of two CPUs with one function.
fn bench() -> (Bench, Log) {
    let shapes = [nvme()];
    let (endpoint, log) = Scripted::boxed(nvme());
    let spec = VmSpec { vcpus: 2, pci: plan(&shapes), ..spec() };
    let bench = Bench::with_functions(spec, std::vec![endpoint]);
    (bench, log)
}

fn write(bench: &mut Bench, gpa: u64, value: u64) {
    bench.set(Gpr::Rbx, gpa);
    bench.set(Gpr::Rax, value);
    assert_eq!(bench.touch(&[0x89, 0x03], gpa, Access::Write), Outcome::Resume);
}

fn read(bench: &mut Bench, gpa: u64) -> u64 {
    bench.set(Gpr::Rbx, gpa);
    assert_eq!(bench.touch(&[0x8b, 0x03], gpa, Access::Read), Outcome::Resume);
    bench.gpr(Gpr::Rax)
}

/// Turns decoding on; where the first BAR is.
fn decode(bench: &mut Bench) -> u64 {
    write(bench, COMMAND, 2);
    read(bench, COMMAND + 0xc) & !0xf
}

#[test]
fn a_message_reaches_the_cpu_that_the_guest_named() {
    let (mut bench, log) = bench();
    write(&mut bench, 0xfee0_00f0, 0x1ff);
    let base = decode(&mut bench);
    write(&mut bench, COMMAND + 0x3c, 0x8000 << 16);
    let entry = base + 0x2000 + 5 * 16;
    for (offset, value) in [(0, 0xfee0_0000), (4, 0), (8, VECTOR.into()), (12, 0)] {
        write(&mut bench, entry + offset, value);
    }
    let told = log.take();
    let Some(&Told::Interrupt(Source::Msix(5), Slot::On(route))) = told.last() else {
        panic!("{told:?}")
    };
    assert_eq!(route.vcpu, 0);
    // The lock that a virtual CPU may hold is not in the way.
    let (mut kicked, devices) = (std::vec![], bench.vm.devices.lock());
    bench.vm.deliver(&route.message, |index| kicked.push(index));
    drop(devices);
    assert_eq!(kicked, [0]);
    let _ = bench.exit(Exit::ExternalInterrupt);
    assert!(bench.vcpu.delivered.contains(&Event::Interrupt(VECTOR)));
}

#[test]
fn a_message_to_another_cpu_names_it() {
    let (mut bench, log) = bench();
    let base = decode(&mut bench);
    write(&mut bench, COMMAND + 0x3c, 0x8000 << 16);
    for (offset, value) in [(0, 0xfee0_1000), (8, VECTOR.into()), (12, 0)] {
        write(&mut bench, base + 0x2000 + offset, value);
    }
    let told = log.take();
    let on = told.iter().find_map(|told| match told {
        Told::Interrupt(_, Slot::On(route)) => Some(*route),
        _ => None,
    });
    let expected = InterruptMessage { destination: 1, ..on.unwrap().message };
    assert_eq!((on.unwrap().vcpu, on.unwrap().message), (1, expected));
}

#[test]
fn bar_accesses_reach_the_endpoint_while_it_decodes() {
    let (mut bench, log) = bench();
    let base = decode(&mut bench);
    assert_eq!(read(&mut bench, base + 0x1008), 0x1008);
    write(&mut bench, base + 0x100c, 7);
    assert_eq!(log.take().last(), Some(&Told::BarWrite(0, 0x100c, Width::W4, 7)));
    assert_eq!(bench.core.counters().unknown_mmio.count, 0);
    write(&mut bench, COMMAND, 0);
    assert_eq!(read(&mut bench, base + 0x1008), 0xffff_ffff);
    assert_eq!(bench.core.counters().unknown_mmio.count, 1);
}

#[test]
fn ports_and_ecam_reach_the_same_function() {
    let (mut bench, log) = bench();
    let mut out = |port, width, value| {
        bench.set(Gpr::Rax, value);
        let access = PortIo { port: Port(port), width, write: true, string: false, rep: false };
        assert_eq!(bench.exit(Exit::PortIo(access)), Outcome::Resume);
    };
    out(0xcf8, Width::W4, 0x8001_0004);
    out(0xcfc, Width::W2, 6);
    assert_eq!(read(&mut bench, COMMAND), 0x0010_0006);
    assert_eq!(log.take().first(), Some(&Told::Master(true)));
    // Past the last bus there is nothing.
    assert_eq!(read(&mut bench, COMMAND + 0x10_0000), 0xffff_ffff);
    assert_eq!(bench.core.counters().unknown_mmio.count, 1);
}

#[test]
fn a_new_life_finds_functions_reset() {
    let (mut bench, log) = bench();
    decode(&mut bench);
    let _ = log.take();
    bench.vm.reset(0);
    assert_eq!(log.take().last(), Some(&Told::Reset));
    assert_eq!(read(&mut bench, COMMAND), 0x0010_0000);
}
