//! Finding jobs and machines by name, also those that the cell has no more.
use super::inspection::{job_change, machine_change};
use super::*;
use crate::{Bearer, Search};
use v1::job_change::Change;

fn put(id: u64, name: &str) -> Change {
    let groups = vec![v1::GroupShape { name: "work".to_owned(), ..Default::default() }; 3];
    let shape = v1::JobShape { namespace: "ml".to_owned(), name: name.to_owned(), groups, ..Default::default() };
    Change::Put(v1::JobPut { id, shape: Some(shape), ..Default::default() })
}

const fn found(id: u64, revision: u64) -> Search {
    Search::Found(Bearer { id, revision })
}

/// Jobs of two names. The newest of one name need not have the greatest id.
fn crunches() -> [v1::LogEntry; 5] {
    [
        job_change(1, put(900, "crunch")),
        job_change(2, Change::Removed(900)),
        job_change(3, put(5, "crunch")),
        job_change(4, put(6, "crunches")),
        job_change(5, put(5, "crunch")),
    ]
}

#[test]
fn the_newest_job_of_a_name_up_to_a_revision_is_found_until_its_end_is_retired() {
    let folder = tempfile::tempdir().unwrap();
    let (history, _) = open(folder.path());
    let mut entries = crunches().to_vec();
    entries.push(job_change(6, Change::Removed(5)));
    history.append(&[batch(SECOND, entries)]).unwrap();
    let find = |name, until| history.find_job("ml", name, until, 1 << 20).unwrap();
    for is_written in [false, true] {
        if is_written {
            history.persist().unwrap();
        }
        assert_eq!(
            (find("crunch", 6), find("crunch", 5), find("crunch", 2)),
            (found(5, 5), found(5, 5), found(900, 1))
        );
        assert_eq!(
            (find("crunches", 9), find("crunc", 9), find("crunch", 0)),
            (found(6, 4), Search::NotThere, Search::NotThere)
        );
        assert_eq!(history.find_job("default", "crunch", 9, 1 << 20).unwrap(), Search::NotThere);
    }
    history.append(&batches(7, 30, 0)).unwrap();
    history.checkpoint(30, 0, &[], []).unwrap();
    while !history.retire(30).unwrap().done {}
    assert_eq!((find("crunch", 30), find("crunches", 30)), (Search::NotThere, found(6, 4)));
}

#[test]
fn all_jobs_of_a_name_are_found_also_those_that_are_gone_and_were_submitted_again() {
    let folder = tempfile::tempdir().unwrap();
    let (history, _) = open(folder.path());
    history.append(&[batch(SECOND, crunches().to_vec())]).unwrap();
    let called = |namespace, bytes_max| {
        let found = history.jobs_called(namespace, "crunch", bytes_max).unwrap();
        found.map(|found| found.into_iter().map(|bearer| bearer.id).collect::<std::collections::BTreeSet<_>>())
    };
    for is_written in [false, true] {
        if is_written {
            history.persist().unwrap();
        }
        assert_eq!(
            (called(Some("ml"), 1 << 20), called(None, 1 << 20)),
            (Some([5, 900].into()), Some([5, 900].into()))
        );
        assert_eq!((called(Some("default"), 1 << 20), called(None, 40)), (Some([].into()), None));
    }
}

#[test]
fn the_newest_machine_of_a_name_up_to_a_revision_is_found_though_its_slot_is_given_to_others() {
    let folder = tempfile::tempdir().unwrap();
    let (history, _) = open(folder.path());
    let (first, other, second) = (1 << 32 | 4, 2 << 32 | 4, 1 << 32 | 2);
    let ready = v1::MachineState::Ready;
    let entries = vec![
        machine_change(1, first, "m1", ready),
        machine_change(2, first, "", v1::MachineState::Gone),
        machine_change(3, other, "m2", ready),
        machine_change(4, second, "m1", ready),
        machine_change(5, second, "m1", v1::MachineState::Cordoned),
        machine_change(6, second, "", v1::MachineState::Gone),
    ];
    history.append(&[batch(SECOND, entries)]).unwrap();
    let find = |name, until| history.find_machine(name, until, 1 << 20).unwrap();
    for is_written in [false, true] {
        if is_written {
            history.persist().unwrap();
        }
        assert_eq!((find("m1", 6), find("m1", 3), find("m2", 6)), (found(second, 4), found(first, 1), found(other, 3)));
        assert_eq!((find("m2", 2), find("m", 6)), (Search::NotThere, Search::NotThere));
    }
}

#[test]
fn a_search_among_more_names_than_it_may_read_says_so_and_does_not_take_an_older_bearer_for_the_newest() {
    let folder = tempfile::tempdir().unwrap();
    let (history, _) = open(folder.path());
    let jobs = (1..=100).map(|id| job_change(id, put(id, if id % 50 == 1 { "crunch" } else { "other" })));
    history.append(&[batch(SECOND, jobs.collect())]).unwrap();
    for is_written in [false, true] {
        if is_written {
            history.persist().unwrap();
        }
        let find = |bytes_max| history.find_job("ml", "crunch", 100, bytes_max).unwrap();
        assert_eq!((find(1000), find(100 * 100)), (Search::TooMany, found(51, 51)));
    }
}
