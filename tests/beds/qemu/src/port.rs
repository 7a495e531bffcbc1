//! SPDX-License-Identifier: GPL-2.0-or-later
//!
//! A device of QEMU's as its model needs it: its configuration space, and the way to memory and to the interrupt controllers.

use std::ffi::c_void;
use std::ptr;

use hw::{Iova, Pasid};

use crate::qemu::{self, Message, Qemu};
use crate::refuse;

/// The command register, and its bit that lets the function master the bus (PCIe 7.5.1.1.3).
const COMMAND: u32 = 4;
const MASTER: u32 = 4;

/// The request was not let through.
pub(crate) struct Refused;

/// QEMU's `PCIDevice`. It lives as long as the emulator.
#[derive(Clone, Copy)]
pub(crate) struct Port(pub(crate) *mut c_void);

impl Port {
    /// The address space of the function's requests with a PASID, or with 0 of those without.
    fn space(self, pasid: u32) -> *mut c_void {
        let qemu = Qemu::get();
        let (mut above, mut bus, mut devfn) = (ptr::null_mut(), ptr::null_mut(), 0);
        // SAFETY: the device is there, and so is the IOMMU, which is asked for the spaces of its own kind only.
        unsafe {
            let iommu = (qemu.x86_iommu_get_default)();
            if iommu.is_null()
                || (qemu.object_dynamic_cast)(iommu, c"intel-iommu".as_ptr()).is_null()
            {
                refuse("there must be an intel-iommu, named before this device");
            }
            (qemu.pci_device_get_iommu_bus_devfn)(self.0, &mut above, &mut bus, &mut devfn);
            (qemu.vtd_find_add_as)(iommu, bus, devfn, pasid).byte_add(qemu::VTD_SPACE)
        }
    }

    /// Ends the emulator unless its IOMMU keeps its spaces as this program knows them.
    pub(crate) fn check(self) {
        // SAFETY: the device is there.
        if unsafe { (Qemu::get().pci_device_iommu_address_space)(self.0) } != self.space(0) {
            refuse("this QEMU's intel-iommu keeps its address spaces in another layout");
        }
    }

    /// Whether it may master the bus.
    pub(crate) fn masters(self) -> bool {
        // SAFETY: the device is there.
        unsafe { (Qemu::get().pci_default_read_config)(self.0, COMMAND, 2) & MASTER != 0 }
    }

    /// Whether its requests may have PASIDs.
    pub(crate) fn has_pasids(self) -> bool {
        // SAFETY: the device is there, and has the capability.
        unsafe { (Qemu::get().pcie_pasid_enabled)(self.0) }
    }

    fn transfer(
        self,
        pasid: Option<Pasid>,
        iova: Iova,
        bytes: *mut u8,
        count: usize,
        write: bool,
    ) -> Result<(), Refused> {
        // Without leave for either it sends no such request at all.
        if !self.masters() || pasid.is_some() && !self.has_pasids() {
            return Err(Refused);
        }
        let space = self.space(pasid.map_or(0, Pasid::raw));
        let rw = Qemu::get().address_space_rw;
        // SAFETY: `bytes` is memory of `count` bytes, only read where `write` is set.
        match unsafe { rw(space, iova.raw(), 0, bytes.cast(), count as u64, write) } {
            0 => Ok(()),
            _ => Err(Refused),
        }
    }

    /// Reads memory.
    pub(crate) fn read(
        self,
        pasid: Option<Pasid>,
        iova: Iova,
        bytes: &mut [u8],
    ) -> Result<(), Refused> {
        self.transfer(pasid, iova, bytes.as_mut_ptr(), bytes.len(), false)
    }

    /// Writes memory.
    pub(crate) fn write(
        self,
        pasid: Option<Pasid>,
        iova: Iova,
        bytes: &[u8],
    ) -> Result<(), Refused> {
        self.transfer(pasid, iova, bytes.as_ptr().cast_mut(), bytes.len(), true)
    }

    /// Sends an interrupt message, as a write of the function's, if it may master the bus.
    pub(crate) fn message(self, address: u64, data: u32) {
        // SAFETY: the device is there.
        unsafe { (Qemu::get().msi_send_message)(self.0, Message { address, data }) };
    }
}
