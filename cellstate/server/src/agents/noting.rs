//! Noting what agents say of their machines' fitness, beside their reports.

use std::sync::Arc;

use plenum_model::Command;
use plenum_proto::machines::Fitness;
use tokio::task::JoinHandle;

use crate::shared::Shared;
use crate::tasks::joined;

/// Machines whose fitness is asked to be noted at a time, each by a command of its own: a rack, in one batch of the log, and nothing of
/// what a principal may have waiting.
const FITNESS_AT_ONCE: usize = 64;

/// What is being noted, if anything. It goes on where nobody waits for it any more.
pub(crate) struct Noting(Option<JoinHandle<()>>);

impl Noting {
    /// Begins with what of this is news. Who says the same before that is noted has nothing to wait for: a disk may not answer for longer than a
    /// lease.
    pub(crate) fn begin(shared: &Arc<Shared>, principal: &Arc<str>, mut said: Vec<Fitness>) -> Self {
        shared.hub.begin_noting(&mut said);
        Self((!said.is_empty()).then(|| tokio::spawn(note(shared.clone(), principal.clone(), said))))
    }

    /// Comes back when it is noted, or can't be.
    pub(crate) async fn done(self) {
        if let Some(noting) = self.0 {
            let _ = joined(noting.await);
        }
    }
}

/// Agents say it with each report: where the cell takes no changes, or an epoch is over by now, that is no reason to refuse one. That heals, too, what
/// is asked for behind the first of many machines, and so perhaps behind a newer word of the same one; for a relay that says it of its machines only
/// where it changes, not before the next change.
async fn note(shared: Arc<Shared>, principal: Arc<str>, said: Vec<Fitness>) {
    for some in said.chunks(FITNESS_AT_ONCE) {
        let commands = some.iter().map(|said| {
            let Fitness { machine, epoch, unfit } = *said;
            Shared::request(&principal, "".into(), Command::ReportFitness { machine, epoch, unfit })
        });
        for (said, changed_at) in some.iter().zip(shared.ask_unheard(commands).await) {
            shared.hub.noted(said, changed_at);
        }
    }
}
