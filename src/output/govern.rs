//! Quotas, partitions, schedulers, holds and unknown tasks, as listed and as read by programs.

use std::collections::BTreeSet;

use plenum_model::{agreeing, counted};
use plenum_proto::v1::{Constraint, HoldView, PartitionView, Quota, QuotaView, SchedulerView, UnknownTaskView};
use serde_json::{Value, json};

use super::{
    Row, ago,
    allocation::port_names,
    allocation_id, bytes, cpu, device, job_called, json_time, noted, or_dash, quantity,
    quantity::{part, span, whole_seconds},
    seen::{names_given, seen_from_micros},
};

/// Limits of named resources; -1 stands for none.
fn custom_limits(quota: &Quota) -> Vec<Option<i64>> {
    quota.custom.iter().map(|&limit| (limit >= 0).then_some(limit)).collect()
}

impl Row for QuotaView {
    fn titles() -> (&'static [&'static str], &'static [&'static str]) {
        (&["NAMESPACE", "CPU", "MEMORY", "DISK"], &["OTHERS"])
    }

    fn promoted(rows: &[Self]) -> usize {
        let limits_others = |view: &Self| view.limit.iter().flat_map(custom_limits).any(|limit| limit.is_some());
        usize::from(rows.iter().any(limits_others))
    }

    fn cells(&self) -> Vec<String> {
        let (limit, used) = (self.limit.clone().unwrap_or_default(), self.used.clone().unwrap_or_default());
        let others = custom_limits(&limit).into_iter().enumerate().filter_map(|(place, limit)| {
            limit?;
            let used = used.custom.get(place).copied().unwrap_or(0);
            Some(format!("{}={}", quantity::custom_name(place), part(used, limit, |amount| amount.to_string())))
        });
        vec![
            self.namespace.clone(),
            part(used.cpu_millis, limit.cpu_millis, cpu),
            part(used.memory_bytes, limit.memory_bytes, bytes),
            part(used.disk_bytes, limit.disk_bytes, bytes),
            or_dash(&others.collect::<Vec<_>>().join(",")),
        ]
    }

    fn to_json(&self) -> Value {
        let limit = self.limit.clone().unwrap_or_default();
        let mut limits = json!({
            "cpu_millis": limit.cpu_millis,
            "memory_bytes": limit.memory_bytes,
            "disk_bytes": limit.disk_bytes,
        });
        // The wire leaves out what is not limited behind the last one that is.
        let mut custom = custom_limits(&limit);
        custom.resize(custom.len().max(names_given()), None);
        quantity::put_custom(&mut limits, custom.into_iter().map(|limit| json!(limit)));
        json!({
            "namespace": self.namespace,
            "limit": limits,
            "used": quantity::json_resources(self.used.as_ref()),
        })
    }

    fn name(&self) -> String {
        self.namespace.clone()
    }
}

/// A rule as people write it. One that this version can't read is told by its attribute.
pub(super) fn rule(wire: &Constraint) -> String {
    let known = plenum_model::Constraint::try_from(wire.clone());
    known.map_or_else(|_| format!("attr.{} …", wire.attribute), |rule| rule.to_string())
}

impl Row for PartitionView {
    fn titles() -> (&'static [&'static str], &'static [&'static str]) {
        (&["NAME", "MACHINES", "CPU", "MEMORY", "RESERVED FOR", "RULES"], &["DISK", "OTHERS"])
    }

    fn cells(&self) -> Vec<String> {
        let (all, taken) = (self.capacity.clone().unwrap_or_default(), self.allocated.clone().unwrap_or_default());
        let rules: Vec<String> = self.rules.iter().map(rule).collect();
        vec![
            self.name.clone(),
            self.machines.to_string(),
            part(taken.cpu_millis, Some(all.cpu_millis), cpu),
            part(taken.memory_bytes, Some(all.memory_bytes), bytes),
            or_dash(&self.schedulers.join(",")),
            rules.join(" and "),
            part(taken.disk_bytes, Some(all.disk_bytes), bytes),
            quantity::custom_cell(Some(&taken), Some(&all)),
        ]
    }

    fn to_json(&self) -> Value {
        json!({
            "name": self.name,
            "rules": self.rules.iter().map(rule).collect::<Vec<_>>(),
            "schedulers": self.schedulers,
            "machines": self.machines,
            "capacity": quantity::json_resources(self.capacity.as_ref()),
            "allocated": quantity::json_resources(self.allocated.as_ref()),
        })
    }

    fn name(&self) -> String {
        self.name.clone()
    }
}

impl Row for SchedulerView {
    fn titles() -> (&'static [&'static str], &'static [&'static str]) {
        (
            &["NAME", "STATE", "JOBS", "WAITING", "LIVE", "BUSY", "GRANTED", "REFUSED", "LOST"],
            &["QUEUE", "BEHIND", "SAID", "SESSIONS", "EVICTS", "PRIORITY"],
        )
    }

    fn cells(&self) -> Vec<String> {
        let busy = self.busy_millis.map(|busy| format!("{}%", busy.div_ceil(10)));
        let queue = self.waiting_jobs.map(|jobs| jobs.to_string());
        let length = |micros: u64| i64::try_from(micros).unwrap_or(i64::MAX);
        let behind = self.snapshot_age_micros.map(|age| span(length(age)));
        let said = self.pulse_age_micros.map(|age| format!("{} ago", whole_seconds(length(age))));
        let count = |claims: Option<u64>| or_dash(&claims.map(|claims| claims.to_string()).unwrap_or_default());
        vec![
            self.name.clone(),
            state_words(self),
            self.jobs.to_string(),
            self.waiting_tasks.to_string(),
            self.live_tasks.to_string(),
            or_dash(&busy.unwrap_or_default()),
            count(self.claims_granted),
            count(self.claims_refused),
            or_dash(&lost_words(self).unwrap_or_default()),
            or_dash(&queue.unwrap_or_default()),
            or_dash(&behind.unwrap_or_default()),
            or_dash(&said.unwrap_or_default()),
            match self.connected {
                Some(connected) => format!("{connected}/{}", self.sessions),
                None => self.sessions.to_string(),
            },
            or_dash(self.evicts.map(|evicts| if evicts { "yes" } else { "no" }).unwrap_or_default()),
            self.priority.to_string(),
        ]
    }

    fn to_json(&self) -> Value {
        json!({
            "name": self.name,
            "state": scheduler_state(self),
            "paused": self.paused,
            "sessions": self.sessions,
            "connected": self.connected,
            "evicts": self.evicts,
            "priority": self.priority,
            "jobs": self.jobs,
            "waiting_tasks": self.waiting_tasks,
            "live_tasks": self.live_tasks,
            "busy_ratio": self.busy_millis.map(|busy| f64::from(busy) / 1000.0),
            "waiting_jobs": self.waiting_jobs,
            "snapshot_age_micros": self.snapshot_age_micros,
            "pulse_age_micros": self.pulse_age_micros,
            "silent": self.silent,
            "unserved_jobs": self.unserved_jobs,
            "claims_granted": self.claims_granted,
            "claims_refused": self.claims_refused,
            "claims_lost": self.claims_lost,
            "lost_ratio": self.claims_lost.map(|lost| quantity::json_ratio(lost, claims_decided(self))),
        })
    }

    fn name(&self) -> String {
        self.name.clone()
    }

    fn unlogged(&self) -> String {
        let claims = (self.claims_granted, self.claims_refused);
        let (connected, silent, unserved) = (self.connected, self.silent, self.unserved_jobs);
        format!("{connected:?} {:?} {:?} {silent:?} {unserved:?} {claims:?}", self.busy_millis, self.waiting_jobs)
    }
}

/// None of the past, of which nobody knows who was connected.
fn scheduler_state(view: &SchedulerView) -> Option<&'static str> {
    match view {
        SchedulerView { paused: true, .. } => Some("paused"),
        SchedulerView { connected: Some(0), .. } => Some("away"),
        SchedulerView { connected: Some(connected), silent: Some(silent), .. } if silent >= connected => Some("silent"),
        SchedulerView { connected, .. } => connected.map(|_| "connected"),
    }
}

/// The state, and whether some of its members have fallen silent, or none of those that are connected is there for some of its jobs.
fn state_words(view: &SchedulerView) -> String {
    let Some(state) = scheduler_state(view) else { return or_dash("") };
    let silent = view.silent.filter(|silent| state == "connected" && *silent > 0);
    let unserved = view.unserved_jobs.filter(|jobs| matches!(state, "connected" | "silent") && *jobs > 0);
    let silent = silent.map(|silent| format!("{silent} silent"));
    let unserved = unserved.map(|jobs| format!("{} unserved", counted(jobs.into(), "job")));
    let notes: Vec<String> = silent.into_iter().chain(unserved).collect();
    noted(state, &notes)
}

/// Claims of it that were granted or refused.
fn claims_decided(view: &SchedulerView) -> u64 {
    view.claims_granted.unwrap_or(0).saturating_add(view.claims_refused.unwrap_or(0))
}

/// How many of its claims lost a race, and what part of all those is; nothing where that is not told.
fn lost_words(view: &SchedulerView) -> Option<String> {
    let lost = view.claims_lost?;
    let part = quantity::percent(lost, claims_decided(view)).filter(|_| lost > 0);
    Some(part.map_or_else(|| lost.to_string(), |part| format!("{lost} ({part})")))
}

impl Row for HoldView {
    fn titles() -> (&'static [&'static str], &'static [&'static str]) {
        (&["JOB", "SCHEDULER", "PRIORITY", "EACH", "ENDS IN", "MACHINES", "NAMESPACE"], &["WAITS SINCE"])
    }

    fn cells(&self) -> Vec<String> {
        vec![
            self.job.clone(),
            or_dash(&self.scheduler),
            self.priority.to_string(),
            quantity::short_resources(self.resources.as_ref()),
            time_left(self.deadline_micros, span).unwrap_or_else(|| OVERDUE.to_owned()),
            or_dash(&self.machines.join(",")),
            self.namespace.clone(),
            format!("revision {}", self.first_wait_revision),
        ]
    }

    fn to_json(&self) -> Value {
        json!({
            "namespace": self.namespace,
            "job": self.job,
            "scheduler": self.scheduler,
            "priority": self.priority,
            "machines": self.machines,
            "resources": quantity::json_resources(self.resources.as_ref()),
            "deadline": json_time(self.deadline_micros),
            "first_wait_revision": self.first_wait_revision,
        })
    }

    fn name(&self) -> String {
        job_called(&self.namespace, &self.job)
    }
}

/// What a hold takes of each of its machines, for whom, and for how long at most.
pub(crate) fn held_words(view: &HoldView) -> String {
    let left = time_left(view.deadline_micros, whole_seconds);
    let left = left.map_or_else(|| OVERDUE.to_owned(), |left| format!("ends in {left}"));
    format!("{} for {}, {left}", quantity::short_resources(view.resources.as_ref()), view.name())
}

/// Of a hold whose deadline is past, and that is there still: the server was down then, and has decided nothing since.
const OVERDUE: &str = "overdue";

/// How long it is to a moment; `None` of one that is past.
fn time_left(micros: i64, words: impl Fn(i64) -> String) -> Option<String> {
    let left = micros.saturating_sub(seen_from_micros());
    (left > 0).then(|| words(left))
}

impl Row for UnknownTaskView {
    fn titles() -> (&'static [&'static str], &'static [&'static str]) {
        (&["UNKNOWN TASK", "JOB", "TASK", "MACHINE", "FATE", "RESOURCES", "NAMESPACE"], &["PORTS", "DEVICES", "AGE"])
    }

    /// Others wait for its ports and devices, and no allocation has them.
    fn promoted(rows: &[Self]) -> usize {
        let mut tasks = rows.iter().filter_map(|row| row.task.as_ref());
        if tasks.any(|task| !(task.ports.is_empty() && task.devices.is_empty())) { 2 } else { 0 }
    }

    fn cells(&self) -> Vec<String> {
        let task = self.task.clone().unwrap_or_default();
        vec![
            allocation_id(self.allocation),
            or_dash(&task.job),
            format!("{}[{}]", task.group, task.task_index),
            self.machine.clone(),
            fate(self),
            quantity::short_resources(task.resources.as_ref()),
            or_dash(&task.namespace),
            or_dash(&port_names(&task.ports)),
            device::names(&task.devices),
            ago(self.since_micros),
        ]
    }

    fn to_json(&self) -> Value {
        let task = self.task.clone().unwrap_or_default();
        json!({
            "allocation": allocation_id(self.allocation),
            "machine": self.machine,
            "namespace": task.namespace,
            "job": task.job,
            "group": task.group,
            "task_index": task.task_index,
            "resources": quantity::json_resources(task.resources.as_ref()),
            "ports": quantity::json_ports(&task.ports),
            "devices": task.devices.iter().map(device::to_json).collect::<Vec<_>>(),
            "since": json_time(self.since_micros),
            "until": json_time(self.until_micros),
            "adopted": self.until_micros == 0,
            "stopping": self.stopping,
        })
    }

    fn name(&self) -> String {
        allocation_id(self.allocation)
    }
}

fn fate(view: &UnknownTaskView) -> String {
    match view.until_micros {
        _ if view.stopping => "stopping".to_owned(),
        0 => "adopted".to_owned(),
        until => format!("stopped in {}", whole_seconds(until.saturating_sub(seen_from_micros()))),
    }
}

/// Machines of unknown tasks that are named.
const MACHINES_NAMED_MAX: usize = 4;

/// Of a job's tasks that the cell does not know: how many run on, until when, and how to end them. Nothing where there are none.
pub(crate) fn unknown_words(tasks: &[UnknownTaskView], are_more: bool) -> Option<String> {
    let machines: BTreeSet<&str> = tasks.iter().map(|task| task.machine.as_str()).collect();
    let first = machines.first()?;
    let stopping = tasks.iter().filter(|task| task.stopping).count();
    let adopted = tasks.iter().filter(|task| !task.stopping && task.until_micros == 0).count();
    let waiting = tasks.iter().filter(|task| !task.stopping && task.until_micros > 0);
    let last = waiting.clone().max_by_key(|task| task.until_micros);
    let mut fates: Vec<String> =
        last.map(|last| format!("{} {} at the latest", waiting.count(), fate(last))).into_iter().collect();
    fates.extend((adopted > 0).then(|| format!("{adopted} adopted")));
    fates.extend((stopping > 0).then(|| format!("{stopping} stopping")));
    let (least, run) = (if are_more { "at least " } else { "" }, agreeing(tasks.len() as u64, "runs", "run"));
    let named: Vec<&str> = machines.iter().copied().take(MACHINES_NAMED_MAX).collect();
    let others = if machines.len() > MACHINES_NAMED_MAX { " and others" } else { "" };
    Some(format!(
        "{least}{} that the cell does not know {run} on, on {}{others} ({}): `plenum machine show {first}` lists them, `plenum alloc stop ID` ends \
         one at once",
        counted(tasks.len() as u64, "task"),
        named.join(", "),
        fates.join(", ")
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_quota_shows_what_is_used_of_what_is_limited() {
        let limit = Quota { cpu_millis: Some(4000), custom: vec![-1, 7], ..Quota::default() };
        let used = plenum_proto::v1::Resources { cpu_millis: 1500, memory_bytes: 1 << 30, ..Default::default() };
        let view = QuotaView { namespace: "ml".to_owned(), limit: Some(limit), used: Some(used) };
        assert_eq!(view.cells(), ["ml", "1500m/4", "1GiB/-", "0B/-", "custom_2=0/7"]);
        assert_eq!(view.to_json()["limit"]["custom_1"], Value::Null);
        crate::output::name_resources(vec!["seats".into(), "licences".into()]);
        assert_eq!(view.cells()[4], "licences=0/7");
        let limit = view.to_json()["limit"].clone();
        assert_eq!((&limit["custom_2"], &limit["custom"]), (&json!(7), &json!({"seats": null, "licences": 7})));
        assert_eq!(view.to_json()["limit"]["memory_bytes"], Value::Null);
    }

    // Behind the last limited one they were missing, and of a quota of cpu alone all of them.
    #[test]
    fn named_resources_that_are_not_limited_are_null_wherever_they_stand() {
        crate::output::name_resources(vec!["licences".into(), "seats".into()]);
        let limit = |custom: &[i64]| {
            let limit = Quota { cpu_millis: Some(2000), custom: custom.to_vec(), ..Quota::default() };
            QuotaView { limit: Some(limit), ..QuotaView::default() }.to_json()["limit"].clone()
        };
        let (one, none) = (limit(&[3]), limit(&[]));
        assert_eq!(one["custom"], json!({"licences": 3, "seats": null}));
        assert_eq!(none["custom"], json!({"licences": null, "seats": null}));
        let keys = |limit: &Value| limit.as_object().map(|limit| limit.keys().cloned().collect::<Vec<_>>());
        assert_eq!(keys(&one), keys(&none));
        assert_eq!((one.get("custom_2"), none.get("custom_1")), (Some(&Value::Null), Some(&Value::Null)));
    }

    // With a limit of licences alone it looked as if nothing were limited.
    #[test]
    fn a_quota_of_named_resources_shows_them_without_being_asked() {
        let quota = |custom: &[i64]| {
            let limit = Quota { cpu_millis: Some(4000), custom: custom.to_vec(), ..Quota::default() };
            QuotaView { limit: Some(limit), ..QuotaView::default() }
        };
        let titles = |rows: &[QuotaView], format| {
            let table = crate::output::listing(format, 1, rows, false);
            table.lines().next().unwrap_or_default().split_whitespace().map(str::to_owned).collect::<Vec<_>>()
        };
        use crate::output::Format::{Table, Wide};
        assert_eq!(titles(&[quota(&[]), quota(&[-1, 7])], Table), ["NAMESPACE", "CPU", "MEMORY", "DISK", "OTHERS"]);
        assert_eq!(titles(&[quota(&[]), quota(&[-1])], Table), ["NAMESPACE", "CPU", "MEMORY", "DISK"]);
        assert_eq!(titles(&[quota(&[])], Wide).len(), 5);
    }

    // It was said to end in 0us, for as long as the server had nothing to decide.
    #[test]
    fn a_hold_whose_deadline_is_past_is_overdue() {
        let in_minutes = |minutes: i64| {
            let deadline_micros = seen_from_micros() + minutes * 60_000_000 + 500_000;
            let view = HoldView { job: "gang".into(), deadline_micros, ..HoldView::default() };
            (view.cells()[4].clone(), held_words(&view).rsplit_once(", ").map(|(_, left)| left.to_owned()))
        };
        assert_eq!(in_minutes(1), ("60s".into(), Some("ends in 60s".into())));
        assert_eq!(in_minutes(-1), ("overdue".into(), Some("overdue".into())));
    }

    #[test]
    fn a_rule_is_written_as_it_is_read() {
        for text in ["attr.rack == \"a\"", "attr.kernel >= \"5.10\"", "attr.arch in [\"x86_64\", \"aarch64\"]"] {
            let constraint = crate::job_file::constraint(text);
            assert_eq!(constraint.map(|constraint| rule(&constraint)), Ok(text.to_owned()));
        }
    }

    #[test]
    fn a_scheduler_of_the_past_is_not_said_to_be_away() {
        let view =
            |connected| SchedulerView { name: "ml".to_owned(), sessions: 2, connected, ..SchedulerView::default() };
        let states = [Some(0), Some(1), None].map(|connected| view(connected).cells().swap_remove(1));
        assert_eq!(states, ["away", "connected", "-"]);
        let silent = |silent| SchedulerView { silent: Some(silent), ..view(Some(2)) };
        let states = [0, 1, 2].map(|count| silent(count).cells().swap_remove(1));
        assert_eq!(states, ["connected", "connected (1 silent)", "silent"]);
        assert_eq!([1, 2].map(|count| silent(count).to_json()["state"].clone()), ["connected", "silent"]);
        // Jobs of a namespace that none of its sessions is there for waited for nobody, and it was said to be connected.
        let unserved = |jobs, view| SchedulerView { unserved_jobs: Some(jobs), ..view };
        let rows = [
            unserved(0, view(Some(1))),
            unserved(2, view(Some(1))),
            unserved(1, silent(1)),
            unserved(1, view(Some(0))),
        ];
        let states = rows.map(|row| row.cells().swap_remove(1));
        let expected = ["connected", "connected (2 jobs unserved)", "connected (1 silent, 1 job unserved)", "away"];
        assert_eq!(states, expected);
        assert_eq!(unserved(2, view(Some(1))).to_json()["state"], "connected");
        assert_ne!(unserved(2, view(Some(1))).unlogged(), view(Some(1)).unlogged(), "who watches the list is told");
        assert_eq!(view(None).to_json()["connected"], Value::Null);
        assert_eq!(view(None).to_json()["state"], Value::Null);
        assert_eq!([Some(1), None].map(|connected| view(connected).cells().swap_remove(12)), ["1/2", "2"]);
    }

    #[test]
    fn a_scheduler_that_says_how_it_does_has_it_in_its_row() {
        let silent = SchedulerView { name: "ml".to_owned(), ..SchedulerView::default() };
        let told = |view: &SchedulerView| {
            let cells = view.cells();
            [5, 9, 10, 11].map(|place| cells[place].clone())
        };
        assert_eq!(told(&silent), ["-", "-", "-", "-"]);
        assert_eq!(silent.to_json()["busy_ratio"], Value::Null);
        let (busy_millis, waiting_jobs, snapshot_age_micros) = (Some(1251), Some(3), Some(1500));
        let pulse_age_micros = Some(3_900_000);
        let busy = SchedulerView { busy_millis, waiting_jobs, snapshot_age_micros, pulse_age_micros, ..silent.clone() };
        assert_eq!(told(&busy), ["126%", "3", "1.5ms", "3s ago"]);
        assert_eq!(busy.to_json()["busy_ratio"], json!(1.251));
        assert_ne!(busy.unlogged(), silent.unlogged(), "who watches the list is told");
    }

    // Which scheduler loses was a question for whoever had a monitoring system that kept the counters of claims.
    #[test]
    fn a_scheduler_that_loses_shows_how_many_of_its_claims_and_what_part_of_them() {
        let view = |claims: Option<(u64, u64, u64)>| SchedulerView {
            claims_granted: claims.map(|(granted, ..)| granted),
            claims_refused: claims.map(|(_, refused, _)| refused),
            claims_lost: claims.map(|(.., lost)| lost),
            ..SchedulerView::default()
        };
        let told = |claims| view(claims).cells()[6..9].join(" ");
        assert_eq!(told(Some((30, 10, 1))), "30 10 1 (2.5%)");
        // Refused for its quota alone; and one that claims nothing.
        assert_eq!((told(Some((30, 10, 0))), told(Some((0, 0, 0)))), ("30 10 0".to_owned(), "0 0 0".to_owned()));
        assert_eq!(told(None), "- - -", "of the past nobody counts them");
        let ratio = |claims| view(claims).to_json()["lost_ratio"].clone();
        assert_eq!([Some((30, 10, 1)), Some((0, 0, 0)), None].map(ratio), [json!(0.025), Value::Null, Value::Null]);
        assert_ne!(view(Some((30, 10, 1))).unlogged(), view(Some((31, 10, 1))).unlogged());
    }

    // `plenum hold list -o name` named a job of another namespace.
    #[test]
    fn a_hold_is_called_as_its_job_is() {
        let hold = |namespace: &str| HoldView {
            namespace: namespace.to_owned(),
            job: "web".to_owned(),
            ..HoldView::default()
        };
        assert_eq!([hold("default").name(), hold("ml").name()], ["web", "ml/web"]);
        crate::output::look_from(60_000_000);
        let resources = Some(plenum_proto::v1::Resources { cpu_millis: 270, ..Default::default() });
        let gold = HoldView { resources, deadline_micros: 85_000_000, ..hold("gold") };
        assert_eq!(held_words(&gold), "cpu 270m, memory 0B for gold/web, ends in 25s");
    }

    #[test]
    fn an_unknown_task_shows_what_becomes_of_it() {
        let view = |until_micros, stopping| UnknownTaskView { until_micros, stopping, ..UnknownTaskView::default() };
        assert_eq!(
            [fate(&view(0, false)), fate(&view(1, true)), fate(&view(1, false))],
            ["adopted", "stopping", "stopped in 0s"]
        );
    }

    // A port and two devices were in use, and no list had anybody who has them: whether the unknown task is in the way nobody could tell.
    #[test]
    fn an_unknown_task_shows_its_ports_and_devices() {
        use plenum_proto::v1::{Device, Port, TaskTraces};
        let with = |ports: &[Port], devices: &[Device]| {
            let (ports, devices) = (ports.to_vec(), devices.to_vec());
            let task = TaskTraces { job: "train".to_owned(), ports, devices, ..TaskTraces::default() };
            UnknownTaskView { task: Some(task), ..UnknownTaskView::default() }
        };
        let port = Port { name: "x".to_owned(), number: 9445 };
        let gpu = |index| Device { kind: "gpu".to_owned(), index, millis: 1000, model: "t4".to_owned() };
        let listed = |rows: &[UnknownTaskView]| super::super::listing(super::super::Format::Table, 7, rows, false);
        let bare = listed(&[with(&[], &[]), UnknownTaskView::default()]);
        assert!(!bare.contains("PORTS") && !bare.contains("AGE"), "{bare}");
        let both = with(&[port], &[gpu(0), gpu(1)]);
        let text = listed(std::slice::from_ref(&both));
        assert!(text.contains("x=9445") && text.contains("gpu[0], gpu[1]") && !text.contains("AGE"), "{text}");
        let json = both.to_json();
        assert_eq!(json["ports"], json!({"x": 9445}));
        assert_eq!(json["devices"][1], json!({"kind": "gpu", "index": 1, "millis": 1000, "model": "t4"}));
        let nothing_kept = UnknownTaskView::default().to_json();
        assert_eq!((&nothing_kept["ports"], &nothing_kept["devices"]), (&json!({}), &json!([])));
    }

    // A job that was stopped after a restore had no task left, while six of its processes ran on for a quarter of an hour.
    #[test]
    fn unknown_tasks_of_a_job_are_told_with_their_end_and_what_ends_them() {
        super::super::look_from(60_000_000);
        let task = |machine: &str, until_micros, stopping| UnknownTaskView {
            machine: machine.to_owned(),
            until_micros,
            stopping,
            ..UnknownTaskView::default()
        };
        assert_eq!(unknown_words(&[], false), None);
        let one = unknown_words(&[task("m1", 0, false)], false).unwrap_or_default();
        assert!(one.starts_with("1 task that the cell does not know runs on, on m1 (1 adopted): "), "{one}");
        assert!(one.contains("`plenum machine show m1`") && one.contains("`plenum alloc stop ID`"), "{one}");
        let several = [
            task("m2", 65_000_000, false),
            task("m1", 90_000_000, false),
            task("m1", 0, false),
            task("m1", 61_000_000, true),
        ];
        let told = unknown_words(&several, true).unwrap_or_default();
        let expected = "at least 4 tasks that the cell does not know run on, on m1, m2 (2 stopped in 30s at the latest, 1 adopted, 1 stopping): ";
        assert!(told.starts_with(expected), "{told}");
    }
}
