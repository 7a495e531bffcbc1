//! SPDX-License-Identifier: GPL-2.0-or-later
//!
//! The device type: a function of the model with its configuration space, its BAR and its way to memory.
//!
//! QEMU calls all of this under its one big lock.

use std::cell::UnsafeCell;
use std::collections::BTreeMap;
use std::ffi::{c_int, c_uint, c_void};
use std::ptr;
use std::sync::Mutex;

use hw::{Iova, Pasid, Width};
use siov::{CLASS, DVSEC, Device, IDS, Refused, Upstream};

use crate::qemu::{
    self, LITTLE_ENDIAN, MemoryRegion, MemoryRegionOps, Message, Qemu, Sizes, Valid, class,
};
use crate::refuse;

/// Where the capabilities lie: PCI Express, then the extended ones.
const EXPRESS: u8 = 0x80;
const PASID: u16 = 0x100;
const SIOV: u16 = 0x110;

/// A 64-bit, prefetchable memory BAR.
const BAR_KIND: u8 = 0xc;
/// The command register, and its bit that lets the function master the bus (PCIe 7.5.1.1.3).
const COMMAND: u32 = 4;
const MASTER: u32 = 4;

/// A device of QEMU's, and what stands behind its BAR. It lives as long as the emulator.
struct Function {
    /// QEMU's `PCIDevice`.
    device: *mut c_void,
    model: Mutex<Device>,
    region: UnsafeCell<MemoryRegion>,
}

// SAFETY: the device and the region are QEMU's own, which is called and calls under its big lock.
unsafe impl Send for Function {}
// SAFETY: as above; the model has a lock.
unsafe impl Sync for Function {}

/// All functions, by the addresses of their devices.
static FUNCTIONS: Mutex<BTreeMap<usize, &'static Function>> = Mutex::new(BTreeMap::new());

static OPS: MemoryRegionOps = MemoryRegionOps {
    read,
    write,
    with_attributes: [0; 2],
    endianness: LITTLE_ENDIAN,
    valid: Valid { sizes: Sizes { least: 1, most: 8, unaligned: false }, accepts: 0 },
    implemented: Sizes { least: 4, most: 8, unaligned: false },
};

/// Makes QOM's class.
pub(crate) unsafe extern "C" fn init_class(own: *mut c_void, _data: *const c_void) {
    let qemu = Qemu::get();
    // SAFETY: every class of a PCI device has these fields, which are where a device that everybody knows has them.
    unsafe {
        let edu = (qemu.object_class_by_name)(c"edu".as_ptr());
        let known = !edu.is_null()
            && edu.byte_add(class::VENDOR).cast::<[u16; 2]>().read() == [0x1234, 0x11e8]
            && edu.byte_add(class::REVISION).cast::<u8>().read() == 0x10
            && edu.byte_add(class::CLASS).cast::<u16>().read() == 0xff;
        if !known {
            refuse("this QEMU's classes of PCI devices have another layout");
        }
        let function = |offset, function: *const c_void| {
            own.byte_add(offset).cast::<*const c_void>().write(function);
        };
        function(class::REALIZE, realize as *const c_void);
        function(class::CONFIG_READ, config_read as *const c_void);
        function(class::CONFIG_WRITE, config_write as *const c_void);
        own.byte_add(class::VENDOR).cast::<[u16; 2]>().write(IDS);
        own.byte_add(class::REVISION).cast::<u8>().write(1);
        own.byte_add(class::CLASS).cast::<u16>().write(CLASS);
        (qemu.device_class_set_legacy_reset)(own, reset);
    }
}

unsafe extern "C" fn realize(device: *mut c_void, _error: *mut *mut c_void) {
    let qemu = Qemu::get();
    let function: &'static Function = Box::leak(Box::new(Function {
        device,
        model: Mutex::default(),
        region: UnsafeCell::new(MemoryRegion::EMPTY),
    }));
    let without_pasid = function.space(0);
    // SAFETY: `device` is a PCI device that is being made; region, operations and function stay.
    unsafe {
        if (qemu.pci_device_iommu_address_space)(device) != without_pasid {
            refuse("this QEMU's intel-iommu keeps its address spaces in another layout");
        }
        let opaque = ptr::from_ref(function).cast_mut().cast();
        let (region, name) = (function.region.get(), c"kerf-siov".as_ptr());
        (qemu.memory_region_init_io)(region, device, &OPS, opaque, name, siov::BAR_BYTES);
        (qemu.pci_register_bar)(device, 0, BAR_KIND, region);
        (qemu.pcie_endpoint_cap_init)(device, EXPRESS);
        (qemu.pcie_cap_flr_init)(device);
        (qemu.pcie_pasid_init)(device, PASID, Pasid::BITS as u8, false, false);
        (qemu.pcie_add_capability)(device, 0x23, 1, SIOV, 4 + size_of_val(&DVSEC) as u16);
    }
    if let Ok(mut functions) = FUNCTIONS.lock() {
        functions.insert(device.addr(), function);
    }
}

unsafe extern "C" fn reset(device: *mut c_void) {
    let function = FUNCTIONS.lock().ok().and_then(|all| all.get(&device.addr()).copied());
    if let Some(mut model) = function.and_then(|function| function.model.try_lock().ok()) {
        *model = Device::default();
    }
}

unsafe extern "C" fn config_read(device: *mut c_void, at: u32, bytes: c_int) -> u32 {
    let dword = at.checked_sub(u32::from(SIOV) + 4).and_then(|at| DVSEC.get(at as usize / 4));
    match dword {
        Some(dword) => dword >> (8 * (at & 3)) & (u32::MAX >> (32 - 8 * bytes)),
        // SAFETY: the device and the access are QEMU's.
        None => unsafe { (Qemu::get().pci_default_read_config)(device, at, bytes) },
    }
}

unsafe extern "C" fn config_write(device: *mut c_void, at: u32, value: u32, bytes: c_int) {
    let qemu = Qemu::get();
    // SAFETY: the device and the access are QEMU's.
    unsafe {
        (qemu.pci_default_write_config)(device, at, value, bytes);
        (qemu.pcie_cap_flr_write_config)(device, at, value, bytes);
    }
}

/// The function behind a BAR.
///
/// # Safety
/// `opaque` must be what [`realize`] gave to the region.
unsafe fn behind(opaque: *mut c_void) -> &'static Function {
    // SAFETY: it is a function, which stays.
    unsafe { &*opaque.cast_const().cast() }
}

unsafe extern "C" fn read(opaque: *mut c_void, at: u64, bytes: c_uint) -> u64 {
    // SAFETY: the region's.
    let function = unsafe { behind(opaque) };
    let Some(width) = Width::try_new(bytes.into()) else { return 0 };
    // While it is at work its own registers do not answer: QEMU lets no device reach itself by DMA, either.
    function.model.try_lock().map_or(width.mask(), |model| model.read(at, width))
}

unsafe extern "C" fn write(opaque: *mut c_void, at: u64, value: u64, bytes: c_uint) {
    // SAFETY: the region's.
    let function = unsafe { behind(opaque) };
    let Some(width) = Width::try_new(bytes.into()) else { return };
    if let Ok(mut model) = function.model.try_lock() {
        model.write(at, width, value, &mut &*function);
    }
}

impl Function {
    /// The address space of the function's requests with a PASID, or with 0 of those without.
    fn space(&self, pasid: u32) -> *mut c_void {
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
            (qemu.pci_device_get_iommu_bus_devfn)(self.device, &mut above, &mut bus, &mut devfn);
            (qemu.vtd_find_add_as)(iommu, bus, devfn, pasid).byte_add(qemu::VTD_SPACE)
        }
    }

    fn transfer(
        &self,
        pasid: Pasid,
        iova: Iova,
        bytes: *mut u8,
        count: usize,
        write: bool,
    ) -> Result<(), Refused> {
        let qemu = Qemu::get();
        // SAFETY: the device is there, and `bytes` is memory of `count` bytes, only read where `write` is set.
        unsafe {
            // Without leave for either it sends no such request at all.
            let command = (qemu.pci_default_read_config)(self.device, COMMAND, 2);
            if command & MASTER == 0 || !(qemu.pcie_pasid_enabled)(self.device) {
                return Err(Refused);
            }
            let space = self.space(pasid.raw());
            match (qemu.address_space_rw)(space, iova.raw(), 0, bytes.cast(), count as u64, write) {
                0 => Ok(()),
                _ => Err(Refused),
            }
        }
    }
}

impl Upstream for &Function {
    fn read(&mut self, pasid: Pasid, iova: Iova, bytes: &mut [u8]) -> Result<(), Refused> {
        self.transfer(pasid, iova, bytes.as_mut_ptr(), bytes.len(), false)
    }

    fn write(&mut self, pasid: Pasid, iova: Iova, bytes: &[u8]) -> Result<(), Refused> {
        self.transfer(pasid, iova, bytes.as_ptr().cast_mut(), bytes.len(), true)
    }

    fn message(&mut self, address: u64, data: u32) {
        // SAFETY: the device is there. QEMU sends it as a write of the function's, if it may master the bus.
        unsafe { (Qemu::get().msi_send_message)(self.device, Message { address, data }) };
    }
}
