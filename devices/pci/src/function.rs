//! One function, as enumeration found it: all later work goes by this and reads no layout again.

use alloc::vec::Vec;
use core::ops::Range;

use hw::Function;

use crate::access::{Config, ConfigAccess};
use crate::spec::capability::{self, express, msix};
use crate::spec::extended;

/// A function, and what it has.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FunctionInfo {
    /// Where it is.
    pub function: Function,
    /// The bridge above it; `None` on a root bus.
    pub parent: Option<Function>,
    /// The function that it is a virtual function of. Such a one reads all ones as its vendor, and has no BARs of its own.
    pub physical: Option<Function>,
    /// Vendor ID.
    pub vendor: u16,
    /// Device ID.
    pub device: u16,
    /// Class, subclass and programming interface: 24 bits.
    pub class: u32,
    /// Revision ID.
    pub revision: u8,
    /// Subsystem vendor and subsystem; 0 where the header has none.
    pub subsystem: (u16, u16),
    /// The layout of its header.
    pub header: HeaderKind,
    /// Its BARs by their index. The upper half of a 64-bit one has none.
    pub bars: [Option<Bar>; 6],
    /// Its expansion ROM.
    pub rom: Option<Bar>,
    /// Capabilities, in the order of their chain.
    pub caps: Vec<Capability>,
    /// Extended capabilities, likewise.
    pub extended: Vec<Capability>,
    /// MSI.
    pub msi: Option<Msi>,
    /// MSI-X; `None` too where its table or its pending bits lie in no BAR.
    pub msix: Option<Msix>,
    /// What it is in PCI Express; `None` for conventional PCI.
    pub pcie: Option<PcieKind>,
    /// How it can be reset.
    pub reset: Reset,
}

/// The layout of a header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HeaderKind {
    /// Type 0.
    Endpoint,
    /// Type 1, with the buses below as the bridge says, which may be nonsense: [`buses_below`] asks.
    Bridge {
        /// Secondary bus.
        secondary: u8,
        /// Subordinate bus.
        subordinate: u8,
    },
    /// CardBus, or unknown.
    Other(u8),
}

/// Address space that a function decodes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bar {
    /// Its index; [`Bar::ROM`] for the expansion ROM.
    pub index: u8,
    /// What kind of address.
    pub kind: BarKind,
    /// Reads have no effect.
    pub prefetchable: bool,
    /// As assigned, aligned to `bytes`; 0 where nobody did. The function says so: it may lie over anything.
    pub base: u64,
    /// A power of two.
    pub bytes: u64,
}

impl Bar {
    /// Index of an expansion ROM.
    pub const ROM: u8 = 6;

    /// The addresses that it decodes.
    #[must_use]
    pub const fn range(&self) -> Range<u64> {
        self.base..self.base.saturating_add(self.bytes)
    }
}

/// What kind of address a BAR holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum BarKind {
    Io,
    Memory32,
    Memory64,
}

/// A capability of either kind.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Capability {
    /// Its ID: [`crate::spec::capability`], or [`crate::spec::extended`].
    pub id: u16,
    /// Version of an extended one, 0 otherwise.
    pub version: u8,
    /// Where it begins.
    pub offset: u16,
    /// How long it is, for those that [`crate::spec`] knows; it ends within the configuration space.
    pub bytes: Option<u16>,
}

/// MSI.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Msi {
    /// Where the capability is.
    pub offset: u16,
    /// Vectors it can have: 1 to 32, a power of two.
    pub vectors: u8,
    /// Its address has 64 bits.
    pub wide: bool,
    /// Vectors can be masked.
    pub maskable: bool,
}

/// MSI-X. Table and pending bits lie within their BARs, which are memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Msix {
    /// Where the capability is.
    pub offset: u16,
    /// The table's entries: 1 to 2048.
    pub entries: u16,
    /// The BAR that holds the table.
    pub table_bar: u8,
    /// Where in it.
    pub table_offset: u32,
    /// The BAR that holds the pending bits.
    pub pba_bar: u8,
    /// Where in it.
    pub pba_offset: u32,
}

impl Msix {
    /// Bytes of the table.
    #[must_use]
    pub const fn table_bytes(&self) -> u64 {
        self.entries as u64 * msix::ENTRY_BYTES
    }

    /// Bytes of the pending bits, in whole quadwords.
    #[must_use]
    pub const fn pba_bytes(&self) -> u64 {
        (self.entries as u64).div_ceil(64) * 8
    }
}

/// What a function is in PCI Express (7.5.3.2).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum PcieKind {
    Endpoint,
    LegacyEndpoint,
    RootPort,
    UpstreamPort,
    DownstreamPort,
    PcieToPci,
    PciToPcie,
    RootComplexEndpoint,
    EventCollector,
    Unknown(u8),
}

impl PcieKind {
    pub(crate) const fn new(capabilities: u16) -> Self {
        match capabilities >> express::KIND_SHIFT & 0xf {
            0 => Self::Endpoint,
            1 => Self::LegacyEndpoint,
            4 => Self::RootPort,
            5 => Self::UpstreamPort,
            6 => Self::DownstreamPort,
            7 => Self::PcieToPci,
            8 => Self::PciToPcie,
            9 => Self::RootComplexEndpoint,
            10 => Self::EventCollector,
            other => Self::Unknown(other as u8),
        }
    }
}

/// The best way to reset a function.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reset {
    /// PCI Express' function-level reset.
    Flr,
    /// That of conventional PCI's advanced features.
    AfFlr,
    /// To D3hot and back.
    Pm,
    /// None.
    None,
}

/// The function among those found.
#[must_use]
pub fn find(functions: &[FunctionInfo], function: Function) -> Option<&FunctionInfo> {
    functions.iter().find(|info| info.function == function)
}

/// Secondary and subordinate bus of a bridge among those found; `None` where they make no sense, or it is no bridge.
#[must_use]
pub fn buses_below(functions: &[FunctionInfo], bridge: Function) -> Option<(u8, u8)> {
    find(functions, bridge)?.buses()
}

impl FunctionInfo {
    /// A capability by its ID.
    #[must_use]
    pub fn capability(&self, id: u8) -> Option<&Capability> {
        self.caps.iter().find(|found| found.id == u16::from(id))
    }

    /// An extended capability by its ID.
    #[must_use]
    pub fn extended_capability(&self, id: u16) -> Option<&Capability> {
        self.extended.iter().find(|found| found.id == id)
    }

    /// A BAR by its index.
    #[must_use]
    pub fn bar(&self, index: u8) -> Option<&Bar> {
        self.bars.get(usize::from(index))?.as_ref()
    }

    /// Its BARs in memory.
    pub fn memory_bars(&self) -> impl Iterator<Item = &Bar> {
        self.bars.iter().flatten().filter(|bar| bar.kind != BarKind::Io)
    }

    /// Whether it leads to other buses.
    #[must_use]
    pub const fn is_bridge(&self) -> bool {
        matches!(self.header, HeaderKind::Bridge { .. })
    }

    /// Secondary and subordinate bus of a bridge, if they make sense.
    #[must_use]
    pub fn buses(&self) -> Option<(u8, u8)> {
        match self.header {
            HeaderKind::Bridge { secondary, subordinate }
                if self.function.rid.bus() < secondary && secondary <= subordinate =>
            {
                Some((secondary, subordinate))
            }
            _ => None,
        }
    }

    /// The number of the next function of an ARI device.
    pub(crate) fn next_by_ari<A: ConfigAccess>(&self, access: &A) -> Option<u8> {
        let offset = self.extended_capability(extended::ARI)?.offset;
        let config = Config::new(access, self.function);
        let next = (config.read16(offset + extended::ari::CAPABILITIES) >> 8) as u8;
        (next > self.function.rid.devfn()).then_some(next)
    }

    /// Whether it is a port that takes device and function below it as one number.
    pub(crate) fn forwards_ari<A: ConfigAccess>(&self, access: &A) -> bool {
        let port = matches!(self.pcie, Some(PcieKind::RootPort | PcieKind::DownstreamPort));
        let has = |found: &&Capability| found.bytes == Some(express::BYTES);
        let found = self.capability(capability::EXPRESS).filter(has);
        port && found.is_some_and(|found| {
            let config = Config::new(access, self.function);
            config.read16(found.offset + express::DEVICE_CONTROL_2) & express::ARI_FORWARDING != 0
        })
    }
}
