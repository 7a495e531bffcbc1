//! [`Scripted`]: an endpoint that tells tests what it was told. The crate `play` has this file too.

use std::sync::{Arc, Mutex};
use std::vec::Vec;

use super::{BarShape, Capability, Endpoint, Gpa, Shape, Slot, Source, Width};

/// What an endpoint was told, in order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Told {
    Place(u8, Option<u64>),
    Interrupt(Source, Slot),
    Master(bool),
    Reset,
    ConfigWrite(u16, Width, u32),
    BarWrite(u8, u64, Width, u64),
    BarWriteLine(u8, u64, [u8; 64]),
}

/// An endpoint that notes what it is told, and reads as recognizable values.
#[derive(Debug)]
pub(crate) struct Scripted {
    shape: Shape,
    log: Log,
}

/// What the test sees of it.
#[derive(Clone, Debug, Default)]
pub(crate) struct Log {
    told: Arc<Mutex<Vec<Told>>>,
    pub(crate) pending: Arc<Mutex<Vec<Source>>>,
    /// A reset is under way.
    pub(crate) busy: Arc<Mutex<bool>>,
}

impl Log {
    /// What came since the last time.
    pub(crate) fn take(&self) -> Vec<Told> {
        core::mem::take(&mut self.told.lock().unwrap())
    }

    fn note(&self, told: Told) {
        self.told.lock().unwrap().push(told);
    }
}

impl Scripted {
    pub(crate) fn boxed(shape: Shape) -> (Box<dyn Endpoint>, Log) {
        let log = Log::default();
        (Box::new(Self { shape, log: log.clone() }), log)
    }
}

impl Endpoint for Scripted {
    fn shape(&self) -> &Shape {
        &self.shape
    }

    fn config_read(&mut self, offset: u16, width: Width) -> u32 {
        (0x0101_0101 * u32::from(offset & 0xff)) & width.mask() as u32
    }

    fn config_write(&mut self, offset: u16, width: Width, value: u32) {
        self.log.note(Told::ConfigWrite(offset, width, value));
    }

    fn place(&mut self, bar: u8, at: Option<Gpa>) {
        self.log.note(Told::Place(bar, at.map(Gpa::raw)));
    }

    fn bar_read(&mut self, bar: u8, offset: u64, _: Width) -> u64 {
        u64::from(bar) << 56 | offset
    }

    fn bar_write(&mut self, bar: u8, offset: u64, width: Width, value: u64) {
        self.log.note(Told::BarWrite(bar, offset, width, value));
    }

    fn bar_write_line(&mut self, bar: u8, offset: u64, line: &[u8; 64]) {
        self.log.note(Told::BarWriteLine(bar, offset, *line));
    }

    fn interrupt(&mut self, source: Source, state: Slot) {
        self.log.note(Told::Interrupt(source, state));
    }

    fn pending(&self, source: Source) -> bool {
        self.log.pending.lock().unwrap().contains(&source)
    }

    fn master(&mut self, on: bool) {
        self.log.note(Told::Master(on));
    }

    fn reset(&mut self) {
        self.log.note(Told::Reset);
    }

    fn is_ready(&mut self) -> bool {
        !*self.log.busy.lock().unwrap()
    }
}

pub(crate) fn capability(offset: u16, bytes: &[u8]) -> Capability {
    Capability { offset, bytes: bytes.into() }
}

/// The PCI Express capability of an endpoint with function-level reset on a link of 8 GT/s and four lanes.
pub(crate) fn express(offset: u16) -> Capability {
    let mut bytes = [0xff; 0x3c];
    bytes[..8].copy_from_slice(&[0x10, 0xff, 0x02, 0, 0x21, 0x80, 0, 0x10]);
    bytes[0x12..0x14].copy_from_slice(&[0x43, 0x10]);
    capability(offset, &bytes)
}

/// A function like an NVMe controller: a 64-bit BAR with 65 entries of MSI-X and their pending bits in it, a prefetchable
/// one, a ROM, and all capabilities.
pub(crate) fn nvme() -> Shape {
    let mut bars = [None; 6];
    bars[0] = Some(BarShape { bytes: 0x4000, is_64bit: true, prefetchable: false });
    bars[2] = Some(BarShape { bytes: 1 << 28, is_64bit: true, prefetchable: true });
    bars[5] = Some(BarShape { bytes: 0x80, is_64bit: false, prefetchable: false });
    Shape {
        vendor: 0x1b36,
        device: 0x10,
        subsystem_vendor: 0x1af4,
        subsystem: 0x1100,
        class: 0x01_08_02,
        revision: 2,
        bars,
        rom_bytes: 0x800,
        capabilities: std::vec![
            capability(0x60, &[0x01, 0x80, 0xc3, 0xff, 8, 0xff, 0xff, 0xff]),
            express(0x80),
            capability(0x40, &[0x11, 0x80, 0x40, 0x80, 0, 0x20, 0, 0, 0, 0x30, 0, 0]),
            capability(0xc0, &{
                let mut msi = [0xff; 24];
                msi[..4].copy_from_slice(&[0x05, 0, 0x86, 0x01]);
                msi
            }),
            capability(0xe0, &[0x09, 0, 8, 1, 2, 3, 4, 5]),
        ],
        extended: std::vec![capability(0x148, &[3, 0, 1, 0x19, 1, 2, 3, 4, 5, 6, 7, 8])],
        through: std::vec![0..0x42, 0xe4..0xe6, 0x148..0x150],
    }
}
