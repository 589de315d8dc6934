//! What is said again and again: once a minute, with how often it was not said.
//!
//! A scheduler that is paused, or whose cell takes no changes, is refused whatever it plans, for as long as that lasts, some dozen times a second. One
//! that errs has up to 16,384 claims refused in each transaction, again and again. Where no cell answers it is asked for every two seconds, be it for
//! days. The disk that has no room for the cell's log is often the one that has the scheduler's.

use std::collections::BTreeMap;
use std::time::Duration;

use plenum_proto::v1;
use tokio::time::Instant;

use crate::runtime::Notice;

/// How long a kind of message is not said again.
const QUIET: Duration = Duration::from_secs(60);
/// How long a cell may be away, as one that is started anew, before that is more than a word by the way.
const PATIENCE: Duration = Duration::from_secs(5);
/// Kinds that are told apart; some servers may have many.
const KINDS_MAX: usize = 64;

/// How the kinds of a lost connection begin.
const LOST: &str = "lost";

/// What a notice has in common with others like it, of those that come as often as the scheduler plans or connects; `None` of all others.
pub(super) fn kind_of(notice: &Notice) -> Option<String> {
    match notice {
        Notice::Rejected { reason, .. } => Some(reason.split(':').next().unwrap_or_default().to_owned()),
        Notice::Unread { reason, .. } => Some(format!("unread {}", reason.split(':').next().unwrap_or_default())),
        Notice::Misfit { refusal, .. } => {
            Some(format!("misfit {}", v1::RefusalReason::from(refusal.reason).as_str_name()))
        }
        // What was found follows what should be.
        Notice::Plan(error) => Some(format!("plan {}", error.to_string().split(';').next().unwrap_or_default())),
        Notice::Twice { .. } => Some("twice".to_owned()),
        Notice::Lost { turned_away, reason, .. } => Some(format!("{LOST} {turned_away} {}", without_numbers(reason))),
        Notice::Behind { .. } => Some("behind".to_owned()),
        Notice::Mirror { reason } => Some(format!("mirror {}", without_numbers(reason))),
        Notice::Session { .. } => None,
    }
}

/// A reason names revisions and bytes that are others each time.
fn without_numbers(reason: &str) -> String {
    reason.chars().filter(|character| !character.is_ascii_digit()).collect()
}

/// Which kinds of messages were said lately.
#[derive(Debug, Default)]
pub(super) struct Repeats {
    /// When each was said last, and how often it was not since.
    said: BTreeMap<String, (Instant, u64)>,
    /// Since when there is no connection.
    lost_at: Option<Instant>,
}

impl Repeats {
    /// The session stands: when it is lost next, that is news.
    pub(super) fn connected(&mut self) {
        self.lost_at = None;
        self.said.retain(|kind, _| !kind.starts_with(LOST));
    }

    /// There is no connection. Gives whether that has been so for long, from when on it is said as another kind.
    pub(super) fn lost(&mut self, now: Instant) -> bool {
        now.saturating_duration_since(*self.lost_at.get_or_insert(now)) >= PATIENCE
    }

    /// Whether a message of this kind is to be said now: how many like it were not, since the one before.
    pub(super) fn says(&mut self, kind: &str, now: Instant) -> Option<u64> {
        if let Some((said_at, left_out)) = self.said.get_mut(kind) {
            if now.saturating_duration_since(*said_at) < QUIET {
                *left_out += 1;
                return None;
            }
            *said_at = now;
            return Some(std::mem::take(left_out));
        }
        if self.said.len() >= KINDS_MAX {
            self.said.clear();
        }
        self.said.insert(kind.to_owned(), (now, 0));
        Some(0)
    }
}

#[cfg(test)]
mod tests {
    use plenum_model::{JobId, Refusal, RefusalKind, RefusalReason, SessionId, TransactionId};

    use super::*;
    use crate::plan::PlanError;

    fn misfit(task: u32, reason: RefusalReason) -> Notice {
        let refusal = Refusal {
            kind: RefusalKind::Misfit,
            reason,
            claim: Some((0, 0)),
            job: JobId::default(),
            group: 0,
            task,
            machine: 0,
            short: None,
            short_device: None,
            port: None,
            not_wanted: None,
            culprits: Vec::new(),
            culprits_total: 0,
        };
        Notice::Misfit { transaction: TransactionId::default(), refusal: Box::new(refusal) }
    }

    // Each of 4,096 claims that could never be granted was a line of the log, every two seconds: half a megabyte a second.
    #[test]
    fn what_a_scheduler_does_wrong_with_each_claim_and_each_plan_is_said_once_a_minute() {
        let (mut repeats, now) = (Repeats::default(), Instant::now());
        let misfits = (0..4096).map(|task| misfit(task, RefusalReason::NoRoom));
        let others = (0..10).map(|task| misfit(task, RefusalReason::NotWanted));
        let unequal = (0..10).map(|tasks| Notice::Plan(PlanError::Unequal { tasks, machines: 0 }));
        let large = (5..15).map(|found| Notice::Plan(PlanError::TooLarge { what: "stops", most: 4, found }));
        let all = misfits.chain(others).chain(unequal).chain(large);
        let said = all.filter(|notice| repeats.says(&kind_of(notice).unwrap(), now).is_some());
        let said: Vec<_> = said.map(|notice| notice.to_string()).collect();
        assert_eq!(said.len(), 4, "one of each kind: {said:?}");
    }

    // A scheduler that was paused wrote twelve lines a second, and 200 MB a day, that said so.
    #[test]
    fn what_goes_on_is_said_once_a_minute_with_how_often_it_was_not() {
        let (mut repeats, begin) = (Repeats::default(), Instant::now());
        let mut says = |kind: &str, seconds: u64| repeats.says(kind, begin + Duration::from_secs(seconds));
        let paused: Vec<_> = (0..150).filter_map(|second| Some((second, says("SCHEDULER_PAUSED", second)?))).collect();
        assert_eq!(paused, [(0, 0), (60, 59), (120, 59)]);
        assert_eq!((says("READ_ONLY", 150), says("READ_ONLY", 151)), (Some(0), None), "another one is news");
    }

    // A cell that was away for a day was 43,000 lines of the log of each of its schedulers.
    #[test]
    fn what_each_attempt_to_connect_finds_is_said_once_a_minute() {
        let (mut repeats, begin) = (Repeats::default(), Instant::now());
        let lost = |turned_away, reason: &str, retry_micros| Notice::Lost {
            turned_away,
            reason: reason.to_owned(),
            retry_micros,
        };
        let mut says = |notice: Notice, seconds: u64| {
            if matches!(notice, Notice::Session { .. }) {
                repeats.connected();
            }
            let kind = kind_of(&notice);
            kind.is_none_or(|kind| repeats.says(&kind, begin + Duration::from_secs(seconds)).is_some())
        };
        let said = (0..150).filter(|&second| says(lost(false, "nobody answers", 50_000), second));
        assert_eq!(said.collect::<Vec<_>>(), [0, 60, 120]);
        assert!(says(lost(true, "nobody answers", 5), 150), "it is turned away now");
        assert!(says(lost(false, "no answer within 5 s", 5), 150), "another reason is news");
        let behind = |revision| Notice::Behind { seen: (1, 5), offered: Some((1, revision)) };
        assert!(says(behind(2), 150) && !says(behind(3), 151));
        let mirror = |found: u64| Notice::Mirror { reason: format!("expected revision 6, found {found}") };
        assert!(says(mirror(7), 150) && !says(mirror(8), 151));
        let session = Notice::Session { session: SessionId(2), resumed: true };
        assert!(says(session.clone(), 152) && says(session, 152), "each one");
        assert!(says(lost(false, "nobody answers", 5), 153), "it was there in between");
        assert!(!says(mirror(9), 153));
    }

    // A wrong port was a line that a filter at warnings hides, for ever.
    #[test]
    fn that_there_is_no_connection_is_more_than_a_word_by_the_way_after_some_seconds() {
        let (mut repeats, begin) = (Repeats::default(), Instant::now());
        let mut lost = |seconds: u64| repeats.lost(begin + Duration::from_secs(seconds));
        assert_eq!([0, 4, 5, 70].map(&mut lost), [false, false, true, true]);
        repeats.connected();
        assert!(!repeats.lost(begin + Duration::from_secs(100)), "it was there in between");
    }

    #[test]
    fn kinds_without_end_take_no_memory_without_end() {
        let (mut repeats, now) = (Repeats::default(), Instant::now());
        (0..10_000).for_each(|number: u32| assert_eq!(repeats.says(&number.to_string(), now), Some(0)));
        assert!(repeats.said.len() <= KINDS_MAX);
    }
}
