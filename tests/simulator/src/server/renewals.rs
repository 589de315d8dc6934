//! When agents renewed their leases last, or the server gave out those that it found, and how long it stood still since: what shows that each lease
//! had its whole term, beside that time.

use std::collections::BTreeMap;

use plenum_model::MachineId;

use crate::books::{Checked, hold};

/// Of one server process.
#[derive(Debug)]
pub(super) struct Renewals {
    lease_micros: i64,
    began_micros: i64,
    /// How long it stood still, in pauses that no server can fail to notice.
    slept_micros: i64,
    /// By machine and epoch: when, and how long it had slept by then.
    last: BTreeMap<(MachineId, u32), (i64, i64)>,
}

impl Renewals {
    pub(super) fn new(lease_micros: i64, began_micros: i64) -> Self {
        Self { lease_micros, began_micros, slept_micros: 0, last: BTreeMap::new() }
    }

    /// An agent renewed its machine's lease, or began it.
    pub(super) fn renewed(&mut self, machine: MachineId, epoch: u32, now_micros: i64) {
        self.last.insert((machine, epoch), (now_micros, self.slept_micros));
    }

    /// The process stood still in this time. Its own share counts where it is another process than the one that fell asleep.
    pub(super) fn slept(&mut self, since_micros: i64, now_micros: i64) {
        let micros = now_micros - since_micros.max(self.began_micros);
        // What is shorter need not be noticed: see `Standstill::new`.
        if micros > self.lease_micros / 3 {
            self.slept_micros += micros;
        }
    }

    /// While the server stands still nobody can renew a lease: what ends has run for its term beside that. What nobody renewed since the start began
    /// with it: who renewed it before, and when, the server does not know.
    pub(super) fn invariant_no_lease_ends_by_its_server_s_sleep(
        &mut self,
        machine: MachineId,
        epoch: u32,
        now_micros: i64,
    ) -> Checked {
        let (renewed_micros, slept_micros) = self.last.remove(&(machine, epoch)).unwrap_or((self.began_micros, 0));
        let (slept, passed) = (self.slept_micros - slept_micros, now_micros - renewed_micros);
        hold(passed - slept >= self.lease_micros, "invariant_no_lease_ends_by_its_server_s_sleep", || {
            format!(
                "the lease of {machine} in epoch {epoch} was renewed, or given out with the start, {passed} µs ago, of which the server slept {slept} µs; it has {} µs",
                self.lease_micros
            )
        })
    }
}
