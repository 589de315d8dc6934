//! Metrics, with the names of the project's interface: Prometheus, base units, prefix `plenum_`.

mod ends;

use std::collections::BTreeMap;
use std::fmt::Write;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use prometheus_client::registry::Registry;

use plenum_model::{Delta, TransactionOutcome};
use plenum_proto::v1;

use self::ends::Ends;
use crate::commit::{StartedJob, TransactionNote};
use crate::publish::Losses;

/// Most schedulers, winners and losers that labels tell apart; others are `other`. Names come from clients.
pub(crate) const NAMES_MAX: usize = 64;

/// What the values say that are read when somebody asks for them.
const HELP: &[(&str, &str)] = &[
    ("allocations", "Allocations that have not ended, by state"),
    ("machines", "Machines by state; of those that are unreachable, agents do not answer"),
    ("jobs", "Jobs by state, those that are over until they are retired"),
    ("jobs_failing", "Jobs of which a task fails again and again: what runs of them may be of no use"),
    ("tasks_waiting", "Tasks of all jobs that wait, for a machine or for those before them, whoever is to place them"),
    (
        "tasks_unknown",
        "Tasks that agents run and the cell does not know, as after a restore: they are stopped unless adopted",
    ),
    ("tasks_unknown_adopted", "Those of them that were adopted: they run until they end"),
    ("build_info", "1, of the version of the server that answers and of its core"),
    ("older_copy", "1 where somebody has seen more of the cell than is here: what it takes now may be lost"),
    (
        "clock_ahead_seconds",
        "How far the cell's time is ahead of the clock of the server's machine, below 0 behind it: near 0 unless one of both was wrong",
    ),
    ("connections", "Connections that are open"),
    ("connections_max", "How many there may be: at that, further ones wait to be accepted"),
    ("calls", "Calls that are open, of all connections"),
    ("shared_calls", "Those of them beyond the first 16 of their connections"),
    ("shared_calls_max", "How many of these there may be: at that, further ones are refused"),
    ("job_bytes", "What all jobs count as of the bytes that jobs may have: near 1 GiB, submissions are refused soon"),
    ("machine_resource_capacity", "What all machines have"),
    ("machine_resource_allocated", "What allocations hold of it: near the capacity, jobs wait for room"),
    ("machine_resource_used", "What machines use, as far as their agents say so"),
    ("scheduler_busy_ratio", "Part of its time that a scheduler decides: near the number of its members, add one"),
    (
        "scheduler_queue_jobs",
        "Jobs with tasks to place: many, and little busy, is no room or constraints that nothing meets",
    ),
    ("snapshot_age_seconds", "How old the oldest mirror of a scheduler is: beyond its longest decision, it hangs"),
    (
        "scheduler_connected",
        "Connected sessions of a scheduler that has some, or jobs: at 0, what is for it is not placed, nor replaced",
    ),
    (
        "scheduler_silent",
        "Connected sessions that say nothing while the cell goes on: they hang, or make one long decision",
    ),
    ("scheduler_paused", "1 where an operator paused a scheduler"),
    ("quota_limit", "What a namespace may have at most, of each resource that is limited, by the first 64 names"),
    ("quota_used", "What it has of that: at the limit, its jobs wait"),
    ("machines_unfit", "Machines by why their own agents want no new tasks there, such as a full disk"),
    (
        "machines_held_back",
        "Machines that are not given up yet as many vanished at once: above 0, rather the network failed",
    ),
    ("revision", "The newest revision"),
    ("journal_bytes", "The log that the cell needs"),
    (
        "journal_written_bytes",
        "Bytes of batches in the log up to its end, counted from somewhere: what tells is how they grow",
    ),
    ("journal_kept_bytes", "Segments beyond that, which the history reads, or which wait to be used again"),
    ("journal_disk_free_bytes", "What is free on the log's disk"),
    ("journal_disk_needed_bytes", "What has to be free there: with less the cell is read-only"),
    ("journal_cut_bytes", "What was cut off the log's end at this start: a write that nobody was promised"),
    ("journal_mark_behind_revisions", "Newest revisions that the high-water mark does not guard yet"),
    (
        "journal_write_age_seconds",
        "For how long the write under way takes already, or 0: until it has come back, nothing is decided",
    ),
    ("read_only", "1 where the cell takes nothing, as there is too little room on its disk"),
    ("history_revision", "The newest revision that the history has"),
    ("history_oldest_revision", "The oldest revision that can be read"),
    ("history_given_up_revisions", "Revisions that cannot be read any more as the history was too far behind"),
    ("history_stopped", "1 where the history takes nothing, as its store failed"),
];

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct TransactionLabels {
    scheduler: String,
    outcome: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ClaimLabels {
    scheduler: String,
    outcome: &'static str,
    kind: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ConflictLabels {
    loser: String,
    winner: String,
    resource: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct SchedulerLabels {
    scheduler: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct QueueLabels {
    queue: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct StageLabels {
    stage: &'static str,
}

/// What schedulers beyond the first [`NAMES_MAX`] are called together.
const OTHERS: &str = "other";

/// Claims of one scheduler that were decided since the start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Claims {
    pub(crate) granted: u64,
    pub(crate) refused: u64,
    /// Those of the refused ones that lost a race, as conflicts.
    pub(crate) lost: u64,
}

/// All metrics of a server.
pub(crate) struct Metrics {
    registry: Registry,
    transactions: Family<TransactionLabels, Counter>,
    claims: Family<ClaimLabels, Counter>,
    conflicts: Family<ConflictLabels, Counter>,
    divergences: Counter,
    staleness: Histogram,
    stages: Family<StageLabels, Histogram, fn() -> Histogram>,
    job_waits: Family<SchedulerLabels, Histogram, fn() -> Histogram>,
    gang_waits: Histogram,
    /// Of `stages`, looked up once.
    queued: Histogram,
    durable: Histogram,
    sync: Histogram,
    depths: Family<QueueLabels, Gauge>,
    checkpoints: Counter,
    leases_lost: Counter,
    ends: Ends,
    resyncs: Counter,
    denied: Counter,
    names: Mutex<Vec<String>>,
    /// What the cell calls the resources that it named itself.
    custom_resources: Vec<Arc<str>>,
    totals: Mutex<(u64, u64)>,
}

/// 1 µs to about 17 s.
fn durations() -> Histogram {
    Histogram::new(exponential_buckets(1e-6, 4.0, 13))
}

/// 1 ms to about 19 hours.
fn waits() -> Histogram {
    Histogram::new(exponential_buckets(1e-3, 4.0, 14))
}

impl Metrics {
    /// Of a cell that calls resources of its own so.
    pub(crate) fn new(custom_resources: Vec<Arc<str>>) -> Self {
        let mut registry = Registry::with_prefix("plenum");
        let stages: Family<StageLabels, Histogram, fn() -> Histogram> = Family::new_with_constructor(durations);
        let stage = |stage| stages.get_or_create(&StageLabels { stage }).clone();
        let metrics = Self {
            queued: stage("queue"),
            durable: stage("durable"),
            transactions: Family::default(),
            claims: Family::default(),
            conflicts: Family::default(),
            divergences: Counter::default(),
            staleness: Histogram::new(exponential_buckets(1.0, 4.0, 12)),
            stages,
            job_waits: Family::new_with_constructor(waits),
            gang_waits: waits(),
            sync: durations(),
            depths: Family::default(),
            checkpoints: Counter::default(),
            leases_lost: Counter::default(),
            ends: Ends::registered(&mut registry),
            resyncs: Counter::default(),
            denied: Counter::default(),
            names: Mutex::new(Vec::new()),
            custom_resources,
            totals: Mutex::new((0, 0)),
            registry: Registry::default(),
        };
        registry.register("transactions", "Transactions that were decided", metrics.transactions.clone());
        registry.register("claims", "Claims that were decided, refused ones by kind", metrics.claims.clone());
        registry.register("conflicts", "Claims that lost a race", metrics.conflicts.clone());
        registry.register(
            "divergences",
            "Claims that were refused for what their scheduler had seen: planner and committer disagree, a bug",
            metrics.divergences.clone(),
        );
        registry.register(
            "transaction_staleness_revisions",
            "Revisions between base and decision of transactions that lost claims",
            metrics.staleness.clone(),
        );
        registry.register("commit_duration_seconds", "Time that requests spend in each stage", metrics.stages.clone());
        registry.register(
            "job_wait_seconds",
            "Time from a job's submission to the first grant of one of its tasks",
            metrics.job_waits.clone(),
        );
        registry.register(
            "gang_wait_seconds",
            "The same, of jobs of which several tasks have to be granted at once",
            metrics.gang_waits.clone(),
        );
        registry.register("journal_sync_seconds", "Time to append a batch and sync the log", metrics.sync.clone());
        registry.register(
            "queue_depth",
            "What waits in each queue: requests, snapshots on their way to watchers, or bytes",
            metrics.depths.clone(),
        );
        registry.register("history_checkpoints", "Checkpoints that were begun", metrics.checkpoints.clone());
        registry.register("agent_lease_lost", "Leases of agents that ran out", metrics.leases_lost.clone());
        registry.register("watcher_resyncs", "Watchers that fell behind and began anew", metrics.resyncs.clone());
        registry.register(
            "calls_denied",
            "Calls that were refused for who made them: NOT_PERMITTED or NO_SUCH_PRINCIPAL",
            metrics.denied.clone(),
        );
        Self { registry, ..metrics }
    }

    /// A request was taken out of the queue.
    pub(crate) fn queued(&self, waited: Duration) {
        self.queued.observe(waited.as_secs_f64());
    }

    /// A request was answered: durable, published, and all.
    pub(crate) fn answered(&self, took: Duration) {
        self.durable.observe(took.as_secs_f64());
    }

    /// A batch was appended and synced.
    pub(crate) fn synced(&self, took: Duration) {
        self.sync.observe(took.as_secs_f64());
    }

    pub(crate) fn checkpoint_began(&self) {
        self.checkpoints.inc();
    }

    /// Counts what ended, and what was given up.
    pub(crate) fn ended(&self, deltas: &[Delta]) {
        self.ends.count(deltas);
    }

    pub(crate) fn lease_lost(&self) {
        self.leases_lost.inc();
    }

    pub(crate) fn resynced(&self) {
        self.resyncs.inc();
    }

    pub(crate) fn denied(&self) {
        self.denied.inc();
    }

    /// Transactions, and those that lost claims, since the start.
    pub(crate) fn totals(&self) -> (u64, u64) {
        *self.totals.lock()
    }

    /// Counts the transactions of a batch, and what they lost: of those that lost something.
    pub(crate) fn decided(&self, notes: &[TransactionNote], losses: &[Losses]) {
        let mut totals = self.totals.lock();
        totals.0 += notes.len() as u64;
        totals.1 += losses.iter().filter(|lost| lost.conflicts.is_some()).count() as u64;
        drop(totals);
        // Added up first: a batch has thousands of transactions of a few schedulers.
        let mut sums: BTreeMap<(&Arc<str>, &'static str), (u64, u64)> = BTreeMap::new();
        for note in notes {
            let sum = sums.entry((&note.scheduler, outcome_word(note.outcome))).or_default();
            *sum = (sum.0 + 1, sum.1 + u64::from(note.granted));
            if !note.started.is_empty() {
                self.started(&note.scheduler, &note.started);
            }
        }
        for ((scheduler, outcome), (transactions, granted)) in sums {
            let scheduler = self.name(scheduler);
            let labels = TransactionLabels { scheduler: scheduler.clone(), outcome };
            self.transactions.get_or_create(&labels).inc_by(transactions);
            if granted > 0 {
                let labels = ClaimLabels { scheduler, outcome: "granted", kind: "" };
                self.claims.get_or_create(&labels).inc_by(granted);
            }
        }
        let mut sums: BTreeMap<(&Arc<str>, &'static str), u64> = BTreeMap::new();
        for lost in losses {
            // Failed guards of whole transactions and refused stops are refusals, too.
            for refusal in lost.refusals.iter().filter(|refusal| refusal.is_of_claim()) {
                *sums.entry((&lost.scheduler, kind(refusal.kind()))).or_default() += 1;
            }
        }
        for ((scheduler, kind), claims) in sums {
            let labels = ClaimLabels { scheduler: self.name(scheduler), outcome: "refused", kind };
            self.claims.get_or_create(&labels).inc_by(claims);
        }
        losses.iter().for_each(|lost| self.lost(lost));
    }

    fn started(&self, scheduler: &str, jobs: &[StartedJob]) {
        let labels = SchedulerLabels { scheduler: self.name(scheduler) };
        let waits = self.job_waits.get_or_create(&labels);
        for job in jobs {
            let waited = Duration::from_micros(job.waited_micros.max(0).unsigned_abs()).as_secs_f64();
            waits.observe(waited);
            if job.is_gang {
                self.gang_waits.observe(waited);
            }
        }
    }

    fn lost(&self, lost: &Losses) {
        if let Some(divergence) = &lost.divergence {
            self.divergences.inc_by(divergence.claims);
        }
        let Some(note) = &lost.conflicts else { return };
        let scheduler = self.name(&lost.scheduler);
        self.staleness.observe(f64::from(u32::try_from(note.staleness_revisions).unwrap_or(u32::MAX)));
        for loss in &note.losses {
            let labels = ConflictLabels {
                loser: scheduler.clone(),
                winner: self.name(&loss.winner),
                resource: resource_name(loss.resource, &self.custom_resources),
            };
            self.conflicts.get_or_create(&labels).inc_by(loss.claims.into());
        }
    }

    /// The name as a label: the first ones are told apart.
    pub(crate) fn name(&self, name: &str) -> String {
        let mut names = self.names.lock();
        if !names.iter().any(|known| known == name) {
            if names.len() >= NAMES_MAX {
                return OTHERS.to_owned();
            }
            names.push(name.to_owned());
        }
        name.to_owned()
    }

    /// What became of a scheduler's claims; `None` of one that is not told apart from others.
    pub(crate) fn claims_of(&self, scheduler: &str) -> Option<Claims> {
        let is_full = self.names.lock().len() >= NAMES_MAX;
        // One of that very name is counted with all that have none, as soon as there may be such.
        if is_full && (scheduler == OTHERS || !self.is_named(scheduler)) {
            return None;
        }
        let count = |outcome, kind| {
            let labels = ClaimLabels { scheduler: scheduler.to_owned(), outcome, kind };
            // Looked up only: a series that nobody counted for is not to be served from now on.
            self.claims.get(&labels).map_or(0, |claims| claims.get())
        };
        let kinds = (0..).map_while(|number| v1::RefusalKind::try_from(number).ok());
        Some(Claims {
            granted: count("granted", ""),
            refused: kinds.map(|refusal| count("refused", kind(refusal))).sum(),
            lost: count("refused", kind(v1::RefusalKind::Conflict)),
        })
    }

    /// Whether the name is one of the first, without making it one.
    pub(crate) fn is_named(&self, name: &str) -> bool {
        self.names.lock().iter().any(|known| known == name)
    }

    /// Everything, as Prometheus reads it. `depths` are queues as they are now, `gauges` other values as they are now: by name, each with
    /// its labels as they are written.
    pub(crate) fn render(&self, depths: &[(&'static str, usize)], gauges: &[(&str, Vec<(String, f64)>)]) -> String {
        for (queue, depth) in depths {
            let depth = i64::try_from(*depth).unwrap_or(i64::MAX);
            self.depths.get_or_create(&QueueLabels { queue }).set(depth);
        }
        let mut text = String::new();
        // Writing to a string can't fail.
        let _ = prometheus_client::encoding::text::encode(&mut text, &self.registry);
        let end = text.rfind("# EOF").unwrap_or(text.len());
        text.truncate(end);
        for (name, values) in gauges {
            if let Some((_, help)) = HELP.iter().find(|(known, _)| known == name) {
                let _ = writeln!(text, "# HELP plenum_{name} {help}.");
            }
            let _ = writeln!(text, "# TYPE plenum_{name} gauge");
            for (labels, value) in values {
                let _ = writeln!(text, "plenum_{name}{labels} {value}");
            }
        }
        text.push_str("# EOF\n");
        text
    }
}

fn outcome_word(outcome: TransactionOutcome) -> &'static str {
    match outcome {
        TransactionOutcome::Committed => "committed",
        TransactionOutcome::Partial => "partial",
        TransactionOutcome::Refused => "refused",
    }
}

fn kind(kind: v1::RefusalKind) -> &'static str {
    match kind {
        v1::RefusalKind::Unspecified => "",
        v1::RefusalKind::Conflict => "conflict",
        v1::RefusalKind::Misfit => "misfit",
        v1::RefusalKind::Stale => "stale",
        v1::RefusalKind::Mate => "mate",
        v1::RefusalKind::Guard => "guard",
        v1::RefusalKind::Quota => "quota",
        v1::RefusalKind::Permission => "permission",
    }
}

/// The same, by the name that the cell's operator gave where there is one.
fn resource_name(number: i32, custom_resources: &[Arc<str>]) -> String {
    let place = number.checked_sub(v1::ResourceName::Custom1 as i32).and_then(|place| usize::try_from(place).ok());
    let given = place.and_then(|place| custom_resources.get(place));
    given.map_or_else(|| resource(number).to_owned(), ToString::to_string)
}

/// A resource's name in the protocol; empty for none.
pub(crate) fn resource(number: i32) -> &'static str {
    match v1::ResourceName::try_from(number) {
        Ok(v1::ResourceName::CpuMillis) => "cpu_millis",
        Ok(v1::ResourceName::MemoryBytes) => "memory_bytes",
        Ok(v1::ResourceName::DiskBytes) => "disk_bytes",
        Ok(v1::ResourceName::Custom1) => "custom_1",
        Ok(v1::ResourceName::Custom2) => "custom_2",
        Ok(v1::ResourceName::Custom3) => "custom_3",
        Ok(v1::ResourceName::Custom4) => "custom_4",
        Ok(v1::ResourceName::Custom5) => "custom_5",
        Ok(v1::ResourceName::Unspecified) | Err(_) => "",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    // Of a transaction with one claim and a guard that had failed, two claims were counted as refused.
    #[test]
    fn a_guard_of_a_whole_transaction_is_not_counted_as_a_claim_that_was_refused() {
        let refused = |kind: v1::RefusalKind, placement, claim| v1::Refusal {
            kind: kind.into(),
            placement,
            claim,
            ..Default::default()
        };
        let refusals = vec![
            refused(v1::RefusalKind::Guard, u32::MAX, u32::MAX),
            refused(v1::RefusalKind::Guard, 0, 0),
            // A stop of an allocation of another scheduler.
            refused(v1::RefusalKind::Permission, u32::MAX, u32::MAX),
        ];
        let metrics = Metrics::new(Vec::new());
        let lost = Losses { scheduler: "batch".into(), refusals, conflicts: None, divergence: None };
        metrics.decided(&[], &[lost]);
        let text = metrics.render(&[], &[]);
        let of_claims: Vec<_> = text.lines().filter(|line| line.starts_with("plenum_claims_total")).collect();
        let expected = "plenum_claims_total{scheduler=\"batch\",outcome=\"refused\",kind=\"guard\"} 1";
        assert_eq!(of_claims, [expected], "{text}");
    }

    #[test]
    fn claims_are_told_of_each_scheduler_that_is_told_apart_and_of_no_other() {
        let metrics = Metrics::new(Vec::new());
        let refused = |kind: v1::RefusalKind, claim| v1::Refusal { kind: kind.into(), claim, ..Default::default() };
        let lose = |scheduler: &str| {
            let refusals = vec![refused(v1::RefusalKind::Conflict, 0), refused(v1::RefusalKind::Quota, 1)];
            let note = TransactionNote {
                revision: plenum_model::Revision(1),
                scheduler: scheduler.into(),
                outcome: TransactionOutcome::Partial,
                granted: 3,
                refused: true,
                started: Vec::new(),
            };
            let lost = Losses { scheduler: scheduler.into(), refusals, conflicts: None, divergence: None };
            metrics.decided(&[note], &[lost]);
        };
        lose("batch");
        let counted = Some(Claims { granted: 3, refused: 2, lost: 1 });
        assert_eq!((metrics.claims_of("batch"), metrics.claims_of("quiet")), (counted, Some(Claims::default())));
        assert!(!metrics.render(&[], &[]).contains("quiet"), "who is asked about has no series for it");
        (1..=NAMES_MAX).for_each(|place| lose(&format!("s{place}")));
        // The last of them found no place.
        assert_eq!((metrics.claims_of("batch"), metrics.claims_of(&format!("s{NAMES_MAX}"))), (counted, None));
        assert_eq!((metrics.claims_of("quiet"), metrics.claims_of(OTHERS)), (None, None));
    }
}
