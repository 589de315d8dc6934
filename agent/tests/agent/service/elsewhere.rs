//! An agent whose directory has something of another cell, or of another machine.

use super::*;

/// A task that waits for a file, and outlives its agent.
async fn left_running(stage: &Stage) -> v1::Assignment {
    let agent = stage.agent();
    let follower = stage.follower().await;
    let waits = assignment(1, "until test -e $PLENUM_JOB_DIR/go; do sleep 0.02; done; exit 4");
    follower.send(full(vec![waits.clone()])).await.unwrap();
    stage.reported(1, v1::AllocationState::Running).await;
    agent.kill().await;
    waits
}

/// An agent that follows its cell again finds the task, which ends as it was to.
async fn goes_on(stage: &Stage, waits: v1::Assignment) -> Follower {
    let follower = stage.follower().await;
    let known = v1::Assignment { state: v1::AllocationState::Running.into(), ..waits };
    follower.send(full(vec![known])).await.unwrap();
    std::fs::write(stage.path().join("jobs/job-3-1-v0/go"), "").unwrap();
    assert_eq!(stage.reported(1, v1::AllocationState::Failed).await.exit_code, 4);
    follower
}

// One wrong start of a server ended all agents for good: an empty directory named by mistake, or a disk that was not mounted.
#[tokio::test]
async fn tasks_of_one_cell_are_not_given_to_another_and_go_on_until_their_own_is_back() {
    let stage = Stage::set().await;
    let waits = left_running(&stage).await;
    stage.cell.0.lock().unwrap().cell_id = 2;
    let agent = stage.agent();
    stage.until("asking again", |heard| (heard.registrations.len() >= 4).then_some(())).await;
    {
        let mut heard = stage.cell.0.lock().unwrap();
        assert!(heard.follower.is_none(), "it follows the other cell");
        heard.cell_id = 0;
    }
    let _follower = goes_on(&stage, waits).await;
    assert!(agent.terminate().await.success());
}

// What ended tasks had printed was thrown away when another server had the address for some seconds. And ids of two cells are alike: a job of the second
// one would find the files of a job of the first.
#[tokio::test]
async fn what_is_kept_of_one_cell_stays_until_somebody_removes_it_and_then_another_is_joined() {
    let stage = Stage::set().await;
    let agent = stage.agent();
    let follower = stage.follower().await;
    follower.send(full(vec![assignment(1, "echo first > $PLENUM_JOB_DIR/result")])).await.unwrap();
    stage.reported(1, v1::AllocationState::Complete).await;
    follower.send(full(Vec::new())).await.unwrap();
    let forgotten = stage.path().join("allocs").join(id(1).to_string()).join("ended");
    stage.until("its end", |_| forgotten.exists().then_some(())).await;
    agent.kill().await;
    stage.cell.0.lock().unwrap().cell_id = 2;
    let agent = stage.agent();
    stage.until("asking again", |heard| (heard.registrations.len() >= 4).then_some(())).await;
    assert!(stage.cell.0.lock().unwrap().follower.is_none(), "it follows the other cell");
    assert!(forgotten.exists() && stage.path().join("jobs/job-3-1-v0/result").exists());
    for folder in ["allocs", "jobs"] {
        for entry in std::fs::read_dir(stage.path().join(folder)).unwrap().flatten() {
            // What the agent is removing itself may be gone by now.
            if !entry.file_name().to_str().unwrap().starts_with('.') {
                std::fs::remove_dir_all(entry.path()).unwrap();
            }
        }
    }
    let follower = stage.follower().await;
    follower.send(full(vec![assignment(2, "test ! -e $PLENUM_JOB_DIR/result")])).await.unwrap();
    stage.reported(2, v1::AllocationState::Complete).await;
    assert!(agent.terminate().await.success());
}

#[tokio::test]
async fn an_agent_that_has_nothing_of_its_cell_joins_the_one_that_answers() {
    let stage = Stage::set().await;
    let agent = stage.agent();
    stage.follower().await;
    agent.kill().await;
    stage.cell.0.lock().unwrap().cell_id = 2;
    let agent = stage.agent();
    stage.follower().await;
    assert!(agent.terminate().await.success());
    assert!(std::fs::read_to_string(stage.path().join("cell.json")).unwrap().contains("02020202"));
}

// The host had another name. Under that a new machine was registered, of which nothing was wanted: all that ran was stopped without a word, and the cell
// listed it as running.
#[tokio::test]
async fn tasks_of_a_machine_go_on_until_their_agent_has_its_name_again_and_then_it_may_have_another() {
    let stage = Stage::set().await;
    let waits = left_running(&stage).await;
    let message = stage.refused_agent("renamed").await;
    assert!(message.contains("tasks are those of machine trial") && message.contains("renamed"), "{message}");
    assert!(stage.cell.0.lock().unwrap().registrations.iter().all(|one| one.machine.as_ref().unwrap().name == "trial"));

    let agent = stage.agent();
    let _follower = goes_on(&stage, waits).await;
    let forgotten = stage.path().join("allocs").join(id(1).to_string()).join("ended");
    stage.until("its end", |_| forgotten.exists().then_some(())).await;
    agent.kill().await;

    let agent = stage.agent_named("renamed", &["--stop-tasks-on-exit"]);
    stage.follower().await;
    assert_eq!(stage.cell.0.lock().unwrap().registrations.last().unwrap().machine.as_ref().unwrap().name, "renamed");
    assert!(agent.terminate().await.success());
    assert!(std::fs::read_to_string(stage.path().join("cell.json")).unwrap().contains("renamed"));
}
