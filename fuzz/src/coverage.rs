//! Which code inputs reach: counters that an instrumented build keeps, a byte for each edge of the control flow.
//!
//! `cargo xtask fuzz --coverage` builds with LLVM's pass `sancov-module`, which stable takes by `-Cpasses`. What the compiler puts into each
//! object then calls us once before `main`, with the place of its counters. In any other build nobody calls, and there are none.
#![allow(unsafe_code, reason = "the counters are the compiler's; each block says why it is sound")]

use std::ops::Range;
use std::sync::{Mutex, PoisonError};

/// Addresses of counters, a range for each object; they are there for as long as the program runs.
static OBJECTS: Mutex<Vec<Range<usize>>> = Mutex::new(Vec::new());

/// Called by instrumented objects before `main`; by some of them twice.
///
/// # Safety
/// Between the two places are counters, which stay there for as long as the program runs, and to which nobody holds a reference.
// SAFETY: the name is the one that the pass calls, and nothing else here has it.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn __sanitizer_cov_8bit_counters_init(start: *mut u8, stop: *mut u8) {
    let object = start as usize..stop as usize;
    let mut objects = OBJECTS.lock().unwrap_or_else(PoisonError::into_inner);
    if !object.is_empty() && !objects.contains(&object) {
        objects.push(object);
    }
}

/// Whether this build counts.
#[must_use]
pub fn is_counted() -> bool {
    !OBJECTS.lock().unwrap_or_else(PoisonError::into_inner).is_empty()
}

/// What inputs have reached so far: of each edge, how often at a time, by orders of magnitude.
#[derive(Debug)]
pub struct Reached {
    objects: Vec<Range<usize>>,
    /// One for each counter: a bit for each order of magnitude.
    seen: Vec<Vec<u8>>,
}

impl Default for Reached {
    fn default() -> Self {
        let objects = OBJECTS.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let seen = objects.iter().map(|object| vec![0; object.len()]).collect();
        Self { objects, seen }
    }
}

impl Reached {
    /// Does something, and says whether that reached what nothing before did, or reached it far more often.
    pub fn by<T>(&mut self, work: impl FnOnce() -> T) -> (T, bool) {
        for object in &self.objects {
            // SAFETY: it is a range of counters that the object itself told; they are plain bytes, and no reference to them is held.
            unsafe { std::ptr::write_bytes(object.start as *mut u8, 0, object.len()) };
        }
        let done = work();
        let mut is_new = false;
        for (object, seen) in self.objects.iter().zip(&mut self.seen) {
            // SAFETY: as above; what counts in them is the code of this thread, which is here now.
            let counters = unsafe { std::slice::from_raw_parts(object.start as *const u8, object.len()) };
            is_new |= note(counters, seen);
        }
        (done, is_new)
    }

    /// Edges that were reached at all.
    #[must_use]
    pub fn edges(&self) -> usize {
        self.seen.iter().flatten().filter(|seen| **seen > 0).count()
    }
}

/// Most counters are 0: eight of them are looked at together.
fn note(counters: &[u8], seen: &mut [u8]) -> bool {
    let (eights, rest) = counters.as_chunks::<8>();
    let mut is_new = false;
    let mut look = |at: usize, counters: &[u8]| {
        for (count, seen) in counters.iter().zip(&mut seen[at..]).filter(|(count, _)| **count > 0) {
            let bit = magnitude(*count);
            is_new |= *seen & bit == 0;
            *seen |= bit;
        }
    };
    for (number, eight) in eights.iter().enumerate() {
        if u64::from_ne_bytes(*eight) != 0 {
            look(number * 8, eight);
        }
    }
    look(counters.len() - rest.len(), rest);
    is_new
}

/// A bit for each of 1, 2, 3, 4 to 7, 8 to 15, 16 to 31, 32 to 127, and more.
const fn magnitude(count: u8) -> u8 {
    match count {
        0 => 0,
        1 => 1,
        2 => 2,
        3 => 4,
        4..8 => 8,
        8..16 => 16,
        16..32 => 32,
        32..128 => 64,
        128.. => 128,
    }
}
