//! Power cuts, at random moments under load and at exact syncs: the file system forgets what was not synced.

use std::{
    collections::BTreeMap,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{Arc, Mutex},
};

use super::{
    budget,
    cell::CrashCell,
    syncs::{Synced, at, is_sync, run_until_it_ends},
    volume::{self, Kind, Volume},
    warden::{Call, Judge, Verdict},
};
use crate::{skips::skipped, stage::Stage};

/// Power cuts of each file system in the gate; `cargo xtask crash --cuts N` does more.
const CUTS: u64 = 10;
const VOLUME_BYTES: u64 = 320 << 20;
/// A run answers up to so many before the power goes.
const ANSWERED_MAX: u32 = 600;
/// At most the so-manyth sync has the power cut: a start that opens a log asks for the first few alone.
const SYNCS_MAX: u32 = 60;

/// Cuts at syncs: of what kind of file, and whether anything had been answered since the start.
type Hits = Arc<Mutex<BTreeMap<(Synced, bool), u64>>>;

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
    let mut cell = CrashCell::within(stage, "volume/cell", seed).with_checkpoints().with_a_witness();
    let hits = Hits::default();
    for number in 0..cuts {
        if is_at_a_sync(number) {
            let judge = cut_at_some_sync(&mut cell, &volume, number, hits.clone());
            let status = run_until_it_ends(&mut cell, judge);
            // Who writes between the cut and the kill is told of an error, and may end the server before.
            let ends_so = status.is_none_or(|status| matches!(status.code(), None | Some(1)));
            assert!(ends_so, "it ends without power: {status:?} {}", cell.told());
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
    let hits = hits.lock().unwrap();
    eprintln!("{cuts} power cuts on {kind:?}, at syncs before (false) and under (true) load of {hits:?}: {summary:?}");
    let at_syncs = (0..cuts).filter(|number| is_at_a_sync(*number)).count() as u64;
    assert_eq!(hits.values().sum::<u64>(), at_syncs, "each sync that was to have its power cut came");
    assert!(cuts < CUTS || hits.contains_key(&(Synced::Segment, true)), "some were of the log, under load: {hits:?}");
    assert!(summary.decided as u64 > 3 * cuts, "there was load: {summary:?}");
}

/// Of each three, one comes at a random moment.
fn is_at_a_sync(number: u64) -> bool {
    !number.is_multiple_of(3)
}

/// Cuts the power at one of the next syncs, in turn before it and after it. Whichever it is, it comes: the load goes on until then. Of
/// each six cuts two are at syncs of the log under load.
fn cut_at_some_sync(cell: &mut CrashCell, volume: &Volume, number: u64, hits: Hits) -> Judge {
    let n = 1 + u64::from(cell.load.dice().below(SYNCS_MAX));
    let (of_the_log, after) = (number % 6 > 3, number % 3 == 2);
    let (ticks, place) = (cell.load.ticks.clone(), volume.path().to_owned());
    let answered = ticks.decided();
    let is_loaded = move || ticks.decided() > answered;
    let was_loaded = is_loaded.clone();
    let looks = move |call: &Call| is_sync(call) && (!of_the_log || (call.is_of(".segment") && is_loaded()));
    Box::new(at(n, looks, move |call| {
        *hits.lock().unwrap().entry((Synced::of(call), was_loaded())).or_default() += 1;
        if after {
            call.sync_now();
        }
        volume::cut(&place);
        Verdict::Kill
    }))
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
