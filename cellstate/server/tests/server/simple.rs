//! A scheduler that keeps no mirror: it asks what is wanted, commits, and says why something waits.

use plenum_proto::v1;
use tonic::Code;
use tonic::transport::Channel;

use crate::client::{as_principal, code, connect, job, placement, register, start, submit};

/// A session, and what its next transaction is numbered.
struct Simple {
    cell: v1::cell_client::CellClient<Channel>,
    session: u64,
    incarnation: u64,
}

impl Simple {
    async fn open(channel: &Channel, namespace: &str) -> Self {
        let mut cell = v1::cell_client::CellClient::new(channel.clone());
        let request = v1::OpenRequest { scheduler: "batch".to_owned(), namespace: namespace.to_owned() };
        let v1::OpenResponse { session, incarnation, .. } = cell.open(request).await.unwrap().into_inner();
        Self { cell, session, incarnation }
    }

    async fn wanted(&mut self, limit: u32) -> v1::WantedResponse {
        self.wanted_from(limit, (0, 0)).await
    }

    async fn wanted_from(&mut self, limit: u32, (start_job, start_group): (u64, u32)) -> v1::WantedResponse {
        let Self { session, incarnation, .. } = *self;
        let request = v1::WantedRequest { session, incarnation, limit, start_job, start_group };
        self.cell.wanted(request).await.unwrap().into_inner()
    }

    async fn commit(
        &mut self,
        number: u64,
        base_revision: u64,
        placement: v1::Placement,
    ) -> Result<u32, tonic::Status> {
        let transaction = v1::Transaction {
            session: self.session,
            number,
            incarnation: self.incarnation,
            base_revision,
            check: v1::ConflictCheck::Fit.into(),
            placements: vec![placement],
            ..Default::default()
        };
        Ok(self.cell.commit(transaction).await?.into_inner().granted)
    }
}

/// Job, tasks and how many of them at once, of each group in their order.
fn told(wanted: &v1::WantedResponse) -> Vec<(&str, &[u32], u32)> {
    wanted.groups.iter().map(|group| (&*group.job_name, &*group.tasks, group.least)).collect()
}

/// Where to go on.
fn next(wanted: &v1::WantedResponse) -> (u64, u32) {
    (wanted.next_job, wanted.next_group)
}

fn changed(mut spec: v1::JobSpec, change: impl FnMut(&mut v1::JobShape)) -> v1::JobSpec {
    spec.shape.as_mut().into_iter().for_each(change);
    spec
}

// Sessions are small numbers: what was meant for the cell that was at the address before was executed by the one that is there now.
#[tokio::test]
async fn who_opens_a_session_is_told_its_cell_and_another_one_refuses_what_names_that() {
    let dirs = [tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap()];
    let servers = [start(dirs[0].path()).await, start(dirs[1].path()).await];
    let mut opened = Vec::new();
    for server in &servers {
        let mut cell = v1::cell_client::CellClient::new(connect(server).await);
        let request = v1::OpenRequest { scheduler: "batch".to_owned(), namespace: String::new() };
        let answer = cell.open(request).await.unwrap().into_inner();
        opened.push((cell, answer));
    }
    let own = opened[0].1.clone();
    assert_eq!((own.session, own.incarnation), (opened[1].1.session, opened[1].1.incarnation), "both have the same");
    let cell_id: String = own.cell_id.iter().map(|byte| format!("{byte:02x}")).collect();
    let transaction = v1::Transaction {
        session: own.session,
        number: 1,
        incarnation: own.incarnation,
        base_revision: own.revision,
        check: v1::ConflictCheck::Fit.into(),
        ..Default::default()
    };
    let mut answers = Vec::new();
    for (cell, _) in &mut opened {
        let mut request = tonic::Request::new(transaction.clone());
        request.metadata_mut().insert("plenum-cell", cell_id.parse().unwrap());
        let answer = cell.commit(request).await;
        answers.push(answer.map_or_else(|failed| code(&failed), |outcome| outcome.into_inner().number.to_string()));
    }
    assert_eq!(answers, ["1", "OTHER_CELL"]);
    for server in servers {
        server.shutdown().await.unwrap();
    }
}

#[tokio::test]
async fn a_scheduler_without_a_mirror_is_told_what_it_may_place_and_is_heard() {
    let dir = tempfile::tempdir().unwrap();
    let server = start(dir.path()).await;
    let channel = connect(&server).await;
    register(&channel, "m1", 8000).await;
    submit(&channel, job("first", 3)).await;
    let gang = changed(job("gang", 4), |shape| (shape.priority, shape.groups[0].min) = (90, 4));
    submit(&channel, gang).await;
    submit(&channel, changed(job("other", 1), |shape| shape.scheduler = "other".to_owned())).await;
    submit(&channel, changed(job("apart", 1), |shape| shape.namespace = "apart".to_owned())).await;
    let mut simple = Simple::open(&channel, "default").await;

    let wanted = simple.wanted(0).await;
    assert_eq!(told(&wanted), [("gang", &[0, 1, 2, 3][..], 4), ("first", &[0, 1, 2], 0)]);
    assert!(!wanted.truncated);
    let group = &wanted.groups[1];
    let shape = group.shape.as_ref().unwrap();
    assert_eq!((group.job_version, group.group, &*group.namespace, &*shape.name), (1, 0, "default", "work"));
    assert_eq!(shape.resources.as_ref().unwrap().cpu_millis, 1000);
    let granted = simple.commit(1, wanted.revision, placement(group.job, vec![0, 0], vec![0, 2])).await.unwrap();
    assert_eq!(granted, 2);
    // It reads what it wrote.
    let wanted = simple.wanted(0).await;
    assert_eq!(told(&wanted), [("gang", &[0, 1, 2, 3][..], 4), ("first", &[1], 0)]);
    let everywhere = Simple::open(&channel, "").await.wanted(0).await;
    assert_eq!(told(&everywhere).last(), Some(&("apart", &[0][..], 0)));

    let note = v1::PassedOverNote {
        job: wanted.groups[0].job,
        tasks: 4,
        reason: "it is Monday".to_owned(),
        revision: wanted.revision,
        ..Default::default()
    };
    let notes = v1::PassedOver { notes: vec![note] };
    let mut request =
        v1::PassOverRequest { session: simple.session, incarnation: simple.incarnation, passed_over: Some(notes) };
    simple.cell.pass_over(request.clone()).await.unwrap();
    let mut jobs = v1::jobs_client::JobsClient::new(channel.clone());
    let mut waits = String::new();
    for _ in 0..500 {
        let get = v1::GetJobRequest { namespace: "default".to_owned(), name: "gang".to_owned(), at: None };
        waits = jobs.get(get).await.unwrap().into_inner().job.unwrap().waiting_reason;
        if waits.contains("Monday") {
            break;
        }
        tokio::time::sleep(std::time::Duration::from_millis(10)).await;
    }
    assert_eq!(
        waits,
        format!("work: 4 waiting: it is Monday (at revision {})", wanted.revision),
        "and the scheduler is there"
    );

    request.passed_over = Some(v1::PassedOver { notes: vec![v1::PassedOverNote::default(); 4097] });
    let refused = simple.cell.pass_over(request).await.unwrap_err();
    assert_eq!(refused.code(), Code::InvalidArgument);
    assert!(refused.message().contains("at most 4096 at once, found 4097"), "{refused}");
    server.shutdown().await.unwrap();
}

#[tokio::test]
async fn what_is_wanted_is_bounded_and_a_gang_is_named_whole_or_not_at_all() {
    let dir = tempfile::tempdir().unwrap();
    let server = start(dir.path()).await;
    let channel = connect(&server).await;
    submit(&channel, job("first", 3)).await;
    let mut simple = Simple::open(&channel, "default").await;
    let two = simple.wanted(2).await;
    assert_eq!((told(&two), two.truncated), (vec![("first", &[0, 1][..], 0)], true));
    let all = simple.wanted(3).await;
    assert_eq!((told(&all), all.truncated), (vec![("first", &[0, 1, 2][..], 0)], false));

    submit(&channel, changed(job("gang", 4), |shape| shape.groups[0].min = 4)).await;
    let cut = simple.wanted(3).await;
    assert_eq!((told(&cut), cut.truncated), (vec![("first", &[0, 1, 2][..], 0)], true));
    let both = simple.wanted(5).await;
    let gang = ("gang", &[0, 1, 2, 3][..], 4);
    assert_eq!((told(&both), both.truncated), (vec![("first", &[0, 1, 2][..], 0), gang], false));
    let mut jobs = v1::jobs_client::JobsClient::new(channel.clone());
    let stop = v1::StopRequest { namespace: "default".to_owned(), name: "first".to_owned(), ..Default::default() };
    jobs.stop(stop).await.unwrap();
    let whole = simple.wanted(1).await;
    assert_eq!((told(&whole), whole.truncated), (vec![gang], false));
    server.shutdown().await.unwrap();
}

/// One task that fitted nowhere was named, the gang behind it would have been more than was asked for, and so neither it nor what came behind it was
/// ever named.
#[tokio::test]
async fn a_gang_that_is_more_than_what_is_left_is_named_and_hides_nobody() {
    let dir = tempfile::tempdir().unwrap();
    let server = start(dir.path()).await;
    let channel = connect(&server).await;
    let gang = |name, count, least| changed(job(name, count), |shape| shape.groups[0].min = least);
    submit(&channel, job("first", 1)).await;
    submit(&channel, gang("gang", 4, 4)).await;
    submit(&channel, job("behind", 1)).await;
    let mut simple = Simple::open(&channel, "default").await;
    let three: [(&str, &[u32], u32); 3] = [("first", &[0], 0), ("gang", &[0, 1, 2, 3], 4), ("behind", &[0], 0)];
    let wanted = simple.wanted(4).await;
    assert_eq!((told(&wanted), wanted.truncated), (three.to_vec(), false));

    // One answer has one such gang, with no more tasks than it needs at once.
    submit(&channel, gang("wide", 3, 2)).await;
    submit(&channel, gang("wider", 3, 3)).await;
    submit(&channel, job("last", 1)).await;
    let wanted = simple.wanted(4).await;
    let mut all = told(&wanted);
    assert_eq!((all.pop(), &all[..], wanted.truncated), (Some(("last", &[0][..], 0)), &three[..], true));
    let wanted = simple.wanted(3).await;
    assert_eq!((told(&wanted), wanted.truncated), (three.to_vec(), true), "no more groups than tasks were asked for");
    let wanted = simple.wanted(7).await;
    let mut all = told(&wanted);
    assert_eq!((all.pop(), &all[..], wanted.truncated), (Some(("wide", &[0, 1][..], 2)), &three[..], true));

    // Who goes on is told of them also where the first one is never placed.
    let first = simple.wanted(4).await;
    let rest = simple.wanted_from(4, next(&first)).await;
    assert_eq!((told(&rest), rest.truncated), (vec![("wide", &[0, 1, 2][..], 2), ("wider", &[0, 1, 2], 3)], true));
    let rest = simple.wanted_from(4, next(&rest)).await;
    assert_eq!((told(&rest), rest.truncated, next(&rest)), (vec![("last", &[0][..], 0)], false, (0, 0)));
    server.shutdown().await.unwrap();
}

/// They were named in each answer, up to its last task, and what is behind them never.
#[tokio::test]
async fn tasks_that_fit_nowhere_hide_nobody_from_who_goes_on_behind_them() {
    let dir = tempfile::tempdir().unwrap();
    let server = start(dir.path()).await;
    let channel = connect(&server).await;
    let mut large = changed(job("large", 5), |shape| {
        let other = v1::GroupShape { name: "other".to_owned(), ..shape.groups[0].clone() };
        shape.groups.push(other);
    });
    let groups = &mut large.body.as_mut().unwrap().groups;
    groups.push(v1::GroupBody { name: "other".to_owned(), ..groups[0].clone() });
    let large = submit(&channel, large).await.job;
    let behind = submit(&channel, job("behind", 1)).await.job;
    let mut simple = Simple::open(&channel, "default").await;
    let four = vec![("large", &[0, 1, 2, 3][..], 0)];

    let first = simple.wanted(4).await;
    assert_eq!((told(&first), first.truncated, next(&first)), (four.clone(), true, (large, 1)));
    let second = simple.wanted_from(4, next(&first)).await;
    assert_eq!((told(&second), second.groups[0].group, next(&second)), (four.clone(), 1, (behind, 0)));
    let third = simple.wanted_from(4, next(&second)).await;
    assert_eq!((told(&third), third.truncated, next(&third)), (vec![("behind", &[0][..], 0)], false, (0, 0)));
    // There may be no such job any more.
    let anew = simple.wanted_from(4, (behind + 1, 1)).await;
    assert_eq!((told(&anew), next(&anew)), (four, next(&first)));
    server.shutdown().await.unwrap();
}

#[tokio::test]
async fn only_who_has_the_session_is_told() {
    let dir = tempfile::tempdir().unwrap();
    let server = start(dir.path()).await;
    let channel = connect(&server).await;
    let mut simple = Simple::open(&channel, "").await;
    let (session, incarnation) = (simple.session, simple.incarnation);
    let ask = |session, incarnation| v1::WantedRequest { session, incarnation, ..Default::default() };
    let failed = simple.cell.wanted(ask(session + 1000, incarnation)).await.unwrap_err();
    assert_eq!((failed.code(), &*code(&failed)), (Code::NotFound, "NO_SUCH_SESSION"));
    let failed = simple.cell.wanted(ask(session, incarnation + 1)).await.unwrap_err();
    assert_eq!((failed.code(), &*code(&failed)), (Code::Aborted, "OTHER_INCARNATION"));
    let failed = simple.cell.wanted(as_principal("scheduler/blue", ask(session, incarnation))).await.unwrap_err();
    assert_eq!(failed.code(), Code::PermissionDenied);
    let failed = simple.cell.wanted(as_principal("user/ann", ask(session, incarnation))).await.unwrap_err();
    assert_eq!(failed.code(), Code::PermissionDenied);
    // Who left the name out was told that it is another's.
    for (scheduler, expected) in [("", "INVALID_REQUEST"), ("batch", "NOT_PERMITTED")] {
        let open = v1::OpenRequest { scheduler: scheduler.to_owned(), namespace: String::new() };
        let failed = simple.cell.open(as_principal("scheduler/blue", open)).await.unwrap_err();
        assert_eq!(code(&failed), expected, "{failed}");
    }
    server.shutdown().await.unwrap();
}

/// It was named never, and all behind it neither.
#[tokio::test]
async fn a_gang_that_waits_for_its_predecessors_keeps_nobody_s_tasks_from_being_named() {
    let dir = tempfile::tempdir().unwrap();
    let server = start(dir.path()).await;
    let channel = connect(&server).await;
    register(&channel, "m1", 8000).await;
    let gang = changed(job("gang", 2), |shape| {
        (shape.priority, shape.groups[0].min, shape.groups[0].single_instance) = (90, 2, true);
    });
    submit(&channel, gang).await;
    submit(&channel, job("plain", 1)).await;
    let mut simple = Simple::open(&channel, "default").await;
    let wanted = simple.wanted(0).await;
    let placement = v1::Placement { min: 2, ..placement(wanted.groups[0].job, vec![0, 0], vec![0, 1]) };
    assert_eq!(simple.commit(1, wanted.revision, placement).await.unwrap(), 2);
    let mut jobs = v1::jobs_client::JobsClient::new(channel.clone());
    let request = v1::ListAllocationsRequest { job: "gang".to_owned(), ..Default::default() };
    let placed = jobs.list_allocations(request).await.unwrap().into_inner().allocations;
    jobs.stop_allocation(v1::StopAllocationRequest { allocation: placed[0].id }).await.unwrap();
    jobs.stop_allocation(v1::StopAllocationRequest { allocation: placed[1].id }).await.unwrap();
    let rest = simple.wanted(0).await;
    assert_eq!((told(&rest), rest.truncated), (vec![("plain", &[0][..], 0)], false));
    server.shutdown().await.unwrap();
}

/// It was said to be too old to be remembered, and that nobody could tell whether it was executed.
#[tokio::test]
async fn a_number_that_comes_behind_a_higher_one_is_told_so() {
    let dir = tempfile::tempdir().unwrap();
    let server = start(dir.path()).await;
    let channel = connect(&server).await;
    register(&channel, "m1", 8000).await;
    let job = submit(&channel, job("first", 3)).await.job;
    let mut simple = Simple::open(&channel, "default").await;
    let base = simple.wanted(0).await.revision;
    assert_eq!(simple.commit(2, base, placement(job, vec![0], vec![0])).await.unwrap(), 1);
    for skipped in [1, 3] {
        if skipped == 3 {
            assert_eq!(simple.commit(5, base, placement(job, vec![0], vec![1])).await.unwrap(), 1);
        }
        let failed = simple.commit(skipped, base, placement(job, vec![0], vec![2])).await.unwrap_err();
        assert_eq!((failed.code(), &*code(&failed)), (Code::FailedPrecondition, "NUMBER_RETIRED"));
        assert!(failed.message().contains("comes behind a higher number"), "{failed}");
    }
    server.shutdown().await.unwrap();
}
