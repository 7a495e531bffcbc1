//! Checks of the host state (SDM vol. 3, 27.2.2 to 27.2.4), for a host in 64-bit mode.

use x86_spec::cpu::{Cr4, Efer};
use x86_spec::vmx::control::ExitControls;
use x86_spec::vmx::field::{control, host};

use super::{EFER_DEFINED, EntryCheck, ensure, is_pat};
use crate::vmx::capabilities::Capabilities;
use crate::vmx::fields::Fields;

pub(super) fn check(fields: &impl Fields, capabilities: &Capabilities) -> Result<(), EntryCheck> {
    let exit = ExitControls::from_bits_retain(fields.read(control::EXIT));
    registers(fields, capabilities, exit)?;
    segments(fields, capabilities)?;
    ensure(exit.contains(ExitControls::HOST_ADDRESS_SPACE_SIZE), EntryCheck::HostAddressSpace)?;
    ensure(fields.read(host::CR4) & Cr4::PAE.bits() != 0, EntryCheck::HostPae)?;
    ensure(capabilities.is_canonical(fields.read(host::RIP)), EntryCheck::HostRip)
}

fn registers(
    fields: &impl Fields,
    capabilities: &Capabilities,
    exit: ExitControls,
) -> Result<(), EntryCheck> {
    ensure(capabilities.cr0.permits(fields.read(host::CR0), 0), EntryCheck::HostCr0)?;
    ensure(capabilities.cr4.permits(fields.read(host::CR4), 0), EntryCheck::HostCr4)?;
    ensure(capabilities.is_physical(fields.read(host::CR3), false), EntryCheck::HostCr3)?;
    let sysenter = [host::SYSENTER_ESP, host::SYSENTER_EIP];
    let canonical = sysenter.iter().all(|&field| capabilities.is_canonical(fields.read(field)));
    ensure(canonical, EntryCheck::HostSysenter)?;
    if exit.contains(ExitControls::LOAD_PAT) {
        ensure(is_pat(fields.read(host::PAT)), EntryCheck::HostPat)?;
    }
    if exit.contains(ExitControls::LOAD_EFER) {
        let efer = fields.read(host::EFER);
        let long = (Efer::LMA | Efer::LME).bits();
        let wanted = match exit.contains(ExitControls::HOST_ADDRESS_SPACE_SIZE) {
            true => long,
            false => 0,
        };
        let valid = efer & !EFER_DEFINED == 0 && efer & long == wanted;
        ensure(valid, EntryCheck::HostEfer)?;
    }
    Ok(())
}

fn segments(fields: &impl Fields, capabilities: &Capabilities) -> Result<(), EntryCheck> {
    let selectors = [host::ES, host::CS, host::SS, host::DS, host::FS, host::GS, host::TR];
    let plain = selectors.iter().all(|&field| fields.read(field) & 7 == 0);
    ensure(plain, EntryCheck::HostSelectors)?;
    ensure(fields.read(host::CS) != 0, EntryCheck::HostCs)?;
    ensure(fields.read(host::TR) != 0, EntryCheck::HostTr)?;
    let bases = [host::FS_BASE, host::GS_BASE, host::TR_BASE, host::GDTR_BASE, host::IDTR_BASE];
    let canonical = bases.iter().all(|&field| capabilities.is_canonical(fields.read(field)));
    ensure(canonical, EntryCheck::HostBases)
}
