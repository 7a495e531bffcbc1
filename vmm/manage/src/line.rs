//! A line while it is typed.

use alloc::string::String;
use core::mem;

/// What a key did.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Key {
    /// Nothing is to be done but to show what the editor echoed.
    Echoed,
    /// The line is complete.
    Line(String),
}

/// Characters a line may have: one row of a terminal, with room for the prompt.
const MOST: usize = 72;

/// Takes keys, echoes them, gives lines: backspace, Ctrl-U (all of it away), Ctrl-C (no line at all). Escape sequences
/// of arrows and the like are swallowed.
#[derive(Clone, Debug, Default)]
pub struct LineEditor {
    line: String,
    escape: Escape,
    /// The last key was CR: an LF after it belongs to it.
    after_cr: bool,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Escape {
    #[default]
    None,
    Begun,
    /// Until a byte that ends a control sequence.
    Sequence,
}

impl LineEditor {
    /// Takes a byte; `echo` gets what the terminal is to show.
    pub fn key(&mut self, byte: u8, echo: &mut dyn FnMut(&[u8])) -> Key {
        let after_cr = mem::replace(&mut self.after_cr, byte == b'\r');
        match (self.escape, byte) {
            (_, 0x1b) => self.escape = Escape::Begun,
            (Escape::Begun, b'[' | b'O') => self.escape = Escape::Sequence,
            (Escape::Begun, _) | (Escape::Sequence, 0x40..=0x7e) => self.escape = Escape::None,
            (Escape::Sequence, _) => {}
            (Escape::None, b'\n') if after_cr => {}
            (Escape::None, b'\r' | b'\n') => {
                echo(b"\r\n");
                return Key::Line(mem::take(&mut self.line));
            }
            (Escape::None, 0x03) => {
                echo(b"^C\r\n");
                self.line.clear();
                return Key::Line(String::new());
            }
            (Escape::None, 0x08 | 0x7f) => {
                if self.line.pop().is_some() {
                    echo(b"\x08 \x08");
                }
            }
            (Escape::None, 0x15) => {
                self.line.drain(..).for_each(|_| echo(b"\x08 \x08"));
            }
            (Escape::None, 0x20..=0x7e) if self.line.len() < MOST => {
                self.line.push(byte.into());
                echo(&[byte]);
            }
            // No room, or no meaning.
            (Escape::None, _) => echo(b"\x07"),
        }
        Key::Echoed
    }

    /// What was typed of the line so far.
    #[must_use]
    pub fn line(&self) -> &str {
        &self.line
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The lines that `keys` make, and what was echoed.
    fn typed(keys: &[u8]) -> (Vec<String>, String) {
        let (mut editor, mut echoed) = (LineEditor::default(), Vec::new());
        let mut lines = Vec::new();
        for &byte in keys {
            if let Key::Line(line) = editor.key(byte, &mut |bytes| echoed.extend(bytes)) {
                lines.push(line);
            }
        }
        (lines, String::from_utf8(echoed).unwrap())
    }

    #[test]
    fn keys_are_echoed_and_enter_gives_the_line() {
        assert_eq!(typed(b"vms\r"), (vec!["vms".into()], "vms\r\n".into()));
        assert_eq!(typed(b"a\r\nb\n\n").0, ["a", "b", ""]);
    }

    #[test]
    fn backspace_and_ctrl_u_take_away_what_is_there_and_no_more() {
        assert_eq!(typed(b"\x7fvmz\x7fs\x08\x08\x08\x08x\r").0, ["x"]);
        assert_eq!(typed(b"ab\x15c\r"), (vec!["c".into()], "ab\x08 \x08\x08 \x08c\r\n".into()));
        assert_eq!(typed(b"ab\x03c\r").0, ["", "c"]);
    }

    #[test]
    fn escape_sequences_leave_nothing_behind() {
        assert_eq!(typed(b"a\x1b[A\x1bOB\x1b[1;5Cb\r"), (vec!["ab".into()], "ab\r\n".into()));
    }

    #[test]
    fn a_line_without_end_stays_bounded() {
        let (lines, echoed) = typed(&[[b'x'; 500].as_slice(), b"\r"].concat());
        assert_eq!(lines[0].len(), MOST);
        assert_eq!(echoed.matches('\x07').count(), 500 - MOST);
    }
}
