//! What is said of a guest that ended.

use vcpu::{Gpr, Vcpu};
use vmm::counters::{Counters, ExitKind, Unknown};
use vmm::{Core, Outcome};

use crate::power::Verdict;
use crate::{irq, start};

/// Reports how the guest ended, and what it did until then.
pub(crate) fn ending(name: &str, outcome: Outcome, vcpu: &impl Vcpu, core: &Core) -> Verdict {
    if let Outcome::Crashed(crash) = outcome {
        log::error!("{name} crashed: {crash}");
        registers(vcpu);
    }
    counters(name, core.counters());
    match outcome {
        Outcome::PowerOff => Verdict::PowerOff,
        Outcome::Exit(status) => Verdict::Exit(status),
        Outcome::Reset => Verdict::Reset,
        // A guest that is to go on has not ended; nothing says so.
        Outcome::Crashed(_) | Outcome::Resume | Outcome::Wait | Outcome::SelectView(_) => Verdict::Crashed,
    }
}

fn registers(vcpu: &impl Vcpu) {
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

fn counters(name: &str, counters: &Counters) {
    log::info!("{name}: {} exits", counters.total());
    for &kind in ExitKind::ALL {
        let count = counters.exits(kind);
        if count != 0 {
            log::info!("{:>20} {count:>12}", kind.name());
        }
    }
    log::info!("{:>20} {:>12}", "interrupts given", counters.interrupts);
    log::info!("{:>20} {:>12}", "faults given", counters.faults);
    for (what, Unknown { count, last }) in [
        ("unknown ports", counters.unknown_ports),
        ("unknown addresses", counters.unknown_mmio),
        ("unknown MSRs", counters.unknown_msrs),
        ("unknown hypercalls", counters.unknown_hypercalls),
    ] {
        if count != 0 {
            log::info!("{what:>20} {count:>12}, the last {last:#x}");
        }
    }
    let (nmis, unexpected) = (start::nmi_count(), irq::unexpected_count());
    if u64::from(nmis) + unexpected != 0 {
        log::warn!("{nmis} NMIs and {unexpected} unexpected interrupts reached Kerf");
    }
}
