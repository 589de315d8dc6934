//! Stories: what several parties asked of a cell, and what it answered, as a text that people read and the core takes again.
//!
//! ```text
//! In words: who wants what, and what must come of it.
//! ----
//! ! ring_changes: 24                                       a setting of the core
//! ! restored: 17                                           the cell goes on from this revision
//! # 4.737350 m0: registered                                a remark
//! @4.737535 principal: "local", commit { … }               when a command came, and the command
//!   txn-2-3: Committed, 2 of 2 granted                     what came of it: written by the machine
//! ```
//!
//! A failing run prints itself in this format, so that it becomes a test by being copied.

use plenum_core::{Core, CoreOptions, Decided};
use plenum_model::{Cell, LogTime, Revision};
use plenum_proto::command;

use crate::books::{Violation, hold};
use crate::judge::{Judge, Step};
use crate::server::BEGIN_MICROS;
use crate::{describe, text};

/// Between the words and the steps.
pub const RULE: &str = "----";

/// Plays a story: the same text, with the answers as they are now.
///
/// # Errors
/// When a line cannot be read, with its number; or when an invariant does not hold.
pub fn play(story: &str) -> Result<String, Violation> {
    let unreadable = |number: usize, what: String| Violation {
        invariant: "a story can be read",
        facts: format!("line {}: {what}", number + 1),
    };
    let mut player = Player::new(CoreOptions::default());
    let mut told = String::new();
    let mut begun = false;
    for (number, line) in story.lines().enumerate() {
        match line {
            _ if !begun => begun = line == RULE,
            // Written anew.
            _ if line.starts_with("  ") => continue,
            _ if line.is_empty() || line.starts_with('#') => {}
            _ if line.starts_with('!') => {
                player.sets(line).map_err(|what| unreadable(number, what))?;
            }
            _ => {
                let (time, encoded) = step(line).map_err(|what| unreadable(number, what))?;
                told += line;
                told.push('\n');
                for line in player.asks(time, encoded).map_err(|error| unreadable(number, error.to_string()))? {
                    told += &line;
                    told.push('\n');
                }
                continue;
            }
        }
        told += line;
        told.push('\n');
    }
    hold(begun, "a story can be read", || format!("there is no line {RULE} between its words and its steps"))?;
    Ok(told)
}

/// What a core can be told, by the names of its fields. A new bound does not compile before it is here: a run is decided otherwise without.
macro_rules! settings {
    ($($name:ident),* $(,)?) => {
        /// The settings with which a core plays a run again, as lines of a story.
        pub(crate) fn settings(options: &CoreOptions) -> Vec<String> {
            let CoreOptions { $($name),* } = options;
            vec![$(format!("! {}: {}", stringify!($name), $name)),*]
        }

        const NAMES: &[&str] = &[$(stringify!($name)),*];

        /// Sets what has that name; `None`: nothing has it, or that is no value of it.
        fn set(options: &mut CoreOptions, name: &str, value: &str) -> Option<()> {
            match name {
                $(stringify!($name) => options.$name = value.parse().ok()?,)*
                _ => return None,
            }
            Some(())
        }
    };
}

settings! {
    ring_changes,
    sessions_max,
    sessions_of_principal_max,
    sessions_of_scheduler_max,
    machines_max,
    jobs_max,
    job_bytes_max,
    tasks_max,
    shapes_max,
    shapes_spare,
    schedulers_max,
    schedulers_spare,
    classes_max,
    quotas_max,
    partitions_max,
    holds_max,
    hold_micros_max,
    unknown_micros,
    retire_after_micros,
    finished_jobs_max,
    stops_max,
    lost_millis_a_minute,
}

fn step(line: &str) -> Result<(LogTime, bytes::Bytes), String> {
    let expected = || format!("expected `@SECONDS.MICROS COMMAND`, a remark, or a setting; found {line}");
    let (time, asked) = line.strip_prefix('@').and_then(|rest| rest.split_once(' ')).ok_or_else(expected)?;
    let (seconds, micros) = time.split_once('.').ok_or_else(expected)?;
    let seconds: i64 = seconds.parse().map_err(|_| expected())?;
    let micros: i64 = micros.parse().map_err(|_| expected())?;
    Ok((LogTime::from_micros(BEGIN_MICROS + seconds * 1_000_000 + micros), text::parse(asked)?))
}

/// A core that is asked, and checked after each answer.
struct Player {
    core: Core,
    mirror: Cell,
    judge: Judge,
    snapshots: std::collections::VecDeque<Cell>,
    options: CoreOptions,
}

impl Player {
    fn new(options: CoreOptions) -> Self {
        let core = Core::new(options.clone());
        let (mirror, judge) = (Cell::default(), Judge::of(&options));
        Self { snapshots: [mirror.clone()].into(), core, mirror, judge, options }
    }

    /// A line that begins with an exclamation mark: a setting, before the first step; or a restore.
    fn sets(&mut self, line: &str) -> Result<(), String> {
        let expected = || format!("expected `! NAME: NUMBER` with restored, or one of {NAMES:?}; found {line}");
        let (name, value) = line.trim_start_matches('!').split_once(':').ok_or_else(expected)?;
        let (name, value) = (name.trim(), value.trim());
        if name == "restored" {
            return self.restore(Revision(value.parse().map_err(|_| expected())?));
        }
        let mut options = self.options.clone();
        set(&mut options, name, value).ok_or_else(expected)?;
        *self = Self::new(options);
        Ok(())
    }

    fn restore(&mut self, revision: Revision) -> Result<(), String> {
        let found = self.snapshots.iter().rfind(|cell| cell.revision() == revision).cloned();
        let cell = found.ok_or_else(|| format!("revision {revision} was not told, and can't be restored"))?;
        self.core = Core::from_cell(cell.clone(), self.options.clone());
        self.judge.restored(&cell);
        self.mirror = cell;
        Ok(())
    }

    fn asks(&mut self, time: LogTime, encoded: bytes::Bytes) -> Result<Vec<String>, Violation> {
        let invalid = |error: &dyn std::fmt::Display| Violation {
            invariant: "a story asks what may be asked",
            facts: error.to_string(),
        };
        let request = command::decode(encoded).map_err(|error| invalid(&error))?;
        let before = self.core.cell().clone();
        let answer = self.core.decide(&request, time);
        let (decision, delta) = match &answer {
            Decided::Changed { decision, delta } => (decision, delta),
            Decided::Unchanged(decision) => return Ok(describe::decided(decision, None, &before)),
            Decided::Repeated(Revision(first)) => return Ok(vec![format!("  as at revision {first}")]),
        };
        let step = Step { before: &before, request: &request, decided: &answer, after: self.core.cell(), delta };
        self.judge.check(&step, &self.snapshots)?;
        self.mirror.apply(delta).map_err(|error| invalid(&error))?;
        let difference = self.mirror.first_difference(self.core.cell());
        hold(difference.is_none(), "invariant_a_snapshot_is_the_fold_of_all_deltas", || format!("{difference:?}"))?;
        self.snapshots.push_back(self.mirror.clone());
        Ok(describe::decided(decision, Some(delta), &before))
    }
}

#[cfg(test)]
mod tests {
    use plenum_model::{CellIdentity, Command, FoundMachine, Request, Resources};
    use plenum_proto::{jobs, v1};
    use plenum_server::commit::{Asked, CommitOptions, Committer, Input, Output};
    use plenum_server::publish::LoggedBatch;
    use plenum_testkit::JobBuilder;
    use prost::Message as _;

    use super::*;
    use crate::faults::Mix;
    use crate::random::Random;
    use crate::world::World;

    /// The cell after this was asked, in the same batch as what came before.
    fn ask(committer: &mut Committer<()>, asked: Asked) -> Cell {
        committer.handle(LogTime::from_micros(BEGIN_MICROS), Input::Request { ticket: None, asked });
        committer.undurable_cell().clone()
    }

    fn local(command: Command) -> Asked {
        Asked::new(Request { principal: "local".into(), namespace: "default".into(), command })
    }

    /// A batch in which a task is granted on the only machine, and ends with it.
    fn granted_and_gone() -> LoggedBatch {
        let mut committer = Committer::new(Core::new(CoreOptions::default()), CommitOptions::default());
        let identity = CellIdentity { cell_id: [7; 16], incarnation: 1, term: 1, ..CellIdentity::default() };
        ask(&mut committer, local(Command::OpenServer(identity)));
        let registration = Command::RegisterMachine(FoundMachine {
            name: "m0".into(),
            boot_id: "boot-1".into(),
            capacity: Resources::new(8000, 1 << 30),
            ..FoundMachine::default()
        });
        ask(&mut committer, local(registration));
        let job = JobBuilder::new("job", "batch").group("work", 1, 1000).spec();
        ask(&mut committer, local(jobs::submit(job).expect("a job")));
        let cell = ask(&mut committer, local(Command::OpenSession { scheduler: "batch".into() }));
        let machine = cell.machine_named("m0").expect("it was registered").id;
        let placement = v1::Placement {
            job: cell.job_named("default", "job").expect("it was submitted").id.to_bits(),
            job_version: 1,
            machines: vec![machine.slot],
            tasks: vec![0],
            ..v1::Placement::default()
        };
        let wire = v1::Transaction {
            session: cell.sessions().next().expect("it was opened").id.0,
            number: 1,
            incarnation: 1,
            base_revision: cell.revision().0,
            check: v1::ConflictCheck::Fit.into(),
            placements: vec![placement],
            ..v1::Transaction::default()
        };
        let claim = Asked::commit(&"local".into(), &"default".into(), &wire.encode_to_vec().into());
        ask(&mut committer, claim.expect("a transaction"));
        ask(&mut committer, local(Command::RemoveMachine { machine, unless_alive: false }));
        let Some(Output::Write(batch)) = committer.poll() else { panic!("all of it is in one batch") };
        LoggedBatch::parse(batch.bytes).expect("a batch")
    }

    // What came of a revision was told from the cell before its batch, which did not know what had been granted in it.
    #[test]
    fn what_is_granted_and_ends_within_one_batch_is_told_as_it_is_when_it_is_played_again() {
        let mix = Mix::draw(&mut Random::new(1), 2);
        let mut world = World::new(Random::new(3), mix, true);
        world.tell_batch(&granted_and_gone(), &mut Cell::default());
        let written = format!("A task is granted, and its machine removed.\n{RULE}\n{}", world.story.text());
        assert!(written.contains(" is granted: ") && written.contains(" ends EndedLost"), "{written}");
        assert_eq!(play(&written), Ok(written));
    }

    // Five of them were told: the others were those of a cell of nobody.
    #[test]
    fn every_setting_of_a_core_comes_back_from_a_story() {
        let odd = |text: &str| -> String {
            let (name, value) = text.split_once(": ").expect("a setting");
            format!("{name}: {}", value.parse::<u32>().map_or(7, |value| value / 2 + 3))
        };
        let usual = settings(&CoreOptions::default());
        let lines: Vec<String> = usual.iter().map(|line| odd(line)).collect();
        let mut player = Player::new(CoreOptions::default());
        lines.iter().for_each(|line| player.sets(line).expect("a setting"));
        assert_eq!(settings(&player.options), lines);
        assert!(lines.iter().zip(&usual).all(|(line, usual)| line != usual), "{lines:?}");
        for wrong in ["! ring_changes: -1", "! machines_max: 4294967296", "! no_such_thing: 1", "! stops_max 1"] {
            assert!(player.sets(wrong).is_err(), "{wrong}");
        }
    }
}
