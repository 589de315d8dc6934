//! How much memory a thread holds: an allocator that counts, per thread, what is allocated and not freed.

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;

thread_local! {
    static HELD: Cell<isize> = const { Cell::new(0) };
    static MOST: Cell<isize> = const { Cell::new(0) };
}

/// The system's allocator, counting.
#[derive(Debug)]
pub struct Counting;

fn count(bytes: isize) {
    // A thread that ends frees after its own variables are gone; nobody asks for its count any more.
    let _ = HELD.try_with(|held| {
        held.set(held.get().wrapping_add(bytes));
        let _ = MOST.try_with(|most| most.set(most.get().max(held.get())));
    });
}

#[allow(clippy::cast_possible_wrap, reason = "no layout is larger than isize::MAX")]
fn signed(bytes: usize) -> isize {
    bytes as isize
}

#[allow(unsafe_code, reason = "an allocator can't be written without")]
// SAFETY: every call goes to the system's allocator with what it was called with, and the counting around it neither allocates nor panics.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        count(signed(layout.size()));
        // SAFETY: the caller keeps the contract of `alloc`.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, block: *mut u8, layout: Layout) {
        count(-signed(layout.size()));
        // SAFETY: the caller keeps the contract of `dealloc`, and the block is the system's.
        unsafe { System.dealloc(block, layout) }
    }

    unsafe fn realloc(&self, block: *mut u8, layout: Layout, bytes: usize) -> *mut u8 {
        count(signed(bytes) - signed(layout.size()));
        // SAFETY: the caller keeps the contract of `realloc`, and the block is the system's.
        unsafe { System.realloc(block, layout, bytes) }
    }
}

/// The most bytes that this thread held more than at the beginning, while doing something. 0 where [`Counting`] is not the allocator.
pub fn most_held<T>(work: impl FnOnce() -> T) -> (T, usize) {
    let before = HELD.get();
    MOST.set(before);
    let done = work();
    (done, usize::try_from(MOST.get() - before).unwrap_or(0))
}
