//! Bugs in a real server: of its streams, its log, its disk and its start.

use std::sync::PoisonError;

use plenum_checker::properties::{
    property_a_full_disk_only_refuses, property_acknowledged_is_durable, property_damage_is_named,
    property_revisions_have_no_gaps, property_slow_watchers_cost_nobody, property_snapshots_equal_the_fold,
};
use plenum_checker::{Chronicle, Violation};
use plenum_model::planted::{self, Bug};
use plenum_proto::v1;
use plenum_server::VerifyReport;
use tonic::transport::Endpoint;

use crate::PLANTING;
use crate::scenes::{Served, came_back, damaged_log, followed, full_disk, killed, slow_watchers};

struct Planted;

impl Drop for Planted {
    fn drop(&mut self) {
        planted::plant_everywhere(None);
    }
}

/// Plays a scene on a server with a bug, alone in this process.
fn with<T>(bug: Bug, scene: impl Future<Output = T>) -> T {
    let _alone = PLANTING.write().unwrap_or_else(PoisonError::into_inner);
    planted::plant_everywhere(Some(bug));
    let _planted = Planted;
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    runtime.block_on(scene)
}

#[test]
fn revisions_that_a_watcher_is_not_told_of_are_found_as_gaps() {
    let recording = with(Bug::LeavesOutDeltas, followed());
    let found = property_revisions_have_no_gaps(&[recording]);
    assert!(matches!(&found[..], [Violation::Gap { what, .. }, ..] if what.contains("was expected")), "{found:?}");
}

#[test]
fn answers_before_the_sync_are_found_as_lost() {
    let evidence = with(Bug::AnswersBeforeSync, killed());
    let chronicles = Chronicle::of(&evidence.recordings).unwrap();
    let decided: Vec<_> = evidence.decided().collect();
    let found = property_acknowledged_is_durable(&chronicles[0], &decided);
    assert!(matches!(&found[..], [Violation::Lost { .. }, ..]), "{found:?}");
}

#[test]
fn a_full_disk_that_goes_on_acknowledging_is_found() {
    let (events, _) = with(Bug::OverlooksFullDisks, full_disk());
    let found = property_a_full_disk_only_refuses(&events);
    let acknowledged = |found: &Violation| matches!(found, Violation::FullDisk { what } if what.contains("Outcome("));
    assert!(found.iter().any(acknowledged), "{found:?}");
}

#[test]
fn damage_that_is_not_named_is_found() {
    let (chronicle, damages) = with(Bug::HidesDamage, damaged_log(true));
    let found = property_damage_is_named(&chronicle, &damages);
    let unnamed =
        |found: &Violation| matches!(found, Violation::DamageUnnamed { what, .. } if what.contains("failed without"));
    assert!(found.iter().any(unnamed), "{found:?}");
}

#[test]
fn a_log_that_becomes_another_cell_is_found() {
    let (chronicle, damages) = with(Bug::RecoversAnother, damaged_log(false));
    let found = property_damage_is_named(&chronicle, &damages);
    let other = |found: &Violation| matches!(found, Violation::DamageUnnamed { what, .. } if what.contains("came back as another one"));
    assert!(found.iter().any(other), "{found:?}");
}

// Pictures were compared that a running server publishes, and a log that comes back as another cell was found on damaged copies alone.
#[test]
fn a_cell_that_comes_back_with_another_picture_is_found_by_folding() {
    for history in [true, false] {
        let (chronicle, recordings) = with(Bug::RecoversAnother, came_back(history));
        let found = property_snapshots_equal_the_fold(&chronicle, &recordings);
        let other =
            |found: &Violation| matches!(found, Violation::OtherPicture { source_name, .. } if source_name == "fresh");
        assert!(found.iter().any(other), "history {history}: {found:?}");
    }
}

/// What an audit says of a cell that granted more than a quota allows.
async fn audited() -> VerifyReport {
    let mut served = Served::start(|_| {}).await;
    served.machine().await;
    let channel = Endpoint::from_shared(served.address()).unwrap().connect_lazy();
    let limit = Some(v1::Quota { cpu_millis: Some(1), ..v1::Quota::default() });
    let quota = v1::SetQuota { namespace: "default".to_owned(), limit };
    v1::govern_client::GovernClient::new(channel).set_quota(quota).await.unwrap();
    let mut client = served.client("anna").await;
    while client.live.is_empty() {
        client.commit().await;
    }
    served.stop().await;
    let dir = served.options.dir.clone();
    tokio::task::spawn_blocking(move || plenum_server::verify(&dir)).await.unwrap().unwrap()
}

// Deciding again finds nothing in what the same core with the same bug decided: `plenum verify` has to look at what always holds, too.
#[test]
fn a_log_that_is_decided_again_as_wrongly_is_found_by_its_audit() {
    let report = with(Bug::OverlooksQuotas, audited());
    assert!(report.decided_again > 0, "{report:?}");
    let exceeded = |found: &plenum_server::Violation| found.what.starts_with("QuotaExceeded");
    assert!(!report.violations.is_empty() && report.violations.iter().all(exceeded), "{:?}", report.violations);
}

#[test]
fn deltas_that_are_kept_for_who_does_not_read_are_found_and_so_is_their_memory() {
    let (chronicle, run) = with(Bug::KeepsAllForWatchers, slow_watchers());
    let found = property_slow_watchers_cost_nobody(&chronicle, &run);
    for sign in ["not begun anew", "bytes more"] {
        let kept = |found: &Violation| matches!(found, Violation::SlowWatcher { what, .. } if what.contains(sign));
        assert!(found.iter().any(kept), "{sign}: {found:?}");
    }
}
