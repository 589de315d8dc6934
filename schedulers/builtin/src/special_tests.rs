//! Stories of groups that ask for more than room: devices, ports, limits, spread, minimums.

use std::cell::{Cell, RefCell};
use std::rc::Rc;

use plenum_model::{Command, Constraint, Operator, Partition};
use plenum_policies::{Policy, Settings};
use plenum_sdk::{Decision, Plan, Scheduler, View};
use plenum_testkit::{JobBuilder, Seat, Stage};

use crate::batch::Batch;
use crate::placer::Placer;
use crate::service::Service;

fn machines(placed: &[(u16, u32, u32)]) -> Vec<u32> {
    let mut machines: Vec<u32> = placed.iter().map(|&(_, _, machine)| machine).collect();
    machines.sort_unstable();
    machines
}

#[test]
fn gpus_are_shared_up_to_the_last_thousandth_and_no_further() {
    let mut stage = Stage::new();
    stage.machine("plain", 16_000, &[]);
    stage.machine_with_gpus("m1", 16_000, &[], 2);
    stage.seat(Batch::default());
    let job = stage.submit(&JobBuilder::new("train", "batch").group("main", 5, 100).gpu(500));
    stage.advance(1_000_000);
    assert_eq!(machines(&stage.placed(job)), [1, 1, 1, 1]);
    assert_eq!(
        stage.passed_over(job, 0),
        "of 2 machines 2 lack gpu by at least 500m; nearest is m1, short of gpu by 500m"
    );
}

/// The GPU of any model took the only one of the model that the other names, and the task waited for ever beside an idle machine.
#[test]
fn a_task_with_a_gpu_of_any_model_and_one_of_a_named_model_gets_both_of_a_machine_that_has_them() {
    for models in [["a100", "v100"], ["v100", "a100"]] {
        let mut stage = Stage::new();
        stage.machine_with_models("m1", 8_000, &[], &models);
        stage.seat(Batch::default());
        let both = JobBuilder::new("both", "batch").group("main", 1, 100).gpu(1000).gpu_of("a100", 1000);
        let both = stage.submit(&both);
        stage.advance(1_000_000);
        assert_eq!(stage.placed(both).len(), 1, "{}", stage.passed_over(both, 0));
    }
}

#[test]
fn a_fixed_port_puts_each_task_on_a_machine_of_its_own() {
    let mut stage = Stage::new();
    for name in ["m0", "m1", "m2"] {
        stage.machine(name, 8_000, &[]);
    }
    stage.seat(Service::default());
    let job = stage.submit(&JobBuilder::new("web", "service").group("main", 4, 100).port("http", 8080).forever());
    stage.advance(1_000_000);
    assert_eq!(machines(&stage.placed(job)), [0, 1, 2]);
}

#[test]
fn spread_and_limits_are_planned_as_the_cell_judges_them() {
    let mut stage = Stage::new();
    for (name, rack) in [("m0", "a"), ("m1", "a"), ("m2", "b")] {
        stage.machine(name, 8_000, &[("rack", rack)]);
    }
    let seat = stage.seat(Batch::default());
    let racks = stage.submit(&JobBuilder::new("racks", "batch").group("main", 5, 100).spread("rack", 2));
    let each = stage.submit(&JobBuilder::new("each", "batch").group("main", 5, 100).per_machine(1));
    stage.advance(1_000_000);
    assert_eq!((stage.placed(racks).len(), machines(&stage.placed(each))), (4, vec![0, 1, 2]));
    assert_eq!(stage.runtime(seat).counters().claims_misfit, 0, "planned with the code that commits");
}

#[test]
fn a_gang_waits_until_its_minimum_fits_and_leaves_room_to_others() {
    let mut stage = Stage::new();
    stage.machine("m0", 2_000, &[]);
    let seat = stage.seat(Batch::default());
    let gang = stage.submit(&JobBuilder::new("gang", "batch").group("main", 4, 1000).min(3).priority(90));
    let small = stage.submit(&JobBuilder::new("small", "batch").group("main", 1, 1000).priority(90));
    stage.advance(1_000_000);
    assert_eq!((stage.placed(gang).len(), stage.placed(small).len()), (0, 1));
    assert!(
        stage.passed_over(gang, 0).starts_with("it starts with 3 at once, of which "),
        "{}",
        stage.passed_over(gang, 0)
    );
    stage.machine("m1", 2_000, &[]);
    stage.advance(1_000_000);
    assert_eq!(stage.placed(gang).len(), 3);
    assert_eq!(stage.runtime(seat).counters().claims_misfit, 0);
}

/// What the next one lacks read as if it were all that the gang lacks. And one for which the cell is too small was sent after that little.
#[test]
fn a_gang_says_how_many_of_it_fit_and_what_one_more_lacks_and_so_does_an_equal_one_behind_it() {
    let mut stage = Stage::new();
    stage.machine("m0", 2_500, &[]);
    stage.machine("m1", 1_200, &[]);
    stage.machine("m2", 3_000, &[]);
    stage.submit(&JobBuilder::new("full", "batch").group("main", 1, 3_000).priority(90));
    let gang = |name: &str, cpu_millis| JobBuilder::new(name, "batch").group("main", 8, cpu_millis).min(6);
    let gangs = ["one", "other"].map(|name| stage.submit(&gang(name, 1000)));
    let wide = stage.submit(&gang("wide", 2000));
    let never = stage.submit(&gang("never", 4000));
    stage.seat(Batch::default());
    stage.advance(1_000_000);
    for gang in gangs {
        assert_eq!(
            stage.passed_over(gang, 0),
            "it starts with 6 at once, of which 3 fit, and not one more: of 3 machines 3 lack cpu by at least 500m; \
             nearest is m0, short of cpu by 500m"
        );
    }
    assert_eq!(
        stage.passed_over(wide, 0),
        "it starts with 6 at once, of which 1 fits, and even on empty machines at most 2: of 3 machines 3 lack cpu by \
         at least 800m; nearest is m0, short of cpu by 1500m"
    );
    assert_eq!(
        stage.passed_over(never, 0),
        "it starts with 6 at once, of which none fits: of 3 machines 3 lack cpu by at least 1500m; \
         nearest is m0, short of cpu by 1500m, and too small even when empty"
    );
}

/// It was told that its machine is short of what one task asks for, as if it started with one.
#[test]
fn a_gang_that_shares_a_machine_says_that_one_task_is_not_all_that_has_to_fit() {
    let mut stage = Stage::new();
    stage.machine("m0", 1_500, &[]);
    stage.machine("m1", 900, &[]);
    stage.seat(Batch::default());
    let gang =
        |name: &str, cpu_millis| JobBuilder::new(name, "batch").same_machine().group("main", 4, cpu_millis).min(3);
    let (some, none) = (stage.submit(&gang("some", 1000)), stage.submit(&gang("none", 2000)));
    stage.advance(1_000_000);
    assert_eq!(
        stage.passed_over(some, 0),
        "it starts with 3 at once, and its tasks share a machine: of 2 machines 2 lack cpu by at least 1500m; \
         nearest is m0, short of cpu by 1500m, and too small even when empty"
    );
    assert_eq!(
        stage.passed_over(none, 0),
        "it starts with 3 at once, and its tasks share a machine: of 2 machines 2 lack cpu by at least 4500m; \
         nearest is m0, short of cpu by 4500m, and too small even when empty"
    );
}

/// One after the other was tried: room for all ten, and the emptiest machine with room for one. There the gang never started.
#[test]
fn a_gang_that_shares_a_machine_goes_where_its_minimum_fits_and_not_where_one_task_does() {
    let shares = || JobBuilder::new("gang", "batch").same_machine();
    let plain = shares().group("main", 10, 1000).min(3);
    let gpus = shares().group("main", 10, 100).gpu(1000).min(3);
    // The idle machine has room for the minimum of either, and not of both.
    let two = shares().group("main", 3, 1000).min(2).group("beside", 3, 1000).min(2);
    for job in [plain, gpus, two] {
        let mut stage = Stage::new();
        stage.machine_with_gpus("busy", 16_000, &[], 8);
        stage.seat(Batch::default());
        stage.submit(&JobBuilder::new("fill", "batch").group("main", 1, 11_000).gpu(1000).gpu(1000).gpu(1000));
        stage.advance(1_000_000);
        stage.machine_with_gpus("idle", 2_000, &[], 2);
        let job = stage.submit(&job);
        stage.advance(1_000_000);
        assert_eq!(machines(&stage.placed(job)), [0; 5], "{}", stage.passed_over(job, 0));
    }
}

/// Its first group went to the machine that was idle, and what came after it was too much for that, however long it waited.
#[test]
fn a_job_that_shares_a_machine_waits_for_one_on_which_the_gang_behind_its_first_group_can_start() {
    let mut stage = Stage::new();
    stage.machine("busy", 16_000, &[]);
    stage.seat(Batch::default());
    let fill = stage.submit(&JobBuilder::new("fill", "batch").group("main", 1, 15_000));
    stage.advance(1_000_000);
    stage.machine("idle", 2_000, &[]);
    let train = JobBuilder::new("train", "batch").same_machine().group("fetch", 1, 1000).group("learn", 20, 1000);
    let job = stage.submit(&train.min(3).after("fetch"));
    stage.advance(1_000_000);
    assert_eq!(stage.placed(job), []);
    assert_eq!(
        stage.passed_over(job, 0),
        "its tasks share a machine, on which a group starts with several at once: of 2 machines 2 lack cpu by at least \
         1000m; nearest is busy, short of cpu by 2000m"
    );
    stage.finish(fill, true);
    stage.advance(1_000_000);
    assert_eq!(stage.placed(job), [(0, 0, 0)]);
    stage.finish(job, true);
    stage.advance(1_000_000);
    assert_eq!(machines(&stage.placed(job)), [0; 16]);
    assert_eq!(
        stage.passed_over(job, 1),
        "of 2 machines 1 lacks cpu by at least 1000m, 1 is not the one that the job's tasks are to share; \
         nearest is busy, short of cpu by 1000m"
    );
}

/// The group before it took the room for all of its tasks, and the gang did not start until these had ended.
#[test]
fn of_groups_that_share_a_machine_each_gang_gets_what_it_starts_with_before_others_get_all() {
    for scheduler in ["batch", "service"] {
        let mut stage = Stage::new();
        stage.machine("m0", 4_000, &[]);
        stage.seat(Batch::default());
        stage.seat(Service::default());
        let train = JobBuilder::new("train", scheduler).same_machine().group("load", 8, 500).group("learn", 3, 1000);
        let job = stage.submit(&train.min(2));
        stage.advance(1_000_000);
        let loads = (0..4).map(|task| (0, task, 0));
        let learns = (0..2).map(|task| (1, task, 0));
        assert_eq!(stage.placed(job), loads.chain(learns).collect::<Vec<_>>(), "{scheduler}");
    }
}

/// The policies alone; with each decision, what is to be noted of it.
struct Noted<N> {
    placer: Placer,
    note: N,
}

impl<N: FnMut(&Placer, &Decision)> Scheduler for Noted<N> {
    fn name(&self) -> &str {
        "batch"
    }

    fn decide(&mut self, view: &View<'_>) -> Decision {
        let (mut decision, mut plan) = (Decision::default(), Plan::incremental());
        self.placer.begin(view, Settings::default());
        self.placer.place_all(view, view.work(), &mut plan, &mut decision);
        (self.note)(&self.placer, &decision);
        decision.commit(plan);
        decision
    }
}

#[test]
fn a_gang_that_can_not_start_on_its_jobs_machine_leaves_room_to_others_and_all_of_it_is_said_to_wait() {
    let mut stage = Stage::new();
    stage.machine("m0", 5_000, &[]);
    // Of how many tasks of the gang each decision said why they wait.
    let tasks: Rc<RefCell<Vec<u32>>> = Rc::default();
    let told = Rc::clone(&tasks);
    let note = move |_: &Placer, decision: &Decision| {
        let notes = decision.passed_over.iter().filter(|note| note.group == 2);
        told.borrow_mut().extend(notes.map(|note| note.tasks).reduce(|all, tasks| all + tasks));
    };
    stage.seat(Noted { placer: Placer::new(Policy::BestFit), note });
    let train = JobBuilder::new("train", "batch").same_machine().group("fetch", 1, 1000);
    let train = train.group("load", 2, 1000).after("fetch").group("learn", 4, 1000).after("fetch").min(3);
    let train = stage.submit(&train);
    stage.advance(1_000_000);
    stage.submit(&JobBuilder::new("fill", "batch").group("main", 1, 3000));
    stage.advance(1_000_000);
    stage.finish(train, true);
    stage.advance(1_000_000);
    assert_eq!(stage.placed(train), [(1, 0, 0), (1, 1, 0)]);
    let told = stage.passed_over(train, 2);
    assert!(told.starts_with("it starts with 3 at once, of which "), "{told}");
    let tasks = tasks.borrow();
    assert!(!tasks.is_empty() && tasks.iter().all(|&tasks| tasks == 4), "{tasks:?}");
}

/// Commits two jobs to the only machine, the one that came last first; and what it then takes of the GPUs there for spoken for.
struct Backwards {
    spoken_for: Rc<RefCell<Vec<u32>>>,
}

impl Scheduler for Backwards {
    fn name(&self) -> &str {
        "batch"
    }

    fn decide(&mut self, view: &View<'_>) -> Decision {
        let mut decision = Decision::default();
        let rooms = view.specials().device_rooms(view.cell(), 0);
        let taken: Vec<u32> = rooms.iter().map(|room| u32::try_from(1000 - room.free_millis).unwrap()).collect();
        let mut spoken_for = self.spoken_for.borrow_mut();
        if spoken_for.is_empty() && taken.iter().any(|&millis| millis > 0) {
            *spoken_for = taken;
        }
        for work in view.work().iter().rev().filter(|_| view.work().len() == 2) {
            let mut plan = Plan::incremental();
            plan.claim(work, &work.tasks, &[0]);
            decision.commit(plan);
        }
        decision
    }
}

// Which devices the cell would choose was assumed in the order of the jobs' numbers, and not in that of the claims: then what was thought
// to be free was not.
#[test]
fn devices_in_flight_are_those_that_the_cell_will_choose() {
    let mut stage = Stage::new();
    stage.machine_with_gpus("m0", 16_000, &[], 2);
    let spoken_for: Rc<RefCell<Vec<u32>>> = Rc::default();
    let seat = stage.seat(Backwards { spoken_for: Rc::clone(&spoken_for) });
    stage.hold(seat);
    let shares = [("first", 500), ("second", 700), ("third", 100)];
    for (name, millis) in shares {
        stage.submit(&JobBuilder::new(name, "batch").group("main", 1, 100).gpu(millis));
        stage.advance(1_000_000);
    }
    assert_eq!(stage.cell().in_use(0).map(|used| used.devices.clone()).unwrap_or_default(), [0; 0], "it is held");
    stage.release(seat);
    let used = stage.cell().in_use(0).unwrap().devices.clone();
    assert_eq!((used.as_slice(), spoken_for.borrow().as_slice()), ([700, 500].as_slice(), [700, 500].as_slice()));
}

/// A cell of machines with one GPU each, and what a decision judges there.
fn counted(machines: u32, jobs: impl IntoIterator<Item = JobBuilder>) -> (Stage, usize) {
    let mut stage = Stage::new();
    for number in 0..machines {
        stage.machine_with_gpus(&format!("m{number}"), 16_000, &[("rack", "a")], 1);
    }
    // How many machines the last decision judged one by one.
    let judged = Rc::new(Cell::new(0));
    let last = Rc::clone(&judged);
    let note = move |placer: &Placer, _: &Decision| last.set(placer.judged());
    let seat: Seat = stage.seat(Noted { placer: Placer::new(Policy::BestFit), note });
    // The cell hears nothing of the decision: so there is one only.
    stage.hold(seat);
    for job in jobs {
        stage.submit(&job);
    }
    stage.settle();
    (stage, judged.get())
}

fn gpu_job(name: &str, tasks: u32) -> JobBuilder {
    JobBuilder::new(name, "batch").group("main", tasks, 100).gpu(1000)
}

/// Each of them looked at every machine twice: for room, and for a reason.
#[test]
fn equal_jobs_that_wait_for_devices_or_ports_cost_one_look_at_the_machines() {
    let full = || std::iter::once(gpu_job("all", 50).priority(90));
    let gpus = (0..40).map(|number| gpu_job(&format!("gpu{number}"), 1));
    let (_, judged) = counted(50, full().chain(gpus));
    assert!(judged <= 5 * 50, "{judged} looks at 50 machines for 40 jobs that wait for a GPU");

    let gangs = (0..40).map(|number| gpu_job(&format!("gang{number}"), 2).min(2));
    let (_, judged) = counted(50, full().chain(gangs));
    assert!(judged <= 5 * 50, "{judged} looks at 50 machines for 40 gangs that wait for two GPUs");

    let web = |name: &str, tasks| JobBuilder::new(name, "batch").group("main", tasks, 100).port("http", 80);
    let webs = (0..40).map(|number| web(&format!("web{number}"), 1));
    let (_, judged) = counted(50, std::iter::once(web("all", 50).priority(90)).chain(webs));
    assert!(judged <= 5 * 50, "{judged} looks at 50 machines for 40 jobs that wait for a port");

    let limited = |number: u32| JobBuilder::new(&format!("wide{number}"), "batch").group("main", 1, 90_000);
    let (_, judged) = counted(50, (0..40).map(|number| limited(number).per_machine(1)));
    assert!(judged <= 50, "{judged} looks at 50 machines for 40 jobs with a limit that wait for room");

    let apart = (0..40).map(|number| gpu_job(&format!("apart{number}"), 1).per_machine(1));
    let (_, judged) = counted(50, full().chain(apart));
    assert!(judged <= 5 * 50, "{judged} looks at 50 machines for 40 jobs with a limit that wait for a GPU");
}

/// Each task asked all machines again that were full already: their square.
#[test]
fn the_tasks_of_a_group_ask_a_machine_that_is_full_once() {
    let (_, judged) = counted(200, [gpu_job("one", 100).priority(90), gpu_job("other", 100)]);
    assert!(judged <= 4 * 200, "{judged} looks at 200 machines for 200 tasks");
    let limited = JobBuilder::new("limited", "batch").group("main", 100, 100).per_machine(1);
    let (_, judged) = counted(200, [limited]);
    assert!(judged <= 4 * 200, "{judged} looks at 200 machines for 100 tasks");
}

/// The reason was told from the mirror alone, which shows nothing yet of what the same decision takes.
#[test]
fn why_a_task_waits_counts_what_its_own_decision_took() {
    let limited = JobBuilder::new("words", "batch").group("main", 2, 100).per_machine(1);
    let reasons = [
        (gpu_job("words", 2), "of 1 machine 1 lacks gpu by at least 1; nearest is m0, short of gpu by 1"),
        (limited, "of 1 machine 1 has as many tasks of the group as per_machine allows: 1"),
    ];
    for (job, reason) in reasons {
        let mut stage = Stage::new();
        stage.machine_with_gpus("m0", 16_000, &[], 1);
        let seat = stage.seat(Batch::default());
        stage.hold(seat);
        let job = stage.submit(&job);
        stage.settle();
        // What was said is read, and the claim too; but what comes of it is not heard of.
        stage.cut_answers(seat);
        assert_eq!(stage.passed_over(job, 0), reason);
    }
}

/// The machine was chosen by room alone, the same in each decision: a job with a GPU waited for ever on one without.
#[test]
fn a_job_that_shares_a_machine_goes_where_its_devices_are() {
    let mut stage = Stage::new();
    stage.machine("plain", 1_000, &[]);
    stage.machine_with_gpus("m1", 16_000, &[], 1);
    stage.seat(Batch::default());
    let train = JobBuilder::new("train", "batch").same_machine().group("fetch", 1, 100).group("learn", 1, 100);
    let job = stage.submit(&train.gpu(1000).after("fetch"));
    stage.advance(1_000_000);
    assert_eq!(stage.placed(job), [(0, 0, 1)]);
    stage.finish(job, true);
    stage.advance(1_000_000);
    assert_eq!(stage.placed(job), [(1, 0, 1)]);
}

/// Each group was judged by itself: two that run side by side went to a machine with one GPU, where the second waited for ever.
#[test]
fn a_job_that_shares_a_machine_goes_where_the_devices_of_all_that_run_side_by_side_are() {
    let mut stage = Stage::new();
    stage.machine_with_gpus("m0", 4_000, &[], 1);
    stage.machine_with_gpus("m1", 16_000, &[], 4);
    let seat = stage.seat(Batch::default());
    let pair = |name: &str| JobBuilder::new(name, "batch").same_machine().group("learn", 1, 100).gpu(1000);
    let both = stage.submit(&pair("both").group("serve", 2, 100).gpu(1000).forever());
    stage.advance(1_000_000);
    assert_eq!(stage.placed(both), [(0, 0, 1), (1, 0, 1), (1, 1, 1)]);
    // Where one comes after the other, one GPU is enough for both.
    let turns = stage.submit(&pair("turns").group("serve", 1, 100).gpu(1000).after("learn"));
    stage.advance(1_000_000);
    assert_eq!(stage.placed(turns), [(0, 0, 0)]);
    stage.finish(turns, true);
    stage.advance(1_000_000);
    assert_eq!(stage.placed(turns), [(1, 0, 0)]);
    stage.finish(turns, true);
    stage.advance(1_000_000);
    // Where no machine has as many, they take turns on one that has some.
    let wide = stage.submit(&JobBuilder::new("wide", "batch").same_machine().group("main", 9, 100).gpu(1000));
    stage.advance(1_000_000);
    assert_eq!(stage.placed(wide), [(0, 0, 0)]);
    let web = |name: &str, port| JobBuilder::new(name, "batch").same_machine().group("a", 1, 100).port("p", port);
    let ports = stage.submit(&web("ports", 80).group("b", 1, 100).port("p", 81).forever());
    stage.advance(1_000_000);
    let other = stage.submit(&web("other", 90).group("b", 1, 100).port("p", 81).forever());
    stage.advance(1_000_000);
    let homes = [ports, other].map(|job| machines(&stage.placed(job)));
    assert!(homes.iter().all(|home| home.len() == 2 && home[0] == home[1]) && homes[0] != homes[1], "{homes:?}");
    assert_eq!(stage.runtime(seat).counters().claims_misfit, 0);
}

/// Those of groups behind equally many others alone were counted together: the job was bound to the machine with one GPU.
#[test]
fn devices_of_what_runs_long_are_counted_beside_those_of_what_comes_after_others() {
    let mut stage = Stage::new();
    stage.machine_with_gpus("m0", 4_000, &[], 1);
    stage.machine_with_gpus("m1", 16_000, &[], 4);
    stage.seat(Batch::default());
    let train = JobBuilder::new("train", "batch").same_machine().group("fetch", 1, 100).group("serve", 1, 100);
    let job = stage.submit(&train.gpu(1000).group("learn", 1, 100).gpu(1000).after("fetch"));
    stage.settle();
    assert_eq!(stage.placed(job), [(0, 0, 1), (1, 0, 1)]);
}

/// That no machine has all for a group of which one machine may have but one task was taken for true of groups without that limit.
#[test]
fn a_limit_of_machines_makes_no_other_job_take_turns() {
    let mut stage = Stage::new();
    for (name, cpu_millis, gpus) in [("m0", 4_000, 1), ("m1", 4_000, 1), ("m2", 16_000, 2)] {
        stage.machine_with_gpus(name, cpu_millis, &[], gpus);
    }
    stage.seat(Batch::default());
    let pair = |name: &str| JobBuilder::new(name, "batch").same_machine().group("main", 2, 1000).gpu(1000);
    let apart = stage.submit(&pair("apart").per_machine(1));
    let together = stage.submit(&pair("together"));
    stage.settle();
    assert_eq!((stage.placed(apart).len(), machines(&stage.placed(together))), (1, vec![2, 2]));
}

#[test]
fn equal_jobs_that_find_no_machine_to_share_cost_one_look_at_the_machines() {
    let wide = |number: u32| JobBuilder::new(&format!("wide{number}"), "batch").same_machine().group("main", 2, 90_000);
    let (_, judged) = counted(50, (0..40).map(wide));
    assert!(judged <= 2 * 50, "{judged} looks at 50 machines for 40 jobs");
}

/// A cell whose only machine is in a partition that batch jobs may not use.
fn reserved_for_gangs() -> Stage {
    let mut stage = Stage::new();
    stage.machine("m0", 8_000, &[("rack", "lab")]);
    let rack = Constraint { attribute: "rack".into(), operator: Operator::Equal, values: vec!["lab".into()] };
    let partition = Partition { machines: vec![rack], schedulers: vec!["gang".into()] };
    stage.ask("operator", Command::SetPartition { name: "lab".into(), partition: Some(partition) });
    stage
}

/// It said that all machines failed a constraint, of a job that has none; and then not which partition it was.
#[test]
fn a_job_that_shares_a_machine_says_that_machines_are_reserved() {
    let mut stage = reserved_for_gangs();
    stage.seat(Batch::default());
    let job = stage.submit(&JobBuilder::new("words", "batch").same_machine().group("main", 2, 100));
    stage.advance(1_000_000);
    assert_eq!(
        stage.passed_over(job, 0),
        "its tasks share a machine: of 1 machine partition lab reserves 1 for others"
    );
}

/// Which constraint it was that most machines fail nobody said, and those that a partition reserves for others counted among them.
#[test]
fn why_a_task_waits_names_its_constraints_and_tells_reserved_and_cordoned_machines_apart() {
    let mut stage = reserved_for_gangs();
    stage.machine("m1", 8_000, &[("rack", "attic")]);
    stage.machine("m2", 8_000, &[]);
    stage.machine("m3", 8_000, &[("rack", "lab")]);
    let machine = stage.cell().machine_named("m3").unwrap().id;
    stage.ask("operator", Command::CordonMachine { machine, cordoned: true });
    stage.seat(Batch::default());
    let anywhere = stage.submit(&JobBuilder::new("anywhere", "batch").group("main", 1, 90_000));
    let picky = stage.submit(&JobBuilder::new("picky", "batch").group("main", 1, 100).on("rack", "lab"));
    stage.advance(1_000_000);
    assert_eq!(
        stage.passed_over(picky, 0),
        "of 4 machines 2 fail `attr.rack == \"lab\"`, partition lab reserves 1 for others, 1 is cordoned"
    );
    assert_eq!(
        stage.passed_over(anywhere, 0),
        "of 4 machines 2 lack cpu by at least 82000m, partition lab reserves 1 for others, 1 is cordoned; \
         nearest is m1, short of cpu by 82000m, and too small even when empty"
    );
    let told = stage.passed_over(picky, 0).to_owned();
    stage.advance(60_000_000);
    assert_eq!(stage.passed_over(picky, 0), told, "as long as nothing changes");
}

/// Nothing told the scheduler to look again, and the job waited for ever.
#[test]
fn machines_that_are_reserved_no_more_are_room_for_who_waits() {
    let mut stage = reserved_for_gangs();
    stage.seat(Batch::default());
    let job = stage.submit(&JobBuilder::new("words", "batch").group("main", 2, 100));
    stage.advance(1_000_000);
    assert_eq!(stage.placed(job), []);
    stage.ask("operator", Command::SetPartition { name: "lab".into(), partition: None });
    stage.advance(1_000_000);
    assert_eq!(stage.placed(job).len(), 2);
}

/// Claims all tasks for the first machine at once, and looks at what is spoken for there while nothing is answered.
struct AllAtOnce {
    spoken_for: Rc<RefCell<Vec<u32>>>,
}

impl Scheduler for AllAtOnce {
    fn name(&self) -> &str {
        "batch"
    }

    fn decide(&mut self, view: &View<'_>) -> Decision {
        let mut decision = Decision::default();
        *self.spoken_for.borrow_mut() = view.specials().devices(0).iter().map(|device| device.millis).collect();
        for work in view.work() {
            let mut plan = Plan::incremental();
            plan.claim(work, &work.tasks, &vec![0; work.tasks.len()]);
            decision.commit(plan);
        }
        decision
    }
}

/// Each of them was set against all parts of devices that those before it got: 4,000 on a machine of 256 devices took seconds.
#[test]
fn each_device_is_spoken_for_once_however_many_claims_have_some_of_it() {
    let mut stage = Stage::new();
    stage.machine_with_gpus("m0", 64_000, &[], 256);
    let spoken_for: Rc<RefCell<Vec<u32>>> = Rc::default();
    let seat = stage.seat(AllAtOnce { spoken_for: Rc::clone(&spoken_for) });
    stage.hold(seat);
    for (name, tasks) in [("first", 4000), ("second", 1)] {
        stage.submit(&JobBuilder::new(name, "batch").group("main", tasks, 1).gpu(50));
        stage.advance(1_000_000);
    }
    let spoken_for = spoken_for.borrow();
    assert_eq!(spoken_for.as_slice(), [vec![1000; 200], vec![0; 56]].concat());
}

/// A machine whose dynamic ports were used up was chosen again and again, and refused each time.
#[test]
fn dynamic_ports_that_are_used_up_are_reckoned_with() {
    let mut stage = Stage::new();
    stage.machine("m0", 20_000, &[]);
    stage.machine("m1", 60_000, &[]);
    let seat = stage.seat(Batch::default());
    let ports = |name: &str, tasks| {
        let job = JobBuilder::new(name, "batch").group("main", tasks, 100);
        (0..60).fold(job, |job, port| job.port(&format!("p{port}"), 0))
    };
    // Of 12,000 ports.
    let job = stage.submit(&ports("first", 202));
    stage.advance(1_000_000);
    let placed = machines(&stage.placed(job));
    assert_eq!(placed.iter().filter(|&&machine| machine == 0).count(), 200);
    assert_eq!((placed.len(), stage.runtime(seat).counters().claims_misfit), (202, 0));
    // In the next decision they stand in the mirror.
    let job = stage.submit(&ports("second", 2));
    stage.advance(1_000_000);
    assert_eq!(machines(&stage.placed(job)), [1, 1]);
    let job = stage.submit(&ports("third", 197));
    stage.advance(1_000_000);
    assert_eq!((stage.placed(job).len(), stage.runtime(seat).counters().claims_misfit), (196, 0));
    let reason = stage.passed_over(job, 0);
    assert!(reason.contains("1 has too few ports left to choose from"), "{reason}");
}

/// One sentence stood for a port that is taken, for both kinds of limits, for GPUs in use and for GPUs that are nowhere.
#[test]
fn why_a_task_waits_tells_devices_ports_and_limits_apart() {
    let mut stage = Stage::new();
    for (name, rack) in [("m0", "a"), ("m1", "b")] {
        stage.machine_with_gpus(name, 16_000, &[("rack", rack)], 2);
    }
    stage.machine("m2", 16_000, &[]);
    stage.seat(Batch::default());
    let main = |name: &str, tasks| JobBuilder::new(name, "batch").group("main", tasks, 100);
    let three = |job: JobBuilder| job.gpu(1000).gpu(1000).gpu(1000);
    let cases = [
        (
            three(main("never", 1)),
            "of 3 machines 3 lack gpu by at least 1; nearest is m0, short of gpu by 1, and too small even when empty",
        ),
        (
            three(main("never-together", 2).same_machine()),
            "its tasks share a machine: of 3 machines 3 lack gpu by at least 1; \
             nearest is m0, short of gpu by 1, and too small even when empty",
        ),
        (main("port", 4).port("http", 8080), "of 3 machines 3 have port 8080 in use"),
        (main("ports", 1).port("http", 8080).port("admin", 9090), "of 3 machines 3 have port 8080 in use"),
        (main("limit", 4).per_machine(1), "of 3 machines 3 have as many tasks of the group as per_machine allows: 1"),
        (
            main("spread", 3).spread("rack", 1),
            "of 3 machines 2 have an attr.rack with as many tasks of the group as spread allows: 1, \
             1 has no attr.rack, over which the group is spread",
        ),
        (main("busy", 5).gpu(1000), "of 3 machines 3 lack gpu by at least 1; nearest is m0, short of gpu by 1"),
        (
            main("full", 1).gpu(1000).gpu(1000),
            "of 3 machines 3 lack gpu by at least 2; nearest is m0, short of gpu by 2",
        ),
        (
            main("model", 1).gpu_of("a100", 1000),
            "of 3 machines 3 lack gpu a100 by at least 1; \
             nearest is m0, short of gpu a100 by 1, and too small even when empty",
        ),
    ];
    for (job, reason) in cases {
        let job = stage.submit(&job);
        stage.advance(1_000_000);
        assert_eq!(stage.passed_over(job, 0), reason);
        // What is told is told again while nothing changes.
        stage.advance(60_000_000);
        assert_eq!(stage.passed_over(job, 0), reason);
    }
}

/// The machine was called nearest for want of room alone, and waiting for that would have helped nobody.
#[test]
fn a_machine_without_enough_devices_is_not_said_to_be_waiting_for_room_only() {
    let mut stage = Stage::new();
    stage.machine_with_gpus("m0", 4_000, &[], 1);
    stage.machine_with_gpus("m1", 2_000, &[], 2);
    stage.seat(Batch::default());
    stage.submit(&JobBuilder::new("fill", "batch").group("main", 3, 2_000));
    stage.advance(1_000_000);
    let job = stage.submit(&JobBuilder::new("pair", "batch").group("main", 1, 1_000).gpu(1000).gpu(1000));
    stage.advance(1_000_000);
    assert_eq!(
        stage.passed_over(job, 0),
        "of 2 machines 2 lack cpu by at least 1000m; nearest is m1, short of cpu by 1000m"
    );
    let job = stage.submit(&JobBuilder::new("four", "batch").group("main", 1, 1_000).gpu(1000).gpu(1000).gpu(1000));
    stage.advance(1_000_000);
    assert_eq!(
        stage.passed_over(job, 0),
        "of 2 machines 2 lack cpu by at least 1000m; \
         nearest is m0, short of cpu by 1000m, and of gpu by 2 even when empty"
    );
}
