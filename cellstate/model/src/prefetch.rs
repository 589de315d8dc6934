//! Telling the processor what will be needed soon.

/// Asks for the cache line in which `place` begins, and does not wait for it. Nothing but speed depends on it.
#[inline]
pub fn prefetch<T>(place: &T) {
    #[cfg(target_arch = "x86_64")]
    {
        use std::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
        // SAFETY: a prefetch reads nothing that the program could see, never faults, and the pointer is of a reference.
        #[allow(unsafe_code, reason = "there is no safe way to ask for a cache line without waiting for it")]
        unsafe {
            _mm_prefetch::<_MM_HINT_T0>(std::ptr::from_ref(place).cast());
        }
    }
    #[cfg(not(target_arch = "x86_64"))]
    std::hint::black_box(place);
}
