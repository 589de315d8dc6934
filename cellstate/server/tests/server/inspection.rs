//! What people see, now and as it was; and what they are told when there is no room.

use plenum_proto::v1;
use plenum_server::Server;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tonic::Code;
use tonic::transport::Channel;

use crate::client::{Session, code, connect, eventually, job, options, placement, register, start, submit};
use crate::stalled::shows;

#[tokio::test]
async fn a_lost_race_is_listed_with_who_won_it() {
    let dir = tempfile::tempdir().unwrap();
    let server = start(dir.path()).await;
    let channel = connect(&server).await;
    register(&channel, "m1", 1000).await;
    let (one, other) = (submit(&channel, job("one", 1)).await.job, submit(&channel, job("other", 1)).await.job);
    let mut winner = Session::open(&channel, "batch").await.unwrap();
    let mut loser = Session::open(&channel, "batch").await.unwrap();
    winner.reach(loser.cell.revision().0).await;
    let wins = winner.transaction(1, vec![placement(one, vec![0], vec![0])]);
    let loses = loser.transaction(1, vec![placement(other, vec![0], vec![0])]);
    assert_eq!(winner.commit(wins).await.unwrap().granted, 1);
    let lost = loser.commit(loses).await.unwrap();
    assert_eq!((lost.granted, lost.refusals[0].kind()), (0, v1::RefusalKind::Conflict));

    let mut inspect = v1::inspect_client::InspectClient::new(channel.clone());
    let list = inspect.list_transactions(v1::ListTransactionsRequest::default()).await.unwrap().into_inner();
    assert_eq!(list.transactions.len(), 2);
    assert_eq!(list.transactions[0].outcome.as_ref().unwrap().session, lost.session);
    assert_eq!(list.transactions[0].scheduler, "batch");
    let refused = v1::ListTransactionsRequest { refused: true, ..Default::default() };
    assert_eq!(inspect.list_transactions(refused).await.unwrap().into_inner().transactions.len(), 1);

    let get = v1::GetTransactionRequest { session: lost.session, number: 1 };
    let view = inspect.get_transaction(get).await.unwrap().into_inner();
    assert_eq!(view.machine_names[&0], "m1");
    assert_eq!(view.job_names[&other], "default/other");
    assert_eq!(view.transaction.unwrap().placements[0].tasks, [0]);
    let never = v1::GetTransactionRequest { session: lost.session, number: 9 };
    assert_eq!(code(&inspect.get_transaction(never).await.unwrap_err()), "NO_SUCH_TRANSACTION");

    let by = v1::ListConflictsRequest { by: "machine".into(), ..Default::default() };
    let rows = inspect.list_conflicts(by).await.unwrap().into_inner().rows;
    assert_eq!((rows.len(), rows[0].machine.as_str(), rows[0].claims), (1, "m1", 1));
    let filtered = async |filter: &str| {
        let request = v1::ListConflictsRequest { filter: filter.to_owned(), ..Default::default() };
        let answer = inspect.clone().list_conflicts(request).await;
        answer.map(|answer| answer.into_inner().rows.len()).map_err(|status| status.message().to_owned())
    };
    let of_it = "loser=batch,winner=batch,machine=m1,job=default/other,namespace=default,job=other,resource=cpu_millis";
    assert_eq!(filtered(of_it).await, Ok(1));
    for term in of_it.split(',') {
        assert_eq!(filtered(&term.replace('=', "!=")).await, Ok(0), "{term}");
    }
    assert!(filtered("resource=gpu").await.unwrap_err().contains("custom_5, nothing, found"));
    assert!(filtered("task=1").await.unwrap_err().contains("expected one of loser, winner, machine, job, namespace, "));
    let mut of_namespace = async |namespace: &str| {
        let request = v1::ListConflictsRequest { namespace: namespace.to_owned(), ..Default::default() };
        inspect.list_conflicts(request).await.unwrap().into_inner().rows.len()
    };
    assert_eq!((of_namespace("default").await, of_namespace("ml").await), (1, 0));
    let status = inspect.status(v1::StatusRequest {}).await.unwrap().into_inner();
    assert_eq!((status.transactions, status.conflicts, status.machines["ready"]), (2, 1, 1));
    assert_eq!(status.allocated.unwrap().cpu_millis, 1000);
    server.shutdown().await.unwrap();
}

// A machine told which GPUs it has, and nowhere how much of them was taken.
#[tokio::test]
async fn a_machine_tells_how_much_of_each_of_its_devices_is_in_use() {
    let dir = tempfile::tempdir().unwrap();
    let server = start(dir.path()).await;
    let channel = connect(&server).await;
    let gpu = |index, millis| v1::Device { kind: "gpu".into(), index, millis, model: String::new() };
    let machine = v1::RegisterMachine {
        name: "m1".to_owned(),
        boot_id: "boot-1".to_owned(),
        capacity: Some(v1::Resources { cpu_millis: 4000, memory_bytes: 1 << 30, ..Default::default() }),
        devices: (0..3).map(|index| gpu(index, 1000)).collect(),
        ..Default::default()
    };
    let request = v1::RegisterRequest { machine: Some(machine), ..Default::default() };
    v1::agents_client::AgentsClient::new(channel.clone()).register(request).await.unwrap();
    let mut spec = job("train", 1);
    spec.shape.as_mut().unwrap().groups[0].devices = vec![gpu(0, 1000), gpu(0, 250)];
    let train = submit(&channel, spec).await.job;
    let mut inspect = v1::inspect_client::InspectClient::new(channel.clone());
    let mut used = async |at| {
        let request = v1::GetMachineRequest { name: "m1".into(), at };
        inspect.get_machine(request).await.unwrap().into_inner().machine.unwrap().devices_used_millis
    };
    assert_eq!(used(None).await, [0, 0, 0]);
    let mut session = Session::open(&channel, "batch").await.unwrap();
    let before = session.cell.revision().0;
    let placed = session.transaction(1, vec![placement(train, vec![0], vec![0])]);
    assert_eq!(session.commit(placed).await.unwrap().granted, 1);
    assert_eq!(used(None).await, [1000, 250, 0]);
    assert_eq!(used(Some(v1::At { revision: before, time_micros: 0 })).await, [0, 0, 0], "as it was then");
    server.shutdown().await.unwrap();
}

/// They were listed as if all of them were of the namespace that was asked for.
#[tokio::test]
async fn transactions_of_a_namespace_are_those_that_claim_for_its_jobs() {
    let dir = tempfile::tempdir().unwrap();
    let server = start(dir.path()).await;
    let channel = connect(&server).await;
    register(&channel, "m1", 4000).await;
    let mut train = job("train", 1);
    train.shape.as_mut().unwrap().namespace = "ml".to_owned();
    let jobs = [submit(&channel, job("crunch", 1)).await.job, submit(&channel, train).await.job];
    let mut session = Session::open(&channel, "batch").await.unwrap();
    for (number, job) in (1..).zip(jobs) {
        let transaction = session.transaction(number, vec![placement(job, vec![0], vec![0])]);
        assert_eq!(session.commit(transaction).await.unwrap().granted, 1);
    }
    session.commit(session.transaction(3, Vec::new())).await.unwrap();
    let mut inspect = v1::inspect_client::InspectClient::new(channel.clone());
    let mut numbers = async |namespace: &str| {
        let list = Some(v1::ListRequest { namespace: namespace.to_owned(), ..Default::default() });
        let request = v1::ListTransactionsRequest { list, oldest_first: true, ..Default::default() };
        let listed = inspect.list_transactions(request).await.unwrap().into_inner().transactions;
        listed.iter().map(|view| view.outcome.as_ref().unwrap().number).collect::<Vec<_>>()
    };
    assert_eq!(numbers("").await, [1, 2, 3]);
    assert_eq!((numbers("default").await, numbers("ml").await), (vec![1], vec![2]));
    assert_eq!(numbers("nobody").await, [0; 0]);
    server.shutdown().await.unwrap();
}

/// Decides an empty transaction, and then fills more of the log than a listing reads at once.
async fn bury_a_transaction(channel: &Channel) -> u64 {
    let mut session = Session::open(channel, "batch").await.unwrap();
    let buried = session.commit(session.transaction(1, Vec::new())).await.unwrap().revision;
    let submitting = (0..600).map(|number| {
        let mut large = job(&format!("large-{number}"), 1);
        large.body.as_mut().unwrap().groups[0].command.push("x".repeat(60_000));
        let channel = channel.clone();
        tokio::spawn(async move { submit(&channel, large).await })
    });
    for submitted in submitting.collect::<Vec<_>>() {
        submitted.await.unwrap();
    }
    buried
}

#[tokio::test]
async fn however_many_rows_are_asked_for_a_server_lists_no_more_than_it_is_set_to() {
    let dir = tempfile::tempdir().unwrap();
    let mut brief = options(dir.path());
    brief.settings.listing_rows = 1;
    let server = Server::start(brief).await.unwrap();
    let channel = connect(&server).await;
    submit(&channel, job("one", 1)).await;
    submit(&channel, job("two", 1)).await;
    let mut jobs = v1::jobs_client::JobsClient::new(channel);
    for limit in [0, u32::MAX] {
        let listed = jobs.list(v1::ListRequest { limit, ..Default::default() }).await.unwrap().into_inner();
        assert_eq!((listed.jobs.len(), listed.truncated), (1, true), "{limit}");
    }
    server.shutdown().await.unwrap();
}

// The answer was empty, and nothing said from where on there was more.
#[tokio::test]
async fn a_listing_that_reads_no_further_says_where_the_rest_begins() {
    let dir = tempfile::tempdir().unwrap();
    let server = start(dir.path()).await;
    let channel = connect(&server).await;
    let buried = bury_a_transaction(&channel).await;
    let mut inspect = v1::inspect_client::InspectClient::new(channel.clone());
    let mut ask = async |request| inspect.list_transactions(request).await.unwrap().into_inner();
    let cut = ask(v1::ListTransactionsRequest::default()).await;
    assert!(cut.transactions.is_empty() && cut.truncated && cut.resume_revision > buried, "{cut:?}");
    let at = Some(v1::At { revision: cut.resume_revision, time_micros: 0 });
    let list = Some(v1::ListRequest { at, ..Default::default() });
    let rest = ask(v1::ListTransactionsRequest { list, ..Default::default() }).await;
    assert_eq!((rest.transactions.len(), rest.truncated, rest.resume_revision), (1, false, 0));

    let oldest = v1::ListTransactionsRequest { oldest_first: true, ..Default::default() };
    let cut = ask(oldest.clone()).await;
    assert_eq!((cut.transactions.len(), cut.truncated), (1, true));
    let rest = v1::ListTransactionsRequest { after_revision: cut.resume_revision - 1, ..oldest };
    assert!(!ask(rest).await.truncated);
    server.shutdown().await.unwrap();
}

#[tokio::test]
async fn a_refusal_that_could_be_seen_at_the_base_is_counted_as_a_divergence_and_a_lost_race_is_not() {
    let dir = tempfile::tempdir().unwrap();
    let server = start(dir.path()).await;
    let channel = connect(&server).await;
    register(&channel, "m1", 2000).await;
    let (one, other) = (submit(&channel, job("one", 2)).await.job, submit(&channel, job("other", 1)).await.job);
    let mut session = Session::open(&channel, "batch").await.unwrap();
    let base = session.cell.revision().0;
    let fills = session.transaction(1, vec![placement(one, vec![0, 0], vec![0, 1])]);
    assert_eq!(session.commit(fills).await.unwrap().granted, 2);
    let old = session.transaction(2, vec![placement(other, vec![0], vec![0])]);
    let raced = session.commit(v1::Transaction { base_revision: base, ..old }).await.unwrap();
    assert_eq!((raced.refusals[0].kind(), raced.divergences), (v1::RefusalKind::Conflict, Vec::new()));
    let full = session.transaction(3, vec![placement(other, vec![0], vec![0])]);
    let divergent = session.commit(full).await.unwrap();
    assert_eq!((divergent.refusals[0].kind(), divergent.divergences), (v1::RefusalKind::Misfit, vec![0]));
    shows(&server, "plenum_divergences_total 1").await;
    let get = v1::GetTransactionRequest { session: divergent.session, number: 3 };
    let kept = v1::inspect_client::InspectClient::new(channel).get_transaction(get).await.unwrap().into_inner();
    assert_eq!(kept.outcome.unwrap().divergences, [0], "it can be looked at later");
    server.shutdown().await.unwrap();
}

#[tokio::test]
async fn the_past_is_shown_as_it_was_also_after_a_restart() {
    let dir = tempfile::tempdir().unwrap();
    let server = start(dir.path()).await;
    let channel = connect(&server).await;
    let first = register(&channel, "m1", 1000).await.revision;
    register(&channel, "m2", 1000).await;
    submit(&channel, job("crunch", 1)).await;
    drop(channel);
    server.shutdown().await.unwrap();

    let server = start(dir.path()).await;
    let channel = connect(&server).await;
    register(&channel, "m3", 1000).await;
    let mut inspect = v1::inspect_client::InspectClient::new(channel.clone());
    let at = |revision| v1::ListRequest { at: Some(v1::At { revision, time_micros: 0 }), ..Default::default() };
    let then = inspect.list_machines(at(first)).await.unwrap().into_inner();
    assert_eq!((then.revision, then.machines.len()), (first, 1));
    assert_eq!(inspect.list_machines(at(first + 1)).await.unwrap().into_inner().machines.len(), 2);
    let now = inspect.list_machines(v1::ListRequest::default()).await.unwrap().into_inner();
    assert_eq!(now.machines.len(), 3);
    assert_eq!(code(&inspect.list_machines(at(9999)).await.unwrap_err()), "NO_SUCH_REVISION");
    let status = inspect.status(v1::StatusRequest {}).await.unwrap().into_inner();
    let at_time = |time_micros| v1::ListRequest { at: Some(v1::At { revision: 0, time_micros }), ..Default::default() };
    let last = inspect.list_machines(at_time(status.time_micros)).await.unwrap().into_inner();
    assert_eq!(last.revision, now.revision);
    // Of both the earlier one counts; the time had been passed over in silence.
    for (revision, expected) in [(9999, now.revision), (first, first)] {
        let at = Some(v1::At { revision, time_micros: status.time_micros });
        let both = v1::ListRequest { at, ..Default::default() };
        assert_eq!(inspect.list_machines(both).await.unwrap().into_inner().revision, expected);
    }
    // It was answered with the present.
    let future = inspect.list_machines(at_time(status.time_micros + 3600 * 1_000_000)).await.unwrap_err();
    assert_eq!(code(&future), "NO_SUCH_REVISION");
    assert!(future.message().starts_with("expected a time up to now, found one that is yet to come: in 3"), "{future}");
    let mut jobs = v1::jobs_client::JobsClient::new(channel.clone());
    assert!(jobs.list(at(first)).await.unwrap().into_inner().jobs.is_empty());
    assert_eq!(jobs.list(v1::ListRequest::default()).await.unwrap().into_inner().jobs.len(), 1);
    server.shutdown().await.unwrap();

    let report = plenum_server::verify(dir.path()).unwrap();
    assert!(report.is_sound(), "{:?}", report.violations);
    assert_eq!((report.from_revision, report.to_revision), (0, now.revision));
    assert_eq!(report.decided_again, report.folded);
}

#[tokio::test]
async fn a_job_that_waits_says_why() {
    let dir = tempfile::tempdir().unwrap();
    let server = start(dir.path()).await;
    let channel = connect(&server).await;
    let v1::SubmitResponse { job: crunch, revision: submitted, .. } = submit(&channel, job("crunch", 2)).await;
    let mut jobs = v1::jobs_client::JobsClient::new(channel.clone());
    let get = || v1::GetJobRequest { namespace: String::new(), name: "crunch".into(), at: None };
    let view = jobs.get(get()).await.unwrap().into_inner().job.unwrap();
    assert_eq!(view.waiting_reason, "work: 2 waiting: no scheduler batch is connected; start one");
    let session = Session::open(&channel, "batch").await.unwrap();
    let note = v1::PassedOverNote {
        job: crunch,
        group: 0,
        tasks: 2,
        reason: "no machine".into(),
        revision: 3,
        ..Default::default()
    };
    let notes = v1::PassedOver { notes: vec![note] };
    let ask = v1::session_request::Ask::PassedOver(notes);
    session.asks.send(v1::SessionRequest { ask: Some(ask) }).await.unwrap();
    for _ in 0..100 {
        let view = jobs.get(get()).await.unwrap().into_inner().job.unwrap();
        if view.waiting_reason == "work: 2 waiting: no machine (at revision 3)" {
            // What a scheduler says now is nothing of the past, of which it is known whether one was there at all.
            let now = jobs.get(get()).await.unwrap().into_inner().revision;
            let nobody = "work: 2 waiting: no scheduler batch had a session";
            let unsaid = "work: 2 waiting: scheduler batch had not placed them; why is kept of the present only";
            for (revision, expected) in [(submitted, nobody), (now, unsaid)] {
                let at = Some(v1::At { revision, time_micros: 0 });
                let then = jobs.get(v1::GetJobRequest { at, ..get() }).await.unwrap().into_inner().job.unwrap();
                assert_eq!(then.waiting_reason, expected);
                let then = jobs.list(v1::ListRequest { at, ..Default::default() }).await.unwrap().into_inner();
                assert_eq!(then.jobs[0].waiting_reason, expected);
            }
            // What is said too late, of a version that the job does not have, is let go of.
            let other = v1::PassedOverNote {
                job: crunch,
                tasks: 2,
                reason: "too late".into(),
                job_version: 7,
                ..Default::default()
            };
            let this = v1::PassedOverNote { reason: "no machine".into(), revision: 3, job_version: 1, ..other.clone() };
            let ask = v1::session_request::Ask::PassedOver(v1::PassedOver { notes: vec![this, other] });
            session.asks.send(v1::SessionRequest { ask: Some(ask) }).await.unwrap();
            tokio::time::sleep(std::time::Duration::from_millis(100)).await;
            let view = jobs.get(get()).await.unwrap().into_inner().job.unwrap();
            assert_eq!(view.waiting_reason, "work: 2 waiting: no machine (at revision 3)");
            let reason = async || jobs.clone().get(get()).await.unwrap().into_inner().job.unwrap().waiting_reason;
            drop(session);
            let gone =
                "work: 2 waiting: no scheduler batch is connected; start one (it said at revision 3: no machine)";
            while reason().await != gone {
                assert_eq!(reason().await.find("work: 2 waiting: no"), Some(0));
                tokio::time::sleep(std::time::Duration::from_millis(10)).await;
            }
            // What was said of an earlier life of the job says nothing of this one.
            let stop = v1::StopRequest { name: "crunch".into(), ..Default::default() };
            jobs.clone().stop(stop).await.unwrap();
            submit(&channel, job("crunch", 2)).await;
            assert_eq!(reason().await, "work: 2 waiting: no scheduler batch is connected; start one");
            server.shutdown().await.unwrap();
            return;
        }
        tokio::time::sleep(std::time::Duration::from_millis(10)).await;
    }
    panic!("the scheduler's note never showed");
}

// It told how much of the quota was used; those who added up the allocations of the namespace found less, and took it for a mistake.
#[tokio::test]
async fn a_job_that_waits_for_its_quota_is_told_what_allocations_and_what_holds_use_of_it() {
    let dir = tempfile::tempdir().unwrap();
    let server = start(dir.path()).await;
    let channel = connect(&server).await;
    register(&channel, "m1", 8000).await;
    let (runs, gang, waits) = (job("runs", 1), job("gang", 1), job("waits", 1));
    let runs = submit(&channel, runs).await.job;
    let (gang, waits) = (submit(&channel, gang).await.job, submit(&channel, waits).await.job);
    let mut session = Session::open(&channel, "batch").await.unwrap();
    let placed = session.transaction(1, vec![placement(runs, vec![0], vec![0])]);
    assert_eq!(session.commit(placed).await.unwrap().granted, 1);
    let limit = Some(v1::Quota { cpu_millis: Some(3000), ..Default::default() });
    let mut govern = v1::govern_client::GovernClient::new(channel.clone());
    govern.set_quota(v1::SetQuota { namespace: "default".to_owned(), limit }).await.unwrap();
    let take = async |job, cpu_millis| {
        let hold = v1::TakeHoldRequest {
            job,
            machines: vec![0],
            resources: Some(v1::Resources { cpu_millis, ..Default::default() }),
            within_micros: 60_000_000,
            ..Default::default()
        };
        v1::cell_client::CellClient::new(channel.clone()).take_hold(hold).await.unwrap();
    };
    let reason = async || {
        let get = v1::GetJobRequest { namespace: String::new(), name: "waits".into(), at: None };
        let answer = v1::jobs_client::JobsClient::new(channel.clone()).get(get).await.unwrap();
        answer.into_inner().job.unwrap().waiting_reason
    };
    take(gang, 1500).await;
    let both = "work: 1 waiting: the quota of default is short of cpu by 500m for one more: 2500m of 3000m are used, 1000m by \
                allocations and 1500m by holds; `plenum hold list --namespace default` tells for whom";
    assert_eq!(reason().await, both);
    // Its own hold is room for it, and the list of quotas has all of the quota used.
    take(waits, 500).await;
    let beside = both.replace("are used,", "are used beside 500m that it holds itself,");
    assert_eq!(reason().await, beside);
    server.shutdown().await.unwrap();
}

// It said that it was short of a core for one more, or nothing but that it had been refused.
#[tokio::test]
async fn a_gang_that_its_quota_can_never_have_says_so() {
    let dir = tempfile::tempdir().unwrap();
    let server = start(dir.path()).await;
    let channel = connect(&server).await;
    let mut gang = job("gang", 4);
    let group = &mut gang.shape.as_mut().unwrap().groups[0];
    group.min = 3;
    group.resources = Some(v1::Resources { cpu_millis: 500, memory_bytes: 1 << 20, ..Default::default() });
    let gang = submit(&channel, gang).await.job;
    let mut govern = v1::govern_client::GovernClient::new(channel.clone());
    let mut reason = async |cpu_millis| {
        let limit = Some(v1::Quota { cpu_millis: Some(cpu_millis), ..Default::default() });
        govern.set_quota(v1::SetQuota { namespace: "default".to_owned(), limit }).await.unwrap();
        let get = v1::GetJobRequest { namespace: String::new(), name: "gang".into(), at: None };
        let mut jobs = v1::jobs_client::JobsClient::new(channel.clone());
        jobs.get(get).await.unwrap().into_inner().job.unwrap().waiting_reason
    };
    let never = "work: 4 waiting: the quota of default is short of cpu by 500m for the 3 that it starts with, \
                 which is more than it has in all: 0m of 1000m are used";
    assert_eq!(reason(1000).await, never);
    // Its own hold is room for it, and no use of the quota.
    let mut cell = v1::cell_client::CellClient::new(channel.clone());
    register(&channel, "m1", 4000).await;
    let open = v1::OpenRequest { scheduler: "batch".into(), namespace: "default".into() };
    let session = cell.open(open).await.unwrap().into_inner().session;
    reason(1500).await;
    let hold = v1::TakeHoldRequest {
        session,
        job: gang,
        machines: vec![0],
        resources: Some(v1::Resources { cpu_millis: 1000, ..Default::default() }),
        within_micros: 60_000_000,
        incarnation: 0,
    };
    cell.take_hold(hold).await.unwrap();
    assert_eq!(
        reason(1500).await,
        "work: 4 waiting: scheduler batch has not placed them yet, and has not said why; \
         `plenum txn list --refused --scheduler batch` lists what it was refused"
    );
    server.shutdown().await.unwrap();
}

// The totals were counted in a table that had no place for what is being evicted: the whole status was empty meanwhile.
#[tokio::test]
async fn what_is_being_evicted_is_counted_and_listed_as_stopping() {
    let dir = tempfile::tempdir().unwrap();
    let server = start(dir.path()).await;
    let channel = connect(&server).await;
    register(&channel, "m1", 2000).await;
    register(&channel, "m2", 2000).await;
    let low = submit(&channel, job("low", 3)).await.job;
    let mut important = job("important", 1);
    important.shape.as_mut().unwrap().priority = 90;
    let important = submit(&channel, important).await.job;
    let mut session = Session::open(&channel, "batch").await.unwrap();
    let fills = session.transaction(1, vec![placement(low, vec![0, 0, 1], vec![0, 1, 2])]);
    let victim = session.commit(fills).await.unwrap().placements[0].allocations[0];
    let preemptions = vec![v1::Preemption { machine: 0, victim }];
    let evicts = v1::Placement { preemptions, ..placement(important, vec![0], vec![0]) };
    let evicts = session.transaction(2, vec![evicts]);
    assert_eq!(session.commit(evicts).await.unwrap().granted, 1);

    let mut inspect = v1::inspect_client::InspectClient::new(channel.clone());
    let status = inspect.status(v1::StatusRequest {}).await.unwrap().into_inner();
    assert_eq!((status.allocations["granted"], status.allocations["stopping"], status.machines["ready"]), (3, 1, 2));
    let mut jobs = v1::jobs_client::JobsClient::new(channel.clone());
    let get = v1::GetJobRequest { namespace: String::new(), name: "low".into(), at: None };
    let got = jobs.get(get).await.unwrap().into_inner().job.unwrap().groups.remove(0);
    assert_eq!((got.granted, got.stopping, got.lost, got.waiting, got.attempts), (2, 1, 0, 1, 3));
    let listed = jobs.list(v1::ListRequest::default()).await.unwrap().into_inner().jobs;
    assert_eq!((&listed[0].groups[0], listed[1].groups[0].granted), (&got, 1));

    let list = |job: &str, machine: &str, filter: &str, limit| {
        let (job, machine) = (job.to_owned(), machine.to_owned());
        let list = v1::ListRequest { filter: filter.to_owned(), limit, ..Default::default() };
        let asked = v1::ListAllocationsRequest { list: Some(list), job, machine, ..Default::default() };
        let mut jobs = jobs.clone();
        async move {
            let listed = jobs.list_allocations(asked).await.unwrap().into_inner();
            (listed.allocations.into_iter().map(|row| row.task).collect::<Vec<_>>(), listed.truncated)
        }
    };
    assert_eq!(list("low", "", "", 0).await, (vec![0, 1, 2], false));
    assert_eq!(list("low", "", "", 2).await, (vec![0, 1], true));
    assert_eq!(list("low", "m1", "", 0).await, (vec![0, 1], false));
    assert_eq!(list("low", "", "state=stopping", 0).await, (vec![0], false));
    assert_eq!(list("", "", "job=low,task_index!=0,group=work,scheduler=batch", 0).await, (vec![1, 2], false));
    assert_eq!(list("", "m1", "attempt=1,ready=false,namespace=default", 0).await, (vec![0, 1, 0], false));
    for (job, machine) in [("none", ""), ("", "none"), ("important", "m2")] {
        assert_eq!(list(job, machine, "", 0).await, (Vec::new(), false));
    }
    server.shutdown().await.unwrap();
}

#[tokio::test]
async fn a_cell_without_room_is_read_only_and_reads_go_on() {
    let dir = tempfile::tempdir().unwrap();
    let before = start(dir.path()).await;
    let channel = connect(&before).await;
    submit(&channel, job("waits", 1)).await;
    let open = v1::OpenRequest { scheduler: "other".into(), namespace: "default".into() };
    let other = v1::cell_client::CellClient::new(channel).open(open).await.unwrap().into_inner();
    before.shutdown().await.unwrap();
    let mut tight = options(dir.path());
    tight.settings.reserve_bytes = Some(u64::MAX);
    let server = plenum_server::Server::start(tight).await.unwrap();
    let channel = connect(&server).await;
    let mut inspect = v1::inspect_client::InspectClient::new(channel.clone());
    for _ in 0..300 {
        if !inspect.status(v1::StatusRequest {}).await.unwrap().into_inner().read_only.is_empty() {
            break;
        }
        tokio::time::sleep(std::time::Duration::from_millis(10)).await;
    }
    let mut jobs = v1::jobs_client::JobsClient::new(channel.clone());
    let refused = jobs.submit(v1::SubmitRequest { spec: Some(job("x", 1)), ..Default::default() }).await.unwrap_err();
    assert_eq!((refused.code(), code(&refused).as_str()), (Code::ResourceExhausted, "READ_ONLY"));
    let path = dir.path().join("log").display().to_string();
    assert!(refused.message().contains(&path) && refused.message().contains("B free, and needs "), "{refused}");
    let mut cell = v1::cell_client::CellClient::new(channel.clone());
    let v1::OpenResponse { session, incarnation, .. } = other;
    let check = v1::ConflictCheck::Fit.into();
    let empty = v1::Transaction { session, incarnation, number: 1, check, ..v1::Transaction::default() };
    let refused = cell.commit(empty).await.unwrap_err();
    assert_eq!((refused.code(), code(&refused).as_str()), (Code::ResourceExhausted, "READ_ONLY"));
    // Who was told to start a scheduler may have had one, which the cell lets in no more than another.
    let mut listed = jobs.list(v1::ListRequest::default()).await.unwrap().into_inner().jobs;
    assert_eq!(listed.len(), 1, "what was refused left no trace");
    let waits = listed.remove(0).waiting_reason;
    assert!(waits.contains("no scheduler batch is connected; the cell is read-only"), "{waits}");
    // A probe that speaks gRPC was told that all is well.
    assert!(page(server.address(), "/readyz").await.starts_with("HTTP/1.1 503"));
    let mut health = tonic_health::pb::health_client::HealthClient::new(channel.clone());
    for service in ["", "plenum.v1.Cell"] {
        eventually("health says that it does not serve", async || {
            let asked = tonic_health::pb::HealthCheckRequest { service: service.into() };
            health.check(asked).await.unwrap().into_inner().status == 2
        })
        .await;
    }
    let watch = v1::Hello::default();
    assert!(cell.watch(watch).await.unwrap().into_inner().message().await.unwrap().is_some());
    server.shutdown().await.unwrap();
}

pub(crate) async fn page(address: std::net::SocketAddr, path: &str) -> String {
    exchange(address, format!("GET {path} HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n")).await
}

async fn exchange(address: std::net::SocketAddr, request: String) -> String {
    let mut stream = tokio::net::TcpStream::connect(address).await.unwrap();
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut text = String::new();
    stream.read_to_string(&mut text).await.unwrap();
    text
}

#[tokio::test]
async fn pages_and_probes_are_on_the_same_port() {
    let dir = tempfile::tempdir().unwrap();
    let server = start(dir.path()).await;
    let address = server.address();
    for path in ["/", "/livez", "/readyz"] {
        let text = page(address, path).await;
        assert!(text.starts_with("HTTP/1.1 200"), "{path}: {text}");
    }
    let metrics = page(address, "/metrics").await;
    for name in ["plenum_journal_sync_seconds_count", "plenum_queue_depth{queue=\"requests\"}", "plenum_revision"] {
        assert!(metrics.contains(name), "{name} in {metrics}");
    }
    let channel = connect(&server).await;
    let mut health = tonic_health::pb::health_client::HealthClient::new(channel);
    let request = tonic_health::pb::HealthCheckRequest { service: "plenum.v1.Cell".into() };
    assert_eq!(health.check(request).await.unwrap().into_inner().status, 1);
    server.shutdown().await.unwrap();
}

#[tokio::test]
async fn a_web_page_can_neither_call_nor_read() {
    let dir = tempfile::tempdir().unwrap();
    let server = start(dir.path()).await;
    let address = server.address();
    let call = |extra: &str| {
        format!(
            "POST /plenum.v1.Cell/Open HTTP/1.1\r\nhost: {address}\r\nconnection: close\r\n{extra}content-length: 5\r\n\r\n\0\0\0\0\0"
        )
    };
    for extra in [
        "content-type: text/plain\r\norigin: http://evil.example\r\n",
        "content-type: text/plain\r\n",
        "content-type: application/grpc\r\n",
    ] {
        let text = exchange(address, call(extra)).await;
        assert!(text.starts_with("HTTP/1.1 403"), "{extra}: {text}");
    }
    for extra in ["host: evil.example:7070\r\n", "host: localhost\r\norigin: null\r\n"] {
        let text = exchange(address, format!("GET /metrics HTTP/1.1\r\nconnection: close\r\n{extra}\r\n")).await;
        assert!(text.starts_with("HTTP/1.1 403") && text.contains("expected"), "{extra}: {text}");
    }
    let channel = connect(&server).await;
    let mut cell = v1::cell_client::CellClient::new(channel);
    let mut scripted = tonic::Request::new(v1::OpenRequest::default());
    scripted.metadata_mut().insert("origin", "http://evil.example".parse().unwrap());
    assert_eq!(cell.open(scripted).await.unwrap_err().code(), Code::PermissionDenied);
    server.shutdown().await.unwrap();
}

#[tokio::test]
async fn a_machine_that_came_later_does_not_lend_its_name_to_the_past() {
    let dir = tempfile::tempdir().unwrap();
    let server = start(dir.path()).await;
    let channel = connect(&server).await;
    let first = register(&channel, "first", 1000).await;
    let job = submit(&channel, job("crunch", 2)).await.job;
    let mut session = Session::open(&channel, "batch").await.unwrap();
    let transaction = session.transaction(1, vec![placement(job, vec![0, 0], vec![0, 1])]);
    session.commit(transaction).await.unwrap();
    let mut inspect = v1::inspect_client::InspectClient::new(channel.clone());
    let remove = |force| v1::RemoveMachineRequest { name: "first".into(), force, ..Default::default() };
    let refused = inspect.remove_machine(remove(false)).await.unwrap_err();
    assert_eq!((refused.code(), code(&refused).as_str()), (Code::FailedPrecondition, "MACHINE_ALIVE"));
    assert!(refused.message().starts_with("the agent of first renews its lease, "), "{refused}");
    assert!(refused.message().contains("first runs 1 task: "), "{refused}");
    inspect.remove_machine(remove(true)).await.unwrap();
    let get = v1::GetTransactionRequest { session: session.welcome.session, number: 1 };
    let second = register(&channel, "second", 1000).await;
    assert_eq!(second.machine & u64::from(u32::MAX), first.machine & u64::from(u32::MAX), "it got the same slot");
    let view = inspect.get_transaction(get).await.unwrap().into_inner();
    assert_eq!(view.machine_names[&0], "first");
    assert_eq!(view.job_names[&job], "default/crunch");
    let by = v1::ListConflictsRequest { by: "machine".into(), ..Default::default() };
    let rows = inspect.list_conflicts(by).await.unwrap().into_inner().rows;
    assert!(rows.iter().all(|row| row.machine == "first"), "{rows:?}");
    server.shutdown().await.unwrap();
}

// Its answer was lost: asked again as the contract allows, it removed the machine that had come back by then, and all that was placed there was lost.
#[tokio::test]
async fn a_removal_that_is_asked_for_again_leaves_what_came_back_under_the_name() {
    let dir = tempfile::tempdir().unwrap();
    let server = start(dir.path()).await;
    let channel = connect(&server).await;
    let first = register(&channel, "first", 1000).await.machine;
    let mut inspect = v1::inspect_client::InspectClient::new(channel.clone());
    let remove = |machine| v1::RemoveMachineRequest { name: "first".into(), force: true, machine };
    inspect.remove_machine(remove(first)).await.unwrap();
    let gone = inspect.remove_machine(remove(first)).await.unwrap_err();
    assert_eq!((gone.code(), code(&gone).as_str()), (Code::NotFound, "NO_SUCH_MACHINE"));
    let second = register(&channel, "first", 1000).await.machine;
    let refused = inspect.remove_machine(remove(first)).await.unwrap_err();
    assert_eq!((refused.code(), code(&refused).as_str()), (Code::NotFound, "NO_SUCH_MACHINE"));
    assert!(refused.message().contains("another machine by now"), "{refused}");
    assert!(inspect.remove_machine(remove(second)).await.unwrap().into_inner().changed);
    server.shutdown().await.unwrap();
}

#[tokio::test]
async fn a_job_without_tasks_says_that_it_waits_to_be_scaled_under_a_name_that_commands_find() {
    let dir = tempfile::tempdir().unwrap();
    let server = start(dir.path()).await;
    let channel = connect(&server).await;
    for (namespace, is_wide, arguments) in [
        ("default", false, "nothing COUNT"),
        ("team", false, "team/nothing COUNT"),
        ("wide", true, "wide/nothing COUNT --group GROUP"),
    ] {
        let mut spec = job("nothing", 0);
        let (shape, body) = (spec.shape.as_mut().unwrap(), spec.body.as_mut().unwrap());
        shape.namespace = namespace.into();
        if is_wide {
            shape.groups.push(v1::GroupShape { name: "more".to_owned(), ..shape.groups[0].clone() });
            body.groups.push(v1::GroupBody { name: "more".to_owned(), ..body.groups[0].clone() });
        }
        submit(&channel, spec).await;
        let get = v1::GetJobRequest { namespace: namespace.into(), name: "nothing".into(), ..Default::default() };
        let job = v1::jobs_client::JobsClient::new(channel.clone()).get(get).await.unwrap().into_inner().job.unwrap();
        let command = format!("`plenum job scale {arguments}`");
        assert!(job.waiting_reason.contains(&command), "{}", job.waiting_reason);
    }
    server.shutdown().await.unwrap();
}

#[tokio::test]
async fn nothing_of_a_job_that_is_over_waits() {
    let dir = tempfile::tempdir().unwrap();
    let server = start(dir.path()).await;
    let channel = connect(&server).await;
    submit(&channel, job("crunch", 2)).await;
    let mut jobs = v1::jobs_client::JobsClient::new(channel.clone());
    let get = || v1::GetJobRequest { namespace: String::new(), name: "crunch".into(), at: None };
    assert_eq!(jobs.get(get()).await.unwrap().into_inner().job.unwrap().groups[0].waiting, 2);
    jobs.stop(v1::StopRequest { namespace: String::new(), name: "crunch".into(), ..Default::default() }).await.unwrap();
    let stopped = jobs.get(get()).await.unwrap().into_inner().job.unwrap();
    assert_eq!((stopped.state(), stopped.groups[0].waiting), (v1::JobState::JobStopped, 0));
    server.shutdown().await.unwrap();
}

// Whoever had a session could note anything about jobs that there never were, and what others had said of theirs was forgotten for it.
#[tokio::test]
async fn a_scheduler_says_why_its_own_jobs_wait_and_pushes_out_nothing_of_others() {
    let dir = tempfile::tempdir().unwrap();
    let mut narrow = options(dir.path());
    narrow.settings.notes = 2;
    let server = Server::start(narrow).await.unwrap();
    let channel = connect(&server).await;
    let ours = submit(&channel, job("ours", 1)).await.job;
    let mut of_others = job("theirs", 1);
    of_others.shape.as_mut().unwrap().scheduler = "other".to_owned();
    let theirs = submit(&channel, of_others).await.job;
    let say = async |session: &Session, jobs: &[u64], group: u32, reason: &str| {
        let note = |&job: &u64| v1::PassedOverNote {
            job,
            group,
            tasks: 1,
            reason: reason.to_owned(),
            revision: 3,
            ..Default::default()
        };
        let ask = v1::session_request::Ask::PassedOver(v1::PassedOver { notes: jobs.iter().map(note).collect() });
        session.asks.send(v1::SessionRequest { ask: Some(ask) }).await.unwrap();
    };
    let says = async |name: &str, expected: &str| {
        let mut jobs = v1::jobs_client::JobsClient::new(channel.clone());
        for _ in 0..500 {
            let get = v1::GetJobRequest { namespace: String::new(), name: name.to_owned(), at: None };
            let reason = jobs.get(get).await.unwrap().into_inner().job.unwrap().waiting_reason;
            if reason.contains(expected) {
                return;
            }
            tokio::time::sleep(std::time::Duration::from_millis(10)).await;
        }
        panic!("{name} is not said to wait for {expected}");
    };
    let batch = Session::open(&channel, "batch").await.unwrap();
    let other = Session::open(&channel, "other").await.unwrap();
    say(&batch, &[ours], 0, "no machine").await;
    says("ours", "no machine").await;
    let invented: Vec<u64> = (1..100).map(|slot| 7 << 32 | slot).collect();
    say(&other, &invented, 0, "nonsense").await;
    say(&other, &[ours], 0, "a lie").await;
    for group in 1..100 {
        say(&other, &[theirs], group, "no such group").await;
    }
    say(&other, &[theirs], 0, "no luck").await;
    says("theirs", "no luck").await;
    says("ours", "no machine").await;
    drop((batch, other));
    server.shutdown().await.unwrap();
}

// The prefix was taken off again and again: `attr.attr.zone` was looked for as `zone`.
#[tokio::test]
async fn an_attribute_is_filtered_by_under_its_whole_name() {
    let dir = tempfile::tempdir().unwrap();
    let server = start(dir.path()).await;
    let channel = connect(&server).await;
    let mut agents = v1::agents_client::AgentsClient::new(channel.clone());
    for (name, attribute) in [("m1", "zone"), ("m2", "attr.zone")] {
        let machine = v1::RegisterMachine {
            name: name.to_owned(),
            boot_id: "boot-1".to_owned(),
            capacity: Some(v1::Resources { cpu_millis: 1000, ..Default::default() }),
            attributes: [(attribute.to_owned(), "z1".to_owned())].into(),
            ..Default::default()
        };
        agents.register(v1::RegisterRequest { machine: Some(machine), ..Default::default() }).await.unwrap();
    }
    let mut inspect = v1::inspect_client::InspectClient::new(channel);
    for (filter, expected) in [("attr.zone=z1", "m1"), ("attr.attr.zone=z1", "m2")] {
        let request = v1::ListRequest { filter: filter.to_owned(), ..Default::default() };
        let machines = inspect.list_machines(request).await.unwrap().into_inner().machines;
        assert_eq!(machines.iter().map(|machine| machine.name.as_str()).collect::<Vec<_>>(), [expected], "{filter}");
    }
    server.shutdown().await.unwrap();
}

// All groups of each job were named: with jobs of 64 groups a transaction that lost many claims was a hundred MiB of names.
#[tokio::test]
async fn a_transaction_names_the_groups_that_it_speaks_of() {
    let dir = tempfile::tempdir().unwrap();
    let server = start(dir.path()).await;
    let channel = connect(&server).await;
    register(&channel, "m1", 1000).await;
    let mut wide = job("wide", 1);
    let (shape, body) = (wide.shape.as_mut().unwrap(), wide.body.as_mut().unwrap());
    for name in ["more", "most"] {
        shape.groups.push(v1::GroupShape { name: name.to_owned(), ..shape.groups[0].clone() });
        body.groups.push(v1::GroupBody { name: name.to_owned(), ..body.groups[0].clone() });
    }
    let wide = submit(&channel, wide).await.job;
    let mut session = Session::open(&channel, "batch").await.unwrap();
    let of = |group: u32| v1::Placement { group, ..placement(wide, vec![0], vec![0]) };
    let asked = session.transaction(1, vec![of(0), of(2)]);
    let outcome = session.commit(asked).await.unwrap();
    assert_eq!((outcome.granted, outcome.refusals.len()), (1, 1));
    let mut inspect = v1::inspect_client::InspectClient::new(channel);
    let get = v1::GetTransactionRequest { session: session.welcome.session, number: 1 };
    let shown = inspect.get_transaction(get).await.unwrap().into_inner();
    let listed = inspect.list_transactions(v1::ListTransactionsRequest::default()).await.unwrap().into_inner();
    let names = |view: &v1::TransactionView| view.group_names.clone().into_iter().collect::<Vec<_>>();
    let name = |group: u32, name: &str| (format!("{wide}/{group}"), name.to_owned());
    assert_eq!(names(&shown), [name(0, "work"), name(2, "most")]);
    assert_eq!(names(&listed.transactions[0]), [name(2, "most")]);
    assert_eq!(listed.transactions[0].job_names, shown.job_names);
    drop(session);
    server.shutdown().await.unwrap();
}

// A list of the present that ended before it said that it was of the present.
#[tokio::test]
async fn a_list_of_what_the_history_has_says_up_to_where_that_is() {
    let dir = tempfile::tempdir().unwrap();
    let mut behind = options(dir.path());
    behind.settings.history = false;
    let server = plenum_server::Server::start(behind).await.unwrap();
    let mut inspect = v1::inspect_client::InspectClient::new(connect(&server).await);
    let listed = inspect.list_transactions(v1::ListTransactionsRequest::default()).await.unwrap().into_inner();
    let conflicts = inspect.list_conflicts(v1::ListConflictsRequest::default()).await.unwrap().into_inner();
    assert_eq!((listed.revision, conflicts.revision), (0, 0));
    server.shutdown().await.unwrap();
}
