//! What commands that go on for long do while their cell does not answer, or can't tell of the past.

use std::time::Duration;

use plenum_proto::error::OUTCOME_UNKNOWN;
use tokio::time::Instant;

use crate::{failure::Failure, output};

/// How long it is until the next look at most; an answer is waited for that long at least.
pub(super) const WAIT_PERIOD_MAX: Duration = Duration::from_secs(1);
/// How long one look may take before the cell counts as away.
pub(super) const ANSWER_MAX: Duration = Duration::from_secs(10);
/// How long a cell may be away before a wait is given up.
pub(super) const SILENCE_MAX: Duration = Duration::from_secs(120);

/// The code of what another cell answers, or an older copy of this one: the cell that was asked is as far away as if nobody answered.
pub(super) const OTHER_CELL: &str = "OTHER_CELL";

/// A cell that does not tell what it is asked.
#[derive(Clone, Copy, Debug)]
pub(super) struct Silence {
    since: Instant,
    /// Whether people were told that it does not answer …
    is_told_away: bool,
    /// … and that it can't tell of the past …
    is_told_behind: bool,
    /// … and that another one answers.
    is_told_other: bool,
}

impl Silence {
    /// One that began then, and of which nobody was told yet.
    pub(super) const fn since(since: Instant) -> Self {
        Self { since, is_told_away: false, is_told_behind: false, is_told_other: false }
    }

    /// What people are told of the latest failure: once of each kind, as one may come after the other.
    fn words(&mut self, failure: &Failure) -> Option<String> {
        let said = &failure.message;
        let (told, words) = match failure.code.as_str() {
            // Only the cell says whether that will pass.
            "HISTORY_BEHIND" => (
                &mut self.is_told_behind,
                format!("the cell can't tell of the past at the moment, and is waited for: {said}"),
            ),
            OTHER_CELL => (
                &mut self.is_told_other,
                format!("warning: {said}; waiting for the one that was asked; `plenum status` tells which one answers"),
            ),
            _ => (&mut self.is_told_away, "the cell does not answer at the moment; waiting for it".to_owned()),
        };
        (!std::mem::replace(told, true)).then_some(words)
    }
}

/// What one look finds. A server that is there and does not answer is as far away as one that is gone.
pub(super) async fn in_time<T>(
    deadline: Option<Instant>,
    answer: impl Future<Output = Result<T, Failure>>,
) -> Result<T, Failure> {
    let left = deadline.map_or(ANSWER_MAX, |deadline| deadline.saturating_duration_since(Instant::now()));
    let answer = tokio::time::timeout(left.clamp(WAIT_PERIOD_MAX, ANSWER_MAX), answer).await;
    answer.unwrap_or_else(|_| Err(Failure::new("UNAVAILABLE", "the cell does not answer")))
}

/// What is said besides at the time limit, where the cell is away.
pub(super) const fn silence_words(silence: Option<Silence>) -> &'static str {
    if silence.is_some() { "; how it is now the cell has not told" } else { "" }
}

/// The failure with which a wait ends. Where the cell was away for too long it must not read as if nothing had been changed: whoever asks again then may
/// have it done twice. `what`: what goes on, and that it was accepted. `shown`: what tells how it is.
pub(super) fn given_up(failure: Failure, what: &str, shown: &str) -> Failure {
    if !failure.is_waited_for() {
        return failure;
    }
    let (silence, said) = (output::span_of(SILENCE_MAX), &failure.message);
    let what = format!("{what}; for {silence} the cell has not told how: {said}");
    Failure::new(OUTCOME_UNKNOWN, what).with_hint(format!("it need not be asked for again; {shown} tells how it is"))
}

/// What was answered; nothing while the cell is away for less than [`SILENCE_MAX`], such as for a restart, or has too much to do, or can't tell of the
/// past yet, or another one answers: that it does not answer says nothing about what is looked at.
pub(super) fn found<T>(answer: Result<T, Failure>, silence: &mut Option<Silence>) -> Result<Option<T>, Failure> {
    let (found, told) = found_and_told(answer, silence);
    told.iter().for_each(|line| output::tell(line));
    found
}

/// The same, with what people are told of it: once that the cell is away, or can't tell of the past, or is another one, and once when it is back.
fn found_and_told<T>(
    answer: Result<T, Failure>,
    silence: &mut Option<Silence>,
) -> (Result<Option<T>, Failure>, Option<String>) {
    match answer {
        Ok(found) => {
            let told = silence.take().map(|_| "the cell tells again".to_owned());
            (Ok(Some(found)), told)
        }
        Err(failure) if failure.is_waited_for() => {
            let silence = silence.get_or_insert_with(|| Silence::since(Instant::now()));
            let told = silence.words(&failure);
            (if silence.since.elapsed() < SILENCE_MAX { Ok(None) } else { Err(failure) }, told)
        }
        Err(failure) => (Err(failure), None),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    // A wait for a job ended as failed while many others listed.
    #[test]
    fn a_cell_that_has_too_much_to_do_is_waited_for_as_one_that_is_away() {
        let mut silence = None;
        for code in ["QUEUE_FULL", "UNAVAILABLE", "HISTORY_BEHIND"] {
            assert_eq!(found::<()>(Err(Failure::new(code, "later")), &mut silence), Ok(None));
        }
        assert_eq!(found(Ok(7), &mut silence), Ok(Some(7)));
        assert!(silence.is_none() && found::<()>(Err(Failure::new("NO_SUCH_JOB", "no")), &mut silence).is_err());
    }

    // Who waited for hours read to the end that the cell does not answer, though it had been away for a moment.
    #[test]
    fn that_the_cell_is_away_is_told_once_and_taken_back_once() {
        let mut silence = None;
        let answers = [true, false, false, true, true, false, true];
        let told = answers.map(|answers| {
            let answer = if answers { Ok(7) } else { Err(Failure::new("UNAVAILABLE", "later")) };
            found_and_told(answer, &mut silence).1
        });
        let [away, back] = ["the cell does not answer at the moment; waiting for it", "the cell tells again"].map(Some);
        assert_eq!(told.each_ref().map(Option::as_deref), [None, away, None, back, None, away, back]);
        // It was waited for without a word of why.
        let behind = Failure::new("HISTORY_BEHIND", "the history takes nothing more until the server starts again");
        let told = found_and_told::<()>(Err(behind), &mut silence).1;
        assert!(told.is_some_and(|told| told.ends_with("takes nothing more until the server starts again")));
    }

    // What came after the first word was not told: who had read that the history is behind did not read that the server was gone.
    #[test]
    fn a_cell_that_is_behind_first_and_then_away_is_told_as_both() {
        let mut silence = None;
        let codes = ["HISTORY_BEHIND", "HISTORY_BEHIND", "UNAVAILABLE", "HISTORY_BEHIND", "UNAVAILABLE"];
        let told = codes.map(|code| found_and_told::<()>(Err(Failure::new(code, "later")), &mut silence).1);
        let behind = Some("the cell can't tell of the past at the moment, and is waited for: later");
        let away = Some("the cell does not answer at the moment; waiting for it");
        assert_eq!(told.each_ref().map(Option::as_deref), [behind, None, away, None, None]);
        let other = Failure::new(OTHER_CELL, "it is an older copy");
        let told = found_and_told::<()>(Err(other), &mut silence).1.unwrap_or_default();
        assert!(told.starts_with("warning: it is an older copy; waiting for the one that was asked"), "{told}");
        // It is one silence: the two minutes count from its begin.
        silence = Instant::now().checked_sub(SILENCE_MAX).map(Silence::since);
        let ended = found_and_told::<()>(Err(Failure::new("UNAVAILABLE", "gone")), &mut silence).0;
        assert!(ended.is_err());
    }
}
