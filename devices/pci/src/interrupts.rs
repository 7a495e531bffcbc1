//! A function's interrupts: MSI in its configuration space (7.7.1), MSI-X in a BAR (7.7.2). Messages are programmed while
//! they cannot be sent, and stay; what moves an interrupt afterwards is its interrupt entry.

use hw::{Function, RegisterBus, Width};

use crate::access::{Config, ConfigAccess};
use crate::function::{Msi, Msix};
use crate::spec::capability::{msi, msix};

impl Msi {
    /// Where the registers from data on are.
    const fn behind_address(&self, register: u16) -> u16 {
        self.offset + register + if self.wide { 4 } else { 0 }
    }

    /// Sets the message, with interrupts off. Vectors are added to `data`, whose lowest bits are then 0. An address
    /// above 4 GiB needs [`Msi::wide`].
    pub fn set(&self, access: &impl ConfigAccess, function: Function, address: u64, data: u16) {
        self.enable(access, function, 0);
        let config = Config::new(access, function);
        config.write32(self.offset + msi::ADDRESS, address as u32);
        if self.wide {
            config.write32(self.offset + msi::ADDRESS_HIGH, (address >> 32) as u32);
        }
        config.write16(self.behind_address(msi::DATA), data);
    }

    /// Turns interrupts on with as many vectors, a power of two of at most [`Msi::vectors`]; off with 0.
    pub fn enable(&self, access: &impl ConfigAccess, function: Function, vectors: u8) {
        let config = Config::new(access, function);
        let control = self.offset + msi::CONTROL;
        let kept = config.read16(control) & !(msi::ENABLE | msi::LOG2 << msi::ENABLED_SHIFT);
        let on = match vectors.min(self.vectors).checked_ilog2() {
            Some(log2) => msi::ENABLE | (log2 as u16) << msi::ENABLED_SHIFT,
            None => 0,
        };
        config.write16(control, kept | on);
    }

    /// Masks the vectors whose bits are set, and no others; nothing without [`Msi::maskable`].
    pub fn mask(&self, access: &impl ConfigAccess, function: Function, bits: u32) {
        if self.maskable {
            Config::new(access, function).write32(self.behind_address(msi::MASK), bits);
        }
    }

    /// Masked vectors that have something to tell.
    pub fn pending(&self, access: &impl ConfigAccess, function: Function) -> u32 {
        match self.maskable {
            true => Config::new(access, function).read32(self.behind_address(msi::PENDING)),
            false => 0,
        }
    }
}

impl Msix {
    /// Turns interrupts on or off, and all of them silent or each by its entry.
    pub fn enable(&self, access: &impl ConfigAccess, function: Function, on: bool, mask_all: bool) {
        let config = Config::new(access, function);
        let kept = config.read16(self.offset + msix::CONTROL) & !(msix::ENABLE | msix::MASK_ALL);
        let on = if on { msix::ENABLE } else { 0 };
        let mask = if mask_all { msix::MASK_ALL } else { 0 };
        config.write16(self.offset + msix::CONTROL, kept | on | mask);
    }

    /// Sets an entry's message and leaves it masked. `table` is a window that begins with the table. An entry that is
    /// not there takes nothing.
    pub fn set(&self, table: &impl RegisterBus, index: u16, address: u64, data: u32) {
        self.mask(table, index, true);
        if index < self.entries {
            let entry = u64::from(index) * msix::ENTRY_BYTES;
            let write = |register, value| table.store(entry + register, Width::W4, value);
            write(msix::ENTRY_ADDRESS, address & u64::from(u32::MAX));
            write(msix::ENTRY_ADDRESS_HIGH, address >> 32);
            write(msix::ENTRY_DATA, data.into());
        }
    }

    /// Masks an entry, or lets it send. Once this returns, a masked one sends nothing more.
    pub fn mask(&self, table: &impl RegisterBus, index: u16, masked: bool) {
        if index >= self.entries {
            return;
        }
        let control = u64::from(index) * msix::ENTRY_BYTES + msix::ENTRY_CONTROL;
        let masks = u64::from(msix::ENTRY_MASKED);
        let kept = table.load(control, Width::W4) & !masks;
        table.store(control, Width::W4, if masked { kept | masks } else { kept });
        if masked {
            // The answer pushes the write, and what was sent before it, ahead of itself (2.4.1).
            table.load(control, Width::W4);
        }
    }

    /// Whether a masked entry has something to tell. `pba` is a window that begins with the pending bits.
    pub fn is_pending(&self, pba: &impl RegisterBus, index: u16) -> bool {
        let word = || pba.load(u64::from(index / 32) * 4, Width::W4);
        index < self.entries && word() >> (index % 32) & 1 != 0
    }
}

#[cfg(test)]
mod tests {
    use core::cell::RefCell;

    use super::*;
    use crate::enumerate::enumerate;
    use crate::function::FunctionInfo;
    use crate::model::{Device, Machine, at};
    use crate::spec::capability;

    const PLACE: Function = at(0, 3, 0);
    const MESSAGE: u64 = 0xfee0_1238;

    fn with_msi(control: u16) -> (Machine, Msi) {
        let mut device = Device::endpoint(0x8086, 1).capability(capability::MSI, 0x50);
        device.put(0x52, Width::W2, control.into());
        device.allow(0x52, Width::W2, 0x0071);
        for offset in (0x54..0x60).step_by(4) {
            device.allow(offset, Width::W4, u32::MAX);
        }
        device.allow(0x60, Width::W4, u32::MAX);
        device.put(0x64, Width::W4, 0b100);
        let machine = Machine::new([(PLACE, device)]);
        let found = enumerate(&machine, 0, 0..=0);
        let msi = found[0].msi.unwrap();
        (machine, msi)
    }

    #[test]
    fn a_narrow_msi_has_its_data_behind_half_an_address() {
        let (machine, msi) = with_msi(0x0001);
        msi.set(&machine, PLACE, MESSAGE, 0x4021);
        assert_eq!(machine.peek(PLACE, 0x52, Width::W2), 0, "off while it changes");
        assert_eq!(machine.peek(PLACE, 0x54, Width::W4), 0xfee0_1238);
        assert_eq!(machine.peek(PLACE, 0x58, Width::W4), 0x4021);
        msi.mask(&machine, PLACE, 1);
        assert_eq!((machine.peek(PLACE, 0x5c, Width::W4), msi.pending(&machine, PLACE)), (0, 0));
    }

    #[test]
    fn a_wide_msi_has_all_of_it() {
        let (machine, msi) = with_msi(0x0188 | 3 << 4);
        msi.set(&machine, PLACE, 0x1_0000_0000 | MESSAGE, 0x4020);
        assert_eq!(machine.peek(PLACE, 0x58, Width::W4), 1);
        assert_eq!(machine.peek(PLACE, 0x5c, Width::W2), 0x4020);
        msi.mask(&machine, PLACE, 0b110);
        assert_eq!(machine.peek(PLACE, 0x60, Width::W4), 0b110);
        assert_eq!(msi.pending(&machine, PLACE), 0b100);
        for (vectors, control) in [(4, 0x01a9), (1, 0x0189), (255, 0x01c9), (0, 0x0188)] {
            msi.enable(&machine, PLACE, vectors);
            assert_eq!(machine.peek(PLACE, 0x52, Width::W2), control, "{vectors}");
        }
    }

    #[derive(Default)]
    struct Table {
        bytes: RefCell<Vec<u8>>,
        /// Loads and stores, a store with its value.
        accesses: RefCell<Vec<(u64, Option<u64>)>>,
    }

    impl RegisterBus for Table {
        fn load(&self, offset: u64, width: Width) -> u64 {
            assert_eq!(width, Width::W4);
            self.accesses.borrow_mut().push((offset, None));
            let bytes = &self.bytes.borrow()[offset as usize..][..4];
            u32::from_le_bytes(bytes.try_into().unwrap()).into()
        }
        fn store(&self, offset: u64, width: Width, value: u64) {
            assert_eq!((width, value >> 32), (Width::W4, 0));
            self.accesses.borrow_mut().push((offset, Some(value)));
            self.bytes.borrow_mut()[offset as usize..][..4]
                .copy_from_slice(&(value as u32).to_le_bytes());
        }
    }

    fn with_msix(entries: u16) -> (Machine, FunctionInfo) {
        let mut device = Device::endpoint(0x8086, 1)
            .register(0x10, 0xfe00_0000, 0xffff_0000)
            .capability(capability::MSIX, 0x50);
        device.put(0x52, Width::W2, (entries - 1).into());
        device.allow(0x52, Width::W2, 0xc000);
        let machine = Machine::new([(PLACE, device)]);
        let found = enumerate(&machine, 0, 0..=0).remove(0);
        (machine, found)
    }

    #[test]
    fn an_entry_is_masked_before_its_message_changes() {
        let msix = with_msix(3).1.msix.unwrap();
        let table = Table { bytes: vec![0xa0; 48].into(), ..Table::default() };
        msix.set(&table, 1, MESSAGE, 7);
        let masked = 0xa0a0_a0a1;
        assert_eq!(
            *table.accesses.borrow(),
            [
                (28, None),
                (28, Some(masked)),
                (28, None),
                (16, Some(MESSAGE)),
                (20, Some(0)),
                (24, Some(7)),
            ]
        );
        msix.mask(&table, 1, false);
        assert_eq!(table.load(28, Width::W4), masked - 1);
    }

    #[test]
    fn an_entry_that_is_not_there_takes_nothing() {
        let msix = with_msix(3).1.msix.unwrap();
        let table = Table::default();
        msix.set(&table, 3, MESSAGE, 7);
        msix.mask(&table, u16::MAX, true);
        assert!(!msix.is_pending(&table, 3));
        assert!(table.accesses.borrow().is_empty());
    }

    #[test]
    fn pending_bits_are_in_the_order_of_entries() {
        let msix = with_msix(100).1.msix.unwrap();
        let pba = Table { bytes: vec![0; 16].into(), ..Table::default() };
        pba.bytes.borrow_mut()[8] = 0b10;
        let pending = (0..100).filter(|index| msix.is_pending(&pba, *index)).collect::<Vec<_>>();
        assert_eq!(pending, [65]);
    }

    #[test]
    fn msix_is_turned_on_and_silenced_as_a_whole() {
        let (machine, info) = with_msix(2048);
        let msix = info.msix.unwrap();
        for (on, mask_all, control) in
            [(true, true, 0xc7ff), (true, false, 0x87ff), (false, false, 0x07ff)]
        {
            msix.enable(&machine, PLACE, on, mask_all);
            assert_eq!(machine.peek(PLACE, 0x52, Width::W2), control);
        }
    }
}
