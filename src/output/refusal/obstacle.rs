//! What stood in the way of a refused claim, in words.

use plenum_model::{LogTime, NotWanted, counted};
use plenum_proto::v1::{NotWantedCause, Placement, Refusal, RefusalKind, RefusalReason};

use super::super::allocation::port_names;
use super::super::device;
use super::super::job::full_name_called;
use super::super::quantity::named_amount;
use super::{Names, in_smallest_unit};

/// What stood in the way, in words.
pub(super) fn obstacle(names: Names<'_>, refusal: &Refusal) -> String {
    let short = || {
        let (resource, _) = named_amount(refusal.resource(), 0);
        format!("{resource} short by {}", in_smallest_unit(refusal, refusal.short_by))
    };
    let words = match refusal.reason() {
        RefusalReason::NoRoom => return short() + &held_words(names, refusal),
        RefusalReason::QuotaExceeded if refusal.short_by > 0 => return format!("the namespace's quota: {}", short()),
        RefusalReason::Unspecified => "for a reason that this version does not know",
        RefusalReason::TaskTaken => "the task has an allocation already",
        RefusalReason::NotWanted => return unwanted(names, refusal),
        RefusalReason::NoSuchMachine => "there is no such machine",
        RefusalReason::MachineNotReady => "the machine takes no claims",
        RefusalReason::Constraint => "a constraint of the group fails there",
        RefusalReason::OtherMachine => "the job's tasks share another machine",
        RefusalReason::NoSuchJob => "there is no such job",
        RefusalReason::JobVersion => {
            return match placement_of(names, refusal) {
                Some(asked) => format!("the job is not at version {}, which was placed, any more", asked.job_version),
                None => "the job has another version now".to_owned(),
            };
        }
        RefusalReason::ResourcesDiffer => return differs(names, refusal),
        // Whatever is checked: nobody who had seen the base chose this one.
        RefusalReason::MachineChanged if registered_since(refusal) => {
            "the machine registered after the base: it may be another one than was chosen"
        }
        RefusalReason::MachineChanged => "somebody else changed the machine since the base (check: sequence)",
        RefusalReason::MinimumMissed => return minimum_missed(names, refusal),
        RefusalReason::GuardFailed => "a guard failed",
        RefusalReason::DeviceTaken if refusal.device_short_by_millis > 0 => {
            let short_by = in_smallest_unit(refusal, refusal.device_short_by_millis);
            let named = named_devices(names, refusal).map(|named| format!(" (it names {named})")).unwrap_or_default();
            return format!("{} short by {short_by}{named}", refusal.device);
        }
        // Nobody took it: what is there in its place could never have been had.
        RefusalReason::DeviceTaken
            if refusal.kind() == RefusalKind::Misfit && !refusal.device.is_empty() && refusal.culprits.is_empty() =>
        {
            return format!("the {} there is not of the model that is asked for", refusal.device);
        }
        RefusalReason::DeviceTaken => "the device is taken",
        RefusalReason::PortTaken if refusal.port > 0 => return format!("port {} is taken", refusal.port),
        RefusalReason::PortTaken => "no port is left of those that the cell chooses from",
        RefusalReason::SpreadLimit => {
            "as many tasks as its spread allows are there, or the machine lacks the attribute"
        }
        RefusalReason::PerMachineLimit => {
            "as many tasks of the group, or allocations in all, as one machine may have are there"
        }
        RefusalReason::QuotaExceeded => "the namespace's quota is used up",
        RefusalReason::NotPermitted => "a partition reserves the machine for other schedulers (plenum partition list)",
        RefusalReason::Predecessor => "its predecessor has not ended yet (single_instance)",
        RefusalReason::OtherScheduler => "the job belongs to another scheduler",
        RefusalReason::MayNotEvict => "somebody would have to be evicted, and the scheduler may not do that",
    };
    words.to_owned()
}

/// Who holds the room that is short, which lists of machines count as free.
fn held_words(names: Names<'_>, refusal: &Refusal) -> String {
    let Some((held, first)) = names.held(refusal).and_then(|held| Some((held, held.jobs.first()?))) else {
        return String::new();
    };
    let others = match held.jobs_total.saturating_sub(1) {
        0 => String::new(),
        others => format!(" and {}", counted(others.into(), "other job")),
    };
    format!(", where {}{others} held {}", full_name_called(first), in_smallest_unit(refusal, held.amount))
}

/// Whether the machine, or a new start of it, came after the base.
fn registered_since(refusal: &Refusal) -> bool {
    refusal.culprits.iter().any(|culprit| matches!(culprit.event.as_str(), "registered" | "epoch"))
}

/// What was too few, as far as it is known what was asked. An atomic transaction is undone for any of its placements.
fn minimum_missed(names: Names<'_>, refusal: &Refusal) -> String {
    const MISSED: &str = "it would fit, but fewer than the minimum could be granted with it";
    match (names.0.transaction.as_ref(), placement_of(names, refusal)) {
        (Some(transaction), _) if transaction.atomic => format!("{MISSED}, or with another placement (atomic)"),
        (_, Some(placement)) if placement.min > 0 => format!("{MISSED} (min {})", placement.min),
        (_, Some(_)) => format!("{MISSED} (the `min` that its group declares)"),
        _ => MISSED.to_owned(),
    }
}

/// What was asked for with a refused claim, as far as that is known.
fn placement_of<'view>(names: Names<'view>, refusal: &Refusal) -> Option<&'view Placement> {
    names.0.transaction.as_ref()?.placements.get(refusal.placement as usize)
}

/// The devices that a claim names, where it does.
fn named_devices(names: Names<'_>, refusal: &Refusal) -> Option<String> {
    let extra = placement_of(names, refusal)?.extras.get(refusal.claim as usize)?;
    (!extra.devices.is_empty()).then(|| device::with_models(&extra.devices))
}

/// What of a claim is not what its job declares, as far as it is known what was asked.
fn differs(names: Names<'_>, refusal: &Refusal) -> String {
    const RESOURCES: &str = "the resources differ from what the job declares";
    let Some(placement) = placement_of(names, refusal) else {
        return "the resources, or the devices or ports that it names, differ from what the job declares".to_owned();
    };
    let mut named = Vec::new();
    named.extend(named_devices(names, refusal));
    if let Some(extras) = placement.extras.get(refusal.claim as usize)
        && !extras.ports.is_empty()
    {
        named.push(format!("ports {}", port_names(&extras.ports)));
    }
    if named.is_empty() {
        return RESOURCES.to_owned();
    }
    let differs = format!("it names {}, which differs from what its group declares", named.join(", "));
    // All claims of the placement are refused where these differ.
    if placement.resources.is_some() { format!("{RESOURCES}, or {differs}") } else { differs }
}

/// Why the task may not be placed.
fn unwanted(names: Names<'_>, refusal: &Refusal) -> String {
    let words = match refusal.not_wanted() {
        NotWantedCause::Unspecified => "the task may not be placed now",
        NotWantedCause::JobIsComplete => "the job is complete",
        NotWantedCause::JobHasFailed => "the job has failed",
        NotWantedCause::JobIsStopped => "the job is stopped",
        NotWantedCause::AfterGroup => {
            return format!("{} must be done first", names.group(refusal.job, refusal.after_group));
        }
        NotWantedCause::InBackoff => {
            let until = LogTime::from_micros(refusal.backoff_until_micros);
            return NotWanted::Backoff(until).to_string();
        }
        NotWantedCause::TaskIsDone => "the task is done",
        NotWantedCause::TaskHasFailed => "the task has failed for good",
        NotWantedCause::TaskIsCancelled => "the task is cancelled",
        NotWantedCause::NoTaskOfIndex => "the group has no such task",
        NotWantedCause::NoGroupAtPosition => "the job has no such group",
        NotWantedCause::JobIsRecurring => "nothing of a recurring job itself is placed",
    };
    words.to_owned()
}

#[cfg(test)]
mod tests {
    use plenum_proto::v1::{ClaimExtras, Culprit, Device, Transaction, TransactionView};

    use super::*;

    /// The words for a refusal of the only claim of this placement, as a part of this transaction.
    fn told(transaction: Transaction, placement: Placement, refusal: Refusal) -> String {
        let transaction = Transaction { placements: vec![placement], ..transaction };
        obstacle(Names(&TransactionView { transaction: Some(transaction), ..TransactionView::default() }), &refusal)
    }

    fn refused(reason: RefusalReason) -> Refusal {
        Refusal { reason: reason.into(), ..Refusal::default() }
    }

    // Which minimum it was, and whose, stood nowhere; nor which version was placed, nor which device was named.
    #[test]
    fn what_was_asked_for_is_told_as_far_as_it_is_known() {
        let missed = |transaction, min| {
            told(transaction, Placement { min, ..Placement::default() }, refused(RefusalReason::MinimumMissed))
        };
        const MISSED: &str = "it would fit, but fewer than the minimum could be granted with it";
        assert_eq!(missed(Transaction::default(), 4), format!("{MISSED} (min 4)"));
        assert_eq!(missed(Transaction::default(), 0), format!("{MISSED} (the `min` that its group declares)"));
        let atomic = Transaction { atomic: true, ..Transaction::default() };
        assert_eq!(missed(atomic, 4), format!("{MISSED}, or with another placement (atomic)"));
        let of_two = Placement { job_version: 2, ..Placement::default() };
        let version = told(Transaction::default(), of_two, refused(RefusalReason::JobVersion));
        assert_eq!(version, "the job is not at version 2, which was placed, any more");
        let named = Device { kind: "gpu".to_owned(), index: 9, millis: 1000, ..Device::default() };
        let extras = vec![ClaimExtras { devices: vec![named], ..ClaimExtras::default() }];
        let device =
            Refusal { device: "gpu".to_owned(), device_short_by_millis: 1000, ..refused(RefusalReason::DeviceTaken) };
        let naming = Placement { extras, ..Placement::default() };
        assert_eq!(told(Transaction::default(), naming, device.clone()), "gpu short by 1000m (it names gpu[9])");
        let unknown = |refusal| obstacle(Names(&TransactionView::default()), &refusal);
        assert_eq!(unknown(refused(RefusalReason::MinimumMissed)), MISSED);
        assert_eq!(unknown(refused(RefusalReason::JobVersion)), "the job has another version now");
        assert_eq!(unknown(device), "gpu short by 1000m");
    }

    // A transaction that checked for room was told of the other check.
    #[test]
    fn a_machine_that_came_after_the_base_is_told_as_such_whatever_is_checked() {
        let by = |event: &str| {
            let culprits = vec![Culprit { event: event.to_owned(), ..Culprit::default() }];
            let refusal = Refusal { culprits, ..refused(RefusalReason::MachineChanged) };
            told(Transaction::default(), Placement::default(), refusal)
        };
        let came = "the machine registered after the base: it may be another one than was chosen";
        assert_eq!([by("registered"), by("epoch")], [came, came]);
        assert_eq!(by("cordoned"), "somebody else changed the machine since the base (check: sequence)");
    }
}
