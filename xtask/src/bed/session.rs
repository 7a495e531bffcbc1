//! A running emulator: its console in both directions, its debug port, its log. It ends with the value.

use std::collections::VecDeque;
use std::io::{BufRead as _, BufReader, Read, Write};
use std::os::fd::AsFd;
use std::path::PathBuf;
use std::process::{Child, ExitStatus};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use memchr::memmem::Finder;

use crate::bed::probe::Probe;
use crate::cache::Scratch;
use crate::explain::Explain as _;
use crate::process;

/// Lines of the log that are kept for messages.
const TAIL: usize = 12;

/// Bytes of a log that may wait to be read; the most that an unprivileged process may ask for.
const PIPE: usize = 1 << 20;

/// Makes room for a log that is read in batches.
pub(crate) fn widen(pipe: impl AsFd) {
    // A smaller pipe only makes the emulator wait more often.
    let _ = rustix::pipe::fcntl_setpipe_size(pipe, PIPE);
}

/// Something the machine did.
#[derive(Debug)]
pub(crate) enum Event {
    /// Bytes on the serial console.
    Console(Vec<u8>),
    /// Bytes on the debug port.
    Debug(Vec<u8>),
    /// The log says that the machine will never go on.
    Hung(String),
}

/// What a bed's log means.
#[derive(Clone, Copy)]
pub(crate) struct LogRules {
    /// In a line for each VM entry.
    pub(crate) entry: Option<&'static str>,
    /// In a line that says the machine hangs.
    pub(crate) hung: Option<&'static str>,
    /// In lines that are of no interest in a message.
    pub(crate) noise: &'static [&'static str],
}

/// The streams of a machine.
pub(crate) struct Streams {
    pub(crate) input: Box<dyn Write + Send>,
    pub(crate) console: Box<dyn Read + Send>,
    pub(crate) debug: DebugPort,
    pub(crate) log: Box<dyn Read + Send>,
}

/// Where a machine's debug port goes.
pub(crate) enum DebugPort {
    Stream(Box<dyn Read + Send>),
    /// A file that is read at the end.
    File(PathBuf),
}

/// A running machine.
pub(crate) struct Session {
    child: Child,
    input: Sender<Vec<u8>>,
    events: Receiver<Event>,
    log: Arc<Log>,
    counts_entries: bool,
    debug_file: Option<PathBuf>,
    probe: Option<PathBuf>,
    _scratch: Scratch,
}

/// A stream that is read with a pause before each read.
struct Batched {
    stream: Box<dyn Read + Send>,
    pause: Option<Duration>,
}

impl Read for Batched {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        if let Some(pause) = self.pause {
            thread::sleep(pause);
        }
        self.stream.read(buffer)
    }
}

#[derive(Default)]
struct Log {
    entries: AtomicU64,
    tail: Mutex<VecDeque<String>>,
}

impl Session {
    /// Watches a started emulator. Its temporary files lie in `scratch`.
    pub(crate) fn new(
        child: Child,
        streams: Streams,
        rules: LogRules,
        scratch: Scratch,
        probe: Option<PathBuf>,
    ) -> Self {
        let mut debug_file = None;
        let (sender, events) = channel();
        let log = Arc::new(Log::default());
        forward(streams.console, sender.clone(), Event::Console);
        match streams.debug {
            DebugPort::Stream(stream) => forward(stream, sender.clone(), Event::Debug),
            DebugPort::File(file) => debug_file = Some(file),
        }
        let watched = Arc::clone(&log);
        thread::spawn(move || watched.watch(streams.log, rules, &sender));
        Self {
            child,
            input: feed(streams.input),
            events,
            log,
            counts_entries: rules.entry.is_some(),
            debug_file,
            probe,
            _scratch: scratch,
        }
    }

    /// The next event, or `None` when there was none until `deadline`; an error when there will never be another.
    pub(crate) fn next(&self, deadline: Instant) -> Result<Option<Event>, ()> {
        match self.events.recv_timeout(deadline.saturating_duration_since(Instant::now())) {
            Ok(event) => Ok(Some(event)),
            Err(RecvTimeoutError::Timeout) => Ok(None),
            Err(RecvTimeoutError::Disconnected) => Err(()),
        }
    }

    /// Types on the console. A machine that has ended takes nothing, which shows elsewhere.
    pub(crate) fn type_in(&mut self, bytes: Vec<u8>) {
        let _ = self.input.send(bytes);
    }

    /// The emulator's own exit status, waited for until `deadline`; after that it is ended.
    pub(crate) fn end(&mut self, deadline: Instant) -> Option<ExitStatus> {
        process::wait(&mut self.child, deadline).ok()
    }

    /// A way to the machine's memory, where it was asked for.
    ///
    /// # Errors
    /// It was not, or the emulator does not answer.
    pub(crate) fn probe(&self) -> Result<Probe, String> {
        Probe::open(self.probe.as_deref().explain(|| "the machine has no probe")?)
    }

    /// The emulator's status if it has ended.
    pub(crate) fn status(&mut self) -> Option<ExitStatus> {
        self.child.try_wait().ok().flatten()
    }

    /// VM entries that the emulator reported.
    pub(crate) fn entries(&self) -> Option<u64> {
        self.counts_entries.then(|| self.log.entries.load(Ordering::Relaxed))
    }

    /// What the debug port has printed into a file, where that is its way.
    pub(crate) fn debug_file(&self) -> Vec<u8> {
        self.debug_file.as_ref().and_then(|file| std::fs::read(file).ok()).unwrap_or_default()
    }

    /// The last lines of the emulator's log.
    pub(crate) fn log_tail(&self) -> String {
        let tail = self.log.tail.lock().unwrap_or_else(PoisonError::into_inner);
        tail.iter().map(String::as_str).collect::<Vec<_>>().join("\n")
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = process::wait(&mut self.child, Instant::now() + Duration::from_secs(5));
    }
}

/// Types by a thread of its own: a guest that reads slowly must not hold up who watches it.
fn feed(mut stream: Box<dyn Write + Send>) -> Sender<Vec<u8>> {
    let (sender, typed) = channel::<Vec<u8>>();
    thread::spawn(move || {
        for bytes in typed {
            if stream.write_all(&bytes).and_then(|()| stream.flush()).is_err() {
                break;
            }
        }
    });
    sender
}

fn forward(mut stream: Box<dyn Read + Send>, sender: Sender<Event>, event: fn(Vec<u8>) -> Event) {
    thread::spawn(move || {
        let mut buffer = [0; 4096];
        while let Ok(count @ 1..) = stream.read(&mut buffer) {
            if sender.send(event(buffer[..count].to_vec())).is_err() {
                break;
            }
        }
    });
}

impl Log {
    /// Reads the log to its end, keeping no more than its tail.
    ///
    /// Where entries are counted it may be a hundred thousand lines a second, each written by a system call of its own:
    /// then it is read in batches, so that not each of them wakes this thread.
    fn watch(&self, stream: Box<dyn Read + Send>, rules: LogRules, sender: &Sender<Event>) {
        let pause = rules.entry.map(|_| Duration::from_millis(5));
        let mut stream = BufReader::with_capacity(PIPE, Batched { stream, pause });
        let mut line = Vec::new();
        let find = |part: &'static str| Finder::new(part.as_bytes());
        let (entry, hung) = (rules.entry.map(find), rules.hung.map(find));
        let noise: Vec<Finder<'_>> = rules.noise.iter().copied().map(find).collect();
        let has = |line: &[u8], part: &Option<Finder<'_>>| {
            part.as_ref().is_some_and(|part| part.find(line).is_some())
        };
        while let Ok(1..) = stream.read_until(b'\n', &mut line) {
            if has(&line, &entry) {
                self.entries.fetch_add(1, Ordering::Relaxed);
            } else if noise.iter().all(|part| part.find(&line).is_none()) {
                let text = String::from_utf8_lossy(&line).trim_end().to_owned();
                if has(&line, &hung) {
                    let _ = sender.send(Event::Hung(text.clone()));
                }
                self.keep(text);
            }
            line.clear();
        }
    }

    fn keep(&self, line: String) {
        let mut tail = self.tail.lock().unwrap_or_else(PoisonError::into_inner);
        if tail.len() == TAIL {
            tail.pop_front();
        }
        if !line.is_empty() {
            tail.push_back(line);
        }
    }
}
