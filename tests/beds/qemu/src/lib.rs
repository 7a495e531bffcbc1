//! SPDX-License-Identifier: GPL-2.0-or-later
//!
//! A shared object to be preloaded into QEMU 11.1: it registers the PCI Express device type `kerf-siov`, which is the
//! function of `tests/models/siov` with its BAR in the machine ([`function`]). [`qemu`] declares what is used of QEMU.

mod function;
mod qemu;

use std::process;
use std::ptr;

use qemu::{Qemu, TypeInfo};

/// The loader calls it before QEMU's `main`.
#[used]
#[unsafe(link_section = ".init_array")]
static LOADED: extern "C" fn() = on_load;

extern "C" fn on_load() {
    // What is preloaded gets into whatever the same command starts besides.
    let Some(version) = qemu::version() else { return };
    if version != qemu::VERSION {
        let ((major, minor), (wanted, least)) = (version, qemu::VERSION);
        refuse(&format!(
            "this is QEMU {major}.{minor}, and the device knows the insides of {wanted}.{least} only"
        ));
    }
    let qemu = Qemu::get();
    // SAFETY: QEMU takes registrations from constructors, and calls the function once.
    unsafe { (qemu.register_module_init)(register, qemu::MODULE_INIT_QOM) };
}

extern "C" fn register() {
    // Names, the last of which is none.
    let interfaces = [c"pci-express-device".as_ptr(), ptr::null()];
    let info = TypeInfo {
        name: c"kerf-siov".as_ptr(),
        parent: c"pci-device".as_ptr(),
        instance_size: 0,
        instance_align: 0,
        instance_init: None,
        instance_post_init: None,
        instance_finalize: None,
        is_abstract: false,
        class_size: 0,
        class_init: Some(function::init_class),
        class_base_init: None,
        class_data: ptr::null(),
        interfaces: interfaces.as_ptr().cast(),
    };
    // SAFETY: QEMU copies what it is given. Sizes of 0 are the parent's.
    unsafe { (Qemu::get().type_register_static)(&info) };
}

/// Ends the emulator: there is no going on with a device that writes where it should not.
fn refuse(why: &str) -> ! {
    eprintln!("kerf-siov: {why}");
    process::exit(1);
}
