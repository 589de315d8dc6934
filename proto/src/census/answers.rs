//! What a server's answers may have at most, for who does not trust it with the memory of its own process.

use std::any::TypeId;

use plenum_model::cell::page_rows;

use super::Part::{Entry, Numbers, Once, Within};
use super::requests::{shape, total};
use super::{Census, Shape, Total};
use crate::bounds::{CLAIMS_MAX, LIST_MAX, SHAPE_BYTES_MAX};
use crate::v1;

/// The answers that are counted as they come in, by their name and their type.
#[expect(clippy::type_complexity, reason = "a table")]
pub(super) static ALL: [(&str, fn() -> TypeId, &Census); 1] =
    [("SessionResponse", TypeId::of::<v1::SessionResponse>, &SESSION)];

/// Pages or deltas of one message, of 32 bytes each beside their own: a server closes a message long before.
const PARTS_MAX: usize = 1 << 20;

/// Refused claims and failed guards of a transaction.
const REFUSALS_MAX: usize = 2 * CLAIMS_MAX;

/// Those that a refusal lists.
const CULPRITS_MAX: usize = 4;

static SESSION: Census = Census {
    message: "a SessionResponse",
    totals: &[
        total("snapshot.pages", "pages", PARTS_MAX),
        total("deltas.deltas", "deltas", PARTS_MAX),
        total("outcome.placements", "placements", CLAIMS_MAX),
        total("outcome.placements.allocations", "claims", CLAIMS_MAX),
        total("outcome.placements.ports", "claims with ports", CLAIMS_MAX),
        total("outcome.placements.ports.ports", "ports of all claims", CLAIMS_MAX * LIST_MAX),
        total("outcome.refusals", "refusals", REFUSALS_MAX),
        total("outcome.refusals.culprits", "culprits of all refusals", REFUSALS_MAX * CULPRITS_MAX),
        total("outcome.idle_stops", "idle stops", CLAIMS_MAX),
        total("outcome.divergences", "divergences", REFUSALS_MAX),
        total("outcome.placements.elsewhere", "claims on spare machines", CLAIMS_MAX),
        total("outcome.evicted", "evicted allocations", CLAIMS_MAX),
    ],
    shape: shape(&[
        (2, Once(&shape(&[(2, Entry(0))]))),
        (3, Once(&shape(&[(1, Entry(1))]))),
        (
            4,
            Once(&shape(&[
                (6, Within(2, &shape(&[(1, Numbers(3)), (2, Within(4, &shape(&[(1, Entry(5))]))), (3, Entry(10))]))),
                (7, Within(6, &shape(&[(11, Entry(7))]))),
                (8, Numbers(8)),
                (11, Numbers(9)),
                (12, Numbers(11)),
            ])),
        ),
    ]),
};

/// Rows of one page or one delta, some hundreds of bytes each when decoded: a report of as many failures as there may be changes three for each.
const ROWS_MAX: usize = 1 << 19;

/// What is in all rows together, some dozens of bytes each when decoded: as much as a page of the largest jobs can have, of which no entry has
/// less than two bytes.
const ENTRIES_MAX: usize = page_rows::JOBS * SHAPE_BYTES_MAX / 2;

/// The pages of a snapshot, where they come from a server.
pub static PAGE: Census = Census {
    message: "a Page",
    totals: &TABLES,
    shape: shape(&[
        (3, Once(&META)),
        (4, Once(&shape(&[(1, Within(0, &MACHINE))]))),
        (5, Once(&shape(&[(1, Within(0, &shape(&[(1, Once(&JOB_PUT))])))]))),
        (8, Once(&shape(&[(16, Entry(1)), (17, Within(1, &EXTRAS))]))),
        (9, Once(&PLAIN_ROWS)),
        (10, Once(&PLAIN_ROWS)),
        (11, Once(&PLAIN_ROWS)),
        (12, Once(&shape(&[(1, Within(0, &PARTITION))]))),
        (13, Once(&shape(&[(1, Within(0, &UNKNOWN_TASK))]))),
    ]),
};

/// Deltas, where they come from a server.
pub static DELTA: Census = Census {
    message: "a Delta",
    totals: &TABLES,
    shape: shape(&[
        (3, Once(&CELL)),
        (4, Entry(0)),
        (5, Entry(0)),
        (6, Within(0, &MACHINE)),
        (7, Within(0, &shape(&[(1, Once(&JOB_PUT))]))),
        (8, Within(0, &shape(&[(11, Within(1, &EXTRAS))]))),
        (9, Once(&shape(&[(5, Entry(1))]))),
        (10, Once(&shape(&[(4, Entry(1))]))),
        (11, Entry(0)),
        (12, Entry(0)),
        (13, Entry(0)),
        (14, Entry(0)),
        (15, Within(0, &PARTITION)),
        (16, Entry(0)),
        (17, Within(0, &UNKNOWN_TASK)),
        (18, Entry(0)),
        (19, Entry(0)),
        (20, Entry(0)),
        (21, Entry(0)),
    ]),
};

static TABLES: [Total; 2] = [total("", "rows", ROWS_MAX), total("", "entries in all rows", ENTRIES_MAX)];
static META: Shape = shape(&[
    (3, Once(&CELL)),
    (4, Entry(0)),
    (5, Entry(0)),
    (6, Entry(0)),
    (7, Entry(0)),
    (8, Within(0, &PARTITION)),
    (9, Within(0, &UNKNOWN_TASK)),
    (10, Entry(0)),
    (22, Entry(0)),
]);
static CELL: Shape = shape(&[(4, Entry(1))]);
static MACHINE: Shape = shape(&[(6, Entry(1)), (7, Entry(1))]);
static JOB_PUT: Shape = shape(&[(3, Once(&JOB_SHAPE))]);
pub(super) static JOB_SHAPE: Shape = shape(&[(7, Within(0, &GROUP)), (10, Entry(1))]);
pub(super) static GROUP: Shape = shape(&[
    (3, Entry(1)),
    (5, Within(1, &CONSTRAINT)),
    (6, Within(1, &shape(&[(1, Once(&CONSTRAINT))]))),
    (7, Entry(1)),
    (9, Entry(1)),
    (10, Entry(1)),
]);
pub(super) static CONSTRAINT: Shape = shape(&[(3, Entry(1))]);
static EXTRAS: Shape = shape(&[(2, Entry(1)), (3, Entry(1)), (4, Within(1, &shape(&[(3, Entry(1))])))]);
static PLAIN_ROWS: Shape = shape(&[(1, Entry(0))]);
static PARTITION: Shape = shape(&[(2, Within(1, &CONSTRAINT)), (4, Entry(1))]);
pub(super) static UNKNOWN_TASK: Shape = shape(&[(3, Once(&shape(&[(6, Entry(1)), (7, Entry(1))])))]);
