//! Addresses, one type for each address space. They have no arithmetic operators: an offset is added by name and
//! checked, and one space is turned into another only by whoever owns the translation.

use core::fmt;

/// log2 of [`PAGE_SIZE`].
pub const PAGE_SHIFT: u32 = 12;
/// Bytes in the smallest page (SDM vol. 3, 4.5; APM vol. 2, 5.3).
pub const PAGE_SIZE: u64 = 1 << PAGE_SHIFT;
/// Bytes in a page mapped by a page-directory entry.
pub const PAGE_SIZE_2M: u64 = 2 << 20;
/// Bytes in a page mapped by a page-directory-pointer entry.
pub const PAGE_SIZE_1G: u64 = 1 << 30;

macro_rules! address {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
        #[repr(transparent)]
        pub struct $name(u64);

        impl $name {
            /// The lowest address of the space.
            pub const ZERO: Self = Self(0);

            /// Wraps a raw address.
            #[must_use]
            pub const fn new(raw: u64) -> Self {
                Self(raw)
            }

            /// The raw address.
            #[must_use]
            pub const fn raw(self) -> u64 {
                self.0
            }

            /// This address plus `bytes`, or `None` where that would wrap.
            #[must_use]
            pub const fn checked_add(self, bytes: u64) -> Option<Self> {
                match self.0.checked_add(bytes) {
                    Some(raw) => Some(Self(raw)),
                    None => None,
                }
            }

            /// This address plus `bytes`, modulo 2^64 as the hardware counts.
            #[must_use]
            pub const fn wrapping_add(self, bytes: u64) -> Self {
                Self(self.0.wrapping_add(bytes))
            }

            /// Bytes from `base` up to this address, or `None` where `base` lies above it.
            #[must_use]
            pub const fn offset_from(self, base: Self) -> Option<u64> {
                self.0.checked_sub(base.0)
            }

            /// The highest multiple of `align` (a power of two) not above this address.
            #[must_use]
            pub const fn align_down(self, align: u64) -> Self {
                debug_assert!(align.is_power_of_two());
                Self(self.0 & !(align - 1))
            }

            /// The lowest multiple of `align` (a power of two) not below this address, or `None` where that wraps.
            #[must_use]
            pub const fn align_up(self, align: u64) -> Option<Self> {
                debug_assert!(align.is_power_of_two());
                match self.0.checked_add(align - 1) {
                    Some(raw) => Some(Self(raw & !(align - 1))),
                    None => None,
                }
            }

            /// Whether this address is a multiple of `align`, a power of two.
            #[must_use]
            pub const fn is_aligned(self, align: u64) -> bool {
                self.0 & (align - 1) == 0
            }

            /// The offset within the 4 KiB page.
            #[must_use]
            pub const fn page_offset(self) -> u64 {
                self.0 & (PAGE_SIZE - 1)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, concat!(stringify!($name), "({:#x})"), self.0)
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{:#x}", self.0)
            }
        }

        impl fmt::LowerHex for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::LowerHex::fmt(&self.0, f)
            }
        }
    };
}

address!(
    /// A host physical address: what the machine's memory bus sees.
    Hpa
);
address!(
    /// A host virtual address: what Kerf's own loads and stores use.
    Hva
);
address!(
    /// A guest physical address: what a guest believes to be its memory bus.
    Gpa
);
address!(
    /// A guest linear address, before the guest's own paging.
    Gla
);
address!(
    /// An I/O virtual address: what a device puts on the bus before the IOMMU translates it.
    Iova
);
