//! Flags that the experiment that was asked for does not read. They would change nothing, so the run is refused before it begins.

use clap::parser::ValueSource;
use clap::{ArgMatches, FromArgMatches};

use super::Experiment::{self, Capacity, Inflation, Replay};
use super::{Flags, machines};

/// Flags by the name of their field, and the experiments that read them. Those that are not here, all of them read.
const READ_BY: [(&str, &[Experiment]); 15] = [
    ("jobs", &[Replay, Capacity]),
    ("machines", &[Replay, Capacity]),
    ("cell", &[Replay, Capacity]),
    ("backup", &[Replay, Capacity]),
    ("queue", &[Replay, Capacity]),
    ("jitter", &[Replay, Capacity]),
    ("load", &[Replay, Capacity]),
    ("classes", &[Replay]),
    ("wait_limit", &[Capacity]),
    ("nodes", &[Inflation]),
    ("pods", &[Inflation]),
    ("arrivals", &[Inflation]),
    ("node_order", &[Inflation]),
    ("orders", &[Inflation]),
    ("through_core", &[Inflation]),
];

/// What a run of the suite was given and does not read, in words.
pub(crate) fn unread_flag(run: &ArgMatches) -> Option<String> {
    let is_given = |field: &str| run.value_source(field) == Some(ValueSource::CommandLine);
    let running: Vec<Experiment> = match run.get_one::<Experiment>("experiment") {
        Some(one) => vec![*one],
        // Where nothing says what runs where, the inflation runs as well.
        None if Flags::from_arg_matches(run).is_ok_and(|flags| flags.says_anything()) => vec![Replay],
        None => vec![Replay, Inflation],
    };
    let idle = |(field, readers): &&(&str, &[Experiment])| {
        is_given(field) && !running.iter().any(|experiment| readers.contains(experiment))
    };
    if let Some((field, readers)) = READ_BY.iter().find(idle) {
        let names: Vec<String> = readers.iter().map(|reader| format!("`--experiment {}`", reader.name())).collect();
        let (flag, names) = (field.replace('_', "-"), names.join(" and "));
        return Some(format!("--{flag} is read with {names} only: ask for that, or leave the flag out"));
    }
    if is_given("load") && (is_given("jobs") || is_given("backup")) {
        return Some("--load is of jobs that are drawn, and --jobs and --backup name some: leave one out".to_owned());
    }
    let machines = run.get_one::<String>("machines").filter(|text| is_given("cell") && machines::are_told(text))?;
    Some(format!("--cell is what changes are about, and --machines {machines} is no change: leave one out"))
}

#[cfg(test)]
mod tests {
    use crate::Run;

    fn refused(words: &str) -> Option<String> {
        Run::asked_for(&words.split(' ').collect::<Vec<_>>()).err().map(|error| {
            assert_eq!(error.exit_code(), 2, "{words}");
            error.to_string()
        })
    }

    // Each of these ran, and came to what it would have come to without the flag.
    #[test]
    fn a_flag_that_its_experiment_does_not_read_is_refused() {
        let wrong = [
            ("--experiment replay --wait-limit 60", "--wait-limit is read with `--experiment capacity` only"),
            ("--wait-limit 60", "--wait-limit is read with"),
            ("--experiment capacity --classes own", "--classes is read with `--experiment replay` only"),
            ("--experiment replay --through-core", "--through-core is read with `--experiment inflation` only"),
            ("--jobs a.csv --through-core", "--through-core is read with"),
            ("--experiment inflation --jobs a.csv", "`--experiment replay` and `--experiment capacity` only"),
            ("--experiment inflation --machines=-20%", "--machines is read with"),
            ("--experiment inflation --cell a.csv", "--cell is read with"),
            ("--experiment inflation --queue easy", "--queue is read with"),
            ("--experiment inflation --jitter 5", "--jitter is read with"),
            ("--experiment inflation --load 0.5", "--load is read with"),
            ("--nodes a.csv --pods b.csv", "--nodes is read with `--experiment inflation` only"),
            ("--experiment capacity --nodes a.csv --pods b.csv", "--nodes is read with"),
            ("--jobs a.csv --load 0.5", "--load is of jobs that are drawn"),
            ("--experiment capacity --backup a --load 0.5", "--load is of jobs that are drawn"),
            ("--jobs a.csv --cell b.csv --machines 20x8", "--cell is what changes are about, and --machines 20x8"),
        ];
        for (words, expected) in wrong {
            let told = refused(&format!("trace {words}")).unwrap_or_default();
            assert!(told.contains(expected), "{words}: {told}");
        }
    }

    #[test]
    fn a_flag_that_some_experiment_of_the_run_reads_is_taken() {
        for words in [
            "--through-core --jitter 5",
            "--seeds 0..2 --load 0.5 --classes own",
            "--experiment capacity --jobs a.csv --cell b.csv --machines=-20% --seeds 0..9 --jitter 5 --wait-limit 60",
            "--jobs a.csv --cell b.csv --machines 7",
            "--experiment inflation --nodes a.csv --pods b.csv --policy fgd --seeds 42 --through-core",
            "--backup a --jobs b.csv --policy best-fit --queue greedy --classes own",
        ] {
            assert_eq!(refused(&format!("trace {words}")), None, "{words}");
        }
    }
}
