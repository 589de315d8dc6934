//! Sessions, and the opening of a server.

use std::sync::Arc;

use plenum_model::planted::{self, Bug};
use plenum_model::{
    CellIdentity, Job, LogTime, Rejection, RejectionCode, Request, Rights, SessionChange, SessionId,
    session::NUMBERS_KEPT,
};

use crate::{Core, Handled, Verdict, accepted};

const _: () = assert!(NUMBERS_KEPT == 256, "documented in the protocol");

/// Most names of schedulers that can be paused at once, and most that can have unusual rights: far more than a cell has.
const SINGLED_OUT_MAX: usize = 4096;

impl Core {
    /// A server starts: everybody's leases begin anew, and the ring of changes is empty. In a cell that was restored nobody's session
    /// goes on: whoever has one knows of decisions that are not there any more. Left open, they would also keep their share of the jobs.
    pub(crate) fn open_server(&mut self, identity: &CellIdentity, now: LogTime) -> Verdict {
        let mut delta = self.draft(now);
        delta.cell = Some(identity.clone());
        if identity.incarnation != self.cell.identity().incarnation && !planted::is(Bug::KeepsSessions) {
            delta.sessions.extend(self.cell.sessions().map(|session| SessionChange::Closed(session.id)));
        }
        Verdict::Change(accepted(identity.term, 0), delta)
    }

    pub(crate) fn open_session(&mut self, request: &Request, scheduler: &Arc<str>, now: LogTime) -> Handled {
        self.has_place(&request.principal, scheduler)?;
        let mut delta = self.draft(now);
        self.name_scheduler(scheduler, &mut delta)?;
        delta.sessions.push(SessionChange::Opened {
            scheduler: scheduler.clone(),
            principal: request.principal.clone(),
            namespace: request.namespace.clone(),
        });
        Ok(Verdict::Change(accepted(delta.revision.0, 0), delta))
    }

    /// Whether one more session may be open. Neither one principal nor one scheduler can have all of them, as one that forgets to close
    /// its own would before long.
    fn has_place(&self, principal: &Arc<str>, scheduler: &Arc<str>) -> Result<(), Rejection> {
        let mut open = [0; 3];
        for session in self.cell.sessions() {
            let counts = [true, session.principal == *principal, session.scheduler == *scheduler];
            open.iter_mut().zip(counts).for_each(|(open, counts)| *open += usize::from(counts));
        }
        let options = &self.options;
        let most = [options.sessions_max, options.sessions_of_principal_max, options.sessions_of_scheduler_max];
        let whose = [String::new(), format!(" of one principal, such as {principal}"), format!(" as {scheduler}")];
        let reached = (0..open.len()).find(|&which| open[which] >= most[which]);
        let Some(which) = reached else { return Ok(()) };
        let message =
            format!("at most {} sessions{}, and {} are open; close some", most[which], whose[which], open[which]);
        Err(Rejection::new(RejectionCode::LimitReached, message))
    }

    pub(crate) fn close_session(&mut self, id: SessionId, now: LogTime) -> Handled {
        if self.cell.session(id).is_none() {
            return Err(no_such_session(id));
        }
        let mut delta = self.draft(now);
        delta.sessions.push(SessionChange::Closed(id));
        Ok(Verdict::Change(accepted(id.0, 0), delta))
    }

    /// An operator keeps a scheduler's transactions out, or lets them in again. What it placed runs on. A name that nobody used yet may
    /// be paused too: whoever comes under it waits.
    pub(crate) fn pause_scheduler(&mut self, scheduler: &Arc<str>, paused: bool, now: LogTime) -> Handled {
        if self.cell.is_paused(scheduler) == paused {
            return Ok(Verdict::Answer(accepted(0, 0)));
        }
        if paused && self.cell.paused().count() >= SINGLED_OUT_MAX {
            let message = format!("at most {SINGLED_OUT_MAX} schedulers can be paused at once; resume some");
            return Err(Rejection::new(RejectionCode::LimitReached, message));
        }
        let mut delta = self.draft(now);
        delta.paused.push((scheduler.clone(), paused));
        Ok(Verdict::Change(accepted(0, 0), delta))
    }

    /// Grants a scheduler something, or no more. What it placed stays. A name that nobody used yet may have rights too.
    pub(crate) fn set_rights(
        &mut self,
        scheduler: &Arc<str>,
        evicts: Option<bool>,
        priority: Option<u8>,
        now: LogTime,
    ) -> Handled {
        let before = self.cell.rights_of(scheduler);
        let rights = Rights { evicts: evicts.unwrap_or(before.evicts), priority: priority.unwrap_or(before.priority) };
        if !(1..=Rights::PRIORITY_MAX).contains(&rights.priority) {
            let message = format!("priority {}; expected 1 to {}", rights.priority, Rights::PRIORITY_MAX);
            return Err(Rejection::new(RejectionCode::InvalidRequest, message));
        }
        if rights == before || planted::is(Bug::ForgetsRights) {
            return Ok(Verdict::Answer(accepted(0, 0)));
        }
        if before == Rights::default() && self.cell.rights().len() >= SINGLED_OUT_MAX {
            let message = format!(
                "at most {SINGLED_OUT_MAX} schedulers can be granted something unusual at once; give some the usual rights again"
            );
            return Err(Rejection::new(RejectionCode::LimitReached, message));
        }
        let mut delta = self.draft(now);
        delta.rights.push((scheduler.clone(), rights));
        Ok(Verdict::Change(accepted(0, 0), delta))
    }

    /// Whether what this scheduler asks for is decided at all.
    pub(crate) fn may_commit(&self, scheduler: &str) -> Result<(), Rejection> {
        if !self.cell.is_paused(scheduler) || planted::is(Bug::OverlooksPauses) {
            return Ok(());
        }
        let message = format!("{scheduler} is paused by an operator; it may try again once it was resumed");
        Err(Rejection::new(RejectionCode::SchedulerPaused, message))
    }

    /// Makes sure that a job is this scheduler's: since that was looked at where it was asked, the job may have been given to another one.
    pub(crate) fn expect_own(&self, scheduler: &str, job: &Job) -> Result<(), Rejection> {
        let (name, owner) = (&job.shape.name, &job.shape.scheduler);
        if **owner == *scheduler {
            return Ok(());
        }
        let message = format!("the job {name} belongs to the scheduler {owner}, and the scheduler {scheduler} asks");
        Err(Rejection::new(RejectionCode::NotPermitted, message))
    }
}

pub(crate) fn no_such_session(id: SessionId) -> Rejection {
    Rejection::new(RejectionCode::NoSuchSession, format!("session {} is closed or never was; open a new one", id.0))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{CoreOptions, Decided};
    use plenum_model::{
        Command, Decision, FoundMachine, GroupShape, JobId, JobShape, MachineId, TransactionId, floor_of,
    };

    const NOW: LogTime = LogTime::from_micros(1);

    fn ask(core: &mut Core, command: Command) -> Decision {
        let request = Request { principal: "local".into(), namespace: "default".into(), command };
        match core.decide(&request, NOW) {
            Decided::Changed { decision, .. } | Decided::Unchanged(decision) => decision,
            Decided::Repeated(revision) => panic!("repeated {revision}"),
        }
    }

    fn open_server(core: &mut Core, incarnation: u64, term: u64) {
        ask(core, Command::OpenServer(CellIdentity { incarnation, term, ..CellIdentity::default() }));
    }

    fn opens(core: &mut Core, principal: &str, scheduler: &str) -> Result<(), String> {
        let command = Command::OpenSession { scheduler: scheduler.into() };
        let request = Request { principal: principal.into(), namespace: "default".into(), command };
        match core.decide(&request, NOW) {
            Decided::Changed { .. } => Ok(()),
            Decided::Unchanged(Decision::Rejected(rejection)) => {
                assert_eq!(rejection.code, RejectionCode::LimitReached);
                Err(rejection.message)
            }
            other => panic!("{other:?}"),
        }
    }

    // A program that opened sessions and closed none had all of them in the end, and no scheduler could come.
    #[test]
    fn neither_one_scheduler_nor_one_principal_gets_all_sessions() {
        let mut core = Core::new(CoreOptions {
            sessions_max: 8,
            sessions_of_principal_max: 7,
            sessions_of_scheduler_max: 6,
            ..CoreOptions::default()
        });
        open_server(&mut core, 1, 1);
        (0..6).for_each(|_| assert_eq!(opens(&mut core, "local", "leaky"), Ok(())));
        let refused = opens(&mut core, "operator/ann", "leaky").expect_err("it is refused");
        assert_eq!(refused, "at most 6 sessions as leaky, and 6 are open; close some");
        assert_eq!(opens(&mut core, "local", "batch"), Ok(()));
        let refused = opens(&mut core, "local", "service").expect_err("it is refused");
        assert_eq!(refused, "at most 7 sessions of one principal, such as local, and 7 are open; close some");
        assert_eq!(opens(&mut core, "scheduler/ml", "ml"), Ok(()));
        let refused = opens(&mut core, "operator/ann", "service").expect_err("it is refused");
        assert_eq!(refused, "at most 8 sessions, and 8 are open; close some");

        let first = core.cell().sessions().next().expect("some are open").id;
        ask(&mut core, Command::CloseSession(first));
        assert_eq!(opens(&mut core, "local", "service"), Ok(()));
    }

    fn register(core: &mut Core, name: &str) -> (MachineId, u32) {
        let command = Command::RegisterMachine(FoundMachine {
            name: name.into(),
            boot_id: "boot".into(),
            seen: core.cell().revision(),
            ..FoundMachine::default()
        });
        let Decision::Accepted { id, version } = ask(core, command) else { panic!("registering is accepted") };
        (MachineId::from_bits(id).expect("an id"), version)
    }

    #[test]
    fn a_restored_cell_has_no_sessions_new_epochs_and_ids_that_were_never_given() {
        let mut core = Core::new(CoreOptions::default());
        open_server(&mut core, 1, 1);
        let Decision::Accepted { id, .. } = ask(&mut core, Command::OpenSession { scheduler: "batch".into() }) else {
            panic!("opening is accepted")
        };
        let (old, epoch) = register(&mut core, "old");
        assert_eq!((old.generation, epoch), (1, 1));
        open_server(&mut core, 1, 2);
        assert_eq!(core.cell().sessions().count(), 1, "a restart alone keeps them");

        open_server(&mut core, 2, 3);
        assert_eq!(core.cell().sessions().count(), 0);
        let txn = plenum_model::Transaction {
            id: TransactionId { session: SessionId(id), number: 1 },
            incarnation: 1,
            ..plenum_model::Transaction::default()
        };
        let Decision::Rejected(rejection) = ask(&mut core, Command::Commit(txn.into(), 1)) else {
            panic!("its session is over")
        };
        assert_eq!(rejection.code, RejectionCode::OtherIncarnation);

        let (new, epoch) = register(&mut core, "new");
        assert_eq!((new.generation, epoch), (floor_of(2) + 1, floor_of(2) + 1));
        assert_eq!(register(&mut core, "old"), (old, floor_of(2) + 1), "an agent that was away all the time");
        assert_eq!(register(&mut core, "old"), (old, floor_of(2) + 1), "and again, after a restart of its own");
    }

    fn submit(core: &mut Core) -> (JobId, u32) {
        let group = GroupShape { name: "main".into(), count: 1, ..GroupShape::default() };
        let shape = JobShape {
            namespace: "default".into(),
            name: "build".into(),
            scheduler: "batch".into(),
            groups: vec![group],
            ..JobShape::default()
        };
        let command = Command::submit(shape);
        let Decision::Accepted { id, version } = ask(core, command) else { panic!("submitting is accepted") };
        (JobId::from_bits(id).expect("an id"), version)
    }

    // Files of a version that the backup did not know were there for the one that got its number, and tasks of it wrote among them.
    #[test]
    fn a_restored_cell_gives_no_version_of_a_job_again() {
        let mut core = Core::new(CoreOptions::default());
        open_server(&mut core, 1, 1);
        let (job, version) = submit(&mut core);
        ask(&mut core, Command::StopJob { job, version: None });
        let backup = core.cell().clone();
        assert_eq!((version, submit(&mut core)), (1, (job, 2)));
        let mut restored = Core::from_cell(backup, CoreOptions::default());
        open_server(&mut restored, 2, 2);
        assert_eq!(submit(&mut restored), (job, floor_of(2) + 1));
    }
}
