//! Whether `docs/output.md` lists the very fields that programs read. It knows the page and the rows, and nothing of commands.

use std::collections::BTreeSet;

use plenum_proto::v1::{
    AllocationView, ConflictRow, Culprit, DecisionMetadata, Device, EvictionView, GroupBody, GroupShape, GroupView,
    HistoryEvent, HoldView, JobBody, JobShape, JobView, MachineView, Outcome, PartitionView, Placement, Port,
    QuotaView, Refusal, Resources, RetiredDay, RetiredPast, SchedulerView, StatusResponse, Transaction,
    TransactionView, UnknownTaskView,
};
use serde_json::{Map, Value, json};

use super::{Row, grouped, name_resources, quantity, retired_json, status_json};
use crate::failure::Failure;

const PAGE: &str = include_str!("../../docs/output.md");

/// The fields that the table below a heading lists.
fn listed(heading: &str) -> BTreeSet<&'static str> {
    let section = PAGE.split("\n### ").find_map(|section| section.strip_prefix(heading)?.strip_prefix('\n'));
    let section = section.unwrap_or_else(|| panic!("docs/output.md has no heading `{heading}`"));
    let rows =
        section.split("\n## ").next().unwrap().lines().filter_map(|row| row.strip_prefix("| ")?.split(" | ").next());
    rows.flat_map(|names| names.split('`').skip(1).step_by(2)).collect()
}

/// Of fields that are left out at times, some of the objects have each.
#[track_caller]
fn check(heading: &str, objects: &[Value]) {
    let fields = objects.iter().filter_map(Value::as_object).flat_map(Map::keys);
    let fields: BTreeSet<&str> = fields.map(String::as_str).collect();
    assert_eq!(fields, listed(heading), "the fields of {heading}, and those that docs/output.md lists");
}

#[test]
fn the_page_lists_what_programs_read_of_machines_and_what_runs_there() {
    name_resources(["licence", "b", "c", "d", "e"].map(String::from).to_vec());
    check("Resources", &[quantity::json_resources(Some(&Resources::default()))]);
    let machine = MachineView { devices: vec![Device::default()], ..MachineView::default() }.to_json();
    check("A device", &[machine["devices"][0].clone()]);
    check("A machine", &[machine]);
    check("An allocation", &[AllocationView { ports: vec![Port::default()], ..AllocationView::default() }.to_json()]);
    check("An unknown task", &[UnknownTaskView::default().to_json()]);
}

#[test]
fn the_page_lists_what_programs_read_of_jobs() {
    let shape = JobShape { groups: vec![GroupShape::default()], ..JobShape::default() };
    let body = JobBody { groups: vec![GroupBody::default()] };
    let groups = vec![GroupView::default()];
    let job = JobView { shape: Some(shape), body: Some(body), groups, ..JobView::default() }.to_json();
    check("A group of a job", &[job["groups"][0].clone()]);
    check("A job", &[job]);
}

#[test]
fn the_page_lists_what_programs_read_of_transactions() {
    let culprits = vec![Culprit { session: 9, ..Culprit::default() }, Culprit { allocation: 1, ..Culprit::default() }];
    let refusal = Refusal { culprits, ..Refusal::default() };
    let transaction = TransactionView {
        outcome: Some(Outcome { refusals: vec![refusal], ..Outcome::default() }),
        transaction: Some(Transaction { placements: vec![Placement::default()], ..Transaction::default() }),
        decision: Some(DecisionMetadata::default()),
        evictions: vec![EvictionView::default()],
        ..TransactionView::default()
    };
    let transaction = transaction.to_json();
    let refusal = &transaction["refusals"][0];
    check("A culprit", refusal["culprits"].as_array().unwrap());
    check("A refusal", std::slice::from_ref(refusal));
    check("A placement of a transaction", transaction["placements"].as_array().unwrap());
    check("An eviction", transaction["evictions"].as_array().unwrap());
    check("A transaction", &[transaction]);
}

#[test]
fn the_page_lists_what_programs_read_of_the_cell_and_who_shares_it() {
    name_resources(vec!["licence".to_owned()]);
    let row = ConflictRow {
        machine: "m1".to_owned(),
        job: "default/web".to_owned(),
        resource: "custom_1".to_owned(),
        ..ConflictRow::default()
    };
    check("A row of conflicts", &[grouped("pair", &[row])[0].to_json()]);
    let retired = retired_json(&RetiredPast { days: vec![RetiredDay::default()], uncounted_revisions: 0 });
    check("A day that is retired", retired["days"].as_array().unwrap());
    check("An event of a history", &[HistoryEvent::default().to_json()]);
    // The command looks up besides how many machines their agents cordoned.
    check("The status", &[status_json(&StatusResponse::default()), json!({"machines_unfit": null})]);
    check("A scheduler", &[SchedulerView::default().to_json()]);
    check("A quota", &[QuotaView::default().to_json()]);
    check("A partition", &[PartitionView::default().to_json()]);
    check("A hold", &[HoldView::default().to_json()]);
    check("An error", &[Failure::new("IO", "no").to_json()["error"].clone()]);
}
