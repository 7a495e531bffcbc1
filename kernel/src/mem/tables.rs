//! Frames for hardware: tables that it walks, and pages for the control structures of virtualization.

use core::arch::asm;
use core::ptr;

use hw::{DeviceTables, Hpa, OutOfFrames, PAGE_SIZE, TableMemory};
use vcpu::{HostPage, HostPages};

use super::{Pool, direct};
use crate::platform::Mmio;

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

/// Tables for the IOMMU, in the direct map: runs of frames that devices' requests are looked up in.
#[derive(Clone, Copy, Debug)]
pub(crate) struct DeviceFrames;

/// Zeroed memory in a row that a driver shares with its device, for good.
pub(crate) fn shared(bytes: u64) -> Option<(Hpa, Mmio)> {
    let frames = bytes.div_ceil(PAGE_SIZE).next_power_of_two();
    let hpa = DeviceFrames.alloc_run(frames).ok()?;
    // SAFETY: the pool gave the frames to us alone, they are in the direct map and never given back; nothing of Rust's is
    // in them. They are cached, as x86 devices see what caches hold.
    Some((hpa, unsafe { Mmio::new(direct::address(hpa), bytes) }))
}

/// A word of a run of frames.
fn word(run: Hpa, index: usize) -> *mut u64 {
    assert!(run.is_aligned(PAGE_SIZE), "not a run of frames");
    direct::address(run).wrapping_add(8 * index as u64).raw() as *mut u64
}

impl TableMemory for DeviceFrames {
    fn alloc(&mut self) -> Result<Hpa, OutOfFrames> {
        Tables.alloc()
    }

    fn free(&mut self, table: Hpa) {
        Tables.free(table);
    }

    fn load(&self, table: Hpa, index: usize) -> u64 {
        // SAFETY: the driver hands in only runs that it was given here, which are mapped, and indices within them. Hardware
        // sets accessed and dirty bits at any time, hence volatile.
        unsafe { ptr::read_volatile(word(table, index)) }
    }

    fn store(&mut self, table: Hpa, index: usize, entry: u64) {
        // SAFETY: as for loading; an aligned 64-bit store is one store for the hardware that walks.
        unsafe { ptr::write_volatile(word(table, index), entry) };
    }
}

impl DeviceTables for DeviceFrames {
    fn alloc_run(&mut self, frames: u64) -> Result<Hpa, OutOfFrames> {
        let run = Pool.alloc_contiguous(frames, frames).ok_or(OutOfFrames)?;
        // SAFETY: the pool gave the frames to us alone, and all of its frames are in the direct map.
        unsafe { direct::zero(run, frames) };
        Ok(run)
    }

    fn free_run(&mut self, run: Hpa, frames: u64) {
        Pool.free(run, frames);
    }

    fn store_pair(&mut self, table: Hpa, index: usize, pair: [u64; 2]) {
        assert!(index.is_multiple_of(2), "not a pair");
        let [low, high] = pair;
        // SAFETY: as for storing, and 16-byte-aligned by the check; every CPU with virtualization has the instruction. RBX,
        // which the compiler keeps for itself, is put back. A comparison that fails loads what the next one is to find.
        unsafe {
            asm!(
                "xchg rbx, rsi",
                "2: lock cmpxchg16b [rdi]",
                "jnz 2b",
                "mov rbx, rsi",
                in("rdi") word(table, index),
                inout("rsi") low => _,
                in("rcx") high,
                inout("rax") 0u64 => _,
                inout("rdx") 0u64 => _,
                options(nostack),
            );
        }
    }

    fn write_back(&mut self, table: Hpa, index: usize, count: usize) {
        // Eight words are a line of 64 bytes, which every CPU's are multiples of.
        for at in (index & !7..index + count).step_by(8) {
            // SAFETY: as for loading; writing a line back changes nothing that is read.
            unsafe {
                asm!("clflush [{}]", in(reg) word(table, at), options(nostack, preserves_flags))
            };
        }
        // SAFETY: it only orders.
        unsafe { asm!("sfence", options(nostack, preserves_flags)) };
    }
}
