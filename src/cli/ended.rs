//! Which of a job's allocations people see beside it: a job that was submitted often, or fails again and again, has thousands that ended.

use plenum_proto::v1::{AllocationState, AllocationView, GroupView, JobKind, JobShape, JobView};

/// Ended ones that are shown.
const ENDED_SHOWN: usize = 10;

/// What is shown of a job's allocations, and how many are not.
#[derive(Debug, Default)]
pub(super) struct Shown {
    /// All that are live and the newest that ended of the job's present version, as they were listed.
    pub(super) rows: Vec<AllocationView>,
    /// Ended ones of that version.
    more: usize,
    /// Those of earlier versions, or of an earlier job of the name.
    earlier: usize,
    /// What was listed, where there is more, or may be: then what is counted above is not all.
    cut_at: Option<usize>,
}

impl Shown {
    /// Of a list in which the last that ended come first; `is_cut`: there are more, or may be.
    pub(super) fn of(job: &JobView, listed: &[AllocationView], is_cut: bool) -> Self {
        let mut shown = Self { cut_at: is_cut.then_some(listed.len()), ..Self::default() };
        let mut room = ENDED_SHOWN;
        for allocation in listed {
            if allocation.ended_revision == 0 {
                shown.rows.push(allocation.clone());
            } else if !is_of(job, allocation) {
                shown.earlier += 1;
            } else if room == 0 {
                shown.more += 1;
            } else {
                room -= 1;
                shown.rows.push(allocation.clone());
            }
        }
        if is_cut {
            let seen = ENDED_SHOWN - room;
            // The list ends before they do, and the job's groups have counted them.
            shown.more = shown.more.max(ended_of(job).saturating_sub(seen));
        }
        shown
    }

    /// How many more there are, and that `command` lists them; nothing where there are none.
    pub(super) fn hint(&self, command: &str) -> Option<String> {
        let all = self.more + self.earlier;
        if let Some(rows) = self.cut_at.filter(|_| all > 0) {
            return Some(format!(
                "at least {all} more allocations have ended, and the {rows} rows that the server told at once need not be all: see some with `{command}` and --filter, such as `state=failed` or `machine=NAME`"
            ));
        }
        let what = match all {
            0 => return None,
            1 => "1 more ended allocation".to_owned(),
            _ => format!("{all} more ended allocations"),
        };
        let of_earlier = match (self.more, self.earlier) {
            (_, 0) => String::new(),
            (0, _) => " of earlier versions".to_owned(),
            (_, earlier) => format!(", {earlier} of earlier versions"),
        };
        Some(format!("there {} {what}{of_earlier}; see all with `{command}`", if all == 1 { "is" } else { "are" }))
    }
}

/// How many allocations of the tasks that a job has now have ended, by what its groups count: those of tasks that were scaled away are not among them.
fn ended_of(job: &JobView) -> usize {
    let of_group = |group: &GroupView| {
        let live = [group.granted, group.starting, group.running, group.stopping, group.lost];
        u64::from(group.attempts).saturating_sub(live.into_iter().map(u64::from).sum())
    };
    usize::try_from(job.groups.iter().map(of_group).sum::<u64>()).unwrap_or(usize::MAX)
}

/// Whether it is of the job's present version: what is listed by a name is of earlier ones, too, and of what had the name before.
pub(crate) fn is_of(job: &JobView, allocation: &AllocationView) -> bool {
    (allocation.job_id, allocation.job_version) == (job.id, job.version)
}

/// Whether its end counts as a failure of the job: of one that runs for ever, an end with exit code 0 does as well.
pub(crate) fn has_failed(job: &JobView, allocation: &AllocationView) -> bool {
    match allocation.state() {
        AllocationState::Failed => true,
        AllocationState::Complete => runs_for_ever(job),
        _ => false,
    }
}

/// The filter that lists what has failed of a job. Each of its terms has to hold, so that two states are listed by leaving out the others.
pub(super) fn failed_filter(job: &JobView) -> &'static str {
    if runs_for_ever(job) {
        "state!=granted,state!=starting,state!=running,state!=stopping,state!=lost,state!=stopped,state!=evicted"
    } else {
        "state=failed"
    }
}

fn runs_for_ever(job: &JobView) -> bool {
    job.shape.as_ref().is_some_and(|shape| shape.kind() == JobKind::Forever)
}

/// Groups that no other waits for: what a job was run for.
pub(crate) fn final_groups(shape: &JobShape) -> Vec<&str> {
    let is_final = |name: &str| !shape.groups.iter().any(|group| group.after.iter().any(|after| after == name));
    shape.groups.iter().map(|group| group.name.as_str()).filter(|name| is_final(name)).collect()
}

#[cfg(test)]
mod tests {
    use plenum_proto::v1::GroupShape;

    use super::*;

    // A job that had been submitted ten times was shown with all that ever ran of it.
    #[test]
    fn of_what_ended_the_newest_of_the_present_version_are_shown_and_the_others_counted() {
        let job = JobView { id: 7, version: 2, ..JobView::default() };
        let of = |job_id, job_version, ended_revision| AllocationView {
            job_id,
            job_version,
            ended_revision,
            ..AllocationView::default()
        };
        let shown = |listed: &[AllocationView]| {
            let shown = Shown::of(&job, listed, false);
            let revisions: Vec<u64> = shown.rows.iter().map(|row| row.ended_revision).collect();
            (revisions, shown.hint("plenum alloc list").unwrap_or_default())
        };
        let leaving = of(7, 1, 0);
        assert_eq!(shown(&[of(7, 2, 0), leaving.clone(), of(7, 2, 9)]), (vec![0, 0, 9], String::new()));

        let ended = (0..12).map(|before| of(7, 2, 40 - before));
        let earlier = [of(7, 1, 20), of(6, 2, 10)];
        let (revisions, told) = shown(&[leaving].into_iter().chain(ended).chain(earlier.clone()).collect::<Vec<_>>());
        assert_eq!(revisions, [0, 40, 39, 38, 37, 36, 35, 34, 33, 32, 31]);
        assert_eq!(told, "there are 4 more ended allocations, 2 of earlier versions; see all with `plenum alloc list`");
        let (revisions, told) = shown(&earlier[..1]);
        assert!(revisions.is_empty(), "{revisions:?}");
        assert_eq!(told, "there is 1 more ended allocation of earlier versions; see all with `plenum alloc list`");
    }

    // Of 20,000 tasks that were done, `plenum job show` told of 9,990 more than it showed, as many as the server had listed, and named a command that
    // listed as many.
    #[test]
    fn where_the_list_is_cut_the_groups_say_how_many_more_there_are() {
        let group = |attempts, running| GroupView { attempts, running, ..GroupView::default() };
        let job = JobView { id: 7, version: 2, groups: vec![group(20, 2), group(15, 0)], ..JobView::default() };
        let of = |version, ended_revision| AllocationView {
            job_id: 7,
            job_version: version,
            ended_revision,
            ..AllocationView::default()
        };
        let told =
            |listed: &[AllocationView]| Shown::of(&job, listed, true).hint("plenum alloc list").unwrap_or_default();
        let ended: Vec<_> = (0..12).map(|before| of(2, 40 - before)).collect();
        assert_eq!(
            told(&ended),
            "at least 23 more allocations have ended, and the 12 rows that the server told at once need not be all: see some with `plenum alloc list` and --filter, such as `state=failed` or `machine=NAME`"
        );
        let with_earlier = [&ended[..4], &[of(1, 9)]].concat();
        assert!(told(&with_earlier).starts_with("at least 30 more allocations have ended, and the 5 rows"));
        let all_live = JobView { groups: vec![group(2, 2)], ..job.clone() };
        assert_eq!(Shown::of(&all_live, &[of(2, 0)], true).hint("plenum alloc list"), None, "none has ended");
    }

    // A service that ended with 0 failed again and again, and nothing told how: what was looked for had the state `failed`.
    #[test]
    fn an_end_with_code_0_is_a_failure_of_a_job_that_runs_for_ever() {
        let judged = |kind: JobKind| {
            let shape = JobShape { kind: kind.into(), ..JobShape::default() };
            let job = JobView { shape: Some(shape), ..JobView::default() };
            let listed = failed_filter(&job);
            let states = [
                ("failed", AllocationState::Failed),
                ("complete", AllocationState::Complete),
                ("granted", AllocationState::Granted),
                ("starting", AllocationState::Starting),
                ("running", AllocationState::Running),
                ("stopping", AllocationState::Stopping),
                ("lost", AllocationState::Lost),
                ("stopped", AllocationState::Stopped),
                ("evicted", AllocationState::Evicted),
            ];
            for (word, state) in states {
                let allocation = AllocationView { state: state.into(), ..AllocationView::default() };
                let is_listed = listed == format!("state={word}")
                    || (listed.contains("!=") && !listed.split(',').any(|term| term == format!("state!={word}")));
                assert_eq!(has_failed(&job, &allocation), is_listed, "{word} by {listed}");
            }
            has_failed(&job, &AllocationView { state: AllocationState::Complete.into(), ..AllocationView::default() })
        };
        assert!(judged(JobKind::Forever) && !judged(JobKind::ToCompletion));
    }

    #[test]
    fn the_final_groups_are_those_that_no_other_waits_for() {
        let group = |name: &str, after: &[&str]| GroupShape {
            name: name.to_owned(),
            after: after.iter().map(|name| (*name).to_owned()).collect(),
            ..GroupShape::default()
        };
        let groups = vec![group("split", &[]), group("map", &["split"]), group("check", &["split"])];
        assert_eq!(final_groups(&JobShape { groups, ..JobShape::default() }), ["map", "check"]);
    }
}
