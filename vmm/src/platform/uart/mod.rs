//! The serial port: a 16550A (National Semiconductor PC16550D datasheet).
//!
//! The transmitter is infinitely fast as long as the machine takes what it sends ([`Uart::take_output`]), best by whole
//! lines ([`Uart::has_line`]); where it does not, the transmitter shows itself busy and the guest waits. The interrupt line
//! ([`Uart::interrupt`]) is not gated by OUT2.

mod fifo;

#[cfg(test)]
mod tests;

use hw::{Port, Width};

use crate::platform::PortWindow;
use fifo::Fifo;

/// Its ports: COM1.
pub const PORTS: PortWindow = PortWindow { first: Port(0x3f8), count: 8 };

/// Bytes of the transmitter's buffer: most lines fit. A guest that saw the transmitter empty may send 16.
const OUTPUT_BYTES: usize = 256;
/// Bytes of either FIFO as the guest knows it.
const FIFO_BYTES: usize = 16;
/// The baud-rate generator's clock, after its division by 16, in Hz.
const BAUD_BASE: u64 = 115_200;

const DATA: u64 = 0;
const IER: u64 = 1;
const IIR: u64 = 2;
const LCR: u64 = 3;
const MCR: u64 = 4;
const LSR: u64 = 5;
const MSR: u64 = 6;
const SCR: u64 = 7;

const IER_RECEIVED: u8 = 1 << 0;
const IER_TRANSMITTER: u8 = 1 << 1;
const IER_LINE: u8 = 1 << 2;
const IER_MODEM: u8 = 1 << 3;

const IIR_NONE: u8 = 1;
const IIR_MODEM: u8 = 0;
const IIR_TRANSMITTER: u8 = 2;
const IIR_RECEIVED: u8 = 4;
const IIR_LINE: u8 = 6;
const IIR_TIMEOUT: u8 = 0xc;
const IIR_FIFOS: u8 = 0xc0;

const FCR_ENABLE: u8 = 1 << 0;
const FCR_CLEAR_RECEIVER: u8 = 1 << 1;
const FCR_CLEAR_TRANSMITTER: u8 = 1 << 2;

const LCR_DIVISOR: u8 = 1 << 7;

const MCR_LOOP: u8 = 1 << 4;
const MCR_WRITABLE: u8 = 0x1f;

const LSR_READY: u8 = 1 << 0;
const LSR_OVERRUN: u8 = 1 << 1;
const LSR_THR_EMPTY: u8 = 1 << 5;
const LSR_IDLE: u8 = 1 << 6;

/// Clear to send, data set ready, carrier: someone is there.
const MSR_CONNECTED: u8 = 0xb0;
/// Modem lines by their low nibble's delta bits: CTS, DSR, and DCD report every change, RI only its end.
const MSR_TRAILING_ONLY: u8 = 1 << 2;

/// A 16550A.
#[derive(Clone, Debug)]
pub struct Uart {
    ier: u8,
    lcr: u8,
    mcr: u8,
    scr: u8,
    divisor: u16,
    fifo_enabled: bool,
    /// How many received bytes make an interrupt.
    trigger: usize,
    received: Fifo<FIFO_BYTES>,
    overrun: bool,
    /// An interrupt for an empty transmitter is due.
    transmitter_due: bool,
    /// Changes of modem lines since the last read of MSR.
    modem_deltas: u8,
    modem_lines: u8,
    /// What was sent and not yet taken.
    output: [u8; OUTPUT_BYTES],
    output_len: usize,
    /// When received bytes below the trigger become an interrupt.
    timeout_at: Option<u64>,
    timed_out: bool,
    tsc_hz: u64,
}

impl Uart {
    /// A UART as after reset, for a guest whose TSC runs at `tsc_khz`.
    #[must_use]
    pub fn new(tsc_khz: u32) -> Self {
        Self {
            ier: 0,
            lcr: 0,
            mcr: 0,
            scr: 0,
            divisor: 12,
            fifo_enabled: false,
            trigger: 1,
            received: Fifo::new(),
            overrun: false,
            transmitter_due: false,
            modem_deltas: 0,
            modem_lines: MSR_CONNECTED,
            output: [0; OUTPUT_BYTES],
            output_len: 0,
            timeout_at: None,
            timed_out: false,
            tsc_hz: u64::from(tsc_khz) * 1000,
        }
    }

    /// Reads a register.
    pub fn read(&mut self, offset: u64, width: Width, now: u64) -> u64 {
        if width != Width::W1 {
            return width.mask();
        }
        self.poll(now);
        let [divisor_low, divisor_high] = self.divisor.to_le_bytes();
        let value = match offset {
            DATA if self.divisor_latch() => divisor_low,
            IER if self.divisor_latch() => divisor_high,
            DATA => self.take_received(now),
            IER => self.ier,
            IIR => self.identify(),
            LCR => self.lcr,
            MCR => self.mcr,
            LSR => {
                let status = self.line_status();
                self.overrun = false;
                status
            }
            MSR => self.modem_lines | core::mem::take(&mut self.modem_deltas),
            SCR => self.scr,
            _ => 0xff,
        };
        value.into()
    }

    /// Writes a register.
    pub fn write(&mut self, offset: u64, width: Width, value: u64, now: u64) {
        if width != Width::W1 {
            return;
        }
        self.poll(now);
        let value = value as u8;
        let [divisor_low, divisor_high] = self.divisor.to_le_bytes();
        match offset {
            DATA if self.divisor_latch() => {
                self.divisor = u16::from_le_bytes([value, divisor_high]);
            }
            IER if self.divisor_latch() => self.divisor = u16::from_le_bytes([divisor_low, value]),
            DATA => self.send(value, now),
            IER => {
                let newly = value & !self.ier;
                self.ier = value & 0x0f;
                // Enabling the interrupt of an empty transmitter raises it.
                if newly & IER_TRANSMITTER != 0 && self.transmitter_is_empty() {
                    self.transmitter_due = true;
                }
            }
            IIR => self.control_fifos(value),
            LCR => self.lcr = value,
            MCR => self.set_modem_control(value & MCR_WRITABLE),
            SCR => self.scr = value,
            _ => {}
        }
    }

    const fn divisor_latch(&self) -> bool {
        self.lcr & LCR_DIVISOR != 0
    }

    const fn in_loopback(&self) -> bool {
        self.mcr & MCR_LOOP != 0
    }

    /// Whether a whole FIFO of the guest's fits.
    const fn transmitter_is_empty(&self) -> bool {
        self.output_len <= OUTPUT_BYTES - FIFO_BYTES
    }

    fn line_status(&self) -> u8 {
        let mut status = 0;
        if !self.received.is_empty() {
            status |= LSR_READY;
        }
        if self.overrun {
            status |= LSR_OVERRUN;
        }
        if self.transmitter_is_empty() {
            status |= LSR_THR_EMPTY | LSR_IDLE;
        }
        status
    }

    /// The pending interrupt of the highest priority, as the IIR names it (PC16550D, table IV).
    fn pending(&self) -> u8 {
        let enabled = |source| self.ier & source != 0;
        if enabled(IER_LINE) && self.overrun {
            IIR_LINE
        } else if enabled(IER_RECEIVED) && self.received.len() >= self.trigger {
            IIR_RECEIVED
        } else if enabled(IER_RECEIVED) && self.timed_out {
            IIR_TIMEOUT
        } else if enabled(IER_TRANSMITTER) && self.transmitter_due {
            IIR_TRANSMITTER
        } else if enabled(IER_MODEM) && self.modem_deltas != 0 {
            IIR_MODEM
        } else {
            IIR_NONE
        }
    }

    /// Whether its interrupt line is asserted.
    #[must_use]
    pub fn interrupt(&self) -> bool {
        self.pending() != IIR_NONE
    }

    fn identify(&mut self) -> u8 {
        let pending = self.pending();
        if pending == IIR_TRANSMITTER {
            self.transmitter_due = false;
        }
        pending | if self.fifo_enabled { IIR_FIFOS } else { 0 }
    }

    fn control_fifos(&mut self, value: u8) {
        let enable = value & FCR_ENABLE != 0;
        if enable != self.fifo_enabled {
            self.clear_received();
        }
        self.fifo_enabled = enable;
        self.trigger = match value >> 6 {
            _ if !enable => 1,
            0 => 1,
            1 => 4,
            2 => 8,
            _ => 14,
        };
        if enable && value & FCR_CLEAR_RECEIVER != 0 {
            self.clear_received();
        }
        // What was sent is on the line already: there is nothing to clear but the bit.
        if enable && value & FCR_CLEAR_TRANSMITTER != 0 && self.transmitter_is_empty() {
            self.transmitter_due = true;
        }
    }

    fn clear_received(&mut self) {
        self.received.clear();
        self.timed_out = false;
        self.timeout_at = None;
    }

    fn send(&mut self, byte: u8, now: u64) {
        self.transmitter_due = false;
        if self.in_loopback() {
            self.receive_byte(byte, now);
        } else {
            self.put(byte);
        }
        if self.transmitter_is_empty() {
            self.transmitter_due = true;
        }
    }

    /// A guest that does not wait for the transmitter loses what it sends, as on the hardware.
    #[inline(always)]
    fn put(&mut self, byte: u8) {
        if let Some(slot) = self.output.get_mut(self.output_len) {
            *slot = byte;
            self.output_len += 1;
        }
    }

    /// Reads a register, where that changes nothing and the moment does not matter.
    #[inline(always)]
    pub(crate) fn peek(&self, offset: u64) -> Option<u8> {
        let is_plain = offset == LSR && !self.overrun && self.timeout_at.is_none();
        is_plain.then(|| self.line_status())
    }

    /// Writes a register, where that only continues a line that waits to be taken: neither the interrupt line nor what
    /// the guest can read changes. Says whether it was so.
    #[inline(always)]
    pub(crate) fn continue_line(&mut self, offset: u64, byte: u8) -> bool {
        let is_plain = offset == DATA
            && byte != b'\n'
            && self.output_len.wrapping_sub(1) < OUTPUT_BYTES - FIFO_BYTES - 1
            && self.lcr & LCR_DIVISOR | self.mcr & MCR_LOOP == 0
            && (self.ier & IER_TRANSMITTER == 0 || self.transmitter_due)
            && self.timeout_at.is_none();
        if is_plain {
            self.transmitter_due = true;
            self.put(byte);
        }
        is_plain
    }

    /// In loopback the modem control lines are wired to the modem status lines (PC16550D, 8.6.7).
    fn set_modem_control(&mut self, value: u8) {
        self.mcr = value;
        let lines = if self.in_loopback() {
            let [dtr, rts, out1, out2] = [0, 1, 2, 3].map(|bit| value >> bit & 1);
            rts << 4 | dtr << 5 | out1 << 6 | out2 << 7
        } else {
            MSR_CONNECTED
        };
        let changed = (lines ^ self.modem_lines) >> 4;
        let rising = changed & lines >> 4;
        self.modem_deltas |= changed & !(rising & MSR_TRAILING_ONLY);
        self.modem_lines = lines;
    }

    /// Takes what the guest sent and no one took yet.
    pub fn take_output(&mut self) -> &[u8] {
        let len = core::mem::take(&mut self.output_len);
        self.transmitter_due |= len > OUTPUT_BYTES - FIFO_BYTES;
        self.output.get(..len).unwrap_or_default()
    }

    /// Whether something was sent and not yet taken.
    #[must_use]
    pub const fn has_output(&self) -> bool {
        self.output_len > 0
    }

    /// Whether that ends a line, or room for more is running out.
    #[must_use]
    pub fn has_line(&self) -> bool {
        let sent = self.output.get(..self.output_len).unwrap_or_default();
        sent.last() == Some(&b'\n') || sent.len() >= OUTPUT_BYTES - FIFO_BYTES
    }

    /// Whether the receiver has room for another byte. In loopback nothing comes from outside.
    #[must_use]
    pub const fn can_receive(&self) -> bool {
        let room =
            if self.fifo_enabled { self.received.free() > 0 } else { self.received.is_empty() };
        room && !self.in_loopback()
    }

    /// A byte arrives on the line. Where [`Uart::can_receive`] says no, it is lost and an overrun reported.
    pub fn receive(&mut self, byte: u8, now: u64) {
        if !self.in_loopback() {
            self.receive_byte(byte, now);
        }
    }

    fn receive_byte(&mut self, byte: u8, now: u64) {
        if !self.fifo_enabled && !self.received.is_empty() {
            // The holding register is overwritten.
            self.received.clear();
            self.overrun = true;
        }
        if !self.received.push(byte) {
            self.overrun = true;
        }
        self.restart_timeout(now);
    }

    fn take_received(&mut self, now: u64) -> u8 {
        let byte = self.received.pop().unwrap_or(0);
        self.timed_out = false;
        self.restart_timeout(now);
        byte
    }

    /// The receiver's time-out is four characters long (PC16550D, 8.4): 40 bits.
    fn restart_timeout(&mut self, now: u64) {
        let waits = self.fifo_enabled && !self.received.is_empty();
        self.timeout_at = waits.then(|| {
            let divisor = u64::from(self.divisor.max(1));
            now.saturating_add(40 * divisor * self.tsc_hz / BAUD_BASE)
        });
    }

    /// When [`Uart::poll`] has something to do next, in ticks of the guest's TSC.
    #[must_use]
    pub const fn deadline(&self) -> Option<u64> {
        if self.ier & IER_RECEIVED != 0 { self.timeout_at } else { None }
    }

    /// Lets the receiver's time-out pass if its moment has come.
    pub fn poll(&mut self, now: u64) {
        if self.timeout_at.is_some_and(|at| at <= now) {
            self.timeout_at = None;
            self.timed_out = true;
        }
    }
}
