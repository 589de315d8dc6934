//! Jobs in the making, with what a job file fills in: over the API a field that is left out is 0.

use plenum_proto::v1::{self, JobKind};

/// Attempts without a limit.
const ATTEMPTS_UNLIMITED: u32 = u32::MAX;

/// A job to submit, as a job file makes it that says no more: in the namespace `default`, of priority 50. All else is set on its message.
///
/// ```
/// use plenum_sdk::api::{JobKind, Port, SubmitRequest};
/// use plenum_sdk::{GroupDraft, JobDraft};
///
/// let mut web = GroupDraft::new("web", ["/usr/bin/web", "--workers=4"], 500, 64 << 20);
/// web.shape.count = 3;
/// web.shape.ports.push(Port { name: "http".into(), number: 0 });
/// web.body.env.insert("LC_ALL".into(), "C".into());
/// let mut job = JobDraft::new("web", "service", JobKind::Forever);
/// job.shape.priority = 70;
/// job.groups.push(web);
/// let request = SubmitRequest { spec: Some(job.spec()), ..SubmitRequest::default() };
/// ```
#[derive(Clone, Debug, PartialEq)]
pub struct JobDraft {
    /// The job but for its groups, which come with [`JobDraft::spec`].
    pub shape: v1::JobShape,
    /// What runs in it.
    pub groups: Vec<GroupDraft>,
}

/// A group of tasks that are all alike.
#[derive(Clone, Debug, PartialEq)]
pub struct GroupDraft {
    /// How many, what each needs, and where it may run.
    pub shape: v1::GroupShape,
    /// What each does.
    pub body: v1::GroupBody,
}

impl JobDraft {
    /// A job without groups yet, for a scheduler.
    #[must_use]
    pub fn new(name: &str, scheduler: &str, kind: JobKind) -> Self {
        let shape = v1::JobShape {
            namespace: "default".into(),
            name: name.into(),
            scheduler: scheduler.into(),
            priority: 50,
            kind: kind.into(),
            ..v1::JobShape::default()
        };
        Self { shape, groups: Vec::new() }
    }

    /// The job, as it is submitted. Of a group that says nothing of `retry`, each task is tried twice more, a second after each failure; without a limit in a job that runs
    /// for ever.
    #[must_use]
    pub fn spec(self) -> v1::JobSpec {
        let Self { mut shape, groups } = self;
        let attempts = if shape.kind() == JobKind::Forever { ATTEMPTS_UNLIMITED } else { 2 };
        let groups = groups.into_iter().map(|GroupDraft { mut shape, body }| {
            shape.retry.get_or_insert(v1::RetryPolicy { attempts, delay_micros: 1_000_000 });
            (shape, body)
        });
        let (shapes, bodies) = groups.unzip();
        shape.groups = shapes;
        v1::JobSpec { shape: Some(shape), body: Some(v1::JobBody { groups: bodies }) }
    }
}

impl GroupDraft {
    /// One task of a command, with so much CPU and memory: at least 1, and 1 MiB. It is lost a minute after its machine became unreachable, and has 10 s to end once it is asked
    /// to.
    #[must_use]
    pub fn new(
        name: &str,
        command: impl IntoIterator<Item = impl Into<String>>,
        cpu_millis: i64,
        memory_bytes: i64,
    ) -> Self {
        let shape = v1::GroupShape {
            name: name.into(),
            count: 1,
            resources: Some(v1::Resources { cpu_millis, memory_bytes, ..v1::Resources::default() }),
            lost_after_micros: 60_000_000,
            ..v1::GroupShape::default()
        };
        let body = v1::GroupBody {
            name: name.into(),
            driver: "exec".into(),
            command: command.into_iter().map(Into::into).collect(),
            restart: Some(v1::RestartPolicy { attempts: 0, delay_micros: 1_000_000, within_micros: 0 }),
            kill_timeout_micros: 10_000_000,
            ..v1::GroupBody::default()
        };
        Self { shape, body }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_left_out_is_filled_in_and_what_is_said_stays() {
        let spec = |kind, change: fn(&mut JobDraft)| {
            let mut job = JobDraft::new("words", "batch", kind);
            job.groups.push(GroupDraft::new("main", ["true"], 100, 1 << 20));
            change(&mut job);
            plenum_proto::jobs::submit(job.clone().spec()).unwrap();
            job.spec().shape.unwrap()
        };
        let attempts = |shape: v1::JobShape| shape.groups[0].retry.unwrap().attempts;
        assert_eq!(attempts(spec(JobKind::ToCompletion, |_| {})), 2);
        assert_eq!(attempts(spec(JobKind::Forever, |_| {})), ATTEMPTS_UNLIMITED);
        let never = |job: &mut JobDraft| job.groups[0].shape.retry = Some(v1::RetryPolicy::default());
        assert_eq!(attempts(spec(JobKind::Forever, never)), 0);
        let urgent = spec(JobKind::ToCompletion, |job| job.shape.priority = 90);
        assert_eq!((urgent.namespace.as_str(), urgent.priority), ("default", 90));
    }
}
