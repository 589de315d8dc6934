//! An agent without processes: it says what real ones say, and runs nothing.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use plenum_proto::v1::agents_client::AgentsClient;
use plenum_proto::v1::{self, AllocationState};
use tokio::time::{Instant, sleep, sleep_until};
use tonic::transport::Channel;
use tonic::{Status, Streaming};

use crate::cell::Ends;

/// Before it registers again after the server went away.
const RETRY: Duration = Duration::from_millis(50);

/// A task of the namespace `default`: its job, group and index.
type Task = (String, String, u32);

/// The exit codes that tasks end with: 0 where none is told. Shared by all agents of a cell.
#[derive(Clone, Debug, Default)]
pub(crate) struct ExitCodes(Arc<Mutex<BTreeMap<Task, i32>>>);

impl ExitCodes {
    pub(crate) fn set(&self, job: &str, group: &str, task: u32, code: i32) {
        let mut codes = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        codes.insert((job.to_owned(), group.to_owned(), task), code);
    }

    /// What a start ends with; `None`: nobody told of its task.
    fn of(&self, wanted: &v1::Assignment) -> Option<i32> {
        if wanted.namespace != "default" {
            return None;
        }
        let codes = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        codes.get(&(wanted.job.clone(), wanted.group.clone(), wanted.task)).copied()
    }
}

/// Ends with the value, without a word to the server.
pub(crate) struct FakeAgent {
    _ends: Ends,
}

/// What an agent goes through between two registrations.
struct Life {
    agents: AgentsClient<Channel>,
    machine: u64,
    epoch: u32,
    /// Tasks that run, when they end, and with which exit code.
    running: BTreeMap<u64, Option<(Instant, i32)>>,
    /// Allocations that ended here: not to be started again by a repeated assignment.
    ended: BTreeSet<u64>,
    task_time: Duration,
    exit_codes: ExitCodes,
}

impl FakeAgent {
    /// A machine of that name, with 16 GiB, so many whole GPUs, and its name and these as its attributes.
    pub(crate) fn machine(name: &str, cpu_millis: i64, attributes: &[(&str, &str)], gpus: u32) -> v1::RegisterMachine {
        let own = [("name", name)];
        let attributes = attributes.iter().chain(&own);
        let gpu = |index| v1::Device { kind: "gpu".into(), index, millis: 1000, ..v1::Device::default() };
        v1::RegisterMachine {
            name: name.into(),
            boot_id: "boot".into(),
            capacity: Some(v1::Resources { cpu_millis, memory_bytes: 1 << 34, ..v1::Resources::default() }),
            attributes: attributes.map(|&(name, value)| (name.into(), value.into())).collect(),
            devices: (0..gpus).map(gpu).collect(),
            ..v1::RegisterMachine::default()
        }
    }

    /// Registers, and does its work from then on.
    pub(crate) async fn start(
        channel: Channel,
        machine: v1::RegisterMachine,
        task_time: Duration,
        exit_codes: ExitCodes,
    ) -> Self {
        let mut agents = AgentsClient::new(channel);
        let first = register(&mut agents, &machine).await.expect("the cell takes a machine of the test");
        let work = async move {
            let mut registered = Ok(first);
            loop {
                if let Ok(answer) = registered {
                    let mut life = Life {
                        agents: agents.clone(),
                        machine: answer.machine,
                        epoch: answer.epoch,
                        running: BTreeMap::new(),
                        ended: BTreeSet::new(),
                        task_time,
                        exit_codes: exit_codes.clone(),
                    };
                    // Whatever went wrong: registering anew is what puts it right.
                    let _ = life.live(Duration::from_micros(answer.renew_micros.max(1).unsigned_abs())).await;
                }
                sleep(RETRY).await;
                registered = register(&mut agents, &machine).await;
            }
        };
        Self { _ends: Ends::spawn(work) }
    }
}

async fn register(
    agents: &mut AgentsClient<Channel>,
    machine: &v1::RegisterMachine,
) -> Result<v1::RegisterResponse, Status> {
    let request = v1::RegisterRequest { machine: Some(machine.clone()), ..v1::RegisterRequest::default() };
    Ok(agents.register(request).await?.into_inner())
}

impl Life {
    /// Follows what the machine shall run, until the server goes away or wants it to register anew.
    async fn live(&mut self, renew: Duration) -> Result<(), Status> {
        let follow = v1::FollowRequest { machine: self.machine, epoch: self.epoch, ..Default::default() };
        let mut assignments: Streaming<v1::Assignments> = self.agents.follow(follow).await?.into_inner();
        let mut renew_at = Instant::now() + renew;
        loop {
            let next_end = self.running.values().flatten().map(|(end, _)| *end).min();
            let wake = next_end.map_or(renew_at, |end| end.min(renew_at));
            let transitions = tokio::select! {
                message = assignments.message() => match message? {
                    Some(assignments) => self.follow(assignments),
                    None => return Ok(()),
                },
                () = sleep_until(wake) => self.end_due(),
            };
            if transitions.is_empty() && Instant::now() < renew_at {
                continue;
            }
            renew_at = Instant::now() + renew;
            let (machine, epoch) = (self.machine, self.epoch);
            let report = v1::ReportRequest { machine, epoch, transitions, ..Default::default() };
            if self.agents.report(report).await?.into_inner().register {
                return Ok(());
            }
        }
    }

    fn follow(&mut self, assignments: v1::Assignments) -> Vec<v1::Transition> {
        let mut transitions = Vec::new();
        for stopped in assignments.stop {
            if self.ended.insert(stopped) {
                self.running.remove(&stopped);
                transitions.push(transition(stopped, AllocationState::Stopped));
            }
        }
        for wanted in assignments.wanted {
            let id = wanted.allocation;
            // What is to run in room that is still taken is told again once that is free.
            if self.ended.contains(&id) || self.running.contains_key(&id) || !wanted.takes_over.is_empty() {
                continue;
            }
            let told = self.exit_codes.of(&wanted);
            let runs_for_ever = wanted.body.is_some_and(|body| body.command.iter().any(|word| word == "infinity"));
            let ends = told.is_some() || !runs_for_ever;
            self.running.insert(id, ends.then(|| (Instant::now() + self.task_time, told.unwrap_or(0))));
            transitions.push(transition(id, AllocationState::Running));
        }
        transitions
    }

    fn end_due(&mut self) -> Vec<v1::Transition> {
        let now = Instant::now();
        let due = self.running.extract_if(.., |_, end| end.is_some_and(|(end, _)| end <= now));
        let due: Vec<_> = due.filter_map(|(id, end)| Some((id, end?.1))).collect();
        self.ended.extend(due.iter().map(|(id, _)| id));
        due.into_iter().map(|(id, code)| exited(id, code)).collect()
    }
}

/// An end by itself, as agents tell it.
fn exited(allocation: u64, code: i32) -> v1::Transition {
    if code == 0 {
        return transition(allocation, AllocationState::Complete);
    }
    let reason = format!("exit code {code}");
    v1::Transition { exit_code: code, reason, ..transition(allocation, AllocationState::Failed) }
}

fn transition(allocation: u64, state: AllocationState) -> v1::Transition {
    let ready = state == AllocationState::Running;
    v1::Transition { allocation, state: state.into(), ready, ..v1::Transition::default() }
}

#[cfg(test)]
mod tests {
    use super::*;

    // It said that both run, who leaves and who comes in that one's room.
    #[tokio::test]
    async fn what_takes_room_over_runs_only_once_that_is_free() {
        let channel = Channel::from_static("http://127.0.0.1:1").connect_lazy();
        let mut life = Life {
            agents: AgentsClient::new(channel),
            machine: 1,
            epoch: 1,
            running: BTreeMap::new(),
            ended: BTreeSet::new(),
            task_time: Duration::ZERO,
            exit_codes: ExitCodes::default(),
        };
        let mut follow = |takes_over: Vec<u64>| {
            let wanted = vec![v1::Assignment { allocation: 2, takes_over, ..v1::Assignment::default() }];
            life.follow(v1::Assignments { wanted, ..v1::Assignments::default() })
        };
        assert_eq!(follow(vec![1]), []);
        assert_eq!(follow(Vec::new()), [transition(2, AllocationState::Running)]);
    }
}
