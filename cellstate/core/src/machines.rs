//! Machines: registered, expired, cordoned, unfit and removed.

use std::collections::BTreeMap;
use std::sync::Arc;

use plenum_model::planted::{self, Bug};
use plenum_model::rare;
use plenum_model::{
    AllocationState, Attributes, BootId, Deadline, FoundMachine, LogTime, Machine, MachineId, MachineState, Rejection,
    RejectionCode, Revision, Unfit, counted, floor_of,
};

use crate::derived::Derived;
use crate::lifecycle::{Consequences, unreported};
use crate::{Core, Handled, Verdict, accepted};

impl Core {
    pub(crate) fn register_machine(&mut self, found: &FoundMachine, now: LogTime) -> Handled {
        let known = self.cell.machine_named(&found.name).cloned();
        self.may_have_attributes(known.as_deref(), &found.attributes)?;
        match known {
            None => self.register_new(found, now),
            Some(machine) => self.register_again(&machine, found, now),
        }
    }

    /// Whether machines may have these attributes, too. What this one alone has it leaves behind.
    fn may_have_attributes(&self, known: Option<&Machine>, attributes: &Attributes) -> Result<(), Rejection> {
        let most = self.options.classes_max;
        let class = known.and_then(|machine| self.cell.machine_row(machine.id.slot)).map(|row| row.class);
        let left = usize::from(class.is_some_and(|class| self.cell.machines_of(class) == 1));
        if self.cell.classes_in_use() - left < most || self.cell.has_class(attributes) {
            return Ok(());
        }
        let message = format!(
            "at most {most} different sets of attributes of machines at once; take out those that differ on every machine"
        );
        Err(Rejection::new(RejectionCode::LimitReached, message))
    }

    fn register_new(&mut self, found: &FoundMachine, now: LogTime) -> Handled {
        // What is new has no epoch that its agent could have missed.
        let FoundMachine { name, boot_id, capacity, attributes, devices, inventory, seen: _ } = found;
        let slot = self.derived.machine_slots.next();
        if slot >= self.options.machines_max {
            let message = format!("at most {} machines in the cell; remove some", self.options.machines_max);
            return Err(Rejection::new(RejectionCode::LimitReached, message));
        }
        let before = self.cell.machine_slots().get(slot).map_or(0, |slot| slot.generation);
        let generation = self.generation_after(before);
        let mut delta = self.draft(now);
        let machine = Machine {
            id: MachineId { slot, generation },
            name: name.clone(),
            state: MachineState::Ready,
            cordoned: false,
            unfit: None,
            epoch: self.generation_after(0),
            capacity: Arc::new(*capacity),
            attributes: attributes.clone(),
            devices: Arc::new(devices.clone()),
            boot_id: boot_id.as_ref().into(),
            since: now,
            drain_deadline: None,
            registered: now,
            epoch_began: delta.revision,
        };
        let answer = accepted(machine.id.to_bits(), machine.epoch);
        self.sort_out_unknown(&machine, inventory, true, &mut delta)?;
        delta.machines.push(Arc::new(machine));
        Ok(Verdict::Change(answer, delta))
    }

    /// Its agent is back. After a restart of the agent alone the epoch goes on; after an expired lease, a reboot, or a restore of the cell
    /// a new one begins.
    fn register_again(&mut self, machine: &Arc<Machine>, found: &FoundMachine, now: LogTime) -> Handled {
        self.is_of_this_epoch(machine, found)?;
        let rebooted = machine.boot_id != BootId::from(found.boot_id.as_ref());
        let expired = machine.state == MachineState::Unreachable;
        let mut delta = self.draft(now);
        let mut next = Machine {
            capacity: Arc::new(found.capacity),
            attributes: found.attributes.clone(),
            devices: Arc::new(found.devices.clone()),
            boot_id: found.boot_id.as_ref().into(),
            ..(**machine).clone()
        };
        let restored = machine.epoch <= floor_of(self.cell.identity().incarnation);
        if rebooted || expired || restored {
            next.epoch = self.generation_after(machine.epoch);
            next.epoch_began = delta.revision;
        }
        if expired {
            (next.state, next.since) = (state_of_reachable(&next), now);
        }
        let answer = accepted(next.id.to_bits(), next.epoch);
        if rebooted && !restored {
            self.forget_unknown(machine.id.slot, &mut delta);
        } else {
            // A restored cell may have forgotten the boot, and what was placed after it.
            let fresh = rebooted || found.seen >= machine.epoch_began;
            self.sort_out_unknown(machine, &found.inventory, fresh, &mut delta)?;
        }
        if next == **machine {
            rare!("an agent comes back in its epoch");
            if delta.unknown.is_empty() {
                return Ok(Verdict::Answer(answer));
            }
        } else {
            delta.machines.push(Arc::new(next));
        }
        let Derived { marks, tenants, ring, .. } = &mut self.derived;
        let mut consequences = Consequences::new(&self.cell, marks, delta, self.options.stops_max);
        if planted::is(Bug::EvictsByChangedAttributes) && !rebooted && found.attributes != machine.attributes {
            let active = tenants.active_on(&self.cell, ring, machine.id.slot);
            active.into_iter().for_each(|slot| consequences.stop(slot, "its machine has other attributes"));
        }
        if rebooted {
            consequences.booted = true;
            let inventory: BTreeMap<_, _> = found.inventory.iter().map(|item| (item.allocation, item)).collect();
            for slot in tenants.live_on(&self.cell, ring, machine.id.slot) {
                let allocation = self.cell.allocation_in(slot);
                let told = allocation.and_then(|lost| Some((inventory.get(&lost.id)?, unreported(&lost))));
                if let Some((item, known)) = told {
                    consequences.count_restarts(slot, known, item.restarts, false);
                }
                match told.filter(|(item, _)| item.state.is_end()) {
                    Some((item, _)) => {
                        rare!("a receipt comes with the registration after a boot");
                        let reason = (!item.reason.is_empty()).then(|| item.reason.clone());
                        consequences.end(slot, item.state, item.exit_code, reason);
                    }
                    None => consequences.end(slot, AllocationState::EndedLost, 0, Some("the machine rebooted".into())),
                }
            }
        }
        Ok(Verdict::Change(answer, consequences.conclude(|machine| tenants.live_on(&self.cell, ring, machine))))
    }

    /// A registration that was sent before the present epoch began comes too late: from before a boot, it would tell that nothing runs
    /// there. An agent that is alive hears of that, and registers again with what it heard. One that says nothing of what it has heard
    /// is believed, unless it says that the machine booted.
    fn is_of_this_epoch(&self, machine: &Machine, found: &FoundMachine) -> Result<(), Rejection> {
        let silent = found.seen == Revision(0) && machine.boot_id == BootId::from(found.boot_id.as_ref());
        if found.seen >= machine.epoch_began || silent {
            return Ok(());
        }
        let message = format!(
            "{} began its epoch at revision {}, and this agent has heard of {} only; register again with what it heard now",
            machine.name, machine.epoch_began, found.seen
        );
        Err(Rejection::new(RejectionCode::StaleEpoch, message))
    }

    pub(crate) fn known(&self, id: MachineId) -> Result<Arc<Machine>, Rejection> {
        let unknown = || Rejection::new(RejectionCode::NoSuchMachine, format!("{id} was removed, or never registered"));
        self.cell.machine(id).cloned().ok_or_else(unknown)
    }

    pub(crate) fn expire_machine(&mut self, id: MachineId, epoch: u32, now: LogTime) -> Handled {
        let machine = self.known(id)?;
        if machine.epoch != epoch {
            let message = format!("{} is in epoch {}, and epoch {epoch} was to expire", machine.name, machine.epoch);
            return Err(Rejection::new(RejectionCode::StaleEpoch, message));
        }
        let answer = accepted(id.to_bits(), epoch);
        if machine.state == MachineState::Unreachable {
            return Ok(Verdict::Answer(answer));
        }
        if planted::is(Bug::FreesAtExpiry) {
            return self.remove_machine(id, false, now);
        }
        let mut delta = self.draft(now);
        let next = Machine { state: MachineState::Unreachable, since: now, ..(*machine).clone() };
        delta.machines.push(Arc::new(next));
        Ok(Verdict::Change(answer, delta))
    }

    pub(crate) fn cordon_machine(&mut self, id: MachineId, cordoned: bool, now: LogTime) -> Handled {
        let machine = self.known(id)?;
        let answer = accepted(id.to_bits(), machine.epoch);
        if machine.cordoned == cordoned {
            return Ok(Verdict::Answer(answer));
        }
        let mut delta = self.draft(now);
        delta.machines.push(restated(Machine { cordoned, ..(*machine).clone() }, now));
        Ok(Verdict::Change(answer, delta))
    }

    /// Its agent wants no new claims there, or wants them again. One that counts as away is heard when it is back.
    pub(crate) fn report_fitness(&mut self, id: MachineId, epoch: u32, unfit: Option<Unfit>, now: LogTime) -> Handled {
        let machine = self.known(id)?;
        if machine.epoch != epoch || machine.state == MachineState::Unreachable {
            let name = &machine.name;
            let message = format!(
                "{name} is in epoch {}, {}; its agent reports of epoch {epoch}",
                machine.epoch,
                machine.state.word()
            );
            return Err(Rejection::new(RejectionCode::StaleEpoch, message));
        }
        let answer = accepted(id.to_bits(), epoch);
        if machine.unfit == unfit {
            return Ok(Verdict::Answer(answer));
        }
        let mut delta = self.draft(now);
        delta.machines.push(restated(Machine { unfit, ..(*machine).clone() }, now));
        Ok(Verdict::Change(answer, delta))
    }

    /// Moves everything away by a deadline, or ends that. Meanwhile nothing new is granted there, and schedulers may replace what it runs;
    /// at the deadline a tick stops the rest, also what the cell does not know. A machine that is away is drained when it is back, and what it runs may be lost before.
    pub(crate) fn drain_machine(&mut self, id: MachineId, deadline: Option<LogTime>, now: LogTime) -> Handled {
        let machine = self.known(id)?;
        let answer = accepted(id.to_bits(), machine.epoch);
        let deadline = deadline.and_then(Deadline::new);
        if machine.drain_deadline == deadline {
            return Ok(Verdict::Answer(answer));
        }
        let mut delta = self.draft(now);
        delta.machines.push(restated(Machine { drain_deadline: deadline, ..(*machine).clone() }, now));
        Ok(Verdict::Change(answer, delta))
    }

    /// Takes a machine out of the cell. What it ran is lost, and its room with it: it would be placed elsewhere while it still runs there,
    /// as long as its agent is there.
    pub(crate) fn remove_machine(&mut self, id: MachineId, unless_alive: bool, now: LogTime) -> Handled {
        let machine = self.known(id)?;
        let runs = self.cell.machine_row(id.slot).map_or(0, |row| u64::from(row.allocations));
        let unknown = self.cell.unknown_on(id.slot).count() as u64;
        let is_there = matches!(machine.state, MachineState::Ready | MachineState::Draining | MachineState::Cordoned);
        if unless_alive && is_there && runs + unknown > 0 {
            let tasks = counted(runs + unknown, "task");
            let message = format!(
                "the agent of {name} renews its lease, or did a moment ago, and {name} runs {tasks}: that would count as lost at once, \
                 and run twice; drain {name} and then stop its agent, or stop the agent and wait until {name} is unreachable (`--force` \
                 removes it all the same, and an agent that runs brings it back as a new machine)",
                name = machine.name
            );
            return Err(Rejection::new(RejectionCode::MachineAlive, message));
        }
        let mut delta = self.draft(now);
        let gone = Machine { state: MachineState::Gone, capacity: Arc::default(), since: now, ..(*machine).clone() };
        delta.machines.push(Arc::new(gone));
        self.forget_unknown(id.slot, &mut delta);
        let Derived { marks, tenants, ring, homes, .. } = &mut self.derived;
        let mut consequences = Consequences::new(&self.cell, marks, delta, self.options.stops_max);
        for slot in tenants.live_on(&self.cell, ring, id.slot) {
            consequences.end(slot, AllocationState::EndedLost, 0, Some("the machine was removed".into()));
        }
        // Also of those jobs that run nothing just now.
        homes.on(id.slot).for_each(|job| consequences.lose_home_of(job));
        Ok(Verdict::Change(
            accepted(id.to_bits(), machine.epoch),
            consequences.conclude(|machine| tenants.live_on(&self.cell, ring, machine)),
        ))
    }
}

/// A machine that stands where what is wanted of it says. One that is away stays so: what is wanted is kept for later.
fn restated(machine: Machine, now: LogTime) -> Arc<Machine> {
    let state = match machine.state {
        MachineState::Ready | MachineState::Cordoned | MachineState::Draining => state_of_reachable(&machine),
        away @ (MachineState::Unreachable | MachineState::Gone) => away,
    };
    let since = if state == machine.state { machine.since } else { now };
    Arc::new(Machine { state, since, ..machine })
}

/// Where a machine stands whose agent is there.
fn state_of_reachable(machine: &Machine) -> MachineState {
    match (machine.drain_deadline, machine.cordoned || machine.unfit.is_some()) {
        (Some(_), _) => MachineState::Draining,
        (None, true) => MachineState::Cordoned,
        (None, false) => MachineState::Ready,
    }
}
