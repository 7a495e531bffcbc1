//! An Intel DSA (architecture specification 341204-006): a dedicated queue is laid out and enabled, and a descriptor through its
//! portal copies memory, writes its record and interrupts; one that reaches outside does nothing. The portal takes MOVDIR64B,
//! which goes straight to the device.

use core::arch::asm;
use core::sync::atomic::Ordering::Relaxed;

use guests::{check, cpu, paging::Page};

use crate::{FROM, Function, OUTSIDE, TO, interrupts, load, store};

const IDENTITY: u32 = 0x0b25_8086;
/// The entry of the MSI-X table that descriptors name.
const ENTRY: u64 = 1;

/// Registers (9.2), and commands (9.2.12).
const VERSION: u64 = 0;
const OFFSETS: u64 = 0x60;
const COMMAND: u64 = 0xa0;
const STATUS: u64 = 0xa8;
const ACTIVE: u32 = 1 << 31;
const ENABLE_DEVICE: u32 = 1 << 20;
const ENABLE_QUEUE: u32 = 6 << 20;

/// Of a descriptor (8.1): operation in 63:56, flags from 32 on.
const MEMORY_MOVE: u64 = 3 << 56;
const RECORD: u64 = 0b1100 << 32;
const INTERRUPT: u64 = 1 << 36;
const SUCCESS: u8 = 1;

static RESULT: Page = Page::new();

/// A descriptor, aligned as MOVDIR64B would have its destination.
#[repr(align(64))]
struct Descriptor([u64; 8]);

/// The device: registers and portals.
struct Dsa {
    registers: u64,
    portals: u64,
}

impl Dsa {
    fn register(&self, at: u64) -> u32 {
        load(self.registers + at)
    }

    /// The error of a command, 0 for none.
    fn command(&self, command: u32) -> u32 {
        store(self.registers + COMMAND, command);
        for _ in 0..1000 {
            if self.register(STATUS) & ACTIVE == 0 {
                break;
            }
            cpu::listen(1000);
        }
        self.register(STATUS) & (ACTIVE | 0xff)
    }

    /// A group of the first queue and the first engine; the queue dedicated, without a PASID.
    fn lay_out(&self) {
        let group = self.registers + u64::from(self.register(OFFSETS) & 0xffff) * 0x100;
        store(group, 1);
        store(group + 32, 1);
        let queue = self.registers + u64::from(self.register(OFFSETS) >> 16) * 0x100;
        store(queue, 16);
        store(queue + 4, 0);
        store(queue + 8, 1 | 10 << 4);
        store(queue + 12, 20 | 1 << 5);
    }

    /// Submits a copy, and waits for its record: its status.
    fn copy(&self, flags: u64, from: u64, to: u64, bytes: u64) -> u8 {
        RESULT.words()[0].store(0, Relaxed);
        let head = MEMORY_MOVE | RECORD | flags;
        // Without an interrupt no entry may be named.
        let entry = if flags & INTERRUPT != 0 { ENTRY } else { 0 };
        let descriptor = Descriptor([head, RESULT.gpa(), from, to, bytes | entry << 32, 0, 0, 0]);
        // SAFETY: MOVDIR64B RDI, [RSI] reads the descriptor and writes the portal, which is no memory.
        unsafe {
            asm!(".byte 0x66, 0x0f, 0x38, 0xf8, 0x3e", in("rdi") self.portals, in("rsi") &raw const descriptor.0, options(nostack));
        }
        (0..1000)
            .find_map(|_| {
                cpu::listen(1000);
                let status = RESULT.words()[0].load(Relaxed) as u8;
                (status != 0).then_some(status)
            })
            .unwrap_or_default()
    }
}

pub(crate) fn run() {
    let function = Function::find(IDENTITY);
    check!("the-dsa-is-there", function.is_some());
    let Some(function) = function else { return };
    let dsa = Dsa { registers: function.bar(0), portals: function.bar(2) };
    function.enable(dsa.registers, ENTRY);
    let version = dsa.register(VERSION);
    check!("it-has-its-version", version == 0x100, "{version:#x}");
    dsa.lay_out();
    let errors = (dsa.command(ENABLE_DEVICE), dsa.command(ENABLE_QUEUE));
    check!("device-and-queue-are-enabled", errors == (0, 0), "{errors:x?}");
    for (n, word) in (1..).zip(FROM.words()) {
        word.store(n * 0x0202_0202, Relaxed);
    }
    let status = dsa.copy(INTERRUPT, FROM.gpa(), TO.gpa(), 4096);
    check!("a-descriptor-is-done", status == SUCCESS, "{status:#x}");
    check!("it-copies-a-page", is_same());
    let count = interrupts();
    check!("its-end-interrupts", count == 1, "{count}");
    let status = dsa.copy(0, OUTSIDE, TO.gpa(), 64);
    check!("a-descriptor-does-not-reach-outside", status > SUCCESS, "{status:#x}");
    check!("it-copies-nothing-then", is_same());
}

fn is_same() -> bool {
    let words = FROM.words().iter().zip(TO.words());
    words.map(|(from, to)| (from.load(Relaxed), to.load(Relaxed))).all(|(from, to)| from == to)
}
