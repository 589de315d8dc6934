//! What this process has on its heap.

/// Bytes that were handed out and not given back, in all arenas; `None` where the allocator can't tell.
///
/// It does not count what the allocator keeps for later, so that a difference is that of the data alone.
#[cfg(target_env = "gnu")]
#[allow(unsafe_code, reason = "glibc has no other way to ask")]
pub(crate) fn heap_bytes() -> Option<u64> {
    // SAFETY: mallinfo2 takes nothing, and reads the allocator's own counters under their locks.
    let counted = unsafe { nix::libc::mallinfo2() };
    Some(counted.uordblks as u64 + counted.hblkhd as u64)
}

/// Only glibc's allocator is asked.
#[cfg(not(target_env = "gnu"))]
pub(crate) fn heap_bytes() -> Option<u64> {
    None
}

/// Gives memory back to the system that this process freed and its allocator keeps for later, where the allocator can.
#[cfg(target_env = "gnu")]
#[allow(unsafe_code, reason = "glibc has no other way to ask")]
pub(crate) fn give_back() {
    // SAFETY: malloc_trim takes the allocator's own locks, and touches nothing that is handed out.
    let _ = unsafe { nix::libc::malloc_trim(0) };
}

/// Only glibc's allocator is asked.
#[cfg(not(target_env = "gnu"))]
pub(crate) fn give_back() {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_allocated_is_counted() {
        let Some(before) = heap_bytes() else { return };
        let data = std::hint::black_box(vec![1_u8; 8 << 20]);
        let with = heap_bytes().unwrap();
        assert!(with >= before + data.len() as u64, "{before} and {with}");
    }
}
