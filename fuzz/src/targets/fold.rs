//! Deltas that are folded into a cell with some of everything: what comes of it is what its pages say.
//!
//! Who follows a cell folds its deltas; who begins reads its pages, and derives rooms, counters and indexes from scratch. So each is the other's
//! twin, for all deltas that keep to what those of a core keep to.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::OnceLock;

use plenum_model::{
    Cell, Delta, GroupRow, Job, JobChange, Machine, Move, Resources, SessionChange, SessionId, TaskState,
};
use plenum_proto::pages;

/// How far behind the rows that are there others may come. A group may have a million tasks, and a table grows by thousands of rows for one that is far behind:
/// with their memory nothing is wrong.
const FAR: u32 = 4096;
/// Rows that a table may have to be read back: each is written there, and a slot far behind makes thousands of them of a few bytes.
const ROWS_MAX: u32 = 1024;

fn cell() -> &'static Cell {
    static CELL: OnceLock<Cell> = OnceLock::new();
    CELL.get_or_init(crate::seeds::busy_cell)
}

/// Folds a delta as the next one, whatever its revision and its time are: it is folded, or there is a reason why not. Whether what came of it was
/// compared with its pages.
pub(super) fn fold(mut delta: Delta) -> bool {
    let before = cell();
    delta.revision = before.revision().next();
    delta.time = delta.time.max(before.time());
    let mut after = before.clone();
    if takes_much(before, &delta) || after.apply(&delta).is_err() {
        return false;
    }
    let rows = [after.machine_slots().len(), after.job_slots().len(), after.groups().len(), after.statuses().len()];
    if !is_of_a_core(before, &delta) || !machines_are_there(&after) || rows.iter().any(|&rows| rows > ROWS_MAX) {
        return false;
    }
    let images = pages::every(&after).map(|(table, number)| pages::encode_page(&after, table, number));
    let again = pages::restore(images).expect("what is folded can be read back");
    assert_eq!(after.first_difference(&again), None, "what is folded is not what is derived");
    true
}

/// Whether it has places that take memory by themselves.
fn takes_much(before: &Cell, delta: &Delta) -> bool {
    let is_far = |row: u32, rows: u32| row > rows + FAR;
    let (machines, groups) = (before.machine_slots().len(), before.groups().len());
    let held = delta.holds.iter().filter_map(|(_, hold)| hold.as_ref()).flat_map(|hold| hold.machines.iter().copied());
    let unknown = delta.unknown.iter().map(|(id, _)| id.machine);
    let named = delta.machines.iter().map(|machine| machine.id.slot).chain(held).chain(unknown);
    let granted = delta.grants.iter().flat_map(|grants| &grants.slots);
    if named.into_iter().any(|slot| is_far(slot, machines))
        || granted.into_iter().any(|&slot| is_far(slot, before.statuses().len()))
    {
        return true;
    }
    let is_beyond = |base: u32, count: u32| is_far(base.saturating_add(count), before.task_states().len());
    delta.jobs.iter().any(|change| match change {
        JobChange::Put { job, task_bases } => {
            is_far(job.id.slot, before.job_slots().len())
                || is_far(job.group_base, groups)
                || job.shape.groups.iter().zip(task_bases).any(|(group, &base)| is_beyond(base, group.count))
        }
        JobChange::Group { count, task_base, .. } => is_beyond(*task_base, *count),
        _ => false,
    })
}

/// Whether it keeps to what folding does not look for, as it would cost more than the fold: what breaks it is folded into a cell that contradicts itself.
fn is_of_a_core(before: &Cell, delta: &Delta) -> bool {
    let comes_back = |change: &Move| before.status(change.slot).state.is_leaving() && !change.status.state.is_leaving();
    let is_used = |number: u32| before.allocations().any(|found| found.row.shape == number);
    let rises = |machines: &[u32]| machines.is_sorted_by(|left, right| left < right);
    // Sums of larger ones leave their range at other moments.
    let is_small = |shape: &Resources| shape.cpu_millis <= 100_000_000;
    rows_are_new(before, delta)
        && names_are_free(before, delta)
        && numbers_rise(before, delta)
        && delta.shapes.iter().all(is_small)
        && each_once(delta.machines.iter().map(|machine| machine.id.slot))
        && each_once(delta.moves.iter().map(|change| change.slot))
        && !delta.moves.iter().any(comes_back)
        && !delta.reshaped.iter().any(|(number, _)| is_used(*number))
        // Who is blocked is so by an allocation that leaves, and not by a word.
        && delta.tasks.iter().all(|change| change.state != TaskState::Blocked)
        && delta.grants.iter().all(|grants| each_once(grants.extras.iter().map(|extra| extra.claim)))
        && delta.holds.iter().all(|(_, hold)| hold.as_ref().is_none_or(|hold| rises(&hold.machines)))
}

/// Groups and tasks come behind all that are there, in their order. A group that stays where it is does not grow, and is some job's.
fn rows_are_new(before: &Cell, delta: &Delta) -> bool {
    let (mut groups, mut tasks) = (before.groups().len(), before.task_states().len());
    let mut is_behind = |base: u32, count: u32| {
        let behind = base >= tasks;
        tasks = tasks.max(base.saturating_add(count));
        behind || count == 0
    };
    let rows_change = delta.jobs.iter().any(|change| matches!(change, JobChange::Put { .. } | JobChange::Removed(_)));
    delta.jobs.iter().all(|change| match change {
        JobChange::Put { job, task_bases } => {
            let first = groups;
            groups = groups.max(job.group_base.saturating_add(job.group_positions().end.into()));
            let mut places = job.shape.groups.iter().zip(task_bases);
            job.group_base >= first && places.all(|(group, &base)| is_behind(base, group.count))
        }
        JobChange::Group { row, count, task_base, .. } => {
            let stays = |known: &GroupRow| known.task_base == *task_base && *count <= known.count;
            let known = before.groups().get(*row).filter(|known| is_owned(before, *row, known));
            !rows_change && known.is_some_and(|known| stays(known) || is_behind(*task_base, *count))
        }
        _ => true,
    })
}

/// Whether each session decides numbers that are above those before, as pages have them.
fn numbers_rise(before: &Cell, delta: &Delta) -> bool {
    let mut newest: BTreeMap<SessionId, u64> = BTreeMap::new();
    delta.sessions.iter().all(|change| match change {
        SessionChange::Number { session, number, .. } => {
            let known = before.session(*session).and_then(|found| found.decided.back()).map(|last| last.number);
            newest.insert(*session, *number).or(known).is_none_or(|last| last < *number)
        }
        _ => true,
    })
}

/// Whether all that runs is on machines that are there: a machine may go, and what ran there ends with the same delta.
fn machines_are_there(after: &Cell) -> bool {
    let is_there = |slot| after.machine_row(slot).is_some();
    after.allocations().all(|found| is_there(found.row.machine))
        && after.unknown_tasks().all(|(id, _)| is_there(id.machine))
}

fn is_owned(cell: &Cell, row: u32, group: &GroupRow) -> bool {
    let own = |job: &Job| job.group_positions().any(|position| job.group_row(position) == Some(row));
    cell.job_in(group.job_slot).is_some_and(|job| own(job))
}

/// Machines and jobs have names that nobody else has, and a job has a body or none: an empty one can't be told from none in a page.
fn names_are_free(before: &Cell, delta: &Delta) -> bool {
    let of_machine = |machine: &Machine| before.machine_named(&machine.name).map(|known| known.id.slot);
    let of_job = |job: &Job| before.job_named(&job.shape.namespace, &job.shape.name).map(|known| known.id.slot);
    let jobs = || {
        delta.jobs.iter().filter_map(|change| match change {
            JobChange::Put { job, .. } => Some(&**job),
            _ => None,
        })
    };
    delta.machines.iter().all(|machine| of_machine(machine).is_none_or(|slot| slot == machine.id.slot))
        && each_once(delta.machines.iter().map(|machine| &machine.name))
        && jobs().all(|job| of_job(job).is_none_or(|slot| slot == job.id.slot))
        && each_once(jobs().map(|job| (&job.shape.namespace, &job.shape.name)))
        && jobs().all(|job| job.body.as_ref().is_none_or(|body| !body.is_empty()))
}

fn each_once<T: Ord>(mut all: impl Iterator<Item = T>) -> bool {
    let mut seen = BTreeSet::new();
    all.all(|one| seen.insert(one))
}
