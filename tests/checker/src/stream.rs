//! What one watcher was told, in order, over however many connections.

use bytes::Bytes;
use plenum_proto::v1;
use plenum_proto::v1::session_response::Tell;
use prost::Message;

use crate::pages::restore;
use crate::picture::Picture;
use crate::watch::MESSAGE_BYTES_MAX;

/// Bytes of the longest length of a message.
const LENGTH_BYTES_MAX: usize = 10;

/// One thing that a watcher was told.
#[derive(Clone, Debug, PartialEq)]
pub enum Event {
    /// A connection, or a new beginning on the same one.
    Welcome(v1::Welcome),
    /// A whole snapshot.
    Snapshot(Box<Picture>),
    /// One delta.
    Delta {
        /// As it came.
        bytes: Bytes,
        /// What it says.
        delta: Box<v1::Delta>,
    },
    /// What a session was answered.
    Outcome(Box<v1::Outcome>),
    /// Where the cell is.
    Heartbeat(v1::Heartbeat),
}

/// All that one watcher was told.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Recording {
    /// Whose.
    pub name: String,
    /// In the order in which it came.
    pub events: Vec<Event>,
    /// Parts of a snapshot that is not whole yet.
    parts: Vec<Bytes>,
}

/// Bytes that are no stream of the protocol.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("watcher {watcher}: {what}")]
pub struct BadStream {
    /// Whose.
    pub watcher: String,
    /// What is wrong.
    pub what: String,
}

impl Recording {
    /// An empty one.
    #[must_use]
    pub fn new(name: &str) -> Self {
        Self { name: name.to_owned(), ..Self::default() }
    }

    /// Takes the next message.
    ///
    /// # Errors
    /// When something in it can't be read.
    pub fn take(&mut self, message: v1::SessionResponse) -> Result<(), BadStream> {
        let bad = |what: String| BadStream { watcher: self.name.clone(), what };
        match message.tell {
            Some(Tell::Welcome(welcome)) => {
                self.parts.clear();
                self.events.push(Event::Welcome(welcome));
            }
            Some(Tell::Snapshot(part)) => {
                self.parts.extend(part.pages);
                if part.last {
                    let picture = restore(&self.parts).map_err(|error| bad(error.to_string()))?;
                    self.parts.clear();
                    self.events.push(Event::Snapshot(Box::new(picture)));
                }
            }
            Some(Tell::Deltas(deltas)) => {
                for bytes in deltas.deltas {
                    let delta = v1::Delta::decode(bytes.clone()).map_err(|error| bad(error.to_string()))?;
                    self.events.push(Event::Delta { bytes, delta: Box::new(delta) });
                }
            }
            Some(Tell::Outcome(outcome)) => self.events.push(Event::Outcome(Box::new(outcome))),
            Some(Tell::Heartbeat(heartbeat)) => self.take_heartbeat(heartbeat),
            Some(Tell::Error(_)) | None => {}
        }
        Ok(())
    }

    /// Of heartbeats that follow each other the last one tells all, or an idle cell would fill the memory. One that is behind what was told
    /// stays, whatever comes after it.
    fn take_heartbeat(&mut self, heartbeat: v1::Heartbeat) {
        let told = self.revision().unwrap_or(0);
        match self.events.last_mut() {
            Some(Event::Heartbeat(last)) if told <= last.revision && last.revision <= heartbeat.revision => {
                *last = heartbeat;
            }
            _ => self.events.push(Event::Heartbeat(heartbeat)),
        }
    }

    /// The revision up to which everything was told; `None` before the first snapshot or delta. It is asked for each message: what came
    /// last is enough to know.
    #[must_use]
    pub fn revision(&self) -> Option<u64> {
        self.events.iter().rev().find_map(|event| match event {
            Event::Snapshot(picture) => Some(picture.revision),
            Event::Delta { delta, .. } => Some(delta.revision),
            Event::Welcome(welcome) if !welcome.snapshot => Some(welcome.revision),
            _ => None,
        })
    }

    /// The same, and its incarnation. Goes through all that came since the last connection was made.
    #[must_use]
    pub fn position(&self) -> Option<(u64, u64)> {
        let revision = self.revision()?;
        let incarnation = self.events.iter().rev().find_map(|event| match event {
            Event::Welcome(welcome) => Some(welcome.incarnation),
            _ => None,
        })?;
        Some((incarnation, revision))
    }

    /// The recording of a file: length-delimited `SessionResponse`s. A last one that is cut short counts as none.
    ///
    /// # Errors
    /// When something in it can't be read.
    pub fn read(name: &str, mut file: Bytes) -> Result<Self, BadStream> {
        let mut recording = Self::new(name);
        let bad = |what: String| BadStream { watcher: name.to_owned(), what };
        while !file.is_empty() {
            let length = match prost::decode_length_delimiter(file.clone()) {
                Ok(length) if length <= MESSAGE_BYTES_MAX => length,
                Ok(length) => return Err(bad(format!("no message has {length} bytes"))),
                // A length goes on where a byte has its highest bit.
                Err(_) if file.len() < LENGTH_BYTES_MAX && file.iter().all(|byte| *byte >= 0x80) => break,
                Err(error) => return Err(bad(error.to_string())),
            };
            let whole = prost::length_delimiter_len(length).saturating_add(length);
            if whole > file.len() {
                break;
            }
            let message = v1::SessionResponse::decode_length_delimited(file.split_to(whole));
            recording.take(message.map_err(|error| bad(error.to_string()))?)?;
        }
        Ok(recording)
    }
}
