//! Loading a guest's kernel into its memory: [`load`] is the whole interface.
//!
//! `linux`, `pvh` and `multiboot` are the protocols; `segments` puts ELF segments and modules where they belong, `state`
//! holds the CPU's state at a 32-bit entry, `memory_map` what guests are told of their memory.

mod error;
mod layout;
pub mod linux;
mod memory_map;
mod multiboot;
mod pvh;
mod segments;
mod state;
#[cfg(test)]
mod tests;

use alloc::{borrow::ToOwned, vec::Vec};

use config::{Loader, Vm};
use images::{
    guest::{GuestKernel, Protocol},
    initrd,
};
use vcpu::Registers;

use crate::{GuestMemory, pci::Plan, platform::acpi};

pub use error::{Failure, LoadError};
pub use layout::{GuestLayout, RamRange};
use linux::LinuxImage;
use segments::Place;

/// How the configuration wants a kernel to be started; `None` where its file says so.
#[must_use]
pub const fn protocol(loader: Loader) -> Option<Protocol> {
    match loader {
        Loader::Auto => None,
        Loader::Linux => Some(Protocol::Linux),
        Loader::Pvh => Some(Protocol::Pvh),
        Loader::Multiboot => Some(Protocol::Multiboot),
    }
}

/// A file that the configuration names.
#[derive(Clone, Copy, Debug)]
struct NamedFile<'a> {
    name: &'a str,
    bytes: &'a [u8],
}

/// Loads the kernel of `vm`, what belongs to it and ACPI tables, of `pci` among others, into `memory`, which is all zeroes,
/// and gives the registers with which vCPU 0 starts. `file` finds the contents of a file by the name that the configuration gives it.
///
/// # Errors
/// [`Failure`] says which file does not load and why, and by which key that could be helped.
pub fn load<'a>(
    vm: &'a Vm,
    layout: &GuestLayout,
    pci: &Plan,
    memory: &impl GuestMemory,
    file: impl Fn(&str) -> Option<&'a [u8]>,
) -> Result<Registers, Failure> {
    let found = |(key, name): (&'static str, &'a str)| {
        let missing = || Failure { key, file: Some(name.to_owned()), why: LoadError::NoFile };
        Ok(NamedFile { name, bytes: file(name).ok_or_else(missing)? })
    };
    let files = vm.files().map(found).collect::<Result<Vec<_>, Failure>>()?;
    let (kernel, others) = files.split_first().map_or((&[][..], &[][..]), |(k, m)| (k.bytes, m));
    let about_kernel = |why: LoadError| {
        let is_kernels = !matches!(why, LoadError::AcpiTooBig | LoadError::NoMemory(_));
        Failure { key: why.key(), file: is_kernels.then(|| vm.kernel.clone()), why }
    };
    let acpi = acpi::tables(vm.vcpus, pci);
    if acpi.bytes.len() as u64 > acpi::TABLES_BYTES {
        return Err(about_kernel(LoadError::AcpiTooBig));
    }
    let place = Place { memory, layout };
    let image = GuestKernel::parse(kernel, protocol(vm.loader));
    match image.map_err(LoadError::from).map_err(about_kernel)? {
        GuestKernel::Linux(_) => {
            let initrd = linux_disk(vm, others)?;
            let image = LinuxImage { kernel, initrd, cmdline: &vm.cmdline };
            linux::load(memory, layout, &image, &acpi).map_err(|why| match why {
                LoadError::FileTooBig { .. } => {
                    Failure { file: vm.initrd.clone(), ..about_kernel(why) }
                }
                why => about_kernel(why),
            })
        }
        GuestKernel::Pvh(elf, entry) => {
            let end = place.kernel(kernel, elf.segments(), &acpi).map_err(about_kernel)?;
            let modules = place.modules(end, others)?;
            pvh::start(&place, entry, &modules, &vm.cmdline, acpi.rsdp).map_err(about_kernel)
        }
        GuestKernel::Multiboot(image) => {
            let end = place.kernel(kernel, image.segments(), &acpi).map_err(about_kernel)?;
            let modules = place.modules(end, others)?;
            multiboot::start(&place, image.entry(), &modules, &vm.cmdline).map_err(about_kernel)
        }
    }
}

/// Linux's initial RAM disk, which is all that it takes beside the kernel.
fn linux_disk<'a>(vm: &Vm, files: &[NamedFile<'a>]) -> Result<Option<&'a [u8]>, Failure> {
    let wrong = |name: &str, why: LoadError| {
        Err(Failure { key: why.key(), file: Some(name.to_owned()), why })
    };
    if let Some(module) = vm.modules.first() {
        return wrong(module, LoadError::Modules);
    }
    let Some(disk) = files.first() else { return Ok(None) };
    match initrd::parse(disk.bytes) {
        Ok(_) => Ok(Some(disk.bytes)),
        Err(error) => wrong(disk.name, LoadError::Initrd(error)),
    }
}
