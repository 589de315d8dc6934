//! The power goes, the process dies or the disk fails, at every point: what was acknowledged survives, and what
//! survives is a prefix of what was sent.

use super::*;
use crate::disk::SimOperation;
use std::io;

/// What a server did until it stopped.
#[derive(Clone, Copy, Debug, Default)]
struct Done {
    sent: u64,
    acknowledged: u64,
}

/// A short life of a server: appends, makes segments, gives up old ones and flushes its mark, until something
/// fails that ends a server. What does not end one is tried again later.
fn live(disk: &SimDisk, batches: u64) -> Done {
    let mut done = Done::default();
    let Ok((mut journal, recovered)) = try_open(disk) else { return done };
    let start = batches_in(recovered.tail.revision);
    done = Done { sent: start, acknowledged: start };
    for batch in start..start + batches {
        if batch % 3 == 1 {
            let _later = journal.keeper().prepare();
        }
        if batch % 4 == 2 {
            let _later = journal.high_water().flush();
            journal.keeper().release(label(batch).first_revision.saturating_sub(8));
        }
        done.sent = batch + 1;
        let outcome = append(&mut journal, batch).or_else(|failed| match failed {
            // Nothing was written, so it may be tried again.
            AppendError::NoSegment(_) => append(&mut journal, batch),
            failed => Err(failed),
        });
        if outcome.is_err() {
            return done;
        }
        done.acknowledged = batch + 1;
    }
    done
}

/// Opens after an accident and checks what is there; the number of batches.
fn assert_survived(disk: &SimDisk, done: Done, what: &str) -> u64 {
    let (journal, _) = try_open(disk).unwrap_or_else(|error| panic!("{what}: {error}"));
    let there = read_all(&journal);
    assert!(there >= done.acknowledged, "{what}: {there} batches are there, but {done:?}");
    assert!(there <= done.sent, "{what}: {there} batches are there, but {done:?}");
    there
}

/// The seeds to try: a few, or those that a long run asks for.
pub(super) fn seeds() -> std::ops::Range<u64> {
    let asked = std::env::var("PLENUM_SEEDS").unwrap_or_else(|_| "0..8".to_owned());
    let (first, end) = asked.split_once("..").expect("PLENUM_SEEDS is FIRST..END");
    first.parse().unwrap()..end.parse().unwrap()
}

fn steps_of_a_life() -> u64 {
    let disk = SimDisk::new(0);
    live(&disk, 14);
    disk.steps()
}

#[test]
fn a_power_cut_at_every_step_loses_nothing_acknowledged() {
    let mut more_than_acknowledged = 0;
    for step in 0..steps_of_a_life() {
        for seed in seeds() {
            let what = format!("power cut at step {step}, seed {seed}");
            let disk = SimDisk::new(seed);
            disk.crash_at_step(step, seed);
            let done = live(&disk, 14);
            let disk = disk.reboot();
            let there = assert_survived(&disk, done, &what);
            more_than_acknowledged += u64::from(there > done.acknowledged);

            // It goes on, and the next power cut, which may come while it recovers, loses nothing either.
            disk.kill();
            let disk = disk.reboot();
            disk.crash_at_step(seed * 2 % 24, seed + 1);
            let again = live(&disk, 6);
            disk.crash(seed + 2);
            let again = Done { sent: again.sent.max(there), acknowledged: again.acknowledged.max(there) };
            assert_survived(&disk.reboot(), again, &format!("{what}, and again"));
        }
    }
    assert!(more_than_acknowledged > 0, "some unacknowledged batches were whole on the disk");
}

#[test]
fn what_a_killed_process_left_in_memory_is_made_durable_before_it_is_served() {
    for (step, seed) in (0..steps_of_a_life()).flat_map(|step| seeds().map(move |seed| (step, seed))) {
        let disk = SimDisk::new(100 * step + seed);
        // The process dies where the power would have gone, also within a write, but the machine runs on.
        disk.kill_at_step(step);
        let done = live(&disk, 14);
        for more in 0..4 {
            let what = format!("process killed at step {step}, {more} batches, then a power cut");
            let disk = disk.fork();
            let (mut journal, _) = open(&disk);
            let there = read_all(&journal);
            assert!((done.acknowledged..=done.sent).contains(&there), "{what}: {there} are there, but {done:?}");
            // Without a background: what the dead process had begun to make is used as it is.
            (there..there + more).for_each(|batch| assert!(append(&mut journal, batch).is_ok(), "{what}"));
            disk.crash(step + more);
            let served = Done { sent: there + more, acknowledged: there + more };
            assert_survived(&disk.reboot(), served, &what);
        }
    }
}

#[test]
fn a_failure_of_any_operation_loses_nothing_acknowledged() {
    let operations = [SimOperation::Write, SimOperation::Sync, SimOperation::SyncDir, SimOperation::Name];
    for operation in operations {
        let mut struck = 0;
        for before in 0..60 {
            for kind in [io::ErrorKind::Other, io::ErrorKind::StorageFull] {
                let what = format!("{operation:?} number {before} fails with {kind:?}");
                let disk = SimDisk::new(before);
                disk.fail(operation, before, kind);
                let done = live(&disk, 14);
                struck += disk.strikes().failures;
                disk.kill();
                let there = assert_survived(&disk.reboot(), done, &what);
                disk.crash(before);
                let served = Done { sent: there, acknowledged: there };
                assert_survived(&disk.reboot(), served, &format!("{what}, then a power cut"));
            }
        }
        assert!(struck > 0, "no {operation:?} failed");
    }
}

#[test]
fn a_torn_last_frame_is_cut_reported_and_does_not_come_back() {
    let mut cuts = 0;
    let mut flaws = std::collections::BTreeSet::new();
    for seed in 0..200 {
        let (disk, mut journal) = log_of(4);
        journal.append(BatchLabel { last_revision: 15, ..label(4) }, &[&[5; 1500]]).unwrap();
        disk.crash(seed);
        let disk = disk.reboot();
        let (journal, recovered) = open(&disk);
        let Some(cut) = recovered.cut else { continue };
        cuts += 1;
        flaws.insert(match cut.damage.flaw {
            Flaw::Zeros { .. } => "the head is lost",
            Flaw::FrameChecksum { .. } => "the payload is torn",
            other => panic!("a torn write leaves no {other}"),
        });
        assert_eq!((cut.damage.revision, recovered.tail.revision), (13, 12), "{}", cut.damage);
        assert!(cut.bytes >= 512 && cut.bytes <= 2048);
        drop(journal);
        let (mut journal, recovered) = open(&disk);
        assert_eq!(recovered.cut, None);
        append(&mut journal, 4).unwrap();
        assert_eq!(read_all(&journal), 5);
    }
    assert!(cuts > 20, "the seeds tore {cuts} frames");
    assert_eq!(flaws.len(), 2, "both ways to tear a frame were taken: {flaws:?}");
}

#[test]
fn after_a_failed_sync_the_next_start_believes_the_disk_and_not_memory() {
    // A failed sync had lost a frame that reads still showed. Opened from memory, it was served; the next power
    // cut then took it.
    let mut lost = 0;
    for seed in 0..40 {
        let disk = SimDisk::new(seed);
        let (mut journal, _) = open(&disk);
        for batch in 0..3 {
            append(&mut journal, batch).unwrap();
        }
        disk.fail(SimOperation::Sync, 0, io::ErrorKind::Other);
        assert!(append(&mut journal, 3).is_err());
        disk.kill();
        let there = assert_survived(&disk.reboot(), Done { sent: 4, acknowledged: 3 }, "after a failed sync");
        lost += u64::from(there == 3);
        disk.crash(seed);
        let served = Done { sent: there, acknowledged: there };
        assert_survived(&disk.reboot(), served, "what was served after a failed sync");
    }
    assert!(lost > 0 && lost < 40, "the frame was lost in {lost} of 40 runs");
}

#[test]
fn where_memory_cannot_be_dropped_what_it_shows_is_written_again_before_it_is_served() {
    for seed in 0..40 {
        let disk = SimDisk::new(seed);
        disk.keep_cache();
        let (mut journal, _) = open(&disk);
        for batch in 0..3 {
            append(&mut journal, batch).unwrap();
        }
        disk.fail(SimOperation::Sync, 0, io::ErrorKind::Other);
        assert!(append(&mut journal, 3).is_err());
        disk.kill();
        let there = assert_survived(&disk.reboot(), Done { sent: 4, acknowledged: 3 }, "after a failed sync");
        assert_eq!(there, 4, "memory shows it");
        disk.crash(seed);
        let served = Done { sent: there, acknowledged: there };
        assert_survived(&disk.reboot(), served, "what was served after a failed sync");
    }
}

#[test]
fn a_log_is_written_read_and_recycled_by_three_threads_at_once() {
    const BATCHES: u64 = 400;
    let (disk, mut journal) = log_of(1);
    let keeper = journal.keeper();
    let mut reader = keeper.reader(1).unwrap();
    std::thread::scope(|threads| {
        threads.spawn(|| {
            while keeper.tail().revision < label(BATCHES - 1).last_revision {
                keeper.prepare().unwrap();
                keeper.high_water().flush().unwrap();
                keeper.release(keeper.tail().revision);
                std::thread::yield_now();
            }
        });
        threads.spawn(move || {
            let mut next = 0;
            while next < BATCHES {
                let Some(frame) = reader.next_frame().unwrap() else {
                    std::thread::yield_now();
                    continue;
                };
                assert_is_batch(&frame);
                assert_eq!(batches_in(frame.first_revision), next);
                next += 1;
            }
        });
        for batch in 1..BATCHES {
            append(&mut journal, batch).unwrap();
        }
    });
    // The background may not have had its turn since the reader left.
    keeper.release(keeper.tail().revision);
    keeper.prepare().unwrap();
    assert!(keeper.oldest_revision() > 1, "segments were given up behind the reader");
    drop((journal, keeper));
    disk.crash(1);
    assert_survived(&disk.reboot(), Done { sent: BATCHES, acknowledged: BATCHES }, "three threads");
}

#[test]
fn a_disk_that_lies_about_its_syncs_is_caught() {
    // The canary: were nothing lost here, the stories above would pass whatever the log does.
    let mut caught = 0;
    for seed in 0..20 {
        let disk = SimDisk::new(seed);
        live(&disk, 2);
        disk.kill();
        let disk = disk.reboot();
        disk.lie_about_syncs();
        let done = live(&disk, 10);
        assert_eq!(done.acknowledged, 12);
        disk.crash(seed);
        let there = try_open(&disk.reboot()).map(|(journal, _)| batches_in(journal.tail().revision));
        caught += u64::from(there.is_err() || there.is_ok_and(|there| there < done.acknowledged));
    }
    assert!(caught > 10, "caught in {caught} of 20 runs");
}
