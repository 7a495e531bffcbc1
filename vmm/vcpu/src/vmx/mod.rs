//! VT-x. [`Vmx`] turns it on for a CPU, [`VmxVcpu`] is a virtual CPU with its VMCS.
//!
//! The documented minimum: the TRUE capability registers, secondary controls, EPT (write-back, four levels, 2 MiB
//! pages), unrestricted guest, MSR bitmaps, virtual NMIs, and EFER and PAT switched by entries and exits. VPID, RDTSCP,
//! INVPCID, EPT pages of 1 GiB and EPT's dirty flags are used where they are offered. XSAVES is an invalid opcode for guests,
//! and IA32_XSS does not exist: there is no supervisor state to switch.
//!
//! ```text
//!   capabilities ─► controls ─► setup ──┐
//!                                       ▼ VMCS
//!   vcpu: event ─► entry (asm) ─► guest ─► exit ─► Exit
//!                     └ refused ─► checks ─► the rule's name
//! ```
//!
//! Only [`entry`] and [`insn`] touch the CPU. The rest is pure over [`fields::Fields`] and tested on the host.

mod capabilities;
mod checks;
mod control_registers;
mod controls;
mod entry;
mod event;
mod exit;
mod fields;
mod insn;
mod msr_bitmap;
mod queue;
mod setup;
mod vcpu;

#[cfg(test)]
mod tests;

pub use vcpu::VmxVcpu;

use hw::{CpuidBus, Hpa, MsrBus};
use paging::PageSize;
use x86_spec::msr;
use x86_spec::vmx::capability::{EptVpid, FeatureControl};
use x86_spec::vmx::control::Secondary;

use crate::barrier::Barrier;
use crate::fpu::FpuSupport;
use crate::{Backend, EnableError, HostPages, Offers, Speculation, Unsupported, VcpuInit};
use capabilities::Capabilities;
use controls::Controls;

/// VT-x on one CPU.
#[derive(Debug)]
pub struct Vmx {
    capabilities: Capabilities,
    controls: Controls,
    fpu: FpuSupport,
    speculation: Speculation,
    barrier: Barrier,
}

impl Vmx {
    /// What [`Backend::probe`] and [`Backend::enable`] both need to know.
    fn plan(
        cpuid: &impl CpuidBus,
        msrs: &impl MsrBus,
    ) -> Result<(Capabilities, Controls), Unsupported> {
        let capabilities = Capabilities::read(cpuid, msrs)?;
        let controls = Controls::plan(&capabilities)?;
        capabilities.require_ept()?;
        Ok((capabilities, controls))
    }

    /// A page for a structure whose first word is the VMCS revision.
    fn region(capabilities: &Capabilities, pages: &mut dyn HostPages) -> Result<Hpa, EnableError> {
        let page = pages.alloc_pages(1)?;
        if !capabilities.is_physical(page.hpa.raw(), true) {
            return Err(Unsupported::Missing("VMX structures above 4 GiB").into());
        }
        insn::write_revision(page.hva, capabilities.basic.revision());
        Ok(page.hpa)
    }
}

impl Backend for Vmx {
    type Vcpu = VmxVcpu;
    type Stage2 = paging::format::Ept;
    const NAME: &'static str = "VT-x";

    fn probe(cpuid: &impl CpuidBus, msrs: &impl MsrBus) -> Result<(), Unsupported> {
        Self::plan(cpuid, msrs).map(|_| ())
    }

    fn enable(
        cpuid: &impl CpuidBus,
        msrs: &impl MsrBus,
        pages: &mut dyn HostPages,
    ) -> Result<Self, EnableError> {
        let (capabilities, controls) = Self::plan(cpuid, msrs)?;
        let fpu = FpuSupport::probe(cpuid);
        let region = Self::region(&capabilities, pages)?;
        let lock = FeatureControl::from_bits_retain(msrs.read(msr::FEATURE_CONTROL)?);
        if !lock.contains(FeatureControl::LOCK) {
            // The firmware left the choice to us (SDM vol. 3, 24.7).
            let lock = lock | FeatureControl::LOCK | FeatureControl::VMX_OUTSIDE_SMX;
            msrs.write(msr::FEATURE_CONTROL, lock.bits())?;
        }
        fpu.prepare_cpu();
        insn::vmxon(capabilities.cr0.must, capabilities.cr4.must, region)
            .map_err(|_| EnableError::Instruction("VMXON"))?;
        let speculation = Speculation::probe(cpuid, msrs);
        let barrier = Barrier::probe(cpuid, msrs, &speculation);
        Ok(Self { capabilities, controls, fpu, speculation, barrier })
    }

    fn create_vcpu(
        &mut self,
        init: &VcpuInit,
        pages: &mut dyn HostPages,
    ) -> Result<VmxVcpu, EnableError> {
        VmxVcpu::new(self, init, pages)
    }

    fn offers(&self) -> Offers {
        let has = |feature| self.capabilities.ept_vpid.contains(feature);
        Offers {
            // Without the control INVPCID is an invalid opcode (SDM vol. 3, 26.3), which a guest that has identifiers may
            // need.
            pcid: self.controls.secondary.contains(Secondary::ENABLE_INVPCID),
            largest_page: if has(EptVpid::PAGES_1G) { PageSize::Size1G } else { PageSize::Size2M },
            dirty_bits: has(EptVpid::ACCESSED_DIRTY),
            tsc_scaling: self.capabilities.secondary.may & Secondary::USE_TSC_SCALING.bits() != 0,
            speculation: self.speculation,
        }
    }
}
