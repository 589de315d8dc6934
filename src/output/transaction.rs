//! Transactions, as listed and as read by programs.

use std::collections::BTreeMap;

use plenum_model::counted;
use plenum_proto::v1::{ConflictCheck, EvictionView, Outcome, TransactionOutcome, TransactionView};
use serde_json::{Value, json};

use super::{
    Names, Row, ago,
    allocation::{allocation_id, transaction_id},
    conflict::said,
    job::{full_name_called, parts_of_full_name},
    json_time, or_dash, or_null,
    refusal::refusal_json,
    status::hex,
};

fn outcome_name(outcome: TransactionOutcome) -> &'static str {
    match outcome {
        TransactionOutcome::Unspecified => "unknown",
        TransactionOutcome::Committed => "committed",
        TransactionOutcome::Partial => "partial",
        TransactionOutcome::Refused => "refused",
    }
}

/// When it takes a claim for a conflict.
pub(crate) fn check_name(check: ConflictCheck) -> &'static str {
    match check {
        ConflictCheck::Unspecified => "unknown",
        ConflictCheck::Fit => "fit",
        ConflictCheck::Sequence => "sequence",
    }
}

fn outcome(view: &TransactionView) -> Outcome {
    view.outcome.clone().unwrap_or_default()
}

/// The allocations that it was granted.
fn granted(view: &TransactionView) -> Vec<String> {
    let outcome = view.outcome.iter();
    let granted = outcome.flat_map(|outcome| &outcome.placements).flat_map(|placement| &placement.allocations);
    granted.filter(|allocation| **allocation != 0).map(|allocation| allocation_id(*allocation)).collect()
}

/// Of the allocations that it was granted those on a spare machine, each with the machine's name, or its number where that is not known.
fn elsewhere(view: &TransactionView) -> impl Iterator<Item = (String, String)> {
    let placements = view.outcome.iter().flat_map(|outcome| &outcome.placements);
    let told = placements.flat_map(|placement| placement.elsewhere.iter().map(move |told| (placement, told)));
    told.filter_map(|(placement, told)| {
        let id = placement.allocations.get(told.claim as usize)?;
        Some((allocation_id(*id), Names(view).machine_called(told.machine)))
    })
}

/// The allocations that it was granted, for people: each with its task and where it is; by their ids alone where it is not told what was asked.
pub(crate) fn grants(view: &TransactionView) -> Vec<String> {
    let Some((asked, outcome)) = view.transaction.as_ref().zip(view.outcome.as_ref()) else { return granted(view) };
    let (names, mut lines) = (Names(view), Vec::new());
    for (asked, told) in asked.placements.iter().zip(&outcome.placements) {
        let (job, group) = (names.job(asked.job), names.group(asked.job, asked.group));
        let job = full_name_called(&job);
        let spares: BTreeMap<u32, u32> = told.elsewhere.iter().map(|spare| (spare.claim, spare.machine)).collect();
        let claims = (0_u32..).zip(asked.tasks.iter().zip(&asked.machines)).zip(&told.allocations);
        for ((claim, (task, own)), &allocation) in claims.filter(|(_, allocation)| **allocation != 0) {
            let spare = spares.get(&claim);
            let machine = names.machine_called(*spare.unwrap_or(own));
            let which = if spare.is_some() { ", a spare machine" } else { "" };
            lines.push(format!("task {job}/{group}[{task}] ({}) on {machine}{which}", allocation_id(allocation)));
        }
    }
    lines
}

/// The placements that it asked for with a minimum, for people: each is granted so many of its claims, or none. Only where it is known what was asked.
pub(crate) fn minima(view: &TransactionView) -> Vec<String> {
    let names = Names(view);
    let placements = view.transaction.iter().flat_map(|asked| &asked.placements);
    let with_one = placements.filter(|placement| placement.min > 0);
    let words = with_one.map(|placement| {
        let (job, group) = (names.job(placement.job), names.group(placement.job, placement.group));
        let claims = counted(placement.machines.len() as u64, "claim");
        format!("{} of {claims} for {}/{group}, or none", placement.min, full_name_called(&job))
    });
    words.collect()
}

fn placements_json(view: &TransactionView) -> Vec<Value> {
    let names = Names(view);
    let told = view.outcome.iter().flat_map(|outcome| &outcome.placements);
    let granted = told.map(|placement| placement.allocations.iter().filter(|allocation| **allocation != 0).count());
    // One that was refused as a whole may tell nothing of its placements.
    let granted = granted.chain(std::iter::repeat(0));
    let asked = view.transaction.iter().flat_map(|asked| &asked.placements);
    let objects = asked.zip(granted).map(|(placement, granted)| {
        let full_name = names.job(placement.job);
        // An id has no namespace.
        let (namespace, job) = parts_of_full_name(&full_name);
        json!({
            "namespace": or_null(namespace),
            "job": job,
            "group": names.group(placement.job, placement.group),
            "claims": placement.machines.len(),
            "granted": granted,
            "min": (placement.min > 0).then_some(placement.min),
        })
    });
    objects.collect()
}

/// The allocations that it stopped; only where it is known what was asked.
pub(crate) fn stopped(view: &TransactionView) -> Vec<String> {
    let Some((asked, outcome)) = view.transaction.as_ref().zip(view.outcome.as_ref()) else { return Vec::new() };
    let took_effect = outcome.outcome() != TransactionOutcome::Refused;
    let stops =
        (0_u32..).zip(&asked.stops).filter(|(position, _)| took_effect && !outcome.idle_stops.contains(position));
    stops.map(|(_, allocation)| allocation_id(*allocation)).collect()
}

/// The transactions of its session that were in flight, and that its scheduler took as granted when it decided.
pub(crate) fn assumed(view: &TransactionView) -> Vec<String> {
    let Some((decision, outcome)) = view.decision.as_ref().zip(view.outcome.as_ref()) else { return Vec::new() };
    decision.assumed.iter().map(|number| transaction_id(outcome.session, *number)).collect()
}

/// The digest of its policy's configuration; empty where its scheduler tells none.
pub(crate) fn configuration(view: &TransactionView) -> String {
    view.decision.as_ref().map_or_else(String::new, |decision| hex(&decision.configuration))
}

/// The allocations that were evicted for it.
fn evicted(view: &TransactionView) -> Vec<String> {
    view.evicted.iter().map(|allocation| allocation_id(*allocation)).collect()
}

/// Whom it evicted, and for whom: a sentence each.
pub(crate) fn evictions(view: &TransactionView) -> Vec<String> {
    if view.evictions.is_empty() {
        // A server of before tells no more than who they were.
        return evicted(view);
    }
    view.evictions.iter().map(eviction).collect()
}

fn eviction(view: &EvictionView) -> String {
    let task = |job: &str, group: &str, task: u32, priority: Option<u32>| {
        let priority = priority.map_or_else(String::new, |priority| format!(", priority {priority}"));
        format!("task {}/{group}[{task}]{priority}", full_name_called(job))
    };
    let id = allocation_id(view.allocation);
    let who = match view.job.as_str() {
        "" => id,
        job => format!("{} ({id}) on {}", task(job, &view.group, view.task, view.priority), or_dash(&view.machine)),
    };
    let others = match view.other_heirs {
        0 => String::new(),
        others => format!(" and {others} more"),
    };
    let heir = match view.heir {
        0 => String::new(),
        heir => {
            let words = task(&view.heir_job, &view.heir_group, view.heir_task, view.heir_priority);
            format!(", for {words} ({}){others}", allocation_id(heir))
        }
    };
    who + &heir
}

fn eviction_json(view: &EvictionView) -> Value {
    let (namespace, job) = parts_of_full_name(&view.job);
    let (heir_namespace, heir_job) = parts_of_full_name(&view.heir_job);
    json!({
        "allocation": allocation_id(view.allocation),
        "namespace": or_null(namespace),
        "job": or_null(job),
        "group": or_null(&view.group),
        "task_index": if view.job.is_empty() { Value::Null } else { json!(view.task) },
        "machine": or_null(&view.machine),
        "priority": view.priority,
        "for": if view.heir == 0 { Value::Null } else { json!({
            "allocation": allocation_id(view.heir),
            "namespace": or_null(heir_namespace),
            "job": or_null(heir_job),
            "group": or_null(&view.heir_group),
            "task_index": view.heir_task,
            "priority": view.heir_priority,
        }) },
        "for_others": view.other_heirs,
    })
}

impl Row for TransactionView {
    fn titles() -> (&'static [&'static str], &'static [&'static str]) {
        (
            &["ID", "SCHEDULER", "OUTCOME", "CLAIMS", "GRANTED", "REFUSED", "EVICTED", "BASE", "REVISION", "AGE"],
            &["PRINCIPAL", "CHECK", "ATOMIC", "STOPS", "POLICY", "ATTEMPT"],
        )
    }

    fn cells(&self) -> Vec<String> {
        let outcome = outcome(self);
        let decision = self.decision.clone().unwrap_or_default();
        vec![
            self.name(),
            or_dash(&self.scheduler),
            outcome_name(outcome.outcome()).to_owned(),
            outcome.claims.to_string(),
            outcome.granted.to_string(),
            outcome.refusals.len().to_string(),
            self.evicted_total.to_string(),
            self.base_revision.to_string(),
            outcome.revision.to_string(),
            ago(outcome.time_micros),
            or_dash(&self.principal),
            check_name(self.check()).to_owned(),
            self.atomic.to_string(),
            self.stops.to_string(),
            or_dash(&decision.policy),
            decision.attempt.to_string(),
        ]
    }

    fn to_json(&self) -> Value {
        let outcome = outcome(self);
        let refusals: Vec<Value> = outcome.refusals.iter().map(|refusal| refusal_json(Names(self), refusal)).collect();
        let decision = self.decision.as_ref().map(|decision| {
            json!({
                "attempt": decision.attempt,
                "policy": or_null(&decision.policy),
                "configuration": or_null(&configuration(self)),
                // A text, as ids are: programs that have floating point alone would round it.
                "seed": decision.seed.to_string(),
                "assumed": assumed(self),
                "queued_micros": said(decision.queued_micros),
                "deciding_micros": said(decision.deciding_micros),
            })
        });
        let mut object = json!({
            "id": self.name(),
            "scheduler": self.scheduler,
            "principal": self.principal,
            "base_revision": self.base_revision,
            "revision": outcome.revision,
            "time": json_time(outcome.time_micros),
            "atomic": self.atomic,
            "check": check_name(self.check()),
            "outcome": outcome_name(outcome.outcome()),
            "claims": outcome.claims,
            "granted": outcome.granted,
            "stops": self.stops,
            "evicted": self.evicted_total,
            "refusals": refusals,
            "divergences": outcome.divergent().map(|(position, _)| position).collect::<Vec<_>>(),
            "decision": decision,
        });
        // Listings are told none of them.
        if self.transaction.is_some() {
            object["placements"] = placements_json(self).into();
            object["allocations"] = granted(self).into();
            let elsewhere =
                elsewhere(self).map(|(allocation, machine)| json!({ "allocation": allocation, "machine": machine }));
            object["elsewhere"] = elsewhere.collect();
            object["stopped_allocations"] = stopped(self).into();
            object["evicted_allocations"] = evicted(self).into();
            object["evictions"] = self.evictions.iter().map(eviction_json).collect();
        }
        object
    }

    fn name(&self) -> String {
        let outcome = outcome(self);
        transaction_id(outcome.session, outcome.number)
    }
}

#[cfg(test)]
mod tests {
    use plenum_proto::v1::{
        DecisionMetadata, GrantedElsewhere, NotWantedCause, Placement, PlacementOutcome, Refusal, RefusalReason,
        Transaction,
    };

    use super::*;

    // They were told by their ids: whom it had hit took a command for each, and for whom one more.
    #[test]
    fn an_eviction_tells_whom_it_hit_where_and_for_whom() {
        let whole = EvictionView {
            allocation: 1 << 32 | 3,
            job: "default/low".to_owned(),
            group: "work".to_owned(),
            task: 2,
            machine: "m1".to_owned(),
            priority: Some(10),
            heir: 1 << 32 | 7,
            heir_job: "ml/high".to_owned(),
            heir_group: "train".to_owned(),
            heir_task: 0,
            heir_priority: Some(90),
            other_heirs: 0,
        };
        assert_eq!(
            eviction(&whole),
            "task low/work[2], priority 10 (alloc-3-1) on m1, for task ml/high/train[0], priority 90 (alloc-7-1)"
        );
        assert!(eviction(&EvictionView { other_heirs: 2, ..whole.clone() }).ends_with("(alloc-7-1) and 2 more"));
        let json = eviction_json(&whole);
        assert_eq!((&json["machine"], &json["for"]["namespace"]), (&json!("m1"), &json!("ml")));
        // Of whom nothing is retained any more.
        let forgotten = EvictionView { job: String::new(), priority: None, ..whole };
        assert!(eviction(&forgotten).starts_with("alloc-3-1, for task ml/high"), "{}", eviction(&forgotten));
        assert_eq!(eviction_json(&forgotten)["task_index"], Value::Null);
    }

    // Most seeds are above what floating point holds: `jq` printed another one than there was.
    #[test]
    fn a_seed_is_a_text_that_no_program_rounds() {
        let seed = 12_322_096_073_707_896_240;
        let decision = Some(DecisionMetadata { seed, ..DecisionMetadata::default() });
        let view = TransactionView { decision, ..TransactionView::default() };
        assert_eq!(view.to_json()["decision"]["seed"], "12322096073707896240");
        assert_eq!(view.to_json()["decision"]["deciding_micros"], Value::Null, "nothing is said of it");
    }

    // Both were logged, and no command told them.
    #[test]
    fn what_a_decision_took_as_granted_and_the_digest_of_its_policy_are_told() {
        let decision =
            DecisionMetadata { configuration: vec![0x0a, 0xff].into(), assumed: vec![3, 4], ..Default::default() };
        let outcome = Outcome { session: 17, number: 5, ..Outcome::default() };
        let view = TransactionView { decision: Some(decision), outcome: Some(outcome), ..TransactionView::default() };
        let told = &view.to_json()["decision"];
        assert_eq!((&told["configuration"], &told["assumed"]), (&json!("0aff"), &json!(["txn-17-3", "txn-17-4"])));
        let silent = TransactionView { decision: Some(DecisionMetadata::default()), ..view };
        let told = &silent.to_json()["decision"];
        assert_eq!((&told["configuration"], &told["assumed"]), (&Value::Null, &json!([])));
    }

    // A claim that came at the end of a backoff was nobody's bug to `--filter divergent=true`, and one to who read the list as JSON.
    #[test]
    fn a_claim_that_may_have_been_early_is_no_divergence_for_programs_either() {
        let refusal = |reason: RefusalReason, cause: NotWantedCause| Refusal {
            reason: reason.into(),
            not_wanted: cause.into(),
            ..Refusal::default()
        };
        let refusals = vec![
            refusal(RefusalReason::NotWanted, NotWantedCause::InBackoff),
            refusal(RefusalReason::NotWanted, NotWantedCause::TaskIsDone),
            refusal(RefusalReason::NoRoom, NotWantedCause::Unspecified),
        ];
        let outcome = Some(Outcome { refusals, divergences: vec![0, 1, 2], ..Outcome::default() });
        let view = TransactionView { outcome, ..TransactionView::default() };
        assert_eq!(view.to_json()["divergences"], json!([1, 2]));
    }

    // Whose each allocation was and where took a command for each.
    #[test]
    fn what_was_granted_is_told_with_its_task_and_machine() {
        let spare = |claim, machine| GrantedElsewhere { claim, machine };
        let asked = Placement { job: 7, machines: vec![6; 4], tasks: vec![0, 1, 2, 3], ..Placement::default() };
        let placement = PlacementOutcome {
            allocations: vec![0, 1 << 32 | 3, 1 << 32 | 4, 1 << 32 | 5],
            elsewhere: vec![spare(1, 7), spare(3, 8)],
            ..PlacementOutcome::default()
        };
        let view = TransactionView {
            outcome: Some(Outcome { placements: vec![placement], ..Outcome::default() }),
            machine_names: [(6, "m6".to_owned()), (7, "m7".to_owned())].into(),
            job_names: [(7, "ml/quick".to_owned())].into(),
            group_names: [("7/0".to_owned(), "g".to_owned())].into(),
            transaction: Some(Transaction { placements: vec![asked], ..Transaction::default() }),
            ..TransactionView::default()
        };
        let lines = [
            "task ml/quick/g[1] (alloc-3-1) on m7, a spare machine",
            "task ml/quick/g[2] (alloc-4-1) on m6",
            "task ml/quick/g[3] (alloc-5-1) on machine 8, a spare machine",
        ];
        assert_eq!(grants(&view), lines);
        assert_eq!(
            grants(&TransactionView { transaction: None, ..view.clone() }),
            ["alloc-3-1", "alloc-4-1", "alloc-5-1"]
        );
        let json = json!([{ "allocation": "alloc-3-1", "machine": "m7" }, { "allocation": "alloc-5-1", "machine": "machine 8" }]);
        assert_eq!(view.to_json()["elsewhere"], json);
    }

    // A gang's transaction was "not atomic", and nothing said that it was to have all of its claims or none.
    #[test]
    fn what_each_placement_asked_for_is_told_with_its_minimum() {
        let placement =
            |job, min| Placement { job, machines: vec![6, 7], tasks: vec![0, 1], min, ..Placement::default() };
        let told = PlacementOutcome { allocations: vec![0, 1 << 32 | 3], ..PlacementOutcome::default() };
        let placements = vec![placement(7, 0), placement(7, 2), placement(1 << 32 | 8, 1)];
        let view = TransactionView {
            outcome: Some(Outcome { placements: vec![told], ..Outcome::default() }),
            job_names: [(7, "default/train".to_owned())].into(),
            group_names: [("7/0".to_owned(), "main".to_owned())].into(),
            transaction: Some(Transaction { placements, ..Transaction::default() }),
            ..TransactionView::default()
        };
        assert_eq!(
            minima(&view),
            ["2 of 2 claims for train/main, or none", "1 of 2 claims for job-8-1/group 0, or none"]
        );
        let object = |job: &str, group: &str, granted, min: Option<u32>| {
            let namespace = (job == "train").then_some("default");
            json!({ "namespace": namespace, "job": job, "group": group, "claims": 2, "granted": granted, "min": min })
        };
        let expected = [
            object("train", "main", 1, None),
            object("train", "main", 0, Some(2)),
            object("job-8-1", "group 0", 0, Some(1)),
        ];
        assert_eq!(view.to_json()["placements"], json!(expected));
        let listed = TransactionView { transaction: None, ..view };
        assert!(minima(&listed).is_empty() && listed.to_json().get("placements").is_none());
    }

    #[test]
    fn a_listed_transaction_counts_whom_it_evicted() {
        let view = TransactionView { evicted_total: 3, ..TransactionView::default() };
        let (narrow, wide) = TransactionView::titles();
        assert_eq!(view.cells().len(), narrow.len() + wide.len());
        let column = narrow.iter().position(|title| *title == "EVICTED").unwrap_or_default();
        assert_eq!((view.cells()[column].as_str(), &view.to_json()["evicted"]), ("3", &json!(3)));
    }
}
