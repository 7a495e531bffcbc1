//! The 16550 UART (PC16550D datasheet, 8).
//!
//! At 115,200 baud a byte takes 87 µs. So once interrupts come ([`Uart::use_interrupts`]) what is sent waits in a queue, of
//! which each interrupt moves a FIFO's worth; before that, and for last words, sending waits for the transmitter.

use alloc::collections::VecDeque;

/// Polls before a byte is given up: more than a FIFO needs at 9,600 baud, where a poll takes about a microsecond.
const SEND_POLLS: u32 = 100_000;
/// Bytes that the transmit FIFO takes at once.
const FIFO_BYTES: usize = 16;
/// Bytes that wait for the transmitter at most: over a second's.
const QUEUE_BYTES: usize = 16 << 10;

// Registers by their offset.
const DATA: u8 = 0;
const DIVISOR_LOW: u8 = 0;
const DIVISOR_HIGH: u8 = 1;
const INTERRUPT_ENABLE: u8 = 1;
const FIFO_CONTROL: u8 = 2;
const INTERRUPT_ID: u8 = 2;
const LINE_CONTROL: u8 = 3;
const MODEM_CONTROL: u8 = 4;
const LINE_STATUS: u8 = 5;
const MODEM_STATUS: u8 = 6;
const SCRATCH: u8 = 7;

/// Interrupts: a byte was received; the transmitter's FIFO is empty.
const ON_RECEIVED: u8 = 1 << 0;
const ON_EMPTY: u8 = 1 << 1;
/// Line status: a byte was received.
const DATA_READY: u8 = 1 << 0;
/// Line status: the FIFO takes bytes.
const HOLDING_EMPTY: u8 = 1 << 5;
/// Line status: the last bit has left.
const TRANSMITTER_EMPTY: u8 = 1 << 6;
/// Line control: the first two registers are the divisor.
const DIVISOR_ACCESS: u8 = 1 << 7;
/// What an absent register reads. No UART has all errors at once.
const ABSENT: u8 = 0xff;

/// The eight registers of a UART.
pub trait Registers {
    /// Reads a register.
    fn read(&self, register: u8) -> u8;
    /// Writes a register.
    fn write(&self, register: u8, value: u8);
}

/// How a UART is set up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Setup {
    /// 115,200 baud of a PC's clock, 8N1.
    Baud115200,
    /// As the firmware left it: its clock may be another.
    Keep,
}

/// The UART has gone: its registers read all ones.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Lost;

/// A UART that answered its probe.
#[derive(Debug)]
pub struct Uart<R> {
    registers: R,
    fifo_bytes: usize,
    /// It did not take a byte in time: until it does, nothing waits for it.
    stuck: bool,
    /// What waits for the transmitter.
    queue: VecDeque<u8>,
    /// The interrupts that are enabled; none before [`Uart::use_interrupts`].
    interrupts: u8,
}

impl<R: Registers> Uart<R> {
    /// Sets a UART up; `None` where none answers, or what the firmware sent never leaves it.
    pub fn probe(registers: R, setup: Setup) -> Option<Self> {
        let holds = |value| {
            registers.write(SCRATCH, value);
            registers.read(SCRATCH) == value
        };
        let mut uart = match holds(0x5a) && holds(0xa5) {
            true => Self {
                registers,
                fifo_bytes: 1,
                stuck: false,
                queue: VecDeque::new(),
                interrupts: 0,
            },
            false => return None,
        };
        uart.wait(TRANSMITTER_EMPTY).ok()?;
        uart.set_up(setup);
        Some(uart)
    }

    fn set_up(&mut self, setup: Setup) {
        let write = |register, value| self.registers.write(register, value);
        write(INTERRUPT_ENABLE, 0);
        if setup == Setup::Baud115200 {
            write(LINE_CONTROL, DIVISOR_ACCESS);
            write(DIVISOR_LOW, 1);
            write(DIVISOR_HIGH, 0);
            write(LINE_CONTROL, 0b11);
        }
        // On and empty; one byte received raises the interrupt.
        write(FIFO_CONTROL, 0b111);
        // Ready, and OUT2, which lets the interrupt through.
        write(MODEM_CONTROL, 0b1011);
        // What is pending ends by reading it.
        for register in [DATA, LINE_STATUS, INTERRUPT_ID, MODEM_STATUS] {
            self.registers.read(register);
        }
        let has_fifo = self.registers.read(INTERRUPT_ID) & 0xc0 == 0xc0;
        self.fifo_bytes = if has_fifo { FIFO_BYTES } else { 1 };
    }

    /// Sends bytes, or drops those that the UART does not take in time.
    ///
    /// # Errors
    /// [`Lost`] where it has gone: nothing is sent any more.
    pub fn send(&mut self, bytes: &[u8]) -> Result<(), Lost> {
        if self.interrupts == 0 {
            return self.send_now(bytes);
        }
        for &byte in bytes {
            if self.queue.len() >= QUEUE_BYTES {
                self.stuck = !self.wait(HOLDING_EMPTY)?;
                if self.stuck {
                    break;
                }
                self.fill();
            }
            self.queue.push_back(byte);
        }
        self.pump()
    }

    /// Moves what the transmitter takes without a wait, and has it tell when it takes more.
    fn pump(&mut self) -> Result<(), Lost> {
        while !self.queue.is_empty() {
            match self.registers.read(LINE_STATUS) {
                ABSENT => return Err(Lost),
                status if status & HOLDING_EMPTY == 0 => break,
                _ => self.fill(),
            }
        }
        let wanted = if self.queue.is_empty() { ON_RECEIVED } else { ON_RECEIVED | ON_EMPTY };
        if wanted != self.interrupts {
            self.interrupts = wanted;
            self.registers.write(INTERRUPT_ENABLE, wanted);
        }
        Ok(())
    }

    /// Puts a FIFO's worth of what waits into the transmitter, which is empty.
    fn fill(&mut self) {
        let count = self.fifo_bytes.min(self.queue.len());
        self.queue.drain(..count).for_each(|byte| self.registers.write(DATA, byte));
    }

    fn send_now(&mut self, bytes: &[u8]) -> Result<(), Lost> {
        for part in bytes.chunks(self.fifo_bytes) {
            self.stuck = !self.wait(HOLDING_EMPTY)?;
            if self.stuck {
                break;
            }
            part.iter().for_each(|&byte| self.registers.write(DATA, byte));
        }
        Ok(())
    }

    /// Waits until the last bit has left, but not forever. From now on sending waits, as before
    /// [`Uart::use_interrupts`].
    pub fn drain(&mut self) {
        if self.interrupts != 0 {
            self.interrupts = 0;
            self.registers.write(INTERRUPT_ENABLE, 0);
        }
        while !self.queue.is_empty() && self.wait(HOLDING_EMPTY) == Ok(true) {
            self.fill();
        }
        // What never leaves is lost. No memory is freed: these may be a panic's last words.
        self.queue.clear();
        let _ = self.wait(TRANSMITTER_EMPTY);
    }

    /// Interrupts come from now on, and [`Uart::serve`] is called at each: when a byte was received, and when the transmitter
    /// is empty and more waits for it.
    pub fn use_interrupts(&mut self) {
        self.queue.reserve_exact(QUEUE_BYTES);
        self.interrupts = ON_RECEIVED;
        self.registers.write(INTERRUPT_ENABLE, ON_RECEIVED);
    }

    /// Takes what was received, at most `limit` bytes, and sends of what waits. Whatever is left, or comes meanwhile, raises
    /// the interrupt anew: the line would show no edge otherwise, and whoever types as fast as this is read would hold
    /// up everything else.
    pub fn serve(&mut self, limit: usize, mut take: impl FnMut(u8)) {
        for _ in 0..limit {
            let status = self.registers.read(LINE_STATUS);
            if status == ABSENT {
                return;
            }
            if status & DATA_READY == 0 {
                break;
            }
            take(self.registers.read(DATA));
        }
        // The next one who sends will be told that it has gone.
        if self.interrupts != 0 && self.pump().is_ok() {
            self.registers.write(INTERRUPT_ENABLE, 0);
            self.registers.write(INTERRUPT_ENABLE, self.interrupts);
        }
    }

    /// Polls until the bit is set in the line status; false where it is not in time.
    fn wait(&self, bit: u8) -> Result<bool, Lost> {
        let polls = if self.stuck { 1 } else { SEND_POLLS };
        for _ in 0..polls {
            match self.registers.read(LINE_STATUS) {
                ABSENT => return Err(Lost),
                status if status & bit != 0 => return Ok(true),
                _ => core::hint::spin_loop(),
            }
        }
        Ok(false)
    }
}
