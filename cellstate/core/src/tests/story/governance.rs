//! Words of stories about drains, pauses, quotas, holds, partitions, unknown tasks and launches.

use std::fmt::Write as _;
use std::sync::Arc;

use plenum_model::{
    AllocationId, AllocationState, Command, Constraint, Inventory, JobId, LogTime, Operator, Partition, Port, Quota,
    Resources, SessionId, TaskTraces, Transition, Unfit,
};

use super::{Player, gpu, number, setting};

impl Player {
    /// Plays a line that is about any of these; false if it is not.
    pub(super) fn play_governance(&mut self, words: &[&str]) -> bool {
        match words[0] {
            "drain" | "undrain" => {
                let machine = self.machine_id(words[1]);
                let deadline = words.get(2).map(|text| self.in_seconds(text.parse().expect("seconds")));
                self.ask_aloud(Command::DrainMachine { machine, deadline });
            }
            "pause" | "resume" => {
                self.ask_aloud(Command::PauseScheduler { scheduler: words[1].into(), paused: words[0] == "pause" });
            }
            "rights" => {
                let evicts = setting(words, "evicts").map(|text| text == "yes");
                let priority = number(words, "priority").map(|number| number.try_into().expect("a priority"));
                self.ask_aloud(Command::SetRights { scheduler: words[1].into(), evicts, priority });
            }
            "unfit" => {
                let machine = self.core.cell().machine_named(words[1]).expect("a machine").clone();
                let unfit = match words[2] {
                    "leaves" => Some(Unfit::AgentLeaves),
                    "unwritable" => Some(Unfit::StateUnwritable),
                    _ => None,
                };
                let epoch = words.get(3).map_or(machine.epoch, |text| text.parse().expect("an epoch"));
                self.ask_aloud(Command::ReportFitness { machine: machine.id, epoch, unfit });
            }
            "due?" => {
                let due =
                    self.core.next_due().map_or_else(|| "never".into(), |due| self.seconds_until(due).to_string());
                writeln!(self.said, "due {due}").expect("a string");
            }
            "quota" => self.quota(words),
            "used?" => {
                let namespace = words[1];
                let jobs = self.core.cell().jobs().filter(|job| &*job.shape.namespace == namespace);
                let used: u64 = jobs.map(|job| self.core.cell().use_of(job).total().cpu_millis).sum();
                assert_eq!(self.core.derived.quotas.used(namespace).total().cpu_millis, used);
                writeln!(self.said, "{namespace} uses {used}").expect("a string");
            }
            "hold" | "unhold" => self.hold(words),
            "hold?" => self.show_hold(words[1]),
            "partition" => self.partition(words),
            "adopt" => {
                let (machine, allocation) = (self.machine_id(words[1]), task_id(words[2]));
                self.ask_aloud(Command::AdoptUnknown { machine, allocation });
            }
            "stopid" => self.ask_aloud(Command::StopAllocation(task_id(words[1]))),
            "receipt" => self.receipt(words[1], task_id(words[2])),
            "unknown?" => self.show_unknown(words[1]),
            "launch" => {
                let (parent, instant_micros) = (self.job_id(words[1]), words[2].parse().expect("microseconds"));
                self.ask_aloud(Command::Launch { parent, instant_micros });
            }
            "taskrows?" => {
                let rows = self.core.derived.task_rows.end();
                writeln!(self.said, "{rows} task rows").expect("a string");
            }
            "jobs?" => {
                let rows = self.core.cell().jobs();
                let rows = rows.map(|job| format!("{} {} {:?}", job.shape.name, job.shape.scheduler, job.state));
                let rows: Vec<_> = rows.collect();
                rows.iter().for_each(|row| writeln!(self.said, "{row}").expect("a string"));
            }
            _ => return false,
        }
        true
    }

    /// `runs=alloc-5-3,…`: what an agent finds, each of `cpu`; `of=web[1]`: which task of which job each of them is.
    pub(super) fn inventory(words: &[&str]) -> Vec<Inventory> {
        let resources = Resources::new(number(words, "each").unwrap_or(1000), 0);
        let few = |name: &str| number(words, name).and_then(|number| u32::try_from(number).ok());
        let port = |number: u16| Port { name: "http".into(), number };
        let of = setting(words, "of").unwrap_or("old[0]");
        let (job, index) = of.trim_end_matches(']').split_once('[').expect("a job, and the index of a task");
        let task = TaskTraces {
            namespace: "default".into(),
            job: job.into(),
            group: "main".into(),
            task: index.parse().expect("a number"),
            resources,
            devices: few("using").map(|millis| gpu(0, millis)).into_iter().collect(),
            ports: few("listening").and_then(|number| Some(port(number.try_into().ok()?))).into_iter().collect(),
        };
        let item = |text: &str| Inventory {
            allocation: task_id(text),
            state: AllocationState::Running,
            exit_code: 0,
            reason: "".into(),
            restarts: 0,
            task: Some(Arc::new(task.clone())),
        };
        setting(words, "runs").into_iter().flat_map(|text| text.split(',')).map(item).collect()
    }

    fn machine_id(&self, name: &str) -> plenum_model::MachineId {
        self.core.cell().machine_named(name).expect("a machine").id
    }

    fn job_id(&self, name: &str) -> JobId {
        self.job_called(name).expect("a job").id
    }

    fn in_seconds(&self, seconds: i64) -> LogTime {
        self.now.plus_micros(seconds * 1_000_000)
    }

    fn seconds_until(&self, time: LogTime) -> i64 {
        (time.micros - self.now.micros) / 1_000_000
    }

    fn quota(&mut self, words: &[&str]) {
        let mut quota = Quota::default();
        quota.limits[0] = number(words, "cpu");
        let limit = quota.limits[0].map(|_| quota);
        self.ask_aloud(Command::SetQuota { namespace: words[1].into(), limit });
    }

    fn hold(&mut self, words: &[&str]) {
        let slots = words.get(2).filter(|text| !text.contains('=')).into_iter().flat_map(|text| text.split(','));
        let machines = slots.map(|name| self.machine_id(name).slot).collect();
        let resources = Resources::new(number(words, "cpu").unwrap_or(0), number(words, "mem").unwrap_or(0));
        let seconds = number(words, "for").map_or(60, |seconds| i64::try_from(seconds).expect("short"));
        let deadline = self.in_seconds(seconds);
        self.ask_aloud(Command::TakeHold {
            session: SessionId::default(),
            job: self.job_id(words[1]),
            machines,
            resources,
            deadline,
        });
    }

    fn show_hold(&mut self, name: &str) {
        let hold = self.job_called(name).and_then(|job| self.core.cell().hold(job.id)).cloned();
        let text = hold.map_or_else(
            || "no hold".to_owned(),
            |hold| {
                let machines = hold.machines.iter().filter_map(|&slot| self.core.cell().machine_in(slot));
                let names: Vec<_> = machines.map(|machine| machine.name.to_string()).collect();
                format!("holds [{}] for {}", names.join(" "), self.seconds_until(hold.deadline))
            },
        );
        writeln!(self.said, "{name} {text}").expect("a string");
    }

    fn partition(&mut self, words: &[&str]) {
        let schedulers = setting(words, "for").into_iter().flat_map(|names| names.split(',')).map(Into::into).collect();
        let partition = setting(words, "rack").map(|rack| Partition {
            machines: vec![Constraint {
                attribute: "rack".into(),
                operator: Operator::Equal,
                values: vec![rack.into()],
            }],
            schedulers,
        });
        self.ask_aloud(Command::SetPartition { name: words[1].into(), partition });
    }

    fn receipt(&mut self, machine: &str, allocation: AllocationId) {
        let machine = self.core.cell().machine_named(machine).expect("a machine");
        let transition = Transition::new(machine.id, machine.epoch, allocation, AllocationState::Stopped);
        self.ask_aloud(Command::ReportStatus(vec![transition]));
    }

    fn show_unknown(&mut self, name: &str) {
        let slot = self.machine_id(name).slot;
        let rows = self.core.cell().unknown_on(slot).map(|(id, task)| {
            let fate = match task.until {
                _ if task.stopping => "stopping".to_owned(),
                None => "adopted".to_owned(),
                Some(until) => format!("until {}", self.seconds_until(until)),
            };
            format!(" {} {fate};", id.allocation)
        });
        let (rows, free) = (rows.collect::<String>(), self.core.cell().room(slot).0[0]);
        writeln!(self.said, "{name}{rows} free {free}").expect("a string");
    }
}

pub(super) fn task_id(text: &str) -> AllocationId {
    AllocationId::parse(text).expect("the id of an allocation")
}
