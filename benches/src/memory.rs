//! What this process has on its heap.

use std::ffi::c_void;

use libmimalloc_sys::{mi_heap_area_t, mi_heap_t, mi_heap_visit_blocks};

#[allow(unsafe_code, reason = "takes nothing, and gives what lives as long as the process")]
unsafe extern "C" {
    /// The heap of all threads. The bindings lack it.
    safe fn mi_heap_main() -> *mut mi_heap_t;
}

/// Bytes that were handed out and not given back, by all threads; `None` when the allocator did not tell. To be asked while no other
/// thread is at work.
///
/// It does not count what the allocator keeps for later, so that a difference is that of the data alone.
#[allow(unsafe_code, reason = "the allocator has no other way to ask")]
pub(crate) fn heap_bytes() -> Option<u64> {
    let mut bytes = 0_u64;
    let sum = (&raw mut bytes).cast();
    // SAFETY: areas are visited under the allocator's own locks, and `add` gets what `sum` points to, which lives longer.
    let all = unsafe { mi_heap_visit_blocks(mi_heap_main(), false, Some(add), sum) };
    all.then_some(bytes)
}

#[allow(unsafe_code, reason = "called by the allocator")]
unsafe extern "C" fn add(
    _: *const mi_heap_t,
    area: *const mi_heap_area_t,
    _: *mut c_void,
    _: usize,
    sum: *mut c_void,
) -> bool {
    // SAFETY: the allocator passes an area that lives for this call, and `heap_bytes` its own sum, which nobody else uses.
    let (area, sum) = unsafe { (&*area, &mut *sum.cast::<u64>()) };
    // `used` counts blocks, though the binding says bytes.
    *sum += area.used as u64 * area.block_size as u64;
    true
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_allocated_is_counted() {
        let before = heap_bytes().unwrap();
        let data = std::hint::black_box(vec![1_u8; 8 << 20]);
        let with = heap_bytes().unwrap();
        assert!(with >= before + data.len() as u64, "{before} and {with}");
    }
}
