//! Stories of an agent, with a fake driver and a cell that says and answers what the test says.

#![allow(clippy::unwrap_used)]

mod delays;
mod fitness;
mod lives;
mod permission;
mod read_only;
mod stops;

use std::collections::BTreeMap;

use plenum_model::JobId;

use super::*;
use crate::{
    driver::{Driver, Exit},
    fake::{FakeDriver, Fate},
    traces::Traces,
};

const MACHINE: MachineId = MachineId { slot: 1, generation: 1 };
const LEASE_MS: u64 = 10_000;
const RENEW_MS: u64 = 3_000;

fn id(slot: u32) -> AllocationId {
    AllocationId { slot, generation: 1 }
}

fn assignment(slot: u32) -> Assignment {
    let task = TaskSpec {
        allocation: id(slot),
        restart: 0,
        job: JobId { slot: 0, generation: 1 },
        job_version: 1,
        command: vec![format!("task-{slot}")],
        env: BTreeMap::new(),
        cpu_millis: 100,
        memory_bytes: 1 << 20,
        pids_max: 10,
        kill_timeout_ms: 1000,
        traces: Some(Box::new(Traces { namespace: "default".to_owned(), task: slot, ..Traces::default() })),
        policy: None,
        recent_restarts_at: Vec::new(),
    };
    let work = Work { task, restart: RestartPolicy::default() };
    Assignment { allocation: id(slot), takes_over: Vec::new(), may_start: true, work: Ok(Arc::new(work)) }
}

fn with_restarts(slot: u32, restart: RestartPolicy) -> Assignment {
    let mut assignment = assignment(slot);
    let task = assignment.work.clone().unwrap().task.clone();
    assignment.work = Ok(Arc::new(Work { task, restart }));
    assignment
}

/// What is found of the first one in the boot in which it was started.
fn recovered(restart: u32, restarts_at: Vec<(u64, u32)>, ran_before: bool, found: Found) -> Recovered {
    let (allocation, traces, policy, booted) = (id(1), None, None, false);
    Recovered { allocation, restart, restarts_at, ran_before, found, traces, policy, booted }
}

/// An agent and its driver. Calls to the cell gather in `sent`, until the test answers them.
struct Story {
    now_ms: u64,
    agent: AgentReconciler,
    driver: FakeDriver,
    epoch: u32,
    sent: Vec<Output>,
    /// Everything that was reported, in order.
    reported: Vec<(AllocationId, AllocationState)>,
    /// What the cell says that it has heard of this machine's fitness.
    heard_unfit: Option<Unfit>,
}

impl Story {
    fn new(fate: impl FnMut(&TaskSpec) -> Fate + Send + 'static) -> Self {
        let mut story = Self {
            now_ms: 1_000_000,
            agent: AgentReconciler::new(Settings::default(), 0, 0),
            driver: FakeDriver::new(fate),
            epoch: 1,
            sent: Vec::new(),
            reported: Vec::new(),
            heard_unfit: None,
        };
        story.begin();
        story
    }

    /// Begins the agent's life, or a new one.
    fn begin(&mut self) {
        self.sent.clear();
        let recovered = self.driver.recover().unwrap();
        self.input(Input::Recovered(recovered));
    }

    fn crash(&mut self) {
        self.agent = AgentReconciler::new(Settings::default(), 0, 0);
        self.begin();
    }

    fn input(&mut self, input: Input) {
        let mut inputs = VecDeque::from([input]);
        // Zero-delay events of the driver happen at once.
        while let Some(input) = inputs.pop_front() {
            for output in self.agent.handle(self.now_ms, input) {
                match output {
                    Output::Start(task) => self.driver.start(task),
                    Output::Stop(allocation) => self.driver.stop(allocation),
                    Output::Forget(allocation) => self.driver.forget(allocation),
                    other => {
                        if let Output::Report { transitions, .. } = &other {
                            self.reported.extend(transitions.iter().map(|(id, status)| (*id, status.state)));
                        }
                        self.sent.push(other);
                    }
                }
            }
            inputs.extend(self.driver.advance(self.now_ms).into_iter().map(Input::Driver));
        }
    }

    fn registered(&mut self) {
        assert!(matches!(self.sent.pop(), Some(Output::Register { .. })), "a registration is under way");
        self.input(Input::Registered(Registration {
            machine: MACHINE,
            epoch: self.epoch,
            lease_ms: LEASE_MS,
            renew_ms: RENEW_MS,
            revision: 10,
            incarnation: 1,
            unfit: self.heard_unfit,
        }));
        assert_eq!(self.take(|output| matches!(output, Output::Follow { .. })).len(), 1);
    }

    fn assignments(&mut self, full: bool, wanted: Vec<Assignment>, stop: &[u32]) {
        let stop = stop.iter().map(|&slot| id(slot)).collect();
        let epoch = self.epoch;
        self.input(Input::Assignments { machine: MACHINE, epoch, revision: 6, full, wanted, stop, keep: Vec::new() });
    }

    fn take(&mut self, which: impl Fn(&Output) -> bool) -> Vec<Output> {
        let (taken, kept) = std::mem::take(&mut self.sent).into_iter().partition(which);
        self.sent = kept;
        taken
    }

    /// Answers reports until there are none.
    fn answer_reports(&mut self) {
        while let [Output::Report { number, .. }] = self.take(|output| matches!(output, Output::Report { .. }))[..] {
            self.input(Input::ReportAnswered { number, revision: 7, register: false });
        }
    }

    /// Lets time pass; the cell answers each report at once where `answered`.
    fn pass_ms(&mut self, span_ms: u64, answered: bool) {
        let end_ms = self.now_ms + span_ms;
        loop {
            if answered {
                self.answer_reports();
            }
            let next = [self.agent.next_wake_millis(), self.driver.next_at_ms()].into_iter().flatten().min();
            let next = next.filter(|next_ms| *next_ms <= end_ms);
            self.now_ms = next.map_or(end_ms, |next_ms| next_ms.max(self.now_ms));
            self.input(Input::Tick);
            if next.is_none() {
                return;
            }
        }
    }

    fn starts(&self) -> Vec<(u32, u32)> {
        self.driver.starts().iter().map(|(allocation, restart)| (allocation.slot, *restart)).collect()
    }

    fn running(&self) -> Vec<u32> {
        self.driver.running().map(|allocation| allocation.slot).collect()
    }

    /// The states that were reported of one allocation.
    fn reported(&self, slot: u32) -> Vec<AllocationState> {
        self.reported.iter().filter(|(allocation, _)| *allocation == id(slot)).map(|(_, state)| *state).collect()
    }

    fn status(&self, slot: u32) -> Option<Status> {
        self.agent.standings().find(|(allocation, _)| *allocation == id(slot)).and_then(|(_, status)| status)
    }
}

use AllocationState::{Complete, EndedLost, Failed, Running, Starting, Stopped};

#[test]
fn a_wanted_task_is_started_once_and_its_end_reported_until_answered() {
    let mut story = Story::new(|_| Fate::succeeds_after_ms(50));
    story.registered();
    story.assignments(true, vec![assignment(1)], &[]);
    story.assignments(false, vec![assignment(1)], &[]);
    assert_eq!(story.starts(), [(1, 0)]);
    story.pass_ms(100, false);
    assert_eq!(story.reported(1), [Running]);
    let [Output::Report { number, .. }] = story.take(|_| true)[..] else { panic!() };
    story.input(Input::ReportFailed { number });
    story.pass_ms(1000, true);
    assert_eq!(story.reported(1), [Running, Complete]);
    assert_eq!(story.agent.standings().count(), 0, "forgotten when answered");
    story.assignments(true, vec![assignment(1)], &[]);
    story.pass_ms(1000, true);
    assert_eq!(story.reported(1), [Running, Complete, Complete], "a set from before the answer gets the same answer");
    assert_eq!(story.starts(), [(1, 0)]);
}

#[test]
fn nothing_starts_before_the_whole_set_is_known() {
    let mut story = Story::new(|_| Fate::runs_for_ever());
    story.registered();
    story.assignments(false, vec![assignment(1)], &[]);
    assert_eq!(story.starts(), []);
    story.assignments(true, vec![assignment(1)], &[]);
    assert_eq!(story.starts(), [(1, 0)]);
}

// Starts waited for their turn at a slow disk, and the cell was told that they were starting. The next agent found no trace of them, had to
// think that they had run, and they had failed without ever having been made.
#[test]
fn a_start_that_is_not_written_down_yet_is_not_told_and_the_next_agent_makes_it() {
    let mut story = Story::new(|_| Fate { recorded_after_ms: 2000, starts_after_ms: 2000, ..Fate::runs_for_ever() });
    story.registered();
    story.assignments(true, vec![assignment(1)], &[]);
    story.pass_ms(1500, true);
    assert_eq!((story.reported(1), story.starts()), (vec![], vec![(1, 0)]));
    story.crash();
    story.registered();
    story.assignments(true, vec![Assignment { may_start: story.reported(1).is_empty(), ..assignment(1) }], &[]);
    story.pass_ms(2500, true);
    assert_eq!(story.reported(1), [Starting], "now it is written down");
    story.pass_ms(2500, true);
    assert_eq!((story.reported(1), story.starts()), (vec![Starting, Running], vec![(1, 0)]));
}

#[test]
fn a_successor_waits_until_its_list_is_empty() {
    let mut story = Story::new(|_| Fate { stops_after_ms: 100, ..Fate::runs_for_ever() });
    story.registered();
    story.assignments(true, vec![assignment(1)], &[]);
    let successor = Assignment { takes_over: vec![id(1)], ..assignment(2) };
    story.assignments(false, vec![successor], &[1]);
    story.pass_ms(50, true);
    assert_eq!(story.running(), [1]);
    story.pass_ms(100, true);
    assert_eq!((story.reported(1), story.starts()), (vec![Running, Stopped], vec![(1, 0)]));
    story.assignments(false, vec![assignment(2)], &[]);
    assert_eq!(story.starts(), [(1, 0), (2, 0)]);
}

#[test]
fn a_receipt_comes_only_when_nothing_is_left() {
    let mut story = Story::new(|_| Fate { gone_after_ms: 700, ..Fate::succeeds_after_ms(10) });
    story.registered();
    story.assignments(true, vec![assignment(1)], &[]);
    story.pass_ms(600, true);
    assert_eq!(story.reported(1), [Running]);
    story.pass_ms(200, true);
    assert_eq!(story.reported(1), [Running, Complete]);
}

#[test]
fn what_is_not_in_the_whole_set_is_stopped() {
    let mut story = Story::new(|_| Fate::runs_for_ever());
    story.registered();
    story.assignments(true, vec![assignment(1), assignment(2)], &[]);
    story.assignments(true, vec![assignment(2)], &[]);
    story.answer_reports();
    assert_eq!((story.running(), story.reported(1).last()), (vec![2], Some(&Stopped)));
}

#[test]
fn a_stop_of_something_that_is_not_here_gets_a_receipt() {
    let mut story = Story::new(|_| Fate::runs_for_ever());
    story.registered();
    story.assignments(true, vec![], &[9]);
    assert_eq!(story.reported(9), [Stopped]);
}

#[test]
fn what_was_started_before_and_left_no_trace_is_not_started_again() {
    let mut story = Story::new(|_| Fate::runs_for_ever());
    story.registered();
    story.assignments(true, vec![Assignment { may_start: false, ..assignment(1) }], &[]);
    assert_eq!((story.starts(), story.reported(1)), (vec![], vec![Failed]));
}

#[test]
fn what_this_agent_can_not_run_fails_with_the_reason() {
    let mut story = Story::new(|_| Fate::runs_for_ever());
    story.registered();
    let work = Err("the driver oci is not there yet".to_owned());
    story.assignments(true, vec![Assignment { work, ..assignment(1) }], &[]);
    assert_eq!(story.status(1).unwrap().reason.as_ref(), "the driver oci is not there yet");
    assert_eq!(story.reported(1), [Failed]);
}

// It had failed at once, and the shim of the earlier agent that was on its way to it ran it all the same.
#[test]
fn what_an_earlier_agent_wrote_down_and_this_one_can_not_run_is_given_up_before_it_fails() {
    let mut story = Story::new(|_| Fate::runs_for_ever());
    let (restart, found) = (0, Found::NotStarted);
    let (restarts_at, ran_before) = (vec![], false);
    let recorded = recovered(restart, restarts_at, ran_before, found);
    story.agent = AgentReconciler::new(Settings::default(), 0, 0);
    story.sent.clear();
    story.input(Input::Recovered(vec![recorded]));
    story.registered();
    let outputs = story.agent.handle(
        story.now_ms,
        Input::Assignments {
            machine: MACHINE,
            epoch: 1,
            revision: 6,
            full: true,
            wanted: vec![],
            stop: vec![],
            keep: vec![id(1)],
        },
    );
    assert_eq!(outputs, [Output::Stop(id(1))]);
    let exit = Exit { stop_requested: true, ..Exit::default() };
    story.input(Input::Driver(DriverEvent::Exited { allocation: id(1), restart, exit }));
    assert_eq!(story.reported(1), []);
    story.input(Input::Driver(DriverEvent::Gone { allocation: id(1), restart }));
    assert_eq!(story.reported(1), [Failed]);
    assert_eq!(story.status(1).unwrap().reason.as_ref(), "the cell does not know it, and there is no trace of it here");
}

#[test]
fn failures_restart_within_the_policy_and_then_fail() {
    let mut story = Story::new(|_| Fate { gone_after_ms: 500, ..Fate::exits_after_ms(10, 3) });
    story.registered();
    let policy = RestartPolicy { attempts: 2, delay_ms: 1000, within_ms: 0 };
    story.assignments(true, vec![with_restarts(1, policy)], &[]);
    story.pass_ms(1400, true);
    assert_eq!(story.starts(), [(1, 0)], "the delay begins when nothing is left");
    story.pass_ms(200, true);
    assert_eq!(story.starts(), [(1, 0), (1, 1)]);
    story.pass_ms(5000, true);
    assert_eq!(story.starts(), [(1, 0), (1, 1), (1, 2)]);
    assert_eq!(story.reported(1), [Running, Running, Running, Running, Running, Failed]);
}

// The cell takes no step back from running to starting: while a task waited for its restart, it was thought to be ready, and another one of its
// group was moved away.
#[test]
fn a_task_that_waits_for_its_restart_is_not_ready() {
    let mut story = Story::new(|_| Fate::exits_after_ms(10, 3));
    story.registered();
    let policy = RestartPolicy { attempts: 1, delay_ms: 5000, within_ms: 0 };
    story.assignments(true, vec![with_restarts(1, policy)], &[]);
    let standing = |story: &Story| story.status(1).map(|status| (status.state, status.ready));
    assert_eq!(standing(&story), Some((Running, true)));
    story.pass_ms(100, true);
    assert_eq!(
        (story.reported(1), standing(&story)),
        (vec![Running], Some((Running, false))),
        "it may be back in a moment"
    );
    story.pass_ms(900, true);
    assert_eq!((story.reported(1), standing(&story)), (vec![Running, Running], Some((Running, false))));
    story.crash();
    assert_eq!(standing(&story), Some((Running, false)), "nor to the next agent");
}

// The next agent took it for a first start. The cell, which takes no step back, went on to think that it is ready.
#[test]
fn a_task_whose_restart_is_on_its_way_is_not_ready_to_the_next_agent_either() {
    let mut story = Story::new(|task| match task.restart {
        0 => Fate::exits_after_ms(10, 3),
        _ => Fate { starts_after_ms: 60_000, ..Fate::runs_for_ever() },
    });
    story.registered();
    let policy = RestartPolicy { attempts: 1, delay_ms: 0, within_ms: 0 };
    story.assignments(true, vec![with_restarts(1, policy)], &[]);
    story.pass_ms(100, true);
    let standing = |story: &Story| story.status(1).map(|status| (status.state, status.ready));
    assert_eq!((story.starts(), story.reported(1)), (vec![(1, 0), (1, 1)], vec![Running]), "told that it is ready");
    assert_eq!(standing(&story), Some((Running, false)));
    story.crash();
    assert_eq!(standing(&story), Some((Running, false)), "nor to the next agent");
}

// The stream and the report under way both said that the epoch was over, as they do when a lease ran out. The second word took back the registration
// that the first one had brought about: its answer was not used, and another one was sent that knew nothing of it.
#[test]
fn an_agent_that_registers_already_is_not_told_to_by_an_older_report() {
    let mut story = Story::new(|_| Fate::runs_for_ever());
    story.registered();
    story.assignments(true, vec![assignment(1)], &[]);
    let [Output::Report { number, .. }] = story.take(|output| matches!(output, Output::Report { .. }))[..] else {
        panic!("one report is under way")
    };
    story.input(Input::FollowRefused { machine: MACHINE, epoch: 1 });
    story.pass_ms(200, false);
    assert_eq!(story.sent.iter().filter(|output| matches!(output, Output::Register { .. })).count(), 1);
    story.input(Input::ReportAnswered { number, revision: 7, register: true });
    story.epoch = 2;
    story.registered();
    assert!(story.agent.is_in(MACHINE, 2));
}

#[test]
fn restarts_outside_the_window_do_not_count() {
    let (tell, told) = std::sync::mpsc::channel();
    let mut story = Story::new(move |task| {
        tell.send(task.restarts_at().len()).unwrap();
        Fate::exits_after_ms(10_000, 3)
    });
    story.registered();
    let policy = RestartPolicy { attempts: 2, delay_ms: 10, within_ms: 15_000 };
    story.assignments(true, vec![with_restarts(1, policy)], &[]);
    story.pass_ms(45_000, true);
    assert_eq!(story.starts(), [(1, 0), (1, 1), (1, 2), (1, 3), (1, 4)]);
    assert_eq!(told.try_iter().collect::<Vec<_>>(), [0, 1, 2, 2, 2], "what each start is written down with");
}

// A machine's clock was a day ahead when its task was restarted, and then set. For that day each failure was the last, as all restarts before
// counted as if they had been just now.
#[test]
fn restarts_that_a_clock_put_into_the_future_do_not_count() {
    let mut story = Story::new(|_| Fate::runs_for_ever());
    let mut found = |restarted_at_ms: u64| {
        let exit = Exit { code: Some(3), ..Exit::default() };
        let (ran_before, found) = (true, Found::Ended(exit));
        let recovered = recovered(1, vec![(restarted_at_ms, 1)], ran_before, found);
        story.crash();
        story.input(Input::Recovered(vec![recovered]));
        story.registered();
        let policy = RestartPolicy { attempts: 1, delay_ms: 10, within_ms: 5000 };
        story.assignments(true, vec![with_restarts(1, policy)], &[]);
        story.pass_ms(100, true);
        story.reported(1).last().copied()
    };
    let now_ms = 1_000_000;
    assert_eq!(found(now_ms + 86_400_000), Some(Running));
    assert_eq!(found(now_ms + 2000), Some(Failed), "its shim's clock may be a little ahead of the agent's");
}

#[test]
fn a_command_that_is_not_there_is_not_tried_again() {
    use crate::driver::{Failure, FailureKind};
    let exit = Exit::failed(Failure::new(FailureKind::CommandNotFound, "command not found: x"), 0);
    let mut story = Story::new(move |_| Fate { exit: exit.clone(), ..Fate::succeeds_after_ms(0) });
    story.registered();
    let policy = RestartPolicy { attempts: 5, delay_ms: 0, within_ms: 0 };
    story.assignments(true, vec![with_restarts(1, policy)], &[]);
    let status = story.status(1).unwrap();
    assert_eq!((status.state, status.exit_code, status.reason.as_ref()), (Failed, 127, "command not found: x"));
    assert_eq!(story.reported(1), [Failed]);
}

#[test]
fn what_a_restored_cell_does_not_know_runs_on_until_it_is_told_to_stop() {
    let mut story = Story::new(|_| Fate::exits_after_ms(60_000, 0));
    story.registered();
    story.assignments(true, vec![assignment(1), assignment(2)], &[]);
    story.pass_ms(1000, true);
    let keep = |slots: &[u32]| slots.iter().map(|&slot| id(slot)).collect();
    let (machine, epoch, revision, full) = (MACHINE, story.epoch, 3, true);
    let (wanted, stop) = (Vec::new(), Vec::new());
    story.input(Input::Assignments { machine, epoch, revision, full, wanted, stop, keep: keep(&[1]) });
    story.pass_ms(1000, true);
    let running: Vec<_> = story.driver.running().map(|allocation| allocation.slot).collect();
    assert_eq!(running, [1], "only what is neither wanted nor kept is stopped");
    story.assignments(false, Vec::new(), &[1]);
    story.pass_ms(1000, true);
    assert_eq!(story.driver.running().count(), 0);
    assert_eq!(story.reported(1).last(), Some(&Stopped), "its receipt frees the room");
}

#[test]
fn tasks_survive_their_agent_and_are_reported_by_the_next_one() {
    let mut story = Story::new(|_| Fate::exits_after_ms(5000, 0));
    story.registered();
    story.assignments(true, vec![assignment(1)], &[]);
    story.pass_ms(1000, true);
    story.crash();
    let Some(Output::Register { inventory, .. }) = story.sent.last() else { panic!() };
    assert_eq!(
        inventory.iter().map(|item| (item.allocation.slot, item.status.state)).collect::<Vec<_>>(),
        [(1, Running)]
    );
    story.registered();
    story.assignments(true, vec![Assignment { may_start: false, ..assignment(1) }], &[]);
    story.pass_ms(5000, true);
    assert_eq!(story.starts(), [(1, 0)]);
    assert_eq!(story.reported(1), [Running, Running, Complete]);
}

#[test]
fn a_failure_while_no_agent_was_there_is_restarted_as_the_policy_says() {
    let mut story = Story::new(|_| Fate::exits_after_ms(100, 3));
    story.registered();
    let policy = RestartPolicy { attempts: 1, delay_ms: 0, within_ms: 0 };
    story.assignments(true, vec![with_restarts(1, policy)], &[]);
    story.now_ms += 200;
    story.driver.advance(story.now_ms);
    story.crash();
    story.registered();
    assert_eq!(story.starts(), [(1, 0)], "nobody can say yet whether it starts again");
    story.assignments(true, vec![Assignment { may_start: false, ..with_restarts(1, policy) }], &[]);
    assert_eq!(story.starts(), [(1, 0), (1, 1)]);
    story.pass_ms(1000, true);
    assert_eq!(story.reported(1).last(), Some(&Failed));
}

#[test]
fn a_lost_lease_stops_nothing_and_starts_nothing() {
    let mut story = Story::new(|_| Fate { stops_after_ms: 300, ..Fate::runs_for_ever() });
    story.registered();
    story.assignments(true, vec![assignment(1), assignment(2)], &[]);
    story.answer_reports();
    story.pass_ms(LEASE_MS + RENEW_MS, false);
    assert_eq!((story.agent.leases_lost(), story.running()), (1, vec![1, 2]));
    story.assignments(false, vec![assignment(3)], &[]);
    assert_eq!(story.starts().len(), 2, "the epoch's assignments are over");
    // Back, in a new epoch: 1 was placed elsewhere meanwhile. It goes before anything new starts.
    story.epoch = 2;
    story.take(|output| !matches!(output, Output::Register { .. }));
    story.registered();
    assert_eq!(story.agent.fenced(), None, "what is wanted is not known");
    story.assignments(true, vec![assignment(2), assignment(3)], &[1]);
    assert_eq!((story.starts().len(), story.agent.fenced()), (2, Some(1)));
    story.pass_ms(400, true);
    assert_eq!(story.agent.fenced(), Some(0));
    assert_eq!((story.running(), story.starts().last()), (vec![2, 3], Some(&(3, 0))));
    assert_eq!(story.reported(1).last(), Some(&Stopped));
}

#[test]
fn a_lease_counts_from_the_sending_of_what_was_answered() {
    let mut story = Story::new(|_| Fate::runs_for_ever());
    story.registered();
    story.assignments(true, vec![], &[]);
    story.pass_ms(RENEW_MS, false);
    let [Output::Report { number, .. }] = story.take(|_| true)[..] else { panic!("a renewal") };
    story.pass_ms(LEASE_MS - RENEW_MS - 1000, false);
    story.input(Input::ReportAnswered { number, revision: 7, register: false });
    // Sent at RENEW_MS after the registration, answered 6 s later: it holds until RENEW_MS + LEASE_MS, not longer.
    story.pass_ms(RENEW_MS + 1000 - 1, false);
    assert_eq!(story.agent.leases_lost(), 0);
    story.pass_ms(1, false);
    assert_eq!(story.agent.leases_lost(), 1);
}

#[test]
fn an_idle_agent_reports_only_to_renew_its_lease() {
    let mut story = Story::new(|_| Fate::runs_for_ever());
    story.registered();
    story.assignments(true, vec![assignment(1)], &[]);
    story.pass_ms(30 * RENEW_MS, true);
    assert_eq!(story.agent.report_number(), 31, "one for the start, and one per renewal");
}

#[test]
fn a_shutdown_stops_what_runs_and_leaves_the_rest_to_the_cell() {
    let mut story = Story::new(|_| Fate { stops_after_ms: 200, ..Fate::runs_for_ever() });
    story.registered();
    story.assignments(true, vec![assignment(1), Assignment { takes_over: vec![id(9)], ..assignment(2) }], &[]);
    story.answer_reports();
    story.input(Input::Shutdown);
    story.answer_reports();
    assert!(!story.sent.contains(&Output::Finished) && !story.agent.has_left());
    story.pass_ms(300, true);
    assert!(story.sent.contains(&Output::Finished) && story.agent.has_left());
    assert_eq!((story.running(), story.reported(1).last(), story.reported(2).len()), (vec![], Some(&Failed), 0));
}

#[test]
fn a_machine_that_booted_lost_its_tasks_and_starts_none_of_them_again() {
    let mut story = Story::new(|_| Fate::runs_for_ever());
    story.registered();
    story.assignments(true, vec![with_restarts(1, RestartPolicy { attempts: 9, delay_ms: 0, within_ms: 0 })], &[]);
    story.answer_reports();
    story.driver.reboot();
    story.crash();
    story.epoch = 2;
    story.registered();
    story.assignments(true, vec![], &[1]);
    story.pass_ms(1000, true);
    assert_eq!((story.starts(), story.reported(1).last()), (vec![(1, 0)], Some(&EndedLost)));
}

// Of a machine that was shut down the last word was that its tasks had failed, where the agent had a moment longer than they.
#[test]
fn an_agent_that_leaves_draws_no_conclusions_from_ends_that_others_asked_for() {
    let told = Exit { code: None, signal: Some(15), stop_requested: true, ..Fate::runs_for_ever().exit };
    let mut story = Story::new(move |_| Fate { exit: told.clone(), ..Fate::succeeds_after_ms(100) });
    story.registered();
    story.assignments(true, vec![assignment(1)], &[]);
    story.input(Input::Leave);
    story.pass_ms(1000, true);
    assert_eq!((story.reported(1).last(), story.running()), (Some(&Running), vec![]));
    story.driver.reboot();
    story.crash();
    assert_eq!(
        story.status(1).map(|status| status.state),
        Some(Running),
        "the cell counts it as lost with its machine"
    );
}

// The first registration after a boot was made before the agent had drawn its conclusions: a task that had ended well ran again elsewhere. In
// further ones, as when the network comes up late, tasks that the boot had ended counted as failed, and used up their attempts.
#[test]
fn each_registration_after_a_boot_tells_what_had_ended_before_and_what_is_lost() {
    let mut story = Story::new(|task| match task.allocation {
        one if one == id(1) => Fate::succeeds_after_ms(100),
        _ => Fate::runs_for_ever(),
    });
    story.registered();
    story.assignments(true, vec![assignment(1), assignment(2)], &[]);
    story.now_ms += 200;
    story.driver.advance(story.now_ms);
    story.driver.reboot();
    story.crash();
    for _ in 0..3 {
        let [Output::Register { inventory, .. }] = &story.take(|_| true)[..] else { panic!("{:?}", story.sent) };
        let states: Vec<_> = inventory.iter().map(|item| (item.allocation.slot, item.status.state)).collect();
        assert_eq!(states, [(1, Complete), (2, EndedLost)]);
        story.input(Input::RegisterFailed);
        story.pass_ms(Settings::default().retry_ms_max, false);
    }
}

/// What the first registration after a boot says of a task that had ended so, and that may be restarted that often.
fn told_after_a_boot(exit: Exit, attempts: u32) -> (AllocationState, i32) {
    let mut story = Story::new(move |_| Fate { exit: exit.clone(), ..Fate::succeeds_after_ms(100) });
    story.registered();
    let policy = RestartPolicy { attempts, delay_ms: 60_000, within_ms: 0 };
    story.assignments(true, vec![with_restarts(1, policy)], &[]);
    story.now_ms += 200;
    story.driver.advance(story.now_ms);
    story.driver.reboot();
    story.crash();
    let [Output::Register { inventory, .. }] = &story.take(|_| true)[..] else { panic!("{:?}", story.sent) };
    (inventory[0].status.state, inventory[0].status.exit_code)
}

// Nobody knew any more how often it might be restarted, so the registration had it as running: the cell took it for
// lost with its machine, and a job that was to run once ran again.
#[test]
fn a_task_that_had_failed_for_good_before_a_boot_has_failed() {
    let failed = Fate::exits_after_ms(0, 3).exit;
    assert_eq!(told_after_a_boot(failed.clone(), 0), (Failed, 3));
    assert_eq!(told_after_a_boot(failed, 1), (EndedLost, 0), "it was to be started again");
}

#[test]
fn what_a_shutdown_may_have_ended_is_left_to_the_cell_as_lost_with_its_machine() {
    let killed = |signal| Exit { code: None, signal: Some(signal), ..Fate::runs_for_ever().exit };
    for signal in [9, 15] {
        assert_eq!(told_after_a_boot(killed(signal), 0), (Running, 0));
    }
    assert_eq!(told_after_a_boot(killed(11), 0), (Failed, 139));
    let told = Exit { stop_requested: true, ..Fate::exits_after_ms(0, 3).exit };
    assert_eq!(told_after_a_boot(told, 0), (Running, 0));
}

// A machine was shut down: its shims were told to end, and a task that ended well then, in the middle of its work, counted as complete after
// the boot. So did one whose agent was ended with its tasks while the cell was away.
#[test]
fn a_task_that_ends_well_because_others_told_it_to_is_not_complete() {
    let obeys = Exit { stop_requested: true, ..Fate::succeeds_after_ms(0).exit };
    let mut story = Story::new(move |_| Fate { exit: obeys.clone(), ..Fate::succeeds_after_ms(100) });
    let restarts = RestartPolicy { attempts: 1, delay_ms: 0, within_ms: 0 };
    story.registered();
    story.assignments(true, vec![assignment(1), with_restarts(2, restarts)], &[]);
    story.now_ms += 200;
    story.driver.advance(story.now_ms);
    story.crash();
    story.registered();
    let known = |assignment: Assignment| Assignment { may_start: false, ..assignment };
    story.assignments(true, vec![known(assignment(1)), known(with_restarts(2, restarts))], &[]);
    assert_eq!((story.reported(1).last(), story.starts().last()), (Some(&Failed), Some(&(2, 1))));
    assert!(!story.reported.iter().any(|(_, state)| *state == Complete));
}

#[test]
fn a_refused_registration_starts_nothing_and_stops_nothing() {
    let mut story = Story::new(|_| Fate::runs_for_ever());
    story.registered();
    story.assignments(true, vec![assignment(1)], &[]);
    story.crash();
    let mut asked = 0;
    while asked < 20 {
        // Nothing but the registration is under way, so nothing of the set below is of this registration.
        let [Output::Register { .. }] = story.take(|_| true)[..] else { panic!("{:?}", story.sent) };
        asked += 1;
        story.assignments(true, vec![assignment(2)], &[]);
        let before_ms = story.now_ms;
        story.input(Input::RegisterFailed);
        assert_eq!(story.take(|_| true), [], "it waits before it asks again");
        story.pass_ms(Settings::default().retry_ms_max, false);
        assert!(story.now_ms > before_ms);
        assert_eq!((story.starts(), story.running()), (vec![(1, 0)], vec![1]));
    }
    story.registered();
    story.assignments(true, vec![assignment(2)], &[]);
    story.pass_ms(2000, true);
    assert_eq!(story.running(), [2]);
}

#[test]
fn what_was_seen_only_rises_and_a_refused_offer_is_not_seen() {
    let mut story = Story::new(|_| Fate::runs_for_ever());
    story.registered();
    assert!(story.agent.is_in(MACHINE, 1));
    assert_eq!(story.agent.seen(), (1, 10));
    story.pass_ms(LEASE_MS, false);
    let offer = |revision| Registration {
        machine: MACHINE,
        epoch: 2,
        lease_ms: LEASE_MS,
        renew_ms: RENEW_MS,
        revision,
        incarnation: 1,
        unfit: None,
    };
    story.input(Input::Registered(offer(4)));
    let refused = |story: &mut Story| story.take(|output| matches!(output, Output::Refuse { .. }));
    assert_eq!(refused(&mut story), [Output::Refuse { offered: (1, 4), seen: (1, 10) }]);
    assert_eq!((story.agent.is_in(MACHINE, 2), story.agent.seen()), (false, (1, 10)));
}

#[test]
fn an_agent_that_had_not_heard_of_an_epoch_registers_again_knowing_it() {
    let mut story = Story::new(|_| Fate::runs_for_ever());
    let again = Input::RegisterAgain { incarnation: 2, revision: 70 };
    assert!(matches!(story.sent.pop(), Some(Output::Register { revision: 0, .. })));
    story.input(again.clone());
    assert!(matches!(story.take(|_| true)[..], [Output::Register { revision: 70, incarnation: 2, .. }]), "at once");
    story.input(again.clone());
    assert_eq!(story.take(|_| true), [], "a server that asks for it again and again is not asked without a pause");
    story.pass_ms(Settings::default().retry_ms_max, false);
    assert!(matches!(story.take(|_| true)[..], [Output::Register { revision: 70, .. }]));
    // Where it had failed before, it waited as after a failure, seconds in which its machine was away.
    story.input(again);
    assert!(matches!(story.take(|_| true)[..], [Output::Register { revision: 70, .. }]), "at once");
}

// Its machine was removed, and what it ran was placed elsewhere; it heard of that on its stream, and asked for the same stream again, until its
// next report some seconds later.
#[test]
fn an_agent_that_hears_on_its_stream_that_its_epoch_is_over_registers_at_once() {
    let mut story = Story::new(|_| Fate::runs_for_ever());
    story.registered();
    let refused = |epoch| Input::FollowRefused { machine: MACHINE, epoch };
    story.input(refused(1));
    assert!(story.agent.is_in(MACHINE, 1), "right after a registration it is asked again");
    story.assignments(true, vec![assignment(1)], &[]);
    story.answer_reports();
    story.input(refused(7));
    assert!(story.agent.is_in(MACHINE, 1), "it was another epoch's");
    story.take(|_| true);
    story.input(refused(1));
    story.pass_ms(Settings::default().retry_ms_min, false);
    assert!(matches!(story.take(|_| true)[..], [Output::Register { .. }]));
}

/// After a restore the cell wants what it does not know as it is, and can't say what it is.
#[test]
fn a_task_that_the_cell_does_not_know_goes_on_as_it_is() {
    let mut story =
        Story::new(|task| if task.allocation == id(2) { Fate::exits_after_ms(500, 1) } else { Fate::runs_for_ever() });
    story.registered();
    let restarts = RestartPolicy { attempts: 5, delay_ms: 3000, within_ms: 0 };
    story.assignments(true, vec![assignment(1), with_restarts(2, restarts)], &[]);
    story.pass_ms(1000, true);
    story.crash();
    let Some(Output::Register { inventory, .. }) = story.sent.last() else { panic!() };
    let traces: Vec<_> = inventory.iter().map(|item| item.traces.as_ref().map(|traces| traces.task)).collect();
    assert_eq!(traces, [Some(1), Some(2)], "what was written down at the start");
    story.registered();
    let (machine, epoch, revision, full) = (MACHINE, story.epoch, 3, true);
    let (wanted, stop, keep) = (Vec::new(), Vec::new(), vec![id(1), id(3)]);
    story.input(Input::Assignments { machine, epoch, revision, full, wanted, stop, keep });
    story.pass_ms(5000, true);
    assert_eq!(story.running(), [1]);
    assert_eq!(story.reported(3), [Failed], "one that is not here is reported so");
    story.assignments(false, vec![], &[1]);
    story.pass_ms(1000, true);
    assert_eq!(story.reported(1).last(), Some(&Stopped));
}
