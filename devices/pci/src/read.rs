//! Reading all of a function, once.

use alloc::vec::Vec;

use hw::Function;

use crate::access::{Config, ConfigAccess};
use crate::function::{
    Bar, BarKind, Capability, FunctionInfo, HeaderKind, Msi, Msix, PcieKind, Reset,
};
use crate::spec;
use crate::spec::capability::{self, advanced_features, express, msi, msix, power};
use crate::{bars, capabilities};

impl FunctionInfo {
    /// Reads all of a function that answers.
    pub(crate) fn read<A: ConfigAccess>(config: Config<'_, A>, parent: Option<Function>) -> Self {
        let class = config.read32(spec::REVISION);
        let layout = config.read8(spec::HEADER_TYPE) & spec::HEADER_LAYOUT;
        let (header, bar_count) = match layout {
            spec::HEADER_ENDPOINT => (HeaderKind::Endpoint, 6),
            spec::HEADER_BRIDGE => {
                let secondary = config.read8(spec::SECONDARY_BUS);
                let subordinate = config.read8(spec::SUBORDINATE_BUS);
                (HeaderKind::Bridge { secondary, subordinate }, 2)
            }
            other => (HeaderKind::Other(other), 0),
        };
        let is_endpoint = header == HeaderKind::Endpoint;
        // A host bridge's decoding is the machine's memory: it is not turned off, so its BARs are not sized.
        let is_host = class >> 16 == spec::class::HOST_BRIDGE;
        let (bars, rom) = match is_host {
            true => ([None; 6], None),
            false => bars::read(config, bar_count, is_endpoint),
        };
        let info = Self {
            function: config.function,
            parent,
            physical: None,
            vendor: config.read16(spec::VENDOR),
            device: config.read16(spec::DEVICE),
            class: class >> 8,
            revision: class as u8,
            subsystem: match is_endpoint {
                true => (config.read16(spec::SUBSYSTEM_VENDOR), config.read16(spec::SUBSYSTEM)),
                false => (0, 0),
            },
            header,
            bars,
            rom,
            caps: Vec::new(),
            extended: Vec::new(),
            msi: None,
            msix: None,
            pcie: None,
            reset: Reset::None,
        };
        info.with_capabilities(config)
    }

    /// A virtual function: its vendor is that of its physical function, its device ID and BARs are in the capability of
    /// that (9.3.4.1). `None` where nobody answers.
    pub(crate) fn read_virtual<A: ConfigAccess>(
        config: Config<'_, A>,
        physical: &Self,
        device: u16,
        bars: [Option<Bar>; 6],
    ) -> Option<Self> {
        let class = config.read32(spec::REVISION);
        let info = Self {
            function: config.function,
            physical: Some(physical.function),
            device,
            class: class >> 8,
            revision: class as u8,
            bars,
            rom: None,
            caps: Vec::new(),
            extended: Vec::new(),
            ..physical.clone()
        };
        (class != u32::MAX).then(|| info.with_capabilities(config))
    }

    fn with_capabilities<A: ConfigAccess>(mut self, config: Config<'_, A>) -> Self {
        let info = &mut self;
        info.caps = capabilities::conventional(config, info.header);
        info.pcie = info
            .capability(capability::EXPRESS)
            .map(|found| PcieKind::new(config.read16(found.offset + express::CAPABILITIES)));
        if info.pcie.is_some() {
            info.extended = capabilities::extended(config);
        }
        info.msi = info.read_msi(config);
        info.msix = info.read_msix(config);
        info.reset = info.best_reset(config);
        self
    }

    fn read_msi<A: ConfigAccess>(&self, config: Config<'_, A>) -> Option<Msi> {
        let offset = self.capability(capability::MSI)?.offset;
        let control = config.read16(offset + msi::CONTROL);
        let capable = control >> msi::CAPABLE_SHIFT & msi::LOG2;
        Some(Msi {
            offset,
            vectors: 1 << capable.min(5),
            wide: control & msi::WIDE != 0,
            maskable: control & msi::MASKABLE != 0,
        })
    }

    fn read_msix<A: ConfigAccess>(&self, config: Config<'_, A>) -> Option<Msix> {
        let offset = self.capability(capability::MSIX)?.offset;
        let table = config.read32(offset + msix::TABLE);
        let pba = config.read32(offset + msix::PBA);
        let found = Msix {
            offset,
            entries: (config.read16(offset + msix::CONTROL) & msix::LAST) + 1,
            table_bar: (table & msix::BAR) as u8,
            table_offset: table & !msix::BAR,
            pba_bar: (pba & msix::BAR) as u8,
            pba_offset: pba & !msix::BAR,
        };
        let lies_in = |bar, offset: u32, bytes| {
            self.bar(bar).is_some_and(|bar| {
                bar.kind != BarKind::Io && u64::from(offset) + bytes <= bar.bytes
            })
        };
        let is_sound = lies_in(found.table_bar, found.table_offset, found.table_bytes())
            && lies_in(found.pba_bar, found.pba_offset, found.pba_bytes());
        is_sound.then_some(found)
    }

    fn best_reset<A: ConfigAccess>(&self, config: Config<'_, A>) -> Reset {
        if self.header != HeaderKind::Endpoint {
            return Reset::None;
        }
        let has_flr = |found: &Capability| {
            config.read32(found.offset + express::DEVICE_CAPABILITIES) & express::FLR != 0
        };
        let has_af_flr = |found: &Capability| {
            let offered = config.read8(found.offset + advanced_features::CAPABILITIES);
            offered & advanced_features::FLR == advanced_features::FLR
        };
        let resets_softly = |found: &Capability| {
            config.read16(found.offset + power::CONTROL) & power::NO_SOFT_RESET == 0
        };
        if self.capability(capability::EXPRESS).is_some_and(has_flr) {
            Reset::Flr
        } else if self.capability(capability::ADVANCED_FEATURES).is_some_and(has_af_flr) {
            Reset::AfFlr
        } else if self.capability(capability::POWER).is_some_and(resets_softly) {
            Reset::Pm
        } else {
            Reset::None
        }
    }
}
