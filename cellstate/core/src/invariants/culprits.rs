//! What always holds of those whom conflicts name.

use plenum_model::{
    AllocationId, Cell, DYNAMIC_PORTS, Device, Outcome, Refusal, RefusalKind, RefusalReason, Transaction,
};

use super::Violation;

/// A conflict over room, a device or a port names culprits whose total is at least what was short, and of whom each allocation is there
/// and has some of it; each culprit is later than the base.
///
/// # Errors
/// The first conflict that does not.
pub fn invariant_conflicts_name_their_culprits(
    before: &Cell,
    txn: &Transaction,
    outcome: &Outcome,
) -> Result<(), Violation> {
    let (revision, base) = (outcome.revision, txn.base);
    for refusal in outcome.refusals.iter().filter(|refusal| refusal.kind == RefusalKind::Conflict) {
        let later = refusal.culprits.iter().all(|culprit| culprit.revision > base);
        if refusal.culprits.is_empty() || !later {
            return Err(Violation::CulpritNotLater { revision, base });
        }
        let Some(short_by) = taken_from(refusal) else { continue };
        if refusal.culprits_total < short_by {
            return Err(Violation::CulpritsTooSmall { revision, short_by, total: refusal.culprits_total });
        }
        let mut named = refusal.culprits.iter().filter_map(|culprit| culprit.allocation);
        if let Some(allocation) = named.find(|&id| !has_what_is_short(before, refusal, id)) {
            return Err(Violation::CulpritTookNothing { revision, allocation });
        }
    }
    Ok(())
}

/// How much was short of what others can take: room, a device, or a port, which counts as 1.
fn taken_from(refusal: &Refusal) -> Option<u64> {
    match refusal.reason {
        RefusalReason::NoRoom => refusal.short.map(|(_, short_by)| short_by),
        RefusalReason::DeviceTaken => refusal.short_device.as_ref().map(|(_, short_by)| *short_by),
        RefusalReason::PortTaken => Some(1),
        _ => None,
    }
}

/// Whether an allocation is on the machine that was refused, with some of what was short there. Port 0 stands for any dynamic one.
fn has_what_is_short(before: &Cell, refusal: &Refusal, id: AllocationId) -> bool {
    let Some(found) = before.allocation(id).filter(|found| found.row.machine == refusal.machine) else { return false };
    let mut devices = found.extra.into_iter().flat_map(|extra| &extra.devices);
    let mut ports = found.extra.into_iter().flat_map(|extra| &extra.ports);
    match refusal.reason {
        RefusalReason::NoRoom => {
            refusal.short.is_some_and(|(resource, _)| before.resources_of(found.row).get(resource) > 0)
        }
        RefusalReason::DeviceTaken => devices.any(|device| device.millis > 0 && is_short(before, refusal, device)),
        _ => ports.any(|port| {
            refusal.port.is_some_and(|asked| match asked {
                0 => DYNAMIC_PORTS.contains(&port.number),
                asked => asked == port.number,
            })
        }),
    }
}

/// Whether a device is of the kind that was short, and of a model that the group of the claim declares of it.
fn is_short(before: &Cell, refusal: &Refusal, device: &Device) -> bool {
    let group = before.job(refusal.job).and_then(|job| job.shape.groups.get(usize::from(refusal.group)));
    let mut declared = group.into_iter().flat_map(|group| &group.devices).filter(|want| want.kind == device.kind);
    let known = before.machine_in(refusal.machine).map(|machine| machine.devices.as_slice()).unwrap_or_default();
    let device = known.iter().find(|known| known.kind == device.kind && known.index == device.index).unwrap_or(device);
    let is_of_kind = refusal.short_device.as_ref().is_some_and(|(kind, _)| *kind == device.kind);
    is_of_kind && declared.any(|want| want.model.is_empty() || want.model == device.model)
}
