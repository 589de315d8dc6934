//! The machines of a development cell: which of those that the cell knows its own agents serve now.
//!
//! In a directory that stays, the cell also knows machines of earlier runs, for as long as their leases hold: as ready as they
//! were, with the share that each of them had.

use std::{fs, path::PathBuf};

use plenum_proto::v1::{ListRequest, MachineState, MachineView, RemoveMachineRequest, Unfit};

use super::folder::{Folder, written};
use crate::{connect::Connection, failure::Failure, output};

/// How the names of a development cell's machines begin.
const NAME: &str = "machine-";

/// The names of so many machines.
pub(super) fn names(count: u32) -> impl Iterator<Item = String> {
    (1..=count).map(|number| format!("{NAME}{number}"))
}

/// Finds out which agents have registered since this was made.
pub(super) struct Machines {
    agents: Vec<Agent>,
    count: u32,
    /// The server's log, with how much it had printed by then.
    server: (PathBuf, u64),
}

/// What is waited for.
#[derive(Debug)]
pub(super) enum Wait {
    /// These machines: their agents have not registered.
    Agents(Vec<String>),
    /// The cell, which does not list what has registered: why.
    Cell(String),
}

impl Wait {
    /// That it was in vain, for people; of so many agents in all.
    pub(super) fn told(&self, all: u32) -> String {
        match self {
            Self::Agents(missing) => {
                let (count, first) = (missing.len(), missing.first().map_or("", String::as_str));
                format!("{count} of {all} agents have not registered in time, as that of {first}")
            }
            Self::Cell(why) => format!("all agents have registered, and the cell does not list their machines: {why}"),
        }
    }
}

/// An agent's directory, what it had written of its last registration, and its log, with how much earlier ones had printed.
struct Agent {
    machine: String,
    directory: PathBuf,
    before: Option<(u64, i64, i64)>,
    log: PathBuf,
    printed_from: u64,
}

/// Whether an agent serves the machine that did not leave it.
fn is_served(machine: &MachineView) -> bool {
    let is_there = !matches!(machine.state(), MachineState::Unreachable | MachineState::Gone);
    is_there && machine.unfit() != Unfit::AgentLeaves
}

/// Why a machine that is served takes no tasks, and what ends that, where somebody has to.
pub(super) fn unused_words(machine: &MachineView) -> Option<String> {
    let name = &machine.name;
    match (machine.state(), output::unfit(machine)) {
        (MachineState::Draining, _) => Some(format!("{name} is drained: `plenum machine undrain {name}` ends that")),
        (MachineState::Cordoned, _) if machine.cordoned => {
            Some(format!("{name} is cordoned: `plenum machine uncordon {name}` ends that"))
        }
        (MachineState::Cordoned, Some((_, why))) => Some(format!("{name} takes no tasks: {why}")),
        _ => None,
    }
}

/// That a machine of an earlier run stays because of its tasks, and what ends that.
pub(super) fn stays_words(name: &str) -> String {
    format!(
        "{name} of an earlier run has tasks, and no agent now: `plenum machine remove {name} --force` gives them up"
    )
}

impl Machines {
    /// To be made before the agents are started.
    pub(super) fn before_agents(folder: &Folder, count: u32) -> Self {
        let agent = |machine: String| {
            let directory = folder.agent(&machine);
            let before = written(&plenum_agent::registration(&directory).0);
            let log = folder.log(&format!("agent-{machine}"));
            let printed_from = Folder::log_bytes(&log);
            Agent { machine, directory, before, log, printed_from }
        };
        let log = folder.log("server");
        let printed_from = Folder::log_bytes(&log);
        Self { agents: names(count).map(agent).collect(), count, server: (log, printed_from) }
    }

    /// What the agent of a machine has printed, at most its last `most` bytes.
    pub(super) fn printed(&self, machine: &str, most: u64) -> String {
        let agent = self.agents.iter().find(|agent| agent.machine == machine);
        agent.map(|agent| Folder::printed_since(&agent.log, agent.printed_from, most)).unwrap_or_default()
    }

    /// What whoever is waited for has printed, at most its last `most` bytes.
    pub(super) fn printed_by(&self, wait: &Wait, most: u64) -> String {
        match wait {
            Wait::Agents(missing) => missing.first().map(|first| self.printed(first, most)).unwrap_or_default(),
            Wait::Cell(_) => Folder::printed_since(&self.server.0, self.server.1, most),
        }
    }

    /// The machines whose agents have not registered, and a revision at which the cell knows what all others offer.
    fn missing(&self) -> (Vec<String>, u64) {
        let mut known = (Vec::new(), 0);
        for agent in &self.agents {
            let (file, revision) = plenum_agent::registration(&agent.directory);
            match revision.filter(|_| written(&file) != agent.before) {
                Some(revision) => known.1 = revision.max(known.1),
                None => known.0.push(agent.machine.clone()),
            }
        }
        known
    }

    /// What the agents offer, once all of them have registered and the cell says so; until then who is waited for. A machine that was cordoned or
    /// drained stays so, which is no reason to wait for it.
    pub(super) async fn ready(&self, connection: &Connection) -> Result<Vec<MachineView>, Wait> {
        let (missing, revision) = self.missing();
        if !missing.is_empty() {
            return Err(Wait::Agents(missing));
        }
        let answer = match connection.inspect().list_machines(ListRequest::default()).await {
            Ok(answer) => answer.into_inner(),
            Err(status) => return Err(Wait::Cell(Failure::from(status).to_string())),
        };
        if answer.revision < revision {
            let answered = answer.revision;
            return Err(Wait::Cell(format!(
                "it answers as of revision {answered}, and has registered one at {revision}"
            )));
        }
        let mut there = answer.machines;
        there.retain(|machine| is_served(machine) && !self.is_earlier(&machine.name));
        let is_missing = |agent: &&Agent| there.iter().all(|machine| machine.name != agent.machine);
        let missing: Vec<String> = self.agents.iter().filter(is_missing).map(|agent| agent.machine.clone()).collect();
        if missing.is_empty() { Ok(there) } else { Err(Wait::Agents(missing)) }
    }

    /// True for a machine of an earlier run with more of them.
    fn is_earlier(&self, name: &str) -> bool {
        name.strip_prefix(NAME).and_then(|number| number.parse::<u32>().ok()).is_some_and(|number| number > self.count)
    }

    /// Takes machines of earlier runs out of the cell, which this one has no agents for: what was placed there would wait for their
    /// leases, and then to be given up. Gives the names of those that stay because of their tasks, which may run on without an agent.
    pub(super) async fn remove_earlier(
        &self,
        folder: &Folder,
        connection: &Connection,
    ) -> Result<Vec<String>, Failure> {
        let known = connection.inspect().list_machines(ListRequest::default()).await?.into_inner().machines;
        let mut stay = Vec::new();
        for machine in known.iter().filter(|machine| self.is_earlier(&machine.name)) {
            // An agent that is still ending holds its lock. Of a cell that was restored here there are no directories of agents.
            let lock = fs::File::open(folder.agent(&machine.name).join("lock"));
            if machine.state() == MachineState::Gone || lock.is_ok_and(|lock| lock.try_lock().is_err()) {
                continue;
            }
            if machine.allocations > 0 || machine.unknown_tasks > 0 {
                stay.push(machine.name.clone());
                continue;
            }
            let request = RemoveMachineRequest { name: machine.name.clone(), force: true, machine: machine.id };
            connection.inspect().remove_machine(request).await?;
        }
        Ok(stay)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use plenum_server::{Server, ServerOptions};

    use super::*;

    // An answer that did not come was one without machines: where the server could not be asked no agent was said to have registered, though all had.
    #[tokio::test]
    async fn where_the_cell_does_not_list_machines_no_agent_is_blamed() {
        let (named, data) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let folder = Folder::open(Some(named.path())).unwrap();
        let server = Server::start(ServerOptions::new(data.path())).await.unwrap();
        let connection = Connection::open(&server.address().to_string()).await.unwrap();
        let all_registered = Machines::before_agents(&folder, 0);
        assert_eq!(all_registered.ready(&connection).await.unwrap(), []);
        server.shutdown().await.unwrap();
        fs::write(folder.log("server"), "no space left").unwrap();
        let wait = all_registered.ready(&connection).await.unwrap_err();
        let told = wait.told(3);
        assert!(told.starts_with("all agents have registered, and the cell does not list their machines: "), "{told}");
        assert_eq!(all_registered.printed_by(&wait, 100), "no space left");
        let wait = Machines::before_agents(&folder, 2).ready(&connection).await.unwrap_err();
        assert_eq!(wait.told(2), "2 of 2 agents have not registered in time, as that of machine-1");
    }

    #[test]
    fn what_takes_no_tasks_says_why_and_what_ends_that() {
        let view = |state: MachineState, cordoned, unfit: Unfit| MachineView {
            name: "m1".to_owned(),
            state: state.into(),
            cordoned,
            unfit: unfit.into(),
            ..MachineView::default()
        };
        let (ready, cordoned) = (MachineState::Ready, MachineState::Cordoned);
        let told = |view: &MachineView| unused_words(view).unwrap_or_default();
        assert_eq!(told(&view(ready, false, Unfit::Unspecified)), "");
        let by_somebody = told(&view(cordoned, true, Unfit::Unspecified));
        assert_eq!(by_somebody, "m1 is cordoned: `plenum machine uncordon m1` ends that");
        let drained = told(&view(MachineState::Draining, true, Unfit::Unspecified));
        assert_eq!(drained, "m1 is drained: `plenum machine undrain m1` ends that");
        let unfit = view(cordoned, false, Unfit::StateUnwritable);
        assert!(told(&unfit).starts_with("m1 takes no tasks: its agent can't write its state"));
        // Such as the word of an earlier agent, until the next one has said that it is there.
        let leaves = view(cordoned, false, Unfit::AgentLeaves);
        let gone = view(MachineState::Gone, false, Unfit::Unspecified);
        assert_eq!([&unfit, &leaves, &gone].map(is_served), [true, false, false]);
    }

    // The cell was not named: who did as told gave up the tasks of whichever cell had the default address.
    #[test]
    fn what_gives_tasks_up_names_the_cell() {
        output::name_cell("a:1");
        let told = output::told(&stays_words("machine-3"));
        assert!(told.ends_with("`plenum --addr a:1 machine remove machine-3 --force` gives them up"), "{told}");
        output::name_no_cell();
        assert!(output::told(&stays_words("machine-3")).contains("`plenum machine remove machine-3 --force`"));
    }
}
