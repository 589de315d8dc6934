//! Gathering work, asking the scheduler, and sending what it decided.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use plenum_model::session::NUMBER_MAX;
use plenum_model::{
    Cell, Job, JobId, LogTime, NotWanted, Revision, TaskState, TransactionId, WantedGroup, group_is_wanted,
    task_is_wanted, wanted,
};
use plenum_proto::transaction::commit_bytes;
use plenum_proto::v1::{self, session_request::Ask};

use super::{Notice, Output, SchedulerRuntime, send};
use crate::ahead::Around;
use crate::in_flight::InFlight;
use crate::notes::joined;
use crate::plan::{Plan, PlanError};
use crate::queue::{Place, Standing};
use crate::scheduler::{Decision, PassedOver, Scheduler, Unanswered};
use crate::share::mix;
use crate::view::{View, Work};

/// How many tasks of each group.
type Left = BTreeMap<(JobId, u16), usize>;

/// What there is to do.
#[derive(Debug, Default)]
struct Gathered {
    work: Vec<Work>,
    /// What waits of peers, or rests after a lost race, and comes before some of it.
    ahead: Vec<Work>,
    tasks: usize,
    /// Where there was more than one decision may have.
    cut: Option<Cut>,
    /// So many of `work` are of the first in the queue, in a pass that is beyond them.
    firsts: usize,
    /// There was more of these than their part of a decision.
    firsts_cut: bool,
    /// When something that is not wanted yet will be.
    wake_micros: Option<i64>,
    /// Why jobs are not even offered.
    notes: Vec<PassedOver>,
    /// Of which groups fewer tasks can be placed than are needed at once, without what their jobs hold.
    blocked: Vec<PassedOver>,
    /// Something waits for an answer: how many of a gang are needed at once, or a task whose outcome is not heard yet.
    held_back: bool,
}

/// Where gathering ended, with work left.
#[derive(Clone, Copy, Debug)]
struct Cut {
    place: Place,
    /// Some of the tasks of this very group were offered.
    offered: bool,
}

impl Gathered {
    /// Offers as many tasks of a group as there is room for in one decision; where there are more, that is the cut. Of a group of which fewer can be placed
    /// than it needs at once none is offered: it is `blocked`.
    fn offer(
        &mut self,
        job: &Arc<Job>,
        standing: &Standing,
        group: WantedGroup<'_>,
        free: impl Fn(&u32) -> bool,
        tasks_max: usize,
    ) {
        let mut tasks = group.tasks().filter(&free).peekable();
        if tasks.peek().is_none() {
            return;
        }
        let place = Place { turn: standing.turn, group: group.group };
        let least = group.least(job);
        let at_once = usize::try_from(least).unwrap_or(usize::MAX).max(1);
        let waiting = if at_once > 1 { group.tasks().take(at_once).count() } else { 1 };
        if waiting < at_once {
            let (job, group, reason) = (job.id, group.group, blocked(at_once, waiting));
            let tasks = u32::try_from(waiting).unwrap_or(u32::MAX);
            self.blocked.push(PassedOver { job, group, tasks, reason });
            return;
        }
        if at_once > 1 && group.tasks().any(|task| !free(&task)) {
            // How many are needed at once the mirror tells as if none were on their way: it is looked at again when those are answered.
            self.held_back = true;
            if group.tasks().filter(&free).take(at_once).count() < at_once {
                return;
            }
        }
        let mut room = tasks_max.saturating_sub(self.tasks);
        if room < at_once {
            // A part of a gang can't be placed: it has its turn in the next decision, or here when nobody is before it.
            if !self.work.is_empty() {
                self.cut = Some(Cut { place, offered: false });
                return;
            }
            room = at_once;
        }
        let offered: Vec<u32> = tasks.by_ref().take(room).collect();
        if tasks.peek().is_some() {
            self.cut = Some(Cut { place, offered: true });
        }
        if standing.refused > 0 {
            // Whether it is granted this time is not known yet.
            let waiting = group.row.tasks_in(TaskState::Waiting);
            let (job, group, reason) = (job.id, group.group, standing.why_refused.to_string());
            self.notes.push(PassedOver { job, group, tasks: waiting, reason });
        }
        self.tasks += offered.len();
        self.work.push(Work {
            job: job.clone(),
            group: group.group,
            tasks: offered,
            attempt: standing.refused.saturating_add(1),
            least,
        });
    }

    /// Beside the first in the queue there was no room for any of those whose turn it is.
    fn is_all_of_firsts(&self) -> bool {
        self.firsts > 0 && self.work.len() == self.firsts && self.cut.is_some()
    }

    /// All that the first in the queue were offered is on its way, and more of them wait: there may be room for these, too.
    fn has_room_for_more_firsts(&self, left: &Left) -> bool {
        let is_placed = |work: &Work| !left.contains_key(&(work.job.id, work.group));
        self.firsts_cut && self.work.iter().take(self.firsts).all(is_placed)
    }

    fn wake_by(&mut self, micros: i64) {
        self.wake_micros = Some(self.wake_micros.map_or(micros, |wake| wake.min(micros)));
    }
}

impl<S: Scheduler> SchedulerRuntime<S> {
    /// Decides, if there was an occasion and a transaction may be sent.
    ///
    /// One pass over the queue may take several decisions, so that jobs behind many tasks that fit nowhere have their turn, too. Where something
    /// happens in the middle of one, the next decision has the first in the queue as well: what came free would otherwise go to whoever's turn it
    /// just is. Not by a pass that begins anew: where something happens all the time, none would ever come to its end.
    pub(super) fn decide_if_due(&mut self, now_micros: i64, outputs: &mut Vec<Output>) {
        if !(self.due || self.pass.is_some()) || self.window() == 0 {
            return;
        }
        if now_micros < self.not_before_micros() {
            return;
        }
        let from = self.pass.take();
        let with_firsts = from.is_some() && self.due && !self.firsts_wait;
        self.firsts_wait = false;
        if with_firsts {
            // Those between them and the place have their turn in another pass, which also takes back what this one said of whom it places now.
            self.due = false;
            self.another_pass = true;
        }
        if from.is_none() {
            self.due = false;
            self.hungry = false;
            self.wake_micros = None;
            self.trial = now_micros >= self.trial_not_before_micros;
            self.notes.begin();
            self.holds.begin_pass(|job| self.share.is_own(job));
        }
        let mut gathered = self.gather(now_micros, from, with_firsts);
        self.look_after_holds(now_micros, outputs);
        let is_blocked = self.note_blocked(&mut gathered);
        gathered.wake_micros.into_iter().for_each(|micros| self.wake_by(micros));
        self.held_back |= gathered.held_back;
        let asked_micros = self.asked_micros();
        let is_asked_for = asked_micros.is_some_and(|asked| asked <= now_micros);
        asked_micros.filter(|_| !is_asked_for).into_iter().for_each(|asked| self.wake_by(asked));
        let decides = !gathered.work.is_empty() || is_asked_for;
        if !decides {
            // Else each pass in which nothing is to be decided would take it back.
            self.say_staying();
        }
        let (cell, revision) = (self.mirror.cell(), self.mirror.revision());
        let is_own = |job| self.share.is_own(job);
        self.notes.add(std::mem::take(&mut gathered.notes), false, revision, version_in(cell), is_own);
        if decides {
            let number = self.number;
            let took_micros = self.decide(now_micros, &gathered, from, outputs);
            // Who only looked, and wants nothing, holds up nothing that comes then; the next look makes the pause.
            let is_idle = gathered.work.is_empty() && self.number == number;
            let pause_micros = if is_idle { 0 } else { self.settings.pause_micros };
            // Counted from when the decision was made: what came in meanwhile is all read before the next one.
            let pause_micros = pause_micros.saturating_add(took_micros);
            self.decide_not_before_micros = now_micros.saturating_add(pause_micros);
        } else if is_blocked {
            // As behind a decision: a burst of deltas is one occasion, and each look walks over the queue.
            self.decide_not_before_micros = now_micros.saturating_add(self.settings.pause_micros);
        }
        if self.pass.is_none() {
            let is_own = |job| self.share.is_own(job);
            let waits = |(job, group)| waiting_in(self.mirror.cell(), job, group).is_some_and(|waiting| waiting > 0);
            self.notes.end(is_own, waits);
            self.due |= std::mem::take(&mut self.another_pass);
        }
    }

    /// How many transactions may be sent now: as many as the window has room for, and the session has numbers left.
    fn window(&self) -> usize {
        let numbers = usize::try_from(NUMBER_MAX.saturating_sub(self.number)).unwrap_or(usize::MAX);
        self.settings.window.saturating_sub(self.in_flight.len()).min(numbers)
    }

    /// When the next decision may be made that there is an occasion for already. Apart from `wake_micros`, whose time is an
    /// occasion by itself: going on with a pass is none to begin another one after it.
    pub(super) fn goes_on_micros(&self) -> Option<i64> {
        let waits = (self.due || self.pass.is_some()) && self.window() > 0;
        // What brings the mirror to where the cell is comes by itself: until then there is nothing to do, and no time at which there is.
        let waits = waits && self.mirror.revision() >= self.decides_from;
        waits.then_some(self.not_before_micros())
    }

    /// When the scheduler is to be called, also with nothing to place.
    pub(super) fn asked_micros(&self) -> Option<i64> {
        // Who is asked for what was dropped while all is refused plans the same again, and the cell hears of it as often as there are answers.
        let dropped = if self.progressed {
            self.dropped_micros.into_iter().chain(self.rested_micros).min()
        } else {
            self.dropped_micros.max(self.rested_micros)
        };
        self.again_micros.into_iter().chain(dropped).min()
    }

    fn not_before_micros(&self) -> i64 {
        self.decide_not_before_micros.max(self.rests_until_micros)
    }

    /// Whether any of these jobs can be left for later: those of others can't.
    pub(super) fn can_leave_any(&self, jobs: &BTreeSet<JobId>) -> bool {
        jobs.iter().any(|job| self.queue.contains(*job))
    }

    /// What claimed for no job of the queue came to nothing: nothing is decided for a while, longer each time in a row. Jobs are left for later one by
    /// one; this would come again at once, for as long as anything waits.
    pub(super) fn rest(&mut self, now_micros: i64, least_micros: i64) {
        self.fruitless = self.fruitless.saturating_add(1);
        let seed = self.settings.seed ^ self.session.0;
        self.rests_until_micros = self.settings.retry.next_micros(now_micros, least_micros, self.fruitless, seed, seed);
    }

    /// Asks the scheduler, sends what it wants, and gives how long that took, in microseconds. The pass was at `from`.
    fn decide(&mut self, now_micros: i64, gathered: &Gathered, from: Option<Place>, outputs: &mut Vec<Output>) -> i64 {
        let window = self.window();
        let Some(cell) = self.mirror.cell() else { return 0 };
        let seed = mix(self.settings.seed ^ self.session.0);
        let view = View {
            cell,
            quota_use: self.mirror.quota_use(),
            now: self.mirror.log_time(now_micros),
            oldest_readable: self.mirror.oldest_readable(),
            work: &gathered.work,
            ahead: &gathered.ahead,
            in_flight: &self.in_flight,
            changed: self.mirror.changed(),
            seed,
            turn: self.number + 1,
            window,
            peer_silence_micros: self.settings.peer_silence_micros,
            place: self.share.place(),
            share: &self.share,
            queue: &self.queue,
            now_micros,
        };
        let begun = (self.settings.stopwatch)();
        let Decision { mut plans, passed_over, staying, left, again_after_micros } = self.scheduler.decide(&view);
        let deciding_micros = (self.settings.stopwatch)().saturating_sub(begun).max(0);
        let base = cell.revision();
        self.counters.decisions += 1;
        self.pulses.decided(now_micros, deciding_micros);
        let late = plans.split_off(window.min(plans.len()));
        self.counters.dropped += late.len() as u64;
        let least_micros = self.settings.pause_micros.saturating_add(deciding_micros);
        let after = |micros: i64| now_micros.saturating_add(micros.max(least_micros));
        self.again_micros = again_after_micros.map(after);
        // What moves or stops what runs is of no work that would be offered again.
        self.dropped_micros = (!late.is_empty()).then(|| after(0));
        // A call that is still to come stays: who leaves alone what rests has not planned it now.
        self.rested_micros = self.rested_micros.filter(|rested| *rested > now_micros);
        self.progressed = false;
        self.asked_micros().into_iter().for_each(|asked| self.wake_by(asked));
        let over_micros = self.ahead.decided(&gathered.ahead, &left, now_micros, self.settings.peer_silence_micros);
        over_micros.into_iter().for_each(|over| self.wake_by(over));
        self.mirror.looked();
        let left = left_over(&gathered.work, &plans);
        self.hungry |= !left.is_empty();
        let unsent = late.iter().flat_map(Plan::claims_by_group);
        let unsent = unsent.filter_map(|((job, group), _)| self.queue.place(job, group)).min();
        // Another pass takes back what is said of them now.
        self.due |= !late.is_empty() || gathered.has_room_for_more_firsts(&left);
        self.firsts_wait = gathered.is_all_of_firsts() && late.is_empty();
        let behind = gathered.cut.map(|Cut { mut place, offered }| {
            // Where all was claimed there may be room for more of the same; where not, only others may have better luck: the
            // next group of the same job, too. A group that came when there was no room left in this decision has not had its turn.
            let unlucky = offered && left.contains_key(&(place.turn.job, place.group));
            place.group = place.group.saturating_add(u16::from(unlucky));
            place
        });
        // What was planned beyond the window has its turn before all that is behind it; of the first in the queue, as it is due.
        self.pass = unsent.map(|unsent| from.map_or(unsent, |from| from.max(unsent))).or(behind);
        self.staying = joined(staying);
        self.say_staying();
        self.note(left, unsent, passed_over, base);
        late.iter().for_each(|plan| self.scheduler.unanswered(plan.tag(), &Unanswered::BeyondWindow));
        for plan in plans {
            self.commit(now_micros, plan, base, (seed, deciding_micros), outputs);
        }
        deciding_micros
    }

    /// Own tasks that may be placed now, in the order of their turn: from a place on, and before them half as many of the first in the queue, if
    /// these have a part in it.
    fn gather(&mut self, now_micros: i64, from: Option<Place>, with_firsts: bool) -> Gathered {
        let mut gathered = Gathered::default();
        let tasks_max = self.portion.tasks(now_micros);
        if with_firsts {
            self.gather_between(now_micros, (None, from), tasks_max.div_ceil(2), &mut gathered);
            (gathered.firsts, gathered.firsts_cut) = (gathered.work.len(), gathered.cut.take().is_some());
        }
        self.gather_between(now_micros, (from, None), tasks_max, &mut gathered);
        if let Some(cell) = self.mirror.cell() {
            let around = Around {
                cell,
                queue: &self.queue,
                share: &self.share,
                in_flight: &self.in_flight,
                now: self.mirror.log_time(now_micros),
                now_micros,
                silence_micros: self.settings.peer_silence_micros,
                tasks_max: self.settings.tasks_max,
            };
            gathered.ahead = self.ahead.gather(&around, &gathered.work);
        }
        gathered
    }

    /// Those between two places, up to so many tasks in all.
    fn gather_between(
        &mut self,
        now_micros: i64,
        (from, until): (Option<Place>, Option<Place>),
        tasks_max: usize,
        gathered: &mut Gathered,
    ) {
        let candidacy = self.candidacy();
        let Some(cell) = self.mirror.cell() else { return };
        let log_time = self.mirror.log_time(now_micros);
        let turns: Vec<_> = self.queue.jobs(from, until).collect();
        for id in turns {
            let Some(job) = cell.job(id) else { continue };
            wake_after_backoff(cell, job, log_time, now_micros, gathered);
            let Some(standing) = self.queue.get_mut(id) else { continue };
            let mut groups = wanted(cell, job, log_time).peekable();
            if groups.peek().is_none() {
                standing.waiting_since_micros = None;
                continue;
            }
            let since = *standing.waiting_since_micros.get_or_insert(now_micros);
            let owner = self.share.owner(id);
            if owner != self.session {
                if until.is_some() {
                    // It was tried when the pass was there, or was not to be tried in this pass.
                    continue;
                }
                // That a peer's job waits says nothing of the peer while no job finds room. So it is tried here, now and then;
                // the peer is thought dead when there was room.
                let silence_micros = self.settings.peer_silence_micros;
                let overdue = since.max(self.share.heard_micros(owner)).saturating_add(silence_micros);
                if now_micros < overdue || !self.trial {
                    gathered.wake_by(overdue.max(self.trial_not_before_micros));
                    continue;
                }
                self.trial_not_before_micros = now_micros.saturating_add(silence_micros);
                gathered.wake_by(self.trial_not_before_micros);
            }
            if let Some(candidacy) = candidacy.filter(|_| owner == self.session) {
                let (job, times) = ((cell, &**job, log_time), (since, now_micros));
                let again = candidacy.consider(&mut self.holds, job, standing, times);
                again.into_iter().for_each(|again| gathered.wake_by(again));
            }
            if now_micros < standing.not_before_micros {
                gathered.wake_by(standing.not_before_micros);
                for WantedGroup { group, row, .. } in groups {
                    let tasks = row.tasks_in(TaskState::Waiting);
                    gathered.notes.push(PassedOver { job: id, group, tasks, reason: standing.why_refused.to_string() });
                }
                continue;
            }
            let begin = from.filter(|from| from.turn == standing.turn).map_or(0, |from| from.group);
            let end = until.filter(|until| until.turn == standing.turn).map_or(u16::MAX, |until| until.group);
            for group in groups.filter(|group| (begin..end).contains(&group.group)) {
                // What was granted may have ended already, and wait again: nothing but its outcome makes another decision then.
                let mut unheard = self.in_flight.unheard(id, group.group);
                gathered.held_back |= unheard.any(|task| task_is_wanted(cell, group.row, task).is_ok());
                let free = |task: &u32| !self.in_flight.has_task(id, group.group, *task);
                gathered.offer(job, standing, group, free, tasks_max);
                if gathered.cut.is_some() {
                    return;
                }
            }
        }
    }

    /// Own jobs with tasks that may be placed now, and are not on their way.
    pub(super) fn waiting_jobs(&self, now_micros: i64) -> usize {
        let Some(cell) = self.mirror.cell() else { return 0 };
        let log_time = self.mirror.log_time(now_micros);
        let waits = |id: &JobId| {
            let is_free = |group: WantedGroup<'_>| {
                let number = group.group;
                group.tasks().any(|task| !self.in_flight.has_task(*id, number, task))
            };
            cell.job(*id).is_some_and(|job| wanted(cell, job, log_time).any(is_free))
        };
        self.queue.jobs(None, None).filter(|id| self.share.is_own(*id)).filter(waits).count()
    }

    /// Says why groups are not offered of which too few tasks can be placed, and gives whether there are any. Not of a peer's job, which is only tried here: the peer says
    /// so, and knows what it holds.
    fn note_blocked(&mut self, gathered: &mut Gathered) -> bool {
        let is_blocked = !gathered.blocked.is_empty();
        // As of what stays unplaced: what is held for it may change.
        self.hungry |= is_blocked;
        let blocked = std::mem::take(&mut gathered.blocked).into_iter().filter(|note| self.share.is_own(note.job));
        gathered.notes.extend(blocked.map(|note| self.with_hold(note)));
        is_blocked
    }

    /// Why something waits, after the words of what its job holds, or held in vain.
    fn with_hold(&self, mut note: PassedOver) -> PassedOver {
        let holds = self.mirror.cell().map_or_else(String::new, |cell| self.holds.words(cell, note.job));
        note.reason.insert_str(0, &holds);
        note
    }

    /// Says why tasks stay, of groups of which none waits: each has one note, and what keeps those that wait counts, whoever said it first.
    fn say_staying(&mut self) {
        let cell = self.mirror.cell();
        let none_waits = |note: &PassedOver| waiting_in(cell, note.job, note.group) == Some(0);
        let staying = self.staying.iter().filter(|&note| none_waits(note)).cloned();
        let is_own = |job| self.share.is_own(job);
        self.notes.add(staying, true, self.mirror.revision(), version_in(cell), is_own);
    }

    /// Remembers why work stays unplaced. Where the scheduler gave no reason, that is said of own jobs: of theirs peers say more, and the last word counts.
    fn note(&mut self, left: Left, unsent: Option<Place>, passed_over: Vec<PassedOver>, base: Revision) {
        let passed_over: Vec<PassedOver> = joined(passed_over).into_iter().map(|note| self.with_hold(note)).collect();
        let said: BTreeSet<_> = passed_over.iter().map(|note| (note.job, note.group)).collect();
        let is_late = |job, group| unsent.is_some_and(|unsent| self.queue.place(job, group) >= Some(unsent));
        let is_own = |job| self.share.is_own(job);
        let left = left.into_iter().filter(|(group, _)| !said.contains(group));
        let unsaid = left.filter_map(|((job, group), tasks)| {
            let tasks = u32::try_from(tasks).unwrap_or(u32::MAX);
            let standing = self.queue.get(job).filter(|standing| standing.refused > 0);
            let reason = match standing {
                _ if is_late(job, group) => "placed as soon as earlier transactions are answered".to_owned(),
                // Part of it was claimed again: what the last attempt was refused for says more than that others were left.
                Some(standing) => standing.why_refused.to_string(),
                None if !is_own(job) => return None,
                None => format!("the scheduler {} left them for later, and gave no reason", self.scheduler.name()),
            };
            Some(PassedOver { job, group, tasks, reason })
        });
        self.notes.add(passed_over.into_iter().chain(unsaid), false, base, version_in(self.mirror.cell()), is_own);
    }

    /// Gives a plan its number, and sends it.
    fn commit(&mut self, now_micros: i64, plan: Plan, base: Revision, decided: (u64, i64), outputs: &mut Vec<Output>) {
        match self.message(now_micros, &plan, base, decided) {
            Ok(message) => {
                let again = plan.each_task().find(|&task| self.in_flight.has_undecided_task(task));
                let again = again.map(|(job, group, task)| Output::Notice(Notice::Twice { job, group, task }));
                outputs.extend(again);
                self.number = message.number;
                self.in_flight.add(InFlight::sent(&plan, message.clone()));
                self.counters.transactions += 1;
                outputs.push(send(Ask::Commit(message)));
            }
            Err(error) => self.leave_unsent(now_micros, &plan, error, outputs),
        }
    }

    /// What is sent of a plan, under the next number.
    fn message(
        &self,
        now_micros: i64,
        plan: &Plan,
        base: Revision,
        decided: (u64, i64),
    ) -> Result<v1::Transaction, PlanError> {
        let mut transaction = plan.clone().into_transaction()?;
        transaction.id = TransactionId { session: self.session, number: self.number + 1 };
        transaction.incarnation = self.seen.incarnation;
        transaction.base = base;
        let jobs = plan.claims_by_group().map(|((job, _), _)| job);
        let waiting = jobs.filter_map(|job| self.queue.get(job)?.waiting_since_micros).min();
        let metadata = &mut transaction.decision;
        (metadata.seed, metadata.deciding_micros) = decided;
        metadata.queued_micros = waiting.map_or(0, |since| now_micros.saturating_sub(since).max(0));
        metadata.assumed = self.in_flight.numbers().collect();
        if metadata.policy.is_empty() {
            metadata.policy = self.scheduler.name().into();
        }
        let message = v1::Transaction::from(&transaction);
        let (bytes, most) = (commit_bytes(&message), self.message_bytes_max);
        // The server could not even read its number, and would end the stream instead of an answer.
        if bytes > most { Err(PlanError::TooManyBytes { bytes, most }) } else { Ok(message) }
    }
}

/// The versions of jobs in a mirror; 0 of those that it does not have.
fn version_in(cell: Option<&Cell>) -> impl Fn(JobId) -> u32 {
    move |job| cell.and_then(|cell| cell.job(job)).map_or(0, |job| job.version)
}

/// How many tasks of a group wait in a mirror; `None` where it has no such group.
fn waiting_in(cell: Option<&Cell>, job: JobId, group: u16) -> Option<u32> {
    let cell = cell?;
    Some(cell.group(cell.job(job)?, group)?.tasks_in(TaskState::Waiting))
}

/// Tasks of each group that were offered and not claimed.
fn left_over(work: &[Work], plans: &[Plan]) -> Left {
    let mut left: BTreeMap<_, _> = work.iter().map(|work| ((work.job.id, work.group), work.tasks.len())).collect();
    for (group, claims) in plans.iter().flat_map(Plan::claims_by_group) {
        if let Some(tasks) = left.get_mut(&group) {
            *tasks = tasks.saturating_sub(claims);
        }
    }
    left.retain(|_, tasks| *tasks > 0);
    left
}

/// Why nothing is offered of a group of which only so many tasks can be placed.
fn blocked(at_once: usize, waiting: usize) -> String {
    format!(
        "it starts with {at_once} at once, and {waiting} of them can be placed now: the others wait for their predecessors to end"
    )
}

/// A group that sleeps over a failure is looked at again when that is over.
fn wake_after_backoff(
    cell: &plenum_model::Cell,
    job: &Job,
    log_time: LogTime,
    now_micros: i64,
    gathered: &mut Gathered,
) {
    for group in job.group_positions() {
        if let Err(NotWanted::Backoff(until)) = group_is_wanted(cell, job, group, log_time) {
            gathered.wake_by(now_micros.saturating_add(until.micros.saturating_sub(log_time.micros)));
        }
    }
}
