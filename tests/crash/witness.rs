//! The separate checker beside the load: it follows the cell over a connection of its own, through all crashes, and judges at the end what
//! it was told and what clients were answered. Mirrors of the load are folded by the model, as the server's own cell is; it is not.

use plenum_checker::{
    Evidence, Recording, Violation,
    calls::{Asked, Call, Reply},
    check,
    properties::Verdict,
    watch::{WatchError, Watcher},
};
use tokio::sync::watch;
use tonic::Code;

use super::{
    cell::CrashCell,
    client::{Answer, Client},
};

/// Whoever watches for the checker.
pub(super) struct Witness(Recording);

impl Witness {
    pub(super) fn new() -> Self {
        Self(Recording::new("witness"))
    }

    /// Goes on where it was.
    fn watcher(self, address: &str) -> Watcher {
        let mut watcher = Watcher::new("witness", address).unwrap();
        watcher.recording = self.0;
        watcher
    }

    /// Follows until the server is gone, or it is asked to end.
    pub(super) async fn follow(self, address: String, mut ending: watch::Receiver<bool>) -> Self {
        let mut watcher = self.watcher(&address);
        let followed = async {
            watcher.connect().await?;
            loop {
                watcher.next().await?;
            }
        };
        let ended: Result<(), WatchError> = tokio::select! {
            ended = followed => ended,
            _ = ending.wait_for(|ending| *ending) => Ok(()),
        };
        assert!(!matches!(ended, Err(WatchError::Bad(_))), "what is told can be read: {ended:?}");
        Self(watcher.recording)
    }

    /// Follows up to what the cell is now, and judges everything.
    pub(super) async fn judge(self, address: &str, clients: &[Client]) -> Verdict {
        let mut watcher = self.watcher(address);
        match watcher.connect().await {
            Ok(()) => {
                let newest = watcher.status().await.unwrap().revision;
                watcher.follow_until(newest).await.unwrap();
            }
            // It has less than it told.
            Err(WatchError::Refused(status)) if status.code() == Code::OutOfRange => {
                watcher.hear_status().await.unwrap();
            }
            Err(error) => panic!("the cell can be watched: {error}"),
        }
        let (transactions, listed) = watcher.transactions().await.unwrap();
        let listings = vec![watcher.listing(None).await.unwrap()];
        check(&Evidence {
            recordings: vec![watcher.recording],
            calls: calls(clients),
            transactions,
            listed: Some(listed),
            listings,
            ..Evidence::default()
        })
    }
}

/// What clients asked and were answered. Their ticks are the clock.
fn calls(clients: &[Client]) -> Vec<Call> {
    let of = |client: &Client| {
        let name = format!("session-{}", client.session);
        let call = move |said: &super::client::Said| {
            let (replied_nanos, reply) = match &said.answer {
                Answer::Open => (None, Reply::None),
                Answer::Outcome { at, outcome } => (Some(*at), Reply::Outcome(outcome.clone())),
                Answer::TurnedAway { code } => {
                    let (status, message) = (Code::ResourceExhausted.into(), String::new());
                    (None, Reply::Failed { status, code: code.clone(), message })
                }
            };
            let asked = Asked::Transaction(Box::new(said.asked.clone()));
            Call { client: name.clone(), called_nanos: said.called, replied_nanos, asked, reply }
        };
        client.said.values().map(call).collect::<Vec<_>>()
    };
    clients.iter().flat_map(of).collect()
}

/// The canary: a cell that came back without what it had acknowledged is found by the checker, too.
#[test]
fn a_cell_that_forgot_is_found_by_the_separate_checker() {
    let mut cell = CrashCell::new(107).with_a_witness();
    let rounds = |cell: &mut CrashCell| {
        let mut up = cell.start();
        let round = cell.work(&mut up, 50);
        up.process.kill();
        cell.join(round);
    };
    rounds(&mut cell);
    let early = cell.stage.path("early");
    super::kills::copy(&cell.dir(), &early);
    rounds(&mut cell);
    std::fs::remove_dir_all(cell.dir()).unwrap();
    super::kills::copy(&early, &cell.dir());
    let up = cell.start();
    let found = cell.load.verdict(&up.address).unwrap().violations;
    let is_missing = |found: &Violation| matches!(found, Violation::Lost { .. } | Violation::Gap { .. });
    assert!(found.iter().any(is_missing), "fifty transactions are gone: {found:?}");
}
