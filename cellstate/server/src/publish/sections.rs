//! Cutting what a watcher asked for from encoded deltas.

use bytes::Bytes;
use plenum_proto::fields as wire;
use plenum_proto::sections::Sections;
use plenum_proto::v1::Section;

/// Whether a top field of a `Delta` belongs to what was asked for.
fn has_field(sections: Sections, number: u64) -> bool {
    let section = match number {
        6 | 17 => Section::Machines,
        7 | 11 => Section::Jobs,
        8..=10 => Section::Allocations,
        12 | 18 => Section::Sessions,
        13..=15 => Section::Quotas,
        16 => Section::Bodies,
        _ => return true,
    };
    sections.has(section)
}

/// The delta without the other sections; the very same bytes where there is nothing to leave out.
pub(crate) fn cut(sections: Sections, delta: Bytes) -> Bytes {
    let foreign = |delta: &Bytes| wire::fields(delta).flatten().any(|field| !has_field(sections, field.number));
    if sections == Sections::ALL || !foreign(&delta) {
        return delta;
    }
    let mut kept = Vec::with_capacity(delta.len());
    for field in wire::fields(&delta).flatten().filter(|field| has_field(sections, field.number)) {
        kept.extend_from_slice(&delta[field.whole]);
    }
    Bytes::from(kept)
}

#[cfg(test)]
mod tests {
    use super::*;
    use plenum_proto::v1;
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
