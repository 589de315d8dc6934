//! Numbers of tasks that change while others change the job.

use plenum_proto::v1;

use crate::client::{code, connect, job, start, submit};

/// A job with a group of one task for each name, in this order.
fn grouped(names: [&str; 2]) -> v1::JobSpec {
    let mut spec = job("web", 1);
    let (shape, body) = (spec.shape.as_mut().unwrap(), spec.body.as_mut().unwrap());
    shape.groups = names.map(|name| v1::GroupShape { name: name.to_owned(), ..shape.groups[0].clone() }).into();
    body.groups = names.map(|name| v1::GroupBody { name: name.to_owned(), ..body.groups[0].clone() }).into();
    spec
}

// A group's place was looked up in a picture of the cell, and it was the other one's place by the time the job was scaled.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn the_group_that_is_named_is_scaled_and_no_other_while_the_job_is_submitted_again() {
    let dir = tempfile::tempdir().unwrap();
    let server = start(dir.path()).await;
    let channel = connect(&server).await;
    submit(&channel, grouped(["front", "back"])).await;
    let scaling: Vec<_> = (0..4)
        .map(|_| {
            let mut jobs = v1::jobs_client::JobsClient::new(channel.clone());
            tokio::spawn(async move {
                let mut scaled = 0;
                for count in 0..200 {
                    let (name, group) = ("web".to_owned(), "front".to_owned());
                    let request = v1::ScaleRequest { name, group, count: 2 + count % 2, ..Default::default() };
                    match jobs.scale(request).await {
                        Ok(_) => scaled += 1,
                        Err(status) => {
                            let code = code(&status);
                            assert!(["JOB_OVER", "JOB_VERSION"].contains(&code.as_str()), "{status}");
                        }
                    }
                }
                scaled
            })
        })
        .collect();
    let mut jobs = v1::jobs_client::JobsClient::new(channel.clone());
    let name = "web".to_owned();
    for round in 0.. {
        let get = v1::GetJobRequest { name: name.clone(), ..Default::default() };
        let groups = jobs.get(get).await.unwrap().into_inner().job.unwrap().groups;
        let back = groups.iter().find(|group| group.name == "back").unwrap();
        assert_eq!(back.count, 1, "who scaled the other group scaled this one, in round {round}");
        if scaling.iter().all(tokio::task::JoinHandle::is_finished) {
            break;
        }
        jobs.stop(v1::StopRequest { name: name.clone(), ..Default::default() }).await.unwrap();
        submit(&channel, grouped(if round % 2 == 0 { ["back", "front"] } else { ["front", "back"] })).await;
    }
    let mut scaled = 0;
    for task in scaling {
        scaled += task.await.unwrap();
    }
    assert!(scaled > 0);
    server.shutdown().await.unwrap();
}
