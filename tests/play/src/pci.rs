//! The PCI that a guest sees: guests that write anything anywhere, in front of functions that say anything of themselves;
//! and the interrupts of one that a guest programs.

use std::collections::BTreeMap;

use arbitrary::{Result, Unstructured};
use hw::{Gpa, PAGE_SIZE, Width};
use vmm::loader::GuestLayout;
use vmm::pci::{
    BarShape, Capability, Endpoint, MEMORY32, Plan, ROM, RootComplex, Shape, Slot, Source,
};
use x86_spec::apic::MsiMessage;

#[path = "../../../vmm/src/pci/tests/scripted.rs"]
mod scripted;

use scripted::{Log, Scripted, Told, capability, express, nvme};

/// Accesses of a script.
const MOST: usize = 256;
/// The only function's bus, and its root port's place on bus 0.
const FUNCTION: u64 = 1 << 20;
const PORT: u64 = 8 << 12;
/// Where `nvme` has MSI-X, MSI, power management and PCI Express.
const MSIX: u64 = 0x40;
const MSI: u64 = 0xc0;
const POWER: u64 = 0x60;
const EXPRESS: u64 = 0x80;
const D3_HOT: u64 = 3;

struct Bench {
    shape: Shape,
    plan: Plan,
    pci: RootComplex,
    log: Log,
    placed: BTreeMap<u8, u64>,
    slots: BTreeMap<(bool, u16), Slot>,
}

impl Bench {
    /// A guest with 4 GiB of RAM and a function; `None` where it does not fit.
    fn new(shape: Shape) -> Option<Self> {
        let plan = Plan::new(&GuestLayout::new(4 << 30), 40, [&shape]).ok()?;
        let (endpoint, log) = Scripted::boxed(shape.clone());
        let pci = RootComplex::new(&plan, vec![endpoint]);
        Some(Self { shape, plan, pci, log, placed: BTreeMap::new(), slots: BTreeMap::new() })
    }

    fn get(&mut self, at: u64, width: Width) -> u64 {
        let value = self.pci.read_ecam(at, width);
        assert!(value <= width.mask(), "{value:#x} of {width:?}");
        value
    }

    fn set(&mut self, at: u64, width: Width, value: u64) {
        self.pci.write_ecam(at, width, value, &|_| Some(1));
    }

    /// Bytes of a BAR as the guest sees it.
    fn bytes(&self, bar: u8) -> u64 {
        let bytes = match bar {
            ROM => self.shape.rom_bytes,
            _ => self.shape.bars[usize::from(bar)].expect("a BAR").bytes,
        };
        bytes.max(PAGE_SIZE).next_power_of_two()
    }

    /// What the endpoint has been told is in keeping with itself.
    fn check(&mut self) {
        for told in self.log.take() {
            match told {
                Told::Place(bar, None) => assert!(self.placed.remove(&bar).is_some(), "{bar}"),
                Told::Place(bar, Some(at)) => self.check_place(bar, at),
                Told::ConfigWrite(offset, width, _) => {
                    assert!(offset >= 0x40 && u64::from(offset) % width.bytes() == 0);
                    let is_passed = |at| self.shape.through.iter().any(|range| range.contains(&at));
                    assert!((offset..offset + width.bytes() as u16).all(is_passed), "{offset:#x}");
                }
                Told::BarWrite(bar, offset, ..) => assert!(offset < self.bytes(bar)),
                Told::BarWriteLine(bar, offset, _) => assert!(offset + 64 <= self.bytes(bar)),
                Told::Interrupt(source, slot) => {
                    if let Slot::On(route) | Slot::Masked(route) = slot {
                        assert_eq!(route.vcpu, 1);
                    }
                    self.slots.insert(key(source), slot);
                }
                Told::Master(_) => {}
                Told::Reset => {
                    assert!(self.placed.is_empty(), "reset while a BAR is placed");
                    let is_off = |slot: &Slot| *slot == Slot::Off;
                    assert!(self.slots.values().all(is_off), "reset while an interrupt is on");
                }
            }
        }
    }

    fn check_place(&mut self, bar: u8, at: u64) {
        let bytes = self.bytes(bar);
        let window = self.plan.memory64();
        let fits = [&MEMORY32, window].iter().any(|w| w.start <= at && at + bytes <= w.end);
        assert!(at.is_multiple_of(bytes) && fits, "BAR {bar} at {at:#x}");
        for (other, start) in &self.placed {
            let end = start + self.bytes(*other);
            assert!(end <= at || at + bytes <= *start, "BAR {bar} at {at:#x} overlaps {other}");
        }
        assert!(self.placed.insert(bar, at).is_none(), "BAR {bar} is placed already");
    }

    /// Capabilities are found in a chain that ends.
    fn check_chains(&mut self) {
        // A guest may have moved the bus, or put the function to sleep; its configuration space is there all the same.
        let bus = self.get(PORT + 0x19, Width::W1) << 20;
        if bus == 0 {
            return;
        }
        assert_eq!(self.get(bus, Width::W4), 0x0010_1b36);
        let (mut at, mut last) = (self.get(bus + 0x34, Width::W1), 0x3c);
        while at != 0 {
            assert!(at > last && at.is_multiple_of(4), "{at:#x} after {last:#x}");
            (last, at) = (at, self.get(bus + at + 1, Width::W1));
        }
        (at, last) = (0x100, 0);
        while at != 0 {
            assert!(at > last && at.is_multiple_of(4), "{at:#x} after {last:#x}");
            (last, at) = (at, self.get(bus + at, Width::W4) >> 20);
        }
    }

    fn end(mut self) {
        self.check_chains();
        self.pci.reset();
        self.check();
        assert!(self.placed.is_empty(), "a BAR is placed after reset");
        self.check_chains();
    }
}

const fn key(source: Source) -> (bool, u16) {
    match source {
        Source::Msi(vector) => (false, vector as u16),
        Source::Msix(entry) => (true, entry),
    }
}

fn width(script: &mut Unstructured<'_>) -> Result<Width> {
    Ok(*script.choose(&[Width::W1, Width::W2, Width::W4, Width::W8])?)
}

/// Values that mean something are frequent.
fn value(script: &mut Unstructured<'_>) -> Result<u64> {
    Ok(match script.int_in_range(0..=5)? {
        0 => u64::MAX,
        1 => 6,
        2 => u64::from(script.arbitrary::<u16>()?) << 16 | 0xc000_0000,
        3 => u64::from(script.arbitrary::<u16>()?) << 4 | 0xfee0_0000,
        4 => script.arbitrary::<u8>()?.into(),
        _ => script.arbitrary()?,
    })
}

/// Plays a guest that accesses anything of any function.
pub(crate) fn config_space(script: &[u8]) {
    let _ = config_space_by(&mut Unstructured::new(script));
}

fn config_space_by(script: &mut Unstructured<'_>) -> Result<()> {
    let Some(mut bench) = Bench::new(any_shape(script)?) else { return Ok(()) };
    bench.check_chains();
    for _ in 0..MOST {
        if script.is_empty() {
            break;
        }
        access(script, &mut bench)?;
        bench.check();
    }
    bench.end();
    Ok(())
}

fn access(script: &mut Unstructured<'_>, bench: &mut Bench) -> Result<()> {
    let (kind, width) = (script.int_in_range(0..=4)?, width(script)?);
    match kind {
        0 | 1 => {
            let page = if kind == 0 { PORT } else { FUNCTION };
            let offset: u64 = match script.arbitrary()? {
                true => script.arbitrary::<u8>()?.into(),
                false => u64::from(script.arbitrary::<u16>()?) % PAGE_SIZE,
            };
            let at = page + offset / width.bytes() * width.bytes();
            bench.set(at, width, value(script)?);
            bench.get(at, width);
        }
        2 => {
            let (port, width) = (script.int_in_range(0..=8)?, width.min(Width::W4));
            bench.pci.write(port, width, value(script)? & width.mask(), &|_| Some(1));
            assert!(bench.pci.read(port, width) <= width.mask());
        }
        _ => {
            let bars: Vec<_> =
                bench.placed.iter().map(|(bar, at)| (*at, bench.bytes(*bar))).collect();
            let inside = kind == 3 && !bars.is_empty();
            let at: u64 = script.arbitrary()?;
            let at = if inside {
                let (start, bytes) = *script.choose(&bars)?;
                start + at % bytes
            } else {
                at
            };
            let gpa = at / width.bytes() * width.bytes();
            let is_bar = bars.iter().any(|(start, bytes)| (*start..start + bytes).contains(&gpa));
            let _ = bench.pci.write_memory(Gpa::new(gpa), width, value(script)?, &|_| Some(1));
            // The write may have been to a register of the function that moves nothing: BARs are where they were.
            assert_eq!(bench.pci.read_memory(Gpa::new(gpa), width).is_some(), is_bar, "{gpa:#x}");
        }
    }
    Ok(())
}

fn any_shape(script: &mut Unstructured<'_>) -> Result<Shape> {
    let mut shape = nvme();
    if script.arbitrary()? {
        return Ok(shape);
    }
    for bar in &mut shape.bars {
        *bar = None;
        if script.arbitrary()? {
            let bytes = script.int_in_range(0..=(1 << 25) - 1)?;
            let (is_64bit, prefetchable) = script.arbitrary()?;
            *bar = Some(BarShape { bytes, is_64bit, prefetchable });
        }
    }
    shape.capabilities = capabilities(script, 1)?;
    shape.extended = capabilities(script, 16)?;
    shape.through.clear();
    for _ in 0..script.int_in_range(0..=3)? {
        let start = script.int_in_range(0..=0x1200)?;
        shape.through.push(start..start + script.int_in_range(0..=0x20)?);
    }
    Ok(shape)
}

fn capabilities(script: &mut Unstructured<'_>, scale: u16) -> Result<Vec<Capability>> {
    let mut all = Vec::new();
    for _ in 0..script.int_in_range(0..=5)? {
        let offset = scale * u16::from(script.arbitrary::<u8>()?);
        let id = *script.choose(&[1, 5, 0x10, 0x11, 9])?;
        let count = script.int_in_range(0..=69)?.min(script.len());
        let mut bytes = script.bytes(count)?.to_vec();
        if let Some(first) = bytes.first_mut() {
            *first = id;
        }
        all.push(Capability { offset, bytes });
    }
    if script.arbitrary()? {
        all.push(express(scale * EXPRESS as u16));
    }
    Ok(all)
}

/// Plays a guest that programs MSI-X and MSI, beside a table of its own.
pub(crate) fn msix(script: &[u8]) {
    let _ = msix_by(&mut Unstructured::new(script));
}

/// Where MSI-X's table is, and what a guest wrote there.
struct Table {
    bar: u8,
    start: u64,
    entries: Vec<[u8; 16]>,
}

/// An entry after reset: masked.
const MASKED: [u8; 16] = [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0];

fn msix_by(script: &mut Unstructured<'_>) -> Result<()> {
    let (last, bar) = (script.int_in_range(0..=70)?, *script.choose(&[0, 2])?);
    let start = 8 * script.int_in_range(0..=0x200)?;
    let mut shape = nvme();
    shape.bars[0] = Some(BarShape { bytes: 0x4000, is_64bit: true, prefetchable: false });
    let place = |at: u64, bar: u8| (at as u32 | u32::from(bar)).to_le_bytes();
    let parts = [place(start, bar), place(0x3000, 0)].concat();
    shape.capabilities[2] = capability(MSIX as u16, &[&[0x11, 0, last as u8, 0], &*parts].concat());
    let mut bench = Bench::new(shape).expect("it fits");
    let mut table = Table { bar, start, entries: vec![MASKED; usize::from(last as u8) + 1] };
    bench.set(FUNCTION + 4, Width::W2, 6);
    for _ in 0..MOST {
        if script.is_empty() {
            break;
        }
        program(script, &mut bench, &mut table)?;
        bench.check();
        table.check(&mut bench);
    }
    bench.end();
    Ok(())
}

fn program(script: &mut Unstructured<'_>, bench: &mut Bench, table: &mut Table) -> Result<()> {
    let width = width(script)?;
    match script.int_in_range(0..=15)? {
        0..=7 => {
            let at = u64::from(script.arbitrary::<u16>()?) % (16 * table.entries.len() as u64);
            table.write(bench, at / width.bytes() * width.bytes(), width, value(script)?);
        }
        8..=9 => {
            let control = script.int_in_range(0..=3u64)? << 14;
            bench.set(FUNCTION + MSIX + 2, Width::W2, control);
        }
        10..=11 => {
            let at = MSI + 2 + 2 * script.int_in_range(0..=10)?;
            bench.set(FUNCTION + at, Width::W2, value(script)?);
        }
        12 => bench.set(FUNCTION + POWER + 4, Width::W2, script.int_in_range(0..=3)?),
        13 => bench.set(FUNCTION + 4, Width::W2, script.int_in_range(0..=7)?),
        14 => {
            let pending: Vec<u8> = script.arbitrary()?;
            let sources = pending.iter().map(|entry| Source::Msix(u16::from(*entry)));
            *bench.log.pending.lock().expect("no panic before") = sources.collect();
            table.check_pending(bench);
        }
        _ => {
            // A function-level reset.
            bench.set(FUNCTION + EXPRESS + 8, Width::W2, 0x8000);
            table.entries.fill(MASKED);
            bench.check();
            bench.set(FUNCTION + 4, Width::W2, 6);
        }
    }
    Ok(())
}

impl Table {
    fn write(&mut self, bench: &mut Bench, at: u64, width: Width, value: u64) {
        let Some(base) = bench.placed.get(&self.bar) else { return };
        let gpa = Gpa::new(base + self.start + at);
        let done = bench.pci.write_memory(gpa, width, value, &|_| Some(1));
        assert!(done.is_some(), "the table is not there");
        for (at, byte) in (at as usize..).zip(value.to_le_bytes()).take(width.bytes() as usize) {
            // The address is a multiple of 4, and vector control has only the mask.
            self.entries[at / 16][at % 16] = match at % 16 {
                0 => byte & !3,
                12 => byte & 1,
                13.. => 0,
                _ => byte,
            };
        }
    }

    /// What the guest reads is what it wrote, and what the endpoint was told follows from it.
    fn check(&self, bench: &mut Bench) {
        let control = bench.get(FUNCTION + MSIX + 2, Width::W2);
        let is_asleep = bench.get(FUNCTION + POWER + 4, Width::W2) & 3 == D3_HOT;
        let is_on = control >> 15 != 0 && !is_asleep;
        for (index, entry) in self.entries.iter().enumerate() {
            let slot = bench.slots.get(&(true, index as u16)).copied().unwrap_or_default();
            let [low, high] =
                [0, 8].map(|at| u64::from_le_bytes(std::array::from_fn(|n| entry[at + n])));
            let message = MsiMessage { address: low, data: high as u32 };
            let masked = control >> 14 & 1 != 0 || entry[12] != 0;
            match slot {
                _ if !is_on || low >> 20 != 0xfee => assert_eq!(slot, Slot::Off, "entry {index}"),
                Slot::On(route) => assert!(!masked && route.message == message.into(), "{slot:?}"),
                Slot::Masked(_) | Slot::Off => assert!(masked, "entry {index}: {slot:?}"),
            }
        }
        // MSI-X takes the place of MSI.
        let is_off = |(key, slot): (&(bool, u16), &Slot)| key.0 || *slot == Slot::Off;
        assert!(control >> 15 == 0 || bench.slots.iter().all(is_off), "MSI beside MSI-X");
        let Some(base) = bench.placed.get(&self.bar).copied() else { return };
        for (index, entry) in self.entries.iter().enumerate() {
            let gpa = base + self.start + 16 * index as u64;
            let read = [0, 8].map(|at| bench.pci.read_memory(Gpa::new(gpa + at), Width::W8));
            let wrote = [0, 8].map(|at| u64::from_le_bytes(std::array::from_fn(|n| entry[at + n])));
            assert_eq!(read, wrote.map(Some), "entry {index}");
        }
    }

    /// Pending bits are those of masked entries that the endpoint says are pending.
    fn check_pending(&self, bench: &mut Bench) {
        let Some(base) = bench.placed.get(&0).copied() else { return };
        for index in 0..self.entries.len() as u64 {
            let word = bench.pci.read_memory(Gpa::new(base + 0x3000 + index / 64 * 8), Width::W8);
            let slot = bench.slots.get(&(true, index as u16)).copied().unwrap_or_default();
            let waits = bench.log.pending.lock().expect("no panic before");
            let waits = waits.contains(&Source::Msix(index as u16));
            let wanted = matches!(slot, Slot::Masked(_)) && waits;
            assert_eq!(word.map(|word| word >> (index % 64) & 1), Some(wanted.into()), "{index}");
        }
    }
}
