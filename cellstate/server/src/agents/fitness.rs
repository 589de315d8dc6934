//! Which machines' agents want no new claims there, as the newest of what is durable has it.

use std::collections::BTreeMap;

use plenum_model::{Delta, Machine, MachineState, Revision, Unfit};
use plenum_proto::machines::Fitness;

/// What is to be noted of a machine's fitness, with a number of its own: another one may say the same.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Word {
    pub(super) said: Fitness,
    number: u64,
}

/// By slot, of machines whose agents want no new claims there: hardly ever any. Each report is compared with it.
///
/// The publishing thread folds what is durable a moment after its answers went out. An agent that has its answer and speaks again must not be
/// measured by what was before: so answers are taken, too, and deltas that are older leave them alone.
#[derive(Debug, Default)]
pub(crate) struct Fitnesses {
    /// Up to where deltas came by.
    folded: Revision,
    unfit: BTreeMap<u32, Unfit>,
    /// Answers whose deltas have not come by yet.
    answered: BTreeMap<u32, (Revision, Option<Unfit>)>,
    /// The last of what somebody is about to note.
    noting: BTreeMap<u32, Word>,
    /// Words that were begun to be noted.
    begun: u64,
}

impl Fitnesses {
    pub(super) fn new<'a>(folded: Revision, machines: impl Iterator<Item = &'a Machine>) -> Self {
        let unfit = machines.filter_map(|machine| Some((machine.id.slot, machine.unfit?))).collect();
        Self { folded, unfit, ..Self::default() }
    }

    /// Why no claims are wanted there; `None` where they are.
    pub(super) fn of(&self, slot: u32) -> Option<Unfit> {
        match self.answered.get(&slot) {
            Some(&(_, unfit)) => unfit,
            None => self.unfit.get(&slot).copied(),
        }
    }

    /// Begins to note what a machine's agent says, unless it is so, or will be when what is being noted is. The caller notes the word, and says so when
    /// that is done ([`noted`](Self::noted)).
    pub(super) fn begin_noting(&mut self, said: Fitness) -> Option<Word> {
        let slot = said.machine.slot;
        let comes = self.noting.get(&slot).map_or_else(|| self.of(slot), |word| word.said.unfit);
        if comes == said.unfit {
            return None;
        }
        self.begun += 1;
        let word = Word { said, number: self.begun };
        self.noting.insert(slot, word);
        Some(word)
    }

    /// Whether what somebody is about to note is still the last word: who said something else meanwhile notes that.
    pub(super) fn is_last_word(&self, word: &Word) -> bool {
        self.noting.get(&word.said.machine.slot).is_some_and(|last| last.number == word.number)
    }

    /// Who was to note it is done with that, whatever came of it.
    pub(super) fn noted(&mut self, word: &Word) {
        if self.is_last_word(word) {
            self.noting.remove(&word.said.machine.slot);
        }
    }

    /// A machine's agent was answered: at this revision it became so.
    pub(super) fn answered(&mut self, slot: u32, at: Revision, unfit: Option<Unfit>) {
        let is_known = |known: &(Revision, Option<Unfit>)| known.0 >= at;
        if at > self.folded && !self.answered.get(&slot).is_some_and(is_known) {
            self.answered.insert(slot, (at, unfit));
        }
    }

    /// Takes the next durable delta.
    pub(super) fn fold(&mut self, delta: &Delta) {
        self.folded = delta.revision;
        for machine in &delta.machines {
            let slot = machine.id.slot;
            match machine.unfit.filter(|_| machine.state != MachineState::Gone) {
                Some(why) => self.unfit.insert(slot, why),
                None => self.unfit.remove(&slot),
            };
            if self.answered.get(&slot).is_some_and(|&(at, _)| at <= delta.revision) {
                self.answered.remove(&slot);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use plenum_model::{LogTime, MachineId};

    const LEAVES: Option<Unfit> = Some(Unfit::AgentLeaves);
    const UNWRITABLE: Option<Unfit> = Some(Unfit::StateUnwritable);

    fn became(revision: u64, unfit: Option<Unfit>) -> Delta {
        let machine = Machine { unfit, ..crate::agents::machine(3, 1, MachineState::Ready) };
        Delta { machines: vec![machine.into()], ..Delta::new(Revision(revision), LogTime::from_micros(1)) }
    }

    // A relay's word that a machine is fit again was taken for no news, since that it was unfit had been answered and not been folded.
    #[test]
    fn who_speaks_again_is_measured_by_what_was_answered() {
        let mut fitnesses = Fitnesses::default();
        fitnesses.answered(3, Revision(1), UNWRITABLE);
        assert_eq!(fitnesses.of(3), UNWRITABLE);
        fitnesses.answered(3, Revision(2), None);
        assert_eq!(fitnesses.of(3), None);
        // What comes by late says what was before, and the answers that come late, too.
        fitnesses.fold(&became(1, UNWRITABLE));
        fitnesses.answered(3, Revision(1), UNWRITABLE);
        assert_eq!(fitnesses.of(3), None);
        fitnesses.fold(&became(2, None));
        assert_eq!(fitnesses.of(3), None);
        fitnesses.fold(&became(3, LEAVES));
        assert_eq!(fitnesses.of(3), LEAVES);
    }

    #[test]
    fn what_was_folded_before_its_answer_is_taken_is_kept_once() {
        let mut fitnesses = Fitnesses::default();
        fitnesses.fold(&became(1, LEAVES));
        fitnesses.fold(&became(2, UNWRITABLE));
        fitnesses.answered(3, Revision(1), LEAVES);
        assert_eq!(fitnesses.of(3), UNWRITABLE);
        assert!(fitnesses.answered.is_empty());
        fitnesses.answered(3, Revision(4), None);
        fitnesses.fold(&became(4, None));
        assert!(fitnesses.answered.is_empty() && fitnesses.unfit.is_empty());
    }

    fn said(unfit: Option<Unfit>) -> Fitness {
        Fitness { machine: MachineId { slot: 3, generation: 1 }, epoch: 1, unfit }
    }

    #[test]
    fn what_is_being_noted_is_to_be_noted_by_nobody_else() {
        let mut fitnesses = Fitnesses::default();
        assert_eq!(fitnesses.begin_noting(said(None)), None, "that is so");
        let first = fitnesses.begin_noting(said(UNWRITABLE)).expect("that is news");
        assert_eq!(fitnesses.begin_noting(said(UNWRITABLE)), None);
        let last = fitnesses.begin_noting(said(LEAVES)).expect("that is something else");
        fitnesses.noted(&first);
        assert_eq!(fitnesses.begin_noting(said(LEAVES)), None);
        fitnesses.noted(&last);
        assert!(fitnesses.begin_noting(said(LEAVES)).is_some(), "it came to nothing");
    }

    // Behind many other machines the last word was still to be asked for. The first one, which had said the same, was noted, and the last one taken for
    // that: it was left out, and the one between them was believed.
    #[test]
    fn a_word_that_was_noted_is_not_taken_for_a_later_one_that_says_the_same() {
        let mut fitnesses = Fitnesses::default();
        let [first, between, last] =
            [UNWRITABLE, None, UNWRITABLE].map(|unfit| fitnesses.begin_noting(said(unfit)).expect("that is news"));
        assert_eq!([first, between, last].map(|word| fitnesses.is_last_word(&word)), [false, false, true]);
        fitnesses.noted(&first);
        fitnesses.noted(&between);
        assert!(fitnesses.is_last_word(&last));
        assert_eq!(fitnesses.begin_noting(said(UNWRITABLE)), None, "that is being noted");
    }

    // It was measured by what was durable: a relay's word that a machine was fit again was taken for no news while the one before was being noted,
    // which came to be the last one.
    #[test]
    fn who_takes_back_what_is_being_noted_is_measured_by_that() {
        let mut fitnesses = Fitnesses::default();
        assert!(fitnesses.begin_noting(said(UNWRITABLE)).is_some());
        assert!(fitnesses.begin_noting(said(None)).is_some(), "the last word counts");
        assert_eq!(fitnesses.begin_noting(said(None)), None);
        assert!(fitnesses.begin_noting(said(UNWRITABLE)).is_some(), "and so does this one");
    }

    #[test]
    fn a_machine_that_is_gone_has_no_fitness() {
        let mut fitnesses = Fitnesses::default();
        fitnesses.fold(&became(1, LEAVES));
        let machine = Machine { unfit: LEAVES, ..crate::agents::machine(3, 1, MachineState::Gone) };
        fitnesses.fold(&Delta { machines: vec![machine.into()], ..became(2, None) });
        assert_eq!(fitnesses.of(3), None);
    }
}
