//! A way to a running machine's physical memory, as its CPUs see it: RAM, and registers, which take accesses for one of
//! theirs. QEMU offers it for its own tests.

use std::io::{BufRead as _, BufReader, Write as _};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use crate::explain::Explain as _;

/// How long the emulator may take to listen, and to answer.
const PATIENCE: Duration = Duration::from_secs(20);

/// The connection.
pub(crate) struct Probe(BufReader<UnixStream>);

impl Probe {
    pub(super) fn open(path: &Path) -> Result<Self, String> {
        let until = Instant::now() + PATIENCE;
        let stream = loop {
            match UnixStream::connect(path) {
                Ok(stream) => break stream,
                Err(error) if Instant::now() > until => {
                    return Err(format!("{}: {error}", path.display()));
                }
                Err(_) => thread::sleep(Duration::from_millis(50)),
            }
        };
        stream.set_read_timeout(Some(PATIENCE)).explain(|| "the probe has no deadline")?;
        Ok(Self(BufReader::new(stream)))
    }

    /// What the emulator answers to a command, after its `OK`.
    fn ask(&mut self, command: &str) -> Result<String, String> {
        let mut answer = String::new();
        let done =
            writeln!(self.0.get_mut(), "{command}").and_then(|()| self.0.read_line(&mut answer));
        done.explain(|| format!("no answer to {command:?}"))?;
        let answer = answer.trim_end().strip_prefix("OK").map(|rest| rest.trim_start().to_owned());
        answer.explain(|| format!("{command:?} is refused"))
    }

    /// Reads a register, or memory.
    pub(crate) fn read32(&mut self, hpa: u64) -> Result<u32, String> {
        self.number(&format!("readl {hpa:#x}")).map(|value| value as u32)
    }

    /// Likewise 64 bits.
    pub(crate) fn read64(&mut self, hpa: u64) -> Result<u64, String> {
        self.number(&format!("readq {hpa:#x}"))
    }

    fn number(&mut self, command: &str) -> Result<u64, String> {
        let answer = self.ask(command)?;
        let digits = answer.strip_prefix("0x").unwrap_or(&answer);
        u64::from_str_radix(digits, 16).explain(|| format!("{command:?} gives {answer:?}"))
    }

    /// Writes a register, or memory.
    pub(crate) fn write32(&mut self, hpa: u64, value: u32) -> Result<(), String> {
        self.ask(&format!("writel {hpa:#x} {value:#x}")).map(|_| ())
    }

    /// Likewise 64 bits.
    pub(crate) fn write64(&mut self, hpa: u64, value: u64) -> Result<(), String> {
        self.ask(&format!("writeq {hpa:#x} {value:#x}")).map(|_| ())
    }

    /// Quadwords of memory.
    pub(crate) fn words(&mut self, hpa: u64, count: usize) -> Result<Vec<u64>, String> {
        let answer = self.ask(&format!("read {hpa:#x} {:#x}", 8 * count))?;
        let digits = answer.strip_prefix("0x").unwrap_or(&answer).as_bytes();
        let word = |digits: &[u8]| {
            let text = std::str::from_utf8(digits).ok()?;
            Some(u64::from_str_radix(text, 16).ok()?.swap_bytes())
        };
        let words: Option<Vec<u64>> = digits.chunks(16).map(word).collect();
        words.filter(|words| words.len() == count).explain(|| format!("no memory at {hpa:#x}"))
    }
}
