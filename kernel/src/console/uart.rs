//! The first 16550 UART (PC16550D datasheet, 8), and how long it is waited for. Every wait is bounded: a UART that is
//! absent, stuck or slow loses characters and hangs nothing. So of the driver crate only the calls that do not wait are
//! used; the one wait within its `init` is for a transmitter that was seen empty just before.

use uart_16550::backend::PioBackend;
use uart_16550::spec::registers::{FifoTriggerLevel, IER, LSR};
use uart_16550::{BaudRate, Config, Uart16550};

use crate::platform;

/// Polls before a byte is given up: more than a FIFO needs at 9,600 baud, where a poll takes about a microsecond.
const SEND_POLLS: u32 = 100_000;

/// 115,200 baud, 8N1; one byte received raises the interrupt, once that is enabled.
const CONFIG: Config = Config {
    baud_rate: BaudRate::Baud115200,
    fifo_trigger_level: Some(FifoTriggerLevel::One),
    ..Config::DEFAULT
};

/// A UART that answered its probe.
#[derive(Debug)]
pub(super) struct Uart {
    device: Uart16550<PioBackend>,
    /// It did not take a byte in time: until it does, nothing waits for it.
    stuck: bool,
}

impl Uart {
    /// Sets COM1 up; `None` where no UART answers, or what the firmware sent never leaves it.
    pub(super) fn probe() -> Option<Self> {
        let mut device = const { platform::com1() };
        let ready = device.check_present()
            && wait(&mut device, LSR::TRANSMITTER_EMPTY)
            && device.init(CONFIG).is_ok();
        ready.then_some(Self { device, stuck: false })
    }

    /// Sends bytes, or drops those that the UART does not take in time.
    pub(super) fn send(&mut self, bytes: &[u8]) {
        let mut rest = bytes;
        while !rest.is_empty() {
            let polls = if self.stuck { 1 } else { SEND_POLLS };
            let sent = (0..polls).map(|_| self.device.send_bytes(rest)).find(|&sent| sent != 0);
            self.stuck = sent.is_none();
            let Some(sent) = sent else { return };
            rest = rest.get(sent..).unwrap_or_default();
        }
    }

    /// Waits until the last bit has left, but not forever.
    pub(super) fn drain(&mut self) {
        wait(&mut self.device, LSR::TRANSMITTER_EMPTY);
    }

    /// Asks for an interrupt whenever a byte was received.
    pub(super) fn interrupt_on_receive(&mut self) {
        self.device.enable_interrupts(IER::DATA_READY);
    }

    /// Takes what was received, at most `limit` bytes. Where more is left, the interrupt is raised anew: the line would
    /// show no edge otherwise, and whoever types as fast as this is read would hold up everything else.
    pub(super) fn receive(&mut self, limit: usize, mut take: impl FnMut(u8)) {
        for _ in 0..limit {
            let Ok(byte) = self.device.try_receive_byte() else { return };
            take(byte);
        }
        self.device.disable_interrupts(IER::DATA_READY);
        self.device.enable_interrupts(IER::DATA_READY);
    }
}

/// Polls until the bit is set in the line status.
fn wait(device: &mut Uart16550<PioBackend>, bit: LSR) -> bool {
    (0..SEND_POLLS).any(|_| device.lsr().contains(bit))
}
