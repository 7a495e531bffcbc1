//! Chains of capabilities. A function says where the next one is, so each offset is visited once, and what would not end
//! within the configuration space is left out.

use alloc::vec::Vec;

use crate::access::{Config, ConfigAccess};
use crate::function::{Capability, HeaderKind};
use crate::spec::capability::{self, advanced_features, express, msi, msix, power};
use crate::spec::{self, extended};

/// The capabilities of the first 256 bytes.
pub(crate) fn conventional<A: ConfigAccess>(
    config: Config<'_, A>,
    header: HeaderKind,
) -> Vec<Capability> {
    let mut found = Vec::new();
    let has = config.read16(spec::STATUS) & spec::STATUS_CAPABILITIES != 0;
    if !has || matches!(header, HeaderKind::Other(_)) {
        return found;
    }
    let next = |offset| u16::from(config.read8(offset)) & 0xfc;
    let mut offset = next(spec::CAPABILITIES);
    while offset >= spec::HEADER_END && !holds(&found, offset) {
        let id = config.read8(offset);
        // A chain that ends in all ones leads to nobody.
        if id == u8::MAX {
            break;
        }
        let bytes = conventional_bytes(config, id, offset);
        found.push(Capability { id: id.into(), version: 0, offset, bytes });
        offset = next(offset + 1);
    }
    found.retain(|found| ends_within(found, spec::CONVENTIONAL_BYTES));
    found
}

/// The extended capabilities of a PCI Express function.
pub(crate) fn extended<A: ConfigAccess>(config: Config<'_, A>) -> Vec<Capability> {
    let mut found = Vec::new();
    let mut offset = extended::FIRST;
    while offset >= extended::FIRST && !holds(&found, offset) {
        let header = config.read32(offset);
        if header == 0 || header == u32::MAX {
            break;
        }
        let id = header as u16;
        // ID 0 holds nothing but the way to the next one.
        let bytes = extended_bytes(config, id, offset);
        found.push(Capability { id, version: extended::version(header), offset, bytes });
        offset = extended::next(header);
    }
    found.retain(|found| found.id != 0 && ends_within(found, spec::CONFIG_BYTES));
    found
}

fn holds(found: &[Capability], offset: u16) -> bool {
    found.iter().any(|found| found.offset == offset)
}

fn ends_within(found: &Capability, space: u16) -> bool {
    found.bytes.is_none_or(|bytes| bytes <= space - found.offset)
}

fn conventional_bytes<A: ConfigAccess>(config: Config<'_, A>, id: u8, offset: u16) -> Option<u16> {
    Some(match id {
        capability::POWER => power::BYTES,
        capability::MSI => msi::bytes(config.read16(offset + msi::CONTROL)),
        capability::VENDOR_SPECIFIC => config.read8(offset + 2).into(),
        capability::EXPRESS => match config.read16(offset + express::CAPABILITIES) {
            version if version & express::VERSION >= 2 => express::BYTES,
            _ => express::BYTES_V1,
        },
        capability::MSIX => msix::BYTES,
        capability::ADVANCED_FEATURES => advanced_features::BYTES,
        _ => return None,
    })
}

fn extended_bytes<A: ConfigAccess>(config: Config<'_, A>, id: u16, offset: u16) -> Option<u16> {
    Some(match id {
        extended::VENDOR_SPECIFIC | extended::DVSEC => (config.read32(offset + 4) >> 20) as u16,
        extended::ACS => {
            let capabilities = config.read16(offset + extended::acs::CAPABILITIES);
            let bits = match capabilities >> 8 {
                _ if capabilities & extended::acs::EGRESS_CONTROL == 0 => 0,
                0 => 256,
                bits => bits,
            };
            8 + bits.div_ceil(32) * 4
        }
        extended::RESIZABLE_BAR => {
            let control = config.read32(offset + extended::resizable_bar::CONTROL);
            4 + 8 * (control >> extended::resizable_bar::COUNT_SHIFT & 7) as u16
        }
        extended::ARI => extended::ari::BYTES,
        extended::ATS => extended::ats::BYTES,
        extended::SRIOV => extended::sriov::BYTES,
        extended::PRI => extended::pri::BYTES,
        extended::PASID => extended::pasid::BYTES,
        _ => return None,
    })
}
