//! Garbage for a function that runs: its configuration space and its port's, and its MSI-X table.

use guests::{cpu, println, trap};

use crate::nvme::Nvme;
use crate::pci::{Function, Registers};

const BURSTS: u32 = 40;
const WRITES: u32 = 50;
/// INIT, of the delivery modes of a message: it would end this guest.
const INIT: u32 = 5;

/// Numbers from Marsaglia's xorshift.
struct Numbers(u32);

impl Numbers {
    fn next(&mut self) -> u32 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 17;
        self.0 ^= self.0 << 5;
        self.0
    }
}

/// The header and the first capabilities of a configuration space.
struct Saved(Registers, [u32; 64]);

impl Saved {
    fn new(registers: Registers) -> Self {
        let mut words = [0; 64];
        for (at, word) in (0..).step_by(4).zip(&mut words) {
            *word = registers.read(at);
        }
        Self(registers, words)
    }

    fn restore(&self) {
        for (at, word) in (0..).step_by(4).zip(&self.1) {
            self.0.write(at, *word);
        }
    }
}

/// Writes garbage while the disk reads. Interrupts stay off meanwhile, but for those that cannot be.
pub(crate) fn write(disk: Nvme) {
    let function = disk.function;
    let Some(table) = function.msix() else { return };
    trap::hook(trap::NMI, Some(|_| ()));
    (32..=255).for_each(|vector| trap::on_interrupt(vector, || ()));
    let spaces = [function.config, function.port].map(Saved::new);
    let mut numbers = Numbers(0x6b65_7266);
    let Some(mut disk) = Nvme::start(function, core::hint::spin_loop) else { return };
    let mut done = 0;
    for _ in 0..BURSTS {
        let came = disk.flood(crate::BUFFER.gpa(), 20);
        done += came;
        if came == 0 {
            heal(function, &spaces);
            disk = Nvme::start(function, core::hint::spin_loop).unwrap_or(disk);
            done += disk.flood(crate::BUFFER.gpa(), 20);
        }
        disk.fill(crate::BUFFER.gpa());
        for _ in 0..WRITES {
            let (place, value) = (numbers.next(), numbers.next());
            match place >> 28 {
                0..8 => function.config.write((place & 0xfc).into(), value),
                8..10 => function.config.write((place & 0xffc).into(), value),
                10..12 => function.port.write((place & 0xfc).into(), value),
                _ => entry(table, place, value),
            }
        }
        spaces.iter().rev().for_each(Saved::restore);
    }
    heal(function, &spaces);
    println!("wrote garbage {} times, {done} reads beside", BURSTS * WRITES);
}

/// Has the function begin anew, where it was.
fn heal(function: Function, spaces: &[Saved]) {
    spaces.iter().rev().for_each(Saved::restore);
    function.reset();
    // The function's own time for that (PCIe 6.6.2).
    let until = cpu::tsc() + crate::ticks(110);
    while cpu::tsc() < until {
        core::hint::spin_loop();
    }
    spaces.iter().rev().for_each(Saved::restore);
}

/// A dword of the MSI-X table's first page, the data such that no exception's vector is in it.
fn entry(table: Registers, place: u32, value: u32) {
    let offset = place & 0xffc;
    let value = match offset & 0xc {
        0 if value & 1 != 0 => 0xfee0_0000 | value & 0xf_fffc,
        8 => {
            let mode = if value >> 8 & 7 == INIT { 0 } else { value & 0x700 };
            value & !0x7ff | mode | (0x20 + value % 0xe0)
        }
        _ => value,
    };
    table.write(offset.into(), value);
}
