//! Small logs whose schedules can be worked out on paper.

use std::sync::Arc;

use plenum_model::{Constraint, GroupShape, Operator, Quota};

use super::ledger::Record;
use super::placing::Placing;
use super::*;
use crate::traces::work::{Declared, Laws, MachineClass, SECOND, resources};

/// Jobs as `name submit run estimate tasks`, gangs of one core a task, in whole seconds.
fn jobs(text: &str) -> Vec<TraceJob> {
    let job = |line: &str| {
        let words: Vec<&str> = line.split_whitespace().collect();
        let seconds = |word: usize| words[word].parse::<i64>().unwrap() * SECOND;
        TraceJob {
            name: words[0].to_owned(),
            user: words[0][..1].to_owned(),
            class: String::new(),
            submit_micros: seconds(1),
            run_micros: Some(seconds(2)),
            estimate_micros: Some(seconds(3)),
            tasks: words[4].parse().unwrap(),
            each: resources(1000, 0, 0),
            gang: words.get(5) != Some(&"elastic"),
            asks: None,
        }
    };
    text.lines().map(str::trim).filter(|line| !line.is_empty()).map(job).collect()
}

fn ground(machines: u32, cores: u64) -> Ground {
    let class = MachineClass {
        name: "node".into(),
        count: machines,
        capacity: resources(cores * 1000, 1 << 30, 0),
        attributes: Vec::new(),
    };
    Ground::new(&[class], Placing::named("best-fit", None).unwrap()).unwrap()
}

fn replay(text: &str, machines: u32, cores: u64, discipline: Discipline) -> (Vec<TraceJob>, Replayed) {
    let jobs = jobs(text);
    let replayed = Replay::new(&jobs, ground(machines, cores), discipline).run().unwrap().unwrap();
    (jobs, replayed)
}

/// Checks when each job starts, in seconds.
fn check(text: &str, discipline: Discipline, expected: &str) {
    let (jobs, replayed) = replay(text, 4, 1, discipline);
    let start = |(job, record): (&TraceJob, &Record)| {
        let at = record.all_started.map_or_else(|| "never".to_owned(), |at| (at / SECOND).to_string());
        format!("{} {at}", job.name)
    };
    let starts: Vec<String> = jobs.iter().zip(&replayed.ledger.records).map(start).collect();
    assert_eq!(starts.join(", "), expected);
}

/// Four machines of one core: a has three of them until 100; b wants all four; c and d want one.
const BLOCKED: &str = "
    a  0  100  100  3
    b  1   50   50  4
    c  2   98   98  1
    d  3  200  200  1
";

#[test]
fn in_order_nobody_passes_the_first() {
    check(BLOCKED, Discipline::Fifo, "a 0, b 100, c 150, d 150");
}

#[test]
fn with_backfilling_a_job_passes_that_ends_in_time() {
    check(BLOCKED, Discipline::Easy, "a 0, b 100, c 2, d 150");
}

#[test]
fn whoever_fits_may_starve_the_first() {
    let text = BLOCKED.replace("c  2   98   98  1", "c  2  300  300  1");
    check(&text, Discipline::Easy, "a 0, b 100, c 150, d 150");
    check(&text, Discipline::Greedy, "a 0, b 302, c 2, d 100");
}

#[test]
fn a_long_job_passes_where_the_first_does_not_need_the_room() {
    // b wants three of four: one is left over for ever.
    let text = BLOCKED.replace("b  1   50   50  4", "b  1   50   50  3");
    check(&text, Discipline::Easy, "a 0, b 100, c 2, d 100");
    let text = text.replace("c  2   98   98  1", "c  2  900  900  1");
    check(&text, Discipline::Easy, "a 0, b 100, c 2, d 150");
}

#[test]
fn what_the_first_is_promised_relies_on_what_users_said() {
    // a ends long before it was said to: b starts then, and what passed in between delays it.
    let text = "
        a  0   10  100  3
        b  1   50   50  4
        c  2   90   90  1
    ";
    check(text, Discipline::Easy, "a 0, b 92, c 2");
}

#[test]
fn a_job_that_runs_longer_than_was_said_holds_up_nobody_but_the_first() {
    let text = "
        a  0  100   10  3
        b  1   50   50  4
        c 20   70   70  1
        d 21    1    1  1
    ";
    check(text, Discipline::Easy, "a 0, b 100, c 150, d 150");
}

/// What a job of a live cell asks for besides room.
fn asks(namespace: &str, shape: GroupShape) -> Option<Arc<Declared>> {
    Some(Arc::new(Declared { namespace: namespace.into(), scheduler: "batch".into(), shape }))
}

/// A namespace may have a core.
fn with_quota(mut ground: Ground) -> Ground {
    let mut quota = Quota::default();
    quota.limits[0] = Some(1000);
    ground.lay_down(&Laws { quotas: vec![("small".into(), quota)], ..Laws::default() }).unwrap();
    ground
}

fn with_ssd() -> GroupShape {
    let ssd = Constraint { attribute: "disk".into(), operator: Operator::Equal, values: vec!["ssd".into()] };
    GroupShape { constraints: vec![ssd], ..GroupShape::default() }
}

/// When each job has started all its tasks, in seconds.
fn starts(jobs: &[TraceJob], ground: Ground) -> Vec<Option<i64>> {
    let replayed = Replay::new(jobs, ground, Discipline::Easy).run().unwrap().unwrap();
    replayed.ledger.records.iter().map(|record| record.all_started.map(|at| at / SECOND)).collect()
}

// All that was idle was promised to it at once, and again at each event: nobody else ever started.
#[test]
fn room_is_kept_for_the_first_only_where_room_is_what_it_waits_for() {
    // No machine has an SSD.
    let mut constrained = jobs("a 0 10 10 1 elastic\nb 0 10 10 2 elastic");
    constrained[0].asks = asks("default", with_ssd());
    assert_eq!(starts(&constrained, ground(2, 1)), [None, Some(0)]);

    // Its second task may not be beside the first, nor the third beside the second.
    let mut apart = jobs("a 0 10 10 3 elastic\nb 0 50 50 1");
    apart[0].asks = asks("default", GroupShape { per_machine: 1, ..GroupShape::default() });
    assert_eq!(starts(&apart, ground(1, 2)), [Some(20), Some(0)]);

    // When x is over there would be room for it, and its namespace may not have that much.
    let mut limited = jobs("x 0 10 10 1\na 1 10 10 2\nb 2 100 100 1");
    limited[1].asks = asks("small", GroupShape::default());
    assert_eq!(starts(&limited, with_quota(ground(2, 1))), [Some(0), None, Some(2)]);
}

// For as long as it stayed, which is for ever, whoever fitted started, and a gang behind it starved.
#[test]
fn the_first_that_waits_for_room_is_promised_it_behind_one_that_room_does_not_help() {
    let text = "
        a   0  10  10  2
        x   0  10  10  1
        g   1  10  10  2
        b   2  10  10  1
        c   9  10  10  1
        d  11  10  10  1
    ";
    for (namespace, shape) in [("default", with_ssd()), ("small", GroupShape::default())] {
        let mut jobs = jobs(text);
        let without = starts(&jobs[1..], ground(2, 1));
        assert_eq!(without, [0, 10, 20, 20, 30].map(Some));
        jobs[0].asks = asks(namespace, shape);
        let with = starts(&jobs, with_quota(ground(2, 1)));
        assert_eq!((with[0], &with[1..]), (None, &without[..]), "{namespace}");
    }
    // Nor behind one that waits for what nobody knows the end of.
    let behind = text.lines().filter(|line| !line.trim_start().starts_with('a')).collect::<Vec<_>>().join("\n");
    let mut jobs = jobs(&format!("s 0 10 10 1\nw 0 10 10 3\n{behind}"));
    (jobs[0].run_micros, jobs[0].estimate_micros) = (None, None);
    assert_eq!(starts(&jobs, ground(3, 1))[2..], [0, 10, 20, 20, 30].map(Some));
}

#[test]
fn what_the_first_is_promised_is_room_on_machines_that_it_may_use() {
    let kind = |disk: &str| Arc::new([("disk".into(), disk.into())].into_iter().collect::<plenum_model::Attributes>());
    let attributes = ["ssd", "ssd", "hdd", "hdd"].map(kind).to_vec();
    let class = MachineClass { name: "node".into(), count: 4, capacity: resources(1000, 1 << 30, 0), attributes };
    let ground = Ground::new(&[class], Placing::named("best-fit", None).unwrap()).unwrap();
    // Three machines are idle when c comes, of which a may use one: it needs both that have an SSD.
    let mut jobs = jobs("x 0 10 10 1\na 1 10 10 2\nc 2 100 100 1");
    jobs[..2].iter_mut().for_each(|job| job.asks = asks("default", with_ssd()));
    // For c the policy chooses that one, and nobody looks for another while a waits.
    assert_eq!(starts(&jobs, ground), [Some(0), Some(10), Some(10)]);
}

// None of its tasks started where one of them would have been in the way of the first job.
#[test]
fn of_tasks_that_need_not_start_together_those_pass_that_leave_the_first_its_room() {
    let text = "
        a  0  100  100  3
        b  1   50   50  4
        c  2  900  900  2 elastic
    ";
    let (_, replayed) = replay(text, 5, 1, Discipline::Easy);
    let record = replayed.ledger.records[2];
    assert_eq!((record.first_start, record.all_started), (Some(2 * SECOND), Some(150 * SECOND)));
    assert_eq!(replayed.ledger.records[1].all_started, Some(100 * SECOND));
}

#[test]
fn tasks_that_need_not_start_together_start_as_they_find_room() {
    let (_, replayed) = replay("a 0 10 10 6 elastic", 4, 1, Discipline::Fifo);
    let record = replayed.ledger.records[0];
    assert_eq!((record.first_start, record.all_started, record.end), (Some(0), Some(10 * SECOND), Some(20 * SECOND)));
    assert_eq!(replayed.placements, 6);
}

#[test]
fn what_would_not_fit_an_empty_cell_is_told_and_blocks_nobody() {
    let text = "
        a  0  10  10  5
        b  1  10  10  1
    ";
    check(text, Discipline::Fifo, "a never, b 1");
    let (jobs, replayed) = replay(text, 4, 1, Discipline::Fifo);
    let summary = summary::summarise(&jobs, &replayed, summary::Classes::Size);
    assert_eq!((summary.too_large, summary.never_started), (1, 0));
}

#[test]
fn utilisation_counts_from_the_first_submission_to_the_last() {
    // Two of four cores for 10 of 20 seconds.
    let (jobs, replayed) = replay("a 0 10 10 2\nb 20 5 5 1", 4, 1, Discipline::Fifo);
    let summary = summary::summarise(&jobs, &replayed, summary::Classes::Size);
    assert!((summary.cpu_used - 0.25).abs() < 1e-12, "{}", summary.cpu_used);
    assert_eq!((summary.lost, summary.makespan_seconds), (0.0, 25.0));
}

/// A live cell is such a trace: all its jobs come at once and stay.
#[test]
fn what_comes_at_once_and_never_ends_leaves_one_moment_to_judge_by() {
    let mut all = jobs("a 0 1 1 2\nb 0 1 1 1");
    for job in &mut all {
        (job.run_micros, job.estimate_micros, job.each) = (None, None, resources(2000, 0, 0));
    }
    let replayed = Replay::new(&all, ground(2, 3), Discipline::Fifo).run().unwrap().unwrap();
    let moments = &replayed.ledger.moments;
    assert_eq!((moments.len(), moments[0].at_micros, moments[0].jobs_waiting), (1, 0, 1));
    let summary = summary::summarise(&all, &replayed, summary::Classes::Size);
    // Two machines have a core left each, of which nobody who wants two has any use.
    assert!((summary.cpu_used - 4.0 / 6.0).abs() < 1e-12, "{}", summary.cpu_used);
    assert!((summary.fragmented - 1.0).abs() < 1e-12, "{}", summary.fragmented);
}

#[test]
fn what_comes_at_once_is_used_while_it_runs() {
    let (jobs, replayed) = replay("a 0 100 100 4", 4, 1, Discipline::Fifo);
    let summary = summary::summarise(&jobs, &replayed, summary::Classes::Size);
    assert_eq!((summary.cpu_used, summary.lost, summary.makespan_seconds), (1.0, 0.0, 100.0));
    // Three of four cores for 100 s while b waits for two, then two of four for 10 s.
    let (jobs, replayed) = replay("a 0 100 100 3\nb 0 10 10 2", 4, 1, Discipline::Fifo);
    let summary = summary::summarise(&jobs, &replayed, summary::Classes::Size);
    assert!((summary.cpu_used - 320.0 / 440.0).abs() < 1e-12, "{}", summary.cpu_used);
    assert!((summary.lost - 100.0 / 440.0).abs() < 1e-12, "{}", summary.lost);
}

#[test]
fn what_waits_for_ever_beside_idle_machines_loses_them() {
    let mut jobs = jobs("a 0 1 1 2\nb 0 1 1 4");
    jobs.iter_mut().for_each(|job| job.run_micros = None);
    let replayed = Replay::new(&jobs, ground(4, 1), Discipline::Fifo).run().unwrap().unwrap();
    let summary = summary::summarise(&jobs, &replayed, summary::Classes::Size);
    assert_eq!((summary.cpu_used, summary.lost, summary.never_started), (0.5, 0.5, 1));
}

#[test]
fn of_what_is_there_from_the_beginning_and_never_ends_the_end_counts() {
    let mut jobs = jobs("a 0 1 1 2\nb 0 1 1 4 elastic");
    jobs.iter_mut().for_each(|job| job.run_micros = None);
    let replayed = Replay::new(&jobs, ground(4, 1), Discipline::Fifo).run().unwrap().unwrap();
    let summary = summary::summarise(&jobs, &replayed, summary::Classes::Size);
    assert_eq!((summary.cpu_used, summary.never_started, replayed.placements), (1.0, 1, 4));
}

#[test]
fn capacity_that_is_idle_while_somebody_waits_is_lost() {
    // From 0 to 100 one core is idle and b waits for two: a quarter of the capacity, to the last submission at 100.
    let text = "
        a   0  100  100  3
        b   0   10   10  2
        c 100   10   10  1
    ";
    let (jobs, replayed) = replay(text, 4, 1, Discipline::Fifo);
    let summary = summary::summarise(&jobs, &replayed, summary::Classes::Size);
    assert!((summary.lost - 0.25).abs() < 1e-12, "{}", summary.lost);
}

#[test]
fn waits_slowdowns_and_fairness_are_what_the_definitions_say() {
    let (jobs, replayed) = replay(BLOCKED, 4, 1, Discipline::Fifo);
    let summary = summary::summarise(&jobs, &replayed, summary::Classes::Size);
    // Waits 0, 99, 148, 147; runs 100, 50, 98, 200.
    assert_eq!((summary.all.jobs, summary.all.mean, summary.all.median), (4, 98.5, 123.0));
    let slowdowns = 1.0 + 149.0 / 50.0 + 246.0 / 98.0 + 347.0 / 200.0;
    assert!((summary.all.slowdown_mean - slowdowns / 4.0).abs() < 1e-12);
    let parts = [1.0, 50.0 / 149.0, 98.0 / 246.0, 200.0 / 347.0];
    let (sum, squares) = (parts.iter().sum::<f64>(), parts.iter().map(|part| part * part).sum::<f64>());
    assert!((summary.fairness.unwrap() - sum * sum / (4.0 * squares)).abs() < 1e-12);
    let classes: Vec<_> = summary.by_class.iter().map(|(class, waits)| (class.as_str(), waits.jobs)).collect();
    assert_eq!(classes, [("cores=001", 2), ("cores=002-008", 2)]);
}

#[test]
fn room_in_pieces_that_are_too_small_is_fragmented() {
    // Two machines of three cores, each with a task of two: a third task of two finds one core here and one there.
    let mut jobs = jobs("a 0 100 100 2\nb 50 1 1 1\nc 60 1 1 1");
    jobs.iter_mut().for_each(|job| job.each = resources(2000, 0, 0));
    let replayed = Replay::new(&jobs, ground(2, 3), Discipline::Fifo).run().unwrap().unwrap();
    let last = replayed.ledger.moments.last().unwrap();
    assert_eq!((last.fragmented, last.jobs_waiting), (1.0, 2));
}

#[test]
fn the_same_seed_gives_the_same_arrivals() {
    let jobs = jobs(BLOCKED);
    let moved = resampled(&jobs, 60 * SECOND, 7);
    assert_eq!(moved, resampled(&jobs, 60 * SECOND, 7));
    assert_ne!(moved, resampled(&jobs, 60 * SECOND, 8));
    assert!(moved.is_sorted_by_key(|job| job.submit_micros));
    assert_eq!(resampled(&jobs, 0, 7), jobs);
}

/// Above 72 minutes the flag was cut without a word.
#[test]
fn arrivals_move_by_as_much_as_was_asked_for() {
    // The last one comes later: of jobs that are all there at once none is moved.
    let jobs = jobs(&format!("{}b 1 1 1 1", "a 0 1 1 1\n".repeat(200)));
    for jitter in [3600 * SECOND, 86_400 * SECOND, i64::from(u32::MAX) * SECOND] {
        let moved = resampled(&jobs, jitter, 7);
        let (first, last) = (moved[0].submit_micros, moved[199].submit_micros);
        assert!(
            first >= 0 && first < jitter / 10 && last <= jitter && last > jitter / 10 * 9,
            "{jitter}: {first} {last}"
        );
    }
}

// The jobs of a live cell arrived over a minute then, and what is used of a cell that fills meanwhile was told for it: half.
#[test]
fn jobs_that_are_there_at_once_come_in_another_order_and_still_at_once() {
    let jobs = jobs("a 5 1 1 1\nb 5 1 1 1\nc 5 1 1 1\nd 5 1 1 1");
    let names = |seed| -> Vec<String> {
        let moved = resampled(&jobs, 60 * SECOND, seed);
        assert!(moved.iter().all(|job| job.submit_micros == 5 * SECOND));
        moved.into_iter().map(|job| job.name).collect()
    };
    let orders: std::collections::BTreeSet<Vec<String>> = (1..20).map(names).collect();
    assert!(orders.len() > 5, "{orders:?}");
}

// With others besides, those of a live cell arrived over a minute again, and new jobs took the room of what runs already.
#[test]
fn jobs_of_a_live_cell_are_there_before_all_that_come_besides() {
    let mut recorded = jobs("live-a 0 1 1 1\nlive-b 0 1 1 1\nnew-a 0 1 1 1\nnew-b 5 1 1 1");
    let declared = crate::traces::work::Declared {
        namespace: "default".into(),
        scheduler: "batch".into(),
        shape: plenum_model::GroupShape::default(),
    };
    let asks = std::sync::Arc::new(declared);
    recorded[..2].iter_mut().for_each(|job| job.asks = Some(asks.clone()));
    let firsts = |seed| -> String {
        let moved = resampled(&recorded, 60 * SECOND, seed);
        assert!(moved[..2].iter().all(|job| job.asks.is_some() && job.submit_micros == 0), "{seed}: {moved:?}");
        assert!(moved[3].submit_micros > 5 * SECOND, "{seed}: others are moved");
        moved[0].name.clone()
    };
    let orders: std::collections::BTreeSet<String> = (1..20).map(firsts).collect();
    assert_eq!(orders.len(), 2, "in one order and in the other");
}

/// Each job tried the same machines in the same order: a first fit on a shuffled cell.
#[test]
fn a_random_policy_draws_anew_for_each_job() {
    let capacity = resources(100_000, 1 << 30, 0);
    let class = MachineClass { name: "node".into(), count: 8, capacity, attributes: Vec::new() };
    let mut ground = Ground::new(&[class], Placing::named("random", Some(3)).unwrap()).unwrap();
    let job = &jobs("a 0 1 1 1\n")[0];
    let id = ground.submit(job, 0).unwrap();
    let machines: std::collections::BTreeSet<u32> = (0..64).flat_map(|_| ground.choose(job, id, 1)).collect();
    assert_eq!(machines.len(), 8);
}

/// A twin that knows nothing of cells: counts of free cores, and the rules of EASY written down as simply as can be.
fn easy_by_counts(jobs: &[TraceJob], cores: u32) -> Vec<i64> {
    let mut starts = vec![None; jobs.len()];
    let mut now = 0;
    loop {
        let running = |starts: &[Option<i64>]| -> Vec<(i64, i64, u32)> {
            let run = |(job, start): (&TraceJob, &Option<i64>)| {
                let start = (*start)?;
                let end = start + job.run_micros.unwrap();
                (end > now).then(|| (start + job.estimate_micros.unwrap(), end, job.tasks))
            };
            jobs.iter().zip(starts).filter_map(run).collect()
        };
        let queue: Vec<usize> =
            (0..jobs.len()).filter(|&job| starts[job].is_none() && jobs[job].submit_micros <= now).collect();
        let mut reserved: Option<(i64, u32)> = None;
        for &job in &queue {
            let busy = running(&starts);
            let free = cores - busy.iter().map(|(.., tasks)| tasks).sum::<u32>();
            let fits = jobs[job].tasks <= free;
            match reserved {
                None if fits => starts[job] = Some(now),
                None => {
                    let mut ends = busy.clone();
                    ends.sort_unstable();
                    let mut then = free;
                    let mut at = now;
                    for (expected, _, tasks) in &ends {
                        let expected = (*expected).max(now + 1);
                        if then >= jobs[job].tasks && expected > at {
                            break;
                        }
                        (then, at) = (then + tasks, expected);
                    }
                    reserved = Some((at, then - jobs[job].tasks));
                }
                Some((at, spare)) if fits => {
                    if now + jobs[job].estimate_micros.unwrap() <= at {
                        starts[job] = Some(now);
                    } else if jobs[job].tasks <= spare {
                        starts[job] = Some(now);
                        reserved = Some((at, spare - jobs[job].tasks));
                    }
                }
                Some(_) => {}
            }
        }
        let arrivals = jobs.iter().map(|job| job.submit_micros).filter(|at| *at > now);
        let ends = running(&starts).into_iter().map(|(_, end, _)| end);
        match arrivals.chain(ends).min() {
            Some(next) => now = next,
            None => return starts.into_iter().map(|start| start.expect("every job fits")).collect(),
        }
    }
}

#[test]
fn on_machines_of_one_core_backfilling_is_what_counting_gives() {
    for seed in 0..12 {
        let mut jobs = generator::jobs(120, 0.95, seed).jobs;
        // Few different sizes and whole seconds, so that events meet.
        for job in &mut jobs {
            job.tasks = job.tasks.min(32);
            job.submit_micros -= job.submit_micros % (60 * SECOND);
        }
        let replayed = Replay::new(&jobs, ground(32, 1), Discipline::Easy).run().unwrap().unwrap();
        let starts: Vec<i64> = replayed.ledger.records.iter().map(|record| record.all_started.unwrap()).collect();
        assert_eq!(starts, easy_by_counts(&jobs, 32), "seed {seed}");
    }
}
