//! Why a job waits, told once it has waited for that for a while.

use std::time::Duration;

use plenum_proto::v1::JobView;

/// After so long it is told that a job waits, and why; another reason once it has been that one for as long. Most reasons pass in milliseconds.
const TOLD_AFTER: Duration = Duration::from_secs(2);

/// The reason for which a job waits, as it was seen last.
#[derive(Debug, Default)]
pub(crate) struct LongWait(Option<Seen>);

#[derive(Debug)]
struct Seen {
    reason: String,
    /// Since when it is this one; as long as none was told, since when there is any. Reasons count machines and what these lack: where much happens, none
    /// stays the same for long.
    since: Duration,
    is_told: bool,
    is_any_told: bool,
}

impl LongWait {
    /// The reason, once the job has waited for long, and then each other one, once it has been that one for long; an empty one is none. `now` is counted
    /// from any fixed moment.
    pub(crate) fn news(&mut self, reason: &str, now: Duration) -> Option<String> {
        if reason.is_empty() {
            self.0 = None;
            return None;
        }
        let anew = || Seen { reason: reason.to_owned(), since: now, is_told: false, is_any_told: false };
        let seen = self.0.get_or_insert_with(anew);
        if seen.reason != reason {
            let since = if seen.is_any_told { now } else { seen.since };
            *seen = Seen { since, is_any_told: seen.is_any_told, ..anew() };
        }
        if seen.is_told || now.saturating_sub(seen.since) < TOLD_AFTER {
            return None;
        }
        (seen.is_told, seen.is_any_told) = (true, true);
        Some(reason.to_owned())
    }
}

/// Tells the reason of a job, which is called `name`. It is also why tasks stay on machines that are drained: where that is all, nothing waits.
pub(crate) fn waiting_line(name: &str, job: &JobView, reason: &str) -> String {
    let waits = job.groups.iter().any(|group| group.waiting > 0);
    let stays = job.groups.iter().any(|group| !group.staying.is_empty());
    if stays && !waits { format!("{name}: {reason}") } else { format!("{name} waits: {reason}") }
}

#[cfg(test)]
mod tests {
    use plenum_proto::v1::GroupView;

    use super::*;

    // A job all of whose tasks ran was said to wait, as one was on a machine that was drained.
    #[test]
    fn a_job_is_not_said_to_wait_while_its_tasks_only_stay() {
        let group = |waiting, staying: &str| GroupView { waiting, staying: staying.to_owned(), ..GroupView::default() };
        let line = |groups| waiting_line("web", &JobView { groups, ..JobView::default() }, "why");
        assert_eq!(line(vec![group(0, ""), group(0, "1 stays")]), "web: why");
        assert_eq!(line(vec![group(1, ""), group(0, "1 stays")]), "web waits: why");
        assert_eq!(line(vec![group(0, "")]), "web waits: why", "to be given tasks, or launched");
    }

    #[test]
    fn a_reason_that_lasts_is_told_once_and_another_one_anew() {
        let mut wait = LongWait::default();
        let mut told = |seconds, reason| wait.news(reason, Duration::from_secs(seconds)).unwrap_or_default();
        assert_eq!([told(0, "no room"), told(1, "no room")], ["", ""]);
        assert_eq!([told(2, "no room"), told(9, "no room")], ["no room", ""]);
        assert_eq!([told(10, "paused"), told(11, "paused"), told(12, "paused")], ["", "", "paused"]);
        assert_eq!([told(13, ""), told(14, "paused"), told(15, "paused"), told(16, "paused")], ["", "", "", "paused"]);
    }

    // In a cell where something happened each second, the numbers in a reason did not stay the same for two: why a job waited was told to nobody, for hours.
    #[test]
    fn a_reason_whose_numbers_move_is_told_once_all_the_same() {
        let mut wait = LongWait::default();
        let news = |seconds: u64| wait.news(&format!("no room at revision {seconds}"), Duration::from_secs(seconds));
        let told: Vec<String> = (0..60).filter_map(news).collect();
        assert_eq!(told, ["no room at revision 2"]);
    }
}
