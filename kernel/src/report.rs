//! What is said of a guest that ended, and of what all guests did when Kerf itself fails.

use alloc::vec::Vec;

use vcpu::{Gpr, Vcpu};
use vmm::Crash;
use vmm::counters::{Counters, ExitKind, Unknown};

use crate::launch::Life;
use crate::{irq, sched, start};

/// Tells why a guest cannot go on, and what its virtual CPU held then.
pub(crate) fn crash(name: &str, index: u32, crash: &Crash, vcpu: &impl Vcpu) {
    log::error!("{name} crashed: {crash}; virtual CPU {index} holds");
    let state = vcpu.registers();
    for row in Gpr::ALL.chunks_exact(4) {
        if let &[a, b, c, d] = row {
            let value = |register| vcpu.gpr(register);
            log::error!(
                "  {a:?} {:#018x}  {b:?} {:#018x}  {c:?} {:#018x}  {d:?} {:#018x}",
                value(a),
                value(b),
                value(c),
                value(d)
            );
        }
    }
    log::error!("  rip {:#018x}  rflags {:#018x}", state.rip, state.rflags);
    log::error!(
        "  cr0 {:#x}  cr2 {:#x}  cr3 {:#x}  cr4 {:#x}  efer {:#x}",
        state.cr0,
        state.cr2,
        state.cr3,
        state.cr4,
        state.efer
    );
    for (name, segment) in
        [("cs", &state.cs), ("ss", &state.ss), ("ds", &state.ds), ("tr", &state.tr)]
    {
        log::error!(
            "  {name} {:#06x}  base {:#x}  limit {:#x}  access {:#x}",
            segment.selector,
            segment.base,
            segment.limit,
            segment.access
        );
    }
}

/// Reports what a guest did until it ended. Its virtual CPUs have left.
pub(crate) fn ending(name: &str, life: &Life) {
    let cores = life.cores.iter().map(|core| core.lock());
    let mut sums: Vec<(&'static str, u64)> = Vec::new();
    let mut exits = 0;
    for core in cores {
        exits += core.counters().total();
        add(&mut sums, &counters(core.counters()));
        unknown(name, core.counters());
    }
    log::info!("{name}: {exits} exits");
    for (what, count) in sums {
        log::info!("{what:>20} {count:>12}");
    }
    let (nmis, unexpected) = (start::nmi_count(), irq::unexpected_count());
    if u64::from(nmis) + unexpected != 0 {
        log::warn!("{nmis} NMIs and {unexpected} unexpected interrupts reached Kerf");
    }
}

/// Counters by name, those of exits by kind first, without those that are 0.
pub(crate) fn counters(counters: &Counters) -> Vec<(&'static str, u64)> {
    let kinds = ExitKind::ALL.iter().map(|&kind| (kind.name(), counters.exits(kind)));
    let others = [
        ("interrupts given", counters.interrupts),
        ("faults given", counters.faults),
        ("mismatches", counters.mismatches),
    ];
    let unknown = unknowns(counters).map(|(what, unknown)| (what, unknown.count));
    kinds.chain(others).chain(unknown).filter(|&(_, count)| count != 0).collect()
}

/// Adds counters by name to others.
pub(crate) fn add(sums: &mut Vec<(&'static str, u64)>, more: &[(&'static str, u64)]) {
    for &(name, count) in more {
        match sums.iter_mut().find(|(known, _)| *known == name) {
            Some((_, sum)) => *sum += count,
            None => sums.push((name, count)),
        }
    }
}

fn unknowns(counters: &Counters) -> [(&'static str, Unknown); 4] {
    [
        ("unknown ports", counters.unknown_ports),
        ("unknown addresses", counters.unknown_mmio),
        ("unknown MSRs", counters.unknown_msrs),
        ("unknown hypercalls", counters.unknown_hypercalls),
    ]
}

fn unknown(name: &str, counters: &Counters) {
    for (what, Unknown { count, last }) in unknowns(counters) {
        if count != 0 {
            log::info!("{name}: {count} {what}, the last {last:#x}");
        }
    }
}

/// Exits that a failing Kerf tells of each CPU's virtual CPU.
const LAST: usize = 8;

/// Tells what each virtual CPU did last, the newest last. For a CPU that stops for good, after it has stopped the others:
/// locks are broken, not waited for.
pub(crate) fn last_exits() {
    let Some(world) = sched::world() else { return };
    for (number, vm) in world.vms.iter().enumerate() {
        vm.break_lock();
        let Some(life) = vm.life() else { continue };
        for (index, core) in life.cores.iter().enumerate() {
            if core.is_locked() {
                start::break_lock(core);
            }
            let core = core.lock();
            let cpu = world.desks.iter().position(|desk| desk.current() == Some((number, index)));
            match cpu {
                Some(cpu) => log::error!("last exits of {}/{index} on CPU {cpu}:", vm.config.name),
                None => log::error!("last exits of {}/{index}:", vm.config.name),
            }
            let older = core.last_exits().count().saturating_sub(LAST);
            for record in core.last_exits().skip(older) {
                let name = record.kind.name();
                log::error!("  {name:<18} rip {:#018x} detail {:#x}", record.rip, record.detail);
            }
        }
    }
}
