//! The user's terminal as the machine's console: raw, so that every key reaches the guest, but for the one that quits.

use std::io::{IsTerminal as _, Read as _, Write as _, stdin, stdout};
use std::sync::mpsc::{Receiver, TryRecvError, channel};
use std::sync::{Mutex, PoisonError};
use std::thread;

use rustix::termios::{OptionalActions, Termios, tcgetattr, tcsetattr};

use crate::explain::Explain as _;

/// Ctrl-]: telnet's key, which shells and editors leave alone.
const QUIT: u8 = 0x1d;
/// As it is shown.
pub(crate) const QUIT_NAME: &str = "Ctrl-]";

/// The terminal's settings before it became raw, for whoever ends the process.
static SAVED: Mutex<Option<Termios>> = Mutex::new(None);

/// Keys on their way to the machine. The terminal is as before when the value is dropped.
pub(crate) struct Keyboard {
    keys: Receiver<Vec<u8>>,
    is_open: bool,
}

impl Keyboard {
    /// Makes the terminal raw, where the input is one, and starts to read.
    ///
    /// # Errors
    /// The terminal does not allow it.
    pub(crate) fn open() -> Result<Self, String> {
        if stdin().is_terminal() {
            let settings = tcgetattr(stdin()).explain(|| "cannot read the terminal's settings")?;
            let mut raw = settings.clone();
            raw.make_raw();
            *SAVED.lock().unwrap_or_else(PoisonError::into_inner) = Some(settings);
            tcsetattr(stdin(), OptionalActions::Now, &raw)
                .explain(|| "cannot make the terminal raw")?;
        }
        let (sender, keys) = channel();
        // Nothing ends this thread but the end of the input or of the process.
        thread::spawn(move || {
            let mut buffer = [0; 256];
            while let Ok(count @ 1..) = stdin().read(&mut buffer) {
                if sender.send(buffer[..count].to_vec()).is_err() {
                    break;
                }
            }
        });
        Ok(Self { keys, is_open: true })
    }

    /// The keys since the last call; `None` once the quitting key was among them.
    pub(crate) fn keys(&mut self) -> Option<Vec<u8>> {
        let mut keys = Vec::new();
        while self.is_open {
            match self.keys.try_recv() {
                Ok(more) => keys.extend(more),
                Err(TryRecvError::Empty) => break,
                // The end of piped input is not the end of the machine.
                Err(TryRecvError::Disconnected) => self.is_open = false,
            }
        }
        if keys.contains(&QUIT) { None } else { Some(keys) }
    }
}

impl Drop for Keyboard {
    fn drop(&mut self) {
        restore();
    }
}

/// Puts the terminal's settings back, if they were changed.
pub(crate) fn restore() {
    if let Some(settings) = SAVED.lock().unwrap_or_else(PoisonError::into_inner).take() {
        let _ = tcsetattr(stdin(), OptionalActions::Drain, &settings);
        // Whatever the guest left: plain letters, a visible cursor, a line of its own.
        let _ = stdout().write_all(b"\x1b[0m\x1b[?25h\r\n").and_then(|()| stdout().flush());
    }
}

/// Keeps the firmware from clearing the screen: its escape sequences are left out until Kerf's boot application speaks.
#[derive(Default)]
pub(crate) struct FirmwareFilter {
    state: FilterState,
    matched: usize,
}

#[derive(Default, PartialEq)]
enum FilterState {
    #[default]
    Text,
    Escape,
    Sequence,
    Open,
}

impl FirmwareFilter {
    /// The first words of the boot application.
    const BOOT: &[u8] = b"kerf-boot";

    /// What of `bytes` is to be shown.
    pub(crate) fn pass(&mut self, bytes: &[u8]) -> Vec<u8> {
        bytes.iter().copied().filter(|byte| self.shows(*byte)).collect()
    }

    fn shows(&mut self, byte: u8) -> bool {
        match self.state {
            FilterState::Open => return true,
            FilterState::Text if byte == 0x1b => self.state = FilterState::Escape,
            FilterState::Text => {
                self.matched = match (byte == Self::BOOT[self.matched], byte == Self::BOOT[0]) {
                    (true, _) => self.matched + 1,
                    (false, restarts) => usize::from(restarts),
                };
                if self.matched == Self::BOOT.len() {
                    self.state = FilterState::Open;
                }
                return true;
            }
            FilterState::Escape if byte == b'[' => self.state = FilterState::Sequence,
            FilterState::Escape => self.state = FilterState::Text,
            // A control sequence ends with a byte of this range (ECMA-48, 5.4).
            FilterState::Sequence if (0x40..=0x7e).contains(&byte) => {
                self.state = FilterState::Text
            }
            FilterState::Sequence => {}
        }
        false
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_firmware_cannot_clear_the_screen_and_the_guest_can() {
        let mut filter = FirmwareFilter::default();
        let mut shown = Vec::new();
        for part in ["\x1b[2J\x1b[01;0", "1H\x1b[=3hBdsDxe: kerkerf-b", "oot: loading\r\n\x1b[2J$ "]
        {
            shown.extend(filter.pass(part.as_bytes()));
        }
        assert_eq!(String::from_utf8(shown).unwrap(), "BdsDxe: kerkerf-boot: loading\r\n\x1b[2J$ ");
    }
}
