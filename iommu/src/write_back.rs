//! Tables for units that do not look into the CPU's caches.

use hw::{DeviceTables, Hpa, OutOfFrames, TableMemory};

/// Entries in a cache line.
const LINE: usize = 8;

/// Table memory in which everything reaches memory in the order in which it was stored, line by line: when a line is
/// begun the one before has been written back, so an entry never points at what the unit does not see yet. Dropped,
/// all of it has.
pub(crate) struct WriteBack<'a, T: DeviceTables> {
    tables: &'a mut T,
    /// Whether the unit needs it at all.
    on: bool,
    dirty: Option<(Hpa, usize)>,
}

impl<'a, T: DeviceTables> WriteBack<'a, T> {
    pub(crate) fn new(tables: &'a mut T, coherent: bool) -> Self {
        Self { tables, on: !coherent, dirty: None }
    }

    /// A zeroed run that the unit sees as such.
    pub(crate) fn alloc_run(&mut self, frames: u64) -> Result<Hpa, OutOfFrames> {
        let run = self.tables.alloc_run(frames)?;
        if self.on {
            self.tables.write_back(run, 0, 512 * frames as usize);
        }
        Ok(run)
    }

    pub(crate) fn free_run(&mut self, run: Hpa, frames: u64) {
        self.settle();
        self.tables.free_run(run, frames);
    }

    /// Sets an entry of several words so that the unit sees all of it or nothing: the word with the present bit is the
    /// first when it goes and the last when it comes. Entries lie within a line, and lines reach memory as a whole.
    pub(crate) fn store_entry<const N: usize>(
        &mut self,
        table: Hpa,
        index: usize,
        words: [u64; N],
    ) {
        let first = index * N;
        for (offset, word) in words.iter().enumerate().skip(1).rev() {
            self.store(table, first + offset, *word);
        }
        if let Some(word) = words.first() {
            self.store(table, first, *word);
        }
    }

    fn settle(&mut self) {
        if let Some((table, line)) = self.dirty.take() {
            self.tables.write_back(table, line * LINE, LINE);
        }
    }

    fn touch(&mut self, table: Hpa, index: usize) {
        let line = (table, index / LINE);
        if self.on && self.dirty != Some(line) {
            self.settle();
            self.dirty = Some(line);
        }
    }
}

impl<T: DeviceTables> TableMemory for WriteBack<'_, T> {
    fn alloc(&mut self) -> Result<Hpa, OutOfFrames> {
        self.alloc_run(1)
    }

    fn free(&mut self, table: Hpa) {
        self.free_run(table, 1);
    }

    fn load(&self, table: Hpa, index: usize) -> u64 {
        self.tables.load(table, index)
    }

    fn store(&mut self, table: Hpa, index: usize, entry: u64) {
        self.touch(table, index);
        self.tables.store(table, index, entry);
    }
}

impl<T: DeviceTables> WriteBack<'_, T> {
    /// Sets two words at once.
    pub(crate) fn store_pair(&mut self, table: Hpa, index: usize, pair: [u64; 2]) {
        self.touch(table, index);
        self.tables.store_pair(table, index, pair);
    }
}

impl<T: DeviceTables> Drop for WriteBack<'_, T> {
    fn drop(&mut self) {
        self.settle();
    }
}
