//! NMIs wait until the handler of the one before is done (APM vol. 2, 8.2.3). The CPU does not see to that for NMIs that are
//! injected, so IRET is intercepted meanwhile. It exits before it is carried out; where an NMI waits, IRET is then
//! single-stepped, for the guest to have left the handler's stack when the NMI comes.

use x86_spec::cpu::{Rflags, vector};
use x86_spec::svm::{Clean, EventWord, Intercept3, Vmcb, exit_code};

use super::SvmVcpu;

/// DR6.BS: a single step.
pub(super) const DR6_STEP: u64 = 1 << 14;
/// DR6's B0 to B3, and in DR7 what enables them.
const DR6_BREAKPOINTS: u64 = 0xf;
const DR7_ENABLED: u64 = 0xff;
const TF: u64 = Rflags::TF.bits();

/// Whether an NMI can be delivered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Nmis {
    /// It can.
    Open,
    /// Not before IRET, which is intercepted.
    Blocked,
    /// Not before the IRET here, which is no longer intercepted, has been carried out.
    Ending(Place),
    /// Likewise, and that is being stepped; RFLAGS.TF and DR6.BS were these.
    Stepping { iret: Place, tf: u64, step: u64 },
}

/// RIP and RSP. If the guest comes to both again in another way, an NMI waits for that IRET too.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Place(u64, u64);

impl SvmVcpu {
    /// Whether an NMI has to wait.
    pub(super) fn blocks_nmis(&self) -> bool {
        match self.waiting.nmis {
            Nmis::Open => false,
            Nmis::Ending(iret) => self.place() == iret,
            Nmis::Blocked | Nmis::Stepping { .. } => true,
        }
    }

    pub(super) fn set_nmis(&mut self, nmis: Nmis) {
        self.waiting.nmis = nmis;
        let mut intercepts = Intercept3::from_bits_retain(self.vmcb.control.intercept3);
        intercepts.set(Intercept3::IRET, nmis == Nmis::Blocked);
        if intercepts.bits() != self.vmcb.control.intercept3 {
            self.vmcb.control.intercept3 = intercepts.bits();
            self.changed(Clean::INTERCEPTS);
        }
    }

    /// IRET was intercepted.
    pub(super) fn end_nmi(&mut self) {
        self.set_nmis(Nmis::Ending(self.place()));
    }

    /// Steps IRET, if that is next and an NMI waits for its end.
    pub(super) fn step_iret(&mut self) {
        let Nmis::Ending(iret) = self.waiting.nmis else { return };
        if self.place() != iret || EventWord(self.vmcb.control.event_injection).is_valid() {
            return;
        }
        let save = &mut self.vmcb.save;
        let (tf, step) = (save.rflags & TF, save.dr6 & DR6_STEP);
        save.rflags |= TF;
        self.set_nmis(Nmis::Stepping { iret, tf, step });
    }

    /// What follows the step: whether the exit was for it alone.
    #[cold]
    pub(super) fn end_step(&mut self, iret: Place, tf: u64, step: u64) -> bool {
        const DEBUG: u64 = exit_code::EXCEPTION + vector::DB as u64;
        let here = self.place();
        let Vmcb { control, save } = &mut *self.vmcb;
        let is_stepped = control.exit_code == DEBUG && save.dr6 & DR6_STEP != 0;
        if !is_stepped && here == iret {
            // Something came first, and may be delivered first.
            save.rflags = save.rflags & !TF | tf;
            self.set_nmis(Nmis::Blocked);
            return false;
        }
        let by_breakpoint = save.dr6 & DR6_BREAKPOINTS != 0 && save.dr7 & DR7_ENABLED != 0;
        if is_stepped && tf == 0 {
            save.dr6 = save.dr6 & !DR6_STEP | step;
            self.changed(Clean::DEBUG_REGISTERS);
        }
        self.set_nmis(Nmis::Open);
        is_stepped && tf == 0 && !by_breakpoint
    }

    fn place(&self) -> Place {
        Place(self.vmcb.save.rip, self.vmcb.save.rsp)
    }
}
