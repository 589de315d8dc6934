//! Pages of a cell, and the cell that they make again.

use std::collections::BTreeMap;

use bytes::Bytes;
use plenum_model::{AllocationState, AllocationStatus, Cell, Delta, Hold, LogTime, Move, Resources, Revision};
use plenum_proto::pages::{self, Decoder, PageError, Table};
use plenum_proto::sections::Sections;
use plenum_proto::{delta, v1};
use proptest::prelude::*;
use prost::Message;

use crate::world::governing::{name, partition, quota};
use crate::world::{STEPS, World};

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
    fn a_cell_is_the_same_after_it_was_pages(steps in prop::collection::vec(0..STEPS, 0..120)) {
        let world = World::after(&steps);
        let restored = pages::restore(image(&world.cell).into_values().rev()).unwrap();
        assert_same(&world.cell, &restored);
    }

    #[test]
    fn images_of_a_checkpoint_say_what_the_pages_do(steps in prop::collection::vec(0..STEPS, 0..120)) {
        let world = World::after(&steps);
        let images = pages::every(&world.cell).map(|(table, number)| pages::encode_image(&world.cell, table, number));
        let images: Vec<Bytes> = images.collect();
        for ((page, bytes), image) in image(&world.cell).into_iter().zip(&images) {
            let [read, expected] = [image.clone(), bytes].map(|bytes| format!("{:?}", pages::read_whole(bytes).unwrap()));
            let [read, expected] = [&read, &expected].map(|text| text.split(", bytes: ").next().unwrap().to_owned());
            prop_assert_eq!(read, expected, "page {:?}", page);
        }
        assert_same(&world.cell, &pages::restore(images).unwrap());
    }

    /// Columns are written by hand: byte for byte as generated code does.
    #[test]
    fn pages_have_the_bytes_that_generated_code_gives_them(steps in prop::collection::vec(0..STEPS, 0..120)) {
        for (page, bytes) in image(&World::after(&steps).cell) {
            let again = v1::Page::decode(bytes.clone()).unwrap().encode_to_vec();
            prop_assert_eq!(Bytes::from(again), bytes, "page {:?}", page);
        }
    }

    #[test]
    fn changed_pages_are_all_that_an_older_image_needs(
        steps in prop::collection::vec(0..STEPS, 0..120),
        more in prop::collection::vec(0..STEPS, 0..40),
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
    fn a_mirror_that_reads_every_delta_has_the_same_cell(steps in prop::collection::vec(0..STEPS, 0..80)) {
        let world = World::after(&steps);
        let mut mirror = Cell::default();
        for expected in &world.deltas {
            let mut bytes = Vec::new();
            delta::encode(expected, &mut bytes);
            let read = delta::decode(bytes.into()).unwrap();
            prop_assert_eq!(&read, expected);
            mirror.apply(&read).unwrap();
        }
        assert_same(&mirror, &world.cell);
    }

    #[test]
    fn a_watcher_of_machines_folds_what_it_gets(steps in prop::collection::vec(0..STEPS, 0..60)) {
        let sections = Sections::from_wire(&[v1::Section::Machines.into()]).unwrap();
        let half = World::after(&steps[..steps.len() / 2]);
        let whole = World::after(&steps);
        let mut decoder = Decoder::new(sections);
        for (table, number) in pages::every(&half.cell).filter(|(table, _)| sections.has_table(*table)) {
            decoder.add(pages::encode_page_for(&half.cell, table, number, sections)).unwrap();
        }
        let mut mirror = decoder.finish().unwrap();
        for all in &whole.deltas[half.deltas.len()..] {
            let mut bytes = Vec::new();
            delta::encode(all, &mut bytes);
            mirror.apply(&delta::decode(delta::cut(sections, bytes.into())).unwrap()).unwrap();
        }
        let names = |cell: &Cell| cell.machines().cloned().collect::<Vec<_>>();
        prop_assert_eq!(names(&mirror), names(&whole.cell));
    }

    #[test]
    fn damaged_pages_are_errors_and_never_panics(
        steps in prop::collection::vec(0..STEPS, 0..40),
        which in any::<prop::sample::Index>(),
        at in any::<prop::sample::Index>(),
        byte in any::<u8>(),
        in_columns in any::<bool>(),
    ) {
        let world = World::after(&steps);
        let kept = pages::every(&world.cell).map(|(table, number)| pages::encode_image(&world.cell, table, number));
        let mut all: Vec<Bytes> = if in_columns { kept.collect() } else { image(&world.cell).into_values().collect() };
        let page = which.get_mut(&mut all);
        let mut bytes = page.to_vec();
        *at.get_mut(&mut bytes) = byte;
        *page = bytes.into();
        // Where the damage makes another valid cell, only a checksum can tell.
        let _ = pages::restore(all);
    }
}

// Checkpoints and backups of a later version were restored without what this one does not know.
#[test]
fn a_page_with_what_only_a_later_version_knows_is_not_taken_for_whole() {
    for (_, page) in image(&World::after(&[0, 14, 1, 2, 45, 3, 46, 6, 20, 7, 8, 10]).cell) {
        let later: Bytes = [&page[..], &[0xc0, 0x3e, 1]].concat().into();
        assert!(pages::read_whole(page).is_ok());
        assert!(pages::read(later.clone()).is_ok());
        let refused = pages::read_whole(later).unwrap_err();
        assert!(refused.to_string().contains("the Page has `field 1000`"), "{refused}");
    }
}

#[test]
fn so_is_no_image_of_a_checkpoint() {
    let world = World::after(&[0, 14, 1, 2, 45, 3, 46, 6, 20, 7, 8, 10]);
    for table in [Table::Tasks, Table::Allocations] {
        let image = pages::encode_image(&world.cell, table, 0);
        assert_eq!(image[0], 7, "it is in columns");
        let later: Bytes = [&image[..], &[0xc0, 0x3e, 1]].concat().into();
        assert!(pages::read_whole(image).is_ok() && pages::read(later.clone()).is_ok());
        let refused = pages::read_whole(later).unwrap_err();
        assert!(refused.to_string().contains("Page has `field 1000`"), "{refused}");
    }
}

// A cell of which much was refused has a page full of the same reason, which a message of compressed bytes keeps for next to nothing.
#[test]
fn a_page_with_many_reasons_is_kept_as_a_message() {
    let mut world = World::after(&[0, 14, 1, 2 + 14 * 20, 3 + 14 * 99]);
    let live: Vec<u32> = world.cell.allocations().map(|found| found.id.slot).collect();
    assert!(live.len() > 3, "{live:?}");
    let status = AllocationStatus { state: AllocationState::Stopping, ready: false };
    let reason = |slot| Move { slot, status, restarts: 0, reason: Some("a".repeat(250).into()) };
    let mut image_after = |slots: &[u32]| {
        world.fold(Delta { moves: slots.iter().map(|&slot| reason(slot)).collect(), ..world.delta() });
        let table = Table::Allocations;
        (pages::encode_image(&world.cell, table, 0), pages::encode_page(&world.cell, table, 0))
    };
    let (few, many) = live.split_at(2);
    assert_eq!(image_after(few).0[0], 7, "it is in columns");
    let (image, page) = image_after(many);
    assert_eq!(image, page);
}

#[test]
fn so_is_one_with_such_a_field_in_its_rows() {
    let image = image(&World::after(&[0, 14, 1, 2, 45, 3, 46, 6, 20, 7, 8, 10]).cell);
    let later_in = |table: Table| {
        let page = v1::Page::decode(image[&(table, 0)].clone()).unwrap();
        let rows = match table {
            Table::Allocations => (8, page.allocations.clone().unwrap().encode_to_vec()),
            Table::Machines => (4, page.machines.clone().unwrap().encode_to_vec()),
            _ => (5, page.jobs.clone().unwrap().encode_to_vec()),
        };
        let rest = v1::Page { allocations: None, machines: None, jobs: None, ..page };
        let (field, content) = (rows.0, [&rows.1[..], &[0xc0, 0x3e, 1]].concat());
        let mut bytes = rest.encode_to_vec();
        prost::encoding::encode_key(field, prost::encoding::WireType::LengthDelimited, &mut bytes);
        prost::encoding::encode_varint(content.len() as u64, &mut bytes);
        bytes.extend(content);
        assert!(pages::read(bytes.clone().into()).is_ok(), "who only looks reads it");
        pages::read_whole(bytes.into()).unwrap_err().to_string()
    };
    for (table, path) in [(Table::Allocations, "allocations"), (Table::Machines, "machines"), (Table::Jobs, "jobs")] {
        let refused = later_in(table);
        assert!(refused.contains(&format!("the Page has `{path}.field 1000`")), "{refused}");
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

// A table that was full was written, and no mirror and no start read it back.
#[test]
fn a_table_of_as_many_rows_as_there_may_be_is_read_and_one_of_more_is_not() {
    let begun_with = |group_rows: u32| {
        let meta = pages::encode_page(&World::after(&[0]).cell, Table::Meta, 0);
        let mut page = v1::Page::decode(meta).unwrap();
        page.meta.as_mut().unwrap().group_rows = group_rows;
        Decoder::new(Sections::ALL).add(page.encode_to_vec().into())
    };
    let most = plenum_proto::bounds::ROWS_MAX;
    assert!(begun_with(most).is_ok());
    assert!(begun_with(most + 1).is_err());
}

#[test]
fn a_page_that_comes_twice_is_refused() {
    let world = World::after(&[0, 14]);
    let twice = pages::encode_page(&world.cell, Table::Machines, 0);
    let error = pages::restore(image(&world.cell).into_values().chain([twice])).unwrap_err();
    assert!(matches!(error, PageError::Unexpected { table: Table::Machines, number: 0, pages: 1 }), "{error}");
}

/// As long as they had no pages of their own, `Meta` had all rows of the last four tables. Checkpoints and backups of then are still read.
#[test]
fn a_meta_page_that_has_the_rows_of_small_tables_in_itself_is_read() {
    let world = World::after(&(0..500).map(|step| (step * 1_237) % STEPS).collect::<Vec<_>>());
    assert!(world.cell.holds().len() > 0 && world.cell.unknown_tasks().len() > 0, "there is something to read");
    let mut meta = v1::MetaPage::default();
    let mut pages = Vec::new();
    for bytes in image(&world.cell).into_values() {
        let mut page = v1::Page::decode(bytes).unwrap();
        meta.quotas.extend(page.quotas.take().into_iter().flat_map(|page| page.quotas));
        meta.holds.extend(page.holds.take().into_iter().flat_map(|page| page.holds));
        meta.partitions.extend(page.partitions.take().into_iter().flat_map(|page| page.partitions));
        meta.unknown_tasks.extend(page.unknown_tasks.take().into_iter().flat_map(|page| page.unknown_tasks));
        if page.table <= Table::Sessions as i32 {
            pages.push(page);
        }
    }
    let now = pages[0].meta.take().unwrap();
    pages[0].meta = Some(v1::MetaPage {
        quotas: meta.quotas,
        holds: meta.holds,
        partitions: meta.partitions,
        unknown_tasks: meta.unknown_tasks,
        quota_rows: 0,
        hold_rows: 0,
        partition_rows: 0,
        unknown_task_rows: 0,
        ..now
    });
    let restored = pages::restore(pages.iter().map(|page| page.encode_to_vec().into())).unwrap();
    assert_same(&restored, &world.cell);
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
    let steps: Vec<u32> = (0..2000u32).map(|step| (step.wrapping_mul(2_654_435_761) >> 7) % STEPS).collect();
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
    assert!(cell.holds().any(|(_, hold)| !hold.machines.is_empty()));
    assert!(cell.quotas().len() > 1 && cell.partitions().len() > 1 && cell.unknown_tasks().len() > 1);
    assert!(cell.paused().next().is_some() && cell.rights().len() > 0);
}

/// All of it was in the page `Meta` once, which had no bound then: a cell with some hundred thousand unknown tasks had neither checkpoints nor backups.
#[test]
fn what_is_held_reserved_and_limited_is_in_pages_of_bounded_size() {
    let mut world = World::after(&[0]);
    // 100 jobs for the holds; each number that is no multiple of four lays something down.
    (0..100).for_each(|_| world.step(2));
    let jobs: Vec<_> = world.cell.jobs().map(|job| job.id).collect();
    let slot = world.cell.machines().next().unwrap().id.slot;
    let hold = Hold {
        machines: vec![slot],
        resources: Resources::new(1, 1),
        deadline: LogTime { micros: 1 },
        first_wait: Revision(1),
    };
    let many = Delta {
        quotas: (0..2_500).map(|number| (name("team", number), Some(quota(number)))).collect(),
        holds: jobs.iter().map(|&job| (job, Some(hold.clone()))).collect(),
        partitions: (0..20).map(|number| (name("part", number), Some(partition()))).collect(),
        ..world.delta()
    };
    world.fold(many);
    let tables = |cell: &Cell| pages::tables(cell)[7..].to_vec();
    assert_eq!(
        tables(&world.cell),
        [(Table::Quotas, 3), (Table::Holds, 2), (Table::Partitions, 3), (Table::UnknownTasks, 0)]
    );
    let before = world.cell.clone();
    let mut written = image(&before);
    assert_same(&pages::restore(written.clone().into_values()).unwrap(), &before);

    // The last quota by name changes, and most partitions go: pages behind their last one stay as they are.
    let fewer = Delta {
        quotas: vec![(name("team", 999), Some(quota(7)))],
        partitions: (1..19).map(|number| (name("part", number), None)).collect(),
        ..world.delta()
    };
    world.fold(fewer);
    let changed = pages::changed(&before, &world.cell);
    assert_eq!(changed, [(Table::Meta, 0), (Table::Quotas, 2), (Table::Partitions, 0)]);
    for (table, number) in changed {
        written.insert((table, number), pages::encode_page(&world.cell, table, number));
    }
    assert_same(&pages::restore(written.into_values()).unwrap(), &world.cell);
}

#[test]
fn pages_with_grants_are_counted_and_none_where_no_job_and_no_task_changed() {
    let mut world = World::after(&[]);
    let (mut granted, mut others) = (0, 0);
    for step in (0..500).map(|step| (step * 1_237) % STEPS) {
        let before = world.cell.clone();
        world.step(step);
        let Some(delta) = world.deltas.last().filter(|delta| delta.revision > before.revision()) else { continue };
        let pages = pages::with_grants(&before, &world.cell);
        if !delta.grants.is_empty() {
            assert!(pages >= 2, "one of allocations and one of tasks: {delta:?}");
            granted += 1;
        } else if delta.tasks.is_empty() && delta.jobs.is_empty() {
            assert_eq!(pages, 0, "{delta:?}");
            others += 1;
        }
    }
    assert!(granted > 0 && others > 0, "{granted} grants, {others} other changes");
}

// Two jobs of one name were read, and which of them it named went by the order of the pages.
#[test]
fn two_jobs_or_machines_of_one_name_are_refused() {
    let world = World::after(&(0..500).map(|step| (step * 1_237) % STEPS).collect::<Vec<_>>());
    let rename = |table: Table, change: &dyn Fn(&mut v1::Page)| {
        let mut all = image(&world.cell);
        let page = all.get_mut(&(table, 0)).unwrap();
        let mut wire = v1::Page::decode(page.clone()).unwrap();
        change(&mut wire);
        *page = wire.encode_to_vec().into();
        pages::restore(all.into_values())
            .map(drop)
            .map_err(|error| std::error::Error::source(&error).unwrap().to_string())
    };
    assert_eq!(rename(Table::Jobs, &|_| ()), Ok(()));
    let error = rename(Table::Jobs, &|page| {
        let jobs = page.jobs.as_mut().unwrap().jobs.iter_mut();
        let mut shapes: Vec<_> = jobs.filter_map(|row| row.put.as_mut()?.shape.as_mut()).take(2).collect();
        let (namespace, name) = (shapes[0].namespace.clone(), shapes[0].name.clone());
        (shapes[1].namespace, shapes[1].name) = (namespace, name);
    });
    assert!(error.as_ref().is_err_and(|error| error.contains("has the name of another one")), "{error:?}");
    let error = rename(Table::Machines, &|page| {
        let machines = page.machines.as_mut().unwrap().machines.iter_mut();
        let mut there: Vec<_> = machines.filter(|machine| !machine.name.is_empty()).take(2).collect();
        there[1].name = there[0].name.clone();
    });
    assert!(error.as_ref().is_err_and(|error| error.contains("has the name of another one")), "{error:?}");
}
