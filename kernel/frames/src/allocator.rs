//! The frame allocator: a bitmap of two levels over the managed runs, and nothing at all over the holes between them.
//!
//! Layout of the words it is given: three words for each run (first frame, end, first word of its bits), then the
//! summary, then the bits. A bit is set where its frame is free; a summary bit is set where its word has any bit set.
//! The bits of a run start at a word boundary that stands for a multiple of 64 frames, so frame numbers and bit
//! numbers agree modulo 64.
//!
//! Single frames come from the bottom and blocks from the top, so that single frames do not break up blocks.

use hw::{Hpa, PAGE_SHIFT, PAGE_SIZE};

use crate::map::Run;

/// Words of one run's entry in the run table.
const RUN_WORDS: usize = 3;

/// Frames by number: how many there are, and how many of them are free.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Counts {
    /// All managed frames.
    pub total: u64,
    /// The free ones.
    pub free: u64,
}

/// Fewer words were given than [`FrameAllocator::words_needed`] says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TooFewWords {
    /// Words needed.
    pub needed: usize,
}

/// Why frames were not taken back. Nothing has changed then.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FreeError {
    /// The address is not a frame's.
    Unaligned(Hpa),
    /// Not every frame of the range is managed by this allocator, or not in one run.
    NotManaged(Hpa),
    /// This frame of the range is free already.
    AlreadyFree(Hpa),
}

/// Gives out frames of physical memory and takes them back.
#[derive(Debug)]
pub struct FrameAllocator {
    words: &'static mut [u64],
    run_count: usize,
    /// Index of the first summary word, and of the first word of bits.
    summary_at: usize,
    bits_at: usize,
    bit_words: usize,
    counts: Counts,
    /// No summary word below this one is set.
    low_hint: usize,
    /// No summary word above this one is set.
    high_hint: usize,
}

/// One entry of the run table.
#[derive(Clone, Copy)]
struct Managed {
    first: u64,
    end: u64,
    word: usize,
}

impl Managed {
    fn word_count(first: u64, end: u64) -> usize {
        (end.div_ceil(64) - first / 64) as usize
    }

    /// Bit number, over all runs, of a frame of this run.
    fn bit(self, frame: u64) -> usize {
        self.word * 64 + (frame - self.first / 64 * 64) as usize
    }

    fn frame(self, bit: usize) -> u64 {
        (bit - self.word * 64) as u64 + self.first / 64 * 64
    }
}

impl FrameAllocator {
    /// How many words of state the given runs need.
    pub fn words_needed(managed: impl Iterator<Item = Run>) -> usize {
        let (runs, bits) = size(managed);
        runs * RUN_WORDS + bits.div_ceil(64) + bits
    }

    /// An allocator of the given runs (sorted and disjoint, as [`crate::runs`] yields them), all of their frames in
    /// use: [`Self::free`] feeds it.
    ///
    /// # Errors
    /// [`TooFewWords`] where `words` is shorter than [`Self::words_needed`] says.
    pub fn new(
        words: &'static mut [u64],
        managed: impl Iterator<Item = Run> + Clone,
    ) -> Result<Self, TooFewWords> {
        let (run_count, bit_words) = size(managed.clone());
        let summary_at = run_count * RUN_WORDS;
        let bits_at = summary_at + bit_words.div_ceil(64);
        let needed = bits_at + bit_words;
        let Some(words) = words.get_mut(..needed) else { return Err(TooFewWords { needed }) };
        words.fill(0);
        let (mut word, mut total) = (0, 0);
        for (slot, run) in words.chunks_exact_mut(RUN_WORDS).zip(managed) {
            slot.copy_from_slice(&[run.first(), run.end(), word as u64]);
            word += Managed::word_count(run.first(), run.end());
            total += run.frames();
        }
        Ok(Self {
            words,
            run_count,
            summary_at,
            bits_at,
            bit_words,
            counts: Counts { total, free: 0 },
            low_hint: bit_words.div_ceil(64),
            high_hint: 0,
        })
    }

    /// How many frames there are, and how many are free.
    #[must_use]
    pub fn counts(&self) -> Counts {
        self.counts
    }

    /// Whether any byte of `[start, start + bytes)` is in a frame of a managed run, free or not.
    #[must_use]
    pub fn manages(&self, start: Hpa, bytes: u64) -> bool {
        let Some(last) = bytes.checked_sub(1) else { return false };
        let first = start.raw() >> PAGE_SHIFT;
        let last = start.raw().saturating_add(last) >> PAGE_SHIFT;
        // The highest run that does not start above the range is the only one that can reach into it from below.
        let below = self.partition(|run| run.first <= last);
        below.checked_sub(1).is_some_and(|index| first < self.run(index).end)
    }

    /// The lowest free frame, or nearly so.
    pub fn alloc(&mut self) -> Option<Hpa> {
        let summary_words = self.bits_at - self.summary_at;
        let found = (self.low_hint..summary_words).find(|&s| self.words[self.summary_at + s] != 0);
        self.low_hint = found.unwrap_or(summary_words);
        let summary = found?;
        let word = summary * 64 + self.words[self.summary_at + summary].trailing_zeros() as usize;
        let bit = word * 64 + self.words[self.bits_at + word].trailing_zeros() as usize;
        let frame = self.run_of_word(word).frame(bit);
        self.set(bit, 1, false);
        Some(address(frame))
    }

    /// `count` free frames in a row whose first is a multiple of `align` frames (a power of two), from the top.
    pub fn alloc_contiguous(&mut self, count: u64, align: u64) -> Option<Hpa> {
        if count == 0 || !align.is_power_of_two() || count > self.counts.free {
            return None;
        }
        let top = self.highest_free_word()?;
        for index in (0..self.run_count).rev() {
            let run = self.run(index);
            if run.word > top {
                continue;
            }
            // Nothing above the highest word that has a free frame needs a look.
            let end = run.end.min(run.frame(top * 64).saturating_add(64));
            if let Some(frame) = self.highest_block(run, end, count, align) {
                self.set(run.bit(frame), count as usize, false);
                return Some(address(frame));
            }
        }
        None
    }

    /// Takes back `count` frames from `start`, or takes them in for the first time.
    ///
    /// # Errors
    /// [`FreeError`] says which frame cannot be taken; then none is.
    pub fn free(&mut self, start: Hpa, count: u64) -> Result<(), FreeError> {
        if !start.is_aligned(PAGE_SIZE) {
            return Err(FreeError::Unaligned(start));
        }
        let first = start.raw() >> PAGE_SHIFT;
        let run = self.run_of_frame(first).ok_or(FreeError::NotManaged(start))?;
        if count > run.end - first {
            return Err(FreeError::NotManaged(address(run.end)));
        }
        let bit = run.bit(first);
        if let Some(free) = self.first_free(bit, count as usize) {
            return Err(FreeError::AlreadyFree(address(run.frame(free))));
        }
        self.set(bit, count as usize, true);
        Ok(())
    }

    /// The highest aligned block of free frames of `run` below `end`.
    fn highest_block(&self, run: Managed, end: u64, count: u64, align: u64) -> Option<u64> {
        let mut end = end;
        loop {
            let first = end.checked_sub(count)? & !(align - 1);
            if first < run.first {
                return None;
            }
            match self.last_used(run.bit(first), count as usize) {
                // The block must end at or below the frame that is in the way.
                Some(bit) => end = run.frame(bit),
                None => return Some(first),
            }
        }
    }

    fn highest_free_word(&mut self) -> Option<usize> {
        let found = (0..=self.high_hint).rev().find(|&s| self.words[self.summary_at + s] != 0);
        self.high_hint = found.unwrap_or(0);
        let summary = self.words[self.summary_at + found?];
        Some(self.high_hint * 64 + 63 - summary.leading_zeros() as usize)
    }

    /// The highest bit of `count` from `bit` that is clear.
    fn last_used(&self, bit: usize, count: usize) -> Option<usize> {
        masks(bit, count).rev().find_map(|(word, mask)| {
            let used = !self.words[self.bits_at + word] & mask;
            (used != 0).then(|| word * 64 + 63 - used.leading_zeros() as usize)
        })
    }

    /// The lowest bit of `count` from `bit` that is set.
    fn first_free(&self, bit: usize, count: usize) -> Option<usize> {
        masks(bit, count).find_map(|(word, mask)| {
            let free = self.words[self.bits_at + word] & mask;
            (free != 0).then(|| word * 64 + free.trailing_zeros() as usize)
        })
    }

    /// Sets or clears `count` bits from `bit`, all of which are the other way now.
    fn set(&mut self, bit: usize, count: usize, free: bool) {
        if count == 0 {
            return;
        }
        for (word, mask) in masks(bit, count) {
            self.words[self.bits_at + word] ^= mask;
            let any = self.words[self.bits_at + word] != 0;
            let summary = &mut self.words[self.summary_at + word / 64];
            *summary = *summary & !(1 << (word % 64)) | u64::from(any) << (word % 64);
        }
        if free {
            self.counts.free += count as u64;
            self.low_hint = self.low_hint.min(bit / (64 * 64));
            self.high_hint = self.high_hint.max((bit + count - 1) / (64 * 64));
        } else {
            self.counts.free -= count as u64;
        }
    }

    fn run(&self, index: usize) -> Managed {
        let entry = &self.words[index * RUN_WORDS..][..RUN_WORDS];
        Managed { first: entry[0], end: entry[1], word: entry[2] as usize }
    }

    /// The run whose bits hold `word`, which is one of the bits' words.
    fn run_of_word(&self, word: usize) -> Managed {
        debug_assert!(word < self.bit_words);
        self.run(self.partition(|run| run.word <= word) - 1)
    }

    fn run_of_frame(&self, frame: u64) -> Option<Managed> {
        let index = self.partition(|run| run.first <= frame).checked_sub(1)?;
        let run = self.run(index);
        (frame < run.end).then_some(run)
    }

    /// How many runs, from the first, `holds` is true of.
    fn partition(&self, holds: impl Fn(Managed) -> bool) -> usize {
        let (mut low, mut high) = (0, self.run_count);
        while low < high {
            let middle = low + (high - low) / 2;
            if holds(self.run(middle)) {
                low = middle + 1;
            } else {
                high = middle;
            }
        }
        low
    }
}

fn address(frame: u64) -> Hpa {
    Hpa::new(frame << PAGE_SHIFT)
}

/// Number of runs, and of the words that their bits fill.
fn size(managed: impl Iterator<Item = Run>) -> (usize, usize) {
    managed.fold((0, 0), |(runs, bits), run| {
        (runs + 1, bits + Managed::word_count(run.first(), run.end()))
    })
}

/// The words that hold `count` bits from `bit`, each with the mask of those bits.
fn masks(bit: usize, count: usize) -> impl DoubleEndedIterator<Item = (usize, u64)> {
    let end = bit + count;
    (bit / 64..end.div_ceil(64)).map(move |word| {
        let from = bit.max(word * 64) % 64;
        let to = end.min(word * 64 + 64) - word * 64;
        (word, (u64::MAX << from) & (u64::MAX >> (64 - to)))
    })
}

#[cfg(test)]
mod tests;
