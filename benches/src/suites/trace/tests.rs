//! Runs of the suite on small files: what is asked for, what comes of it on paper, and what is refused.

use super::*;
use crate::figure::{Figure, JOBS_DIGEST, MACHINES_DIGEST};

/// The figures of a run.
fn run(options: &Run) -> anyhow::Result<Vec<Figure>> {
    Kept::of(|kept| super::run(options, kept))
}

#[test]
fn seeds_are_a_range_with_both_ends_or_a_list_of_each_once() {
    assert_eq!(seeds("42..45").unwrap(), [42, 43, 44, 45]);
    assert_eq!(seeds("7").unwrap(), [7]);
    assert_eq!(seeds("3, 1, 3").unwrap(), [3, 1]);
    for wrong in ["", "a", "5..1", "1..", "0..5000"] {
        assert!(seeds(wrong).unwrap_err().to_string().starts_with("--seeds: expected FIRST..LAST"), "{wrong}");
    }
}

#[test]
fn what_lies_below_data_is_taken_by_every_experiment_that_names_no_files() {
    let data = tempfile::tempdir().unwrap();
    for name in [LOG, NODES, "fgd/openb_pod_list_default.csv"] {
        let path = data.path().join(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, "").unwrap();
    }
    let taken = |more: &[&str]| {
        let words = ["trace", "--data", data.path().to_str().unwrap()];
        let flags = with_known_data(&Run::of(&[&words[..], more].concat())).trace;
        (flags.jobs, flags.inflation.says_anything())
    };
    let log = Some(data.path().join(LOG));
    for experiment in ["inflation", "replay", "capacity"] {
        assert_eq!(taken(&["--experiment", experiment]), (log.clone(), true), "{experiment}");
    }
    assert_eq!(taken(&["--jobs", "own.csv"]).0, Some("own.csv".into()));
    assert_eq!(taken(&["--backup", "cell.backup"]).0, None);
    // A load is of jobs that are drawn: it was passed over where there was a log.
    assert_eq!(taken(&["--load", "0.5"]).0, None);
}

// It was read when the replay had run, and all figures of that were lost with the error.
#[test]
fn what_the_inflation_cannot_read_ends_a_run_before_its_replay() {
    let (data, folder) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let reference = "fgd/expected/summary.csv";
    // None of them is what it should be: the first that is read is told.
    for name in [LOG, NODES, "fgd/openb_pod_list_default.csv", reference] {
        let path = data.path().join(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, "").unwrap();
    }
    let told = || {
        let error = run(&options(folder.path(), &["--data", data.path().to_str().unwrap()])).unwrap_err();
        format!("{error:#}")
    };
    assert!(told().contains(reference), "{}", told());
    std::fs::remove_file(data.path().join(reference)).unwrap();
    assert!(told().contains(NODES), "{}", told());
}

/// Flags of a run that leaves its files in `folder`.
fn options(folder: &std::path::Path, more: &[&str]) -> Run {
    #[derive(clap::Parser)]
    struct Only {
        #[command(flatten)]
        run: Run,
    }
    let out = folder.to_str().unwrap();
    let words = ["bench", "trace", "--quick", "--out", out].into_iter().chain(more.iter().copied());
    <Only as clap::Parser>::parse_from(words).run
}

const JOBS: &str = "job,submit_s,run_s,tasks,cpu_millis,memory_mib,user\n\
    a,0,100,2,1000,1,ann\nb,1,100,2,1000,1,bob\nc,2,100,2,1000,1,ann\nd,300,10,1,1000,1,bob\n";

#[test]
fn as_many_machines_are_enough_as_can_be_counted_on_paper() {
    let folder = tempfile::tempdir().unwrap();
    let jobs = folder.path().join("jobs.csv");
    std::fs::write(&jobs, JOBS).unwrap();
    let jobs = jobs.to_str().unwrap();
    // Three jobs of two cores at once, on machines of one core: nobody waits on six of them.
    let more = ["--experiment", "capacity", "--jobs", jobs, "--machines", "10x1", "--wait-limit", "0"];
    let figures = run(&options(folder.path(), &more)).unwrap();
    let enough = figures.iter().find(|figure| figure.metric == "machines_enough").unwrap();
    assert_eq!(enough.value, 6.0);
    let page = std::fs::read_to_string(folder.path().join("trace-capacity.md")).unwrap();
    assert!(page.contains("**6 machines (") && page.contains("| +0% | 10 | all |"), "{page}");
    // Nobody waits on ten machines, and still the lines go on there.
    let chart = std::fs::read_to_string(folder.path().join("trace-capacity.svg")).unwrap();
    assert!(chart.contains("99 of 100 wait at most: 1.00 at 10.0"), "{chart}");
    // Of far too many machines so few are found as well: one percent of these would be ten.
    let more = ["--experiment", "capacity", "--jobs", jobs, "--machines", "1000x1", "--wait-limit", "0"];
    let figures = run(&options(folder.path(), &more)).unwrap();
    let enough = figures.iter().find(|figure| figure.metric == "machines_enough").unwrap();
    assert_eq!(enough.value, 6.0);
    // Asked for by its name, one size is all that is tried.
    let more = ["--experiment", "capacity", "--jobs", jobs, "--machines", "10x1", "--case", "size=+20%"];
    let figures = run(&options(folder.path(), &more)).unwrap();
    assert!(figures.iter().all(|figure| figure.case.ends_with("size=+20%")) && figures.len() == 5, "{figures:?}");
}

// A size was judged by the one run in which arrivals are as they were recorded, whatever --seeds said: fewer machines were "enough" than those on which every
// other seed broke the limit.
#[test]
fn machines_are_enough_when_they_are_with_each_seed() {
    let folder = tempfile::tempdir().unwrap();
    let jobs = folder.path().join("jobs.csv");
    // As recorded one comes when the other ends. Where the first comes later by more seconds, the second waits for these on one machine.
    let text = "job,submit_s,run_s,tasks,cpu_millis,memory_mib\na,0,100,1,1000,1\nb,100,100,1,1000,1\n";
    std::fs::write(&jobs, text).unwrap();
    let jobs = jobs.to_str().unwrap();
    let asked = |more: &[&str]| {
        let same = ["--experiment", "capacity", "--jobs", jobs, "--machines", "1x1", "--wait-limit", "0"];
        let figures = run(&options(folder.path(), &[&same[..], more].concat())).unwrap();
        let page = std::fs::read_to_string(folder.path().join("trace-capacity.md")).unwrap();
        (figures, page)
    };
    let enough = |figures: &[Figure]| {
        let enough = figures.iter().find(|figure| figure.metric == "machines_enough").unwrap();
        (enough.value, enough.case.rsplit_once("size=").unwrap().1.to_owned())
    };
    let (figures, page) = asked(&["--seeds", "0"]);
    assert_eq!(enough(&figures), (1.0, "enough seeds=0 wait_limit=0".to_owned()));
    assert!(page.contains("One run of each size, with seed 0.") && page.contains("0 s | 0 s | yes |"), "{page}");

    let (figures, page) = asked(&["--seeds", "0..9"]);
    assert_eq!(enough(&figures), (2.0, "enough seeds=0..9 wait_limit=0".to_owned()));
    let waits = figures.iter().find(|figure| figure.metric == "wait_seconds_p99").unwrap();
    assert!(waits.samples.len() == 10 && waits.min == 0.0 && waits.max > 0.0, "{waits:?}");
    assert!(page.contains("Each size was run 10 times, with seeds 0..9"), "{page}");
    assert!(page.contains(" of 10 seeds |") && page.contains(" (0 s to "), "{page}");
    assert!(page.contains("are enough**: node: 2 x 1.00 cores. "), "{page}");

    // Nobody is moved by a jitter of nothing.
    let (figures, _) = asked(&["--seeds", "0..9", "--jitter", "0"]);
    assert_eq!(enough(&figures).0, 1.0);
    assert!(figures.iter().all(|figure| figure.case.contains(" jitter=0 size=")), "{figures:?}");
}

// Of a cell whose GPUs were nearly all taken the page said that 0.2% were used: those of the CPU.
#[test]
fn memory_and_gpus_are_told_of_each_size_where_there_are_some() {
    let folder = tempfile::tempdir().unwrap();
    let jobs = folder.path().join("jobs.csv");
    let text = "job,submit_s,run_s,tasks,cpu_millis,memory_mib,gpus\na,0,100,1,1000,512,3\nb,100,10,1,1000,512,1\n";
    std::fs::write(&jobs, text).unwrap();
    let more = ["--experiment", "capacity", "--jobs", jobs.to_str().unwrap(), "--seeds", "0", "--case", "size=+0%"];
    let asked = |machines: &str| {
        let figures = run(&options(folder.path(), &[&more[..], &["--machines", machines]].concat())).unwrap();
        let page = std::fs::read_to_string(folder.path().join("trace-capacity.md")).unwrap();
        (figures, page)
    };
    let (figures, page) = asked("1x8x1x4");
    let value = |metric: &str| figures.iter().find(|figure| figure.metric == metric).map(|figure| figure.value);
    let used = ["cpu_used_percent", "memory_used_percent", "gpus_used_percent"].map(value);
    assert_eq!(used, [Some(12.5), Some(50.0), Some(75.0)]);
    let head = "| size | machines | fits | CPU used | memory used | GPUs used | mean wait |";
    assert!(page.contains(head) && page.contains("| +0% | 1 | all | 12.5% | 50.0% | 75.0% | 0 s |"), "{page}");

    let (figures, page) = asked("1x8");
    assert!(page.contains("| fits | CPU used | mean wait |") && page.contains(MEMORY_UNTOLD), "{page}");
    assert!(figures.iter().all(|figure| figure.metric != "memory_used_percent"), "{figures:?}");
}

// With `--machines +20%` sizes of one cell had the names of those of every other one, and were compared with them.
#[test]
fn sizes_are_told_by_the_cell_they_are_of_and_not_by_the_changes_asked_for() {
    let folder = tempfile::tempdir().unwrap();
    let (jobs, cell) = (folder.path().join("jobs.csv"), folder.path().join("cell.csv"));
    std::fs::write(&jobs, JOBS).unwrap();
    std::fs::write(&cell, "class,count,cpu_millis,memory_mib\nnode,10,1000,1024\n").unwrap();
    let (jobs, cell) = (jobs.to_str().unwrap(), cell.to_str().unwrap());
    let same = ["--experiment", "capacity", "--jobs", jobs, "--cell", cell, "--case", "size=+0%"];
    let changes: [&[&str]; 2] = [&[], &["--machines", "+20%"]];
    for changes in changes {
        let figures = run(&options(folder.path(), &[&same[..], changes].concat())).unwrap();
        let case = format!("jobs=jobs.csv queue=easy policy=best-fit cell={cell} size=+0%");
        assert!(figures.iter().all(|figure| figure.case == case) && figures.len() == 6, "{figures:?}");
    }
}

#[test]
fn a_run_of_no_case_leaves_the_pages_of_others_as_they_are() {
    let folder = tempfile::tempdir().unwrap();
    let pages = ["trace-capacity.md", "trace-replay-used.svg", "trace-inflation.md", "inflation.csv"];
    for page in pages {
        std::fs::write(folder.path().join(page), "before").unwrap();
    }
    for experiment in ["capacity", "replay", "inflation"] {
        let more = ["--experiment", experiment, "--case", "no such case"];
        assert!(run(&options(folder.path(), &more)).unwrap().is_empty(), "{experiment}");
    }
    for page in pages {
        assert_eq!(std::fs::read_to_string(folder.path().join(page)).unwrap(), "before", "{page}");
    }
}

#[test]
fn a_replay_leaves_figures_charts_and_the_list_of_jobs() {
    let folder = tempfile::tempdir().unwrap();
    let jobs = folder.path().join("jobs.csv");
    std::fs::write(&jobs, JOBS).unwrap();
    let more = [
        "--jobs",
        jobs.to_str().unwrap(),
        "--machines",
        "2x1",
        "--queue",
        "fifo",
        "--seeds",
        "0",
        "--policy",
        "best-fit",
    ];
    let figures = run(&options(folder.path(), &more)).unwrap();
    // On other machines it is another case.
    assert_eq!(figures[0].case, "jobs=jobs.csv queue=fifo policy=best-fit machines=2x1");
    let value = |metric: &str| figures.iter().find(|figure| figure.metric == metric).map(|figure| figure.value);
    // Nobody told the memory of these machines: a part of what was taken for it was told as a figure of the cell.
    assert_eq!(value("memory_used_percent"), None);
    assert_eq!(figures[0].parameters["assumed"], MEMORY_UNTOLD);
    // Waits 0, 99, 198 and 0.
    assert_eq!((value("wait_seconds_mean"), value("makespan_seconds")), (Some(74.25), Some(310.0)));
    let list = std::fs::read_to_string(folder.path().join("trace-replay-fifo-best-fit.csv")).unwrap();
    assert!(list.contains("\"b\",\"bob\",cores=002-008,2,1.000,100.000,200.000\n"), "{list}");
    assert!(folder.path().join("trace-replay-waits.svg").exists());
    let used = std::fs::read_to_string(folder.path().join("trace-replay-used.svg")).unwrap();
    assert!(used.contains(">minutes</text>") && used.contains(">5</text>"), "it takes five of them: {used}");
}

// Of a cell of which 57% of the memory was used, 0.04% was told: of what machines were taken to have, as the log did not say.
#[test]
fn a_part_of_memory_is_a_figure_only_where_somebody_told_how_much_there_is() {
    let folder = tempfile::tempdir().unwrap();
    let jobs = folder.path().join("jobs.csv");
    let text = "job,submit_s,run_s,tasks,cpu_millis,memory_mib\na,0,100,1,1000,512\nb,100,10,1,1000,512\n";
    std::fs::write(&jobs, text).unwrap();
    let used = |experiment: &str, machines: &str| {
        let jobs = jobs.to_str().unwrap();
        let more = ["--experiment", experiment, "--jobs", jobs, "--machines", machines, "--seeds", "0"];
        let figures = run(&options(folder.path(), &more)).unwrap();
        figures.iter().find(|figure| figure.metric == "memory_used_percent").map(|figure| figure.value)
    };
    for experiment in ["replay", "capacity"] {
        assert_eq!((used(experiment, "1x8x1"), used(experiment, "1x8")), (Some(50.0), None), "{experiment}");
    }
}

#[test]
fn each_figure_says_which_files_it_is_made_of() {
    let folder = tempfile::tempdir().unwrap();
    let (jobs, cell) = (folder.path().join("jobs.csv"), folder.path().join("cell.csv"));
    std::fs::write(&jobs, JOBS).unwrap();
    std::fs::write(&cell, "class,count,cpu_millis,memory_mib\nnode,10,1000,1024\n").unwrap();
    let (jobs, cell) = (jobs.to_str().unwrap(), cell.to_str().unwrap());
    for of_machines in ["--machines", "--cell"] {
        for experiment in ["replay", "capacity"] {
            let more = ["--experiment", experiment, "--jobs", jobs, of_machines, cell, "--seeds", "0"];
            let figures = run(&options(folder.path(), &more)).unwrap();
            let tells =
                |figure: &Figure| [JOBS_DIGEST, MACHINES_DIGEST].map(|name| figure.parameters.contains_key(name));
            assert!(figures.iter().all(|figure| tells(figure) == [true, true]), "{more:?}: {figures:?}");
        }
    }
}

#[test]
fn the_list_of_jobs_has_their_own_classes_and_survives_their_names() {
    let folder = tempfile::tempdir().unwrap();
    let jobs = folder.path().join("jobs.csv");
    let text = "job,submit_s,run_s,tasks,cpu_millis,memory_mib,user,class\n\
        \"the \"\"big\"\" one\",0,10,1,1000,1,ann,\"night, long\"\n";
    std::fs::write(&jobs, text).unwrap();
    let jobs = jobs.to_str().unwrap();
    let more = ["--jobs", jobs, "--machines", "2x1", "--queue", "fifo", "--seeds", "0", "--classes", "own"];
    run(&options(folder.path(), &more)).unwrap();
    let list = std::fs::read_to_string(folder.path().join("trace-replay-fifo-best-fit.csv")).unwrap();
    let row = "\"the \"\"big\"\" one\",\"ann\",\"night, long\",1,0.000,0.000,10.000\n";
    assert!(list.ends_with(row), "{list}");
}

#[test]
fn a_policy_named_twice_is_one_case() {
    assert_eq!(named(&["b", "a", "b"].map(str::to_owned), &["c"]), ["b", "a"]);
    assert_eq!(named(&[], &["c"]), ["c"]);
}

#[test]
fn parameters_out_of_range_are_told_before_anything_runs() {
    let folder = tempfile::tempdir().unwrap();
    let told = |more: &[&str]| run(&options(folder.path(), more)).unwrap_err().to_string();
    assert!(told(&["--policy", "best"]).starts_with("--policy: expected some of "), "policy");
    assert!(told(&["--queue", "lifo"]).starts_with("--queue: expected some of fifo, easy, greedy"), "queue");
    assert!(told(&["--load", "7"]).starts_with("--load: expected a number above 0, to 2, found 7"), "load");
    assert!(told(&["--machines", "+x"]).starts_with("--machines: expected a change"), "machines");
    let capacity = told(&["--experiment", "capacity", "--wait-limit=-1"]);
    assert!(capacity.starts_with("--wait-limit: expected seconds from 0 on"), "{capacity}");
    let two = told(&["--experiment", "capacity", "--queue", "fifo,easy"]);
    assert!(two.starts_with("capacity asks about one way to place"), "{two}");
}
