//! The pool of frames.

use boot_info::{MemoryKind, MemoryRegion};
use frames::{Counts, Entry, FrameAllocator, Run, runs};
use hw::{Hpa, PAGE_SIZE};
use spin::Mutex;

use super::{MemoryError, direct, entries, out_of_reach};

/// Below 1 MiB are the firmware's data and the only memory in which a CPU can start up: none of it is given out.
const LOW_MEMORY: Entry = Entry { start: 0, pages: (1 << 20) / PAGE_SIZE, usable: false };

static FRAMES: Mutex<Option<FrameAllocator>> = Mutex::new(None);

/// Frames of physical memory.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Pool;

impl Pool {
    /// One frame, its content unknown.
    pub(crate) fn alloc(self) -> Option<Hpa> {
        FRAMES.lock().as_mut()?.alloc()
    }

    /// `count` frames in a row, aligned to `align` frames, their content unknown.
    pub(crate) fn alloc_contiguous(self, count: u64, align: u64) -> Option<Hpa> {
        FRAMES.lock().as_mut()?.alloc_contiguous(count, align)
    }

    /// Gives frames back. A frame that is free already stays so, and that is told: it is a bug.
    pub(crate) fn free(self, start: Hpa, count: u64) {
        let result = FRAMES.lock().as_mut().map(|frames| frames.free(start, count));
        if let Some(Err(why)) = result {
            log::error!("frames at {start} were not taken back: {why:?}");
        }
    }
}

/// Whether any byte of the range is in a frame of the pool, free or not.
pub(super) fn manages(start: Hpa, bytes: u64) -> bool {
    FRAMES.lock().as_ref().is_some_and(|frames| frames.manages(start, bytes))
}

/// How many frames Kerf manages, and how many of them are free.
pub(crate) fn counts() -> Counts {
    FRAMES.lock().as_ref().map_or(Counts { total: 0, free: 0 }, FrameAllocator::counts)
}

/// Feeds the allocator with the usable memory of the map.
pub(super) fn init(map: &'static [MemoryRegion]) -> Result<(), MemoryError> {
    let managed = || {
        runs(above_low(map, |kind| {
            matches!(kind, MemoryKind::Usable | MemoryKind::BootReclaimable)
        }))
    };
    let usable = || runs(above_low(map, |kind| kind == MemoryKind::Usable));
    let words = FrameAllocator::words_needed(managed());
    let frames_needed = (words as u64 * 8).div_ceil(PAGE_SIZE);
    let home = usable()
        .find(|run| run.frames() >= frames_needed)
        .ok_or(MemoryError::NoRoomForFrames(frames_needed * PAGE_SIZE))?;
    // SAFETY: the run is usable memory, so it is mapped and no one's; the frames are never given out, because they are
    // left out below.
    let storage = unsafe { direct::words(home.start(), words) };
    let mut frames = FrameAllocator::new(storage, managed())
        .map_err(|why| MemoryError::NoRoomForFrames(why.needed as u64 * 8))?;
    for run in usable() {
        let first = if run == home { run.first() + frames_needed } else { run.first() };
        feed(&mut frames, Run::try_new(first, run.end()));
    }
    *FRAMES.lock() = Some(frames);
    Ok(())
}

/// Gives the boot application's memory to the pool. Nothing may use it, or the page tables in it, any more.
pub(super) fn reclaim(map: &'static [MemoryRegion]) {
    // The map lies in that very memory, but nothing is written to frames by freeing them.
    if let Some(frames) = FRAMES.lock().as_mut() {
        for run in runs(above_low(map, |kind| kind == MemoryKind::BootReclaimable)) {
            feed(frames, Some(run));
        }
    }
}

fn feed(frames: &mut FrameAllocator, run: Option<Run>) {
    let Some(run) = run else { return };
    if let Err(why) = frames.free(run.start(), run.frames()) {
        log::warn!("memory at {} ({} frames) is not used: {why:?}", run.start(), run.frames());
    }
}

fn above_low(
    map: &'static [MemoryRegion],
    wanted: fn(MemoryKind) -> bool,
) -> impl Iterator<Item = Entry> + Clone {
    entries(map, wanted).chain([LOW_MEMORY, out_of_reach()])
}
