//! Telling the processor what will be needed soon.

/// How many steps of a loop pass between asking for a row and needing it: each takes some 20 ns, and memory answers within 100 to 200 ns.
pub const STEPS_AHEAD: usize = 8;

/// Of what a loop goes over, those whose rows it asks for in this step: in every eighth step the eight that come `distance` steps later, and in
/// the first all up to these.
///
/// A processor has only a dozen loads under way. Asked for in one go, the rows of a hundred steps come one after the other, and all steps wait;
/// asked for as the loop goes on, they come while earlier ones are worked on. Eight at a time, as where a row stands has to be looked up when the
/// cache of translations lacks its page, and such look-ups overlap only if nothing else stands between what asks for them.
#[inline]
pub fn coming<T>(items: &[T], step: usize, distance: usize) -> &[T] {
    if !step.is_multiple_of(STEPS_AHEAD) {
        return &[];
    }
    let first = if step == 0 { 0 } else { step + distance };
    items.get(first..(step + distance + STEPS_AHEAD).min(items.len())).unwrap_or_default()
}

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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_item_comes_once_and_so_many_steps_before_its_own() {
        for (items, distance) in [(0_usize, 3), (1, 3), (3, 3), (8, 3), (9, 0), (20, 3), (40, 8), (40, 16)] {
            let items: Vec<usize> = (0..items).collect();
            let mut came = Vec::new();
            for step in 0..items.len() {
                came.extend_from_slice(coming(&items, step, distance));
                assert!(came.len() > (step + distance).min(items.len() - 1));
                assert_eq!(came, items[..came.len()]);
            }
            assert_eq!(came, items);
        }
    }
}
