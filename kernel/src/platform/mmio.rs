//! Memory-mapped registers.

use hw::{Hva, RegisterBus, Width};

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
    /// The range is mapped for as long as the kernel runs, uncached where it holds registers, with no memory of Rust's in
    /// it, and reading or writing any of it breaks no rule of Rust's.
    pub(crate) const unsafe fn new(base: Hva, bytes: u64) -> Self {
        Self { base, bytes }
    }

    /// What of the block begins at `offset`.
    pub(crate) fn from(&self, offset: u64) -> Option<Self> {
        let bytes = self.bytes.checked_sub(offset)?;
        Some(Self { base: self.base.wrapping_add(offset), bytes })
    }

    /// The 32-bit register at `offset`; all-ones outside the block.
    pub(crate) fn read32(&self, offset: u64) -> u32 {
        self.load(offset, Width::W4) as u32
    }

    /// Writes the 32-bit register at `offset`; nothing outside the block.
    pub(crate) fn write32(&self, offset: u64, value: u32) {
        self.store(offset, Width::W4, value.into());
    }

    /// Writes 64 bytes at once, where the CPU can; else in rising order, eight by eight. Nothing outside the block.
    pub(crate) fn store_line(&self, offset: u64, line: &[u8; 64]) {
        let Some(to) = self.at(offset, 64) else { return };
        if super::has_movdir64b() {
            // SAFETY: the CPU has the instruction; the target is within the block by the check, the source is the line.
            unsafe {
                core::arch::asm!("movdir64b {}, [{}]", in(reg) to, in(reg) line, options(nostack, preserves_flags));
            }
            return;
        }
        for (offset, word) in (offset..).step_by(8).zip(line.as_chunks().0) {
            self.store(offset, Width::W8, u64::from_le_bytes(*word));
        }
    }

    fn at(&self, offset: u64, bytes: u64) -> Option<*mut u32> {
        let end = offset.checked_add(bytes)?;
        let at = self.base.wrapping_add(offset);
        (end <= self.bytes && at.is_aligned(bytes)).then(|| at.raw() as *mut u32)
    }
}

impl RegisterBus for Mmio {
    fn load(&self, offset: u64, width: Width) -> u64 {
        let Some(register) = self.at(offset, width.bytes()) else { return u64::MAX };
        // SAFETY: within the block by the check, aligned, and the block is what `new` was promised.
        unsafe {
            match width {
                Width::W1 => register.cast::<u8>().read_volatile().into(),
                Width::W2 => register.cast::<u16>().read_volatile().into(),
                Width::W4 => register.read_volatile().into(),
                Width::W8 => register.cast::<u64>().read_volatile(),
            }
        }
    }

    fn store(&self, offset: u64, width: Width, value: u64) {
        let Some(register) = self.at(offset, width.bytes()) else { return };
        // SAFETY: as for reading.
        unsafe {
            match width {
                Width::W1 => register.cast::<u8>().write_volatile(value as u8),
                Width::W2 => register.cast::<u16>().write_volatile(value as u16),
                Width::W4 => register.write_volatile(value as u32),
                Width::W8 => register.cast::<u64>().write_volatile(value),
            }
        }
    }
}
