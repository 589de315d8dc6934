//! The cell in a few lines.

use std::{collections::BTreeMap, time::Duration};

use plenum_model::{agreeing, counted};
use plenum_proto::v1::{HeldRoom, OldestHold, Resources, StatusResponse};
use serde_json::{Value, json};

use super::{
    ago, bytes, cpu, fields, job_called, json_time, quantity, quantity::whole_seconds, seen::seen_from_micros, span_of,
};

/// Hexadecimal, as ids of cells are written.
pub(super) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn counts(counts: &BTreeMap<String, u64>) -> String {
    let parts: Vec<String> =
        counts.iter().filter(|(_, count)| **count > 0).map(|(name, count)| format!("{count} {name}")).collect();
    if parts.is_empty() { "none".to_owned() } else { parts.join(", ") }
}

/// Machines by state, and how many of them should be given up and are not.
fn machines(status: &StatusResponse) -> String {
    let by_state = counts(&status.machines);
    match status.machines_held_back {
        0 => by_state,
        held => format!("{by_state}; {held} NOT GIVEN UP YET: too many vanished within a minute"),
    }
}

/// Jobs by state, and how many of them fail again and again.
fn jobs(status: &StatusResponse) -> String {
    let by_state = counts(&status.jobs);
    match status.failing_jobs {
        0 => by_state,
        failing => format!("{by_state}; {failing} FAILING: `plenum job list --filter 'failing!=0'` tells which"),
    }
}

/// Allocations by state, and how many tasks have none and wait for one.
fn allocations(status: &StatusResponse) -> String {
    let by_state = counts(&status.allocations);
    match status.waiting_tasks {
        0 => by_state,
        waiting => format!(
            "{by_state}; {} {}: `plenum job list --filter 'waiting!=0'` tells of which jobs",
            counted(waiting, "task"),
            agreeing(waiting, "waits", "wait")
        ),
    }
}

/// Tasks that run and the cell does not know, what becomes of them, and how to see them.
fn unknown(status: &StatusResponse) -> String {
    let (adopted, stopping) = (status.unknown_adopted, status.unknown_stopping);
    let waiting = status.unknown_tasks.saturating_sub(adopted.saturating_add(stopping));
    let fates = [(waiting, "to be stopped unless adopted"), (adopted, "adopted"), (stopping, "stopping")];
    let fates = fates.iter().filter(|(count, _)| *count > 0).map(|(count, fate)| format!("{count} {fate}"));
    format!(
        "{} on {} ({}): `plenum machine list` tells where, `plenum machine show NAME` which",
        counted(status.unknown_tasks, "task"),
        counted(status.unknown_machines, "machine"),
        fates.collect::<Vec<_>>().join(", ")
    )
}

/// How many jobs hold room and how much, the oldest of these holds, and how to see each; nothing where there is none.
fn holds(held: &HeldRoom) -> Option<String> {
    let oldest = held.oldest.as_ref()?;
    let called = job_called(&oldest.namespace, &oldest.job);
    let each = quantity::short_resources(oldest.resources.as_ref());
    let room = match oldest.machines {
        0 => "no room, as earlier ones took it".to_owned(),
        1 => format!("{each} on 1 machine"),
        machines => format!("{each} on each of {machines} machines"),
    };
    let left = whole_seconds(oldest.deadline_micros.saturating_sub(seen_from_micros()));
    let oldest = format!("for {called}, since revision {}: {room}, ends in {left}", oldest.first_wait_revision);
    Some(match held.holds {
        0 | 1 => format!("1 {oldest}"),
        count => format!(
            "{count} of {} in all: `plenum hold list` tells for whom; the oldest {oldest}",
            quantity::short_resources(held.resources.as_ref())
        ),
    })
}

/// The same for programs.
fn holds_json(held: &HeldRoom) -> Value {
    let oldest = |oldest: &OldestHold| {
        json!({
            "namespace": oldest.namespace,
            "job": oldest.job,
            "machines": oldest.machines,
            "resources": quantity::json_resources(oldest.resources.as_ref()),
            "deadline": json_time(oldest.deadline_micros),
            "first_wait_revision": oldest.first_wait_revision,
        })
    };
    json!({
        "count": held.holds,
        "resources": quantity::json_resources(held.resources.as_ref()),
        "oldest": held.oldest.as_ref().map(oldest),
    })
}

/// From here on it is told that the cell's time is not that of its server's machine. Less is of no matter to people, and no two clocks are read at once.
const APART_SECONDS: u64 = 60;

/// How far the cell's time is from the clock of its server's machine, and what follows; nothing where they agree.
fn clock(status: &StatusResponse) -> Option<String> {
    let ahead = status.clock_ahead_seconds.filter(|seconds| seconds.unsigned_abs() >= APART_SECONDS)?;
    let how_far = span_of(Duration::from_secs(ahead.unsigned_abs()));
    Some(if ahead > 0 {
        format!(
            "AHEAD by {how_far} of its server's machine, and never goes back: `--at -1m`, by another clock, is an earlier moment, and a launch by one may come too \
             late; revisions are sure"
        )
    } else {
        format!(
            "BEHIND by {how_far} of its server's machine, whose clock was set forward since the start: a restart of the server takes it there"
        )
    })
}

/// The server's version, and its core's where it tells that.
fn version(status: &StatusResponse) -> String {
    match status.core_version {
        0 => status.version.clone(),
        core => format!("{}, core {core}", status.version),
    }
}

/// What stands in a line, and its name.
type Pair = (&'static str, String);

/// What is counted, and what of the room is taken.
fn rows(status: &StatusResponse) -> [Pair; 7] {
    let capacity = status.capacity.clone().unwrap_or_default();
    let allocated = status.allocated.clone().unwrap_or_default();
    let part = |amount: fn(&Resources) -> i64, show: fn(i64) -> String| {
        format!("{} of {}", show(amount(&allocated)), show(amount(&capacity)))
    };
    [
        ("machines", machines(status)),
        ("cpu", part(|amount| amount.cpu_millis, cpu)),
        ("memory", part(|amount| amount.memory_bytes, bytes)),
        ("others", quantity::custom_cell(status.allocated.as_ref(), status.capacity.as_ref())),
        ("jobs", jobs(status)),
        ("allocations", allocations(status)),
        ("sessions", status.sessions.to_string()),
    ]
}

/// In lines; `others` only where there are some.
fn lines_of(mut pairs: Vec<Pair>) -> String {
    pairs.retain(|(name, value)| *name != "others" || value != "-");
    fields(&pairs)
}

/// What people read.
pub(crate) fn status_text(status: &StatusResponse) -> String {
    let mut pairs = vec![
        (
            "cell",
            format!(
                "{} (incarnation {}, version {}, up {})",
                hex(&status.cell_id),
                status.incarnation,
                version(status),
                ago(status.started_micros)
            ),
        ),
        (
            "changes",
            if status.read_only.is_empty() { "taken".into() } else { format!("READ-ONLY: {}", status.read_only) },
        ),
        ("revision", format!("{} (readable from {})", status.revision, status.oldest_revision)),
    ];
    if !status.older_copy.is_empty() {
        pairs.insert(2, ("copy", format!("OLD: {}", status.older_copy)));
    }
    pairs.extend(rows(status));
    pairs.extend([
        ("transactions", format!("{}, {} with conflicts, since this start", status.transactions, status.conflicts)),
        (
            "disk",
            format!(
                "log {}, kept for the history {}, free {}",
                bytes(i64::try_from(status.log_bytes).unwrap_or(i64::MAX)),
                bytes(i64::try_from(status.log_kept_bytes).unwrap_or(i64::MAX)),
                bytes(i64::try_from(status.free_bytes).unwrap_or(i64::MAX))
            ),
        ),
    ]);
    pairs.extend(standing_out(status));
    lines_of(pairs)
}

/// The same of a cell as it was: what only its server knows is kept nowhere, and left out.
pub(crate) fn past_status_text(status: &StatusResponse) -> String {
    let time = json_time(status.time_micros);
    let mut pairs = vec![
        ("cell", format!("{} (incarnation {})", hex(&status.cell_id), status.incarnation)),
        ("revision", format!("{}, decided at {}", status.revision, time.as_str().unwrap_or("-"))),
    ];
    pairs.extend(rows(status));
    pairs.extend(standing_out(status));
    for (name, value) in &mut pairs {
        // Of those who were paused then nobody can say what is to be done today.
        let is_paused = *name == "paused";
        *value = if is_paused { status.paused_schedulers.join(", ") } else { looking_at(value, status.revision) };
    }
    lines_of(pairs)
}

/// A text with the commands in it as they show what was at a revision.
fn looking_at(text: &str, revision: u64) -> String {
    let parts = text
        .split('`')
        .map(|part| if part.starts_with("plenum ") { format!("{part} --at {revision}") } else { part.to_owned() });
    parts.collect::<Vec<_>>().join("`")
}

/// What is told only where there is something of it.
fn standing_out(status: &StatusResponse) -> Vec<Pair> {
    let mut pairs: Vec<Pair> = clock(status).map(|clock| ("clock", clock)).into_iter().collect();
    if !status.paused_schedulers.is_empty() {
        let paused = status.paused_schedulers.join(", ");
        pairs.push(("paused", format!("{paused}: `plenum scheduler resume NAME` lets one go on")));
    }
    // What is for one that is away or silent is not placed, nor replaced, and nothing else here tells why.
    if !status.away_schedulers.is_empty() {
        let away = status.away_schedulers.join(", ");
        pairs.push(("away", format!("{away}: no session is connected, or none for the namespace of a job; start one")));
    }
    if !status.silent_schedulers.is_empty() {
        let silent = status.silent_schedulers.join(", ");
        pairs.push(("silent", format!("{silent}: `plenum scheduler list -o wide` says since when")));
    }
    if status.unknown_tasks > 0 {
        pairs.push(("unknown", unknown(status)));
    }
    pairs.extend(status.held.as_ref().and_then(holds).map(|held| ("holds", held)));
    if !status.history_stopped.is_empty() {
        pairs.push(("history", format!("STOPPED: {}", status.history_stopped)));
    }
    if status.history_given_up > 0 {
        let given_up = status.history_given_up;
        let (revisions, were) = (counted(given_up, "revision"), agreeing(given_up, "was", "were"));
        let what = format!("{revisions} {were} given up: it was too far behind");
        pairs.push(("history", what));
    }
    if !status.custom_resources.is_empty() {
        pairs.push(("resources", status.custom_resources.join(", ")));
    }
    pairs
}

/// What servers told before they told which core decides, and had not always told: where that is not told, nothing may be known.
const TOLD_WITH_THE_CORE: [&str; 4] = ["waiting_tasks", "failing_jobs", "away_schedulers", "silent_schedulers"];

/// What programs read; `null` of what an earlier server does not tell.
pub(crate) fn status_json(status: &StatusResponse) -> Value {
    let mut object = told_json(status);
    if status.core_version == 0 {
        for field in TOLD_WITH_THE_CORE {
            let value = &mut object[field];
            if *value == json!(0) || *value == json!([]) {
                *value = Value::Null;
            }
        }
    }
    object
}

/// Each field as it is told.
fn told_json(status: &StatusResponse) -> Value {
    json!({
        "cell_id": hex(&status.cell_id),
        "incarnation": status.incarnation,
        "term": status.term,
        "revision": status.revision,
        "time": json_time(status.time_micros),
        "version": status.version,
        "core_version": (status.core_version != 0).then_some(status.core_version),
        "machines": status.machines,
        "machines_held_back": status.machines_held_back,
        "unknown_tasks": status.unknown_tasks,
        "unknown_machines": status.unknown_machines,
        "unknown_adopted": status.unknown_adopted,
        "unknown_stopping": status.unknown_stopping,
        "jobs": status.jobs,
        "failing_jobs": status.failing_jobs,
        "allocations": status.allocations,
        "waiting_tasks": status.waiting_tasks,
        "capacity": quantity::json_resources(status.capacity.as_ref()),
        "allocated": quantity::json_resources(status.allocated.as_ref()),
        "sessions": status.sessions,
        "read_only": super::or_null(&status.read_only),
        "older_copy": super::or_null(&status.older_copy),
        "history_stopped": super::or_null(&status.history_stopped),
        "oldest_revision": status.oldest_revision,
        "history_revision": status.history_revision,
        "history_lag_bytes": status.history_lag_bytes,
        "history_given_up_revisions": status.history_given_up,
        "log_bytes": status.log_bytes,
        "log_kept_bytes": status.log_kept_bytes,
        "free_bytes": status.free_bytes,
        "transactions": status.transactions,
        "conflicts": status.conflicts,
        "started_at": json_time(status.started_micros),
        "custom_resources": status.custom_resources,
        "paused_schedulers": status.paused_schedulers,
        "away_schedulers": status.away_schedulers,
        "silent_schedulers": status.silent_schedulers,
        "holds": status.held.as_ref().map(holds_json),
        "clock_ahead_seconds": status.clock_ahead_seconds,
    })
}

/// What only a server that runs knows: of itself, its disk, and who is connected to it.
const OF_THE_PRESENT: [&str; 19] = [
    "version",
    "core_version",
    "started_at",
    "machines_held_back",
    "read_only",
    "older_copy",
    "history_stopped",
    "oldest_revision",
    "history_revision",
    "history_lag_bytes",
    "history_given_up_revisions",
    "log_bytes",
    "log_kept_bytes",
    "free_bytes",
    "transactions",
    "conflicts",
    "away_schedulers",
    "silent_schedulers",
    "clock_ahead_seconds",
];

/// The same of a cell as it was: the same fields, and `null` what is kept nowhere.
pub(crate) fn past_status_json(status: &StatusResponse) -> Value {
    // A server that tells of the past tells all that there is of it, though not which core decided then.
    let mut object = told_json(status);
    for field in OF_THE_PRESENT {
        object[field] = Value::Null;
    }
    object
}

/// The cell's id, as people write it.
pub(crate) fn cell_name(status: &StatusResponse) -> String {
    hex(&status.cell_id)
}

#[cfg(test)]
mod tests {
    use super::*;

    // Of two servers that decide otherwise it said the same, and after an upgrade nobody saw which one was there.
    #[test]
    fn which_core_decides_is_told_beside_the_version() {
        let mut status = StatusResponse { version: "0.1.0".to_owned(), ..StatusResponse::default() };
        assert!(status_text(&status).contains("version 0.1.0, up "), "{}", status_text(&status));
        assert_eq!(status_json(&status)["core_version"], Value::Null, "an earlier server does not tell it");
        status.core_version = 33;
        assert!(status_text(&status).contains("version 0.1.0, core 33, up "), "{}", status_text(&status));
        assert_eq!(status_json(&status)["core_version"], 33);
    }

    // A script that waited until no task waited went on at once where the command line was newer than the server.
    #[test]
    fn what_an_earlier_server_does_not_tell_is_null_and_not_zero() {
        let mut status = StatusResponse::default();
        let told = |status: &StatusResponse| TOLD_WITH_THE_CORE.map(|field| status_json(status)[field].clone());
        assert_eq!(told(&status), [const { Value::Null }; 4]);
        assert_eq!(past_status_json(&status)["waiting_tasks"], 0, "it tells of the past");
        status.core_version = 34;
        assert_eq!(told(&status), [json!(0), json!(0), json!([]), json!([])]);
    }

    // They have their room and were in no number: a full cell seemed to run nothing.
    #[test]
    fn tasks_that_the_cell_does_not_know_are_counted_with_what_becomes_of_them() {
        let mut status = StatusResponse::default();
        assert!(!status_text(&status).contains("unknown"));
        (status.unknown_tasks, status.unknown_machines) = (1, 1);
        let one = "1 task on 1 machine (1 to be stopped unless adopted): `plenum machine list` tells where";
        assert!(status_text(&status).contains(one), "{}", status_text(&status));
        (status.unknown_tasks, status.unknown_machines) = (6, 2);
        (status.unknown_adopted, status.unknown_stopping) = (1, 2);
        let many = "6 tasks on 2 machines (3 to be stopped unless adopted, 1 adopted, 2 stopping)";
        assert!(status_text(&status).contains(many), "{}", status_text(&status));
    }

    // Room of several machines was set aside for one job for hours, and whoever looked at a cell that seemed to have room had to think of holds.
    #[test]
    fn room_that_is_held_is_told_with_the_oldest_for_whom_it_is() {
        super::super::look_from(60_000_000);
        let mut status = StatusResponse { held: Some(HeldRoom::default()), ..StatusResponse::default() };
        assert!(!status_text(&status).contains("holds"), "{}", status_text(&status));
        let none = json!({"count": 0, "resources": null, "oldest": null});
        assert_eq!(status_json(&status)["holds"], none, "programs find it always");
        let cpu = |cpu_millis| Some(Resources { cpu_millis, ..Resources::default() });
        let oldest = |machines| {
            Some(OldestHold {
                namespace: "ml".to_owned(),
                job: "train".to_owned(),
                machines,
                resources: cpu(2000),
                deadline_micros: 85_000_000,
                first_wait_revision: 812,
            })
        };
        let mut told = |holds, machines| {
            status.held = Some(HeldRoom { holds, resources: cpu(9000), oldest: oldest(machines) });
            status_text(&status)
        };
        let one = "1 for ml/train, since revision 812: cpu 2, memory 0B on 1 machine, ends in 25s";
        assert!(told(1, 1).contains(one), "{}", told(1, 1));
        let none_left = "1 for ml/train, since revision 812: no room, as earlier ones took it, ends in 25s";
        assert!(told(1, 0).contains(none_left), "{}", told(1, 0));
        let many = "3 of cpu 9, memory 0B in all: `plenum hold list` tells for whom; the oldest for ml/train, since revision 812: \
                    cpu 2, memory 0B on each of 4 machines, ends in 25s";
        assert!(told(3, 4).contains(many), "{}", told(3, 4));
        let json = status_json(&status)["holds"].clone();
        assert_eq!((&json["count"], &json["resources"]["cpu_millis"]), (&json!(3), &json!(9000)));
        let oldest = &json["oldest"];
        assert_eq!(
            (&oldest["job"], &oldest["machines"], &oldest["deadline"]),
            (&json!("train"), &json!(4), &json!("1970-01-01T00:01:25Z"))
        );
        assert_eq!(status_json(&StatusResponse::default())["holds"], Value::Null, "an earlier server does not tell it");
    }

    // "What was the cell like at three in the night" took four listings, and counting.
    #[test]
    fn a_status_of_the_past_has_what_is_known_of_then_and_nothing_of_the_server_of_today() {
        let counts = |word: &str| BTreeMap::from([(word.to_owned(), 2)]);
        let status = StatusResponse {
            cell_id: vec![0xab_u8].into(),
            incarnation: 1,
            term: 3,
            revision: 812,
            time_micros: 1_000_000,
            machines: counts("ready"),
            jobs: counts("running"),
            waiting_tasks: 4,
            core_version: 35,
            paused_schedulers: vec!["ml".to_owned()],
            ..StatusResponse::default()
        };
        let told = past_status_text(&status);
        for part in [
            "ab (incarnation 1)\n",
            "812, decided at 1970-01-01T00:00:01Z\n",
            "2 ready",
            "none; 4 tasks wait: `plenum job list --filter 'waiting!=0' --at 812` tells of which jobs",
            "ml\n",
        ] {
            assert!(told.contains(part), "{part}: {told}");
        }
        for part in ["version", "changes", "readable from", "transactions", "disk", "resume"] {
            assert!(!told.contains(part), "{part}: {told}");
        }
        let (now, then) = (status_json(&status), past_status_json(&status));
        let fields = |object: &Value| object.as_object().unwrap().keys().cloned().collect::<Vec<_>>();
        assert_eq!(fields(&now), fields(&then), "programs find the same fields");
        for (field, value) in then.as_object().unwrap() {
            let of_then = !OF_THE_PRESENT.contains(&field.as_str());
            assert_eq!(value, if of_then { &now[field] } else { &Value::Null }, "{field}");
        }
    }

    // A cell that was started once with a clock of next year was a year ahead from then on: launches of now were refused, `--at -1m` was of last year, and
    // no command said why.
    #[test]
    fn a_cell_whose_time_is_not_that_of_its_servers_machine_says_so() {
        let told = |clock_ahead_seconds| {
            let status = StatusResponse { clock_ahead_seconds, ..StatusResponse::default() };
            (status_text(&status), status_json(&status)["clock_ahead_seconds"].clone())
        };
        for (seconds, json) in
            [(None, Value::Null), (Some(0), json!(0)), (Some(59), json!(59)), (Some(-59), json!(-59))]
        {
            let (text, told) = told(seconds);
            assert!(!text.contains("clock") && told == json, "{text} {told}");
        }
        let (ahead, json) = told(Some(400 * 86_400 + 7200));
        assert!(ahead.contains("AHEAD by 400d2h of its server's machine, and never goes back: "), "{ahead}");
        assert_eq!(json, 34_567_200);
        let (behind, json) = told(Some(-90));
        assert!(behind.contains("BEHIND by 90s of its server's machine, "), "{behind}");
        assert!(behind.contains("a restart of the server"), "{behind}");
        assert_eq!(json, -90);
    }

    // It took changes, and that others had gone on from a newer copy stood in the logs of these alone.
    #[test]
    fn a_cell_of_which_somebody_has_seen_more_says_so() {
        let mut status = StatusResponse::default();
        assert!(!status_text(&status).contains("copy"), "{}", status_text(&status));
        assert_eq!(status_json(&status)["older_copy"], Value::Null);
        status.older_copy = "the agent of m1 has seen revision 7".to_owned();
        assert!(status_text(&status).contains("OLD: the agent of m1 has seen revision 7"), "{}", status_text(&status));
        assert_eq!(status_json(&status)["older_copy"], status.older_copy);
    }

    // Nothing of it was in any text: whoever asked for the past was told so, and one metric.
    #[test]
    fn a_history_that_takes_nothing_stands_out() {
        let mut status = StatusResponse::default();
        assert!(!status_text(&status).contains("history:"), "{}", status_text(&status));
        assert_eq!(status_json(&status)["history_stopped"], Value::Null);
        status.history_stopped = "it can't be written now, and goes on by itself: disk full".to_owned();
        let told = status_text(&status);
        let line = told.lines().find(|line| line.starts_with("history:")).unwrap_or_default();
        assert!(line.ends_with(" STOPPED: it can't be written now, and goes on by itself: disk full"), "{told}");
        assert_eq!(status_json(&status)["history_stopped"], status.history_stopped);
    }

    // With all schedulers killed or stopped it showed how many sessions there are, and nothing else.
    #[test]
    fn schedulers_that_are_away_or_silent_stand_out() {
        let mut status = StatusResponse { sessions: 3, ..StatusResponse::default() };
        let quiet = status_text(&status);
        assert!(!quiet.contains("away") && !quiet.contains("silent"), "{quiet}");
        status.away_schedulers = vec!["batch".to_owned(), "ml".to_owned()];
        status.silent_schedulers = vec!["service".to_owned()];
        let told = status_text(&status);
        // Also of one that had a session for other namespaces, it was said that there was none.
        let away = "batch, ml: no session is connected, or none for the namespace of a job; start one";
        assert!(told.contains(away), "{told}");
        assert!(told.contains("service: `plenum scheduler list -o wide` says since when"), "{told}");
        let json = status_json(&status);
        assert_eq!(
            (&json["away_schedulers"], &json["silent_schedulers"]),
            (&json!(["batch", "ml"]), &json!(["service"]))
        );
    }

    // Twenty tasks failed again and again, and it said that one job runs and that there are no allocations.
    #[test]
    fn jobs_that_fail_and_tasks_that_wait_stand_out() {
        let jobs = BTreeMap::from([("running".to_owned(), 2)]);
        let mut status = StatusResponse { jobs, ..StatusResponse::default() };
        let quiet = status_text(&status);
        assert!(!quiet.contains("FAILING") && !quiet.contains("wait"), "{quiet}");
        (status.failing_jobs, status.waiting_tasks) = (1, 20);
        let told = status_text(&status);
        assert!(told.contains("2 running; 1 FAILING: `plenum job list --filter 'failing!=0'`"), "{told}");
        assert!(told.contains("none; 20 tasks wait: `plenum job list --filter 'waiting!=0'`"), "{told}");
        let json = status_json(&status);
        assert_eq!((&json["failing_jobs"], &json["waiting_tasks"]), (&json!(1), &json!(20)));
        status.waiting_tasks = 1;
        assert!(status_text(&status).contains("1 task waits"), "{}", status_text(&status));
    }

    #[test]
    fn one_revision_that_was_given_up_is_no_plural() {
        let told = |history_given_up| status_text(&StatusResponse { history_given_up, ..StatusResponse::default() });
        assert!(told(1).contains("1 revision was given up: it was too far behind"), "{}", told(1));
        assert!(told(2).contains("2 revisions were given up"), "{}", told(2));
    }

    #[test]
    fn machines_that_should_be_given_up_and_are_not_stand_out() {
        let machines = BTreeMap::from([("ready".to_owned(), 7), ("unreachable".to_owned(), 3)]);
        let mut status = StatusResponse { machines, ..StatusResponse::default() };
        assert!(!status_text(&status).contains("NOT GIVEN UP"));
        status.machines_held_back = 2;
        let alarm = "7 ready, 3 unreachable; 2 NOT GIVEN UP YET: too many vanished within a minute";
        assert!(status_text(&status).contains(alarm), "{}", status_text(&status));
    }
}
