//! What is said again and again: once a minute, with how often it was not said.
//!
//! A scheduler that is paused, or whose cell takes no changes, is refused whatever it plans, for as long as that lasts, some dozen times a second. One
//! that errs has up to 16,384 claims refused in each transaction, again and again. Where no cell answers it is asked for every two seconds, be it for
//! days. The disk that has no room for the cell's log is often the one that has the scheduler's.

use std::collections::BTreeMap;
use std::time::Duration;

use plenum_proto::v1;
use tokio::time::Instant;

use crate::runtime::{Loss, Notice};

/// How long a kind of message is not said again.
const QUIET: Duration = Duration::from_secs(60);
/// How long a cell may be away, as one that is started anew, before that is more than a word by the way; and how long a connection must have stood for its
/// loss to be news.
const PATIENCE: Duration = Duration::from_secs(5);
/// Kinds that are told apart; some servers may have many.
const KINDS_MAX: usize = 64;

/// How the kinds of a lost connection begin.
const LOST: &str = "lost";

/// What a notice has in common with others like it, of those that come as often as the scheduler plans or connects; `None` of a session that stands.
fn kind_of(notice: &Notice) -> Option<String> {
    match notice {
        Notice::Rejected { reason, .. } => Some(reason.split(':').next().unwrap_or_default().to_owned()),
        Notice::Unread { reason, .. } => Some(format!("unread {}", reason.split(':').next().unwrap_or_default())),
        Notice::Misfit { refusal, .. } => {
            Some(format!("misfit {}", v1::RefusalReason::from(refusal.reason).as_str_name()))
        }
        // What was found follows what should be.
        Notice::Plan(error) => Some(format!("plan {}", error.to_string().split(';').next().unwrap_or_default())),
        Notice::Twice { .. } => Some("twice".to_owned()),
        Notice::Lost { loss, reason, .. } => {
            let is_turned_away = *loss == Loss::TurnedAway;
            Some(format!("{LOST} {is_turned_away} {}", without_numbers(reason)))
        }
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
pub(crate) struct Repeats {
    /// When each was said last, and how often it was not since.
    said: BTreeMap<String, (Instant, u64)>,
    /// Since when there is no connection that lasts.
    lost_at: Option<Instant>,
    /// When the connection that there is began.
    connected_at: Option<Instant>,
    /// What was said last of connections is that one stands.
    stands_said: bool,
}

impl Repeats {
    /// Tells people, where it is to be said now. `scheduler`: whose news it is.
    pub(crate) fn tell(&mut self, scheduler: Option<&str>, notice: &Notice) {
        let (left_out, for_long) = self.take(notice, Instant::now());
        let Some(left_out) = left_out else { return tracing::debug!(scheduler, "{notice}") };
        let left_out = (left_out > 0).then_some(left_out);
        match notice {
            Notice::Lost { .. } if for_long => tracing::warn!(scheduler, left_out, "{notice}"),
            Notice::Session { .. } | Notice::Lost { loss: Loss::NoConnection | Loss::ByCell, .. } => {
                tracing::info!(scheduler, left_out, "{notice}");
            }
            Notice::Behind { .. } | Notice::Lost { .. } => tracing::error!(scheduler, left_out, "{notice}"),
            _ => tracing::warn!(scheduler, left_out, "{notice}"),
        }
    }

    /// A stream without a session stands: said as rarely as that one with a session does.
    pub(crate) fn stands(&mut self) {
        if self.connected(Instant::now()) {
            tracing::info!("the cell is followed");
        }
    }

    /// Whether a notice is to be said now: how many like it were not, since the one before. And whether it says that there has been no connection for long.
    fn take(&mut self, notice: &Notice, now: Instant) -> (Option<u64>, bool) {
        let for_long = matches!(notice, Notice::Lost { loss: Loss::NoConnection | Loss::ByCell, .. }) && self.lost(now);
        let left_out = match kind_of(notice) {
            Some(kind) if for_long => self.says(&format!("{kind} for long"), now),
            Some(kind) => self.says(&kind, now),
            None => self.connected(now).then_some(0),
        };
        if matches!(notice, Notice::Lost { .. }) && left_out.is_some() {
            self.stands_said = false;
        }
        (left_out, for_long)
    }

    /// The session stands, or the stream without one. Gives whether that is said: unless it is what was said last. A server may end each stream soon after it began.
    fn connected(&mut self, now: Instant) -> bool {
        self.connected_at = Some(now);
        !std::mem::replace(&mut self.stands_said, true)
    }

    /// There is no connection: news, where the one before has lasted. Gives whether there has been none for long, from when on it is said as another kind.
    fn lost(&mut self, now: Instant) -> bool {
        let lasted = |since: Instant| now.saturating_duration_since(since) >= PATIENCE;
        if self.connected_at.take().is_some_and(lasted) {
            self.lost_at = None;
            self.said.retain(|kind, _| !kind.starts_with(LOST));
        }
        lasted(*self.lost_at.get_or_insert(now))
    }

    /// Whether a message of this kind is to be said now: how many like it were not, since the one before.
    fn says(&mut self, kind: &str, now: Instant) -> Option<u64> {
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

    fn session() -> Notice {
        Notice::Session { session: SessionId(2), resumed: true }
    }

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
        let lost = |loss, reason: &str, retry_micros| Notice::Lost { loss, reason: reason.to_owned(), retry_micros };
        let mut says =
            |notice: Notice, seconds: u64| repeats.take(&notice, begin + Duration::from_secs(seconds)).0.is_some();
        let said = (0..150).filter(|&second| says(lost(Loss::NoConnection, "nobody answers", 50_000), second));
        assert_eq!(said.collect::<Vec<_>>(), [0, 5, 65, 125], "after five seconds it is said as more than a word");
        assert!(says(lost(Loss::TurnedAway, "nobody answers", 5), 150), "it is turned away now");
        assert!(says(lost(Loss::NoConnection, "no answer within 5 s", 5), 150), "another reason is news");
        let behind = |revision| Notice::Behind { seen: (1, 5), offered: Some((1, revision)) };
        assert!(says(behind(2), 150) && !says(behind(3), 151));
        let mirror = |found: u64| Notice::Mirror { reason: format!("expected revision 6, found {found}") };
        assert!(says(mirror(7), 150) && !says(mirror(8), 151));
        assert!(says(session(), 152));
        assert!(says(lost(Loss::NoConnection, "nobody answers", 5), 157), "it was there in between");
        assert!(says(session(), 157));
        assert!(!says(mirror(9), 157));
    }

    // Each of them was two lines, up to forty times a second: what was said was forgotten with each session that stood.
    #[test]
    fn connections_that_end_as_soon_as_they_stand_are_said_once_a_minute() {
        let (mut repeats, begin) = (Repeats::default(), Instant::now());
        let reason = "QUEUE_FULL: full".to_owned();
        let lost = Notice::Lost { loss: Loss::ByCell, reason, retry_micros: 50_000 };
        let mut said = Vec::new();
        for second in 0..130 {
            for notice in [session(), lost.clone()] {
                let (left_out, for_long) = repeats.take(&notice, begin + Duration::from_secs(second));
                if left_out.is_some() {
                    said.push((second, matches!(notice, Notice::Session { .. }), for_long));
                }
            }
        }
        let of_the_first = [(0, true, false), (0, false, false), (1, true, false)];
        let later = [5, 65, 125].map(|second| [(second, false, true), (second + 1, true, false)]);
        assert_eq!(said, [&of_the_first[..], later.as_flattened()].concat());
    }

    // Of an outage nearly all attempts are left out, the last one, too: the last word of the log was that there is no connection.
    #[test]
    fn after_an_outage_it_is_said_that_the_session_stands() {
        let (mut repeats, begin) = (Repeats::default(), Instant::now());
        let reason = "nobody answers".to_owned();
        let lost = Notice::Lost { loss: Loss::NoConnection, reason, retry_micros: 50_000 };
        let mut says =
            |notice: &Notice, second: u64| repeats.take(notice, begin + Duration::from_secs(second)).0.is_some();
        assert_eq!([0, 1, 2].map(|second| says(&lost, second)), [true, false, false]);
        assert!(says(&session(), 3));
        assert!(!says(&lost, 4) && !says(&session(), 4), "that it stands is the last word");
        assert_eq!([5, 30].map(|second| says(&lost, second)), [true, false], "it is more than a word by now");
        assert!(says(&session(), 31));
    }

    // A wrong port was a line that a filter at warnings hides, for ever.
    #[test]
    fn that_there_is_no_connection_is_more_than_a_word_by_the_way_after_some_seconds() {
        let (mut repeats, begin) = (Repeats::default(), Instant::now());
        let at = |seconds: u64| begin + Duration::from_secs(seconds);
        assert_eq!([0, 4, 5, 70].map(|seconds| repeats.lost(at(seconds))), [false, false, true, true]);
        repeats.connected(at(95));
        assert!(!repeats.lost(at(100)), "it was there in between");
        repeats.connected(at(101));
        assert!(repeats.lost(at(105)), "and then not for long enough");
    }

    #[test]
    fn kinds_without_end_take_no_memory_without_end() {
        let (mut repeats, now) = (Repeats::default(), Instant::now());
        (0..10_000).for_each(|number: u32| assert_eq!(repeats.says(&number.to_string(), now), Some(0)));
        assert!(repeats.said.len() <= KINDS_MAX);
    }
}
