//! What one guest could learn of another from the CPU they share: branch predictions, and what is left in the L1 cache and
//! in buffers. It is dropped where a virtual CPU of another machine takes a CPU over, as far as the CPU says that it needs
//! to be (SDM vol. 4, IA32_ARCH_CAPABILITIES; APM vol. 2, 3.2.9).

mod insn;

use alloc::sync::Arc;
use core::sync::atomic::{AtomicU16, Ordering};

use hw::{CpuidBus, MsrBus};
use x86_spec::msr;

use crate::speculation::{IBPB, L1D_FLUSH, Speculation};

/// IA32_ARCH_CAPABILITIES: not concerned by L1TF; no flush needed for it at VM entry; not concerned by MDS.
const RDCL_NO: u64 = 1 << 0;
const SKIP_L1DFL: u64 = 1 << 3;
const MDS_NO: u64 = 1 << 5;

/// What one CPU needs. Its virtual CPUs have copies, which know of each other.
#[derive(Clone, Debug)]
pub(crate) struct Barrier {
    predictions: bool,
    l1d: bool,
    buffers: bool,
    /// The address space that had the CPU last; 0 for none.
    last: Arc<AtomicU16>,
}

impl Barrier {
    /// Asks CPUID and IA32_ARCH_CAPABILITIES.
    pub(crate) fn probe(
        cpuid: &impl CpuidBus,
        msrs: &impl MsrBus,
        speculation: &Speculation,
    ) -> Self {
        let leaf7 = if cpuid.cpuid(0, 0).eax >= 7 { cpuid.cpuid(7, 0).edx } else { 0 };
        let has = |bit: u32| leaf7 & 1 << bit != 0;
        let capabilities = if has(29) { msrs.read(msr::ARCH_CAPABILITIES).unwrap_or(0) } else { 0 };
        Self {
            predictions: speculation.pred_cmd,
            l1d: speculation.flush_cmd && capabilities & (RDCL_NO | SKIP_L1DFL) == 0,
            buffers: has(10) && capabilities & MDS_NO == 0,
            last: Arc::default(),
        }
    }

    /// A virtual CPU of `address_space` takes the CPU over.
    pub(crate) fn cross(&self, address_space: u16) {
        let last = self.last.swap(address_space, Ordering::Relaxed);
        if last == address_space || last == 0 {
            return;
        }
        if self.predictions {
            insn::command(msr::PRED_CMD, IBPB);
        }
        if self.l1d {
            insn::command(msr::FLUSH_CMD, L1D_FLUSH);
        }
        if self.buffers {
            insn::clear_buffers();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use hw::{CpuidResult, Msr, MsrFault};

    /// A CPU with what leaf 7 says in EDX, these capabilities, and the command registers or not.
    struct Cpu {
        leaf7: u32,
        capabilities: u64,
        commands: bool,
    }

    impl CpuidBus for Cpu {
        fn cpuid(&self, leaf: u32, _: u32) -> CpuidResult {
            match leaf {
                0 => CpuidResult { eax: 7, ..CpuidResult::default() },
                7 => CpuidResult { edx: self.leaf7, ..CpuidResult::default() },
                _ => CpuidResult::default(),
            }
        }
    }

    impl MsrBus for Cpu {
        fn read(&self, _: Msr) -> Result<u64, MsrFault> {
            Ok(self.capabilities)
        }

        fn write(&self, msr: Msr, _: u64) -> Result<(), MsrFault> {
            if self.commands { Ok(()) } else { Err(MsrFault(msr)) }
        }
    }

    fn needs(cpu: &Cpu) -> [bool; 3] {
        let barrier = Barrier::probe(cpu, cpu, &Speculation::probe(cpu, cpu));
        [barrier.predictions, barrier.l1d, barrier.buffers]
    }

    #[test]
    fn a_cpu_needs_what_it_does_not_rule_out() {
        const ALL: u32 = 1 << 10 | 1 << 26 | 1 << 28 | 1 << 29;
        assert_eq!(needs(&Cpu { leaf7: 0, capabilities: 0, commands: true }), [false; 3]);
        assert_eq!(needs(&Cpu { leaf7: ALL, capabilities: 0, commands: true }), [true; 3]);
        let newer = Cpu { leaf7: ALL, capabilities: RDCL_NO | MDS_NO, commands: true };
        assert_eq!(needs(&newer), [true, false, false]);
        let skips = Cpu { leaf7: ALL, capabilities: SKIP_L1DFL, commands: true };
        assert_eq!(needs(&skips), [true, false, true]);
        let faults = Cpu { leaf7: ALL, capabilities: 0, commands: false };
        assert_eq!(needs(&faults), [false, false, true]);
    }

    #[test]
    fn copies_know_who_was_last() {
        let cpu = Cpu { leaf7: 0, capabilities: 0, commands: true };
        let one = Barrier::probe(&cpu, &cpu, &Speculation::NONE);
        let other = one.clone();
        one.cross(1);
        other.cross(2);
        assert_eq!(one.last.load(Ordering::Relaxed), 2);
    }
}
