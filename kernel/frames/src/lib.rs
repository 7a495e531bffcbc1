//! Physical memory: the firmware's map made sane, and the frame allocator fed by it.
//!
//! [`runs`] turns a memory map as firmware hands it over (unsorted, overlapping, with empty or wrapping entries) into
//! disjoint, sorted [`Run`]s of frames, and [`problems`] says what was wrong with it. [`FrameAllocator`] manages such
//! runs. Nothing here touches the memory itself; the kernel does.

#![cfg_attr(not(test), no_std)]
#![forbid(unsafe_code)]

mod allocator;
mod map;

pub use allocator::{Counts, FrameAllocator, FreeError, TooFewWords};
pub use map::{Entry, Problem, Run, Runs, problems, runs};
