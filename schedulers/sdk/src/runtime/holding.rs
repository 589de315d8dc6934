//! Asking for holds: when, over which connection, and what the answers mean for what is planned.

use plenum_model::{Cell, Job, JobId, LogTime, RejectionCode, Revision, wanted};
use plenum_proto::v1;

use super::connection::HINT_MICROS_MAX;
use super::{HoldAnswer, Output, SchedulerRuntime};
use crate::backoff::Backoff;
use crate::holds::{Contenders, Holds, Sight, Why, Wish};
use crate::queue::{Standing, Turn};
use crate::scheduler::Scheduler;
use crate::settings::Holding;

/// Who finds its room held by jobs of lower bands asks for it after so long: by then it was offered, and is not on its way.
const URGENT_MICROS: i64 = 100_000;

/// Before a job asks again for room that others took while it asked. Others are as quick the next time: who waited longer each time would seldom be there
/// when something comes free. Without a quota only what the mirror shows as free is asked for, so there is something new to ask for each time.
const LOST_RACE: Backoff = Backoff { first_micros: 1_000, most_micros: 100_000 };

/// Log time is thought to be so little behind the cell's own that a hold which ends later than this process would ask for by as much is none of its own.
const LAG_MICROS: i64 = 1_000_000;

/// Which jobs may have a hold, as it stands when a part of the queue is gone through.
#[derive(Clone, Copy, Debug)]
pub(super) struct Candidacy {
    holding: Holding,
    /// The lowest band that holds room; `None` where nobody does.
    lowest_band: Option<u8>,
}

impl Candidacy {
    /// Why room may be held for a job that waits since then; and when to ask again, where it is none yet.
    fn of(
        &self,
        (cell, job, log_time): (&Cell, &Job, LogTime),
        standing: &Standing,
        (since_micros, now_micros): (i64, i64),
    ) -> (Option<Why>, Option<i64>) {
        let mut again = None;
        let is_gang = job.shape.groups.iter().any(|shape| shape.min > 0)
            && wanted(cell, job, log_time).any(|group| group.least(job) > 0);
        if is_gang {
            let starves_micros = since_micros.saturating_add(self.holding.after_wait_micros);
            if standing.refused >= self.holding.after_losses || starves_micros <= now_micros {
                return (Some(Why::Starves), None);
            }
            again = Some(starves_micros);
        }
        if self.lowest_band.is_some_and(|lowest| lowest < job.shape.priority / 10) {
            let urgent_micros = since_micros.saturating_add(URGENT_MICROS);
            if urgent_micros <= now_micros {
                return (Some(Why::Urgent), again);
            }
            again = Some(again.map_or(urgent_micros, |again: i64| again.min(urgent_micros)));
        }
        (None, again)
    }

    /// Remembers a job that waits since then if room may be held for it; gives when to ask again.
    pub(super) fn consider(
        &self,
        holds: &mut Holds,
        (cell, job, log_time): (&Cell, &Job, LogTime),
        standing: &Standing,
        (since_micros, now_micros): (i64, i64),
    ) -> Option<i64> {
        let (why, again) = self.of((cell, job, log_time), standing, (since_micros, now_micros));
        let rested = why.and_then(|why| holds.consider(standing.turn, why, (&self.holding, now_micros)));
        again.into_iter().chain(rested).min()
    }
}

impl<S: Scheduler> SchedulerRuntime<S> {
    /// How jobs come to have holds; `None` where the runtime takes none.
    pub(super) fn candidacy(&self) -> Option<Candidacy> {
        let holding = self.settings.holds.filter(|_| self.scheduler.takes_holds())?;
        let cell = self.mirror.cell()?;
        let band = |job: JobId| cell.job(job).map(|job| job.shape.priority / 10);
        let lowest_band = if cell.has_holds() { cell.holds().filter_map(|(job, _)| band(job)).min() } else { None };
        Some(Candidacy { holding, lowest_band })
    }

    /// Asks for holds, renews them and gives them back. Before each decision: what came free since the last one is still there for a gang, and what is asked to be
    /// held for it is promised to nobody else.
    pub(super) fn look_after_holds(&mut self, now_micros: i64, outputs: &mut Vec<Output>) {
        let Some(holding) = self.settings.holds.filter(|_| self.scheduler.takes_holds()) else { return };
        let Some(cell) = self.mirror.cell() else { return };
        if self.holds.is_idle() && !cell.has_holds() {
            return;
        }
        let log_time = self.mirror.log_time(now_micros);
        self.holds.see_others(cell, log_time.plus_micros(holding.within_micros).plus_micros(LAG_MICROS));
        let is_own = |job: &JobId| self.share.is_own(*job) && !self.holds.is_others(*job);
        let own = cell.holds().map(|(job, _)| job).filter(is_own);
        let own: Vec<Turn> = own.filter_map(|job| Some(self.queue.get(job)?.turn)).collect();
        let contenders = |last: Turn| {
            self.strangers.look(cell, &self.queue, last.band(), now_micros);
            Contenders::of(cell, (&self.queue, &self.strangers), &self.in_flight, last, log_time)
        };
        let contenders = self.holds.last(&own).map(contenders).unwrap_or_default();
        let sight = Sight {
            cell,
            holding: &holding,
            changed: self.mirror.changed(),
            in_flight: &self.in_flight,
            contenders: &contenders,
            log_time,
            now_micros,
            evicts: self.scheduler.evicts() && cell.rights_of(self.scheduler.name()).evicts,
            is_paused: cell.is_paused(self.scheduler.name()),
        };
        let (wishes, wake) = self.holds.look(&sight, &own);
        // Room that comes free is an occasion for them, whatever else was placed.
        self.hungry |= !self.holds.is_idle();
        wake.into_iter().for_each(|micros| self.wake_by(micros));
        for (number, wish) in wishes {
            self.ask_for_hold(&holding, (number, wish), outputs);
        }
    }

    fn ask_for_hold(&mut self, holding: &Holding, (number, wish): (u64, Wish), outputs: &mut Vec<Output>) {
        let Wish { job, machines, resources, more } = wish;
        let request = v1::TakeHoldRequest {
            session: self.session.0,
            job: job.to_bits(),
            within_micros: if machines.is_empty() { 0 } else { holding.within_micros },
            resources: (!machines.is_empty()).then(|| v1::Resources::from(&resources)),
            machines,
            incarnation: self.seen.incarnation,
        };
        self.in_flight.hold(job, more);
        outputs.push(Output::Hold { number, request });
    }

    /// A request was answered. Until the mirror shows what it did, what it asked for stays promised.
    pub(super) fn held(&mut self, now_micros: i64, number: u64, answer: &HoldAnswer) {
        let Some(job) = self.holds.whose(number) else { return };
        match answer {
            HoldAnswer::Executed { revision } => {
                if self.holds.executed(job, Revision(*revision)) {
                    plenum_model::rare!("a runtime gave a hold back");
                    self.counters.holds_given_back += 1;
                } else {
                    plenum_model::rare!("a runtime took a hold");
                    self.counters.holds_taken += 1;
                }
                self.see_holds();
            }
            HoldAnswer::Refused { code, retry_micros } => {
                let cell = self.mirror.cell();
                let has_quota = || {
                    cell.is_some_and(|cell| cell.job(job).is_some_and(|job| cell.quota(&job.shape.namespace).is_some()))
                };
                let lost = match RejectionCode::parse(code) {
                    // What it was for does not wait any more: the mirror is about to show that.
                    Some(RejectionCode::NotWanted) => true,
                    Some(RejectionCode::NoRoomToHold) => !has_quota(),
                    _ => false,
                };
                let retry = if lost { LOST_RACE } else { self.settings.retry };
                self.leave_hold(now_micros, job, ((*retry_micros).min(HINT_MICROS_MAX), retry));
            }
            HoldAnswer::Unanswered => {
                let reconnect = self.settings.reconnect;
                self.leave_hold(now_micros, job, (reconnect.first_micros, reconnect));
            }
        }
    }

    /// The mirror may show by now what became of requests that were executed.
    pub(super) fn see_holds(&mut self) {
        if !self.holds.has_asked() {
            return;
        }
        let Some(cell) = self.mirror.cell() else { return };
        for job in self.holds.shown(cell) {
            self.in_flight.hold_no_more(job);
            self.due = true;
        }
    }

    /// Nothing came of a request: it is made again after a while, longer each time in a row, if there is still a reason for it.
    fn leave_hold(&mut self, now_micros: i64, job: JobId, (least_micros, retry): (i64, Backoff)) {
        self.counters.holds_refused += 1;
        let seed = self.settings.seed ^ self.session.0;
        let rests = |refused| retry.next_micros(now_micros, least_micros, refused, seed ^ job.to_bits(), seed);
        self.holds.refused(job, rests);
        self.in_flight.hold_no_more(job);
        self.due = true;
    }

    /// The connection is gone: no answer comes any more.
    pub(super) fn forget_holds(&mut self) {
        self.holds.forget_asked().into_iter().for_each(|job| self.in_flight.hold_no_more(job));
    }
}
