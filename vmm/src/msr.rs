//! RDMSR and WRMSR: which registers the guest has, beyond those that the CPU and the backend keep for it.
//!
//! Four sorts: the local APIC's; the paravirtual clock's; a few that kernels touch without asking CPUID first, which answer with the value that
//! says "nothing to do here"; and the rest, which the backend has or no one has. The last get #GP(0) and are counted.

use hw::Msr;
use vcpu::{Gpr, Vcpu};
use x86_spec::msr;

use crate::cpu::Core;
use crate::crash::Crash;
use crate::exit::{Outcome, Outside, Refused, unknown};
use crate::insn::exiting::Plain;
use crate::platform::lapic::LocalApic;
use crate::platform::pvclock::PvClock;
use crate::vm::Vm;
use crate::{GuestMemory, Host};

/// IA32_MISC_ENABLE (SDM vol. 4, table 2-2): fast strings (0); no branch trace store (11), no PEBS (12).
const MISC_ENABLE: u64 = 1 << 0 | 1 << 11 | 1 << 12;
/// IA32_FEATURE_CONTROL: locked, with VMX off.
const FEATURE_CONTROL: u64 = 1 << 0;
/// IA32_MTRR_DEF_TYPE: enabled (11), everything write-back (6). There are no ranges, fixed or variable.
const MTRR_DEF_TYPE: u64 = 1 << 11 | 6;
/// IA32_BIOS_SIGN_ID: a microcode revision, in the upper half, that is not 0.
const BIOS_SIGN_ID: u64 = 1 << 32;
/// AMD's interrupt-pending message register of family 0Fh (BKDG 26094, MSRC001_0055): C1E is off. Linux reads it on every
/// CPU of that family, QEMU's default among them.
const INT_PENDING_MSG: Msr = Msr(0xc001_0055);

/// The value of a register that never changes, and whether a write to it is dropped; else it gets #GP.
const fn fixed(msr: Msr) -> Option<(u64, bool)> {
    match msr {
        msr::BIOS_SIGN_ID => Some((BIOS_SIGN_ID, true)),
        msr::FEATURE_CONTROL => Some((FEATURE_CONTROL, false)),
        msr::MTRR_CAP => Some((0, false)),
        msr::MTRR_DEF_TYPE => Some((MTRR_DEF_TYPE, true)),
        msr::MISC_ENABLE => Some((MISC_ENABLE, true)),
        // No machine-check banks.
        msr::MCG_CAP => Some((0, false)),
        msr::MCG_STATUS => Some((0, true)),
        msr::SYSCFG | msr::HWCR | INT_PENDING_MSG => Some((0, true)),
        _ => None,
    }
}

impl Core {
    pub(crate) fn msr_read<V: Vcpu, M: GuestMemory, H: Host>(
        &mut self,
        msr: Msr,
        vcpu: &mut V,
        outside: &Outside<'_, M, H>,
    ) -> Outcome {
        let Some(len) = self.length(vcpu, outside.memory, Plain::Rdmsr) else {
            return self.try_again(vcpu, outside.memory);
        };
        let value = if LocalApic::owns_msr(msr) {
            let now = self.lapic_time(self.guest_tsc(outside.host));
            self.lapic.read_msr(msr, now).ok()
        } else if PvClock::owns_msr(msr) {
            Some(self.pvclock.read_msr(msr))
        } else if msr == msr::TSC {
            Some(self.guest_tsc(outside.host))
        } else if let Some((value, _)) = fixed(msr) {
            Some(value)
        } else {
            vcpu.read_msr(msr).ok()
        };
        let value = match value {
            Some(value) => value,
            None => match self.unknown_msr(msr, false, outside.vm) {
                Ok(()) => 0,
                Err(why) => return self.refused(why, vcpu),
            },
        };
        vcpu.set_gpr(Gpr::Rax, value & 0xffff_ffff);
        vcpu.set_gpr(Gpr::Rdx, value >> 32);
        self.complete(vcpu, len)
    }

    pub(crate) fn msr_write<V: Vcpu, M: GuestMemory, H: Host>(
        &mut self,
        msr: Msr,
        value: u64,
        vcpu: &mut V,
        outside: &mut Outside<'_, M, H>,
    ) -> Outcome {
        let Some(len) = self.length(vcpu, outside.memory, Plain::Wrmsr) else {
            return self.try_again(vcpu, outside.memory);
        };
        let accepted = if LocalApic::owns_msr(msr) {
            let now = self.lapic_time(self.guest_tsc(outside.host));
            match self.lapic.write_msr(msr, value, now) {
                Ok(effect) => {
                    self.apply(effect, outside.vm, outside.host);
                    true
                }
                Err(_) => false,
            }
        } else if PvClock::owns_msr(msr) {
            let (now, unix_time) = (self.guest_tsc(outside.host), outside.host.unix_time());
            self.pvclock.write_msr(msr, value, now, unix_time, outside.memory);
            true
        } else if let Some((_, dropped)) = fixed(msr) {
            dropped
        } else {
            vcpu.write_msr(msr, value).is_ok()
        };
        if accepted {
            return self.complete(vcpu, len);
        }
        // A register that exists does not take the value, whatever becomes of unknown ones.
        let exists = fixed(msr).is_some() || vcpu.read_msr(msr).is_ok();
        match self.unknown_msr(msr, exists, outside.vm) {
            Ok(()) => self.complete(vcpu, len),
            Err(why) => self.refused(why, vcpu),
        }
    }

    /// Counts an access to a register that the guest does not have, or that does not take the value.
    fn unknown_msr(&mut self, msr: Msr, exists: bool, vm: &Vm) -> Result<(), Refused> {
        self.counters.unknown_msrs.note(msr.0.into());
        if exists || LocalApic::owns_msr(msr) {
            return Err(Refused::Fault);
        }
        unknown(vm.spec.unknown.msrs, Crash::UnknownMsr(msr))
    }
}
