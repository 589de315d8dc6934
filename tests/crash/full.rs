//! A disk that fills up under load, at once or slowly, is crashed on and freed again.

use std::{
    fs::{self, OpenOptions},
    io::Write,
    path::PathBuf,
};

use plenum_checker::{
    calls::Reply,
    properties::{FullDisk, property_a_full_disk_only_refuses},
};
use tonic::Status;

use super::{
    cell::{CrashCell, Up},
    load::MACHINES,
    volume::{Kind, Volume},
};
use crate::{
    disk::SmallDisk,
    rivals::Rivals,
    skips::skipped,
    stage::{Stage, eventually},
};

const VOLUME_BYTES: u64 = 96 << 20;
/// Less than the cell keeps free, and more than nothing.
const NEARLY_FULL_BYTES: u64 = 600 << 10;

/// A store for a volume that is twice as large.
const DEVICE_BYTES: u64 = 120 << 20;

/// A job that nobody looks after.
const LATE: &str = "name = \"late\"\nscheduler = \"nobody\"\n[group.main]\ncommand = [\"/bin/true\"]\n\
                    resources = { cpu = \"50m\", memory = \"16MiB\" }\n";

/// What somebody else keeps on the volume.
struct Ballast(PathBuf);

impl Ballast {
    fn on(volume: &Volume) -> Self {
        Self(volume.path().join("ballast"))
    }

    /// Takes all but so many bytes of the room, or as much as there is.
    fn fill_up_to(&self, left_bytes: u64) {
        let mut file = OpenOptions::new().create(true).append(true).open(&self.0).unwrap();
        let piece = vec![1_u8; 256 << 10];
        loop {
            let room = nix::sys::statvfs::statvfs(&self.0).unwrap();
            let free = room.blocks_available() * room.fragment_size();
            let more = usize::try_from(free.saturating_sub(left_bytes)).unwrap().min(piece.len());
            if more == 0 || file.write_all(&piece[..more]).is_err() {
                return;
            }
        }
    }

    fn free(&self) {
        fs::remove_file(&self.0).unwrap();
    }
}

fn cell_on_a_small_disk(seed: u64) -> Option<(CrashCell, Volume)> {
    if let Some(why) = Kind::Ext4.missing() {
        skipped(&why);
        return None;
    }
    let stage = Stage::new();
    let volume = Volume::make(Kind::Ext4, stage.path("volume"), VOLUME_BYTES);
    Some((CrashCell::within(stage, "volume/cell", seed), volume))
}

/// What happens at a cell now, as the checker's property wants to be told: somebody asks for a change and somebody asks how the cell is, somebody
/// reads and somebody begins to follow it, and agents renew their leases.
fn looks(cell: &CrashCell, up: &Up) -> [FullDisk; 5] {
    let address = &up.address;
    // A job that nobody looks after: a transaction that is none of the load's is found by the load.
    let name = format!("asked-{}", cell.load.ticks.tick());
    let answer = Rivals::new(address).submit(&name, "nobody", 1);
    let said = cell.stage.ask(address, &["status"])["read_only"].as_str().unwrap_or_default().to_owned();
    let failed = |status: Status| {
        let code = status.metadata().get("plenum-code").and_then(|code| code.to_str().ok()).unwrap_or("-").to_owned();
        Reply::Failed { status: status.code().into(), code, message: status.message().to_owned() }
    };
    let reply = answer.map_or_else(failed, |answer| Reply::Revision(answer.revision));
    let listed = cell.stage.try_ask(address, &["machine", "list"]).err();
    let why = |result: Result<(), Status>| result.err().map(|status| status.to_string());
    [
        FullDisk::Commit(reply),
        FullDisk::Status(said),
        FullDisk::Read(listed.map(|done| done.to_string())),
        FullDisk::Read(why(cell.load.can_be_mirrored(address))),
        FullDisk::Heartbeat(why(cell.load.renew_leases(address))),
    ]
}

fn is_read_only_if_refused(event: &FullDisk) -> bool {
    match event {
        FullDisk::Commit(Reply::Failed { code, .. }) => code == "READ_ONLY",
        _ => true,
    }
}

#[test]
fn a_disk_that_fills_up_under_load_makes_the_cell_read_only_until_it_is_freed() {
    let Some((mut cell, volume)) = cell_on_a_small_disk(21) else { return };
    let ballast = Ballast::on(&volume);
    for left_bytes in [NEARLY_FULL_BYTES, 0] {
        let mut up = cell.start();
        cell.load.examine(&up.address).unwrap();
        let round = cell.work(&mut up, 100).unwrap();
        let turned_away = cell.load.ticks.turned_away();
        let mut events = looks(&cell, &up).to_vec();
        ballast.fill_up_to(left_bytes);
        let status = eventually("the cell says that it is read-only", || {
            assert_eq!(up.process.has_ended(), None, "it goes on: {}", cell.told());
            let status = cell.stage.try_ask(&up.address, &["status"]).ok()?;
            (!status["read_only"].is_null()).then_some(status)
        });
        let told = status["read_only"].as_str().unwrap();
        for words in ["volume/cell/log", "B free, and needs ", "make room"] {
            assert!(told.contains(words), "expected {words:?} in: {told}");
        }
        eventually("transactions are turned away", || (cell.load.ticks.turned_away() > turned_away + 20).then_some(()));
        // Reading goes on, and so do leases, as the separate checker demands.
        let full: Vec<FullDisk> = (0..3).flat_map(|_| looks(&cell, &up)).collect();
        assert!(full.iter().all(is_read_only_if_refused), "{full:?}");
        events.push(FullDisk::Fills);
        events.extend(full);
        assert_eq!(cell.stage.ask(&up.address, &["machine", "list"])["items"].as_array().unwrap().len(), MACHINES);
        let file = cell.stage.file("late.toml", LATE);
        let done = cell.stage.run(&["--addr", &up.address, "job", "run", &file]);
        done.says(1, &["error[READ_ONLY]", "explain READ_ONLY"]);

        ballast.free();
        let answered = cell.load.ticks.decided();
        eventually("transactions are decided again", || {
            assert_eq!(up.process.has_ended(), None, "it goes on: {}", cell.told());
            (cell.load.ticks.decided() > answered + 50).then_some(())
        });
        events.push(FullDisk::Frees);
        events.extend(looks(&cell, &up));
        assert_eq!(property_a_full_disk_only_refuses(&events), [], "filled up to {left_bytes}");
        cell.load.finish(round);
        cell.load.examine(&up.address).unwrap();
        up.process.kill();
    }
    let summary = cell.conclude();
    eprintln!("filled and freed: {summary:?}");
    assert!(summary.turned_away > 0, "{summary:?}");
}

#[test]
fn a_cell_that_is_killed_on_a_full_disk_has_everything_when_there_is_room_again() {
    let Some((mut cell, volume)) = cell_on_a_small_disk(22) else { return };
    let ballast = Ballast::on(&volume);
    let mut up = cell.start();
    let round = cell.work(&mut up, 100);
    ballast.fill_up_to(0);
    eventually("transactions are turned away", || (cell.load.ticks.turned_away() > 20).then_some(()));
    up.process.kill();
    cell.join(round);
    for _ in 0..3 {
        // It serves readers, or says what it lacks; it does neither harm nor nothing.
        match cell.start_or_end() {
            Ok(mut up) => {
                cell.load.examine(&up.address).unwrap();
                up.process.kill();
            }
            Err(status) => {
                let told = cell.told();
                assert_eq!(status.code(), Some(1), "{told}");
                assert!(told.contains("No space left") && told.contains("error[NO_SPACE]"), "{told}");
            }
        }
    }
    ballast.free();
    cell.conclude();
}

/// What the volume's own device does when its store is full: errors in the middle of writes and syncs, from the real kernel.
#[test]
fn a_device_that_fails_costs_nothing_that_was_acknowledged() {
    if let Some(why) = Kind::Ext4.missing() {
        skipped(&why);
        return;
    }
    let stage = Stage::new();
    let device = SmallDisk::mount(stage.path("device"), DEVICE_BYTES);
    let volume = Volume::make(Kind::Ext4, stage.path("device/volume"), 2 * DEVICE_BYTES);
    let mut cell = CrashCell::within(stage, "device/volume/cell", 23);
    let mut up = cell.start();
    let round = cell.work(&mut up, 100).unwrap();
    device.fill_up_to(0);
    eventually("the server ends, or takes no changes", || {
        let turned_away = cell.load.ticks.turned_away() > 20;
        (turned_away || up.process.has_ended().is_some()).then_some(())
    });
    match up.process.has_ended() {
        Some(status) => {
            let told = cell.told();
            assert_eq!(status.code(), Some(1), "{told}");
            assert!(told.contains("error["), "{told}");
            eprintln!("it ended: {}", told.lines().find(|line| line.contains("error[")).unwrap());
        }
        None => up.process.kill(),
    }
    cell.join(Some(round));
    device.free();
    volume.restore_after_errors();
    cell.conclude();
}
