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
