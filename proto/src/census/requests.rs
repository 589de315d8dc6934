//! What each request may have at most.
//!
//! A bound of a list within a list is for all of them together, and lets each of them have as many as the conversions do.

use std::any::TypeId;

use super::Part::{Entry, Numbers, Once, Within};
use super::{Census, Shape, Total};
use crate::bounds::{
    ASSUMED_MAX, ATTRIBUTES_MAX, BODY_BYTES_MAX, CLAIMS_MAX, CONSTRAINT_VALUES, CONSTRAINT_VALUES_MAX, CUSTOM_MAX,
    DEVICES_MAX, GROUPS_MAX, LIST_MAX, REPORTED_MACHINES_MAX, SPREAD_MAX, TRANSACTION_ENTRIES_MAX, TRANSITIONS_MAX,
};
use crate::v1;

/// The requests that are counted as they come in, by their name and their type. Transactions are counted where their columns are read.
#[expect(clippy::type_complexity, reason = "a table")]
pub(super) static ALL: [(&str, fn() -> TypeId, &Census); 10] = [
    ("SessionRequest", TypeId::of::<v1::SessionRequest>, &SESSION),
    ("Hello", TypeId::of::<v1::Hello>, &HELLO),
    ("PassOverRequest", TypeId::of::<v1::PassOverRequest>, &PASS_OVER),
    ("TakeHoldRequest", TypeId::of::<v1::TakeHoldRequest>, &TAKE_HOLD),
    ("SubmitRequest", TypeId::of::<v1::SubmitRequest>, &SUBMIT),
    ("SetQuota", TypeId::of::<v1::SetQuota>, &QUOTA),
    ("SetPartition", TypeId::of::<v1::SetPartition>, &PARTITION),
    ("RegisterRequest", TypeId::of::<v1::RegisterRequest>, &REGISTER),
    ("ReportRequest", TypeId::of::<v1::ReportRequest>, &REPORT),
    ("ReportManyRequest", TypeId::of::<v1::ReportManyRequest>, &REPORT_MANY),
];

pub(super) const fn total(field: &'static str, what: &'static str, most: usize) -> Total {
    Total { field, what, most }
}

pub(super) const fn shape(parts: &'static [(u64, super::Part)]) -> Shape {
    Shape { parts, others: None }
}

pub(crate) static TRANSACTION: Census = Census {
    message: "a Transaction",
    totals: &[
        total("placements", "placements", CLAIMS_MAX),
        total("placements", "claims in a transaction", CLAIMS_MAX),
        total("placements", "tasks in a transaction", CLAIMS_MAX),
        total("placements", "alternates in a transaction", CLAIMS_MAX),
        total("placements", "entries in all placements", TRANSACTION_ENTRIES_MAX),
        total("guards", "guards in a transaction", CLAIMS_MAX),
        total("stops", "stops in a transaction", CLAIMS_MAX),
        total("decision.assumed", "transactions in flight", ASSUMED_MAX),
        total("placements.resources.custom", "named resources in all placements", CLAIMS_MAX * CUSTOM_MAX),
        total(
            "placements.extras.take_overs.amount.custom",
            "named resources in all placements",
            TRANSACTION_ENTRIES_MAX * CUSTOM_MAX,
        ),
        total("placements.extras.take_overs.ports", "ports in all placements", TRANSACTION_ENTRIES_MAX * LIST_MAX),
    ],
    shape: shape(&[(7, Within(0, &PLACEMENT)), (8, Numbers(6)), (9, Entry(5)), (11, Once(&shape(&[(5, Numbers(7))])))]),
};
static PLACEMENT: Shape = Shape {
    parts: &[
        (4, Once(&shape(&[(4, Numbers(8))]))),
        (5, Numbers(1)),
        (6, Numbers(2)),
        (9, Within(4, &EXTRAS)),
        (11, Numbers(3)),
    ],
    others: Some(4),
};
static EXTRAS: Shape = Shape { parts: &[(3, Within(4, &TAKE_OVER))], others: Some(4) };
static TAKE_OVER: Shape = Shape { parts: &[(2, Once(&shape(&[(4, Numbers(9))]))), (4, Numbers(10))], others: Some(4) };

/// Notes of one message: many times what is taken of them.
const NOTES_MAX: usize = 65_536;

/// Sections of one hello: many times those that there are.
const SECTIONS_MAX: usize = 64;

/// The requests of a session's stream, but for transactions.
pub static SESSION: Census = Census {
    message: "a SessionRequest",
    totals: &[total("passed_over.notes", "notes", NOTES_MAX), total("hello.sections", "sections", SECTIONS_MAX)],
    shape: shape(&[(1, Once(&shape(&[(6, Numbers(1))]))), (3, Once(&NOTES))]),
};
static NOTES: Shape = shape(&[(1, Entry(0))]);

static HELLO: Census = Census {
    message: "a Hello",
    totals: &[total("sections", "sections", SECTIONS_MAX)],
    shape: shape(&[(6, Numbers(0))]),
};

static PASS_OVER: Census = Census {
    message: "a PassOverRequest",
    totals: &[total("passed_over.notes", "notes", NOTES_MAX)],
    shape: shape(&[(3, Once(&NOTES))]),
};

static TAKE_HOLD: Census = Census {
    message: "a TakeHoldRequest",
    totals: &[total("machines", "machines", CLAIMS_MAX), total("resources.custom", "named resources", CUSTOM_MAX)],
    shape: shape(&[(3, Numbers(0)), (4, Once(&shape(&[(4, Numbers(1))])))]),
};

static QUOTA: Census = Census {
    message: "a SetQuota",
    totals: &[total("limit.custom", "named resources", CUSTOM_MAX)],
    shape: shape(&[(2, Once(&shape(&[(4, Numbers(0))])))]),
};

static SUBMIT: Census = Census {
    message: "a SubmitRequest",
    totals: &[
        total("spec.shape.groups", "groups", GROUPS_MAX),
        total("spec.shape.options", "options", LIST_MAX),
        total("spec.shape.groups.after", "names of groups in a job", GROUPS_MAX * LIST_MAX),
        total("spec.shape.groups.constraints", "constraints in a job", GROUPS_MAX * LIST_MAX),
        total("spec.shape.groups.affinities", "affinities in a job", GROUPS_MAX * LIST_MAX),
        total("spec.shape.groups", CONSTRAINT_VALUES, CONSTRAINT_VALUES_MAX),
        total("spec.shape.groups.spread", "rules of spread in a job", GROUPS_MAX * SPREAD_MAX),
        total("spec.shape.groups.devices", "devices in a job", GROUPS_MAX * LIST_MAX),
        total("spec.shape.groups.ports", "ports in a job", GROUPS_MAX * LIST_MAX),
        total("spec.body.groups", "groups", GROUPS_MAX),
        // Of two bytes each at least.
        total("spec.body.groups.command", "arguments in a job", BODY_BYTES_MAX / 2),
        total("spec.body.groups.env", "variables in a job", BODY_BYTES_MAX / 2),
        total("spec.shape.groups.resources.custom", "named resources in a job", GROUPS_MAX * CUSTOM_MAX),
    ],
    shape: shape(&[(1, Once(&shape(&[(1, Once(&JOB_SHAPE)), (2, Once(&JOB_BODY))])))]),
};
static JOB_SHAPE: Shape = shape(&[(7, Within(0, &GROUP_SHAPE)), (10, Entry(1))]);
static GROUP_SHAPE: Shape = shape(&[
    (3, Entry(2)),
    (4, Once(&shape(&[(4, Numbers(12))]))),
    (5, Within(3, &shape(&[(3, Entry(5))]))),
    (6, Within(4, &shape(&[(1, Once(&shape(&[(3, Entry(5))])))]))),
    (7, Entry(6)),
    (9, Entry(7)),
    (10, Entry(8)),
]);
static JOB_BODY: Shape = shape(&[(1, Within(9, &shape(&[(3, Entry(10)), (4, Entry(11))])))]);

static PARTITION: Census = Census {
    message: "a SetPartition",
    totals: &[
        total("machines", "constraints", LIST_MAX),
        total("machines", "values of constraints", LIST_MAX * LIST_MAX),
        total("schedulers", "schedulers", LIST_MAX),
    ],
    shape: shape(&[(2, Within(0, &shape(&[(3, Entry(1))]))), (3, Entry(2))]),
};

/// Devices or ports of all tasks of a machine: its devices are shared in thousandths, and it has fewer ports than that.
const SHARES_MAX: usize = 1000 * DEVICES_MAX;

static REGISTER: Census = Census {
    message: "a RegisterRequest",
    totals: &[
        total("machine.attributes", "attributes", ATTRIBUTES_MAX),
        total("machine.devices", "devices", DEVICES_MAX),
        total("machine.inventory", "allocations", TRANSITIONS_MAX),
        total("machine.inventory.task.devices", "devices of all tasks", SHARES_MAX),
        total("machine.inventory.task.ports", "ports of all tasks", SHARES_MAX),
        total("named", "named resources", CUSTOM_MAX),
        total("machine.capacity.custom", "named resources", CUSTOM_MAX),
        total("machine.inventory.task.resources.custom", "named resources of all tasks", TRANSITIONS_MAX * CUSTOM_MAX),
    ],
    shape: shape(&[(1, Once(&MACHINE)), (5, Entry(5))]),
};
static MACHINE: Shape =
    shape(&[(3, Once(&shape(&[(4, Numbers(6))]))), (4, Entry(0)), (5, Entry(1)), (6, Within(2, &ITEM))]);
static ITEM: Shape =
    shape(&[(5, Once(&shape(&[(5, Once(&shape(&[(4, Numbers(7))]))), (6, Entry(3)), (7, Entry(4))])))]);

static REPORT: Census = Census {
    message: "a ReportRequest",
    totals: &[
        total("transitions", "transitions", TRANSITIONS_MAX),
        total("telemetry.used.custom", "named resources", CUSTOM_MAX),
    ],
    shape: shape(&[(3, Entry(0)), (4, Once(&shape(&[(1, Once(&shape(&[(4, Numbers(1))])))])))]),
};

static REPORT_MANY: Census = Census {
    message: "a ReportManyRequest",
    totals: &[
        total("machines", "machines", REPORTED_MACHINES_MAX),
        total("epochs", "epochs", REPORTED_MACHINES_MAX),
        total("instances", "instances", REPORTED_MACHINES_MAX),
        total("of", "positions of machines", TRANSITIONS_MAX),
        total("allocations", "transitions", TRANSITIONS_MAX),
        total("states", "states", TRANSITIONS_MAX),
        total("ready", "values", TRANSITIONS_MAX),
        total("exit_codes", "exit codes", TRANSITIONS_MAX),
        total("restarts", "counts of restarts", TRANSITIONS_MAX),
        total("reasons", "reasons", TRANSITIONS_MAX),
        total("unfit", "reasons why machines want no claims", REPORTED_MACHINES_MAX),
        total("revisions", "revisions", REPORTED_MACHINES_MAX),
        total("incarnations", "incarnations", REPORTED_MACHINES_MAX),
    ],
    shape: shape(&[
        (1, Numbers(0)),
        (2, Numbers(1)),
        (3, Entry(2)),
        (4, Numbers(3)),
        (5, Numbers(4)),
        (6, Numbers(5)),
        (7, Numbers(6)),
        (8, Numbers(7)),
        (9, Numbers(8)),
        (10, Entry(9)),
        (11, Numbers(10)),
        (12, Numbers(11)),
        (13, Numbers(12)),
    ]),
};
