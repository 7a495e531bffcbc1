//! The DMAR table (VT-d chapter 8), as an allegation: whatever is wrong is told by its offset and skipped, the rest is used.

use alloc::vec::Vec;
use core::fmt;

use hw::{Hpa, PAGE_SIZE};
use iommu_spec::dmar::{self as spec, andd, drhd, kind, listed, rhsa, rmrr, scope};

/// What the table says.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Dmar {
    /// Bits of a host address, 0 if the table does not say.
    pub host_bits: u8,
    /// [`spec::FLAG_INTR_REMAP`] and its neighbours.
    pub flags: u8,
    /// DRHD.
    pub units: Vec<UnitEntry>,
    /// RMRR.
    pub reserved: Vec<ReservedRegion>,
    /// ATSR: root ports below which device TLBs may be used.
    pub ats_ports: Vec<Listed>,
    /// SATC: integrated devices with a device TLB.
    pub integrated: Vec<Listed>,
    /// SIDP: integrated devices with properties.
    pub properties: Vec<Listed>,
    /// RHSA: units by their registers, and their proximity domain.
    pub proximity: Vec<(Hpa, u32)>,
    /// ANDD: numbers of devices that scopes use, and their ACPI names.
    pub names: Vec<(u8, Vec<u8>)>,
}

/// A unit.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UnitEntry {
    /// Its PCI segment.
    pub segment: u16,
    /// Its registers.
    pub registers: Hpa,
    /// Bytes of its registers.
    pub register_bytes: u64,
    /// It answers for everything in the segment that no other unit names.
    pub include_all: bool,
    /// What it names.
    pub scopes: Vec<Scope>,
}

/// Memory that firmware still uses for DMA.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ReservedRegion {
    /// Where in the table.
    pub offset: usize,
    /// The segment of its devices.
    pub segment: u16,
    /// The first byte, page-aligned.
    pub start: Hpa,
    /// Its bytes, a multiple of the page size.
    pub bytes: u64,
    /// The devices.
    pub scopes: Vec<Scope>,
}

/// Devices of one segment about which a flag is said.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Listed {
    /// The segment.
    pub segment: u16,
    /// ATSR: all root ports. SATC: the device TLB is required.
    pub flag: bool,
    /// The devices.
    pub scopes: Vec<Scope>,
}

/// A path to a device.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Scope {
    /// Where in the table.
    pub offset: usize,
    /// One of [`spec::scope`].
    pub kind: u8,
    /// The number of an I/O APIC, a HPET or a named device.
    pub id: u8,
    /// The bus it starts from.
    pub start_bus: u8,
    /// Device and function of each step; never empty.
    pub path: Vec<(u8, u8)>,
}

/// Something wrong with the table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Problem {
    /// Where.
    pub offset: usize,
    /// What.
    pub trouble: Trouble,
}

/// What is wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Trouble {
    /// The table is too short for its header.
    Header,
    /// A structure or scope says a length that is too short or reaches past its end. What comes after it is not read.
    Length(usize),
    /// A structure is too short for its type; it is skipped.
    Short,
    /// Its type is unknown; it is skipped.
    Kind(u16),
    /// The address makes no sense; it is skipped.
    Address(u64),
    /// The unit was named before; it is skipped.
    SameUnit(Hpa),
    /// Another unit of this segment already takes all that is left; this one takes only what it names.
    SecondIncludeAll(u16),
    /// The region overlaps an earlier one; both are used.
    Overlap,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ACPI table DMAR, offset {:#x}: ", self.offset)?;
        match self.trouble {
            Trouble::Header => f.write_str("too short for its header; nothing is read"),
            Trouble::Length(bytes) => {
                write!(f, "a length of {bytes} bytes makes no sense; the rest is not read")
            }
            Trouble::Short => f.write_str("too short for its type; skipped"),
            Trouble::Kind(kind) => write!(f, "unknown type {kind}; skipped"),
            Trouble::Address(at) => write!(f, "address {at:#x} makes no sense; skipped"),
            Trouble::SameUnit(at) => write!(f, "the unit at {at} was named before; skipped"),
            Trouble::SecondIncludeAll(segment) => {
                write!(f, "a second unit for all of segment {segment}; it gets what it names")
            }
            Trouble::Overlap => f.write_str("the region overlaps an earlier one; both are used"),
        }
    }
}

/// A reserved region larger than this is taken for garbage: the largest in the field are a graphics unit's few GiB.
const LARGEST_REGION: u64 = 64 << 30;

/// A structure, or a part of it, and where it is in the table.
#[derive(Clone, Copy)]
struct Part<'a> {
    bytes: &'a [u8],
    offset: usize,
}

impl Part<'_> {
    fn array<const N: usize>(self, at: usize) -> Option<[u8; N]> {
        self.bytes.get(at..at.checked_add(N)?)?.try_into().ok()
    }
    fn u8(self, at: usize) -> Option<u8> {
        self.bytes.get(at).copied()
    }
    fn u16(self, at: usize) -> Option<u16> {
        self.array(at).map(u16::from_le_bytes)
    }
    fn u32(self, at: usize) -> Option<u32> {
        self.array(at).map(u32::from_le_bytes)
    }
    fn u64(self, at: usize) -> Option<u64> {
        self.array(at).map(u64::from_le_bytes)
    }
}

/// Reads a table, from its ACPI header on; signature and checksum are the caller's business.
pub fn read(table: &[u8], mut report: impl FnMut(Problem)) -> Dmar {
    let whole = Part { bytes: table, offset: 0 };
    let mut dmar = Dmar::default();
    let (Some(width), Some(flags)) = (whole.u8(spec::HOST_ADDRESS_WIDTH), whole.u8(spec::FLAGS))
    else {
        report(Problem { offset: 0, trouble: Trouble::Header });
        return dmar;
    };
    dmar.host_bits = width.saturating_add(1).min(64);
    dmar.flags = flags;
    let mut at = spec::STRUCTURES;
    while at < table.len() {
        let length = whole.u16(at + 2).map_or(0, usize::from);
        let part = table.get(at..at + length).filter(|_| length >= spec::STRUCTURE_HEADER_BYTES);
        let Some(bytes) = part else {
            report(Problem { offset: at, trouble: Trouble::Length(length) });
            break;
        };
        let part = Part { bytes, offset: at };
        if let Err(trouble) = dmar.add(part, &mut report) {
            report(Problem { offset: at, trouble });
        }
        at += length;
    }
    dmar
}

impl Dmar {
    fn add(&mut self, part: Part<'_>, report: &mut impl FnMut(Problem)) -> Result<(), Trouble> {
        let short = Trouble::Short;
        match part.u16(0).ok_or(short)? {
            kind::DRHD => self.add_unit(part, report)?,
            kind::RMRR => self.add_reserved(part, report)?,
            kind::ATSR => self.ats_ports.push(listed(part, report).ok_or(short)?),
            kind::SATC => self.integrated.push(listed(part, report).ok_or(short)?),
            kind::SIDP => self.properties.push(listed(part, report).ok_or(short)?),
            kind::RHSA => {
                let unit = part.u64(rhsa::BASE).ok_or(short)?;
                let domain = part.u32(rhsa::DOMAIN).ok_or(short)?;
                self.proximity.push((Hpa::new(unit), domain));
            }
            kind::ANDD => {
                let device = part.u8(andd::DEVICE).ok_or(short)?;
                let name = part.bytes.get(andd::NAME..).ok_or(short)?;
                let name = name.split(|byte| *byte == 0).next().unwrap_or_default();
                self.names.push((device, name.to_vec()));
            }
            other => return Err(Trouble::Kind(other)),
        }
        Ok(())
    }

    fn add_unit(
        &mut self,
        part: Part<'_>,
        report: &mut impl FnMut(Problem),
    ) -> Result<(), Trouble> {
        let short = Trouble::Short;
        let flags = part.u8(drhd::FLAGS).ok_or(short)?;
        let size = part.u8(drhd::SIZE).ok_or(short)?;
        let segment = part.u16(drhd::SEGMENT).ok_or(short)?;
        let raw = part.u64(drhd::BASE).ok_or(short)?;
        let registers = Hpa::new(raw);
        let register_bytes = PAGE_SIZE << (size & 0xf);
        let sane = raw != 0 && registers.is_aligned(PAGE_SIZE) && self.reaches(raw, register_bytes);
        if !sane {
            return Err(Trouble::Address(raw));
        }
        if self.units.iter().any(|unit| unit.registers == registers) {
            return Err(Trouble::SameUnit(registers));
        }
        let mut include_all = flags & drhd::INCLUDE_PCI_ALL != 0;
        if include_all && self.units.iter().any(|unit| unit.include_all && unit.segment == segment)
        {
            report(Problem { offset: part.offset, trouble: Trouble::SecondIncludeAll(segment) });
            include_all = false;
        }
        let scopes = scopes(part, drhd::SCOPES, report);
        self.units.push(UnitEntry { segment, registers, register_bytes, include_all, scopes });
        Ok(())
    }

    fn add_reserved(
        &mut self,
        part: Part<'_>,
        report: &mut impl FnMut(Problem),
    ) -> Result<(), Trouble> {
        let short = Trouble::Short;
        let segment = part.u16(rmrr::SEGMENT).ok_or(short)?;
        let base = part.u64(rmrr::BASE).ok_or(short)?;
        let limit = part.u64(rmrr::LIMIT).ok_or(short)?;
        let start = Hpa::new(base).align_down(PAGE_SIZE);
        // The limit is the last byte. Some firmware gives the first byte behind it, or no whole page.
        let bytes = limit.checked_sub(start.raw()).and_then(|last| last.checked_add(1));
        let bytes = bytes.and_then(|bytes| bytes.checked_next_multiple_of(PAGE_SIZE));
        let sane = |bytes: &u64| *bytes <= LARGEST_REGION && self.reaches(start.raw(), *bytes);
        let bytes = bytes.filter(|bytes| limit >= base && sane(bytes));
        let Some(bytes) = bytes else { return Err(Trouble::Address(limit)) };
        let overlaps = |other: &ReservedRegion| {
            start.raw() < other.start.raw() + other.bytes && other.start.raw() < start.raw() + bytes
        };
        if self.reserved.iter().any(overlaps) {
            report(Problem { offset: part.offset, trouble: Trouble::Overlap });
        }
        let scopes = scopes(part, rmrr::SCOPES, report);
        self.reserved.push(ReservedRegion { offset: part.offset, segment, start, bytes, scopes });
        Ok(())
    }

    /// Whether the machine has such addresses.
    fn reaches(&self, start: u64, bytes: u64) -> bool {
        let bits = u32::from(self.host_bits).clamp(32, 52);
        start.checked_add(bytes).is_some_and(|end| end <= 1 << bits)
    }
}

fn listed(part: Part<'_>, report: &mut impl FnMut(Problem)) -> Option<Listed> {
    let flag = part.u8(listed::FLAGS)? & 1 != 0;
    let segment = part.u16(listed::SEGMENT)?;
    Some(Listed { segment, flag, scopes: scopes(part, listed::SCOPES, report) })
}

/// The scopes from `first` to the structure's end.
fn scopes(part: Part<'_>, first: usize, report: &mut impl FnMut(Problem)) -> Vec<Scope> {
    let mut scopes = Vec::new();
    let mut at = first;
    while at < part.bytes.len() {
        let offset = part.offset + at;
        let length = part.u8(at + 1).map_or(0, usize::from);
        let path = part.bytes.get(at..at + length).and_then(|bytes| bytes.get(scope::PATH..));
        let (Some(path), Some(kind)) = (path, part.u8(at)) else {
            report(Problem { offset, trouble: Trouble::Length(length) });
            break;
        };
        let steps: Vec<(u8, u8)> = path
            .chunks_exact(2)
            .filter_map(|step| match step {
                [device, function] => Some((*device, *function)),
                _ => None,
            })
            .collect();
        let parts = (part.u8(at + scope::ENUMERATION_ID), part.u8(at + scope::START_BUS));
        match parts {
            (Some(id), Some(start_bus)) if !steps.is_empty() => {
                scopes.push(Scope { offset, kind, id, start_bus, path: steps });
            }
            _ => report(Problem { offset, trouble: Trouble::Short }),
        }
        at += length;
    }
    scopes
}

#[cfg(test)]
mod tests;
