//! SVM: AMD's virtualization (APM vol. 2, chapter 15), with nested paging.
//!
//! | file | what |
//! |---|---|
//! | `features` | what this CPU offers; the documented minimum |
//! | `vcpu` | [`SvmVcpu`]: one VMCB and what goes with it |
//! | `events` | what waits for a virtual CPU, and the interrupt window |
//! | `nmi` | that NMIs wait for the end of an NMI's handler |
//! | `state` | neutral registers and MSRs in and out of the VMCB; pure |
//! | `exit` | what an exit code means; pure |
//! | `checks` | the rules that VMRUN checks; pure |
//! | `hot` | the run itself: what happens between an exit and the next entry |
//! | `entry`, `insn` | the world switch and the other instructions |
//!
//! Control registers are not intercepted, as nested paging lets the guest have its own; but CR4 is, so that the host's MCE
//! stays set and reserved bits clear, and EFER, so that SVME stays set and unseen. Every port is intercepted, and every MSR but those that VMLOAD and VMSAVE switch.
//!
//! The cache bits of nested page tables index the host's PAT, so the kernel loads [`paging::format::PAT`].

mod checks;
mod entry;
mod events;
mod exit;
mod features;
mod hot;
mod insn;
mod nmi;
mod state;
#[cfg(test)]
mod tests;
mod vcpu;

pub use vcpu::SvmVcpu;

use hw::{CpuidBus, MsrBus, PAGE_SIZE};
use paging::format::Npt;
use x86_spec::cpu::Efer;
use x86_spec::msr;
use x86_spec::svm::{IOPM_BYTES, MSRPM_BYTES, msrpm_bit};

use crate::barrier::Barrier;
use crate::fpu::FpuSupport;
use crate::{Backend, EnableError, HostPages, Unsupported, VcpuInit};
use features::Features;
use insn::Owned;

/// MSRs that a guest reads and writes without an exit: VMLOAD and VMSAVE switch them.
const PASSED_THROUGH: [hw::Msr; 10] = [
    msr::FS_BASE,
    msr::GS_BASE,
    msr::KERNEL_GS_BASE,
    msr::STAR,
    msr::LSTAR,
    msr::CSTAR,
    msr::SFMASK,
    msr::SYSENTER_CS,
    msr::SYSENTER_ESP,
    msr::SYSENTER_EIP,
];

/// SVM, turned on for one CPU.
#[derive(Debug)]
pub struct Svm {
    features: Features,
    fpu: FpuSupport,
    barrier: Barrier,
    /// One bit for each port, all set.
    io_permissions: Owned<[u8; IOPM_BYTES]>,
    msr_permissions: Owned<[u8; MSRPM_BYTES]>,
    /// Where VMRUN keeps the host's state; never looked at.
    _host_save_area: Owned<[u8; PAGE_SIZE as usize]>,
}

impl Backend for Svm {
    type Vcpu = SvmVcpu;
    type Stage2 = Npt;
    const NAME: &'static str = "SVM";

    fn probe(cpuid: &impl CpuidBus, msrs: &impl MsrBus) -> Result<(), Unsupported> {
        Features::probe(cpuid, msrs).map(|_| ())
    }

    fn enable(
        cpuid: &impl CpuidBus,
        msrs: &impl MsrBus,
        pages: &mut dyn HostPages,
    ) -> Result<Self, EnableError> {
        let features = Features::probe(cpuid, msrs)?;
        let fpu = FpuSupport::probe(cpuid);
        let host_save_area = Owned::<[u8; PAGE_SIZE as usize]>::new(pages)?;
        let mut io_permissions = Owned::<[u8; IOPM_BYTES]>::new(pages)?;
        io_permissions.fill(0xff);
        let mut msr_permissions = Owned::<[u8; MSRPM_BYTES]>::new(pages)?;
        fill_msr_permissions(&mut msr_permissions);
        // EFER.SVME first: before it is set, VM_HSAVE_PA faults on some CPUs (APM vol. 2, 15.30.4).
        msrs.write(msr::EFER, msrs.read(msr::EFER)? | Efer::SVME.bits())?;
        msrs.write(msr::VM_HSAVE_PA, host_save_area.hpa().raw())?;
        fpu.prepare_cpu();
        let barrier = Barrier::probe(cpuid, msrs);
        Ok(Self {
            features,
            fpu,
            barrier,
            io_permissions,
            msr_permissions,
            _host_save_area: host_save_area,
        })
    }

    fn create_vcpu(
        &mut self,
        init: &VcpuInit,
        pages: &mut dyn HostPages,
    ) -> Result<Self::Vcpu, EnableError> {
        Ok(SvmVcpu::new(self, init, pages)?)
    }

    /// INVPCID is not intercepted, and PCIDE not held back: what the CPU has, the guest has.
    fn offers_pcid(&self) -> bool {
        true
    }
}

/// Intercepts reads and writes of every MSR but [`PASSED_THROUGH`].
fn fill_msr_permissions(map: &mut [u8; MSRPM_BYTES]) {
    map.fill(0xff);
    for bit in PASSED_THROUGH.into_iter().filter_map(|msr| msrpm_bit(msr.0)) {
        map[bit / 8] &= !(0b11 << (bit % 8));
    }
}
