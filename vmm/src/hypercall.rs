//! Hypercalls: VMCALL or VMMCALL from privilege level 0, number in RAX, arguments in RDI, RSI and RDX, result in RAX.

use vcpu::{Gpr, Vcpu};
use x86_spec::cpu::vector;

use crate::GuestMemory;
use crate::cpu::Core;
use crate::exit::Outcome;
use crate::insn::exiting::Plain;

/// Numbers of hypercalls.
pub mod number {
    /// The version of this interface; see [`super::VERSION`].
    pub const VERSION: u64 = 0;
}

/// What [`number::VERSION`] returns: major number in bits 31:16, minor in 15:0.
pub const VERSION: u64 = 1 << 16;
/// What a hypercall by an unknown number returns.
pub const UNKNOWN: u64 = u64::MAX;

impl Core {
    pub(crate) fn hypercall<V: Vcpu, M: GuestMemory>(
        &mut self,
        vcpu: &mut V,
        memory: &M,
    ) -> Outcome {
        if vcpu.cpl() != 0 {
            return self.fault(vcpu, vector::UD, None);
        }
        let Some(len) = self.length(vcpu, memory, Plain::Hypercall) else {
            return self.try_again(vcpu, memory);
        };
        let result = match vcpu.gpr(Gpr::Rax) {
            number::VERSION => VERSION,
            unknown => {
                self.counters.unknown_hypercalls.note(unknown);
                UNKNOWN
            }
        };
        vcpu.set_gpr(Gpr::Rax, result);
        self.complete(vcpu, len)
    }
}
