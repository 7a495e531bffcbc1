//! A guest with a virtual Intel DSA. It brings the device up as a driver does, copies by its portal (`copies=N` on the command
//! line, each checked, each with an interrupt), and then tries what is not its own: others' interrupt handles, memory that it
//! does not have. Section numbers are those of the DSA architecture specification.

#![no_std]
#![no_main]

#[path = "../device/pci.rs"]
mod pci;

use core::arch::asm;
use core::sync::atomic::{AtomicU32, Ordering::Relaxed, fence};

use guests::paging::{FREE, Page, bit, map};
use guests::trap::on_interrupt;
use guests::{apic, check, cpu, println};

use pci::{Function, Registers};

guests::guest!("vdsa", run);

const CLASS: u32 = 0x08_8000;
const WQCAP: u64 = 0x20;
const OFFSETS: u64 = 0x60;
const INTCAUSE: u64 = 0x98;
const CMD: u64 = 0xa0;
const CMDSTATUS: u64 = 0xa8;
/// Commands (3.15), to end with an interrupt.
const ENABLE_DEVICE: u32 = 1;
const ENABLE_QUEUE: u32 = 6;
const REQUEST_HANDLE: u32 = 13;
const INTERRUPTED: u32 = 1 << 31;
const ACTIVE: u32 = 1 << 31;
/// Copies; the record has an address, is wanted, and an interrupt with it.
const MEMORY_MOVE: u64 = 3 << 56;
const FLAGS: u64 = (1 << 2 | 1 << 3 | 1 << 4) << 32;
const SUCCESS: u8 = 1;
/// Pages of a queue's portals.
const PORTAL_BYTES: u64 = 0x4000;
/// What every guest of this machine has less of.
const BEYOND: u64 = 0x3000_0000;
const OWN: u8 = 0x50;
const DONE: u8 = 0x51;
const TIMER: u8 = 0x40;

static FROM: Page = Page::new();
static TO: Page = Page::new();
static RECORD: Page = Page::new();
static OWN_CAME: AtomicU32 = AtomicU32::new(0);
static DONE_CAME: AtomicU32 = AtomicU32::new(0);

#[repr(C, align(64))]
struct Descriptor([u64; 8]);

/// The device.
struct Device {
    function: Function,
    registers: Registers,
    portals: u64,
    queues: u32,
}

/// So many milliseconds of the time-stamp counter.
fn ticks(milliseconds: u64) -> u64 {
    u64::from(cpu::cpuid(0x4000_0010, 0).eax) * milliseconds
}

/// Halts until `done`, five seconds at most.
fn wait(mut done: impl FnMut() -> bool) -> bool {
    let until = cpu::tsc() + ticks(5000);
    while !done() {
        if cpu::tsc() > until {
            return false;
        }
        let _ = apic::set_deadline(cpu::tsc() + ticks(1));
        cpu::halt();
    }
    true
}

/// The number after `name` on the command line.
fn number(name: &[u8]) -> u64 {
    let line = guests::command_line();
    let at = line.windows(name.len()).position(|word| word == name);
    let digits = at.map_or(&[][..], |at| &line[at + name.len()..]).iter();
    let digits = digits.take_while(|byte| byte.is_ascii_digit());
    digits.fold(0, |number, digit| number * 10 + u64::from(digit - b'0'))
}

/// A BAR of 64 bits.
fn wide(function: Function, index: u16) -> Registers {
    let high = function.config.read((pci::BARS + 4 * index + 4).into());
    Registers(u64::from(high) << 32 | function.bar(index).0)
}

/// Maps the first pages of a BAR, wherever it is.
fn reach(bar: Registers, window: u64) -> Registers {
    let at = FREE + (window << 30);
    for page in (0..64).map(|page| page << 12) {
        map(at + page, bar.0 + page, bit::PRESENT | bit::WRITABLE | bit::UNCACHED);
    }
    Registers(at)
}

impl Device {
    fn find() -> Option<Self> {
        let function = pci::find(CLASS)?;
        let table = function.msix()?.0 - function.bar(0).0;
        let (registers, portals) = (wide(function, 0), wide(function, 2));
        let (registers, portals) = (reach(registers, 0), reach(portals, 1));
        let table = Registers(registers.0 + table);
        for (entry, vector) in (0..).zip([OWN, DONE, DONE]) {
            let at = 16 * entry;
            table.write(at, 0xfee0_0000);
            table.write(at + 8, vector.into());
            table.write(at + 12, 0);
        }
        let queues = registers.read(WQCAP) >> 16 & 0xff;
        Some(Self { function, registers, portals: portals.0, queues })
    }

    /// A command: its error and result, once its interrupt has come.
    fn command(&self, code: u32, operand: u32) -> Option<(u8, u16)> {
        let before = OWN_CAME.load(Relaxed);
        self.registers.write(CMD, operand | code << 20 | INTERRUPTED);
        let came = wait(|| OWN_CAME.load(Relaxed) != before);
        let status = self.registers.read(CMDSTATUS);
        self.registers.write(INTCAUSE, self.registers.read(INTCAUSE));
        (came && status & ACTIVE == 0).then_some((status as u8, (status >> 8) as u16))
    }

    /// A group of one engine for each queue, queues of 16 entries, all enabled.
    fn bring_up(&self) -> bool {
        let offsets = self.registers.read(OFFSETS);
        let (groups, queues) = ((offsets & 0xffff) * 0x100, (offsets >> 16) * 0x100);
        for queue in 0..self.queues {
            let group = u64::from(groups + 64 * queue);
            self.registers.write(group, 1 << queue);
            self.registers.write(group + 32, 1 << queue);
            let config = u64::from(queues + 32 * queue);
            self.registers.write(config, 16);
            // Dedicated, priority 1; transfers of 2^20 bytes and batches of 2^5.
            self.registers.write(config + 8, 1 | 1 << 4);
            self.registers.write(config + 12, 20 | 5 << 5);
        }
        let well = Some((0, 0));
        self.command(ENABLE_DEVICE, 0) == well
            && (0..self.queues).all(|queue| self.command(ENABLE_QUEUE, queue) == well)
    }

    /// Writes a descriptor to a queue's unlimited portal.
    fn submit(&self, queue: u32, descriptor: &Descriptor) {
        fence(core::sync::atomic::Ordering::SeqCst);
        let portal = self.portals + PORTAL_BYTES * u64::from(queue);
        // SAFETY: the portal is device memory, 64-byte aligned; the descriptor is read.
        unsafe {
            asm!("movdir64b {}, [{}]", in(reg) portal, in(reg) descriptor, options(nostack));
        }
    }
}

fn status() -> u8 {
    RECORD.words()[0].load(Relaxed) as u8
}

/// A copy from one page to the other.
fn copy(handle: u16, from: u64, to: u64, bytes: u32) -> Descriptor {
    RECORD.words()[0].store(0, Relaxed);
    Descriptor([0, RECORD.gpa(), from, to, u64::from(bytes) | u64::from(handle) << 32, 0, 0, 0])
        .first(MEMORY_MOVE | FLAGS)
}

impl Descriptor {
    fn first(mut self, word: u64) -> Self {
        self.0[0] = word;
        self
    }
}

/// Copies by each queue in turn: how many came out right, and with an interrupt.
fn copies(device: &Device, handles: &[u16], count: u64) -> (u64, u64) {
    let (mut right, mut interrupts) = (0, 0);
    for (round, turn) in (0..count).zip((0..device.queues).cycle()) {
        let value = |index: usize| round << 32 | index as u64;
        (0..).zip(FROM.words()).for_each(|(index, word)| word.store(value(index), Relaxed));
        TO.words().iter().for_each(|word| word.store(0, Relaxed));
        let before = DONE_CAME.load(Relaxed);
        let descriptor = copy(handles[turn as usize], FROM.gpa(), TO.gpa(), 4096);
        device.submit(turn, &descriptor);
        interrupts += u64::from(wait(|| DONE_CAME.load(Relaxed) != before));
        let is_right =
            (0..).zip(TO.words()).all(|(index, word)| word.load(Relaxed) == value(index));
        right += u64::from(status() == SUCCESS && is_right);
    }
    (right, interrupts)
}

fn run() {
    apic::enable();
    on_interrupt(TIMER, || ());
    on_interrupt(OWN, || _ = OWN_CAME.fetch_add(1, Relaxed));
    on_interrupt(DONE, || _ = DONE_CAME.fetch_add(1, Relaxed));
    apic::use_tsc_deadline(TIMER);
    let Some(device) = Device::find() else {
        println!("FAIL vdsa there is none");
        return;
    };
    check!("vdsa-comes-up", device.bring_up());
    let mut handles = [0; 2];
    for (entry, handle) in (1..=device.queues).zip(&mut handles) {
        if let Some((0, found)) = device.command(REQUEST_HANDLE, entry) {
            *handle = found;
        }
    }
    println!("queues {} handles {handles:?}", device.queues);
    let count = number(b"copies=");
    let (right, interrupts) = copies(&device, &handles, count);
    check!("vdsa-copies", right == count, "{right} of {count}");
    check!("vdsa-interrupts", interrupts == count, "{interrupts} of {count}");
    // Handles that are another's, or nobody's.
    let foreign = (0..16).filter(|handle| !handles.contains(handle));
    let taken = foreign.filter(|&handle| {
        device.submit(0, &copy(handle, FROM.gpa(), TO.gpa(), 8));
        wait(|| status() != 0);
        status() == SUCCESS
    });
    check!("vdsa-foreign-handles-are-refused", taken.count() == 0);
    // Memory that this guest does not have: something says so, and nothing comes.
    TO.words()[0].store(0x6b65_7266, Relaxed);
    device.submit(0, &copy(handles[0], BEYOND, TO.gpa(), 8));
    wait(|| status() != 0);
    check!(
        "vdsa-reaches-no-other-memory",
        status() != SUCCESS && TO.words()[0].load(Relaxed) == 0x6b65_7266,
        "status {:#x}",
        status()
    );
    let (right, _) = copies(&device, &handles, 2);
    check!("vdsa-works-on", right == 2, "{right} of 2");
    device.function.reset();
    let again = Device::find();
    check!("vdsa-comes-up-after-a-reset", again.is_some_and(|device| device.bring_up()));
}
