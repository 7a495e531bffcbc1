//! SPDX-License-Identifier: GPL-2.0-or-later
//!
//! What is used of QEMU, declared as 11.1 has it: functions, found by name in the running program ([`Qemu`]), and the
//! layouts of what is handed over. All of them are QEMU's own business and may be others in the next version.

use std::ffi::{CStr, c_char, c_int, c_uint, c_void};
use std::mem;
use std::sync::OnceLock;

use crate::refuse;

/// Major and minor number of the version that all of this is from.
pub(crate) const VERSION: (i64, i64) = (11, 1);

/// `MODULE_INIT_QOM` of `enum module_init_type`.
pub(crate) const MODULE_INIT_QOM: c_int = 4;
/// `DEVICE_LITTLE_ENDIAN` of `enum device_endian`.
pub(crate) const LITTLE_ENDIAN: c_int = 2;

/// Offsets in `PCIDeviceClass`.
pub(crate) mod class {
    pub(crate) const REALIZE: usize = 0xb8;
    pub(crate) const CONFIG_READ: usize = 0xc8;
    pub(crate) const CONFIG_WRITE: usize = 0xd0;
    /// Then the device ID.
    pub(crate) const VENDOR: usize = 0xd8;
    pub(crate) const REVISION: usize = 0xdc;
    pub(crate) const CLASS: usize = 0xde;
}

/// Offset of the `AddressSpace` in `VTDAddressSpace`.
pub(crate) const VTD_SPACE: usize = 16;

/// `TypeInfo` of QOM.
#[repr(C)]
pub(crate) struct TypeInfo {
    pub(crate) name: *const c_char,
    pub(crate) parent: *const c_char,
    pub(crate) instance_size: usize,
    pub(crate) instance_align: usize,
    pub(crate) instance_init: Option<unsafe extern "C" fn(*mut c_void)>,
    pub(crate) instance_post_init: Option<unsafe extern "C" fn(*mut c_void)>,
    pub(crate) instance_finalize: Option<unsafe extern "C" fn(*mut c_void)>,
    pub(crate) is_abstract: bool,
    pub(crate) class_size: usize,
    pub(crate) class_init: Option<unsafe extern "C" fn(*mut c_void, *const c_void)>,
    pub(crate) class_base_init: Option<unsafe extern "C" fn(*mut c_void, *const c_void)>,
    pub(crate) class_data: *const c_void,
    /// `InterfaceInfo`, which is a name; ends with none.
    pub(crate) interfaces: *const c_void,
}

/// What sizes of access there are, in `MemoryRegionOps`.
#[repr(C)]
pub(crate) struct Sizes {
    pub(crate) least: c_uint,
    pub(crate) most: c_uint,
    pub(crate) unaligned: bool,
}

/// What accesses there may be, in `MemoryRegionOps`.
#[repr(C)]
pub(crate) struct Valid {
    pub(crate) sizes: Sizes,
    pub(crate) accepts: usize,
}

/// `MemoryRegionOps`. It must live as long as the region.
#[repr(C)]
pub(crate) struct MemoryRegionOps {
    pub(crate) read: unsafe extern "C" fn(*mut c_void, u64, c_uint) -> u64,
    pub(crate) write: unsafe extern "C" fn(*mut c_void, u64, u64, c_uint),
    pub(crate) with_attributes: [usize; 2],
    pub(crate) endianness: c_int,
    /// What the guest may use.
    pub(crate) valid: Valid,
    /// What is implemented.
    pub(crate) implemented: Sizes,
}

const _: () = assert!(mem::offset_of!(MemoryRegionOps, implemented.unaligned) == 0x48);

/// `MemoryRegion`, made and used by QEMU only.
#[repr(C, align(16))]
pub(crate) struct MemoryRegion([u8; 0x110]);

impl MemoryRegion {
    pub(crate) const EMPTY: Self = Self([0; _]);
}

/// `MSIMessage`.
#[repr(C)]
pub(crate) struct Message {
    pub(crate) address: u64,
    pub(crate) data: u32,
}

/// `VersionInfo`; its first field leads to three numbers.
#[repr(C)]
struct VersionInfo {
    numbers: *const [i64; 3],
    package: *const c_char,
}

unsafe extern "C" {
    /// POSIX. With a handle of null, the program and all that it has loaded.
    fn dlsym(handle: *mut c_void, name: *const c_char) -> *mut c_void;
}

fn look_up(name: &CStr) -> Option<*mut c_void> {
    // SAFETY: the name ends with a zero.
    let found = unsafe { dlsym(std::ptr::null_mut(), name.as_ptr()) };
    (!found.is_null()).then_some(found)
}

/// Major and minor number of this QEMU; `None` where it is none.
pub(crate) fn version() -> Option<(i64, i64)> {
    type Query = unsafe extern "C" fn(*mut c_void) -> *const VersionInfo;
    let query = look_up(c"qmp_query_version")?;
    // SAFETY: since 1.0 this function has taken where to put an error and has given a record that the caller frees, with a
    // pointer to the numbers before all else since 2.6.
    unsafe {
        let info = mem::transmute::<*mut c_void, Query>(query)(std::ptr::null_mut());
        let [major, minor, _] = *(*info).numbers;
        Some((major, minor))
    }
}

macro_rules! functions {
    ($(fn $name:ident($($argument:ty),*) $(-> $result:ty)?;)*) => {
        /// QEMU's functions, by their own names. QEMU's objects are `c_void`, since they are passed as their parents, too.
        pub(crate) struct Qemu {
            $(pub(crate) $name: unsafe extern "C" fn($($argument),*) $(-> $result)?,)*
        }

        impl Qemu {
            fn find() -> Result<Self, &'static str> {
                // SAFETY: so they are declared in the headers of the one version that this is loaded into.
                Ok(unsafe { Self { $($name: {
                    let name = CStr::from_bytes_with_nul_unchecked(concat!(stringify!($name), "\0").as_bytes());
                    mem::transmute::<*mut c_void, unsafe extern "C" fn($($argument),*) $(-> $result)?>(
                        look_up(name).ok_or(stringify!($name))?,
                    )
                },)* } })
            }
        }
    };
}

functions! {
    fn address_space_rw(*mut c_void, u64, u64, *mut c_void, u64, bool) -> u32;
    fn device_class_set_legacy_reset(*mut c_void, unsafe extern "C" fn(*mut c_void));
    fn memory_region_init_io(*mut MemoryRegion, *mut c_void, *const MemoryRegionOps, *mut c_void, *const c_char, u64);
    fn msi_send_message(*mut c_void, Message);
    fn object_class_by_name(*const c_char) -> *const c_void;
    fn object_dynamic_cast(*mut c_void, *const c_char) -> *mut c_void;
    fn object_get_typename(*const c_void) -> *const c_char;
    fn pci_add_capability(*mut c_void, u8, u8, u8, *mut *mut c_void) -> c_int;
    fn pci_default_read_config(*mut c_void, u32, c_int) -> u32;
    fn pci_default_write_config(*mut c_void, u32, u32, c_int);
    fn pci_device_get_iommu_bus_devfn(*mut c_void, *mut *mut c_void, *mut *mut c_void, *mut c_int);
    fn pci_device_iommu_address_space(*mut c_void) -> *mut c_void;
    fn pci_register_bar(*mut c_void, c_int, u8, *mut MemoryRegion);
    fn pcie_add_capability(*mut c_void, u16, u8, u16, u16);
    fn pcie_ats_enabled(*const c_void) -> bool;
    fn pcie_ats_init(*mut c_void, u16, bool);
    fn pcie_cap_flr_init(*mut c_void);
    fn pcie_cap_flr_write_config(*mut c_void, u32, u32, c_int);
    fn pcie_endpoint_cap_init(*mut c_void, u8) -> c_int;
    fn pcie_pasid_enabled(*const c_void) -> bool;
    fn pcie_pasid_priv_enabled(*const c_void) -> bool;
    fn pcie_pasid_init(*mut c_void, u16, u8, bool, bool);
    fn register_module_init(extern "C" fn(), c_int);
    fn type_register_static(*const TypeInfo) -> *mut c_void;
    fn vtd_find_add_as(*mut c_void, *mut c_void, c_int, c_uint) -> *mut c_void;
    fn x86_iommu_get_default() -> *mut c_void;
}

impl Qemu {
    /// The one that this is loaded into.
    pub(crate) fn get() -> &'static Self {
        static QEMU: OnceLock<Qemu> = OnceLock::new();
        QEMU.get_or_init(|| {
            Self::find().unwrap_or_else(|name| refuse(&format!("this QEMU does not export {name}")))
        })
    }
}
