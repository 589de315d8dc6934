//! Jobs, as listed and as read by programs.

use plenum_model::JobId;
use plenum_proto::v1::{GroupBody, GroupShape, GroupView, JobKind, JobState, JobView};
use serde_json::{Value, json};

use super::{Row, ago, asked, device, json_time, noted, or_dash, or_null, quantity};

/// The cell counts a task's failures no further.
const FAILURES_TOLD_MAX: u32 = 255;

/// What a job is called on the command line: with its namespace, unless that is the usual one.
pub(crate) fn job_called(namespace: &str, name: &str) -> String {
    match namespace {
        "" | "default" => name.to_owned(),
        namespace => format!("{namespace}/{name}"),
    }
}

/// The same of "namespace/name", as answers have it; a text without a namespace stays as it is.
pub(super) fn full_name_called(full: &str) -> String {
    let (namespace, name) = parts_of_full_name(full);
    job_called(namespace, name)
}

/// Namespace and name of "namespace/name", as answers have it; without a namespace the whole is the name.
pub(super) fn parts_of_full_name(full: &str) -> (&str, &str) {
    full.split_once('/').unwrap_or(("", full))
}

/// The state's name.
pub(crate) fn job_state(state: JobState) -> &'static str {
    match state {
        JobState::Unspecified => "unknown",
        JobState::JobWaiting => "waiting",
        JobState::JobRunning => "running",
        JobState::JobComplete => "complete",
        JobState::JobFailed => "failed",
        JobState::JobStopped => "stopped",
    }
}

/// The state in the words of the status: what is launched from waits for nothing, and is not over.
fn state_word(job: &JobView) -> &'static str {
    let is_recurring = job.shape.as_ref().is_some_and(|shape| shape.kind() == JobKind::Recurring);
    if is_recurring && job.state() == JobState::JobWaiting { "recurring" } else { job_state(job.state()) }
}

/// The state, whether tasks fail again and again, as such a job runs between two of its starts, whether all that is left of it waits to be placed again, and how
/// many tasks are on machines that nobody hears of.
pub(crate) fn state_words(job: &JobView) -> String {
    let state = state_word(job);
    let mut beside: Vec<String> = Vec::new();
    let is_failing = failing(job) > 0;
    beside.extend(is_failing.then(|| "failing".to_owned()));
    // Of what fails again and again that says less: it waits for its next try.
    beside.extend((!is_failing && is_waiting_again(job)).then(|| "waiting".to_owned()));
    beside.extend(Some(unreachable(job)).filter(|&away| away > 0).map(|away| format!("{away} unreachable")));
    noted(state, &beside)
}

/// Whether tasks wait of a job of which something was granted before, and none of it has room now, but for what leaves.
fn is_waiting_again(job: &JobView) -> bool {
    job.state() == JobState::JobRunning
        && sum(job, |group| group.waiting) > 0
        && sum(job, |group| group.granted + group.starting + group.running) == 0
}

/// Tasks on machines that are unreachable.
fn unreachable(job: &JobView) -> u64 {
    sum(job, |group| group.unreachable)
}

/// Tasks that fail again and again.
fn failing(job: &JobView) -> u64 {
    sum(job, |group| group.failing)
}

/// Which groups have tasks that fail again and again, and where to read more; nothing where none does.
pub(crate) fn failing_words(job: &JobView) -> Option<String> {
    let of_group =
        |group: &GroupView| format!("{}: {} of {}, {}", group.name, group.failing, group.count, how_often(group));
    let groups: Vec<String> = job.groups.iter().filter(|group| group.failing > 0).map(of_group).collect();
    if groups.is_empty() {
        return None;
    }
    let (groups, name) = (groups.join("; "), job.name());
    Some(format!("{groups}; `plenum job history {name}` and `plenum alloc list --job {name} --all` tell how"))
}

/// Why tasks of a job wait, each group for itself. A cell tells it as one text, in which a semicolon also stands within what it says of a group.
pub(crate) fn waiting_reasons(job: &JobView) -> Vec<&str> {
    const BETWEEN: &str = "; ";
    let is_of_a_group = |text: &str| {
        let behind =
            |group: &GroupView| text.strip_prefix(group.name.as_str()).is_some_and(|rest| rest.starts_with(": "));
        job.groups.iter().any(behind)
    };
    let (mut reasons, mut rest) = (Vec::new(), job.waiting_reason.as_str());
    while !rest.is_empty() {
        let mut ends = rest.match_indices(BETWEEN).map(|(end, _)| end);
        let end = ends.find(|end| is_of_a_group(&rest[end + BETWEEN.len()..])).unwrap_or(rest.len());
        reasons.push(&rest[..end]);
        rest = rest.get(end + BETWEEN.len()..).unwrap_or_default();
    }
    reasons
}

/// How often tasks of a group failed that fail again and again.
pub(crate) fn how_often(group: &GroupView) -> String {
    match group.failures {
        0 | 1 => "restarted again and again".to_owned(),
        FAILURES_TOLD_MAX => format!("up to {FAILURES_TOLD_MAX} times or more"),
        failures => format!("up to {failures} times"),
    }
}

fn sum(job: &JobView, count: impl Fn(&GroupView) -> u32) -> u64 {
    job.groups.iter().map(|group| u64::from(count(group))).sum()
}

fn group_json(group: &GroupView, shape: Option<&GroupShape>, body: Option<&GroupBody>) -> Value {
    let mut object = json!({
        "name": group.name,
        "count": group.count,
        "waiting": group.waiting,
        "granted": group.granted,
        "starting": group.starting,
        "running": group.running,
        "stopping": group.stopping,
        "lost": group.lost,
        "complete": group.done,
        "failed": group.failed,
        "attempts": group.attempts,
        "failing": group.failing,
        "unreachable": group.unreachable,
        "failures": group.failures,
        "not_before": json_time(group.not_before_micros),
        "staying": or_null(&group.staying),
        "after": shape.map(|shape| shape.after.clone()).unwrap_or_default(),
        "resources": shape.map(wanted_json),
    });
    if let Some(shape) = shape {
        asked::put(&mut object, shape, body);
    }
    object
}

/// What each task of a group asks for of its machine.
fn wanted_json(shape: &GroupShape) -> Value {
    // A group that says nothing of an amount asks for none.
    let mut object = quantity::json_resources(Some(&shape.resources.clone().unwrap_or_default()));
    object["devices"] = shape.devices.iter().map(device::wanted_json).collect();
    object["ports"] = quantity::json_ports(&shape.ports);
    object
}

impl Row for JobView {
    fn titles() -> (&'static [&'static str], &'static [&'static str]) {
        (
            &[
                "NAME",
                "SCHEDULER",
                "STATE",
                "WAITING",
                "STARTING",
                "RUNNING",
                "LEAVING",
                "DONE",
                "FAILED",
                "AGE",
                "NAMESPACE",
            ],
            &["VERSION", "PRIORITY", "GROUPS", "WAITING REASON"],
        )
    }

    fn cells(&self) -> Vec<String> {
        let shape = self.shape.clone().unwrap_or_default();
        let groups: Vec<&str> = self.groups.iter().map(|group| group.name.as_str()).collect();
        vec![
            shape.name,
            shape.scheduler,
            state_words(self),
            sum(self, |group| group.waiting).to_string(),
            sum(self, |group| group.granted + group.starting).to_string(),
            sum(self, |group| group.running).to_string(),
            sum(self, |group| group.stopping + group.lost).to_string(),
            sum(self, |group| group.done).to_string(),
            sum(self, |group| group.failed).to_string(),
            ago(self.submitted_micros),
            shape.namespace,
            self.version.to_string(),
            shape.priority.to_string(),
            groups.join(","),
            or_dash(&self.waiting_reason),
        ]
    }

    fn to_json(&self) -> Value {
        let shape = self.shape.as_ref();
        let groups = self.groups.iter().enumerate().map(|(position, group)| {
            let shape = shape.and_then(|shape| shape.groups.get(position));
            group_json(group, shape, self.body.as_ref().and_then(|body| body.groups.get(position)))
        });
        json!({
            "id": JobId::from_bits(self.id).map(|id| id.to_string()),
            "name": shape.map(|shape| &shape.name),
            "namespace": shape.map(|shape| &shape.namespace),
            "version": self.version,
            "scheduler": shape.map(|shape| &shape.scheduler),
            "state": job_state(self.state()),
            "failing": failing(self),
            "unreachable": unreachable(self),
            "priority": shape.map(|shape| shape.priority),
            "runs": shape.map(|shape| match shape.kind() {
                JobKind::Forever => "forever",
                JobKind::Recurring => "recurring",
                JobKind::ToCompletion | JobKind::Unspecified => "to-completion",
            }),
            "same_machine": shape.map(|shape| shape.same_machine),
            "groups": groups.collect::<Vec<_>>(),
            "waiting_reason": or_null(&self.waiting_reason),
            "reason": or_null(&self.reason),
            "submitted_at": json_time(self.submitted_micros),
            "parent": or_null(&self.parent),
            "instant": shape.map(|shape| json_time(shape.instant_micros)),
            "last_instant": self.last_instant_micros.map(json_time),
            "options": shape.map(|shape| &shape.options),
        })
    }

    fn name(&self) -> String {
        self.shape.as_ref().map_or_else(String::new, |shape| job_called(&shape.namespace, &shape.name))
    }

    fn unlogged(&self) -> String {
        format!("{} {}", failing(self), self.waiting_reason)
    }
}

impl Row for GroupView {
    fn titles() -> (&'static [&'static str], &'static [&'static str]) {
        (&["GROUP", "COUNT", "WAITING", "STARTING", "RUNNING", "LEAVING", "DONE", "FAILED", "ATTEMPTS"], &[])
    }

    fn cells(&self) -> Vec<String> {
        vec![
            self.name.clone(),
            self.count.to_string(),
            self.waiting.to_string(),
            (self.granted + self.starting).to_string(),
            self.running.to_string(),
            (self.stopping + self.lost).to_string(),
            self.done.to_string(),
            self.failed.to_string(),
            self.attempts.to_string(),
        ]
    }

    fn to_json(&self) -> Value {
        group_json(self, None, None)
    }

    fn name(&self) -> String {
        self.name.clone()
    }
}

#[cfg(test)]
mod tests {
    use plenum_proto::v1::{Device, JobShape, Port, Resources};

    use super::*;

    // Of a job of five groups it was one line of 600 characters, in which nobody saw where a group began.
    #[test]
    fn why_a_job_waits_is_told_group_by_group() {
        let of = |waiting_reason: &str| {
            let groups =
                ["cpu", "gang"].map(|name| GroupView { name: name.to_owned(), ..GroupView::default() }).to_vec();
            JobView { groups, waiting_reason: waiting_reason.to_owned(), ..JobView::default() }
        };
        let cpu = "cpu: 1 waiting: of 4 machines 4 lack cpu by at least 1000m; nearest is m2";
        let (gang, staying) =
            ("gang: 40 waiting: no room; start others; more: m3", "gang: 1 stays on a machine that is drained");
        assert_eq!(waiting_reasons(&of(&[cpu, gang, staying].join("; "))), [cpu, gang, staying]);
        let recurring = "it is recurring, and waits for its first launch; `plenum job launch web` launches it by hand";
        assert_eq!(waiting_reasons(&of(recurring)), [recurring]);
        assert_eq!(waiting_reasons(&of("")), [""; 0]);
    }

    // A job for GPUs looked like one without.
    #[test]
    fn programs_read_all_that_a_group_asks_for() {
        let gpu = |index| Device { kind: "gpu".to_owned(), index, millis: 1000, model: String::new() };
        let port = |name: &str, number| Port { name: name.to_owned(), number };
        let group = GroupShape {
            resources: Some(Resources { cpu_millis: 500, ..Resources::default() }),
            devices: vec![gpu(0), gpu(1)],
            ports: vec![port("http", 0), port("admin", 9100)],
            ..GroupShape::default()
        };
        let plain = GroupShape { resources: group.resources.clone(), ..GroupShape::default() };
        let shape = JobShape { groups: vec![group, plain], ..JobShape::default() };
        let view = JobView { shape: Some(shape), groups: vec![GroupView::default(); 2], ..JobView::default() };
        let object = view.to_json();
        let wanted = json!({"kind": "gpu", "millis": 1000, "model": ""});
        assert_eq!(
            object["groups"][0]["resources"],
            json!({
                "cpu_millis": 500,
                "memory_bytes": 0,
                "disk_bytes": 0,
                "devices": [wanted, wanted],
                "ports": {"http": 0, "admin": 9100},
            })
        );
        let plain = &object["groups"][1]["resources"];
        assert_eq!((&plain["devices"], &plain["ports"]), (&json!([]), &json!({})));
    }

    // Tasks that had been granted room which others still left were listed as running, and those that left it stood nowhere.
    #[test]
    fn a_list_of_jobs_counts_tasks_as_the_table_of_groups_does() {
        let count = |granted, starting, running, stopping, lost| GroupView {
            granted,
            starting,
            running,
            stopping,
            lost,
            ..GroupView::default()
        };
        let groups = vec![count(2, 1, 4, 0, 0), count(0, 0, 1, 5, 2)];
        let view = JobView { groups, ..JobView::default() };
        let (narrow, wide) = JobView::titles();
        assert_eq!(view.cells().len(), narrow.len() + wide.len());
        let shown = ["STARTING", "RUNNING", "LEAVING"].map(|title| {
            let column = narrow.iter().position(|known| *known == title).unwrap();
            view.cells()[column].clone()
        });
        assert_eq!(shown, ["3", "5", "7"]);
    }

    #[test]
    fn a_job_whose_tasks_fail_again_and_again_says_so_beside_its_state() {
        let group = |name: &str, count, failing, failures| GroupView {
            name: name.to_owned(),
            count,
            failing,
            failures,
            ..GroupView::default()
        };
        let shape = JobShape { name: "web".to_owned(), ..JobShape::default() };
        let running = JobView { shape: Some(shape), state: JobState::JobRunning.into(), ..JobView::default() };
        let sound = JobView { groups: vec![group("main", 3, 0, 7)], ..running.clone() };
        assert_eq!(
            (state_words(&sound).as_str(), failing_words(&sound)),
            ("running", None),
            "what failed once upon a time"
        );
        let groups = vec![group("a", 3, 1, 255), group("b", 1, 0, 1), group("c", 2, 2, 5), group("d", 1, 1, 0)];
        let failing = JobView { groups, ..running };
        assert_eq!(failing.cells()[2], "running (failing)");
        assert_eq!(
            failing_words(&failing).unwrap(),
            "a: 1 of 3, up to 255 times or more; c: 2 of 2, up to 5 times; d: 1 of 1, restarted again and again; \
             `plenum job history web` and `plenum alloc list --job web --all` tell how"
        );
        let shape = failing.shape.clone().map(|shape| JobShape { namespace: "ml".to_owned(), ..shape });
        let told = failing_words(&JobView { shape, ..failing.clone() }).unwrap();
        assert!(told.contains("`plenum job history ml/web` and `plenum alloc list --job ml/web --all`"), "{told}");
        let object = failing.to_json();
        assert_eq!((&object["state"], &object["failing"]), (&json!("running"), &json!(4)), "programs know five states");
        assert_eq!((&object["groups"][2]["failing"], &object["groups"][2]["failures"]), (&json!(2), &json!(5)));
        assert_ne!(failing.unlogged(), sound.unlogged(), "who watches the list is told");
    }

    // All of a job's tasks were on a machine that was gone, and it was listed as any other that runs.
    #[test]
    fn a_job_with_tasks_on_unreachable_machines_says_so_beside_its_state() {
        let group = |failing, unreachable| GroupView { failing, unreachable, ..GroupView::default() };
        let job = |groups: Vec<GroupView>| JobView { groups, state: JobState::JobRunning.into(), ..Default::default() };
        assert_eq!(job(vec![group(0, 0), group(0, 0)]).cells()[2], "running");
        let away = job(vec![group(0, 2), group(0, 1)]);
        assert_eq!(away.cells()[2], "running (3 unreachable)");
        assert_eq!(job(vec![group(1, 2)]).cells()[2], "running (failing, 2 unreachable)");
        let object = away.to_json();
        assert_eq!(
            (&object["state"], &object["unreachable"]),
            (&json!("running"), &json!(3)),
            "programs know five states"
        );
        assert_eq!(object["groups"][1]["unreachable"], 1);
    }

    // It was `waiting` in the list, with 0 that wait, and `recurring` where the status counts jobs.
    #[test]
    fn a_recurring_job_is_told_as_the_status_counts_it() {
        let job = |kind: JobKind, state: JobState| {
            let shape = Some(JobShape { kind: kind.into(), ..JobShape::default() });
            JobView { shape, state: state.into(), ..JobView::default() }
        };
        let recurring = job(JobKind::Recurring, JobState::JobWaiting);
        assert_eq!(recurring.cells()[2], "recurring");
        assert_eq!(recurring.to_json()["state"], "waiting", "programs know five states");
        assert_eq!(state_words(&job(JobKind::Recurring, JobState::JobStopped)), "stopped");
        assert_eq!(state_words(&job(JobKind::ToCompletion, JobState::JobWaiting)), "waiting");
    }

    // A gang that had lost its machines, and waited for others, was listed as any other that runs.
    #[test]
    fn a_job_of_which_all_waits_again_says_so_beside_its_state() {
        let group = |waiting, granted, running, lost, failing| GroupView {
            waiting,
            granted,
            running,
            lost,
            failing,
            ..GroupView::default()
        };
        let job = |groups: Vec<GroupView>| JobView { groups, state: JobState::JobRunning.into(), ..Default::default() };
        let told = |groups: Vec<GroupView>| state_words(&job(groups));
        let again = job(vec![group(4, 0, 0, 2, 0)]);
        assert_eq!(again.cells()[2], "running (waiting)", "what leaves does not run");
        assert_eq!(again.to_json()["state"], "running", "programs know five states");
        assert_eq!(told(vec![group(4, 0, 0, 0, 0), group(0, 0, 1, 0, 0)]), "running");
        assert_eq!(told(vec![group(4, 1, 0, 0, 0)]), "running", "it has room, and starts");
        assert_eq!(told(vec![group(0, 0, 0, 2, 0)]), "running", "nothing waits");
        assert_eq!(told(vec![group(4, 0, 0, 0, 4)]), "running (failing)");
        let new = JobView { state: JobState::JobWaiting.into(), ..again };
        assert_eq!(state_words(&new), "waiting");
    }
}
