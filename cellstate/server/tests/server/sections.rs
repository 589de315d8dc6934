//! Watchers that leave sections out.

use plenum_model::Cell;
use plenum_proto::sections::Sections;
use plenum_proto::{delta, pages, v1};
use v1::session_response::Tell;

use crate::client::{as_principal, connect, start};

struct Watched {
    tells: tonic::Streaming<v1::SessionResponse>,
    cell: Cell,
}

async fn watch(channel: &tonic::transport::Channel, sections: &[i32]) -> Watched {
    let mut client = v1::cell_client::CellClient::new(channel.clone());
    let hello = v1::Hello { sections: sections.to_vec(), ..Default::default() };
    let mut tells = client.watch(hello).await.unwrap().into_inner();
    let mut decoder = pages::Decoder::new(Sections::from_wire(sections).unwrap());
    loop {
        let Tell::Snapshot(part) = tells.message().await.unwrap().unwrap().tell.unwrap() else { continue };
        for page in part.pages {
            decoder.add(page).unwrap();
        }
        if part.last {
            return Watched { tells, cell: decoder.finish().unwrap() };
        }
    }
}

impl Watched {
    async fn reach(&mut self, revision: u64) {
        while self.cell.revision().0 < revision {
            if let Tell::Deltas(deltas) = self.tells.message().await.unwrap().unwrap().tell.unwrap() {
                for encoded in deltas.deltas {
                    self.cell.apply(&delta::decode(encoded).unwrap()).unwrap();
                }
            }
        }
    }
}

/// Design §4.4, 5: "a snapshot equals the fold of all deltas up to its revision".
#[tokio::test]
async fn a_watcher_of_allocations_folds_to_what_the_next_one_gets_as_its_snapshot() {
    let dir = tempfile::tempdir().unwrap();
    let server = start(dir.path()).await;
    let channel = connect(&server).await;
    let mut govern = v1::govern_client::GovernClient::new(channel.clone());
    let sections = [v1::Section::Allocations.into()];
    let mut first = watch(&channel, &sections).await;
    let rule =
        v1::Constraint { attribute: "rack".into(), operator: v1::Operator::Equal.into(), values: vec!["a".into()] };
    let partition = v1::SetPartition { name: "p".into(), machines: vec![rule], ..Default::default() };
    govern.set_partition(as_principal("operator/op", partition)).await.unwrap();
    let paused = v1::PauseScheduler { scheduler: "batch".into(), paused: true };
    let revision = govern.pause_scheduler(as_principal("operator/op", paused)).await.unwrap().into_inner().revision;
    first.reach(revision).await;
    let second = watch(&channel, &sections).await;
    let facts = |cell: &Cell| (cell.partitions().count(), cell.is_paused("batch"));
    assert_eq!(facts(&second.cell), (1, true), "a snapshot of these sections has them");
    assert_eq!(facts(&first.cell), facts(&second.cell), "and so has who follows");
    server.shutdown().await.unwrap();
}
