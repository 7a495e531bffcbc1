//! The UART as a driver sees it.

use hw::Width;
use proptest::prelude::*;

use super::*;

/// One TSC tick a microsecond.
fn uart() -> Uart {
    Uart::new(1000)
}

fn look(uart: &mut Uart, register: u64) -> u8 {
    uart.read(register, Width::W1, 0) as u8
}

fn put(uart: &mut Uart, register: u64, value: u8) {
    uart.write(register, Width::W1, value.into(), 0);
}

fn output(uart: &mut Uart) -> Vec<u8> {
    uart.take_output().to_vec()
}

#[test]
fn what_is_sent_comes_out_in_order() {
    let mut uart = uart();
    for &byte in b"login:" {
        assert_ne!(look(&mut uart, LSR) & LSR_THR_EMPTY, 0);
        put(&mut uart, DATA, byte);
    }
    assert_eq!(output(&mut uart), b"login:");
    assert_eq!(output(&mut uart), b"");
}

#[test]
fn a_transmitter_that_no_one_empties_shows_itself_busy() {
    let mut uart = uart();
    put(&mut uart, IER, IER_TRANSMITTER);
    let mut sent = 0;
    while look(&mut uart, LSR) & LSR_THR_EMPTY != 0 {
        put(&mut uart, DATA, b'x');
        sent += 1;
        assert!(sent <= OUTPUT_BYTES);
    }
    assert!(OUTPUT_BYTES - uart.output_len < FIFO_BYTES);
    look(&mut uart, IIR);
    assert!(!uart.interrupt());
    assert_eq!(output(&mut uart).len(), sent);
    assert_eq!(look(&mut uart, IIR), IIR_TRANSMITTER, "it is empty again");
}

#[test]
fn enabling_the_transmitter_interrupt_raises_it_and_iir_clears_it() {
    let mut uart = uart();
    put(&mut uart, IER, IER_TRANSMITTER);
    assert!(uart.interrupt());
    assert_eq!(look(&mut uart, IIR), IIR_TRANSMITTER);
    assert_eq!(look(&mut uart, IIR), IIR_NONE);
    put(&mut uart, DATA, b'a');
    assert!(uart.interrupt(), "sent at once");
    put(&mut uart, IER, 0);
    assert!(!uart.interrupt());
    put(&mut uart, IER, IER_TRANSMITTER);
    assert!(uart.interrupt());
}

#[test]
fn received_bytes_interrupt_at_the_trigger_level() {
    let mut uart = uart();
    put(&mut uart, IIR, FCR_ENABLE | 1 << 6);
    put(&mut uart, IER, IER_RECEIVED);
    assert_eq!(look(&mut uart, IIR), IIR_NONE | IIR_FIFOS);
    for byte in *b"abc" {
        uart.receive(byte, 0);
        assert!(!uart.interrupt());
    }
    uart.receive(b'd', 0);
    assert_eq!(look(&mut uart, IIR), IIR_RECEIVED | IIR_FIFOS);
    assert_eq!(look(&mut uart, DATA), b'a');
    assert!(!uart.interrupt());
    assert_eq!(look(&mut uart, LSR) & LSR_READY, LSR_READY);
}

#[test]
fn bytes_below_the_trigger_time_out_after_four_characters() {
    let mut uart = uart();
    put(&mut uart, LCR, LCR_DIVISOR);
    put(&mut uart, DATA, 1);
    put(&mut uart, IER, 0);
    put(&mut uart, LCR, 3);
    put(&mut uart, IIR, FCR_ENABLE | 3 << 6);
    put(&mut uart, IER, IER_RECEIVED);
    uart.receive(b'a', 1000);
    let due = 1000 + 40 * 1_000_000 / BAUD_BASE;
    assert_eq!(uart.deadline(), Some(due));
    uart.poll(due - 1);
    assert!(!uart.interrupt());
    uart.poll(due);
    assert_eq!(uart.read(IIR, Width::W1, due), u64::from(IIR_TIMEOUT | IIR_FIFOS));
    assert_eq!(uart.read(DATA, Width::W1, due), b'a'.into());
    assert!(!uart.interrupt());
    assert_eq!(uart.deadline(), None);
}

#[test]
fn without_fifos_a_second_byte_overruns_the_first() {
    let mut uart = uart();
    put(&mut uart, IER, IER_RECEIVED | IER_LINE);
    uart.receive(b'a', 0);
    assert!(!uart.can_receive());
    uart.receive(b'b', 0);
    assert_eq!(look(&mut uart, IIR), IIR_LINE);
    assert_eq!(look(&mut uart, LSR) & 3, LSR_READY | LSR_OVERRUN);
    assert_eq!(look(&mut uart, LSR) & 3, LSR_READY);
    assert_eq!(look(&mut uart, IIR), IIR_RECEIVED);
    assert_eq!(look(&mut uart, DATA), b'b');
}

#[test]
fn a_full_fifo_keeps_what_it_has() {
    let mut uart = uart();
    put(&mut uart, IIR, FCR_ENABLE);
    for byte in 0..20 {
        assert_eq!(uart.can_receive(), byte < 16);
        uart.receive(byte, 0);
    }
    assert_ne!(look(&mut uart, LSR) & LSR_OVERRUN, 0);
    let read: Vec<u8> = (0..16).map(|_| look(&mut uart, DATA)).collect();
    assert_eq!(read, (0..16).collect::<Vec<u8>>());
    assert_eq!(look(&mut uart, LSR) & LSR_READY, 0);
}

#[test]
fn loopback_wires_the_modem_lines_and_the_data() {
    let mut uart = uart();
    // The very probe of Linux's 8250 driver.
    put(&mut uart, MCR, MCR_LOOP | 0x0a);
    assert_eq!(look(&mut uart, MSR) & 0xf0, 0x90);
    put(&mut uart, DATA, 0x5a);
    assert_eq!(look(&mut uart, DATA), 0x5a);
    assert_eq!(output(&mut uart), b"");
    assert!(!uart.can_receive());
    put(&mut uart, MCR, 0x0b);
    assert_eq!(look(&mut uart, MSR) & 0xf0, MSR_CONNECTED);
}

#[test]
fn modem_changes_interrupt_until_msr_is_read() {
    let mut uart = uart();
    put(&mut uart, MCR, MCR_LOOP);
    look(&mut uart, MSR);
    put(&mut uart, IER, IER_MODEM);
    put(&mut uart, MCR, MCR_LOOP | 4);
    assert!(!uart.interrupt(), "a ring that begins is no event");
    put(&mut uart, MCR, MCR_LOOP | 1);
    assert_eq!(look(&mut uart, IIR), IIR_MODEM);
    assert_eq!(look(&mut uart, MSR), 0x20 | 0b0110, "DSR changed and the ring ended");
    assert!(!uart.interrupt());
}

#[test]
fn the_divisor_latch_hides_data_and_ier() {
    let mut uart = uart();
    put(&mut uart, IER, 0x0f);
    put(&mut uart, LCR, LCR_DIVISOR | 3);
    put(&mut uart, DATA, 0x34);
    put(&mut uart, IER, 0x12);
    assert_eq!((look(&mut uart, DATA), look(&mut uart, IER)), (0x34, 0x12));
    put(&mut uart, LCR, 3);
    assert_eq!(look(&mut uart, IER), 0x0f);
    assert_eq!(output(&mut uart), b"");
    put(&mut uart, SCR, 0xa5);
    assert_eq!(look(&mut uart, SCR), 0xa5);
}

proptest! {
    #[test]
    fn no_access_panics(
        accesses in proptest::collection::vec(
            (0_u8..4, 0_u64..9, 0_u32..4, any::<u8>(), any::<u64>()), 0..200),
    ) {
        let mut uart = uart();
        for (kind, offset, width, value, now) in accesses {
            let width = Width::try_new(1 << width).unwrap();
            match kind {
                0 => { uart.read(offset, width, now); }
                1 => uart.write(offset, width, value.into(), now),
                2 => uart.receive(value, now),
                _ => { uart.take_output(); }
            }
            prop_assert!(uart.output_len <= OUTPUT_BYTES);
        }
    }
}
