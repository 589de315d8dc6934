//! Which claims of a transaction went to spare machines, where its outcome does not tell: those that a core of up to version 32 decided.

use std::collections::BTreeMap;

use plenum_history::LoggedTransaction;
use plenum_model::{AllocationId, Delta};
use plenum_proto::v1;

use crate::api::failure::Failure;
use crate::api::past::ended::delta_of;

/// Has the outcome say it by what the transaction changed.
pub(super) fn tell(asked: &v1::Transaction, found: &mut LoggedTransaction) -> Result<(), Failure> {
    // Most name no spare machine, and then nothing more is read of them.
    let has_spares = asked.placements.iter().any(|placement| !placement.alternates.is_empty());
    if !has_spares || found.outcome.placements.iter().any(|placement| !placement.elsewhere.is_empty()) {
        return Ok(());
    }
    let machines = machines_of(&delta_of(&found.entry)?);
    for (asked, told) in asked.placements.iter().zip(&mut found.outcome.placements) {
        let claims = (0..).zip(asked.machines.iter().zip(&told.allocations));
        let elsewhere = claims.filter_map(|(claim, (own, allocation))| {
            let machine = *machines.get(allocation).filter(|machine| *machine != own)?;
            Some(v1::GrantedElsewhere { claim, machine })
        });
        told.elsewhere = elsewhere.collect();
    }
    Ok(())
}

/// Where each allocation is that was granted, by its id.
fn machines_of(delta: &Delta) -> BTreeMap<u64, u32> {
    let columns = delta.grants.iter().map(|grants| (&grants.slots, &grants.generations, &grants.machines));
    let rows = columns.flat_map(|(slots, generations, machines)| slots.iter().zip(generations).zip(machines));
    rows.map(|((&slot, &generation), &machine)| (AllocationId { slot, generation }.to_bits(), machine)).collect()
}

#[cfg(test)]
mod tests {
    use plenum_model::{Grants, JobId, LogTime, Revision, SessionId};
    use plenum_proto::delta;

    use super::*;

    // Of what was decided before an upgrade it was said that each claim was on its own machine.
    #[test]
    fn where_claims_went_is_told_of_what_an_earlier_core_decided_too() {
        let mut changed = Delta::new(Revision(7), LogTime::from_micros(1));
        changed.grants.push(Grants {
            job: JobId { slot: 3, generation: 1 },
            job_version: 1,
            session: SessionId(5),
            number: 1,
            machines: vec![4, 9],
            tasks: vec![0, 2],
            slots: vec![20, 21],
            generations: vec![1, 3],
            ..Grants::default()
        });
        let id = |slot, generation| AllocationId { slot, generation }.to_bits();
        let told = |alternates: Vec<u32>, elsewhere: Vec<v1::GrantedElsewhere>| {
            let asked = v1::Placement { machines: vec![4, 5, 6], alternates, ..v1::Placement::default() };
            let asked = v1::Transaction { placements: vec![asked], ..v1::Transaction::default() };
            let allocations = vec![id(20, 1), 0, id(21, 3)];
            let answer = v1::PlacementOutcome { allocations, elsewhere, ..v1::PlacementOutcome::default() };
            let outcome = v1::Outcome { placements: vec![answer], ..v1::Outcome::default() };
            let mut bytes = Vec::new();
            delta::encode(&changed, &mut bytes);
            let entry = v1::LogEntry { delta: bytes.into(), ..v1::LogEntry::default() };
            let mut found = LoggedTransaction { revision: 7, time_micros: 1, outcome, entry };
            tell(&asked, &mut found).unwrap();
            found.outcome.placements.remove(0).elsewhere
        };
        assert_eq!(told(vec![9], vec![]), [v1::GrantedElsewhere { claim: 2, machine: 9 }]);
        assert_eq!(told(vec![], vec![]), [], "none was named, and nothing is read");
        let said = vec![v1::GrantedElsewhere { claim: 2, machine: 8 }];
        assert_eq!(told(vec![9], said.clone()), said, "as it was decided");
    }
}
