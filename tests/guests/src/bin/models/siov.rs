//! The function of `tests/models/siov`.

use core::sync::atomic::Ordering::Relaxed;

use guests::{
    apic, check,
    cpu::{self, cpuid},
};

use crate::{FROM, Function, OUTSIDE, TO, VECTOR, interrupts, load, store};

/// Of the function: vendor and device, and what the control page begins with.
const IDENTITY: u32 = 0x51f0_1234;
const SIGNATURE: u32 = u32::from_le_bytes(*b"SIOV");
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

/// The function with its registers.
struct Siov {
    function: Function,
    bar: u64,
}

impl Siov {
    /// Lets it be used.
    fn enable(&self) {
        self.function.enable(self.bar, SLOT);
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

pub(crate) fn run() {
    let function = Function::find(IDENTITY);
    check!("the-function-is-there", function.is_some());
    let Some(function) = function else { return };
    let function = Siov { bar: function.bar(0), function };
    function.enable();
    check!("its-bar-is-there", function.register(0) == SIGNATURE, "{:#x}", function.bar);
    nothing_without_leave(&function);
    store(function.bar + PASID, UNTAGGED);
    inside(&function);
    outside(&function);
    masked(&function);
    reset(&function);
}

fn nothing_without_leave(function: &Siov) {
    let (status, _) = function.submit(FILL | INTERRUPT, 8, 1, TO.gpa());
    check!("an-interface-is-off-at-first", status == DISABLED && interrupts() == 0, "{status}");
}

/// DMA within the guest's memory works, over pages too, and says so by record and interrupt.
fn inside(function: &Siov) {
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
fn outside(function: &Siov) {
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
fn masked(function: &Siov) {
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
fn reset(function: &Siov) {
    const START: u32 = 1 << 15;
    let before = load(function.function.express + 8);
    store(function.function.express + 8, before | START);
    // The frequency in kHz, as the hypervisor tells it. Until it is back the function answers nobody.
    let millisecond = u64::from(cpuid(0x4000_0010, 0).eax);
    let is_back = (0..130).any(|_| {
        cpu::listen(10 * millisecond);
        load(function.function.config) == IDENTITY
    });
    check!("it-comes-back-from-its-reset", is_back);
    let bar = load(function.function.config + 0x10) & !0xf;
    store(function.function.config + 0x10, function.bar as u32);
    let command = load(function.function.config + 4) & 0b110;
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
