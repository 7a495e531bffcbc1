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
use x86_spec::cpuid::{self, XsaveEax};
use x86_spec::msr;
use x86_spec::svm::{IOPM_BYTES, MSRPM_BYTES, SvmFeatures, msrpm_bit};

use crate::barrier::Barrier;
use crate::fpu::FpuSupport;
use crate::{Backend, EnableError, HostPages, Offers, Speculation, Unsupported, VcpuInit};
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

/// MSRs that stay in the CPU for as long as the guest is loaded. Each access of the guest exits.
const HELD: [hw::Msr; 3] = [msr::TSC_AUX, msr::SPEC_CTRL, msr::VIRT_SPEC_CTRL];

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
        let mut features = Features::probe(cpuid, msrs)?;
        features.speculation = Speculation::probe(cpuid, msrs);
        let fpu = FpuSupport::probe(cpuid);
        let host_save_area = Owned::<[u8; PAGE_SIZE as usize]>::new(pages)?;
        let mut io_permissions = Owned::<[u8; IOPM_BYTES]>::new(pages)?;
        io_permissions.fill(0xff);
        let mut msr_permissions = Owned::<[u8; MSRPM_BYTES]>::new(pages)?;
        fill_msr_permissions(&mut msr_permissions, &features.speculation);
        // EFER.SVME first: before it is set, VM_HSAVE_PA faults on some CPUs (APM vol. 2, 15.30.4).
        msrs.write(msr::EFER, msrs.read(msr::EFER)? | Efer::SVME.bits())?;
        msrs.write(msr::VM_HSAVE_PA, host_save_area.hpa().raw())?;
        fpu.prepare_cpu();
        if has_xsaves(cpuid) {
            // XSAVES cannot be withheld from a guest: it then finds no supervisor state (APM vol. 2, 11.5.2).
            msrs.write(msr::XSS, 0)?;
        }
        let barrier = Barrier::probe(cpuid, msrs, &features.speculation);
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

    fn offers(&self) -> Offers {
        Offers {
            // INVPCID is not intercepted, and PCIDE not held back: what the CPU has, the guest has.
            pcid: true,
            largest_page: self.features.largest_page,
            // Nested tables are the host's, which have always had them (APM vol. 2, 15.25.5).
            dirty_bits: true,
            tsc_scaling: self.features.svm.contains(SvmFeatures::TSC_RATE_MSR),
            speculation: self.features.speculation,
        }
    }
}

fn has_xsaves(cpuid: &impl CpuidBus) -> bool {
    let xsaves = XsaveEax::XSAVES.bits();
    cpuid.cpuid(cpuid::VENDOR, 0).eax >= cpuid::XSAVE
        && cpuid.cpuid(cpuid::XSAVE, 1).eax & xsaves != 0
}

/// Intercepts reads and writes of every MSR but [`PASSED_THROUGH`], and writes of commands that this CPU has.
fn fill_msr_permissions(map: &mut [u8; MSRPM_BYTES], speculation: &Speculation) {
    map.fill(0xff);
    let Speculation { pred_cmd, flush_cmd, .. } = *speculation;
    for (_, msr) in
        [(pred_cmd, msr::PRED_CMD), (flush_cmd, msr::FLUSH_CMD)].into_iter().filter(|(has, _)| *has)
    {
        if let Some(bit) = msrpm_bit(msr.0) {
            map[bit / 8] &= !(0b10 << (bit % 8));
        }
    }
    for bit in PASSED_THROUGH.into_iter().filter_map(|msr| msrpm_bit(msr.0)) {
        map[bit / 8] &= !(0b11 << (bit % 8));
    }
}
