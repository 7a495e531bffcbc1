//! Serial ports that stick and vanish, and a canvas to draw on.

use std::cell::{Cell, RefCell};

use super::*;

/// A UART whose transmitter takes a byte when `ready`, and that can be taken away.
#[derive(Default)]
struct Model {
    scratch: Cell<u8>,
    sent: RefCell<Vec<u8>>,
    received: RefCell<Vec<u8>>,
    polls: Cell<u32>,
    stuck: Cell<bool>,
    /// Gone after so many bytes were sent.
    gone_after: Cell<Option<usize>>,
    divisor: Cell<Option<u8>>,
    control: Cell<u8>,
    /// What was written to the interrupt enable register.
    interrupts: RefCell<Vec<u8>>,
}

impl Model {
    fn is_gone(&self) -> bool {
        self.gone_after.get().is_some_and(|most| self.sent.borrow().len() >= most)
    }
}

impl Registers for &Model {
    fn read(&self, register: u8) -> u8 {
        match register {
            _ if self.is_gone() => 0xff,
            0 => self.received.borrow_mut().pop().unwrap_or(0),
            2 => 0xc1,
            5 => {
                self.polls.set(self.polls.get() + 1);
                let ready = if self.stuck.get() { 0 } else { 0x60 };
                ready | u8::from(!self.received.borrow().is_empty())
            }
            7 => self.scratch.get(),
            _ => 0,
        }
    }

    fn write(&self, register: u8, value: u8) {
        match register {
            0 if self.control.get() & 0x80 != 0 => self.divisor.set(Some(value)),
            0 => self.sent.borrow_mut().push(value),
            1 => self.interrupts.borrow_mut().push(value),
            3 => self.control.set(value),
            7 => self.scratch.set(value),
            _ => {}
        }
    }
}

fn working(model: &Model) -> Uart<&Model> {
    Uart::probe(model, Setup::Baud115200).unwrap()
}

#[test]
fn a_uart_that_is_not_there_is_not_found() {
    let model = Model { gone_after: Cell::new(Some(0)), ..Model::default() };
    assert!(Uart::probe(&model, Setup::Baud115200).is_none());
}

#[test]
fn bytes_are_sent_in_order_and_more_than_a_fifo_holds() {
    let model = Model::default();
    let text: Vec<u8> = (0..100).collect();
    assert_eq!(working(&model).send(&text), Ok(()));
    assert_eq!(*model.sent.borrow(), text);
    assert_eq!((model.divisor.get(), model.control.get()), (Some(1), 3));
}

#[test]
fn the_firmwares_line_settings_are_kept_where_that_is_asked() {
    let model = Model::default();
    assert!(Uart::probe(&model, Setup::Keep).is_some());
    assert_eq!((model.divisor.get(), model.control.get()), (None, 0));
}

#[test]
fn a_stuck_transmitter_is_waited_for_once_and_used_again_when_it_moves() {
    let model = Model::default();
    let mut uart = working(&model);
    model.stuck.set(true);
    assert_eq!(uart.send(b"lost"), Ok(()));
    let polls = model.polls.get();
    assert_eq!(uart.send(b"lost as well"), Ok(()));
    assert_eq!(model.polls.get(), polls + 1, "no second wait");
    model.stuck.set(false);
    assert_eq!(uart.send(b"back"), Ok(()));
    assert_eq!(*model.sent.borrow(), b"back");
}

#[test]
fn with_interrupts_nobody_waits_and_each_moves_a_fifo_of_what_does() {
    let model = Model::default();
    let mut uart = working(&model);
    uart.use_interrupts();
    model.stuck.set(true);
    let text: Vec<u8> = (0..40).collect();
    let polls = model.polls.get();
    assert_eq!(uart.send(&text), Ok(()));
    assert_eq!((model.polls.get() - polls, model.interrupts.borrow().last()), (1, Some(&3)));
    assert!(model.sent.borrow().is_empty());
    model.stuck.set(false);
    uart.serve(10, |_| ());
    assert_eq!(*model.sent.borrow(), text, "the model is always empty");
    let written = model.interrupts.borrow();
    assert_eq!(
        written[written.len() - 3..],
        [1, 0, 1],
        "nothing waits; an edge for what came meanwhile"
    );
}

#[test]
fn a_full_queue_waits_for_room_and_last_words_for_all_of_it() {
    let model = Model::default();
    let mut uart = working(&model);
    uart.use_interrupts();
    model.stuck.set(true);
    let text: Vec<u8> = (0..17 << 10).map(|n| n as u8).collect();
    assert_eq!(uart.send(&text), Ok(()), "more than it holds is lost");
    model.stuck.set(false);
    uart.drain();
    assert_eq!(*model.sent.borrow(), text[..16 << 10]);
    assert_eq!(uart.send(b"last"), Ok(()));
    assert!(model.sent.borrow().ends_with(b"last"));
    assert_eq!(model.interrupts.borrow().last(), Some(&0));
}

#[test]
fn a_uart_that_disappears_is_told_at_once() {
    let model = Model::default();
    let mut uart = working(&model);
    model.gone_after.set(Some(16));
    assert_eq!(uart.send(&[b'x'; 40]), Err(Lost));
    assert_eq!(model.sent.borrow().len(), 16);
    let polls = model.polls.get();
    uart.drain();
    let mut got = Vec::new();
    uart.serve(10, |byte| got.push(byte));
    assert!(got.is_empty() && model.polls.get() == polls);
}

#[test]
fn no_more_is_received_than_there_is_room_for() {
    let model = Model::default();
    let mut uart = working(&model);
    model.received.replace(vec![3, 2, 1]);
    let mut got = Vec::new();
    uart.serve(2, |byte| got.push(byte));
    assert_eq!(got, [1, 2]);
}

/// Lines of pixels.
#[derive(Default)]
struct Canvas(Vec<Vec<u32>>);

impl Pixels for &mut Canvas {
    fn draw(&mut self, x: u32, y: u32, pixels: &[u32]) {
        for (at, &pixel) in pixels.iter().enumerate() {
            self.0[y as usize][x as usize + at] = pixel;
        }
    }
}

fn canvas(width: usize, height: usize) -> Canvas {
    Canvas(vec![vec![7; width]; height])
}

fn has_ink(canvas: &Canvas, column: usize, row: usize) -> bool {
    let lines = canvas.0[row * 16..(row + 1) * 16].iter();
    lines.flat_map(|line| &line[column * 8..(column + 1) * 8]).any(|&pixel| pixel > 7)
}

#[test]
fn glyphs_are_upright_and_their_left_is_left() {
    let mut canvas = canvas(8, 32);
    Screen::new(&mut canvas, 8, 32).unwrap().write(b"L");
    let ink = |line: &Vec<u32>| line.iter().filter(|&&pixel| pixel != 0).count();
    let (top, foot) = (ink(&canvas.0[2]), canvas.0[..16].iter().map(ink).max().unwrap());
    assert!(top < foot, "an L is widest at its foot");
    let left: usize = canvas.0[..16].iter().map(|line| ink(&line[..4].to_vec())).sum();
    let right: usize = canvas.0[..16].iter().map(|line| ink(&line[4..].to_vec())).sum();
    assert!(left > right, "an L leans to the left");
}

#[test]
fn lines_wrap_and_the_one_after_the_latest_is_blank() {
    let mut canvas = canvas(16, 48);
    let mut screen = Screen::new(&mut canvas, 16, 48).unwrap();
    screen.write(b"abc\r\nd");
    assert!(has_ink(&canvas, 0, 1) && has_ink(&canvas, 0, 2));
    assert!(!has_ink(&canvas, 0, 0), "the first line is the next");
}

#[test]
fn escape_sequences_are_not_shown() {
    let mut canvas = canvas(80, 32);
    Screen::new(&mut canvas, 80, 32).unwrap().write(b"\x1b[1;31mX\x1b[0m");
    assert!(has_ink(&canvas, 0, 0) && (1..10).all(|column| !has_ink(&canvas, column, 0)));
}

#[test]
fn a_screen_too_small_for_a_glyph_is_none() {
    let mut canvas = canvas(8, 8);
    assert!(Screen::new(&mut canvas, 7, 100).is_none());
    assert!(Screen::new(&mut canvas, 100, 15).is_none());
}

#[test]
fn a_ring_keeps_the_latest() {
    let mut ring = Ring::<4>::new();
    b"abcdef".iter().for_each(|&byte| ring.push(byte));
    assert_eq!(ring.bytes().collect::<Vec<u8>>(), b"cdef");
    assert!(!ring.try_push(b'g'));
    assert_eq!(ring.pop(), Some(b'c'));
    assert!(ring.try_push(b'g'));
}
