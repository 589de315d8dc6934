//! The simulated disk keeps what it promises, and only that.

#![allow(clippy::unwrap_used)]

use super::*;

fn file(disk: &SimDisk, name: &str) -> Box<dyn DiskFile> {
    disk.open(name, OpenMode::Create).unwrap()
}

#[test]
fn what_was_synced_survives_every_power_cut() {
    for seed in 0..50 {
        let disk = SimDisk::new(0);
        let log = file(&disk, "log");
        log.write_at(0, &[1; 2000]).unwrap();
        log.sync().unwrap();
        disk.sync_dir().unwrap();
        log.write_at(2000, &[2; 2000]).unwrap();
        disk.crash(seed);
        assert_eq!(disk.image("log").unwrap()[..2000], [1; 2000], "seed {seed}");
    }
}

/// Four durable sectors of zeros that were being overwritten with sevens, and what is left of them.
fn crashed_while_writing(seed: u64) -> (SimDisk, Vec<u8>) {
    let disk = SimDisk::new(0);
    let log = file(&disk, "log");
    log.write_at(0, &[0; 2048]).unwrap();
    log.sync().unwrap();
    disk.sync_dir().unwrap();
    log.write_at(0, &[7; 2048]).unwrap();
    disk.crash(seed);
    let image = disk.image("log").unwrap();
    (disk, image)
}

#[test]
fn unsynced_sectors_are_lost_kept_and_torn_depending_on_the_seed() {
    let mut seen = std::collections::BTreeSet::new();
    for seed in 0..1000 {
        let (_, image) = crashed_while_writing(seed);
        seen.insert([image[0], image[512], image[1024], image[1536]]);
    }
    assert_eq!(seen.len(), 16, "each of the four sectors is kept or lost on its own: {seen:?}");
}

// A power cut while a new segment was filled with zeros counted as a write that was torn.
#[test]
fn where_nothing_changed_nothing_was_torn() {
    for seed in 0..50 {
        let disk = SimDisk::new(0);
        let log = file(&disk, "log");
        log.write_at(0, &[0; 2048]).unwrap();
        log.sync().unwrap();
        disk.sync_dir().unwrap();
        log.write_at(0, &[0; 4096]).unwrap();
        disk.crash(seed);
        assert_eq!(disk.strikes().torn_writes, 0, "seed {seed}");
    }
}

#[test]
fn a_write_is_torn_where_some_of_it_is_there_and_where_other_sectors_have_what_was_before_it() {
    let mut seen = std::collections::BTreeSet::new();
    for seed in 0..1000 {
        let disk = SimDisk::new(0);
        let log = file(&disk, "log");
        log.write_at(0, &[0; 1024]).unwrap();
        log.sync().unwrap();
        disk.sync_dir().unwrap();
        log.write_at(0, &[1; 1024]).unwrap();
        log.write_at(0, &[2; 1024]).unwrap();
        disk.crash(seed);
        let image = disk.image("log").unwrap();
        let sectors = [image[0], image[512]];
        let is_torn = sectors.contains(&2) && sectors != [2, 2];
        assert_eq!(disk.strikes().torn_writes, u64::from(is_torn), "seed {seed}: {sectors:?}");
        seen.insert(sectors);
    }
    assert!(seen.contains(&[1, 0]) && seen.contains(&[2, 1]), "{seen:?}");
}

#[test]
fn a_name_that_was_not_synced_may_be_gone_and_one_that_was_is_there() {
    let mut gone = 0;
    for seed in 0..50 {
        let disk = SimDisk::new(0);
        file(&disk, "kept");
        disk.sync_dir().unwrap();
        file(&disk, "new");
        disk.crash(seed);
        assert!(disk.names().contains(&"kept".to_owned()));
        gone += u64::from(!disk.names().contains(&"new".to_owned()));
    }
    assert!((1..50).contains(&gone), "the new name was lost {gone} times of 50");
}

// It never was, and what the log makes of that was tried by nobody.
#[test]
fn a_renaming_or_a_removal_that_fails_may_have_been_done() {
    let mut seen = std::collections::BTreeSet::new();
    for seed in 0..50 {
        let disk = SimDisk::new(seed);
        file(&disk, "old");
        file(&disk, "gone");
        disk.sync_dir().unwrap();
        disk.fail(SimOperation::Name, 0, io::ErrorKind::Other);
        assert!(disk.rename("old", "new").is_err());
        disk.fail(SimOperation::Name, 0, io::ErrorKind::Other);
        assert!(disk.remove("gone").is_err());
        let is_there = |name: &str| disk.names().iter().any(|there| there == name);
        assert_ne!(is_there("old"), is_there("new"), "it has one of both names");
        seen.insert((is_there("new"), is_there("gone")));
    }
    assert_eq!(seen.len(), 4, "{seen:?}");
}

#[test]
fn a_failed_sync_still_shows_what_it_lost_until_the_cache_is_dropped() {
    let disk = SimDisk::new(3);
    let log = file(&disk, "log");
    log.write_at(0, &[9; 64 * 512]).unwrap();
    disk.fail(SimOperation::Sync, 0, io::ErrorKind::Other);
    assert!(log.sync().is_err());
    log.sync().unwrap();
    let mut bytes = vec![0; 64 * 512];
    log.read_at(0, &mut bytes).unwrap();
    assert_eq!(bytes, [9; 64 * 512], "memory shows all of it, and the second sync claims success");
    log.settle().unwrap();
    let kept = disk.image("log").unwrap();
    assert_ne!(kept, bytes, "the disk has not got all of it");
}

#[test]
fn handles_of_a_dead_process_can_do_nothing() {
    let disk = SimDisk::new(0);
    let log = file(&disk, "log");
    disk.kill();
    assert!(log.write_at(0, &[1]).is_err());
    assert!(disk.list().is_err());
    assert!(disk.reboot().list().is_ok());
}

#[test]
fn the_power_goes_at_the_step_that_was_asked_for() {
    let disk = SimDisk::new(0);
    let log = file(&disk, "log");
    disk.crash_at_step(1, 5);
    log.write_at(0, &[1]).unwrap();
    assert!(log.sync().is_err());
    assert!(log.write_at(0, &[1]).is_err());
}

#[test]
fn a_full_disk_refuses_growth_but_not_overwriting() {
    let disk = SimDisk::new(0);
    disk.set_capacity(Some(1024));
    let log = file(&disk, "log");
    log.write_at(0, &[1; 1024]).unwrap();
    let error = log.write_at(1000, &[2; 25]).unwrap_err();
    assert!(error.is_full(), "{error}");
    log.write_at(1000, &[2; 24]).unwrap();
    assert_eq!(disk.free_bytes().unwrap(), 0);
}

// It left nothing at all, and whoever took that for granted was never found out.
#[test]
fn a_write_that_finds_the_disk_full_may_leave_a_part_of_it_and_no_more_than_there_is_room_for() {
    let mut lengths = std::collections::BTreeSet::new();
    for seed in 0..50 {
        let disk = SimDisk::new(seed);
        let log = file(&disk, "log");
        log.write_at(0, &[1; 512]).unwrap();
        disk.set_capacity(Some(1024));
        assert!(log.write_at(256, &[7; 2048]).unwrap_err().is_full());
        let image = disk.image("log").unwrap();
        let part = image.iter().filter(|byte| **byte == 7).count();
        let rest = vec![1; 256_usize.saturating_sub(part)];
        assert_eq!(image, [vec![1; 256], vec![7; part], rest].concat(), "seed {seed}");
        lengths.insert(part);
    }
    assert!(lengths.len() > 10, "{lengths:?}");
    assert_eq!(lengths.last(), Some(&768), "some fill the disk");
}

#[test]
fn what_is_armed_counts_when_it_strikes() {
    let disk = SimDisk::new(0);
    let log = file(&disk, "log");
    disk.fail(SimOperation::Write, 1, io::ErrorKind::Other);
    disk.fail(SimOperation::Sync, 0, io::ErrorKind::Other);
    disk.kill_at_step(2);
    log.write_at(0, &[1; 8]).unwrap();
    assert_eq!(disk.strikes(), SimStrikes::default());
    assert!(log.write_at(0, &[1; 8]).is_err());
    assert_eq!(disk.strikes(), SimStrikes { failures: 1, ..SimStrikes::default() });
    disk.set_capacity(Some(8));
    assert!(log.write_at(0, &[1; 9]).is_err());
    let (failures, full, kills_in_steps) = (1, 1, 1);
    // Nobody syncs any more: that failure never strikes.
    assert_eq!(disk.strikes(), SimStrikes { failures, full, kills_in_steps, ..SimStrikes::default() });
    disk.crash_at_step(0, 1);
    assert!(disk.reboot().sync_dir().is_err());
    assert_eq!(disk.strikes().crashes_in_steps, 1);
}

#[test]
fn whether_a_process_is_there_is_known_without_an_operation_that_may_fail() {
    let disk = SimDisk::new(0);
    disk.fail(SimOperation::Read, 0, io::ErrorKind::Other);
    assert!(disk.is_live());
    assert_eq!(disk.strikes(), SimStrikes::default());
    assert!(disk.list().is_err(), "it is armed still");
    let (failures, failed_reads) = (1, 1);
    assert_eq!(disk.strikes(), SimStrikes { failures, failed_reads, ..SimStrikes::default() });
    disk.kill();
    assert!(!disk.is_live() && disk.reboot().is_live());
}

#[test]
fn a_write_is_torn_when_a_part_of_it_is_lost() {
    let mut torn = std::collections::BTreeSet::new();
    for seed in 0..50 {
        let (disk, image) = crashed_while_writing(seed);
        let is_torn = image.contains(&0) && image.contains(&7);
        assert_eq!(disk.strikes().torn_writes, u64::from(is_torn), "seed {seed}");
        torn.insert(is_torn);
    }
    assert_eq!(torn.len(), 2, "some were torn, and some were not");
}

#[test]
fn a_process_that_dies_within_a_write_may_leave_a_part_of_it() {
    let mut lengths = std::collections::BTreeSet::new();
    for seed in 0..50 {
        let disk = SimDisk::new(seed);
        let log = file(&disk, "log");
        log.write_at(0, &[1; 1024]).unwrap();
        disk.kill_at_step(0);
        assert!(log.write_at(0, &[7; 1024]).is_err());
        let image = disk.image("log").unwrap();
        let part = image.iter().take_while(|byte| **byte == 7).count();
        assert_eq!(image, [vec![7; part], vec![1; 1024 - part]].concat());
        lengths.insert(part);
    }
    assert!(lengths.len() > 20, "{lengths:?}");
}
