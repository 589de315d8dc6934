//! Noting what agents say of their machines' fitness, beside their reports.

use std::sync::Arc;

use plenum_model::Command;
use plenum_proto::machines::Fitness;
use tokio::task::JoinHandle;

use super::fitness::Word;
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
    pub(crate) fn begin(shared: &Arc<Shared>, principal: &Arc<str>, said: &[Fitness]) -> Self {
        let begun = shared.hub.begin_noting(said);
        Self((!begun.is_empty()).then(|| tokio::spawn(note(shared.clone(), principal.clone(), begun))))
    }

    /// Comes back when it is noted, or can't be.
    pub(crate) async fn done(self) {
        if let Some(noting) = self.0 {
            let _ = joined(noting.await);
        }
    }
}

/// Agents say it with each report: where the cell takes no changes, or an epoch is over by now, that is no reason to refuse one.
async fn note(shared: Arc<Shared>, principal: Arc<str>, begun: Vec<Word>) {
    for some in begun.chunks(FITNESS_AT_ONCE) {
        // Behind the first of many machines, one may have said something else meanwhile, which was asked for at once: this would come behind it and be
        // believed, by a relay that says only what changes until the next change.
        let queued = shared.hub.queue_last_words(some, |said| {
            let Fitness { machine, epoch, unfit } = *said;
            shared.queue(Shared::request(&principal, "".into(), Command::ReportFitness { machine, epoch, unfit }))
        });
        for (word, queued) in queued {
            let decided = match queued {
                Ok(answer) => shared.decided(answer).await,
                Err(failure) => Err(failure),
            };
            let changed = decided.ok().filter(|decided| decided.changed);
            shared.hub.noted(&word, changed.map(|decided| decided.at));
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use plenum_model::{MachineId, Unfit};

    use super::*;
    use crate::shared::tests::without_threads;

    // Of a report on more than 64 machines, an agent of one behind them was fit again before it was noted that it was not. The older word was asked for
    // behind the newer one, and its machine took nothing until its relay had something else to say of it.
    #[tokio::test]
    async fn what_a_machine_took_back_before_it_was_noted_is_not_asked_for() {
        let dir = tempfile::tempdir().unwrap();
        let (_journal, shared) = without_threads(dir.path(), |_| None);
        let unfit = Some(Unfit::StateUnwritable);
        let said = |slot, unfit| Fitness { machine: MachineId { slot, generation: 1 }, epoch: 1, unfit };
        let first = shared.hub.begin_noting(&[0, 1, 2].map(|slot| said(slot, unfit)));
        let second = shared.hub.begin_noting(&[said(1, None), said(2, Some(Unfit::AgentLeaves))]);
        let queued = |words: &[Word]| -> Vec<Word> {
            shared.hub.queue_last_words(words, |_| ()).into_iter().map(|(word, ())| word).collect()
        };
        assert_eq!(queued(&first), [first[0]]);
        assert_eq!((queued(&second).len(), queued(&second)), (2, second));
        // Nobody is there to answer: it comes back as it asks for nothing.
        let noting = note(shared.clone(), "agent".into(), vec![first[1]]);
        tokio::time::timeout(Duration::from_secs(10), noting).await.unwrap();
    }
}
