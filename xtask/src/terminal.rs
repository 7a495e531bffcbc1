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
