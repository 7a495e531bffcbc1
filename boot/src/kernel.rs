//! The kernel's segments, from the file to pages of their own.

use alloc::vec::Vec;

use boot_info::{KERNEL_BASE, address_space::Segment};
use images::elf::Kernel;

use crate::{
    error::Error,
    load::KERNEL,
    memory::{self, PAGE},
};

/// The kernel in memory.
pub(crate) struct Placed {
    /// Host physical start of its image.
    pub(crate) hpa: u64,
    /// Bytes of its image, whole pages.
    pub(crate) bytes: u64,
    /// Its segments, to be mapped.
    pub(crate) segments: Vec<Segment>,
    /// Host virtual address of its first instruction.
    pub(crate) entry: u64,
}

/// Copies all segments into one block of memory that is laid out as they are linked.
pub(crate) fn place(kernel: &Kernel<'static>) -> Result<Placed, Error> {
    let range = kernel.pages();
    if range.start != KERNEL_BASE {
        return Err(Error::KernelAddress(range.start));
    }
    let too_large = || Error::Memory(KERNEL.into(), usize::MAX);
    let bytes = usize::try_from(range.end - range.start).map_err(|_| too_large())?;
    let image = memory::allocate(bytes, KERNEL)?;
    let hpa = memory::hpa(image);
    let mut segments = Vec::new();
    for segment in kernel.segments() {
        let source = kernel.bytes(&segment);
        // Below the block's size: the block spans all segments.
        let offset = (segment.vaddr - range.start) as usize;
        image[offset..offset + source.len()].copy_from_slice(source);
        let page = offset / PAGE * PAGE;
        let pages = (offset % PAGE + segment.memory_bytes as usize).div_ceil(PAGE);
        segments.push(Segment {
            hva: range.start + page as u64,
            hpa: hpa + page as u64,
            pages: pages as u64,
            write: segment.write,
            execute: segment.execute,
        });
    }
    Ok(Placed { hpa, bytes: bytes as u64, segments, entry: kernel.entry })
}
