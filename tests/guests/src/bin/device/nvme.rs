//! As much of NVM Express (base specification 2.0, by its figures' names) as reads blocks: an admin and one I/O queue pair,
//! both of a page, and interrupts by the first entry of MSI-X.

use core::sync::atomic::{AtomicU32, Ordering::Relaxed};

use guests::paging::Page;
use guests::trap::on_interrupt;
use guests::{apic, cpu};

use crate::pci::{Function, Registers};

pub(crate) const CLASS: u32 = 0x01_0802;
const CC: u64 = 0x14;
const CSTS: u64 = 0x1c;
const AQA: u64 = 0x24;
const ASQ: u64 = 0x28;
const ACQ: u64 = 0x30;
const DOORBELLS: u64 = 0x1000;
/// Entries of 64 and of 16 bytes; NVM command set; enable.
const ENABLE: u32 = 6 << 16 | 4 << 20 | 1;
const CREATE_SUBMISSION: u32 = 1;
const CREATE_COMPLETION: u32 = 5;
const READ: u32 = 2;
const ENTRIES: u32 = 16;
const VECTOR: u8 = 0x50;

static QUEUES: [Page; 4] = [const { Page::new() }; 4];
static INTERRUPTS: AtomicU32 = AtomicU32::new(0);

/// A queue pair: pages of submissions and completions, by their number.
struct Queue {
    number: usize,
    tail: u32,
    head: u32,
    phase: u32,
}

pub(crate) struct Nvme {
    pub(crate) function: Function,
    bar: Registers,
    rest: fn(),
    queues: [Queue; 2],
}

/// How long a command may take on an emulator that waits for its turn.
const COMMAND_MS: u64 = 5000;

/// Waits so long at most, and rests meanwhile.
fn within(milliseconds: u64, rest: fn(), mut done: impl FnMut() -> bool) -> bool {
    let until = cpu::tsc() + crate::ticks(milliseconds);
    loop {
        match done() {
            true => return true,
            false if cpu::tsc() > until => return false,
            false => rest(),
        }
    }
}

impl Nvme {
    /// The controller from reset on. It is waited for by `rest`.
    pub(crate) fn start(function: Function, rest: fn()) -> Option<Self> {
        function.turn_on();
        let bar = function.bar(0);
        bar.write(CC, 0);
        within(COMMAND_MS, rest, || bar.read(CSTS) & 1 == 0).then_some(())?;
        for word in QUEUES.iter().flat_map(Page::words) {
            word.store(0, Relaxed);
        }
        bar.write(AQA, (ENTRIES - 1) << 16 | (ENTRIES - 1));
        for (register, page) in [(ASQ, &QUEUES[0]), (ACQ, &QUEUES[1])] {
            bar.write(register, page.gpa() as u32);
            bar.write(register + 4, 0);
        }
        bar.write(CC, ENABLE);
        within(COMMAND_MS, rest, || bar.read(CSTS) & 1 == 1).then_some(())?;
        on_interrupt(VECTOR, || _ = INTERRUPTS.fetch_add(1, Relaxed));
        let table = function.msix()?;
        for (at, value) in
            [(0, 0xfee0_0000 | apic::id() << 12), (4, 0), (8, VECTOR.into()), (12, 0)]
        {
            table.write(at, value);
        }
        let queue = |number| Queue { number, tail: 0, head: 0, phase: 1 };
        let mut new = Self { function, bar, rest, queues: [queue(0), queue(1)] };
        // Contiguous, with interrupts by the first vector.
        let completions = [1 | (ENTRIES - 1) << 16, 0b11];
        new.command(0, CREATE_COMPLETION, QUEUES[3].gpa(), completions, 0)
            .filter(|status| *status == 0)?;
        let submissions = [1 | (ENTRIES - 1) << 16, 1 << 16 | 1];
        new.command(0, CREATE_SUBMISSION, QUEUES[2].gpa(), submissions, 0)
            .filter(|status| *status == 0)?;
        Some(new)
    }

    /// Reads a page from the block `lba` on to the address; its status, or none in time.
    pub(crate) fn read(&mut self, lba: u32, to: u64) -> Option<u32> {
        self.command(1, READ, to, [lba, 0], 7)
    }

    /// Whether more interrupts have come than these, or soon do.
    pub(crate) fn interrupted(&self, before: u32) -> bool {
        within(COMMAND_MS, self.rest, || interrupts() != before)
    }

    /// Puts a command in a queue and waits for its completion.
    fn command(
        &mut self,
        queue: usize,
        opcode: u32,
        to: u64,
        words: [u32; 2],
        last: u32,
    ) -> Option<u32> {
        // What was not waited for long enough.
        while self.completed(queue).is_some() {}
        self.submit(queue, opcode, to, words, last);
        let mut status = None;
        within(COMMAND_MS, self.rest, || {
            status = self.completed(queue);
            status.is_some()
        });
        status
    }

    /// Puts a command in a queue, which has room.
    pub(crate) fn submit(
        &mut self,
        queue: usize,
        opcode: u32,
        to: u64,
        words: [u32; 2],
        last: u32,
    ) {
        let pair = &mut self.queues[queue];
        let entry = &QUEUES[2 * pair.number].words()[8 * pair.tail as usize..];
        // The opcode and the namespace; the data's first page; the command's own words.
        let namespace = u64::from(queue != 0);
        let own = u64::from(words[0]) | u64::from(words[1]) << 32;
        let quadwords = [u64::from(opcode) | namespace << 32, 0, 0, to, 0, own, u64::from(last), 0];
        for (word, value) in entry.iter().zip(quadwords) {
            word.store(value, Relaxed);
        }
        pair.tail = (pair.tail + 1) % ENTRIES;
        self.bar.write(DOORBELLS + 8 * pair.number as u64, pair.tail);
    }

    /// The status of the next completion, if it is there.
    pub(crate) fn completed(&mut self, queue: usize) -> Option<u32> {
        let pair = &mut self.queues[queue];
        let status = (QUEUES[2 * pair.number + 1].words()[2 * pair.head as usize + 1].load(Relaxed)
            >> 48) as u32;
        (status & 1 == pair.phase).then_some(())?;
        pair.head = (pair.head + 1) % ENTRIES;
        pair.phase ^= u32::from(pair.head == 0);
        self.bar.write(DOORBELLS + 8 * pair.number as u64 + 4, pair.head);
        Some(status >> 1)
    }

    /// Puts as many reads in the queue as it takes.
    pub(crate) fn fill(&mut self, to: u64) {
        for lba in 0..ENTRIES - 1 {
            self.submit(1, READ, to, [8 * lba, 0], 7);
        }
    }

    /// Reads as many pages at once as the queue takes; how many came within so many milliseconds.
    pub(crate) fn flood(&mut self, to: u64, milliseconds: u64) -> u32 {
        self.fill(to);
        let mut done = 0;
        within(milliseconds, self.rest, || {
            done += u32::from(self.completed(1).is_some());
            done == ENTRIES - 1
        });
        done
    }
}

/// Interrupts that came.
pub(crate) fn interrupts() -> u32 {
    INTERRUPTS.load(Relaxed)
}
