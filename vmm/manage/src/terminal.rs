//! Whose the one serial line is.
//!
//! One guest or the monitor has the focus: it gets what is typed, and what the guest prints goes out as it is. The switch
//! key gives the focus on, guest after guest, then the monitor, then the first guest again. What the others print
//! is shown by whole lines that name them, or kept until they get the focus.
//!
//! A line of another guest waits while the focused one is in the middle of its own, but not for long: a shell's prompt
//! stays open for ever. Time is whatever the caller counts. Nothing is allocated while guests print.

use alloc::{collections::VecDeque, string::String, vec::Vec};

use crate::{Key, LineEditor};

/// Ctrl-\: gives the focus on.
pub const SWITCH_KEY: u8 = 0x1c;
/// What the monitor shows where it waits for a line.
const PROMPT: &[u8] = b"kerf> ";
/// Takes the terminal's current line away.
const ERASE: &[u8] = b"\r\x1b[K";

/// Bytes of a line of a guest in the background, at most: a longer one is shown in pieces.
const LINE_BYTES: usize = 512;
/// Bytes kept of a guest in the background: two screens.
const KEPT_BYTES: usize = 4096;

/// Who has the terminal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Focus {
    /// A guest, by its place in the configuration.
    Guest(usize),
    /// The monitor.
    Monitor,
}

/// What becomes of what guests without the focus print.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Background {
    /// Shown by whole lines, each with the guest's name before it.
    #[default]
    Show,
    /// The latest of it is kept, and shown when the guest gets the focus.
    Keep,
}

/// What a typed byte meant.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Input {
    /// Nothing more is to be done.
    None,
    /// It is that guest's.
    Guest(usize),
    /// The monitor has a line: to be answered by [`Terminal::answer`].
    Line(String),
}

/// The terminal.
#[derive(Clone, Debug)]
pub struct Terminal {
    guests: Vec<Guest>,
    focus: Focus,
    background: Background,
    editor: LineEditor,
    /// What the focused guest printed last ended no line.
    mid_line: bool,
    /// When it printed last.
    spoke: u64,
    /// How long others wait for the end of its line.
    patience: u64,
    /// Their whole lines, ready to be shown.
    waiting: Vec<u8>,
}

#[derive(Clone, Debug)]
struct Guest {
    name: String,
    /// Of its current line, while it is in the background.
    line: Vec<u8>,
    kept: VecDeque<u8>,
}

impl Terminal {
    /// The first guest has the focus; without any, the monitor.
    pub fn new<'a>(
        names: impl IntoIterator<Item = &'a str>,
        background: Background,
        patience: u64,
    ) -> Self {
        let kept = if background == Background::Keep { KEPT_BYTES } else { 0 };
        let guest = |name: &str| Guest {
            name: name.into(),
            line: Vec::with_capacity(LINE_BYTES),
            kept: VecDeque::with_capacity(kept),
        };
        let guests: Vec<Guest> = names.into_iter().map(guest).collect();
        Self {
            focus: if guests.is_empty() { Focus::Monitor } else { Focus::Guest(0) },
            guests,
            background,
            editor: LineEditor::default(),
            mid_line: false,
            spoke: 0,
            patience,
            waiting: Vec::with_capacity(2 * KEPT_BYTES),
        }
    }

    /// Who has the terminal.
    #[must_use]
    pub const fn focus(&self) -> Focus {
        self.focus
    }

    /// Gives a guest the terminal before anything was shown.
    pub const fn start_with(&mut self, index: usize) {
        self.focus = Focus::Guest(index);
    }

    /// Takes a typed byte.
    pub fn key(&mut self, byte: u8, out: &mut dyn FnMut(&[u8])) -> Input {
        if byte == SWITCH_KEY {
            self.switch(out);
            return Input::None;
        }
        match self.focus {
            Focus::Guest(index) => Input::Guest(index),
            Focus::Monitor => match self.editor.key(byte, out) {
                Key::Line(line) => Input::Line(line),
                Key::Echoed => Input::None,
            },
        }
    }

    /// Shows the monitor's answer to a line, and the prompt for the next.
    pub fn answer(&mut self, text: &str, out: &mut dyn FnMut(&[u8])) {
        for line in text.lines() {
            out(line.as_bytes());
            out(b"\r\n");
        }
        if self.focus == Focus::Monitor {
            self.prompt(out);
        }
    }

    /// Takes what a guest printed.
    pub fn print(&mut self, index: usize, bytes: &[u8], now: u64, out: &mut dyn FnMut(&[u8])) {
        if self.focus == Focus::Guest(index) {
            let Some(last) = bytes.last() else { return };
            if !self.mid_line {
                self.show_waiting(out);
            }
            out(bytes);
            self.mid_line = *last != b'\n';
            self.spoke = now;
            return;
        }
        let Some(guest) = self.guests.get_mut(index) else { return };
        match self.background {
            Background::Keep => {
                for &byte in bytes {
                    if guest.kept.len() >= KEPT_BYTES {
                        guest.kept.pop_front();
                    }
                    guest.kept.push_back(byte);
                }
            }
            Background::Show => {
                for &byte in bytes {
                    match byte {
                        b'\r' => {}
                        b'\n' => self.end_line(index, out),
                        _ => self.add(index, byte, out),
                    }
                }
                self.poll(now, out);
            }
        }
    }

    /// Shows what waits, where it waited long enough or need not wait.
    pub fn poll(&mut self, now: u64, out: &mut dyn FnMut(&[u8])) {
        let is_open = self.mid_line && self.focus != Focus::Monitor;
        if !is_open || self.due().is_some_and(|due| now >= due) {
            self.show_waiting(out);
        }
    }

    /// When [`Terminal::poll`] has something to do.
    #[must_use]
    pub fn due(&self) -> Option<u64> {
        (!self.waiting.is_empty()).then(|| self.spoke.saturating_add(self.patience))
    }

    /// Shows all that waits, and the line that a guest that has ended left open.
    pub fn ended(&mut self, index: usize, out: &mut dyn FnMut(&[u8])) {
        if self.guests.get(index).is_some_and(|guest| !guest.line.is_empty()) {
            self.end_line(index, out);
        }
        self.show_waiting(out);
    }

    fn add(&mut self, index: usize, byte: u8, out: &mut dyn FnMut(&[u8])) {
        let Some(guest) = self.guests.get_mut(index) else { return };
        guest.line.push(byte);
        if guest.line.len() >= LINE_BYTES {
            self.end_line(index, out);
        }
    }

    /// The guest's line is complete: it waits to be shown.
    fn end_line(&mut self, index: usize, out: &mut dyn FnMut(&[u8])) {
        let Some(guest) = self.guests.get(index) else { return };
        if self.waiting.len() + guest.name.len() + guest.line.len() + 5 > self.waiting.capacity() {
            self.show_waiting(out);
        }
        let Some(guest) = self.guests.get_mut(index) else { return };
        for part in [b"[", guest.name.as_bytes(), b"] ", &guest.line, b"\r\n"] {
            self.waiting.extend_from_slice(part);
        }
        guest.line.clear();
    }

    fn show_waiting(&mut self, out: &mut dyn FnMut(&[u8])) {
        if self.waiting.is_empty() {
            return;
        }
        if self.focus == Focus::Monitor {
            out(ERASE);
        } else if self.mid_line {
            out(b"\r\n");
        }
        out(&self.waiting);
        self.waiting.clear();
        self.mid_line = false;
        if self.focus == Focus::Monitor {
            self.prompt(out);
        }
    }

    fn switch(&mut self, out: &mut dyn FnMut(&[u8])) {
        self.show_waiting(out);
        if self.mid_line || self.focus == Focus::Monitor {
            out(b"\r\n");
        }
        self.mid_line = false;
        self.focus = match self.focus {
            Focus::Guest(index) if index + 1 < self.guests.len() => Focus::Guest(index + 1),
            Focus::Monitor if !self.guests.is_empty() => Focus::Guest(0),
            _ => Focus::Monitor,
        };
        let Focus::Guest(index) = self.focus else {
            out(b"kerf: the terminal is the monitor's; Ctrl-\\ switches, help helps\r\n");
            self.prompt(out);
            return;
        };
        let Some(guest) = self.guests.get_mut(index) else { return };
        for part in [b"kerf: the terminal is ", guest.name.as_bytes(), b"'s; Ctrl-\\ switches\r\n"]
        {
            out(part);
        }
        let (one, other) = guest.kept.as_slices();
        let parts = [one, other, &guest.line];
        parts.iter().for_each(|part| out(part));
        self.mid_line =
            parts.iter().rev().find_map(|part| part.last()).is_some_and(|&last| last != b'\n');
        guest.kept.clear();
        guest.line.clear();
    }

    fn prompt(&self, out: &mut dyn FnMut(&[u8])) {
        out(PROMPT);
        out(self.editor.line().as_bytes());
    }
}

#[cfg(test)]
mod tests {
    use core::mem;

    use super::*;

    /// A terminal and all it showed.
    struct Shown {
        terminal: Terminal,
        text: Vec<u8>,
    }

    impl Shown {
        fn new(names: &[&str], background: Background) -> Self {
            let terminal = Terminal::new(names.iter().copied(), background, 10);
            Self { terminal, text: Vec::new() }
        }

        fn print(&mut self, index: usize, text: &str, now: u64) {
            let mut out = |bytes: &[u8]| self.text.extend(bytes);
            self.terminal.print(index, text.as_bytes(), now, &mut out);
        }

        fn poll(&mut self, now: u64) {
            self.terminal.poll(now, &mut |bytes| self.text.extend(bytes));
        }

        fn keys(&mut self, keys: &[u8]) -> Vec<Input> {
            let mut out = |bytes: &[u8]| self.text.extend(bytes);
            keys.iter().map(|&byte| self.terminal.key(byte, &mut out)).collect()
        }

        fn take(&mut self) -> String {
            String::from_utf8(mem::take(&mut self.text)).unwrap()
        }
    }

    #[test]
    fn the_focused_guest_prints_as_it_likes_and_gets_what_is_typed() {
        let mut shown = Shown::new(&["a", "b"], Background::Show);
        shown.print(0, "half \x1b[1m", 0);
        shown.print(0, "a line\r\n", 0);
        assert_eq!(shown.take(), "half \x1b[1ma line\r\n");
        assert_eq!(shown.keys(b"x\r"), [Input::Guest(0), Input::Guest(0)]);
    }

    #[test]
    fn the_switch_key_goes_round_guests_and_monitor() {
        let mut shown = Shown::new(&["a", "b"], Background::Show);
        let mut seen = Vec::new();
        for _ in 0..4 {
            seen.push(shown.terminal.focus());
            assert_eq!(shown.keys(&[SWITCH_KEY]), [Input::None]);
        }
        assert_eq!(seen, [Focus::Guest(0), Focus::Guest(1), Focus::Monitor, Focus::Guest(0)]);
        assert_eq!(shown.keys(b"x"), [Input::Guest(1)]);
        let mut alone = Shown::new(&["a"], Background::Show);
        alone.keys(&[SWITCH_KEY]);
        assert_eq!(alone.terminal.focus(), Focus::Monitor);
        assert!(alone.take().ends_with("helps\r\nkerf> "));
    }

    #[test]
    fn others_show_whole_lines_with_their_names() {
        let mut shown = Shown::new(&["a", "b"], Background::Show);
        shown.print(1, "one\r\ntw", 0);
        assert_eq!(shown.take(), "[b] one\r\n");
        shown.print(1, "o\n", 0);
        assert_eq!(shown.take(), "[b] two\r\n");
    }

    #[test]
    fn an_open_line_of_the_focused_guest_is_waited_for_but_not_for_ever() {
        let mut shown = Shown::new(&["a", "b"], Background::Show);
        shown.print(0, "half", 100);
        shown.print(1, "one\n", 105);
        assert_eq!((shown.take().as_str(), shown.terminal.due()), ("half", Some(110)));
        shown.print(0, " line\n", 106);
        shown.print(0, "next\n", 107);
        assert_eq!(shown.take(), " line\n[b] one\r\nnext\n");
        shown.print(0, "$ ", 200);
        shown.print(1, "two\n", 201);
        shown.poll(209);
        assert_eq!(shown.take(), "$ ");
        shown.poll(210);
        assert_eq!((shown.take().as_str(), shown.terminal.due()), ("\r\n[b] two\r\n", None));
    }

    #[test]
    fn kept_output_is_bounded_and_shown_with_the_focus() {
        let mut shown = Shown::new(&["a", "b"], Background::Keep);
        shown.print(1, &"y".repeat(KEPT_BYTES), 0);
        shown.print(1, "end", 0);
        assert_eq!((shown.take().as_str(), shown.terminal.due()), ("", None));
        shown.keys(&[SWITCH_KEY]);
        let text = shown.take();
        assert!(text.ends_with("yend"), "{text}");
        assert_eq!(text.matches('y').count(), KEPT_BYTES - 3);
    }

    #[test]
    fn a_guest_that_gets_the_focus_goes_on_with_its_line() {
        let mut shown = Shown::new(&["a", "b"], Background::Show);
        shown.print(1, "login: ", 0);
        shown.keys(&[SWITCH_KEY]);
        assert!(shown.take().ends_with("switches\r\nlogin: "));
        shown.print(1, "root\r\n", 0);
        assert_eq!(shown.take(), "root\r\n");
    }

    #[test]
    fn the_monitors_line_survives_what_guests_print() {
        let mut shown = Shown::new(&["a"], Background::Show);
        shown.keys(&[SWITCH_KEY]);
        shown.take();
        shown.keys(b"vm");
        shown.print(0, "tick\n", 0);
        assert_eq!(shown.take(), "vm\r\x1b[K[a] tick\r\nkerf> vm");
        assert_eq!(shown.keys(b"s\r")[1], Input::Line("vms".into()));
        shown.take();
        shown.terminal.answer("a  b\nc\n", &mut |bytes| shown.text.extend(bytes));
        assert_eq!(shown.take(), "a  b\r\nc\r\nkerf> ");
    }

    #[test]
    fn what_an_ended_guest_left_open_is_shown() {
        let mut shown = Shown::new(&["a", "b"], Background::Show);
        shown.print(0, "$ ", 0);
        shown.print(1, "last words", 0);
        shown.terminal.ended(1, &mut |bytes| shown.text.extend(bytes));
        assert_eq!(shown.take(), "$ \r\n[b] last words\r\n");
    }

    #[test]
    fn a_flood_in_the_background_allocates_nothing() {
        let mut shown = Shown::new(&["a", "b"], Background::Show);
        shown.print(0, "open", 0);
        let room = (shown.terminal.waiting.capacity(), shown.terminal.guests[1].line.capacity());
        for _ in 0..100 {
            shown.print(1, &"z".repeat(700), 0);
            shown.print(1, "\n", 0);
        }
        let after = (shown.terminal.waiting.capacity(), shown.terminal.guests[1].line.capacity());
        assert_eq!(room, after);
        shown.poll(10);
        assert_eq!(shown.take().matches('z').count(), 100 * 700);
    }
}
