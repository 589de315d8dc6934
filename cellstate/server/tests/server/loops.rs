//! Jobs whose tasks fail again and again: what is listed of them, whether a task runs at the moment or not.

use plenum_proto::v1;
use tonic::transport::Channel;
use v1::AllocationState as State;

use crate::client::{Session, connect, job, placement, register, start, submit};
use crate::stalled::shows;

/// A cell with a job that runs for ever, on one machine.
struct Loop {
    channel: Channel,
    machine: v1::RegisterResponse,
    session: Session,
    job: v1::SubmitResponse,
}

impl Loop {
    async fn begin(channel: Channel) -> Self {
        let machine = register(&channel, "m1", 4000).await;
        let session = Session::open(&channel, "batch").await.unwrap();
        let mut spec = job("web", 2);
        let shape = spec.shape.as_mut().unwrap();
        shape.kind = v1::JobKind::Forever.into();
        shape.groups[0].retry = Some(v1::RetryPolicy { attempts: 50, delay_micros: 0 });
        let job = submit(&channel, spec).await;
        Self { channel, machine, session, job }
    }

    async fn place(&mut self, task: u32) -> u64 {
        self.session.reach(self.job.revision).await;
        let number = self.session.cell.revision().0;
        let transaction = self.session.transaction(number, vec![placement(self.job.job, vec![0], vec![task])]);
        self.session.commit(transaction).await.unwrap().placements[0].allocations[0]
    }

    async fn report(&mut self, transition: v1::Transition) {
        let (machine, epoch) = (self.machine.machine, self.machine.epoch);
        let report = v1::ReportRequest { machine, epoch, transitions: vec![transition], ..Default::default() };
        let mut agents = v1::agents_client::AgentsClient::new(self.channel.clone());
        self.job.revision = agents.report(report).await.unwrap().into_inner().revision;
    }

    async fn listed(&self, revision: u64, filter: &str) -> Vec<v1::JobView> {
        let at = (revision > 0).then_some(v1::At { revision, time_micros: 0 });
        let list = v1::ListRequest { filter: filter.to_owned(), at, ..Default::default() };
        let mut jobs = v1::jobs_client::JobsClient::new(self.channel.clone());
        jobs.list(list).await.unwrap().into_inner().jobs
    }

    /// The state of the job, how many of its tasks fail again and again, and how often one did.
    async fn at(&self, revision: u64) -> (v1::JobState, u32, u32) {
        let listed = self.listed(revision, "").await;
        let group = &listed[0].groups[0];
        (listed[0].state(), group.failing, group.failures)
    }
}

fn transition(allocation: u64, state: State) -> v1::Transition {
    v1::Transition { allocation, state: state.into(), ready: state == State::Running, ..Default::default() }
}

// It was listed as one that runs, and nothing else.
#[tokio::test]
async fn a_task_that_failed_twice_fails_again_and_again_also_while_it_runs() {
    let dir = tempfile::tempdir().unwrap();
    let server = start(dir.path()).await;
    let mut lapse = Loop::begin(connect(&server).await).await;
    let mut seen = Vec::new();
    for _ in 0..3 {
        let allocation = lapse.place(1).await;
        lapse.report(transition(allocation, State::Running)).await;
        seen.push((lapse.job.revision, lapse.at(0).await));
        lapse.report(transition(allocation, State::Failed)).await;
        seen.push((lapse.job.revision, lapse.at(0).await));
    }
    let counts: Vec<_> = seen.iter().map(|(_, (_, failing, failures))| (*failing, *failures)).collect();
    assert_eq!(counts, [(0, 0), (0, 1), (0, 1), (1, 2), (1, 2), (1, 3)]);
    assert!(seen.iter().all(|(_, (state, ..))| *state == v1::JobState::JobRunning), "programs know five states");
    assert_eq!((lapse.listed(0, "failing=1").await.len(), lapse.listed(0, "failing=0").await.len()), (1, 0));
    // There was nothing to raise an alert on: one job ran, and no scheduler had anything to place.
    shows(&server, "plenum_jobs_failing 1").await;
    shows(&server, "plenum_tasks_waiting 2").await;
    shows(&server, "plenum_allocations_ended_total{state=\"failed\"} 3").await;
    shows(&server, "plenum_allocations_ended_total{state=\"lost\"} 0").await;
    // And as it was.
    for (revision, then) in seen {
        assert_eq!(lapse.at(revision).await, then, "at revision {revision}");
    }
    let stop = v1::StopRequest { name: "web".to_owned(), ..Default::default() };
    v1::jobs_client::JobsClient::new(lapse.channel.clone()).stop(stop).await.unwrap();
    assert_eq!(lapse.at(0).await, (v1::JobState::JobStopped, 0, 3), "what is over fails no more");
    shows(&server, "plenum_jobs_failing 0").await;
    shows(&server, "plenum_tasks_waiting 0").await;
    server.shutdown().await.unwrap();
}

#[tokio::test]
async fn a_task_that_its_agent_restarts_again_and_again_is_told_while_it_is_down() {
    let dir = tempfile::tempdir().unwrap();
    let server = start(dir.path()).await;
    let mut lapse = Loop::begin(connect(&server).await).await;
    let allocation = lapse.place(0).await;
    let mut failing = Vec::new();
    for restarts in 0..3 {
        for ready in [true, false] {
            lapse.report(v1::Transition { restarts, ready, ..transition(allocation, State::Running) }).await;
            failing.push(lapse.at(0).await.1);
        }
    }
    assert_eq!(failing, [0, 0, 0, 0, 0, 1]);
    shows(&server, "plenum_jobs_failing 1").await;
    server.shutdown().await.unwrap();
}
