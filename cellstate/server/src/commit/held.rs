//! What answers hold in memory that stands in no batch: counted wherever they wait.

use plenum_model::{Decision, Outcome, Port, Refusal};

use super::Answer;

/// Bytes that such an answer holds, and no less than it comes to when it is encoded: the outcome of a dry run is as large as that of a transaction.
/// Rejections are short, and what was decided is counted with its batch.
pub(super) fn held_bytes(answer: &Answer) -> usize {
    match answer {
        Answer::Unchanged(Decision::Outcome(outcome)) => outcome_bytes(outcome),
        Answer::Unchanged(_) | Answer::Changed(_) | Answer::Repeated(_) => 0,
    }
}

/// The same of an outcome.
pub(crate) fn outcome_bytes(outcome: &Outcome) -> usize {
    let claims = outcome.placements.iter().map(|placement| size_of_val(placement) + size_of_val(&**placement));
    let ports = outcome.ports.iter().map(|granted| {
        let names = granted.ports.iter().map(|port| port.name.len());
        size_of_val(granted) + granted.ports.len() * size_of::<Port>() + names.sum::<usize>()
    });
    let positions = size_of_val(&*outcome.idle_stops) + size_of_val(&*outcome.divergences);
    let machines = size_of_val(&*outcome.elsewhere) + size_of_val(&*outcome.evicted);
    let refusals = outcome.refusals.iter().map(refusal_bytes);
    size_of::<Outcome>() + claims.sum::<usize>() + ports.sum::<usize>() + machines + positions + refusals.sum::<usize>()
}

/// Names are shared in memory; encoded, each stands for itself.
fn refusal_bytes(refusal: &Refusal) -> usize {
    let names = refusal.culprits.iter().map(|culprit| culprit.scheduler.len() + culprit.event.len());
    let device = refusal.short_device.as_ref().map_or(0, |(kind, _)| kind.len());
    size_of::<Refusal>() + size_of_val(&*refusal.culprits) + names.sum::<usize>() + device
}

#[cfg(test)]
mod tests {
    use super::*;
    use plenum_model::{
        AllocationId, Culprit, GrantedElsewhere, GrantedPorts, LogTime, RefusalKind, RefusalReason, Revision,
        TransactionId,
    };
    use prost::Message;

    /// With the largest numbers and long names.
    fn refusal() -> Refusal {
        let allocation = AllocationId { slot: u32::MAX >> 6, generation: u32::MAX };
        let culprit = Culprit {
            revision: Revision(u64::MAX),
            transaction: Some(TransactionId { session: plenum_model::SessionId(u64::MAX), number: u64::MAX }),
            scheduler: "x".repeat(255).into(),
            event: "registered".into(),
            amount: u64::MAX,
            allocation: Some(allocation),
        };
        Refusal {
            kind: RefusalKind::Conflict,
            reason: RefusalReason::NoRoom,
            claim: Some((u32::MAX, u32::MAX)),
            job: plenum_model::JobId { slot: u32::MAX >> 6, generation: u32::MAX },
            group: u16::MAX,
            task: u32::MAX,
            machine: u32::MAX,
            short: Some((plenum_model::Resource::MemoryBytes, u64::MAX)),
            short_device: Some(("example.com/gpu".into(), u64::MAX)),
            port: Some(u16::MAX),
            not_wanted: None,
            culprits: vec![culprit; 4],
            culprits_total: u64::MAX,
        }
    }

    #[test]
    fn what_is_counted_for_an_outcome_is_no_less_than_it_comes_to_encoded() {
        let port = Port { name: "metrics".into(), number: u16::MAX };
        let granted = GrantedPorts { placement: u32::MAX, claim: u32::MAX, ports: vec![port; 3] };
        let allocation = AllocationId { slot: u32::MAX >> 6, generation: u32::MAX };
        let outcome = |refusals: usize, others: usize| Outcome {
            id: TransactionId { session: plenum_model::SessionId(1), number: 1 },
            revision: Revision(1),
            time: LogTime::default(),
            outcome: plenum_model::TransactionOutcome::Partial,
            placements: vec![vec![Some(allocation); 100]; others],
            refusals: vec![refusal(); refusals],
            idle_stops: vec![20_000; others],
            ports: vec![granted.clone(); others],
            elsewhere: vec![GrantedElsewhere { placement: u32::MAX, claim: u32::MAX, machine: u32::MAX }; others],
            evicted: vec![allocation; others],
            divergences: vec![20_000; others],
        };
        for (refusals, others) in [(0, 0), (1000, 0), (0, 1000), (100, 100)] {
            let outcome = outcome(refusals, others);
            let encoded = plenum_proto::v1::Outcome::from(&outcome).encoded_len();
            let counted = outcome_bytes(&outcome);
            assert!((encoded..4 * encoded + 1000).contains(&counted), "{counted} for {encoded}");
        }
    }
}
