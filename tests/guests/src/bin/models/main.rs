//! Devices of the guest's own, which are models of `tests/models`: the function of `siov`, and an Intel DSA (`dsa`). DMA stays
//! within the guest's memory and is refused outside, interrupts arrive as MSI-X says and not otherwise, and a reset is one.

#![no_std]
#![no_main]

mod dsa;
mod siov;

use core::sync::atomic::{AtomicU32, Ordering::Relaxed};

use guests::{apic, cpu, paging::Page, trap::on_interrupt};

guests::guest!("models", run);

/// Configuration space of bus 0, where Kerf has it for guests.
const ECAM: u64 = 0xe000_0000;
/// Beyond all RAM of the guest.
const OUTSIDE: u64 = 0x1000_0000;
/// Of all interrupts.
const VECTOR: u8 = 0x61;

static INTERRUPTS: AtomicU32 = AtomicU32::new(0);
static FROM: Page = Page::new();
static TO: Page = Page::new();

fn run() {
    apic::enable();
    on_interrupt(VECTOR, || _ = INTERRUPTS.fetch_add(1, Relaxed));
    siov::run();
    dsa::run();
}

/// Interrupts since it was asked last, with those that are on their way.
fn interrupts() -> u32 {
    cpu::listen(10_000);
    INTERRUPTS.swap(0, Relaxed)
}

fn load(at: u64) -> u32 {
    // SAFETY: a register of a device, or configuration space, which are mapped one to one and hold no memory.
    unsafe { core::ptr::with_exposed_provenance::<u32>(at as usize).read_volatile() }
}

fn store(at: u64, value: u32) {
    // SAFETY: as in `load`. What the device then writes are the pages that are meant for it, or nothing of this guest's.
    unsafe { core::ptr::with_exposed_provenance_mut::<u32>(at as usize).write_volatile(value) }
}

/// A function: its configuration space and its capabilities in it.
struct Function {
    config: u64,
    express: u64,
    msix: u64,
}

impl Function {
    /// The one with these IDs, behind one of the root ports.
    fn find(identity: u32) -> Option<Self> {
        let config = (1..32).map(|bus| ECAM + (bus << 20)).find(|&at| load(at) == identity)?;
        let capability = |id: u8| {
            let mut at = u64::from(load(config + 0x34) as u8);
            while at != 0 && load(config + at) as u8 != id {
                at = u64::from(load(config + at) >> 8 & 0xff);
            }
            (at != 0).then_some(config + at)
        };
        Some(Self { config, express: capability(0x10)?, msix: capability(0x11)? })
    }

    fn bar(&self, index: u64) -> u64 {
        u64::from(load(self.config + 0x10 + 4 * index) & !0xf)
    }

    /// Lets it decode its BARs and do DMA, and lets an interrupt of it go.
    fn enable(&self, registers: u64, interrupt: u64) {
        store(self.config + 4, 0b110);
        let entry = registers + u64::from(load(self.msix + 4) & !7) + 16 * interrupt;
        store(entry, 0xfee0_0000 | apic::id() << 12);
        store(entry + 8, VECTOR.into());
        store(entry + 12, 0);
        store(self.msix, 1 << 31);
    }
}
