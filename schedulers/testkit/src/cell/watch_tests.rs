//! What a framework does that follows the cell without a session.

use std::sync::Arc;

use plenum_sdk::{Client, Watch, WatchError, code_of, model::Cell};

use super::*;

/// Heartbeats that a test need not wait for.
fn often(settings: &mut ServerSettings) {
    settings.sync.heartbeat_micros = 20_000;
}

/// What a watch gives within the patience of a test.
async fn changed(watch: &mut Watch) -> Result<&Cell, WatchError> {
    tokio::time::timeout(PATIENCE, watch.changed()).await.expect("something has changed")
}

/// The first picture for which `wanted` holds.
async fn until(watch: &mut Watch, wanted: impl Fn(&Cell) -> bool) -> Cell {
    loop {
        let cell = changed(watch).await.expect("nobody has to do anything");
        if wanted(cell) {
            return cell.clone();
        }
    }
}

fn has(cell: &Cell, job: &str) -> bool {
    cell.jobs().any(|found| &*found.shape.name == job)
}

#[tokio::test]
async fn a_watch_shows_what_changes_and_goes_on_after_a_restart() {
    let mut cell = TestCell::start_with(often).await;
    cell.submit(&JobBuilder::new("early", "batch").group("main", 1, 1000)).await;
    let client = Client::new(cell.address(), "user/ann").unwrap();
    let mut watch = client.watch();
    assert!(watch.cell().is_none() && watch.current().is_none());
    until(&mut watch, |cell| has(cell, "early")).await;
    assert!(watch.current().is_some());
    cell.submit(&JobBuilder::new("late", "batch").group("main", 1, 1000)).await;
    let before = until(&mut watch, |cell| has(cell, "late")).await;
    // Waiting that ends early, as a timer's turn in a `select!` does each time, loses nothing.
    cell.crash().await;
    let mut turns = 0;
    let after = loop {
        if let Ok(cell) = tokio::time::timeout(LOOK, watch.changed()).await {
            break cell.unwrap().clone();
        }
        turns += 1;
        assert!(turns < 6000, "waited in vain");
    };
    assert!(turns > 0 && after.revision() > before.revision() && has(&after, "late"));
    assert_eq!(after.identity().term, before.identity().term + 1);
    let mut jobs = before.jobs().zip(after.jobs());
    assert!(jobs.all(|(before, after)| Arc::ptr_eq(before, after)), "it went on, and took no snapshot");
    assert_eq!(after.identity().cell_id, before.identity().cell_id);
}

// What was heard last counted as the present for as long as the connection stood, whoever had stood still meanwhile.
#[tokio::test]
async fn who_did_not_listen_for_some_seconds_is_not_current_and_then_given_the_present() {
    let cell = TestCell::start_with(often).await;
    cell.submit(&JobBuilder::new("early", "batch").group("main", 1, 1000)).await;
    let mut watch = Client::new(cell.address(), "user/ann").unwrap().watch();
    until(&mut watch, |cell| has(cell, "early")).await;
    assert!(watch.current().is_some());
    cell.submit(&JobBuilder::new("late", "batch").group("main", 1, 1000)).await;
    tokio::time::sleep(Duration::from_millis(3_200)).await;
    assert!(watch.current().is_none() && watch.cell().is_some(), "it has heard nothing for three seconds");
    assert!(has(changed(&mut watch).await.unwrap(), "late"));
    assert!(watch.current().is_some());
}

// Of an empty cell at the address a framework published that nothing is there, while all tasks ran.
#[tokio::test]
async fn a_watch_follows_a_restored_cell_and_neither_an_older_one_nor_another() {
    let mut cell = TestCell::start_with(often).await;
    cell.submit(&JobBuilder::new("words", "batch").group("main", 1, 1000)).await;
    let client = Client::new(cell.address(), "user/ann").unwrap();
    let mut watch = client.watch();
    let first = until(&mut watch, |cell| has(cell, "words")).await;
    let client = client.of_cell(&first.identity().cell_id);
    cell.restore("restored").await;
    let restored = until(&mut watch, |cell| cell.identity().incarnation == 2).await;
    assert!(has(&restored, "words"));
    assert_eq!(restored.identity().cell_id, first.identity().cell_id);

    cell.restart_in("cell").await;
    let older = changed(&mut watch).await.unwrap_err();
    assert!(matches!(older, WatchError::Older { incarnation: 2, .. }), "{older}");
    assert!(watch.current().is_none() && watch.cell().is_some(), "what was there may still be shown");

    cell.restart_in("other").await;
    let WatchError::OtherCell { meant, found } = changed(&mut watch).await.unwrap_err() else {
        panic!("it is another cell")
    };
    assert!(meant.len() == 32 && found.len() == 32 && meant != found, "{meant} {found}");
    // The client says so, too, whether its watch has seen anything or not.
    let told = client.watch().changed().await.unwrap_err();
    assert!(told.to_string().contains(&format!("cell {found} answers, and cell {meant} is meant")), "{told}");
    let refused = client.jobs().list(v1::ListRequest::default()).await.unwrap_err();
    assert_eq!(code_of(&refused), "OTHER_CELL");

    cell.restart_in("restored").await;
    let back = until(&mut watch, |cell| has(cell, "words")).await;
    assert_eq!(back.identity().incarnation, 2);
}

#[tokio::test]
async fn who_may_not_watch_is_told_so_and_a_watch_can_be_given_to_a_task() {
    let cell = TestCell::start().await;
    let mut watch = Client::new(cell.address(), "nobody").unwrap().watch();
    let refused = tokio::spawn(async move { watch.changed().await.map(|_| ()) }).await.unwrap().unwrap_err();
    assert!(matches!(&refused, WatchError::Refused(why) if why.contains("nobody")), "{refused}");
}
