//! An agent's reports, played: allocations end, and the reports of it are repeated until they are answered.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use plenum_proto::v1::{self, agents_client::AgentsClient};
use tokio::sync::{mpsc, watch};
use tonic::{Code, Status, transport::Endpoint};

use super::client::may_end_so;

/// Allocations of one report.
const REPORTED_AT_ONCE: usize = 128;
/// Between two reports.
const PAUSE: Duration = Duration::from_millis(3);

/// Reports that allocations ended.
#[derive(Clone, Default)]
pub(crate) struct Agent {
    /// By slot: the machine's id and epoch.
    pub(crate) machines: BTreeMap<u32, (u64, u32)>,
    /// To be reported, and the machines' slots. Any of them may have been: nobody answered yet.
    pub(crate) ending: BTreeMap<u64, u32>,
    /// Reported, and answered.
    pub(crate) ended: BTreeSet<u64>,
}

impl Agent {
    /// Works until the connection ends or it is asked to end.
    pub(crate) async fn work(
        mut self,
        address: String,
        mut leaving: mpsc::UnboundedReceiver<(u64, u32)>,
        mut ending: watch::Receiver<bool>,
    ) -> Self {
        tokio::select! {
            // What is not answered is reported again, by the next round.
            ended = self.report_all(address, &mut leaving) => {
                assert!(ended.as_ref().err().is_none_or(may_end_so), "reports were ended with {ended:?}");
            }
            _ = ending.wait_for(|ending| *ending) => {}
        }
        self
    }

    async fn report_all(
        &mut self,
        address: String,
        leaving: &mut mpsc::UnboundedReceiver<(u64, u32)>,
    ) -> Result<(), Status> {
        let endpoint = Endpoint::from_shared(address).unwrap();
        let channel = endpoint.connect().await.map_err(|error| Status::unavailable(error.to_string()))?;
        let mut agents = AgentsClient::new(channel);
        loop {
            while let Ok((id, slot)) = leaving.try_recv() {
                self.ending.insert(id, slot);
            }
            let Some(&slot) = self.ending.values().next() else {
                let Some((id, slot)) = leaving.recv().await else { return Ok(()) };
                self.ending.insert(id, slot);
                continue;
            };
            let here = self.ending.iter().filter(|(_, machine)| **machine == slot).map(|(id, _)| *id);
            let reported: Vec<u64> = here.take(REPORTED_AT_ONCE).collect();
            match agents.report(self.report(slot, &reported)).await {
                Ok(answer) => {
                    // The machines were registered in this round, and no lease runs out under the test.
                    let register = answer.into_inner().register;
                    assert!(!register, "what ended in machine slot {slot} was not taken: {reported:?}");
                    self.ending.retain(|id, _| !reported.contains(id));
                    self.ended.extend(reported);
                }
                // As an agent does while the cell is read-only.
                Err(status) if status.code() == Code::ResourceExhausted => {}
                Err(status) => return Err(status),
            }
            tokio::time::sleep(PAUSE).await;
        }
    }

    fn report(&self, slot: u32, allocations: &[u64]) -> v1::ReportRequest {
        let (machine, epoch) = self.machines[&slot];
        let ended = |&allocation: &u64| v1::Transition {
            allocation,
            state: v1::AllocationState::Complete.into(),
            ..v1::Transition::default()
        };
        let transitions = allocations.iter().map(ended).collect();
        v1::ReportRequest { machine, epoch, transitions, ..Default::default() }
    }
}

/// Renews leases, as an agent does that has nothing to report. An answer by which nothing was renewed is an error, too.
pub(crate) async fn renew(address: &str, machines: &[(u64, u32)]) -> Result<(), Status> {
    let endpoint = Endpoint::from_shared(address.to_owned()).unwrap();
    let channel = endpoint.connect().await.map_err(|error| Status::unavailable(error.to_string()))?;
    let mut agents = AgentsClient::new(channel);
    for &(machine, epoch) in machines {
        let report = v1::ReportRequest { machine, epoch, ..v1::ReportRequest::default() };
        if agents.report(report).await?.into_inner().register {
            return Err(Status::failed_precondition(format!(
                "machine {machine}: no lease was renewed, register again"
            )));
        }
    }
    Ok(())
}
