//! One CPU's loop, generic over the CPU backend, which [`crate::main`] chose once.

use alloc::sync::Arc;
use alloc::vec::Vec;
use core::sync::atomic::Ordering;

use config::OnReset;
use vcpu::{Backend, Vcpu};

use super::seat::Seat;
use super::{Desk, World, turn, world};
use crate::irq::Timer;
use crate::launch::{Life, StartError};
use crate::mem::Pages;
use crate::platform::{self, CpuId, Msrs, rdtsc};
use crate::power::Verdict;
use crate::vm::Duty;
use crate::{console, hosting, iommu, monitor, report, start, terminal, vdev};

/// A CPU that runs virtual CPUs.
struct Cpu<B: Backend> {
    world: &'static World,
    desk: &'static Desk,
    /// It is the one that booted, which looks after the terminal.
    boots: bool,
    backend: B,
    timer: Timer,
    seats: Vec<Seat<B>>,
    /// Whose turn it is.
    next: usize,
    /// Whose state the CPU holds.
    loaded: Option<usize>,
    /// When the terminal wants to be looked after.
    chores: Option<u64>,
}

/// Why a virtual CPU had to leave its CPU.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Left {
    /// It is another one's turn, or it has nothing to do.
    Turn,
    /// The CPU has duties first.
    Duties,
}

/// The earlier of two times.
pub(super) fn earlier(one: Option<u64>, other: Option<u64>) -> Option<u64> {
    match (one, other) {
        (Some(one), Some(other)) => Some(one.min(other)),
        (one, other) => one.or(other),
    }
}

/// What every CPU but the boot CPU does: waits for the world, and takes its part in it.
pub(crate) fn enter<B: Backend>() -> ! {
    let world = loop {
        match world() {
            Some(world) => break world,
            // Whoever makes the world sends an interrupt; one sent just now is still pending.
            None => platform::wait_for_interrupt(),
        }
    };
    let number = start::current().number;
    match (B::enable(&CpuId, &Msrs, &mut Pages), Timer::here()) {
        (Ok(backend), Some(timer)) => {
            if let Some(mut cpu) = Cpu::new(world, number, backend, timer) {
                cpu.run();
            }
        }
        (Err(why), _) => {
            let why = StartError::Backend(why);
            log::error!("CPU {number} cannot run guests: {why}");
        }
        (_, None) => log::error!("CPU {number} has no timer"),
    }
    // Its virtual CPUs will not come.
    for vm in world.vms.iter().filter(|vm| vm.cpus.contains(&number)) {
        vm.end(Verdict::Crashed);
    }
    platform::halt_forever()
}

/// What the boot CPU does until all guests have ended: gives how.
pub(crate) fn run<B: Backend>(world: &'static World, backend: B, timer: Timer) -> Verdict {
    match Cpu::new(world, start::current().number, backend, timer) {
        Some(mut cpu) => cpu.run(),
        None => Verdict::Panic,
    }
}

impl<B: Backend> Cpu<B> {
    fn new(world: &'static World, number: u32, backend: B, timer: Timer) -> Option<Self> {
        let desk = world.desks.get(number as usize)?;
        let places = world.vms.iter().flat_map(|vm| {
            let cpus = (0..).zip(&vm.cpus);
            cpus.filter(|&(_, &cpu)| cpu == number).map(move |(index, _)| (vm, index))
        });
        let alone = places.clone().count() == 1;
        let seats = places.map(|(vm, index)| Seat::new(vm, index, alone)).collect();
        let boots = number == 0;
        let (next, loaded, chores) = (0, None, None);
        Some(Self { world, desk, boots, backend, timer, seats, next, loaded, chores })
    }

    /// Comes back on the boot CPU alone, once all guests have ended.
    fn run(&mut self) -> Verdict {
        loop {
            self.desk.kicked.store(false, Ordering::SeqCst);
            self.desk.orders.store(false, Ordering::SeqCst);
            self.do_duties();
            if self.boots
                && let Some(verdict) = self.look_after_terminal()
            {
                return verdict;
            }
            match self.choose(rdtsc()) {
                Some(at) => match self.give_turn(at) {
                    Left::Turn => self.next = at + 1,
                    Left::Duties => self.next = at,
                },
                None => self.wait(),
            }
        }
    }

    /// Lets virtual CPUs join and leave as their machines demand.
    fn do_duties(&mut self) {
        for at in 0..self.seats.len() {
            let Some(seat) = self.seats.get_mut(at) else { return };
            seat.forget(self.loaded == Some(at));
            match seat.duty() {
                Duty::Run | Duty::Rest => {}
                Duty::Join(life, epoch) => {
                    if self.loaded == Some(at) {
                        self.unload();
                    }
                    self.join(at, life, epoch);
                }
                Duty::Leave(epoch) => {
                    if self.loaded == Some(at) {
                        self.unload();
                    }
                    self.leave(at, epoch);
                }
            }
        }
    }

    fn join(&mut self, at: usize, life: Arc<Life>, epoch: u32) {
        let Some(seat) = self.seats.get_mut(at) else { return };
        match seat.join(life, epoch, &mut self.backend) {
            // A paused machine's seats rest.
            Ok(()) => _ = seat.duty(),
            Err(why) => {
                let why = StartError::Backend(why);
                log::error!("{}: virtual CPU {}: {why}", seat.vm.config.name, seat.index);
                seat.vm.end(Verdict::Crashed);
            }
        }
    }

    fn leave(&mut self, at: usize, epoch: u32) {
        let Some(seat) = self.seats.get_mut(at) else { return };
        if !seat.leave(epoch) {
            return;
        }
        let vm = seat.vm;
        let Some((verdict, life)) = vm.left() else { return };
        report::ending(&vm.config.name, &life);
        // Its memory is free, and its functions are at rest, before that is told and before it is started again.
        drop(life);
        console::say(format_args!("{} ended: {verdict}", vm.config.name));
        if verdict == Verdict::Reset && vm.config.on_reset == OnReset::Restart {
            self.world.begin(vm);
        } else {
            vm.ended(verdict);
        }
        // The boot CPU looks whether that was the last one.
        super::order(0);
    }

    /// Serves terminal and monitor; a verdict once all guests have ended.
    fn look_after_terminal(&mut self) -> Option<Verdict> {
        let world = self.world;
        while let Some(line) = terminal::serve(&world.vms) {
            monitor::answer(world, &line, &mut || self.do_duties());
        }
        iommu::look_after();
        hosting::look_after();
        self.chores = earlier(terminal::poll(), vdev::look_after());
        monitor::all_ended(world)
    }

    /// Whose turn it is at `now`.
    fn choose(&self, now: u64) -> Option<usize> {
        let count = self.seats.len();
        let next = self.next.checked_rem(count).unwrap_or(0);
        let mut in_turn = (next..count).chain(0..next);
        in_turn.find(|&at| self.seats.get(at).is_some_and(|seat| seat.is_ready(now)))
    }

    /// Waits for an interrupt, a deadline, or news, which can have come since they were looked for.
    fn wait(&mut self) {
        let wakes = self.seats.iter().filter_map(Seat::wakes).min();
        if let Some(deadline) = earlier(wakes, self.chores) {
            self.timer.arm(deadline);
        }
        self.desk.wait();
    }

    fn unload(&mut self) {
        if let Some(at) = self.loaded.take()
            && let Some(vcpu) = self.seats.get_mut(at).and_then(|seat| seat.vcpu.as_mut())
        {
            vcpu.unload();
        }
    }

    /// Runs a virtual CPU until it has to leave.
    fn give_turn(&mut self, at: usize) -> Left {
        if self.loaded != Some(at) {
            self.unload();
        }
        let is_new = self.loaded.replace(at).is_none();
        let now = rdtsc();
        let (before, rest) = self.seats.split_at_mut(at);
        let Some((seat, after)) = rest.split_first_mut() else { return Left::Turn };
        let others = || before.iter().chain(&*after);
        let tests = seat.vm.config.test.save_restore;
        let is_shared = tests || others().any(|other| other.is_ready(now));
        let end = is_shared.then(|| now.saturating_add(self.world.slice));
        let wake = others().filter_map(Seat::wakes).filter(|&at| at > now).min();
        let limit = earlier(end, earlier(wake, self.chores));
        let (desk, boots) = (self.desk, self.boots);
        let leaves = || {
            if desk.orders.load(Ordering::SeqCst) || boots && console::has_typed() {
                return Some(Left::Duties);
            }
            let now = rdtsc();
            // Who was not ready when the turn began and now is goes first.
            let is_over = limit.is_some_and(|at| at <= now)
                || end.is_none() && others().any(|other| other.is_ready(now));
            is_over.then_some(Left::Turn)
        };
        let terms = turn::Terms { is_new, is_alone: end.is_none(), limit };
        let left = turn::run(self.world, desk, seat, &mut self.timer, terms, leaves);
        if tests {
            self.unload();
            if let Some(seat) = self.seats.get_mut(at) {
                seat.change_over();
            }
        }
        left
    }
}
