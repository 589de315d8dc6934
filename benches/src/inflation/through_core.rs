//! The production core, in which each placement is a transaction of one claim that names its GPUs.

use std::collections::BTreeMap;
use std::sync::Arc;

use anyhow::{Context, bail, ensure};
use plenum_core::{Core, CoreOptions, Decided};
use plenum_model::{
    Attributes, Cell, CellIdentity, ClaimExtra, Command, Constraint, Decision, Device, FoundMachine, GroupShape, JobId,
    JobKind, JobShape, LogTime, Operator, Placement, Request, Resources, SessionId, Transaction, TransactionId,
};
use plenum_policies::gpu::{GpuChoice, WHOLE};

use super::{Conditions, Workload, counts};
use crate::traces::openb::{Node, Pod};

/// What GPUs are called in the cell.
pub(super) const KIND: &str = "gpu";

/// The attribute that says which.
const MODEL: &str = "gpu_model";

const SCHEDULER: &str = "inflation";
const MIB: u64 = 1 << 20;

/// A cell that takes the placements.
pub(super) struct Committed {
    core: Core,
    session: SessionId,
    number: u64,
    /// By pod: its job, the devices of a task, and the tasks that were placed.
    jobs: BTreeMap<usize, (JobId, u16, u32)>,
}

impl Committed {
    /// Machines in the given order, and a job for each pod with as many tasks as arrive.
    pub(super) fn new(workload: &Workload, conditions: &Conditions) -> anyhow::Result<Self> {
        let mut core = Core::new(CoreOptions::default());
        let identity = CellIdentity { incarnation: 1, term: 1, ..CellIdentity::default() };
        decide(&mut core, Command::OpenServer(identity))?;
        for (slot, &position) in conditions.order.iter().enumerate() {
            decide(&mut core, register(&workload.nodes[position]))?;
            let named = u32::try_from(slot).ok().and_then(|slot| core.cell().machine_in(slot));
            let found = named.is_some_and(|machine| *machine.name == *workload.nodes[position].name);
            ensure!(found, "expected machine {position} in slot {slot}");
        }
        decide(&mut core, Command::OpenSession { scheduler: SCHEDULER.into() })?;
        let session = SessionId(core.cell().revision().0);
        let mut jobs = BTreeMap::new();
        for (pod, count) in counts(&conditions.arrivals) {
            let shape = Arc::new(job(&workload.pods[pod], count));
            let command = Command::submit(shape);
            let Decision::Accepted { id, .. } = decide(&mut core, command)? else { bail!("expected a job's id") };
            let job = JobId::from_bits(id).context("a job's id")?;
            jobs.insert(pod, (job, workload.pods[pod].gpu_millis, 0));
        }
        Ok(Self { core, session, number: 0, jobs })
    }

    pub(super) fn cell(&self) -> &Cell {
        self.core.cell()
    }

    /// Commits a placement.
    ///
    /// # Errors
    /// When the core refuses it: then the policy and the core do not see the same room.
    pub(super) fn commit(&mut self, pod: usize, choice: GpuChoice) -> anyhow::Result<()> {
        let base = self.core.cell().revision();
        let (job, millis, placed) = self.jobs.get_mut(&pod).context("a pod that arrives has a job")?;
        let machine = self.core.cell().machine_in(choice.machine).context("a machine that was chosen is there")?;
        let chosen = |device: &&Device| choice.devices >> device.index & 1 == 1;
        let devices =
            machine.devices.iter().filter(chosen).map(|device| Device { millis: (*millis).into(), ..device.clone() });
        let extra = ClaimExtra { devices: devices.collect(), ..ClaimExtra::default() };
        let placement = Placement {
            job: *job,
            job_version: 1,
            machines: vec![choice.machine],
            tasks: vec![*placed],
            min: 1,
            extras: if extra.devices.is_empty() { Vec::new() } else { vec![extra] },
            ..Placement::default()
        };
        *placed += 1;
        self.number += 1;
        let id = TransactionId { session: self.session, number: self.number };
        let txn = Transaction { id, incarnation: 1, base, placements: vec![placement], ..Transaction::default() };
        match decide(&mut self.core, Command::Commit(Box::new(txn), self.number))? {
            Decision::Outcome(outcome) if outcome.granted() == 1 => Ok(()),
            Decision::Outcome(outcome) => {
                bail!("the core refused what the policy chose: {:?}", outcome.refusals.first())
            }
            other => bail!("expected an outcome, found {other:?}"),
        }
    }
}

fn decide(core: &mut Core, command: Command) -> anyhow::Result<Decision> {
    let request = Request { principal: "local".into(), namespace: "default".into(), command };
    match core.decide(&request, LogTime::from_micros(1)) {
        Decided::Changed { decision, .. } => Ok(decision),
        other => bail!("expected a change, found {other:?}"),
    }
}

fn register(node: &Node) -> Command {
    let mut attributes = Attributes::new();
    if node.gpus > 0 {
        attributes.insert(MODEL.into(), node.model.as_str().into());
    }
    let device = |index| Device { kind: KIND.into(), index, millis: WHOLE.into(), model: node.model.as_str().into() };
    Command::RegisterMachine(FoundMachine {
        name: node.name.as_str().into(),
        boot_id: "boot".into(),
        capacity: Resources::new(node.cpu_millis.into(), u64::from(node.memory_mib) * MIB),
        attributes: Arc::new(attributes),
        devices: (0..u32::from(node.gpus)).map(device).collect(),
        ..FoundMachine::default()
    })
}

fn job(pod: &Pod, count: u32) -> JobShape {
    let device = |index| Device { kind: KIND.into(), index, millis: pod.gpu_millis.into(), model: "".into() };
    let models = pod.models.split('|').filter(|model| !model.is_empty()).map(Into::into).collect::<Vec<Arc<str>>>();
    let rule = Constraint { attribute: MODEL.into(), operator: Operator::In, values: models };
    let group = GroupShape {
        name: "main".into(),
        count,
        resources: Resources::new(pod.cpu_millis.into(), u64::from(pod.memory_mib) * MIB),
        constraints: if rule.values.is_empty() || pod.gpus == 0 { Vec::new() } else { vec![rule] },
        devices: (0..u32::from(pod.gpus)).map(device).collect(),
        ..GroupShape::default()
    };
    JobShape {
        namespace: "default".into(),
        name: pod.name.as_str().into(),
        scheduler: SCHEDULER.into(),
        priority: 50,
        kind: JobKind::Forever,
        groups: vec![group],
        ..JobShape::default()
    }
}
