//! The admin queue: one command at a time, waited for (NVMe base specification 2.0: 3.1.3 registers, 3.3 queues, 4.1 and
//! 4.2 entries).

use core::task::Poll;

use hw::{Clock, Deadline, RegisterBus, Width};

use crate::Fault;
use crate::sriov::Shared;

/// Capabilities, 64 bits.
const CAP: u64 = 0x00;
/// Controller configuration.
const CC: u64 = 0x14;
/// Controller status.
const CSTS: u64 = 0x1c;
/// Admin queue attributes: entries less one, of completions in 27:16 and of submissions in 11:0.
const AQA: u64 = 0x24;
/// Addresses of the admin queues, 64 bits.
const ASQ: u64 = 0x28;
const ACQ: u64 = 0x30;
/// The first doorbell.
const DOORBELLS: u64 = 0x1000;

const ENABLE: u32 = 1 << 0;
/// Entries of I/O queues have 2^6 and 2^4 bytes.
const ENTRY_SIZES: u32 = 6 << 16 | 4 << 20;
const READY: u32 = 1 << 0;
const FAILED: u32 = 1 << 1;

const PAGE: u64 = 0x1000;
/// Submissions, completions, data: a page each.
pub(super) const MEMORY_BYTES: u64 = 3 * PAGE;
const SUBMISSIONS: u64 = 0;
const COMPLETIONS: u64 = PAGE;
const DATA: u64 = 2 * PAGE;
/// Entries of both queues.
const ENTRIES: u16 = 8;
const SUBMISSION_BYTES: u64 = 64;
const COMPLETION_BYTES: u64 = 16;

/// How long a command may take; the specification knows no limit, and Linux takes a minute for admin commands.
const COMMAND_NS: u64 = 5_000_000_000;

/// A command of the kinds that are needed.
pub(super) struct Command {
    pub(super) opcode: u8,
    pub(super) namespace: u32,
    /// Its data is the page of [`AdminQueue`].
    pub(super) data: bool,
    /// Command dwords 10 and 11.
    pub(super) words: [u32; 2],
}

/// The queue, its memory and the registers.
#[derive(Debug)]
pub(super) struct AdminQueue<R, M, C> {
    registers: R,
    shared: Shared<M>,
    clock: C,
    doorbell_bytes: u64,
    /// Of the next submission, and of its completion: one at a time keeps them alike.
    slot: u16,
    phase: u32,
    /// A command was not answered: its answer would be taken for the next one's.
    is_lost: bool,
}

impl<R: RegisterBus, M: RegisterBus, C: Clock> AdminQueue<R, M, C> {
    pub(super) const fn new(registers: R, shared: Shared<M>, clock: C) -> Self {
        let (doorbell_bytes, is_lost) = (4, true);
        Self { registers, shared, clock, doorbell_bytes, slot: 0, phase: 1, is_lost }
    }

    fn register(&self, offset: u64) -> u32 {
        self.registers.load(offset, Width::W4) as u32
    }

    /// Turns the controller off, and on with empty queues (3.5.1).
    pub(super) async fn start(&mut self) -> Result<(), Fault> {
        self.is_lost = true;
        let capabilities = self.registers.load(CAP, Width::W8);
        if capabilities == u64::MAX {
            return Err(Fault::Gone);
        }
        // MPSMIN: the least page size is 2^(12 + it).
        if capabilities >> 48 & 0xf != 0 {
            return Err(Fault::Unsupported);
        }
        self.doorbell_bytes = 4 << (capabilities >> 32 & 0xf);
        // TO: in steps of half a second.
        let patience = (capabilities >> 24 & 0xff).max(1) * 500_000_000;
        self.registers.store(CC, Width::W4, 0);
        self.until_ready(false, patience).await?;
        self.wipe(SUBMISSIONS..DATA);
        let entries = u64::from(ENTRIES - 1);
        self.registers.store(AQA, Width::W4, entries << 16 | entries);
        self.registers.store(ASQ, Width::W8, self.shared.iova + SUBMISSIONS);
        self.registers.store(ACQ, Width::W8, self.shared.iova + COMPLETIONS);
        self.registers.store(CC, Width::W4, (ENABLE | ENTRY_SIZES).into());
        self.until_ready(true, patience).await?;
        (self.slot, self.phase, self.is_lost) = (0, 1, false);
        Ok(())
    }

    /// Waits for an answer, which `poll` looks for; once more after the deadline, as this may not be polled for long.
    async fn wait<T>(
        &mut self,
        ns: u64,
        mut poll: impl FnMut(&Self) -> Option<Result<T, Fault>>,
    ) -> Result<T, Fault> {
        let deadline = Deadline::after_ns(&self.clock, ns);
        core::future::poll_fn(|_| {
            let late = deadline.has_passed(&self.clock);
            match poll(self) {
                Some(done) => Poll::Ready(done),
                None if late => Poll::Ready(Err(Fault::Timeout)),
                None => Poll::Pending,
            }
        })
        .await
    }

    async fn until_ready(&mut self, ready: bool, ns: u64) -> Result<(), Fault> {
        self.wait(ns, |this| match this.register(CSTS) {
            u32::MAX => Some(Err(Fault::Gone)),
            status if status & FAILED != 0 && ready => Some(Err(Fault::Halted)),
            status => ((status & READY != 0) == ready).then_some(Ok(())),
        })
        .await
    }

    /// Runs a command.
    pub(super) async fn run(&mut self, command: Command) -> Result<(), Fault> {
        if self.is_lost {
            return Err(Fault::Halted);
        }
        self.submit(&command);
        let at = COMPLETIONS + u64::from(self.slot) * COMPLETION_BYTES + 12;
        let done = self.wait(COMMAND_NS, |this| {
            let last = this.load(at, Width::W4) as u32;
            match this.register(CSTS) {
                _ if last >> 16 & 1 == this.phase => Some(Ok(last)),
                u32::MAX => Some(Err(Fault::Gone)),
                status if status & FAILED != 0 => Some(Err(Fault::Halted)),
                _ => None,
            }
        });
        let last = done.await.inspect_err(|_| self.is_lost = true)?;
        if last as u16 != self.slot {
            self.is_lost = true;
            return Err(Fault::Halted);
        }
        self.slot = (self.slot + 1) % ENTRIES;
        if self.slot == 0 {
            self.phase ^= 1;
        }
        self.registers.store(DOORBELLS + self.doorbell_bytes, Width::W4, self.slot.into());
        // Type and code, without more, do not retry and the phase.
        match last >> 17 & 0x7ff {
            0 => Ok(()),
            status => Err(Fault::Refused(u32::from(command.opcode) << 16 | status)),
        }
    }

    fn submit(&self, command: &Command) {
        let at = SUBMISSIONS + u64::from(self.slot) * SUBMISSION_BYTES;
        let first = u32::from(command.opcode) | u32::from(self.slot) << 16;
        let data = if command.data { self.shared.iova + DATA } else { 0 };
        let [ten, eleven] = command.words.map(u64::from);
        let entry = [
            u64::from(first) | u64::from(command.namespace) << 32,
            0,
            0,
            data,
            0,
            ten | eleven << 32,
            0,
            0,
        ];
        for (index, word) in (0..).zip(entry) {
            self.shared.memory.store(at + 8 * index, Width::W8, word);
        }
        let tail = (self.slot + 1) % ENTRIES;
        self.registers.store(DOORBELLS, Width::W4, tail.into());
    }

    fn wipe(&self, range: core::ops::Range<u64>) {
        range.step_by(8).for_each(|at| self.shared.memory.store(at, Width::W8, 0));
    }

    fn load(&self, at: u64, width: Width) -> u64 {
        self.shared.memory.load(at, width)
    }

    pub(super) fn data8(&self, at: u64) -> u8 {
        self.load(DATA + at, Width::W1) as u8
    }

    pub(super) fn data16(&self, at: u64) -> u16 {
        self.load(DATA + at, Width::W2) as u16
    }

    pub(super) fn data32(&self, at: u64) -> u32 {
        self.load(DATA + at, Width::W4) as u32
    }

    pub(super) fn data64(&self, at: u64) -> u64 {
        self.load(DATA + at, Width::W8)
    }

    /// Zeroes the page of data.
    pub(super) fn clear_data(&self) {
        self.wipe(DATA..MEMORY_BYTES);
    }

    pub(super) fn put16(&self, at: u64, value: u16) {
        self.shared.memory.store(DATA + at, Width::W2, value.into());
    }
}
