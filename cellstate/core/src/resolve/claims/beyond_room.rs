//! Claims that ask for more than free room: devices, ports, room of those who leave.

use std::rc::Rc;

use plenum_model::planted::{self, Bug};
use plenum_model::{
    DYNAMIC_PORTS, Device, DeviceRoom, GrantExtra, Obstacle, Port, PortChoice, RefusalKind, RefusalReason, Requirement,
    Room, Spoken, Transaction, choose_lent, device_rooms, names_what_is_declared,
};

use super::{Claim, Terms};
use crate::blame::Trouble;
use crate::resolve::Resolver;
use crate::resolve::preempt::{HandOff, find_from, named};

/// How many ports further a session's next transaction begins to choose: the range over the golden ratio, and without a divisor in common with it. One further,
/// and all ports of a transaction but the first were the next one's, minutes or milliseconds after they were given back. So any number of transactions in
/// a row begin about as far apart as that many can: those that take 16 ports each come upon the first one's again after 741 of them, of at most 750.
const PORT_STRIDE: u64 = 7417;
const _: () = assert!(DYNAMIC_PORTS.end - DYNAMIC_PORTS.start == 12_000, "the stride is of this range");

/// A special claim that can be granted.
pub(super) struct Judged {
    pub(super) extra: GrantExtra,
    /// Its devices, without what it takes over.
    pub(super) own_devices: Vec<Device>,
    /// Slots of those who are evicted for it.
    pub(super) victims: Vec<u32>,
}

impl Resolver<'_> {
    /// A claim that asks for more than free room: devices, ports, limits, or room of those who leave.
    pub(super) fn special_claim(
        &self,
        txn: &Transaction,
        terms: &Terms<'_>,
        asked: Claim<'_>,
        requirement: &Requirement<'_>,
        room: Option<Obstacle>,
    ) -> Result<Judged, Trouble> {
        let machine = asked.machine;
        if let Some(obstacle) = requirement.limit_obstacle(self.cell, machine, &Spoken::default()) {
            return Err(Trouble::Machine(obstacle));
        }
        let names_other =
            asked.extra.is_some_and(|extra| !names_what_is_declared(terms.shape, &extra.devices, &extra.ports));
        if names_other {
            return Err(Trouble::Never(RefusalKind::Misfit, RefusalReason::ResourcesDiffer));
        }
        let victims = terms.victims_on(machine);
        let named = named(asked.extra);
        let heirs = if named.is_empty() && victims.is_empty() {
            Rc::default()
        } else {
            self.hindsight.heirs(self.cell, machine)
        };
        let promises = (&*self.promised, &*heirs, &self.remains);
        let mut hand_off = HandOff::new(self.cell, promises, terms.job, machine, named, victims);
        if room.is_some() {
            let mut free = self.free_room(terms.job.id, machine);
            free.take(&self.promised.on(machine).0);
            // What is short is what those who leave don't have either.
            let lacking = hand_off.take_room(&free, &terms.need);
            if let Some(short) = Room::default().shortage(&lacking) {
                return Err(Trouble::Machine(Obstacle::NoRoom(short)));
            }
        }
        let (devices, own_devices) = self.devices(terms, asked, &mut hand_off)?;
        let ports = self.ports(txn, terms, asked, &mut hand_off)?;
        let (takes_over, victims) = hand_off.conclude();
        Ok(Judged { extra: GrantExtra { claim: 0, devices, ports, takes_over }, own_devices, victims })
    }

    /// The devices that a claim gets, and which of them are not taken over.
    fn devices(
        &self,
        terms: &Terms<'_>,
        asked: Claim<'_>,
        hand_off: &mut HandOff<'_>,
    ) -> Result<(Vec<Device>, Vec<Device>), Trouble> {
        let declared = &terms.shape.devices;
        let machine = if declared.is_empty() { None } else { self.cell.machine_in(asked.machine) };
        let Some(machine) = machine else { return Ok((Vec::new(), Vec::new())) };
        let mut free = device_rooms(self.cell, machine);
        crate::planted_bugs::overlook_tenants(&mut free, machine);
        // Of a device that has less than it lent, nothing is given until its tenants have gone.
        free.retain(|room| room.free_millis >= 0);
        let mut at = 0;
        for device in self.promised.specials.devices(asked.machine) {
            let place = find_from(&free, &mut at, |room| room.is(device));
            place.into_iter().for_each(|place| free[place].free_millis -= i64::from(device.millis));
        }
        let named = asked.extra.map(|extra| extra.devices.as_slice()).filter(|named| !named.is_empty());
        let chosen = match named {
            Some(named) => take_named(&free, named, declared, hand_off),
            None => choose_lent(
                &free,
                declared,
                |source, rooms| hand_off.lend_devices(source, rooms),
                |source| hand_off.stays(source),
            ),
        };
        let (chosen, lenders) = chosen
            .map_err(|position| Trouble::Machine(Obstacle::Device(u16::try_from(position).unwrap_or(u16::MAX))))?;
        let own = hand_off.take_devices(&chosen, &free, &lenders);
        Ok((chosen, own))
    }

    /// Whether a claim would get its devices, if also those went whom its scheduler named there and may not evict.
    pub(super) fn would_get_devices(&self, terms: &Terms<'_>, asked: Claim<'_>) -> bool {
        let victims = [terms.victims_on(asked.machine), terms.spared_on(asked.machine)].concat();
        let heirs = self.hindsight.heirs(self.cell, asked.machine);
        let promises = (&*self.promised, &*heirs, &self.remains);
        let named = named(asked.extra);
        let mut hand_off = HandOff::new(self.cell, promises, terms.job, asked.machine, named, &victims);
        self.devices(terms, asked, &mut hand_off).is_ok()
    }

    /// The ports that a claim gets: fixed ones, those that it names, and dynamic ones, chosen here.
    fn ports(
        &self,
        txn: &Transaction,
        terms: &Terms<'_>,
        asked: Claim<'_>,
        hand_off: &mut HandOff<'_>,
    ) -> Result<Vec<Port>, Trouble> {
        let (used, spoken) = (self.cell.in_use(asked.machine), self.promised.specials.ports(asked.machine));
        let mut choice = PortChoice::new(used, spoken);
        // A port that was given back rests: each transaction begins far from those before it. And each machine, as some share a network.
        let hint = txn.id.session.0.wrapping_mul(0x9e37_79b9);
        let hint = hint.wrapping_add(txn.id.number.wrapping_mul(PORT_STRIDE));
        let hint = hint.wrapping_add(u64::from(asked.machine).wrapping_mul(0x85eb_ca6b));
        // And each task goes on where the last one's port was found, so that hardly any is looked at twice.
        let hint = hint.wrapping_add(choice.spoken_count() as u64);
        let named = |declared: &Port| {
            let named = asked.extra.into_iter().flat_map(|extra| &extra.ports).find(|port| port.name == declared.name);
            if declared.number > 0 { declared.number } else { named.map_or(0, |port| port.number) }
        };
        let mut ports: Vec<Port> = terms.shape.ports.clone();
        ports.iter_mut().for_each(|port| port.number = named(port));
        // Those that have a number come first: else what this very task wants could be chosen for another port of it.
        for wanted in ports.iter().map(|port| port.number).filter(|&wanted| wanted > 0) {
            let free = match choice.users(wanted) {
                0 => true,
                1 => hand_off.take_port(wanted),
                // Whoever leaves has it, and a task that the cell does not know, or a successor: somebody listens on.
                _ => false,
            };
            if (choice.is_spoken(wanted) || !free) && !planted::is(Bug::OverlooksPorts) {
                return Err(Trouble::Machine(Obstacle::Port(wanted)));
            }
            choice.take(wanted);
        }
        for (position, port) in (0..).zip(&mut ports).filter(|(_, port)| port.number == 0) {
            port.number = choice.choose(hint.wrapping_add(position)).ok_or(Trouble::Machine(Obstacle::Port(0)))?;
            choice.take(port.number);
        }
        Ok(ports)
    }
}

/// The very devices that a claim names, with what the first of those who leave lend of them: no more of these than needed. And who lends.
fn take_named(
    free: &[DeviceRoom],
    named: &[Device],
    declared: &[Device],
    hand_off: &HandOff<'_>,
) -> Result<(Vec<Device>, Vec<usize>), usize> {
    let mut rooms = free.to_vec();
    let mut taken = Vec::with_capacity(named.len());
    let (mut lenders, mut at) = (Vec::new(), 0);
    for (position, device) in named.iter().enumerate() {
        let models = [&device.model, declared.get(position).map_or(&device.model, |declared| &declared.model)];
        let is_of = |room: &DeviceRoom| models.iter().all(|model| model.is_empty() || **model == room.model);
        let place = find_from(&rooms, &mut at, |room| room.is(device)).filter(|&place| is_of(&rooms[place]));
        let place = place.ok_or(position)?;
        while rooms[place].free_millis < device.millis.into() {
            if !hand_off.lend_devices(lenders.len(), &mut rooms) {
                return Err(position);
            }
            lenders.push(lenders.len());
        }
        rooms[place].free_millis -= i64::from(device.millis);
        taken.push(Device { model: rooms[place].model.clone(), ..device.clone() });
    }
    Ok((taken, lenders))
}
