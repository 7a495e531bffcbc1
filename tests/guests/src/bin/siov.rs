//! A device of the guest's own, the function of `tests/models/siov`: DMA stays within the guest's memory and is refused outside,
//! interrupts arrive as MSI-X says and not otherwise, and a reset is one.

#![no_std]
#![no_main]

use core::sync::atomic::{AtomicU32, Ordering::Relaxed};

use guests::{
    apic, check,
    cpu::{self, cpuid},
    paging::Page,
    trap::on_interrupt,
};

guests::guest!("siov", run);

/// Configuration space of bus 0, where Kerf has it for guests.
const ECAM: u64 = 0xe000_0000;
/// Of the function: vendor and device, and what the control page begins with.
const IDENTITY: u32 = 0x51f0_1234;
const SIGNATURE: u32 = u32::from_le_bytes(*b"SIOV");
/// Beyond all RAM of the guest.
const OUTSIDE: u64 = 0x1000_0000;

const VECTOR: u8 = 0x61;
/// The slot that is used.
const SLOT: u64 = 3;

/// Registers of BAR 0: an interface's PASID with its flags, a slot; the interface's page with its status.
const PASID: u64 = 0x100;
const UNTAGGED: u32 = 1 << 30;
const TAGGED: u32 = 1 << 31;
const SLOTS: u64 = 0x800;
const PENDING: u64 = 0xc00;
const PAGE: u64 = 0x1000;
const STATUS: u64 = PAGE + 0x40;
const FAULT: u64 = PAGE + 0x48;

/// What a descriptor asks for, and how it ends.
const COPY: u64 = 1;
const FILL: u64 = 2;
const RECORD: u64 = 1 << 8;
const INTERRUPT: u64 = 1 << 9 | SLOT << 16;
const DONE: u8 = 1;
const READ_REFUSED: u8 = 2;
const WRITE_REFUSED: u8 = 3;
const DISABLED: u8 = 6;

static INTERRUPTS: AtomicU32 = AtomicU32::new(0);
static FROM: Page = Page::new();
static TO: Page = Page::new();

fn load(at: u64) -> u32 {
    // SAFETY: a register of a device, or configuration space, which are mapped one to one and hold no memory.
    unsafe { core::ptr::with_exposed_provenance::<u32>(at as usize).read_volatile() }
}

fn store(at: u64, value: u32) {
    // SAFETY: as in `load`. What the device then writes are the pages that are meant for it, or nothing of this guest's.
    unsafe { core::ptr::with_exposed_provenance_mut::<u32>(at as usize).write_volatile(value) }
}

/// The function: its configuration space, its BAR and its MSI-X capability.
struct Function {
    config: u64,
    bar: u64,
    express: u64,
    msix: u64,
}

impl Function {
    fn find() -> Option<Self> {
        let mut config = (1..32).map(|bus| ECAM + (bus << 20));
        let config = config.find(|&config| load(config) == IDENTITY)?;
        let capability = |id: u8| {
            let mut at = u64::from(load(config + 0x34) as u8);
            while at != 0 && load(config + at) as u8 != id {
                at = u64::from(load(config + at) >> 8 & 0xff);
            }
            (at != 0).then_some(config + at)
        };
        let bar = u64::from(load(config + 0x10) & !0xf);
        Some(Self { config, bar, express: capability(0x10)?, msix: capability(0x11)? })
    }

    /// Lets it decode its BAR and do DMA, and lets its interrupts go.
    fn enable(&self) {
        store(self.config + 4, 0b110);
        let slot = self.bar + SLOTS + 16 * SLOT;
        store(slot, 0xfee0_0000 | apic::id() << 12);
        store(slot + 8, VECTOR.into());
        store(slot + 12, 0);
        store(self.msix, 1 << 31);
    }

    fn register(&self, offset: u64) -> u32 {
        load(self.bar + offset)
    }

    /// Has a descriptor carried out: its status, and the bytes that were done.
    fn submit(&self, head: u64, bytes: u32, from: u64, to: u64) -> (u8, u32) {
        let words = [head | u64::from(bytes) << 32, TO.gpa() + 0xff0, from, to, 0, 0, 0, 0];
        for (at, word) in (self.bar + PAGE..).step_by(8).zip(words) {
            store(at, word as u32);
            store(at + 4, (word >> 32) as u32);
        }
        (self.register(STATUS) as u8, self.register(STATUS + 4))
    }
}

/// Interrupts since it was asked last, with those that are on their way.
fn interrupts() -> u32 {
    cpu::listen(10_000);
    INTERRUPTS.swap(0, Relaxed)
}

fn run() {
    apic::enable();
    on_interrupt(VECTOR, || _ = INTERRUPTS.fetch_add(1, Relaxed));
    let function = Function::find();
    check!("the-function-is-there", function.is_some());
    let Some(function) = function else { return };
    function.enable();
    check!("its-bar-is-there", function.register(0) == SIGNATURE, "{:#x}", function.bar);
    nothing_without_leave(&function);
    store(function.bar + PASID, UNTAGGED);
    inside(&function);
    outside(&function);
    masked(&function);
    reset(&function);
}

fn nothing_without_leave(function: &Function) {
    let (status, _) = function.submit(FILL | INTERRUPT, 8, 1, TO.gpa());
    check!("an-interface-is-off-at-first", status == DISABLED && interrupts() == 0, "{status}");
}

/// DMA within the guest's memory works, over pages too, and says so by record and interrupt.
fn inside(function: &Function) {
    for (n, word) in (0..).zip(FROM.words()) {
        word.store(n * 0x0101_0101, Relaxed);
    }
    let done = function.submit(COPY | RECORD | INTERRUPT, 0xf00, FROM.gpa() + 8, TO.gpa());
    check!("dma-within-memory-is-done", done == (DONE, 0xf00), "{done:x?}");
    let is_same =
        (0..0xf00 / 8).all(|n| TO.words()[n].load(Relaxed) == FROM.words()[n + 1].load(Relaxed));
    check!("dma-moves-what-it-should", is_same);
    let record = TO.words()[0xff0 / 8].load(Relaxed);
    check!("a-record-is-written", record == 0xf00 << 32 | u64::from(DONE), "{record:#x}");
    let count = interrupts();
    check!("its-interrupt-arrives", count == 1, "{count}");
}

/// What is not the guest's, the device does not reach for it either.
fn outside(function: &Function) {
    let canary = 0x1234_5678_9abc_def0;
    TO.words()[0].store(canary, Relaxed);
    for (name, gpa) in
        [("beyond", OUTSIDE), ("far-beyond", 0x12_3456_7000), ("the-bar", function.bar)]
    {
        let (status, done) = function.submit(COPY, 8, gpa, TO.gpa());
        check!(
            format_args!("dma-from-{name}-is-refused"),
            (status, done) == (READ_REFUSED, 0),
            "{status}"
        );
        let (status, done) = function.submit(FILL, 8, 0, gpa);
        check!(
            format_args!("dma-to-{name}-is-refused"),
            (status, done) == (WRITE_REFUSED, 0),
            "{status}"
        );
        let fault =
            u64::from(function.register(FAULT + 4)) << 32 | u64::from(function.register(FAULT));
        check!(format_args!("a-fault-at-{name}-is-told"), fault == gpa, "{fault:#x}");
    }
    check!("nothing-came-of-it", TO.words()[0].load(Relaxed) == canary);
    // A word there is an interrupt message, which has to be one that Kerf has made.
    let message = 0xfee0_0000 | u64::from(apic::id()) << 12;
    let (status, _) = function.submit(FILL, 4, VECTOR.into(), message);
    check!("a-message-of-its-own-is-refused", status == WRITE_REFUSED, "{status}");
    let (status, _) = function.submit(COPY, 8, message, TO.gpa());
    check!("the-interrupt-range-is-no-memory", status == READ_REFUSED, "{status}");
    store(function.bar + PASID, TAGGED | 1);
    let (status, _) = function.submit(FILL, 8, 0, TO.gpa());
    check!("a-pasid-gets-nowhere", status == WRITE_REFUSED, "{status}");
    store(function.bar + PASID, UNTAGGED);
    check!("none-of-it-interrupts", interrupts() == 0);
}

/// A masked entry holds its interrupt back until it is let go.
fn masked(function: &Function) {
    let control = function.bar + SLOTS + 16 * SLOT + 12;
    store(control, 1);
    let (status, _) = function.submit(FILL | INTERRUPT, 8, 5, TO.gpa());
    let (count, pending) = (interrupts(), function.register(PENDING));
    check!(
        "a-masked-interrupt-waits",
        (status, count, pending) == (DONE, 0, 1 << SLOT),
        "{count} {pending:#x}"
    );
    store(control, 0);
    let (count, pending) = (interrupts(), function.register(PENDING));
    check!("it-comes-when-it-is-let-go", (count, pending) == (1, 0), "{count} {pending:#x}");
}

/// Function-level reset, and the function used anew.
fn reset(function: &Function) {
    const START: u32 = 1 << 15;
    let before = load(function.express + 8);
    store(function.express + 8, before | START);
    // The frequency in kHz, as the hypervisor tells it; 100 ms are the function's to take.
    cpu::listen(u64::from(cpuid(0x4000_0010, 0).eax) * 110);
    let bar = load(function.config + 0x10) & !0xf;
    store(function.config + 0x10, function.bar as u32);
    let command = load(function.config + 4) & 0b110;
    check!("a-reset-takes-decoding-and-dma", command == 0, "{command:#x}, BAR at {bar:#x}");
    function.enable();
    let (status, _) = function.submit(FILL, 8, 0, TO.gpa());
    check!("a-reset-takes-the-leave", status == DISABLED, "{status}");
    store(function.bar + PASID, UNTAGGED);
    let (status, _) = function.submit(FILL | INTERRUPT, 8, 7, TO.gpa());
    let count = interrupts();
    let word = TO.words()[0].load(Relaxed);
    check!(
        "it-works-after-its-reset",
        (status, count, word) == (DONE, 1, 7),
        "{status} {count} {word}"
    );
}
