//! The first 16550 UART (PC16550D datasheet, 8). Every wait for it is bounded: one that is absent, stuck or slow loses
//! characters and hangs nothing.

use hw::{Port, PortBus, Width};

use crate::platform::Ports;

/// I/O port of COM1's first register.
const COM1: u16 = 0x3f8;
/// Bytes that the transmit FIFO takes once it is empty.
const FIFO_BYTES: u32 = 16;
/// Polls before a byte is given up: more than a FIFO needs at 9,600 baud, where a poll takes about a microsecond.
const SEND_POLLS: u32 = 100_000;
/// Polls before a probe byte is given up.
const PROBE_POLLS: u32 = 10_000;

// Registers by offset.
const DATA: u16 = 0;
const IER: u16 = 1;
const FCR: u16 = 2;
const LCR: u16 = 3;
const MCR: u16 = 4;
const LSR: u16 = 5;

/// IER: received data available.
const IER_RECEIVED: u8 = 1 << 0;
/// LCR: the first two registers are the divisor.
const LCR_DLAB: u8 = 1 << 7;
/// LCR: eight bits, no parity, one stop bit.
const LCR_8N1: u8 = 3;
/// FCR: FIFOs on and emptied, one byte received raises the interrupt.
const FCR_ON: u8 = 0b0000_0111;
/// MCR: DTR, RTS, and OUT2, which gates the interrupt on a PC.
const MCR_ON: u8 = 0b0000_1011;
/// MCR: transmit into the receiver.
const MCR_LOOP: u8 = 1 << 4;
/// LSR: a byte was received.
const LSR_RECEIVED: u8 = 1 << 0;
/// LSR: the transmit FIFO is empty.
const LSR_THRE: u8 = 1 << 5;
/// LSR: and the shift register too.
const LSR_TEMT: u8 = 1 << 6;

/// A UART that answered its probe.
#[derive(Debug)]
pub(super) struct Uart {
    /// Bytes that the FIFO certainly still takes.
    room: u32,
    /// It did not drain in time: until it does, nothing waits for it.
    stuck: bool,
}

impl Uart {
    /// Sets COM1 up for 115,200 baud, 8N1; `None` where no UART answers in loop-back.
    pub(super) fn probe() -> Option<Self> {
        // A bus without the device reads all-ones, and no UART can have all of these set.
        if read(LSR) == 0xff {
            return None;
        }
        write(IER, 0);
        write(LCR, LCR_DLAB);
        write(DATA, 1);
        write(IER, 0);
        write(LCR, LCR_8N1);
        write(FCR, FCR_ON);
        let alive = loops_back(0x5a) && loops_back(0xa5);
        write(FCR, FCR_ON);
        write(MCR, MCR_ON);
        alive.then_some(Self { room: 0, stuck: false })
    }

    /// Sends one byte, or drops it where the UART does not take it in time.
    pub(super) fn send(&mut self, byte: u8) {
        if self.room == 0 {
            let polls = if self.stuck { 1 } else { SEND_POLLS };
            self.stuck = !wait(LSR_THRE, polls);
            if self.stuck {
                return;
            }
            self.room = FIFO_BYTES;
        }
        self.room -= 1;
        write(DATA, byte);
    }

    /// Waits until the last bit has left, but not forever.
    pub(super) fn drain(&mut self) {
        wait(LSR_TEMT, SEND_POLLS);
        self.room = 0;
    }

    /// Asks for an interrupt whenever a byte was received.
    pub(super) fn interrupt_on_receive(&mut self) {
        write(IER, IER_RECEIVED);
    }
}

/// The next byte received, if any. It touches no state of the driver, so an interrupt handler may use it at any time.
pub(super) fn receive() -> Option<u8> {
    let status = read(LSR);
    (status != 0xff && status & LSR_RECEIVED != 0).then(|| read(DATA))
}

fn loops_back(byte: u8) -> bool {
    write(MCR, MCR_LOOP);
    // What the firmware left in the receiver is not ours.
    for _ in 0..=FIFO_BYTES {
        if receive().is_none() {
            break;
        }
    }
    write(DATA, byte);
    let answered = wait(LSR_RECEIVED, PROBE_POLLS);
    answered && read(DATA) == byte
}

/// Polls until the bit is set in the line status.
fn wait(bit: u8, polls: u32) -> bool {
    (0..polls).any(|_| {
        let status = read(LSR);
        status != 0xff && status & bit != 0
    })
}

fn read(register: u16) -> u8 {
    Ports.read(Port(COM1 + register), Width::W1) as u8
}

fn write(register: u16, value: u8) {
    Ports.write(Port(COM1 + register), Width::W1, u32::from(value));
}
