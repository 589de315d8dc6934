//! Pages of a cell, and the cell that they make again.

use std::collections::BTreeMap;

use bytes::{Bytes, BytesMut};
use plenum_model::{Cell, Delta};
use plenum_proto::pages::{self, Decoder, PageError, Table};
use plenum_proto::sections::Sections;
use plenum_proto::{delta, v1};
use proptest::prelude::*;
use prost::Message;

use crate::world::World;

fn image(cell: &Cell) -> BTreeMap<(Table, u32), Bytes> {
    pages::every(cell).map(|(table, number)| ((table, number), pages::encode_page(cell, table, number))).collect()
}

fn assert_same(left: &Cell, right: &Cell) {
    assert_eq!(left.first_difference(right), None);
    // What a mirror grows by next depends on how long its tables are.
    let lengths = |cell: &Cell| {
        [cell.machine_slots().len(), cell.job_slots().len(), cell.groups().len(), cell.task_states().len()]
    };
    assert_eq!(lengths(left), lengths(right));
    assert_eq!(left.allocation_rows().len(), right.allocation_rows().len());
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn a_cell_is_the_same_after_it_was_pages(steps in prop::collection::vec(0u32..100_000, 0..120)) {
        let world = World::after(&steps);
        let restored = pages::restore(image(&world.cell).into_values().rev()).unwrap();
        assert_same(&world.cell, &restored);
    }

    /// Columns are written by hand: byte for byte as generated code does.
    #[test]
    fn pages_have_the_bytes_that_generated_code_gives_them(steps in prop::collection::vec(0u32..100_000, 0..120)) {
        for (page, bytes) in image(&World::after(&steps).cell) {
            let again = v1::Page::decode(bytes.clone()).unwrap().encode_to_vec();
            prop_assert_eq!(Bytes::from(again), bytes, "page {:?}", page);
        }
    }

    #[test]
    fn changed_pages_are_all_that_an_older_image_needs(
        steps in prop::collection::vec(0u32..100_000, 0..120),
        more in prop::collection::vec(0u32..100_000, 0..40),
    ) {
        let mut world = World::after(&steps);
        let before = world.cell.clone();
        let mut pages_of_before = image(&before);
        more.iter().for_each(|&step| world.step(step));
        for (table, number) in pages::changed(&before, &world.cell) {
            pages_of_before.insert((table, number), pages::encode_page(&world.cell, table, number));
        }
        for page in pages::every(&world.cell) {
            prop_assert!(pages_of_before.contains_key(&page), "the image lacks {page:?}, which nobody wrote");
        }
        let restored = pages::restore(pages_of_before.into_values()).unwrap();
        assert_same(&world.cell, &restored);
    }

    #[test]
    fn a_mirror_that_reads_every_delta_has_the_same_cell(steps in prop::collection::vec(0u32..100_000, 0..80)) {
        let world = World::after(&steps);
        let mut mirror = Cell::default();
        for expected in &world.deltas {
            let mut bytes = BytesMut::new();
            delta::encode(expected, &mut bytes);
            let read = delta::decode(bytes.freeze()).unwrap();
            prop_assert_eq!(&read, expected);
            mirror.apply(&read).unwrap();
        }
        assert_same(&mirror, &world.cell);
    }

    #[test]
    fn a_watcher_of_machines_folds_what_it_gets(steps in prop::collection::vec(0u32..100_000, 0..60)) {
        let sections = Sections::from_wire(&[v1::Section::Machines.into()]).unwrap();
        let half = World::after(&steps[..steps.len() / 2]);
        let whole = World::after(&steps);
        let mut decoder = Decoder::new(sections);
        for (table, number) in pages::every(&half.cell).filter(|(table, _)| sections.has_table(*table)) {
            decoder.add(pages::encode_page_for(&half.cell, table, number, sections)).unwrap();
        }
        let mut mirror = decoder.finish().unwrap();
        for all in &whole.deltas[half.deltas.len()..] {
            let mut bytes = BytesMut::new();
            let spans = delta::encode(all, &mut bytes);
            mirror.apply(&delta::decode(spans.select(&bytes.freeze(), sections)).unwrap()).unwrap();
        }
        let names = |cell: &Cell| cell.machines().cloned().collect::<Vec<_>>();
        prop_assert_eq!(names(&mirror), names(&whole.cell));
    }

    #[test]
    fn damaged_pages_are_errors_and_never_panics(
        steps in prop::collection::vec(0u32..100_000, 0..40),
        which in any::<prop::sample::Index>(),
        at in any::<prop::sample::Index>(),
        byte in any::<u8>(),
    ) {
        let world = World::after(&steps);
        let mut all: Vec<Bytes> = image(&world.cell).into_values().collect();
        let page = which.get_mut(&mut all);
        let mut bytes = page.to_vec();
        *at.get_mut(&mut bytes) = byte;
        *page = bytes.into();
        // Where the damage makes another valid cell, only a checksum can tell.
        let _ = pages::restore(all);
    }
}

#[test]
fn a_missing_page_is_named() {
    let world = World::after(&[0, 14, 2]);
    let mut image = image(&world.cell);
    image.remove(&(Table::Tasks, 0)).unwrap();
    let error = pages::restore(image.into_values()).unwrap_err();
    assert_eq!(error.to_string(), "expected page 0 of TABLE_TASKS, found none");
}

#[test]
fn a_page_that_comes_twice_is_refused() {
    let world = World::after(&[0, 14]);
    let twice = pages::encode_page(&world.cell, Table::Machines, 0);
    let error = pages::restore(image(&world.cell).into_values().chain([twice])).unwrap_err();
    assert!(matches!(error, PageError::Unexpected { table: Table::Machines, number: 0, pages: 1 }), "{error}");
}

#[test]
fn sessions_that_were_closed_are_not_read_back_from_old_images() {
    let mut world = World::after(&[1; 65]);
    let before = world.cell.clone();
    let mut stale = image(&before);
    assert!(stale.contains_key(&(Table::Sessions, 1)));
    let session = world.cell.sessions().next().unwrap().id;
    let mut delta = Delta::new(world.cell.revision().next(), world.cell.time());
    delta.sessions = vec![plenum_model::SessionChange::Closed(session)];
    world.cell.apply(&delta).unwrap();
    for (table, number) in pages::changed(&before, &world.cell) {
        stale.insert((table, number), pages::encode_page(&world.cell, table, number));
    }
    assert_same(&pages::restore(stale.into_values()).unwrap(), &world.cell);
}

#[test]
fn a_grant_rewrites_only_the_pages_of_its_rows() {
    let mut world = World::after(&[0, 1, 2]);
    let before = world.cell.clone();
    world.step(3);
    let pages = pages::changed(&before, &world.cell);
    let expected = [(Table::Meta, 0), (Table::Machines, 0), (Table::Tasks, 0), (Table::Allocations, 0)];
    assert_eq!(pages, expected);
}

#[test]
fn what_jobs_do_is_left_out_for_those_who_may_not_read_it() {
    let world = World::after(&[2]);
    let page = |sections| {
        let bytes = pages::encode_page_for(&world.cell, Table::Jobs, 0, sections);
        v1::Page::decode(bytes).unwrap().jobs.unwrap().jobs[0].body.len()
    };
    assert_eq!((page(Sections::ALL), page(Sections::MIRROR)), (3, 0));
}

#[test]
fn the_worlds_of_these_tests_have_something_of_everything() {
    let steps: Vec<u32> = (0..2000u32).map(|step| step.wrapping_mul(2_654_435_761) >> 7).collect();
    let mut world = World::after(&steps);
    [2, 9, 11].into_iter().for_each(|step| world.step(step));
    let cell = world.cell;
    assert!(cell.live() > 100 && cell.allocations().any(|found| found.status.state.is_leaving()));
    assert!(cell.allocation_rows().iter().any(|row| row.generation > 1));
    assert!(cell.extras().any(|(_, extra)| !extra.takes_over.is_empty()));
    assert!(
        cell.extras().any(|(_, extra)| extra.restarts > 0) && cell.extras().any(|(_, extra)| extra.reason.is_some())
    );
    assert!(cell.machine_slots().iter().any(|slot| slot.machine.is_none()));
    assert!(cell.job_slots().iter().any(|slot| slot.job.is_none()));
    assert!(cell.sessions().any(|session| !session.decided.is_empty()));
}
