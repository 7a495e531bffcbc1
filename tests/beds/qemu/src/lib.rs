//! SPDX-License-Identifier: GPL-2.0-or-later
//!
//! A shared object to be preloaded into QEMU 11.1: it registers PCI Express device types, which are the functions of
//! `tests/models` with their BARs in the machine: [`siov`] and [`dsa`], made by [`function`]. [`port`] is their way to the
//! machine, and [`qemu`] declares what is used of QEMU.

mod dsa;
mod function;
mod port;
mod qemu;
mod siov;

use std::process;
use std::ptr;

use function::Model;
use qemu::Qemu;

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
    register_types::<::siov::Device>();
    register_types::<dsa::Dsa>();
}

fn register_types<M: Model>() {
    // Names, the last of which is none.
    let interfaces = [c"pci-express-device".as_ptr(), ptr::null()];
    for name in M::NAMES {
        let info = function::type_info::<M>(name, interfaces.as_ptr().cast());
        // SAFETY: QEMU copies what it is given. Sizes of 0 are the parent's.
        unsafe { (Qemu::get().type_register_static)(&info) };
    }
}

/// Ends the emulator: there is no going on with a device that writes where it should not.
fn refuse(why: &str) -> ! {
    eprintln!("kerf devices: {why}");
    process::exit(1);
}
