//! SPDX-License-Identifier: LGPL-2.1-or-later
//!
//! [`Way`]: a function's way through the unit to Bochs' memory ([`Ram`]) and to its local APICs. The models of functions have a
//! trait each for what they need of it.

use hw::{Hpa, Iova, Pasid, RequesterId};
use iommu_spec::{INTERRUPT_END, INTERRUPT_START};
use models::DeviceMemory;
use models::vtd::{Delivery, Message, Request, Unit};

use crate::Bochs;
use crate::config::Config;

/// No.
pub(crate) struct Refused;

/// Bochs' memory, as devices reach it. There are no caches in between.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Ram(pub(crate) Bochs);

impl DeviceMemory for Ram {
    fn read(&self, hpa: u64, _snoop: bool) -> Option<u64> {
        let mut bytes = [0; 8];
        self.is_there(hpa, 8).then(|| self.0.read(hpa, &mut bytes))?;
        Some(u64::from_le_bytes(bytes))
    }

    fn write(&mut self, hpa: u64, value: u64) {
        if self.is_there(hpa, 8) {
            self.0.write(hpa, &value.to_le_bytes());
        }
    }
}

impl Ram {
    fn is_there(&self, hpa: u64, bytes: u64) -> bool {
        hpa.checked_add(bytes).is_some_and(|end| end <= self.0.memory)
    }
}

/// What happened.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Counts {
    pub(crate) requests: u64,
    pub(crate) blocked: u64,
    pub(crate) remapped: u64,
    pub(crate) compatible: u64,
    pub(crate) refused: u64,
    pub(crate) events: u64,
    pub(crate) violations: u64,
}

/// The way from a function to memory and to the local APICs.
pub(crate) struct Way<'a> {
    pub(crate) bochs: &'a Bochs,
    pub(crate) unit: &'a mut Unit<Ram>,
    pub(crate) rid: RequesterId,
    pub(crate) config: &'a Config,
    pub(crate) counts: &'a mut Counts,
}

impl Way<'_> {
    fn translate(
        &mut self,
        pasid: Option<Pasid>,
        iova: Iova,
        bytes: usize,
        write: bool,
    ) -> Result<Hpa, Refused> {
        if !self.config.is_master() || pasid.is_some() && !self.config.has_pasids() {
            return Err(Refused);
        }
        self.counts.requests += 1;
        let request =
            Request { rid: self.rid, pasid: pasid.map(Pasid::raw), address: iova.raw(), write };
        let hpa = self.unit.dma(request).ok();
        // No function reaches another's registers, nor its own.
        let hpa = hpa.filter(|hpa| Ram(*self.bochs).is_there(hpa.raw(), bytes as u64));
        hpa.ok_or_else(|| {
            self.counts.blocked += 1;
            Refused
        })
    }

    fn send(&mut self, message: Message) -> Result<(), Refused> {
        if !self.config.is_master() {
            return Err(Refused);
        }
        match self.unit.interrupt(self.rid, message) {
            Ok(Delivery::Remapped { vector, destination }) => {
                self.counts.remapped += 1;
                let wide = self.unit.has_wide_destinations();
                let destination = if wide { destination } else { destination >> 8 & 0xff };
                self.bochs.interrupt(vector, destination, 0, false);
            }
            Ok(Delivery::Posted(notification)) => {
                self.counts.remapped += 1;
                if let Some((vector, destination)) = notification {
                    self.bochs.interrupt(vector, destination, 0, false);
                }
            }
            Ok(Delivery::Compatible(message)) => {
                self.counts.compatible += 1;
                compatible(self.bochs, message);
            }
            Err(_) => {
                self.counts.refused += 1;
                return Err(Refused);
            }
        }
        Ok(())
    }

    fn load(&mut self, pasid: Option<Pasid>, iova: Iova, bytes: &mut [u8]) -> Result<(), Refused> {
        let hpa = self.translate(pasid, iova, bytes.len(), false)?;
        self.bochs.read(hpa.raw(), bytes);
        Ok(())
    }

    fn store(&mut self, pasid: Option<Pasid>, iova: Iova, bytes: &[u8]) -> Result<(), Refused> {
        // A word that is written there is an interrupt, whatever the function meant by it (3.14).
        let in_range = (INTERRUPT_START..INTERRUPT_END).contains(&iova.raw());
        if let (true, None, Ok(data)) = (in_range, pasid, bytes.try_into()) {
            let data = u32::from_le_bytes(data);
            return self.send(Message { address: iova.raw(), data });
        }
        let hpa = self.translate(pasid, iova, bytes.len(), true)?;
        self.bochs.write(hpa.raw(), bytes);
        Ok(())
    }
}

/// A message as a local APIC takes it (SDM 3A, 12.11; VT-d 5.1.2.1), with more of the destination in the address' upper half.
pub(crate) fn compatible(bochs: &Bochs, Message { address, data }: Message) {
    let destination = (address >> 12) as u32 & 0xff | (address >> 32) as u32 & !0xff;
    bochs.interrupt(data as u8, destination, (data >> 8) as u8 & 7, address & 4 != 0);
}

/// What both kinds of models need, under their own names.
macro_rules! serve {
    ($room:ident :: $need:ident) => {
        impl $room::$need for Way<'_> {
            fn read(
                &mut self,
                pasid: Option<Pasid>,
                iova: Iova,
                bytes: &mut [u8],
            ) -> Result<(), $room::Refused> {
                self.load(pasid, iova, bytes).map_err(|Refused| $room::Refused)
            }

            fn write(
                &mut self,
                pasid: Option<Pasid>,
                iova: Iova,
                bytes: &[u8],
            ) -> Result<(), $room::Refused> {
                self.store(pasid, iova, bytes).map_err(|Refused| $room::Refused)
            }

            fn message(&mut self, address: u64, data: u32) {
                // What is refused is on record.
                let _ = self.store(None, Iova::new(address), &data.to_le_bytes());
            }
        }
    };
}

serve!(siov::Upstream);
serve!(dsa_model::Bus);
