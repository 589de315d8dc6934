//! Power cuts, at random moments under load and at exact syncs: the file system forgets what was not synced.

use std::panic::{AssertUnwindSafe, catch_unwind};

use super::{
    budget,
    cell::CrashCell,
    syncs::{at, is_sync, run_until_it_dies},
    volume::{self, Kind, Volume},
    warden::{Call, Verdict},
};
use crate::stage::{Stage, skipped};

/// Power cuts of each file system in the gate; `cargo xtask crash --cuts N` does more.
const CUTS: u64 = 10;
const VOLUME_BYTES: u64 = 320 << 20;
/// A run answers up to so many before the power goes.
const ANSWERED_MAX: u32 = 600;

#[test]
fn on_ext4_what_was_acknowledged_survives_power_cuts() {
    survives_power_cuts(Kind::Ext4, 7);
}

#[test]
fn on_xfs_what_was_acknowledged_survives_power_cuts() {
    survives_power_cuts(Kind::Xfs, 8);
}

#[track_caller]
fn survives_power_cuts(kind: Kind, seed: u64) {
    if let Some(why) = kind.missing() {
        skipped(&why);
        return;
    }
    let cuts = budget("CUTS", CUTS);
    let stage = Stage::new();
    let volume = Volume::make(kind, stage.path("volume"), VOLUME_BYTES);
    let mut cell = CrashCell::within(stage, "volume/cell", seed).with_checkpoints();
    for number in 0..cuts {
        let place = volume.path().to_owned();
        let judge = at(1 + number / 3, is_sync, move |call| {
            if number % 3 == 2 {
                call.sync_now();
            }
            volume::cut(&place);
            Verdict::Kill
        });
        if number % 3 > 0 {
            run_until_it_dies(&mut cell, judge);
        } else {
            let mut up = cell.start();
            cell.load.examine(&up.address).unwrap();
            let transactions = cell.load.dice().below(ANSWERED_MAX) as usize;
            let round = cell.work(&mut up, transactions);
            volume.cut();
            up.process.kill();
            cell.join(round);
        }
        volume.restore();
    }
    let summary = cell.conclude();
    eprintln!("{cuts} power cuts on {kind:?}: {summary:?}");
    assert!(summary.decided as u64 > 3 * cuts, "there was load: {summary:?}");
}

/// The canary: with a disk that only says that it has synced, a power cut must cost something, and that must be seen.
#[test]
fn a_disk_that_lies_about_its_syncs_is_noticed() {
    if let Some(why) = Kind::Ext4.missing() {
        skipped(&why);
        return;
    }
    let stage = Stage::new();
    let volume = Volume::make(Kind::Ext4, stage.path("volume"), VOLUME_BYTES);
    let mut cell = CrashCell::within(stage, "volume/cell", 9);
    cell.start().process.kill();
    let lies = |call: &Call| if is_sync(call) { Verdict::Fail(0) } else { Verdict::Pass };
    let mut up = cell.start_under(lies).unwrap();
    let round = cell.work(&mut up, 50);
    volume.cut();
    up.process.kill();
    cell.join(round);
    volume.restore();
    let noticed = match cell.start_or_end() {
        Ok(up) => catch_unwind(AssertUnwindSafe(|| cell.load.examine(&up.address))).is_err(),
        Err(status) => status.code() == Some(1),
    };
    assert!(noticed, "nothing was synced, and nobody noticed: {}", cell.told());
}
