//! SPDX-License-Identifier: GPL-2.0-or-later
//!
//! A device type: a model with its configuration space and its BARs in the machine.
//!
//! QEMU calls all of this under its one big lock.

use std::cell::UnsafeCell;
use std::collections::BTreeMap;
use std::ffi::{CStr, c_int, c_uint, c_void};
use std::ptr;
use std::sync::Mutex;

use hw::{Pasid, Width};

use crate::port::Port;
use crate::qemu::{
    LITTLE_ENDIAN, MemoryRegion, MemoryRegionOps, Qemu, Sizes, TypeInfo, Valid, class,
};
use crate::refuse;

/// Where the capabilities that all have lie: PCI Express, then the extended one of PASIDs.
pub(crate) const EXPRESS: u8 = 0x80;
const PASID: u16 = 0x100;
/// A 64-bit, prefetchable memory BAR.
const BAR_KIND: u8 = 0xc;

/// A PCIe function, by its registers.
pub(crate) trait Model: Send + 'static {
    /// The names of its types: each is a make of its own.
    const NAMES: &'static [&'static CStr];
    /// Vendor and device ID.
    const IDS: [u16; 2];
    /// Class code, without the programming interface.
    const CLASS: u16;

    /// A function of a type, as after power-on.
    fn new(name: &CStr) -> Self;
    /// The numbers and sizes of its BARs.
    fn bars(&self) -> Vec<(u8, u64)>;
    /// Adds capabilities.
    fn add_capabilities(&self, port: Port);
    /// A dword of configuration space that it has itself.
    fn config(&self, at: u32) -> Option<u32>;
    /// Bytes of configuration space were written, and what QEMU keeps of them has changed.
    fn configured(&mut self, port: Port, at: u32, bytes: &[u8]);
    /// Reads a BAR.
    fn read(&self, bar: u8, at: u64, width: Width) -> u64;
    /// Writes a BAR, and does what follows from it.
    fn write(&mut self, port: Port, bar: u8, at: u64, width: Width, value: u64);
    /// A reset.
    fn reset(&mut self, port: Port);
}

/// A device of QEMU's, and what stands behind its BARs. It lives as long as the emulator.
struct Function<M> {
    port: Port,
    model: Mutex<M>,
}

/// A BAR of a function.
struct Bar<M: 'static> {
    function: &'static Function<M>,
    number: u8,
    region: UnsafeCell<MemoryRegion>,
}

/// All functions, by the addresses of their devices. Which model is behind one is known from its type's callbacks.
static FUNCTIONS: Mutex<BTreeMap<usize, usize>> = Mutex::new(BTreeMap::new());

/// What a type of `M`'s is made of; `name` is one of [`Model::NAMES`].
pub(crate) fn type_info<M: Model>(name: &CStr, interfaces: *const c_void) -> TypeInfo {
    TypeInfo {
        name: name.as_ptr(),
        parent: c"pci-device".as_ptr(),
        instance_size: 0,
        instance_align: 0,
        instance_init: None,
        instance_post_init: None,
        instance_finalize: None,
        is_abstract: false,
        class_size: 0,
        class_init: Some(init_class::<M>),
        class_base_init: None,
        class_data: ptr::null(),
        interfaces,
    }
}

/// Makes QOM's class.
unsafe extern "C" fn init_class<M: Model>(own: *mut c_void, _data: *const c_void) {
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
        function(class::REALIZE, realize::<M> as *const c_void);
        function(class::CONFIG_READ, config_read::<M> as *const c_void);
        function(class::CONFIG_WRITE, config_write::<M> as *const c_void);
        own.byte_add(class::VENDOR).cast::<[u16; 2]>().write(M::IDS);
        own.byte_add(class::REVISION).cast::<u8>().write(1);
        own.byte_add(class::CLASS).cast::<u16>().write(M::CLASS);
        (qemu.device_class_set_legacy_reset)(own, reset::<M>);
    }
}

unsafe extern "C" fn realize<M: Model>(device: *mut c_void, _error: *mut *mut c_void) {
    let qemu = Qemu::get();
    let port = Port(device);
    port.check();
    // SAFETY: `device` is an object, whose type has a name.
    let name = unsafe { CStr::from_ptr((qemu.object_get_typename)(device)) };
    let model = M::new(name);
    let bars = model.bars();
    // SAFETY: it is a PCI device that is being made.
    unsafe {
        (qemu.pcie_endpoint_cap_init)(device, EXPRESS);
        (qemu.pcie_cap_flr_init)(device);
        (qemu.pcie_pasid_init)(device, PASID, Pasid::BITS as u8, false, false);
    }
    model.add_capabilities(port);
    let function = &*Box::leak(Box::new(Function { port, model: Mutex::new(model) }));
    for (number, bytes) in bars {
        let region = UnsafeCell::new(MemoryRegion::EMPTY);
        let bar = &*Box::leak(Box::new(Bar { function, number, region }));
        let (region, opaque) = (bar.region.get(), ptr::from_ref(bar).cast_mut().cast());
        // SAFETY: as above; region, operations and function stay.
        unsafe {
            let ops = operations::<M>();
            (qemu.memory_region_init_io)(region, device, ops, opaque, name.as_ptr(), bytes);
            (qemu.pci_register_bar)(device, number.into(), BAR_KIND, region);
        }
    }
    if let Ok(mut functions) = FUNCTIONS.lock() {
        functions.insert(device.addr(), ptr::from_ref(function).expose_provenance());
    }
}

fn operations<M: Model>() -> &'static MemoryRegionOps {
    Box::leak(Box::new(MemoryRegionOps {
        read: read::<M>,
        write: write::<M>,
        with_attributes: [0; 2],
        endianness: LITTLE_ENDIAN,
        valid: Valid { sizes: Sizes { least: 1, most: 8, unaligned: false }, accepts: 0 },
        implemented: Sizes { least: 1, most: 8, unaligned: false },
    }))
}

/// The function of a device; `None` while it is being made.
fn of<M: Model>(device: *mut c_void) -> Option<&'static Function<M>> {
    let function = FUNCTIONS.lock().ok().and_then(|all| all.get(&device.addr()).copied());
    // SAFETY: what is in the map was leaked by `realize::<M>`, as the device's type is one of `M`'s.
    function.map(|function| unsafe { &*ptr::with_exposed_provenance(function) })
}

unsafe extern "C" fn reset<M: Model>(device: *mut c_void) {
    let Some(function) = of::<M>(device) else { return };
    if let Ok(mut model) = function.model.try_lock() {
        model.reset(function.port);
    }
}

unsafe extern "C" fn config_read<M: Model>(device: *mut c_void, at: u32, bytes: c_int) -> u32 {
    // SAFETY: the device and the access are QEMU's.
    let default = unsafe { (Qemu::get().pci_default_read_config)(device, at, bytes) };
    let own = of::<M>(device).and_then(|function| function.model.try_lock().ok()?.config(at & !3));
    own.map_or(default, |dword| dword >> (8 * (at & 3)) & (u32::MAX >> (32 - 8 * bytes)))
}

unsafe extern "C" fn config_write<M: Model>(
    device: *mut c_void,
    at: u32,
    value: u32,
    bytes: c_int,
) {
    let qemu = Qemu::get();
    // SAFETY: the device and the access are QEMU's.
    unsafe {
        (qemu.pci_default_write_config)(device, at, value, bytes);
        (qemu.pcie_cap_flr_write_config)(device, at, value, bytes);
    }
    let Some(function) = of::<M>(device) else { return };
    if let Ok(mut model) = function.model.try_lock() {
        model.configured(function.port, at, &value.to_le_bytes()[..bytes as usize]);
    }
}

/// The BAR that a region is.
///
/// # Safety
/// `opaque` must be what [`realize`] gave to the region.
unsafe fn behind<M: Model>(opaque: *mut c_void) -> &'static Bar<M> {
    // SAFETY: it is a BAR, which stays.
    unsafe { &*opaque.cast_const().cast() }
}

unsafe extern "C" fn read<M: Model>(opaque: *mut c_void, at: u64, bytes: c_uint) -> u64 {
    // SAFETY: the region's.
    let bar = unsafe { behind::<M>(opaque) };
    let Some(width) = Width::try_new(bytes.into()) else { return 0 };
    // While it is at work its own registers do not answer: QEMU lets no device reach itself by DMA, either.
    let model = bar.function.model.try_lock();
    model.map_or(width.mask(), |model| model.read(bar.number, at, width))
}

unsafe extern "C" fn write<M: Model>(opaque: *mut c_void, at: u64, value: u64, bytes: c_uint) {
    // SAFETY: the region's.
    let bar = unsafe { behind::<M>(opaque) };
    let Some(width) = Width::try_new(bytes.into()) else { return };
    if let Ok(mut model) = bar.function.model.try_lock() {
        model.write(bar.function.port, bar.number, at, width, value);
    }
}
