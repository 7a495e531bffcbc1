//! The function: its control page, its interrupt slots and its interfaces.

use hw::{PAGE_SIZE, Pasid, Width};

use crate::interface::{Descriptor, Interface, PASIDS, Status};
use crate::{INTERFACES, SLOTS, Upstream, control};

/// An interrupt slot.
#[derive(Clone, Copy, Debug)]
struct Slot {
    address: u64,
    data: u32,
    control: u32,
}

impl Slot {
    const RESET: Self = Self { address: 0, data: 0, control: control::MASKED };
    /// The bits of the control register that are written.
    const WRITABLE: u32 = !(control::PENDING | 0xff4);

    fn read(&self, word: u64) -> u32 {
        match word {
            0 => self.address as u32,
            1 => (self.address >> 32) as u32,
            2 => self.data,
            _ => self.control,
        }
    }

    fn write(&mut self, word: u64, value: u32, held: bool, upstream: &mut impl Upstream) {
        match word {
            0 => self.address = self.address >> 32 << 32 | u64::from(value),
            1 => self.address = u64::from(value) << 32 | u64::from(self.address as u32),
            2 => self.data = value,
            _ => {
                self.control = value & Self::WRITABLE | self.control & control::PENDING;
                self.settle(held, upstream);
            }
        }
    }

    /// Whether the interface with this PASID may use it.
    fn serves(&self, pasid: Option<Pasid>) -> bool {
        let owner = self.control >> control::PASID_SHIFT;
        self.control & control::CHECKED == 0 || pasid.is_some_and(|pasid| pasid.raw() == owner)
    }

    fn raise(&mut self, held: bool, upstream: &mut impl Upstream) {
        if held || self.control & control::MASKED != 0 {
            self.control |= control::PENDING;
        } else {
            self.control &= !control::PENDING;
            upstream.message(self.address, self.data);
        }
    }

    /// Sends what was held back, if it may now.
    fn settle(&mut self, held: bool, upstream: &mut impl Upstream) {
        if self.control & control::PENDING != 0 {
            self.raise(held, upstream);
        }
    }
}

/// Where an offset in BAR 0 leads.
enum Place {
    Interface(usize, u64),
    Pasid(usize),
    Slot(usize, u64),
    Other(u64),
}

impl Place {
    fn of(offset: u64) -> Self {
        let (page, within) = ((offset / PAGE_SIZE) as usize, offset % PAGE_SIZE);
        let (pasids, slots) = (control::pasid(0), control::slot(0));
        match page {
            1..=INTERFACES => Self::Interface(page - 1, within),
            0 if (pasids..control::pasid(INTERFACES)).contains(&within) => {
                Self::Pasid((within - pasids) as usize / 4)
            }
            0 if (slots..control::slot(SLOTS)).contains(&within) => {
                Self::Slot((within - slots) as usize / 16, within % 16 / 4)
            }
            _ => Self::Other(offset),
        }
    }
}

/// The function, by its registers.
#[derive(Clone, Debug)]
pub struct Device {
    interfaces: [Interface; INTERFACES],
    slots: [Slot; SLOTS],
    /// All slots are held back.
    held: bool,
}

impl Default for Device {
    /// As after reset.
    fn default() -> Self {
        Self {
            interfaces: [Interface::default(); INTERFACES],
            slots: [Slot::RESET; SLOTS],
            held: false,
        }
    }
}

impl Device {
    /// Reads BAR 0. Registers are not to be read in less than four bytes, and read 0 then.
    #[must_use]
    pub fn read(&self, offset: u64, width: Width) -> u64 {
        match width {
            Width::W8 => u64::from(self.word(offset + 4)) << 32 | u64::from(self.word(offset)),
            Width::W4 => self.word(offset).into(),
            Width::W1 | Width::W2 => 0,
        }
    }

    /// Writes BAR 0, and does all that follows from it. Less than four bytes are not taken.
    pub fn write(&mut self, offset: u64, width: Width, value: u64, upstream: &mut impl Upstream) {
        if width < Width::W4 {
            return;
        }
        self.write_word(offset, value as u32, upstream);
        if width == Width::W8 {
            self.write_word(offset + 4, (value >> 32) as u32, upstream);
        }
    }

    /// Holds all interrupts back, or lets them go: what masks a whole function.
    pub fn hold(&mut self, held: bool, upstream: &mut impl Upstream) {
        self.held = held;
        self.slots.iter_mut().for_each(|slot| slot.settle(held, upstream));
    }

    fn word(&self, offset: u64) -> u32 {
        match Place::of(offset & !3) {
            Place::Interface(index, within) => self.interfaces[index].read(within),
            Place::Pasid(index) => self.interfaces[index].pasid,
            Place::Slot(index, word) => self.slots[index].read(word),
            Place::Other(control::SIGNATURE) => control::SIGNATURE_VALUE,
            Place::Other(control::COUNTS) => (SLOTS << 16 | INTERFACES) as u32,
            Place::Other(control::PENDING_BITS) => {
                let pending = self.slots.iter().map(|slot| slot.control & control::PENDING != 0);
                pending.enumerate().map(|(slot, pending)| u32::from(pending) << slot).sum()
            }
            Place::Other(_) => 0,
        }
    }

    fn write_word(&mut self, offset: u64, value: u32, upstream: &mut impl Upstream) {
        match Place::of(offset & !3) {
            Place::Interface(index, within) => {
                if let Some(descriptor) = self.interfaces[index].write(within, value) {
                    self.submit(index, descriptor, upstream);
                }
            }
            Place::Pasid(index) => {
                let flags = control::PASID_VALID | control::UNTAGGED;
                self.interfaces[index].pasid = value & (flags | PASIDS);
            }
            Place::Slot(index, word) => self.slots[index].write(word, value, self.held, upstream),
            Place::Other(_) => {}
        }
    }

    fn submit(&mut self, index: usize, descriptor: Descriptor, upstream: &mut impl Upstream) {
        let interface = &mut self.interfaces[index];
        let pasid = interface.sender().ok_or(Status::Disabled);
        let slot = descriptor.slot();
        let slot = slot.map(|index| self.slots.get_mut(index)).map(|slot| {
            slot.filter(|slot| pasid.is_ok_and(|pasid| slot.serves(pasid)))
                .ok_or(Status::SlotRefused)
        });
        let refused = slot.as_ref().and_then(|slot| slot.as_ref().err().copied());
        interface.run(descriptor, pasid.and_then(|pasid| refused.map_or(Ok(pasid), Err)), upstream);
        if let (Ok(_), Some(Ok(slot))) = (pasid, slot) {
            slot.raise(self.held, upstream);
        }
    }
}
