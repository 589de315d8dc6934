//! A mirror of the cell, built from what a stream tells, that holds the stream to its promises: no gap, no step back, and what it
//! was told once stays true.

use plenum_model::{Cell, Delta};
use plenum_proto::{
    delta,
    pages::Decoder,
    sections::Sections,
    v1::{self, session_response::Tell},
};

/// What a message was, beyond what it changed in the picture.
#[derive(Debug)]
pub(crate) enum Heard {
    /// Nothing more.
    Progress,
    Welcome(v1::Welcome),
    Outcome(v1::Outcome),
    Error(v1::RequestError),
}

/// The mirror. It outlives connections and servers.
#[derive(Default)]
pub(crate) struct Picture {
    cell: Cell,
    filling: Option<Box<Decoder>>,
    incarnation: u64,
    /// The newest revision that a heartbeat told: the mirror may be behind it.
    told: u64,
    /// Snapshots it was built from, and revisions that were folded into it.
    pub(crate) snapshots: usize,
    pub(crate) folded: usize,
}

impl Picture {
    /// For canaries: one that took each revision since this cell for a change of nothing.
    pub(super) fn that_slept(mut cell: Cell, revision: u64) -> Self {
        while cell.revision().0 < revision {
            cell.apply(&Delta::new(cell.revision().next(), cell.time())).unwrap();
        }
        Self { cell, ..Self::default() }
    }

    /// What a stream is asked for that goes on with it.
    pub(crate) fn hello(&self) -> v1::Hello {
        v1::Hello { incarnation: self.incarnation, revision: self.revision(), ..v1::Hello::default() }
    }

    pub(crate) fn cell(&self) -> &Cell {
        &self.cell
    }

    pub(crate) fn revision(&self) -> u64 {
        self.cell.revision().0
    }

    /// The newest revision that it has, or was told of: a cell that came back has it, too.
    pub(crate) fn newest(&self) -> u64 {
        self.told.max(self.revision())
    }

    /// It shows what the stream has told, and nothing half.
    pub(crate) fn is_whole(&self) -> bool {
        self.filling.is_none() && self.revision() > 0
    }

    /// The connection is gone, maybe in the middle of a snapshot.
    pub(crate) fn disconnected(&mut self) {
        self.filling = None;
    }

    /// Takes a message.
    pub(crate) fn hear(&mut self, message: v1::SessionResponse) -> Heard {
        match message.tell.expect("a message says something") {
            Tell::Welcome(welcome) => {
                assert!(
                    welcome.revision >= self.revision(),
                    "a server offers revision {}, and {} was published before",
                    welcome.revision,
                    self.revision()
                );
                self.incarnation = welcome.incarnation;
                if welcome.snapshot {
                    self.filling = Some(Box::new(Decoder::new(Sections::MIRROR)));
                } else {
                    assert_eq!(welcome.revision, self.revision(), "without a snapshot, it goes on where the mirror is");
                }
                return Heard::Welcome(welcome);
            }
            Tell::Snapshot(part) => {
                let pages = self.filling.as_mut().expect("a snapshot is announced");
                part.pages.into_iter().for_each(|page| pages.add(page).unwrap());
                if part.last {
                    let cell = self.filling.take().unwrap().finish().unwrap();
                    assert!(cell.revision() >= self.cell.revision(), "a snapshot is no step back");
                    self.cell = cell;
                    self.snapshots += 1;
                }
            }
            Tell::Deltas(deltas) => {
                assert!(self.filling.is_none(), "no delta comes in the middle of a snapshot");
                for bytes in deltas.deltas {
                    // Refuses anything but the next revision.
                    self.cell.apply(&delta::decode(bytes).unwrap()).unwrap();
                    self.folded += 1;
                }
            }
            Tell::Heartbeat(beat) => {
                assert!(beat.revision >= self.revision(), "a heartbeat is not behind what was sent before it");
                self.told = self.told.max(beat.revision);
                assert!(beat.now_micros >= beat.time_micros, "it tells what time it is: {beat:?}");
            }
            Tell::Outcome(outcome) => {
                assert!(
                    self.is_whole() && outcome.revision <= self.revision(),
                    "the deltas up to {} precede its outcome; the mirror is at {}",
                    outcome.revision,
                    self.revision()
                );
                return Heard::Outcome(outcome);
            }
            Tell::Error(error) => return Heard::Error(error),
        }
        Heard::Progress
    }
}

#[test]
fn what_a_heartbeat_told_is_newer_than_what_is_mirrored() {
    let mut picture = Picture::default();
    picture.hear(v1::SessionResponse {
        tell: Some(Tell::Heartbeat(v1::Heartbeat { revision: 7, ..v1::Heartbeat::default() })),
    });
    assert_eq!((picture.revision(), picture.newest()), (0, 7));
}
