//! Budgets of bytes: how much memory something may take over all who ask, and who has how much of that.
//!
//! There is one of requests that are arriving, and one of answers that were not read.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

/// What is beyond so many bytes of a message leaves a quarter of the room to smaller ones: who begins large ones and does not end them
/// must not keep agents from renewing their leases.
pub(in crate::api) const SMALL_BYTES: usize = 64 << 10;

/// Room for so many bytes in all, and how many of them are taken.
#[derive(Debug)]
pub(crate) struct Budget {
    bytes: AtomicUsize,
    most: usize,
}

impl Budget {
    /// At most so many.
    pub(crate) fn new(most: usize) -> Self {
        Self { bytes: AtomicUsize::new(0), most }
    }

    /// The bound.
    pub(crate) fn most(&self) -> usize {
        self.most
    }

    pub(in crate::api) fn give_back(&self, bytes: usize) {
        // All connections share it: to give back nothing takes it from each other.
        if bytes > 0 {
            self.bytes.fetch_sub(bytes, Ordering::Relaxed);
        }
    }

    /// Whether there is room for so many bytes more, of a message that has so many by then.
    pub(in crate::api) fn take(&self, bytes: usize, of_message: usize) -> bool {
        let most = if of_message <= SMALL_BYTES { self.most } else { self.most - self.most / 4 };
        let more = |held: usize| held.checked_add(bytes).filter(|sum| *sum <= most);
        self.bytes.fetch_update(Ordering::Relaxed, Ordering::Relaxed, more).is_ok()
    }

    /// How many of them are taken.
    #[cfg(test)]
    pub(in crate::api) fn taken(&self) -> usize {
        self.bytes.load(Ordering::Relaxed)
    }
}

/// The room that something whole has of a budget; given back with it.
#[derive(Debug)]
pub(crate) struct Share {
    of: Arc<Budget>,
    bytes: usize,
}

impl Share {
    /// For so many bytes, if there is so much.
    pub(crate) fn take(of: &Arc<Budget>, bytes: usize) -> Option<Self> {
        Self::of_message(of, bytes, bytes)
    }

    /// The same, for a part of a message that has so many bytes with it.
    pub(in crate::api) fn of_message(of: &Arc<Budget>, bytes: usize, of_message: usize) -> Option<Self> {
        of.take(bytes, of_message).then(|| Self { of: of.clone(), bytes })
    }

    /// For so many bytes, as long as nothing else has any, however much that is: for what is larger than all room there is, and would never have any.
    pub(crate) fn alone(of: &Arc<Budget>, bytes: usize) -> Option<Self> {
        let is_alone = of.bytes.compare_exchange(0, bytes, Ordering::Relaxed, Ordering::Relaxed).is_ok();
        is_alone.then(|| Self { of: of.clone(), bytes })
    }

    /// Gives back what is more than this.
    pub(crate) fn keep(&mut self, bytes: usize) {
        self.of.give_back(self.bytes.saturating_sub(bytes));
        self.bytes = self.bytes.min(bytes);
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        self.keep(0);
    }
}
