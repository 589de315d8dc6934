//! Random lives of a stage: whatever breaks on the way, mirrors stay true, and in the end everything is placed, once.

use std::cell::RefCell;
use std::collections::BTreeSet;
use std::rc::Rc;

use plenum_model::{JobState, Quota, QuotaUse, SessionId};
use plenum_sdk::{Decision, Plan, Scheduler, Settings, Unanswered, View};
use proptest::prelude::*;

use super::*;

/// What a scheduler has planned.
#[derive(Default)]
struct Plans {
    /// The newest one's tag.
    newest: u64,
    /// Those of which nothing was heard.
    unheard: BTreeSet<u64>,
}

/// Claims the emptiest machine for each task.
struct Anywhere {
    name: &'static str,
    plans: Rc<RefCell<Plans>>,
}

impl Anywhere {
    fn hear(&self, tag: u64) {
        assert!(self.plans.borrow_mut().unheard.remove(&tag), "of plan {tag} it has heard before");
    }
}

impl Scheduler for Anywhere {
    fn name(&self) -> &str {
        self.name
    }

    fn decide(&mut self, view: &View<'_>) -> Decision {
        let (mut decision, mut ledger) = (Decision::default(), view.ledger());
        for work in view.work() {
            let mut plan = Plan::incremental();
            for &task in &work.tasks {
                let slots = view.cell().machines().map(|machine| machine.id.slot);
                if let Some(slot) = slots.into_iter().find(|&slot| ledger.take(work, slot)) {
                    plan.claim(work, &[task], &[slot]);
                }
            }
            if !plan.is_empty() {
                let mut plans = self.plans.borrow_mut();
                plans.newest += 1;
                let tag = plans.newest;
                plans.unheard.insert(tag);
                decision.commit(plan.tagged(tag));
            }
        }
        decision
    }

    fn answered(&mut self, tag: u64, _: &Outcome) {
        self.hear(tag);
    }

    fn unanswered(&mut self, tag: u64, _: &Unanswered) {
        self.hear(tag);
    }
}

const NAMES: [&str; 2] = ["blue", "green"];
const NAMESPACES: [&str; 2] = ["default", "lab"];

#[derive(Clone, Debug)]
enum Happening {
    Submit {
        scheduler: usize,
        namespace: usize,
        count: u32,
        cpu_millis: i64,
        same_machine: bool,
    },
    Finish {
        job: usize,
        success: bool,
    },
    Hold(usize),
    Release(usize),
    Cut(usize),
    CutAnswers(usize),
    Close(usize),
    /// The next transaction of a scheduler gets this code.
    Reject(usize, &'static str),
    Advance(i64),
    Machine,
    Remove(usize),
    /// What a namespace may have: nothing is said of it where `None`.
    Quota {
        namespace: usize,
        cpu_millis: Option<u64>,
    },
    /// A job holds room on machines, or gives it back.
    Room {
        job: usize,
        machines: usize,
    },
}

fn happening() -> impl Strategy<Value = Happening> {
    let seat = 0usize..3;
    prop_oneof![
        4 => (0usize..2, 0usize..2, 1u32..6, 1i64..4, any::<bool>()).prop_map(|submitted| {
            let (scheduler, namespace, count, cpu, same_machine) = submitted;
            Happening::Submit { scheduler, namespace, count, cpu_millis: cpu * 500, same_machine }
        }),
        3 => (any::<usize>(), prop::bool::weighted(0.8)).prop_map(|(job, success)| Happening::Finish { job, success }),
        2 => seat.clone().prop_map(Happening::Hold),
        2 => seat.clone().prop_map(Happening::Release),
        1 => seat.clone().prop_map(Happening::Cut),
        1 => seat.clone().prop_map(Happening::CutAnswers),
        1 => seat.clone().prop_map(Happening::Close),
        1 => (seat, prop::sample::select(vec!["QUEUE_FULL", "READ_ONLY", "OUTCOME_UNKNOWN"]))
            .prop_map(|(seat, code)| Happening::Reject(seat, code)),
        4 => (1i64..3_000_000).prop_map(Happening::Advance),
        1 => Just(Happening::Machine),
        1 => any::<usize>().prop_map(Happening::Remove),
        2 => (0usize..2, prop::option::weighted(0.7, 0u64..20)).prop_map(|(namespace, cpu)| {
            Happening::Quota { namespace, cpu_millis: cpu.map(|cpu| cpu * 500) }
        }),
        1 => (any::<usize>(), 0usize..3).prop_map(|(job, machines)| Happening::Room { job, machines }),
    ]
}

fn happen(stage: &mut Stage, seats: &[Seat], jobs: &mut Vec<JobId>, what: Happening) {
    match what {
        Happening::Submit { scheduler, namespace, count, cpu_millis, same_machine } => {
            let name = format!("job{}", jobs.len());
            let job = JobBuilder::new(&name, NAMES[scheduler]).namespace(NAMESPACES[namespace]);
            let job = job.group("first", count, cpu_millis);
            let job = job.group("second", count, cpu_millis).after("first").forgiving();
            jobs.push(stage.submit(&if same_machine { job.same_machine() } else { job }));
        }
        Happening::Finish { job, success } if !jobs.is_empty() => stage.finish(jobs[job % jobs.len()], success),
        Happening::Hold(seat) => stage.hold(seats[seat]),
        Happening::Release(seat) => stage.release(seats[seat]),
        Happening::Cut(seat) => stage.cut(seats[seat]),
        Happening::CutAnswers(seat) => stage.cut_answers(seats[seat]),
        Happening::Close(seat) => {
            let session = stage.runtime(seats[seat]).session();
            if stage.cell().session(session).is_some() {
                stage.close_session(session);
            }
        }
        Happening::Reject(seat, code) => stage.reject_next(seats[seat], code),
        Happening::Advance(micros) => stage.advance(micros),
        Happening::Machine => {
            let name = format!("extra{}", stage.cell().revision());
            stage.machine(&name, 3000, &[]);
        }
        Happening::Remove(machine) => {
            let slots: Vec<_> = stage.cell().machines().map(|machine| machine.id.slot).collect();
            let slot = slots[machine % slots.len()];
            if slots.len() > 1 {
                stage.remove(slot);
            }
        }
        Happening::Quota { namespace, cpu_millis } => set_quota(stage, NAMESPACES[namespace], cpu_millis),
        Happening::Room { job, machines } if !jobs.is_empty() => {
            let job = jobs[job % jobs.len()];
            let machines: Vec<_> = stage.cell().machines().map(|machine| machine.id.slot).take(machines).collect();
            let is_over = stage.cell().job(job).is_none_or(|job| job.state.is_final());
            let deadline = stage.log_time().plus_micros(2_000_000);
            let command = Command::TakeHold {
                session: SessionId::default(),
                job,
                machines,
                resources: Resources::new(100, 0),
                deadline,
            };
            if !is_over {
                // Where there is no room for it, nothing of it waits, or nothing is to be given back, nothing is held.
                stage.decide(&Request { principal: "owner".into(), namespace: "default".into(), command });
            }
        }
        Happening::Finish { .. } | Happening::Room { .. } => {}
    }
}

fn set_quota(stage: &mut Stage, namespace: &str, cpu_millis: Option<u64>) {
    let limit = cpu_millis.map(|cpu| Quota { limits: [Some(cpu), None, None, None, None, None, None, None] });
    if limit.is_some() || stage.cell().quota(namespace).is_some() {
        stage.ask("operator", Command::SetQuota { namespace: namespace.into(), limit });
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn every_job_completes_in_the_end_and_no_mirror_ever_differs(
        happenings in prop::collection::vec(happening(), 1..60),
        windows in [1usize..4, 1usize..4, 1usize..4],
    ) {
        let mut stage = Stage::new();
        stage.machine("m1", 4000, &[]);
        stage.machine("m2", 2000, &[]);
        let plans: [Rc<RefCell<Plans>>; 3] = Default::default();
        let mut seed = 0;
        let seats = windows.map(|window| {
            let plans = Rc::clone(&plans[seed]);
            seed += 1;
            let settings = Settings { window, seed: seed as u64, tasks_max: 7, ..Settings::default() };
            let name = if seed == 3 { NAMES[1] } else { NAMES[0] };
            stage.seat_with(Anywhere { name, plans }, settings)
        });
        let mut jobs = Vec::new();
        for what in happenings {
            happen(&mut stage, &seats, &mut jobs, what);
            let truth = stage.mirrored();
            let mirrors = seats.iter().filter_map(|&seat| stage.runtime(seat).mirror());
            for mirror in mirrors.filter(|mirror| mirror.revision() == truth.revision()) {
                prop_assert_eq!(mirror.first_difference(&truth), None);
            }
            for runtime in seats.iter().map(|&seat| stage.runtime(seat)) {
                let counted = runtime.mirror().map(QuotaUse::recount).unwrap_or_default();
                prop_assert_eq!(runtime.quota_use(), &counted, "what is used is kept as deltas come");
            }
        }
        NAMESPACES.iter().for_each(|namespace| set_quota(&mut stage, namespace, None));
        seats.iter().for_each(|&seat| stage.release(seat));
        // What is left waits for room, retries and connections only.
        for _ in 0..400 {
            stage.advance(1_000_000);
            jobs.iter().for_each(|&job| stage.finish(job, true));
            if stage.cell().jobs().all(|job| job.state.is_final()) {
                break;
            }
        }
        stage.advance(10_000_000);
        for &job in &jobs {
            let found = stage.cell().job(job).map(|job| job.state);
            prop_assert!(found.is_none_or(|state| state == JobState::Complete), "{:?}\n{}", found, stage.transcript());
        }
        for plans in &plans {
            prop_assert!(plans.borrow().unheard.is_empty(), "of each plan it hears");
        }
        let truth = stage.mirrored();
        for seat in seats {
            // Also those that never stood at the same revision while something happened.
            let mirror = stage.runtime(seat).mirror().expect("it had ten seconds to come back");
            prop_assert_eq!(mirror.first_difference(&truth), None);
            prop_assert_eq!(stage.runtime(seat).jobs(), 0);
            let misfits = stage.notices(seat).iter().filter(|notice| matches!(notice, Notice::Misfit { .. }));
            prop_assert_eq!(misfits.count(), 0, "planner and committer judge alike");
        }
    }
}
