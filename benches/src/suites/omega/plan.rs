//! The experiments: which runs each of them is, in the order of the reference files.

use plenum_model::ConflictCheck;

use super::reference::Cells;
use crate::cells::row::settings_as_cells;
use crate::cells::settings::{Arch, Beyond, Choice, Commit, Cost, REFERENCE, Settings};
use crate::cells::workload::{CellShape, R1, R2, R3, micros};

/// One row of one experiment.
#[derive(Clone, Debug)]
pub(super) struct Task {
    /// The experiment's name in the row.
    pub(super) exp: String,
    /// Instead of the name of the conflict check: the reference has a repaired variant.
    pub(super) check_name: Option<&'static str>,
    pub(super) settings: Settings,
    /// Worth the time of the quick form.
    pub(super) quick: bool,
    /// Where and when it conflicts is drawn.
    pub(super) map: bool,
    /// Its name and place, where it is one of [`VARIANTS`] at one of [`CONTESTED`].
    pub(super) variant: Option<(&'static str, usize)>,
}

impl Task {
    /// Names by which it can be asked for: that of its rows, of its file, and those of its cases in the results.
    pub(super) fn names(&self, file: &str) -> Vec<String> {
        let mut names = vec![self.exp.clone(), file.to_owned()];
        if let Some((name, place)) = self.variant {
            names.extend([variant_case(name, place), self.packing_case()]);
        }
        names
    }

    /// What its row is, by which a reference has it.
    pub(super) fn key(&self) -> String {
        let cells = Cells::of(&settings_as_cells(&self.exp, &self.settings));
        self.check_name.map_or_else(|| cells.key(), |name| cells.clone().with("conflict_mode", name).key())
    }

    /// The case of how densely its last placements are packed.
    pub(super) fn packing_case(&self) -> String {
        let settings = &self.settings;
        format!(
            "variant={} workload={} lambda={} batch_schedulers={}",
            self.exp.trim_start_matches("E8_"),
            settings.cell.name,
            settings.rate,
            settings.batch_schedulers
        )
    }
}

/// The case of a variant's conflicts.
pub(super) fn variant_case(name: &str, place: usize) -> String {
    format!("variant={name} at={}", CONTESTED[place])
}

/// Rows of one file.
pub(super) struct Experiment {
    /// Its file, without `.csv`.
    pub(super) file: &'static str,
    pub(super) about: &'static str,
    pub(super) tasks: Vec<Task>,
}

impl Experiment {
    /// Keeps what is asked for by any of its names; and beside variants what they are told as a part of.
    pub(super) fn keep(&mut self, is_asked_for: impl Fn(&str) -> bool) {
        let file = self.file;
        let asked = |task: &Task| task.names(file).iter().any(|name| is_asked_for(name));
        let places = self.tasks.iter().filter(|task| asked(task)).filter_map(|task| Some(task.variant?.1));
        let places: Vec<usize> = places.collect();
        let is_measure =
            |task: &Task| task.variant.is_some_and(|(name, place)| name == VARIANTS[0].0 && places.contains(&place));
        self.tasks.retain(|task| asked(task) || is_measure(task));
    }
}

const TJOBS: [f64; 9] = [0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0, 30.0, 100.0];

fn cost(job: f64, task: f64) -> Cost {
    Cost { job_micros: micros(job), task_micros: micros(task) }
}

/// The usual settings: Omega, fine and incremental, one scheduler of each kind.
pub(super) fn usual(cell: &'static CellShape, hours: f64) -> Settings {
    Settings {
        cell,
        horizon_micros: micros(hours * 3600.0),
        arch: Arch::Omega,
        check: ConflictCheck::Fit,
        commit: Commit::Incremental,
        batch_schedulers: 1,
        batch: cost(0.1, 0.005),
        service: cost(0.1, 0.005),
        rate: 1.0,
        workload_seed: 1,
        scheduler_seed: 0,
        retrying: REFERENCE,
        beyond: Beyond::default(),
    }
}

fn task(exp: &str, quick: bool, settings: Settings) -> Task {
    Task { exp: exp.to_owned(), check_name: None, settings, quick, map: false, variant: None }
}

/// All experiments.
pub(super) fn experiments() -> Vec<Experiment> {
    vec![
        Experiment {
            file: "e1_tjob_sweep",
            about: "Busyness and wait over decision time, by architecture (the paper's figures 5, 6 and 7)",
            tasks: tjob_sweep(),
        },
        Experiment {
            file: "e3_lambda_x_schedulers",
            about: "Conflicts and busyness over batch load and number of batch schedulers (figures 8 and 9)",
            tasks: lambda_x_schedulers(),
        },
        Experiment {
            file: "e4_conflict_modes",
            about: "Coarse or fine conflict detection, incremental or all-or-nothing (figures 12 and 14)",
            tasks: conflict_modes(),
        },
        Experiment {
            file: "e5_batch_schedulers",
            about: "One against three batch schedulers over their decision time (figure 13)",
            tasks: batch_schedulers(),
        },
        Experiment {
            file: "e6_tjob_x_ttask",
            about: "Busyness over t_job and t_task of service jobs, by architecture (figure 10)",
            tasks: tjob_x_ttask(),
        },
        Experiment {
            file: "e8_beyond",
            about: "What the paper has not: alternates, decorrelation, exact best fit, constraints",
            tasks: beyond(),
        },
    ]
}

fn tjob_sweep() -> Vec<Task> {
    const EXP: &str = "E1_tjob";
    let mut tasks = Vec::new();
    let cells = [(&R1, 1, 0), (&R1, 2, 1), (&R1, 3, 2), (&R2, 1, 0)];
    for (cell, workload_seed, scheduler_seed) in cells {
        for job in TJOBS {
            for arch in [Arch::MonoSingle, Arch::MonoMulti, Arch::Partitioned, Arch::Omega] {
                let swept = cost(job, 0.005);
                let settings = Settings { arch, service: swept, workload_seed, scheduler_seed, ..usual(cell, 24.0) };
                let batch = if arch == Arch::MonoSingle { swept } else { settings.batch };
                tasks.push(task(EXP, workload_seed == 1, Settings { batch, ..settings }));
            }
        }
    }
    let mesos = [(&R1, 24.0, &TJOBS[..]), (&R2, 6.0, &[0.1, 1.0, 3.0, 10.0, 30.0, 100.0][..])];
    for (cell, hours, jobs) in mesos {
        for &job in jobs {
            let settings = Settings { arch: Arch::Mesos, service: cost(job, 0.005), ..usual(cell, hours) };
            tasks.push(task(EXP, true, settings));
        }
    }
    tasks
}

fn lambda_x_schedulers() -> Vec<Task> {
    const COUNTS: [u32; 6] = [1, 2, 4, 8, 16, 32];
    let mut tasks = Vec::new();
    let cells = [
        (&R1, 4.0, &[1.0, 2.0, 4.0, 8.0, 16.0, 32.0][..]),
        (&R2, 2.0, &[1.0, 2.0, 4.0, 6.0, 8.0, 10.0, 12.0, 16.0][..]),
    ];
    for (cell, hours, rates) in cells {
        for &rate in rates {
            for batch_schedulers in COUNTS {
                let settings = Settings { rate, batch_schedulers, ..usual(cell, hours) };
                tasks.push(task("E3_lambda_x_nsched", [1.0, 8.0, 16.0].contains(&rate), settings));
            }
        }
    }
    for rate in [1.0, 4.0, 8.0, 16.0] {
        for batch_schedulers in [1, 4, 16] {
            let settings = Settings { rate, batch_schedulers, check: ConflictCheck::Sequence, ..usual(&R1, 4.0) };
            tasks.push(task("E3b_lambda_x_nsched_coarse", true, settings));
        }
    }
    tasks
}

fn conflict_modes() -> Vec<Task> {
    const EXP: &str = "E4_conflict_modes";
    const JOBS: [f64; 6] = [0.1, 1.0, 3.0, 10.0, 30.0, 100.0];
    let modes = [ConflictCheck::Fit, ConflictCheck::Sequence]
        .into_iter()
        .flat_map(|check| [Commit::Incremental, Commit::AllOrNothing].map(|commit| (check, commit)));
    let modes: Vec<_> = modes.collect();
    let cells = [(&R1, 1, 0), (&R2, 1, 0), (&R3, 1, 0), (&R1, 2, 1), (&R1, 3, 2)];
    let mut tasks = Vec::new();
    for (cell, workload_seed, scheduler_seed) in cells {
        for job in JOBS {
            for &(check, commit) in &modes {
                let service = cost(job, 0.005);
                let settings = Settings { check, commit, service, workload_seed, scheduler_seed, ..usual(cell, 24.0) };
                tasks.push(task(EXP, workload_seed == 1 && [1.0, 30.0].contains(&job), settings));
            }
        }
    }
    // The reference has these rows twice: as its simulator is, and with a repair that makes it what the core does anyway.
    for cell in [&R1, &R2, &R3] {
        for job in JOBS {
            let settings = Settings { check: ConflictCheck::Sequence, service: cost(job, 0.005), ..usual(cell, 24.0) };
            let row = task(EXP, [1.0, 30.0].contains(&job), settings);
            tasks.push(Task { check_name: Some("sequence-numbers-fixed"), ..row });
        }
    }
    tasks
}

fn batch_schedulers() -> Vec<Task> {
    let mut tasks = Vec::new();
    for batch_schedulers in [1, 3] {
        for job in [0.1, 0.3, 1.0, 2.0, 3.0, 4.0, 6.0, 8.0, 10.0, 12.0, 15.0, 20.0] {
            let settings = Settings { batch: cost(job, 0.005), batch_schedulers, ..usual(&R2, 24.0) };
            tasks.push(task("E5_batch_schedulers", true, settings));
        }
    }
    tasks
}

fn tjob_x_ttask() -> Vec<Task> {
    let mut tasks = Vec::new();
    for arch in Arch::ALL {
        for job in [0.01, 0.1, 1.0, 10.0, 100.0] {
            for each in [0.001, 0.01, 0.1, 1.0] {
                let swept = cost(job, each);
                let settings = Settings { arch, service: swept, ..usual(&R1, 24.0) };
                let batch = if arch == Arch::MonoSingle { swept } else { settings.batch };
                tasks.push(task("E6_tjob_x_ttask", true, Settings { batch, ..settings }));
            }
        }
    }
    tasks
}

/// The variants, by name.
pub(super) const VARIANTS: [(&str, Beyond); 9] = [
    ("as-the-paper", AS_THE_PAPER),
    ("alternates", Beyond { alternates_percent: 50, ..AS_THE_PAPER }),
    ("own-first", Beyond { own_first: true, ..AS_THE_PAPER }),
    ("alternates+own-first", Beyond { alternates_percent: 50, own_first: true, ..AS_THE_PAPER }),
    ("best-fit", Beyond { choice: Choice::BestFit, ..AS_THE_PAPER }),
    ("best-fit-decorrelated", Beyond { choice: Choice::BestFitDecorrelated, ..AS_THE_PAPER }),
    (
        "best-fit-decorrelated+alternates",
        Beyond { choice: Choice::BestFitDecorrelated, alternates_percent: 50, ..AS_THE_PAPER },
    ),
    ("constraints", Beyond { constraints: true, ..AS_THE_PAPER }),
    (
        "constraints+alternates+own-first",
        Beyond { constraints: true, alternates_percent: 50, own_first: true, ..AS_THE_PAPER },
    ),
];

const AS_THE_PAPER: Beyond =
    Beyond { alternates_percent: 0, own_first: false, constraints: false, choice: Choice::RandomFirstFit };

/// The settings at which variants are compared: where the reference has the most conflicts that are not an artefact of coarse detection.
pub(super) const CONTESTED: [&str; 5] =
    ["R1 t_job 30", "R2 t_job 30", "R3 t_job 30", "R1 x16, 8 schedulers", "R2 x16, 8 schedulers"];

fn contested(place: usize) -> Settings {
    let slow = cost(30.0, 0.005);
    match place {
        0 => Settings { service: slow, ..usual(&R1, 24.0) },
        1 => Settings { service: slow, ..usual(&R2, 24.0) },
        2 => Settings { service: slow, ..usual(&R3, 24.0) },
        3 => Settings { rate: 16.0, batch_schedulers: 8, ..usual(&R1, 4.0) },
        _ => Settings { rate: 16.0, batch_schedulers: 8, ..usual(&R2, 2.0) },
    }
}

fn beyond() -> Vec<Task> {
    let mut tasks = Vec::new();
    for place in 0..CONTESTED.len() {
        for (name, beyond) in VARIANTS {
            let settings = Settings { beyond, ..contested(place) };
            // An exact scan for each of a million tasks is no quick form.
            let quick = place != 4 || beyond.choice == Choice::RandomFirstFit;
            let map = place >= 3 && ["as-the-paper", "own-first", "best-fit"].contains(&name);
            tasks.push(Task { map, variant: Some((name, place)), ..task(&format!("E8_{name}"), quick, settings) });
        }
    }
    tasks
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn rows_are_asked_for_by_the_names_that_files_and_results_have() {
        let kept = |text: &str| {
            let mut kept: BTreeSet<String> = BTreeSet::new();
            for mut experiment in experiments() {
                experiment.keep(|name| name.contains(text));
                kept.extend(experiment.tasks.into_iter().map(|task| task.exp));
            }
            kept.into_iter().collect::<Vec<_>>().join(" ")
        };
        assert_eq!(kept("E1_tjob"), "E1_tjob");
        assert_eq!(kept("e1_tjob_sweep"), "E1_tjob");
        assert_eq!(kept("e3_lambda"), "E3_lambda_x_nsched E3b_lambda_x_nsched_coarse");
        // A variant comes with what it is a part of, at the same place.
        assert_eq!(kept("variant=own-first at=R1 t_job 30"), "E8_as-the-paper E8_own-first");
        assert_eq!(kept("variant=constraints workload=R2 lambda=16 "), "E8_as-the-paper E8_constraints");
        // What the gate runs.
        assert_eq!(kept("E8_alternates"), "E8_alternates E8_alternates+own-first E8_as-the-paper");
        assert_eq!(kept("e9"), "");
    }

    #[test]
    fn the_experiments_are_all_different_rows() {
        for experiment in experiments() {
            let rows: BTreeSet<String> = experiment
                .tasks
                .iter()
                .map(|task| format!("{}{:?}{:?}", task.exp, task.check_name, task.settings))
                .collect();
            assert_eq!(rows.len(), experiment.tasks.len(), "{}", experiment.file);
        }
    }
}
