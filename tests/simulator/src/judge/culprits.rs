//! Whether refusals say what happened: who took what was short, how much of it, and whether it was there at the base.

use plenum_model::{
    AllocationId, AllocationRef, Cell, ConflictCheck, Culprit, DYNAMIC_PORTS, Device, GroupShape, Machine, Outcome,
    Placement, Refusal, RefusalKind, RefusalReason, Transaction, choose_devices, device_rooms,
};

use super::{Granted, Judge, Step, standing};
use crate::books::{Checked, hold};

/// Culprits that a refusal lists.
const LISTED: usize = 4;

impl Judge {
    /// Each culprit was there: a grant on that machine, later than the base, of that amount of what was short; or another command later
    /// than the base, which did to the machine or the job what it is said to have done.
    pub(super) fn invariant_conflicts_name_true_culprits(
        &self,
        step: &Step<'_>,
        txn: &Transaction,
        outcome: &Outcome,
        refusal: &Refusal,
    ) -> Checked {
        let name = "invariant_conflicts_name_true_culprits";
        let facts = || format!("{} at {} on base {}: {refusal:?}", txn.id, outcome.revision, txn.base);
        let conflict = refusal.kind == RefusalKind::Conflict;
        hold(!conflict || !refusal.culprits.is_empty(), name, facts)?;
        hold(refusal.culprits.len() <= LISTED, name, facts)?;
        hold(refusal.culprits.is_sorted_by(|one, other| one.revision >= other.revision), name, facts)?;
        for culprit in &refusal.culprits {
            hold(culprit.revision > txn.base && culprit.revision < outcome.revision, name, facts)?;
            hold(self.is_true(step, txn, refusal, culprit), name, || format!("{culprit:?} is not true: {}", facts()))?;
        }
        Ok(())
    }

    /// The culprits of what was short of room, a device or a port took at least that together, those that are not listed included.
    pub(super) fn invariant_culprits_took_what_was_short(
        &self,
        step: &Step<'_>,
        txn: &Transaction,
        refusal: &Refusal,
    ) -> Checked {
        if refusal.kind != RefusalKind::Conflict || !is_of_what_is_taken(refusal.reason) {
            return Ok(());
        }
        let listed: u64 = refusal.culprits.iter().map(|culprit| culprit.amount).sum();
        let (total, all_listed) = (refusal.culprits_total, refusal.culprits.len() < LISTED);
        let enough = short_by(refusal).is_some_and(|short_by| total >= short_by);
        let adds_up = listed <= total && (!all_listed || listed == total);
        hold(enough && adds_up, "invariant_culprits_took_what_was_short", || {
            format!("{} at {} on base {}: {refusal:?}", txn.id, step.after.revision(), txn.base)
        })
    }

    /// Each culprit is named once; and where several took what was short, the newest are named: none is left out of those that are still there
    /// and came later than the last one that is named. Of room that changed hands, whoever took it over counts with all that it has.
    pub(super) fn invariant_culprits_are_the_newest(
        &self,
        step: &Step<'_>,
        txn: &Transaction,
        refusal: &Refusal,
    ) -> Checked {
        let name = "invariant_culprits_are_the_newest";
        let (all, slot) = (refusal.culprits.as_slice(), refusal.machine);
        let facts = |what: &str| format!("{} at {}: {what}: {refusal:?}", txn.id, step.after.revision());
        let twice = (1..all.len()).find(|&at| all[..at].iter().any(|other| is_same(other, &all[at])));
        hold(twice.is_none(), name, || facts("somebody is named twice"))?;
        let Some(last) = all.last().filter(|_| is_of_what_is_taken(refusal.reason)) else { return Ok(()) };
        let here = step.before.allocations().filter(|found| found.row.machine == slot);
        let mut others = here.filter(|found| all.iter().all(|culprit| culprit.allocation != Some(found.id)));
        let left_out = others.find(|found| {
            let granted = self.granted.get(&found.id);
            granted.is_some_and(|granted| granted.at > last.revision && is_suspect(step, granted, txn, refusal))
        });
        let left_out = left_out.map(|found| (found.id, found.row.created));
        hold(left_out.is_none(), name, || facts(&format!("{left_out:?} is left out")))
    }

    fn is_true(&self, step: &Step<'_>, txn: &Transaction, refusal: &Refusal, culprit: &Culprit) -> bool {
        let of_what_is_taken = is_of_what_is_taken(refusal.reason);
        let Some(id) = culprit.allocation else {
            let happened = self.happened.is_true(step, txn, refusal, culprit);
            return happened && (!of_what_is_taken || self.event_took(step, txn, refusal, culprit));
        };
        let Some(granted) = self.granted.get(&id) else { return false };
        let there = granted.machine == refusal.machine && step.before.allocation(id).is_some();
        let took = !of_what_is_taken || (there && took(step.before, granted, txn, refusal, culprit.amount));
        let took = took
            && match refusal.reason {
                RefusalReason::TaskTaken => is_of_task(step, refusal, id),
                RefusalReason::MachineChanged => {
                    let by_others = granted.transaction.session != txn.id.session;
                    by_others && granted.machine == refusal.machine && txn.check == ConflictCheck::Sequence
                }
                RefusalReason::PerMachineLimit => granted.machine == refusal.machine,
                RefusalReason::SpreadLimit => {
                    let of = |found: AllocationRef<'_>| (found.row.job(), found.row.group);
                    step.before.allocation(id).map(of) == Some((refusal.job, refusal.group))
                }
                _ => true,
            };
        granted.at == culprit.revision && culprit.transaction == Some(granted.transaction) && took
    }

    /// Whether an event took so much of a device, that port, or room that is still held or occupied, or that the machine lost; an unknown task, if one
    /// that is there has it. How much of its devices a machine lost is not told: as much as is short, or is wanted of a device.
    fn event_took(&self, step: &Step<'_>, txn: &Transaction, refusal: &Refusal, culprit: &Culprit) -> bool {
        let slot = refusal.machine;
        let here = self.happened.was_to_machine(culprit, slot);
        let unknown = || step.before.unknown_on(slot).map(|(_, task)| &task.traces);
        let by_unknown = here && &*culprit.event == "unknown task";
        match refusal.reason {
            RefusalReason::DeviceTaken if by_unknown => {
                unknown().any(|traces| is_of_devices(step.before, &traces.devices, txn, refusal, culprit.amount))
            }
            RefusalReason::DeviceTaken => {
                let lost = here && self.happened.took_devices_off(culprit.revision, slot);
                lost && match short_by(refusal) {
                    // Of a device that is there, and is of another model since, nothing is short: all that is wanted of it is lost.
                    Some(0) => declares(step.before, refusal, culprit.amount),
                    short_by => Some(culprit.amount) == short_by,
                }
            }
            RefusalReason::PortTaken => {
                let mut ports = unknown().flat_map(|traces| &traces.ports);
                by_unknown && culprit.amount == 1 && ports.any(|port| is_meant(refusal, port.number))
            }
            RefusalReason::NoRoom => match &*culprit.event {
                word @ ("hold" | "unknown task") => here && is_still_taken(step, refusal, word),
                _ => refusal.short.is_some_and(|(resource, _)| {
                    let shrank = self.happened.shrank(culprit.revision, slot, resource);
                    (1..=shrank).contains(&culprit.amount)
                }),
            },
            _ => true,
        }
    }
}

/// Whether others hold, or tasks that the cell does not know have, as much of what is short as all that is listed of the kind together: several may
/// have come, each of which is named with what is left of it, and what is over is in nobody's way.
fn is_still_taken(step: &Step<'_>, refusal: &Refusal, word: &str) -> bool {
    let (Some((resource, _)), slot) = (refusal.short, refusal.machine) else { return false };
    let listed = refusal.culprits.iter().filter(|one| one.allocation.is_none() && &*one.event == word);
    let listed: u64 = listed.map(|one| one.amount).sum();
    let there: u64 = if word == "hold" {
        let holders = step.before.held_by(slot).iter().filter(|holder| **holder != refusal.job);
        holders.filter_map(|&holder| step.before.hold(holder)).map(|hold| hold.resources.get(resource)).sum()
    } else {
        step.before.unknown_on(slot).map(|(_, task)| task.traces.resources.get(resource)).sum()
    };
    there >= listed
}

/// What is short was there and is taken, by somebody and so much: of other reasons only the last command is known.
fn is_of_what_is_taken(reason: RefusalReason) -> bool {
    matches!(reason, RefusalReason::NoRoom | RefusalReason::DeviceTaken | RefusalReason::PortTaken)
}

/// How much was short, in the unit of its culprits: a port counts as 1.
fn short_by(refusal: &Refusal) -> Option<u64> {
    match refusal.reason {
        RefusalReason::NoRoom => refusal.short.map(|(_, short_by)| short_by),
        RefusalReason::DeviceTaken => refusal.short_device.as_ref().map(|(_, short_by)| *short_by),
        RefusalReason::PortTaken => refusal.port.map(|_| 1),
        _ => None,
    }
}

/// Whether a claim's group declares a device of the kind that was short with so much of it.
fn declares(before: &Cell, refusal: &Refusal, amount: u64) -> bool {
    let devices = standing::declared(before, refusal.job, refusal.group).into_iter().flat_map(|group| &group.devices);
    let is_short = |device: &Device| refusal.short_device.as_ref().is_some_and(|(kind, _)| *kind == device.kind);
    devices.filter(|device| is_short(device)).any(|device| u64::from(device.millis) == amount)
}

/// Whether a grant got so much of what was short.
fn took(before: &Cell, granted: &Granted, txn: &Transaction, refusal: &Refusal, amount: u64) -> bool {
    match refusal.reason {
        RefusalReason::NoRoom => {
            refusal.short.is_some_and(|(resource, _)| amount > 0 && amount <= granted.resources.get(resource))
        }
        RefusalReason::DeviceTaken => is_of_devices(before, &granted.devices, txn, refusal, amount),
        RefusalReason::PortTaken => amount == 1 && granted.ports.iter().any(|&port| is_meant(refusal, port)),
        _ => true,
    }
}

/// Of unknown tasks and holds several may have come together.
fn is_same(one: &Culprit, other: &Culprit) -> bool {
    let of_many = one.allocation.is_none() && matches!(&*one.event, "unknown task" | "hold");
    !of_many && (one.allocation, one.revision, &one.event) == (other.allocation, other.revision, &other.event)
}

/// Whether a grant took some of what was short. Of devices only where any of that kind would have done, and no loss of the machine is to blame.
fn is_suspect(step: &Step<'_>, granted: &Granted, txn: &Transaction, refusal: &Refusal) -> bool {
    match refusal.reason {
        RefusalReason::NoRoom => refusal.short.is_some_and(|(resource, _)| granted.resources.get(resource) > 0),
        RefusalReason::PortTaken => granted.ports.iter().any(|port| match refusal.port {
            Some(0) => DYNAMIC_PORTS.contains(port),
            meant => meant == Some(*port),
        }),
        RefusalReason::DeviceTaken => {
            let Some((kind, _)) = &refusal.short_device else { return false };
            let named = asked(txn, refusal).and_then(|(placement, claim)| placement.extras.get(claim));
            let is_named = named.is_some_and(|extra| !extra.devices.is_empty());
            let group = standing::declared(step.before, refusal.job, refusal.group);
            let of_model = group.is_none_or(|group| group.devices.iter().any(|device| !device.model.is_empty()));
            let lost = refusal.culprits.iter().any(|culprit| culprit.allocation.is_none());
            let has = granted.devices.iter().any(|device| device.kind == *kind && device.millis > 0);
            has && !is_named && !of_model && !lost
        }
        _ => false,
    }
}

/// Port 0 is any: none was left.
fn is_meant(refusal: &Refusal, port: u16) -> bool {
    refusal.port.is_some_and(|asked| asked == 0 || asked == port)
}

/// Whether this is how much of these devices is of the kind that was short, or of a model of it that the claim's group declares, or of the very one that
/// the claim named. Which model a device is of, its machine says.
fn is_of_devices(before: &Cell, devices: &[Device], txn: &Transaction, refusal: &Refusal, amount: u64) -> bool {
    let Some((kind, _)) = &refusal.short_device else { return false };
    let known = before.machine_in(refusal.machine).map(|machine| machine.devices.as_slice()).unwrap_or_default();
    let is_of = |device: &Device, model: &str| {
        let there = known.iter().find(|known| known.kind == device.kind && known.index == device.index);
        *there.unwrap_or(device).model == *model
    };
    let sum = |is_meant: &dyn Fn(&Device) -> bool| -> u64 {
        let meant = devices.iter().filter(|device| device.kind == *kind && is_meant(device));
        meant.map(|device| u64::from(device.millis)).sum()
    };
    let named = asked(txn, refusal).and_then(|(placement, claim)| placement.extras.get(claim));
    let named = named.map_or(&[][..], |extra| &extra.devices);
    let group = standing::declared(before, refusal.job, refusal.group);
    let mut models = group.into_iter().flat_map(|group| &group.devices).map(|device| &*device.model);
    let of_model = models.any(|model| !model.is_empty() && sum(&|device| is_of(device, model)) == amount);
    let any = named.is_empty() && (of_model || sum(&|_| true) == amount);
    let mut of_kind = named.iter().filter(|device| device.kind == *kind);
    amount > 0 && (any || of_kind.any(|named| sum(&|device| device.index == named.index) == amount))
}

/// Whether that allocation is of the task that was claimed.
fn is_of_task(step: &Step<'_>, refusal: &Refusal, id: AllocationId) -> bool {
    let Refusal { job, group, task, .. } = *refusal;
    step.before
        .allocation(id)
        .is_some_and(|found| (found.row.job(), found.row.group, found.row.task) == (job, group, task))
}

fn asked<'a>(txn: &'a Transaction, refusal: &Refusal) -> Option<(&'a Placement, usize)> {
    let (placement, claim) = refusal.claim?;
    Some((txn.placements.get(placement as usize)?, claim as usize))
}

/// A claim that lost its room, its devices or a port had it at the base; one that never fitted had not. Looked at where nothing else of the
/// transaction touches that machine: nor frees what the job of another placement holds there, which ends when that is granted anything.
pub(super) fn invariant_conflict_fitted_at_the_base_and_misfit_did_not(
    base: &Cell,
    now: &Cell,
    txn: &Transaction,
    refusal: &Refusal,
) -> Checked {
    let name = "invariant_conflict_fitted_at_the_base_and_misfit_did_not";
    let Some((asked, claim)) = asked(txn, refusal) else { return Ok(()) };
    // Also where an earlier claim may have found its room when it had none on its own machine.
    let named = txn.placements.iter().flat_map(|placement| placement.machines.iter().chain(&placement.alternates));
    let on_it = named.filter(|&&slot| slot == refusal.machine);
    let holders = now.held_by(refusal.machine);
    let frees = txn.placements.iter().any(|other| other.job != asked.job && holders.contains(&other.job));
    let alone = on_it.count() == 1 && txn.stops.is_empty() && !frees;
    let plain = asked.extras.is_empty() && asked.preemptions.is_empty() && asked.alternates.is_empty();
    if !alone || !plain || refusal.kind == RefusalKind::Stale {
        return Ok(());
    }
    let Some(job) = base.job(asked.job) else { return Ok(()) };
    let Some(shape) = job.shape.groups.get(usize::from(asked.group)) else { return Ok(()) };
    let fitted = match refusal.reason {
        // Of another version it may be another need.
        RefusalReason::NoRoom if job.version == asked.job_version => {
            Some(base.room_for(refusal.machine, asked.job).shortage(&shape.resources).is_none())
        }
        RefusalReason::DeviceTaken if job.version == asked.job_version => {
            same_machine(base, now, refusal).map(|machine| had_devices(base, machine, shape))
        }
        RefusalReason::PortTaken => {
            let port = refusal.port.filter(|&port| port > 0 && same_machine(base, now, refusal).is_some());
            port.map(|port| !base.in_use(refusal.machine).is_some_and(|used| used.has_port(port)))
        }
        _ => None,
    };
    let Some(fitted) = fitted else { return Ok(()) };
    hold(fitted == (refusal.kind == RefusalKind::Conflict), name, || {
        let room = base.room(refusal.machine);
        format!("{} claim {claim} on base {}: room there was {room:?}, {refusal:?}", txn.id, txn.base)
    })
}

/// The machine, where its devices are now what they were at the base, and no unknown task is or was there: what there was of others,
/// the core takes for granted to have been enough.
fn same_machine<'a>(base: &'a Cell, now: &Cell, refusal: &Refusal) -> Option<&'a Machine> {
    let slot = refusal.machine;
    let (before, after) = (base.machine_in(slot)?, now.machine_in(slot)?);
    let same = before.id == after.id && before.devices == after.devices;
    let known = [base, now].into_iter().all(|cell| cell.unknown_on(slot).next().is_none());
    let by_grants = refusal.culprits.iter().all(|culprit| culprit.allocation.is_some());
    (same && known && by_grants).then_some(&**before)
}

/// Whether the base had the devices that a group declares.
fn had_devices(base: &Cell, machine: &Machine, shape: &GroupShape) -> bool {
    choose_devices(&mut device_rooms(base, machine), &shape.devices).is_ok()
}
