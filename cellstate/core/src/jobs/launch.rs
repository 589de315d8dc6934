//! Launching: the child of a recurring job for one instant. Each instant at most once and in order, whatever crashes.

use std::sync::Arc;

use plenum_model::planted::{self, Bug};
use plenum_model::{
    Job, JobChange, JobId, JobKind, JobShape, LAUNCH_SCHEDULER_OPTION, LogTime, RECURRING_NAME_BYTES_MAX, Rejection,
    RejectionCode, Request, is_name,
};

use super::groups_of;
use crate::{Core, Handled, Verdict, accepted};

impl Core {
    /// Creates the child of a recurring job for an instant. Who asks again, such as after an answer that was lost, is told of the same child.
    pub(crate) fn launch(&mut self, request: &Request, parent: JobId, instant_micros: i64, now: LogTime) -> Handled {
        let launched = self.launched(parent, instant_micros).filter(|_| !planted::is(Bug::LaunchesAgain));
        if let Some(child) = launched {
            return Ok(Verdict::Answer(accepted(child.id.to_bits(), child.version)));
        }
        let job = self.live_job(parent, None)?;
        let invalid = |message: String| Err(Rejection::new(RejectionCode::InvalidRequest, message));
        if job.shape.kind != JobKind::Recurring {
            return invalid(format!("{} is not recurring; only jobs that are can be launched from", job.shape.name));
        }
        // 0 is what a job has that was launched for none.
        if instant_micros <= 0 {
            return invalid(format!("instant: expected 1 or more microseconds since 1970, found {instant_micros}"));
        }
        let passed = job.last_instant_micros.filter(|&last| instant_micros <= last);
        if let Some(last) = passed.filter(|_| !planted::is(Bug::LaunchesAgain)) {
            let message = format!(
                "{} was launched for {last} µs; expected a later instant, found {instant_micros} µs",
                job.shape.name
            );
            return Err(Rejection::new(RejectionCode::InstantPassed, message));
        }
        // Here, and not only where it was asked: it may have been paused since, or the job given to another one.
        if let Some(scheduler) = request.principal.strip_prefix("scheduler/") {
            self.may_commit(scheduler)?;
            self.expect_own(scheduler, &job)?;
        }
        let body = job.body.clone().unwrap_or_else(|| Arc::new([]));
        let shape = Arc::new(self.child_shape(&job, instant_micros));
        if shape.groups.iter().all(|group| group.count == 0) {
            // Nothing of it would ever end, and so would it.
            return invalid(format!(
                "{} was scaled to no tasks at all; scale it up before it is launched",
                job.shape.name
            ));
        }
        if self.cell.job_named(&shape.namespace, &shape.name).is_some_and(|other| !other.state.is_final()) {
            let message =
                format!("{} is there already and not over, and was not launched for that; stop it", shape.name);
            return Err(Rejection::new(RejectionCode::JobChanged, message));
        }
        let (answer, mut delta) = self.put_job(&shape, &body, job.body_digest, now)?;
        if planted::is(Bug::LaunchesNobody) {
            delta.jobs.clear();
        }
        if !planted::is(Bug::ForgetsLaunches) {
            delta.jobs.push(JobChange::Launched { id: parent, instant_micros });
        }
        Ok(Verdict::Change(answer, delta))
    }

    /// What was launched for that instant already, if the cell still knows it.
    fn launched(&self, parent: JobId, instant_micros: i64) -> Option<&Arc<Job>> {
        let shape = &self.cell.job(parent)?.shape;
        let child = self.cell.job_named(&shape.namespace, &child_name(&shape.name, instant_micros))?;
        (child.shape.parent == Some(parent) && child.shape.instant_micros == instant_micros).then_some(child)
    }

    fn child_shape(&self, parent: &Job, instant_micros: i64) -> JobShape {
        let mut groups = parent.shape.groups.clone();
        // A recurring job may have been scaled since it was submitted, also to fewer tasks than had to be placed together.
        for (shape, (_, group)) in groups.iter_mut().zip(groups_of(&self.cell, parent)) {
            shape.count = group.count;
            shape.min = shape.min.min(group.count);
        }
        let scheduler = scheduler_of(&parent.shape);
        JobShape {
            name: child_name(&parent.shape.name, instant_micros).into(),
            scheduler: scheduler.into(),
            kind: JobKind::ToCompletion,
            groups,
            parent: Some(parent.id),
            instant_micros,
            ..(*parent.shape).clone()
        }
    }
}

fn scheduler_of(shape: &JobShape) -> &str {
    shape.options.get(LAUNCH_SCHEDULER_OPTION).map_or(&shape.scheduler, String::as_str)
}

/// `NAME-<seconds>`, or microseconds where the seconds are not whole.
fn child_name(parent: &str, instant_micros: i64) -> String {
    let whole = instant_micros % 1_000_000 == 0;
    format!("{parent}-{}", if whole { instant_micros / 1_000_000 } else { instant_micros })
}

/// What a recurring job must have so that its children can be created.
pub(crate) fn check_recurring(shape: &JobShape) -> Result<(), Rejection> {
    if shape.kind != JobKind::Recurring {
        return Ok(());
    }
    if shape.name.len() > RECURRING_NAME_BYTES_MAX {
        let found = shape.name.len();
        let message = format!(
            "name: expected at most {RECURRING_NAME_BYTES_MAX} bytes, so that the names of launched jobs fit, found {found}"
        );
        return Err(Rejection::new(RejectionCode::InvalidRequest, message));
    }
    let scheduler = scheduler_of(shape);
    if !is_name(scheduler, false) {
        let message =
            format!("option {LAUNCH_SCHEDULER_OPTION}: expected the name of a scheduler, found {scheduler:?}");
        return Err(Rejection::new(RejectionCode::InvalidRequest, message));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{CoreOptions, Decided};
    use plenum_model::{CellIdentity, Command, Decision, GroupShape};

    fn ask(core: &mut Core, principal: &str, command: Command) -> Decision {
        let request = Request { principal: principal.into(), namespace: "default".into(), command };
        match core.decide(&request, LogTime::from_micros(1)) {
            Decided::Changed { decision, .. } | Decided::Unchanged(decision) => decision,
            Decided::Repeated(revision) => panic!("repeated {revision}"),
        }
    }

    // Whether it was paused was looked up where the request came in: one that waited its turn meanwhile was launched after the pause was answered.
    #[test]
    fn what_a_scheduler_asks_for_before_it_is_paused_is_not_launched_afterwards() {
        let mut core = Core::new(CoreOptions::default());
        ask(
            &mut core,
            "server",
            Command::OpenServer(CellIdentity { incarnation: 1, term: 1, ..CellIdentity::default() }),
        );
        let shape = JobShape {
            namespace: "default".into(),
            name: "nightly".into(),
            scheduler: "cron".into(),
            kind: JobKind::Recurring,
            groups: vec![GroupShape { name: "main".into(), count: 1, ..GroupShape::default() }],
            ..JobShape::default()
        };
        let command = Command::submit(shape);
        let Decision::Accepted { id, .. } = ask(&mut core, "local", command) else { panic!("submitting is accepted") };
        let parent = JobId::from_bits(id).expect("an id");
        let launch = |core: &mut Core, principal: &str, seconds: i64| {
            ask(core, principal, Command::Launch { parent, instant_micros: seconds * 1_000_000 })
        };
        let pause =
            |core: &mut Core, paused| ask(core, "local", Command::PauseScheduler { scheduler: "cron".into(), paused });

        let first = launch(&mut core, "scheduler/cron", 1);
        assert!(matches!(first, Decision::Accepted { .. }), "{first:?}");
        pause(&mut core, true);
        let Decision::Rejected(refused) = launch(&mut core, "scheduler/cron", 2) else { panic!("it is paused") };
        assert_eq!(refused.code, RejectionCode::SchedulerPaused);
        assert_eq!(launch(&mut core, "scheduler/cron", 1), first, "what was launched is answered, whoever is paused");
        let by_a_person = launch(&mut core, "local", 3);
        assert!(matches!(by_a_person, Decision::Accepted { .. }), "{by_a_person:?}");
        pause(&mut core, false);
        let resumed = launch(&mut core, "scheduler/cron", 4);
        assert!(matches!(resumed, Decision::Accepted { .. }), "{resumed:?}");
    }
}
