//! Load on a cell that crashes: schedulers, an agent and a mirror, each of which lives through all crashes; and what must hold of a
//! cell that came back.

mod canary;

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use plenum_checker::properties::Verdict;
use plenum_model::{AllocationId, Cell, JobId, MachineId, SessionId};
use plenum_proto::v1::{self, cell_client::CellClient};
use tokio::{
    runtime::Runtime,
    sync::{mpsc, watch},
    task::JoinHandle,
};
use tonic::{Status, transport::Endpoint};

use super::{
    agent::{self, Agent},
    client::{Answer, Client, FULL_MACHINE, Field, NARROW_MACHINE, RUNNING, SCHEDULER, Said, Ticks, may_end_so},
    dice::Dice,
    log,
    picture::Picture,
    witness::Witness,
};
use crate::{rivals::Rivals, stage::PATIENCE};

/// Schedulers.
const CLIENTS: u64 = 2;
/// Machines; the first one is full from the beginning, and the second one soon.
pub(crate) const MACHINES: usize = 5;
const MACHINE_TASKS: i64 = 1_000_000;
const NARROW_TASKS: i64 = 6;
/// How long room is held: the bound of a cell. Half of that later it is held anew.
const HOLD_MICROS: i64 = 600_000_000;
/// Tasks of a job. Few: each snapshot has them all.
const JOB_TASKS: u32 = 1_000;
/// Fewer left of them: time for another job.
const JOB_TASKS_LEAST: u32 = 400;
/// Transactions of a client that are asked for by their numbers after each crash.
const READ_BACK: usize = 3;

/// Everybody who has to do with the cell.
pub(crate) struct Load {
    runtime: Runtime,
    pub(crate) ticks: Arc<Ticks>,
    clients: Vec<Client>,
    agent: Agent,
    /// Ids and epochs.
    machines: Vec<(u64, u32)>,
    follower: Picture,
    witness: Option<Witness>,
    jobs: u64,
    /// The job that room is held for, of which nothing is ever claimed; and the log time that was known when that was answered last.
    held: Option<(u64, i64)>,
    /// The log time that was seen last.
    seen_micros: i64,
    dice: Dice,
    /// The newest revision that anybody has seen, or was answered with.
    seen: u64,
    /// The past may be retired, as it is by the settings of the cell.
    may_retire: bool,
}

/// Everybody at work, from a start of the server to its end.
pub(crate) struct Round {
    ending: watch::Sender<bool>,
    clients: Vec<JoinHandle<Client>>,
    agent: JoinHandle<Agent>,
    follower: JoinHandle<Picture>,
    witness: Option<JoinHandle<Witness>>,
}

impl Load {
    pub(crate) fn new(seed: u64) -> Self {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        let clients = (0..CLIENTS).map(|number| Client::new(seed * 16 + number)).collect();
        Self {
            runtime,
            ticks: Arc::default(),
            clients,
            agent: Agent::default(),
            machines: Vec::new(),
            follower: Picture::default(),
            witness: None,
            jobs: 0,
            held: None,
            seen_micros: 0,
            dice: Dice::new(seed),
            seen: 0,
            may_retire: false,
        }
    }

    /// From now on the past of the cell is retired.
    pub(super) fn allow_retiring(&mut self) {
        self.may_retire = true;
    }

    /// The oldest revision that can be read: in a cell that retains all, nothing is older.
    pub(super) fn oldest(&self, rivals: &Rivals) -> Result<u64, Status> {
        let oldest = rivals.oldest_revision()?;
        assert!(oldest <= 1 || self.may_retire, "nothing was to be retired, and the oldest revision is {oldest}");
        Ok(oldest)
    }

    /// From now on the separate checker watches, too.
    pub(super) fn call_a_witness(&mut self) {
        self.witness = Some(Witness::new());
    }

    /// What the separate checker says of all that it and the clients were told, if it was called.
    pub(super) fn verdict(&mut self, address: &str) -> Option<Verdict> {
        let witness = self.witness.take()?;
        Some(self.runtime.block_on(witness.judge(address, &self.clients)))
    }

    pub(super) fn clients(&mut self) -> &mut [Client] {
        &mut self.clients
    }

    pub(crate) fn dice(&mut self) -> &mut Dice {
        &mut self.dice
    }

    /// Renews the leases of all machines, and says nothing else.
    pub(crate) fn renew_leases(&self, address: &str) -> Result<(), Status> {
        self.runtime.block_on(agent::renew(address, &self.machines))
    }

    /// Whether somebody who comes now gets a picture of the cell.
    pub(super) fn can_be_mirrored(&self, address: &str) -> Result<(), Status> {
        self.runtime.block_on(snapshot(address)).map(drop)
    }

    /// Sees to it that there is something to claim. Any of it may have been done before.
    pub(crate) fn prepare(&mut self, address: &str) -> Result<(), Status> {
        let rivals = Rivals::new(address);
        let mut machines = Vec::new();
        for number in 0..MACHINES {
            let room = match number {
                FULL_MACHINE => 0,
                NARROW_MACHINE => NARROW_TASKS,
                _ => MACHINE_TASKS,
            };
            let machine = rivals.machine(&format!("m{number}"), room)?;
            self.seen = self.seen.max(machine.revision);
            self.agent.machines.insert(machine.slot, (machine.id, machine.epoch));
            machines.push(machine.slot);
        }
        self.machines = self.agent.machines.values().copied().collect();
        let contested = match self.clients.iter().all(|client| client.contested.left() >= JOB_TASKS_LEAST) {
            true => None,
            false => Some(self.another_job(&rivals)?),
        };
        for number in 0..self.clients.len() {
            let own = match self.clients[number].own.left() >= JOB_TASKS_LEAST {
                true => None,
                false => Some(self.another_job(&rivals)?),
            };
            let urgent = match self.clients[number].urgent.left() >= JOB_TASKS_LEAST {
                true => None,
                false => Some(self.another_urgent_job(&rivals)?),
            };
            let client = &mut self.clients[number];
            client.machines.clone_from(&machines);
            client.own = own.unwrap_or(client.own);
            client.urgent = urgent.unwrap_or(client.urgent);
            client.contested = contested.unwrap_or(client.contested);
        }
        self.hold_room(&rivals, machines.last().copied().unwrap_or_default())
    }

    /// Room is held on this machine for a job that goes on waiting. Mostly it is already, so that a server that dies early does so under load.
    fn hold_room(&mut self, rivals: &Rivals, machine: u32) -> Result<(), Status> {
        let lasts = |from_micros: i64| from_micros > 0 && self.seen_micros < from_micros + HOLD_MICROS / 2;
        if self.held.is_some_and(|(_, from_micros)| lasts(from_micros)) {
            return Ok(());
        }
        let job = match self.held {
            Some((job, _)) => job,
            None => rivals.submit("gang", SCHEDULER, 1)?.job,
        };
        let answer = rivals.hold_for(job, machine, HOLD_MICROS)?;
        self.seen = self.seen.max(answer.revision);
        self.held = Some((job, self.seen_micros));
        Ok(())
    }

    fn another_urgent_job(&mut self, rivals: &Rivals) -> Result<Field, Status> {
        let answer = rivals.submit_urgent(&format!("urgent-{}", self.jobs), SCHEDULER, JOB_TASKS)?;
        self.seen = self.seen.max(answer.revision);
        self.jobs += 1;
        Ok(Field { job: answer.job, tasks: JOB_TASKS, next: 0 })
    }

    fn another_job(&mut self, rivals: &Rivals) -> Result<Field, Status> {
        let answer = rivals.submit(&format!("job-{}", self.jobs), SCHEDULER, JOB_TASKS)?;
        self.seen = self.seen.max(answer.revision);
        self.jobs += 1;
        Ok(Field { job: answer.job, tasks: JOB_TASKS, next: 0 })
    }

    /// Puts everybody to work.
    pub(crate) fn begin(&mut self, address: &str) -> Round {
        for client in &self.clients {
            let mut newest: Vec<(u64, u64)> = client.granted.iter().map(|(id, revision)| (*revision, *id)).collect();
            newest.sort_unstable();
            let older = newest.len().saturating_sub(RUNNING);
            for (_, id) in &newest[..older] {
                if let Some(machine) = client.picture.cell().allocation(allocation(*id)).map(|found| found.row.machine)
                {
                    self.agent.ending.insert(*id, machine);
                }
            }
        }
        let (leaving, left) = mpsc::unbounded_channel();
        let (ending, asked) = watch::channel(false);
        let spawn = |client: Client| {
            self.runtime.spawn(client.work(address.to_owned(), self.ticks.clone(), leaving.clone(), asked.clone()))
        };
        let clients = std::mem::take(&mut self.clients).into_iter().map(spawn).collect();
        let agent = std::mem::take(&mut self.agent);
        let agent = self.runtime.spawn(agent.work(address.to_owned(), left, asked.clone()));
        let follower = std::mem::take(&mut self.follower);
        let follower = self.runtime.spawn(follow(follower, address.to_owned(), asked.clone()));
        let witness = self.witness.take();
        let witness = witness.map(|witness| self.runtime.spawn(witness.follow(address.to_owned(), asked)));
        Round { ending, clients, agent, follower, witness }
    }

    /// Asks everybody to finish what they have in flight.
    pub(crate) fn finish(&mut self, round: Round) {
        round.ending.send_replace(true);
        self.join(round);
    }

    /// Waits until everybody has noticed that the server is gone.
    pub(crate) fn join(&mut self, round: Round) {
        let Round { clients, agent, follower, witness, .. } = round;
        let joined = async {
            for client in clients {
                self.clients.push(client.await.unwrap());
            }
            self.agent = agent.await.unwrap();
            self.follower = follower.await.unwrap();
            if let Some(witness) = witness {
                self.witness = Some(witness.await.unwrap());
            }
        };
        let joined = self.runtime.block_on(async { tokio::time::timeout(PATIENCE, joined).await });
        joined.expect("whoever asked is answered, or hears that the server is gone");
        for client in &mut self.clients {
            client.granted.retain(|id, _| !self.agent.ended.contains(id));
        }
        let pictures = self.clients.iter().map(|client| &client.picture).chain([&self.follower]);
        self.seen = pictures.map(Picture::newest).fold(self.seen, u64::max);
    }

    /// Looks at a cell that came back, before anybody asks anything again: all promises were kept.
    pub(crate) fn examine(&mut self, address: &str) -> Result<(), Status> {
        let fresh = self.runtime.block_on(snapshot(address))?;
        assert!(fresh.revision().0 >= self.seen, "at {}, and {} was published", fresh.revision(), self.seen);
        self.seen = fresh.revision().0;
        for client in &mut self.clients {
            numbers_are_kept(&fresh, client);
        }
        self.jobs_and_machines_are_kept(&fresh);
        self.hold_is_kept(&fresh);
        self.seen_micros = fresh.time().micros;
        self.allocations_are_kept(&fresh);
        self.answers_are_read_back(address)?;
        self.pictures_were_true(address)
    }

    /// What the clients claim tasks of, and where, was acknowledged, too. These jobs are not over for long enough to be retired.
    fn jobs_and_machines_are_kept(&self, fresh: &Cell) {
        let fields = self.clients.iter().flat_map(|client| [client.own, client.urgent, client.contested]);
        for field in fields.filter(|field| field.tasks > 0) {
            let id = JobId::from_bits(field.job).expect("an id that was answered");
            assert!(fresh.job(id).is_some(), "{id} was submitted, and is gone");
        }
        for &(id, epoch) in self.agent.machines.values() {
            let id = MachineId::from_bits(id).expect("an id that was answered");
            let found = fresh.machine(id).map(|machine| machine.epoch);
            assert!(found.is_some_and(|found| found >= epoch), "{id} was registered in epoch {epoch}: {found:?}");
        }
    }

    /// Room that was held is held still, unless its time is over.
    fn hold_is_kept(&self, fresh: &Cell) {
        let Some((job, from_micros)) = self.held else { return };
        let id = JobId::from_bits(job).expect("an id that was answered");
        let is_over = fresh.time().micros >= from_micros.saturating_add(HOLD_MICROS);
        assert!(is_over || fresh.hold(id).is_some(), "room was held for {id}, and is not any more");
    }

    /// Nothing that was granted is missing, and nothing is there that was not.
    fn allocations_are_kept(&self, fresh: &Cell) {
        for client in &self.clients {
            let stopped = stopped(client);
            for (&id, &revision) in &client.granted {
                match fresh.allocation(allocation(id)) {
                    Some(found) => {
                        let expected = (revision, client.session);
                        assert_eq!((found.row.created.0, found.row.session), expected, "{id} is not as it was granted");
                        let leaves = !found.status.state.is_active();
                        assert!(leaves || !stopped.contains(&id), "the stop of {id} was acknowledged: {found:?}");
                    }
                    None => assert!(self.agent.ending.contains_key(&id), "{id} was granted at {revision}, and is gone"),
                }
            }
        }
        let mut tasks = BTreeSet::new();
        for found in fresh.allocations() {
            let row = found.row;
            if found.status.state.is_active() {
                assert!(tasks.insert((row.job_slot, row.group_row, row.task)), "a task is placed twice: {found:?}");
            }
            assert!(!self.agent.ended.contains(&found.id.to_bits()), "its end was acknowledged: {found:?}");
            let client = self.clients.iter().find(|client| client.session == row.session);
            let Some(client) = client else { panic!("nobody's: {found:?}") };
            match &client.said.get(&u64::from(row.number)).expect("what takes effect was asked").answer {
                Answer::Open => {}
                Answer::TurnedAway { code } => panic!("turned away with {code}, and took effect: {found:?}"),
                Answer::Outcome { outcome, .. } => {
                    let mut granted = outcome.placements.iter().flat_map(|placement| &placement.allocations);
                    assert!(granted.any(|id| *id == found.id.to_bits()), "not in its outcome: {found:?}, {outcome:?}");
                }
            }
        }
    }

    /// The newest answers stand in the log as they were given.
    fn answers_are_read_back(&self, address: &str) -> Result<(), Status> {
        let rivals = Rivals::new(address);
        self.oldest(&rivals)?;
        for client in &self.clients {
            let decided = client.said.values().rev().filter_map(|said| match &said.answer {
                Answer::Outcome { outcome, .. } => Some(outcome),
                _ => None,
            });
            for outcome in decided.step_by(5).take(READ_BACK) {
                let view = match rivals.transaction(client.session, outcome.number) {
                    Err(_) if outcome.revision < self.oldest(&rivals)? => continue,
                    read => read?,
                };
                assert_eq!(view.outcome.as_ref(), Some(&**outcome), "what was acknowledged is what its number says");
            }
        }
        log::newest_are_as_told(&rivals, &self.clients)
    }

    /// What mirrors showed before the crash is what the cell says now of that revision.
    fn pictures_were_true(&mut self, address: &str) -> Result<(), Status> {
        // Each of them is the same fold: one of them, another one each time.
        let number = self.dice.below(u32::try_from(self.clients.len()).unwrap() + 1) as usize;
        let picture = self.clients.get(number).map_or(&self.follower, |client| &client.picture);
        if !picture.is_whole() {
            return Ok(());
        }
        let rivals = Rivals::new(address);
        let listed = match rivals.allocations_at(picture.revision()) {
            Err(_) if picture.revision() < self.oldest(&rivals)? => return Ok(()),
            listed => listed?,
        };
        let listed: BTreeMap<u64, _> = listed
            .iter()
            .map(|view| (view.id, (view.state, view.job_id, view.task, view.machine_id, view.created_revision)))
            .collect();
        let cell = picture.cell();
        let shown = cell.allocations().map(|found| {
            let (row, state) = (found.row, found.status.state as i32);
            let machine = cell.machine_in(row.machine).map_or(0, |machine| machine.id.to_bits());
            (found.id.to_bits(), (state, row.job().to_bits(), row.task, machine, row.created.0))
        });
        let shown: BTreeMap<u64, _> = shown.collect();
        assert!(shown == listed, "at {}: mirrored {shown:?}, and read back {listed:?}", picture.revision());
        Ok(())
    }

    /// At the end, when all is answered: the log says of each transaction what was told and has no other, no two revisions are alike,
    /// real time is kept, and all mirrors are the same.
    pub(crate) fn conclude(&mut self, address: &str) -> Summary {
        let mut fresh = self.runtime.block_on(snapshot(address)).unwrap();
        let mut decided: Vec<(&Said, u64, &v1::Outcome)> = Vec::new();
        let mut summary = Summary::default();
        for client in &self.clients {
            summary.repeated += client.repeated;
            summary.took_over += client.took_over;
            for said in client.said.values() {
                match &said.answer {
                    Answer::Open => panic!("not answered: {said:?}"),
                    Answer::TurnedAway { .. } => summary.turned_away += 1,
                    Answer::Outcome { at, outcome } => decided.push((said, *at, outcome)),
                }
            }
        }
        summary.decided = decided.len();
        let rivals = Rivals::new(address);
        let logged = log::all_are_as_told(&rivals, &self.clients).unwrap();
        summary.oldest = self.oldest(&rivals).unwrap();
        let retained = decided.iter().filter(|(_, _, outcome)| outcome.revision >= summary.oldest).count();
        assert_eq!(logged, retained, "the log holds what was acknowledged, each once");
        let refusals = || decided.iter().flat_map(|(_, _, outcome)| &outcome.refusals);
        summary.refusals = refusals().count();
        summary.mates = refusals().filter(|refusal| refusal.kind() == v1::RefusalKind::Mate).count();
        let revisions: BTreeSet<u64> = decided.iter().map(|(_, _, outcome)| outcome.revision).collect();
        assert_eq!(revisions.len(), decided.len(), "each transaction has a revision of its own");
        real_time_is_kept(&decided);
        for picture in self.clients.iter_mut().map(|client| &mut client.picture).chain([&mut self.follower]) {
            // Of a report whose answer nobody waited for one more revision may still come.
            while !picture.is_whole() || picture.revision() != fresh.revision().0 {
                fresh = self.runtime.block_on(snapshot(address)).unwrap();
                self.runtime.block_on(catch_up(picture, address, fresh.revision().0)).unwrap();
            }
            assert_eq!(picture.cell().first_difference(&fresh), None, "two mirrors of one revision differ");
            summary.folded += picture.folded;
        }
        summary.ended = self.agent.ended.len();
        if let Some(verdict) = self.verdict(address) {
            assert_eq!(verdict.violations, [], "the separate checker finds nothing");
            // What it was shown as pictures alone, it can judge little of.
            assert!(verdict.folded >= summary.decided / 2, "{} of {} were deltas", verdict.folded, summary.decided);
            summary.judged = verdict.transactions;
        }
        summary
    }
}

/// What a run came to, so that a test can see that it was one.
#[derive(Clone, Debug, Default)]
pub(crate) struct Summary {
    pub(crate) decided: usize,
    /// The oldest revision that can be read at the end.
    pub(crate) oldest: u64,
    pub(crate) refusals: usize,
    /// Of these, claims that would have been granted with others.
    pub(crate) mates: usize,
    /// Grants in the room of others.
    pub(crate) took_over: usize,
    pub(crate) turned_away: usize,
    pub(crate) repeated: usize,
    pub(crate) ended: usize,
    /// Revisions that mirrors were told one by one.
    pub(crate) folded: usize,
    /// Transactions that the separate checker looked at, each as it was answered and as it is listed; 0 where it was not called.
    pub(crate) judged: usize,
}

/// Acknowledged numbers are decided as was said, those turned away never were, and of those in flight the first ones survive.
fn numbers_are_kept(fresh: &Cell, client: &mut Client) {
    if client.session == 0 {
        return;
    }
    let session = fresh.session(SessionId(client.session)).expect("a session that was welcomed survives");
    let decided: BTreeMap<u64, u64> = session.decided.iter().map(|each| (each.number, each.revision.0)).collect();
    let remembered = decided.keys().next().copied().unwrap_or(0);
    let mut all_before_are_there = true;
    for (number, said) in client.said.range_mut(remembered..) {
        let revision = decided.get(number).copied();
        match &said.answer {
            Answer::Outcome { outcome, .. } => {
                assert_eq!(revision, Some(outcome.revision), "{number} was acknowledged at {}", outcome.revision);
            }
            Answer::TurnedAway { code } => assert_eq!(revision, None, "{number} was turned away with {code}"),
            Answer::Open => {
                assert!(
                    revision.is_none() || all_before_are_there,
                    "{number} survived, and one sent before it did not"
                );
                assert!(said.found.is_none() || said.found == revision, "{number} was there after an earlier crash");
                said.found = revision;
                all_before_are_there = revision.is_some();
            }
        }
    }
    let unasked = decided.keys().find(|number| !client.said.contains_key(number));
    assert_eq!(unasked, None, "what is decided was asked");
}

/// Allocations whose stop was acknowledged: nothing comes of a transaction that was refused.
fn stopped(client: &Client) -> BTreeSet<u64> {
    let took_effect =
        |outcome: &v1::Outcome| outcome.outcome() != v1::TransactionOutcome::Refused || outcome.refusals.is_empty();
    let answered = client
        .said
        .values()
        .filter(|said| matches!(&said.answer, Answer::Outcome { outcome, .. } if took_effect(outcome)));
    answered.flat_map(|said| said.asked.stops.iter().copied()).collect()
}

/// What was answered before something was asked was decided before it.
fn real_time_is_kept(decided: &[(&Said, u64, &v1::Outcome)]) {
    let calls = decided.iter().map(|(said, _, outcome)| (said.called, None, outcome.revision));
    let answers = decided.iter().map(|(_, at, outcome)| (*at, Some(outcome.revision), outcome.revision));
    let mut events: Vec<(u64, Option<u64>, u64)> = calls.chain(answers).collect();
    events.sort_unstable();
    let mut newest_answered = 0;
    for (_, answered, revision) in events {
        match answered {
            Some(revision) => newest_answered = newest_answered.max(revision),
            None => assert!(revision > newest_answered, "{revision} was asked after {newest_answered} was answered"),
        }
    }
}

/// Follows the cell without a session.
async fn follow(mut picture: Picture, address: String, mut ending: watch::Receiver<bool>) -> Picture {
    let watched = async {
        let mut stream = watched(&address, picture.hello()).await?;
        while let Some(message) = stream.message().await? {
            picture.hear(message);
        }
        Ok::<(), Status>(())
    };
    tokio::select! {
        // Whatever server ended it, the next connection goes on from here.
        ended = watched => assert!(ended.as_ref().err().is_none_or(may_end_so), "it was ended with {ended:?}"),
        _ = ending.wait_for(|ending| *ending) => {}
    }
    picture.disconnected();
    picture
}

/// The cell as it is now.
pub(crate) async fn snapshot(address: &str) -> Result<Cell, Status> {
    let mut picture = Picture::default();
    catch_up(&mut picture, address, 1).await?;
    Ok(picture.cell().clone())
}

/// Goes on with a mirror until it is at this revision at least.
async fn catch_up(picture: &mut Picture, address: &str, revision: u64) -> Result<(), Status> {
    let mut stream = watched(address, picture.hello()).await?;
    while !picture.is_whole() || picture.revision() < revision {
        let message = stream.message().await?.ok_or_else(|| Status::unavailable("the stream ended"))?;
        picture.hear(message);
    }
    Ok(())
}

pub(crate) async fn watched(address: &str, hello: v1::Hello) -> Result<tonic::Streaming<v1::SessionResponse>, Status> {
    let endpoint = Endpoint::from_shared(address.to_owned()).unwrap();
    let channel = endpoint.connect().await.map_err(|error| Status::unavailable(error.to_string()))?;
    Ok(CellClient::new(channel).max_decoding_message_size(64 << 20).watch(hello).await?.into_inner())
}

fn allocation(bits: u64) -> AllocationId {
    AllocationId::from_bits(bits).expect("an id that was granted")
}
