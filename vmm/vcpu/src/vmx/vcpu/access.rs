//! Access to the state of a [`VmxVcpu`], wherever it is at the moment: in the VMCS, in the CPU, or put aside.

use hw::{Hpa, Msr, MsrFault};
use x86_spec::cpu::{Efer, Rflags};
use x86_spec::msr;
use x86_spec::vmx::control::Interruptibility;
use x86_spec::vmx::field::{Natural, SegmentRegister, guest};

use super::{DEBUGCTL_BTF, HELD, VmxVcpu};
use crate::vmx::checks::is_pat;
use crate::vmx::control_registers;
use crate::vmx::fields::{Fields, FieldsMut};
use crate::vmx::insn::{self, Current};

/// Access rights: a 64-bit code segment.
const LONG: u32 = 1 << 13;
/// DEBUGCTL bits a guest may set.
const DEBUGCTL_WRITABLE: u64 = DEBUGCTL_BTF;

/// A VMCS that is current, for as long as this lives.
pub(super) struct Visit {
    /// Of a VMCS that was made current for this visit only.
    borrowed: Option<Borrowed>,
}

struct Borrowed {
    vmcs: Hpa,
    previous: Option<Hpa>,
}

impl Visit {
    #[cold]
    #[inline(never)]
    fn borrow(vmcs: Hpa) -> Self {
        let previous = insn::vmptrst();
        let current = insn::vmptrld(vmcs);
        debug_assert!(current.is_ok(), "VMPTRLD of a VMCS that was made here");
        Self { borrowed: Some(Borrowed { vmcs, previous }) }
    }
}

impl Drop for Visit {
    #[inline]
    fn drop(&mut self) {
        if let Some(borrowed) = &self.borrowed {
            borrowed.give_back();
        }
    }
}

impl Borrowed {
    #[cold]
    #[inline(never)]
    fn give_back(&self) {
        let cleared = insn::vmclear(self.vmcs);
        debug_assert!(cleared.is_ok(), "VMCLEAR of a VMCS that was made here");
        if let Some(previous) = self.previous {
            let current = insn::vmptrld(previous);
            debug_assert!(current.is_ok(), "VMPTRLD of the VMCS that was current");
        }
    }
}

impl Fields for Visit {
    #[inline]
    fn raw(&self, encoding: u32) -> u64 {
        Current.raw(encoding)
    }
}

impl FieldsMut for Visit {
    #[inline]
    fn set_raw(&mut self, encoding: u32, value: u64) {
        Current.set_raw(encoding, value);
    }
}

impl VmxVcpu {
    /// The VMCS, current.
    #[inline]
    pub(super) fn vmcs(&self) -> Visit {
        if self.resident { Visit { borrowed: None } } else { Visit::borrow(self.vmcs) }
    }

    /// RFLAGS, read once after each exit.
    pub(super) fn cached_rflags(&self) -> u64 {
        if let Some(rflags) = self.cache.rflags() {
            return rflags;
        }
        let rflags = self.vmcs().read(guest::RFLAGS);
        self.cache.set_rflags(rflags);
        rflags
    }

    #[inline]
    pub(super) fn interruptibility(&self) -> Interruptibility {
        if let Some(raw) = self.cache.interruptibility() {
            return Interruptibility::from_bits_retain(raw as u32);
        }
        let raw = self.vmcs().read(guest::INTERRUPTIBILITY);
        self.cache.set_interruptibility(raw.into());
        Interruptibility::from_bits_retain(raw)
    }

    pub(super) fn set_interruptibility(&mut self, value: Interruptibility) {
        self.vmcs().write(guest::INTERRUPTIBILITY, value.bits());
        self.cache.set_interruptibility(value.bits().into());
    }

    /// Whether neither RFLAGS.IF nor an interrupt shadow holds interrupts off.
    pub(super) fn is_interruptible(&self) -> bool {
        self.cached_rflags() & Rflags::IF.bits() != 0
            && !self.interruptibility().intersects(Interruptibility::STI | Interruptibility::MOV_SS)
    }

    pub(super) fn blocks_nmi(&self) -> bool {
        self.interruptibility()
            .intersects(Interruptibility::STI | Interruptibility::MOV_SS | Interruptibility::NMI)
    }

    /// Whether the guest runs 64-bit code.
    pub(super) fn is_long_code(&self) -> bool {
        let vmcs = self.vmcs();
        vmcs.read(guest::EFER) & Efer::LMA.bits() != 0
            && vmcs.read(SegmentRegister::Cs.access()) & LONG != 0
    }

    pub(super) fn set_cr2(&mut self, value: u64) {
        self.cr2 = value;
        if self.resident {
            insn::write_cr2(value);
        }
    }

    pub(super) fn read_guest_msr(&self, msr: Msr) -> Result<u64, MsrFault> {
        if let Some(index) = self.held_index(msr) {
            return Ok(if self.resident { insn::rdmsr(msr) } else { self.held_msrs[index] });
        }
        let vmcs = self.vmcs();
        match msr {
            msr::EFER => Ok(vmcs.read(guest::EFER)),
            msr::PAT => Ok(vmcs.read(guest::PAT)),
            msr::DEBUGCTL => Ok(vmcs.read(guest::DEBUGCTL)),
            msr::SYSENTER_CS => Ok(vmcs.read(guest::SYSENTER_CS).into()),
            _ => base_field(msr).map(|field| vmcs.read(field)).ok_or(MsrFault(msr)),
        }
    }

    pub(super) fn write_guest_msr(&mut self, msr: Msr, value: u64) -> Result<(), MsrFault> {
        let fault = MsrFault(msr);
        if let Some(index) = self.held_index(msr) {
            let demands_canonical = matches!(msr, msr::KERNEL_GS_BASE | msr::LSTAR | msr::CSTAR);
            let is_bad = match msr {
                msr::TSC_AUX | msr::SFMASK => value >> 32 != 0,
                msr::SPEC_CTRL => value & !self.speculation.spec_ctrl != 0,
                _ => false,
            };
            if is_bad || demands_canonical && !self.capabilities.is_canonical(value) {
                return Err(fault);
            }
            self.held_msrs[index] = value;
            if self.resident {
                insn::wrmsr(msr, value);
            }
            return Ok(());
        }
        let mut vmcs = self.vmcs();
        match msr {
            msr::EFER => {
                let (current, cr0) = (vmcs.read(guest::EFER), vmcs.read(guest::CR0));
                let efer = control_registers::write_efer(current, cr0, value).map_err(|_| fault)?;
                vmcs.write(guest::EFER, efer);
            }
            msr::PAT if is_pat(value) => vmcs.write(guest::PAT, value),
            msr::DEBUGCTL if value & !DEBUGCTL_WRITABLE == 0 => vmcs.write(guest::DEBUGCTL, value),
            msr::SYSENTER_CS => vmcs.write(guest::SYSENTER_CS, value as u32),
            _ => {
                let field = base_field(msr).ok_or(fault)?;
                if !self.capabilities.is_canonical(value) {
                    return Err(fault);
                }
                vmcs.write(field, value);
            }
        }
        Ok(())
    }

    fn held_index(&self, msr: Msr) -> Option<usize> {
        HELD.iter().position(|&held| held == msr).filter(|_| self.has(msr))
    }
}

/// Registers whose values are linear addresses in the VMCS.
fn base_field(msr: Msr) -> Option<Natural> {
    match msr {
        msr::FS_BASE => Some(SegmentRegister::Fs.base()),
        msr::GS_BASE => Some(SegmentRegister::Gs.base()),
        msr::SYSENTER_ESP => Some(guest::SYSENTER_ESP),
        msr::SYSENTER_EIP => Some(guest::SYSENTER_EIP),
        _ => None,
    }
}
