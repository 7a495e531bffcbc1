//! Memory as the CPU sees it and as a device sees it that does not look into caches.

use std::cell::RefCell;
use std::collections::HashMap;
use std::rc::Rc;

use hw::{DeviceTables, Hpa, OutOfFrames, PAGE_SIZE, TableMemory};

/// Memory as a device reaches it.
pub trait DeviceMemory {
    /// The word at `hpa` (a multiple of 8): what caches hold if `snoop`, else what memory holds. `None` where there is none.
    fn read(&self, hpa: u64, snoop: bool) -> Option<u64>;
    /// Writes the word at `hpa`, past every cache.
    fn write(&mut self, hpa: u64, value: u64);
    /// What caches hold at `hpa`, whatever buffer is in between: the invalidation queue and what else is always snooped.
    fn read_current(&self, hpa: u64) -> Option<u64> {
        self.read(hpa, true)
    }
    /// The 512 words of the page at `hpa`, as [`DeviceMemory::read_current`] reads them; zeros where there is none.
    fn page(&self, hpa: u64) -> Box<[u64; 512]> {
        Box::new(std::array::from_fn(|n| self.read_current(hpa + 8 * n as u64).unwrap_or_default()))
    }
    /// What of the CPU's doings is new since `*seen`, which moves on. A bed that cannot tell gives none.
    fn changes(&self, seen: &mut usize) -> Vec<Change> {
        let _ = seen;
        Vec::new()
    }
    /// Makes buffered writes visible: what a write-buffer flush does.
    fn flush_write_buffer(&mut self) {}
}

/// Something that the CPU did to memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Change {
    /// It stored a word.
    Stored {
        /// Where.
        hpa: u64,
        /// The eight words of its line before.
        line: [u64; 8],
        /// What.
        value: u64,
        /// Whether it is half of a 16-byte store.
        paired: bool,
    },
    /// It gave frames back.
    Freed {
        /// The first.
        hpa: u64,
        /// How many.
        frames: u64,
    },
}

/// Memory for host tests; clones are the same memory. Frames are never given out twice, so a use after free is seen.
#[derive(Clone)]
pub struct SplitMemory(Rc<RefCell<Inner>>);

struct Inner {
    next: u64,
    left: Option<u64>,
    live: HashMap<u64, u64>,
    frames: HashMap<u64, Box<Frame>>,
    coherent: bool,
    buffered: Option<Vec<(u64, u64)>>,
    log: Vec<Change>,
}

/// A frame as it is seen from two sides.
struct Frame {
    live: bool,
    cpu: [u64; 512],
    memory: [u64; 512],
}

/// What frames hold before anybody has written to them: present entries all over, if a device were to read them.
const STALE: u64 = 0x0055_5555_5555_5fff;

impl SplitMemory {
    /// Empty memory. If `coherent`, devices see what the CPU stores at once; else only what was written back. If
    /// `buffered`, what they would see stays in a buffer until that is flushed.
    #[must_use]
    pub fn new(coherent: bool, buffered: bool) -> Self {
        Self(Rc::new(RefCell::new(Inner {
            next: 0x1_0000_0000,
            left: None,
            live: HashMap::new(),
            frames: HashMap::new(),
            coherent,
            buffered: buffered.then(Vec::new),
            log: Vec::new(),
        })))
    }

    /// Frames that are not given back.
    #[must_use]
    pub fn live_frames(&self) -> u64 {
        self.0.borrow().live.values().sum()
    }

    /// How many more frames there are; `None` for as many as are wanted.
    pub fn limit(&self, left: Option<u64>) {
        self.0.borrow_mut().left = left;
    }

    /// Frames for data, whose words hold their own address.
    ///
    /// # Panics
    /// Where no frames are left.
    #[must_use]
    pub fn data(&self, frames: u64) -> Hpa {
        let run = self.clone().alloc_run(frames.next_power_of_two()).expect("frames for data");
        for hpa in (run.raw()..run.raw() + frames * PAGE_SIZE).step_by(8) {
            self.clone().write(hpa, hpa);
        }
        run
    }

    /// What the CPU sees at `hpa`.
    #[must_use]
    pub fn peek(&self, hpa: Hpa) -> u64 {
        self.read_current(hpa.raw()).unwrap_or_default()
    }
}

/// The word of a frame that holds the byte at `hpa`.
const fn word(hpa: u64) -> usize {
    (hpa % PAGE_SIZE / 8) as usize
}

impl Inner {
    fn frame(&self, hpa: u64) -> Option<&Frame> {
        self.frames.get(&(hpa & !(PAGE_SIZE - 1))).map(|frame| &**frame)
    }

    fn frame_mut(&mut self, hpa: u64) -> Option<&mut Frame> {
        self.frames.get_mut(&(hpa & !(PAGE_SIZE - 1))).map(|frame| &mut **frame)
    }

    fn store(&mut self, hpa: u64, value: u64, paired: bool) {
        let frame =
            self.frame_mut(hpa).filter(|frame| frame.live).expect("a store to a table in use");
        let first = word(hpa & !63);
        let line = std::array::from_fn(|n| frame.cpu[first + n]);
        frame.cpu[word(hpa)] = value;
        self.log.push(Change::Stored { hpa, line, value, paired });
        if self.coherent {
            self.reach_memory(hpa, value);
        }
    }

    fn reach_memory(&mut self, hpa: u64, value: u64) {
        match &mut self.buffered {
            Some(buffer) => buffer.push((hpa, value)),
            None => self.settle(hpa, value),
        }
    }

    fn settle(&mut self, hpa: u64, value: u64) {
        if let Some(frame) = self.frame_mut(hpa).filter(|frame| frame.live) {
            frame.memory[word(hpa)] = value;
        }
    }
}

fn at(table: Hpa, index: usize) -> u64 {
    table.raw() + 8 * index as u64
}

impl TableMemory for SplitMemory {
    fn alloc(&mut self) -> Result<Hpa, OutOfFrames> {
        self.alloc_run(1)
    }

    fn free(&mut self, table: Hpa) {
        self.free_run(table, 1);
    }

    fn load(&self, table: Hpa, index: usize) -> u64 {
        let (inner, hpa) = (self.0.borrow(), at(table, index));
        inner.frame(hpa).filter(|frame| frame.live).expect("a load from a table in use").cpu
            [word(hpa)]
    }

    fn store(&mut self, table: Hpa, index: usize, entry: u64) {
        self.0.borrow_mut().store(at(table, index), entry, false);
    }
}

impl DeviceTables for SplitMemory {
    fn alloc_run(&mut self, frames: u64) -> Result<Hpa, OutOfFrames> {
        let mut inner = self.0.borrow_mut();
        if let Some(left) = &mut inner.left {
            *left = left.checked_sub(frames).ok_or(OutOfFrames)?;
        }
        let run = inner.next.next_multiple_of(frames * PAGE_SIZE);
        inner.next = run + frames * PAGE_SIZE;
        inner.live.insert(run, frames);
        let seen = if inner.coherent { 0 } else { STALE };
        for hpa in (run..run + frames * PAGE_SIZE).step_by(PAGE_SIZE as usize) {
            let frame = Frame { live: true, cpu: [0; 512], memory: [seen; 512] };
            inner.frames.insert(hpa, Box::new(frame));
        }
        Ok(Hpa::new(run))
    }

    fn free_run(&mut self, run: Hpa, frames: u64) {
        let mut inner = self.0.borrow_mut();
        assert_eq!(inner.live.remove(&run.raw()), Some(frames), "freed what is not live: {run}");
        inner.log.push(Change::Freed { hpa: run.raw(), frames });
        for hpa in (run.raw()..run.raw() + frames * PAGE_SIZE).step_by(PAGE_SIZE as usize) {
            if let Some(frame) = inner.frame_mut(hpa) {
                *frame = Frame { live: false, cpu: [STALE; 512], memory: [STALE; 512] };
            }
        }
    }

    fn store_pair(&mut self, table: Hpa, index: usize, pair: [u64; 2]) {
        assert!(index.is_multiple_of(2), "a pair must be aligned");
        let mut inner = self.0.borrow_mut();
        for (n, value) in pair.into_iter().enumerate() {
            inner.store(at(table, index + n), value, true);
        }
    }

    fn write_back(&mut self, table: Hpa, index: usize, count: usize) {
        let mut inner = self.0.borrow_mut();
        if inner.coherent {
            return;
        }
        let (first, end) = (at(table, index) & !63, at(table, index + count).next_multiple_of(64));
        for hpa in (first..end).step_by(8) {
            if let Some(value) = inner.frame(hpa).map(|frame| frame.cpu[word(hpa)]) {
                inner.reach_memory(hpa, value);
            }
        }
    }
}

impl DeviceMemory for SplitMemory {
    fn read(&self, hpa: u64, snoop: bool) -> Option<u64> {
        let inner = self.0.borrow();
        let frame = inner.frame(hpa)?;
        let view = if snoop && !inner.coherent { &frame.cpu } else { &frame.memory };
        Some(view[word(hpa)])
    }

    fn read_current(&self, hpa: u64) -> Option<u64> {
        self.0.borrow().frame(hpa).map(|frame| frame.cpu[word(hpa)])
    }

    fn page(&self, hpa: u64) -> Box<[u64; 512]> {
        Box::new(self.0.borrow().frame(hpa).map_or([0; 512], |frame| frame.cpu))
    }

    fn write(&mut self, hpa: u64, value: u64) {
        if let Some(frame) = self.0.borrow_mut().frame_mut(hpa) {
            frame.cpu[word(hpa)] = value;
            frame.memory[word(hpa)] = value;
        }
    }

    fn changes(&self, seen: &mut usize) -> Vec<Change> {
        let inner = self.0.borrow();
        let new = inner.log[*seen..].to_vec();
        *seen = inner.log.len();
        new
    }

    fn flush_write_buffer(&mut self) {
        let mut inner = self.0.borrow_mut();
        let waiting = inner.buffered.as_mut().map(std::mem::take).unwrap_or_default();
        for (hpa, value) in waiting {
            inner.settle(hpa, value);
        }
    }
}
