//! Hypercalls: VMCALL or VMMCALL from privilege level 0, number in RAX, arguments in RDI, RSI and RDX, result in RAX.

use vcpu::{Gpr, Vcpu};
use x86_spec::cpu::vector;

use crate::cpu::Core;
use crate::exit::{Outcome, Outside};
use crate::insn::exiting::Plain;
use crate::{GuestMemory, Host};

/// Numbers of hypercalls.
pub mod number {
    /// The version of this interface; see [`super::VERSION`].
    pub const VERSION: u64 = 0;
    /// Goes on in the second-stage view numbered in RDI; where the machine has more than one. Returns 0.
    pub const SELECT_VIEW: u64 = 1;
}

/// What [`number::VERSION`] returns: major number in bits 31:16, minor in 15:0.
pub const VERSION: u64 = 1 << 16 | 1;
/// What a hypercall returns whose arguments name something that is not there.
pub const NOT_THERE: u64 = u64::MAX - 1;
/// What a hypercall by an unknown number returns.
pub const UNKNOWN: u64 = u64::MAX;

impl Core {
    pub(crate) fn hypercall<V: Vcpu, M: GuestMemory, H: Host>(
        &mut self,
        vcpu: &mut V,
        outside: &Outside<'_, M, H>,
    ) -> Outcome {
        if vcpu.cpl() != 0 {
            return self.fault(vcpu, vector::UD, None);
        }
        let Some(len) = self.length(vcpu, outside.memory, Plain::Hypercall) else {
            return self.try_again(vcpu, outside.memory);
        };
        let views = outside.vm.spec.views;
        let mut outcome = Outcome::Resume;
        let result = match vcpu.gpr(Gpr::Rax) {
            number::VERSION => VERSION,
            number::SELECT_VIEW if views > 1 => {
                match u16::try_from(vcpu.gpr(Gpr::Rdi)).ok().filter(|&view| view < views) {
                    Some(view) => {
                        outcome = Outcome::SelectView(view);
                        0
                    }
                    None => NOT_THERE,
                }
            }
            unknown => {
                self.counters.unknown_hypercalls.note(unknown);
                UNKNOWN
            }
        };
        vcpu.set_gpr(Gpr::Rax, result);
        let _ = self.complete(vcpu, len);
        outcome
    }
}
