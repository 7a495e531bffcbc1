//! RDMSR and WRMSR: which registers the guest has, beyond those that the CPU and the backend keep for it.
//!
//! Four sorts: the local APIC's; the paravirtual clock's; a few that kernels touch without asking CPUID first, which answer with the value that
//! says "nothing to do here"; and the rest, which the backend has or no one has. The last get #GP(0) and are counted.

use hw::Msr;
use vcpu::{Gpr, Vcpu};
use x86_spec::msr;

use crate::exit::Outcome;
use crate::insn::exiting::Plain;
use crate::machine::Machine;
use crate::platform::lapic::LocalApic;
use crate::platform::pvclock::PvClock;
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

impl Machine {
    pub(crate) fn msr_read<V: Vcpu, M: GuestMemory, H: Host>(
        &mut self,
        msr: Msr,
        vcpu: &mut V,
        memory: &M,
        host: &H,
    ) -> Outcome {
        let Some(len) = self.length(vcpu, memory, Plain::Rdmsr) else {
            return self.try_again(vcpu, memory);
        };
        let value = if LocalApic::owns_msr(msr) {
            let now = self.lapic_time(self.guest_tsc(host));
            self.lapic.read_msr(msr, now).ok()
        } else if PvClock::owns_msr(msr) {
            Some(self.pvclock.read_msr(msr))
        } else if msr == msr::TSC {
            Some(self.guest_tsc(host))
        } else if let Some((value, _)) = fixed(msr) {
            Some(value)
        } else {
            vcpu.read_msr(msr).ok()
        };
        let Some(value) = value else {
            return self.unknown_msr(msr, vcpu);
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
        memory: &M,
        host: &H,
    ) -> Outcome {
        let Some(len) = self.length(vcpu, memory, Plain::Wrmsr) else {
            return self.try_again(vcpu, memory);
        };
        let accepted = if LocalApic::owns_msr(msr) {
            let now = self.lapic_time(self.guest_tsc(host));
            self.lapic.write_msr(msr, value, now).map(|effect| self.apply(effect)).is_ok()
        } else if PvClock::owns_msr(msr) {
            let (now, unix_time) = (self.guest_tsc(host), host.unix_time());
            self.pvclock.write_msr(msr, value, now, unix_time, memory);
            true
        } else if let Some((_, dropped)) = fixed(msr) {
            dropped
        } else {
            vcpu.write_msr(msr, value).is_ok()
        };
        if accepted { self.complete(vcpu, len) } else { self.unknown_msr(msr, vcpu) }
    }
}
