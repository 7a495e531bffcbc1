//! The 16550 UART (PC16550D datasheet, 8).

/// Polls before a byte is given up: more than a FIFO needs at 9,600 baud, where a poll takes about a microsecond.
const SEND_POLLS: u32 = 100_000;
/// Bytes that the transmit FIFO takes at once.
const FIFO_BYTES: usize = 16;

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
}

impl<R: Registers> Uart<R> {
    /// Sets a UART up; `None` where none answers, or what the firmware sent never leaves it.
    pub fn probe(registers: R, setup: Setup) -> Option<Self> {
        let holds = |value| {
            registers.write(SCRATCH, value);
            registers.read(SCRATCH) == value
        };
        let mut uart = match holds(0x5a) && holds(0xa5) {
            true => Self { registers, fifo_bytes: 1, stuck: false },
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
        for part in bytes.chunks(self.fifo_bytes) {
            self.stuck = !self.wait(HOLDING_EMPTY)?;
            if self.stuck {
                break;
            }
            part.iter().for_each(|&byte| self.registers.write(DATA, byte));
        }
        Ok(())
    }

    /// Waits until the last bit has left, but not forever.
    pub fn drain(&mut self) {
        // What never leaves is lost.
        let _ = self.wait(TRANSMITTER_EMPTY);
    }

    /// Asks for an interrupt whenever a byte was received.
    pub fn interrupt_on_receive(&mut self) {
        self.registers.write(INTERRUPT_ENABLE, 1);
    }

    /// Takes what was received, at most `limit` bytes. Where more is left, the interrupt is raised anew: the line would
    /// show no edge otherwise, and whoever types as fast as this is read would hold up everything else.
    pub fn receive(&mut self, limit: usize, mut take: impl FnMut(u8)) {
        for _ in 0..limit {
            let status = self.registers.read(LINE_STATUS);
            if status & DATA_READY == 0 || status == ABSENT {
                return;
            }
            take(self.registers.read(DATA));
        }
        self.registers.write(INTERRUPT_ENABLE, 0);
        self.registers.write(INTERRUPT_ENABLE, 1);
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
