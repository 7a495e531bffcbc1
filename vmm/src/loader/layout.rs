//! Where a guest has RAM.

use hw::Gpa;

/// A range of guest RAM, `[start, start + bytes)`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RamRange {
    /// First address.
    pub start: Gpa,
    /// Length, which may be 0.
    pub bytes: u64,
}

impl RamRange {
    /// The first address past the range.
    #[must_use]
    pub const fn end(self) -> Gpa {
        self.start.wrapping_add(self.bytes)
    }
}

/// A guest's RAM: from 0 up to at most 3 GiB, the rest from 4 GiB on. Between them are PCI devices and APICs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct GuestLayout {
    /// RAM from address 0.
    pub low: RamRange,
    /// RAM from 4 GiB, which may be empty.
    pub high: RamRange,
}

impl GuestLayout {
    /// Where low RAM ends at the latest.
    pub const LOW_MAX: u64 = 3 << 30;
    /// Where high RAM starts.
    pub const HIGH_START: Gpa = Gpa::new(4 << 30);

    /// The layout of `bytes` of RAM.
    #[must_use]
    pub const fn new(bytes: u64) -> Self {
        let low = if bytes < Self::LOW_MAX { bytes } else { Self::LOW_MAX };
        Self {
            low: RamRange { start: Gpa::ZERO, bytes: low },
            high: RamRange { start: Self::HIGH_START, bytes: bytes - low },
        }
    }

    /// The ranges of RAM, lowest first; the second may be empty.
    #[must_use]
    pub const fn ranges(&self) -> [RamRange; 2] {
        [self.low, self.high]
    }
}
