//! Values of the model that keep the protocol's rules, at random.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use plenum_model::delta::{End, GrantExtra, Grants, JobChange, Move, SessionChange, TaskChange};
use plenum_model::*;
use plenum_proto::bounds;
use proptest::collection::{btree_set, vec};
use proptest::option;
use proptest::prelude::*;
use proptest::sample::select;

pub(crate) fn name() -> impl Strategy<Value = Arc<str>> {
    "[a-z][a-z0-9-]{0,5}[a-z0-9]".prop_map(Arc::from)
}

fn attribute() -> impl Strategy<Value = Arc<str>> {
    "[A-Za-z0-9][A-Za-z0-9._-]{0,8}".prop_map(Arc::from)
}

fn text() -> impl Strategy<Value = Arc<str>> {
    "\\PC{0,12}".prop_map(Arc::from)
}

fn amount() -> impl Strategy<Value = u64> {
    prop_oneof![Just(0), 0..10_000u64, Just(AMOUNT_MAX), 0..=AMOUNT_MAX]
}

fn resources() -> impl Strategy<Value = Resources> {
    (0..=CPU_MILLIS_MAX, amount(), amount(), [amount(), amount(), amount(), amount(), amount()]).prop_map(
        |(cpu_millis, memory_bytes, disk_bytes, custom)| Resources { cpu_millis, memory_bytes, disk_bytes, custom },
    )
}

fn time() -> impl Strategy<Value = LogTime> {
    any::<i64>().prop_map(LogTime::from_micros)
}

fn positive_time() -> impl Strategy<Value = LogTime> {
    (1..i64::MAX).prop_map(LogTime::from_micros)
}

fn slot() -> impl Strategy<Value = u32> {
    prop_oneof![0..300u32, 0..1u32 << 26]
}

fn generation() -> impl Strategy<Value = u32> {
    prop_oneof![1..4u32, 1..u32::MAX]
}

fn job_id() -> impl Strategy<Value = JobId> {
    (slot(), generation()).prop_map(|(slot, generation)| JobId { slot, generation })
}

fn machine_id() -> impl Strategy<Value = MachineId> {
    (slot(), generation()).prop_map(|(slot, generation)| MachineId { slot, generation })
}

fn allocation_id() -> impl Strategy<Value = AllocationId> {
    (any::<u32>(), generation()).prop_map(|(slot, generation)| AllocationId { slot, generation })
}

fn transaction_id() -> impl Strategy<Value = TransactionId> {
    (1..u64::MAX, 1..=u64::from(u32::MAX))
        .prop_map(|(session, number)| TransactionId { session: SessionId(session), number })
}

fn device() -> impl Strategy<Value = Device> {
    (attribute(), any::<u32>(), 0..=1000u32, text()).prop_map(|(kind, index, millis, model)| Device {
        kind,
        index,
        millis,
        model,
    })
}

fn ports() -> impl Strategy<Value = Vec<Port>> {
    proptest::collection::btree_map(name(), any::<u16>(), 0..3)
        .prop_map(|ports| ports.into_iter().map(|(name, number)| Port { name, number }).collect())
}

fn take_over() -> impl Strategy<Value = TakeOver> {
    (allocation_id(), resources(), vec(device(), 0..2), vec(any::<u16>(), 0..2))
        .prop_map(|(victim, amount, devices, ports)| TakeOver { victim, amount, devices, ports })
}

fn quota() -> impl Strategy<Value = Quota> {
    let limit = option::of(prop_oneof![Just(0), 0..10_000u64, Just(QUOTA_MAX), 0..=QUOTA_MAX]);
    proptest::array::uniform8(limit).prop_map(|limits| Quota { limits })
}

fn partition() -> impl Strategy<Value = Partition> {
    (vec(constraint(), 1..3), vec(name(), 0..3)).prop_map(|(machines, schedulers)| Partition { machines, schedulers })
}

fn hold() -> impl Strategy<Value = Hold> {
    (vec(slot(), 0..4), resources(), time(), any::<u64>()).prop_map(|(machines, resources, deadline, wait)| Hold {
        machines,
        resources,
        deadline,
        first_wait: Revision(wait),
    })
}

fn traces() -> impl Strategy<Value = TaskTraces> {
    (name(), name(), name(), 0..1_000_000u32, resources(), vec(device(), 0..2), ports()).prop_map(
        |(namespace, job, group, task, resources, devices, ports)| TaskTraces {
            namespace,
            job,
            group,
            task,
            resources,
            devices,
            ports,
        },
    )
}

fn unknown() -> impl Strategy<Value = (UnknownId, Option<Arc<UnknownTask>>)> {
    let task = (traces(), time(), option::of(positive_time()), any::<bool>());
    (machine_id(), allocation_id(), option::of(task)).prop_map(|(machine, allocation, task)| {
        let task = task.map(|(traces, since, until, stopping)| {
            Arc::new(UnknownTask { machine, traces: Arc::new(traces), since, until, stopping })
        });
        (UnknownId { machine: machine.slot, allocation }, task)
    })
}

fn constraint() -> impl Strategy<Value = Constraint> {
    let one = select(vec![
        Operator::Equal,
        Operator::NotEqual,
        Operator::Less,
        Operator::LessOrEqual,
        Operator::Greater,
        Operator::GreaterOrEqual,
    ]);
    let rule = prop_oneof![(one, vec(text(), 1)), (Just(Operator::In), vec(text(), 1..4))];
    (attribute(), rule).prop_map(|(attribute, (operator, values))| Constraint { attribute, operator, values })
}

fn group() -> impl Strategy<Value = GroupShape> {
    let rules = (
        vec(constraint(), 0..3),
        vec((constraint(), select(vec![-100, -1, 1, 100])), 0..2),
        vec((attribute(), 1..u32::MAX), 0..2),
        any::<u32>(),
    );
    let things = (resources(), vec(device(), 0..2), ports(), any::<bool>());
    let retry = (option::of(0..=bounds::RETRY_ATTEMPTS_MAX), 0..1_000_000i64, option::of(0..1_000_000i64));
    (0..=1_000_000u32, rules, things, retry).prop_map(|(count, rules, things, retry)| GroupShape {
        name: Arc::default(),
        count,
        after: Vec::new(),
        resources: things.0,
        constraints: rules.0,
        affinities: rules.1.into_iter().map(|(rule, weight)| Affinity { rule, weight }).collect(),
        spread: rules.2.into_iter().map(|(attribute, at_most)| Spread { attribute, at_most }).collect(),
        per_machine: rules.3,
        devices: things.1,
        ports: things.2,
        single_instance: things.3,
        retry: RetryPolicy { attempts: retry.0, delay_micros: retry.1 },
        lost_after_micros: retry.2,
        min: count / 2,
    })
}

/// Groups wait for some of those before them, so never in a cycle.
fn groups() -> impl Strategy<Value = Vec<GroupShape>> {
    vec((group(), any::<u64>()), 1..5).prop_map(|groups| {
        let named = groups.into_iter().enumerate().map(|(position, (group, mask))| {
            let after = (0u16..).take(position).filter(|before| mask >> before & 1 == 1).collect();
            GroupShape { name: format!("group-{position}").into(), after, ..group }
        });
        named.collect()
    })
}

pub(crate) fn job_shape() -> impl Strategy<Value = JobShape> {
    let names = (name(), name(), name());
    let options =
        proptest::collection::btree_map("[a-z.]{0,3}[a-z]".prop_map(|key| format!("o{key}")), "\\PC{0,9}", 0..3);
    let rest = (any::<bool>(), option::of(job_id()), any::<i64>(), options);
    let kind = select(vec![JobKind::ToCompletion, JobKind::Forever, JobKind::Recurring]);
    (names, 0..100u8, kind, groups(), rest).prop_map(|(names, priority, kind, mut groups, rest)| {
        if rest.0 {
            groups.iter_mut().for_each(|group| group.spread.clear());
        }
        JobShape {
            namespace: names.0,
            name: names.1,
            scheduler: names.2,
            priority,
            kind,
            same_machine: rest.0,
            groups,
            parent: rest.1,
            instant_micros: rest.2,
            options: rest.3,
        }
    })
}

fn guard() -> impl Strategy<Value = Guard> {
    prop_oneof![
        (job_id(), any::<u32>()).prop_map(|(job, version)| Guard::JobVersion { job, version }),
        (machine_id(), attribute(), text()).prop_map(|(machine, attribute, value)| Guard::Attribute {
            machine,
            attribute,
            value
        }),
    ]
}

fn claim_extra() -> impl Strategy<Value = ClaimExtra> {
    (vec(device(), 0..2), ports(), vec(take_over(), 0..2)).prop_map(|(devices, ports, take_overs)| ClaimExtra {
        devices,
        ports,
        take_overs,
    })
}

fn placement() -> impl Strategy<Value = Placement> {
    let columns = btree_set(0..1_000_000u32, 0..6).prop_flat_map(|tasks| {
        let tasks: Vec<u32> = tasks.into_iter().collect();
        let claims = tasks.len();
        let extras = prop_oneof![Just(Vec::new()), vec(claim_extra(), claims)];
        (Just(tasks).prop_shuffle(), vec(any::<u32>(), claims), extras)
    });
    let of = (job_id(), any::<u16>(), any::<u32>(), option::of(resources()));
    let preemption = (any::<u32>(), allocation_id()).prop_map(|(machine, victim)| Preemption { machine, victim });
    let rest = (vec(guard(), 0..2), vec(preemption, 0..2), vec(any::<u32>(), 0..3));
    (of, columns, rest).prop_map(|(of, (tasks, machines, extras), rest)| Placement {
        job: of.0,
        group: of.1,
        job_version: of.2,
        resources: of.3,
        min: u32::try_from(tasks.len() / 2).unwrap(),
        machines,
        tasks,
        extras,
        guards: rest.0,
        preemptions: rest.1,
        alternates: rest.2,
    })
}

pub(crate) fn transaction() -> impl Strategy<Value = Transaction> {
    let flags = (any::<bool>(), any::<bool>(), any::<bool>());
    let content = (vec(placement(), 0..4), vec(allocation_id(), 0..4), vec(guard(), 0..2));
    let decision =
        (any::<u32>(), name(), vec(any::<u8>(), 0..=32), any::<u64>(), vec(any::<u64>(), 0..3), 0..1_000_000i64);
    (transaction_id(), any::<(u64, u64)>(), flags, content, decision).prop_map(
        |(id, numbers, flags, content, decision)| Transaction {
            id,
            incarnation: numbers.0,
            base: Revision(numbers.1),
            atomic: flags.0,
            check: if flags.1 { ConflictCheck::Fit } else { ConflictCheck::Sequence },
            placements: content.0,
            stops: content.1,
            guards: content.2,
            dry_run: flags.2,
            decision: DecisionMetadata {
                attempt: decision.0,
                policy: (*decision.1).into(),
                configuration: decision.2.into(),
                seed: decision.3,
                assumed: decision.4,
                queued_micros: decision.5,
                deciding_micros: decision.5 / 2,
            },
        },
    )
}

fn reported() -> impl Strategy<Value = AllocationState> {
    select(AllocationState::ALL.into_iter().filter(|state| state.is_end()).collect::<Vec<_>>())
}

/// Whatever an agent may find, but that nothing is there.
fn found() -> impl Strategy<Value = AllocationState> {
    select(AllocationState::ALL.into_iter().filter(|state| *state != AllocationState::Free).collect::<Vec<_>>())
}

fn attributes() -> impl Strategy<Value = Arc<Attributes>> {
    proptest::collection::btree_map(attribute(), text(), 0..4).prop_map(Arc::new)
}

/// No kind and index twice.
fn devices() -> impl Strategy<Value = Vec<Device>> {
    vec(device(), 0..4).prop_map(|devices| {
        let mut seen = BTreeSet::new();
        devices.into_iter().filter(|device| seen.insert((device.kind.clone(), device.index))).collect()
    })
}

fn transition() -> impl Strategy<Value = Transition> {
    let state = prop_oneof![Just(AllocationState::Starting), Just(AllocationState::Running), reported()];
    let counts = (any::<bool>(), any::<i32>(), any::<u32>());
    (machine_id(), 1..u32::MAX, allocation_id(), state, counts, text()).prop_map(
        |(machine, epoch, allocation, state, (ready, exit_code, restarts), reason)| Transition {
            machine,
            epoch,
            allocation,
            state,
            ready,
            exit_code,
            restarts,
            reason,
        },
    )
}

fn identity() -> impl Strategy<Value = CellIdentity> {
    (any::<[u8; 16]>(), any::<u64>(), any::<u64>(), vec(attribute(), 0..=5)).prop_map(
        |(cell_id, incarnation, term, custom_resources)| CellIdentity { cell_id, incarnation, term, custom_resources },
    )
}

fn submit() -> impl Strategy<Value = Command> {
    (job_shape(), vec(any::<u8>(), 1..99), option::of(any::<u32>())).prop_map(|(shape, body, expected_version)| {
        let body_digest = *blake3::hash(&body).as_bytes();
        Command::SubmitJob { shape: Arc::new(shape), body: body.into(), body_digest, expected_version }
    })
}

fn register() -> impl Strategy<Value = Command> {
    let traces = option::of(traces().prop_map(Arc::new));
    let known = (allocation_id(), found(), any::<i32>(), text(), any::<u32>(), traces).prop_map(
        |(allocation, state, exit_code, reason, restarts, task)| Inventory {
            allocation,
            state,
            exit_code,
            reason,
            restarts,
            task,
        },
    );
    (name(), name(), resources(), attributes(), devices(), vec(known, 0..4), any::<u64>()).prop_map(
        |(name, boot_id, capacity, attributes, devices, inventory, seen)| {
            Command::RegisterMachine(FoundMachine {
                name,
                boot_id,
                capacity,
                attributes,
                devices,
                inventory,
                seen: Revision(seen),
            })
        },
    )
}

fn command() -> impl Strategy<Value = Command> {
    let commit = transaction().prop_map(|transaction| {
        let digest = plenum_proto::transaction::digest(&plenum_proto::transaction::encode(&transaction));
        Command::Commit(Box::new(transaction), digest)
    });
    prop_oneof![
        3 => commit,
        2 => submit(),
        2 => register(),
        1 => vec(transition(), 0..5).prop_map(Command::ReportStatus),
        1 => identity().prop_map(Command::OpenServer),
        4 => short_command(),
    ]
}

fn short_command() -> impl Strategy<Value = Command> {
    let scale = (job_id(), proptest::option::of(1..=u32::MAX), any::<u16>(), 0..=1_000_000u32);
    let hold = (any::<u64>(), job_id(), vec(any::<u32>(), 0..3), resources(), positive_time());
    prop_oneof![
        name().prop_map(|scheduler| Command::OpenSession { scheduler }),
        any::<u64>().prop_map(|session| Command::CloseSession(SessionId(session))),
        (job_id(), option::of(1..=u32::MAX)).prop_map(|(job, version)| Command::StopJob { job, version }),
        scale.prop_map(|(job, version, group, count)| Command::ScaleJob { job, version, group, count }),
        allocation_id().prop_map(Command::StopAllocation),
        (machine_id(), 1..u32::MAX).prop_map(|(machine, epoch)| Command::ExpireMachine { machine, epoch }),
        (
            machine_id(),
            1..u32::MAX,
            option::of(select(vec![Unfit::AgentLeaves, Unfit::StateUnwritable, Unfit::SetupFails]))
        )
            .prop_map(|(machine, epoch, unfit)| Command::ReportFitness { machine, epoch, unfit }),
        (machine_id(), any::<bool>()).prop_map(|(machine, cordoned)| Command::CordonMachine { machine, cordoned }),
        (machine_id(), option::of(positive_time()))
            .prop_map(|(machine, deadline)| Command::DrainMachine { machine, deadline }),
        (machine_id(), any::<bool>())
            .prop_map(|(machine, unless_alive)| Command::RemoveMachine { machine, unless_alive }),
        Just(Command::Tick),
        (job_id(), any::<i64>()).prop_map(|(parent, instant_micros)| Command::Launch { parent, instant_micros }),
        hold.prop_map(|(session, job, machines, resources, deadline)| Command::TakeHold {
            session: SessionId(session),
            job,
            machines,
            resources,
            deadline
        }),
        (name(), option::of(quota())).prop_map(|(namespace, limit)| Command::SetQuota { namespace, limit }),
        (name(), option::of(partition())).prop_map(|(name, partition)| Command::SetPartition { name, partition }),
        (machine_id(), allocation_id()).prop_map(|(machine, allocation)| Command::AdoptUnknown { machine, allocation }),
        (name(), any::<bool>()).prop_map(|(scheduler, paused)| Command::PauseScheduler { scheduler, paused }),
        (name(), option::of(any::<bool>()), option::of(1_u8..=100))
            .prop_map(|(scheduler, evicts, priority)| Command::SetRights { scheduler, evicts, priority }),
    ]
}

pub(crate) fn request() -> impl Strategy<Value = Request> {
    let namespace = prop_oneof![Just(Arc::default()), name()];
    (name(), namespace, command()).prop_map(|(principal, namespace, command)| Request { principal, namespace, command })
}

fn reason() -> impl Strategy<Value = RefusalReason> {
    use RefusalReason::*;
    let all = [
        NoRoom,
        TaskTaken,
        NotWanted,
        NoSuchMachine,
        MachineNotReady,
        Constraint,
        OtherMachine,
        NoSuchJob,
        JobVersion,
        ResourcesDiffer,
        MachineChanged,
        MinimumMissed,
        GuardFailed,
        DeviceTaken,
        PortTaken,
        SpreadLimit,
        PerMachineLimit,
        QuotaExceeded,
        NotPermitted,
        Predecessor,
        OtherScheduler,
        MayNotEvict,
    ];
    let of_the_wire = (1..).take_while(|&number| plenum_proto::v1::RefusalReason::try_from(number).is_ok());
    assert_eq!(all.len(), of_the_wire.count(), "a reason that is new has to be drawn, too");
    select(all.to_vec())
}

fn refusal() -> impl Strategy<Value = Refusal> {
    use RefusalKind::*;
    let kind = select(vec![Conflict, Misfit, Stale, Mate, Guard, Quota, Permission]);
    let culprit = (any::<u64>(), option::of(transaction_id()), text(), text(), amount(), option::of(allocation_id()))
        .prop_map(|(revision, transaction, scheduler, event, amount, allocation)| Culprit {
            revision: Revision(revision),
            transaction,
            scheduler,
            event,
            amount,
            allocation,
        });
    let of = prop_oneof![Just(JobId::default()), job_id()];
    let place = (option::of((any::<u32>(), 0..u32::MAX)), of, any::<u16>(), any::<u32>(), any::<u32>());
    let short = option::of((select(Resource::ALL.to_vec()), amount()));
    ((kind, reason()), place, short, (vec(culprit, 0..=4), option::of(not_wanted())), amount()).prop_map(
        |(why, place, short, (culprits, not_wanted), culprits_total)| Refusal {
            kind: why.0,
            reason: why.1,
            claim: place.0,
            job: place.1,
            group: place.2,
            task: place.3,
            machine: place.4,
            short,
            culprits,
            culprits_total,
            short_device: (culprits_total % 3 == 0).then(|| ("gpu".into(), culprits_total)),
            port: u16::try_from(culprits_total % 7).ok().filter(|&port| port > 0),
            not_wanted,
        },
    )
}

/// A job that is not over and a task that waits, is live or blocked are no cause, and have no word on the wire.
fn not_wanted() -> impl Strategy<Value = NotWanted> {
    prop_oneof![
        select(vec![JobState::Complete, JobState::Failed, JobState::Stopped]).prop_map(NotWanted::JobOver),
        any::<u16>().prop_map(NotWanted::After),
        time().prop_map(NotWanted::Backoff),
        select(vec![TaskState::Done, TaskState::Failed, TaskState::Cancelled]).prop_map(NotWanted::Task),
        select(vec![NotWanted::NoSuchTask, NotWanted::NoSuchGroup, NotWanted::Recurring]),
    ]
}

pub(crate) fn decision() -> impl Strategy<Value = Decision> {
    let outcome = select(vec![TransactionOutcome::Committed, TransactionOutcome::Partial, TransactionOutcome::Refused]);
    let claims = vec(vec(option::of(allocation_id()), 0..4), 0..3);
    let answer = (
        transaction_id(),
        any::<u64>(),
        time(),
        outcome,
        claims,
        vec(refusal(), 0..3),
        [vec(any::<u32>(), 0..3), vec(any::<u32>(), 0..3)],
        (ports(), vec(any::<u32>(), 0..3), vec(allocation_id(), 0..3)),
    );
    let answer =
        answer.prop_map(|(id, revision, time, outcome, placements, refusals, [idle_stops, divergences], beside)| {
            // Neither is anywhere but in a placement.
            let (ports, elsewhere, evicted) = beside;
            let (ports, elsewhere) = if placements.is_empty() { Default::default() } else { (ports, elsewhere) };
            let elsewhere = (0..).zip(elsewhere);
            Outcome {
                ports: if placements.is_empty() {
                    vec![]
                } else {
                    vec![GrantedPorts { placement: 0, claim: 0, ports }]
                },
                elsewhere: elsewhere
                    .map(|(claim, machine)| GrantedElsewhere { placement: 0, claim, machine })
                    .collect(),
                evicted,
                divergences,
                id,
                revision: Revision(revision),
                time,
                outcome,
                placements,
                refusals,
                idle_stops,
            }
        });
    prop_oneof![
        2 => answer.prop_map(|outcome| Decision::Outcome(Box::new(outcome))),
        1 => any::<(u64, u32)>().prop_map(|(id, version)| Decision::Accepted { id, version }),
        1 => (select(RejectionCode::ALL.to_vec()), "\\PC{0,20}").prop_map(|(code, message)| Decision::Rejected(Rejection::new(code, message))),
    ]
}

fn machine() -> impl Strategy<Value = Arc<Machine>> {
    use MachineState::{Cordoned, Draining, Gone, Ready, Unreachable};
    let state = select(vec![Ready, Cordoned, Draining, Unreachable, Gone]);
    let unfit = [None, Some(Unfit::AgentLeaves), Some(Unfit::StateUnwritable), Some(Unfit::SetupFails)];
    let times = (time(), option::of(positive_time()), time(), any::<u64>());
    (machine_id(), name(), state, (1..u32::MAX, resources()), (attributes(), devices(), text()), times).prop_map(
        move |(id, name, state, (epoch, capacity), (attributes, devices, boot_id), times)| {
            Arc::new(Machine {
                id,
                name,
                state,
                epoch,
                capacity: Arc::new(capacity),
                attributes,
                devices: devices.into(),
                boot_id: boot_id.as_ref().into(),
                since: times.0,
                drain_deadline: times.1.and_then(Deadline::new),
                registered: times.2,
                epoch_began: Revision(times.3),
                cordoned: times.3 % 2 == 1,
                unfit: unfit[(times.3 / 2 % 4) as usize],
            })
        },
    )
}

fn job_state() -> impl Strategy<Value = JobState> {
    select(vec![JobState::Waiting, JobState::Running, JobState::Complete, JobState::Failed, JobState::Stopped])
}

fn job_change() -> impl Strategy<Value = JobChange> {
    let body = option::of(vec(any::<u8>(), 1..50));
    let rows = (slot(), vec(slot(), 0..4), option::of(slot()));
    let put = (job_id(), any::<u32>(), job_shape(), body, (time(), job_state(), time(), text()), rows);
    let put = put.prop_map(|(id, version, shape, body, stands, (group_base, task_bases, home))| JobChange::Put {
        job: Arc::new(Job {
            id,
            version,
            shape: Arc::new(shape),
            body_digest: *blake3::hash(body.as_deref().unwrap_or_default()).as_bytes(),
            body: body.map(Arc::from),
            submitted: stands.0,
            state: stands.1,
            state_since: stands.2,
            reason: stands.3,
            group_base,
            home,
            last_instant_micros: home.map(i64::from),
        }),
        task_bases,
    });
    prop_oneof![
        put,
        (job_id(), job_state(), text()).prop_map(|(id, state, reason)| JobChange::State { id, state, reason }),
        (slot(), 0..=1_000_000u32, time(), slot()).prop_map(|(row, count, not_before, task_base)| JobChange::Group {
            row,
            count,
            not_before,
            task_base
        }),
        job_id().prop_map(JobChange::Removed),
        (job_id(), option::of(slot())).prop_map(|(id, machine)| JobChange::Home { id, machine }),
        (job_id(), any::<i64>()).prop_map(|(id, instant_micros)| JobChange::Launched { id, instant_micros }),
    ]
}

fn grants() -> impl Strategy<Value = Grants> {
    let columns = vec((any::<u32>(), any::<u32>(), slot(), generation()), 1..6);
    let of = (job_id(), any::<u16>(), slot(), any::<(u32, u32, u16, u64, u32)>());
    let extra = (any::<prop::sample::Index>(), vec(device(), 0..2), ports(), vec(take_over(), 0..2));
    (columns, of, vec(extra, 0..2)).prop_map(|(columns, of, extras)| Grants {
        job: of.0,
        group: of.1,
        group_row: of.2,
        job_version: of.3.0,
        shape: of.3.1,
        scheduler: of.3.2,
        session: SessionId(of.3.3),
        number: of.3.4,
        machines: columns.iter().map(|row| row.0).collect(),
        tasks: columns.iter().map(|row| row.1).collect(),
        slots: columns.iter().map(|row| row.2).collect(),
        generations: columns.iter().map(|row| row.3).collect(),
        extras: extras
            .into_iter()
            .map(|(claim, devices, ports, takes_over)| {
                let claim = u32::try_from(claim.index(columns.len())).unwrap();
                GrantExtra { claim, devices, ports, takes_over }
            })
            .collect(),
    })
}

fn move_one() -> impl Strategy<Value = Move> {
    let live = select(AllocationState::ALL.into_iter().filter(|state| state.is_live()).collect::<Vec<_>>());
    (slot(), live, any::<bool>(), prop_oneof![Just(0), any::<u32>()], option::of(text())).prop_map(
        |(slot, state, ready, restarts, reason)| Move {
            slot,
            status: AllocationStatus { state, ready },
            restarts,
            reason,
        },
    )
}

fn end() -> impl Strategy<Value = End> {
    (slot(), reported(), any::<i32>(), option::of(text())).prop_map(|(slot, state, exit_code, reason)| End {
        slot,
        state,
        exit_code,
        reason,
    })
}

fn task_change() -> impl Strategy<Value = TaskChange> {
    let state = (0..6u32).prop_map(|number| TaskState::from_number(number).unwrap());
    (0..3u32, slot(), state, any::<u8>()).prop_map(|(group_row, task, state, failures)| TaskChange {
        group_row,
        task,
        state,
        failures,
    })
}

fn session_change() -> impl Strategy<Value = SessionChange> {
    let namespace = prop_oneof![Just(Arc::default()), name()];
    prop_oneof![
        (name(), name(), namespace).prop_map(|(scheduler, principal, namespace)| SessionChange::Opened {
            scheduler,
            principal,
            namespace
        }),
        any::<u64>().prop_map(|session| SessionChange::Closed(SessionId(session))),
        any::<(u64, u64, u64)>().prop_map(|(session, number, digest)| SessionChange::Number {
            session: SessionId(session),
            number,
            digest
        }),
    ]
}

/// Any delta that can be written; it need not fold.
pub(crate) fn delta() -> impl Strategy<Value = Delta> {
    let again = (vec((any::<u32>(), resources()), 0..2), vec((any::<u16>(), name()), 0..2));
    let header = (any::<u64>(), time(), option::of(identity()), vec(name(), 0..2), vec(resources(), 0..2), again);
    let rows = (vec(machine(), 0..2), vec(job_change(), 0..3), vec(grants(), 0..3));
    let small = (vec(move_one(), 0..5), vec(end(), 0..5), vec(task_change(), 0..5), vec(session_change(), 0..3));
    let governance = (
        vec((name(), option::of(quota())), 0..2),
        vec((job_id(), option::of(hold())), 0..2),
        vec((name(), option::of(partition())), 0..2),
        vec(unknown(), 0..2),
        vec((name(), any::<bool>()), 0..2),
        vec((name(), (any::<bool>(), 1_u8..=100).prop_map(|(evicts, priority)| Rights { evicts, priority })), 0..2),
    );
    (header, rows, small, governance).prop_map(|(header, rows, small, governance)| Delta {
        quotas: governance.0,
        holds: governance.1,
        partitions: governance.2,
        unknown: governance.3,
        paused: governance.4,
        rights: governance.5,
        revision: Revision(header.0),
        time: header.1,
        cell: header.2,
        scheduler_names: header.3,
        shapes: header.4,
        reshaped: header.5.0,
        renamed: header.5.1,
        machines: rows.0,
        jobs: one_body_a_job(rows.1),
        grants: rows.2,
        moves: small.0,
        ends: small.1,
        tasks: small.2,
        sessions: small.3,
    })
}

/// A command puts a job once.
fn one_body_a_job(changes: Vec<JobChange>) -> Vec<JobChange> {
    let mut put: BTreeMap<JobId, ()> = BTreeMap::new();
    let first = |change: &JobChange| match change {
        JobChange::Put { job, .. } => put.insert(job.id, ()).is_none(),
        _ => true,
    };
    changes.into_iter().filter(first).collect()
}
