//! What does not hold, with the facts.

use plenum_proto::v1;

use crate::amounts::Amounts;

/// A broken promise of the store.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum Violation {
    /// What was published is no history of a cell.
    #[error("no history: {what}")]
    NoHistory {
        /// Why.
        what: String,
    },
    /// A grant made free room negative.
    #[error("over-commit: revision {revision} leaves machine slot {machine} {free} free, in {resource:?}")]
    Overcommitted {
        /// At which revision.
        revision: u64,
        /// On which machine.
        machine: u32,
        /// In which resource.
        resource: v1::ResourceName,
        /// What is free then.
        free: i128,
    },
    /// More of a device was granted than there is.
    #[error("over-commit: revision {revision} leaves {free} millis of {kind} {index} on machine slot {machine}")]
    DeviceOvercommitted {
        /// At which revision.
        revision: u64,
        /// On which machine.
        machine: u32,
        /// Which device.
        kind: String,
        /// Which of them.
        index: u32,
        /// What is free then.
        free: i64,
    },
    /// A port was granted twice.
    #[error("over-commit: revision {revision} grants port {port} on machine slot {machine} to {holders} allocations")]
    PortTwice {
        /// At which revision.
        revision: u64,
        /// On which machine.
        machine: u32,
        /// Which.
        port: u32,
        /// How many have it.
        holders: i64,
    },
    /// Room was taken over that nobody leaves.
    #[error("over-commit: revision {revision} takes {taken} over from {victim:#x}, which leaves {leaves}")]
    TakenOverTooMuch {
        /// At which revision.
        revision: u64,
        /// From whom.
        victim: u64,
        /// By all that name it.
        taken: Amounts,
        /// What it leaves; nothing, if it does not leave.
        leaves: Amounts,
    },
    /// An allocation takes over more than it has.
    #[error("over-commit: revision {revision} has {allocation:#x} take over {taken}, and it is granted {granted}")]
    TakesOverTooMuch {
        /// At which revision.
        revision: u64,
        /// Which.
        allocation: u64,
        /// From all that it names.
        taken: Amounts,
        /// What it has.
        granted: Amounts,
    },
    /// A device or a port was taken over that nobody leaves.
    #[error("over-commit: revision {revision} takes over from {victim:#x} {what}")]
    TakenOverOther {
        /// At which revision.
        revision: u64,
        /// From whom.
        victim: u64,
        /// Which, and what the victim has.
        what: String,
    },
    /// A refusal gives a kind that the history contradicts.
    #[error("culprits: {claim} was refused as {kind:?}, but {what}")]
    WrongKind {
        /// Which claim.
        claim: ClaimName,
        /// As what.
        kind: v1::RefusalKind,
        /// What the history says.
        what: String,
    },
    /// A culprit that did not do it.
    #[error("culprits: {claim} names revision {culprit} (transaction {session}/{number}), but {what}")]
    FalseCulprit {
        /// Which claim.
        claim: ClaimName,
        /// The culprit's revision.
        culprit: u64,
        /// Its transaction.
        session: u64,
        /// And that one's number.
        number: u64,
        /// What the history says.
        what: String,
    },
    /// Culprits took less than what was short.
    #[error("culprits: {claim} is short by {short_by}, and its culprits took {total}")]
    CulpritsTooSmall {
        /// Which claim.
        claim: ClaimName,
        /// What was short.
        short_by: i64,
        /// What they took, unlisted ones included.
        total: i64,
    },
    /// A placement was granted fewer claims than its minimum, and more than none, or something of a refused transaction.
    #[error("minimum: transaction {session}/{number} at revision {revision}: {what}")]
    MinimumBroken {
        /// Of which session.
        session: u64,
        /// Which.
        number: u64,
        /// At which revision.
        revision: u64,
        /// What was granted.
        what: String,
    },
    /// A stream left something out, went back, or told something else than another one.
    #[error("gap: watcher {watcher}: {what}")]
    Gap {
        /// Whose stream.
        watcher: String,
        /// What it did.
        what: String,
    },
    /// What was acknowledged is not there, or elsewhere.
    #[error("durability: {client} was told of {session}/{number} at revision {revision}, but {what}")]
    Lost {
        /// Who.
        client: String,
        /// Of which session.
        session: u64,
        /// Which.
        number: u64,
        /// At which revision.
        revision: u64,
        /// What the history says.
        what: String,
    },
    /// The history does not reach as far as what somebody was told of.
    #[error("durability: {client} was told of revision {revision} ({asked}), but the cell ends at revision {newest}")]
    LostRevision {
        /// Who.
        client: String,
        /// What was asked.
        asked: String,
        /// At which revision.
        revision: u64,
        /// The last one of the history.
        newest: u64,
    },
    /// A number took effect twice, or was answered in two ways.
    #[error("numbers: {session}/{number}: {what}")]
    NumberTwice {
        /// Of which session.
        session: u64,
        /// Which.
        number: u64,
        /// What happened.
        what: String,
    },
    /// What is reported as used is not what is there.
    #[error("sum: at revision {revision}: {what}")]
    WrongSum {
        /// At which revision.
        revision: u64,
        /// What was reported, and what there is.
        what: String,
    },
    /// A snapshot is not the fold.
    #[error("recovery: the snapshot of {source_name} at revision {revision} is not the fold: {difference}")]
    OtherPicture {
        /// Who got it.
        source_name: String,
        /// At which revision.
        revision: u64,
        /// Where they differ, the snapshot first.
        difference: String,
    },
    /// A namespace got more than its quota.
    #[error("quota: revision {revision} brings {namespace} to {used} {resource:?} of {limit}")]
    QuotaExceeded {
        /// At which revision.
        revision: u64,
        /// Which namespace.
        namespace: String,
        /// Of what.
        resource: v1::ResourceName,
        /// What it uses then.
        used: i128,
        /// What it may.
        limit: i128,
    },
    /// A victim that may not be one.
    #[error("priority: revision {revision} evicts {victim:#x}, but {what}")]
    WrongVictim {
        /// At which revision.
        revision: u64,
        /// Whom.
        victim: u64,
        /// What the history says.
        what: String,
    },
    /// A grant against what the job or the machine says.
    #[error("rules: revision {revision} grants {allocation:#x} on machine slot {machine}, but {what}")]
    RuleBroken {
        /// At which revision.
        revision: u64,
        /// Which allocation.
        allocation: u64,
        /// Where.
        machine: u32,
        /// Which rule.
        what: String,
    },
    /// What a transaction asked to be held to was not kept.
    #[error("asked: of transaction {session}/{number} at revision {revision}, {what}")]
    NotAsAsked {
        /// Of which session.
        session: u64,
        /// Which.
        number: u64,
        /// At which revision.
        revision: u64,
        /// What was granted or refused, and what the history says.
        what: String,
    },
    /// Two allocations of one task are not leaving.
    #[error("once per task: at revision {revision}, {first:#x} and {second:#x} are of one task, and neither leaves")]
    TaskTwice {
        /// At which revision.
        revision: u64,
        /// One.
        first: u64,
        /// The other.
        second: u64,
    },
    /// A reply that the history contradicts.
    #[error("reply: {client} was told of {session}/{number} at revision {revision}, but {what}")]
    OtherReply {
        /// Who.
        client: String,
        /// Of which session.
        session: u64,
        /// Which.
        number: u64,
        /// At which revision.
        revision: u64,
        /// What the history says.
        what: String,
    },
    /// Something was decided before what had been acknowledged before it was asked.
    #[error("real time: {client} asked after revision {acknowledged} was acknowledged, and got {found}")]
    OutOfOrder {
        /// Who.
        client: String,
        /// What was acknowledged before.
        acknowledged: u64,
        /// What was decided, or read, later.
        found: u64,
    },
    /// Something runs, and nothing says that its room is taken.
    #[error("room: at revision {revision}, {allocation:#x} runs on machine {machine:#x}, and has no room there")]
    RunsWithoutRoom {
        /// At which revision.
        revision: u64,
        /// Where.
        machine: u64,
        /// What.
        allocation: u64,
    },
    /// A job was launched for an instant that was over.
    #[error("launch: revision {revision} launches job {job:#x} for {instant} µs, and it was for {last} µs before")]
    LaunchedAgain {
        /// At which revision.
        revision: u64,
        /// Which.
        job: u64,
        /// The last instant before.
        last: i64,
        /// The instant.
        instant: i64,
    },
    /// Room is held that may not be.
    #[error("holds: revision {revision} holds room for job {job:#x}, but {what}")]
    HoldBroken {
        /// At which revision.
        revision: u64,
        /// For which job.
        job: u64,
        /// What is against it.
        what: String,
    },
    /// An allocation begins to leave, or comes back, and nothing is known that asks for it.
    #[error("leaving: at revision {revision}, {allocation:#x} becomes {state:?} ({told}), and nothing asks for that")]
    LeavesWithoutReason {
        /// At which revision.
        revision: u64,
        /// Which.
        allocation: u64,
        /// How it leaves.
        state: v1::AllocationState,
        /// What the cell says of it.
        told: String,
    },
    /// A full disk did more than refuse commits, or less.
    #[error("full disk: {what}")]
    FullDisk {
        /// What happened.
        what: String,
    },
    /// Damage was taken for something else.
    #[error("damage: {place}: {what}")]
    DamageUnnamed {
        /// Where the damage was done.
        place: String,
        /// What the start made of it.
        what: String,
    },
    /// A watcher that does not read cost somebody something.
    #[error("slow watcher: {watcher}: {what}")]
    SlowWatcher {
        /// Which.
        watcher: String,
        /// What happened.
        what: String,
    },
}

/// Names a claim of a transaction.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClaimName {
    /// Of which session.
    pub session: u64,
    /// The transaction's number.
    pub number: u64,
    /// Position of the placement.
    pub placement: u32,
    /// Position of the claim in it.
    pub claim: u32,
}

impl std::fmt::Display for ClaimName {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "claim {}.{} of {}/{}", self.placement, self.claim, self.session, self.number)
    }
}
