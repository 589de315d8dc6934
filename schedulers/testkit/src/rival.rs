//! A rival: takes, on purpose, the machine that somebody else is about to take.

use plenum_proto::v1;
use plenum_proto::v1::cell_client::CellClient;
use tonic::transport::Channel;

use crate::cell::TestCell;
use crate::job::JobBuilder;

/// The name under which rivals commit.
const NAME: &str = "rival";

/// A simple client with a session of its own.
pub struct Rival<'a> {
    cell: &'a TestCell,
    sessions: CellClient<Channel>,
    session: v1::OpenResponse,
    number: u64,
}

impl<'a> Rival<'a> {
    /// Opens its session.
    ///
    /// # Panics
    /// When the cell does not let it.
    pub async fn open(cell: &'a TestCell) -> Self {
        let mut sessions = cell.sessions();
        let request = v1::OpenRequest { scheduler: NAME.into(), namespace: "default".into() };
        let session = sessions.open(request).await.expect("sessions can be opened").into_inner();
        Self { cell, sessions, session, number: 0 }
    }

    /// Takes so much CPU of a machine for a job of its own that runs for ever, and gives the outcome.
    ///
    /// # Panics
    /// When the cell rejects it; a refused claim is an outcome.
    pub async fn take(&mut self, machine: &str, cpu_millis: i64) -> v1::Outcome {
        self.number += 1;
        let name = format!("rival-{}-{}", self.session.session, self.number);
        let job = self.cell.submit(&JobBuilder::new(&name, NAME).group("take", 1, cpu_millis).forever()).await;
        let status = self.cell.inspect().status(v1::StatusRequest {}).await.expect("the cell answers").into_inner();
        let slot = u32::try_from(self.cell.machine_view(machine).await.id & u64::from(u32::MAX)).expect("32 bits");
        let placement =
            v1::Placement { job, job_version: 1, machines: vec![slot], tasks: vec![0], ..v1::Placement::default() };
        let transaction = v1::Transaction {
            session: self.session.session,
            number: self.number,
            incarnation: self.session.incarnation,
            base_revision: status.revision,
            check: v1::ConflictCheck::Fit.into(),
            placements: vec![placement],
            decision: Some(v1::DecisionMetadata { attempt: 1, policy: NAME.into(), ..v1::DecisionMetadata::default() }),
            ..v1::Transaction::default()
        };
        self.sessions.commit(transaction).await.expect("a rival's transaction is decided").into_inner()
    }
}
