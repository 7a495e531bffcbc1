//! MSI and MSI-X.

use super::*;
use x86_spec::apic::MsiMessage;

const TABLE: u64 = 0x2000;
const PENDING: u64 = 0x3000;

fn route(destination: u8, vector: u8) -> Route {
    Route { message: MsiMessage::fixed(destination, vector).into(), vcpu: 1 }
}

fn told(index: u16, state: Slot) -> Told {
    Told::Interrupt(Source::Msix(index), state)
}

/// With decoding on.
fn bench() -> Bench {
    let mut bench = Bench::new();
    bench.command(2);
    bench.told();
    bench
}

impl Bench {
    fn base(&mut self) -> u64 {
        u64::from(self.get(0x10) & !0xf)
    }

    fn table_write(&mut self, offset: u64, width: Width, value: u64) {
        let gpa = Gpa::new(self.base() + TABLE + offset);
        self.pci.write_memory(gpa, width, value, &|_| Some(1)).unwrap();
    }

    fn bar(&mut self, offset: u64, width: Width) -> u64 {
        let gpa = Gpa::new(self.base() + offset);
        self.pci.read_memory(gpa, width).unwrap()
    }

    fn msix_control(&mut self, value: u64) {
        self.write(1, 0, 0x42, Width::W2, value);
    }

    /// Entry 3 as Linux programs it, still masked.
    fn program(&mut self, destination: u8, vector: u8) {
        let message = MsiMessage::fixed(destination, vector);
        for (word, value) in [(0, message.address as u32), (4, 0), (8, message.data)] {
            self.table_write(0x30 + word, Width::W4, value.into());
        }
    }
}

#[test]
fn an_entry_is_told_once_it_is_complete_and_open() {
    let mut bench = bench();
    bench.msix_control(0xc000);
    bench.program(2, 0x41);
    bench.msix_control(0x8000);
    assert_eq!(bench.told(), [], "it is masked");
    bench.table_write(0x3c, Width::W4, 0);
    assert_eq!(bench.told(), [told(3, Slot::On(route(2, 0x41)))]);
    assert_eq!(bench.get(0x40) >> 16, 0x8040, "65 entries, on");
}

#[test]
fn a_new_target_counts_once_it_is_unmasked() {
    let mut bench = bench();
    bench.msix_control(0x8000);
    bench.program(2, 0x41);
    bench.table_write(0x3c, Width::W4, 0);
    bench.told();
    bench.table_write(0x3c, Width::W4, 1);
    assert_eq!(bench.told(), [told(3, Slot::Masked(route(2, 0x41)))]);
    bench.program(0, 0x51);
    assert_eq!(bench.told(), []);
    bench.table_write(0x3c, Width::W4, 0);
    assert_eq!(bench.told(), [told(3, Slot::On(route(0, 0x51)))]);
    // Without a mask it counts at once.
    bench.table_write(0x38, Width::W4, 0x61);
    assert_eq!(bench.told(), [told(3, Slot::On(route(0, 0x61)))]);
    bench.msix_control(0xc000);
    assert_eq!(bench.told(), [told(3, Slot::Masked(route(0, 0x61)))]);
    bench.msix_control(0);
    assert_eq!(bench.told(), [told(3, Slot::Off)]);
}

#[test]
fn an_address_that_is_no_interrupts_sends_nothing() {
    let mut bench = bench();
    bench.msix_control(0x8000);
    for (high, low) in [(0, 0x1000_0000_u32), (1, 0xfee0_0000)] {
        bench.table_write(0x34, Width::W4, high);
        bench.table_write(0x30, Width::W4, low.into());
        bench.table_write(0x3c, Width::W4, 0);
    }
    assert_eq!(bench.told(), []);
}

#[test]
fn the_table_is_written_and_read_in_all_widths() {
    let value = 0x8877_6655_4433_2211_u64;
    for width in [Width::W1, Width::W2, Width::W4, Width::W8] {
        let mut bench = bench();
        for offset in (0..16).step_by(width.bytes() as usize) {
            let part = value.rotate_right(8 * offset as u32);
            bench.table_write(0x410 - 0x10 + offset, width, part & width.mask());
        }
        let read: Vec<_> =
            (0..4).map(|word| bench.bar(TABLE + 0x400 + 4 * word, Width::W4)).collect();
        assert_eq!(read, [0x4433_2210, 0x8877_6655, 0x4433_2211, 1], "{width:?}");
        assert_eq!(bench.bar(TABLE + 0x400, Width::W8), value & !3);
        assert_eq!(bench.bar(TABLE + 0x401, Width::W1), 0x22);
        assert_eq!(bench.bar(TABLE + 0x40c, Width::W8), 1, "behind the last entry is another page");
        assert_eq!(bench.told(), []);
    }
}

#[test]
fn what_lies_beside_the_table_is_the_endpoints() {
    let mut bench = bench();
    assert_eq!(bench.bar(TABLE + 65 * 16, Width::W4), TABLE + 65 * 16);
    assert_eq!(bench.bar(PENDING + 16, Width::W4), PENDING + 16);
    bench.table_write(65 * 16, Width::W4, 5);
    assert_eq!(bench.told(), [Told::BarWrite(0, TABLE + 65 * 16, Width::W4, 5)]);
}

#[test]
fn pending_bits_are_those_of_masked_entries() {
    let mut bench = bench();
    bench.msix_control(0x8000);
    for entry in [3, 64] {
        bench.table_write(16 * entry, Width::W8, 0xfee0_0000);
        bench.table_write(16 * entry + 8, Width::W8, 0x41);
        bench.table_write(16 * entry + 12, Width::W4, 1);
    }
    *bench.logs[0].pending.lock().unwrap() = [3, 5, 64].map(Source::Msix).into();
    assert_eq!(bench.bar(PENDING, Width::W8), 8, "5 was never on");
    assert_eq!(bench.bar(PENDING + 8, Width::W4), 1);
    assert_eq!(bench.bar(PENDING, Width::W1), 8);
    let gpa = Gpa::new(bench.base() + PENDING);
    bench.told();
    bench.pci.write_memory(gpa, Width::W4, 0, &|_| None);
    assert_eq!((bench.bar(PENDING, Width::W4), bench.told()), (8, std::vec![]));
}

#[test]
fn msi_offers_vectors_with_masks() {
    let mut bench = bench();
    assert_eq!(bench.get(0xc0) >> 16, 0x0186, "8 vectors, 64 bits, masks");
    bench.set(0xc4, 0xfee0_2000);
    bench.write(1, 0, 0xcc, Width::W2, 0x47);
    bench.set(0xd0, u32::MAX);
    assert_eq!(bench.get(0xd0), 0xff);
    bench.set(0xd0, 2);
    // Two vectors, on.
    bench.write(1, 0, 0xc2, Width::W2, 0x0011);
    let msi = |index, state| Told::Interrupt(Source::Msi(index), state);
    assert_eq!(bench.told(), [msi(0, Slot::On(route(2, 0x46)))]);
    bench.set(0xd0, 1);
    let expected = [msi(0, Slot::Masked(route(2, 0x46))), msi(1, Slot::On(route(2, 0x47)))];
    assert_eq!(bench.told(), expected);
    *bench.logs[0].pending.lock().unwrap() = [0, 1].map(Source::Msi).into();
    assert_eq!(bench.get(0xd4), 1);
    // More than it offers is not used.
    bench.set(0xd0, 0);
    bench.told();
    bench.write(1, 0, 0xc2, Width::W2, 0x0071);
    assert_eq!(bench.told().len(), 8);
    // MSI-X takes its place.
    bench.msix_control(0x8000);
    assert!(
        bench.told().iter().all(|told| matches!(told, Told::Interrupt(Source::Msi(_), Slot::Off)))
    );
}

#[test]
fn sleep_and_reset_turn_interrupts_off() {
    let mut bench = bench();
    let on = |bench: &mut Bench| {
        bench.msix_control(0x8000);
        bench.program(2, 0x41);
        bench.table_write(0x3c, Width::W4, 0);
        bench.told();
    };
    on(&mut bench);
    bench.write(1, 0, 0x64, Width::W2, 3);
    assert_eq!(bench.told()[0], told(3, Slot::Off));
    bench.write(1, 0, 0x64, Width::W2, 0);
    assert_eq!(bench.told()[0], told(3, Slot::On(route(2, 0x41))));
    bench.write(1, 0, 0x88, Width::W2, 0x8000);
    assert_eq!(bench.told()[0], told(3, Slot::Off));
    bench.command(2);
    assert_eq!(bench.bar(TABLE + 0x30, Width::W8), 0);
    assert_eq!(bench.bar(TABLE + 0x3c, Width::W4), 1);
}
