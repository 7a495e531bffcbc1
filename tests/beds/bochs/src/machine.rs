//! SPDX-License-Identifier: LGPL-2.1-or-later
//!
//! [`Machine`]: the unit, the function whose requests go through it, and what becomes of them in Bochs' memory and at its local
//! APICs. [`Upstream`] is the function's way: a model of another device has its own such trait, to be implemented beside.

use hw::{Hpa, Iova, Pasid, RequesterId, Width};
use iommu_spec::{INTERRUPT_END, INTERRUPT_START};
use models::DeviceMemory;
use models::vtd::{Delivery, Message, Profile, Request, Unit};
use siov::{Device, Refused, Upstream};

use crate::Bochs;
use crate::config::{Config, Effect};

/// Bochs' memory, as devices reach it. There are no caches in between.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Ram(Bochs);

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
struct Counts {
    requests: u64,
    blocked: u64,
    remapped: u64,
    compatible: u64,
    refused: u64,
    events: u64,
    violations: u64,
}

/// What the plugin adds to Bochs' machine.
pub(crate) struct Machine {
    bochs: Bochs,
    pub(crate) unit: Unit<Ram>,
    rid: RequesterId,
    config: Config,
    device: Device,
    counts: Counts,
}

/// The unit of this name.
pub(crate) fn profile(name: &str) -> Option<Profile> {
    Some(match name {
        "legacy" => Profile::legacy(),
        "second" => Profile::scalable_second(),
        "first" => Profile::scalable_first(),
        "nested" => Profile::nested(),
        _ => return None,
    })
}

impl Machine {
    pub(crate) fn new(bochs: Bochs, profile: Profile, devfn: u8) -> Self {
        Self {
            bochs,
            unit: Unit::new(profile, Ram(bochs)),
            rid: RequesterId::new(0, devfn >> 3, devfn & 7),
            config: Config::default(),
            device: Device::default(),
            counts: Counts::default(),
        }
    }

    /// Carries out what the unit has to say.
    pub(crate) fn settle(&mut self) {
        for message in self.unit.messages() {
            self.counts.events += 1;
            compatible(&self.bochs, message);
        }
        for violation in self.unit.violations() {
            self.counts.violations += 1;
            self.bochs.say(&format!("violation: {violation:x?}"));
        }
    }

    pub(crate) fn config_read(&self, offset: u16, width: Width) -> u32 {
        self.config.read(offset, width)
    }

    pub(crate) fn config_write(&mut self, offset: u16, width: Width, value: u32) {
        match self.config.write(offset, width, value) {
            Some(Effect::Reset) => (self.config, self.device) = Default::default(),
            Some(Effect::Interrupts) => {
                let held = self.config.holds_interrupts();
                let (device, mut way) = self.device();
                device.hold(held, &mut way);
            }
            None => {}
        }
    }

    pub(crate) fn bar_read(&self, offset: u64, to: &mut [u8]) {
        for (at, bytes) in (offset..).step_by(8).zip(to.chunks_mut(8)) {
            let value = Width::try_new(bytes.len() as u64).map(|width| self.device.read(at, width));
            let value = value.unwrap_or(u64::MAX).to_le_bytes();
            bytes.copy_from_slice(&value[..bytes.len()]);
        }
    }

    pub(crate) fn bar_write(&mut self, offset: u64, from: &[u8]) {
        let (device, mut way) = self.device();
        for (at, bytes) in (offset..).step_by(8).zip(from.chunks(8)) {
            let mut value = [0; 8];
            value[..bytes.len()].copy_from_slice(bytes);
            if let Some(width) = Width::try_new(bytes.len() as u64) {
                device.write(at, width, u64::from_le_bytes(value), &mut way);
            }
        }
    }

    fn device(&mut self) -> (&mut Device, Way<'_>) {
        let Self { bochs, unit, rid, config, device, counts } = self;
        (device, Way { bochs, unit, rid: *rid, config, counts })
    }

    /// One line, which says it all.
    pub(crate) fn report(&mut self) {
        self.settle();
        let Counts { requests, blocked, remapped, compatible, refused, events, violations } =
            self.counts;
        self.bochs.say(&format!(
            "{violations} violations; {requests} requests, {blocked} blocked; {remapped} interrupts remapped, \
             {compatible} as they were, {refused} refused; {events} events"
        ));
    }
}

/// The way from a function to memory and to the local APICs.
struct Way<'a> {
    bochs: &'a Bochs,
    unit: &'a mut Unit<Ram>,
    rid: RequesterId,
    config: &'a Config,
    counts: &'a mut Counts,
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
}

/// A message as a local APIC takes it (SDM 3A, 12.11; VT-d 5.1.2.1), with more of the destination in the address' upper half.
fn compatible(bochs: &Bochs, Message { address, data }: Message) {
    let destination = (address >> 12) as u32 & 0xff | (address >> 32) as u32 & !0xff;
    bochs.interrupt(data as u8, destination, (data >> 8) as u8 & 7, address & 4 != 0);
}

impl Upstream for Way<'_> {
    fn read(&mut self, pasid: Option<Pasid>, iova: Iova, bytes: &mut [u8]) -> Result<(), Refused> {
        let hpa = self.translate(pasid, iova, bytes.len(), false)?;
        self.bochs.read(hpa.raw(), bytes);
        Ok(())
    }

    fn write(&mut self, pasid: Option<Pasid>, iova: Iova, bytes: &[u8]) -> Result<(), Refused> {
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

    fn message(&mut self, address: u64, data: u32) {
        let message = Message { address, data };
        let in_range = address & 0xfff0_0000 == INTERRUPT_START;
        // Elsewhere it is a write like any other. What is refused is on record.
        let _ = match in_range {
            true => self.send(message),
            false => self.write(None, Iova::new(address), &data.to_le_bytes()),
        };
    }
}
