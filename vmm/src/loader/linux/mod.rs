//! Loading Linux: a bzImage entered in 64-bit mode (Linux, Documentation/arch/x86/boot.rst, "64-bit boot protocol", and
//! zero-page.rst).
//!
//! What goes where: GDT, boot parameters, page tables and command line in the first 640 KiB, ACPI tables at
//! [`acpi::TABLES_BASE`], the kernel where it prefers to be, the RAM disk as high as it may.

mod boot_params;
mod start;

#[cfg(test)]
mod tests;

use alloc::vec::Vec;

use hw::{Gpa, PAGE_SIZE};
use images::bzimage::{self, BzImage};
use vcpu::Registers;

pub use super::LoadError;
use super::{
    GuestLayout,
    memory_map::{BOOT_INFO, GDT, HIGH_MEMORY, LOW_END},
};
use crate::{
    GuestMemory,
    platform::acpi::{self, AcpiTables},
};
use boot_params::BootParams;

/// `boot_params`, the zero page.
const BOOT_PARAMS: Gpa = BOOT_INFO;
/// PML4, PDPT and four page directories.
const PAGE_TABLES: Gpa = Gpa::new(0xa000);
/// The command line.
const COMMAND_LINE: Gpa = Gpa::new(0x1_0000);
/// What to boot.
#[derive(Clone, Copy, Debug)]
pub struct LinuxImage<'a> {
    /// The bzImage, whole.
    pub kernel: &'a [u8],
    /// The initial RAM disk.
    pub initrd: Option<&'a [u8]>,
    /// The command line.
    pub cmdline: &'a str,
}

/// Loads `image` and the ACPI tables `acpi` into `memory`, which is all zeroes, and gives the registers with which the
/// bootstrap CPU starts.
///
/// # Errors
/// [`LoadError`] says which file does not fit and why.
pub fn load(
    memory: &impl GuestMemory,
    layout: &GuestLayout,
    image: &LinuxImage<'_>,
    acpi: &AcpiTables,
) -> Result<Registers, LoadError> {
    let header = bzimage::parse(image.kernel)?;
    let kernel = kernel_address(&header, layout)?;
    let initrd = match image.initrd {
        Some(bytes) => Some((initrd_address(&header, layout, kernel, bytes.len() as u64)?, bytes)),
        None => None,
    };
    if acpi.bytes.len() as u64 > acpi::TABLES_BYTES {
        return Err(LoadError::AcpiTooBig);
    }

    memory.write(acpi::TABLES_BASE, &acpi.bytes)?;
    memory.write(COMMAND_LINE, &command_line(&header, image.cmdline)?)?;
    memory.write(GDT, &start::gdt())?;
    memory.write(PAGE_TABLES, &start::identity_page_tables())?;
    let code = image.kernel.get(header.kernel.clone()).unwrap_or_default();
    memory.write(kernel, code)?;
    if let Some((address, bytes)) = initrd {
        memory.write(address, bytes)?;
    }

    let mut params = BootParams::new(image.kernel, &header, acpi.rsdp, COMMAND_LINE);
    if let Some((address, bytes)) = initrd {
        params.set_ramdisk(address, bytes.len());
    }
    params.set_memory_map(layout);
    memory.write(BOOT_PARAMS, params.bytes())?;
    Ok(start::registers(kernel))
}

/// Where the kernel goes: where it prefers to, or as low as its alignment allows.
fn kernel_address(header: &BzImage<'_>, layout: &GuestLayout) -> Result<Gpa, LoadError> {
    let available = layout.low.end().raw();
    let end_at = |start: u64| start.saturating_add(header.init_size.into());
    let preferred = header.pref_address;
    if preferred >= HIGH_MEMORY && end_at(preferred) <= available {
        return Ok(Gpa::new(preferred));
    }
    let alignment = u64::from(header.kernel_alignment).max(PAGE_SIZE);
    let lowest = HIGH_MEMORY.next_multiple_of(alignment);
    if header.relocatable && end_at(lowest) <= available {
        return Ok(Gpa::new(lowest));
    }
    let needed = end_at(if header.relocatable { lowest } else { preferred });
    Err(LoadError::KernelTooBig { needed, available })
}

/// Where the RAM disk goes: as high as RAM and the kernel's limit allow, page-aligned.
fn initrd_address(
    header: &BzImage<'_>,
    layout: &GuestLayout,
    kernel: Gpa,
    bytes: u64,
) -> Result<Gpa, LoadError> {
    let floor = kernel.raw() + u64::from(header.init_size);
    let ceiling = layout.low.end().raw().min(u64::from(header.initrd_addr_max) + 1);
    let room = ceiling.saturating_sub(floor);
    ceiling
        .checked_sub(bytes)
        .map(|start| Gpa::new(start).align_down(PAGE_SIZE))
        .filter(|start| start.raw() >= floor)
        .ok_or(LoadError::FileTooBig { bytes, room })
}

/// The command line with its terminating zero.
fn command_line(header: &BzImage<'_>, text: &str) -> Result<Vec<u8>, LoadError> {
    let room = (LOW_END - COMMAND_LINE.raw() - 1) as usize;
    let most = (header.cmdline_size as usize).min(room);
    if text.len() > most {
        return Err(LoadError::CommandLineTooLong { bytes: text.len(), most });
    }
    let mut bytes = text.as_bytes().to_vec();
    bytes.push(0);
    Ok(bytes)
}
