//! The allocator against a plain set of frames.

use std::collections::BTreeSet;

use hw::{Hpa, PAGE_SHIFT};
use proptest::prelude::*;

use super::{FrameAllocator, FreeError, TooFewWords};
use crate::map::Run;

fn run(first: u64, end: u64) -> Run {
    Run::try_new(first, end).unwrap()
}

fn words(count: usize) -> &'static mut [u64] {
    vec![0xdead_beef; count].leak()
}

/// An allocator of the given runs, everything free.
fn full(runs: &[Run]) -> FrameAllocator {
    let storage = words(FrameAllocator::words_needed(runs.iter().copied()));
    let mut frames = FrameAllocator::new(storage, runs.iter().copied()).unwrap();
    for run in runs {
        frames.free(run.start(), run.frames()).unwrap();
    }
    frames
}

fn hpa(frame: u64) -> Hpa {
    Hpa::new(frame << PAGE_SHIFT)
}

#[test]
fn everything_is_in_use_until_it_is_freed() {
    let runs = [run(3, 200)];
    let storage = words(FrameAllocator::words_needed(runs.iter().copied()));
    let mut frames = FrameAllocator::new(storage, runs.iter().copied()).unwrap();
    assert_eq!(frames.alloc(), None);
    assert_eq!(frames.alloc_contiguous(1, 1), None);
    assert_eq!(frames.counts().total, 197);
    frames.free(hpa(100), 1).unwrap();
    assert_eq!(frames.alloc(), Some(hpa(100)));
    assert_eq!(frames.alloc(), None);
}

#[test]
fn managed_memory_is_known_whether_free_or_not() {
    let mut frames = full(&[run(3, 5), run(10, 200)]);
    frames.alloc().unwrap();
    for (start, bytes, managed) in [
        (0x0, 0x3000, false),
        (0x0, 0x3001, true),
        (0x2fff, 2, true),
        (0x3000, 0, false),
        (0x4fff, 1, true),
        (0x5000, 0x5000, false),
        (0x5000, 0x5001, true),
        (0xc_7fff, 1, true),
        (0xc_8000, u64::MAX, false),
        (0, u64::MAX, true),
    ] {
        assert_eq!(frames.manages(Hpa::new(start), bytes), managed, "{start:#x} {bytes:#x}");
    }
}

#[test]
fn too_few_words_are_refused() {
    let runs = [run(0, 1000)];
    let needed = FrameAllocator::words_needed(runs.iter().copied());
    let err = FrameAllocator::new(words(needed - 1), runs.iter().copied()).unwrap_err();
    assert_eq!(err, TooFewWords { needed });
}

#[test]
fn a_map_without_memory_gives_nothing() {
    let mut frames = full(&[]);
    assert_eq!(frames.alloc(), None);
    assert_eq!(frames.alloc_contiguous(1, 1), None);
    assert_eq!(frames.free(hpa(1), 1), Err(FreeError::NotManaged(hpa(1))));
}

#[test]
fn holes_cost_no_words() {
    let far = [run(0, 64), run(1 << 39, (1 << 39) + 64)];
    assert!(FrameAllocator::words_needed(far.iter().copied()) < 16);
    let mut frames = full(&far);
    assert_eq!(frames.alloc_contiguous(64, 64), Some(hpa(1 << 39)));
}

#[test]
fn a_block_never_spans_a_hole() {
    let mut frames = full(&[run(0, 100), run(101, 200)]);
    assert_eq!(frames.alloc_contiguous(101, 1), None);
    assert_eq!(frames.alloc_contiguous(100, 1), Some(hpa(0)));
}

#[test]
fn large_pages_are_aligned_and_come_from_the_top() {
    let mut frames = full(&[run(5, 3 * 512 + 7)]);
    assert_eq!(frames.alloc_contiguous(512, 512), Some(hpa(1024)));
    assert_eq!(frames.alloc_contiguous(512, 512), Some(hpa(512)));
    assert_eq!(frames.alloc_contiguous(512, 512), None);
    assert_eq!(frames.alloc(), Some(hpa(5)));
}

#[test]
fn a_double_free_is_refused_and_changes_nothing() {
    let mut frames = full(&[run(0, 128)]);
    let block = frames.alloc_contiguous(8, 8).unwrap();
    frames.free(block, 4).unwrap();
    let before = frames.counts();
    assert_eq!(frames.free(block, 8), Err(FreeError::AlreadyFree(block)));
    assert_eq!(frames.counts(), before);
    assert_eq!(frames.free(Hpa::new(0x10), 1), Err(FreeError::Unaligned(Hpa::new(0x10))));
    assert_eq!(frames.free(hpa(120), 9), Err(FreeError::NotManaged(hpa(128))));
}

#[derive(Clone, Debug)]
enum Step {
    Alloc,
    Block(u64, u32),
    Free(prop::sample::Index),
    FreeAnything(u64, u64),
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        Just(Step::Alloc),
        (1u64..80, 0u32..7).prop_map(|(count, shift)| Step::Block(count, shift)),
        any::<prop::sample::Index>().prop_map(Step::Free),
        (0u64..700, 0u64..80).prop_map(|(first, count)| Step::FreeAnything(first, count)),
    ]
}

proptest! {
    #[test]
    fn it_agrees_with_a_set_of_frames(
        gaps in prop::collection::vec((1u64..70, 1u64..150), 1..5),
        steps in prop::collection::vec(step(), 0..200),
    ) {
        let mut runs = Vec::new();
        let mut at = 0;
        for (gap, length) in gaps {
            runs.push(run(at + gap, at + gap + length));
            at += gap + length;
        }
        let mut frames = full(&runs);
        let all: BTreeSet<u64> = runs.iter().flat_map(|r| r.first()..r.end()).collect();
        let mut free = all.clone();
        let mut held: Vec<(u64, u64)> = Vec::new();
        let fits = |free: &BTreeSet<u64>, first: u64, count: u64| {
            runs.iter().any(|r| r.first() <= first && first + count <= r.end())
                && (first..first + count).all(|f| free.contains(&f))
        };
        for step in steps {
            match step {
                Step::Alloc => {
                    let got = frames.alloc().map(|a| a.raw() >> PAGE_SHIFT);
                    prop_assert_eq!(got, free.first().copied());
                    if let Some(frame) = got {
                        free.remove(&frame);
                        held.push((frame, 1));
                    }
                }
                Step::Block(count, shift) => {
                    let align = 1 << shift;
                    let want = (0..at).rev().find(|f| f % align == 0 && fits(&free, *f, count));
                    let got = frames.alloc_contiguous(count, align).map(|a| a.raw() >> PAGE_SHIFT);
                    prop_assert_eq!(got, want);
                    if let Some(first) = got {
                        (first..first + count).for_each(|f| assert!(free.remove(&f)));
                        held.push((first, count));
                    }
                }
                Step::Free(which) if !held.is_empty() => {
                    let (first, count) = held.swap_remove(which.index(held.len()));
                    prop_assert_eq!(frames.free(hpa(first), count), Ok(()));
                    free.extend(first..first + count);
                }
                Step::Free(_) => {}
                Step::FreeAnything(first, count) => {
                    let managed = runs
                        .iter()
                        .any(|r| r.first() <= first && first < r.end() && first + count <= r.end());
                    let ok = managed && (first..first + count).all(|f| !free.contains(&f));
                    prop_assert_eq!(frames.free(hpa(first), count).is_ok(), ok);
                    if ok {
                        free.extend(first..first + count);
                        // They may be part of blocks held: those are forgotten piece by piece.
                        held = held
                            .into_iter()
                            .flat_map(|(f, n)| f..f + n)
                            .filter(|f| !free.contains(f))
                            .map(|f| (f, 1))
                            .collect();
                    }
                }
            }
            prop_assert_eq!(frames.counts().free, free.len() as u64);
        }
    }
}
