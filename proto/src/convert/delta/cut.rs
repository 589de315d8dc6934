//! Cutting what a watcher asked for from encoded deltas. A snapshot of the same sections has the tables of the same things (`Sections::has_table`).

use bytes::Bytes;

use crate::fields;
use crate::sections::Sections;
use crate::v1::Section;

/// Whether a top field of a `Delta` belongs to what was asked for.
fn has_field(sections: Sections, number: u64) -> bool {
    let section = match number {
        6 => Section::Machines,
        7 | 11 => Section::Jobs,
        // With holds, partitions, unknown tasks and who is paused: each mirror needs these to judge claims, as it needs allocations.
        8..=10 | 14 | 15 | 17 | 18 => Section::Allocations,
        12 => Section::Sessions,
        13 => Section::Quotas,
        16 => Section::Bodies,
        _ => return true,
    };
    sections.has(section)
}

/// The delta without the other sections; the very same bytes where there is nothing to leave out.
#[must_use]
pub fn cut(sections: Sections, delta: Bytes) -> Bytes {
    let foreign = |delta: &Bytes| fields::fields(delta).flatten().any(|field| !has_field(sections, field.number));
    if sections == Sections::ALL || !foreign(&delta) {
        return delta;
    }
    let mut kept = Vec::with_capacity(delta.len());
    for field in fields::fields(&delta).flatten().filter(|field| has_field(sections, field.number)) {
        kept.extend_from_slice(&delta[field.whole]);
    }
    Bytes::from(kept)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::v1;
    use prost::Message;

    fn delta() -> v1::Delta {
        v1::Delta {
            revision: 9,
            scheduler_names: vec!["batch".to_owned()],
            machines: vec![v1::MachineChange { id: 1, ..Default::default() }],
            jobs: vec![v1::JobChange { change: Some(v1::job_change::Change::Removed(3)) }],
            ends: Some(v1::Ends { slots: vec![4], ..Default::default() }),
            bodies: vec![v1::BodyChange { job: 3, ..Default::default() }],
            ..Default::default()
        }
    }

    // Their changes came with quotas, machines and sessions: a mirror of allocations had those of its snapshot for good.
    #[test]
    fn holds_partitions_unknown_tasks_and_pauses_come_with_allocations() {
        let whole = v1::Delta {
            holds: vec![v1::HoldChange { job: 3, ..Default::default() }],
            partitions: vec![v1::PartitionChange { name: "p".to_owned(), ..Default::default() }],
            unknown_tasks: vec![v1::UnknownTaskChange { allocation: 7, ..Default::default() }],
            paused: vec![v1::PausedChange { scheduler: "batch".to_owned(), ..Default::default() }],
            ..delta()
        };
        let told = |section: Section| {
            let sections = Sections::from_wire(&[section.into()]).unwrap();
            let cut = v1::Delta::decode(cut(sections, Bytes::from(whole.encode_to_vec()))).unwrap();
            (cut.holds.len(), cut.partitions.len(), cut.unknown_tasks.len(), cut.paused.len())
        };
        assert_eq!(told(Section::Allocations), (1, 1, 1, 1));
        for other in [Section::Quotas, Section::Sessions, Section::Machines] {
            assert_eq!(told(other), (0, 0, 0, 0), "{other:?}");
        }
    }

    #[test]
    fn a_mirror_gets_all_but_bodies() {
        let whole = Bytes::from(delta().encode_to_vec());
        let cut_bytes = cut(Sections::MIRROR, whole.clone());
        assert_eq!(v1::Delta::decode(cut_bytes).unwrap(), v1::Delta { bodies: Vec::new(), ..delta() });
        assert_eq!(cut(Sections::ALL, whole.clone()).as_ptr(), whole.as_ptr());
    }

    #[test]
    fn a_delta_without_the_other_sections_is_shared() {
        let bare = Bytes::from(v1::Delta { bodies: Vec::new(), ..delta() }.encode_to_vec());
        assert_eq!(cut(Sections::MIRROR, bare.clone()).as_ptr(), bare.as_ptr());
    }
}
