//! A virtual CPU's turn: the hot loop. Between entry and entry it takes no lock that another virtual machine could hold,
//! allocates nothing, and looks at one flag of its CPU.

use core::sync::atomic::Ordering;

use vcpu::{Backend, Exit, Vcpu};
use vmm::{CoreState, Outcome, Ready};

use super::cpu::{Left, earlier};
use super::seat::{Around, Seat, View, Wait, verdict};
use super::{Desk, World};
use crate::irq::Timer;
use crate::{platform, report};

/// What a turn is given.
#[derive(Clone, Copy, Debug)]
pub(super) struct Terms {
    /// The CPU does not hold the virtual CPU's state yet.
    pub(super) is_new: bool,
    /// No one else has a use for the CPU while the virtual CPU waits.
    pub(super) is_alone: bool,
    /// When it ends, if others want the CPU then.
    pub(super) limit: Option<u64>,
}

/// Runs the virtual CPU of `seat` until it waits, its machine ends, or `leaves` says so after an interrupt or a kick.
pub(super) fn run<B: Backend>(
    world: &'static World,
    desk: &Desk,
    seat: &mut Seat<B>,
    timer: &mut Timer,
    terms: Terms,
    leaves: impl Fn() -> Option<Left>,
) -> Left {
    let Terms { is_new, is_alone, limit } = terms;
    let (Some(vcpu), Some(life)) = (&mut seat.vcpu, seat.life.as_deref()) else {
        return Left::Turn;
    };
    let Some(core) = life.cores.get(seat.index as usize) else { return Left::Turn };
    if is_new {
        vcpu.load();
    }
    // Held for the whole turn: whoever wants to look at it has the machine stand still first.
    let core = &mut *core.lock();
    let vm = &life.vm;
    let hidden = |view| if view == 0 { None } else { life.hidden };
    let mut memory = View::new(&life.memory, hidden(seat.view));
    let tsc_ratio = life.start.tsc_ratio;
    let mut host = Around { world, vm: seat.vm, hidden: hidden(seat.view), tsc_ratio };
    let unscaled = |at: Option<u64>| at.map(|at| tsc_ratio.unscale(at));
    seat.wait = Wait::Ready;
    desk.set_current(Some((seat.vm.index, seat.index)));
    let left = loop {
        if desk.kicked.load(Ordering::Relaxed) {
            desk.kicked.store(false, Ordering::SeqCst);
            if let Some(left) = leaves() {
                break left;
            }
        }
        match core.prepare_entry(vm, vcpu, &mut host) {
            Ready::Run { deadline } => {
                if let Some(at) = earlier(unscaled(deadline), limit) {
                    timer.arm(at);
                }
            }
            Ready::Wait { deadline } => {
                let deadline = unscaled(deadline);
                if !is_alone {
                    seat.wait = Wait::Until(deadline);
                    break Left::Turn;
                }
                if let Some(at) = earlier(deadline, limit) {
                    timer.arm(at);
                }
                desk.wait();
                if let Some(left) = leaves() {
                    seat.wait = Wait::Until(deadline);
                    break left;
                }
                continue;
            }
        }
        // What is frequent and plain is answered in there; `None` where that leaves something to prepare.
        let Some(exit) = core.run(vm, vcpu, &memory, &mut host) else { continue };
        let is_interrupted = exit == Exit::ExternalInterrupt;
        if is_interrupted {
            platform::interrupts_on_briefly();
        }
        match core.handle(exit, vm, vcpu, &memory, &mut host) {
            Outcome::Resume | Outcome::Wait => {}
            Outcome::SelectView(view) => {
                if let Some(&root) = life.views.get(usize::from(view)) {
                    seat.view = view.into();
                    memory.hide(hidden(seat.view));
                    host.hidden = hidden(seat.view);
                    vcpu.set_second_stage(root);
                }
            }
            outcome => {
                core.show_output(vm, &mut host);
                if let Outcome::Crashed(crash) = outcome {
                    report::crash(&seat.vm.config.name, seat.index, &crash, vcpu);
                }
                if let Some(verdict) = verdict(outcome) {
                    seat.vm.end(verdict);
                }
                break Left::Duties;
            }
        }
        if is_interrupted && let Some(left) = leaves() {
            break left;
        }
    };
    core.show_output(vm, &mut host);
    if seat.vm.config.test.save_restore {
        // The virtual CPU's registers go to and fro afterwards.
        let bytes = core.save(vm, vcpu).to_bytes();
        let restored = CoreState::from_bytes(&bytes).and_then(|state| core.restore(&state, vm));
        if let Err(why) = restored {
            log::error!("{}: a saved state is refused: {why:x?}", seat.vm.config.name);
        }
        // What was sent meanwhile has been taken, and may end a wait.
        seat.wait = Wait::Ready;
    }
    desk.set_current(None);
    left
}
