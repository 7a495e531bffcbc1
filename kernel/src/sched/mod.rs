//! Scheduling: which virtual CPU runs where and when.
//!
//! Every virtual CPU has one CPU for good (its seat there), so CPUs share nothing but mailboxes and two flags each. A CPU
//! runs its virtual CPUs in turn: alone for as long as it likes, beside others for a slice; one that waits costs nothing
//! until its deadline, or a kick.
//!
//! No wake-up is lost: who has news for a virtual CPU first writes it down, then sets the flag of its CPU, then sends an
//! interrupt; the CPU, with interrupts off, clears the flag, then reads what was written down, then enters or halts.
//!
//! [`World`] is what all CPUs see, `cpu` one CPU's loop, `turn` its inner one.

mod cpu;
mod seat;
mod turn;

use alloc::vec::Vec;
use core::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use spin::Once;
use vcpu::Offers;

use crate::launch::{Life, StartError};
use crate::mem::LoadedFile;
use crate::platform::{self, rdtsc};
use crate::vm::Vm;
use crate::{irq, start};

pub(crate) use cpu::{enter, run};

/// The virtual machines and the CPUs that run them.
#[derive(Debug)]
pub(crate) struct World {
    /// All of the configuration's, in its order.
    pub(crate) vms: Vec<Vm>,
    /// What the boot application loaded.
    pub(crate) files: Vec<LoadedFile>,
    /// Ticks of the TSC in a second.
    pub(crate) tsc_hz: u64,
    /// The TSC at the kernel's first instruction.
    pub(crate) entry_tsc: u64,
    /// Seconds since 1970 at about that time; 0 where no one knows.
    pub(crate) unix_time: u64,
    /// What the CPUs have for guests.
    pub(crate) offers: Offers,
    /// Ticks that a virtual CPU runs before another one has its turn.
    pub(crate) slice: u64,
    /// What others see of each CPU, by its number.
    pub(crate) desks: Vec<Desk>,
    /// How a machine's life is made, for this backend.
    pub(crate) create: fn(&World, &Vm) -> Result<Life, StartError>,
}

/// What others see of a CPU; on a cache line of its own.
#[derive(Debug, Default)]
#[repr(align(64))]
pub(crate) struct Desk {
    /// There may be news in a mailbox of one of its virtual CPUs.
    kicked: AtomicBool,
    /// A virtual machine's phase changed, or the terminal has something to do.
    orders: AtomicBool,
    /// Ticks spent waiting.
    idle: AtomicU64,
    /// The virtual CPU that it runs, by [`Desk::current`]; 0 for none.
    current: AtomicU64,
}

static WORLD: Once<World> = Once::new();

/// The world, once it is made.
pub(crate) fn world() -> Option<&'static World> {
    WORLD.get()
}

/// Makes the world, and wakes the CPUs that wait for it.
pub(crate) fn open(world: World) -> &'static World {
    let world = WORLD.call_once(|| world);
    (0..world.desks.len() as u32).for_each(order);
    world
}

/// Makes a CPU look into its virtual CPUs' mailboxes soon.
pub(crate) fn kick(cpu: u32) {
    if let Some(desk) = WORLD.get().and_then(|world| world.desks.get(cpu as usize)) {
        // While the flag is set, an earlier interrupt is on its way or the CPU has yet to look.
        if !desk.kicked.swap(true, Ordering::SeqCst) && start::current().number != cpu {
            irq::kick(cpu);
        }
    }
}

/// Makes a CPU look after its duties soon.
pub(crate) fn order(cpu: u32) {
    if let Some(desk) = WORLD.get().and_then(|world| world.desks.get(cpu as usize)) {
        desk.orders.store(true, Ordering::SeqCst);
        kick(cpu);
    }
}

impl Desk {
    /// Waits for an interrupt; not where a kick came since the flag was looked at.
    fn wait(&self) {
        if self.kicked.load(Ordering::SeqCst) {
            return;
        }
        let since = rdtsc();
        // Interrupts have been off since the flag was read: whatever came since ends the wait at once.
        platform::wait_for_interrupt();
        self.idle.fetch_add(rdtsc().saturating_sub(since), Ordering::Relaxed);
    }

    /// Ticks spent waiting since this was last asked.
    pub(crate) fn take_idle_ticks(&self) -> u64 {
        self.idle.swap(0, Ordering::Relaxed)
    }

    /// What it runs: places of VM and virtual CPU.
    pub(crate) fn current(&self) -> Option<(usize, usize)> {
        let current = self.current.load(Ordering::Relaxed);
        let vm = (current >> 32).checked_sub(1)?;
        Some((vm as usize, (current & 0xffff_ffff) as usize))
    }

    fn set_current(&self, running: Option<(usize, u32)>) {
        let current = running.map_or(0, |(vm, vcpu)| (vm as u64 + 1) << 32 | u64::from(vcpu));
        self.current.store(current, Ordering::Relaxed);
    }
}

impl World {
    /// Starts a machine, or notes why it cannot be.
    pub(crate) fn begin(&self, vm: &Vm) {
        vm.begin((self.create)(self, vm));
    }
}
