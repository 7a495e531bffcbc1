//! Memory-mapped registers.

use hw::Hva;

/// A block of memory-mapped registers that the kernel has mapped uncached, for good. Made by [`crate::mem::map_mmio`].
#[derive(Clone, Copy, Debug)]
pub(crate) struct Mmio {
    base: Hva,
    bytes: u64,
}

impl Mmio {
    /// The registers in `[base, base + bytes)`.
    ///
    /// # Safety
    /// The range is mapped uncached for as long as the kernel runs, holds registers and no memory of Rust's, and reading
    /// or writing any of them breaks no rule of Rust's.
    pub(crate) const unsafe fn new(base: Hva, bytes: u64) -> Self {
        Self { base, bytes }
    }

    /// The 32-bit register at `offset`; all-ones outside the block.
    pub(crate) fn read32(&self, offset: u64) -> u32 {
        // SAFETY: within the block by the check, aligned, and the block is what `new` was promised.
        self.at(offset).map_or(u32::MAX, |register| unsafe { register.read_volatile() })
    }

    /// Writes the 32-bit register at `offset`; nothing outside the block.
    pub(crate) fn write32(&self, offset: u64, value: u32) {
        if let Some(register) = self.at(offset) {
            // SAFETY: as for reading.
            unsafe { register.write_volatile(value) };
        }
    }

    fn at(&self, offset: u64) -> Option<*mut u32> {
        let end = offset.checked_add(4)?;
        let inside = end <= self.bytes && offset.is_multiple_of(4);
        inside.then(|| self.base.wrapping_add(offset).raw() as *mut u32)
    }
}
