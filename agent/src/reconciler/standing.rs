//! The agent's standing with the cell: registration, lease and reports.

use plenum_model::{AllocationId, MachineId, Unfit};

use super::{AgentReconciler, Output, Registration, Status};
use crate::traces::Item;

#[derive(Clone, Debug)]
pub(super) enum Standing {
    /// Not registered, or no longer.
    Away { register_at_ms: u64, failures: u32 },
    /// Asked, and not answered yet. What was seen before it was asked, the server must have.
    Registering { sent_at_ms: u64, failures: u32, seen_revision: u64 },
    /// Registered.
    Present(Presence),
}

#[derive(Clone, Debug)]
pub(super) struct Presence {
    machine: MachineId,
    epoch: u32,
    lease_ms: u64,
    renew_ms: u64,
    /// When the last renewal was sent that was answered. The server counts from its arrival, which is later.
    renewed_at_ms: u64,
    /// The whole wanted set has arrived since the registration.
    synced: bool,
    /// When to follow again; `None`: it is being followed.
    follow_at_ms: Option<u64>,
    follow_failures: u32,
}

/// The one report that may be under way, and what renews the lease meanwhile.
#[derive(Clone, Debug, Default)]
pub(super) struct Report {
    /// Of the last one that was sent.
    number: u64,
    under_way: Option<UnderWay>,
    /// Sent while that one waits for its answer, and says nothing new: a cell whose disk does not answer keeps news waiting, and renews leases all
    /// the same.
    beside: Option<UnderWay>,
    last_sent_at_ms: u64,
    not_before_ms: u64,
    /// In a row: of all; but what only renews ends no row of those with news.
    failures: u32,
    /// The last one had news, and failed: the next one has none. A cell that can write nothing down renews leases all the same, and answers that one.
    only_renews: bool,
    /// What the cell has heard of this machine's fitness.
    heard: Option<Unfit>,
    /// One failed that said that the agent leaves.
    farewell_failed: bool,
}

#[derive(Clone, Debug)]
struct UnderWay {
    number: u64,
    sent_at_ms: u64,
    unfit: Option<Unfit>,
    transitions: Vec<(AllocationId, Status)>,
}

impl UnderWay {
    fn is_farewell(&self) -> bool {
        self.unfit == Some(Unfit::AgentLeaves)
    }
}

impl Standing {
    /// Until when the lease holds, where what is wanted is known.
    pub(super) fn current_until_ms(&self) -> Option<u64> {
        match self {
            Self::Present(presence) if presence.synced => Some(presence.over_at_ms()),
            _ => None,
        }
    }

    pub(super) fn is_synced(&self) -> bool {
        matches!(self, Self::Present(presence) if presence.synced)
    }

    /// True: this was the first whole set of the registration.
    pub(super) fn sync(&mut self) -> bool {
        match self {
            Self::Present(presence) => {
                presence.follow_failures = 0;
                !std::mem::replace(&mut presence.synced, true)
            }
            _ => false,
        }
    }
}

impl Presence {
    fn over_at_ms(&self) -> u64 {
        self.renewed_at_ms.saturating_add(self.lease_ms)
    }
}

impl AgentReconciler {
    /// True while the machine is registered in this epoch, as far as is known here.
    #[must_use]
    pub fn is_in(&self, machine: MachineId, epoch: u32) -> bool {
        matches!(&self.standing, Standing::Present(presence) if (presence.machine, presence.epoch) == (machine, epoch))
    }

    /// After [`Input::Leave`](super::Input::Leave) or [`Input::Shutdown`](super::Input::Shutdown): the cell knows, or it does not answer. What
    /// was to end with the agent has ended, and the cell knows how.
    #[must_use]
    pub fn has_left(&self) -> bool {
        // It may have heard that from the agent before, while what this one said first is under way.
        let is_last = self.report.under_way.iter().chain(&self.report.beside).all(UnderWay::is_farewell);
        let is_heard = self.report.heard == Some(Unfit::AgentLeaves) && is_last;
        let is_told = !matches!(self.standing, Standing::Present(_)) || is_heard || self.report.farewell_failed;
        is_told && (!self.shutdown || (self.finished && self.is_settled()))
    }

    /// Says so at once, whatever failed before: who leaves has no time to wait, and the cell may answer again.
    pub(super) fn leave(&mut self, now_ms: u64) {
        self.leaving = true;
        self.report.failures = 0;
        self.report.not_before_ms = now_ms;
        self.report.only_renews = false;
    }

    pub(super) fn registered(&mut self, now_ms: u64, registration: &Registration, outputs: &mut Vec<Output>) {
        let Standing::Registering { sent_at_ms, seen_revision, .. } = self.standing else { return };
        if !self.learn(registration.incarnation, registration.revision, seen_revision, outputs) {
            return self.register_failed(now_ms);
        }
        self.asked_again = false;
        self.standing = Standing::Present(Presence {
            machine: registration.machine,
            epoch: registration.epoch,
            lease_ms: registration.lease_ms,
            renew_ms: registration.renew_ms.max(1),
            renewed_at_ms: sent_at_ms,
            synced: false,
            follow_at_ms: Some(now_ms),
            follow_failures: 0,
        });
        // A registration renews, too. Whatever an earlier epoch was told is told again: it may not have been the last word.
        let (number, heard) = (self.report.number, registration.unfit);
        self.report = Report { number, last_sent_at_ms: sent_at_ms, heard, ..Report::default() };
        for held in self.held.values_mut() {
            held.acknowledged = None;
        }
    }

    /// What the server said of itself; false if it offers less than what was seen before it was asked. Answers may overtake each other:
    /// one that was given later may have been seen meanwhile.
    fn learn(&mut self, incarnation: u64, revision: u64, before: u64, outputs: &mut Vec<Output>) -> bool {
        let same = incarnation == self.seen.0;
        // Of an earlier life there is nothing to be learned: it is a copy that was left running, and would stop what it does not know.
        if incarnation < self.seen.0 || (same && revision < before) {
            outputs.push(Output::Refuse { offered: (incarnation, revision), seen: (self.seen.0, before) });
            return false;
        }
        self.seen = (incarnation, if same { self.seen.1.max(revision) } else { revision });
        true
    }

    pub(super) fn register_again(&mut self, now_ms: u64, incarnation: u64, revision: u64, outputs: &mut Vec<Output>) {
        let Standing::Registering { failures, seen_revision, .. } = self.standing else { return };
        let is_first = !std::mem::replace(&mut self.asked_again, true);
        if self.learn(incarnation, revision, seen_revision, outputs) && is_first {
            self.standing = Standing::Away { register_at_ms: now_ms, failures };
        } else {
            // Once is enough to hear of it; a server that asks for it without end must not be asked without a pause.
            self.register_failed(now_ms);
        }
    }

    pub(super) fn register_failed(&mut self, now_ms: u64) {
        if let Standing::Registering { failures, .. } = self.standing {
            let register_at_ms = now_ms + self.backoff_ms(failures);
            self.standing = Standing::Away { register_at_ms, failures: failures.saturating_add(1) };
            self.asked_again = false;
        }
    }

    pub(super) fn follow_ended(&mut self, now_ms: u64) {
        let Standing::Present(presence) = &self.standing else { return };
        let failures = presence.follow_failures;
        let again_at_ms = now_ms + self.backoff_ms(failures);
        if let Standing::Present(presence) = &mut self.standing {
            presence.follow_at_ms = Some(again_at_ms);
            presence.follow_failures = failures.saturating_add(1);
        }
    }

    /// What runs here may have been placed elsewhere already: it registers without waiting for the next report.
    pub(super) fn follow_refused(&mut self, now_ms: u64, machine: MachineId, epoch: u32) {
        if self.is_in(machine, epoch) && self.standing.is_synced() {
            let register_at_ms = now_ms + self.backoff_ms(0);
            self.standing = Standing::Away { register_at_ms, failures: 0 };
        } else {
            // A server that does not see yet what it registered a moment ago must not be asked again and again.
            self.follow_ended(now_ms);
        }
    }

    pub(super) fn report_answered(
        &mut self,
        now_ms: u64,
        number: u64,
        revision: u64,
        register: bool,
        outputs: &mut Vec<Output>,
    ) {
        // One that is not waited for any more is of before a registration, and perhaps of another life of the cell.
        let beside = self.report.beside.take_if(|sent| sent.number == number);
        let answered = beside.or_else(|| self.report.under_way.take_if(|sent| sent.number == number));
        let Some(answered) = answered else { return };
        self.see(revision);
        if register {
            // Who asked already, or is about to, knows it from elsewhere, and has the answer of that one to wait for.
            if !matches!(self.standing, Standing::Present(_)) {
                return;
            }
            // Not at once: a server that doesn't see yet what it registered a moment ago would be asked without a pause.
            let register_at_ms = now_ms + self.backoff_ms(0);
            self.standing = Standing::Away { register_at_ms, failures: 0 };
            return;
        }
        if let Standing::Present(presence) = &mut self.standing {
            presence.renewed_at_ms = presence.renewed_at_ms.max(answered.sent_at_ms);
        }
        // Of what the other one said nothing is known yet.
        if self.report.under_way.is_some() {
            return;
        }
        if !std::mem::take(&mut self.report.only_renews) {
            self.report.failures = 0;
        }
        self.report.heard = answered.unfit;
        for (allocation, status) in answered.transitions {
            let Some(held) = self.held.get_mut(&allocation) else { continue };
            if status.state.is_end() {
                self.held.remove(&allocation);
                outputs.push(Output::Forget(allocation));
                self.remember_end(allocation, status);
            } else {
                held.acknowledged = Some(status);
            }
        }
    }

    pub(super) fn report_failed(&mut self, now_ms: u64, number: u64) {
        // The next one that renews goes by its own time.
        drop(self.report.beside.take_if(|sent| sent.number == number));
        if let Some(under_way) = self.report.under_way.take_if(|sent| sent.number == number) {
            let failures = self.report.failures;
            let mut wait_ms = self.backoff_ms(failures);
            // Who leaves needs no lease any more, and has no time.
            self.report.only_renews = !under_way.transitions.is_empty() && !self.leaving;
            if let Standing::Present(presence) = &self.standing
                && self.report.only_renews
            {
                wait_ms = wait_ms.min(presence.renew_ms);
            }
            self.report.not_before_ms = now_ms + wait_ms;
            self.report.failures = failures.saturating_add(1);
            self.report.farewell_failed |= under_way.is_farewell();
        }
    }

    /// Registers, or follows, where it is time to.
    pub(super) fn advance_standing(&mut self, now_ms: u64, outputs: &mut Vec<Output>) {
        if matches!(&self.standing, Standing::Present(presence) if presence.over_at_ms() <= now_ms) {
            // What runs goes on; the cell decides on it when we are back.
            self.leases_lost += 1;
            self.standing = Standing::Away { register_at_ms: now_ms, failures: 0 };
        }
        match &mut self.standing {
            Standing::Away { register_at_ms, failures } if *register_at_ms <= now_ms => {
                let seen_revision = self.seen.1;
                self.standing = Standing::Registering { sent_at_ms: now_ms, failures: *failures, seen_revision };
                let inventory = self.inventory();
                let (incarnation, revision) = self.seen;
                outputs.push(Output::Register { inventory, revision, incarnation });
            }
            Standing::Present(presence) if presence.follow_at_ms.is_some_and(|at_ms| at_ms <= now_ms) => {
                presence.follow_at_ms = None;
                let (machine, epoch, (incarnation, revision)) = (presence.machine, presence.epoch, self.seen);
                outputs.push(Output::Follow { machine, epoch, revision, incarnation });
            }
            _ => {}
        }
    }

    /// Everything that is here, with where it comes from. What only waits to be made again is not: nobody could keep it.
    fn inventory(&self) -> Vec<Item> {
        let is_here = |held: &super::held::Held| !matches!(held.phase, super::Phase::Waiting { .. });
        let item = |(&allocation, held): (&AllocationId, &super::held::Held)| {
            Some(Item { allocation, status: held.status()?, traces: held.traces.clone() })
        };
        self.held.iter().filter(|(_, held)| is_here(held)).filter_map(item).collect()
    }

    /// Sends a report when there is news, or the lease wants to be renewed.
    pub(super) fn send_report(&mut self, now_ms: u64, outputs: &mut Vec<Output>) {
        let Standing::Present(presence) = &self.standing else { return };
        let renews = now_ms >= self.report.last_sent_at_ms.saturating_add(presence.renew_ms);
        let from = (presence.machine, presence.epoch);
        if self.report.under_way.is_some() || self.report.beside.is_some() {
            // Of who leaves no word may come after the last one.
            if renews && !self.leaving {
                self.renew_beside(now_ms, from, outputs);
            }
            return;
        }
        if now_ms < self.report.not_before_ms {
            return;
        }
        let limit = if self.report.only_renews { 0 } else { self.settings.transitions_per_report_max };
        let news = self.held.iter().filter_map(|(&allocation, held)| Some((allocation, held.news(now_ms)?)));
        let transitions: Vec<(AllocationId, Status)> = news.take(limit).collect();
        let unfit = self.fitness();
        if renews || self.report.only_renews || !transitions.is_empty() || unfit != self.report.heard {
            self.report.under_way = Some(self.send(now_ms, from, transitions, unfit, outputs));
        }
    }

    /// Where a report has waited for its answer for as long as the lease is not renewed, renews it beside that, and says nothing else: one that came
    /// after later news must change nothing. What is no news here may be some to the cell.
    fn renew_beside(&mut self, now_ms: u64, from: (MachineId, u32), outputs: &mut Vec<Output>) {
        let Report { under_way: Some(under_way), beside: None, .. } = &self.report else { return };
        let unfit = under_way.unfit;
        self.report.beside = Some(self.send(now_ms, from, Vec::new(), unfit, outputs));
    }

    /// Sends a report of the machine in this epoch.
    fn send(
        &mut self,
        now_ms: u64,
        (machine, epoch): (MachineId, u32),
        transitions: Vec<(AllocationId, Status)>,
        unfit: Option<Unfit>,
        outputs: &mut Vec<Output>,
    ) -> UnderWay {
        let running = self.held.values().filter(|held| matches!(held.phase, super::Phase::Running)).count();
        self.report.number += 1;
        self.report.last_sent_at_ms = now_ms;
        let (number, (incarnation, revision)) = (self.report.number, self.seen);
        outputs.push(Output::Report {
            number,
            machine,
            epoch,
            transitions: transitions.clone(),
            running: u32::try_from(running).unwrap_or(u32::MAX),
            unfit,
            revision,
            incarnation,
        });
        UnderWay { number, sent_at_ms: now_ms, unfit, transitions }
    }

    /// How many reports were sent.
    #[cfg(test)]
    pub(super) fn report_number(&self) -> u64 {
        self.report.number
    }

    pub(super) fn standing_wakes_at_ms(&self) -> [Option<u64>; 4] {
        match &self.standing {
            Standing::Away { register_at_ms, .. } => [Some(*register_at_ms), None, None, None],
            Standing::Registering { .. } => [None; 4],
            Standing::Present(presence) => [
                Some(presence.over_at_ms()),
                presence.follow_at_ms,
                Some(self.report.last_sent_at_ms.saturating_add(presence.renew_ms)),
                Some(self.report.not_before_ms),
            ],
        }
    }

    /// How long to wait after that many failures in a row: between half of it and all of it, so that agents come apart.
    fn backoff_ms(&mut self, failures: u32) -> u64 {
        let whole = self.settings.retry_ms_min.saturating_mul(1 << failures.min(16)).min(self.settings.retry_ms_max);
        whole / 2 + self.jitter(whole / 2 + 1)
    }
}
