//! What a fixture shows: kept beside it, so that it need not be computed by what is tested.

use std::fmt::Write;

use plenum_proto::v1;
use tonic::transport::Channel;

use crate::client::Session;

/// What the cell is at a revision.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Count {
    pub(super) revision: u64,
    pub(super) live: usize,
    pub(super) machines: usize,
    pub(super) jobs: usize,
}

impl Count {
    pub(super) fn of(cell: &plenum_model::Cell) -> Self {
        let (live, machines, jobs) = (cell.live() as usize, cell.machines().count(), cell.jobs().count());
        Self { revision: cell.revision().0, live, machines, jobs }
    }

    /// As the history tells it.
    async fn then(channel: &Channel, revision: u64) -> Self {
        let (mut inspect, mut jobs) = (
            v1::inspect_client::InspectClient::new(channel.clone()),
            v1::jobs_client::JobsClient::new(channel.clone()),
        );
        let list = || v1::ListRequest { at: Some(v1::At { revision, time_micros: 0 }), ..Default::default() };
        let live = v1::ListAllocationsRequest { list: Some(list()), ..Default::default() };
        Self {
            revision,
            live: jobs.list_allocations(live).await.unwrap().into_inner().allocations.len(),
            machines: inspect.list_machines(list()).await.unwrap().into_inner().machines.len(),
            jobs: jobs.list(list()).await.unwrap().into_inner().jobs.len(),
        }
    }
}

/// Counts by revision, the newest one last, what happened to the job "first", and what is governed at the end.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Shown {
    counts: Vec<Count>,
    story: String,
    /// `None` in fixtures that have nothing of it.
    governed: Option<String>,
}

/// What an operator laid down. Holds are not in it: they end by themselves.
fn governed(cell: &plenum_model::Cell) -> String {
    let quotas: Vec<_> = cell.quotas().map(|(name, _)| name.as_ref()).collect();
    let partitions: Vec<_> = cell.partitions().map(|(name, _)| name.as_ref()).collect();
    format!("quotas {} partitions {}", quotas.join(" "), partitions.join(" "))
}

impl Shown {
    /// Notes what the mirror is now.
    pub(super) fn note(&mut self, session: &Session) {
        self.counts.push(Count::of(&session.cell));
    }

    /// Notes the story of the job "first".
    pub(super) async fn note_story(&mut self, channel: &Channel) {
        self.story = story(channel, self.newest().revision).await;
    }

    /// Notes what is governed now.
    pub(super) fn note_governed(&mut self, session: &Session) {
        self.governed = Some(governed(&session.cell));
    }

    /// Checks that as much is governed as was noted.
    pub(super) fn assert_is_governed(&self, cell: &plenum_model::Cell) {
        let Some(expected) = &self.governed else { return };
        assert_eq!(governed(cell), *expected);
    }

    pub(super) fn newest(&self) -> Count {
        *self.counts.last().unwrap()
    }

    pub(super) fn read(text: &str) -> Self {
        let mut shown = Self::default();
        for line in text.lines() {
            let (what, rest) = line.split_once(": ").unwrap();
            if what == "first" {
                rest.clone_into(&mut shown.story);
                continue;
            }
            if what == "governed" {
                shown.governed = Some(rest.to_owned());
                continue;
            }
            let words: Vec<&str> = rest.split(' ').collect();
            let ["live", live, "machines", machines, "jobs", jobs] = words[..] else { panic!("{line}") };
            shown.counts.push(Count {
                revision: what.strip_prefix("revision ").unwrap().parse().unwrap(),
                live: live.parse().unwrap(),
                machines: machines.parse().unwrap(),
                jobs: jobs.parse().unwrap(),
            });
        }
        shown
    }

    pub(super) fn write(&self) -> String {
        let mut text = String::new();
        for Count { revision, live, machines, jobs } in &self.counts {
            writeln!(text, "revision {revision}: live {live} machines {machines} jobs {jobs}").unwrap();
        }
        writeln!(text, "first: {}", self.story).unwrap();
        if let Some(governed) = &self.governed {
            writeln!(text, "governed: {governed}").unwrap();
        }
        text
    }

    /// Reads the history at each of these revisions, and the story up to the last one.
    pub(super) async fn assert_is_told(&self, channel: &Channel) {
        for count in &self.counts {
            assert_eq!(Count::then(channel, count.revision).await, *count);
        }
        assert_eq!(story(channel, self.newest().revision).await, self.story);
    }
}

async fn story(channel: &Channel, revision: u64) -> String {
    let mut jobs = v1::jobs_client::JobsClient::new(channel.clone());
    let at = Some(v1::At { revision, time_micros: 0 });
    let ask = v1::JobHistoryRequest { name: "first".into(), at, ..Default::default() };
    let story = jobs.job_history(ask).await.unwrap().into_inner();
    let words: Vec<&str> = story.events.iter().map(|event| event.event.as_str()).collect();
    words.join(" ")
}
