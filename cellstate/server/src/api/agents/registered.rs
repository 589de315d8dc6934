//! Registrations that are queued: each is brought to its end, also where its agent has given the call up by then, as agents do while the disk does not
//! answer. It is decided all the same; with a lease that nobody holds, what was placed on the machine next would have its own agent taken for another's.
//!
//! What comes before that is the call's, and ends with it: there are no more of these than requests that wait to be decided, whatever callers do.

use std::sync::Arc;

use plenum_model::{BootId, Decision, MachineId, RejectionCode, Request, Revision};
use tokio::sync::oneshot;
use tokio::task::JoinHandle;

use crate::agents::{Asking, Grant, Registering};
use crate::api::failure::Failure;
use crate::ingress::Answered;
use crate::shared::Shared;
use crate::tasks::joined;

/// The machine of a name, before it is registered.
pub(super) struct Known {
    pub(super) id: MachineId,
    pub(super) epoch: u32,
    pub(super) boot: BootId,
}

/// What was decided.
pub(super) enum Registered {
    /// The machine is in this epoch, at this revision; and what became of its lease.
    As { machine: MachineId, epoch: u32, at: Revision, lease: Grant },
    /// At this revision there was more than its agent had heard of.
    Stale(Revision),
}

/// One that is queued. It goes on where nobody waits for it any more, and ends with the server, which drops the answers that it owes.
pub(super) struct Queued(JoinHandle<Result<Registered, Failure>>);

impl Queued {
    /// Queues it: it is under way, asked for by this agent, of a machine that was known so; `None`: there was none.
    pub(super) fn new(
        shared: &Arc<Shared>,
        request: Request,
        of: (Registering, Asking, Option<Known>),
    ) -> Result<Self, Failure> {
        let answer = shared.queue(request)?;
        Ok(Self(tokio::spawn(registered(shared.clone(), answer, of))))
    }

    /// Waits until it is decided.
    pub(super) async fn decided(self) -> Result<Registered, Failure> {
        joined(self.0.await).ok_or_else(Failure::outcome_unknown)?
    }
}

/// Takes what is decided to the hub, which has the agent hold the machine's lease.
async fn registered(
    shared: Arc<Shared>,
    answer: oneshot::Receiver<Answered>,
    (registering, asking, known): (Registering, Asking, Option<Known>),
) -> Result<Registered, Failure> {
    let decided = shared.decided(answer).await?;
    let (machine, epoch) = match decided.decision {
        Decision::Accepted { id, version } => (MachineId::from_bits(id), version),
        Decision::Rejected(rejection) if rejection.code == RejectionCode::StaleEpoch => {
            return Ok(Registered::Stale(decided.at));
        }
        Decision::Rejected(rejection) => return Err(rejection.into()),
        Decision::Outcome(_) => return Err(Failure::internal("registering gave an outcome")),
    };
    let machine = machine.ok_or_else(|| Failure::internal("registering gave no id"))?;
    let known = known.filter(|known| known.id == machine);
    let goes_on = known.as_ref().is_some_and(|known| known.epoch == epoch);
    let lease = shared.hub.registered(machine, epoch, goes_on, &asking, shared.clock.monotonic_micros());
    if let Some(known) = known.filter(|_| lease == Grant::Held) {
        shared.hub.booted(machine, epoch, known.boot, &BootId::from(asking.boot_id.as_str()));
    }
    // From here on the next one to register this name sees the machine, which is durable, who holds its lease, and which boots are over.
    drop(registering);
    Ok(Registered::As { machine, epoch, at: decided.at, lease })
}

#[cfg(test)]
mod tests {
    use std::collections::VecDeque;
    use std::path::Path;
    use std::time::{Duration, Instant};

    use plenum_journal::Journal;
    use plenum_model::{Cell, Delta, LogTime, MachineState};
    use plenum_proto::v1;
    use v1::agents_server::Agents as _;

    use super::*;
    use crate::agents::Hindrance;
    use crate::api::agents::AgentsService;
    use crate::authorise::Principal;
    use crate::commit::Answer;
    use crate::ingress::Arrival;
    use crate::shared::tests::without_threads;

    const MACHINE: MachineId = MachineId { slot: 3, generation: 1 };

    /// A cell with a machine in this slot, in its first epoch.
    fn cell_with(slot: u32) -> Cell {
        let mut cell = Cell::default();
        let mut delta = Delta::new(Revision(1), LogTime::from_micros(1));
        delta.machines.push(Arc::new(crate::agents::machine(slot, 1, MachineState::Ready)));
        cell.apply(&delta).unwrap();
        cell
    }

    /// A server that decides nothing, of a cell with the machine m3.
    fn undecided(dir: &Path) -> (Journal, Arc<Shared>) {
        without_threads(dir, |_| Some(cell_with(MACHINE.slot)))
    }

    fn asking(instance: &str, micros: u64) -> Asking {
        Asking { instance: instance.to_owned(), boot_id: "boot".to_owned(), micros }
    }

    /// What an agent registers m3 with.
    fn request(asking: Asking) -> tonic::Request<v1::RegisterRequest> {
        let machine = v1::RegisterMachine {
            name: "m3".to_owned(),
            boot_id: asking.boot_id,
            capacity: Some(v1::Resources { cpu_millis: 1000, memory_bytes: 1 << 30, ..Default::default() }),
            ..Default::default()
        };
        let mut request = tonic::Request::new(v1::RegisterRequest {
            machine: Some(machine),
            instance: asking.instance,
            asked_micros: asking.micros,
            ..Default::default()
        });
        request.extensions_mut().insert(Principal::local());
        request
    }

    /// An agent registers m3, and gives the call up as soon as that waits for something.
    async fn gives_up(service: &AgentsService, asking: Asking) {
        tokio::select! {
            biased;
            answer = service.register(request(asking)) => panic!("it waits for nothing: {answer:?}"),
            () = std::future::ready(()) => {}
        }
    }

    /// What waits to be decided.
    fn waiting(shared: &Shared) -> VecDeque<Arrival> {
        let mut waiting = VecDeque::new();
        shared.ingress.take(Some(&mut waiting), false, Some(Instant::now()));
        waiting
    }

    async fn comes(is_so: impl Fn() -> bool) {
        let looking = async {
            while !is_so() {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        };
        tokio::time::timeout(Duration::from_secs(10), looking).await.expect("it does not come");
    }

    // Its lease was nobody's: as soon as something was placed there, its own agent was told that another one serves the machine. Until it was decided,
    // another agent could register the name beside it, and each try of its own came behind the others into the queue.
    #[tokio::test]
    async fn a_registration_whose_call_is_given_up_is_brought_to_its_end() {
        let dir = tempfile::tempdir().unwrap();
        let (_journal, shared) = undecided(dir.path());
        let service = AgentsService::new(shared.clone());
        gives_up(&service, asking("first", 10)).await;
        let hindrance = |asking: Asking| shared.hub.registering("m3", &asking).err();
        assert_eq!(hindrance(asking("second", 20)), Some(Hindrance::Another));
        assert_eq!(hindrance(asking("first", 20)), Some(Hindrance::Earlier));

        let arrival = waiting(&shared).pop_front().expect("it is queued");
        let answer = Answer::Changed(Decision::Accepted { id: MACHINE.to_bits(), version: 2 });
        let unheard = arrival.reply.unwrap().send(Answered { at: Revision(2), answer }, &shared.unread);
        assert_eq!(unheard, None);
        comes(|| hindrance(asking("second", 20)).is_none()).await;
        let is_anothers = ["first", "second"].map(|instance| shared.hub.is_held_by_another(MACHINE, instance));
        assert_eq!(is_anothers, [false, true]);
    }

    // That the boot before was superseded was noted by the call: the host that was in it, with the same name and a copy of the directory, took the machine
    // back.
    #[tokio::test]
    async fn a_boot_is_superseded_by_a_registration_whose_call_is_given_up() {
        let dir = tempfile::tempdir().unwrap();
        let (_journal, shared) = undecided(dir.path());
        let service = AgentsService::new(shared.clone());
        gives_up(&service, Asking { boot_id: "boot-2".to_owned(), ..asking("first", 10) }).await;
        let arrival = waiting(&shared).pop_front().expect("it is queued");
        let answer = Answer::Changed(Decision::Accepted { id: MACHINE.to_bits(), version: 2 });
        let unheard = arrival.reply.unwrap().send(Answered { at: Revision(2), answer }, &shared.unread);
        assert_eq!(unheard, None);
        comes(|| shared.hub.registering("m3", &asking("second", 20)).is_ok()).await;
        let is_superseded = ["boot", "boot-2"].map(|boot| shared.hub.is_superseded(MACHINE, &BootId::from(boot)));
        assert_eq!(is_superseded, [true, false]);
    }

    // What its inventory had left out, as the machine before was known to run it, ran on beside what was placed there next, and was known to nobody.
    #[tokio::test]
    async fn who_is_registered_as_a_new_machine_though_one_was_known_is_to_register_again() {
        let dir = tempfile::tempdir().unwrap();
        let (_journal, shared) = undecided(dir.path());
        let service = AgentsService::new(shared.clone());
        let mut registered = std::pin::pin!(service.register(request(asking("first", 10))));
        tokio::select! {
            biased;
            answer = &mut registered => panic!("it waits for nothing: {answer:?}"),
            () = std::future::ready(()) => {}
        }
        let arrival = waiting(&shared).pop_front().expect("it is queued");
        // Decided behind a removal, which freed its name.
        let new = MachineId { slot: 4, generation: 1 };
        shared.picture.show(cell_with(new.slot));
        let answer = Answer::Changed(Decision::Accepted { id: new.to_bits(), version: 1 });
        let unheard = arrival.reply.unwrap().send(Answered { at: Revision(9), answer }, &shared.unread);
        assert_eq!(unheard, None);
        let answer = registered.await.unwrap().into_inner();
        assert_eq!((answer.register_again, answer.revision), (true, 9));
    }

    // Who registers and hangs up without end would have as many of them wait as he likes.
    #[tokio::test]
    async fn a_registration_whose_call_is_given_up_before_it_is_queued_is_not_asked_for() {
        let dir = tempfile::tempdir().unwrap();
        let (_journal, shared) = undecided(dir.path());
        let service = AgentsService::new(shared.clone());
        let earlier = shared.hub.registering("m3", &asking("first", 10)).unwrap();
        gives_up(&service, asking("first", 20)).await;
        drop(earlier);
        // Longer than it takes to see that the earlier one is over.
        tokio::time::sleep(Duration::from_millis(50)).await;
        assert!(waiting(&shared).is_empty());
        assert_eq!(Arc::strong_count(&shared), 2, "the service has it, and who asks here");
    }

    #[tokio::test]
    async fn a_registration_that_nobody_decides_any_more_ends_with_the_server() {
        let dir = tempfile::tempdir().unwrap();
        let (_journal, shared) = undecided(dir.path());
        let service = AgentsService::new(shared.clone());
        gives_up(&service, asking("first", 10)).await;
        assert_eq!(Arc::strong_count(&shared), 3);
        shared.abandon();
        comes(|| Arc::strong_count(&shared) == 2).await;
        assert!(shared.hub.registering("m3", &asking("second", 20)).is_ok());
        assert!(!shared.hub.is_held_by_another(MACHINE, "second"), "it was not decided");
    }
}
