//! Memory-mapped registers.

use hw::{Hva, Width};

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

    /// The register of `width` at `offset`, which is aligned to it; all-ones outside the block, and for eight bytes.
    pub(crate) fn read(&self, offset: u64, width: Width) -> u32 {
        match (width, self.at(offset, width.bytes())) {
            // SAFETY: within the block by the check, aligned, and the block is what `new` was promised.
            (Width::W1, Some(register)) => unsafe { register.cast::<u8>().read_volatile() }.into(),
            // SAFETY: as above.
            (Width::W2, Some(register)) => unsafe { register.cast::<u16>().read_volatile() }.into(),
            (Width::W4, _) => self.read32(offset),
            _ => u32::MAX,
        }
    }

    /// Writes the low bytes of `value` to the register of `width` at `offset`; nothing where [`Self::read`] reads all-ones.
    pub(crate) fn write(&self, offset: u64, width: Width, value: u32) {
        match (width, self.at(offset, width.bytes())) {
            // SAFETY: as for reading.
            (Width::W1, Some(register)) => unsafe {
                register.cast::<u8>().write_volatile(value as u8)
            },
            // SAFETY: as for reading.
            (Width::W2, Some(register)) => unsafe {
                register.cast::<u16>().write_volatile(value as u16)
            },
            (Width::W4, _) => self.write32(offset, value),
            _ => {}
        }
    }

    /// The 32-bit register at `offset`; all-ones outside the block.
    pub(crate) fn read32(&self, offset: u64) -> u32 {
        // SAFETY: within the block by the check, aligned, and the block is what `new` was promised.
        self.at(offset, 4).map_or(u32::MAX, |register| unsafe { register.read_volatile() })
    }

    /// Writes the 32-bit register at `offset`; nothing outside the block.
    pub(crate) fn write32(&self, offset: u64, value: u32) {
        if let Some(register) = self.at(offset, 4) {
            // SAFETY: as for reading.
            unsafe { register.write_volatile(value) };
        }
    }

    fn at(&self, offset: u64, bytes: u64) -> Option<*mut u32> {
        let end = offset.checked_add(bytes)?;
        let inside = end <= self.bytes && offset.is_multiple_of(bytes);
        inside.then(|| self.base.wrapping_add(offset).raw() as *mut u32)
    }
}
