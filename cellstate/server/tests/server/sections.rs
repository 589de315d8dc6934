//! Watchers that leave sections out.

use plenum_model::Cell;
use plenum_proto::sections::Sections;
use plenum_proto::{delta, pages, v1};
use v1::session_response::Tell;

use crate::client::{as_principal, code, connect, job, start, submit};

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

/// Design §6: the body of a job, with the commands and environments in it, goes to agents and readers only.
#[tokio::test]
async fn what_jobs_do_is_told_to_no_scheduler() {
    let dir = tempfile::tempdir().unwrap();
    let server = start(dir.path()).await;
    let channel = connect(&server).await;
    submit(&channel, job("crunch", 1)).await;
    let mut jobs = v1::jobs_client::JobsClient::new(channel.clone());
    let mut cell = v1::cell_client::CellClient::new(channel.clone());
    for (principal, reads) in [("local", true), ("operator/op", true), ("user/ann", true), ("scheduler/batch", false)] {
        let get = v1::GetJobRequest { name: "crunch".to_owned(), ..Default::default() };
        let job = jobs.get(as_principal(principal, get)).await.unwrap().into_inner().job.unwrap();
        assert_eq!(job.body.is_some(), reads, "{principal}");
        let hello = v1::Hello { sections: vec![v1::Section::Bodies.into()], ..Default::default() };
        let refused = cell.watch(as_principal(principal, hello)).await.err().map(|status| code(&status));
        assert_eq!(refused, (!reads).then(|| "NOT_PERMITTED".to_owned()), "{principal}");
    }
    server.shutdown().await.unwrap();
}
