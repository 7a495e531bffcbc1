//! A virtual CPU's place on its CPU.

use alloc::sync::Arc;

use hw::{Gpa, PAGE_SIZE};
use vcpu::{Backend, Code64, EnableError, SecondStageFault, TscRatio, Vcpu, VcpuState};
use vmm::{Backing, GuestMemory, Host, NoMemory, Outcome};

use super::World;
use crate::launch::Life;
use crate::mem::{Fetch, GuestRam, Pages};
use crate::platform::rdtsc;
use crate::terminal;
use crate::vm::{Duty, Vm};

/// A virtual CPU's place on its CPU: it stays, whatever lives its machine leads.
pub(super) struct Seat<B: Backend> {
    pub(super) vm: &'static Vm,
    /// Which of the machine's it is.
    pub(super) index: u32,
    /// No other virtual CPU has this CPU.
    alone: bool,
    /// The last of the machine's lives that was joined or skipped.
    epoch: u32,
    pub(super) life: Option<Arc<Life>>,
    /// Made at the first life, used in all.
    pub(super) vcpu: Option<B::Vcpu>,
    /// As it was made, for the next life.
    fresh: Option<VcpuState>,
    /// What the state goes to and fro between, where a test wants that.
    spare: Option<B::Vcpu>,
    /// The machine is paused.
    resting: bool,
    pub(super) wait: Wait,
    /// The view that it has.
    pub(super) view: usize,
    /// What it has forgotten of its second stages: [`crate::stages`].
    forgotten: u64,
}

/// Whether a virtual CPU can go on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Wait {
    /// It can.
    Ready,
    /// It waits for its mailbox, or for this time.
    Until(Option<u64>),
}

impl<B: Backend> Seat<B> {
    pub(super) const fn new(vm: &'static Vm, index: u32, alone: bool) -> Self {
        Self {
            vm,
            index,
            alone,
            epoch: 0,
            life: None,
            vcpu: None,
            fresh: None,
            spare: None,
            resting: false,
            wait: Wait::Ready,
            view: 0,
            forgotten: 0,
        }
    }

    /// Whether it could run at `now`.
    pub(super) fn is_ready(&self, now: u64) -> bool {
        let Some(life) = self.life.as_ref().filter(|_| !self.resting) else { return false };
        match self.wait {
            Wait::Ready => true,
            Wait::Until(deadline) => {
                deadline.is_some_and(|at| at <= now) || life.vm.attention(self.index)
            }
        }
    }

    /// When it can run, where it waits for a time.
    pub(super) fn wakes(&self) -> Option<u64> {
        match self.wait {
            Wait::Until(deadline) if self.life.is_some() && !self.resting => deadline,
            _ => None,
        }
    }

    /// What it is to do now; what concerns this seat alone is done.
    pub(super) fn duty(&mut self) -> Duty {
        let duty = self.vm.duty(self.epoch);
        self.resting = !matches!(duty, Duty::Run);
        duty
    }

    /// Takes its place in a life.
    ///
    /// # Errors
    /// The virtual CPU cannot be made.
    pub(super) fn join(
        &mut self,
        life: Arc<Life>,
        epoch: u32,
        backend: &mut B,
    ) -> Result<(), EnableError> {
        self.epoch = epoch;
        (self.wait, self.view, self.resting) = (Wait::Ready, 0, true);
        let init = life.vcpu(self.vm, self.alone);
        match (&mut self.vcpu, &self.fresh) {
            (Some(vcpu), Some(fresh)) => {
                let mut fresh = fresh.clone();
                fresh.registers = init.registers;
                vcpu.set_second_stage(init.second_stage);
                vcpu.set_tsc_offset(init.tsc_offset);
                // It was saved here from the same virtual CPU.
                if vcpu.restore(&fresh).is_err() {
                    return Err(EnableError::Instruction("restoring the first state"));
                }
            }
            _ => {
                let vcpu = backend.create_vcpu(&init, &mut Pages)?;
                self.fresh = Some(vcpu.save());
                self.vcpu = Some(vcpu);
                if self.vm.config.test.save_restore {
                    self.spare = Some(backend.create_vcpu(&init, &mut Pages)?);
                }
            }
        }
        self.forgotten = life.stages.generation();
        life.stages.forgotten(self.index, self.forgotten);
        if let Some(spare) = &mut self.spare {
            spare.set_second_stage(life.start.second_stage);
            spare.set_tsc_offset(life.start.tsc_offset);
        }
        self.life = Some(life);
        Ok(())
    }

    /// Forgets what its second stages have lost; `is_loaded` where the CPU holds its state, else loading it will do that.
    pub(super) fn forget(&mut self, is_loaded: bool) {
        let (Some(vcpu), Some(life)) = (&mut self.vcpu, &self.life) else { return };
        let generation = life.stages.generation();
        if self.forgotten == generation {
            return;
        }
        if is_loaded {
            vcpu.flush_translations();
        }
        self.forgotten = generation;
        life.stages.forgotten(self.index, generation);
    }

    /// Leaves its life, or skips that number `epoch`.
    pub(super) fn leave(&mut self, epoch: u32) -> bool {
        let was_in = self.life.take().is_some();
        let owed = was_in || self.epoch != epoch;
        self.epoch = epoch;
        owed
    }

    /// Goes over to the spare virtual CPU, where a test wants that. The present one is not loaded.
    pub(super) fn change_over(&mut self) {
        let (Some(vcpu), Some(spare)) = (&mut self.vcpu, &mut self.spare) else { return };
        if let Some(life) = &self.life
            && let Some(&view) = life.views.get(self.view)
        {
            spare.set_second_stage(view);
        }
        match spare.restore(&vcpu.save()) {
            Ok(()) => core::mem::swap(vcpu, spare),
            Err(why) => log::error!("{}: a saved state is refused: {why:x?}", self.vm.config.name),
        }
    }
}

/// A machine's memory, as a view shows it.
pub(super) struct View<'a> {
    fetch: Fetch<'a>,
    /// The page that it does not show.
    hidden: Option<Gpa>,
}

impl<'a> View<'a> {
    pub(super) fn new(memory: &'a GuestRam, hidden: Option<Gpa>) -> Self {
        Self { fetch: Fetch::new(memory), hidden }
    }

    /// Goes over to another view, which does not show that page.
    pub(super) fn hide(&mut self, page: Option<Gpa>) {
        self.hidden = page;
        self.fetch.forget();
    }

    fn check(&self, gpa: Gpa, bytes: usize) -> Result<(), NoMemory> {
        match self.hidden {
            Some(page)
                if gpa.raw() < page.raw() + PAGE_SIZE
                    && page.raw() < gpa.raw().saturating_add(bytes as u64) =>
            {
                Err(NoMemory(page.max(gpa)))
            }
            _ => Ok(()),
        }
    }
}

impl GuestMemory for View<'_> {
    fn read(&self, gpa: Gpa, into: &mut [u8]) -> Result<(), NoMemory> {
        self.check(gpa, into.len())?;
        self.fetch.ram().read(gpa, into)
    }

    #[inline]
    fn read_u64(&self, gpa: Gpa) -> Option<u64> {
        self.check(gpa, 8).ok()?;
        self.fetch.ram().read_u64(gpa)
    }

    #[inline(always)]
    fn code(&self, code: Code64) -> Option<u64> {
        self.fetch.word(code, self)
    }

    fn write(&self, gpa: Gpa, from: &[u8]) -> Result<(), NoMemory> {
        self.check(gpa, from.len())?;
        self.fetch.ram().write(gpa, from)
    }
}

/// The machine around a virtual CPU that runs.
pub(super) struct Around {
    pub(super) world: &'static World,
    pub(super) vm: &'static Vm,
    /// What its view does not show.
    pub(super) hidden: Option<Gpa>,
    pub(super) tsc_ratio: TscRatio,
}

impl Host for Around {
    fn tsc(&self) -> u64 {
        self.tsc_ratio.scale(rdtsc())
    }

    fn unix_time(&self) -> u64 {
        let passed = rdtsc().saturating_sub(self.world.entry_tsc);
        self.world.unix_time + passed / self.world.tsc_hz
    }

    fn console_write(&mut self, bytes: &[u8]) {
        terminal::print(self.vm.index, bytes);
    }

    fn console_read(&mut self) -> Option<u8> {
        self.vm.typed()
    }

    fn kick(&mut self, vcpu: u32) {
        self.vm.kick(vcpu);
    }

    fn fault(&mut self, fault: &SecondStageFault) -> Backing {
        let hidden = self.hidden.and_then(|page| fault.gpa.offset_from(page));
        match hidden {
            Some(0..0x1000) => Backing::Hidden,
            _ => Backing::Device,
        }
    }
}

/// How a machine's end by its guest is called.
pub(super) fn verdict(outcome: Outcome) -> Option<crate::power::Verdict> {
    use crate::power::Verdict;
    match outcome {
        Outcome::Resume | Outcome::Wait | Outcome::SelectView(_) => None,
        Outcome::PowerOff => Some(Verdict::PowerOff),
        Outcome::Reset => Some(Verdict::Reset),
        Outcome::Exit(status) => Some(Verdict::Exit(status)),
        Outcome::Crashed(_) => Some(Verdict::Crashed),
    }
}
