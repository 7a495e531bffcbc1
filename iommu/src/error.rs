//! What can go wrong, by whose fault.

use hw::{Function, Hpa, OutOfFrames, Pasid};

/// A unit that cannot be used, or not any more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum UnitError {
    /// Its registers read all ones, or cannot be reached.
    Absent,
    /// It has no invalidation queue, no translation that the others have too, or no interrupt remapping where that is
    /// demanded.
    Unsupported,
    /// It did not do what the command with these bits asked within its time.
    Command(u32),
    /// It stopped working on its queue.
    QueueStalled,
    /// It rejected descriptors again and again.
    QueueRejected,
    /// No frames for its tables.
    OutOfFrames,
}

impl From<OutOfFrames> for UnitError {
    fn from(_: OutOfFrames) -> Self {
        Self::OutOfFrames
    }
}

/// Why no unit could be taken at all.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StartError {
    /// The machine names no unit, or none of those it names works.
    NoUnits,
    /// No frames for the tables.
    OutOfFrames,
}

/// Something that an operator should hear of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Event {
    /// A unit is out of use. Its functions must not master the bus.
    UnitLost {
        /// Its registers.
        registers: Hpa,
        /// Why.
        why: UnitError,
    },
    /// A unit rejected a descriptor; everything was invalidated instead.
    QueueError {
        /// Its registers.
        registers: Hpa,
    },
    /// A function's own TLB did not answer; the function is in quarantine.
    DeviceTimeout(Function),
    /// A scope at this offset of the DMAR table names a device that is not there.
    ScopeAbsent(usize),
    /// A reserved region at this offset of the DMAR table could not be mapped for a function, which will not reach it.
    ReservedRegion(usize, Function),
    /// A unit cannot remap interrupts: its functions can raise any of them.
    NoInterruptRemapping {
        /// Its registers.
        registers: Hpa,
    },
    /// Firmware left a unit translating in another mode: translation was off while it was taken over.
    TranslationGap {
        /// Its registers.
        registers: Hpa,
    },
}

/// Why a function cannot be attached.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AttachError {
    /// No unit is responsible for the function, so nothing could hold it back.
    NoUnit(Function),
    /// Its unit is out of use.
    UnitLost(Function),
    /// The function was put in quarantine and not released.
    Quarantined(Function),
    /// Firmware reserves memory for the function ([`crate::Iommu::release_reserved`]).
    Reserved(Function),
    /// Function and PASID are attached already.
    Attached(Function, Option<Pasid>),
    /// An earlier attachment is not retired yet.
    Busy(Function),
    /// There is no such space, or it is being destroyed.
    NoSpace,
    /// The unit cannot do that: PASIDs of this size, a device TLB, or one stage above the other.
    Unsupported,
    /// The device TLB was turned on or off by an earlier attachment of the function.
    DeviceTlb,
    /// No frames for tables.
    OutOfFrames,
    /// The unit did not do what it was told.
    Unit(UnitError),
}

impl From<OutOfFrames> for AttachError {
    fn from(_: OutOfFrames) -> Self {
        Self::OutOfFrames
    }
}

impl From<UnitError> for AttachError {
    fn from(why: UnitError) -> Self {
        Self::Unit(why)
    }
}

/// Why a space cannot be changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MapError {
    /// There is no such space, or it is being destroyed.
    NoSpace,
    /// It is attached still.
    Attached,
    /// All domains are taken.
    OutOfDomains,
    /// This address is past what the units translate.
    TooWide(u64),
    /// The range touches the interrupt range, through which no DMA goes (VT-d 3.14).
    InterruptRange,
    /// Dirty bits are not to be had.
    NoDirtyBits,
    /// What the page tables say.
    Paging(paging::MapError),
    /// A unit did not do what it was told.
    Unit(UnitError),
}

impl From<paging::MapError> for MapError {
    fn from(why: paging::MapError) -> Self {
        Self::Paging(why)
    }
}

impl From<OutOfFrames> for MapError {
    fn from(_: OutOfFrames) -> Self {
        Self::Paging(paging::MapError::OutOfFrames)
    }
}

impl From<UnitError> for MapError {
    fn from(why: UnitError) -> Self {
        Self::Unit(why)
    }
}

/// Why an interrupt cannot be routed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RouteError {
    /// No unit is responsible for the source.
    NoUnit,
    /// Its unit is out of use.
    UnitLost,
    /// No entries in a row are left.
    OutOfEntries,
    /// The unit does not post, or the destination needs more bits than it has.
    Unsupported,
    /// The unit did not do what it was told.
    Unit(UnitError),
}

impl From<UnitError> for RouteError {
    fn from(why: UnitError) -> Self {
        Self::Unit(why)
    }
}
