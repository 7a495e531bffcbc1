//! All CPUs up: INIT, start-up, start-up (SDM vol. 3, 10.4.4). One after the other, so that one page and one set of data
//! serve them all; a CPU answers within microseconds, so this is no slower than it need be.

use alloc::boxed::Box;
use alloc::vec::Vec;
use core::sync::atomic::{Ordering, fence};

use hw::{Clock, Deadline, wait_until};
use spin::Once;

use super::machine_check;
use super::percpu::{self, PerCpu};
use super::stack;
use super::trampoline::Trampoline;
use crate::irq;
use crate::mem::{self, ControlRegisters};

/// From INIT to the first start-up message, and from that to the second: what the manual says for CPUs of old.
const INIT_NS: u64 = 10_000_000;
const STARTUP_NS: u64 = 1_000_000;
/// How long a CPU is waited for after the second. Emulators run one only when its turn comes.
const ANSWER_NS: u64 = 2_000_000_000;

static CPUS: Once<Vec<&'static PerCpu>> = Once::new();
/// What the started CPUs run.
static JOB: Once<Job> = Once::new();

struct Job {
    registers: ControlRegisters,
    entry: fn() -> !,
}

/// The CPUs that run, by number; none before [`bring_up`] is through.
pub(crate) fn cpus() -> &'static [&'static PerCpu] {
    CPUS.get().map_or(&[], Vec::as_slice)
}

/// Starts every CPU that the tables call enabled, each with its own stacks and data, running `entry` once all have been
/// tried; gives the number of those that run, the calling one included. One that does not start is told of and left out.
/// Once, on the boot CPU, after [`irq::init`].
pub(crate) fn bring_up(entry: fn() -> !) -> usize {
    let boot = super::current();
    boot.set_topology();
    machine_check::enable();
    let mut running: Vec<&'static PerCpu> = alloc::vec![boot];
    let others = irq::others();
    if !others.is_empty() {
        start_all(others, entry, &mut running);
        log::info!("{} of {} CPUs run", running.len(), 1 + others.len());
    }
    CPUS.call_once(|| running).len()
}

fn start_all(others: &[u32], entry: fn() -> !, running: &mut Vec<&'static PerCpu>) {
    let job = JOB.call_once(|| Job { registers: ControlRegisters::current(), entry });
    let Some(mut trampoline) = Trampoline::new(&job.registers, enter) else {
        log::warn!("no memory below 1 MiB is free: {} CPUs cannot be started", others.len());
        return;
    };
    let clock = irq::clock();
    // They were stopped by INIT a while ago.
    let rested = Deadline(irq::parked_at_ns().saturating_add(INIT_NS));
    while !rested.has_passed(&clock) {
        clock.relax();
    }
    let before = running.len();
    for &id in others {
        match start(running.len() as u32, id, &mut trampoline, &clock) {
            Ok(cpu) => running.push(cpu),
            Err(why) => log::warn!("the CPU with APIC ID {id:#x} {why}; it is left out"),
        }
    }
    if running.len() - before == others.len() {
        trampoline.free();
    }
}

/// Starts one CPU and waits for it.
fn start(
    number: u32,
    id: u32,
    trampoline: &mut Trampoline,
    clock: &impl Clock,
) -> Result<&'static PerCpu, &'static str> {
    let new = || Some((mem::stack(stack::CPU_BYTES)?, stack::exceptions()?));
    let (stack, exceptions) = new().ok_or("cannot have a stack")?;
    let cpu = Box::into_raw(Box::new(PerCpu::new(number)));
    // SAFETY: the CPU's data were made just now, for good, and so were the stacks; no one else has either yet.
    let shared: &'static PerCpu = unsafe {
        percpu::prepare(cpu, exceptions);
        &*cpu
    };
    trampoline.aim(stack, cpu).ok_or("has no code to start with")?;
    // The other CPU reads what was written here.
    fence(Ordering::SeqCst);
    let up = || shared.is_up().then_some(());
    for patience in [STARTUP_NS, ANSWER_NS] {
        if !irq::send_startup(id, trampoline.vector()) {
            break;
        }
        if wait_until(clock, Deadline::after_ns(clock, patience), up).is_ok() {
            return Ok(shared);
        }
    }
    // Held there, it cannot come late.
    irq::send_init(id);
    Err("does not start")
}

/// Where the trampoline leads: on the CPU's own stack, still with the tables it started on.
extern "sysv64" fn enter(cpu: *const PerCpu) -> ! {
    // SAFETY: `start` prepared the data for this CPU alone, and its stacks.
    unsafe { percpu::load(cpu) };
    let Some(job) = JOB.get() else { crate::platform::halt_forever() };
    if mem::join(&job.registers).is_none() {
        crate::platform::halt_forever();
    }
    irq::join();
    let cpu = super::current();
    cpu.set_topology();
    machine_check::enable();
    cpu.set_up();
    while CPUS.get().is_none() {
        core::hint::spin_loop();
    }
    (job.entry)()
}
