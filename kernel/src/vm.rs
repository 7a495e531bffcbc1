//! A virtual machine as Kerf keeps it: its configuration, what it does ([`Phase`]), and the [`Life`] it leads from one
//! start to its end. [`crate::sched`] runs it; [`crate::monitor`] and the guest itself change what it does.
//!
//! Every virtual CPU belongs to one CPU, which alone makes and drops it. So a machine ends in two steps: whoever ends it
//! says so ([`Vm::end`]), each CPU then takes its virtual CPUs out of it, and the last one frees the memory.

use alloc::collections::VecDeque;
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::sync::atomic::{AtomicU32, Ordering};

use manage::State;
use spin::Mutex;
use vmm::platform::InterruptMessage;

use crate::assign::Granted;
use crate::launch::{Life, StartError};
use crate::power::Verdict;
use crate::{sched, start, terminal};

/// Bytes kept of what was typed at a guest: what no one reads for long is dropped, as a UART does.
const TYPED_BYTES: usize = 1024;

/// A virtual machine.
#[derive(Debug)]
pub(crate) struct Vm {
    /// Its place in the configuration.
    pub(crate) index: usize,
    /// What it is to be.
    pub(crate) config: config::Vm,
    /// The CPU of each virtual CPU; empty where it cannot be started.
    pub(crate) cpus: Vec<u32>,
    /// The machine's functions that it has.
    pub(crate) functions: Vec<Granted>,
    present: Mutex<Present>,
    /// Virtual CPUs that have not left the present life.
    seated: AtomicU32,
    /// How many want its virtual CPUs to stand still for a moment.
    held: AtomicU32,
    typed: Mutex<VecDeque<u8>>,
}

#[derive(Debug)]
struct Present {
    phase: Phase,
    /// Counts the lives.
    epoch: u32,
    life: Option<Arc<Life>>,
}

/// What a virtual machine does.
#[derive(Debug)]
pub(crate) enum Phase {
    /// Its virtual CPUs run when they can.
    Running,
    /// They stand still.
    Paused,
    /// They are to leave.
    Stopping(Verdict),
    /// They have left, and it has no memory.
    Ended(Verdict),
    /// It could not be started.
    Failed(StartError),
}

/// What a virtual CPU's seat is to do.
#[derive(Debug)]
pub(crate) enum Duty {
    /// Run.
    Run,
    /// Stand still.
    Rest,
    /// Take a place in this life.
    Join(Arc<Life>, u32),
    /// Leave it, and say so by [`Vm::left`].
    Leave(u32),
}

/// For as long as this lives, no virtual CPU of the machine begins a turn.
#[derive(Debug)]
pub(crate) struct Hold<'a>(&'a Vm);

impl Drop for Hold<'_> {
    fn drop(&mut self) {
        self.0.held.fetch_sub(1, Ordering::SeqCst);
        self.0.order_all();
    }
}

impl Vm {
    /// A virtual machine that has not been started yet.
    pub(crate) fn new(
        index: usize,
        config: config::Vm,
        cpus: Vec<u32>,
        functions: Vec<Granted>,
    ) -> Self {
        let phase = Phase::Ended(Verdict::Stopped);
        Self {
            index,
            config,
            cpus,
            functions,
            present: Mutex::new(Present { phase, epoch: 0, life: None }),
            seated: AtomicU32::new(0),
            held: AtomicU32::new(0),
            typed: Mutex::new(VecDeque::with_capacity(TYPED_BYTES)),
        }
    }

    /// Starts a life, or tells why there is none. Not while it has one.
    pub(crate) fn begin(&self, life: Result<Life, StartError>) {
        let mut present = self.present.lock();
        match life {
            Ok(life) => {
                self.seated.store(self.cpus.len() as u32, Ordering::Relaxed);
                self.typed.lock().clear();
                present.epoch += 1;
                present.life = Some(Arc::new(life));
                present.phase = Phase::Running;
            }
            Err(why) => {
                log::error!("{} cannot start: {why}", self.config.name);
                present.phase = Phase::Failed(why);
            }
        }
        drop(present);
        self.order_all();
    }

    /// What the seat of a virtual CPU is to do that took part in lives up to number `epoch`.
    pub(crate) fn duty(&self, epoch: u32) -> Duty {
        let present = self.present.lock();
        match (&present.phase, &present.life) {
            (Phase::Running | Phase::Paused, Some(life)) if present.epoch != epoch => {
                Duty::Join(Arc::clone(life), present.epoch)
            }
            (Phase::Running, _) if self.held.load(Ordering::SeqCst) == 0 => Duty::Run,
            (Phase::Stopping(_), _) => Duty::Leave(present.epoch),
            _ => Duty::Rest,
        }
    }

    /// Ends it; the first word counts. False where it is not alive.
    pub(crate) fn end(&self, verdict: Verdict) -> bool {
        let mut present = self.present.lock();
        let is_alive = matches!(present.phase, Phase::Running | Phase::Paused);
        if is_alive {
            present.phase = Phase::Stopping(verdict);
        }
        drop(present);
        self.order_all();
        is_alive
    }

    /// A virtual CPU has left. The last one is given the life and how it ended; it then calls [`Vm::ended`] or
    /// [`Vm::begin`].
    pub(crate) fn left(&self) -> Option<(Verdict, Arc<Life>)> {
        if self.seated.fetch_sub(1, Ordering::SeqCst) != 1 {
            return None;
        }
        terminal::ended(self.index);
        let mut present = self.present.lock();
        match present.phase {
            Phase::Stopping(verdict) => present.life.take().map(|life| (verdict, life)),
            _ => None,
        }
    }

    /// It has ended, and its memory is free.
    pub(crate) fn ended(&self, verdict: Verdict) {
        self.present.lock().phase = Phase::Ended(verdict);
    }

    /// Lets its virtual CPUs stand still, or go on. False where they do that already, or it is not alive.
    pub(crate) fn set_paused(&self, paused: bool) -> bool {
        let mut present = self.present.lock();
        present.phase = match (&present.phase, paused) {
            (Phase::Running, true) => Phase::Paused,
            (Phase::Paused, false) => Phase::Running,
            _ => return false,
        };
        drop(present);
        self.order_all();
        true
    }

    /// Keeps its virtual CPUs from running: each stops soon after, and goes on once the value is dropped.
    pub(crate) fn hold(&self) -> Hold<'_> {
        self.held.fetch_add(1, Ordering::SeqCst);
        self.order_all();
        Hold(self)
    }

    /// What it does, for the monitor.
    pub(crate) fn state(&self) -> State {
        match &self.present.lock().phase {
            Phase::Running => State::Running,
            Phase::Paused => State::Paused,
            Phase::Stopping(_) => State::Stopping,
            Phase::Ended(verdict) => State::Ended(alloc::format!("{verdict}")),
            Phase::Failed(why) => State::Failed(alloc::format!("{why}")),
        }
    }

    /// How it ended, if it has.
    pub(crate) fn verdict(&self) -> Option<Verdict> {
        match self.present.lock().phase {
            Phase::Ended(verdict) => Some(verdict),
            Phase::Failed(_) => Some(Verdict::NotStarted),
            _ => None,
        }
    }

    /// The life it leads.
    pub(crate) fn life(&self) -> Option<Arc<Life>> {
        self.present.lock().life.clone()
    }

    /// Breaks the lock on that, for a CPU that stops for good.
    pub(crate) fn break_lock(&self) {
        if self.present.is_locked() {
            start::break_lock(&self.present);
        }
    }

    /// Types at it.
    pub(crate) fn type_in(&self, byte: u8) {
        let mut typed = self.typed.lock();
        if typed.len() < TYPED_BYTES {
            typed.push_back(byte);
        }
        drop(typed);
        if let Some(life) = self.life() {
            life.vm.console_ready();
            self.kick(0);
        }
    }

    /// The next byte typed at it.
    pub(crate) fn typed(&self) -> Option<u8> {
        self.typed.lock().pop_front()
    }

    /// Makes a virtual CPU look into its mailbox.
    pub(crate) fn kick(&self, vcpu: u32) {
        if let Some(&cpu) = self.cpus.get(vcpu as usize) {
            sched::kick(cpu);
        }
    }

    /// An interrupt of one of its functions came. For handlers.
    pub(crate) fn deliver(&self, message: &InterruptMessage) {
        // The life is not cloned: its last owner must not be a handler.
        if let Some(life) = &self.present.lock().life {
            life.vm.deliver(message, |vcpu| self.kick(vcpu));
        }
    }

    /// Makes all its CPUs ask for their duties.
    pub(crate) fn order_all(&self) {
        self.cpus.iter().for_each(|&cpu| sched::order(cpu));
    }
}
