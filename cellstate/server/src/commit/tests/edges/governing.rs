//! What operators ask, and starts.

use std::sync::Arc;

use plenum_model::{AllocationId, Command, Constraint, JobId, MachineId, Operator, Partition, Quota, SessionId, Unfit};

use super::{Play, long};

impl Play {
    /// Does one of the rarer things.
    pub(super) fn govern(&mut self, job: Option<JobId>, machine: Option<MachineId>) {
        match self.dice.below(10) {
            0 => self.set_quota(),
            1 | 2 => self.set_partition(),
            3 | 4 => self.adopt(),
            5 => {
                let (scheduler, paused) = (long("team", &mut self.dice).into(), self.dice.below(4) > 0);
                self.ask("pause", Command::PauseScheduler { scheduler, paused });
                let (scheduler, evicts) = (long("team", &mut self.dice).into(), Some(self.dice.below(2) == 0));
                let priority = u8::try_from(1 + self.dice.below(100)).ok();
                self.ask("rights", Command::SetRights { scheduler, evicts, priority });
            }
            6 => {
                let Some(machine) = machine else { return };
                let cordoned = self.dice.below(2) == 0;
                self.ask("cordon", Command::CordonMachine { machine, cordoned });
            }
            7 => self.report_fitness(machine),
            8 => {
                let cell = self.committer.undurable_cell();
                let Some(found) = cell.allocations().find(|found| job.is_some_and(|job| found.row.job() == job)) else {
                    return;
                };
                self.ask("stop one", Command::StopAllocation(found.id));
            }
            _ => self.open_or_close_sessions(),
        }
    }

    fn set_quota(&mut self) {
        let mut limit = Quota::default();
        // High enough that it stands in nobody's way: what is refused for that is small.
        limit.limits[1] = Some(1 << 50);
        let namespace = long("team", &mut self.dice).into();
        let limit = Some(limit).filter(|_| self.dice.below(4) > 0);
        self.ask("quota", Command::SetQuota { namespace, limit });
    }

    /// Of racks that no machine has.
    fn set_partition(&mut self) {
        let dice = &mut self.dice;
        let constraint = |dice: &mut super::Dice| Constraint {
            attribute: long("rack", dice).into(),
            operator: Operator::In,
            values: (0..=dice.size(63)).map(|n| format!("{n}{}", "v".repeat(dice.below(250))).into()).collect(),
        };
        let machines = (0..=dice.size(63)).map(|_| constraint(dice)).collect();
        let partition = Partition { machines, schedulers: vec!["ml".into()] };
        let known: Vec<Arc<str>> = self.committer.undurable_cell().partitions().map(|(name, _)| name.clone()).collect();
        match self.dice.pick(&known).filter(|_| known.len() > 20) {
            Some(name) => self.ask("partition", Command::SetPartition { name, partition: None }),
            None => {
                let name = long("part", &mut self.dice).into();
                self.ask("partition", Command::SetPartition { name, partition: Some(partition) });
            }
        }
    }

    fn adopt(&mut self) {
        let known = self.committer.undurable_cell().unknown_tasks();
        let known: Vec<(MachineId, AllocationId)> = known.map(|(id, task)| (task.machine, id.allocation)).collect();
        let Some((machine, allocation)) = self.dice.pick(&known) else { return };
        self.ask("adopt", Command::AdoptUnknown { machine, allocation });
    }

    fn report_fitness(&mut self, machine: Option<MachineId>) {
        let Some(machine) = machine else { return };
        let epoch = self.committer.undurable_cell().machine(machine).unwrap().epoch;
        let unfit = [None, Some(Unfit::StateUnwritable)];
        let unfit = self.dice.pick(&unfit).unwrap();
        self.ask("fitness", Command::ReportFitness { machine, epoch, unfit });
    }

    /// But for the one in which transactions are asked.
    fn open_or_close_sessions(&mut self) {
        for _ in 0..self.dice.below(40) {
            let scheduler = long("team", &mut self.dice).into();
            self.ask("open session", Command::OpenSession { scheduler });
        }
        let open: Vec<SessionId> = self.committer.undurable_cell().sessions().map(|session| session.id).collect();
        for session in open.into_iter().filter(|session| session.0 != 2).step_by(2) {
            self.ask("close", Command::CloseSession(session));
        }
    }

    /// A server starts.
    pub(super) fn start_again(&mut self) {
        let mut identity = self.committer.undurable_cell().identity().clone();
        identity.term += 1;
        self.ask("start", Command::OpenServer(identity));
    }
}
