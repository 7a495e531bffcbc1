//! Frames for hardware: tables that it walks, and pages for the control structures of virtualization.

use core::ptr;

use hw::{Hpa, OutOfFrames, PAGE_SIZE, TableMemory};
use vcpu::{HostPage, HostPages};

use super::{Pool, direct};

/// Entries of a table.
const ENTRIES: usize = 512;

/// Tables in the direct map.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Tables;

impl Tables {
    fn entry(table: Hpa, index: usize) -> *mut u64 {
        assert!(index < ENTRIES && table.is_aligned(PAGE_SIZE), "not an entry of a table");
        direct::address(table).wrapping_add(8 * index as u64).raw() as *mut u64
    }
}

impl TableMemory for Tables {
    fn alloc(&mut self) -> Result<Hpa, OutOfFrames> {
        let table = Pool.alloc().ok_or(OutOfFrames)?;
        // SAFETY: the pool gave the frame to us alone, and all of its frames are in the direct map.
        unsafe { direct::zero(table, 1) };
        Ok(table)
    }

    fn free(&mut self, table: Hpa) {
        Pool.free(table, 1);
    }

    fn load(&self, table: Hpa, index: usize) -> u64 {
        // SAFETY: the walker hands in only frames that `alloc` gave it, which are mapped; the entry lies within by the
        // check. Hardware writes accessed and dirty bits at any time, hence volatile.
        unsafe { ptr::read_volatile(Self::entry(table, index)) }
    }

    fn store(&mut self, table: Hpa, index: usize, entry: u64) {
        // SAFETY: as for loading; an aligned 64-bit store is one store for the hardware that walks.
        unsafe { ptr::write_volatile(Self::entry(table, index), entry) };
    }
}

/// Pages for the control structures of virtualization, in the direct map.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Pages;

impl HostPages for Pages {
    fn alloc_pages(&mut self, count: usize) -> Result<HostPage, OutOfFrames> {
        let hpa = match count {
            1 => Pool.alloc(),
            _ => Pool.alloc_contiguous(count as u64, 1),
        };
        let hpa = hpa.ok_or(OutOfFrames)?;
        // SAFETY: the pool gave the frames to us alone, and all of its frames are in the direct map.
        unsafe { direct::zero(hpa, count as u64) };
        Ok(HostPage { hpa, hva: direct::address(hpa) })
    }
}
