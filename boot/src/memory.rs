//! Memory that outlives boot services: whole pages of loader data, whose host virtual and physical addresses are the same
//! for as long as the firmware's page tables are in force (UEFI 2.10, 2.3.4).

use alloc::borrow::ToOwned;
use core::slice;

use uefi::boot::{self, AllocateType, MemoryType};

use crate::error::Error;

pub(crate) const PAGE: usize = 4096;

/// Zeroed pages for at least `bytes`, never freed; `what` is for the message where there are none.
pub(crate) fn allocate(bytes: usize, what: &str) -> Result<&'static mut [u8], Error> {
    let failed = || Error::Memory(what.to_owned(), bytes);
    let pages = bytes.div_ceil(PAGE).max(1);
    let start = boot::allocate_pages(AllocateType::AnyPages, MemoryType::LOADER_DATA, pages)
        .map_err(|_| failed())?;
    // SAFETY: (1) the firmware gave these pages to this program alone, mapped and writable; (2) nobody frees them; (3) all
    // bytes are written before the slice is made.
    unsafe {
        start.write_bytes(0, pages * PAGE);
        Ok(slice::from_raw_parts_mut(start.as_ptr(), pages * PAGE))
    }
}

/// The host physical address of memory from [`allocate`].
pub(crate) fn hpa<T>(memory: &[T]) -> u64 {
    memory.as_ptr() as u64
}
