//! What agents and the command line may be told at most.

use std::any::TypeId;

use super::Part::{Entry, Numbers, Once, Within};
use super::answers::{CONSTRAINT, GROUP, JOB_SHAPE, UNKNOWN_TASK};
use super::requests::{shape, total};
use super::{Census, Shape, Total};
use crate::v1;

/// Tasks of one machine in one message; an inventory has half as many at most, and a part of a wanted set some MiB.
const WANTED_MAX: usize = 1 << 17;
/// What is in all of them together, such as words of commands, and ids of allocations in each list: some dozens of bytes each.
const IN_WANTED_MAX: usize = 1 << 22;
/// Requests of readers in one message: the server sends one.
const LOGS_MAX: usize = 1 << 12;

/// Rows of a listing, with messages in them that are as large, such as a job's groups: a listing has 64 MiB, and hardly a row 16 bytes.
const ROWS_MAX: usize = 1 << 22;
/// What else is in all rows together, some dozens of bytes each when decoded: within 64 MiB there are no more, as none has less than two.
const ENTRIES_MAX: usize = 1 << 25;

/// What agents are told, by its name and its type.
pub(super) static ASSIGNMENTS: (&str, fn() -> TypeId, &Census) = (
    "Assignments",
    TypeId::of::<v1::Assignments>,
    &Census {
        message: "an Assignments",
        totals: &[
            total("wanted", "assignments", WANTED_MAX),
            total("wanted", "entries in all assignments", IN_WANTED_MAX),
            total("logs", "requests", LOGS_MAX),
        ],
        shape: shape(&[(3, Within(0, &ASSIGNMENT)), (4, Numbers(1)), (5, Entry(2)), (6, Numbers(1))]),
    },
);

static ASSIGNMENT: Shape =
    shape(&[(8, Once(&AMOUNTS)), (9, Once(&BODY)), (10, Entry(1)), (11, Entry(1)), (12, Numbers(1))]);
static AMOUNTS: Shape = shape(&[(4, Numbers(1))]);
static BODY: Shape = shape(&[(3, Entry(1)), (4, Entry(1))]);

static TOTALS: [Total; 2] = [total("", "rows", ROWS_MAX), total("", "entries in all rows", ENTRIES_MAX)];

/// A message of rows and what is in them.
macro_rules! view {
    ($message:literal, $kind:ty, $parts:expr) => {
        (
            $message,
            TypeId::of::<$kind> as fn() -> TypeId,
            &Census { message: $message, totals: &TOTALS, shape: shape(&$parts) },
        )
    };
}

/// A listing, whose rows are in its second field.
macro_rules! listing {
    ($message:literal, $kind:ty, $row:expr) => {
        view!($message, $kind, [(2, Within(0, $row))])
    };
}

/// What people and their programs are told, by its name and its type.
#[expect(clippy::type_complexity, reason = "a table")]
pub(super) static VIEWS: [(&str, fn() -> TypeId, &Census); 20] = [
    listing!("ListJobsResponse", v1::ListJobsResponse, &JOB),
    view!("GetJobResponse", v1::GetJobResponse, [(2, Once(&JOB))]),
    listing!("WantedResponse", v1::WantedResponse, &WANTED),
    listing!("ListAllocationsResponse", v1::ListAllocationsResponse, &ALLOCATION),
    view!("AllocationView", v1::AllocationView, ALLOCATION_PARTS),
    listing!("HistoryResponse", v1::HistoryResponse, &PLAIN),
    view!(
        "StatusResponse",
        v1::StatusResponse,
        [(7, Entry(1)), (8, Entry(1)), (9, Entry(1)), (21, Entry(1)), (30, Entry(1)), (31, Entry(1)), (32, Entry(1))]
    ),
    view!("MomentResponse", v1::MomentResponse, [(2, Entry(1))]),
    listing!("ListMachinesResponse", v1::ListMachinesResponse, &MACHINE),
    view!("GetMachineResponse", v1::GetMachineResponse, [(2, Once(&MACHINE))]),
    listing!("ListTransactionsResponse", v1::ListTransactionsResponse, &TRANSACTION_VIEW),
    view!("TransactionView", v1::TransactionView, TRANSACTION_PARTS),
    view!("Outcome", v1::Outcome, OUTCOME_PARTS),
    view!("ListConflictsResponse", v1::ListConflictsResponse, [(2, Within(0, &PLAIN)), (5, Once(&RETIRED_PAST))]),
    listing!("ListSessionsResponse", v1::ListSessionsResponse, &PLAIN),
    listing!("ListQuotasResponse", v1::ListQuotasResponse, &PLAIN),
    listing!("ListPartitionsResponse", v1::ListPartitionsResponse, &PARTITION_VIEW),
    listing!("ListSchedulersResponse", v1::ListSchedulersResponse, &PLAIN),
    listing!("ListHoldsResponse", v1::ListHoldsResponse, &HOLD),
    listing!("ListUnknownTasksResponse", v1::ListUnknownTasksResponse, &UNKNOWN_TASK),
];

static PLAIN: Shape = shape(&[]);
static JOB: Shape = shape(&[(3, Once(&JOB_SHAPE)), (7, Entry(0)), (9, Once(&shape(&[(1, Within(0, &BODY))])))]);
static WANTED: Shape = shape(&[(7, Once(&GROUP)), (8, Numbers(1))]);
const ALLOCATION_PARTS: [(u64, super::Part); 3] = [(25, Entry(1)), (26, Entry(1)), (27, Within(1, &TAKE_OVER))];
static ALLOCATION: Shape = shape(&ALLOCATION_PARTS);
static TAKE_OVER: Shape = shape(&[(3, Entry(1)), (4, Numbers(1))]);
static MACHINE: Shape =
    shape(&[(5, Entry(1)), (9, Entry(1)), (17, Numbers(1)), (19, Entry(1)), (20, Within(1, &HOLD))]);
static PARTITION_VIEW: Shape = shape(&[(2, Within(1, &CONSTRAINT)), (3, Entry(1))]);
static HOLD: Shape = shape(&[(4, Entry(1))]);
static RETIRED_PAST: Shape = shape(&[(1, Within(0, &shape(&[(10, Entry(1))])))]);

const OUTCOME_PARTS: [(u64, super::Part); 5] = [
    (6, Within(0, &shape(&[(1, Numbers(1)), (2, Within(1, &shape(&[(1, Entry(1))]))), (3, Entry(1))]))),
    (7, Within(0, &shape(&[(11, Entry(1))]))),
    (8, Numbers(1)),
    (11, Numbers(1)),
    (12, Numbers(1)),
];
const TRANSACTION_PARTS: [(u64, super::Part); 9] = [
    (1, Once(&shape(&OUTCOME_PARTS))),
    (4, Once(&ASKED)),
    (9, Entry(1)),
    (10, Entry(1)),
    (11, Entry(1)),
    (13, Numbers(1)),
    (15, Entry(1)),
    (16, Within(1, &shape(&[(4, Entry(1))]))),
    (17, Entry(1)),
];
static TRANSACTION_VIEW: Shape = shape(&TRANSACTION_PARTS);
static ASKED: Shape = shape(&[(7, Within(0, &PLACEMENT)), (8, Numbers(1)), (9, Entry(1))]);
static PLACEMENT: Shape = shape(&[
    (5, Numbers(1)),
    (6, Numbers(1)),
    (8, Entry(1)),
    (9, Within(1, &CLAIM_EXTRAS)),
    (10, Entry(1)),
    (11, Numbers(1)),
]);
static CLAIM_EXTRAS: Shape = shape(&[(1, Entry(1)), (2, Entry(1)), (3, Within(1, &TAKE_OVER))]);
