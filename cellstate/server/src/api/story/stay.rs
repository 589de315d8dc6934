//! What happened to an allocation, a task's stay in a slot. Deltas speak of slots there: of one slot and of many, one after the other.

use plenum_history::{History, Logged};
use plenum_model::{AllocationId, Cell, Delta};
use plenum_proto::v1;

use super::super::failure::Failure;
use super::super::{ended, listing, moved, story};
use super::{Hero, Teller, why_it_ended, why_it_moved};

/// What there is to say of an allocation.
pub(in crate::api) enum Said {
    /// What happened to it; of one that is live that may be nothing.
    Story(v1::HistoryResponse),
    /// Nothing is known of it, and it may have all happened in what the history has not got yet.
    Behind,
    /// It ended before the oldest revision that is retained.
    Retired(u64),
    /// Its slot was never given so often.
    NeverWas,
}

/// The story of an allocation up to the cell's revision: its newest `limit` events.
pub(in crate::api) fn tell(history: &History, cell: &Cell, id: AllocationId, limit: usize) -> Result<Said, Failure> {
    let story = story::tell(history, cell, &Hero::Allocation(id), limit)?;
    if !story.events.is_empty() || cell.allocation(id).is_some() {
        return Ok(Said::Story(story));
    }
    if story.revision < cell.revision().0 {
        return Ok(Said::Behind);
    }
    Ok(ended::is_retired(history, cell, id).map_or(Said::NeverWas, Said::Retired))
}

impl Teller<'_> {
    pub(super) fn allocation(&mut self, id: AllocationId, logged: &Logged, delta: &Delta) -> Result<(), Failure> {
        // Backwards, a delta's grants come first: it ends before it grants.
        for grants in &delta.grants {
            let Some(position) = grants.slots.iter().position(|slot| *slot == id.slot) else { continue };
            let generation = grants.generations.get(position).copied().unwrap_or_default();
            if generation == id.generation {
                let machine = grants.machines.get(position).copied().unwrap_or_default();
                let task = grants.tasks.get(position).copied().unwrap_or_default();
                let (job, group) = self.names(grants.job, grants.group);
                let machine = self.machine_then(machine, delta.revision, delta.time.micros);
                let why = moved::reason(delta, id.slot).map_or_else(String::new, |reason| format!(": {reason}"));
                self.push(logged, "granted", format!("{job} {group}[{task}] on machine {machine}{why}"))?;
            }
            self.over = generation <= id.generation;
            self.tenant = generation.checked_sub(1);
        }
        if self.over || self.tenant != Some(id.generation) {
            return Ok(());
        }
        let mut moves: Vec<_> = delta.moves.iter().filter(|moved| moved.slot == id.slot).collect();
        if let Some(end) = delta.ends.iter().find(|end| end.slot == id.slot) {
            // That it stood where it stood says how often it was started again until its end, and no more.
            let restarts = moves.pop_if(|moved| moved.restarts > 0);
            let restarts = restarts.map_or_else(String::new, |moved| format!(", restarts {}", moved.restarts));
            let word = listing::allocation_word(v1::AllocationState::from(end.state).into());
            let reason = why_it_ended(end).map_or_else(String::new, |reason| format!(": {reason}"));
            self.push(logged, word, format!("exit code {}{restarts}{reason}", end.exit_code))?;
        }
        for moved in moves.iter().rev() {
            let word = listing::allocation_word(v1::AllocationState::from(moved.status.state).into());
            let mut facts = Vec::new();
            facts.extend(moved.status.ready.then(|| "ready".to_owned()));
            facts.extend((moved.restarts > 0).then(|| format!("restarts {}", moved.restarts)));
            facts.extend(why_it_moved(moved));
            self.push(logged, word, facts.join(", "))?;
        }
        Ok(())
    }
}
