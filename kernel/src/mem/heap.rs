//! The heap. It starts with nothing and takes frames as it needs them, so it has no size to be configured.
//!
//! It serves starting and stopping; nothing on a guest's path allocates.

use core::alloc::{GlobalAlloc, Layout};
use core::ptr::{self, NonNull};

use hw::{Hva, PAGE_SIZE};
use linked_list_allocator::Heap;
use spin::Mutex;

use super::space;

/// Addresses set aside for the heap: far more than it will find frames for.
const WINDOW_BYTES: u64 = 1 << 36;
/// The least that it grows by.
const STEP_BYTES: u64 = 256 << 10;

/// The allocator behind `alloc`.
struct Growing(Mutex<State>);

struct State {
    heap: Heap,
    /// The window's start and what of it is mapped, once there is one.
    window: Option<(Hva, u64)>,
}

#[global_allocator]
static HEAP: Growing = Growing(Mutex::new(State { heap: Heap::empty(), window: None }));

impl State {
    /// Maps enough for `layout` and more; false where no memory is left.
    fn grow(&mut self, layout: Layout) -> bool {
        // Room for the allocator's own headers, whatever the alignment.
        let needed = layout.size() as u64 + layout.align() as u64 + PAGE_SIZE;
        let step = needed.next_multiple_of(PAGE_SIZE).max(STEP_BYTES);
        let window = self.window.or_else(|| space::reserve(WINDOW_BYTES).map(|at| (at, 0)));
        let Some((at, mapped)) = window else { return false };
        if step > WINDOW_BYTES - mapped {
            return false;
        }
        let got = space::populate(at.wrapping_add(mapped), step);
        self.window = Some((at, mapped + got));
        if got == 0 {
            return false;
        }
        // SAFETY: the bytes were mapped just now, lie right after those that the heap has, and are no one else's.
        unsafe {
            if mapped == 0 {
                self.heap.init(at.raw() as *mut u8, got as usize);
            } else {
                self.heap.extend(got as usize);
            }
        }
        got >= step
    }
}

/// Bytes that the heap has taken.
pub(crate) fn heap_bytes() -> u64 {
    HEAP.0.lock().window.map_or(0, |(_, mapped)| mapped)
}

// SAFETY: the heap gives out disjoint blocks of the layout asked for, under a lock; interrupt handlers do not allocate.
unsafe impl GlobalAlloc for Growing {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        let mut state = self.0.lock();
        loop {
            if let Ok(block) = state.heap.allocate_first_fit(layout) {
                return block.as_ptr();
            }
            if !state.grow(layout) {
                return ptr::null_mut();
            }
        }
    }

    unsafe fn dealloc(&self, block: *mut u8, layout: Layout) {
        if let Some(block) = NonNull::new(block) {
            // SAFETY: the caller gives back what `alloc` gave it, with the same layout.
            unsafe { self.0.lock().heap.deallocate(block, layout) };
        }
    }
}
