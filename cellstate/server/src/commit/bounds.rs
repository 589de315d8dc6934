//! The bounds of the core in the log: each batch says with which it was decided, so that `plenum verify` can decide it again.

use plenum_core::CoreOptions;
use plenum_proto::v1;

/// As they are logged.
#[must_use]
pub(crate) fn to_wire(options: &CoreOptions) -> v1::CoreOptions {
    // Without `..`, so that a bound that is new gets its field in the log: decisions depend on each of them.
    let &CoreOptions {
        ring_changes,
        sessions_max,
        sessions_of_principal_max,
        sessions_of_scheduler_max,
        machines_max,
        jobs_max,
        job_bytes_max,
        tasks_max,
        shapes_max,
        shapes_spare,
        schedulers_max,
        schedulers_spare,
        classes_max,
        quotas_max,
        partitions_max,
        holds_max,
        hold_micros_max,
        unknown_micros,
        retire_after_micros,
        finished_jobs_max,
        stops_max,
        lost_millis_a_minute,
    } = options;
    v1::CoreOptions {
        ring_changes: ring_changes as u64,
        sessions_max: sessions_max as u64,
        sessions_of_principal_max: Some(sessions_of_principal_max as u64),
        sessions_of_scheduler_max: Some(sessions_of_scheduler_max as u64),
        machines_max,
        jobs_max,
        job_bytes_max: Some(job_bytes_max),
        tasks_max,
        shapes_max: shapes_max as u64,
        shapes_spare: Some(shapes_spare as u64),
        schedulers_max: Some(schedulers_max as u64),
        schedulers_spare: Some(schedulers_spare as u64),
        classes_max: classes_max as u64,
        quotas_max: quotas_max as u64,
        partitions_max: partitions_max as u64,
        holds_max: holds_max as u64,
        hold_micros_max,
        unknown_micros,
        retire_after_micros,
        finished_jobs_max: Some(finished_jobs_max as u64),
        stops_max: stops_max as u64,
        lost_millis_a_minute,
    }
}

/// As they were logged.
#[must_use]
pub(crate) fn from_wire(wire: &v1::CoreOptions) -> CoreOptions {
    let count = |count: u64| usize::try_from(count).unwrap_or(usize::MAX);
    CoreOptions {
        ring_changes: count(wire.ring_changes),
        sessions_max: count(wire.sessions_max),
        sessions_of_principal_max: wire.sessions_of_principal_max.map_or(usize::MAX, count),
        sessions_of_scheduler_max: wire.sessions_of_scheduler_max.map_or(usize::MAX, count),
        machines_max: wire.machines_max,
        jobs_max: wire.jobs_max,
        job_bytes_max: wire.job_bytes_max.unwrap_or(u64::MAX),
        tasks_max: wire.tasks_max,
        shapes_max: count(wire.shapes_max),
        shapes_spare: wire.shapes_spare.map_or(usize::MAX, count),
        schedulers_max: wire.schedulers_max.map_or_else(|| usize::from(u16::MAX), count),
        schedulers_spare: wire.schedulers_spare.map_or(usize::MAX, count),
        classes_max: count(wire.classes_max),
        quotas_max: count(wire.quotas_max),
        partitions_max: count(wire.partitions_max),
        holds_max: count(wire.holds_max),
        hold_micros_max: wire.hold_micros_max,
        unknown_micros: wire.unknown_micros,
        retire_after_micros: wire.retire_after_micros,
        finished_jobs_max: wire.finished_jobs_max.map_or(usize::MAX, count),
        stops_max: count(wire.stops_max),
        lost_millis_a_minute: wire.lost_millis_a_minute,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bounds_come_back_from_the_log_as_they_were() {
        let odd = CoreOptions { ring_changes: 7, machines_max: 9, retire_after_micros: -1, ..CoreOptions::default() };
        for options in [CoreOptions::default(), odd] {
            assert_eq!(to_wire(&from_wire(&to_wire(&options))), to_wire(&options));
            assert_eq!(format!("{:?}", from_wire(&to_wire(&options))), format!("{options:?}"));
        }
    }

    /// What a batch was decided without must refuse nothing when it is decided again.
    #[test]
    fn bounds_that_an_earlier_version_did_not_have_are_none() {
        let earlier = v1::CoreOptions {
            shapes_spare: None,
            schedulers_max: None,
            schedulers_spare: None,
            sessions_of_principal_max: None,
            sessions_of_scheduler_max: None,
            finished_jobs_max: None,
            job_bytes_max: None,
            ..to_wire(&CoreOptions::default())
        };
        let read = from_wire(&earlier);
        let spare = [read.shapes_spare, read.schedulers_spare];
        let sessions = [read.sessions_of_principal_max, read.sessions_of_scheduler_max];
        assert_eq!((spare, sessions, read.schedulers_max), ([usize::MAX; 2], [usize::MAX; 2], 65_535));
        assert_eq!((read.finished_jobs_max, read.job_bytes_max), (usize::MAX, u64::MAX));
    }
}
