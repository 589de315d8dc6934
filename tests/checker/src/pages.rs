//! A picture from the pages of a snapshot.

use bytes::Bytes;
use plenum_proto::v1;
use prost::Message;

use crate::fold::state;
use crate::picture::{Allocation, Group, Picture, Session, Task, id_of, is_live, slot_of};

/// Why pages are no picture.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a snapshot can't be read: {0}")]
pub struct BadPages(pub String);

/// The picture that these encoded `Page`s show, in any order.
///
/// # Errors
/// When they are no pages, or do not fit each other.
pub fn restore(encoded: &[Bytes]) -> Result<Picture, BadPages> {
    let mut pages = Vec::new();
    for page in encoded {
        pages.push(v1::Page::decode(page.clone()).map_err(|error| BadPages(error.to_string()))?);
    }
    pages.sort_by_key(|page| (page.table, page.number));
    let meta = pages.iter().find_map(|page| page.meta.as_ref()).ok_or_else(|| BadPages("no meta page".into()))?;
    let mut picture = Picture::default();
    restore_meta(&mut picture, meta);
    let mut rows = [0_u32; 3];
    for page in &pages {
        restore_page(&mut picture, page, &mut rows).map_err(BadPages)?;
    }
    let expected = [meta.group_rows, meta.task_rows, meta.allocation_rows];
    if rows != expected {
        return Err(BadPages(format!("rows of groups, tasks and allocations: expected {expected:?}, found {rows:?}")));
    }
    Ok(picture)
}

fn restore_meta(picture: &mut Picture, meta: &v1::MetaPage) {
    picture.revision = meta.revision;
    picture.time_micros = meta.time_micros;
    picture.cell.clone_from(&meta.cell);
    picture.scheduler_names.clone_from(&meta.scheduler_names);
    picture.shapes.clone_from(&meta.shapes);
    picture.paused = meta.paused.iter().cloned().collect();
    meta.rights.iter().for_each(|row| picture.give_rights(row));
}

/// `rows` are those of groups, tasks and allocations so far: pages come in order, so the next page begins there.
fn restore_page(picture: &mut Picture, page: &v1::Page, rows: &mut [u32; 3]) -> Result<(), String> {
    if let Some(machines) = &page.machines {
        let here = machines.machines.iter().filter(|machine| machine.state() != v1::MachineState::Gone);
        picture.machines.extend(here.map(|machine| (slot_of(machine.id), machine.clone())));
    }
    for row in page.jobs.iter().flat_map(|jobs| &jobs.jobs) {
        let put = row.put.clone().ok_or("a row of jobs without a job")?;
        picture.jobs.insert(put.id, put);
    }
    if let Some(groups) = &page.groups {
        for position in 0..groups.counts.len() {
            let group = Group {
                task_base: at(&groups.task_bases, position)?,
                count: groups.counts[position],
                not_before_micros: at(&groups.not_before_micros, position)?,
            };
            if group != Group::default() {
                picture.groups.insert(rows[0], group);
            }
            rows[0] += 1;
        }
    }
    if let Some(tasks) = &page.tasks {
        for position in 0..tasks.states.len() {
            let task = Task {
                allocation: at(&tasks.allocations, position)?,
                attempts: at(&tasks.attempts, position)?,
                state: tasks.states[position],
                failures: at(&tasks.failures, position)?,
            };
            if task != Task::default() {
                picture.tasks.insert(rows[1], task);
            }
            rows[1] += 1;
        }
    }
    if let Some(allocations) = &page.allocations {
        restore_allocations(picture, allocations, &mut rows[2])?;
    }
    let quotas = page.quotas.iter().flat_map(|quotas| &quotas.quotas);
    picture.quotas.extend(quotas.map(|row| (row.namespace.clone(), row.clone())));
    picture.holds.extend(page.holds.iter().flat_map(|holds| &holds.holds).map(|row| (row.job, row.clone())));
    let partitions = page.partitions.iter().flat_map(|partitions| &partitions.partitions);
    picture.partitions.extend(partitions.map(|row| (row.name.clone(), row.clone())));
    let unknown = page.unknown_tasks.iter().flat_map(|tasks| &tasks.unknown_tasks);
    picture.unknown_tasks.extend(unknown.map(|row| ((slot_of(row.machine), row.allocation), row.clone())));
    for row in page.sessions.iter().flat_map(|sessions| &sessions.sessions) {
        let opened = row.opened.clone().ok_or("a row of sessions without a session")?;
        let columns = row.numbers.iter().zip(&row.revisions).zip(&row.digests);
        let decided = columns.map(|((&number, &revision), &digest)| (number, revision, digest)).collect();
        picture.sessions.insert(opened.id, Session { opened, decided });
    }
    Ok(())
}

fn restore_allocations(picture: &mut Picture, page: &v1::AllocationPage, next: &mut u32) -> Result<(), String> {
    let first = *next;
    for position in 0..page.states.len() {
        let slot = *next;
        *next += 1;
        let generation = at(&page.generations, position)?;
        if generation > 0 {
            picture.generations.insert(slot, generation);
        }
        let state = state(page.states[position])?;
        if state == v1::AllocationState::Unspecified {
            continue;
        }
        if !is_live(state) {
            return Err(format!("slot {slot} of a snapshot is {}", state.as_str_name()));
        }
        let allocation = Allocation {
            id: id_of(slot, generation),
            state,
            ready: at(&page.ready, position)? > 0,
            job: at(&page.jobs, position)?,
            group: at(&page.groups, position)?,
            group_row: at(&page.group_rows, position)?,
            job_version: at(&page.job_versions, position)?,
            task: at(&page.tasks, position)?,
            attempt: at(&page.attempts, position)?,
            machine: at(&page.machines, position)?,
            epoch: at(&page.epochs, position)?,
            shape: at(&page.shapes, position)?,
            scheduler: at(&page.schedulers, position)?,
            created: at(&page.created, position)?,
            session: at(&page.sessions, position)?,
            number: at(&page.numbers, position)?,
            restarts: 0,
            reason: String::new(),
            devices: Vec::new(),
            ports: Vec::new(),
            take_overs: Vec::new(),
        };
        picture.by_machine.entry(allocation.machine).or_default().insert(slot);
        picture.allocations.insert(slot, allocation);
    }
    restore_extras(picture, page, first)
}

fn restore_extras(picture: &mut Picture, page: &v1::AllocationPage, first: u32) -> Result<(), String> {
    for pair in page.restarts.chunks(2) {
        let &[position, restarts] = pair else { return Err("restarts are no pairs".into()) };
        live(picture, first + position)?.restarts = restarts;
    }
    for reason in &page.reasons {
        live(picture, first + reason.position)?.reason.clone_from(&reason.reason);
    }
    for extra in &page.extras {
        let allocation = live(picture, first + extra.claim)?;
        allocation.devices.clone_from(&extra.devices);
        allocation.ports.clone_from(&extra.ports);
        allocation.take_overs.clone_from(&extra.take_overs);
    }
    Ok(())
}

fn live(picture: &mut Picture, slot: u32) -> Result<&mut Allocation, String> {
    let found = picture.allocations.get_mut(&slot);
    found.ok_or_else(|| format!("slot {slot} has something to say, and is not live"))
}

fn at<T: Copy>(column: &[T], position: usize) -> Result<T, String> {
    column.get(position).copied().ok_or_else(|| "columns of a page differ in length".to_owned())
}
