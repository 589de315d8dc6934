//! Machines for tasks that ask for more than room, which is known of one machine at a time: limits, spread, devices, ports.
//!
//! What a machine lacks it lacks for all tasks that follow, of this group and, where no limits are declared, of all with the same need:
//! nobody asks again. So a group costs as many questions as it has tasks, and one for each machine that says no.

use std::cell::RefCell;

use plenum_model::GroupCounts;
use plenum_policies::{Request, Suits, choose_asking};
use plenum_sdk::{View, Work};

use super::{Chosen, Need, Placer};
use crate::gpus::Books;

/// Most needs whose ruled-out machines are remembered: a bit for each machine.
const RULED_OUT_MAX: usize = 64;

impl Placer {
    /// Machines for the tasks of a group, booked: each is judged on what those before it took.
    pub(super) fn choose_one_by_one(
        &mut self,
        view: &View<'_>,
        work: &Work,
        request: &Request<'_>,
        need: &Need,
    ) -> Chosen {
        let limited = GroupCounts::are_needed_by(work.shape());
        let specials = self.pass.specials.get_or_insert_with(|| view.specials());
        if limited {
            specials.count(view.cell(), &work.job, work.group);
        }
        let mut ruled_out = self.pass.ruled_out.remove(need).unwrap_or_default();
        ruled_out.resize(view.cell().machine_rows().len().div_ceil(64) as usize, 0);
        let mut chosen = self.choose_by_gpus(view, work, request, &mut ruled_out);
        self.choose_by_room(view, work, request, &mut ruled_out, &mut chosen);
        if !limited {
            if self.pass.ruled_out.len() >= RULED_OUT_MAX {
                self.pass.ruled_out.clear();
            }
            self.pass.ruled_out.insert(need.clone(), ruled_out);
        }
        chosen
    }

    /// Machines for tasks that the policy for GPUs knows how to rank; none for others.
    fn choose_by_gpus(&mut self, view: &View<'_>, work: &Work, request: &Request<'_>, ruled_out: &mut [u64]) -> Chosen {
        let mut chosen = Chosen::default();
        let (Some(gpus), Some(specials)) = (&mut self.gpus, &mut self.pass.specials) else { return chosen };
        let Some(task) = gpus.task(work.shape()) else { return chosen };
        gpus.prepare(Books { cell: view.cell(), columns: &self.columns, specials });
        let mut judged = 0;
        for _ in &work.tasks {
            let obstructed = RefCell::new(Vec::new());
            let suits = |slot: u32| {
                let suits = specials.obstacle(view.cell(), work, slot).is_none();
                obstructed.borrow_mut().extend((!suits).then_some(slot));
                suits
            };
            let request = Request { suits: Some(Suits(&suits)), without: Some(ruled_out), ..*request };
            let books = Books { cell: view.cell(), columns: &self.columns, specials };
            let found = gpus.choose(books, &request, work, &task);
            let obstructed = obstructed.into_inner();
            judged += obstructed.len() + usize::from(found.is_some());
            obstructed.into_iter().for_each(|slot| rule_out(ruled_out, slot));
            let Some((machine, named)) = found else { break };
            specials.take_named(view.cell(), &work.job, work.group, machine, (&named, &[]));
            self.columns.take(machine, &work.shape().resources);
            gpus.put(Books { cell: view.cell(), columns: &self.columns, specials }, machine);
            if !named.is_empty() {
                chosen.named.push((chosen.machines.len(), named));
            }
            chosen.machines.push(machine);
        }
        self.count_judged(|| judged);
        chosen
    }

    /// Machines for the tasks that have none yet, by the room that is left there.
    fn choose_by_room(
        &mut self,
        view: &View<'_>,
        work: &Work,
        request: &Request<'_>,
        ruled_out: &mut [u64],
        chosen: &mut Chosen,
    ) {
        let Some(specials) = &mut self.pass.specials else { return };
        let count = u32::try_from(work.tasks.len() - chosen.machines.len()).unwrap_or(u32::MAX);
        let mut obstructed = Vec::new();
        let mut take = |slot: u32| {
            let suits = specials.obstacle(view.cell(), work, slot).is_none();
            if suits {
                specials.take(view.cell(), &work.job, work.group, slot);
            } else {
                obstructed.push(slot);
            }
            suits
        };
        let request = Request { without: Some(ruled_out), ..*request };
        let machines = choose_asking(&self.columns, &request, self.policy, count, &mut take);
        let judged = obstructed.len() + machines.len();
        obstructed.into_iter().for_each(|slot| rule_out(ruled_out, slot));
        for &machine in &machines {
            self.columns.take(machine, &work.shape().resources);
            if let Some(gpus) = self.gpus.as_mut().filter(|_| !work.shape().devices.is_empty()) {
                gpus.put(Books { cell: view.cell(), columns: &self.columns, specials }, machine);
            }
        }
        chosen.machines.extend(machines);
        self.count_judged(|| judged);
    }
}

fn rule_out(ruled_out: &mut [u64], slot: u32) {
    ruled_out.get_mut(slot as usize / 64).into_iter().for_each(|word| *word |= 1 << (slot % 64));
}
