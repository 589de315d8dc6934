//! Jobs for tests, in one line.

use plenum_proto::v1;
use plenum_sdk::{GroupDraft, JobDraft};

/// A [`JobDraft`] to completion, with groups whose tasks have 1 MiB and run `true`, are tried three times more after a second each, and killed at once when they are to
/// stop.
#[derive(Clone, Debug)]
pub struct JobBuilder {
    draft: JobDraft,
}

impl JobBuilder {
    /// A job without groups, for a scheduler.
    #[must_use]
    pub fn new(name: &str, scheduler: &str) -> Self {
        Self { draft: JobDraft::new(name, scheduler, v1::JobKind::ToCompletion) }
    }

    /// Adds a group of `count` tasks with so much CPU each.
    #[must_use]
    pub fn group(mut self, name: &str, count: u32, cpu_millis: i64) -> Self {
        let mut group = GroupDraft::new(name, ["/bin/true"], cpu_millis, 1 << 20);
        group.shape.count = count;
        group.shape.retry = Some(v1::RetryPolicy { attempts: 3, delay_micros: 1_000_000 });
        (group.body.restart, group.body.kill_timeout_micros) = (None, 0);
        self.draft.groups.push(group);
        self
    }

    /// Another namespace.
    #[must_use]
    pub fn namespace(mut self, namespace: &str) -> Self {
        self.draft.shape.namespace = namespace.into();
        self
    }

    /// The last group starts after another one.
    #[must_use]
    pub fn after(mut self, group: &str) -> Self {
        self.last().after.push(group.into());
        self
    }

    /// The last group needs an attribute to have a value.
    #[must_use]
    pub fn on(mut self, attribute: &str, value: &str) -> Self {
        self.last().constraints.push(v1::Constraint {
            attribute: attribute.into(),
            operator: v1::Operator::Equal.into(),
            values: vec![value.into()],
        });
        self
    }

    /// The last group would rather have machines on which an attribute has a value, or rather not: -100 to 100.
    #[must_use]
    pub fn wish(mut self, attribute: &str, value: &str, weight: i32) -> Self {
        let rule = v1::Constraint {
            attribute: attribute.into(),
            operator: v1::Operator::Equal.into(),
            values: vec![value.into()],
        };
        self.last().affinities.push(v1::Affinity { rule: Some(rule), weight });
        self
    }

    /// Each task of the last group gets so many thousandths of one GPU.
    #[must_use]
    pub fn gpu(mut self, millis: i32) -> Self {
        self.last().devices.push(v1::Device { kind: "gpu".into(), millis, ..v1::Device::default() });
        self
    }

    /// The same, of a model.
    #[must_use]
    pub fn gpu_of(mut self, model: &str, millis: i32) -> Self {
        self.last().devices.push(v1::Device {
            kind: "gpu".into(),
            millis,
            model: model.into(),
            ..v1::Device::default()
        });
        self
    }

    /// Each task of the last group gets a port; number 0: any.
    #[must_use]
    pub fn port(mut self, name: &str, number: u32) -> Self {
        self.last().ports.push(v1::Port { name: name.into(), number });
        self
    }

    /// At most so many tasks of the last group on machines with equal values of an attribute.
    #[must_use]
    pub fn spread(mut self, attribute: &str, at_most: u32) -> Self {
        self.last().spread.push(v1::Spread { attribute: attribute.into(), at_most });
        self
    }

    /// At most so many tasks of the last group on one machine.
    #[must_use]
    pub fn per_machine(mut self, tasks: u32) -> Self {
        self.last().per_machine = tasks;
        self
    }

    /// A task of the last group is placed again only when nothing of the one before it runs.
    #[must_use]
    pub fn single_instance(mut self) -> Self {
        self.last().single_instance = true;
        self
    }

    /// Fewest tasks that the last group starts with.
    #[must_use]
    pub fn min(mut self, tasks: u32) -> Self {
        self.last().min = tasks;
        self
    }

    /// The job runs for ever, and so do the tasks of its groups so far, which are tried again however often they fail: a `retry` comes after it.
    #[must_use]
    pub fn forever(mut self) -> Self {
        self.draft.shape.kind = v1::JobKind::Forever.into();
        for group in &mut self.draft.groups {
            group.body.command = vec!["/bin/sleep".into(), "infinity".into()];
        }
        self.forgiving()
    }

    /// Tasks of the last group are tried again after so many failures each, and after a pause. 0: the first failure of one is the job's.
    #[must_use]
    pub fn retry(mut self, attempts: u32, delay_micros: i64) -> Self {
        self.last().retry = Some(v1::RetryPolicy { attempts, delay_micros });
        self
    }

    /// A task of the last group is lost so many microseconds after its machine became unreachable; -1: never by itself.
    #[must_use]
    pub fn lost_after(mut self, micros: i64) -> Self {
        self.last().lost_after_micros = micros;
        self
    }

    /// The tasks of its groups so far are tried again however often they fail, after a second.
    #[must_use]
    pub fn forgiving(mut self) -> Self {
        for group in &mut self.draft.groups {
            group.shape.retry = Some(v1::RetryPolicy { attempts: u32::MAX, delay_micros: 1_000_000 });
        }
        self
    }

    /// An option of its scheduler, as in `[options]` of a job file.
    #[must_use]
    pub fn option(mut self, name: &str, value: &str) -> Self {
        self.draft.shape.options.insert(name.into(), value.into());
        self
    }

    /// All its tasks share one machine.
    #[must_use]
    pub fn same_machine(mut self) -> Self {
        self.draft.shape.same_machine = true;
        self
    }

    /// 0 to 99, higher first.
    #[must_use]
    pub fn priority(mut self, priority: u32) -> Self {
        self.draft.shape.priority = priority;
        self
    }

    /// The job, as it is submitted.
    #[must_use]
    pub fn spec(&self) -> v1::JobSpec {
        self.draft.clone().spec()
    }

    fn last(&mut self) -> &mut v1::GroupShape {
        &mut self.draft.groups.last_mut().expect("a group comes before what is said of it").shape
    }
}
