//! Why claims were refused, and who took what they wanted.

use std::sync::Arc;

use plenum_model::{
    AllocationId, Culprit, JobId, JobState, LogTime, NotWanted, Refusal, RefusalKind, RefusalReason, Revision,
    SessionId, TaskState, TransactionId,
};
use v1::NotWantedCause;

use super::each;
use super::enums::Known;
use super::resources::{list, resource, resource_name};
use super::written::{Fields, Sink};
use crate::bounds::{self, NAME_BYTES_MAX, signed, unsigned};
use crate::error::Invalid;
use crate::{names, v1};

/// Stands for a refusal of the whole transaction, where a claim's placement and position would stand.
const WHOLE: u32 = u32::MAX;

/// Culprits that a refusal lists; the total counts all.
const CULPRITS_MAX: usize = 4;

impl From<&Refusal> for v1::Refusal {
    fn from(refusal: &Refusal) -> Self {
        let (placement, claim) = refusal.claim.unwrap_or((WHOLE, WHOLE));
        Self {
            kind: v1::RefusalKind::from(refusal.kind).into(),
            reason: v1::RefusalReason::from(refusal.reason).into(),
            placement,
            claim,
            job: refusal.job.to_bits(),
            group: refusal.group.into(),
            task: refusal.task,
            machine: refusal.machine,
            resource: refusal.short.map_or(0, |(resource, _)| resource_name(resource).into()),
            short_by: refusal.short.map_or(0, |(_, amount)| signed(amount)),
            culprits: list(&refusal.culprits),
            culprits_total: signed(refusal.culprits_total),
            device: refusal.short_device.as_ref().map_or_else(String::new, |(kind, _)| kind.to_string()),
            device_short_by_millis: refusal.short_device.as_ref().map_or(0, |(_, millis)| signed(*millis)),
            port: refusal.port.unwrap_or(0).into(),
            not_wanted: refusal.not_wanted.map_or(NotWantedCause::Unspecified, cause).into(),
            after_group: refusal.not_wanted.map_or(0, after_group),
            backoff_until_micros: refusal.not_wanted.map_or(0, backoff_until_micros),
        }
    }
}

fn cause(why: NotWanted) -> NotWantedCause {
    match why {
        NotWanted::JobOver(JobState::Complete) => NotWantedCause::JobIsComplete,
        NotWanted::JobOver(JobState::Failed) => NotWantedCause::JobHasFailed,
        NotWanted::JobOver(JobState::Stopped) => NotWantedCause::JobIsStopped,
        NotWanted::After(_) => NotWantedCause::AfterGroup,
        NotWanted::Backoff(_) => NotWantedCause::InBackoff,
        NotWanted::Task(TaskState::Done) => NotWantedCause::TaskIsDone,
        NotWanted::Task(TaskState::Failed) => NotWantedCause::TaskHasFailed,
        NotWanted::Task(TaskState::Cancelled) => NotWantedCause::TaskIsCancelled,
        NotWanted::NoSuchTask => NotWantedCause::NoTaskOfIndex,
        NotWanted::NoSuchGroup => NotWantedCause::NoGroupAtPosition,
        NotWanted::Recurring => NotWantedCause::JobIsRecurring,
        // A job that is not over, and a task that waits, is live or blocked, have reasons of their own or none.
        NotWanted::JobOver(_) | NotWanted::Task(_) => NotWantedCause::Unspecified,
    }
}

fn after_group(why: NotWanted) -> u32 {
    if let NotWanted::After(group) = why { group.into() } else { 0 }
}

fn backoff_until_micros(why: NotWanted) -> i64 {
    if let NotWanted::Backoff(until) = why { until.micros } else { 0 }
}

impl v1::Refusal {
    /// Whether a claim was refused, and not a guard on the transaction itself, or a stop.
    #[must_use]
    pub fn is_of_claim(&self) -> bool {
        (self.placement, self.claim) != (WHOLE, WHOLE)
    }

    /// Whether the claim may have come a moment before the end of its group's backoff, which is nobody's bug: a batch has the time at
    /// which it was begun, and log time stands still after a start with a clock that was set back.
    #[must_use]
    pub fn may_be_early(&self) -> bool {
        // Earlier versions did not say which cause it was.
        let causes = [NotWantedCause::Unspecified, NotWantedCause::InBackoff];
        self.reason() == v1::RefusalReason::NotWanted && causes.contains(&self.not_wanted())
    }
}

impl v1::Outcome {
    /// The refusals that planner and committer disagree on, each with its position: those in `divergences`, but for claims that [may have been
    /// early](v1::Refusal::may_be_early).
    pub fn divergent(&self) -> impl Iterator<Item = (u32, &v1::Refusal)> {
        let at = move |&position: &u32| Some((position, self.refusals.get(usize::try_from(position).ok()?)?));
        self.divergences.iter().filter_map(at).filter(|(_, refusal)| !refusal.may_be_early())
    }
}

/// Which cause a refusal had; none where it has another reason, or is of a version that did not say.
fn not_wanted(wire: &v1::Refusal) -> Result<Option<NotWanted>, Invalid> {
    Ok(Some(match NotWantedCause::try_from(wire.not_wanted).unwrap_or_default() {
        NotWantedCause::Unspecified => return Ok(None),
        NotWantedCause::JobIsComplete => NotWanted::JobOver(JobState::Complete),
        NotWantedCause::JobHasFailed => NotWanted::JobOver(JobState::Failed),
        NotWantedCause::JobIsStopped => NotWanted::JobOver(JobState::Stopped),
        NotWantedCause::AfterGroup => NotWanted::After(bounds::group("after_group", wire.after_group)?),
        NotWantedCause::InBackoff => NotWanted::Backoff(LogTime::from_micros(wire.backoff_until_micros)),
        NotWantedCause::TaskIsDone => NotWanted::Task(TaskState::Done),
        NotWantedCause::TaskHasFailed => NotWanted::Task(TaskState::Failed),
        NotWantedCause::TaskIsCancelled => NotWanted::Task(TaskState::Cancelled),
        NotWantedCause::NoTaskOfIndex => NotWanted::NoSuchTask,
        NotWantedCause::NoGroupAtPosition => NotWanted::NoSuchGroup,
        NotWantedCause::JobIsRecurring => NotWanted::Recurring,
    }))
}

/// As the message above, without making one: under load, one claim in twenty is refused.
impl Fields for Refusal {
    fn put(&self, to: &mut impl Sink) {
        let (placement, claim) = self.claim.unwrap_or((WHOLE, WHOLE));
        to.number(1, word(i32::from(v1::RefusalKind::from(self.kind)).into()));
        to.number(2, word(i32::from(v1::RefusalReason::from(self.reason)).into()));
        to.number(3, placement.into());
        to.number(4, claim.into());
        to.number(5, self.job.to_bits());
        to.number(6, self.group.into());
        to.number(7, self.task.into());
        to.number(8, self.machine.into());
        to.number(9, self.short.map_or(0, |(resource, _)| word(i32::from(resource_name(resource)).into())));
        to.number(10, self.short.map_or(0, |(_, amount)| word(signed(amount))));
        self.culprits.iter().for_each(|culprit| to.message(11, culprit));
        to.number(12, word(signed(self.culprits_total)));
        if let Some((kind, millis)) = &self.short_device {
            to.text(13, kind);
            to.number(14, word(signed(*millis)));
        }
        to.number(15, self.port.unwrap_or(0).into());
        if let Some(why) = self.not_wanted {
            to.number(16, word(i32::from(cause(why)).into()));
            to.number(17, after_group(why).into());
            to.number(18, word(backoff_until_micros(why)));
        }
    }
}

/// A signed number as it is written: negative ones as large.
fn word(number: i64) -> u64 {
    number.cast_unsigned()
}

impl TryFrom<v1::Refusal> for Refusal {
    type Error = Invalid;

    fn try_from(wire: v1::Refusal) -> Result<Self, Invalid> {
        bounds::at_most("culprits", "culprits", wire.culprits.len(), CULPRITS_MAX)?;
        let not_wanted = not_wanted(&wire)?;
        let short_by = unsigned("short_by", wire.short_by)?;
        Ok(Self {
            kind: RefusalKind::known("kind", wire.kind)?,
            reason: RefusalReason::known("reason", wire.reason)?,
            claim: wire.is_of_claim().then_some((wire.placement, wire.claim)),
            // A refusal of the whole is about no job.
            job: if wire.job == 0 { JobId::default() } else { bounds::job("job", wire.job)? },
            group: bounds::group("group", wire.group)?,
            task: wire.task,
            machine: wire.machine,
            short: resource("resource", wire.resource)?.map(|resource| (resource, short_by)),
            culprits: each("culprits", wire.culprits, Culprit::try_from)?,
            culprits_total: unsigned("culprits_total", wire.culprits_total)?,
            short_device: match &*wire.device {
                "" => None,
                kind => {
                    let millis = unsigned("device_short_by_millis", wire.device_short_by_millis)?;
                    Some((names::attribute("device", kind)?, millis))
                }
            },
            port: match bounds::narrow("port", wire.port, u64::from(u16::MAX))? {
                0 => None,
                port => Some(port),
            },
            not_wanted,
        })
    }
}

impl From<&Culprit> for v1::Culprit {
    fn from(culprit: &Culprit) -> Self {
        Self {
            revision: culprit.revision.0,
            session: culprit.transaction.map_or(0, |id| id.session.0),
            number: culprit.transaction.map_or(0, |id| id.number),
            scheduler: culprit.scheduler.to_string(),
            event: culprit.event.to_string(),
            amount: signed(culprit.amount),
            allocation: culprit.allocation.map_or(0, AllocationId::to_bits),
        }
    }
}

impl Fields for Culprit {
    fn put(&self, to: &mut impl Sink) {
        to.number(1, self.revision.0);
        to.number(2, self.transaction.map_or(0, |id| id.session.0));
        to.number(3, self.transaction.map_or(0, |id| id.number));
        to.text(4, &self.scheduler);
        to.text(5, &self.event);
        to.number(6, word(signed(self.amount)));
        to.number(7, self.allocation.map_or(0, AllocationId::to_bits));
    }
}

impl TryFrom<v1::Culprit> for Culprit {
    type Error = Invalid;

    fn try_from(wire: v1::Culprit) -> Result<Self, Invalid> {
        let allocation = (wire.allocation > 0).then(|| bounds::allocation("allocation", wire.allocation));
        let text = |field: &str, text: &str| -> Result<Arc<str>, Invalid> { names::text(field, text, NAME_BYTES_MAX) };
        let transaction = TransactionId { session: SessionId(wire.session), number: wire.number };
        Ok(Self {
            revision: Revision(wire.revision),
            transaction: (wire.session > 0).then_some(transaction),
            scheduler: text("scheduler", &wire.scheduler)?,
            event: text("event", &wire.event)?,
            amount: unsigned("amount", wire.amount)?,
            allocation: allocation.transpose()?,
        })
    }
}
