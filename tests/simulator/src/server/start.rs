//! Starting: what the disk holds becomes the cell again, and is compared with the books.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use plenum_core::Core;
use plenum_journal::{CellId, Identity, Journal, OpenError, Options, SimDisk};
use plenum_model::{Cell, CellIdentity, Command, Delta, Revision, SessionId};
use plenum_proto::delta;
use plenum_server::Settings;
use plenum_server::agents::{Leases, Registrations, Respite, Standstill, WantedIndex};
use plenum_server::commit::{Asked, CommitOptions, Committer};
use plenum_server::publish::{LoggedBatch, Mirror, Recent};

use super::renewals::Renewals;
use super::{BEGIN_MICROS, LEASE_MARGIN_MICROS, SESSIONS_MICROS, Server, Ticket};
use crate::books::{Checked, Violation};
use crate::checkpoint::Backup;
use crate::judge::dues::Dues;
use crate::seen::Seen;
use crate::world::{Event, World};

const CELL_ID: [u8; 16] = [7; 16];
/// A batch of so many bytes takes no further request, where no other bound is drawn.
const BATCH_BYTES: usize = 4_096;

/// Why a server does not run.
pub(crate) enum NotStarted {
    /// The disk failed, or died: to be tried again.
    Disk(String),
    /// The log is not what it must be.
    Wrong(Violation),
}

impl From<Violation> for NotStarted {
    fn from(violation: Violation) -> Self {
        Self::Wrong(violation)
    }
}

/// The smallest segments that a server takes, so that runs use many.
const SEGMENT_BYTES: u64 = 64 << 10;

/// What bounds every server in the simulation: what a request may come to follows from its segments as it does in production.
fn settings() -> Settings {
    Settings { segment_bytes: SEGMENT_BYTES, ..Settings::default() }
}

/// The options of every log in the simulation.
pub(crate) fn options() -> Options {
    Options {
        create: Some(CellId(CELL_ID)),
        segment_bytes: SEGMENT_BYTES,
        frame_bytes_max: settings().frame_bytes_max(),
        reserve_bytes: Some(0),
        ..Options::default()
    }
}

/// Reads the log on this disk and begins a server on it.
pub(crate) fn start(disk: &SimDisk, life: u64, world: &mut World) -> Result<Server, NotStarted> {
    let disk = disk.reboot();
    let (journal, recovered) = Journal::open(Arc::new(disk.clone()), options()).map_err(|error| failed(&error))?;
    let (batches, mirror) = read(&journal, world)?;
    let kept = mirror.cell().revision();
    // A clock that was set, forward or back; as in production it begins where log time was at the earliest.
    let set = if world.random.chance(200) { world.random.between(-2_000_000, 5_000_000) } else { 0 };
    let skew = set.max(mirror.cell().time().micros - BEGIN_MICROS - world.now());
    world.log_skew_micros = skew;
    world.tell(|| format!("server: life {life} begins at revision {kept}, its clock is off by {skew} µs"));
    let mut told = world.books.cell().clone();
    let published = told.revision();
    for batch in batches.iter().filter(|batch| batch.first() > published) {
        world.tell_batch(batch, &mut told);
    }
    world.books.recovered(&batches, mirror.cell(), &mut world.tally)?;
    let identity = CellIdentity {
        cell_id: recovered.identity.cell.0,
        incarnation: recovered.identity.incarnation,
        term: mirror.cell().identity().term.max(recovered.tail.term) + 1,
        custom_resources: world.mix.outfit.names(),
    };
    let core = Core::from_cell(mirror.cell().clone(), world.mix.core_options());
    let (now, lease) = (world.now(), Duration::from_micros(world.mix.lease_micros.unsigned_abs()));
    let cell = mirror.cell();
    let alone: BTreeMap<SessionId, i64> = cell.sessions().map(|session| (session.id, now)).collect();
    let mut server = Server {
        life,
        recent: Recent::new(cell.revision(), cell.time(), world.mix.recent_bytes),
        index: WantedIndex::of_cell(cell),
        registrations: Registrations::default(),
        registered: Vec::new(),
        leases: Leases::of_cell(cell, world.mix.lease_micros + LEASE_MARGIN_MICROS, now),
        standstill: Standstill::new(lease, now),
        respite: Respite::new(lease, now),
        renewals: Renewals::new(world.mix.lease_micros, now, cell),
        dues: Dues::of(&world.mix.core_options()),
        committer: Committer::new(core, commit_options(world)),
        identity,
        opened_at: kept.next(),
        disk,
        journal,
        mirror,
        unfolded: VecDeque::new(),
        pending: VecDeque::new(),
        batch: None,
        writing_since_micros: now,
        decided: 0,
        watching: BTreeMap::new(),
        following: BTreeMap::new(),
        reports: Vec::new(),
        reporting: false,
        reports_alone: false,
        alone,
        sessions_due_micros: now + SESSIONS_MICROS,
        ticks_at_micros: i64::MAX,
        clock_skew_micros: skew,
        open: false,
        failed: None,
    };
    let opening = Command::OpenServer(server.identity.clone());
    server.ask(Some(Ticket::Opening), Asked::by_server(opening));
    server.turn(world)?;
    world.agenda.after(50_000, Event::ServerKeeps { life });
    Ok(server)
}

/// What bounds a batch and a request.
fn commit_options(world: &World) -> CommitOptions {
    let batch_requests = world.mix.batch_requests;
    let entry_bytes = world.entry_bytes().min(CommitOptions::default().entry_bytes);
    let batch_bytes = world.mix.bounds.as_ref().map_or(BATCH_BYTES, |bounds| bounds.batch_bytes);
    let commit = CommitOptions { batch_bytes, batch_requests, entry_bytes, ..CommitOptions::default() };
    Settings { commit, ..settings() }.commit_options()
}

/// A disk with the log of a cell that goes on from a backup, in this incarnation.
///
/// # Errors
/// What the log says of an empty disk that does not fail: nothing.
pub(crate) fn restore(backup: &Backup, incarnation: u64, seed: u64) -> Result<SimDisk, OpenError> {
    let disk = SimDisk::new(seed);
    let identity = Identity { cell: CellId(CELL_ID), incarnation };
    plenum_journal::plant(&disk, identity, backup.tail, &options())?;
    disk.kill();
    Ok(disk)
}

fn failed(error: &OpenError) -> NotStarted {
    match error {
        OpenError::Disk(_) => NotStarted::Disk(error.to_string()),
        _ => NotStarted::Wrong(Violation { invariant: "invariant_a_crash_is_no_damage", facts: error.to_string() }),
    }
}

/// The batches of the log behind the newest checkpoint, and the cell that they make of it.
fn read(journal: &Journal, world: &mut World) -> Result<(Vec<LoggedBatch>, Mirror), NotStarted> {
    let cell = match &world.checkpoint {
        Some(checkpoint) => checkpoint.cell().map_err(|error| unreadable(&error))?,
        None => Cell::default(),
    };
    world.tally.saw_times(Seen::FromCheckpoint, u64::from(world.checkpoint.is_some()));
    let begins = cell.revision();
    let mut mirror = Mirror::new(cell);
    let mut batches = Vec::new();
    if journal.tail().revision <= begins.0 {
        return Ok((batches, mirror));
    }
    let failed = |error: plenum_journal::ReadError| match error {
        plenum_journal::ReadError::Disk(_) => NotStarted::Disk(error.to_string()),
        _ => NotStarted::Wrong(Violation { invariant: "invariant_the_log_can_be_read", facts: error.to_string() }),
    };
    let mut reader = journal.keeper().reader(begins.next().0).map_err(failed)?;
    while let Some(frame) = reader.next_frame().map_err(failed)? {
        let batch = LoggedBatch::parse(Bytes::copy_from_slice(frame.payload)).map_err(|error| unreadable(&error))?;
        fold(&batch, &mut mirror)?;
        batches.push(batch);
    }
    Ok((batches, mirror))
}

fn fold(batch: &LoggedBatch, mirror: &mut Mirror) -> Checked {
    let decode = |revision: Revision| delta::decode(batch.delta(revision).unwrap_or_default());
    let deltas: Result<Vec<Delta>, _> = batch.revisions().map(decode).collect();
    let deltas = deltas.map_err(|error| unreadable(&error))?;
    mirror.fold(batch, &deltas).map_err(|error| unreadable(&error))?;
    Ok(())
}

fn unreadable(error: &dyn std::fmt::Display) -> Violation {
    Violation { invariant: "invariant_the_log_can_be_read", facts: error.to_string() }
}
