//! What a run went through: counts that show whether rare paths were taken.

use std::collections::BTreeMap;
use std::fmt;

use plenum_model::{Refusal, RejectionCode};
use plenum_proto::v1;

use crate::faults::Fault;
use crate::governed::Governed;

/// Codes with which a transaction, or what an operator, a gang or the owner of a job asks for, is not executed.
const REJECTIONS: &[RejectionCode] = &[
    RejectionCode::InstantPassed,
    RejectionCode::NoRoomToHold,
    RejectionCode::NotWanted,
    RejectionCode::OtherIncarnation,
    RejectionCode::NumberRetired,
    RejectionCode::NumberReused,
    RejectionCode::FutureBase,
    RejectionCode::InvalidRequest,
    RejectionCode::SchedulerPaused,
    RejectionCode::JobVersion,
    RejectionCode::LimitReached,
    RejectionCode::NotPermitted,
];

/// Counts of one run, or of many.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Tally {
    /// Runs.
    pub runs: u64,
    /// Revisions that were decided again and compared.
    pub revisions: u64,
    /// Batches that became durable.
    pub batches: u64,
    /// Starts of the server after the first.
    pub recoveries: u64,
    /// Recoveries that found more than had been acknowledged.
    pub unacknowledged_kept: u64,
    /// Recoveries that found less than had been sent.
    pub unacknowledged_lost: u64,
    /// Recoveries during which the server died again, or its disk failed.
    pub recoveries_interrupted: u64,
    /// Servers that ended because a batch's outcome was unknown.
    pub outcomes_unknown: u64,
    /// Batches that waited for room on the disk.
    pub waits_for_room: u64,
    /// Recoveries that began with a checkpoint, and not with the first revision.
    pub from_checkpoints: u64,
    /// Answers that were read from the history, because the log had given them up.
    pub answers_from_history: u64,
    /// Outcomes that schedulers were told.
    pub outcomes: u64,
    /// Transactions that were answered again from the log.
    pub repeated: u64,
    /// Dry runs that were decided again and compared.
    pub dry_runs: u64,
    /// What was not executed, by code.
    pub rejections: BTreeMap<String, u64>,
    /// Refusals by kind and reason, as the protocol calls them.
    pub refusals: BTreeMap<(String, String), u64>,
    /// Paths that are marked as rare, by their sentences.
    pub rare: BTreeMap<String, u64>,
    /// Allocations granted.
    pub granted: u64,
    /// Allocations granted in the room of one who leaves.
    pub taken_over: u64,
    /// Devices granted.
    pub devices: u64,
    /// Ports granted.
    pub ports: u64,
    /// Allocations that ended, by state.
    pub ends: BTreeMap<String, u64>,
    /// What operators, gangs, agents and restores brought about, by name.
    pub governed: BTreeMap<String, u64>,
    /// Faults that struck, by kind: those that did something, and not what was armed and never came to it.
    pub faults: BTreeMap<String, u64>,
    /// Files of which a power cut kept a part of what was written last, and not synced, and lost another.
    pub torn_writes: u64,
    /// What mad schedulers did.
    pub mad_acts: u64,
    /// What became of flipped bits.
    pub flips: BTreeMap<String, u64>,
    /// Connections that broke.
    pub breaks: u64,
    /// Messages that never arrived at a side that had not hung up.
    pub messages_lost: u64,
    /// Messages, and ends of connections, that took up to seconds.
    pub messages_stuck: u64,
    /// Messages that waited for the end of a cut.
    pub messages_held: u64,
    /// Sessions that went on after a broken connection.
    pub resumed: u64,
    /// Mirrors that fell too far behind and were begun anew.
    pub resyncs: u64,
    /// Mirrors that were compared with the published cell.
    pub mirrors_compared: u64,
    /// Machines whose lease ran out.
    pub expiries: u64,
    /// Epochs after the first.
    pub epochs: u64,
    /// Starts of tasks.
    pub starts: u64,
    /// Starts within an allocation after its first.
    pub restarts: u64,
    /// Starts that were not written down when their agent ended.
    pub starts_lost: u64,
    /// Tasks that an agent found again.
    pub readopted: u64,
    /// Snapshots of the committer that became durable.
    pub snapshots_shown: u64,
    /// Machines that went when faults had ended, and came back when all jobs were where they should be.
    pub machines_gone: u64,
    /// Submissions of jobs in which options meet that were accepted.
    pub mixed: u64,
    /// Commands that the owner of the jobs asked for and was answered.
    pub asked: u64,
    /// Jobs that completed.
    pub complete: u64,
    /// Jobs that failed for good.
    pub failed: u64,
    /// From the end of faults to the end of everything, in simulated microseconds; of many runs, of the one that took longest.
    pub ending_micros_max: u64,
}

impl Tally {
    /// Adds the counts of another run.
    pub fn add(&mut self, other: &Self) {
        let pairs = [
            (&mut self.runs, other.runs),
            (&mut self.revisions, other.revisions),
            (&mut self.batches, other.batches),
            (&mut self.recoveries, other.recoveries),
            (&mut self.unacknowledged_kept, other.unacknowledged_kept),
            (&mut self.unacknowledged_lost, other.unacknowledged_lost),
            (&mut self.recoveries_interrupted, other.recoveries_interrupted),
            (&mut self.outcomes_unknown, other.outcomes_unknown),
            (&mut self.waits_for_room, other.waits_for_room),
            (&mut self.from_checkpoints, other.from_checkpoints),
            (&mut self.answers_from_history, other.answers_from_history),
            (&mut self.outcomes, other.outcomes),
            (&mut self.repeated, other.repeated),
            (&mut self.dry_runs, other.dry_runs),
            (&mut self.granted, other.granted),
            (&mut self.taken_over, other.taken_over),
            (&mut self.devices, other.devices),
            (&mut self.ports, other.ports),
            (&mut self.breaks, other.breaks),
            (&mut self.messages_lost, other.messages_lost),
            (&mut self.messages_stuck, other.messages_stuck),
            (&mut self.messages_held, other.messages_held),
            (&mut self.torn_writes, other.torn_writes),
            (&mut self.mad_acts, other.mad_acts),
            (&mut self.resumed, other.resumed),
            (&mut self.resyncs, other.resyncs),
            (&mut self.mirrors_compared, other.mirrors_compared),
            (&mut self.expiries, other.expiries),
            (&mut self.epochs, other.epochs),
            (&mut self.starts, other.starts),
            (&mut self.restarts, other.restarts),
            (&mut self.starts_lost, other.starts_lost),
            (&mut self.readopted, other.readopted),
            (&mut self.machines_gone, other.machines_gone),
            (&mut self.mixed, other.mixed),
            (&mut self.snapshots_shown, other.snapshots_shown),
            (&mut self.asked, other.asked),
            (&mut self.complete, other.complete),
            (&mut self.failed, other.failed),
        ];
        for (mine, theirs) in pairs {
            *mine += theirs;
        }
        self.ending_micros_max = self.ending_micros_max.max(other.ending_micros_max);
        let maps = [
            (&mut self.rejections, &other.rejections),
            (&mut self.rare, &other.rare),
            (&mut self.ends, &other.ends),
            (&mut self.faults, &other.faults),
            (&mut self.governed, &other.governed),
            (&mut self.flips, &other.flips),
        ];
        for (mine, theirs) in maps {
            for (name, count) in theirs {
                *mine.entry(name.clone()).or_default() += count;
            }
        }
        for (refused, count) in &other.refusals {
            *self.refusals.entry(refused.clone()).or_default() += count;
        }
    }

    /// Names of paths that no run took, of those that a range of seeds should take.
    #[must_use]
    pub fn never_taken(&self) -> Vec<String> {
        let struck = |fault: Fault| self.faults.get(&format!("{fault:?}")).copied().unwrap_or(0);
        let flipped = |verdict: &str| self.flips.get(verdict).copied().unwrap_or(0);
        let ended = |state: &str| self.ends.get(state).copied().unwrap_or(0);
        let paths = [
            ("a log that kept more than was acknowledged", self.unacknowledged_kept),
            ("a log that lost what was not acknowledged", self.unacknowledged_lost),
            ("a recovery that was interrupted", self.recoveries_interrupted),
            ("a write of unknown outcome", self.outcomes_unknown),
            ("a batch that waited for room", self.waits_for_room),
            ("a recovery from a checkpoint", self.from_checkpoints),
            ("a transaction that was answered again", self.repeated),
            ("a dry run that was decided again", self.dry_runs),
            ("an answer from the history", self.answers_from_history),
            ("a write that was torn", self.torn_writes),
            ("an act of a mad scheduler", self.mad_acts),
            ("a message that was lost", self.messages_lost),
            ("a message that was stuck", self.messages_stuck),
            ("a message that was held back", self.messages_held),
            ("a session that went on", self.resumed),
            ("a mirror that fell behind", self.resyncs),
            ("a lease that ran out", self.expiries),
            ("a flipped bit that was refused", flipped("Refused")),
            ("a flipped bit in a last frame, which was cut", flipped("Cut")),
            ("a flipped bit that did not matter", flipped("Harmless")),
            ("a new epoch", self.epochs),
            ("a restart within an allocation", self.restarts),
            ("a start that was lost with its agent", self.starts_lost),
            ("a task found again", self.readopted),
            ("a machine that was gone when faults had ended", self.machines_gone),
            ("a job in which options meet", self.mixed),
            ("a snapshot of the committer", self.snapshots_shown),
            ("an allocation lost", ended("EndedLost")),
            ("an allocation evicted", ended("Evicted")),
            ("room that was taken over", self.taken_over),
            ("a device that was granted", self.devices),
            ("a port that was granted", self.ports),
            ("an allocation stopped", ended("Stopped")),
            ("an allocation failed", ended("Failed")),
            ("a job complete", self.complete),
        ];
        let governed =
            |&governed: &Governed| (governed.name(), self.governed.get(governed.name()).copied().unwrap_or(0));
        let governed = Governed::ALL.iter().map(governed);
        let faults = Fault::ALL.iter().map(|&fault| (fault.name(), struck(fault)));
        let paths = paths.into_iter().chain(governed).chain(faults).map(|(path, count)| (path.to_owned(), count));
        paths
            .chain(self.refused())
            .chain(self.rejected())
            .filter(|(_, count)| *count == 0)
            .map(|(path, _)| path)
            .collect()
    }

    /// Each kind of refusal and each reason that there is.
    fn refused(&self) -> impl Iterator<Item = (String, u64)> {
        let kinds = (1..).map_while(|number| v1::RefusalKind::try_from(number).ok()).map(|kind| kind.as_str_name());
        let reasons = (1..).map_while(|number| v1::RefusalReason::try_from(number).ok());
        let reasons = reasons.map(|reason| reason.as_str_name());
        let count = |name: &str| {
            let of_it = self.refusals.iter().filter(|((kind, reason), _)| kind == name || reason == name);
            of_it.map(|(_, count)| count).sum()
        };
        kinds.chain(reasons).map(move |name| (format!("refused: {name}"), count(name)))
    }

    /// Each code with which something is not executed.
    fn rejected(&self) -> impl Iterator<Item = (String, u64)> {
        let count = |code: &RejectionCode| self.rejections.get(code.as_str()).copied().unwrap_or(0);
        REJECTIONS.iter().map(move |code| (format!("not executed: {code}"), count(code)))
    }

    pub(crate) fn count_refusal(&mut self, refusal: &Refusal) {
        let wire = v1::Refusal::from(refusal);
        let name = (wire.kind().as_str_name().to_owned(), wire.reason().as_str_name().to_owned());
        *self.refusals.entry(name).or_default() += 1;
    }

    /// Whether that fault has struck.
    pub(crate) fn has_seen(&self, fault: Fault) -> bool {
        self.faults.contains_key(&format!("{fault:?}"))
    }

    pub(crate) fn count(map: &mut BTreeMap<String, u64>, name: impl fmt::Debug) {
        *map.entry(format!("{name:?}")).or_default() += 1;
    }
}

impl fmt::Display for Tally {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let list = |map: &BTreeMap<String, u64>| {
            let items: Vec<String> = map.iter().map(|(name, count)| format!("{name} {count}")).collect();
            items.join(", ")
        };
        writeln!(f, "{} runs: {} revisions in {} batches", self.runs, self.revisions, self.batches)?;
        writeln!(
            f,
            "recoveries {} (more than acknowledged {}, less than sent {}, interrupted {}, after unknown outcomes {}, \
             from checkpoints {}), {} waits for room, {} answers from the history",
            self.recoveries,
            self.unacknowledged_kept,
            self.unacknowledged_lost,
            self.recoveries_interrupted,
            self.outcomes_unknown,
            self.from_checkpoints,
            self.waits_for_room,
            self.answers_from_history
        )?;
        writeln!(
            f,
            "faults that struck: {}; flipped bits: {}; {} torn writes, {} acts of mad schedulers",
            list(&self.faults),
            list(&self.flips),
            self.torn_writes,
            self.mad_acts
        )?;
        writeln!(
            f,
            "connections: {} broke, {} messages lost, {} stuck, {} held back, {} sessions resumed, {} resyncs, {} mirrors compared",
            self.breaks,
            self.messages_lost,
            self.messages_stuck,
            self.messages_held,
            self.resumed,
            self.resyncs,
            self.mirrors_compared
        )?;
        writeln!(
            f,
            "transactions: {} outcomes, {} repeated, {} dry runs decided again, {} grants ({} on room of others, {} devices, {} ports); not executed: {}",
            self.outcomes,
            self.repeated,
            self.dry_runs,
            self.granted,
            self.taken_over,
            self.devices,
            self.ports,
            list(&self.rejections)
        )?;
        let refusals = self.refusals.iter().map(|((kind, reason), count)| format!("{kind} {reason} {count}"));
        writeln!(f, "refusals: {}", refusals.collect::<Vec<_>>().join(", "))?;
        writeln!(f, "rare: {}", list(&self.rare))?;
        writeln!(f, "ends: {}", list(&self.ends))?;
        writeln!(f, "governed: {}", list(&self.governed))?;
        writeln!(
            f,
            "machines: {} leases lost, {} new epochs, {} starts, {} of them lost, {} restarts, {} tasks found again, {} gone in the end",
            self.expiries,
            self.epochs,
            self.starts,
            self.starts_lost,
            self.restarts,
            self.readopted,
            self.machines_gone
        )?;
        let Self { complete, failed, asked, mixed, .. } = self;
        writeln!(f, "jobs: {complete} complete, {failed} failed, {mixed} mixed; {asked} commands of the owner")?;
        write!(f, "all was over at most {} ms after faults had ended", self.ending_micros_max / 1000)
    }
}
