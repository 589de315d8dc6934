//! Listings of allocations: conditions are compared on rows, and a view is built of what passes only.

use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use plenum_model::{AllocationId, AllocationRef, Cell, Revision};
use plenum_proto::{filters, v1};

use super::failure::Failure;
use super::listing::{self, Filter};
use super::past;
use super::past::ended::Left;
use super::past::{ended, moved};
use crate::shared::Shared;
use crate::view;

/// Transactions that one listing reads for when they were: a row without its time looks like one of 1970.
const TIMES_READ_MAX: usize = 256;
/// Beside these, those whose times are known, and that are read for why they moved tasks.
const MOVES_READ_MAX: usize = 64;

/// Lists the live allocations that pass, and then those that ended last.
pub(super) async fn list(
    shared: &Arc<Shared>,
    wire: v1::ListAllocationsRequest,
) -> Result<v1::ListAllocationsResponse, Failure> {
    let list = wire.list.clone().unwrap_or_default();
    let filter = Filter::parse(&list.filter, filters::ALLOCATIONS)?.with_words("state", listing::ALLOCATION_WORDS)?;
    let filter = filter.with_words("ready", listing::YES_OR_NO)?.with_names("job")?;
    let filter = filter.with_numbers("task_index")?.with_numbers("attempt")?;
    let limit = listing::limit(list.limit, shared.settings.listing_rows);
    // What ended last is left out rather than waited for long, and said to be.
    let (cell, behind) = if wire.ended {
        let (cell, reached) = past::cell_in_history(shared, list.at).await?;
        (cell, reached.is_err())
    } else {
        (past::cell(shared, list.at).await?, false)
    };
    let known = shared.clone();
    // A million rows are looked at in some milliseconds, in which connections would stand still.
    let read = cell.read(move |cell| {
        let mut room = listing::Room::new(limit);
        let mut response = live(&known, cell, &wire, &filter, &mut room);
        if wire.ended && !response.truncated {
            let passes = |row: &v1::AllocationView| {
                (list.namespace.is_empty() || row.namespace == list.namespace)
                    && (wire.job.is_empty() || row.job == wire.job)
                    && (wire.machine.is_empty() || row.machine == wire.machine)
                    && filter.passes(|field| field_of_view(row, field))
            };
            let history = known.feed.history();
            let ends = match asked_job(&wire, &filter) {
                Some(job) => ended::of_jobs::ends(history, cell, &list.namespace, job)?,
                None => None,
            };
            let (rows, left) = ended::list(history, &known.picture, cell.revision(), ends.as_ref(), &mut room, passes)?;
            response.truncated = left != Left::Nothing || behind;
            if let Left::Before(revision) = left {
                response.looked_back_to = revision;
            }
            response.allocations.extend(rows);
            // Looked at last: what was retired while the log was read is missing, too.
            let oldest = history.oldest_revision();
            let is_missing = oldest > 1 && !response.truncated;
            response.oldest_revision = if is_missing { oldest } else { 0 };
        }
        Ok(response)
    });
    read.await
}

/// The name that the jobs of all rows that pass have, where one is asked for.
fn asked_job<'a>(wire: &'a v1::ListAllocationsRequest, filter: &'a Filter) -> Option<&'a str> {
    [wire.job.as_str(), filter.value("job").unwrap_or_default()].into_iter().find(|name| !name.is_empty())
}

fn live(
    shared: &Shared,
    cell: &Cell,
    wire: &v1::ListAllocationsRequest,
    filter: &Filter,
    room: &mut listing::Room,
) -> v1::ListAllocationsResponse {
    let mut response = v1::ListAllocationsResponse { revision: cell.revision().0, ..Default::default() };
    let Some(asked) = Asked::of(cell, wire) else { return response };
    let mut grants = Grants::new(shared);
    let passes = |allocation: &AllocationRef<'_>| {
        asked.passes(allocation) && filter.passes(|field| field_of_row(cell, allocation, field))
    };
    for allocation in cell.allocations().filter(passes) {
        if room.rows() == 0 {
            response.truncated = true;
            break;
        }
        let created = shared.picture.about_when(allocation.row.created);
        let mut row = view::allocation(cell, &allocation, created);
        // What was moved had another allocation before; of what leaves, why it does is of more use.
        let may_be_moved = row.attempt > 1 && row.reason.is_empty();
        if (created.is_none() || may_be_moved)
            && let Some(granted) = grants.at(row.created_revision, created.is_none())
        {
            if created.is_none() {
                row.created_micros = granted.created_micros;
            }
            if may_be_moved {
                row.move_reason = granted.moved.clone().unwrap_or_default();
            }
        }
        if !room.takes(&row) {
            response.truncated = true;
            break;
        }
        response.allocations.push(row);
    }
    response
}

/// Names that were asked for, as numbers of this cell.
struct Asked {
    /// By slot.
    jobs: Option<BTreeSet<u32>>,
    machine: Option<u32>,
}

impl Asked {
    /// `None`: nothing live can pass.
    fn of(cell: &Cell, wire: &v1::ListAllocationsRequest) -> Option<Self> {
        let namespace = wire.list.as_ref().map_or("", |list| &list.namespace);
        let machine = match wire.machine.as_str() {
            "" => None,
            name => Some(cell.machine_named(name)?.id.slot),
        };
        let jobs: Option<BTreeSet<u32>> = match (namespace, wire.job.as_str()) {
            ("", "") => None,
            (namespace, job) if !namespace.is_empty() && !job.is_empty() => {
                Some([cell.job_named(namespace, job)?.id.slot].into())
            }
            (namespace, name) => {
                let is_asked = |job: &&Arc<plenum_model::Job>| {
                    (namespace.is_empty() || *job.shape.namespace == *namespace)
                        && (name.is_empty() || *job.shape.name == *name)
                };
                Some(cell.jobs().filter(is_asked).map(|job| job.id.slot).collect())
            }
        };
        if jobs.as_ref().is_some_and(BTreeSet::is_empty) { None } else { Some(Self { jobs, machine }) }
    }

    fn passes(&self, allocation: &AllocationRef<'_>) -> bool {
        self.machine.is_none_or(|machine| machine == allocation.row.machine)
            && self.jobs.as_ref().is_none_or(|jobs| jobs.contains(&allocation.row.job_slot))
    }
}

/// What the log alone tells of grants: read once for all allocations of a transaction.
struct Grants<'a> {
    shared: &'a Shared,
    /// By revision.
    read: BTreeMap<u64, Granted>,
    /// How many more may be read for their times, and how many for moves.
    times_left: usize,
    moves_left: usize,
}

/// What is told of a revision that granted; nothing where it can't be read.
#[derive(Default)]
struct Granted {
    created_micros: i64,
    /// Why it moved all that it granted; `None`: it moved nothing for certain.
    moved: Option<String>,
}

impl<'a> Grants<'a> {
    const fn new(shared: &'a Shared) -> Self {
        Self { shared, read: BTreeMap::new(), times_left: TIMES_READ_MAX, moves_left: MOVES_READ_MAX }
    }

    /// `None`: a listing of very many old transactions leaves the rest out, rather than to read all blocks there are.
    fn at(&mut self, revision: u64, wants_time: bool) -> Option<&Granted> {
        Some(match self.read.entry(revision) {
            Entry::Occupied(known) => known.into_mut(),
            Entry::Vacant(vacant) => {
                let left = if wants_time { &mut self.times_left } else { &mut self.moves_left };
                *left = left.checked_sub(1)?;
                let granted = past::changed_at(self.shared, Revision(revision)).map(|delta| Granted {
                    created_micros: delta.time.micros,
                    moved: moved::reason_of_all(&delta).map(str::to_owned),
                });
                vacant.insert(granted.unwrap_or_default())
            }
        })
    }
}

/// What [`field_of_view`] gives of the allocation's view, without building that.
fn field_of_row(cell: &Cell, allocation: &AllocationRef<'_>, field: &str) -> Option<String> {
    let row = allocation.row;
    let job = cell.job(row.job());
    Some(match field {
        "id" => allocation.id.to_string(),
        "namespace" => job.map(|job| job.shape.namespace.to_string()).unwrap_or_default(),
        "job" => job.map(|job| job.shape.name.to_string()).unwrap_or_default(),
        "group" => {
            let group = job.and_then(|job| job.shape.groups.get(usize::from(row.group)));
            group.map(|group| group.name.to_string()).unwrap_or_default()
        }
        "machine" => cell.machine_in(row.machine).map(|machine| machine.name.to_string()).unwrap_or_default(),
        "scheduler" => cell.scheduler_name(row.scheduler).to_owned(),
        "state" => listing::allocation_word(v1::AllocationState::from(allocation.status.state).into()).to_owned(),
        "ready" => allocation.status.ready.to_string(),
        "task_index" => row.task.to_string(),
        _ => row.attempt.to_string(),
    })
}

fn field_of_view(row: &v1::AllocationView, field: &str) -> Option<String> {
    Some(match field {
        "id" => AllocationId::from_bits(row.id)?.to_string(),
        "namespace" => row.namespace.clone(),
        "job" => row.job.clone(),
        "group" => row.group.clone(),
        "machine" => row.machine.clone(),
        "scheduler" => row.scheduler.clone(),
        "state" => listing::allocation_word(row.state).to_owned(),
        "ready" => row.ready.to_string(),
        "task_index" => row.task.to_string(),
        _ => row.attempt.to_string(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_job_is_asked_for_by_its_name_or_by_a_filter() {
        let asked = |job: &str, filter: &str| {
            let wire = v1::ListAllocationsRequest { job: job.to_owned(), ..Default::default() };
            asked_job(&wire, &Filter::parse(filter, filters::ALLOCATIONS).unwrap()).map(str::to_owned)
        };
        assert_eq!(asked("web", "state=failed"), Some("web".to_owned()));
        assert_eq!(asked("", "state=failed,job=web"), Some("web".to_owned()));
        assert_eq!((asked("", "job!=web,group=web"), asked("", "job=")), (None, None), "rows of others pass");
    }

    // Rows behind 256 that had been moved were listed without their times.
    #[tokio::test]
    async fn what_is_read_for_moves_takes_nothing_from_what_is_read_for_times() {
        let dir = tempfile::tempdir().unwrap();
        let server = crate::Server::start(crate::ServerOptions::new(dir.path())).await.unwrap();
        let mut grants = Grants::new(server.shared());
        let mut told = |revisions: std::ops::Range<u64>, wants_time| {
            revisions.filter(|&revision| grants.at(revision, wants_time).is_some()).count()
        };
        assert_eq!(told(1000..2000, false), MOVES_READ_MAX);
        assert_eq!(told(2000..3000, true), TIMES_READ_MAX);
        assert_eq!(told(1000..1064, true), MOVES_READ_MAX, "what was read is known");
        server.shutdown().await.unwrap();
    }
}
