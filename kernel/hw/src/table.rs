//! Memory that holds hardware tables (page tables, and later IOMMU tables): frames of 512 64-bit entries, reached by
//! their host physical address.

use crate::addr::Hpa;

/// No frame is left for a table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OutOfFrames;

/// Frames for hardware tables. The kernel implements it on the direct map, tests on a hash map.
pub trait TableMemory {
    /// A zeroed, 4 KiB-aligned frame.
    ///
    /// # Errors
    /// [`OutOfFrames`] where none is left.
    fn alloc(&mut self) -> Result<Hpa, OutOfFrames>;
    /// Gives back a frame that no hardware walks any more.
    fn free(&mut self, table: Hpa);
    /// Entry `index` (0 to 511) of the table at `table`.
    fn load(&self, table: Hpa, index: usize) -> u64;
    /// Sets entry `index` (0 to 511) of the table at `table`, in one store.
    fn store(&mut self, table: Hpa, index: usize, entry: u64);
}

/// [`TableMemory`] that devices read too, perhaps past the CPU's caches. Their tables may be longer than a frame, so
/// `index` may go past 511 in a run.
pub trait DeviceTables: TableMemory {
    /// `frames` (a power of two) zeroed frames in a row, aligned to their size.
    ///
    /// # Errors
    /// [`OutOfFrames`] where there is no such run.
    fn alloc_run(&mut self, frames: u64) -> Result<Hpa, OutOfFrames>;
    /// Gives back a run that no device reads any more.
    fn free_run(&mut self, run: Hpa, frames: u64);
    /// Sets entries `index` (even) and `index + 1` at once, so that no device sees half of the change (CMPXCHG16B).
    fn store_pair(&mut self, table: Hpa, index: usize, pair: [u64; 2]);
    /// Writes the cache lines that hold `count` entries from `index` back to memory, and waits for it (CLFLUSH, SFENCE).
    fn write_back(&mut self, table: Hpa, index: usize, count: usize);
}
