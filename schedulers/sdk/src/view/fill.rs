//! Machine by machine: the loop of a scheduler that tries machines in an order of its own. It must not know why that is the order.

use plenum_model::Special;

use super::{Ledger, Work};

impl Ledger<'_> {
    /// Takes room and quota for as many tasks of the work as there is, all that the first machine has before the next one is tried, and gives the slot of each
    /// task, in order: the first so many of [`Work::tasks`] may be claimed there, as [`Plan::claim`](crate::Plan::claim) has it. None, with the books as they were
    /// before, where these would be fewer than [`Work::least`]. Each is judged and booked as by [`Ledger::take`].
    ///
    /// Where the tasks of a job share a machine all go to one: to where the books have the job already, or else to the first machine that has room for as many of
    /// this group as start at once. What its other groups need there is not looked at.
    #[must_use]
    pub fn fill(&mut self, work: &Work, slots: impl IntoIterator<Item = u32>) -> Vec<u32> {
        let least = (work.least as usize).max(1);
        // Asked once: what a quota keeps out need not be tried on each machine.
        let most = work.tasks.len().min(self.quotas.headroom(&self.view, work));
        let mut taken = Vec::new();
        if most < least {
            return taken;
        }
        let home = self.homes.get(&work.job.id).copied();
        for slot in slots {
            // All tasks of a group are alike, so a machine that is full for one is full for the others.
            while taken.len() < most && self.take(work, slot) {
                taken.push(slot);
            }
            // The first task would keep the others from all other machines.
            let is_too_small = work.job.shape.same_machine && taken.len() < least;
            if is_too_small {
                self.put_back(work, home, &mut taken);
            }
            if taken.len() == most || (work.job.shape.same_machine && !is_too_small) {
                break;
            }
        }
        if taken.len() < least {
            self.put_back(work, home, &mut taken);
        }
        taken
    }

    /// Undoes the last [`Ledger::take`]s, one on each of these machines in this order. `home`: where the books had the job before them.
    fn put_back(&mut self, work: &Work, home: Option<u32>, slots: &mut Vec<u32>) {
        if slots.is_empty() {
            return;
        }
        self.quotas.give(&self.view, work, slots.len());
        for slot in slots.drain(..).rev() {
            let taken = self.taken.get_mut(&slot);
            taken.into_iter().for_each(|taken| *taken = taken.without(&work.shape().resources));
            if Special::is_needed_by(work.shape()) {
                self.specials.give(self.view.cell, &work.job, work.group, slot);
            }
        }
        match home {
            Some(home) => self.homes.insert(work.job.id, home),
            None => self.homes.remove(&work.job.id),
        };
    }
}
