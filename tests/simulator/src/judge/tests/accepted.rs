//! Commands that are said to be done, and are not.

use plenum_model::{FoundMachine, Partition, Unfit};

use super::*;
use crate::judge::accepted::invariant_what_is_accepted_is_done;

// Only what transactions, holds and launches did was looked at: of everything else an owner is told that it is done.
#[test]
fn a_command_that_is_accepted_and_not_done_is_found() {
    let mut stage = Stage::new(GroupShape::default());
    stage.place();
    let found = stage.core.cell().allocations().next().expect("it was placed");
    let (allocation, session) = (found.id, SessionId(found.row.session));
    let (job, machine) = (stage.job, stage.machine);
    let shape = JobShape::clone(&stage.core.cell().job(job).expect("it is there").shape);
    let shape = Arc::new(JobShape { name: "other".into(), ..shape });
    let mut limits = Quota::default().limits;
    limits[0] = Some(500);
    let epoch = stage.core.cell().machine(machine).expect("it is there").epoch;
    let commands = [
        Command::submit(shape),
        Command::SetQuota { namespace: "default".into(), limit: Some(Quota { limits }) },
        Command::SetPartition { name: "apart".into(), partition: Some(Partition::default()) },
        Command::PauseScheduler { scheduler: "batch".into(), paused: true },
        Command::SetRights { scheduler: "batch".into(), evicts: Some(false), priority: None },
        Command::SetRights { scheduler: "batch".into(), evicts: None, priority: Some(7) },
        Command::ReportFitness { machine, epoch, unfit: Some(Unfit::StateUnwritable) },
        Command::CordonMachine { machine, cordoned: true },
        Command::DrainMachine { machine, deadline: Some(LogTime::from_micros(60_000_000)) },
        Command::StopAllocation(allocation),
        Command::ScaleJob { job, version: None, group: 0, count: 3 },
        Command::StopJob { job, version: None },
        Command::ExpireMachine { machine, epoch },
        Command::RemoveMachine { machine, unless_alive: false },
        Command::CloseSession(session),
        Command::RegisterMachine(FoundMachine {
            name: "m2".into(),
            boot_id: "boot".into(),
            capacity: Resources::new(8000, 1 << 30),
            ..FoundMachine::default()
        }),
    ];
    for command in commands {
        let before = stage.core.cell().clone();
        stage.ask(command.clone());
        let after = stage.core.cell();
        assert_eq!(invariant_what_is_accepted_is_done(&before, &command, after), Ok(()));
        assert_eq!(invariant_what_is_accepted_is_done(after, &command, after), Ok(()), "it is so already");
        assert!(invariant_what_is_accepted_is_done(&before, &command, &before).is_err(), "{command:?}");
    }
}
