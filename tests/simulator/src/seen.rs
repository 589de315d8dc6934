//! What is counted in a run, in one table: a row is a name in the code and a sentence in the report.

macro_rules! seen {
    (
        may { $($may:ident: $may_sentence:literal,)* }
        must { $($must:ident: $must_sentence:literal,)* }
    ) => {
        /// Something that happens in runs, often or seldom.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
        pub(crate) enum Seen {
            $($may,)*
            $($must,)*
        }

        impl Seen {
            /// What a range of seeds shall have seen: where it has not, a path is not tested any more.
            pub(crate) const MUST: &[Self] = &[$(Self::$must,)*];

            /// As the report calls it.
            pub(crate) const fn sentence(self) -> &'static str {
                match self {
                    $(Self::$may => $may_sentence,)*
                    $(Self::$must => $must_sentence,)*
                }
            }
        }
    };
}

seen! {
    may {
        Run: "a run",
        Revision: "a revision that was decided again and compared",
        Batch: "a batch that became durable",
        Recovery: "a start of the server after its first",
        Outcome: "an outcome that a scheduler was told",
        Granted: "an allocation that was granted",
        Broken: "a connection that broke",
        MirrorCompared: "a mirror that was compared with the published cell",
        Started: "a start of a task",
        OwnerAnswered: "a command of the owner of the jobs that was answered",
        JobFailed: "a job that failed for good",
        JobAboveBound: "a job that was submitted and is above a small bound",
        ScalingAboveBound: "a group that was scaled and is above a small bound",
        LaunchAboveBound: "a launch that was asked for and is above a small bound",
        QuotaAboveBound: "a quota that was set and is above a small bound",
        PartitionAboveBound: "a partition that was set and is above a small bound",
    }
    must {
        KeptUnacknowledged: "a log that kept more than was acknowledged",
        LostUnacknowledged: "a log that lost what was not acknowledged",
        RecoveryInterrupted: "a recovery that was interrupted",
        OutcomeUnknown: "a write of unknown outcome",
        WaitedForRoom: "a batch that waited for room",
        FromCheckpoint: "a recovery from a checkpoint",
        AnsweredAgain: "a transaction that was answered again",
        DryRun: "a dry run that was decided again",
        FromHistory: "an answer from the history",
        // Of a file, a power cut kept a part of what was written last and not synced, and lost another.
        TornWrite: "a write that was torn",
        MadAct: "an act of a mad scheduler",
        // And whoever it was for had not hung up.
        MessageLost: "a message that was lost",
        // Or the end of a connection: it took up to seconds.
        MessageStuck: "a message that was stuck",
        // It waited for the end of a cut.
        MessageHeld: "a message that was held back",
        Resumed: "a session that went on",
        Resynced: "a mirror that fell behind",
        LeaseExpired: "a lease that ran out",
        NewEpoch: "a new epoch",
        Restarted: "a restart within an allocation",
        StartLost: "a start that was lost with its agent",
        Readopted: "a task found again",
        MachineGone: "a machine that was gone when faults had ended",
        Mixed: "a job in which options meet",
        SnapshotShown: "a snapshot of the committer",
        TakenOver: "room that was taken over",
        DeviceGranted: "a device that was granted",
        PortGranted: "a port that was granted",
        JobComplete: "a job complete",
        HoldTaken: "a hold that was taken",
        HoldRenewed: "a hold that was renewed",
        HoldGivenBack: "a hold that was given back",
        HoldExpired: "a hold that expired",
        HoldDisplaced: "a hold that lost a machine to an earlier one",
        HoldUsed: "a grant in room that its job held",
        RefusedByHold: "a claim refused because of a hold",
        RefusedByHoldOfMemory: "a claim refused because of a hold of memory",
        RefusedByQuotaOfMemory: "a claim refused because of a limit of memory",
        Launched: "a job that was launched",
        UnknownFound: "an unknown task that was found",
        UnknownAdopted: "an unknown task that was adopted",
        UnknownStopped: "an unknown task that was told to stop",
        UnknownDrained: "an unknown task that was told to stop by the deadline of a drain",
        UnknownEnded: "an unknown task that ended",
        WaitedForUnknown: "a single instance that waited for an unknown task to end",
        WaitedForAgents: "a single instance that waited for agents to be heard after a restore",
        Expected: "a job that was changed at the version that was expected",
        AgentLeft: "a machine whose agent took its leave",
        AgentUnwritable: "a machine whose agent could write nothing",
        SetupsFailed: "a machine on which several tasks could not be set up",
        FitAgain: "a machine that was fit again",
        RefusedUnfit: "a claim refused because its machine was unfit",
        Overfull: "a machine that came back with less than its tasks have",
        OverfullOfMemory: "a machine that came back with less memory than its tasks have",
        DeviceLost: "a task whose device its machine lost",
        SessionsClosed: "a restored cell that closed the sessions of before",
        ScaledLater: "a group of a planned job, not its first, that was scaled",
        ScaledToNone: "a group of a planned job that was scaled to no tasks",
        ScaledAgain: "a group of a planned job without tasks that was scaled up",
        ScaledBelow: "a group of a planned job that was scaled below what it starts with",
        AskedForNone: "a job that asks for what no machine has",
        RefusedByDisk: "a claim refused for want of disk",
        RefusedByNamed: "a claim refused for want of a named resource",
        RefusedByQuotaOfMore: "a claim refused because of a limit of disk, or of a named resource",
        HeldMore: "a hold of disk, or of a named resource",
        GrantedOfModel: "a device of a model that was granted",
        RefusedByModel: "a claim for a device of a model that was refused for want of it",
        ModelChanged: "a task whose device is of another model since",
        OverfullOfMore: "a machine that came back with less disk, or of a named resource, than its tasks have",
        LaunchedByScheduler: "a job that was launched by a scheduler",
        SessionWithoutPlace: "a session for which there was no place",
        AboveBound: "something that was asked for and is above a small bound",
        HoldAboveBound: "a hold that was asked for and is above a small bound",
    }
}
